"""JAX: the same formulas under ``jit`` and ``vmap``, double precision in a scope, derivatives by ``custom_vjp``.

Examples
--------
>>> import jax.numpy as jnp
>>> from balred.backends import jax as backend
>>> backend.svdvals(jnp.diag(jnp.asarray([3.0, 4.0]))).tolist()
[4.0, 3.0]
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np

try:
    import jax
except ModuleNotFoundError as error:  # pragma: no cover - tested in a process without jax
    raise ModuleNotFoundError("JAX is not installed: pip install 'balred[jax]'") from error
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from balred.systems.dense_system import DenseSystem
from balred.systems.diagonal_system import DiagonalSystem

Array = Any
DYNAMIC_SHAPES = False
"""Every new shape is a compilation, so loops keep their shapes."""


def is_concrete(x: Array) -> bool:
    """False for tracers."""
    return not isinstance(x, jax.core.Tracer)


def on_host(x: Array) -> bool:
    """Whether NumPy can compute with `x` where it lies: concrete values in main memory, all of them in this process."""
    return is_concrete(x) and bool(x.is_fully_addressable) and all(d.platform == "cpu" for d in x.devices())


def all_finite(x: Array) -> bool:
    """Whether no entry of the concrete array `x` is NaN or infinite."""
    return bool(np.isfinite(np.asarray(x)).all())


def device_name(x: Array) -> str:
    """The devices that hold `x`; empty for tracers."""
    return ", ".join(sorted(map(str, x.devices()))) if is_concrete(x) else ""


def to_numpy(x: Array) -> np.ndarray[Any, Any]:
    """Copy to the host."""
    return np.asarray(x)


def from_numpy(x: np.ndarray[Any, Any], like: Array, real: bool = False) -> Array:
    """Copy to the device of `like`, in its precision."""
    wide = np.dtype(like.dtype) in (np.float64, np.complex128)
    with np.errstate(over="ignore"):  # as in PyTorch: what no longer is a number shows in the result
        if np.iscomplexobj(x) and not real:
            host = np.asarray(x).astype(np.complex128 if wide else np.complex64)
        else:
            half = jnp.issubdtype(like.dtype, np.floating) and np.dtype(like.dtype).itemsize < 4
            host = np.asarray(x.real).astype(like.dtype if half else np.float64 if wide else np.float32)
    with double_scope() if wide else nullcontext():
        return jax.device_put(host, _place(like, host.shape))


def to_bytes(x: Array) -> np.ndarray[Any, Any]:
    """The bytes of `x` in C order."""
    return np.ascontiguousarray(np.asarray(x)).reshape(-1).view(np.uint8)


def from_bytes(data: np.ndarray[Any, Any], like: Array) -> Array:
    """An array of the shape, dtype and devices of `like` with these bytes."""
    host = np.array(data).view(np.dtype(like.dtype)).reshape(like.shape)
    with double_scope():  # or JAX would narrow 64 bits
        return jax.device_put(host, like.sharding if getattr(like, "committed", False) else None)


def _place(like: Array, shape: tuple[int, ...]) -> Any:
    """Where a result of `shape` belongs that was computed from `like`: on the same devices, its leading axes split alike."""
    if not getattr(like, "committed", False):
        return None  # or a jitted step would be compiled once more for the difference
    sharding = like.sharding
    if len(like.devices()) == 1 or not isinstance(sharding, NamedSharding):
        return next(iter(like.devices()))
    axes = zip(shape, like.shape, sharding.spec, strict=False)
    spec = [axis for _, _, axis in itertools.takewhile(lambda a: a[0] == a[1], axes)]
    return NamedSharding(sharding.mesh, PartitionSpec(*spec))  # type: ignore[no-untyped-call]


def few_threads(n: int) -> AbstractContextManager[None]:
    """No change: the library manages its own threads."""
    return nullcontext()


def inverse(x: Array) -> Array:
    """The inverse."""
    return jnp.linalg.inv(x)


def triangular_factor(x: Array) -> Array:
    """R of the QR factorisation of `x`, without Q."""
    return jnp.linalg.qr(x, mode="r")


def extended_triangle(R: Array, W: Array) -> Array:
    """The triangular factor of [R; W] for an upper triangular R."""
    return triangular_factor(jnp.concatenate([R, W], axis=-2))


def triangle_times(R: Array, x: Array) -> Array:
    """``R @ x`` for a square upper triangular R."""
    return R @ x


def semidefinite_factor(x: Array) -> Array:
    """Z with ``Z Z^H = x`` for positive semidefinite matrices: eigenvectors times the roots of their values."""
    w, V = jnp.linalg.eigh(x)
    return V * jnp.sqrt(jnp.maximum(w, 0))[..., None, :]


def congruent(Z: Array, x: Array) -> Array:
    """``Z^H x Z`` for a Hermitian x."""
    return jnp.swapaxes(Z.conj(), -1, -2) @ (x @ Z)


def svd(x: Array) -> tuple[Array, Array, Array]:
    """U, s and V^H, of the smaller shapes."""
    U, s, Vh = jnp.linalg.svd(x, full_matrices=False)
    return U, s, Vh


def svdvals(x: Array) -> Array:
    """The singular values alone."""
    return jnp.linalg.svd(x, compute_uv=False)


def eigvalsh(x: Array) -> Array:
    """The eigenvalues of Hermitian matrices, ascending."""
    return jnp.linalg.eigvalsh(x)


def graded_rows(x: Array, most: int) -> Array:
    """Return `x` itself: shapes do not change."""
    return x


def while_loop(cond: Callable[[Any], Any], body: Callable[[Any], Any], state: Any) -> Any:
    """``lax.while_loop`` under a trace, a Python loop otherwise (no compilation for one call)."""
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree_util.tree_leaves(state)):
        return jax.lax.while_loop(cond, body, state)
    while cond(state):
        state = body(state)
    return state


@contextmanager
def double_scope() -> Iterator[None]:
    """Float64 within this scope only; the global flag is left alone."""
    with jax.enable_x64(True):
        yield


@contextmanager
def single_scope() -> Iterator[None]:
    """Products in full float32 within this scope: left to itself, JAX rounds their factors to fewer bits on a GPU or TPU."""
    with jax.default_matmul_precision("highest"):
        yield


def stop_gradient(x: Array) -> Array:
    """``lax.stop_gradient``."""
    return jax.lax.stop_gradient(x)


def over_batch(function: Callable[..., Array], batch: tuple[int, ...], *arrays: Array) -> Array:
    """``function(*arrays)``: a device computes a batch at once."""
    return function(*arrays)


def differentiable(
    value: Callable[..., tuple[Array, Any]], vjp: Callable[[Any, Array], Sequence[Array]], *args: Array
) -> Array:
    """``value(*args)[0]`` with the vector-Jacobian product ``vjp(residuals, g)``.

    `value` is told by ``residuals=False`` that only the value is wanted, by ``traced=True`` to compute with JAX.  JAX's cotangent of a complex input is the conjugate of the gradient that `vjp` returns.
    """

    @jax.custom_vjp
    def rule(*inputs: Array) -> Array:
        return value(*inputs, residuals=False)[0]

    def forward(*inputs: Array) -> tuple[Array, Any]:
        return value(*inputs, traced=True)  # the backward pass may be

    def backward(residuals: Any, g: Array) -> tuple[Array, ...]:
        return tuple(
            (jnp.conj(c) if jnp.iscomplexobj(a) else jnp.real(c)).astype(a.dtype)
            for c, a in zip(vjp(residuals, g), args, strict=True)
        )

    rule.defvjp(forward, backward)
    return rule(*args)


jax.tree_util.register_dataclass(DenseSystem, data_fields=["A", "B", "C", "D"], meta_fields=["dt"])
jax.tree_util.register_dataclass(
    DiagonalSystem, data_fields=["log_poles", "B", "C", "D"], meta_fields=["dt", "conjugate"]
)
