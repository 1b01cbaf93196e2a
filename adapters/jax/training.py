"""Truncation of JAX models while they train, whatever framework they are written in.

JAX values do not change, so a cut makes a new model and new states beside it; a jitted training step retraces once for the
new shapes.  The reducers of the frameworks (:mod:`balred.adapters.equinox`, :mod:`balred.adapters.flax`,
:mod:`balred.adapters.flax.nnx`) take a training apart into :class:`Parts` and put it together again; all else is here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
from jax.tree_util import keystr

from balred.adapters.jax.averages import cut_averages
from balred.adapters.jax.checkpoints import filled_in, is_array, is_value, plain, shape_of
from balred.adapters.jax.optimizers import cut_state
from balred.adapters.jax.resizing import Resizing
from balred.adapters.jax.trees import placed
from balred.intraining.decide import decide
from balred.intraining.events import counts_of, rewind, sinks_of
from balred.intraining.fitting import check_fit
from balred.intraining.reach import check_cuttable, check_data, check_rule_for, layers_in_training
from balred.intraining.report import Report
from balred.intraining.settings import TrainingSettings, options_of
from balred.intraining.state import Held, ReducerState
from balred.ranks.budget import Budget
from balred.ranks.divergence import Divergence
from balred.ranks.rules import Rule
from balred.reduction.candidates import Smaller
from balred.registry.reading import replace_layers
from balred.registry.sizes import ranks_of, shrunk
from balred.registry.tensors import tensors_of, with_tensors
from balred.selection.calibration import calibration_of

Fresh = Callable[[Any], Any]


class Parts(NamedTuple):
    """What a training consists of: its model, and what follows a cut; `others` only come back with a guard.

    Examples
    --------
    >>> Parts(model="model", opt_state="moments")
    Parts(model='model', opt_state='moments', averages=None, others=None)
    """

    model: Any
    opt_state: Any
    averages: Any = None
    others: Any = None


@dataclass(frozen=True)
class Before:
    """A training as it was before a cut, and its values by their paths in it."""

    parts: Parts
    values: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The values as numbers and NumPy arrays, for a checkpoint."""
        return {name: plain(x) for name, x in self.values.items()}


