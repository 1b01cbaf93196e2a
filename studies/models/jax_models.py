"""A small sequence classifier of LRU blocks for equinox; its twin for PyTorch is ``models_torch``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import equinox as eqx
import jax

from balred.adapters.equinox import LRU


def _everywhere(module: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """Apply a module on vectors to the last axis of `x`, shape (..., width)."""
    flat: jax.Array = jax.vmap(module)(x.reshape(-1, x.shape[-1]))
    return flat.reshape(*x.shape[:-1], flat.shape[-1])


class Block(eqx.Module):
    """``x + GLU(Linear(GELU(LRU(LayerNorm(x)))))``: mixing along time, then a gate, beside a residual path."""

    norm: eqx.nn.LayerNorm
    lru: LRU
    gate: eqx.nn.Linear

    def __init__(self, width: int, states: int, ring: tuple[float, float], key: jax.Array) -> None:
        keys = jax.random.split(key)
        self.norm = eqx.nn.LayerNorm(width)
        self.lru = LRU(width, states, *ring, key=keys[0])
        self.gate = eqx.nn.Linear(width, 2 * width, key=keys[1])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Output sequences of the input sequences `x`, shape (batch, L, width)."""
        y = jax.nn.gelu(self.lru(_everywhere(self.norm, x)))
        return x + jax.nn.glu(_everywhere(self.gate, y), axis=-1)


class Classifier(eqx.Module):
    """Scalars in, blocks, and the last position out to classes.

    Parameters
    ----------
    width : int
    states : sequence of int
        Stored states of each block's LRU.
    classes : int, default 10
    ring : (float, float), default (0, 1)
        Moduli between which the initial poles lie.
    key : jax.Array

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> jax.eval_shape(Classifier(width=4, states=[8], key=jax.random.key(0)), jnp.zeros((2, 64))).shape
    (2, 10)
    """

    embed: eqx.nn.Linear
    blocks: list[Block]
    head: eqx.nn.Linear

    def __init__(
        self,
        width: int,
        states: Sequence[int],
        classes: int = 10,
        ring: tuple[float, float] = (0.0, 1.0),
        *,
        key: jax.Array,
    ) -> None:
        first, last, *rest = jax.random.split(key, 2 + len(states))
        self.embed = eqx.nn.Linear(1, width, key=first)
        self.blocks = [Block(width, n, ring, k) for n, k in zip(states, rest, strict=True)]
        self.head = eqx.nn.Linear(width, classes, key=last)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits, shape (..., classes), of sequences `x`, shape (..., L)."""
        h = _everywhere(self.embed, x[..., None])
        for block in self.blocks:
            h = block(h)
        return _everywhere(self.head, h[..., -1, :])
