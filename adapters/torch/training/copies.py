"""Copies of a layer's weights that no part of a training is known to hold: averages of which the reducer was not told.

After a cut they have the old shapes.  Their next update stops with an error that does not say why, or, where a layer keeps one state,
goes on with numbers that mean nothing.  A copy in the model itself is cut as a layer of its own, so its states are others.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from balred.adapters.torch.obstacles import changing, memory
from balred.adapters.torch.optimizers import living
from balred.systems.arrays import warn_caller

_NEAR = 0.5
"""How far a copy may be from the weights, relative to them; of other layers they are as far as the weights are large, or farther."""


class AverageWarning(UserWarning):
    """Copies of the weights of a layer, as averages are, do not follow its cuts.

    Examples
    --------
    >>> import warnings
    >>> from balred.adapters.torch import AverageWarning
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", AverageWarning)  # such a training stops now
    """


class Copies:
    """What looks like an average of weights, and is none that is known.

    A copy that stays as it is (a teacher, a model to compare with) is none, nor is one that was just made.  One is if its values have changed
    since the first look, or it is new since then, and no optimizer trains it.

    Parameters
    ----------
    layers : mapping of str to torch.nn.Module
        Those that cuts reach.
    known : sequence of torch.nn.Module
        Averages that follow.
    """

    def __init__(self, layers: Mapping[str, nn.Module], known: Sequence[nn.Module]) -> None:
        self._names = {name: changing(layer) for name, layer in layers.items()}
        self._known, self._told = known, set[str]()
        self._first, self._started = dict[int, tuple[weakref.ref[torch.Tensor], tuple[float, float]]](), False

    def look(self, layers: Mapping[str, nn.Module], alive: Sequence[Any]) -> None:
        """Note which tensors there are among what is alive that could be copies of the layers' weights, then or later."""
        found = [x for several in self._beside(layers, alive).values() for x in several]
        self._first = {id(x): (weakref.ref(x), _mark(x)) for x in found}
        self._started = any(isinstance(one, AveragedModel) for one in alive)

    def suspicious(self) -> bool:
        """Whether a tensor of the first look has changed or is gone, or there are averages that begin later: a closer look takes a while."""
        return self._started or any(ref() is None for ref, _ in self._first.values()) or self.moved()

    def moved(self) -> bool:
        """Whether a tensor of the first look has changed."""
        return any(_mark(x) != mark for ref, mark in self._first.values() if (x := ref()) is not None)

    def forget(self) -> None:
        """Look no more: after a cut weights have other shapes."""
        self._first, self._started = {}, False

    def check(self, layers: Mapping[str, nn.Module]) -> None:
        """Warn of the copies of `layers` that have changed since the first look, of each layer once."""
        if not self._moving(layers):
            return
        gc.collect()  # perhaps nothing held them any more
        found = self._moving(layers)
        if not found:
            return
        self._told |= set(found)
        names = ", ".join(name or "the layer" for name in found)
        warn_caller(
            f"averages of the weights must be passed as averages= to follow a cut, got copies of the weights of {names} in "
            f"{_holder(next(iter(found.values()))[0])}, which keep their shapes or are cut to other states: pass a copy of the whole "
            "model, or start the averages after the window",
            AverageWarning,
        )

    def _moving(self, layers: Mapping[str, nn.Module]) -> dict[str, list[torch.Tensor]]:
        alive = living(torch.Tensor, torch.optim.Optimizer)
        found = self._found({name: layer for name, layer in layers.items() if name not in self._told}, alive)
        started = {id(x) for one in (living(AveragedModel) if found else ()) for x in _tensors(one)}
        moving = {
            name: [x for x, same in copies if id(x) in started or (not same and self._is_other(x))]
            for name, copies in found.items()
        }
        return {name: copies for name, copies in moving.items() if copies}

    def _is_other(self, x: torch.Tensor) -> bool:
        ref, mark = self._first.get(id(x), (None, None))
        return ref is None or ref() is not x or _mark(x) != mark

    def _beside(
        self, layers: Mapping[str, nn.Module], alive: Sequence[Any]
    ) -> dict[tuple[int, ...], list[torch.Tensor]]:
        """The tensors of the shapes of the layers' weights, by these, that no optimizer trains and no average has."""
        shapes = {tuple(p.shape) for name, layer in layers.items() for p in _weights(layer, self._names[name])}
        trained = (x for o in alive if isinstance(o, torch.optim.Optimizer) for x in _held(o))
        taken = {memory(x) for x in (*trained, *self._following())}
        found: dict[tuple[int, ...], list[torch.Tensor]] = {}
        for x in alive:
            if isinstance(x, torch.Tensor) and _is_plain(x) and tuple(x.shape) in shapes and memory(x) not in taken:
                found.setdefault(tuple(x.shape), []).append(x)
        return found

    def _following(self) -> list[torch.Tensor]:
        return [x for one in self._known for x in _tensors(one)]

    def _found(
        self, layers: Mapping[str, nn.Module], alive: Sequence[Any]
    ) -> dict[str, list[tuple[torch.Tensor, bool]]]:
        """Of each layer the tensors near to its weights, if all that have states as an axis have such a one, and whether they equal any."""
        beside = self._beside(layers, alive)
        wanted = {name: _weights(layer, self._names[name]) for name, layer in layers.items()}
        every = [p for several in (*wanted.values(), self._following()) for p in several]
        found: dict[str, list[tuple[torch.Tensor, bool]]] = {}
        for name, weights in wanted.items():
            own = {memory(p) for p in layers[name].parameters()}
            near = [
                [x for x in beside.get(tuple(p.shape), ()) if memory(x) not in own and _is_near(x, p)] for p in weights
            ]
            if near and all(near):
                copies = {id(x): x for several in near for x in several}.values()
                found[name] = [(x, any(_is_equal(x, p) for p in every)) for x in copies]
        return found


