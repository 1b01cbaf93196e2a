"""An attempt at a cut: every layer is looked at, the policy asked, the smaller layers built."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from balred.hankel.values import values_between, values_in_single
from balred.intraining.exchange import Alone, Exchange, share, together
from balred.intraining.policy import Policy, PolicyState
from balred.intraining.reach import chosen_layers, even_layers
from balred.intraining.report import Cut, Report
from balred.layers.along_data import DataSums
from balred.ranks.budget import Budget
from balred.ranks.choosing import choose_order
from balred.ranks.divergence import Divergence
from balred.ranks.rules import Rule
from balred.reduction.analysis import sums_along
from balred.reduction.candidates import Candidates, Failure, Smaller, attempted, cut_each
from balred.reduction.choosing import kept_apart, ranks_by_layer, shared_out, within_divergence, worths
from balred.reduction.operators import OperatorCandidate, Read, operator_candidates, read_operators
from balred.reduction.selective import SelectiveCandidate, SelectiveLayers, candidates_of, moments_of
from balred.reduction.settings import Settings
from balred.selection.calibration import Batch, Calibration
from balred.selection.moments import Moments
from balred.systems.arrays import backend
from balred.systems.batches import together as batched
from balred.systems.diagonal_system import DiagonalSystem
from balred.systems.leaves import System


def decide(
    policy: Policy,
    state: PolicyState,
    step: int,
    layers: Mapping[str, Any],
    exchange: Exchange | None = None,
    model: Any = None,
    calibration: Calibration | None = None,
) -> tuple[dict[str, Smaller], PolicyState, Report]:
    """Look at every layer, ask the policy, build the smaller layers, and describe the outcome.

    Nothing is changed: the caller puts the layers returned in place.  A layer that cannot be looked at, cut or written
    back is skipped, and the report says why.  With an `exchange` the processes share the analysis out, and all decide alike.
    With `calibration` layers are balanced on data, of all processes together, and the selective ones of `model` are selected on
    them; among those the first process chooses, since they may have to have one size.
    """
    began = time.perf_counter()
    # the training keeps the other cores busy, or their threads awake: more than one for the linear algebra would wait
    with backend("numpy").one_blas_thread():
        done, state, report = _decided(policy, state, step, layers, exchange or Alone(), model, calibration)
    return ({} if policy.dry_run else done), state, replace(report, seconds=time.perf_counter() - began)


def _within(
    rule: Divergence, looked: Candidates, model: Any, kept: list[Batch], calibration: Calibration
) -> dict[str, int]:
    return within_divergence(rule, looked, model, kept, calibration).ranks


class _Found(NamedTuple):
    """What a process found of its layers: present and chosen ranks, cuts that are large enough, and what failed."""

    ranks: dict[str, tuple[int, int]]
    made: dict[str, Smaller]
    failed: dict[str, str]


def _decided(
    policy: Policy,
    state: PolicyState,
    step: int,
    layers: Mapping[str, Any],
    exchange: Exchange,
    model: Any,
    calibration: Calibration | None,
) -> tuple[dict[str, Smaller], PolicyState, Report]:
    selective = chosen_layers(layers, calibration)
    read, failed = read_operators({name: layer for name, layer in layers.items() if name not in selective})
    skipped = {name: str(error) for name, error in failed.items()}
    after = {name: system.states for name, (system, _) in read.items()}
    kept: list[Batch] = []
    if isinstance(policy.rule, Divergence) and calibration is not None:
        apart = attempted(partial(kept_apart, model, calibration))
        if isinstance(apart, Exception):  # of a function that returns too little now
            return {}, replace(state, step=step), Report(step, (), after, dict.fromkeys(layers, str(apart)))
        calibration, kept = apart
    sums = {} if calibration is None else _along_data(model, layers, read, calibration, exchange)
    if isinstance(sums, str):
        skipped |= dict.fromkeys(read, sums)
        read, sums = {}, {}
    measured = _measured(model, selective, calibration, exchange)
    after |= {name: one.states for name, one in measured.items() if not isinstance(one, Exception)}
    even = even_layers(layers)
    of_one_size = {name: one for name, one in read.items() if name in even and exchange.rank == 0}
    rule, mine = policy.rule, share({name: one for name, one in read.items() if name not in even}, exchange)
    # looked at where the processes wait for each other, which an error would not let them do
    choosing = chain([measured if exchange.rank == 0 else {}], _tied(of_one_size, sums))
    far: dict[str, tuple[int, int]] = {}
    groups: Iterable[Candidates]
    wanted: Mapping[str, Any]
    looked: Candidates
    if isinstance(rule, Budget):
        of_all: dict[str, Any] = {}
        told = together(
            exchange, lambda: worths(_all_of(chain(choosing, operator_candidates(mine, Settings(), sums)), of_all))
        )
        worth = {name: one for process in told for name, one in process.items()}
        wanted, groups = shared_out(rule, {name: worth[name] for name in layers if name in worth}), [of_all]
    elif isinstance(rule, Divergence):
        assert calibration is not None, "check_rule_for refuses a divergence without data"
        looked = _all_of(chain(choosing, operator_candidates(mine, Settings(), sums)), {})
        within = attempted(partial(_within, rule, looked, model, kept, calibration))
        if isinstance(within, Exception):
            skipped |= {name: str(within) for name, one in looked.items() if not isinstance(one, Exception)}
            looked, within = {name: one for name, one in looked.items() if isinstance(one, Exception)}, {}
        wanted, groups = within, [looked]
    else:
        if policy.settled is None:
            blind = {name: one for name, one in mine.items() if not isinstance(sums.get(name), DataSums)}
            far = _far_from_a_cut(policy, step, rule, blind)
        near = {name: one for name, one in mine.items() if name not in far}
        wanted, groups = dict.fromkeys(layers, rule), chain(choosing, operator_candidates(near, Settings(), sums))

    own: dict[str, Smaller] = {}
    ranks: dict[str, tuple[int, int]] = {}
    made: dict[str, Smaller] = {}
    for part in together(exchange, lambda: _found(policy, step, groups, wanted, far, own)):
        ranks |= part.ranks
        made |= part.made
        skipped |= part.failed
    chosen, state = policy.update(state, step, {name: ranks[name] for name in layers if name in ranks})
    cut = {name for name in chosen if name in made}
    if left := even & (read.keys() - cut) if even & cut else set():
        skipped |= dict.fromkeys(
            even & cut,
            f"the configuration holds one number of states, and {', '.join(sorted(left))} would keep another",
        )
        cut -= even
    done = {
        name: own.get(name) or _written(made[name], read.get(name), measured.get(name))
        for name in chosen
        if name in cut
    }
    cuts = tuple(_cut(name, one) for name, one in done.items())
    if not policy.dry_run:
        after |= {cut.layer: cut.after for cut in cuts}
    return done, state, Report(step, cuts, after, skipped, dry_run=policy.dry_run)


def _tied(read: Mapping[str, Read], sums: Mapping[str, DataSums | str]) -> Iterator[Candidates]:
    """Layers that must have one size, which one process therefore chooses for all."""
    found = _all_of(operator_candidates(read, Settings(), sums), {})
    yield {n: replace(one, tied=True) if isinstance(one, OperatorCandidate) else one for n, one in found.items()}


def _all_of(groups: Iterable[Candidates], looked: dict[str, Any]) -> Candidates:
    """All layers of `groups` in `looked` too, since a budget must know all before any is cut."""
    for group in groups:
        looked.update(group)
    return looked


def _found(
    policy: Policy,
    step: int,
    groups: Iterable[Candidates],
    wanted: Mapping[str, Any],
    far: Mapping[str, tuple[int, int]],
    own: dict[str, Smaller],
) -> _Found:
    """Choose and cut a group of layers after the other: of large ones the workings of one are held at a time.

    What is cut here goes into `own`; the other processes are told all but the layer, which they write for themselves.
    """
    ranks, failed = dict(far), dict[str, str]()
    for candidates in groups:
        chosen = ranks_by_layer(candidates, wanted)
        failed |= {name: str(rank) for name, rank in chosen.items() if isinstance(rank, Exception)}
        now = {
            name: (one.states, rank)
            for name, one in candidates.items()
            if not isinstance(one, Exception) and not isinstance(rank := chosen[name], Exception)
        }
        aims = {name: (present, policy.next_rank(step, present, rank)) for name, (present, rank) in now.items()}
        made = cut_each(
            candidates, {name: rank for name, (present, rank) in aims.items() if policy.allows(present, rank)}
        )
        own |= {name: one for name, one in made.items() if isinstance(one, Smaller)}
        failed |= {name: str(one) for name, one in made.items() if isinstance(one, Exception)}
        ranks |= now
    return _Found(ranks, {name: replace(one, layer=None, again=None) for name, one in own.items()}, failed)


def _written(told: Smaller, read: Read | None, measured: SelectiveCandidate | Failure | None) -> Smaller:
    """What another process cut, written into this one's layer."""
    if isinstance(measured, SelectiveCandidate):
        return measured.written(told)
    assert read is not None
    assert told.system is not None
    return replace(told, layer=read[1](told.system))


