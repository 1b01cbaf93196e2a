"""Iterations towards an H2-optimal system, from each of several starts to where it ends.

No start is best for all systems.  Truncation is, where the values fall quickly; of lightly damped systems it may begin
between two resonances, and ends beside the one that matters less.  The starts here disagree about what matters: the
largest gain, the largest output energy, the steady state, the modes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from balred.hankel.projections import projected
from balred.hankel.spectrum import OfSpectrum, Spectrum, spectrum
from balred.methods.h2_step import (
    NOISE,
    Iterate,
    Leaves,
    Modes,
    Projection,
    Target,
    evaluated,
    next_iterate,
    projection,
    seen,
)
from balred.methods.method import Reduced
from balred.methods.modal import modal, modes
from balred.methods.riccati_balancing import bounded_real
from balred.methods.truncation import singular_perturbation, truncate
from balred.solvers.resolvents import Matrix, resolvent
from balred.solvers.smith import smith_factors
from balred.systems.dense_system import DenseSystem
from balred.systems.leaves import System
from balred.systems.parts import difference
from balred.systems.poles import BoundaryWarning, pole_margin

_ROOM = 16
"""What is looked at has so many states more than four times the order: the rest has no part in where to begin."""
_DEPTH = 5
"""How many of the last steps predict the next."""
_NEAR = 0.01
"""Steps of this part of the error change it by the square of that: enough is known to compare it with others.  So is where
another that is as near has come."""
_AFAR, _LOOK = 30.0, 10
"""A step that is so many times larger than asked for is measured only every so many steps."""
_SCOUTED = 25
"""After so many steps a start is compared with the others wherever it is."""


@dataclass(frozen=True)
class H2Spectrum(OfSpectrum):
    """The balanced spectrum of a system, from which the iterations start, and what they approximate."""

    target: Target
    maps: tuple[Matrix, Matrix] | None
    """L and R from the given coordinates to the target's, where they differ."""
    tol: float
    max_iterations: int
    init: DenseSystem | None

    @property
    def system(self) -> DenseSystem:
        """The given system, dense."""
        return self.spectrum.system


class Run(NamedTuple):
    """Where an iteration is: the system, the square of its error, and how near a fixed point after how many steps."""

    start: str
    result: Reduced
    error: float
    change: float
    iterations: int
    now: Iterate
    """From where to go on."""


def runs_of(state: H2Spectrum, k: int, modes: Modes) -> list[Run]:
    """The iterations from all starts, the best first; only that one goes on to the tolerance.

    Near a fixed point the error changes by the square of what the system does, so that it is known long before.
    """
    noise = 10 * NOISE * state.target.square  # differences of squares do not tell which of two is better
    scouts = _scouting(state, k)
    runs: list[Run] = []
    for name, start in _given(state, k) or starts(state.spectrum, k):
        begin = evaluated(scouts.target, start, modes)
        if begin is not None:
            first = Run(name, (begin.g, None, None), begin.error, np.inf, 0, begin)
            most = min(_SCOUTED, state.max_iterations)
            runs.append(iterated(scouts, first, modes, near=_NEAR, limit=most, others=runs))
    if scouts is not state:
        runs = [run for run in (_of_all(state, scout, modes) for scout in runs) if run is not None]
    runs.sort(key=lambda run: run.error)
    for i, run in enumerate(runs):
        if run.error > runs[0].error + noise:
            break
        runs[i] = iterated(state, run, modes)
        if runs[i].change <= state.tol:
            break
    limit = min((run.error for run in runs), default=0.0) + noise
    return sorted(runs, key=lambda run: (max(run.error, limit), run.change))


def _scouting(state: H2Spectrum, k: int) -> H2Spectrum:
    """What starts are tried on: where there are many more states than matter at the order k, a system without the rest.

    A step costs the square of their number (of a diagonal system only their number).  What is found is judged, and gone on
    with, on the whole system.
    """
    most = 4 * k + _ROOM
    if state.init is not None or state.maps is None or state.target.full.order <= most:
        return state
    g = projected(state.spectrum, most)[0]
    try:
        return replace(state, target=Target(g, resolvent(g), size(g) ** 2))
    except (ValueError, ArithmeticError):  # a cut between equal values may leave a pole on the boundary
        return state


def _of_all(state: H2Spectrum, run: Run, modes: Modes) -> Run | None:
    """Where a scout ended, seen with the whole system."""
    now = evaluated(state.target, run.now.g, modes)
    if now is None:
        return None
    return Run(run.start, (now.g, None, None), now.error, _remaining(state, now, None), run.iterations, now)


@np.errstate(over="ignore", invalid="ignore", divide="ignore")  # a start that leads nowhere ends there
def iterated(
    state: H2Spectrum,
    run: Run,
    modes: Modes,
    near: float = 0.0,
    limit: int | None = None,
    others: Sequence[Run] = (),
) -> Run:
    """The iteration from where `run` is, to the tolerance, to where a step is less than the part `near` of the error, or
    to where one of the `others` came."""
    past: list[tuple[Leaves, Leaves]] = []
    now, count, moved = run.now, run.iterations, None
    most = state.max_iterations if limit is None else limit
    while count < most:
        square = max(now.error, 0.0) / state.target.square
        error = square**0.5
        # errors that are all noise say nothing of what is near
        if square > 10 * NOISE and any(_apart(now.g.leaves, r.now.g.leaves) <= _NEAR * error for r in others):
            break
        count += 1
        try:
            moved = projection(state.target, now)
        except np.linalg.LinAlgError:  # the two subspaces are orthogonal in some direction
            moved = None
            break
        enough = max(state.tol, near * error)
        x, new = now.g.leaves, moved[0].leaves
        step = (new[0] - x[0], new[1] - x[1], new[2] - x[2])
        if not _apart(x, new) > _AFAR * enough or count % _LOOK == 0:
            change = relative_change(moved[0], now)
            if change <= enough:
                return Run(run.start, moved, now.error, change, count, now)
        past = [*past[-_DEPTH:], (x, step)]
        following = next_iterate(state.target, now, moved, past, modes)
        if following is None:
            break
        now, moved = following, None
        past = [(seen(x, *now.change), seen(d, *now.change)) for x, d in past]
    return Run(run.start, (now.g, None, None), now.error, _remaining(state, now, moved), count, now)


