"""Truncation of JAX models while they train, whatever framework they are written in.

JAX values do not change, so a cut makes a new model and new states beside it; a jitted training step retraces once for the
new shapes.  The reducers of the frameworks (:mod:`balred.adapters.equinox`, :mod:`balred.adapters.flax`,
:mod:`balred.adapters.flax.nnx`) take a training apart into :class:`Parts` and put it together again; all else is here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax

from balred.adapters.jax.averages import cut_averages
from balred.adapters.jax.checkpoints import filled_in, is_array, is_value, plain
from balred.adapters.jax.optimizers import cut_state
from balred.adapters.jax.resizing import Resizing
from balred.adapters.jax.trees import placed
from balred.intraining.decide import check_moments, decide
from balred.intraining.events import logs_of, sinks_of
from balred.intraining.policy import Guard, Policy, PolicyState
from balred.intraining.report import Report
from balred.ranks.budget import Budget
from balred.ranks.rules import Rule
from balred.reduction.candidates import Smaller
from balred.registry.reading import is_selective, layers_of, linear_layers_of, replace_layers
from balred.registry.sizes import ranks_of, shrunk
from balred.registry.tensors import tensors_of, with_tensors

Fresh = Callable[[Any], Any]


class Parts(NamedTuple):
    """What a training consists of: its model, and what follows a cut; `others` only come back with a guard."""

    model: Any
    opt_state: Any
    averages: Any = None
    others: Any = None


class Held(NamedTuple):
    """A cut that a guard has still to judge: when, the metric before, the step of the cut, and all that was before it.

    The values are those of the parts, in the order of the reducer.
    """

    due: int
    metric: float
    step: int
    ranks: Mapping[str, int]
    parts: Parts
    values: tuple[Any, ...]


@dataclass(frozen=True)
class ReducerState:
    """What a reducer remembers between steps: the policy's state, ranks, lengths of its log files, what a guard would restore."""

    policy: PolicyState
    ranks: Mapping[str, int] = field(default_factory=dict)
    events: tuple[int, ...] = ()
    held: Held | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for a checkpoint, from which ``resume`` goes on; with a cut that is still to be judged NumPy arrays too."""
        held = None
        if self.held is not None:
            held = {
                **self.held._asdict(),
                "ranks": dict(self.held.ranks),
                "values": [plain(x) for x in self.held.values],
            }
            del held["parts"]
        return {"policy": self.policy.to_dict(), "ranks": dict(self.ranks), "events": list(self.events), "held": held}


class TreeReducer:
    """Cut the layers of a JAX model, and all that follows their shapes, while it trains: what all frameworks share.

    Parameters
    ----------
    rule : rule, or Budget
        Such as ``balred.Energy(0.99)``.
    window : (int, int)
        Steps between which cuts may happen.
    attempts, interval, min_cut, settled, guard, dry_run
        As :class:`balred.intraining.Policy`.
    moments : {"reset", "carry"}, default "reset"
        What becomes of the optimizer's moments of a cut layer: they start afresh, or are carried through the change of
        coordinates, as with :class:`balred.adapters.torch.InTrainingReducer`.  The step count of an optax state is one for all
        parameters and goes on, so a second moment that starts afresh is not zero (which would multiply the learning rate)
        but the mean of the old one.
    ema_decay : float, optional
        The decay of ``optax.ema`` where its states are among the averages: they start at zero, which the cut must know.
    log : path, TensorBoard writer, W&B run, callable, or a sequence of these
        Gets every report, see :func:`balred.intraining.sinks_of`.
    """

    def __init__(
        self,
        rule: Rule | Budget,
        window: tuple[int, int],
        attempts: int | None = None,
        *,
        interval: int | None = None,
        min_cut: float = 0.05,
        settled: int | None = None,
        guard: Guard | None = None,
        dry_run: bool = False,
        moments: str = "reset",
        ema_decay: float | None = None,
        log: Any = None,
    ) -> None:
        check_moments(moments)
        if ema_decay is not None and not 0 <= ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), got {ema_decay}")
        self.policy = Policy(rule, window, attempts, interval, min_cut, settled, guard, dry_run)
        self.moments, self.ema_decay = moments, ema_decay
        self._sinks = sinks_of(log)

    # -------------------------------------------------------------------------------- what a framework may say otherwise

    def _whole(self, parts: Parts) -> Any:
        """What metrics and losses are called with."""
        return parts.model

    def _settled(self, before: Parts, parts: Parts) -> Parts:
        """`parts`, which were `before`, with all that has to know the sizes of the layers."""
        return parts

    def _tree(self, parts: Parts) -> Any:
        """All values of a training as a pytree."""
        return parts

    def _filled(self, parts: Parts, tree: Any) -> Parts:
        """A training of the shapes of `parts` with the values of `tree`; `parts` stays as it is."""
        filled: Parts = tree
        return filled

    # -------------------------------------------------------------------------------- the mechanism

    def _init(self, parts: Parts) -> ReducerState:
        layers = layers_of(parts.model)
        if all(is_selective(layer) for layer in layers.values()):
            raise ValueError(
                "in training only layers with an operator are cut in JAX, reduce others with balred.reduce(model, rank, "
                f"calibration=data), got selective ones alone: {', '.join(name or 'the layer' for name in layers)}"
            )
        return ReducerState(self.policy.init(), ranks_of(linear_layers_of(parts.model)), self._events())

    def _due(self, state: ReducerState, step: int) -> bool:
        """Whether there is anything to do after this step: all that a step without costs."""
        if state.held is not None:
            return step >= state.held.due
        return self.policy.due(state.policy, step)

    def _update(
        self, parts: Parts, state: ReducerState, step: int, loss: Callable[[Any], Any] | None, fresh: Fresh | None
    ) -> tuple[Parts, ReducerState, Report | None]:
        """A step of training is done: judge an earlier cut, or cut if the policy says so."""
        report = None
        if state.held is not None and step >= state.held.due:
            parts, state, report = self._judge(parts, state, step, None)
        if report is None and state.held is None and self.policy.due(state.policy, step):
            parts, state, report = self._attempt(parts, state, step, loss, fresh)
        if report is not None:
            for sink in self._sinks:
                sink(report)
            state = replace(state, ranks=ranks_of(linear_layers_of(parts.model)), events=self._events())
        return parts, state, report

    def _attempt(
        self, parts: Parts, state: ReducerState, step: int, loss: Callable[[Any], Any] | None, fresh: Fresh | None
    ) -> tuple[Parts, ReducerState, Report | None]:
        cuts, policy, report = decide(self.policy, state.policy, step, linear_layers_of(parts.model))
        state = replace(state, policy=policy)
        if not cuts:
            return parts, state, report
        before = None if loss is None else float(loss(self._whole(parts)))
        guard = self.policy.guard
        if guard is not None:
            metric = float(guard.metric(self._whole(parts)))
            # a step that donates its arguments would take the arrays away
            kept = parts if guard.delay == 0 else self._filled(parts, jax.tree.map(_copy, self._tree(parts)))
            held = Held(
                step + guard.delay, metric, step, ranks_of(linear_layers_of(parts.model)), kept, self._values(kept)
            )
            state = replace(state, held=held)
        smaller = self._resized(parts, {name: cut.layer for name, cut in cuts.items()}, cuts, fresh)
        if loss is not None and before is not None:
            report = replace(report, loss=(before, float(loss(self._whole(smaller)))))
        if guard is not None and guard.delay == 0:
            return self._judge(smaller, state, step, report)
        return smaller, state, report

    def _judge(
        self, parts: Parts, state: ReducerState, step: int, report: Report | None
    ) -> tuple[Parts, ReducerState, Report | None]:
        """Take the last cut back if the guard says so; forget what was before it otherwise."""
        guard, held = self.policy.guard, state.held
        if guard is None or held is None:
            return parts, replace(state, held=None), report
        state = replace(state, held=None)
        if guard.accepts(held.metric, float(guard.metric(self._whole(parts)))):
            return parts, state, report
        back = Report(step, (), dict(held.ranks), restored=True, back_to=held.step)
        return held.parts, replace(state, policy=self.policy.stop(state.policy)), back

    def _resized(
        self, parts: Parts, smaller: Mapping[str, Any], cuts: Mapping[str, Smaller], fresh: Fresh | None
    ) -> Parts:
        """`parts` with these smaller layers; moments and averages follow `cuts`, or have the right shapes only without."""
        layers = {name: layer for name, layer in linear_layers_of(parts.model).items() if name in smaller}
        model = replace_layers(parts.model, smaller)
        old, new = tensors_of(parts.model), tensors_of(model)
        if set(old) != set(new):
            raise ValueError(
                f"a cut layer must have the arrays of the old one, got other {', '.join(sorted(set(old) ^ set(new)))}"
            )
        model = with_tensors(model, {n: x if x is old[n] else placed(x, old[n]) for n, x in new.items()})
        resizing = Resizing(old, tensors_of(model), layers, smaller, cuts)
        start = None if fresh is None else (lambda: fresh(model))
        opt_state = cut_state(parts.opt_state, resizing, model, self.moments == "carry", start)
        averages = cut_averages(parts.averages, resizing, model, self.ema_decay)
        return self._settled(parts, Parts(model, opt_state, averages, parts.others))

    def _resume(self, parts: Parts, saved: Mapping[str, Any], fresh: Fresh | None) -> tuple[Parts, ReducerState]:
        """`parts` in the recorded sizes, and the state to go on with; nothing is changed if they do not fit."""
        ranks = {name: int(rank) for name, rank in saved["ranks"].items()}
        sized, held = self._of_ranks(parts, ranks, fresh), None
        if saved["held"] is not None:
            before = {name: int(rank) for name, rank in saved["held"]["ranks"].items()}
            full = self._of_ranks(parts, before, fresh)
            stored = iter(saved["held"]["values"])
            tree = jax.tree.map(lambda x: filled_in(x, next(stored)) if is_value(x) else x, self._tree(full))
            kept = self._filled(full, tree)
            numbers = int(saved["held"]["due"]), float(saved["held"]["metric"]), int(saved["held"]["step"])
            held = Held(*numbers, before, kept, self._values(kept))
        events = tuple(int(count) for count in saved["events"])
        for log, count in zip(logs_of(self._sinks), events, strict=False):
            log.rewind(count)
        return sized, ReducerState(PolicyState.from_dict(saved["policy"]), ranks, events, held)

    def _of_ranks(self, parts: Parts, ranks: Mapping[str, int], fresh: Fresh | None) -> Parts:
        smaller = shrunk(linear_layers_of(parts.model), ranks)
        return self._resized(parts, smaller, {}, fresh) if smaller else parts

    def _values(self, parts: Parts) -> tuple[Any, ...]:
        return tuple(x for x in jax.tree.leaves(self._tree(parts)) if is_value(x))

    def _events(self) -> tuple[int, ...]:
        return tuple(len(log.read()) for log in logs_of(self._sinks))


def _copy(x: Any) -> Any:
    return x.copy() if is_array(x) else x
