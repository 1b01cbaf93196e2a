"""Where models write their state dimension besides the weights: configurations, as objects and as dicts, nested in each other.

A model made anew from the configuration of a cut one must take its weights, so every one of them follows.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from balred.registry.entries import entry_of
from balred.systems.arrays import warn_caller

SIZES = ("ssm_state_size", "d_state", "state_size", "mamba_d_state", "linear_key_head_dim")
"""What the state dimension is called: in layers and in their configurations."""
_NAMED = re.compile("config|conf$|cfg|args|hparams|params$|settings|options|kwargs", re.IGNORECASE)
_ARGUMENTS = ("ssm_cfg", "ssm_config", "mamba_kwargs", "ssm_kwargs")
"""Dicts of arguments that a layer is made with: what is not in them has the layer's own default."""


class ConfigurationWarning(UserWarning):
    """A configuration holds one number of states for layers that no longer have one number: a model made from it cannot load their weights.

    Examples
    --------
    >>> import warnings
    >>> from balred.adapters.torch import ConfigurationWarning
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", ConfigurationWarning)  # such a model is refused now
    """


class Number(NamedTuple):
    """A number of states, or one for each layer, in a configuration.

    Attributes
    ----------
    size : int, or tuple of int
    places : tuple of (str, str)
        The paths of the modules that hold the configuration, and the number's name there.
    """

    size: int | tuple[int, ...]
    places: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """That in the outermost module."""
        return ".".join(filter(None, self.places[0]))


def sizes_held(model: nn.Module) -> list[Number]:
    """The numbers of states in all configurations that the modules of a model hold, each once.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 2))
    >>> model.config = model[0].config = types.SimpleNamespace(d_state=8)
    >>> sizes_held(model)
    [Number(size=8, places=(('', 'config.d_state'), ('0', 'config.d_state')))]
    """
    found: dict[tuple[int, str], list[tuple[str, str]]] = {}
    sizes: dict[tuple[int, str], int | tuple[int, ...]] = {}
    for path, module in model.named_modules():
        own = {k: v for k, v in vars(module).items() if k in SIZES and type(v) is int}
        several = [(k, (id(module), k), v) for k, v in own.items()]
        for name, value in _attributes(module):
            several += _sizes(name, value, name, set())
        for key, owner, size in several:
            found.setdefault(owner, []).append((path, key))
            sizes[owner] = size
    return [Number(sizes[owner], tuple(places)) for owner, places in found.items()]


def _attributes(module: nn.Module) -> list[tuple[str, Any]]:
    return [
        (name, value)
        for name, value in vars(module).items()
        if name not in ("_parameters", "_buffers", "_modules") and "_hooks" not in name
    ]


def _sizes(name: str, value: Any, path: str, met: set[int]) -> Iterator[tuple[str, tuple[int, str], Any]]:
    """Each number's path, what it is a member of, and the number."""
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
            yield f"{path}.{key}", (id(value), str(key)), one
        elif _is_one_for_each(key, one):
            yield f"{path}.{key}", (id(value), str(key)), tuple(one)
        yield from _sizes(str(key), one, f"{path}.{key}", met)


def _is_one_for_each(key: Any, value: Any) -> bool:
    """Whether it is a list of numbers of states, as hybrids have one for each of their layers; others have none, or zero."""
    named = key in SIZES or any(key == f"{size}s" for size in SIZES)
    return named and isinstance(value, (list, tuple)) and all(x is None or type(x) is int for x in value)


@contextmanager
def followed(model: nn.Module, ranks: Callable[[], Mapping[str, int]]) -> Iterator[None]:
    """Inside, layers of `model` change their sizes, which ``ranks()`` tells; afterwards its configurations hold the new ones."""
    held = sizes_held(model)
    before = ranks() if held else {}
    yield
    if held:
        follow_cuts(held, model, before, ranks())


def follow_cuts(held: list[Number], model: nn.Module, before: Mapping[str, int], after: Mapping[str, int]) -> None:
    """Write into configurations what the layers have now that had their numbers, and warn where that is not one number.

    A number belongs to the layers in the modules that hold it which had as many states, and where there are other numbers beside it to
    those of them that write configurations; a list has one for each of all layers.

    Parameters
    ----------
    held : list of Number
        What :func:`sizes_held` told before.
    model : torch.nn.Module
        As it is now.
    before, after : dict
        States of the layers by name, in their order.
    """
    after = {name: after.get(name, states) for name, states in before.items()}
    told = []
    for number in held:
        inside = [n for n in before if any(not p or f"{n}.".startswith(f"{p}.") for p, _ in number.places)]
        if isinstance(number.size, tuple):
            why = _follow_list(number, number.size, model, [before[n] for n in inside], [after[n] for n in inside])
        else:
            mine = {n: after[n] for n in inside if before[n] == number.size}
            why = _follow_one(number, model, mine, held) if inside else ""  # in a layer it was made with it
        told += [f"{number.name} {why}"] if why else []
    if told:
        warn_caller(
            f"{told[0]}: a model made from it cannot load these weights. Give all these layers one rank, or load with balred.load",
            ConfigurationWarning,
        )


