"""equinox and optax: models of layers, and truncation during training.

JAX values do not change, so a cut returns a new model and a new optimizer state; the jitted training step retraces
once for the new shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

try:
    import equinox as eqx
    import jax
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("JAX and equinox are not installed: pip install 'balred[jax]'") from error
import jax.numpy as jnp

from balred.adapt import Container, adapt, entry_of, layers_of, register, register_container, replace_layers
from balred.adapters.equinox_lru import LRU
from balred.arrays import to_numpy
from balred.backends.jax import from_numpy
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

__all__ = ["LRU", "InTrainingReducer", "ReducerState"]


def _is_layer(node: Any) -> bool:
    return isinstance(node, eqx.Module) and entry_of(node) is not None


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _layers(model: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(model, is_leaf=_is_layer)[0]
    return {_name(path): leaf for path, leaf in leaves if path and _is_layer(leaf)}


def _replaced(model: Any, new: Mapping[str, Any]) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, leaf: new.get(_name(path), leaf), model, is_leaf=_is_layer)


def _is_tensor(leaf: Any) -> bool:
    return eqx.is_array(leaf) and not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _tensors(model: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(model)[0]
    return {_name(path): leaf for path, leaf in leaves if _is_tensor(leaf)}


def _with_tensors(model: Any, new: Mapping[str, Any]) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, leaf: new[_name(path)] if _is_tensor(leaf) else leaf, model)


_CONTAINER = Container(_layers, _replaced, _tensors, _with_tensors)
register_container("equinox._module._module.Module", _CONTAINER)
register_container(eqx.Module, _CONTAINER)


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


_POWER = {"mu": 1, "trace": 1, "ema": 1, "acc_grads": 1, "nu": 2, "nu_max": 2, "sum_of_squares": 2}
"""Fields of optax states that hold averages of gradients, and of which power."""
_CARRIED = ({"ScaleByAdamState"}, {"ScaleByAmsgradState"}, {"ScaleByLionState"}, {"TraceState"})
"""Transformations whose moments are plain averages, so that they can be carried; others (centred RMSprop) start afresh."""


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
        As :class:`balred.adapters.torch.InTrainingReducer`.  The step count of an optax state is one for all
        parameters and goes on, so a reset second moment is not zero (which would multiply the learning rate) but the
        mean of the old one.
    optimizer : optax.GradientTransformation, optional
        Needed for states with other fields than the usual moments (adafactor, schedule-free): what they hold for a cut
        layer is then taken from ``optimizer.init`` of the cut model.

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
        optimizer: Any = None,
    ) -> None:
        if moments not in ("reset", "carry"):
            raise ValueError(f"moments must be 'reset' or 'carry', got {moments!r}")
        self.policy = Policy(rule, window, attempts, interval, min_cut, settled, guard)
        self.moments, self.optimizer = moments, optimizer

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
            model, opt_state, state, verdict = self._judge(model, opt_state, state, step, None)
            if verdict is not None:
                return model, opt_state, state, verdict
        if state.held is not None or not self.policy.due(state.policy, step):
            return model, opt_state, state, None
        cuts, policy, report = decide(self.policy, state.policy, step, layers_of(model))
        state = replace(state, policy=policy)
        if not cuts:
            return model, opt_state, state, report
        guard = self.policy.guard
        if guard is not None:
            state = replace(state, held=(step + guard.delay, float(guard.metric(model)), model, opt_state))
        smaller = replace_layers(model, {name: cut.layer for name, cut in cuts.items()})
        opt_state = self._optimizer_state(opt_state, model, smaller, cuts)
        if guard is not None and guard.delay == 0:
            return self._judge(smaller, opt_state, state, step, report)
        return smaller, opt_state, state, report

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

    def _optimizer_state(self, opt_state: Any, model: Any, smaller: Any, cuts: Mapping[str, Step]) -> Any:
        """`opt_state` with every copy of a cut layer (moments, averages) in the new shapes."""
        layers = layers_of(model)
        places = {path: _name(path) for path, leaf in _paths(model) if _is_layer(leaf)}
        fresh: dict[str, Any] = {}
        if self.optimizer is not None:
            fresh = dict(_named(self.optimizer.init(eqx.filter(smaller, eqx.is_inexact_array))))
        kinds = {type(node).__name__ for _, node in _paths(opt_state, _is_moment_state) if _is_moment_state(node)}

        def convert(path: tuple[Any, ...], node: Any) -> Any:
            # the layer a state belongs to: the longest path of a layer that the state's path ends with
            ends = [place for place in places if path[len(path) - len(place) :] == place]
            name = places[max(ends, key=len)] if ends else "no layer"
            if name not in cuts or type(node) is not type(layers[name]):
                return node
            outer = [k.name for k in path[: len(path) - len(max(ends, key=len))] if hasattr(k, "name")]
            field = str(outer[-1]) if outer else ""
            if field not in _POWER:
                if _name(path) in fresh:
                    return fresh[_name(path)]
                raise ValueError(
                    f"the optimizer state must hold moments ({', '.join(_POWER)}), got a field {field or _name(path)!r} "
                    f"for layer {name or 'layer'}: pass optimizer= to InTrainingReducer, to take it from optimizer.init"
                )
            carry = self.moments == "carry" and kinds in _CARRIED
            return _cut_moments(node, layers[name], cuts[name], _POWER[field], carry)

        return jax.tree_util.tree_map_with_path(convert, opt_state, is_leaf=_is_layer)


def _is_moment_state(node: Any) -> bool:
    fields = set(getattr(node, "_fields", ()))
    return bool(fields & set(_POWER)) and not fields & {"acc_grads", "ema"}


def _paths(tree: Any, is_leaf: Any = _is_layer) -> list[tuple[tuple[Any, ...], Any]]:
    return list(jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)[0])


def _named(tree: Any) -> list[tuple[str, Any]]:
    return [(_name(path), node) for path, node in _paths(tree) if _is_layer(node)]


def _cut_moments(node: Any, old: Any, cut: Step, power: int, carry: bool) -> Any:
    """The moments `node` of the layer `old` in the shapes of the layer it is cut to: carried, or reset."""
    fields = {k: v for k, v in vars(old).items() if eqx.is_inexact_array(v)}
    moments = {k: getattr(node, k) for k in fields if eqx.is_array(getattr(node, k))}
    new = {k: getattr(cut.layer, k) for k in fields}
    # a moment kept as one number per parameter (novograd) stays
    changed = [k for k in moments if moments[k].shape == fields[k].shape != new[k].shape]
    function, change = getattr(entry_of(old), "carry", None), cut.reduction.change
    carried: Mapping[str, Any] = {}
    if carry and function is not None and change is not None and len(moments) == len(fields):
        host = [{k: to_numpy(v) for k, v in source.items()} for source in (fields, new, moments)]
        carried = function(*host, change, power)

    def value(k: str) -> Any:
        if k in carried:
            return from_numpy(carried[k], like=moments[k])
        level = jnp.mean(moments[k]) if power == 2 else 0.0
        return jnp.full(new[k].shape, level, moments[k].dtype)

    return (
        eqx.tree_at(lambda n: [getattr(n, k) for k in changed], node, [value(k) for k in changed]) if changed else node
    )
