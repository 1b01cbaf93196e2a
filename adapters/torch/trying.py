"""Whether a smaller layer still runs: one that keeps its number of states in a number of its own would break in its next forward.
One that keeps what it has computed, or divides by its number of states, would compute something else.

Nobody can tell which of a layer's numbers mean its states, and which are as large by chance.  So a copy of the layer is called with a
few tokens, in the layouts that layers have, until it answers; a copy of the smaller one must answer to the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch
from torch import nn

from balred.adapters.torch.running import evaluating

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


def follows(one: nn.Module, same: nn.Module, other: nn.Module) -> str | None:
    """How three layers contradict that the first two compute one thing and the third another; None if they do not.

    Examples
    --------
    >>> layers = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
    >>> follows(layers[0], layers[0], layers[2]), follows(*layers)[:30]
    (None, 'other outputs with added state')
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for x in _inputs(one):
            try:
                first, second, third = (_made(layer, x) for layer in (one, same, other))
            except Exception:  # it runs on something else
                continue
            far = torch.finfo(first.dtype).eps ** 0.5 * float(first.norm())
            if not far > 0 or second.shape != first.shape:
                return None
            if float((second - first).norm()) > far:
                return (
                    "other outputs with added states that do nothing: a factor that depends on the number of states would change the "
                    "outputs at every cut"
                )
            if float((third - first).norm()) <= far:
                return (
                    "the same outputs with other arrays: it keeps what it computed from the old ones, so clear its caches first (many "
                    "layers do so in train())"
                )
            return None
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
    for width, _ in widths.most_common(_WIDTHS):
        for shape in ((_SEQUENCES, _TOKENS, width), (_SEQUENCES, width, _TOKENS), (_TOKENS, width)):
            yield torch.randn(shape, generator=random).to(device, dtype)
