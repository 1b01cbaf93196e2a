"""An attempt at a cut: every layer is looked at, the policy asked, the smaller layers built."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from balred.hankel.values import values_in_single
from balred.intraining.exchange import Alone, Exchange, share, together
from balred.intraining.policy import Policy, PolicyState, Step
from balred.intraining.reach import Measured
from balred.intraining.report import Cut, Report
from balred.ranks.budget import Budget, relative
from balred.ranks.choosing import choose_order
from balred.ranks.rules import Rule
from balred.reduction.analysis import Analysis, analyses, tail_of
from balred.reduction.writing_back import Reduction
from balred.registry.reading import adapt
from balred.selection.calibration import Calibration
from balred.systems.arrays import backend
from balred.systems.batches import alike
from balred.systems.diagonal_system import DiagonalSystem
from balred.systems.leaves import System


def check_moments(moments: str) -> None:
    """Raise unless it says what becomes of an optimizer's moments: they start afresh, or are carried through the cut."""
    if moments not in ("reset", "carry"):
        raise ValueError(f"moments must be 'reset' or 'carry', got {moments!r}")


def decide(
    policy: Policy,
    state: PolicyState,
    step: int,
    layers: Mapping[str, Any],
    exchange: Exchange | None = None,
    model: Any = None,
    calibration: Calibration | None = None,
) -> tuple[dict[str, Step], PolicyState, Report]:
    """Analyse every layer, ask the policy, build the smaller layers, and describe the outcome.

    Nothing is changed: the caller puts the layers returned in place.  A layer that cannot be analysed, cut or written
    back is skipped, and the report says why.  With an `exchange` the processes share the analysis out, and all decide alike.
    With `calibration` the selective layers of `model` take part, in one process only.
    """
    began = time.perf_counter()
    # the training keeps the other cores busy, or their threads awake: more than one for the linear algebra would wait
    with backend("numpy").one_blas_thread():
        done, state, cuts, after, skipped = _decided(
            policy, state, step, layers, exchange or Alone(), model, calibration
        )
    if not policy.dry_run:
        after |= {c.layer: c.after for c in cuts}
    report = Report(step, cuts, after, skipped, False, time.perf_counter() - began, policy.dry_run)
    return ({} if policy.dry_run else done), state, report


Read = Mapping[str, tuple[System, Callable[[System], Any]]]


class _Found(NamedTuple):
    """What the analysis of some layers brought: present and chosen ranks, cuts that are large enough, and what failed."""

    ranks: dict[str, tuple[int, int]]
    ready: dict[str, tuple[Reduction, Cut]]
    skipped: dict[str, str]


def _decided(
    policy: Policy,
    state: PolicyState,
    step: int,
    layers: Mapping[str, Any],
    exchange: Exchange,
    model: Any,
    calibration: Calibration | None,
) -> tuple[dict[str, Step], PolicyState, tuple[Cut, ...], dict[str, int], dict[str, str]]:
    """The cuts, the policy's state, their description, and every layer's present rank or why it was skipped."""
    read: dict[str, tuple[System, Callable[[System], Any]]] = {}
    skipped: dict[str, str] = {}
    look = Measured(model, layers, calibration)
    for name, layer in layers.items():
        if name in look.all:
            continue
        try:
            read[name] = adapt(layer)
        except (ValueError, ArithmeticError) as error:
            skipped[name] = str(error)
    skipped |= look.failed
    after = {name: system.states for name, (system, _) in read.items()} | look.states
    mine = share(read, exchange)
    shared: dict[str, int] | None = None
    if isinstance(policy.rule, Budget):
        tails = {n: t for told in together(exchange, lambda: _tails(mine)) for n, t in told.items()}
        measured = look.tails
        in_units = policy.rule.relative or bool(tails and measured)
        tails |= measured
        tails = {n: relative(tails[n]) if in_units else tails[n] for n in layers if n in tails}
        shared = policy.rule.shared(tails, [look.tied])
    built: dict[str, Any] = {}
    ranks: dict[str, tuple[int, int]] = {}
    ready: dict[str, tuple[Reduction, Cut]] = {}
    for found in together(exchange, lambda: _found(policy, mine, shared, built)):
        ranks |= found.ranks
        ready |= found.ready
        skipped |= found.skipped
    ranks |= look.ranks(shared if shared is not None else policy.rule)
    wanted, state = policy.update(state, step, {name: ranks[name] for name in layers if name in ranks})
    chosen = {name: ready[name] for name in wanted if name in ready}
    done = {
        name: Step(built[name] if name in built else read[name][1](reduction.system), reduction)
        for name, (reduction, _) in chosen.items()
    }
    selected = look.choices({name: rank for name, rank in wanted.items() if name in look.layers})
    done |= {name: Step(choice.layer, None, choice.again) for name, choice in selected.items()}
    cuts = [cut for _, cut in chosen.values()]
    cuts += [Cut(name, c.states, wanted[name], c.energy or 0.0, math.nan) for name, c in selected.items()]
    return done, state, tuple(cuts), after, skipped


