"""Whether a smaller layer still runs: one that keeps its number of states in a number of its own would break in its next forward.

Nobody can tell which of a layer's numbers mean its states, and which are as large by chance.  So a copy of the layer is called with a
few tokens, in the layouts that layers have, until it answers; a copy of the smaller one must answer to the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from balred.adapters.torch.running import evaluating
from balred.registry.answering import TOKENS
from balred.systems.arrays import to_numpy

_SEQUENCES, _TOKENS, _WIDTHS = 2, 5, 8


def broken(layer: nn.Module, new: nn.Module) -> str | None:
    """What is wrong with `new`, `layer` made smaller, when both run; None if nothing is, or if nobody knows how to call them.

    Both are copies: running may leave something in them.

    Examples
    --------
    >>> class Bank(nn.Module):
    ...     def __init__(self, states):
    ...         super().__init__()
    ...         self.n, self.B = states, nn.Parameter(torch.ones(states, 3))
    ...     def forward(self, u):
    ...         return (u @ self.B.mT).reshape(*u.shape[:-1], self.n).sum(-1, keepdim=True)
    >>> layer, new = Bank(16), Bank(16)
    >>> new.B = nn.Parameter(torch.ones(4, 3))
    >>> broken(layer, layer) is None, broken(layer, new).partition(":")[0]
    (True, 'RuntimeError')
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for x in _inputs(new):
            try:
                want = _answer(layer, x)
            except Exception:
                continue
            try:
                got = _answer(new, x)
            except Exception as error:  # whatever a layer makes of a number that is no longer right
                return f"{type(error).__name__}: {error}"
            return None if want == got else f"an output of shape {got} instead of {want}"
    return None


def answers(layers: Sequence[nn.Module]) -> tuple[list[np.ndarray[Any, Any]], float] | None:
    """What each of several layers answers to the same few tokens, and the rounding of their precision; None if they take none.

    Examples
    --------
    >>> found, rounding = answers([nn.Linear(3, 2), nn.Linear(3, 2)])
    >>> [y.shape for y in found], rounding < 1e-6
    ([(2, 5, 2), (2, 5, 2)], True)
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for x in _inputs(layers[0]):
            try:
                made = [_made(layer, x) for layer in layers]
                if not (made[0].is_floating_point() or made[0].is_complex()):
                    return None  # a choice, which other values need not change
                # what the parameters are rounded to shows in the outputs, of whatever type those are
                rounded = [
                    x.dtype for x in (made[0], *layers[0].parameters()) if x.is_floating_point() or x.is_complex()
                ]
                coarse = max(torch.finfo(dtype).eps for dtype in rounded)
                return [to_numpy(y.to(torch.promote_types(y.dtype, torch.float64))) for y in made], coarse
            except Exception:  # they run on something else
                continue
    return None


def _answer(layer: nn.Module, x: torch.Tensor) -> tuple[int, ...]:
    return tuple(_made(layer, x).shape)


def _made(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with evaluating(layer):
        made = layer.forward(x.clone())
    first: torch.Tensor = made[0] if isinstance(made, (tuple, list)) else made
    return first


def _inputs(layer: nn.Module) -> Iterator[torch.Tensor]:
    """A few tokens of every width that axes of the layer's tensors have, the frequent ones first."""
    tensors = [*layer.parameters(), *layer.buffers()]
    real = next((x for x in tensors if x.is_floating_point()), None)
    dtype = torch.get_default_dtype() if real is None else real.dtype
    device = tensors[0].device if tensors else None
    random = torch.Generator().manual_seed(0)
    widths = Counter(size for x in tensors for size in x.shape)
    tokens = next((n for n in range(_TOKENS, TOKENS + 1) if n not in widths), TOKENS)  # never taken for features
    for width, _ in widths.most_common(_WIDTHS):
        for shape in ((_SEQUENCES, tokens, width), (_SEQUENCES, width, tokens), (tokens, width)):
            yield torch.randn(shape, generator=random, device="cpu").to(device, dtype)
