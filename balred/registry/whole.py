"""Whether a layer was resized as a whole: an array of the states that an adapter does not know would keep its old size.

A subclass with a parameter of its own, a second direction, a learned initial state: such a layer is recognised by what it
has in common with the known ones.  Cut, it breaks in its next run, or computes something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from balred.registry.entries import container_of
from balred.registry.tensors import tensors_of


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