def _follow_one(number: Number, model: nn.Module, mine: Mapping[str, int], held: list[Number]) -> str:
    """Write what the layers now have that had the number, or say why that cannot be."""
    now = set(mine.values())
    if len(now) > 1 and _has_others_beside(number, held):
        now = {states for n, states in mine.items() if _writes(model, n)} or now
    if len(now) < 2:
        _write(number, model, now.pop() if now else number.size)
        return ""
    got = dict(_found(model)).get(number.places[0], number.size)
    other = ", ".join(f"{n or 'the layer'} with {states}" for n, states in mine.items() if states != got)
    return f"holds one number of states, {number.size} before and {got} now, but these layers have another: {other}"


def _has_others_beside(number: Number, held: list[Number]) -> bool:
    """Whether a module holds other numbers too, so that not all of its layers may follow this one."""
    paths = {path for path, _ in number.places}
    return any(one.size != number.size and paths & {path for path, _ in one.places} for one in held)


def _writes(model: nn.Module, name: str) -> bool:
    """Whether a layer is of a kind that is known to be made from a configuration."""
    entry = entry_of(model.get_submodule(name))
    return entry is not None and entry.resize_model is not None


def _follow_list(number: Number, sizes: tuple[int, ...], model: nn.Module, before: list[int], after: list[int]) -> str:
    """The same for a list, of which those that are no number or zero are of blocks without states."""
    if [x for x in sizes if x] == before:
        left = iter(after)
        _write(number, model, [next(left) if x else x for x in sizes])
    elif {a for a, b in zip(before, after, strict=True) if a != b} & set(sizes):
        return f"holds the list {list(sizes)} of numbers of states, but the model has layers of {before} states, now {after}"
    return ""


def _found(model: nn.Module) -> Iterator[tuple[tuple[str, str], Any]]:
    return ((place, number.size) for number in sizes_held(model) for place in number.places)


def _write(number: Number, model: nn.Module, size: Any) -> None:
    """Put a number into all its places, where it is another one."""
    for path, key in number.places:
        module = model.get_submodule(path)
        if key in SIZES:
            vars(module)[key] = size
            continue

        def change(_: str, path: str, value: Any, key: str = key) -> dict[str, Any]:
            own = {k: old for k, old in _members(value).items() if f"{path}.{k}" == key and old != size}
            return {k: type(old)(size) if isinstance(old, (list, tuple)) else size for k, old in own.items()}

        _edit(module, change)


def resize_configurations(module: nn.Module, states: int, before: int) -> None:
    """Write the number of states into all configurations that a module, itself, holds, where they have the number `before`.

    Others are those of layers of another kind.
    """

    def change(name: str, _: str, value: Any) -> dict[str, Any]:
        own = _members(value)
        sizes = {key: own[key] for key in SIZES if type(own.get(key)) is int}
        missing = name in _ARGUMENTS and isinstance(value, dict) and not sizes
        return {"d_state": states} if missing else {key: states for key, size in sizes.items() if size == before}

    _edit(module, change)


Change = Callable[[str, str, Any], dict[str, Any]]
"""New members of a configuration, from its name, its path and itself."""


def _edit(module: nn.Module, change: Change) -> None:
    """Change all configurations that a module, itself, holds."""
    for name, value in _attributes(module):
        new = _edited(name, value, name, change, set())
        if new is not value:
            setattr(module, name, new)


def _edited(name: str, value: Any, path: str, change: Change, met: set[int]) -> Any:
    """A configuration that was changed: the same object, or another one where it cannot be."""
    several = isinstance(value, list) and bool(_NAMED.search(name))
    if id(value) in met or not (several or _is_configuration(name, value)):
        return value
    met.add(id(value))
    if several:
        value[:] = [_edited(name, one, f"{path}[{i}]", change, met) for i, one in enumerate(value)]
        return value
    new = change(name, path, value)
    for key, old in _members(value).items():
        if key not in new and (x := _edited(str(key), old, f"{path}.{key}", change, met)) is not old:
            new[key] = x
    return _changed(value, new)


def _changed(value: Any, new: Mapping[str, Any]) -> Any:
    """A configuration with other members: the same object, or another one where it cannot be changed."""
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