def _apart(x: Leaves, y: Leaves) -> float:
    """What matrices in balanced coordinates tell of how far systems are apart, for less than a norm costs."""
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(a)) for a, b in zip(x, y, strict=True))


def _remaining(state: H2Spectrum, now: Iterate, moved: Projection | None) -> float:
    """How much the next step would change the reduced system."""
    try:
        return relative_change((moved or projection(state.target, now))[0], now)
    except np.linalg.LinAlgError:
        return np.inf


def _given(state: H2Spectrum, k: int) -> list[tuple[str, DenseSystem]]:
    """`init` as the one start, if there is one."""
    g = state.init
    if g is None:
        return []
    if g.order != k:
        raise ValueError(f"init must have the order asked for, {k}, got {g.order}")
    dtype = np.result_type(*state.target.full.leaves)
    if any(np.iscomplexobj(x) for x in g.leaves) and dtype.kind != "c":
        raise ValueError("init must be real where the system is, got complex matrices")
    A, B, C = (x.astype(dtype) for x in g.leaves)
    return [("init", DenseSystem(A, B, C, state.target.full.D, g.dt))]


def relative_change(new: DenseSystem, old: Iterate) -> float:
    """H2 norm of the difference beside that of `old`; infinite where `new` is not stable."""
    if not (np.isfinite(new.A).all() and pole_margin(new)[1].min() > 0):
        return np.inf
    return distance(new, old.g) / float(np.sum(np.abs(old.g.C) ** 2 * old.s) ** 0.5)


def distance(one: DenseSystem, other: System) -> float:
    """The H2 norm of the difference, not by a difference of squares; infinite where it is not stable."""
    try:
        return size(difference(one, other))
    except (ValueError, ArithmeticError):
        return np.inf


def size(g: System) -> float:
    """The H2 norm of the strictly proper part; nobody is told of a pole near the boundary, which an iterate on the way may have."""
    dense = g.to_dense()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BoundaryWarning)
        return float(np.linalg.norm(dense.C @ smith_factors(dense)[0]))


def starts(sp: Spectrum, k: int) -> Iterator[tuple[str, DenseSystem]]:
    """The starts of order k with their names; what cannot be made of a system is left out.

    Parameters
    ----------
    sp : Spectrum
        Of the system that is to be approximated.
    k : int
        Below the numerical rank.
    """
    yield "balanced truncation", projected(sp, k)[0]
    g = projected(sp, min(sp.cap, 4 * k + _ROOM))[0]
    makers: dict[str, Callable[[], System]] = {
        "matched steady state": lambda: singular_perturbation(spectrum(g, None), k)[0],
        "most output energy": lambda: _energetic(g, sp.sigma, k),
        "dominant modes": lambda: _modal(g, k),
        "bounded-real balancing": lambda: truncate(bounded_real(g, gamma=1.05 * _gain(g)), k)[0],
    }
    for name, make in makers.items():
        try:
            start = make()
        except (ValueError, ArithmeticError, np.linalg.LinAlgError):  # no room between the poles, say
            continue
        if start.order == k:
            yield name, start.to_dense()


def _modal(g: DenseSystem, k: int) -> System:
    """The dominant poles, as many as make a group of conjugates full, and of them what matters."""
    kept = modes(g, dominance="h2")
    return truncate(spectrum(modal(kept, kept.closed(k))[0].to_dense(), None), k)[0]


def _energetic(g: DenseSystem, sigma: Matrix, k: int) -> DenseSystem:
    """The k balanced states with the most output energy: any part of a balanced system is stable.

    Where a slow mode has the larger singular value, a fast one may have the larger H2 norm.
    """
    energy = np.sum(np.abs(g.C) ** 2, axis=0) * sigma[: g.order]
    most = np.sort(np.argsort(-energy, kind="stable")[:k])
    return DenseSystem(g.A[np.ix_(most, most)], g.B[most], g.C[:, most], g.D, g.dt)


def _gain(g: DenseSystem) -> float:
    """The largest gain at the poles that promise most, which is the H-infinity norm of what resonates but for little."""
    poles, V = np.linalg.eig(g.A)
    residues = np.linalg.norm(g.C @ V, axis=0) * np.linalg.norm(np.linalg.solve(V, g.B), axis=1)
    best = np.argsort(-residues / np.abs(pole_margin(g)[1]))[:8]
    at = poles[best] / np.abs(poles[best]) if g.discrete else 1j * poles[best].imag
    ends = [1.0, -1.0] if g.discrete else [0.0]
    return max(float(np.linalg.norm(g(complex(s)), 2)) for s in [*at, *ends])
