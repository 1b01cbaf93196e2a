"""NumPy with SciPy: the reference backend, and the host routines that every other backend falls back to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Array = NDArray[Any]
DYNAMIC_SHAPES = True
"""Shapes may change inside a loop at no cost, so that factors may shed columns."""


def is_concrete(x: Array) -> bool:
    """Always: NumPy does not trace."""
    return True


def all_finite(x: Array) -> bool:
    """Whether no entry of the concrete array `x` is NaN or infinite."""
    return bool(np.isfinite(x).all())


def device_name(x: Array) -> str:
    """Always the host."""
    return "cpu"


def to_numpy(x: Array) -> Array:
    """Return `x` itself."""
    return np.asarray(x)


def from_numpy(x: Array, like: Array, real: bool = False) -> Array:
    """Return `x` in the precision of `like` (its real part where `real`)."""
    dtype = np.result_type(like.real.dtype if real or not np.iscomplexobj(x) else like.real.dtype.type(0) + 0j)
    return np.asarray(x.real if real else x).astype(dtype)


def triangular_factor(x: Array) -> Array:
    """R of the QR factorisation of `x`, without Q."""
    r: Array = np.asarray(np.linalg.qr(x, mode="r"))
    return r


def while_loop(cond: Callable[[Any], Any], body: Callable[[Any], Any], state: Any) -> Any:
    """Apply `body` while `cond`."""
    while cond(state):
        state = body(state)
    return state


@contextmanager
def double_scope() -> Iterator[None]:
    """A scope in which float64 exists, and overflow is judged by the caller, not warned about."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        yield


def stop_gradient(x: Array) -> Array:
    """Return `x`: NumPy does not differentiate."""
    return x


def differentiable(
    value: Callable[..., tuple[Array, Any]], vjp: Callable[[Any, Array], Sequence[Array]], *args: Array
) -> Array:
    """Return ``value(*args)[0]``; the derivative `vjp` has no use here."""
    return value(*args, residuals=False)[0]


def separate(A: Array, stable: Callable[[Array], Array]) -> tuple[Array, Array, int]:
    """Block-diagonalise a matrix by an ordered Schur form and a Sylvester equation.

    Returns T, T^-1 and k with ``Tinv @ A @ T = diag(A1, A2)``, A1 (k x k) holding the poles that are not `stable`.
    """
    Ts, U, k = scipy.linalg.schur(A, output="complex", sort=lambda w: not bool(stable(np.asarray(w))))
    if not np.iscomplexobj(A):
        Ts, U, k = scipy.linalg.schur(
            A, output="real", sort=lambda re, im=0.0: not bool(stable(np.asarray(complex(re, im))))
        )
    n = A.shape[0]
    Y = scipy.linalg.solve_sylvester(Ts[:k, :k], -Ts[k:, k:], -Ts[:k, k:])
    S, Sinv = np.eye(n, dtype=Ts.dtype), np.eye(n, dtype=Ts.dtype)
    S[:k, k:], Sinv[:k, k:] = Y, -Y
    return U @ S, Sinv @ U.conj().T, int(k)


def assignment(cost: Array) -> Array:
    """Column assigned to each row of the square matrix `cost` at least total cost."""
    return np.asarray(linear_sum_assignment(cost)[1])


def gramian_factors(A: Array, B: Array, C: Array, discrete: bool) -> tuple[Array, Array]:
    """Gramian factors from SciPy's full Lyapunov solvers and an eigendecomposition (``solver="scipy"``).

    A reference only: the full Gramian squares the condition, so that Hankel singular values below about 1e-8 of
    the largest are noise.
    """

    def factor(P: Array) -> Array:
        w, V = np.linalg.eigh((P + P.conj().T) / 2)
        return np.asarray(V * np.sqrt(np.maximum(w, 0)))

    AH, CH = A.conj().T, C.conj().T
    if discrete:
        return (
            factor(scipy.linalg.solve_discrete_lyapunov(A, B @ B.conj().T)),
            factor(scipy.linalg.solve_discrete_lyapunov(AH, CH @ C)),
        )
    return (
        factor(scipy.linalg.solve_continuous_lyapunov(A, -B @ B.conj().T)),
        factor(scipy.linalg.solve_continuous_lyapunov(AH, -CH @ C)),
    )
