"""A small sequence classifier of LRU blocks for PyTorch; its twin for JAX is ``models_jax``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from balred.adapters.torch import LRU


class Block(nn.Module):
    """``x + GLU(Linear(GELU(LRU(LayerNorm(x)))))``: mixing along time, then a gate, beside a residual path."""

    def __init__(self, width: int, states: int, ring: tuple[float, float]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.lru = LRU(width, states, *ring)
        self.gate = nn.Linear(width, 2 * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Output sequence of the input sequence `x`, shape (..., L, width)."""
        y = nn.functional.gelu(self.lru(self.norm(x)), approximate="tanh")
        return x + nn.functional.glu(self.gate(y), dim=-1)


class Classifier(nn.Module):
    """Scalars in, blocks, and the last position out to classes.

    Parameters
    ----------
    width : int
    states : sequence of int
        Stored states of each block's LRU.
    classes : int, default 10
    seed : int, default 0
        Of the initialisation; the global generator is left as it was.
    ring : (float, float), default (0, 1)
        Moduli between which the initial poles lie.

    Examples
    --------
    >>> import torch
    >>> Classifier(width=4, states=[8])(torch.zeros(2, 64)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        width: int,
        states: Sequence[int],
        classes: int = 10,
        seed: int = 0,
        ring: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embed = nn.Linear(1, width)
            self.blocks = nn.ModuleList(Block(width, n, ring) for n in states)
            self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, shape (batch, classes), of sequences `x`, shape (batch, L)."""
        h = self.embed(x[..., None])
        for block in self.blocks:
            h = block(h)
        return self.head(h[:, -1])  # type: ignore[no-any-return]
