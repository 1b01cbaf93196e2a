"""What a copy of a model would go on using of the original: what functions in it hold, which copying does not reach.

``copy.deepcopy`` leaves functions and weak references as they are.  What they refer to (by their closures, defaults and globals)
would be of the original, so a forward or a hook in the copy would run weights that nobody trains.
"""

from __future__ import annotations

import functools
import gc
import types
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

_ENDS = (type, types.ModuleType, types.CodeType, types.FrameType, str, bytes, int, float, complex, torch.Tensor)
_CACHED = type(functools.lru_cache(print))
_METHODS = (types.MethodType, types.BuiltinMethodType)


def held_by_functions(root: nn.Module, path: str = "") -> str | None:
    """Where a function in a model, which is at `path`, holds a module or a tensor of it; None if none does.

    Examples
    --------
    >>> model = nn.Linear(1, 1)
    >>> held_by_functions(model)
    >>> parts = [model.weight]
    >>> model.forward = lambda x: x @ parts[0]
    >>> held_by_functions(model).partition(" is ")[0]
    'forward'
    """
    inside = {
        id(x) for m in root.modules() for x in (m, *m._parameters.values(), *m._buffers.values()) if x is not None
    }
    met: set[tuple[int, bool]] = set()
    for name, module in root.named_modules():
        for key, value in _copied(module):
            if _reaches(value, inside, met):
                where = ".".join(filter(None, [path, name, key]))
                return (
                    f"{where} is or has a function that holds a module or a tensor of the model, so a copy would go on running "
                    "the original: bind it to the module instead, with types.MethodType or functools.partial"
                )
    return None


def _copied(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The attributes of a module that a copy of it gets copies of, tensors and modules aside."""
    if (
        type(module).__setstate__ is not nn.Module.__setstate__
        or type(module).__getstate__ is not nn.Module.__getstate__
    ):
        return  # makes its own in a copy
    for key, value in module.__getstate__().items():  # type: ignore[no-untyped-call]
        if key not in ("_parameters", "_buffers", "_modules"):
            yield key, value


def _reaches(value: Any, inside: set[int], met: set[tuple[int, bool]]) -> bool:
    """Whether something from `inside` is reached by way of a function."""
    todo = [(value, False)]
    while todo:
        x, shared = todo.pop()
        if (id(x), shared) in met:
            continue
        met.add((id(x), shared))
        if id(x) in inside:
            if shared:
                return True
            continue
        if isinstance(x, types.FunctionType):
            todo += [(y, True) for y in _held(x)]
        elif isinstance(x, _CACHED):
            todo += [(y, True) for y in gc.get_referents(x)]
        elif isinstance(x, weakref.ref):
            todo.append((x(), True))
        elif isinstance(x, _METHODS):
            todo += [
                (y, shared or isinstance(x, types.BuiltinMethodType))
                for y in (x.__self__, getattr(x, "__func__", None))
            ]
        elif not isinstance(x, _ENDS) and (shared or _copies_all(x)):
            todo += [(y, shared) for y in gc.get_referents(x)]
    return False


def _held(function: types.FunctionType) -> Iterator[Any]:
    """What a function refers to: of its globals the modules and tensors that it names."""
    yield from (c.cell_contents for c in function.__closure__ or () if _is_filled(c))
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    yield from vars(function).values()
    named = (function.__globals__.get(name) for name in function.__code__.co_names)
    yield from (x for x in named if isinstance(x, (nn.Module, torch.Tensor, list, tuple, dict)))


def _copies_all(x: Any) -> bool:
    """Whether a copy of an object is one of all that it holds, so that it does not say itself what it takes along."""
    cls = type(x)
    if hasattr(cls, "__deepcopy__") or "__setstate__" in dir(cls):
        return isinstance(x, (nn.Module, functools.partial))
    return getattr(cls, "__getstate__", None) is getattr(object, "__getstate__", None)


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False
