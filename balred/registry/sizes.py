"""Models of the size of a checkpoint that another program wrote: the shapes of its arrays tell the ranks of the layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from balred.registry.entries import layers_of, replace_layers
from balred.files.checkpoints import of_size, states_of
from balred.registry.tensors import tensors_of


def to_shapes(skeleton: Any, shapes: Mapping[str, tuple[int, ...]]) -> Any:
    """The skeleton with its layers shrunk to the shapes of a checkpoint that another program wrote.

    Parameters
    ----------
    skeleton : model
    shapes : dict
        By the names of :func:`balred.registry.tensors.tensors_of`; others in it, and other arrays of the skeleton, do not matter.

    Raises
    ------
    ValueError
        A layer has other shapes than at any number of states up to its own, or there are none for it.

    Examples
    --------
    >>> import numpy as np
    >>> from balred.layers.lru import lru_initial
    >>> rng = np.random.default_rng(0)
    >>> layer = lru_initial(2, 8, 0.5, 0.99, 3.0, rng.random, lambda *shape: rng.standard_normal(shape))
    >>> stored = {"lru.nu_log": (3,), "lru.B_re": (3, 2)}
    >>> to_shapes({"lru": layer}, stored)["lru"]["C_re"].shape
    (2, 3)
    """
    new = {}
    for name, layer in layers_of(skeleton).items():
        prefix = f"{name}." if name else ""
        want = {n[len(prefix) :]: shape for n, shape in shapes.items() if n.startswith(prefix)}
        own = {n: tuple(x.shape) for n, x in tensors_of(layer).items()}
        want = {n: shape for n, shape in want.items() if n in own}
        if not want:
            raise ValueError(
                f"the shapes must be named like the arrays of the layers, got none of {', '.join(own)} in {name or 'itself'}"
            )
        if all(own[n] == shape for n, shape in want.items()):
            continue
        new[name] = _of_shapes(name, layer, want)
    return replace_layers(skeleton, new)


def _of_shapes(name: str, layer: Any, want: Mapping[str, tuple[int, ...]]) -> Any:
    """The layer with arrays of these shapes, whose sizes grow with the number of states: found by bisection."""
    total, low, high = sum(map(math.prod, want.values())), 1, states_of(layer)
    while low <= high:
        middle = (low + high) // 2
        found = of_size(layer, middle)
        own = {n: tuple(x.shape) for n, x in tensors_of(found).items()}
        if all(own.get(n) == shape for n, shape in want.items()):
            return found
        smaller = sum(math.prod(own.get(n, ())) for n in want) < total
        low, high = (middle + 1, high) if smaller else (low, middle - 1)
    got = ", ".join(f"{n} {shape}" for n, shape in want.items())
    raise ValueError(f"layer {name or 'itself'} must have shapes of at most {states_of(layer)} states, got {got}")
