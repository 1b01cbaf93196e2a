"""Iterations towards an H2-optimal system, from each of several starts to where it ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from balred.methods.h2_starts import starts
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
from balred.methods.method import OfSpectrum, Reduced
from balred.solvers.resolvents import Matrix
from balred.solvers.smith import smith_factors
from balred.systems.dense_system import DenseSystem
from balred.systems.leaves import System
from balred.systems.parts import difference
from balred.systems.poles import pole_margin

_DEPTH = 5
"""How many of the last steps predict the next."""
_NEAR = 0.01
"""Steps of this part of the error change it by the square of that: enough is known to compare it with others."""
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
    runs = []
    for name, start in _given(state, k) or starts(state.spectrum, k):
        begin = evaluated(state.target, start, modes)
        if begin is not None:
            first = Run(name, (begin.g, None, None), begin.error, np.inf, 0, begin)
            runs.append(iterated(state, first, modes, near=_NEAR, limit=min(_SCOUTED, state.max_iterations)))
    runs.sort(key=lambda run: run.error)
    for i, run in enumerate(runs):
        if run.error > runs[0].error + noise:
            break
        runs[i] = iterated(state, run, modes)
        if runs[i].change <= state.tol:
            break
    limit = min((run.error for run in runs), default=0.0) + noise
    return sorted(runs, key=lambda run: (max(run.error, limit), run.change))


@np.errstate(over="ignore", invalid="ignore", divide="ignore")  # a start that leads nowhere ends there
def iterated(state: H2Spectrum, run: Run, modes: Modes, near: float = 0.0, limit: int | None = None) -> Run:
    """The iteration from where `run` is, to the tolerance, or to where a step is less than the part `near` of the error."""
    past: list[tuple[Leaves, Leaves]] = []
    now, count, moved = run.now, run.iterations, None
    most = state.max_iterations if limit is None else limit
    while count < most:
        count += 1
        try:
            moved = projection(state.target, now)
        except np.linalg.LinAlgError:  # the two subspaces are orthogonal in some direction
            moved = None
            break
        enough = max(state.tol, near * (max(now.error, 0.0) / state.target.square) ** 0.5)
        x, new = now.g.leaves, moved[0].leaves
        step = (new[0] - x[0], new[1] - x[1], new[2] - x[2])
        # matrices in balanced coordinates tell from afar that it has not ended, for less than a norm costs
        seems = max(float(np.linalg.norm(d) / np.linalg.norm(y)) for d, y in zip(step, x, strict=True))
        if not seems > _AFAR * enough or count % _LOOK == 0:
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
    """The H2 norm of the strictly proper part."""
    dense = g.to_dense()
    return float(np.linalg.norm(dense.C @ smith_factors(dense)[0]))