def _cut(name: str, one: Smaller) -> Cut:
    return Cut(name, one.before, one.rank, one.energy, math.nan if one.bound is None else one.bound, one.note)


def _measured(
    model: Any, layers: SelectiveLayers, calibration: Calibration | None, exchange: Exchange
) -> dict[str, SelectiveCandidate | Failure]:
    """Selective layers, measured on the data of all processes together, or by themselves if they need none; or of each why it is not."""
    none = Calibration(None)
    kinds = {needs: {n: one for n, one in layers.items() if one[1].needs_data is needs} for needs in (True, False)}
    found: dict[str, SelectiveCandidate | Failure] = {}
    for needs, several in kinds.items():
        if several:
            found |= _measured_alike(model, several, calibration or none if needs else none, exchange)
    return {name: found[name] for name in layers}


def _measured_alike(
    model: Any, layers: SelectiveLayers, calibration: Calibration, exchange: Exchange
) -> Mapping[str, SelectiveCandidate | Failure]:
    mine: dict[str, Moments] = {}

    def own() -> str | None:
        found = attempted(lambda: moments_of(model, layers, calibration))
        if isinstance(found, Exception):
            return str(found)
        mine.update(found)
        return None

    for why in together(exchange, own):
        if why is not None:
            return dict.fromkeys(layers, ValueError(why))
    # one at a time: those that can be mixed have as many numbers as states to the fourth power
    summed = {name: _added(exchange.gather(mine[name])) for name in layers}
    return candidates_of(layers, summed, calibration)


