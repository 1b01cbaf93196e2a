"""PyTorch: dense linear algebra on the tensors' own device, derivatives through ``autograd.Function``.

Examples
--------
>>> import torch
>>> from balred.backends import torch as backend
>>> backend.svdvals(torch.diag(torch.tensor([3.0, 4.0]))).tolist()
[4.0, 3.0]
"""

from __future__ import annotations

import os
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np

try:
    import torch
except ModuleNotFoundError as error:  # pragma: no cover - tested in a process without torch
    raise ModuleNotFoundError("PyTorch is not installed: pip install 'balred[torch]'") from error
from torch.utils import _pytree

from balred.systems.dense_system import DenseSystem
from balred.systems.diagonal_system import DiagonalSystem

Array = torch.Tensor
DYNAMIC_SHAPES = True


def is_concrete(x: Array) -> bool:
    """False for tensors on the meta device, those that ``torch.func`` transforms, and while ``torch.compile`` traces."""
    if torch.compiler.is_compiling():
        return False
    return x.device.type != "meta" and not torch._C._functorch.is_functorch_wrapped_tensor(x)


def on_host(x: Array) -> bool:
    """Whether NumPy can compute with `x` where it lies: a concrete tensor in main memory."""
    return x.device.type == "cpu" and is_concrete(x)


def all_finite(x: Array) -> bool:
    """Whether no entry of the concrete array `x` is NaN or infinite."""
    return bool(torch.isfinite(x).all())


def device_name(x: Array) -> str:
    """Such as ``cuda:0``."""
    return str(x.device)


_HOST = (torch.float16, torch.float32, torch.float64)


def to_numpy(x: Array) -> np.ndarray[Any, Any]:
    """Copy to the host, detached; what NumPy has not, bfloat16 and the formats of a byte, becomes float32."""
    x = x.float() if x.is_floating_point() and x.dtype not in _HOST else x
    return np.asarray(x.detach().resolve_conj().resolve_neg().cpu().numpy())


def from_numpy(x: np.ndarray[Any, Any], like: Array, real: bool = False) -> Array:
    """Copy to the device of `like`, in its precision."""
    dtype = like.real.dtype
    if np.iscomplexobj(x) and not real:
        dtype = torch.complex128 if dtype == torch.float64 else torch.complex64
    return torch.tensor(np.array(x.real if real else x, order="C"), device="cpu").to(device=like.device, dtype=dtype)


def to_bytes(x: Array) -> np.ndarray[Any, Any]:
    """The bytes of `x` in C order."""
    x = x.detach().resolve_conj().resolve_neg().cpu().contiguous()
    return np.asarray((torch.view_as_real(x) if x.is_complex() else x).reshape(-1).view(torch.uint8).numpy())


def from_bytes(data: np.ndarray[Any, Any], like: Array) -> Array:
    """A tensor of the shape, dtype and device of `like` with these bytes."""
    real = like.real.dtype if like.is_complex() else like.dtype
    x = torch.from_numpy(np.array(data))
    x = x.view(real) if len(x) else x.to(real)  # nothing can be viewed as anything else
    x = torch.view_as_complex(x.reshape(*like.shape, 2)) if like.is_complex() else x.reshape(like.shape)
    return x.to(like.device)


def read_checkpoint(path: str | os.PathLike[str]) -> Any:
    """What is in a file of ``torch.save``, if it is tensors and plain containers of them; mapped where the format allows."""
    _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles of other programs
            try:
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError:  # the format before version 1.6
                return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # of every kind, where the bytes are not what they claim to be
        raise ValueError(
            f"a PyTorch checkpoint must hold tensors and nothing that is code, got {_cause(error)}"
        ) from None


def _check_archive(path: str | os.PathLike[str]) -> None:
    """Raise if an archive would become larger than it is: torch.save compresses nothing."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error):  # the format before, or damage
        return
    size, there = sum(member.file_size for member in members), os.stat(path).st_size
    if size > there:
        raise ValueError(
            f"a PyTorch checkpoint must be stored without compression, got {size} bytes in a file of {there}"
        )


def _cause(error: Exception) -> str:
    """What is wrong, without PyTorch's advice to run what is in the file."""
    text = str(error)
    named = re.search(r"GLOBAL\s+([\w.]+)", text)
    if named:
        return f"one with {named[1]}"
    text = text.rpartition("WeightsUnpickler error:")[2]
    lines = [x.strip() for x in text.splitlines() if not re.search("weights_only|trust|arbitrary code|Please|http", x)]
    plain = next((line for line in lines if line), type(error).__name__)
    return f"a damaged one, or something else ({plain:.120})"


