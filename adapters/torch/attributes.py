"""What a live layer takes over from a copy of another size: data, and nothing that would go on running the copy.

A copy of a layer has copies of all that the layer refers to.  A bound method, a ``functools.partial`` or a hook in it is bound to
the copy; in the live layer it would compute with parameters that nobody trains.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.Size, torch.dtype, torch.device, np.generic)
_KEPT = (nn.Module, nn.Parameter, type, functools.partial)


def take_data(mine: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Give the attributes `mine` of a module the data in `other`, those of a copy of it that has another size."""
    _take(mine, other, {id(mine)})


def _take(mine: dict[str, Any], other: Mapping[str, Any], met: set[int]) -> None:
    for key in [k for k, v in mine.items() if isinstance(v, torch.Tensor) and k not in other]:
        del mine[key]  # kept from the old size, as recurrences keep their matrices
    for key, value in other.items():
        if key in ("_parameters", "_buffers", "_modules") or "_hooks" in str(key):
            continue
        if key not in mine:
            if _is_data(value):
                mine[key] = value
        else:
            mine[key] = _merged(mine[key], value, met)


def _merged(mine: Any, other: Any, met: set[int]) -> Any:
    """What stands for `mine`: `other` where that is data, else `mine` with the data of `other` in it."""
    if isinstance(mine, _KEPT) or inspect.isroutine(mine) or id(mine) in met:
        return mine
    alike = type(mine) is type(other)
    if alike and isinstance(mine, dict):  # what others may hold too stays the same object
        met.add(id(mine))
        _take(mine, other, met)
    elif alike and isinstance(mine, list) and len(mine) == len(other):
        met.add(id(mine))
        mine[:] = [_merged(a, b, met) for a, b in zip(mine, other, strict=True)]
    elif _is_data(other):
        return other
    elif alike and hasattr(mine, "__dict__"):
        met.add(id(mine))
        _take(vars(mine), vars(other), met)
    return mine


def _is_data(value: Any) -> bool:
    if isinstance(value, _KEPT):
        return False
    if isinstance(value, dict):
        return type(value) is dict and all(map(_is_data, value)) and all(map(_is_data, value.values()))
    if type(value) in (list, tuple, set, frozenset):
        return all(map(_is_data, value))
    return isinstance(value, (*_PLAIN, torch.Tensor, np.ndarray))
