"""A small sequence classifier of LRU blocks for PyTorch; its twin for JAX is ``models_jax``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from balred.adapters.torch import LRU


class Block(nn.Module):
    """``x + GLU(Linear(GELU(LRU(LayerNorm(x)))))``: mixing along time, then a gate, beside a residual path."""

    def __init__(self, width: int, states: int, ring: tuple[float, float], dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.lru = LRU(width, states, *ring)
        self.gate = nn.Linear(width, 2 * width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Output sequence of the input sequence `x`, shape (..., L, width)."""
        y = nn.functional.gelu(self.lru(self.norm(x)), approximate="tanh")
        return x + self.dropout(nn.functional.glu(self.gate(y), dim=-1))  # type: ignore[no-any-return]


class Classifier(nn.Module):
    """Numbers or tokens in, blocks, and one position or the mean of all out to classes.

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
    channels : int, default 1
        Numbers at each position.
    vocabulary : int, default 0
        If not 0, tokens are read instead: 0, which pads at the end and is left out of the mean, to `vocabulary` - 1.
    read : {"last", "mean", "each"}, default "last"
        What the head sees: the last position, the mean over positions, or each for itself.
    pairs : bool, default False
        Inputs are pairs of sequences of tokens; the head sees both, their product and their difference.
    dropout : float, default 0
        Of what each block adds.
    block : callable, optional
        ``block(states)`` makes a block; LRU blocks without.

    Examples
    --------
    >>> import torch
    >>> Classifier(width=4, states=[8])(torch.zeros(2, 64)).shape
    torch.Size([2, 10])
    >>> Classifier(4, [8], classes=3, vocabulary=5, read="mean")(torch.tensor([[1, 2, 4], [3, 0, 0]])).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        width: int,
        states: Sequence[int],
        classes: int = 10,
        seed: int = 0,
        ring: tuple[float, float] = (0.0, 1.0),
        *,
        channels: int = 1,
        vocabulary: int = 0,
        read: str = "last",
        pairs: bool = False,
        dropout: float = 0.0,
        block: Callable[[int], nn.Module] | None = None,
    ) -> None:
        if read not in ("last", "mean", "each"):
            raise ValueError(f"read must be last, mean or each, got {read!r}")
        super().__init__()
        self.channels, self.vocabulary, self.read, self.pairs = channels, vocabulary, read, pairs
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embed = nn.Embedding(vocabulary, width) if vocabulary else nn.Linear(channels, width)
            self.blocks = nn.ModuleList(Block(width, n, ring, dropout) if block is None else block(n) for n in states)
            self.head = nn.Linear(4 * width if pairs else width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, shape (batch, classes) or (batch, L, classes).

        `x` has shape (batch, L) or (batch, L, channels); tokens (batch, L), pairs of them (batch, 2, L).
        """
        if not self.pairs:
            return self.head(self._encoded(x))  # type: ignore[no-any-return]
        h = self._encoded(x.flatten(0, 1))
        a, b = h[0::2], h[1::2]
        return self.head(torch.cat([a, b, a * b, a - b], dim=-1))  # type: ignore[no-any-return]

    def _encoded(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embed(x if self.vocabulary or x.ndim == 3 else x[..., None])
        for block in self.blocks:
            h = block(h)
        if self.read == "each":
            return h  # type: ignore[no-any-return]
        if not self.vocabulary:
            return h[:, -1] if self.read == "last" else h.mean(1)  # type: ignore[no-any-return]
        real = x != 0
        count = real.sum(1).clamp(min=1)
        if self.read == "last":
            return h[torch.arange(len(h), device=h.device), count - 1]  # type: ignore[no-any-return]
        return (h * real[..., None]).sum(1) / count[:, None]  # type: ignore[no-any-return]
