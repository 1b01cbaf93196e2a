"""PyTorch models along data: their answers, and sums of states and gradients of the layers that have an operator."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

from balred.adapters.torch.seeing import Seen, watched
from balred.backends.torch import from_numpy, to_numpy
from balred.layers.along_data import DataSums
from balred.layers.passages import Passage, Passages, directions, mask_of, predicted, predictions_in
from balred.registry.kinds import Running
from balred.selection.calibration import Batch, Calibration, batches
from balred.selection.directions import DRAWS, Directions
from balred.systems.leaves import System

Tensor = torch.Tensor
Answer = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In evaluation mode, as the model will be used, and not compiled, since compiled code runs no hooks that come later.

    Whatever mode each module was in comes back, also where it does more than note it, as some LoRA layers merge their weights.  So do
    the states of the random generators.
    """
    modes = [(module, module.training) for module in model.modules()]
    graphs = torch.is_grad_enabled()
    places = {x.device for x in (*model.parameters(), *model.buffers()) if x.device.type == "cuda"}
    stance = getattr(torch.compiler, "set_stance", None)  # since 2.6
    try:
        model.eval()
        eager = nullcontext() if stance is None else stance("force_eager")
        quiet = torch.random.fork_rng(devices=places)
        with quiet, eager, torch.inference_mode(False), torch.set_grad_enabled(graphs):  # its end switches gradients on
            yield
    finally:
        for module, training in modes:
            if type(module).train is not nn.Module.train:
                module.train(training)
        for module, training in modes:  # those inside of what was just told its own
            module.training = training


def given(model: Any, data: Any) -> Iterator[Batch]:
    """What a model is called with, batch by batch; what a loader draws is not taken from the generator of the caller."""
    several, own = batches(data, (Tensor,), inspect.signature(model.forward)), torch.get_rng_state()
    while True:
        before = torch.get_rng_state()
        torch.set_rng_state(own)
        try:
            batch = next(several, None)
        finally:
            own = torch.get_rng_state()
            torch.set_rng_state(before)
        if batch is None:
            return
        yield batch


def outputs(model: Any, how: Calibration) -> Callable[[Batch], Answer]:
    """What the model answers to a batch, on the host, and which of its predictions count.

    Examples
    --------
    >>> from balred.selection.calibration import Calibration
    >>> answer = outputs(nn.Linear(2, 3), Calibration([torch.ones(4, 5, 2)]))
    >>> predictions, counted = answer(((torch.ones(4, 5, 2),), {}))
    >>> predictions.shape, counted
    ((4, 5, 3), None)
    """

    def answer(batch: Batch) -> Answer:
        with evaluating(model), torch.no_grad():
            z = _predicted(_called(model, batch))
            return to_numpy(z), mask_of(batch, z.shape[:-1])

    return answer


def sums(
    model: Any, layers: Mapping[str, tuple[Any, System]], given_batches: Iterable[Batch], how: Calibration
) -> dict[str, DataSums | str]:
    """The sums of each layer over the batches, or why there are none."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"a model must be a torch.nn.Module to run on calibration data, got {type(model).__name__}")
    if how.vmapped is not None:
        raise ValueError(f"vmapped must go with a model of JAX, got it with a {type(model).__name__}")
    drawn = Directions(how.scalar, how.seed)
    wanted = how.basis == "data"
    found = Passages(layers, wanted=wanted, max_bytes=how.max_bytes)
    with evaluating(model), watched(found.once) as (seen, unseen):
        for batch in given_batches:
            with torch.set_grad_enabled(wanted):
                answer = _called(model, batch)
            found.unseen.update(unseen)
            runs = {name: list(several) for name, several in seen.items() if name not in unseen}
            predictions, gradients = _pulled_back(answer, batch, runs, how, drawn) if wanted else (0.0, {})
            for name, several in runs.items():
                passages = [Passage(run.u, run.place, gradients.get(id(run))) for run in several]
                found.add(name, passages, batch, predictions)
            for several in seen.values():
                several.clear()
    return found.told()


def _pulled_back(
    answer: Any, batch: Batch, runs: Mapping[str, list[Seen]], how: Calibration, drawn: Directions
) -> tuple[float, dict[int, list[Tensor]]]:
    """How many predictions there are for all draws together, and of each run the gradients."""
    flat = [run for several in runs.values() for run in several]
    z = _predicted(answer)
    mask = mask_of(batch, z.shape[:-1])
    if callable(how.scalar):
        with torch.enable_grad():  # a training asks without
            value = how.scalar(answer)
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise ValueError(f"scalar must return a tensor of one number, got {value!r}")
        pulled = [_gradients(value, flat, None, last=True)]
    else:
        several = enumerate(directions(to_numpy(z), mask, batch, drawn), start=1)
        pulled = [_gradients(z, flat, from_numpy(W, like=z.float()).to(z), last=i == DRAWS) for i, W in several]
    together = {id(run): [g for g in several if g is not None] for run, *several in zip(flat, *pulled, strict=True)}
    found = {key: several for key, several in together.items() if len(several) == len(pulled)}
    return predictions_in(z.shape, mask) * len(pulled), found


def _gradients(value: Tensor, runs: list[Seen], weight: Tensor | None, *, last: bool) -> tuple[Tensor | None, ...]:
    if not value.requires_grad or not runs:
        return (None,) * len(runs)
    found: tuple[Tensor | None, ...] = torch.autograd.grad(
        value, [run.zeros for run in runs], weight, retain_graph=not last, allow_unused=True
    )
    return found


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
    if not isinstance(x, Tensor):
        return x
    return x.to(device).clone() if x.is_inference() else x.to(device)  # those of inference mode have no gradients


def _predicted(answer: Any) -> Tensor:
    z: Tensor = predicted(answer, lambda x: isinstance(x, Tensor) and x.is_floating_point())
    return z


RUNNING = Running(given, outputs, sums)