class TreeReducer:
    """Cut the layers of a JAX model, and all that follows their shapes, while it trains: what all frameworks share.

    Parameters
    ----------
    rule : rule, Budget or Divergence
        How many states a layer keeps, such as ``balred.Energy(0.99)``.
    window : (int, int)
        The steps between which cuts may happen, counted from 1.
    attempts : int, optional
        How often a cut is tried, at equidistant steps, the last one at the end of the window (default 4).
    **options
        The other settings of :class:`balred.intraining.TrainingSettings`: `interval`, `min_cut`, `settled`, `guard`, `dry_run`,
        `gradual`, `moments`, `log`, `calibration`.  An optax state has one step
        count for all parameters, which goes on.  So with ``moments="reset"`` a second moment becomes the mean of the old one:
        zeros would multiply the learning rate.
    ema_decay : float, optional
        The decay of ``optax.ema``, needed if its states are among the averages: they start at zero, and the cut corrects for that.

    Examples
    --------
    >>> import balred
    >>> from balred.adapters.jax import TreeReducer
    >>> TreeReducer(balred.Energy(0.99), window=(0, 1000), attempts=4)
    TreeReducer(Energy(fraction=0.99, squared=False, multiple_of=1), attempts at 250, 500, 750, 1000)
    """

    @options_of(TrainingSettings)
    def __init__(
        self,
        rule: Rule | Budget | Divergence,
        window: tuple[int, int],
        attempts: int | None = None,
        *,
        ema_decay: float | None = None,
        **options: Any,
    ) -> None:
        self.policy = TrainingSettings(rule, window, attempts, **options)
        given = calibration_of(self.policy.calibration)
        # compiling costs hundreds of steps, and every attempt runs the same programs until layers are cut
        self.calibration = None if given is None else replace(given, kept={} if given.kept is None else given.kept)
        if ema_decay is not None and not 0 <= ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), got {ema_decay}")
        self.ema_decay = ema_decay
        self._sinks = sinks_of(self.policy.log, self.policy.recorded())

    def __repr__(self) -> str:
        """When it cuts and by which rule; the sizes of the layers are in the state that :meth:`init` returns."""
        return f"{type(self).__name__}({self.policy.outline()})"

    # -------------------------------------------------------------------------------- what a framework may say otherwise

    def _whole(self, parts: Parts) -> Any:
        """What metrics and losses are called with."""
        return parts.model

    def _running(self, parts: Parts) -> Any:
        """The model as data run through it."""
        return parts.model

    def _told_sizes(self, before: Parts, parts: Parts) -> Parts:
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
        layers = self._layers(parts.model)
        check_rule_for(self.policy.rule, layers, self.calibration)
        check_cuttable(parts.model, layers)
        check_data(self._running(parts), layers, self.calibration)
        return ReducerState(self.policy.init(), ranks_of(layers), counts_of(self._sinks))

    def _layers(self, model: Any) -> dict[str, Any]:
        """The layers that cuts can reach, by name."""
        return layers_in_training(model, self.calibration)

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
            state = replace(state, ranks={**state.ranks, **report.ranks}, events=counts_of(self._sinks))
        return parts, state, report

    def _attempt(
        self, parts: Parts, state: ReducerState, step: int, loss: Callable[[Any], Any] | None, fresh: Fresh | None
    ) -> tuple[Parts, ReducerState, Report | None]:
        layers, model = self._layers(parts.model), self._running(parts)
        cuts, policy, report = decide(self.policy, state.policy, step, layers, None, model, self.calibration)
        state = replace(state, policy=policy)
        if not cuts:
            return parts, state, report
        before = None if loss is None else float(loss(self._whole(parts)))
        guard = self.policy.guard
        if guard is not None:
            metric = float(guard.metric(self._whole(parts)))
            # a step that donates its arguments would take the arrays away
            kept = parts if guard.delay == 0 else self._filled(parts, jax.tree.map(_copy, self._tree(parts)))
            ranks = ranks_of(self._layers(parts.model))
            state = replace(state, held=Held(step + guard.delay, metric, step, ranks, self._before(kept)))
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
        held, state = state.held, replace(state, held=None)
        if held is None:
            return parts, state, report
        back = held.verdict(self.policy.guard, lambda guard: float(guard.metric(self._whole(parts))), step)
        if back is None:
            return parts, state, report
        kept: Before = held.kept
        return kept.parts, replace(state, policy=self.policy.stop(state.policy)), back

    def _resized(
        self, parts: Parts, smaller: Mapping[str, Any], cuts: Mapping[str, Smaller], fresh: Fresh | None
    ) -> Parts:
        """`parts` with these smaller layers; moments and averages follow `cuts`, or have the right shapes only without."""
        layers = {name: layer for name, layer in self._layers(parts.model).items() if name in smaller}
        model = replace_layers(parts.model, smaller)
        old, new = tensors_of(parts.model), tensors_of(model)
        if set(old) != set(new):
            raise ValueError(
                f"a cut layer must have the arrays of the old one, got other {', '.join(sorted(set(old) ^ set(new)))}"
            )
        model = with_tensors(model, {n: x if x is old[n] else placed(x, old[n]) for n, x in new.items()})
        resizing = Resizing(old, tensors_of(model), layers, smaller, cuts)
        start = None if fresh is None else (lambda: fresh(model))
        opt_state = cut_state(parts.opt_state, resizing, model, self.policy.moments == "carry", start)
        averages = cut_averages(parts.averages, resizing, model, self.ema_decay)
        return self._told_sizes(parts, Parts(model, opt_state, averages, parts.others))

    def _resume(self, parts: Parts, saved: Mapping[str, Any], fresh: Fresh | None) -> tuple[Parts, ReducerState]:
        """`parts` in the recorded sizes, and the state to go on with; nothing is changed if they do not fit."""

        def loaded(values: Mapping[str, Any], ranks: dict[str, int]) -> Before:
            full = self._of_ranks(parts, ranks, fresh)
            here = self._values(full)
            shapes = ({name: shape_of(x) for name, x in each.items()} for each in (here, values))
            check_fit("values before a cut", *shapes)
            tree = jax.tree_util.tree_map_with_path(
                lambda path, x: filled_in(x, values[keystr(path)]) if keystr(path) in here else x, self._tree(full)
            )
            return self._before(self._filled(full, tree))

        state = ReducerState.from_dict(saved, loaded)
        sized = self._of_ranks(parts, state.ranks, fresh)
        rewind(self._sinks, state.events)
        return sized, state

    def _of_ranks(self, parts: Parts, ranks: Mapping[str, int], fresh: Fresh | None) -> Parts:
        smaller = shrunk(self._layers(parts.model), ranks)
        return self._resized(parts, smaller, {}, fresh) if smaller else parts

    def _before(self, parts: Parts) -> Before:
        return Before(parts, self._values(parts))

    def _values(self, parts: Parts) -> dict[str, Any]:
        leaves = jax.tree_util.tree_flatten_with_path(self._tree(parts))[0]
        return {keystr(path): x for path, x in leaves if is_value(x)}


def _copy(x: Any) -> Any:
    return x.copy() if is_array(x) else x
