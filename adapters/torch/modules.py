"""PyTorch models of layers: finding them, copying them with others in their place, and resizing one in place.

Loops hold references (optimizers, schedulers, the loop itself), so a layer that is cut in training keeps its parameters'
identity: each gets smaller data.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from balred.adapters.torch.attributes import take_data
from balred.adapters.torch.configurations import follow_cuts, sizes_held
from balred.adapters.torch.obstacles import obstacles, references, tie, unfit
from balred.adapters.torch.optimizers import forget_old_shapes
from balred.adapters.torch.running import RUNNING
from balred.adapters.torch.trying import answers, broken
from balred.adapters.torch.unknown import fixed, seen
from balred.registry.entries import entry_of, register_container
from balred.registry.kinds import Container
from balred.registry.sizes import ranks_known, states_of


def blank_copy(layer: nn.Module, tensors: Mapping[str, torch.Tensor]) -> Any:
    """A copy of `layer` in which parameters and buffers have the values that `tensors` gives by name.

    Names may be dotted.  Everything else (hooks, modes, ``requires_grad``, attributes of the parameters such as
    ``_optim``) is copied.

    Raises
    ------
    ValueError
        The layer has one parameter under two of the names, and the values differ.

    Examples
    --------
    >>> import torch
    >>> from balred.adapters.torch import blank_copy
    >>> layer = torch.nn.Linear(2, 3)
    >>> small = blank_copy(layer, {"weight": torch.zeros(1, 2), "bias": torch.zeros(1)})
    >>> small(torch.ones(1, 2)).shape, layer.weight.shape
    (torch.Size([1, 1]), torch.Size([3, 2]))
    """
    new, given = _copied(layer), dict[int, tuple[str, torch.Tensor]]()
    old = {id(x) for x in _tensors(layer).values()}
    for name, value in tensors.items():
        owner = new.get_submodule(name.rpartition(".")[0])
        last = name.rpartition(".")[2]
        if last in owner._parameters:
            parameter = owner._parameters[last]
            assert parameter is not None
            if id(parameter) in old:
                raise ValueError(
                    f"a copy of a parameter must be another one, got {name} of {type(layer).__name__}, a {type(parameter).__name__} whose "
                    "__deepcopy__ returns itself: make it a plain parameter first"
                )
            first, other = given.setdefault(id(parameter), (name, value))
            if other is not value and (other.shape != value.shape or not torch.equal(other, value)):
                raise ValueError(
                    f"every parameter of a layer must have one name, got one parameter that is both {first} and {name} in {type(layer).__name__}, "
                    "which a cut makes different: untie them first"
                )
            parameter.grad = None
            parameter.data = value.detach().to(parameter.dtype)
        elif last in owner._buffers:
            owner._buffers[last] = value.detach()
        else:
            setattr(owner, last, value)
    return _trainable(new)


def _trainable(module: Any) -> Any:
    """The module, or a copy that can be trained if it was made in inference mode, where tensors are made for no other use."""
    if not torch.is_inference_mode_enabled():
        return module
    with torch.inference_mode(False):
        return _copied(module)


def _copied(module: nn.Module, others: Mapping[int, Any] | None = None) -> Any:
    """A deep copy that keeps the attributes of parameters, such as ``_optim``, which PyTorch's own copy drops.

    `others` stand in for objects, by their ids, wherever the module refers to them: by names, in lists, in bound methods.
    """
    copies = _computed_ones(module) | dict(others or {})
    new = copy.deepcopy(module, copies)
    _check_other(module, new)
    for parameter in module.parameters():
        if id(parameter) in copies and id(parameter) not in (others or {}):
            vars(copies[id(parameter)]).update(copy.deepcopy(vars(parameter), copies))
    return new


def _computed_ones(model: nn.Module) -> dict[int, Any]:
    """By their ids copies of the tensors that modules have computed from parameters, which PyTorch copies to no others.

    ``weight_norm`` and pruning leave such a one after every call, and compute it anew at the next.
    """
    kept = (x for module in model.modules() for x in vars(module).values())
    return {id(x): x.detach().clone() for x in kept if isinstance(x, torch.Tensor) and not x.is_leaf}


def resize(parameter: nn.Parameter, data: torch.Tensor) -> None:
    """Give a live parameter data of another shape.

    While the graph of the last loss is alive PyTorch keeps the parameter's gradient accumulator, which expects the old
    shape; it is dropped when the dtype changes, so the data passes through another one.
    """
    parameter.grad = None
    other = torch.float32 if parameter.dtype != torch.float32 else torch.float64
    parameter.data = torch.empty(0, dtype=other, device=parameter.device)
    parameter.data = data


def set_layer(old: nn.Module, new: nn.Module, assign: Callable[[nn.Parameter, torch.Tensor], None] = resize) -> None:
    """Make `old` equal `new`, a layer of the same type and other sizes, keeping the identity of its parameters.

    Of attributes only data come over: numbers, texts, tensors, and what is made of them.  Functions, bound methods, modules
    and hooks stay those of `old`, since those of `new` run `new`.

    ``assign(parameter, data)`` gives a parameter its data.

    Examples
    --------
    >>> import torch
    >>> from balred.adapters.torch import LRU, set_layer
    >>> layer, small = LRU(2, 16), LRU(2, 4)
    >>> parameter = layer.nu_log
    >>> set_layer(layer, small)
    >>> layer.states, layer.nu_log is parameter
    (4, True)
    """
    theirs = dict(new.named_modules())
    for name, mine in old.named_modules():
        other = theirs[name]
        for key, parameter in mine._parameters.items():
            value = other._parameters[key]
            if parameter is not None and value is not None:
                assign(parameter, value.data)
        for key, buffer in other._buffers.items():
            kept = mine._buffers.get(key)
            if buffer is None or kept is None or kept.shape != buffer.shape or not torch.equal(kept, buffer):
                mine._buffers[key] = buffer
        take_data(vars(mine), vars(other))


def check_complex(weight: torch.Tensor) -> None:
    """Raise unless a layer that computes with complex numbers has its weights in a precision in which PyTorch does so."""
    if weight.dtype in (torch.bfloat16, torch.float16):
        raise ValueError(
            f"a layer with complex numbers must be in single or double precision, got {str(weight.dtype).removeprefix('torch.')}: "
            "convert it with float() first"
        )


def put_layer(model: nn.Module, layer: nn.Module, new: nn.Module) -> None:
    """Make `layer`, which is in `model`, equal `new`, and tell the model."""
    entry = entry_of(layer)
    if entry is None or entry.resize_model is None:
        set_layer(layer, new)
        return
    before = states_of(layer)
    set_layer(layer, new)
    alike = [one for one in _layers(model).values() if entry_of(one) is entry]
    if entry.selective is not None or len({states_of(one) for one in alike}) == 1:
        entry.resize_model(model, layer, before)  # of several it follows the last one


def _layers(model: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        fixed_code = isinstance(module, torch.jit.ScriptModule)
        if name and not (inside or fixed_code) and entry_of(module) is not None and not _passes_on(module):
            found[name] = module
    return found


def _passes_on(module: nn.Module) -> bool:
    """Whether a module is none but looks like one, since it passes on what it is asked for to one inside (``torch.compile``)."""
    entry, own = entry_of(module), (*module._parameters, *module._buffers)
    return not own and any(entry_of(part) is entry for part in module.children())


def _replaced(model: nn.Module, new: Mapping[str, Any]) -> nn.Module:
    # a layer that is used in several places is replaced in all of them
    standing: dict[int, Any] = {}
    for name, layer in new.items():
        standing |= references(model.get_submodule(name), layer)
    result: nn.Module = _copied(model, standing)
    tie(model, result)
    held = sizes_held(model) if new else []
    before = ranks_known(_layers(model)) if held else {}
    for name, layer in new.items():
        entry = entry_of(layer)
        if entry is not None and entry.resize_model is not None:
            entry.resize_model(result, layer, states_of(model.get_submodule(name)))
    if held:
        follow_cuts(held, result, before, before | {name: states_of(layer) for name, layer in new.items()})
    inside = [x for module in result.modules() for x in vars(module).values() if isinstance(x, torch.optim.Optimizer)]
    if inside:  # as agents have one
        forget_old_shapes([weakref.ref(one) for one in inside], result)
    trainable: nn.Module = _trainable(result)
    return trainable


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    parameters, buffers = (
        dict(named(remove_duplicate=False)) for named in (model.named_parameters, model.named_buffers)
    )
    return parameters | buffers


def _with_tensors(model: nn.Module, new: Mapping[str, torch.Tensor]) -> Any:
    copies = _computed_ones(model)
    for name, old in _tensors(model).items():
        value = new[name]
        if isinstance(old, nn.Parameter):
            value = copies.get(id(old), nn.Parameter(value, requires_grad=old.requires_grad))
            vars(value).update(copy.deepcopy(vars(old)))
        copies[id(old)] = value
    result = copy.deepcopy(model, copies)  # takes these for what it has copied already, so that no old value is
    _check_other(model, result)
    return result


def _check_other(module: nn.Module, new: nn.Module) -> None:
    if new is module:
        raise ValueError(
            f"a copy of a module must be another one, got a {type(module).__name__} whose __deepcopy__ returns itself"
        )


def _broken(layer: nn.Module, new: nn.Module) -> str | None:
    return broken(_copied(layer), _copied(new))


register_container(
    "torch.nn.modules.module.Module",
    Container(
        _layers,
        _replaced,
        _tensors,
        _with_tensors,
        unfit=unfit,
        obstacles=obstacles,
        seen=seen,
        fixed=fixed,
        running=RUNNING,
        broken=_broken,
        answers=answers,
    ),
)
