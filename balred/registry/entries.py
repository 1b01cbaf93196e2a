"""The registry of what can be read as a system and written back, filled lazily.

An adapter reads the operator out of an object and returns it with the way back.  Which adapter knows an object is found
by the class names in its MRO; the adapter module of a package is imported when an object of that package first
arrives, so importing ``balred`` loads no framework.  Other distributions plug in through the entry-point group
``balred.adapters``: the entry's name is the top-level package of the classes, its value a module that registers.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, overload

from balred.selection.moments import Moments, Selection
from balred.systems.arrays import entry_points
from balred.systems.leaves import System

Rebuild = Callable[[Any], Any]
Adapter = Callable[[Any], tuple[System, Rebuild]]
Carry = Callable[..., dict[str, Any]]
Recognises = Callable[[Any], bool]
T = TypeVar("T")
A = TypeVar("A", bound=Callable[..., Any])

_LAZY: dict[str, tuple[str, ...]] = {
    "torch": ("balred.adapters.torch.layers",),
    "LRU_pytorch": ("balred.adapters.torch.layers.lru_pytorch",),
    "s5": ("balred.adapters.torch.layers.s5",),
    "equinox": ("balred.adapters.equinox.modules", "balred.adapters.equinox.copies"),
    "flax": ("balred.adapters.flax.linen", "balred.adapters.flax.nnx", "balred.adapters.flax.mamba"),
    "control": ("balred.adapters.control",),
    "pymor": ("balred.adapters.pymor",),
    "scipy": ("balred.adapters.scipy",),
    "builtins": ("balred.adapters.parameters",),
}


@dataclass(frozen=True)
class Selective:
    """The functions with which a framework measures, cuts and resizes the layers of a selective class.

    Parameters
    ----------
    states : callable
        ``states(layer)``: the state dimension.
    gather : callable
        ``gather(model, layers, calibration)``: the :class:`balred.selection.Moments` of each of `layers`, a dict by name,
        in one pass over the data, or of a surrogate if `calibration` is None.
    cut : callable
        ``cut(layer, selection, moments)``: a new layer of the same type with the selected states.
    blank : callable
        ``blank(layer, states)``: a layer of the same type with so many states, whichever; what is in it is about to be replaced.
    one_size, needs_data : bool
        Whether all layers of a model must have one state dimension, since its configuration holds one number; and whether
        states can be chosen well only along data, as not in time-invariant layers.
    select : callable, optional
        In place of :func:`balred.selection.select`.
    note : str
        What a plan says besides, if a selection changes more than it drops.
    differs : callable, optional
        ``differs(layer)``: what is wrong where a layer does not compute what its arrays stand for, or None; asked of smaller ones.

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
    copy of it, runs: or None.  ``obstacles(roots, layers, copied=...)`` says by name why some of `layers` cannot be cut among the rest
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


_entries: dict[str, Entry] = {}
_structures: dict[str, list[tuple[Recognises, Entry]]] = {}
_containers: dict[str, Container] = {}
_loaded: set[str] = set()


class AdapterNotFound(TypeError):
    """No adapter is registered for the type of the object, or for any layer of the model.

    Examples
    --------
    >>> import balred
    >>> balred.hsv("a text")
    Traceback (most recent call last):
        ...
    balred.registry.entries.AdapterNotFound: no adapter knows builtins.str or any layer in it: register the layer's class with balred.register(cls, adapter)
    """


@overload
def register(
    cls: type | str,
    *,
    carry: Carry | None = None,
    recognises: Recognises | None = None,
    accounts: Iterable[str] | None = None,
) -> Callable[[A], A]: ...
@overload
def register(
    cls: type | str,
    adapter: Adapter,
    *,
    carry: Carry | None = None,
    recognises: Recognises | None = None,
    accounts: Iterable[str] | None = None,
) -> None: ...
def register(
    cls: type | str,
    adapter: Adapter | None = None,
    *,
    carry: Carry | None = None,
    recognises: Recognises | None = None,
    accounts: Iterable[str] | None = None,
) -> Any:
    """Register an adapter, which reads objects of `cls` as systems and writes systems back.

    Parameters
    ----------
    cls : type or str
        The class, or its qualified name ``"package.module.Class"`` if it should not be imported yet.
    adapter : callable
        ``adapter(obj) -> (system, rebuild)``; ``rebuild(system)`` returns a new object of the same type.
        Omitted: return a decorator.
    carry : callable, optional
        ``carry(old, new, moments, change, power)`` takes optimizer moments through a cut (see *Extending*); else they are reset.
    recognises : callable, optional
        Use the adapter only for those objects of `cls` for which ``recognises(obj)`` is true.  A layer that people copy from
        project to project is recognised by its arrays: ``register("torch.nn.modules.module.Module", ..., recognises=...)``.
        The function must be quick and must not fail.  Entries for a class itself come first.
    accounts : iterable of str, optional
        Names of the arrays, and of modules with arrays, that the adapter knows.  A cut raises an error if a layer has another
        array with an axis as long as one that is cut.  By default only arrays of the layer itself are checked, along axes
        that are none of its widths.

    Examples
    --------
    >>> import balred
    >>> class Lag:
    ...     def __init__(self, poles):
    ...         self.poles = poles
    >>> @balred.register(Lag)
    ... def _(lag):
    ...     n = len(lag.poles)
    ...     system = balred.diagonal(lag.poles, B=[[1.0]] * n, C=[[1.0] * n])
    ...     return system, lambda reduced: Lag(list(reduced.poles.real))
    >>> balred.hsv(Lag([-1.0, -2.0])).shape
    (2,)
    """
    if adapter is None:
        again = partial(register, cls, carry=carry, recognises=recognises, accounts=accounts)
        return lambda function: (again(function), function)[1]
    known = None if accounts is None else frozenset(accounts)
    register_entry(cls, Entry(adapter, carry, accounts=known), recognises)
    return None


