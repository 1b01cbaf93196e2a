"""The parts of a system by its poles: slow and fast, and the stable part, which is all that balancing may touch.

Poles that are not inside the stability region, moved in by `offset`, form the unstable part.  It is split off by a
block-diagonalising similarity, kept whole, and put back beside the reduced stable part (MATLAB's ``Offset``, SLICOT's
``ALPHA = -offset``).  Sums and differences of systems are made the same way, states beside states.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from balred.systems import arrays
from balred.systems.arrays import backend, backend_of, is_concrete, library_of, mapped, namespace, to_numpy
from balred.systems.checks import of_kind
from balred.systems.clusters import poles_of_form, put_on_boundary
from balred.systems.dense_system import DenseSystem
from balred.systems.diagonal_system import DiagonalSystem
from balred.systems.leaves import System, alike
from balred.systems.poles import UnstableError, entry_rounding, known_poles, pole_margin, warn_if_faint
from balred.systems.units import in_even_units

T = TypeVar("T")
Poles: TypeAlias = NDArray[Any]
Mask: TypeAlias = NDArray[np.bool_]
_SAME = 1e-8
"""Relative accuracy to which a part keeps the poles that are known so well."""


def split(system: System, offset: float | None, eps: float = 0.0) -> tuple[System | None, System | None]:
    """Return (unstable part, stable part); a part without poles is None, a stable `system` is returned as it is.

    In continuous time a pole is stable if ``Re(s) < -offset``, in discrete time if ``|z| < 1 - offset``, by more than
    rounding: poles that cannot be told from that boundary are unstable, and so is, as a whole, a group of poles that
    cannot be told from each other.  `eps` is as in :func:`balred.systems.poles.known_poles`.

    Examples
    --------
    >>> import balred
    >>> unstable, stable = split(balred.ss(np.diag([1.0, -2.0, -3.0]), np.ones((3, 1)), np.ones((1, 3))), None)
    >>> unstable.states, stable.states
    (1, 2)
    """
    of_kind("offset", offset, "float | None")
    if offset is not None and not 0 <= offset < (1 if system.discrete else np.inf):
        raise ValueError(f"offset must be between 0 and {'1' if system.discrete else 'infinity'}, got {offset}")
    if not is_concrete(*system.leaves):
        return None, system
    poles, limit = known_poles(system, eps), offset or 0.0
    if offset is not None and system.discrete and isinstance(system, DiagonalSystem):
        poles = dataclasses.replace(poles, margin=1 - np.abs(poles.at))
    unstable = ~poles.inside(limit)
    warn_if_faint(poles, limit)
    if not unstable.any():
        return None, system
    if unstable.ndim > 1:
        raise ValueError(
            f"the unstable part can be split off a single system only, got a batch of shape {unstable.shape[:-1]} "
            f"with unstable poles, {int(unstable.sum())} in all"
        )
    if isinstance(system, DiagonalSystem):
        return _take(system, unstable), _take(system, ~unstable)
    made = separation(system, limit, eps)
    return made.unstable, made.stable


class Separation(NamedTuple):
    """The unstable and the stable part of a dense system, and the coordinates they are in: ``x = T [x_1; x_2]``."""

    unstable: DenseSystem | None
    stable: DenseSystem | None
    T: NDArray[Any]
    Tinv: NDArray[Any]


def separation(system: DenseSystem, offset: float = 0.0, eps: float = 0.0) -> Separation:
    """Separate the unstable part of a single dense system from the stable one, as :func:`split`."""
    eps = max(eps, entry_rounding(system))

    def first(form: Any) -> Mask:
        poles = poles_of_form(form, system.discrete, eps)
        inside = poles.inside(offset)
        known.extend((poles.margin[inside], poles.doubt[inside]))
        on = poles.on_boundary & ~inside
        marginal.extend(zip(poles.at[on], poles.doubt[on], strict=True))
        return ~inside

    known: list[NDArray[Any]] = []
    marginal: list[tuple[complex, float]] = []
    made = _split_dense(
        system,
        first,
        "stable and unstable poles",
        "offset",
        lambda A: put_on_boundary(A, marginal, system.discrete),
    )
    if made.stable is not None and made.unstable is not None:
        margin, doubt = known
        slowest = int(np.argmin(margin))
        found = float(pole_margin(made.stable)[1].min())
        # a form that mixes large and small poles may have lost what is known of the small ones
        if not abs(found - margin[slowest]) <= doubt[slowest] + _SAME * margin[slowest]:
            raise ValueError(
                f"the stable part must keep its poles, got one at a distance of {found:.3g} from the boundary of stability that was at "
                f"{margin[slowest]:.3g}: choose an offset larger than that distance"
            )
    return made


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
    made = _split_dense(system, lambda form: ~second(backend("scipy").form_poles(form)), names, boundary)
    return made.unstable, made.stable


def separated(
    system: System, offset: float | None, solve: Callable[[System], T], eps: float = 0.0
) -> tuple[System | None, System | None, T | None]:
    """Return (unstable part, stable part, ``solve(stable part)``).

    Without an `offset` a dense system is first taken to be stable: if it is not, its solution says so or fails, and
    eigenvalues need not be computed for those that are.  Entries of a narrower kind (`eps`) than the solution's are
    looked at first, because what they leave unknown the solution cannot see.
    """
    failed = None
    if (
        offset is None
        and isinstance(system, DenseSystem)
        and not (is_concrete(*system.leaves) and eps > entry_rounding(system))
    ):
        try:
            return None, system, solve(system)
        except (UnstableError, ArithmeticError) as error:
            failed = error
    unstable, stable = split(system, offset, eps)
    if unstable is None and failed is not None:
        raise failed
    return unstable, stable, None if stable is None else solve(stable)


def without_first(g: System, k: int) -> System:
    """`g` without its first k states, from which the others are apart."""
    if isinstance(g, DiagonalSystem):
        return dataclasses.replace(g, log_poles=g.log_poles[..., k:], B=g.B[..., k:, :], C=g.C[..., :, k:])
    return DenseSystem(g.A[..., k:, k:], g.B[..., k:, :], g.C[..., :, k:], g.D, g.dt)


def _take(system: DiagonalSystem, mask: Mask) -> DiagonalSystem | None:
    if not mask.any():
        return None
    keep = np.flatnonzero(mask)
    return DiagonalSystem(
        system.log_poles[keep], system.B[keep, :], system.C[:, keep], system.D, system.dt, system.conjugate
    )


def _split_dense(
    system: DenseSystem,
    first: Callable[[Any], Mask],
    names: str,
    boundary: str,
    settled: Callable[[NDArray[Any]], tuple[NDArray[Any], NDArray[Any]]] | None = None,
) -> Separation:
    """The two parts of one system, the poles `first` of its block Schur form in the first.

    ``settled(A) -> (Q^H A Q, Q)`` says in which coordinates, and with which matrix, the first part is to be.
    """
    be, host = backend_of(*system.leaves), backend("scipy")
    even, units = in_even_units(mapped(system, to_numpy))
    assert isinstance(even, DenseSystem)
    form = host.block_schur(even.A)
    mask = first(form)
    made = host.separated(form, mask)
    if not made.condition < np.finfo(form.T.real.dtype).eps ** -0.5:
        raise ValueError(
            f"{names} must be separable, got a transformation of condition {made.condition:.3g}: choose another {boundary}"
        )
    A1, X, inverse, k = made.A1, made.X, made.inverse, int(np.sum(mask))
    if settled is not None and 0 < k < len(X):
        A1, Q = settled(A1)
        X, inverse = np.hstack([X[:, :k] @ Q, X[:, k:]]), np.vstack([Q.conj().T @ inverse[:k], inverse[k:]])
    B, C = inverse @ even.B, even.C @ X
    d = np.ones(len(B)) if units is None else units
    parts: list[DenseSystem | None] = [None, None]
    for i, (A, here) in enumerate(((A1, slice(None, k)), (made.A2, slice(k, None)))):
        if len(A) == len(B):
            parts[i] = system
        elif len(A):
            A, b, c = (be.from_numpy(x, like=system.B) for x in (A, B[here], C[:, here]))
            parts[i] = DenseSystem(A, b, c, system.D, system.dt)
    return Separation(parts[0], parts[1], d[:, None] * X, inverse / d)


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


def _repeated(system: System, batch: tuple[int, ...]) -> System:
    """`system` as a batch of this shape."""
    xp, own = namespace(system.B), system.B.ndim - 2
    repeated: System = mapped(system, lambda x: xp.broadcast_to(x, (*batch, *x.shape[own:])))
    return repeated


def difference(a: System, b: System) -> System:
    """The system ``a - b``: states beside each other, outputs subtracted."""
    if not _same_time(a, b):
        raise ValueError(f"both systems must have the same dt, got {a.dt} and {b.dt}")
    shapes = [(int(s.C.shape[-2]), int(s.B.shape[-1])) for s in (a, b)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"both systems must have the same outputs and inputs, got {shapes[0]} and {shapes[1]}")
    libraries = [library_of(s.B) for s in (a, b)]
    if libraries[0] != libraries[1]:
        raise TypeError(
            f"both systems must be of one array library, got {' and '.join(libraries)}: convert one of them first"
        )
    xp = namespace(a.B, b.B)
    batches = [tuple(s.B.shape[:-2]) for s in (a, b)]
    if batches[0] != batches[1]:
        try:
            batch = np.broadcast_shapes(*batches)
        except ValueError:
            raise ValueError(f"leading (batch) axes must broadcast, got {batches[0]} and {batches[1]}") from None
        a, b = (_repeated(s, batch) for s in (a, b))
    a, b = alike(a)[0], alike(b)[0]
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


def check_same_time(name: str, a: DenseSystem, other: str, b: DenseSystem) -> None:
    """Raise unless the two have the same time step (``True`` stands for any)."""
    if not _same_time(a, b):
        raise ValueError(f"the {name} must have the dt of the {other}, {b.dt}, got {a.dt}")


def _same_time(a: System, b: System) -> bool:
    """Whether two systems can stand in one: True is any step, 1.0 is not."""
    any_step = a.dt is True or b.dt is True
    return a.discrete == b.discrete and (any_step or a.dt == b.dt)
