"""The stable part of an unstable system: what balancing may touch, and what it must leave alone.

Poles that are not inside the stability region, moved in by `offset`, form the unstable part.  It is split off by a
block-diagonalising similarity, kept whole, and put back beside the reduced stable part (MATLAB's ``Offset``, SLICOT's
``ALPHA = -offset``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from balred import arrays
from balred.arrays import backend, backend_of, is_concrete, namespace, to_numpy
from balred.poles import UnstableError, marginal_tolerance, pole_margin
from balred.systems import DenseSystem, DiagonalSystem, System

T = TypeVar("T")


def split(system: System, offset: float | None) -> tuple[System | None, System | None]:
    """Return (unstable part, stable part); a part without poles is None, a stable `system` is returned as it is.

    In continuous time a pole is stable if ``Re(s) < -offset``, in discrete time if ``|z| < 1 - offset``; by default
    the offset is the rounding error of the state matrix.
    """
    if offset is not None and not isinstance(offset, (int, float, np.integer, np.floating)):
        raise TypeError(f"offset must be a number, got {offset!r}")
    if offset is not None and not 0 <= offset < (1 if system.discrete else np.inf):
        raise ValueError(f"offset must be between 0 and {'1' if system.discrete else 'infinity'}, got {offset}")
    if not is_concrete(*system.leaves):
        return None, system
    poles, margin = pole_margin(system)
    limit = marginal_tolerance(system) if offset is None else offset
    if offset is not None and system.discrete and isinstance(system, DiagonalSystem):
        margin = 1 - np.abs(poles)
    unstable = margin <= limit
    if not unstable.any():
        return None, system
    if unstable.ndim > 1:
        raise ValueError(
            f"the unstable part can be split off a single system only, got a batch of shape {unstable.shape[:-1]} "
            f"with {int(unstable.sum())} unstable poles"
        )
    if isinstance(system, DiagonalSystem):
        return _take(system, unstable), _take(system, ~unstable)
    return _split_dense(system, limit)


def separated(
    system: System, offset: float | None, solve: Callable[[System], T]
) -> tuple[System | None, System | None, T | None]:
    """Return (unstable part, stable part, ``solve(stable part)``).

    Without an `offset` a dense system is first taken to be stable: if it is not, its solution says so, and eigenvalues
    need not be computed for those that are.
    """
    if offset is None and isinstance(system, DenseSystem):
        try:
            return None, system, solve(system)
        except UnstableError:
            pass
    unstable, stable = split(system, offset)
    return unstable, stable, None if stable is None else solve(stable)


def _take(system: DiagonalSystem, mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> DiagonalSystem | None:
    if not mask.any():
        return None
    keep = np.flatnonzero(mask)
    return DiagonalSystem(
        system.log_poles[keep], system.B[keep, :], system.C[:, keep], system.D, system.dt, system.conjugate
    )


def _split_dense(system: DenseSystem, limit: float) -> tuple[DenseSystem | None, DenseSystem | None]:
    be = backend_of(*system.leaves)
    A = to_numpy(system.A)

    def stable(w: np.ndarray[tuple[int, ...], np.dtype[np.complex128]]) -> bool:
        return bool((1 - np.abs(w) if system.discrete else -w.real) > limit)

    T, Tinv, k = backend("numpy").separate(A, stable)
    cond = float(np.linalg.norm(T, 2) * np.linalg.norm(Tinv, 2))
    if not cond < 1 / np.sqrt(np.finfo(A.dtype).eps):
        raise ValueError(
            f"stable and unstable poles must be separable, got a transformation of condition {cond:.3g}: choose another offset"
        )
    Th, Ti = be.from_numpy(T, like=system.A), be.from_numpy(Tinv, like=system.A)
    A2, B2, C2 = Ti @ system.A @ Th, Ti @ system.B, system.C @ Th
    parts = []
    for part in (slice(None, k), slice(k, None)):
        size = len(range(*part.indices(A.shape[0])))
        g = DenseSystem(A2[part, part], B2[part, :], C2[:, part], system.D, system.dt)
        parts.append(g if size else None)
    return parts[0], parts[1]


def join(unstable: System | None, stable: System) -> System:
    """Put the two parts back beside each other: the sum of their transfer functions, D counted once."""
    if unstable is None:
        return stable
    xp = namespace(stable.B)
    if isinstance(stable, DiagonalSystem):
        assert isinstance(unstable, DiagonalSystem)
        return DiagonalSystem(
            xp.concat([unstable.log_poles, stable.log_poles], axis=-1),
            xp.concat([unstable.B, stable.B], axis=-2),
            xp.concat([unstable.C, stable.C], axis=-1),
            stable.D,
            stable.dt,
            stable.conjugate,
        )
    return DenseSystem(
        block_diagonal(unstable.to_dense().A, stable.A),
        xp.concat([unstable.B, stable.B], axis=-2),
        xp.concat([unstable.C, stable.C], axis=-1),
        stable.D,
        stable.dt,
    )


def block_diagonal(X: arrays.Array, Y: arrays.Array) -> arrays.Array:
    """diag(X, Y) over the last two axes."""
    xp = namespace(X, Y)
    dtype = xp.result_type(X, Y)
    X, Y = xp.astype(X, dtype), xp.astype(Y, dtype)
    upper = xp.concat([X, arrays.zeros(X, (*X.shape[:-1], Y.shape[-1]))], axis=-1)
    lower = xp.concat([arrays.zeros(Y, (*Y.shape[:-1], X.shape[-1])), Y], axis=-1)
    return xp.concat([upper, lower], axis=-2)
