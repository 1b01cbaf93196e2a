"""What functions hold: a copy of a model, or a model with other layers, has the same functions, and they run what they held before.

Neither ``copy.deepcopy`` nor a walk over a pytree goes into functions, weak references, and objects that say that their copy is they
themselves.  What they refer to (by their closures,
defaults and globals) would be of the original, so a forward or a hook in the smaller model would run weights that nobody trains.
"""

from __future__ import annotations

import copy
import functools
import gc
import types
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

_ENDS = (type, types.ModuleType, types.CodeType, types.FrameType, str, bytes, int, float, complex)
_CACHED = type(functools.lru_cache(print))
_METHODS = (types.MethodType, types.BuiltinMethodType)


class Reach:
    """Whether something is reached by way of functions.

    Parameters
    ----------
    inside : set of int
        The ids of what is looked for.
    ends : tuple of type
        What holds nothing else that matters, besides numbers, texts, classes and the like.
    parts : tuple of type
        Of the globals that a function names these are looked into.
    copies : callable
        Whether a copy of an object is one of all that it holds, so that what it holds is no longer what is looked for.

    Examples
    --------
    >>> weights = [1.0, 2.0]
    >>> reach = Reach({id(weights)}, (), (), lambda x: isinstance(x, dict))
    >>> reach({"own": weights}), reach({"run": lambda x: x * weights[0]})
    (False, True)
    """

    def __init__(
        self, inside: set[int], ends: tuple[type, ...], parts: tuple[type, ...], copies: Callable[[Any], bool]
    ) -> None:
        self._inside, self._ends, self._parts, self._copies = inside, (*_ENDS, *ends), parts, copies
        self._met: dict[tuple[int, bool], Any] = {}
        """What was met, which must live as long, or its id may be another's."""

    def __call__(self, value: Any, shared: bool = False) -> bool:
        """Whether `value` leads there by way of a function; with `shared` in any way, since it is held as it is itself."""
        todo = [(value, shared)]
        while todo:
            x, shared = todo.pop()
            if (id(x), shared) in self._met:
                continue
            self._met[id(x), shared] = x
            if id(x) in self._inside:
                if shared:
                    return True
                continue
            todo += self._next(x, shared)
        return False

    def _next(self, x: Any, shared: bool) -> list[tuple[Any, bool]]:
        if type(x) in weakref.ProxyTypes:  # which pass for what they stand for
            return [(_behind(x), True)]
        if isinstance(x, types.FunctionType):
            return [(y, True) for y in self._held(x)]
        if isinstance(x, _CACHED):
            return [(y, True) for y in gc.get_referents(x)]
        if isinstance(x, weakref.ref):
            return [(x(), True)]
        if isinstance(x, _METHODS):
            builtin = isinstance(x, types.BuiltinMethodType)
            return [(y, shared or builtin) for y in (x.__self__, getattr(x, "__func__", None))]
        if isinstance(x, self._ends):
            return []
        held = (*gc.get_referents(x), *self._wrapped(x))
        if shared or self._copies(x):
            return [(y, shared) for y in held]
        return [(y, True) for y in held] if held and _stays_itself(x) else []

    def _wrapped(self, x: Any) -> Iterator[Any]:
        """What a compiled function was made of."""
        inner = getattr(x, "__wrapped__", None) if callable(x) else None
        if inner is not None:
            yield inner

    def _held(self, function: types.FunctionType) -> Iterator[Any]:
        """What a function refers to: of its globals the parts that it names."""
        yield from (c.cell_contents for c in function.__closure__ or () if _is_filled(c))
        yield from function.__defaults__ or ()
        yield from (function.__kwdefaults__ or {}).values()
        yield from vars(function).values()
        named = (function.__globals__.get(name) for name in function.__code__.co_names)
        yield from (x for x in named if isinstance(x, (*self._parts, list, tuple, dict)))


def holders(
    inside: Mapping[str, set[int]],
    several: Sequence[tuple[str, Any]],
    reaching: Callable[[set[int]], Callable[[Any], bool]],
) -> dict[str, str]:
    """By name of what something of `several` leads to, the first that does.

    Parameters
    ----------
    inside : mapping of str to set of int
        The ids of what is looked for, by name.
    several : sequence of (str, object)
        Where something stands, and what it is.
    reaching : callable
        Makes of ids the function that says whether an object leads to one of them.

    Examples
    --------
    >>> weights, bias = [1.0], [2.0]
    >>> several = [("run", lambda x: x * weights[0]), ("again", lambda x: weights)]
    >>> holders({"weights": {id(weights)}, "bias": {id(bias)}}, several, lambda ids: Reach(ids, (), (), lambda x: True))
    {'weights': 'run'}
    """

    def first(ids: set[int]) -> str | None:
        leads = reaching(ids)
        return next((where for where, x in several if leads(x)), None)

    if first(set().union(*inside.values())) is None:  # as a rule: one search for all
        return {}
    return {name: where for name, ids in inside.items() if (where := first(ids)) is not None}


def _stays_itself(x: Any) -> bool:
    """Whether a copy of an object is the object, as it is of those that are shared on purpose."""
    if not hasattr(type(x), "__deepcopy__"):
        return False
    try:
        return copy.deepcopy(x) is x
    except Exception:  # then copying the model will say so
        return False


def _behind(proxy: Any) -> Any:
    """What a ``weakref.proxy`` stands for."""
    try:
        return proxy.__reduce_ex__.__self__
    except ReferenceError:
        return None


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False
