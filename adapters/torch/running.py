"""PyTorch models along data: their answers, and sums of states and gradients of the layers that have an operator."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from balred.adapters.torch.seeing import Passage, watched
from balred.backends.torch import from_numpy, to_numpy
from balred.layers.along_data import DataSums, data_sums
from balred.registry.entries import Running
from balred.selection.calibration import Batch, Calibration, batches
from balred.selection.directions import DRAWS, direction
from balred.systems.leaves import System

Tensor = torch.Tensor


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In evaluation mode, as the model will be used; whatever mode each module was in comes back."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def given(model: Any, data: Any) -> Iterator[Batch]:
    """What a model is called with, batch by batch."""
    return batches(data, (Tensor,), inspect.signature(model.forward))


def outputs(model: Any, batch: Batch) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]:
    """What the model answers to a batch, on the host, and which of its predictions count."""
    with evaluating(model), torch.no_grad():
        z = _predicted(_called(model, batch))
        mask = _mask(batch, z.shape[:-1])
        return to_numpy(z), None if mask is None else to_numpy(mask)


def sums(
    model: Any, layers: Mapping[str, tuple[Any, System]], given_batches: Iterable[Batch], how: Calibration
) -> dict[str, DataSums | str]:
    """The sums of each layer over the batches, or why there are none."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"a model must be a torch.nn.Module to run on calibration data, got {type(model).__name__}")
    rng = np.random.default_rng(how.seed)
    found: dict[str, DataSums] = {}
    wanted = how.basis == "data"
    unique = {id(layer): name for name, (layer, _) in reversed(list(layers.items()))}
    once = {name: layers[name] for name in unique.values()}
    with evaluating(model), watched(once) as (passages, unseen):
        for batch in given_batches:
            with torch.set_grad_enabled(wanted):
                answer = _called(model, batch)
            runs = {name: list(several) for name, several in passages.items() if name not in unseen}
            predictions, gradients = _pulled_back(answer, batch, runs, how, rng) if wanted else (0.0, {})
            for name, several in runs.items():
                if missing := [run for run in several if wanted and id(run) not in gradients]:
                    unseen[name] = f"the model's output does not depend on it ({len(missing)} of {len(several)} runs)"
                    continue
                parts = [_summed(layers[name][1], run, gradients.get(id(run)), batch) for run in several]
                if parts:
                    total = sum(parts[1:], start=parts[0]).of(predictions)
                    found[name] = found[name] + total if name in found else total
            for several in passages.values():
                several.clear()
    told: dict[str, DataSums | str] = {}
    for name, (layer, _) in layers.items():
        first = unique[id(layer)]
        told[name] = unseen.get(first) or found.get(first) or "the data do not run through it"
    return told


def _pulled_back(
    answer: Any, batch: Batch, runs: Mapping[str, list[Passage]], how: Calibration, rng: np.random.Generator
) -> tuple[float, dict[int, list[Tensor]]]:
    """How many predictions there are for all draws together, and of each run the gradients."""
    flat = [run for several in runs.values() for run in several]
    z = _predicted(answer)
    mask = _mask(batch, z.shape[:-1])
    count = float(z[..., 0].numel() if mask is None else mask.sum())
    if callable(how.scalar):
        with torch.enable_grad():  # a training asks without
            value = how.scalar(answer)
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise ValueError(f"scalar must return a tensor of one number, got {value!r}")
        pulled = [_gradients(value, flat, None, last=True)]
    else:
        host, pulled = to_numpy(z).astype(np.float64), []
        for i in range(DRAWS):
            W = from_numpy(direction(host, how.scalar, rng), like=z.float())
            W = W if mask is None else W * mask[..., None]
            pulled.append(_gradients(z, flat, W.to(z), last=i == DRAWS - 1))
    together = {id(run): [g for g in several if g is not None] for run, *several in zip(flat, *pulled, strict=True)}
    return count * len(pulled), {key: several for key, several in together.items() if len(several) == len(pulled)}


def _gradients(value: Tensor, runs: list[Passage], weight: Tensor | None, *, last: bool) -> tuple[Tensor | None, ...]:
    if not value.requires_grad or not runs:
        return (None,) * len(runs)
    found: tuple[Tensor | None, ...] = torch.autograd.grad(
        value, [run.zeros for run in runs], weight, retain_graph=not last, allow_unused=True
    )
    return found


def _summed(system: System, run: Passage, gradients: list[Tensor] | None, batch: Batch) -> DataSums:
    draws: list[Tensor | None] = [None] if gradients is None else [*gradients]
    several = [list(run.place.signals(system, run.u, w)) for w in draws]
    count = several[0][0][0].shape[-3:-1]
    mask = _mask(batch, count)
    parts = [
        data_sums(system, ways[0][0], None if gradients is None else [w for _, w in ways], _turned(mask, i))
        for i, ways in enumerate(zip(*several, strict=True))
    ]
    return sum(parts[1:], start=parts[0])


def _turned(mask: Tensor | None, way: int) -> Tensor | None:
    return mask if mask is None or way == 0 else mask.flip(-1)


def _called(model: Any, batch: Batch) -> Any:
    tensor = next((x for x in (*model.parameters(), *model.buffers())), None)
    args, kwargs = batch
    if tensor is not None:
        args, kwargs = tuple(_to(x, tensor.device) for x in args), {k: _to(x, tensor.device) for k, x in kwargs.items()}
    try:
        return model(*args, **kwargs)
    except Exception as error:
        raise ValueError(f"the model must run on the calibration data, got {type(error).__name__}: {error}") from error


def _to(x: Any, device: torch.device) -> Any:
    return x.to(device) if isinstance(x, Tensor) else x


def _mask(batch: Batch, shape: Any) -> Tensor | None:
    """The batch's attention mask, if it is one of these positions."""
    mask = batch[1].get("attention_mask")
    return mask if isinstance(mask, Tensor) and tuple(mask.shape) == tuple(shape) else None


def _predicted(answer: Any) -> Tensor:
    """The predictions, (..., values), in whatever a model returns: its logits, or the first tensor of numbers."""
    logits = answer.get("logits") if isinstance(answer, Mapping) else getattr(answer, "logits", None)
    values = answer.values() if isinstance(answer, Mapping) else answer if isinstance(answer, (list, tuple)) else ()
    for x in (answer, logits, *values):
        if isinstance(x, Tensor) and x.is_floating_point() and x.ndim > 0:
            return x if x.ndim > 1 else x[:, None]
    raise ValueError(f"a model must return a tensor of predictions on calibration data, got {type(answer).__name__}")


RUNNING = Running(given, outputs, sums)
