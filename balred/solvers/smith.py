r"""Gramian factors of dense systems, judged where they are made.

They come from the squared Smith iteration (:mod:`balred.solvers.doubling`).  Rounding errors of a power M count :math:`|M|^2` fold in
the Gramian, and those of the Gramians :math:`|Z_p||Z_q|/|Z_q^HZ_p|` fold in the Hankel singular values.  Where that leaves too few digits, the
iteration is run again in other coordinates (:mod:`balred.solvers.rebalanced`), and there is an error where none do.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from balred.solvers.doubling import MAX_DOUBLINGS, Run, cayley, iterated, limit
from balred.solvers.rebalanced import continuous_image, exactly_balanced, rebalanced
from balred.systems import arrays
from balred.systems.arrays import Array, backend, backend_of, ct, fro, is_concrete, is_one, namespace, size_of, to_numpy
from balred.systems.clusters import poles_of_form
from balred.systems.dense_system import DenseSystem
from balred.systems.leaves import moderate
from balred.systems.poles import check_stable, pole_margin
from balred.systems.units import Coordinates, evened, in_units, whole_units

_SUSPECT_DOUBLINGS = 26
"""More are needed only where a pole lies within about 1e-7 of the boundary, or on it but for rounding."""
_LONG, _LONGEST = 25, 52
"""So many are needed for a pole that rounding has moved off the boundary, at zero and anywhere."""
_SUSPECT_SHIFT = 1e-5
"""The shift of a matrix of condition 1e10, as a part of its norm: it may be singular but for rounding."""
_SAMPLED_OFTEN = 16
"""Doublings of a discrete system that may be slow beside its step."""
_ROUNDS = 8
"""How often other coordinates are tried; each makes the powers grow about a million times less."""


class Solved(NamedTuple):
    """A system in the coordinates where its Gramian factors have their digits, and how these stand for the given."""

    system: Any
    Zp: Array
    Zq: Array
    coordinates: Coordinates
    product: Array | None = None
    """``Zq^H Zp``, where it was looked at."""


def smith_factors(system: DenseSystem) -> tuple[Array, Array]:
    """Factors of both Gramians of a stable dense system, in its own precision and coordinates."""
    found = smith_solved(system)
    return found.coordinates.factors(found.Zp, found.Zq)


def smith_solved(system: DenseSystem) -> Solved:
    """Factors of both Gramians of a stable dense system, or a batch, in its own precision and in even units.

    Raises
    ------
    UnstableError
        A pole is unstable or marginal.
    ArithmeticError
        The factors cannot be had to half of the digits of the precision.
    """
    if not is_one(system.B) and len({x.dtype for x in system.leaves}) > 1:  # not every library mixes real and complex
        xp = namespace(*system.leaves)
        dtype = xp.result_type(*system.leaves)
        A, B, C = (xp.astype(x, dtype) for x in system.leaves)
        system = DenseSystem(A, B, C, system.D, system.dt)
    with backend_of(*system.leaves).few_threads(system.order):
        even, d = evened(system)
        ordinary, ports = moderate(even)
        small, Zp, Zq, at, product = _solved(ordinary, d)
    if ports is not None:
        small, (Zp, Zq), product = ports.system(small), ports.factors(Zp, Zq), None
    return Solved(small, Zp, Zq, at.within(d), product)


def surely_has_digits(system: DenseSystem) -> bool:
    """Whether powers of the state matrix of one system of NumPy end, and never grow: its Gramians have their digits then.

    Those of a normal matrix with stable poles have a norm of at most the root of the order.  A third of the time of the iteration.
    """
    if not (is_one(system.A) and system.order):
        return False
    small = moderate(evened(system)[0])[0]
    try:
        M = small.A if system.discrete else cayley(*small.leaves)[0]
    except np.linalg.LinAlgError:
        return False
    size, most = size_of(M), _NEARLY_NORMAL * system.order**0.5
    for _ in range(_SUSPECT_DOUBLINGS):
        if not size <= most:
            return False
        if size < _ENDED:
            return True
        M = M.dot(M)
        size = size_of(M)
    return False


_NEARLY_NORMAL, _ENDED = 3.0, 1e-2
"""Powers of no more than so many times the norm of a normal matrix leave all digits there are; a norm from which on powers only fall."""


def output_energy(system: DenseSystem) -> Array | None:
    """The norm of C Z, Z a factor of the controllability Gramian alone, of each member of a batch of NumPy in its own precision.

    None where one of them needs more than that: it is slow, may be unstable, or loses digits in the product or on the way.
    """
    even, _ = evened(system)
    ordinary, ports = moderate(even)
    if ports is not None:
        return None
    run, n = _run_of(ordinary, both=False), system.order
    slow = run.count > _SAMPLED_OFTEN or not float(run.nearest) > _SUSPECT_SHIFT
    if slow or not ((run.last < 1) & (run.growth < limit(run.Zp))).all():
        return None
    eps, size = arrays.eps(arrays.real(run.Zp)), fro(ordinary.C @ run.Zp)
    lasts, reach = 2.0**run.count / -math.log(eps), fro(ordinary.C) * fro(run.Zp)
    grown = run.growth**2 / n
    doubt = np.maximum(eps * np.maximum(grown * n**0.5 * reach, (grown - 1) * lasts * size), run.residual * reach)
    return size if (doubt <= _accuracy(system, 0.6) * size).all() else None


_WORTH_A_LOOK = 1e-2
"""Values that may be wrong by more, as a part of the first, are not compared."""


def _solved(system: DenseSystem, d: Array | None) -> Solved:
    """The same for a system in even units d."""
    run, one = _run_of(system), is_one(system.A)
    if not one and not is_concrete(*system.leaves):
        xp = namespace(*system.leaves)
        # nobody can look at the poles: one that rounding may have moved off the boundary makes no numbers either
        singular = run.nearest**2 < 10 * system.order**0.5 * arrays.eps(arrays.real(run.Zp))
        unknown = (run.count > _LONGEST) | ((run.count > _LONG) & singular)
        bad = (unknown | (_doubt(run) > _accuracy(system, 0.25)))[..., None, None]
        return Solved(system, xp.where(bad, xp.nan, run.Zp), xp.where(bad, xp.nan, run.Zq), Coordinates(None))
    _check_run(system, run)
    if run.count > _SAMPLED_OFTEN and (image := continuous_image(system)) is not None:
        other = _run_of(image)
        run = other if other.count < run.count else run  # each doubling leaves half of what is known of slow poles
    product = ct(run.Zq).dot(run.Zp) if one else None
    found = Solved(system, run.Zp, run.Zq, Coordinates(None), product)
    if one and _doubt_of_one(run, product) <= _accuracy(system, 0.6):
        return found
    doubt = backend_of(run.Zp).to_numpy(_doubt(run))
    enough = np.asarray(doubt <= _accuracy(system, 0.6))
    if enough.all():
        return found
    if enough.ndim:
        return _one_by_one(found, ~enough)
    return _elsewhere(system, d, found, run)


def _elsewhere(system: DenseSystem, d: Array | None, found: Solved, run: Run) -> Solved:
    """The same for one system, the iteration of which left too few digits.

    Other units are tried first, which round nothing, then coordinates of the system's own balancing.
    """
    be = backend_of(*system.leaves)
    given = arrays.mapped(system, lambda x: _wide(to_numpy(be.stop_gradient(x))))
    whole = be.from_numpy(whole_units(*given.leaves), like=system.A, real=True)
    runs = [(found, run)]
    for units in [whole] if d is None else [whole, 1 / d]:  # the last are those that were given
        other = in_units(system, units)
        again = _run_of(other)
        _check_run(system, again)
        runs.append((Solved(other, again.Zp, again.Zq, Coordinates(units)), again))
    # what rounding of the data leaves of a first value that is nothing; a window of time does not tell
    reach = min((_reach(run) for _, run in runs if bool(run.growth < limit(run.Zp))), default=0 * _reach(run))
    found, run = min(runs, key=lambda x: float(be.to_numpy(_doubt(x[1]))))
    least, best, seen_so = float(be.to_numpy(_doubt(run, reach))), found, list[NDArray[np.float64]]()
    for _ in range(_ROUNDS):
        if least <= _accuracy(system, 0.6):
            return best
        at = Coordinates(*(None if x is None else to_numpy(x) for x in found.coordinates))
        seen = rebalanced(given, at, *(_wide(to_numpy(be.stop_gradient(x))) for x in (run.Zp, run.Zq)))
        if seen is None:
            break
        looked = _looked_at(system, *seen)
        if looked is None:
            break
        found, run = looked
        doubt = max(float(be.to_numpy(_doubt(run, reach))), _moved(given, seen[0], run))
        if doubt < least:
            least, best = doubt, found
        if doubt < _WORTH_A_LOOK:
            seen_so.append(np.linalg.svd(to_numpy(be.stop_gradient(ct(run.Zq) @ run.Zp)), compute_uv=False))
    # beside what rounding of the data leaves, values that are nothing need no digits
    rest = arrays.eps(arrays.real(system.B)) * float(be.to_numpy(be.stop_gradient(reach)))
    nothing = least < _WORTH_A_LOOK and float(be.to_numpy(be.stop_gradient(fro(ct(best.Zq) @ best.Zp)))) <= rest
    if least <= _accuracy(system, 0.4) or nothing or _agree(seen_so, 0.1 * _accuracy(system, 0.4)):
        return best
    if (seen := exactly_balanced(given)) is not None and (looked := _looked_at(system, *seen)) is not None:
        found, run = looked
        # the given entries are exact here, and the new ones are rounded alone
        doubt = max(float(be.to_numpy(_doubt(run, reach))), _moved(seen[0], seen[0], run))
        if doubt <= _accuracy(system, 0.4):
            return found
        least = min(least, doubt)
    check_stable(system)  # a pole that cannot be told from the boundary leaves no digits either, and is named
    raise ArithmeticError(
        f"Hankel singular values must be known to {_accuracy(system, 0.4):.1g} of the first, got an error of up to "
        f"{least:.1g}: the state matrix is too far from normal for its precision, or its poles spread too far; give a filter as "
        "zeros, poles and gain or in sections of second order, because polynomials lose these digits"
    )


def _looked_at(system: DenseSystem, seen: DenseSystem, at: Coordinates) -> tuple[Solved, Run] | None:
    """The iteration in other coordinates of a system, which were found on the host; None where rounding of these has moved a pole
    onto the boundary, which says nothing of the system."""
    be = backend_of(*system.leaves)
    right, left = (be.from_numpy(x, like=system.A) for x in at[1:])
    paths = left @ system.A @ right, left @ system.B, system.C @ right
    # the values are exact to rounding; the way to them is only for derivatives
    A, B, C = (
        be.from_numpy(x, like=system.A) + (path - be.stop_gradient(path))
        for x, path in zip(seen.leaves, paths, strict=True)
    )
    small = DenseSystem(A, B, C, system.D, system.dt)
    try:
        run = iterated(small)
    except np.linalg.LinAlgError:
        return None
    _check_run(system, run)  # whose poles no change of coordinates has rounded
    return Solved(small, run.Zp, run.Zq, Coordinates(None, right, left)), run


def _run_of(system: DenseSystem, both: bool = True) -> Run:
    """The iteration for a system as it is given, or in other units."""
    try:
        return iterated(system, both)
    except np.linalg.LinAlgError:
        check_stable(system)
        raise ArithmeticError(
            "the poles of a system must be known in its precision, got some that spread too far to be told from each other"
        ) from None


def _agree(several: list[NDArray[np.float64]], tolerance: float) -> bool:
    """Whether values are the same in all the coordinates in which they were computed.

    The doubt is what rounding may do at worst.  Each of the coordinates was rounded by itself, so what rounding did shows
    as a difference between them.
    """
    return len(several) > 2 and all(
        len(x) == len(several[0]) and np.abs(x - several[0]).max() <= tolerance * several[0][0] for x in several
    )


def _moved(given: DenseSystem, small: DenseSystem, run: Run) -> float:
    r"""By which part rounding of the entries in other coordinates, in which the iteration was `run`, may have changed the values.

    By no more than :math:`\mathrm{eps}\sum_k|A^k|^2`, whatever the poles are.  Where a slow state lasts long, by the part of their distances from
    the boundary by which poles may have moved: what is known of them in the new coordinates says so, unless those of the given system
    contradict it, for a slow pole that the given entries hold may be lost between large entries, each of which is right.
    """
    be, eps = backend_of(run.Zp), arrays.eps(arrays.real(run.Zp))
    lasts = 2.0 ** int(run.count) / -math.log(eps)
    most = eps * lasts * float(be.to_numpy(run.growth)) ** 2 / float(be.to_numpy(run.nearest))
    if most <= eps**0.6:
        return most
    was, now = (poles_of_form(backend("scipy").block_schur(g.A), g.discrete, eps) for g in (given, small))
    a, b = np.argsort(was.margin), np.argsort(now.margin)
    change, doubt = np.abs(now.margin[b] - was.margin[a]), now.doubt[b]
    # of a group of poles that cannot be told apart the mean may be known, but not where each of them is: they come out as a ring
    ring = np.abs(np.sort(pole_margin(given)[1]) - was.margin[a])
    ring = np.array([2 * ring[was.margin[a] == margin].max() for margin in was.margin[a]])
    known = np.maximum(was.doubt[a], ring)
    moved = np.where(change <= doubt + known, np.minimum(doubt, change + known), change + known)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.max(moved / np.abs(was.margin[a]), initial=0.0))


def _one_by_one(found: Solved, again: NDArray[np.bool_]) -> Solved:
    """The same for a batch: the members that have too few digits each by itself, the others as they were found."""
    system = found.system
    xp = namespace(*system.leaves)
    batch, n = tuple(system.B.shape[:-2]), system.order
    *leaves, Zp, Zq = (xp.reshape(x, (-1, *x.shape[-2:])) for x in (*system.leaves, found.Zp, found.Zq))
    at, count = np.flatnonzero(again), again.size
    parts = [smith_solved(_dense(system, [x[i] for x in leaves])) for i in at.tolist()]
    places = np.arange(count)
    places[at] = count + np.arange(len(at))
    index = xp.asarray(places, device=arrays.device_of(system.A))

    def joined(whole: Array, several: list[Array]) -> Array:
        width = max(int(x.shape[-1]) for x in (whole, *several))
        wide = [_widened(x, width) for x in (whole, xp.stack([_widened(x, width) for x in several]))]
        merged = xp.take(xp.concat(wide, axis=0), index, axis=0)
        return xp.reshape(merged, (*batch, *merged.shape[1:]))

    identity = arrays.eye(system.A, n)
    same = xp.broadcast_to(identity, (count, n, n))
    made = [joined(x, [part.system.leaves[i] for part in parts]) for i, x in enumerate(leaves)]
    return Solved(
        _dense(system, made),
        joined(Zp, [part.Zp for part in parts]),
        joined(Zq, [part.Zq for part in parts]),
        Coordinates(
            None,
            joined(same, [part.coordinates.before(identity) for part in parts]),
            joined(same, [part.coordinates.after(identity) for part in parts]),
        ),
    )


def _dense(system: DenseSystem, leaves: list[Array]) -> DenseSystem:
    """`system` with other A, B and C."""
    A, B, C = leaves
    return DenseSystem(A, B, C, system.D, system.dt)


def _widened(x: Array, width: int) -> Array:
    """`x` with columns of zeros up to `width`."""
    missing = width - int(x.shape[-1])
    return namespace(x).concat([x, arrays.zeros(x, (*x.shape[:-1], missing))], axis=-1) if missing else x


def _wide(x: Any) -> Any:
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)


def _accuracy(system: DenseSystem, digits: float) -> float:
    """An error that leaves this share of the digits."""
    return float(arrays.eps(arrays.real(system.B)) ** digits)


def _reach(run: Run) -> Array:
    """The size of what is added up in a product of the factors, shape (...)."""
    return fro(run.Zp) * fro(run.Zq)


def _doubt(run: Run, given: Array | None = None) -> Array:
    """About how wrong Hankel singular values may be beside the first, shape (...); infinite where the iteration ended early.

    A first that is only rounding of the data counts as that: `given` is the size of the factors in the coordinates given.  Where powers
    grow beyond those of a normal matrix, what rounding does to the first is added up for as long as the slowest state lasts.
    """
    eps, n = arrays.eps(arrays.real(run.Zp)), int(run.Zp.shape[-2])
    lasts = 2.0**run.count / -math.log(eps) if isinstance(run.count, int) else 0.0
    if is_one(run.Zp):
        return np.float64(_doubt_of_one(run, ct(run.Zq).dot(run.Zp), given))
    xp = namespace(run.Zp)
    reach, product = _reach(run), fro(ct(run.Zq) @ run.Zp)
    product = product if given is None else xp.maximum(product, eps * given)
    fold = xp.where(product > 0, reach / xp.where(product > 0, product, xp.ones_like(product)), xp.ones_like(product))
    doubt = xp.maximum(eps * run.growth**2 * n**-0.5 * fold, run.residual)
    doubt = xp.maximum(doubt, eps * lasts * (run.growth**2 / n - 1))
    return xp.where(run.growth < limit(run.Zp), doubt, xp.inf)


def _doubt_of_one(run: Run, product: Array, given: Array | None = None) -> float:
    """The same for one matrix of NumPy, in ordinary numbers."""
    if not run.growth < limit(run.Zp):
        return math.inf
    eps, n = arrays.eps(run.Zp), len(run.Zp)
    size = max(size_of(product), 0.0 if given is None else eps * float(given))
    fold = run.sizes[0] * run.sizes[1] / size if size > 0 else 1.0
    grown = max(run.growth**2 / n - 1, 0.0) * 2.0**run.count / -math.log(eps)
    rest = float(run.residual)
    return rest if math.isnan(rest) else max(eps * run.growth**2 * n**-0.5 * fold, eps * grown, rest)


def _check_run(system: DenseSystem, run: Run) -> None:
    """Raise where the iteration did not converge because of the poles."""
    slow = int(run.count) > _SUSPECT_DOUBLINGS or not float(run.nearest) > _SUSPECT_SHIFT
    if is_one(run.Zp) and not slow and run.growth < limit(run.Zp):
        return
    growth = np.asarray(run.growth) if is_one(run.Zp) else backend_of(run.Zp).to_numpy(run.growth)
    if slow or not (growth < limit(run.Zp)).all():
        check_stable(system)  # names the pole
        if int(run.count) >= MAX_DOUBLINGS:
            raise ArithmeticError(
                f"the squared Smith iteration must converge in {MAX_DOUBLINGS} doublings, got |A^(2^k)| up to "
                f"{growth.max():.3g}: the system is too close to instability; try solver='slycot'"
            )
