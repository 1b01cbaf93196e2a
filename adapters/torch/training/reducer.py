"""Truncation of PyTorch models while they train.

A cut is made in place: every parameter keeps its identity and gets smaller data, and the optimizer's state, averaged
copies of the model and compiled code follow.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from balred.adapters.torch.loading import resize_on_load
from balred.adapters.torch.modules import set_layer
from balred.adapters.torch.training.followers import (
    averaged,
    bare,
    check_shapes,
    cut_averages,
    forget,
    misfits,
    random_states,
    refuse_graphs,
    set_random_states,
)
from balred.adapters.torch.training.placing import placed
from balred.backends.torch import from_numpy
from balred.intraining.decide import check_moments, decide
from balred.intraining.events import logs_of, sinks_of
from balred.intraining.policy import Guard, Policy, PolicyState
from balred.intraining.reach import check_rule_for, layers_in_training
from balred.intraining.report import Report
from balred.ranks.budget import Budget
from balred.ranks.rules import Rule
from balred.reduction.candidates import Smaller
from balred.registry.entries import entry_of
from balred.registry.sizes import of_size, ranks_of, shrunk
from balred.selection.calibration import calibration_of
from balred.systems.arrays import to_numpy

Hosts = dict[str, np.ndarray[Any, Any]]

_POWER = {"exp_avg": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2, "momentum_buffer": 1}
"""The moments that can be carried (Adam's family, SGD's momentum), and which power of the gradient they average."""


class Held(NamedTuple):
    """A cut that a guard has still to judge: when, the metric before, the step of the cut, and all that was before it."""

    due: int
    metric: float
    step: int
    snapshot: dict[str, Any]

    def plain(self) -> list[Any]:
        """Without modules, which do not belong into a checkpoint."""
        return [self.due, self.metric, self.step, {k: v for k, v in self.snapshot.items() if k != "layers"}]


class InTrainingReducer:
    """Cut the layers of a model, and all that follows its shapes, while it trains.

    Parameters
    ----------
    model : torch.nn.Module
        Also what ``torch.compile``, ``DistributedDataParallel`` or ``fully_shard`` returned.  With several processes each
        must make its reducer and call its methods at the same steps; the first alone writes the `log`.
    optimizer : torch.optim.Optimizer
        Its parameter groups, and the schedulers that hold it, are left as they are.  Also what Accelerate wrapped it in.
    rule : rule, or Budget
        Such as ``balred.Energy(0.99)``.
    window : (int, int)
        Steps between which cuts may happen.
    attempts, interval, min_cut, settled, guard, dry_run
        As :class:`balred.intraining.Policy`.
    moments : {"reset", "carry"}, default "reset"
        What becomes of the optimizer's moments of a cut layer: its state starts afresh, or Adam's moments (and SGD's
        momentum) are carried through the change of coordinates; other optimizers always start afresh.
        The default is the better one on the demo's data (docs, in-training guide).
    averages : sequence of torch.nn.Module
        Averaged copies of the model (``AveragedModel``, ema-pytorch's ``EMA``), cut by the same transformation.
    restore : sequence
        What else a guard takes back, by its ``state_dict``: schedulers, a GradScaler.  Model with buffers, optimizer,
        averages and random generators are always taken back.
    calibration : tensor, dict of keyword inputs, iterable of either, function that returns such, or Calibration, optional
        What the model is called with, for layers whose dynamics depend on their input (Mamba; docs, guide to selective
        layers): their states are measured on it at every attempt, with a function on what it returns then.  Without, such
        layers are left alone.
    log : path, TensorBoard writer, W&B run, callable, or a sequence of these
        Gets every report, see :func:`balred.intraining.sinks_of`.

    Raises
    ------
    ValueError
        Something of the above is not as it must be; the optimizer keeps one flat history (LBFGS), misses parameters of a
        layer, or has state of other shapes than its parameters; a module is a captured CUDA graph; what makes the model a
        distributed one cannot follow a cut.

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

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
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
        averages: Sequence[nn.Module] = (),
        restore: Sequence[Any] = (),
        log: Any = None,
        calibration: Any = None,
    ) -> None:
        check_moments(moments)
        optimizer = bare(optimizer)
        if isinstance(optimizer, torch.optim.LBFGS):
            raise ValueError("the optimizer must keep its state by parameter, got LBFGS, which keeps one flat history")
        for other in restore:
            if not (hasattr(other, "state_dict") and hasattr(other, "load_state_dict")):
                raise ValueError(f"what a guard restores must have state_dict and load_state_dict, got {other!r}")
        self._place = placed(model, averages)
        self._place.calibration = self.calibration = calibration_of(calibration)
        if self.calibration is not None and self._place.exchange.size > 1:
            raise ValueError(
                f"layers are cut along data in one process only, got calibration and {self._place.exchange.size} processes"
            )
        self.model, self.optimizer, self.moments = self._place.model, optimizer, moments
        self.policy = Policy(rule, window, attempts, interval, min_cut, settled, guard, dry_run)
        self._wrappers = list(averages)
        self.averages = [averaged(one, self.model) for one in averages]
        self.restore = list(restore)
        self.state: PolicyState = self.policy.init()
        self.steps = 0
        self.reports: list[Report] = []
        self._sinks = sinks_of(log)
        self._held: Held | None = None
        refuse_graphs(self.model)
        for one in (self.model, *self.averages):
            resize_on_load(one)
        known = {id(p) for group in optimizer.param_groups for p in group["params"]}
        layers = layers_in_training(self.model, self.calibration)
        check_rule_for(rule, layers, self.calibration)
        for name, layer in layers.items():
            stray = [n for n, p in layer.named_parameters() if p.requires_grad and id(p) not in known]
            if stray:
                raise ValueError(
                    f"the optimizer must hold every parameter of a layer to be cut, got {name or 'layer'} without {', '.join(stray)}"
                )
        check_shapes(self.model, optimizer)
        self._place.check(optimizer)

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
        if self.steps == 0:
            check_shapes(self.model, self.optimizer)  # of a state that was loaded meanwhile
        self.steps += 1
        report = self._judge() or self._attempt(loss)
        if report is not None:
            self.reports.append(report)
            for sink in self._sinks if self._place.exchange.rank == 0 else ():
                sink(report)
        return report

    def _attempt(self, loss: Callable[[], Any] | None) -> Report | None:
        if self._held is not None or not self.policy.due(self.state, self.steps):
            return None
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "a cut must not happen inside a CUDA graph, whose shapes are fixed, got a stream that captures"
            )
        self._place.check(self.optimizer)
        with torch.no_grad():
            layers = self._place.layers()
            cuts, self.state, report = decide(
                self.policy, self.state, self.steps, layers, self._place.exchange, self.model, self.calibration
            )
            if not cuts:
                return report
            before = None if loss is None else self._place.mean(float(loss()))
            guard = self.policy.guard
            if guard is not None:
                self._held = Held(self.steps + guard.delay, self._metric(guard), self.steps, self._snapshot())
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
        carried = self._carried(layer, cut, old, new, states)
        for n, p in layer.named_parameters():
            if old[n].shape == new[n].shape:
                continue
            if not carried:
                forget(self.optimizer, p)
                continue
            for key, moments in carried.items():
                value = from_numpy(moments[n], like=small[n].data)
                self.optimizer.state[p][key] = self._place.part(value.to(states[n][key].dtype), p)
        kept = [self.optimizer.state[p][key] for key in carried for p in layer.parameters()]
        return [t.detach() for m in (layer, *averages) for t in (*m.parameters(), *m.buffers())] + kept

    def _carried(
        self, layer: nn.Module, cut: Smaller, old: Hosts, new: Hosts, states: dict[str, Any]
    ) -> dict[str, Hosts]:
        """The moments by key and parameter after the cut; empty if they are to be forgotten."""
        carry = getattr(entry_of(layer), "carry", None)
        change = cut.change
        kinds = [{k for k, v in s.items() if isinstance(v, torch.Tensor) and v.ndim > 0} for s in states.values()]
        keys = kinds[0]
        known = keys == {"momentum_buffer"} or {"exp_avg", "exp_avg_sq"} <= keys <= set(_POWER) - {"momentum_buffer"}
        alike = all(k == keys for k in kinds)
        if self.moments != "carry" or carry is None or change is None or not (known and alike):
            return {}
        moments = {
            key: {n: to_numpy(self._place.whole(s[key])) for n, s in states.items()} for key in sorted(keys)
        }  # all processes in one order
        return {
            key: carry(old, new, values, change, _POWER[key])
            | {n: v for n, v in values.items() if v.shape == new[n].shape}
            for key, values in moments.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep beside the state of model, optimizer and averages: plain values, and with a guard tensors.

        Returns
        -------
        dict
        """
        return {
            "steps": self.steps,
            "policy": self.state.to_dict(),
            "ranks": ranks_of(self._place.layers()),
            "events": [len(log.read()) for log in logs_of(self._sinks)],
            "held": None if self._held is None else copy.deepcopy(self._held.plain()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; model, averages and optimizer load their own states, before or after.

        Layers are shrunk in place to the recorded ranks, so that what was saved fits; log files are rewound to what they held.

        Raises
        ------
        ValueError
            The model has other layers, or a layer has fewer states than recorded.  Nothing is changed then.
        """
        with torch.no_grad():
            smaller = shrunk(self._place.layers(), state["ranks"])
            for name, layer in smaller.items():
                self._put(name, layer)
                for p in self.model.get_submodule(name).parameters():
                    if misfits(self.optimizer, p):
                        forget(self.optimizer, p)
        self.steps, self.state = int(state["steps"]), PolicyState.from_dict(state["policy"])
        self._held = None if state["held"] is None else Held(*copy.deepcopy(state["held"]))
        if self._place.exchange.rank == 0:  # which alone writes them
            for log, count in zip(logs_of(self._sinks), state["events"], strict=False):
                log.rewind(count)
        self._place.finish()

    def _put(self, name: str, layer: nn.Module) -> None:
        self._place.put(self.model.get_submodule(name), copy.deepcopy(layer))
        for average in self.averages:
            set_layer(average.get_submodule(name), copy.deepcopy(layer))

    def _snapshot(self) -> dict[str, Any]:
        """Everything that a rollback brings back, by name, so that it can be saved and loaded."""
        return {
            "layers": copy.deepcopy(layers := self._place.layers()),
            "ranks": ranks_of(layers),
            "models": [copy.deepcopy(m.state_dict()) for m in (self.model, *self._wrappers)],
            "buffers": {n: b.clone() for n, b in self.model.named_buffers()},
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "others": [copy.deepcopy(other.state_dict()) for other in self.restore],
            "random": random_states(),
        }

    def _restore(self, snapshot: Mapping[str, Any]) -> None:
        layers = snapshot.get("layers")
        if layers is None:  # a checkpoint has sizes and tensors only
            now = self._place.layers()
            layers = {name: of_size(now[name], rank) for name, rank in snapshot["ranks"].items()}
        for name, layer in layers.items():
            self._put(name, layer)
        for model, tensors in zip((self.model, *self._wrappers), snapshot["models"], strict=True):
            model.load_state_dict(tensors)
        for name, value in snapshot["buffers"].items():
            owner, _, last = name.rpartition(".")
            self.model.get_submodule(owner)._buffers[last] = value
        self.optimizer.state.clear()
        self.optimizer.load_state_dict(snapshot["optimizer"])
        for other, state in zip(self.restore, snapshot["others"], strict=True):
            other.load_state_dict(state)
        set_random_states(snapshot["random"])
        self._place.finish()

    def _judge(self) -> Report | None:
        """Take the last cut back if the guard says so; forget the snapshot otherwise."""
        guard, held = self.policy.guard, self._held
        if guard is None or held is None or self.steps < held.due:
            return None
        self._held = None
        with torch.no_grad():
            if guard.accepts(held.metric, self._metric(guard)):
                return None
            self._restore(held.snapshot)
        now, self.steps = self.steps, held.step
        self.state = self.policy.stop(self.state)
        with torch.no_grad():
            ranks = ranks_of(self._place.layers())
        return Report(now, (), ranks, restored=True, back_to=held.step)
