"""The parts of a system by its poles: slow and fast, and the stable part, which is all that balancing may touch.

Poles that are not inside the stability region, moved in by `offset`, form the unstable part.  It is split off by a
block-diagonalising similarity, kept whole, and put back beside the reduced stable part (MATLAB's ``Offset``, SLICOT's
``ALPHA = -offset``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from balred.systems import arrays
from balred.registry.entries import adapt
from balred.systems.arrays import backend, backend_of, double_precision, is_concrete, namespace, to_numpy
from balred.systems.poles import UnstableError, continuous_poles, marginal_tolerance, pole_margin
from balred.systems.dense_system import DenseSystem, DiagonalSystem, System, cast_like, with_leaves

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
    T, Tinv, k = backend("numpy").separate(A, second)
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


def frequency_separation(obj: Any, cutoff: float) -> tuple[Any, Any]:
    r"""Split a system into its slow and its fast part, :math:`G = G_\mathrm{slow} + G_\mathrm{fast}`.

    Parameters
    ----------
    obj : system, layer, or anything :func:`balred.adapt` reads
        Stable or not.
    cutoff : float
        In rad/s: slow are the poles with :math:`|\lambda|` (in discrete time :math:`|\log\lambda|/dt`, of one step
        if it is unspecified) below it.

    Returns
    -------
    slow, fast : the same type as `obj`
        D belongs to the fast part.  A dense part without poles has order 0.

    Raises
    ------
    ValueError
        `cutoff` is not positive; the parts are too close to be separated; a batch; a diagonal system with all its
        poles on one side.

    References
    ----------
    MATLAB's ``freqsep``; the similarity is that of SLICOT TB01KD.

    Examples
    --------
    >>> import balred
    >>> g = balred.ss([[-1.0, 1.0], [0.0, -50.0]], [[0.0], [1.0]], [[1.0, 0.0]])
    >>> slow, fast = frequency_separation(g, 10.0)
    >>> slow.A, fast.A
    (array([[-1.]]), array([[-50.]]))
    """
    if isinstance(cutoff, bool) or not isinstance(cutoff, (int, float, np.integer, np.floating)) or not cutoff > 0:
        raise ValueError(f"cutoff must be a positive frequency, got {cutoff!r}")

    def divided(g: System) -> tuple[System | None, System | None]:
        def fast(poles: Poles) -> Mask:
            return np.asarray(np.abs(continuous_poles(poles, g.dt)) >= cutoff)

        return split_by(g, fast, "slow and fast poles", "cutoff")

    return _parts(obj, divided, ("below", "at or above the cutoff"))


def stable_unstable(obj: Any, offset: float | None = None) -> tuple[Any, Any]:
    r"""Split a system into its stable and its unstable part, :math:`G = G_\mathrm{stable} + G_\mathrm{unstable}`.

    Parameters
    ----------
    obj : system, layer, or anything :func:`balred.adapt` reads
    offset : float, optional
        As :func:`balred.hsv`: stable are poles with :math:`\mathrm{Re}\,\lambda < -\mathrm{offset}`, in discrete time
        :math:`|\lambda| < 1-\mathrm{offset}`; by default it is the rounding error of A.

    Returns
    -------
    stable, unstable : the same type as `obj`
        D belongs to the stable part.  A dense part without poles has order 0.

    Raises
    ------
    ValueError
        As :func:`frequency_separation`.

    References
    ----------
    MATLAB's ``stabsep``; SLICOT TB01KD.

    Examples
    --------
    >>> import balred
    >>> stable, unstable = stable_unstable(balred.ss([[-1.0, 1.0], [0.0, 2.0]], [[0.0], [1.0]], [[1.0, 0.0]]))
    >>> stable.A, unstable.A
    (array([[-1.]]), array([[2.]]))
    """
    unstable, stable = _parts(obj, lambda g: split(g, offset), ("outside the boundary of stability", "inside it"))
    return stable, unstable


def _parts(
    obj: Any, divided: Callable[[System], tuple[System | None, System | None]], sides: tuple[str, str]
) -> tuple[Any, Any]:
    """The two parts of `obj`, D with the second; `sides` says in errors where their poles are."""
    system, rebuild = adapt(obj)
    if not is_concrete(*system.leaves):
        raise TypeError("the parts of a system need concrete values, got traced arrays")
    with double_precision(*system.leaves) as leaves:
        precise = with_leaves(system, leaves)
        both = []
        for part, side, D in zip(divided(precise), sides, (0 * precise.D, precise.D), strict=True):
            if part is None:
                if isinstance(precise, DiagonalSystem):
                    raise ValueError(f"each part of a diagonal system must have a pole, got none {side}")
                part = DenseSystem(precise.A[:0, :0], precise.B[:0, :], precise.C[:, :0], D, precise.dt)
            narrow = arrays.mapped(dataclasses.replace(part, D=D), lambda x: cast_like(x, system))
            both.append(rebuild(narrow))
    return both[0], both[1]
