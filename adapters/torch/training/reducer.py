"""Truncation of PyTorch models while they train.

A cut is made in place: every parameter keeps its identity and gets smaller data, and the optimizer's state, averaged
copies of the model and compiled code follow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from balred.adapters.torch.configurations import followed
from balred.adapters.torch.loading import resize_on_load
from balred.adapters.torch.optimizers import (
    Others,
    bare,
    check_holds,
    check_keeps_nothing,
    check_shapes,
    forget,
    forget_old_shapes,
    living,
    misfits,
    others_beside,
)
from balred.adapters.torch.training.copies import Copies
from balred.adapters.torch.training.followers import averaged, cut_averages, refuse_graphs, unseen
from balred.adapters.torch.training.moments import carried
from balred.adapters.torch.training.placing import placed, refuse_engines
from balred.adapters.torch.training.snapshot import Parts, Snapshot, loaded, put_back, put_layer, taken
from balred.backends.torch import from_numpy
from balred.intraining.decide import decide
from balred.intraining.events import counts_of, rewind, sinks_of
from balred.intraining.fitting import named
from balred.intraining.moments import Hosts
from balred.intraining.policy import Guard, PolicyState
from balred.intraining.reach import check_cuttable, check_data, check_rule_for, layers_in_training
from balred.intraining.report import Report
from balred.intraining.settings import TrainingSettings, options_of
from balred.intraining.state import Held, ReducerState
from balred.ranks.budget import Budget
from balred.ranks.divergence import Divergence
from balred.ranks.rules import Rule
from balred.reduction.candidates import Smaller
from balred.registry.sizes import ranks_of, shrunk
from balred.selection.calibration import calibration_of
from balred.systems.arrays import to_numpy


class InTrainingReducer:
    """Cut the layers of a model while it trains; the optimizer's state, averages and compiled code follow.

    Parameters
    ----------
    model : torch.nn.Module
        Or what ``torch.compile``, ``DistributedDataParallel`` or ``fully_shard`` returned.  With several processes,
        each must make a reducer and call its methods at the same steps; only the first writes the `log`.
    optimizer : torch.optim.Optimizer
        Its parameter groups, and the schedulers that hold it, stay as they are.  The wrapper of Accelerate is accepted too.
    rule : rule, Budget or Divergence
        How many states a layer keeps, such as ``balred.Energy(0.99)``.
    window : (int, int)
        The steps between which cuts may happen, counted from 1.
    attempts : int, optional
        How often a cut is tried, at equidistant steps, the last one at the end of the window (default 4).
    **options
        The other settings of :class:`balred.intraining.TrainingSettings`: `interval`, `min_cut`, `settled`, `guard`, `dry_run`,
        `gradual`, `moments`, `log`, `calibration`.
    averages : sequence of torch.nn.Module
        Averaged copies of the model (``AveragedModel``, ema-pytorch's ``EMA``), cut by the same transformation.
    restore : sequence
        Other objects with a ``state_dict`` that a guard takes back: schedulers, a GradScaler.  The model with its
        buffers, the optimizer, averages and random generators are always taken back.

    Raises
    ------
    ValueError
        An argument breaks its rule; the optimizer keeps one flat history (LBFGS), misses parameters of a layer, or has
        state of other shapes than its parameters; a module is a captured CUDA graph; the wrapper of a distributed model
        cannot follow a cut.

    Examples
    --------
    >>> import torch, balred
    >>> from balred.adapters.torch import InTrainingReducer, LRU
    >>> model = torch.nn.Sequential(LRU(2, 32, generator=torch.Generator().manual_seed(0)), torch.nn.Linear(2, 1))
    >>> optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    >>> reducer = InTrainingReducer(model, optimizer, rule=balred.Energy(0.9), window=(0, 2), attempts=1)
    >>> for step in range(3):
    ...     optimizer.zero_grad()
    ...     model(torch.ones(1, 8, 2)).square().mean().backward()
    ...     optimizer.step()
    ...     report = reducer.step()
    ...     if report:
    ...         print(report.step, report.cuts[0].before > report.cuts[0].after)
    2 True
    """

    @options_of(TrainingSettings)
    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        rule: Rule | Budget | Divergence,
        window: tuple[int, int],
        attempts: int | None = None,
        *,
        averages: Sequence[nn.Module] = (),
        restore: Sequence[Any] = (),
        **options: Any,
    ) -> None:
        self.policy = TrainingSettings(rule, window, attempts, **options)
        given, optimizer = optimizer, bare(optimizer)
        if isinstance(optimizer, torch.optim.LBFGS):
            raise ValueError("the optimizer must keep its state by parameter, got LBFGS, which keeps one flat history")
        for other in restore:
            if not (hasattr(other, "state_dict") and hasattr(other, "load_state_dict")):
                raise ValueError(
                    f"every object that a guard restores must have state_dict and load_state_dict, got {other!r}"
                )
        refuse_engines(model, optimizer)
        self._place = placed(model, averages)
        self._place.calibration = self.calibration = calibration_of(self.policy.calibration)
        self.model, self.optimizer = self._place.model, optimizer
        self.averages = [averaged(one, self.model) for one in averages]
        self._parts = Parts(self._place, optimizer, named(averages), named(restore), self.averages)
        self.state: PolicyState = self.policy.init()
        self.steps = 0
        self.reports: list[Report] = []
        self._sinks = sinks_of(self.policy.log, self.policy.recorded())
        self._held: Held[Snapshot] | None = None
        self._others: Others = []
        refuse_graphs(self.model)
        for one in (self.model, *self.averages):
            resize_on_load(one)
        layers = layers_in_training(self.model, self.calibration)
        self._place.check_calibration()
        check_rule_for(rule, layers, self.calibration, self._place.exchange.size)
        self._place.check(optimizer)
        with torch.no_grad():
            whole = self._place.layers()
            self._ranks = ranks_of(whole)
            check_cuttable(self.model, layers, whole)
            self._copies = Copies(whole, [*averages, *self.averages])
            with unseen():
                check_data(*self._place.opened(), self.calibration)
        check_keeps_nothing(given, layers)
        check_holds(optimizer, layers)
        check_shapes(self.model, optimizer)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.outline()})"

    def outline(self) -> str:
        """The layers found and their states, which not every layer's own ``repr`` tells, the step, and when it cuts."""
        layers = ", ".join(f"{name or 'layer'}: {rank} states" for name, rank in self._ranks.items())
        return f"{layers}; step {self.steps}; {self.policy.outline()}"

    def step(self, loss: Callable[[], Any] | None = None) -> Report | None:
        """Count a training step; call it after ``optimizer.step()``.

        Parameters
        ----------
        loss : callable, optional
            Returns the loss of the last batch; called (without gradients) before and after a cut, for the report.

        Returns
        -------
        Report or None
            None unless a cut was attempted or taken back at this step.
        """
        if loss is not None and not callable(loss):
            raise TypeError(
                f"loss must be a function that returns the loss of the last batch, got {type(loss).__name__}"
            )
        if self.steps == 0:
            check_shapes(self.model, self.optimizer)  # of a state that was loaded meanwhile
            check_keeps_nothing(self.optimizer, self._reached())
            self._look_around()
        elif self.steps == 1 and self._held is None and self._copies.suspicious():
            self._copies.check(self._reached())
        self.steps += 1
        report = self._judge() or self._attempt(loss)
        if report is not None:
            self._ranks = {**self._ranks, **report.ranks}
            forget_old_shapes(self._others, self.model)
            self.reports.append(report)
            for sink in self._sinks if self._place.exchange.rank == 0 else ():
                sink(report)
        return report

    def _look_around(self) -> None:
        """See what else has to do with the weights: all that is alive, which takes a while, so once a training."""
        alive = living(torch.Tensor, torch.optim.Optimizer, AveragedModel)
        self._others = others_beside(self.optimizer, alive)
        self._copies.look(self._reached(), alive)

    def _reached(self) -> dict[str, nn.Module]:
        return layers_in_training(self.model, self.calibration)

    def _attempt(self, loss: Callable[[], Any] | None) -> Report | None:
        if self._held is not None or not self.policy.due(self.state, self.steps):
            return None
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "a cut must not happen inside a CUDA graph, whose shapes are fixed, got a stream that captures"
            )
        self._place.check(self.optimizer)
        with torch.no_grad():
            model, layers = self._place.opened()
            cuts, self.state, report = decide(
                self.policy, self.state, self.steps, layers, self._place.exchange, model, self.calibration
            )
            if not cuts:
                return report
            if self._copies.moved():
                self._copies.check({name: self.model.get_submodule(name) for name in cuts})
            self._copies.forget()
            before = None if loss is None else self._place.mean(float(loss()))
            guard = self.policy.guard
            if guard is not None:
                self._held = Held(
                    self.steps + guard.delay,
                    self._metric(guard),
                    self.steps,
                    ranks_of(layers),
                    taken(self._parts, layers),
                )
            with followed(self.model, self._place.ranks):
                changed = [tensor for name, cut in cuts.items() for tensor in self._cut(name, layers[name], cut)]
                self._place.finish(changed)
            if loss is not None and before is not None:
                report = replace(report, loss=(before, self._place.mean(float(loss()))))
        return self._judge() or report

    def _metric(self, guard: Guard) -> float:
        return self._place.mean(float(guard.metric(self.model)))

    def _cut(self, name: str, whole: nn.Module, cut: Smaller) -> list[torch.Tensor]:
        """Cut a layer and what follows it; the tensors that all processes must have alike."""
        layer, averages = self.model.get_submodule(name), [average.get_submodule(name) for average in self.averages]
        cut_averages(averages, whole, cut)
        old = {n: to_numpy(p).copy() for n, p in whole.named_parameters()}
        states = {n: dict(self.optimizer.state.get(p, {})) for n, p in layer.named_parameters()}
        self._place.put(layer, cut.layer)
        small = dict(cut.layer.named_parameters())
        new = {n: to_numpy(p) for n, p in small.items()}
        moments = self._carried(layer, cut, old, new, states)
        for n, p in layer.named_parameters():
            if old[n].shape == new[n].shape:
                continue
            if not moments:
                forget(self.optimizer, p)
                continue
            for key, values in moments.items():
                value = from_numpy(values[n], like=small[n].data)
                self.optimizer.state[p][key] = self._place.part(value.to(states[n][key].dtype), p)
        kept = [self.optimizer.state[p][key] for key in moments for p in layer.parameters()]
        return [t.detach() for m in (layer, *averages) for t in (*m.parameters(), *m.buffers())] + kept

    def _carried(
        self, layer: nn.Module, cut: Smaller, old: Hosts, new: Hosts, states: dict[str, Any]
    ) -> dict[str, Hosts]:
        """The moments by key and parameter after the cut; empty if they are to be forgotten."""
        return carried(self._place, layer, cut, old, new, states) if self.policy.moments == "carry" else {}

    def state_dict(self) -> dict[str, Any]:
        """The reducer's state, to keep in a checkpoint beside model, optimizer and averages: plain values, and tensors with a guard.

        Returns
        -------
        dict
        """
        ranks = ranks_of(self._place.layers())
        return {
            "steps": self.steps,
            **ReducerState(self.state, ranks, counts_of(self._sinks), self._held).to_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; model, averages and optimizer load their own states, before or after.

        Layers are shrunk in place to the recorded ranks, so that the saved arrays fit.  Log files are cut back to what they held then.

        Raises
        ------
        ValueError
            It is the state of another training: the model has other layers, or a layer has fewer states than recorded;
            the checkpoint holds a cut that has not been judged, and this training has other averages or other objects
            to restore; a log file with events is not recorded in the checkpoint.  Nothing is changed then.
        """
        with torch.no_grad():
            saved = ReducerState.from_dict(state, partial(loaded, self._parts), beside=("steps",))
            smaller = shrunk(self._place.layers(), saved.ranks)
            if self._place.exchange.rank == 0:  # which alone writes them
                rewind(self._sinks, saved.events)
            with followed(self.model, self._place.ranks):
                for name, layer in smaller.items():
                    put_layer(self._parts, name, layer)
            for name in smaller:
                for p in self.model.get_submodule(name).parameters():
                    if misfits(self.optimizer, p):
                        forget(self.optimizer, p)
        self.steps, self.state, self._held = int(state["steps"]), saved.policy, saved.held
        self._ranks = dict(saved.ranks)
        self._place.finish()
        self._look_around()
        forget_old_shapes(self._others, self.model)

    def _judge(self) -> Report | None:
        """Take the last cut back if the guard says so; forget the snapshot otherwise."""
        held = self._held
        if held is None or self.steps < held.due:
            return None
        self._held = None
        with torch.no_grad():
            report = held.verdict(self.policy.guard, self._metric, self.steps)
            if report is not None:
                put_back(self._parts, held.kept, held.ranks)
                self.steps, self.state = held.step, self.policy.stop(self.state)
        return report
