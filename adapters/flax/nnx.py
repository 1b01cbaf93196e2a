"""flax nnx: models of modules, and LRU and S5 layers by their authors' names, known by the parameters that they hold.

nnx modules are references: a reduction works on a clone, in which shared modules stay shared.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen, nnx

from balred.adapters.flax.linen import sized
from balred.adapters.flax.nnx_training import InTrainingReducer
from balred.adapters.jax.marking import marking
from balred.adapters.jax.running import Opened, running
from balred.adapters.jax.trying import answering
from balred.adapters.parameters import carry_lru, is_lru, is_s5, lru_of, misfit, refused, resized, s5_of
from balred.registry.entries import entry_of, register, register_container
from balred.registry.kinds import Container, Rebuild
from balred.registry.reaching import Reach, holders
from balred.registry.sizes import states_of
from balred.registry.tensors import tensors_of, with_tensors
from balred.systems.leaves import System

__all__ = ["InTrainingReducer"]


def _named(model: Any) -> list[tuple[str, Any]]:
    nodes = [(path, node) for path, node in nnx.iter_graph(model) if isinstance(node, nnx.Module)]
    return [(".".join(map(str, path)), node) for path, node in sorted(nodes, key=lambda item: len(item[0]))]


def _layers(model: Any) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    for name, module in _named(model):
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if name and not inside and entry_of(module) is not None:
            found[name] = module
    return dict(sorted(found.items()))


def _replaced(model: Any, new: Mapping[str, Any]) -> Any:
    result = nnx.clone(model)
    for name, module in _named(result):
        if name in new:  # filled in place, so that every reference to it sees the smaller layer
            for key, value in vars(new[name]).items():
                if not key.startswith("_"):
                    setattr(module, key, value)
    old = dict(_named(model))
    for name, layer in new.items():
        entry = entry_of(layer)
        if entry is not None and entry.resize_model is not None:
            entry.resize_model(result, layer, states_of(old[name]))
    return result


def _tensors(model: Any) -> Mapping[str, Any]:
    return tensors_of(nnx.to_pure_dict(nnx.state(model)))


def _with_tensors(model: Any, new: Mapping[str, Any]) -> Any:
    result = nnx.clone(model)
    state = nnx.state(result)
    nnx.replace_by_pure_dict(state, with_tensors(nnx.to_pure_dict(state), new))
    nnx.update(result, state)
    return result


def _obstacles(roots: Mapping[str, Any], layers: Mapping[str, Any], *, copied: bool) -> dict[str, str]:
    """Layers whose variables other modules have too: a cut of one would change the others."""
    places: dict[int, set[tuple[int, str]]] = {}
    for root in roots.values():
        for _, module in _named(root):
            for key, variable in _parameters(module).items():
                places.setdefault(id(variable), set()).add((id(module), key))
    found = {}
    for name, layer in layers.items():
        common = [key for key, x in _parameters(layer).items() if len(places.get(id(x), ())) > 1]
        if common:
            found[name] = (
                f"its {common[0]} is shared with another module, which a cut would change as well: untie them first"
            )
    return found | (_held(roots, layers) if copied else {})


def _held(roots: Mapping[str, Any], layers: Mapping[str, Any]) -> dict[str, str]:
    """Layers that functions in a model hold, which a clone has in common with it."""
    mine = {name: {id(x) for x in (layer, *_parameters(layer).values())} for name, layer in layers.items()}
    functions = [
        (".".join(filter(None, (path, place, key))), value)
        for path, root in roots.items()
        for place, module in [("", root), *_named(root)]
        for key, value in vars(module).items()
        if not key.startswith("_") and callable(value) and not isinstance(value, nnx.Module)
    ]
    return {
        name: f"{where} is or has a function that holds it, so a smaller copy would go on running the original: make the layer an attribute "
        "of a module, and call it by that"
        for name, where in holders(mine, functions, _reaching).items()
    }


def _reaching(inside: set[int]) -> Callable[[Any], bool]:
    return Reach(inside, (jax.Array,), (nnx.Module, nnx.Variable), lambda x: isinstance(x, (list, tuple, dict)))


def _opened(model: Any, names: Mapping[str, str]) -> Opened:
    """As it will be used: a copy in evaluation mode, in which modules that are shared stay so."""
    watched = nnx.clone(model)
    watched.eval()
    nodes = {"": watched} | dict(_named(watched))
    for name, node in {id(nodes[name]): (name, nodes[name]) for name in reversed(list(names))}.values():
        cls: Any = type(node)
        node.__class__ = marking(cls, names[name])
    graph, values = nnx.split(watched)
    return Opened(lambda values, *args, **kwargs: nnx.merge(graph, values)(*args, **kwargs), values, graph)


RUNNING = running(_opened, lambda model: inspect.signature(model.__call__))

register_container(
    "flax.nnx.module.Module",
    Container(
        _layers, _replaced, _tensors, _with_tensors, obstacles=_obstacles, running=RUNNING, answers=answering(_opened)
    ),
)


def _parameters(module: Any) -> dict[str, Any]:
    return {key: value for key, value in vars(module).items() if isinstance(value, nnx.Variable)}


def _values(module: Any) -> dict[str, Any]:
    return {key: value[...] for key, value in _parameters(module).items()}


def _is_lru(module: Any) -> bool:
    return is_lru(_parameters(module))


def _is_s5(module: Any) -> bool:
    return is_s5(_parameters(module), module)


@register("flax.nnx.module.Module", carry=carry_lru, recognises=_is_lru)
def adapt_lru(module: Any) -> tuple[System, Rebuild]:
    """The conjugate system of an LRU module; attributes that hold the number of states change too."""
    return _adapted(module, *lru_of(_values(module)))


@register("flax.nnx.module.Module", recognises=_is_s5)
def adapt_s5(module: Any) -> tuple[System, Rebuild]:
    """The conjugate system of an S5 module; attributes that hold the number of states change too."""
    return _adapted(module, *s5_of(_values(module), module))


def _adapted(module: Any, system: System, write: Any) -> tuple[System, Rebuild]:
    def rebuild(reduced: Any) -> Any:
        new = nnx.clone(module)
        for key, value in write(reduced).items():
            setattr(new, key, getattr(new, key).replace(value))
        for key, size in resized(vars(module), system.states, reduced.states).items():
            setattr(new, key, size)
        for key, inner in vars(module).items():
            if isinstance(inner, linen.Module):  # what runs, in nnx.bridge.ToNNX
                setattr(new, key, inner.clone(**sized(inner, system.states, reduced.states)))
        return new

    return system, rebuild


register(
    "flax.nnx.module.Module",
    lambda module: refused(_parameters(module), module),
    recognises=lambda module: bool(misfit(_parameters(module), module)),
)
