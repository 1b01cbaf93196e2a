"""What passes the operators of a model while data run through it: their inputs, and a handle on their outputs.

A layer runs under a mode that sees every tensor it makes.  The one that is the operator's output
(:mod:`balred.layers.operator_place` says which) goes on with zeros added, and the gradient at these zeros is the one at the
output: frozen models have it too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from balred.backends.torch import is_concrete
from balred.layers.operator_place import Finder, Place
from balred.layers.passages import NO_INPUT, NOT_FOUND
from balred.systems.leaves import System

Tensor = torch.Tensor


@dataclass
class Seen:
    """One run of a layer: what entered the operator, where its output was found, and the zeros added to it."""

    u: Tensor
    place: Place
    zeros: Tensor


class _Watch(TorchFunctionMode):
    """Looks for the operator's output among what is computed, and adds zeros to it."""

    def __init__(self, u: Tensor, finder: Finder) -> None:
        super().__init__()
        self._u, self._finder = u, finder
        self.passage: Seen | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.seen(func(*args, **(kwargs or {})))

    def seen(self, t: Any) -> Any:
        """`t`, with zeros added if it is what is looked for."""
        if self.passage is not None or not isinstance(t, Tensor) or not t.is_floating_point() or t is self._u:
            return t
        with torch._C.DisableTorchFunction():
            if t.numel() not in self._finder.sizes or not is_concrete(t):
                return t
            place = self._finder.find(t.detach())
            if place is None:
                return t
            zeros = torch.zeros_like(t, requires_grad=torch.is_grad_enabled())
            self.passage = Seen(self._u, place, zeros)
            return t + zeros if torch.is_grad_enabled() else t


@contextmanager
def watched(layers: Mapping[str, tuple[Any, System]]) -> Iterator[tuple[dict[str, list[Seen]], dict[str, str]]]:
    """Within it every run of a layer adds a passage to the first dict, or to the second why it was not seen."""
    passages: dict[str, list[Seen]] = {name: [] for name in layers}
    unseen: dict[str, str] = {}
    changed: list[tuple[nn.Module, Any]] = []
    try:
        for name, (layer, system) in layers.items():
            changed.append((layer, vars(layer).get("forward")))
            layer.forward = _watching(layer.forward, name, system, passages[name], unseen)
        yield passages, unseen
    finally:
        for layer, own in reversed(changed):
            if own is None:
                del layer.forward
            else:
                layer.forward = own


def _watching(
    forward: Callable[..., Any], name: str, system: System, passages: list[Seen], unseen: dict[str, str]
) -> Callable[..., Any]:
    def watching(*args: Any, **kwargs: Any) -> Any:
        u = next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.is_floating_point()), None)
        if u is None or not is_concrete(u):
            unseen[name] = NO_INPUT
            return forward(*args, **kwargs)
        with torch.no_grad():
            watch = _Watch(u.detach().clone(), Finder(system, u.detach()))  # else a sum in place would change it
        with watch:
            made = forward(*args, **kwargs)
        if watch.passage is None:  # a layer of another language returns what no mode sees made
            made = watch.seen(made) if isinstance(made, Tensor) else made
        if watch.passage is None:
            unseen[name] = NOT_FOUND
        else:
            passages.append(watch.passage)
        return made

    return watching
