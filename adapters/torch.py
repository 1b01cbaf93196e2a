"""PyTorch: models of layers, and truncation during training.

PyTorch loops hold references (optimizers, schedulers, the loop itself), so a cut is made in place: every parameter
keeps its identity and gets smaller data, and the optimizer's state follows.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np

try:
    import torch
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("PyTorch is not installed: pip install 'balred[torch]'") from error
from torch import nn

from balred.adapt import Container, adapt, entry_of, linear_layers_of, register, register_container
from balred.adapters.torch_lru import LRU
from balred.arrays import to_numpy
from balred.backends.torch import from_numpy
from balred.intraining import Guard, Policy, PolicyState, Report, Step, decide
from balred.parametrisations import (
    keep_feedthrough,
    lru_carry_split,
    lru_parameters,
    lru_rows,
    lru_split,
    lru_system,
)
from balred.ranks import Rule
from balred.systems import System

Hosts = dict[str, np.ndarray[Any, Any]]

__all__ = ["LRU", "InTrainingReducer", "blank_copy", "set_layer"]


def blank_copy(layer: nn.Module, tensors: Mapping[str, torch.Tensor]) -> Any:
    """A copy of `layer` in which the parameters and buffers called so in `tensors` have those values.

    Names may be dotted.  Everything else (hooks, modes, ``requires_grad``, attributes of the parameters such as
    ``_optim``) is copied.
    """
    new = _copied(layer)
    for name, value in tensors.items():
        owner = new.get_submodule(name.rpartition(".")[0])
        last = name.rpartition(".")[2]
        if last in owner._parameters:
            parameter = owner._parameters[last]
            assert parameter is not None
            parameter.grad = None
            parameter.data = value.detach().to(parameter.dtype)
        elif last in owner._buffers:
            owner._buffers[last] = value.detach()
        else:
            setattr(owner, last, value)
    return new


def _copied(module: nn.Module) -> Any:
    """A deep copy that keeps the attributes of parameters, such as ``_optim``, which PyTorch's own copy drops."""
    new = copy.deepcopy(module)
    for old_parameter, parameter in zip(module.parameters(), new.parameters(), strict=True):
        vars(parameter).update(copy.deepcopy(vars(old_parameter)))
    return new


def _resize(parameter: nn.Parameter, data: torch.Tensor) -> None:
    """Give a live parameter data of another shape.

    While the graph of the last loss is alive PyTorch keeps the parameter's gradient accumulator, which expects the old
    shape; it is dropped when the dtype changes, so the data passes through another one.
    """
    parameter.grad = None
    other = torch.float32 if parameter.dtype != torch.float32 else torch.float64
    parameter.data = torch.empty(0, dtype=other, device=parameter.device)
    parameter.data = data


def set_layer(old: nn.Module, new: nn.Module) -> None:
    """Make `old` equal `new`, a layer of the same type and other sizes, keeping the identity of its parameters."""
    theirs = dict(new.named_modules())
    for name, mine in old.named_modules():
        other = theirs[name]
        for key, parameter in mine._parameters.items():
            value = other._parameters[key]
            if parameter is not None and value is not None:
                _resize(parameter, value.data)
        mine._buffers.update(other._buffers)
        known = {"_parameters", "_buffers", "_modules"}
        mine.__dict__.update({k: v for k, v in other.__dict__.items() if k not in known and not k.endswith("_hooks")})


