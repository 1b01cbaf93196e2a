r"""The policy of in-training truncation: when to look, what to cut, when to take it back.

The method is CompreSSM (arXiv 2510.02823, section 3): at a few steps inside the learning-rate warm-up every layer is
reduced to the least rank whose Hankel singular values hold :math:`1-\tau` of their sum, if that is well below its
present rank.  A policy is a pure pair ``init``/``update``: no framework, no clock, no randomness.  The adapters
measure, cut and restore; this module decides.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from balred.registry.entries import adapt
from balred.systems.arrays import backend
from balred.systems.batches import alike
from balred.ranks.budget import Budget, relative, tail_of
from balred.intraining.exchange import Alone, Exchange, share, together
from balred.reduction.analysis import Analysis, analyses, values_in_single
from balred.ranks.rules import Rule, check_rule, choose_order
from balred.reduction.writing_back import Reduction
from balred.intraining.reach import Calibration, Measured
from balred.systems.dense_system import DiagonalSystem, System


@dataclass(frozen=True)
class Guard:
    """Take a cut back if a metric falls by more than a tolerance.

    Parameters
    ----------
    metric : callable
        ``metric(model)`` returns a float, such as the validation accuracy.
    tolerance : float
        Largest fall (rise, for ``higher_is_better=False``) that is accepted.
    delay : int, default 0
        Training steps between a cut and its judgement; 0 judges the cut model at once.
    higher_is_better : bool, default True
    """

    metric: Callable[[Any], float]
    tolerance: float
    delay: int = 0
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        if self.tolerance < 0:
            raise ValueError(f"tolerance must not be negative, got {self.tolerance}")
        if self.delay < 0:
            raise ValueError(f"delay must not be negative, got {self.delay}")

    def accepts(self, before: float, after: float) -> bool:
        """Whether `after` is within the tolerance of `before`; NaN never is."""
        return (before - after if self.higher_is_better else after - before) <= self.tolerance


@dataclass(frozen=True)
class PolicyState:
    """What a policy remembers: the last step seen, rank choices by layer, and whether it has stopped for good."""

    step: int = 0
    choices: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    stopped: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for a checkpoint."""
        return {"step": self.step, "choices": {k: list(v) for k, v in self.choices.items()}, "stopped": self.stopped}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PolicyState:
        """The state that :meth:`to_dict` wrote."""
        return cls(int(values["step"]), {k: tuple(v) for k, v in values["choices"].items()}, bool(values["stopped"]))


