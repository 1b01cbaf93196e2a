"""equinox and optax: models of layers, and truncation during training.

JAX values do not change, so a cut returns a new model and a new optimizer state; the jitted training step retraces
once for the new shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from balred.adapt import Container, adapt, entry_of, layers_of, register, register_container, replace_layers
from balred.adapters.equinox_lru import LRU, scan
from balred.arrays import to_numpy
from balred.backends.jax import from_numpy
from balred.intraining import Guard, Policy, PolicyState, Report, decide
from balred.parametrisations import (
    keep_feedthrough,
    lru_carry_split,
    lru_parameters,
    lru_rows,
    lru_split,
    lru_system,
)
from balred.ranks import Rule
from balred.reduction import Reduction
from balred.systems import System

__all__ = ["LRU", "InTrainingReducer", "ReducerState", "scan"]


def _is_layer(node: Any) -> bool:
    return isinstance(node, eqx.Module) and entry_of(node) is not None


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _layers(model: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(model, is_leaf=_is_layer)[0]
    return {_name(path): leaf for path, leaf in leaves if path and _is_layer(leaf)}


def _replaced(model: Any, new: Mapping[str, Any]) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, leaf: new.get(_name(path), leaf), model, is_leaf=_is_layer)


register_container("equinox._module._module.Module", Container(_layers, _replaced))
register_container(eqx.Module, Container(_layers, _replaced))


@register(LRU, carry=lru_carry_split)
def adapt_lru(layer: LRU) -> tuple[System, Any]:
    """The conjugate system of an LRU layer, and the way back."""
    B, C = jax.lax.complex(layer.B_re, layer.B_im), jax.lax.complex(layer.C_re, layer.C_im)
    system = lru_system(layer.nu_log, layer.theta_log, layer.gamma_log, B, C, jnp.diag(layer.D))

    def rebuild(reduced: Any) -> LRU:
        values = lru_split(lru_parameters(reduced, lru_rows(to_numpy(B))))
        keep_feedthrough(reduced, system)
        names = list(values)
        arrays = [from_numpy(values[k], like=layer.D) for k in names]
        result: LRU = eqx.tree_at(lambda m: [getattr(m, k) for k in names], layer, arrays)
        return result

    return system, rebuild


_FIRST = ("mu", "trace", "ema", "acc_grads")
_SECOND = ("nu", "sum_of_squares")


@dataclass(frozen=True)
class ReducerState:
    """What the reducer remembers between steps: the policy's state, and what a guard would restore."""

    policy: PolicyState
    held: tuple[int, float, Any, Any] | None = None


