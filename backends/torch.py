"""PyTorch: dense linear algebra on the tensors' own device, derivatives through ``autograd.Function``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

try:
    import torch
except ModuleNotFoundError as error:  # pragma: no cover - tested in a process without torch
    raise ModuleNotFoundError("PyTorch is not installed: pip install 'balred[torch]'") from error
from torch.utils import _pytree

from balred.systems import DenseSystem, DiagonalSystem

Array = torch.Tensor
DYNAMIC_SHAPES = True


def is_concrete(x: Array) -> bool:
    """False for tensors on the meta device and for those that ``torch.func`` transforms."""
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


def to_numpy(x: Array) -> np.ndarray[Any, Any]:
    """Copy to the host, detached; NumPy has no bfloat16, so that becomes float32."""
    x = x.float() if x.dtype == torch.bfloat16 else x
    return np.asarray(x.detach().resolve_conj().resolve_neg().cpu().numpy())


def from_numpy(x: np.ndarray[Any, Any], like: Array, real: bool = False) -> Array:
    """Copy to the device of `like`, in its precision."""
    dtype = like.real.dtype
    if np.iscomplexobj(x) and not real:
        dtype = torch.complex128 if dtype == torch.float64 else torch.complex64
    return torch.tensor(x.real if real else x).to(device=like.device, dtype=dtype)


def triangular_factor(x: Array) -> Array:
    """R of the QR factorisation of `x`, without Q."""
    R: Array = torch.linalg.qr(x, mode="r").R
    return R


def while_loop(cond: Callable[[Any], Any], body: Callable[[Any], Any], state: Any) -> Any:
    """Apply `body` while `cond`."""
    while cond(state):
        state = body(state)
    return state


@contextmanager
def double_scope() -> Iterator[None]:
    """Nothing to do: float64 always exists."""
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
    """``value(*args)[0]`` (``residuals=False`` where only the value is wanted) with the vector-Jacobian product ``vjp(residuals, g)``."""
    if not (torch.is_grad_enabled() and any(a.requires_grad for a in args)):
        return value(*args, residuals=False)[0]

    class Rule(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Array) -> Array:
            out, ctx.residuals = value(*inputs)
            return out

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, g: Array) -> Any:
            cotangents = vjp(ctx.residuals, g)
            return tuple((c if a.is_complex() else c.real).to(a.dtype) for c, a in zip(cotangents, args, strict=True))

    result: Array = Rule.apply(*args)  # type: ignore[no-untyped-call]
    return result


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
