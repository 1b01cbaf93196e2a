"""Whether a layer was resized as a whole: an array of the states that an adapter does not know would keep its old size.

A subclass with a parameter of its own, a second direction, a learned initial state: such a layer is recognised by what it
has in common with the known ones.  Cut, it breaks in its next run, or computes something else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from balred.registry.entries import container_of, is_known_itself
from balred.registry.tensors import dtype_of, tensors_of
from balred.systems.arrays import backend_of, is_concrete

_DEEP = 4
"""Attributes of attributes that are looked into for a number that is named in an error."""


def check_whole(layer: Any, new: Any, sizes: set[int], widths: set[int], accounts: frozenset[str] | None) -> None:
    """Raise unless all arrays of `layer` that depend on its states are of another size in `new`.

    Parameters
    ----------
    layer, new : layer
        Of which `new` has another number of states.
    sizes : set of int
        The number of states of `layer`, and what else stands for it.
    widths : set of int
        Sizes that axes may have for another reason.
    accounts : frozenset of str, optional
        The arrays, and modules with arrays, that the adapter knows; by default only arrays of the layer itself are checked.

    Raises
    ------
    ValueError
        An array has an axis of such a size, and is not known to have it for another reason.
    """
    if container_of(layer) is None and not isinstance(layer, Mapping):
        return
    old, other = (_shapes(one) for one in (layer, new))
    changed = [(shape, other[n]) for n, shape in old.items() if n in other and other[n] != shape]
    moved = {a for mine, his in changed for a, b in zip(mine, his, strict=False) if a != b} | sizes
    moved.discard(1)
    if accounts is not None:  # both of B and C, or of all channels
        others = {a for n, shape in old.items() if n.partition(".")[0] in accounts for a in shape}
        moved |= {a * b for a in sizes for b in (2, *others) if a > 1}
    kept = {n: shape for n, shape in old.items() if other.get(n) == shape}
    known = {n for n in kept if accounts is not None and n.partition(".")[0] in accounts}
    free = widths | {a for n in known for a in kept[n]}
    for name in kept.keys() - known:
        nested = "." in name
        if accounts is None and (nested or not widths):
            continue  # a layer within the layer may have any size by chance
        if any(a in moved and not (a in free and (accounts is None or nested)) for a in kept[name]):
            raise ValueError(
                f"every array of a layer's states must be known to its adapter, got {name} of shape {kept[name]} in "
                f"{type(layer).__name__}, which a cut would leave as it is: register an adapter of its own for this class"
            )


def check_runs(layer: Any, new: Any, sizes: set[int], differs: Callable[[Any], str | None] | None = None) -> None:
    """Raise unless `new`, which has another number of states than `layer`, runs where that runs, and computes what it should.

    Parameters
    ----------
    layer, new : layer
    sizes : set of int
        The number of states of `layer`, and what else stands for it.
    differs : callable, optional
        What is wrong where a layer does not compute what its arrays stand for, or None.

    Raises
    ------
    ValueError
        It has a number of its own that should have changed, most likely: the message names those that could be the one.
    """
    container = container_of(layer)
    if is_known_itself(layer) or container is None or container.broken is None:
        reason = None  # an adapter that was written for this class knows all its numbers
    else:
        reason = container.broken(layer, new)
    if reason is None and differs is not None:
        reason = differs(new)
    if reason is None:
        return
    mine, his = (_numbers(one) for one in (layer, new))
    kept = [name for name, number in mine.items() if number in sizes and his.get(name) == number]
    told = f", where {' and '.join(kept)} would stay {mine[kept[0]]}" if kept else ""
    raise ValueError(
        f"a layer must run with another number of states, got {reason} in {type(layer).__name__}{told}: let its forward take sizes from "
        "its arrays, call the number of states d_state, or register an adapter of its own for this class"
    )


def _numbers(layer: Any) -> dict[str, int]:
    """The integers among the attributes of a layer and of what is in it, by dotted names."""
    found: dict[str, int] = {}
    todo, met = [("", layer)], set[int]()
    while todo:
        path, x = todo.pop()
        if id(x) in met or isinstance(x, (type, ModuleType)) or path.count(".") > _DEEP:
            continue
        met.add(id(x))
        several = dict(enumerate(x)) if isinstance(x, (list, tuple)) else getattr(x, "__dict__", {})
        for key, value in (x if isinstance(x, Mapping) else several).items():
            name = path if key == "_modules" else f"{path}.{key}" if path else str(key)
            if type(value) is int:
                found[name] = value
            elif not hasattr(value, "shape") and (key == "_modules" or not str(key).startswith("_")):
                todo.append((name, value))
    return found


def check_held(layer: Any, new: Any) -> None:
    """Raise if an array of `new` has an entry that its dtype could not hold, where `layer` had none.

    Raises
    ------
    OverflowError
        Of layers of a framework, whose arrays have names.
    """
    if container_of(layer) is None:
        return
    old = tensors_of(layer)
    for name, x in tensors_of(new).items():
        if _held(x) or (name in old and not _held(old[name])):
            continue
        raise OverflowError(
            f"parameters of a reduced layer must be finite in its precision, got NaN or infinity in {name} of "
            f"{type(layer).__name__}: they are too large or too small for {dtype_of(x)}"
        )


def _held(x: Any) -> bool:
    return not is_concrete(x) or bool(backend_of(x).all_finite(x))


def _shapes(layer: Any) -> dict[str, tuple[int, ...]]:
    """Of all arrays by name, and of those that are plain attributes, or lie in lists that are."""
    found = {n: tuple(x.shape) for n, x in tensors_of(layer).items()}
    for name, value in () if isinstance(layer, Mapping) else getattr(layer, "__dict__", {}).items():
        several = enumerate(value) if type(value) in (list, tuple) else value.items() if type(value) is dict else ()
        for key, x in (("", value), *several):
            shape = getattr(x, "shape", None)
            if isinstance(shape, tuple) and not name.startswith("_"):
                found.setdefault(f"{name}.{key}" if several else name, tuple(shape))
    return found
