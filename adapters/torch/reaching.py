"""What a copy of a PyTorch model would go on using of the original: what functions in it hold, which copying does not reach."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from balred.registry.reaching import Reach


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
    reaches = Reach(inside, (torch.Tensor,), (nn.Module, torch.Tensor), _copies_all)
    for name, module in root.named_modules():
        for key, value in _copied(module):
            if reaches(value):
                where = ".".join(filter(None, [path, name, key]))
                return (
                    f"{where} is or has a function that holds a module or a tensor of the model (or another object that copies share), so a copy "
                    "would go on running the original: bind it to the module instead, with types.MethodType or functools.partial"
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


def _copies_all(x: Any) -> bool:
    """Whether a copy of an object is one of all that it holds, so that it does not say itself what it takes along."""
    cls = type(x)
    if hasattr(cls, "__deepcopy__") or "__setstate__" in dir(cls):
        return isinstance(x, (nn.Module, functools.partial))
    return getattr(cls, "__getstate__", None) is getattr(object, "__getstate__", None)