def _added(parts: list[Any]) -> Any:
    return sum(parts[1:], start=parts[0])


_SEQUENCES = 32
"""On which layers are balanced at an attempt, unless the calibration says how many: more gain nothing that can be measured
(``benchmarks/calibration.py``), and cost in proportion."""


def _along_data(
    model: Any, layers: Mapping[str, Any], read: Mapping[str, Read], calibration: Calibration, exchange: Exchange
) -> dict[str, DataSums | str] | str:
    """What the states of layers do along the data of all processes together, of each or of all why it is not known."""
    wanted = {name: (layers[name], system) for name, (system, _) in read.items()}
    how = replace(calibration, sequences=calibration.sequences or _SEQUENCES)

    def own() -> dict[str, DataSums | str] | str:
        found = attempted(lambda: sums_along(model, wanted, how))
        return str(found) if isinstance(found, Exception) else found

    parts: list[dict[str, DataSums | str]] = []
    for part in together(exchange, own):
        if isinstance(part, str):
            return part
        parts.append(part)
    return {name: _joined([part[name] for part in parts]) for name in parts[0]}


def _joined(parts: list[DataSums | str]) -> DataSums | str:
    seen = [one for one in parts if isinstance(one, DataSums)]
    return _added(seen) if len(seen) == len(parts) else next(x for x in parts if isinstance(x, str))


_SLACK = 0.02
"""The share of a layer's order by which float32 may misjudge what a rule asks for, generously."""


def _far_from_a_cut(policy: Policy, step: int, rule: Rule, layers: Mapping[str, Read]) -> dict[str, tuple[int, int]]:
    """Layers that need no analysis: their present rank, and less than which the rule cannot ask for.

    Most checks of a training end without a cut, and values in float32 tell so at a fraction of an analysis's cost.
    """
    # float32 can do little with a dense system in bad units
    systems = {name: system for name, (system, _) in layers.items() if isinstance(system, DiagonalSystem)}
    found: dict[str, tuple[int, int]] = {}
    left = systems
    for look in (values_between, values_in_single):  # the second where the first, in half of its time, cannot tell
        seen, left = batched(partial(_looked, look), left), {}
        for name, bounds in seen.items():
            system = systems[name]
            unit = system.order // max(system.states, 1)
            try:
                orders = [choose_order(rule, values, unit) for values in np.moveaxis(bounds, -2, 0)]
            except (ValueError, ArithmeticError):
                continue  # unstable, or a rule that cannot be met: the analysis will tell
            least, most = (
                int((order + s * _SLACK * system.order) / unit) for order, s in zip(orders, (-1, 1), strict=True)
            )
            near, far = (policy.allows(system.states, policy.next_rank(step, system.states, x)) for x in (least, most))
            if least > 0 and not near:
                found[name] = (system.states, least)
            elif not far:
                left[name] = system
    return found


def _looked(look: Callable[[Any], NDArray[Any]], system: System) -> NDArray[Any]:
    """Bounds of the values of a layer or a batch of them; of a layer that has none no values, which no rule can be met with."""
    try:
        return look(system)
    except (ValueError, ArithmeticError):
        if system.B.ndim > 2:
            raise
        return np.full((2, system.order), np.nan)
