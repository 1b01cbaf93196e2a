"""The parts of a system by its poles: slow and fast, and the stable part, which is all that balancing may touch.

Poles that are not inside the stability region, moved in by `offset`, form the unstable part.  It is split off by a
block-diagonalising similarity, kept whole, and put back beside the reduced stable part (MATLAB's ``Offset``, SLICOT's
``ALPHA = -offset``).  Sums and differences of systems are made the same way, states beside states.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from balred.systems import arrays
from balred.systems.arrays import backend, backend_of, is_concrete, namespace, to_numpy
from balred.systems.dense_system import DenseSystem
from balred.systems.diagonal_system import DiagonalSystem
from balred.systems.leaves import System
from balred.systems.poles import UnstableError, marginal_tolerance, pole_margin

T = TypeVar("T")
Poles: TypeAlias = NDArray[Any]
Mask: TypeAlias = NDArray[np.bool_]


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

    def stable(pole: Poles) -> Mask:
        return np.asarray((1 - np.abs(pole) if system.discrete else -pole.real) > limit)

    return _split_dense(system, stable, "stable and unstable poles", "offset")


def split_by(
    system: System, second: Callable[[Poles], Mask], names: str, boundary: str
) -> tuple[System | None, System | None]:
    """Return the two parts of a single `system` whose poles are not, and are, `second`; one without poles is None.

    `names` and `boundary` say in errors what is separated, and which argument says where.
    """
    if system.B.ndim > 2:
        raise ValueError(f"one system can be split, got a batch of shape {tuple(system.B.shape[:-2])}: loop over it")
    if isinstance(system, DiagonalSystem):
        mask = second(to_numpy(system.poles))
        return _take(system, ~mask), _take(system, mask)
    return _split_dense(system, second, names, boundary)


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


def _take(system: DiagonalSystem, mask: Mask) -> DiagonalSystem | None:
    if not mask.any():
        return None
    keep = np.flatnonzero(mask)
    return DiagonalSystem(
        system.log_poles[keep], system.B[keep, :], system.C[:, keep], system.D, system.dt, system.conjugate
    )


def _split_dense(
    system: DenseSystem, second: Callable[[Poles], Mask], names: str, boundary: str
) -> tuple[DenseSystem | None, DenseSystem | None]:
    be = backend_of(*system.leaves)
    A = to_numpy(system.A)
    T, Tinv, k = backend("scipy").separate(A, second)
    if k == 0 or k == len(A):
        return (None, system) if k == 0 else (system, None)
    cond = float(np.linalg.norm(T, 2) * np.linalg.norm(Tinv, 2))
    if not cond < 1 / np.sqrt(np.finfo(A.dtype).eps):
        raise ValueError(
            f"{names} must be separable, got a transformation of condition {cond:.3g}: choose another {boundary}"
        )
    Th, Ti = be.from_numpy(T, like=system.A), be.from_numpy(Tinv, like=system.A)
    A2, B2, C2 = Ti @ system.A @ Th, Ti @ system.B, system.C @ Th
    parts = []
    for part in (slice(None, k), slice(k, None)):
        parts.append(DenseSystem(A2[part, part], B2[part, :], C2[:, part], system.D, system.dt))
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


def difference(a: System, b: System) -> System:
    """The system ``a - b``: states beside each other, outputs subtracted."""
    if (a.discrete, b.discrete) != (a.discrete, a.discrete) or (
        a.discrete and a.dt != b.dt and a.dt is not True and b.dt is not True
    ):
        raise ValueError(f"both systems must have the same dt, got {a.dt} and {b.dt}")
    shapes = [(int(s.C.shape[-2]), int(s.B.shape[-1])) for s in (a, b)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"both systems must have the same outputs and inputs, got {shapes[0]} and {shapes[1]}")
    xp = namespace(a.B, b.B)
    if isinstance(a, DiagonalSystem) and isinstance(b, DiagonalSystem) and a.conjugate == b.conjugate:
        return DiagonalSystem(
            xp.concat([a.log_poles, b.log_poles], axis=-1),
            xp.concat([a.B, b.B], axis=-2),
            xp.concat([a.C, -b.C], axis=-1),
            a.D - b.D,
            a.dt,
            a.conjugate,
        )
    a, b = a.to_dense(), b.to_dense()
    return DenseSystem(
        block_diagonal(a.A, b.A), xp.concat([a.B, b.B], axis=-2), xp.concat([a.C, -b.C], axis=-1), a.D - b.D, a.dt
    )