def few_threads(n: int) -> AbstractContextManager[None]:
    """No change: the library manages its own threads."""
    return nullcontext()


def inverse(x: Array) -> Array:
    """The inverse."""
    inverted: Array = torch.linalg.inv(x)
    return inverted


def triangular_factor(x: Array) -> Array:
    """R of the QR factorisation of `x`, without Q."""
    R: Array = torch.linalg.qr(x, mode="r").R
    return R


def extended_triangle(R: Array, W: Array) -> Array:
    """The triangular factor of [R; W] for an upper triangular R."""
    return triangular_factor(torch.cat([R, W], dim=-2))


def triangle_times(R: Array, x: Array) -> Array:
    """``R @ x`` for a square upper triangular R."""
    return R @ x


def semidefinite_factor(x: Array) -> Array:
    """Z with ``Z Z^H = x`` for positive semidefinite matrices: eigenvectors times the roots of their values."""
    w, V = torch.linalg.eigh(x)
    Z: Array = V * w.clamp(min=0).sqrt()[..., None, :]
    return Z


def congruent(Z: Array, x: Array) -> Array:
    """``Z^H x Z`` for a Hermitian x."""
    product: Array = Z.mH @ (x @ Z)
    return product


def svd(x: Array) -> tuple[Array, Array, Array]:
    """U, s and V^H, of the smaller shapes."""
    U, s, Vh = torch.linalg.svd(x, full_matrices=False)
    return U, s, Vh


def svdvals(x: Array) -> Array:
    """The singular values alone."""
    s: Array = torch.linalg.svdvals(x)
    return s


def eigvalsh(x: Array) -> Array:
    """The eigenvalues of Hermitian matrices, ascending."""
    w: Array = torch.linalg.eigvalsh(x)
    return w


def graded_rows(x: Array, most: int) -> Array:
    """Rows with the same ``x^H x`` to rounding, as many as the numerical rank: singular vectors times their values."""
    _, s, Vh = torch.linalg.svd(x, full_matrices=False)
    kept = s > torch.finfo(s.dtype).eps * s[0]
    rows: Array = s[kept, None] * Vh[kept]
    return rows


def while_loop(cond: Callable[[Any], Any], body: Callable[[Any], Any], state: Any) -> Any:
    """Apply `body` while `cond`."""
    while cond(state):
        state = body(state)
    return state


@contextmanager
def double_scope() -> Iterator[None]:
    """Nothing to do: float64 always exists."""
    yield


@contextmanager
def single_scope() -> Iterator[None]:
    """Nothing to do, unless PyTorch was told to multiply in less than float32 (``set_float32_matmul_precision``)."""
    yield


def stop_gradient(x: Array) -> Array:
    """Detach."""
    return x.detach()


def over_batch(function: Callable[..., Array], batch: tuple[int, ...], *arrays: Array) -> Array:
    """``function(*arrays)``: a device computes a batch at once."""
    return function(*arrays)


def differentiable(
    value: Callable[..., tuple[Array, Any]], vjp: Callable[[Any, Array], Sequence[Array]], *args: Array
) -> Array:
    """``value(*args)[0]`` with the vector-Jacobian product ``vjp(residuals, g)``.

    `value` is told by ``residuals=False`` that only the value is wanted, by ``traced=True`` to compute with PyTorch.
    """
    if torch.compiler.is_compiling():
        compiled: Array = _Compiled.apply(value, vjp, *args)  # type: ignore[no-untyped-call]
        return compiled
    traced = any(torch._C._functorch.is_functorch_wrapped_tensor(a) for a in args)
    if not traced and not (torch.is_grad_enabled() and any(a.requires_grad for a in args)):
        return value(*args, residuals=False)[0]
    result: Array = _Rule.apply(value, vjp, _Kept(traced), *args)[0]  # type: ignore[no-untyped-call]
    return result


