"""Layers of another size: how many states each has, a layer like it with fewer, a model of the sizes that a checkpoint has.

What such a layer holds does not matter: it is about to be filled, by a checkpoint or by a training that goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from balred.registry.answering import plain_system
from balred.registry.entries import entry_of
from balred.registry.reading import adapt, layers_of, replace_layers, selective_of
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
        The shapes for a layer fit no number of states up to its own, or there are no shapes for it.

    Examples
    --------
    >>> import numpy as np
    >>> from balred.layers.recurrence import lru_initial
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
        own = _shapes(layer)
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
    """The layer with arrays of these shapes."""
    found = fitting(layer, want)
    if found is None or states_of(found) > states_of(layer):
        got = ", ".join(f"{n} {shape}" for n, shape in want.items())
        raise ValueError(f"layer {name or 'itself'} must have shapes of at most {states_of(layer)} states, got {got}")
    return found


def fitting(layer: Any, want: Mapping[str, tuple[int, ...]]) -> Any:
    """A layer like `layer`, with fewer or more states, whose arrays have the shapes that `want` tells of some; None if none has.

    Every axis is :math:`a + bn` long with n states.  Two layers made for it, of n and 2n states, tell a and b, and each axis in `want`
    that differs the number of states; there must be one number for all.  (The layer itself may count otherwise: a real pole of an
    S4 kernel takes a state of its own.)

    Examples
    --------
    >>> import numpy as np
    >>> from balred.layers.recurrence import lru_initial
    >>> rng = np.random.default_rng(0)
    >>> layer = lru_initial(2, 8, 0.5, 0.99, 3.0, rng.random, lambda *shape: rng.standard_normal(shape))
    >>> fitting(layer, {"nu_log": (20,)})["C_re"].shape, fitting(layer, {"D": (3,)})
    ((2, 20), None)
    """
    states = states_of(layer)
    own, twice = (_shapes(of_size(layer, n)) for n in (states, 2 * states))
    pairs = [
        (a, b, c)
        for name, shape in want.items()
        for a, b, c in zip(own.get(name, ()), twice.get(name, ()), shape, strict=False)
        if a != c
    ]
    sizes = {states * (c - 2 * a + b) / (b - a) for a, b, c in pairs if b != a}
    size = min(sizes, default=0)
    if len(sizes) != 1 or size < 1 or size != int(size):
        return None
    found = of_size(layer, int(size))
    made = _shapes(found)
    return found if all(made.get(name) == shape for name, shape in want.items()) else None


def _shapes(layer: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(x.shape) for name, x in tensors_of(layer).items()}


def states_of(layer: Any) -> int:
    """The number of states of a layer, as the layer counts them."""
    entry = entry_of(layer)
    if entry is not None and entry.selective is not None:
        return int(entry.selective.states(layer))
    return int(adapt(layer)[0].states)


def ranks_of(layers: Mapping[str, Any]) -> dict[str, int]:
    """The states of every layer, by name."""
    return {name: states_of(layer) for name, layer in layers.items()}


def ranks_known(layers: Mapping[str, Any]) -> dict[str, int]:
    """The same without layers that cannot be read.

    Examples
    --------
    >>> import balred
    >>> ranks_known({"one": balred.testing.random_system(3), "other": ...})
    {'one': 3}
    """
    found = {}
    for name, layer in layers.items():
        try:
            found[name] = states_of(layer)
        except (ValueError, TypeError, ArithmeticError):  # a layer that is refused for this
            continue
    return found


def shrunk(layers: Mapping[str, Any], ranks: Mapping[str, int]) -> dict[str, Any]:
    """Layers of the recorded `ranks`, by name, for those that have more states; what is in them is about to be replaced.

    Raises
    ------
    ValueError
        Other layers are recorded, or more states than a layer has.
    """
    sizes = ranks_of(layers)
    if set(ranks) != set(sizes):
        raise ValueError(f"the model must have the layers {', '.join(ranks)}, got {', '.join(sizes)}")
    for name, rank in ranks.items():
        if sizes[name] < rank:
            raise ValueError(f"layer {name or 'itself'} must have at least {rank} states, got {sizes[name]}")
    return {name: of_size(layers[name], rank) for name, rank in ranks.items() if rank < sizes[name]}


def of_size(layer: Any, states: int) -> Any:
    """A layer like `layer` with so many states, fewer or more, whichever: what is in it is about to be replaced."""
    selective = selective_of({"": layer})
    if selective:
        return selective[""][1].blank(layer, states)
    system, rebuild = adapt(layer)
    return rebuild(plain_system(system, states))
