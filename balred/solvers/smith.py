r"""Gramian factors of dense systems: the squared Smith iteration on factors, after a Cayley transform.

:math:`P = \sum_k A^kB(A^kB)^H` is summed by doubling, :math:`Z \leftarrow [Z, MZ]`, :math:`M \leftarrow M^2`, on the factor
itself, which is compressed as it grows [Penzl 1998; Gugercin, Sorensen & Antoulas 2003].  It needs matmul, inv, qr and
svd, so it runs on every backend, batched and under a trace.

What it gives is judged where it is made.  Rounding errors of a power M count :math:`|M|^2` fold in the Gramian, and those
of the Gramians :math:`|Z_p||Z_q|/|Z_q^HZ_p|` fold in the Hankel singular values.  Where that leaves too few digits, the
iteration is run again in other coordinates (:mod:`balred.solvers.rebalanced`), and there is an error where none do.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from balred.solvers.rebalanced import continuous_image, rebalanced
from balred.solvers.residuals import residual, vectors
from balred.systems import arrays
from balred.systems.arrays import Array, Backend, backend_of, ct, eye, fro, is_concrete, namespace, to_numpy
from balred.systems.dense_system import DenseSystem
from balred.systems.poles import check_stable
from balred.systems.units import Coordinates, evened, in_units, moderate, whole_units

_MAX_DOUBLINGS = 60
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


class _Run(NamedTuple):
    """What an iteration ended with.

    Attributes
    ----------
    Zp, Zq : arrays, shape (..., n, k)
        Factors; of the Gramians over a window of time where the powers grew too large.
    growth : array, shape (...)
        The largest norm of a power of the state matrix.
    residual : array, shape (...)
        As :func:`balred.solvers.residuals.residual`.
    count : int or array
        Doublings.
    nearest : array, shape ()
        The smallest shift of a continuous system as a part of its norm: about the root of its reciprocal condition.
    """

    Zp: Array
    Zq: Array
    growth: Array
    residual: Array
    count: Any
    nearest: Array


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
    with backend_of(*system.leaves).few_threads(system.order):
        even, d = evened(system)
        ordinary, ports = moderate(even)
        small, Zp, Zq, at = _solved(ordinary, d)
    if ports is not None:
        small, (Zp, Zq) = ports.system(small), ports.factors(Zp, Zq)
    return Solved(small, Zp, Zq, at.within(d))


def _solved(system: DenseSystem, d: Array | None) -> Solved:
    """The same for a system in even units d."""
    be, xp = backend_of(*system.leaves), namespace(*system.leaves)
    run = _iterated(system)
    if not is_concrete(*system.leaves):
        # nobody can look at the poles: one that rounding may have moved off the boundary makes no numbers either
        singular = run.nearest**2 < 10 * system.order**0.5 * arrays.eps(arrays.real(run.Zp))
        unknown = (run.count > _LONGEST) | ((run.count > _LONG) & singular)
        bad = (unknown | (_doubt(run) > _accuracy(system, 0.25)))[..., None, None]
        return Solved(system, xp.where(bad, xp.nan, run.Zp), xp.where(bad, xp.nan, run.Zq), Coordinates(None))
    _check_run(system, run)
    if run.count > _SAMPLED_OFTEN and (image := continuous_image(system)) is not None:
        other = _iterated(image)
        run = other if other.count < run.count else run  # each doubling leaves half of what is known of slow poles
    found = Solved(system, run.Zp, run.Zq, Coordinates(None))
    doubt = be.to_numpy(_doubt(run))
    if (doubt <= _accuracy(system, 0.6)).all():
        return found
    return _one_by_one(system) if doubt.ndim else _elsewhere(system, d, found, run)


def _elsewhere(system: DenseSystem, d: Array | None, found: Solved, run: _Run) -> Solved:
    """The same for one system, the iteration of which left too few digits.

    Other units are tried first, which round nothing, then coordinates of the system's own balancing.
    """
    be = backend_of(*system.leaves)
    given = arrays.mapped(system, lambda x: _wide(to_numpy(be.stop_gradient(x))))
    whole = be.from_numpy(whole_units(*given.leaves), like=system.A, real=True)
    runs = [(found, run)]
    for units in [whole] if d is None else [whole, 1 / d]:  # the last are those that were given
        other = in_units(system, units)
        again = _iterated(other)
        _check_run(system, again)
        runs.append((Solved(other, again.Zp, again.Zq, Coordinates(units)), again))
    # what rounding of the data leaves of a first value that is nothing; a window of time does not tell
    reach = min((_reach(run) for _, run in runs if bool(run.growth < _limit(run.Zp))), default=0 * _reach(run))
    found, run = min(runs, key=lambda x: float(be.to_numpy(_doubt(x[1]))))
    least, best = float(be.to_numpy(_doubt(run, reach))), found
    for _ in range(_ROUNDS):
        if least <= _accuracy(system, 0.6):
            return best
        at = Coordinates(*(None if x is None else to_numpy(x) for x in found.coordinates))
        seen = rebalanced(given, at, *(_wide(to_numpy(be.stop_gradient(x))) for x in (run.Zp, run.Zq)))
        if seen is None:
            break
        right, left = (be.from_numpy(x, like=system.A) for x in seen[1][1:])
        paths = left @ system.A @ right, left @ system.B, system.C @ right
        # the values are exact to rounding; the way to them is only for derivatives
        A, B, C = (
            be.from_numpy(x, like=system.A) + (path - be.stop_gradient(path))
            for x, path in zip(seen[0].leaves, paths, strict=True)
        )
        small = DenseSystem(A, B, C, system.D, system.dt)
        run = _iterated(small)
        _check_run(system, run)  # whose poles no change of coordinates has rounded
        found = Solved(small, run.Zp, run.Zq, Coordinates(None, right, left))
        doubt = float(be.to_numpy(_doubt(run, reach)))
        if doubt < least:
            least, best = doubt, found
    if not least <= _accuracy(system, 0.4):
        raise ArithmeticError(
            f"Hankel singular values must be known to {_accuracy(system, 0.4):.1g} of the first, got an error of up to "
            f"{least:.1g}: the state matrix is too far from normal for its precision"
        )
    return best


def _one_by_one(system: DenseSystem) -> Solved:
    """The same for a batch, each member by itself."""
    xp = namespace(*system.leaves)
    batch, n = tuple(system.B.shape[:-2]), system.order
    A, B, C = (xp.reshape(x, (-1, *x.shape[-2:])) for x in system.leaves)
    parts = [smith_solved(DenseSystem(A[i], B[i], C[i], system.D, system.dt)) for i in range(int(A.shape[0]))]
    identity = arrays.eye(system.A, n)

    def joined(several: list[Array], pad: bool = False) -> Array:
        width = max(int(x.shape[-1]) for x in several)
        if pad:
            several = [xp.concat([x, arrays.zeros(x, (n, width - int(x.shape[-1])))], axis=-1) for x in several]
        stacked = xp.stack(several)
        return xp.reshape(stacked, (*batch, *stacked.shape[1:]))

    A, B, C = (joined([getattr(part.system, name) for part in parts]) for name in ("A", "B", "C"))
    return Solved(
        DenseSystem(A, B, C, system.D, system.dt),
        joined([part.Zp for part in parts], pad=True),
        joined([part.Zq for part in parts], pad=True),
        Coordinates(
            None,
            joined([part.coordinates.before(identity) for part in parts]),
            joined([part.coordinates.after(identity) for part in parts]),
        ),
    )


def _wide(x: Any) -> Any:
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)


def _accuracy(system: DenseSystem, digits: float) -> float:
    """An error that leaves this share of the digits."""
    return float(arrays.eps(arrays.real(system.B)) ** digits)


def _limit(x: Array) -> float:
    """Where a power of the state matrix is so large that few digits are left: the iteration ends."""
    return float(arrays.eps(arrays.real(x)) ** -0.4)


def _reach(run: _Run) -> Array:
    """The size of what is added up in a product of the factors, shape (...)."""
    return fro(run.Zp) * fro(run.Zq)


def _doubt(run: _Run, given: Array | None = None) -> Array:
    """About how wrong Hankel singular values may be beside the first, shape (...); infinite where the iteration ended early.

    A first that is only rounding of the data counts as that: `given` is the size of the factors in the coordinates given.
    """
    xp, eps = namespace(run.Zp), arrays.eps(arrays.real(run.Zp))
    reach, product = _reach(run), fro(ct(run.Zq) @ run.Zp)
    product = product if given is None else xp.maximum(product, eps * given)
    if isinstance(run.Zp, np.ndarray) and run.Zp.ndim == 2:
        if not run.growth < _limit(run.Zp):
            return np.float64(np.inf)
        fold = reach / product if product > 0 else 1.0
        return np.maximum(eps * run.growth**2 * len(run.Zp) ** -0.5 * fold, run.residual)
    fold = xp.where(product > 0, reach / xp.where(product > 0, product, xp.ones_like(product)), xp.ones_like(product))
    doubt = xp.maximum(eps * run.growth**2 * int(run.Zp.shape[-2]) ** -0.5 * fold, run.residual)
    return xp.where(run.growth < _limit(run.Zp), doubt, xp.inf)


def _check_run(system: DenseSystem, run: _Run) -> None:
    """Raise where the iteration did not converge because of the poles."""
    growth = backend_of(run.Zp).to_numpy(run.growth)
    slow = int(run.count) > _SUSPECT_DOUBLINGS or not float(run.nearest) > _SUSPECT_SHIFT
    if slow or not (growth < _limit(run.Zp)).all():
        check_stable(system)  # names the pole
        if int(run.count) >= _MAX_DOUBLINGS:
            raise ArithmeticError(
                f"the squared Smith iteration must converge in {_MAX_DOUBLINGS} doublings, got |A^(2^k)| up to "
                f"{growth.max():.3g}: the system is too close to instability; try solver='slycot'"
            )


def _iterated(system: DenseSystem) -> _Run:
    """The iteration itself."""
    xp = namespace(*system.leaves)
    be = backend_of(*system.leaves)
    A, B, C = system.leaves
    nearest: Array = xp.asarray(1.0)
    if not system.discrete:
        try:
            shift = cayley_shift(A)
            size = xp.where(shift > 0, fro(A, keepdims=True), xp.ones_like(shift))
            nearest = be.stop_gradient(xp.min(shift / size))
            A, B, C = cayley(A, B, C, shift)
        except (np.linalg.LinAlgError, RuntimeError):  # a pole equals the shift, hence it is unstable
            check_stable(system)
            raise
    dtype = xp.result_type(A, B, C)
    # the factors lie on their sides, P = Fp^H Fp, so that what a QR factorisation leaves is the next factor
    M, Fp, Fq = xp.astype(A, dtype), ct(xp.astype(B, dtype)), xp.astype(C, dtype)
    concrete = is_concrete(M, Fp, Fq)
    shed = be.DYNAMIC_SHAPES and M.ndim == 2 and concrete
    single = isinstance(M, np.ndarray) and M.ndim == 2
    n = int(M.shape[-1])
    eps, limit = arrays.eps(arrays.real(M)), _limit(M)

    def grow(state: tuple[Any, ...]) -> tuple[Any, ...]:
        M, Fp, Fq, Wp, Wq, growth, count, _ = state
        Fp, Fq = _joined(be, Fp, Wp, shed), _joined(be, Fq, Wq, shed)
        M = M @ M
        size = fro(M)
        if single:  # the same in ordinary numbers: for a few states most of the time would go into arrays of one entry
            growth = max(growth, size)
            if not size < limit:
                M, size = np.zeros_like(M), 0.0
            Wp, Wq = _times(be, Fp, ct(M)), _times(be, Fq, M)
            reach = min(size, 1.0)
            small = bool(reach * fro(Wp) <= eps * fro(Fp) and reach * fro(Wq) <= eps * fro(Fq))
            return M, Fp, Fq, Wp, Wq, growth, count + 1, not small and count < _MAX_DOUBLINGS
        growth = xp.maximum(growth, be.stop_gradient(size))
        if not concrete or not bool(xp.all(size < limit)):  # what grows too large stops growing, whatever else goes on
            M = xp.where((size < limit)[..., None, None], M, xp.zeros_like(M))
            size = xp.where(size < limit, size, xp.zeros_like(size))
        Wp, Wq = _times(be, Fp, ct(M)), _times(be, Fq, M)
        # W is appended after the loop, and what would follow it is less than |M||W|
        reach = xp.where(size < 1, size, xp.ones_like(size))
        small = xp.all(reach * fro(Wp) <= eps * fro(Fp)) & xp.all(reach * fro(Wq) <= eps * fro(Fq))
        return M, Fp, Fq, Wp, Wq, growth, count + 1, ~small & (count < _MAX_DOUBLINGS)

    Fp, Fq = (be.triangular_factor(F) if F.shape[-2] >= n else F for F in (Fp, Fq))
    counter, going = (0, True) if concrete else (xp.asarray(0), xp.asarray(True))
    growth = be.stop_gradient(fro(M))
    state: tuple[Any, ...] = (M, Fp, Fq, _times(be, Fp, ct(M)), _times(be, Fq, M), growth, counter, going)
    if not shed:  # a fixed number of doublings until both factors are square; their shapes change no more
        for _ in range(math.ceil(math.log2(n / min(Fp.shape[-2], Fq.shape[-2])))):
            state = grow(state)
    _, Fp, Fq, Wp, Wq, growth, count, _ = be.while_loop(lambda s: s[-1], grow, state)
    Fp, Fq = _joined(be, Fp, Wp, shed), _joined(be, Fq, Wq, shed)
    if not concrete:
        growth = xp.where(count < _MAX_DOUBLINGS, growth, xp.inf)
    Zp, Zq = ct(Fp), ct(Fq)
    rest = residual(*(be.stop_gradient(x) for x in (*system.leaves, Zp, Zq)), discrete=system.discrete)
    return _Run(Zp, Zq, growth, rest, count, nearest)


def _joined(be: Backend, F: Array, W: Array, shed: bool) -> Array:
    """A factor F of the sum of two Gramians with no more than n rows; one of n rows is upper triangular.

    Where `shed`, a factor of low numerical rank loses the rows it does not need and has the others graded, from the
    largest to the smallest: rounding errors of the large ones then never reach the small ones, so that Hankel
    singular values far below eps of the first have digits too.
    """
    rows, n = F.shape[-2:]
    if rows == n:
        return be.extended_triangle(F, W)
    both = namespace(F).concat([F, W], axis=-2)
    if both.shape[-2] >= n:
        both = be.triangular_factor(both)
    # a factor that needs most of its rows is cheapest as a triangle; below 100 states digits are cheap
    most = n // 2 if n > 100 else 4 * n // 5
    if shed and rows <= most and both.shape[-2] >= max(16, n // 4):
        graded = be.graded_rows(both, most)
        if graded.shape[-2] <= most:
            return graded
    return both


def _times(be: Backend, F: Array, M: Array) -> Array:
    return be.triangle_times(F, M) if F.shape[-2] == F.shape[-1] else F @ M


def cayley_shift(A: Array) -> Array:
    r"""The shift of :func:`cayley`, shape (..., 1, 1): :math:`a = \sqrt{\|A\|/\|A^{-1}\|}` centres the spectrum.

    The norm of the inverse is estimated from its product with four vectors without pattern, the same every time.
    """
    xp = namespace(A)
    n = int(A.shape[-1])
    probes = vectors(A, 4)
    length = fro(probes, keepdims=True)
    probes = xp.broadcast_to(probes, (*A.shape[:-1], 4)) if A.ndim > 2 else probes
    size = fro(A, keepdims=True)
    try:
        a = xp.sqrt(size * length / fro(xp.linalg.solve(A, probes), keepdims=True) / n**0.5)
    except (np.linalg.LinAlgError, RuntimeError):  # a singular A has a pole at zero
        a = 0 * size
    return a


def cayley(A: Array, B: Array, C: Array, shift: Array | None = None) -> tuple[Array, Array, Array]:
    r"""Discrete system with the Gramians of a continuous one.

    .. math:: A_d = (aI-A)^{-1}(aI+A),\quad B_d = \sqrt{2a}\,(aI-A)^{-1}B,\quad C_d = \sqrt{2a}\,C(aI-A)^{-1}

    with the shift of :func:`cayley_shift`; any a > 0 is valid.
    """
    xp = namespace(A)
    n = int(A.shape[-1])
    a = cayley_shift(A) if shift is None else shift
    if isinstance(A, np.ndarray) and A.ndim == 2:  # the same in ordinary numbers and in place
        at = float(a[0, 0])
        at = at if 0 < at < math.inf else float(fro(A)) + 1.0
        shifted = -A
        shifted.flat[:: n + 1] += at
        shifted = backend_of(A).inverse(shifted)
        M = shifted * (2 * at)
        M.flat[:: n + 1] -= 1.0
        return M, (shifted * math.sqrt(2 * at)) @ B, C @ (shifted * math.sqrt(2 * at))
    I = eye(A, n)
    a = xp.where(xp.isfinite(a) & (a > 0), a, fro(A, keepdims=True) + 1.0)  # a pole at zero: it will not converge
    shifted = backend_of(A).inverse(_scaled(I, a) - A)
    root = xp.sqrt(2 * a)
    return _scaled(shifted, 2 * a) - I, _scaled(shifted @ B, root), _scaled(C @ shifted, root)


def _scaled(x: Array, factor: Array) -> Array:
    xp = namespace(x)
    return xp.astype(factor, x.dtype) * x


def lyapunov(A: Array, G: Array, discrete: bool) -> Array:
    """X = A X A^H + G (or A X + X A^H + G = 0) for Hermitian G of any sign, by squared Smith on the full matrix."""
    be, xp = backend_of(A), namespace(A)
    M, X = A, G
    if not discrete:
        # (aI - A)^-1 sqrt(2a) G (...)^H sqrt(2a): with B = I the transform returns the factor to apply
        I = arrays.eye(A, int(A.shape[-1]))
        M, S, _ = cayley(A, I, I)
        X = S @ G @ ct(S)
    tol = arrays.eps(arrays.real(X))

    def body(state: tuple[Array, ...]) -> tuple[Array, ...]:
        M, X, _, count = state
        step = M @ X @ ct(M)
        return M @ M, X + step, xp.max(arrays.fro(step) - tol * arrays.fro(X)) > 0, count + 1

    state = (M, X, xp.max(arrays.fro(X)) >= 0, xp.asarray(0))
    return be.while_loop(lambda s: s[2] & (s[3] < 60), body, state)[1]
