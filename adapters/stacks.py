"""Layers behind each other: the parameters of several layers of one kind, along leading axes that all of them have in common.

``vmap`` over layers or models (ensembles) and scans over layers make such stacks.  Their operators are a batch, so they get one rank,
the largest that a member needs, and each member is cut as it would be by itself to this rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, TypeAlias

from balred.systems.arrays import Array, namespace, to_numpy
from balred.systems.batches import member, stacked
from balred.systems.leaves import System

Tree: TypeAlias = Mapping[str, Any]
"""Parameters by name."""

Write: TypeAlias = Callable[[Any], dict[str, Any]]
"""The changed parameters for a reduced system."""


def leading_axes(tree: Tree, is_one: Callable[[Tree], bool]) -> tuple[int, ...] | None:
    """The axes along which the members of a stack lie, () for one layer by itself; None if `is_one` knows no such layer.

    Parameters
    ----------
    tree : mapping
        Arrays, or anything with a ``shape``, by name.
    is_one : callable
        Whether a mapping has the shapes of one layer.

    Examples
    --------
    >>> from types import SimpleNamespace as Shape
    >>> def is_gain(tree):
    ...     return len(tree["gain"].shape) == 1
    >>> leading_axes({"gain": Shape(shape=(4, 2))}, is_gain), leading_axes({"gain": Shape(shape=(4,))}, is_gain)
    ((4,), ())
    """
    shapes = {name: tuple(getattr(value, "shape", ())) for name, value in tree.items()}
    for k in range(1 + min((len(shape) for shape in shapes.values()), default=0)):
        leading = {shape[:k] for shape in shapes.values()}
        if len(leading) > 1:
            return None
        one = {name: SimpleNamespace(shape=shape[k:]) for name, shape in shapes.items()}
        axes = leading.pop() if leading else ()
        if 0 not in axes and is_one(one):
            return axes
    return None


def read_stack(tree: Tree, axes: tuple[int, ...], read: Callable[[Tree], tuple[System, Write]]) -> tuple[System, Write]:
    """The system of a stack with these leading axes, a batch of its members', and the way back.

    Parameters
    ----------
    tree : mapping
        Arrays by name, of one library.
    axes : tuple of int
        As :func:`leading_axes` gives them; what they are () for is read as it is.
    read : callable
        ``read(tree)``: the system of one layer, and the function that gives the changed parameters for a reduced one.

    Returns
    -------
    system : System
        With one leading axis: the members in the order of the flattened `axes`.
    write : callable

    Examples
    --------
    >>> import balred, numpy as np
    >>> def read(tree):
    ...     system = balred.diagonal(tree["poles"], tree["B"], tree["C"])
    ...     return system, lambda small: {"poles": small.poles, "B": small.B, "C": small.C}
    >>> stack = {"poles": -np.array([[1.0, 2.0], [1.0, 9.0], [3.0, 5.0]]), "B": np.ones((3, 2, 1)), "C": np.ones((3, 1, 2))}
    >>> system, write = read_stack(stack, (3,), read)
    >>> write(balred.reduce(system, 1))["poles"].shape
    (3, 1)
    """
    if not axes:
        return read(tree)
    several = [read(one) for one in members(tree, axes)]

    def write(reduced: Any) -> dict[str, Any]:
        return behind([one(member(reduced, i)) for i, (_, one) in enumerate(several)], axes)

    return stacked([system for system, _ in several]), write


def members(tree: Tree, axes: tuple[int, ...]) -> list[dict[str, Any]]:
    """The arrays of each layer in a stack with these leading axes, in the order of the flattened ones.

    Examples
    --------
    >>> import numpy as np
    >>> [one["gain"].tolist() for one in members({"gain": np.array([[1.0], [2.0]])}, (2,))]
    [[1.0], [2.0]]
    """
    flat = {name: _flat(value, len(axes)) for name, value in tree.items()}
    return [{name: value[i] for name, value in flat.items()} for i in range(math.prod(axes))]


def behind(several: Sequence[Tree], axes: tuple[int, ...]) -> dict[str, Any]:
    """The arrays of layers in a stack with these leading axes.

    Examples
    --------
    >>> import numpy as np
    >>> behind([{"gain": np.array([1.0])}, {"gain": np.array([2.0])}], (1, 2))["gain"].tolist()
    [[[1.0], [2.0]]]
    """
    return {name: _stacked([one[name] for one in several], axes) for name in several[0]}


Carry: TypeAlias = Callable[..., dict[str, Any]]


def carried_in_stacks(carry: Carry, name: str) -> Carry:
    """Take the optimizer moments of a stack through its cut, member by member.

    Parameters
    ----------
    carry : callable
        ``carry(old, new, moments, change, power)`` of one layer, as :func:`balred.register` takes it.
    name : str
        A parameter that is a vector in one layer.
    """

    def carried(old: Tree, new: Tree, moments: Tree, change: Any, power: int) -> dict[str, Any]:
        axes = tuple(old[name].shape[:-1])
        if not axes:
            return carry(old, new, moments, change, power)
        parts = (members({key: to_numpy(x) for key, x in one.items()}, axes) for one in (old, new, moments))
        return behind(
            [carry(*of_one, member(change, i), power) for i, of_one in enumerate(zip(*parts, strict=True))], axes
        )

    return carried


def _flat(x: Array, axes: int) -> Array:
    return namespace(x).reshape(x, (math.prod(x.shape[:axes]), *x.shape[axes:]))


def _stacked(several: list[Array], axes: tuple[int, ...]) -> Array:
    xp = namespace(several[0])
    return xp.reshape(xp.stack(several), (*axes, *several[0].shape))