def register_entry(cls: type | str, entry: Entry, recognises: Recognises | None = None) -> None:
    """Register an :class:`Entry` for a class or its qualified name, or for those of its objects that `recognises` is true for.

    Examples
    --------
    >>> import balred, numpy as np
    >>> from balred.registry import Entry, register_entry
    >>> class Lag:
    ...     def __init__(self, poles):
    ...         self.poles = poles
    >>> def adapt_lag(lag):
    ...     n = len(lag.poles)
    ...     return balred.ss(np.diag(lag.poles), np.ones((n, 1)), np.ones((1, n))), lambda small: small
    >>> register_entry(Lag, Entry(adapt_lag))
    >>> balred.hsv(Lag([-1.0, -2.0])).shape
    (2,)
    """
    name = cls if isinstance(cls, str) else qualified(cls)
    if recognises is None:
        _entries[name] = entry
    else:
        _structures.setdefault(name, []).append((recognises, entry))


def register_selective(
    cls: type | str,
    selective: Selective,
    *,
    recognises: Recognises | None = None,
    resize_model: Callable[[Any, Any, int], None] | None = None,
    adapter: Adapter | None = None,
    accounts: Iterable[str] | None = None,
) -> None:
    """Register layers whose states can only be selected, in most cases because their dynamics depend on the input.

    Parameters
    ----------
    cls : type or str
        The class, or its qualified name ``"package.module.Class"`` if it should not be imported yet.
    selective : balred.registry.Selective
    recognises : callable, optional
        Use the entry only for objects for which ``recognises(obj)`` is true: a layout that packages share, or that people copy,
        under any name.  Entries for a class itself come first.
    resize_model : callable, optional
        ``resize_model(model, layer, before)`` writes the states of a replaced layer into the (new) model, where it had `before`.
    adapter : callable, optional
        ``adapter(obj) -> (system, rebuild)``, to look at layers that are a linear operator all the same.
    accounts : iterable of str, optional
        Names of the arrays that `selective` knows.  Another array with an axis as long as the states raises an error.

    Examples
    --------
    >>> import balred, numpy as np
    >>> from balred.registry import Selective, register_selective
    >>> from balred.selection import Moments
    >>> class Gains(list):
    ...     "One gain a state."
    >>> def gather(model, layers, calibration):
    ...     n = {name: np.ones((1, len(layer))) for name, layer in layers.items()}
    ...     return {name: Moments(np.diag(np.square(layer)), 1, n[name], n[name]) for name, layer in layers.items()}
    >>> def cut(layer, selection, moments):
    ...     return Gains(layer[i] for i in selection.kept[0])
    >>> register_selective(Gains, Selective(len, gather, cut, lambda layer, n: Gains(layer[:n]), needs_data=False))
    >>> balred.reduce(Gains([3.0, 0.1, 2.0]), 2)
    [3.0, 2.0]
    """
    known = None if accounts is None else frozenset(accounts)
    register_entry(cls, Entry(adapter, None, selective, resize_model, accounts=known), recognises)


def register_container(cls: type | str, container: Container) -> None:
    """Register how to look into models of `cls`.

    Examples
    --------
    >>> import balred
    >>> from balred.registry import Container, register_container
    >>> class Pair:
    ...     def __init__(self, first, second):
    ...         self.first, self.second = first, second
    >>> register_container(Pair, Container(vars, lambda model, new: Pair(**{**vars(model), **new})))
    >>> model = Pair(*(balred.testing.random_system(8, seed=i) for i in range(2)))
    >>> [(row.layer, row.after) for row in balred.plan(model, 4).rows]
    [('first', 4), ('second', 4)]
    """
    _containers[cls if isinstance(cls, str) else qualified(cls)] = container


def container_of(obj: Any) -> Container | None:
    """How to look into `obj`, or None if it is no model of a registered framework."""
    return _lookup(type(obj), _containers)


def qualified(cls: type) -> str:
    """The name under which a class is registered."""
    return f"{cls.__module__}.{cls.__qualname__}"


def _load(package: str) -> None:
    if package in _loaded:
        return
    _loaded.add(package)
    try:
        for module in _LAZY.get(package, ()):
            importlib.import_module(module)
        for point in entry_points(group="balred.adapters"):
            if point.name == package:
                point.load()
    except BaseException:
        _loaded.discard(package)
        raise


def _lookup(cls: type, table: Mapping[str, T]) -> T | None:
    for base in cls.__mro__:  # all of them first: what a base's package brings may know the class itself
        _load(base.__module__.partition(".")[0])
    return next((table[name] for name in map(qualified, cls.__mro__) if name in table), None)


def entry_of(obj: Any) -> Entry | None:
    """The entry of the layer or system type of `obj`, or None."""
    found = _lookup(type(obj), _entries)
    if found is None:
        structures = (s for base in type(obj).__mro__ for s in _structures.get(qualified(base), ()))
        found = next((entry for recognises, entry in structures if recognises(obj)), None)
    return found
