"""Where models write their state dimension besides the weights: configurations, as objects and as dicts, nested in each other.

A model made anew from the configuration of a cut one must take its weights, so every one of them follows.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import types
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from balred.systems.arrays import warn_caller

SIZES = ("ssm_state_size", "d_state", "state_size", "mamba_d_state", "linear_key_head_dim")
"""What the state dimension is called: in layers and in their configurations."""
_NAMED = re.compile("config|conf$|cfg|args|hparams|params$|settings|options|kwargs", re.IGNORECASE)
_ARGUMENTS = ("ssm_cfg", "ssm_config", "mamba_kwargs", "ssm_kwargs")
"""Dicts of arguments that a layer is made with: what is not in them has the layer's own default."""


class ConfigurationWarning(UserWarning):
    """A configuration holds one number of states for layers that now have several: a model made anew from it takes no more their weights.

    Examples
    --------
    >>> import warnings
    >>> from balred.adapters.torch import ConfigurationWarning
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", ConfigurationWarning)  # such a model is refused now
    """


Held = dict[tuple[str, str], int]
"""Numbers of states in configurations, by the path of the module that holds one, and the number's name there."""


def sizes_held(model: nn.Module) -> Held:
    """The numbers of states in all configurations that the modules of a model hold.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 2))
    >>> model.config = types.SimpleNamespace(d_state=8)
    >>> sizes_held(model)
    {('', 'config.d_state'): 8}
    """
    return {
        (path, key): size
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if name not in ("_parameters", "_buffers", "_modules") and "_hooks" not in name
        for key, size in _sizes(name, value, name, set())
    }


def _sizes(name: str, value: Any, path: str, met: set[int]) -> Iterator[tuple[str, int]]:
    several = isinstance(value, list) and bool(_NAMED.search(name))
    if id(value) in met or not (several or _is_configuration(name, value)):
        return
    met.add(id(value))
    if several:
        for i, one in enumerate(value):
            yield from _sizes(name, one, f"{path}[{i}]", met)
        return
    for key, one in _members(value).items():
        if key in SIZES and type(one) is int:
            yield f"{path}.{key}", one
        yield from _sizes(str(key), one, f"{path}.{key}", met)


def warn_if_torn(held: Held, model: nn.Module, before: Mapping[str, int], after: Mapping[str, int]) -> None:
    """Warn if layers that had the number of states of a configuration around them no longer have the one it holds now.

    A module whose configurations hold several numbers has one for each kind of layers, so nothing is said of it.

    Parameters
    ----------
    held : dict
        What :func:`sizes_held` told before.
    model : torch.nn.Module
        As it is now.
    before, after : dict
        States of the layers by name.
    """
    now = sizes_held(model)
    numbers: dict[str, set[int]] = {}
    for (path, _), size in held.items():
        numbers.setdefault(path, set()).add(size)
    for (path, key), size in held.items():
        if len(numbers[path]) > 1:
            continue
        inside = [n for n, states in before.items() if states == size and (not path or f"{n}.".startswith(f"{path}."))]
        got = now.get((path, key), size)
        other = [f"{n or 'the layer'} with {after[n]}" for n in inside if after[n] != got]
        if other:
            warn_caller(
                f"{'.'.join(filter(None, [path, key]))} holds one number of states, {size} before and {got} now, and of the layers that had as "
                f"many it leaves out {', '.join(other)}: a model made from it does not take their weights if they follow it; give all "
                "of them one rank, or load with balred.load",
                ConfigurationWarning,
            )
            return


def resize_configurations(module: nn.Module, states: int, before: int) -> None:
    """Write the number of states into all configurations that a module, itself, holds, where they have the number `before`.

    Others are those of layers of another kind.
    """
    met: set[int] = set()
    for name, value in list(vars(module).items()):
        if name not in ("_parameters", "_buffers", "_modules") and "_hooks" not in name:
            new = _resized(name, value, states, before, met)
            if new is not value:
                setattr(module, name, new)


def _resized(name: str, value: Any, states: int, before: int, met: set[int]) -> Any:
    """A configuration with the number of states in it: the same object, or another one where it cannot be changed."""
    several = isinstance(value, list) and bool(_NAMED.search(name))
    if id(value) in met or not (several or _is_configuration(name, value)):
        return value
    met.add(id(value))
    if several:
        value[:] = [_resized(name, one, states, before, met) for one in value]
        return value
    own = _members(value)
    sizes = {key: own[key] for key in SIZES if type(own.get(key)) is int}
    new = {key: states for key, size in sizes.items() if size == before}
    if name in _ARGUMENTS and isinstance(value, dict) and not sizes:
        new["d_state"] = states
    new |= {k: x for k, old in own.items() if (x := _resized(str(k), old, states, before, met)) is not old}
    if isinstance(value, tuple):
        return value._replace(**new) if new else value  # type: ignore[attr-defined]  # a named one
    for key, one in new.items():
        if isinstance(value, dict):
            value[key] = one
        elif dataclasses.is_dataclass(value):
            object.__setattr__(value, key, one)  # frozen ones too
        else:
            setattr(value, key, one)
    return value


def _is_configuration(name: str, value: Any) -> bool:
    if isinstance(value, dict):
        return True
    if isinstance(value, (nn.Module, torch.Tensor, type)) or callable(value) or not _members(value):
        return False
    plain = dataclasses.is_dataclass(value) or isinstance(value, (types.SimpleNamespace, argparse.Namespace, tuple))
    return plain or bool(_NAMED.search(name) or _NAMED.search(type(value).__name__))


def _members(value: Any) -> dict[str, Any]:
    """What a dict, an object or a named tuple holds by name."""
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, tuple):
        return value._asdict() if hasattr(value, "_asdict") else {}
    slots = [key for cls in type(value).__mro__ for key in _names(getattr(cls, "__slots__", ()))]
    found = {key: getattr(value, key) for key in slots if not key.startswith("__") and hasattr(value, key)}
    return found | getattr(value, "__dict__", {})


def _names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def is_size(value: Any, states: int) -> bool:
    """Whether a value is this number of states, and no truth value or tensor that equals it."""
    return type(value) is int and value == states
