"""What follows a cut in a PyTorch training besides the layer itself: optimizer state, averages, compiled code, generators.

Each is a place where old shapes live on and a run could go silently wrong.
"""

from __future__ import annotations

import gc
import random
import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from balred.adapters.torch.modules import set_layer
from balred.intraining.averages import follow
from balred.reduction.candidates import Smaller
from balred.registry.reading import layers_of


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside what ``torch.compile`` returned."""
    inner = getattr(model, "_orig_mod", model)
    return inner if isinstance(inner, nn.Module) else model


def bare(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer inside what Accelerate or Lightning wrapped it in."""
    inner = getattr(optimizer, "optimizer", None)
    return bare(inner) if isinstance(inner, torch.optim.Optimizer) else optimizer


def averaged(average: nn.Module, model: nn.Module) -> nn.Module:
    """The averaged copy of `model` inside `average`: ``AveragedModel``, ema-pytorch's ``EMA``, or the copy itself."""
    found = next((m for m in average.modules() if type(m) is type(model) and m is not model), None)
    if found is None:
        raise ValueError(
            f"an average must hold a copy of the model, a {type(model).__name__}, got {type(average).__name__}"
        )
    mine, theirs = ({n: tuple(p.shape) for n, p in m.named_parameters()} for m in (model, found))
    if mine != theirs:
        other = next(n for n in mine | theirs if mine.get(n) != theirs.get(n))
        raise ValueError(
            f"an average must have the model's shapes, got {theirs.get(other)} for {other}, which has {mine.get(other)} in the model"
        )
    return found


def cut_averages(layers: Sequence[nn.Module], live: nn.Module, cut: Smaller) -> None:
    """Cut the averaged `layers` of a layer `live`, which is about to be cut, by the transformation of that cut."""
    for layer in layers:
        set_layer(layer, follow(layer, live, cut))


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
    """Raise if what is around an optimizer keeps tensors of its own for parameters of the layers, as averages of weights are kept."""
    shapes = {tuple(p.shape) for layer in layers.values() for p in layer.parameters()}
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        for key, value in vars(optimizer).items():
            several = (
                value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
            )
            kept = [x for x in several if isinstance(x, torch.Tensor) and not isinstance(x, nn.Parameter)]
            if any(x.ndim > 0 and tuple(x.shape) in shapes for x in kept):
                raise ValueError(
                    f"what is around an optimizer must keep nothing of the parameters' shapes, got a {type(optimizer).__name__} with tensors in "
                    f"{key}: give the optimizer inside it, and start the {type(optimizer).__name__} after the window"
                )
        optimizer = inner


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


Others = list[weakref.ref[torch.optim.Optimizer]]


def others_beside(optimizer: torch.optim.Optimizer | None) -> Others:
    """All other optimizers there are: one inside the one that is known (SAM), one that takes turns with it, one for each parameter."""
    found = [o for o in gc.get_objects() if issubclass(type(o), torch.optim.Optimizer)]
    return [weakref.ref(one) for one in found if one is not optimizer]


def forget_old_shapes(others: Others, model: nn.Module) -> None:
    """Start the state of parameters of the layers afresh in all those where it is of another shape than the parameter."""
    parameters = [p for layer in layers_of(model).values() for p in layer.parameters()]
    for one in filter(None, (ref() for ref in others)):
        for p in parameters:
            if p in one.state and misfits(one, p):
                forget(one, p)


def forget_compiled() -> None:
    """Let ``torch.compile`` start afresh: else it makes sizes dynamic, and after eight recompilations runs uncompiled."""
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is not None:
        dynamo.reset()


def refuse_graphs(model: nn.Module) -> None:
    """Raise if a module is a captured CUDA graph: it would go on computing with the memory of the old parameters."""
    for name, module in model.named_modules():
        forward = vars(module).get("forward")
        if "make_graphed" in getattr(forward, "__qualname__", ""):
            raise ValueError(
                f"the model must not be captured in a CUDA graph, whose shapes are fixed, got {name or type(module).__name__} "
                "from make_graphed_callables: capture it after the window"
            )


def random_states() -> dict[str, Any]:
    """The states of the generators that a training draws from: Python's, NumPy's, PyTorch's.

    Examples
    --------
    >>> sorted(random_states())
    ['cuda', 'numpy', 'python', 'torch']
    """
    name, keys, *rest = np.random.get_state()  # noqa: NPY002  the global generator is what loaders use
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


@contextmanager
def unseen() -> Iterator[None]:
    """Inside, nothing that is drawn changes what the training will draw."""
    states = random_states()
    try:
        yield
    finally:
        set_random_states(states)


def set_random_states(states: dict[str, Any]) -> None:
    """Set the generators to what :func:`random_states` returned, wherever that has been since."""
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"]:
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])