def _found(policy: Policy, read: Read, shared: Mapping[str, int] | None, built: dict[str, Any]) -> _Found:
    """Analyse some layers; the smaller layers go into `built`, since the other processes write their own."""
    ranks: dict[str, tuple[int, int]] = {}
    ready: dict[str, tuple[Reduction, Cut]] = {}
    skipped: dict[str, str] = {}
    if policy.settled is None and not isinstance(policy.rule, Budget):
        ranks = _far_from_a_cut(policy, policy.rule, {name: system for name, (system, _) in read.items()})
    rest = {name: system for name, (system, _) in read.items() if name not in ranks}
    for group in alike(rest):  # one after the other: of large layers the workings of one are held at a time
        for name, a in analyses({name: read[name] for name in group}).items():
            try:
                if isinstance(a, Exception):
                    raise a
                present = a.system.states
                if isinstance(policy.rule, Budget):
                    ranks[name] = (present, (shared or {}).get(name, present))
                else:
                    ranks[name] = (present, a.rank(policy.rule))
                if policy.allows(*ranks[name]):
                    built[name], ready[name] = a.reduce(ranks[name][1]), _cut(name, a, ranks[name][1])
            except (ValueError, ArithmeticError) as error:
                skipped[name] = str(error)
    return _Found(ranks, ready, skipped)


def _tails(read: Read) -> dict[str, Any]:
    """Of every layer that can be analysed what a budget needs to know; only that is kept."""
    tails: dict[str, Any] = {}
    for group in alike({name: system for name, (system, _) in read.items()}):
        found = analyses({name: read[name] for name in group})
        tails |= {name: tail_of(a) for name, a in found.items() if isinstance(a, Analysis) and a.state is not None}
    return tails


def _cut(name: str, a: Analysis, rank: int) -> tuple[Reduction, Cut]:
    """The reduction of an analysed layer, and its description."""
    reduction = a.reduction(rank)
    energy, bound = float(np.min(a.energy(rank))), float(np.max(a.bound(rank)))
    return reduction, Cut(name, a.system.states, reduction.system.states, energy, bound)


_SLACK = 0.02
"""The share of a layer's order by which float32 may misjudge what a rule asks for, generously."""


def _far_from_a_cut(policy: Policy, rule: Rule, systems: Mapping[str, System]) -> dict[str, tuple[int, int]]:
    """Layers that need no analysis: their present rank, and less than which the rule cannot ask for.

    Most checks of a training end without a cut, and values in float32 tell so at a fraction of an analysis's cost.
    """
    found = {}
    for name, system in systems.items():
        if not isinstance(system, DiagonalSystem):
            continue  # float32 can do little with a dense system in bad units
        try:
            order = choose_order(rule, values_in_single(system), unit := system.order // max(system.states, 1))
        except (ValueError, ArithmeticError):
            continue  # unstable, or a rule that cannot be met: the analysis will tell
        least = int((order - _SLACK * system.order) / unit)
        if least > 0 and not policy.allows(system.states, least):
            found[name] = (system.states, least)
    return found