def _layers(model: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if name and not inside and entry_of(module) is not None:
            found[name] = module
    return found


def _replaced(model: nn.Module, new: Mapping[str, Any]) -> nn.Module:
    # a layer that is used in several places is replaced in all of them
    by_id = {id(model.get_submodule(name)): layer for name, layer in new.items()}
    places = {n: by_id[id(m)] for n, m in model.named_modules(remove_duplicate=False) if n and id(m) in by_id}
    result: nn.Module = _copied(model)
    for name, layer in places.items():
        parent, _, last = name.rpartition(".")
        setattr(result.get_submodule(parent), last, layer)
    for layer in places.values():
        entry = entry_of(layer)
        if entry is not None and entry.settle is not None:
            entry.settle(result, layer)
    return result


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    parameters, buffers = (
        dict(named(remove_duplicate=False)) for named in (model.named_parameters, model.named_buffers)
    )
    return parameters | buffers


def _with_tensors(model: nn.Module, new: Mapping[str, torch.Tensor]) -> Any:
    copies: dict[int, Any] = {}
    for name, old in _tensors(model).items():
        value = new[name]
        if isinstance(old, nn.Parameter):
            value = copies.get(id(old), nn.Parameter(value, requires_grad=old.requires_grad))
            vars(value).update(copy.deepcopy(vars(old)))
        copies[id(old)] = value
    return copy.deepcopy(model, copies)  # takes these for what it has copied already, so that no old value is


register_container("torch.nn.modules.module.Module", Container(_layers, _replaced, _tensors, _with_tensors))


# ------------------------------------------------------------------------------------------------ the LRU layer


@register(LRU, carry=lru_carry_split)
def adapt_lru(layer: LRU) -> tuple[System, Any]:
    """The conjugate system of an LRU layer, and the way back."""
    half = layer.D.dtype in (torch.bfloat16, torch.float16)  # which have no complex numbers
    p = {name: x.float() if half else x for name, x in layer.named_parameters()}
    B, C = torch.complex(p["B_re"], p["B_im"]), torch.complex(p["C_re"], p["C_im"])
    system = lru_system(p["nu_log"], p["theta_log"], p["gamma_log"], B, C, torch.diag(p["D"]))

    def rebuild(reduced: Any) -> LRU:
        values = lru_split(lru_parameters(reduced, lru_rows(to_numpy(B))))
        keep_feedthrough(reduced, system)
        result: LRU = blank_copy(layer, {k: from_numpy(v, like=p["D"]) for k, v in values.items()})
        return result

    return system, rebuild


# ---------------------------------------------------------------------------------------------------- in training

_POWER = {"exp_avg": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2, "momentum_buffer": 1}
"""The moments that can be carried (Adam's family, SGD's momentum), and which power of the gradient they average."""


class InTrainingReducer:
    """Cut the layers of a model, and the optimizer's state with them, while it trains.

    Parameters
    ----------
    model : torch.nn.Module
    optimizer : torch.optim.Optimizer
        Its parameter groups, and the schedulers that hold it, are left as they are.
    rule : rule
        Such as ``balred.Energy(0.99)``.
    window : (int, int)
        Steps between which cuts may happen.
    attempts, interval, min_cut, settled, guard
        As :class:`balred.intraining.Policy`.
    moments : {"reset", "carry"}, default "reset"
        What becomes of the optimizer's moments of a cut layer: its state starts afresh, or Adam's moments (and SGD's
        momentum) are carried through the change of coordinates; other optimizers always start afresh.
        The default is the better one on the demo's data (docs, in-training guide).

    Examples
    --------
    >>> import torch, balred
    >>> from balred.adapters.torch import LRU, InTrainingReducer
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
        rule: Rule,
        window: tuple[int, int],
        attempts: int | None = None,
        *,
        interval: int | None = None,
        min_cut: float = 0.05,
        settled: int | None = None,
        guard: Guard | None = None,
        moments: str = "reset",
    ) -> None:
        if moments not in ("reset", "carry"):
            raise ValueError(f"moments must be 'reset' or 'carry', got {moments!r}")
        if isinstance(optimizer, torch.optim.LBFGS):
            raise ValueError("the optimizer must keep its state by parameter, got LBFGS, which keeps one flat history")
        self.model, self.optimizer, self.moments = model, optimizer, moments
        self.policy = Policy(rule, window, attempts, interval, min_cut, settled, guard)
        self.state: PolicyState = self.policy.init()
        self.steps = 0
        self.reports: list[Report] = []
        self._held: tuple[int, float, Any] | None = None
        known = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for name, layer in linear_layers_of(model).items():
            stray = [n for n, p in layer.named_parameters() if p.requires_grad and id(p) not in known]
            if stray:
                raise ValueError(
                    f"the optimizer must hold every parameter of a layer to be cut, got {name or 'layer'} without {', '.join(stray)}"
                )

    def step(self) -> Report | None:
        """Count a training step; call it after ``optimizer.step()``.

        Returns
        -------
        Report or None
            None unless a cut was attempted or taken back at this step.
        """
        self.steps += 1
        report = self._judge() or self._attempt()
        if report is not None:
            self.reports.append(report)
        return report

    def _attempt(self) -> Report | None:
        if self._held is not None or not self.policy.due(self.state, self.steps):
            return None
        layers = linear_layers_of(self.model)
        with torch.no_grad():
            cuts, self.state, report = decide(self.policy, self.state, self.steps, layers)
            if not cuts:
                return report
            guard = self.policy.guard
            if guard is not None:
                self._held = (self.steps + guard.delay, float(guard.metric(self.model)), self._snapshot())
            for name, cut in cuts.items():
                self._cut(layers[name], cut)
        return self._judge() or report

    def _cut(self, layer: nn.Module, cut: Step) -> None:
        old = {n: to_numpy(p).copy() for n, p in layer.named_parameters()}
        states = {n: dict(self.optimizer.state.get(p, {})) for n, p in layer.named_parameters()}
        set_layer(layer, cut.layer)
        new = {n: to_numpy(p) for n, p in layer.named_parameters()}
        carried = self._carried(layer, cut, old, new, states)
        for n, p in layer.named_parameters():
            if old[n].shape == new[n].shape:
                continue
            if not carried:
                self._forget(p)
                continue
            for key, moments in carried.items():
                self.optimizer.state[p][key] = from_numpy(moments[n], like=p.data).to(states[n][key].dtype)

    def _carried(self, layer: nn.Module, cut: Step, old: Hosts, new: Hosts, states: dict[str, Any]) -> dict[str, Hosts]:
        """The moments by key and parameter after the cut; empty if they are to be forgotten."""
        carry = getattr(entry_of(layer), "carry", None)
        change = cut.reduction.change
        kinds = [{k for k, v in s.items() if isinstance(v, torch.Tensor) and v.ndim > 0} for s in states.values()]
        keys = kinds[0]
        known = keys == {"momentum_buffer"} or {"exp_avg", "exp_avg_sq"} <= keys <= set(_POWER) - {"momentum_buffer"}
        alike = all(k == keys for k in kinds)
        if self.moments != "carry" or carry is None or change is None or not (known and alike):
            return {}
        moments = {key: {n: to_numpy(s[key]) for n, s in states.items()} for key in keys}
        return {
            key: carry(old, new, values, change, _POWER[key])
            | {n: v for n, v in values.items() if v.shape == new[n].shape}
            for key, values in moments.items()
        }

    def _forget(self, p: nn.Parameter) -> None:
        """Start the optimizer's state of `p` afresh, step count and bias correction included."""
        self.optimizer.state.pop(p, None)
        if isinstance(self.optimizer, torch.optim.Adagrad):  # the only one that does not start it lazily
            start = self.optimizer.defaults["initial_accumulator_value"]
            self.optimizer.state[p] = {"step": torch.tensor(0.0), "sum": torch.full_like(p.data, start)}

    def _snapshot(self) -> Any:
        params = [(p, p.data.clone()) for p in self.model.parameters()]
        modules = {n: copy.deepcopy(m) for n, m in linear_layers_of(self.model).items()}
        buffers = {n: b.clone() for n, b in self.model.named_buffers()}
        state = {p: copy.deepcopy(s) for p, s in self.optimizer.state.items()}
        return params, modules, buffers, state

    def _restore(self, snapshot: Any) -> None:
        params, modules, buffers, state = snapshot
        for name, layer in linear_layers_of(self.model).items():
            set_layer(layer, modules[name])
        for p, data in params:
            _resize(p, data)
            self.optimizer.state.pop(p, None)
            if p in state:
                self.optimizer.state[p] = state[p]
        for name, value in buffers.items():
            owner, _, last = name.rpartition(".")
            self.model.get_submodule(owner)._buffers[last] = value

    def _judge(self) -> Report | None:
        """Take the last cut back if the guard says so; forget the snapshot otherwise."""
        guard = self.policy.guard
        if guard is None or self._held is None or self.steps < self._held[0]:
            return None
        _, before, snapshot = self._held
        self._held = None
        with torch.no_grad():
            after = float(guard.metric(self.model))
            if guard.accepts(before, after):
                return None
            self._restore(snapshot)
        self.state = self.policy.stop(self.state)
        return Report(
            self.steps, (), {n: adapt(m)[0].states for n, m in linear_layers_of(self.model).items()}, restored=True
        )
