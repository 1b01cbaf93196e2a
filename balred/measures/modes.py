r"""The peak gain of systems that rounding leaves alone: found among their modes, and proved by one matrix each.

With :math:`A = V\Lambda V^{-1}` the gain at a frequency is a sum over modes, which costs next to nothing, and so are those beside it.
A thousand systems are looked at together, and one is a batch of one.
Such sums propose a frequency, and tell that no gain is larger (:mod:`balred.measures.level`), or the Hamiltonian tells it
(:mod:`balred.measures.hinf`).  The gain itself comes from the system.  The modes are those of a matrix that is rounding away from it, so
what is said here holds where rounding changes no gain by more than the search looks for.  Where it may, nothing is said.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from balred.measures.hinf import (
    continuous,
    crossings,
    crossings_of_one,
    each_largest,
    gain_of,
    gains_of,
    largest_singular_values,
    members,
    middles,
    on_circle,
    per_time,
    raised,
    response_of,
    stack_of,
    turns_of,
)
from balred.measures.level import crossings_of_modes
from balred.systems.arrays import are_numpy, backend, fro, is_one, size_of
from balred.systems.dense_system import DenseSystem
from balred.systems.leaves import System, are_ordinary, each_ordinary
from balred.systems.poles import far, far_inside
from balred.systems.units import evened

_TOLERANCE = 1e-10
"""By which part another gain must be larger to count; rounding must change less."""
_THROUGH, _FIRST_ORDER = 0.9, 1e-5
"""Of the largest gain: a D above this part makes the Hamiltonian nearly singular.  Of the poles' distances from the boundary: by
less than this part rounding must move them, so that what it does to gains is told to first order."""
_LEAST, _MOST = 16, 256
"""From so many states on modes tell sooner than the Hamiltonian of one system which frequencies have a gain; beyond so many a look in
vain costs more than it is likely to save."""
_LITTLE = 1e-8
"""The part of a gain that a last step to the top may add."""
_GRID, _STEPS = np.linspace(0, 1, 24).reshape(8, 3).T.ravel(), 12
"""Where frequencies are looked at beside those of the poles, from slow to fast, every third of them first; steps to the top of a peak."""
_BESIDE, _THREE = 1e-4, np.array([-1.0, 0.0, 1.0])
"""How far apart points of a parabola are, as a part of the distance to the nearest pole: near enough for what is no parabola, far
enough for rounding."""
_EPS, _NOTHING = float(np.finfo(np.float64).eps), (math.nan, math.nan)

Matrix = NDArray[Any]


class Modes(NamedTuple):
    """Poles of continuous systems, shape (..., n), what each adds to the p m entries of a response, (..., n, p m), and D."""

    poles: Matrix
    residues: Matrix
    D: Matrix

    def of(self, at: Matrix) -> Modes:
        """Those of some of several systems."""
        return self if len(at) == len(self.poles) else Modes(*(x[at] for x in self))

    def gains(self, w: Matrix) -> Matrix:
        """The largest singular values at several frequencies of each system, shape (..., number)."""
        return _largest(self.responses(w))

    def responses(self, w: Matrix) -> Matrix:
        """The responses there, shape (..., number, p, m)."""
        G = (1 / (1j * w[..., None] - self.poles[..., None, :])) @ self.residues
        return (G + self.D.reshape(*self.D.shape[:-2], 1, -1)).reshape(*w.shape, *self.D.shape[-2:])

    def crossings(self, level: Matrix, w: Matrix, G: Matrix) -> tuple[Matrix, Matrix]:
        """As :func:`balred.measures.level.crossings_of_modes`, judged by zero, what is beside poles, and a few of the others."""
        residues, judges = self.residues.reshape(*self.poles.shape, *self.D.shape[-2:]), 2 * self.poles.shape[-1] + 9
        return crossings_of_modes(self.poles, residues, self.D, level, w[..., :judges], G[..., :judges, :, :])

    def top(self, w: float) -> tuple[float, float, float]:
        """The gain and the frequency of the peak near w of one system, by the vertices of parabolas through three points, and how
        far around it the last of these told of all gains.

        Those at w itself where that finds none that is higher.
        """
        scale, start = float(np.abs(self.poles).min()), (0.0, w, 0.0)
        for count in range(_STEPS):
            h = _BESIDE * float(np.abs(1j * w - self.poles).min())
            low, gain, high = each_largest(self.responses(w + h * _THREE))
            start = start if count else (gain, w, 0.0)
            slope, bend = 0.5 * (high - low), high - 2 * gain + low
            if not (bend < 0 and abs(h * slope) < -0.5 * bend * (abs(w) + scale)):
                break
            w -= h * slope / bend
            more = -0.5 * slope * slope / bend
            if more <= _LITTLE * gain:  # what is left after the step is a square of that
                return max((gain + more, w, 0.5 * h), start)
        return start

    def tops(self, w: Matrix) -> tuple[Matrix, Matrix]:
        """The same of each of several systems, shape (k,)."""
        scale, best, where = np.abs(self.poles).min(axis=1), np.zeros(len(w)), w.copy()
        at, w = np.arange(len(w)), w.copy()
        for count in range(_STEPS):
            modes, here = self.of(at), w[at]
            h = _BESIDE * np.abs(1j * here[:, None] - modes.poles).min(axis=1)
            low, gain, high = modes.gains(here[:, None] + h[:, None] * _THREE).T
            best = best if count else gain
            slope, bend = 0.5 * (high - low), high - 2 * gain + low
            on = (bend < 0) & (np.abs(h * slope) < -0.5 * bend * (np.abs(here) + scale[at]))
            at, here, gain, h, slope, bend = (x[on] for x in (at, here, gain, h, slope, bend))
            w[at] = here - h * slope / bend
            more = -0.5 * slope * slope / bend
            done = more <= _LITTLE * gain
            higher = done & (gain + more > best[at])
            best[at[higher]], where[at[higher]] = (gain + more)[higher], w[at[higher]]
            at = at[~done]
            if not len(at):
                break
        return best, where


def told_of_modes(system: System) -> tuple[Matrix, Matrix] | None:
    """H-infinity norms of dense systems of NumPy that their modes tell, and where they are (rad per unit of time), shape (...).

    NaN of those of which they tell nothing; None where that is all.
    """
    several = (*system.leaves, system.D)
    if not (isinstance(system, DenseSystem) and system.order > 0 and are_numpy(several)):
        return None
    batch = system.B.shape[:-2]
    if not batch:
        if not are_ordinary(*system.leaves) or (system.D.any() and not are_ordinary(system.D)):
            return None
        found = peak_of_modes(evened(system)[0])
        return None if found is None else per_time(system, *map(np.asarray, found))
    several = (*system.leaves, np.broadcast_to(system.D, (*batch, *system.D.shape[-2:])))
    sizes = [each_ordinary(x) for x in several]
    ordinary = np.asarray(sizes[0] & sizes[1] & sizes[2] & (sizes[3] | ~several[3].any((-2, -1))))
    if not ordinary.any():
        return None
    several = several if ordinary.all() else tuple(x[ordinary] for x in several)
    A, B, C, D = several
    even = evened(DenseSystem(A, B, C, D, system.dt))[0]
    leaves = [x.reshape(-1, *x.shape[-2:]) for x in (*even.leaves, even.D)]

    def piece(A: Matrix, B: Matrix, C: Matrix, D: Matrix) -> Matrix:
        return np.stack(peaks_of_modes(DenseSystem(A, B, C, D, system.dt)), axis=-1)

    n, (p, m), told = system.order, system.D.shape[-2:], np.full((*batch, 2), np.nan)
    held = 4 * (2 * n + len(_GRID)) * (n + p * m) + 8 * n * n
    told[ordinary] = backend("numpy").over_batch(piece, leaves[0].shape[:1], *leaves, held=held).reshape(-1, 2)
    return per_time(system, told[..., 0], told[..., 1])


def peak_of_modes(system: DenseSystem) -> tuple[float, float] | None:
    """The H-infinity norm of one system of NumPy in even units, and where it is attained, as :func:`balred.measures.hinf.hinf_peak`.

    What :func:`peaks_of_modes` says of it, in the few calls that it needs where the first peak is the highest.  None of a
    system that may be unstable, or the gain of which rounding may change by more than is looked for.
    """
    leaves = (*system.leaves, system.D)
    if not all(is_one(x) and x.dtype.char in "dD" for x in leaves) or system.order > _MOST:
        return None
    found = None if system.discrete else _first_peak(system)
    if found is None:
        values, where = peaks_of_modes(stack_of(system))
        found = float(values[0]), float(where[0])
    return None if math.isnan(found[0]) else found


def _first_peak(system: DenseSystem) -> tuple[float, float] | None:
    """The same of a continuous system; NaN where nothing is said, None where there is more to do."""
    A, B, C, D = form = (*system.leaves, system.D)
    poles, V = np.linalg.eig(A)
    size = size_of(A)
    damping = -float(poles.real.max())
    if not damping > far(len(A), _EPS) * size:
        return _NOTHING
    try:
        inverse = backend("numpy").inverse(V)
    except np.linalg.LinAlgError:
        return _NOTHING
    b, c, real = inverse.dot(B), C.dot(V), not any(x.dtype.kind == "c" for x in form)
    modes, w = Modes(poles, (c.T[:, :, None] * b[:, None]).reshape(len(A), -1), D), _frequencies(poles, real)
    responses = modes.responses(w)
    proposed = _largest(responses)
    first = int(proposed.argmax())
    best = float(proposed[first])
    if not (best > 0 and (not D.any() or float(gain_of(D[None])[0]) < _THROUGH * best)):
        return _NOTHING
    unit, change = _EPS * size_of(inverse) * len(A) ** 0.5, size + size_of(B) * size_of(C) / best
    away = unit * (change + float(np.abs(w).max()))
    if not away < _FIRST_ORDER * damping:
        return _NOTHING
    clear = away * size_of(b) * size_of(c) < _TOLERANCE * best * damping**2
    if not (clear or (unit * (change + np.abs(w)) * _most(poles, b, c, w)).max() < _TOLERANCE * best):
        return _NOTHING
    level, where, near = modes.top(float(w[first]))
    found, known = np.empty(0), np.asarray(False)
    if real and len(A) >= _LEAST and min(D.shape) <= 2:
        found, known = modes.crossings(np.asarray(level * (1 + _TOLERANCE)), w, responses)
        found = np.sort(found[~np.isnan(found)])
    if not known:
        found = crossings_of_one(form, level * (1 + _TOLERANCE), real)
    if found.size and (np.abs(found - where) > near).any():  # most often they are the double ones of this peak itself
        points = np.concatenate([*middles(found), found])
        if modes.gains(points).max() > level * (1 + _TOLERANCE):
            return None
    # a peak that is flat from zero on is told at zero
    where = 0.0 if proposed[0] >= level * (1 - _TOLERANCE) else where
    return each_largest(response_of(form, where)[None])[0], where


def peaks_of_modes(system: DenseSystem) -> tuple[Matrix, Matrix]:
    """The H-infinity norms of k systems of NumPy in even units, matrices of shape (k, ., .), and where they are attained, as
    :func:`balred.measures.hinf.hinf_peak`, shape (k,).

    NaN of a system that may be unstable, or the gain of which rounding may change by more than is looked for.
    """
    count, n = system.A.shape[:2]
    told = np.full((2, count), np.nan)
    if n > _MOST or not all(x.dtype.char in "dD" for x in (*system.leaves, system.D)):
        return told[0], told[1]
    poles, V, inside = far_inside(system)
    inverse, proper = _inverses(V)
    at = np.flatnonzero(inside & proper)
    if not len(at):
        return told[0], told[1]
    A, B, C, D, poles, V, inverse = _of(at, *system.leaves, system.D, poles, V, inverse)
    turn = turns_of(poles) if system.discrete else None
    A, B, C, D = continuous(DenseSystem(A, B, C, D, system.dt), turn)
    if turn is not None:
        poles = (poles - turn[:, None]) / (poles + turn[:, None])
    b, c, real = inverse @ B, C @ V, not any(x.dtype.kind == "c" for x in (A, B, C, D))
    residues = (c.swapaxes(1, 2)[..., None] * b[:, :, None]).reshape(len(at), n, -1)
    modes, w = Modes(poles, residues, D), _frequencies(poles, real)
    responses = modes.responses(w)
    proposed = _largest(responses)
    first, rows = proposed.argmax(axis=1), np.arange(len(at))
    best, where = proposed[rows, first], w[rows, first]
    # the eigenvalues of the Hamiltonian are those of one that is rounding away from it: first what that does to poles, then to gains
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        away = (_EPS * n**0.5 * fro(inverse))[:, None] * ((fro(A) + fro(B) * fro(C) / best)[:, None] + np.abs(w))
        damping, most = np.abs(poles.real).min(axis=1), away.max(axis=1)
        # with the most that modes may add up to anywhere first
        sure = most * fro(b) * fro(c) < _TOLERANCE * best * damping**2
        closer = np.flatnonzero(~sure)
        if len(closer):
            reach = away[closer] * _most(*(x[closer] for x in (poles, b, c, w)))
            sure[closer] = reach.max(axis=1) < _TOLERANCE * best[closer]
    sure &= (most < _FIRST_ORDER * damping) & (best > 0) & (gain_of(D) < _THROUGH * best)
    kept = np.flatnonzero(sure)
    if not len(kept):
        return told[0], told[1]
    at, A, B, C, D, best, where, w, responses = _of(kept, at, A, B, C, D, best, where, w, responses)
    modes, told_by_modes = modes.of(kept), real and min(D.shape[1:]) <= 2 and (len(at) > 1 or n >= _LEAST)

    def climbed(at: Matrix, best: Matrix, where: Matrix) -> tuple[Matrix, Matrix]:
        return modes.of(at).tops(where)

    def gains(at: Matrix, w: Matrix) -> Matrix:
        return modes.of(at).gains(w)

    def crossed(at: Matrix, level: Matrix) -> list[Matrix]:
        if not told_by_modes:
            return [crossings(members((A, B, C, D), at), level, real)]
        found, known = modes.of(at).crossings(level, *_of(at, w, responses))
        if not known.all():
            rest = np.flatnonzero(~known)
            others = crossings(members((A, B, C, D), at[rest]), level[rest], real)
            wide = np.full((len(at), max(found.shape[1], others.shape[1])), np.nan)
            wide[known, : found.shape[1]], wide[rest, : others.shape[1]] = found[known], others
            found = wide
        return [np.sort(found, axis=-1)[:, : (~np.isnan(found)).sum(axis=-1).max()]]

    where = raised(gain_of(D), gains, crossed, best, where, climbed, _TOLERANCE)[1]
    best = gains_of(A, B, C, D)(np.arange(len(at)), where[:, None])[:, 0]
    told[:, at] = best, where if turn is None else on_circle(where, turn[kept])
    return told[0], told[1]


def _largest(G: Matrix) -> Matrix:
    """The largest singular values of matrices, shape (...)."""
    return largest_singular_values(G.reshape(-1, *G.shape[-2:])).reshape(G.shape[:-2])


def _frequencies(poles: Matrix, real: bool) -> Matrix:
    """Where a peak may be: zero first, then beside each pole, then from slow to fast."""
    size = np.abs(poles)
    least, most = (extreme.reduce(size, -1, keepdims=True) for extreme in (np.minimum, np.maximum))
    grid = 0.1 * least * (100 * most / least) ** _GRID
    beside = [poles.imag, np.sign(poles.imag) * size]
    w = np.concatenate([0 * least, *beside, grid, *([] if real else [-grid])], axis=-1)
    return np.abs(w) if real else w


def _most(poles: Matrix, b: Matrix, c: Matrix, w: Matrix) -> Matrix:
    """What modes add up to at w at most, twice: what rounding errors of poles are multiplied by."""
    square = 1 / np.abs(1j * w[..., None] - poles[..., None, :]) ** 2
    states, rows = (square @ (np.abs(x) ** 2).sum(axis=-1)[..., None] for x in (b, c.swapaxes(-2, -1)))
    return np.asarray(np.sqrt(states * rows)[..., 0])


def _of(at: Matrix, *several: Matrix) -> tuple[Matrix, ...]:
    """Members of several stacks."""
    return several if len(at) == len(several[0]) else tuple(x[at] for x in several)


def _inverses(V: Matrix) -> tuple[Matrix, Matrix]:
    """Those of the modes, and of which there are."""
    try:
        return np.linalg.inv(V), np.ones(len(V), bool)
    except np.linalg.LinAlgError:
        proper = np.linalg.det(V) != 0
        return np.linalg.inv(np.where(proper[:, None, None], V, np.eye(V.shape[1]))), proper
