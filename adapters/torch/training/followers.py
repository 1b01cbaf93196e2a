"""What follows a cut in a PyTorch training besides the layer itself and optimizers: averages, compiled code, generators.

Each is a place where old shapes live on and a run could go silently wrong.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from balred.adapters.torch.modules import set_layer
from balred.intraining.averages import follow
from balred.reduction.candidates import Smaller


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside what ``torch.compile`` returned."""
    inner = getattr(model, "_orig_mod", model)
    return inner if isinstance(inner, nn.Module) else model


def averaged(average: nn.Module, model: nn.Module) -> nn.Module:
    """The averaged copy of `model` inside `average`: ``AveragedModel``, ema-pytorch's ``EMA``, or the copy itself."""
    inside = average.modules() if isinstance(average, nn.Module) else ()
    found = next((m for m in inside if type(m) is type(model) and m is not model), None)
    if found is None:
        raise ValueError(
            f"an average must be a module that holds a copy of the model, a {type(model).__name__}, got {type(average).__name__}: start it "
            "after the window, or use torch.optim.swa_utils.AveragedModel"
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