class _Compiled(torch.autograd.Function):
    """The same for ``torch.compile``, which does not trace the other form."""

    @staticmethod
    def forward(ctx: Any, value: Any, vjp: Any, *inputs: Array) -> Array:
        out: Array
        out, ctx.residuals = value(*inputs, traced=True)
        ctx.vjp, ctx.like = vjp, [(a.is_complex(), a.dtype) for a in inputs]
        return out

    @staticmethod
    def backward(ctx: Any, g: Array) -> Any:
        cotangents = ctx.vjp(ctx.residuals, g)
        return (
            None,
            None,
            *((c if cx else c.real).to(dtype) for c, (cx, dtype) in zip(cotangents, ctx.like, strict=True)),
        )


class _Kept:
    """What the way back needs beside tensors."""

    def __init__(self, traced: bool) -> None:
        self.traced = traced
        self.spec: Any = None
        self.fixed: list[tuple[Any] | None] = []


class _Rule(torch.autograd.Function):
    """The value and its derivative, in the form that ``torch.func`` can transform: tensors for the way back are outputs."""

    @staticmethod
    def forward(value: Any, vjp: Any, kept: _Kept, *inputs: Array) -> Any:
        out, residuals = value(*inputs, traced=kept.traced)
        leaves, kept.spec = _pytree.tree_flatten(residuals)
        kept.fixed = [None if isinstance(x, torch.Tensor) else (x,) for x in leaves]
        return (out, *(x for x in leaves if isinstance(x, torch.Tensor)))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, ctx.vjp, ctx.kept, *args = inputs
        ctx.like = [(a.is_complex(), a.dtype) for a in args]
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:], *args)  # the arguments, so that a second derivative is noticed

    @staticmethod
    def backward(ctx: Any, g: Array, *_: Any) -> Any:
        return (None, None, None, *_Once.apply(ctx.vjp, ctx.kept, ctx.like, g, *ctx.saved_tensors))  # type: ignore[no-untyped-call]

    @staticmethod
    def vmap(info: Any, in_dims: Any, value: Any, vjp: Any, kept: _Kept, *inputs: Array) -> Any:
        out = _Rule.apply(value, vjp, kept, *_leading(info, in_dims[3:], inputs))  # type: ignore[no-untyped-call]
        return out, (0,) * len(out)


class _Once(torch.autograd.Function):
    """The gradient; it has no derivative of its own, and says so rather than give a wrong one."""

    @staticmethod
    def forward(vjp: Any, kept: _Kept, like: Any, g: Array, *saved: Array) -> Any:
        tensors = iter(saved)
        leaves = [next(tensors) if fixed is None else fixed[0] for fixed in kept.fixed]
        cotangents = vjp(_pytree.tree_unflatten(leaves, kept.spec), g)
        return tuple((c if cx else c.real).to(dtype) for c, (cx, dtype) in zip(cotangents, like, strict=True))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise NotImplementedError("Hankel singular values can be differentiated once, got a second derivative")

    @staticmethod
    def vmap(info: Any, in_dims: Any, vjp: Any, kept: _Kept, like: Any, g: Array, *saved: Array) -> Any:
        out = _Once.apply(vjp, kept, like, *_leading(info, in_dims[3:], (g, *saved)))  # type: ignore[no-untyped-call]
        return out, (0,) * len(out)


def _leading(info: Any, dims: Sequence[int | None], tensors: Sequence[Array]) -> list[Array]:
    """The mapped axis in front, where the core has its batch."""
    return [
        x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
        for x, dim in zip(tensors, dims, strict=True)
    ]


def _register(cls: Any, meta: tuple[str, ...]) -> None:
    _pytree.register_pytree_node(
        cls,
        lambda s: (
            [getattr(s, f) for f in cls.__dataclass_fields__ if f not in meta],
            tuple(getattr(s, f) for f in meta),
        ),
        lambda leaves, context: cls(*leaves, *context),
    )


_register(DenseSystem, ("dt",))
_register(DiagonalSystem, ("dt", "conjugate"))