def _weights(layer: nn.Module, names: set[str]) -> list[torch.Tensor]:
    """Of the parameters called so those that the optimizer changes."""
    return [p.detach() for n, p in layer.named_parameters() if n in names and p.requires_grad and _is_plain(p)]


def _held(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    """Parameters, gradients and state; of an optimizer that was not made to its end, what there is."""
    parameters = [p for group in getattr(optimizer, "param_groups", ()) for p in group["params"]]
    yield from parameters
    yield from (p.grad for p in parameters if p.grad is not None)
    states = (state for state in getattr(optimizer, "state", {}).values() if isinstance(state, Mapping))
    yield from (x for state in states for x in state.values() if isinstance(x, torch.Tensor))


def _tensors(module: nn.Module) -> tuple[torch.Tensor, ...]:
    return (*module.parameters(), *module.buffers())


def _is_plain(x: torch.Tensor) -> bool:
    """Whether a tensor has values of its own, in memory: others are those of a transformation, or were given back."""
    if type(x) not in (torch.Tensor, nn.Parameter) or x.layout is not torch.strided or x.is_meta or x.is_nested:
        return False
    return memory(x) != id(x)


def _is_near(x: torch.Tensor, p: torch.Tensor) -> bool:
    """Whether they are alike, or one is a multiple of the other, as an average of what began as zeros is at first."""
    if not (x.is_floating_point() or x.is_complex()) or x.is_complex() != p.is_complex():
        return False
    x = x.detach().to(p)
    size, own = torch.linalg.vector_norm(p), torch.linalg.vector_norm(x)
    along = torch.linalg.vector_norm(x * size - p * own) <= _NEAR * size * own
    return bool(own > 0) and bool(size > 0) and bool(along | (torch.linalg.vector_norm(x - p) <= _NEAR * size))


def _is_equal(x: torch.Tensor, p: torch.Tensor) -> bool:
    return x.shape == p.shape and torch.equal(x.detach().to(p), p)


def _mark(x: torch.Tensor) -> tuple[float, float]:
    """Two sums that a change of the values changes."""
    real = (torch.view_as_real(x.detach().resolve_conj()) if x.is_complex() else x.detach()).double()
    return float(real.sum()), float(real.square().sum())


def _holder(x: torch.Tensor) -> str:
    """Where a tensor is, in the largest module that has it."""
    places = [
        (len(list(module.modules())), f"a {type(module).__name__}, as {name}")
        for module in living(nn.Module)
        for name, one in (*module.named_parameters(), *module.named_buffers())
        if one is x
    ]
    return max(places)[1] if places else "a list, a dict or another object"
