"""Small models of mamba2-jax, and their layers' scans over some of the states."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
mamba2_jax = pytest.importorskip("mamba2_jax")
import jax.numpy as jnp  # noqa: E402
from flax import nnx  # noqa: E402

from balred.adapters.flax.mamba import _gain, _signals  # noqa: E402


def build(width: int = 32, layers: int = 2) -> Any:
    """A small causal model, its weights large enough for the states to matter."""
    config = mamba2_jax.Mamba2Config(
        vocab_size=90, hidden_size=width, state_size=8, head_dim=16, chunk_size=8, num_hidden_layers=layers
    )
    model = mamba2_jax.Mamba2ForCausalLM(config, rngs=nnx.Rngs(0))
    key = jax.random.key(1)
    for _, value in nnx.iter_graph(model):
        if isinstance(value, nnx.Param) and value.ndim >= 2:
            key, now = jax.random.split(key)
            value[...] = 0.2 * jax.random.normal(now, value.shape)
    return model


def mixer(model: Any, layer: int = 0) -> Any:
    return model.backbone.layers[layer].mixer


def replayed(layer: Any, x: Any, kept: Any = None) -> Any:
    """The layer's output from its signals, by the plain recurrence; `kept`, (1, rank): of these states alone."""
    s = _signals(layer, x)
    read = np.ones(s.C.shape[-1]) if kept is None else np.isin(np.arange(s.C.shape[-1]), kept)
    h, ys = np.zeros((*s.drive[:, 0].shape, s.B.shape[-1])), []
    for t in range(x.shape[1]):
        h = s.decay[:, t, :, None] * h + s.drive[:, t, :, None] * s.B[:, t, None]
        ys.append((h * (s.C[:, t] * read)[:, None]).sum(-1))
    y = jnp.stack(ys, 1)
    return np.asarray((_gain(s, y) * (y + s.skip)) @ s.W.T)
