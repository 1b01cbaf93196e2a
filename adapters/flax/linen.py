"""flax: parameter trees of linen models, and linen layers bound to their variables.

A linen layer is a pair, the module's fields and its parameters.  As one object it is the bound module,
``module.bind(variables)``; what a reduction returns is bound too, and ``unbind()`` gives the smaller pair.  In a whole model,
bound likewise, and where only the parameters are at hand, LRU layers are found in the tree itself
(:mod:`balred.adapters.parameters`).

Known are LRU as minimal-LRU writes it (the field ``d_hidden``) and S5 as its authors do (the fields P, V, Vinv,
Lambda_re_init, Lambda_im_init, conj_sym, discretization, clip_eigs, step_rescale): by what they hold, since both are
copied from project to project.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from flax.core import FrozenDict, freeze

from balred.adapters.jax.marking import marked
from balred.adapters.jax.running import Opened, running
from balred.adapters.jax.trying import answering
from balred.adapters.parameters import (
    S5_SETTINGS,
    SIZES,
    adapt_lru_parameters,
    carry_lru,
    is_lru,
    is_s5,
    lru_of,
    misfit,
    refused,
    resized,
    s5_of,
)
from balred.registry.entries import AdapterNotFound, register, register_container
from balred.registry.kinds import Container, Rebuild
from balred.registry.reading import layers_of, replace_layers
from balred.registry.sizes import ranks_of
from balred.registry.tensors import tensors_of, with_tensors
from balred.systems.leaves import System

_S5_FIELDS = ("P", "V", "Vinv", "Lambda_re_init", "Lambda_im_init")


# ------------------------------------------------------------------------------------------------ parameter trees


def _layers(tree: FrozenDict[str, Any]) -> Mapping[str, Any]:
    try:
        return layers_of(dict(tree))
    except AdapterNotFound:
        return {}


def _replaced(tree: FrozenDict[str, Any], new: Mapping[str, Any]) -> FrozenDict[str, Any]:
    return freeze(replace_layers(dict(tree), new))


register_container("flax.core.frozen_dict.FrozenDict", Container(_layers, _replaced))
register("flax.core.frozen_dict.FrozenDict", adapt_lru_parameters, carry=carry_lru, recognises=is_lru)
register(
    "flax.core.frozen_dict.FrozenDict",
    lambda tree: refused(tree, None),
    recognises=lambda tree: bool(misfit(tree, None)),
)


# ------------------------------------------------------------------------------------------------ bound modules


def _parameters(module: Any) -> Mapping[str, Any]:
    """The parameters of a bound module itself; nothing for a module that is not bound."""
    if module.scope is None:
        return {}
    parameters: Mapping[str, Any] = module.variables.get("params", {})
    return parameters


def _rebound(module: Any, fields: Mapping[str, Any], parameters: Mapping[str, Any]) -> Any:
    """A bound copy of `module` with other fields and parameters."""
    variables = {**module.variables, "params": {**_parameters(module), **parameters}}
    return module.clone(parent=None, **fields).bind(variables)


def _tensors(module: Any) -> Mapping[str, Any]:
    return {} if module.scope is None else tensors_of(module.variables)


def _with_tensors(module: Any, new: Mapping[str, Any]) -> Any:
    return module if module.scope is None else module.clone(parent=None).bind(with_tensors(module.variables, new))


def _in_bound(module: Any) -> Mapping[str, Any]:
    """The LRU layers among the variables of a bound module."""
    return {} if module.scope is None else _layers(freeze(module.variables))


def _replaced_in_bound(module: Any, new: Mapping[str, Any]) -> Any:
    """A bound copy with smaller layers, and fields that held their sizes holding the new ones."""
    plain, variables = module.unbind()
    layers = {name: ranks_of({name: layer})[name] for name, layer in _in_bound(module).items()}
    after = layers | ranks_of(dict(new))
    sizes: dict[int, set[int]] = {}
    for name, before in layers.items():
        sizes.setdefault(before, set()).add(after[name])
    changed = {before: found for before, found in sizes.items() if found != {before}}
    fields = _fields(plain, {before: min(found) for before, found in changed.items()})
    if changed and (not fields or any(len(found) > 1 for found in changed.values())):
        told = ", ".join(f"{name} {before} -> {after[name]}" for name, before in layers.items())
        raise ValueError(
            "a bound module must keep the states of all its layers in one field to be made smaller, got "
            f"{type(plain).__name__} with {told}: call the field {SIZES[0]} or {SIZES[1]}, or reduce its variables, and make a new module "
            "with their sizes"
        )
    return plain.clone(**fields).bind(replace_layers(dict(variables), new))


def _fields(module: Any, sizes: Mapping[int, int]) -> dict[str, Any]:
    """Those fields of a module, and of modules in its fields, that hold numbers of states, with the new ones."""
    mine = {field.name: getattr(module, field.name, None) for field in dataclasses.fields(module) if field.init}
    found: dict[str, Any] = {}
    for before, after in sizes.items():
        found |= resized(mine, before, after)
    for name, value in mine.items():
        if isinstance(value, nn.Module) and name != "parent" and (inner := _fields(value, sizes)):
            found[name] = value.clone(**inner)
    return found


def sized(module: Any, before: int, after: int) -> dict[str, Any]:
    """The fields of a module that hold a layer's states, with another number of them.

    Raises
    ------
    ValueError
        There are none, so the module would go on making parameters of its old size.
    """
    fields = _fields(module, {before: after}) if before != after else {}
    if before != after and not fields:
        raise ValueError(
            f"a linen module must keep its states in a field to be made smaller, got {type(module).__name__} of {before} states in none of "
            f"{', '.join(SIZES)}"
        )
    return fields


class Applied(NamedTuple):
    """A linen model as a function of its variables, where layers are called as in a tree of these."""

    apply: Callable[..., Any]
    variables: Mapping[str, Any]
    above: str = ""
    """What comes before the path of a module in the name of a layer."""
    smaller: Callable[[Mapping[str, Any]], Any] | None = None
    """The same with other layers, by name: a module of their sizes is called then."""


def _opened(model: Any, names: Mapping[str, str]) -> Opened:
    if isinstance(model, Applied):
        apply, variables, above, _ = model
    else:
        module, variables = model.unbind()
        apply, above = module.apply, "params."
    paths = {name.removeprefix(above): first for name, first in names.items()}

    def see(function: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        layer = paths.get(".".join(context.module.path)) if context.method_name == "__call__" else None
        return function(*args, **kwargs) if layer is None else marked(layer, function, *args, **kwargs)

    def call(variables: Any, *args: Any, **kwargs: Any) -> Any:
        with nn.intercept_methods(see):
            return apply(variables, *args, **kwargs)

    return Opened(call, variables, (apply, tuple(paths.items())))


def _signature(model: Any) -> inspect.Signature | None:
    module = getattr(model.apply, "__self__", None) if isinstance(model, Applied) else model
    return inspect.signature(module.__call__) if isinstance(module, nn.Module) else None


RUNNING = running(_opened, _signature)

register_container(
    "flax.linen.module.Module",
    Container(_in_bound, _replaced_in_bound, _tensors, _with_tensors, running=RUNNING, answers=answering(_opened)),
)
register_container(
    Applied,
    Container(lambda model: _layers(freeze(model.variables)), lambda model, new: model.smaller(new), running=RUNNING),
)


def _has(module: Any, *names: str) -> bool:
    """Whether a module has these fields; ``hasattr`` would set it up, which one of a stack by itself cannot be."""
    return set(names) <= {field.name for field in dataclasses.fields(module)}


def _is_lru(module: Any) -> bool:
    return _has(module, "d_hidden") and is_lru(_parameters(module))


@register("flax.linen.module.Module", recognises=_is_lru)
def adapt_lru(module: Any) -> tuple[System, Rebuild]:
    """The conjugate system of a bound LRU module; the way back sets ``d_hidden`` too."""
    system, write = lru_of(_parameters(module))

    def rebuild(reduced: Any) -> Any:
        return _rebound(module, {"d_hidden": reduced.states}, write(reduced))

    return system, rebuild


def _is_s5(module: Any) -> bool:
    return _has(module, *_S5_FIELDS, *S5_SETTINGS) and is_s5(_parameters(module), module)


@register("flax.linen.module.Module", recognises=_is_s5)
def adapt_s5(module: Any) -> tuple[System, Rebuild]:
    """The conjugate system of a bound S5 module; the fields that hold initial values of the old size change too."""
    system, write = s5_of(_parameters(module), module)

    def rebuild(reduced: Any) -> Any:
        new, n = write(reduced), reduced.states
        basis = jnp.eye((2 if module.conj_sym else 1) * n, n, dtype=module.V.dtype)
        # one member's, of a stack
        initial = {f"{k}_init": new[k].reshape(-1, n)[0] for k in ("Lambda_re", "Lambda_im")}
        return _rebound(module, {"P": n, "V": basis, "Vinv": basis.T, **initial}, new)

    return system, rebuild