class InTrainingReducer:
    """Cut the layers of an equinox model, and the optax state with them, while it trains.

    Parameters
    ----------
    rule : rule
    window : (int, int)
        Steps between which cuts may happen.
    attempts, interval, min_cut, settled, guard
        As :class:`balred.intraining.Policy`.
    moments : {"reset", "carry"}, default "reset"
        As :class:`balred.adapters.torch.InTrainingReducer`.

    Examples
    --------
    >>> import jax, optax, equinox as eqx, balred
    >>> from balred.adapters.equinox import LRU, InTrainingReducer
    >>> model = LRU(2, 32, key=jax.random.key(0))
    >>> optimizer = optax.adamw(1e-3)
    >>> opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    >>> reducer = InTrainingReducer(rule=balred.Energy(0.9), window=(0, 2), attempts=1)
    >>> state = reducer.init(model)
    >>> model, opt_state, state, report = reducer.update(model, opt_state, state, 2)
    >>> report.cuts[0].before > model.states
    True
    """

    def __init__(
        self,
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
        self.policy = Policy(rule, window, attempts, interval, min_cut, settled, guard)
        self.moments = moments

    def init(self, model: Any) -> ReducerState:
        """The state before the first step; `model` must contain a layer that an adapter knows."""
        layers_of(model)
        return ReducerState(self.policy.init())

    def update(
        self, model: Any, opt_state: Any, state: ReducerState, step: int
    ) -> tuple[Any, Any, ReducerState, Report | None]:
        """Cut if the policy says so after training step `step` (counted from 1).

        Returns
        -------
        model, opt_state, state
            New values; the ones given if nothing was cut.
        report : Report or None
            None unless a cut was attempted or taken back at this step.
        """
        if state.held is not None and step >= state.held[0]:
            return self._judge(model, opt_state, state, step, None)
        if state.held is not None or not self.policy.due(state.policy, step):
            return model, opt_state, state, None
        layers = layers_of(model)
        cuts, policy, report = decide(self.policy, state.policy, step, layers)
        state = replace(state, policy=policy)
        if not cuts:
            return model, opt_state, state, report
        guard = self.policy.guard
        if guard is not None:
            state = replace(state, held=(step + guard.delay, float(guard.metric(model)), model, opt_state))
        for name, cut in cuts.items():
            opt_state = self._optimizer_state(opt_state, name, layers[name], cut.layer, cut.reduction)
        model = replace_layers(model, {name: cut.layer for name, cut in cuts.items()})
        if guard is not None and guard.delay == 0:
            return self._judge(model, opt_state, state, step, report)
        return model, opt_state, state, report

    def _judge(
        self, model: Any, opt_state: Any, state: ReducerState, step: int, report: Report | None
    ) -> tuple[Any, Any, ReducerState, Report | None]:
        guard = self.policy.guard
        assert guard is not None
        assert state.held is not None
        _, before, old_model, old_opt_state = state.held
        if guard.accepts(before, float(guard.metric(model))):
            return model, opt_state, replace(state, held=None), report
        ranks = {n: adapt(m)[0].states for n, m in layers_of(old_model).items()}
        stopped = ReducerState(self.policy.stop(state.policy))
        return old_model, old_opt_state, stopped, Report(step, (), ranks, restored=True)

    def _optimizer_state(self, opt_state: Any, name: str, old: Any, new: Any, reduction: Reduction) -> Any:
        """`opt_state` with every copy of the layer called `name` (moments, averages) in the new shapes."""
        entry = entry_of(old)
        fields = {k: v for k, v in vars(old).items() if eqx.is_inexact_array(v)}

        def is_node(node: Any) -> bool:
            return type(node) is type(old)

        def convert(path: tuple[Any, ...], node: Any) -> Any:
            full = _name(path)
            if not is_node(node) or not (name == "" or full == name or full.endswith(f".{name}")):
                return node
            present = {k: getattr(node, k) for k in fields if eqx.is_array(getattr(node, k))}
            if any(v.shape != fields[k].shape for k, v in present.items()):
                raise ValueError(
                    f"the optimizer state of layer {name or 'layer'} must have the layer's shapes, got {full}"
                )
            keys = {str(getattr(p, "name", "")) for p in path}
            power = 1 if keys & set(_FIRST) else 2 if keys & set(_SECOND) else 0
            carried: dict[str, Any] = {}
            if (
                self.moments == "carry"
                and power
                and entry is not None
                and entry.carry is not None
                and reduction.change is not None
                and len(present) == len(fields)
            ):
                host = [
                    {k: to_numpy(v) for k, v in source.items()}
                    for source in (fields, {k: getattr(new, k) for k in fields}, present)
                ]
                carried = entry.carry(*host, reduction.change, power)
            changed = [k for k in present if getattr(new, k).shape != fields[k].shape]
            values = [
                from_numpy(carried[k], like=present[k])
                if k in carried
                else jnp.zeros(getattr(new, k).shape, present[k].dtype)
                for k in changed
            ]
            return eqx.tree_at(lambda n: [getattr(n, k) for k in changed], node, values) if changed else node

        return jax.tree_util.tree_map_with_path(convert, opt_state, is_leaf=is_node)
