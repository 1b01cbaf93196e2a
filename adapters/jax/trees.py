"""Pytrees that hold copies of a model's parameters: the copies in them, the same tree with other sizes, and where arrays are.

Copies are found by the names of their leaves, so it does not matter which framework made the tree, nor what is around it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

Keys = tuple[Any, ...]

# ------------------------------------------------------------------------------------------------ where arrays are


def placed(x: Any, like: Any) -> Any:
    """`x` in the dtype of `like` and on its devices, split along the same axes of its mesh.

    An axis whose new length its part of the mesh does not divide is kept whole on every device.
    """
    x = x if x.dtype == like.dtype else x.astype(like.dtype)
    if not getattr(like, "committed", False):
        return jax.device_put(np.asarray(x)) if getattr(x, "committed", False) else x
    sharding = like.sharding
    if isinstance(sharding, NamedSharding):
        axes = zip(x.shape, tuple(sharding.spec) + (None,) * x.ndim, strict=False)
        spec = PartitionSpec(*(axis if n % _parts(sharding, axis) == 0 else None for n, axis in axes))  # type: ignore[no-untyped-call]
        sharding = NamedSharding(sharding.mesh, spec, memory_kind=sharding.memory_kind)
    elif not sharding.is_fully_replicated:
        raise ValueError(f"sharded parameters must have a NamedSharding to be cut, got {sharding}")
    return jax.device_put(x, sharding)


def _parts(sharding: NamedSharding, axis: Any) -> int:
    """Among how many devices an axis of an array is split."""
    names = axis if isinstance(axis, tuple) else () if axis is None else (axis,)
    return int(np.prod([sharding.mesh.shape[name] for name in names], dtype=int))


# ------------------------------------------------------------------------------------------------ walking


def names_of(path: Keys) -> tuple[str, ...]:
    """The keys of a path as texts, without the last step into a flax variable."""
    names = tuple(map(_name, path))
    inside = bool(path) and isinstance(path[-1], jax.tree_util.GetAttrKey) and names[-1] == "value"
    return names[:-1] if inside else names


@functools.lru_cache(maxsize=4096)
def _name(key: Any) -> str:
    return str(jax.tree_util.keystr((key,), simple=True))


def named_leaves(tree: Any) -> list[tuple[Keys, str, Any]]:
    """Path, dotted name and value of every leaf."""
    return [(path, ".".join(names_of(path)), x) for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]]


class Copy(NamedTuple):
    """A node all of whose leaves are called like parameters: where it is, and path and value of its leaves by name."""

    root: Keys
    paths: dict[str, Keys]
    values: dict[str, Any]

    @property
    def field(self) -> str:
        """The field of a state that the node is, or is in."""
        return next((str(k.name) for k in reversed(self.root) if isinstance(k, jax.tree_util.GetAttrKey)), "")


def copies_of(tree: Any, names: Mapping[str, Any]) -> dict[Keys, Copy]:
    """The topmost nodes that are copies of the parameters called `names`, or of some of them, by their path."""
    leaves = [(path, x) for path, _, x in named_leaves(tree) if _is_values(x)]
    others = {p[:k] for p, _ in leaves for k in range(len(p) + 1) if ".".join(names_of(p[k:])) not in names}
    found: dict[Keys, Copy] = {}
    for path, x in leaves:
        root = next((path[:k] for k in range(len(path) + 1) if path[:k] not in others), None)
        if root is not None:
            copy = found.setdefault(root, Copy(root, {}, {}))
            name = ".".join(names_of(path[len(root) :]))
            copy.paths[name], copy.values[name] = path, x
    return found


def outside(tree: Any, copies: Mapping[Keys, Copy]) -> list[tuple[Keys, str, Any]]:
    """Path, dotted name and value of the leaves that are in none of the copies."""
    inside = {path for copy in copies.values() for path in copy.paths.values()}
    return [(path, name, x) for path, name, x in named_leaves(tree) if path not in inside]


def _is_values(x: Any) -> bool:
    """Whether it is an array, and not a random key."""
    return isinstance(x, (jax.Array, np.ndarray)) and not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _is_empty(node: Any) -> bool:
    return node is None or type(node).__name__ == "MaskedNode"


def rebuilt(tree: Any, new: Mapping[Keys, Any], model: Any, copies: Mapping[Keys, Copy]) -> Any:
    """`tree` with other leaves, by path; copies of the parameters take the structure of the new `model`, sizes included."""
    structure: Any
    target, structure = jax.tree_util.tree_flatten_with_path(model, is_leaf=lambda x: x is None)
    order = [path for path, _ in target]

    def build(node: Any, path: Keys) -> Any:
        outer: Any
        if path in copies and type(node) is type(model):
            mine = jax.tree_util.tree_flatten_with_path(node, is_leaf=_is_empty)[0]
            if [p for p, _ in mine] == order:
                return structure.unflatten([new.get((*path, *p), x) for p, x in mine])
        children, outer = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)
        if not children or children[0][0] == ():
            return new.get(path, node)
        return outer.unflatten([build(child, (*path, *key)) for key, child in children])

    return build(tree, ())