@dataclass(frozen=True)
class Policy:
    """When and how far to cut.

    Parameters
    ----------
    rule : rule, or Budget
        Chooses each layer's rank, for example ``balred.Energy(0.99)``; a :class:`balred.Budget` of states is shared out over
        the layers.
    window : (int, int)
        Steps between which cuts may happen: the learning-rate warm-up, or the first tenth of the training.
    attempts : int, optional
        So many equidistant steps, the last one at the end of the window (default 4).
    interval : int, optional
        Instead of `attempts`: every so many steps from the window's start on.
    min_cut : float, default 0.05
        A layer is cut only to at most ``(1 - min_cut)`` of its present rank.
    settled : int, optional
        A layer is cut only once its choice has stayed within 5 % (or one state) over this many attempts in a row.
    guard : Guard, optional
    dry_run : bool, default False
        Only report what would be cut.

    Examples
    --------
    >>> import balred
    >>> Policy(balred.Energy(0.99), window=(0, 4000), attempts=4).steps
    (1000, 2000, 3000, 4000)
    """

    rule: Rule | Budget
    window: tuple[int, int]
    attempts: int | None = None
    interval: int | None = None
    min_cut: float = 0.05
    settled: int | None = None
    guard: Guard | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.rule, Budget):
            if self.rule.states is None:
                raise ValueError(
                    f"in training a budget must be given in states, since each cut changes what a fraction is of, got {self.rule}"
                )
        else:
            check_rule(self.rule)
        whole = isinstance(self.window, (tuple, list)) and all(isinstance(x, (int, np.integer)) for x in self.window)
        if not whole or len(self.window) != 2:
            raise ValueError(f"window must be (start, end) in whole steps, got {self.window!r}")
        start, end = self.window
        if not 0 <= start < end:
            raise ValueError(f"window must be (start, end) with 0 <= start < end, got {self.window}")
        if self.attempts is not None and self.interval is not None:
            raise ValueError(f"attempts or interval may be given, not both, got {self.attempts} and {self.interval}")
        length = end - start
        for name, value in (("attempts", self.attempts), ("interval", self.interval)):
            if value is not None and not isinstance(value, (int, np.integer)):
                raise ValueError(f"{name} must be an integer, got {value!r}")
            if value is not None and not 1 <= value <= length:
                raise ValueError(f"{name} must be between 1 and the window's length {length}, got {value}")
        if not 0 <= self.min_cut < 1:
            raise ValueError(f"min_cut must be in [0, 1), got {self.min_cut}")
        if self.settled is not None and self.settled < 2:
            raise ValueError(f"settled must be at least 2 attempts, got {self.settled}")
        if self.settled is not None and self.settled > len(self.steps):
            raise ValueError(f"settled must be at most the number of attempts, {len(self.steps)}, got {self.settled}")

    @property
    def last(self) -> int:
        """The last step at which anything may happen: the last attempt, or the judgement of its cut."""
        return self.steps[-1] + (self.guard.delay if self.guard else 0)

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps at which cuts are attempted."""
        start, end = self.window
        if self.interval is not None:
            return tuple(range(start + self.interval, end + 1, self.interval))
        n = self.attempts if self.attempts is not None else min(4, end - start)
        return tuple(start + math.ceil((i + 1) * (end - start) / n) for i in range(n))

    def init(self) -> PolicyState:
        """The state before the first step."""
        return PolicyState()

    def due(self, state: PolicyState, step: int) -> bool:
        """Whether a cut is to be attempted after training step `step` (counted from 1)."""
        return not state.stopped and step in self.steps

    def update(
        self, state: PolicyState, step: int, ranks: Mapping[str, tuple[int, int]]
    ) -> tuple[dict[str, int], PolicyState]:
        """Decide the cuts at `step`.

        Parameters
        ----------
        state : PolicyState
        step : int
        ranks : mapping
            By layer: (present rank, rank that the rule chooses).

        Returns
        -------
        cuts : dict
            The new rank of every layer to be cut.
        state : PolicyState
        """
        choices = {name: (*state.choices.get(name, ()), chosen) for name, (_, chosen) in ranks.items()}
        cuts = {
            name: chosen
            for name, (present, chosen) in ranks.items()
            if self.allows(present, chosen) and self._is_settled(choices[name])
        }
        return cuts, replace(state, step=step, choices=choices)

    def allows(self, present: int, chosen: int) -> bool:
        """Whether a cut from rank `present` to rank `chosen` is large enough."""
        return chosen <= (1 - self.min_cut) * present and chosen < present

    def _is_settled(self, choices: tuple[int, ...]) -> bool:
        if self.settled is None:
            return True
        last = choices[-self.settled :]
        return len(last) == self.settled and max(last) - min(last) <= max(1, 0.05 * max(last))

    def stop(self, state: PolicyState) -> PolicyState:
        """No more cuts: what a guard does after it took one back."""
        return replace(state, stopped=True)


@dataclass(frozen=True)
class Cut:
    """One layer's cut: ranks before and after, share of the sum of HSVs kept, a-priori bound on the H-infinity error.

    Of a selective layer the energy is that of its output on the calibration data, and there is no bound (NaN).
    """

    layer: str
    before: int
    after: int
    energy: float
    bound: float


@dataclass(frozen=True)
class Report:
    """What happened at an attempt.

    Attributes
    ----------
    step : int
    cuts : tuple of Cut
        Empty if nothing was cut (or all was taken back).
    ranks : dict
        The rank afterwards of every layer that could be read.
    skipped : dict
        Layers that could not be analysed or cut, and why.
    restored : bool
        Whether the guard restored the state before the last cut.
    seconds : float
        Time spent on analysis and cut.
    dry_run : bool
        The cuts were not carried out.
    loss : (float, float), optional
        The loss of the last batch before and after the cut, where it was measured.
    back_to : int, optional
        With `restored`: the step whose state was restored.
    """

    step: int
    cuts: tuple[Cut, ...]
    ranks: Mapping[str, int]
    skipped: Mapping[str, str] = field(default_factory=dict)
    restored: bool = False
    seconds: float = 0.0
    dry_run: bool = False
    loss: tuple[float, float] | None = None
    back_to: int | None = None

    def __str__(self) -> str:
        if self.restored:
            return f"step {self.step}: the last cut was taken back, the metric fell by more than the guard's tolerance"
        lines = [
            f"step {self.step}: {c.layer or 'layer'} {'would be ' if self.dry_run else ''}{c.before} -> {c.after} states, "
            f"{100 * c.energy:.2f} % of the energy" + ("" if math.isnan(c.bound) else f", error bound {c.bound:.3g}")
            for c in self.cuts
        ] or [f"step {self.step}: nothing cut"]
        if self.loss is not None:
            lines.append(f"step {self.step}: loss of the last batch {self.loss[0]:.4g} -> {self.loss[1]:.4g}")
        return "\n".join(
            lines + [f"step {self.step}: {name or 'layer'} skipped: {why}" for name, why in self.skipped.items()]
        )


def check_moments(moments: str) -> None:
    """Raise unless it says what becomes of an optimizer's moments: they start afresh, or are carried through the cut."""
    if moments not in ("reset", "carry"):
        raise ValueError(f"moments must be 'reset' or 'carry', got {moments!r}")


class Step(NamedTuple):
    """A cut ready to be carried out: the smaller layer, and the reduction it was written from.

    Of a selective layer there is none; ``again(other)`` cuts another one of its size to the same states.
    """

    layer: Any
    reduction: Reduction | None
    again: Callable[[Any], Any] | None = None


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
