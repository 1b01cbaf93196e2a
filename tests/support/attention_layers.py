"""mLSTM layers of a small xLSTM of transformers, and the best they can keep of their products."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.0")


def model(weights: str = "single", bias: bool = False, mode: str = "inference", **kw: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.xLSTMConfig(
        vocab_size=90, hidden_size=128, num_hidden_layers=2, num_heads=4, qk_dim_factor=1.0, use_bias=bias, mode=mode,
        chunk_size=16, autocast_kernel_dtype="float32", eos_token_id=None, **kw,
    )  # fmt: skip
    made = transformers.xLSTMForCausalLM(config).eval()
    if weights == "fused":  # which the package cannot initialise itself
        config.weight_mode = "fused"
        for block in made.backbone.blocks:
            block.mlstm_layer = type(block.mlstm_layer)(config)
    with torch.no_grad():
        for name, p in made.named_parameters():
            if "bias" in name or "gate" in name:
                p.add_(0.3 * torch.randn_like(p))
            if name.endswith(("q.weight", "k.weight")):  # so that what is read depends on them
                p.mul_(3)
    return made


def layer(weights: str = "single", bias: bool = False) -> Any:
    """In double precision, which the kernels of training keep."""
    return model(weights, bias, "train").double().backbone.blocks[0].mlstm_layer


def products(full: Any) -> Any:
    """W_q^T W_k / sqrt(d), (heads, inputs, inputs), a constant input for the biases."""
    heads, size = full.config.num_heads, full.qk_dim
    if hasattr(full, "q"):
        parts = [(x.weight, x.bias) for x in (full.q, full.k)]
    else:
        weight, bias = full.qkv_opreact.weight, full.qkv_opreact.bias
        parts = [(weight[rows], None if bias is None else bias[rows]) for rows in (slice(size), slice(size, 2 * size))]
    q, k = (
        (w if b is None else torch.cat([w, b[:, None]], 1)).detach().double().numpy().reshape(heads, size // heads, -1)
        for w, b in parts
    )
    return q.swapaxes(1, 2) @ k / (size // heads) ** 0.5


def apply(full: Any, length: int = 48) -> Any:
    x = torch.randn(2, length, 128, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        return full(x)[0].numpy()


def with_best_products(full: Any, rank: int) -> Any:
    """A copy of a layer with separate, unbiased weights whose products are the best of this rank, by NumPy's SVD."""
    other, heads = copy.deepcopy(full), full.config.num_heads
    U, s, V = np.linalg.svd(products(full))
    root, size = np.sqrt(s[:, None, :rank]), full.qk_dim // heads
    scale = size**0.25
    for part, value in ((other.q, U[:, :, :rank] * root), (other.k, V[:, :rank].swapaxes(1, 2) * root)):
        rows = np.zeros((heads, size, value.shape[1]))
        rows[:, :rank] = scale * value.swapaxes(1, 2)
        part.weight.data = torch.from_numpy(rows.reshape(heads * size, -1)).to(part.weight)
    return other
