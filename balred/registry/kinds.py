"""What is known of a kind of object: how it is read and written back, how its states are selected, how a model is looked into.

An adapter fills these in for a class, and :mod:`balred.registry.entries` finds them by the names of classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from balred.selection.moments import Moments, Selection
from balred.systems.leaves import System

Rebuild = Callable[[Any], Any]
Adapter = Callable[[Any], tuple[System, Rebuild]]
Carry = Callable[..., dict[str, Any]]
Recognises = Callable[[Any], bool]


@dataclass(frozen=True)
class Selective:
    """The functions with which a framework measures, cuts and resizes the layers of a selective class.

    Parameters
    ----------
    states : callable
        ``states(layer)``: the state dimension.
    gather : callable
        ``gather(model, layers, calibration)``: the :class:`balred.selection.Moments` of each of `layers`, a dict by name,
        in one pass over the data, or for a made-up white input if `calibration` is None.
    cut : callable
        ``cut(layer, selection, moments)``: a new layer of the same type with the selected states.
    blank : callable
        ``blank(layer, states)``: a layer of the same type with this number of states.  Its values do not matter, they are replaced.
    one_size, needs_data : bool
        `one_size`: all layers of a model must have one state dimension, because its configuration holds one number.
        `needs_data`: states can be chosen well only along data; this does not hold for time-invariant layers.
    select : callable, optional
        In place of :func:`balred.selection.select`.
    note : str
        A remark for the plan, if a selection changes more than the states that it drops.
    differs : callable, optional
        ``differs(layer)``: how a layer's output differs from what its arrays stand for, or None.  It is called on smaller layers.

    Examples
    --------
    >>> import balred, numpy as np
    >>> from balred.registry import Selective, register_selective
    >>> from balred.selection import Moments
    >>> class Bank:
    ...     def __init__(self, gains):
    ...         self.gains = gains
    >>> def moments(bank):
    ...     ones = np.ones((1, len(bank.gains)))
    ...     return Moments(np.diag(bank.gains**2), groups=1, B=ones, C=ones)
    >>> selective = Selective(
    ...     states=lambda layer: len(layer.gains),
    ...     gather=lambda model, layers, calibration: {name: moments(bank) for name, bank in layers.items()},
    ...     cut=lambda layer, selection, moments: Bank(layer.gains[selection.kept[0]]),
    ...     blank=lambda layer, states: Bank(layer.gains[:states]),
    ...     needs_data=False,
    ... )
    >>> register_selective(Bank, selective)
    >>> balred.reduce(Bank(np.array([3.0, 0.1, 2.0])), 2).gains
    array([3., 2.])
    """

    states: Callable[[Any], int]
    gather: Callable[[Any, Mapping[str, Any], Any], Mapping[str, Moments]]
    cut: Callable[[Any, Selection, Moments], Any]
    blank: Callable[[Any, int], Any]
    one_size: bool = True
    needs_data: bool = True
    select: Callable[..., Selection] | None = None
    note: str = ""
    differs: Callable[[Any], str | None] | None = None


@dataclass(frozen=True)
class Entry:
    """The entry of a class: how to read and write its layers, and how optimizer moments follow a cut.

    A selective layer has a :class:`balred.registry.Selective`, mostly in place of the operator that it is not.
    ``resize_model(model, layer, before)`` gives the new model around a replaced layer, which had so many states before, its size;
    what is a second-order system, or holds one, is read and written back as such by ``second_order``.

    Examples
    --------
    >>> from balred.registry import Entry
    >>> Entry(adapter=None).selective is None
    True
    """

    adapter: Adapter | None
    """None where a layer is no operator."""
    carry: Carry | None = None
    selective: Selective | None = None
    resize_model: Callable[[Any, Any, int], None] | None = None
    second_order: Callable[[Any], tuple[Any, Rebuild] | None] | None = None
    accounts: frozenset[str] | None = None
    """Arrays, and modules with arrays, that the adapter knows by name; None: all that do not look sized by the states."""
    compares: bool = False
    """Whether the adapter itself compares what a layer computes with what it reads of it."""
    one_size: bool = False
    """Whether all layers of a model with this operator must have one size, since its configuration holds one number."""
    configured: Callable[[Any, Mapping[str, Any]], tuple[Any, Mapping[str, Any]]] | None = None
    """``configured(obj, options)``: the object with those among the options that say how it is read, and the others."""


@dataclass(frozen=True)
class Running:
    """How models of a framework run along data.

    Parameters
    ----------
    batches : callable
        ``batches(model, data)``: what `model` is called with, batch by batch (:func:`balred.selection.calibration.batches`).
    outputs : callable
        ``outputs(model, calibration)``: a function of a batch (positional and keyword arguments) that returns what the model
        answers to it, on the host, and which of its predictions count: (..., values), and (...) or None.
    sums : callable
        ``sums(model, layers, batches, calibration)``: of each of `layers`, by name its object and its system, the
        :class:`balred.layers.along_data.DataSums`, or why there are none.
    """

    batches: Callable[[Any, Any], Iterable[Any]]
    outputs: Callable[[Any, Any], Callable[[Any], tuple[Any, Any]]]
    sums: Callable[[Any, Mapping[str, tuple[Any, System]], Any, Any], Mapping[str, Any]]


@dataclass(frozen=True)
class Container:
    """How to look into a model: its layers by name, and a copy of it with some of them replaced.

    Checkpoints need its arrays by name too, parameters and buffers (an array that it has in several places is the same
    object under several names), and a copy of it with other arrays, which may share the rest with the model.

    ``unfit(layer)`` says why the arrays of a layer cannot be read or resized, ``broken(layer, new)`` what fails when `new`, a smaller
    copy of it, runs: or None.  ``answers(layers)`` are the outputs of several copies of one layer on the same few
    inputs, on the host in double precision, with the rounding of their own precision: None if nobody knows how to call them.  ``obstacles(roots, layers, copied=...)`` says by name why some of `layers` cannot be cut among the rest
    of models, `roots` by their paths.  ``seen(model)`` tells what modules that look like layers lack to be known, and
    ``fixed(model)`` why there is nothing to cut in others that have a memory.

    Examples
    --------
    >>> import balred
    >>> from balred.registry import Container, register_container
    >>> class Chain:
    ...     def __init__(self, *parts):
    ...         self.parts = parts
    >>> def layers(model):
    ...     return {f"part{i}": part for i, part in enumerate(model.parts)}
    >>> def replace(model, new):
    ...     return Chain(*(new.get(name, part) for name, part in layers(model).items()))
    >>> register_container(Chain, Container(layers, replace))
    >>> model = Chain(balred.testing.random_system(8, seed=1), balred.testing.random_system(6, seed=2))
    >>> [part.states for part in balred.reduce(model, 4).parts]
    [4, 4]
    """

    layers: Callable[[Any], Mapping[str, Any]]
    replace: Callable[[Any, Mapping[str, Any]], Any]
    tensors: Callable[[Any], Mapping[str, Any]] | None = None
    with_tensors: Callable[[Any, Mapping[str, Any]], Any] | None = None
    unfit: Callable[[Any], str | None] | None = None
    obstacles: Callable[..., Mapping[str, str]] | None = None
    seen: Callable[[Any], list[str]] | None = None
    fixed: Callable[[Any], list[str]] | None = None
    running: Running | None = None
    broken: Callable[[Any, Any], str | None] | None = None
    answers: Callable[[Sequence[Any]], tuple[list[Any], float] | None] | None = None
