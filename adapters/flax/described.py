"""Trees of parameters with the settings of their modules: what S5 layers in a tree of a linen model mean.

A tree has no modules, and the parameters of S5 mean different things by the settings of theirs.  In a ``TrainState`` nothing else is
at hand, so the settings are told once and go with the tree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from balred.adapters.parameters import S5_SETTINGS, carry_lru, is_lru, is_s5, lru_of, misfit, refused, s5_of
from balred.registry.entries import entry_of, register, register_container
from balred.registry.kinds import Container, Rebuild
from balred.registry.tensors import tensors_of, with_tensors
from balred.systems.leaves import System


class Settings:
    """Those of S5 layers as attributes.

    Parameters
    ----------
    given : mapping or object
        With the settings as keys or attributes: a dict, or a module of such a layer.

    Raises
    ------
    ValueError
        It has not all of them.
    """

    def __init__(self, given: Any) -> None:
        held = given if isinstance(given, Mapping) else {k: getattr(given, k) for k in S5_SETTINGS if hasattr(given, k)}
        if missing := [name for name in S5_SETTINGS if name not in held]:
            raise ValueError(f"settings must have {', '.join(S5_SETTINGS)}, got none for {', '.join(missing)}")
        self.__dict__.update({name: held[name] for name in S5_SETTINGS})


@jax.tree_util.register_pytree_with_keys_class
class Described:
    """A tree of parameters, or the part of it that is a layer, with the settings of S5 layers in it (None: not known).

    A pytree whose leaves have the paths that they have in the tree.
    """

    def __init__(self, tree: Mapping[str, Any], settings: Settings | None) -> None:
        self.tree, self.settings = tree, settings

    def tree_flatten_with_keys(self) -> Any:
        """By the keys of the tree, in its order."""
        keys = tuple(self.tree)
        children = [(jax.tree_util.DictKey(key), self.tree[key]) for key in keys]
        return children, (type(self.tree), keys, self.settings)

    @classmethod
    def tree_unflatten(cls, beside: Any, children: Any) -> Described:
        """The same with other values."""
        kind, keys, settings = beside
        return cls(kind(dict(zip(keys, children, strict=True))), settings)


def _layers(model: Described) -> dict[str, Described]:
    found: dict[str, Described] = {}

    def walk(tree: Any, path: str) -> None:
        for key, value in tree.items():
            if not isinstance(value, Mapping):
                continue
            name, part = f"{path}{key}", Described(value, model.settings)
            if entry_of(part) is not None:
                found[name] = part
            else:
                walk(value, f"{name}.")

    walk(model.tree, "")
    return found


def _replaced(model: Described, new: Mapping[str, Described]) -> Described:
    def walk(tree: Any, path: str) -> Any:
        values = {
            key: new[f"{path}{key}"].tree
            if f"{path}{key}" in new
            else walk(value, f"{path}{key}.")
            if isinstance(value, Mapping)
            else value
            for key, value in tree.items()
        }
        return type(tree)(values)

    return Described(walk(model.tree, ""), model.settings)


register_container(
    Described,
    Container(
        _layers,
        _replaced,
        lambda model: tensors_of(model.tree),
        lambda model, new: Described(with_tensors(model.tree, new), model.settings),
    ),
)


@register(Described, carry=carry_lru, recognises=lambda layer: is_lru(layer.tree))
def adapt_lru(layer: Described) -> tuple[System, Rebuild]:
    """As in a tree without settings."""
    return _adapted(layer, *lru_of(layer.tree))


@register(Described, recognises=lambda layer: layer.settings is not None and is_s5(layer.tree, layer.settings))
def adapt_s5(layer: Described) -> tuple[System, Rebuild]:
    """By the settings that were told."""
    return _adapted(layer, *s5_of(layer.tree, layer.settings))


def _adapted(layer: Described, system: System, write: Any) -> tuple[System, Rebuild]:
    def rebuild(reduced: Any) -> Described:
        kind: Any = type(layer.tree)
        return Described(kind({**layer.tree, **write(reduced)}), layer.settings)

    return system, rebuild


register(
    Described,
    lambda layer: refused(layer.tree, layer.settings),
    recognises=lambda layer: bool(misfit(layer.tree, layer.settings)),
)
