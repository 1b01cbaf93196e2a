"""What optimizers of PyTorch hold of parameters: their state is of old shapes once a layer has other sizes.

Fused optimizers compute wrong updates with such a state, without a word.
"""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from balred.registry.reading import layers_of

Others = list[weakref.ref[torch.optim.Optimizer]]


def bare(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer inside what Accelerate or Lightning wrapped it in."""
    inner = getattr(optimizer, "optimizer", None)
    return bare(inner) if isinstance(inner, torch.optim.Optimizer) else optimizer


def forget(optimizer: torch.optim.Optimizer, p: nn.Parameter) -> None:
    """Start the optimizer's state of `p` afresh, step count and bias correction included."""
    optimizer.state.pop(p, None)
    if isinstance(optimizer, torch.optim.Adagrad):  # which does not start it lazily
        start = optimizer.defaults["initial_accumulator_value"]
        optimizer.state[p] = {"step": torch.tensor(0.0), "sum": torch.full_like(p.data, start)}
    elif isinstance(optimizer, torch.optim.SGD):  # fused, all parameters of a group must have a buffer, or none
        group = next(g for g in optimizer.param_groups if any(q is p for q in g["params"]))
        if group.get("fused") and group["momentum"] != 0:
            optimizer.state[p] = {"momentum_buffer": torch.zeros_like(p.data)}


def check_holds(optimizer: torch.optim.Optimizer, layers: Mapping[str, nn.Module]) -> None:
    """Raise if the optimizer misses parameters of a layer that is to be cut."""
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for name, layer in layers.items():
        stray = [n for n, p in layer.named_parameters() if p.requires_grad and id(p) not in known]
        if stray:
            raise ValueError(
                f"the optimizer must hold every parameter of a layer to be cut, got {name or 'layer'} without {', '.join(stray)}"
            )


def check_keeps_nothing(optimizer: Any, layers: Mapping[str, nn.Module]) -> None:
    """Raise if an optimizer, or what is around it, keeps tensors for all parameters of a layer beside ``state``, as averages are kept."""
    shapes = [{tuple(p.shape) for p in layer.parameters()} for layer in layers.values()]
    while isinstance(optimizer, torch.optim.Optimizer) or hasattr(optimizer, "optimizer"):
        for key, value in vars(optimizer).items():
            several = (
                value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
            )
            kept = {tuple(x.shape) for x in several if isinstance(x, torch.Tensor) and not isinstance(x, nn.Parameter)}
            if any(one and one <= kept for one in shapes):
                raise ValueError(
                    f"an optimizer must hold no tensors of the parameters' shapes outside its state, got a {type(optimizer).__name__} with "
                    f"some in {key}: if it is around another one, pass that, and make the {type(optimizer).__name__} after the window"
                )
        optimizer = getattr(optimizer, "optimizer", None)


def check_shapes(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Raise if the optimizer has state of another shape than its parameter: fused optimizers would compute wrong updates with it."""
    for name, layer in layers_of(model).items():
        for key, p in layer.named_parameters():
            for kind, shape in misfits(optimizer, p).items():
                where = f"{name}.{key}" if name else key
                raise ValueError(
                    f"the optimizer's state must have the shapes of the parameters, got {kind} of {shape} "
                    f"for {where} of {tuple(p.shape)}: load the reducer's state first, then the optimizer's"
                )


def misfits(optimizer: torch.optim.Optimizer, p: nn.Parameter) -> dict[str, tuple[int, ...]]:
    """What the optimizer has of another shape than its parameter `p`; factored moments have ones."""
    state = {k: tuple(v.shape) for k, v in optimizer.state.get(p, {}).items() if isinstance(v, torch.Tensor)}
    return {
        kind: shape
        for kind, shape in state.items()
        if len(shape) == p.ndim and any(mine not in (1, size) for mine, size in zip(shape, p.shape, strict=True))
    }


def living(*kinds: type) -> list[Any]:
    """All objects of these classes and of those made from them that are alive, whoever holds them.

    Their types are compared, since ``isinstance`` asks an object's ``__class__``, which may run somebody's code.

    Examples
    --------
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    >>> any(one is optimizer for one in living(torch.optim.Optimizer))
    True
    """
    wanted, todo = set[type](), list(kinds)
    while todo:
        if (kind := todo.pop()) not in wanted:
            wanted.add(kind)
            todo += type.__subclasses__(kind)
    everything = gc.get_objects()
    return list(itertools.compress(everything, map(wanted.__contains__, map(type, everything))))


def others_beside(optimizer: torch.optim.Optimizer | None, alive: Iterable[Any] | None = None) -> Others:
    """All other optimizers there are, or among what is `alive`: one inside the one that is known (SAM), one for each parameter."""
    found = living(torch.optim.Optimizer) if alive is None else alive
    return [weakref.ref(o) for o in found if isinstance(o, torch.optim.Optimizer) and o is not optimizer]


def forget_old_shapes(others: Others, model: nn.Module) -> None:
    """Start the state of parameters of the layers afresh in all those where it is of another shape than the parameter."""
    parameters = [p for layer in layers_of(model).values() for p in layer.parameters()]
    for one in filter(None, (ref() for ref in others)):
        for p in parameters:
            if p in one.state and misfits(one, p):
                forget(one, p)
