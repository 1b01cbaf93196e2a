"""The registry of what can be read as a system and written back, filled lazily.

An adapter reads the operator out of an object and returns it with the way back.  Which adapter knows an object is found
by the class names in its MRO; the adapter module of a package is imported when an object of that package first
arrives, so importing ``balred`` loads no framework.  Other distributions plug in through the entry-point group
``balred.adapters``: the entry's name is the top-level package of the classes, its value a module that registers.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar, overload

from balred.registry.kinds import Adapter, Carry, Container, Entry, Recognises, Selective
from balred.systems.arrays import entry_points

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


_entries: dict[str, Entry] = {}
_structures: dict[str, list[tuple[Recognises, Entry]]] = {}
_containers: dict[str, Container] = {}
_loaded: set[str] = set()


class AdapterNotFound(TypeError):
    """The library knows no adapter for the type of the object, or for any layer of the model.

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
        If it is left out, a decorator is returned.
    carry : callable, optional
        ``carry(old, new, moments, change, power)`` takes optimizer moments through a cut (see *Extending*).  Without it they are reset.
    recognises : callable, optional
        Use the adapter only for those objects of `cls` for which ``recognises(obj)`` is true.  A layer that people copy from
        project to project is recognised by its arrays: ``register("torch.nn.modules.module.Module", ..., recognises=...)``.
        The function must be quick and must not fail.  An entry for the class itself has priority.
    accounts : iterable of str, optional
        Names of the arrays, and of modules with arrays, that the adapter knows.  A cut raises an error if a layer has
        another array with an axis as long as one that is cut.  By default only arrays of the layer itself are checked,
        and axes as long as one of its widths are left out.

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
    """Register an :class:`balred.registry.Entry` for a class or its qualified name, or for those of its objects that `recognises` is true for.

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
    """Register layers whose states can be selected but not combined, in most cases because their dynamics depend on the input.

    Parameters
    ----------
    cls : type or str
        The class, or its qualified name ``"package.module.Class"`` if it should not be imported yet.
    selective : balred.registry.Selective
    recognises : callable, optional
        Use the entry only for objects for which ``recognises(obj)`` is true.  So a layout that several packages share,
        or that people copy, is recognised under any name.  An entry for the class itself has priority.
    resize_model : callable, optional
        ``resize_model(model, layer, before)`` writes the states of a replaced layer into the (new) model, where it had `before`.
    adapter : callable, optional
        ``adapter(obj) -> (system, rebuild)``, for layers that are a linear operator nevertheless.
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
    """Register how to find and replace the layers in models of `cls`.

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


def is_known_itself(obj: Any) -> bool:
    """Whether the very class of `obj` is registered, not one that it is made from, and not what it looks like."""
    return qualified(type(obj)) in _entries


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
