"""equinox models of layers: finding layers in them, a copy with others in their places; and the LRU layer, in and out."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from balred.adapters.equinox.lru import LRU
from balred.adapters.jax.marking import marking
from balred.adapters.jax.running import Opened, running
from balred.adapters.jax.trying import answering
from balred.adapters.parameters import NAMES, carry_lru, lru_of
from balred.registry.entries import entry_of, register, register_container
from balred.registry.kinds import Container
from balred.registry.reaching import Reach, holders
from balred.registry.reading import layers_of
from balred.systems.leaves import System


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


def _obstacles(roots: Mapping[str, Any], layers: Mapping[str, Any], *, copied: bool) -> dict[str, str]:
    """Layers that have arrays in common by ``equinox.nn.Shared``, or that are held where a cut does not reach."""
    return _held(roots, layers) | _with_shared(roots, layers)


def _held(roots: Mapping[str, Any], layers: Mapping[str, Any]) -> dict[str, str]:
    """Layers that something else in a model has too: a function by its closure, a static field, what ``filter_jit`` returned."""
    mine = {name: {id(x) for x in (y, *jax.tree.leaves(y)) if x is y or _is_tensor(x)} for name, y in layers.items()}
    beside = [
        (".".join(filter(None, (path, where))), x) for path, root in roots.items() for where, x in _beside_layers(root)
    ]
    return {
        name: f"{where} is or has a function that holds it, or arrays of it, and would go on running the layer that it was: make the layer "
        "a field of a module, and call it by that"
        for name, where in holders(mine, beside, _reaching).items()
    }


def _reaching(inside: set[int]) -> Callable[[Any], bool]:
    return partial(Reach(inside, (jax.Array,), (eqx.Module, jax.Array), lambda x: False), shared=True)


def _beside_layers(root: Any) -> Iterator[tuple[str, Any]]:
    """What a model has that no layer is cut in: its leaves, and what its nodes have besides children, such as static fields."""
    nodes: list[Any] = []

    def is_end(node: Any) -> bool:
        nodes.append(node)
        return _is_layer(node)

    leaves = jax.tree_util.tree_flatten_with_path(root, is_leaf=is_end)[0]
    yield from ((_name(path), leaf) for path, leaf in leaves if not _is_layer(leaf))
    for node in nodes:
        if isinstance(node, eqx.Module):
            static = [field.name for field in dataclasses.fields(node) if field.metadata.get("static")]
            yield from ((name, vars(node).get(name)) for name in static)
        elif (parts := jax.tree_util.default_registry.flatten_one_level(node)) is not None:
            yield type(node).__name__, parts[1]


def _with_shared(roots: Mapping[str, Any], layers: Mapping[str, Any]) -> dict[str, str]:
    """Those by ``equinox.nn.Shared``: a cut of one would change the others."""
    shared: set[int] = set()
    for root in roots.values():
        nodes = jax.tree.leaves(root, is_leaf=lambda x: isinstance(x, eqx.nn.Shared))
        for node in (x for x in nodes if isinstance(x, eqx.nn.Shared)):
            shared |= {id(x) for x in jax.tree.leaves(node.get(node.pytree)) if eqx.is_array(x)}
    reason = (
        "it has arrays in common with others by equinox.nn.Shared, which a cut would change as well: untie them first"
    )
    return {
        name: reason
        for name, layer in layers.items()
        if any(id(x) in shared for x in jax.tree.leaves(layer)) or _unfit(layer)
    }


def _unfit(layer: Any) -> str | None:
    placeholders = [x for x in getattr(layer, "__dict__", {}).values() if type(x).__name__ == "SharedNode"]
    return "some of its arrays are placeholders of equinox.nn.Shared: untie them first" if placeholders else None


def _marked(layer: Any, name: str) -> Any:
    cls: Any = type(layer)
    new = object.__new__(marking(cls, name))
    for key, value in vars(layer).items():
        object.__setattr__(new, key, value)
    return new


def _opened(model: Any, names: Mapping[str, str]) -> Opened:
    """As it will be used: without dropout, with running averages."""
    layers = layers_of(model)
    new = {name: _marked(layers[name], names[name]) for name in names}
    model = eqx.nn.inference_mode(new[""] if "" in new else _replaced(model, new))
    values, rest = eqx.partition(model, eqx.is_array)
    leaves, tree = jax.tree.flatten(rest)
    structure = tree, tuple((type(x), x) for x in leaves)
    return Opened(lambda values, *args, **kwargs: eqx.combine(values, rest)(*args, **kwargs), values, structure)


RUNNING = running(_opened, lambda model: inspect.signature(model.__call__))

_CONTAINER = Container(
    _layers, _replaced, _tensors, _with_tensors, _unfit, _obstacles, running=RUNNING, answers=answering(_opened)
)
register_container("equinox._module._module.Module", _CONTAINER)
register_container(eqx.Module, _CONTAINER)


@register(LRU, carry=carry_lru, accounts=NAMES)
def adapt_lru(layer: LRU) -> tuple[System, Any]:
    """The conjugate system of an LRU layer, of a stack a batch, and the way back."""
    system, write = lru_of(vars(layer))

    def rebuild(reduced: Any) -> LRU:
        values = write(reduced)
        result: LRU = eqx.tree_at(lambda m: [getattr(m, k) for k in values], layer, list(values.values()))
        return result

    return system, rebuild
