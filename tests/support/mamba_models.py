"""Small Mamba models of transformers, and their layers' scans over some of the states."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from balred.adapters.torch.layers.delta import _delta, is_gated_delta  # noqa: E402
from balred.adapters.torch.layers.mamba import _mamba1, _mamba2  # noqa: E402
from balred.adapters.torch.layers.zamba import _zamba  # noqa: E402

SIZES = {"vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 2}


ATTENTION = {"intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}


HEADS = {"mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_chunk_size": 8}


DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
    "head_dim": 8,
    **ATTENTION,
}
EXPERTS = {
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}


MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "Mamba": ("state_size", {"state_size": 8}),
    "FalconMamba": ("state_size", {"state_size": 8}),
    "Jamba": (
        "mamba_d_state",
        {"mamba_d_state": 8, "num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, **ATTENTION},
    ),
    "Zamba": (
        "mamba_d_state",
        {
            "mamba_d_state": 8,
            "n_mamba_heads": 2,
            "num_hidden_layers": 3,  # the shared transformer wants two places
            "layers_block_type": ["mamba", "hybrid", "hybrid"],
            **ATTENTION,
            "num_key_value_heads": 4,
        },
    ),
    "Mamba2": ("state_size", {"state_size": 8, "n_groups": 2, "head_dim": 16, "num_heads": 4, "chunk_size": 8}),
    "Bamba": ("mamba_d_state", {"attn_layer_indices": [1], "mamba_n_groups": 1, **HEADS, **ATTENTION}),
    "GraniteMoeHybrid": (
        "mamba_d_state",
        {
            "layer_types": ["mamba", "attention"],
            "mamba_n_groups": 2,
            "shared_intermediate_size": 48,
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            **HEADS,
            **ATTENTION,
        },
    ),
    "NemotronH": (
        "ssm_state_size",
        {
            "ssm_state_size": 8,
            "mamba_num_heads": 4,
            "mamba_head_dim": 16,
            "n_groups": 2,
            "head_dim": 8,
            "chunk_size": 8,
            "hybrid_override_pattern": "M*",
            **ATTENTION,
        },
    ),
    "Zamba2": (
        "mamba_d_state",
        {
            "mamba_d_state": 8,
            "n_mamba_heads": 4,
            "mamba_headdim": 16,
            "mamba_ngroups": 1,
            "chunk_size": 8,
            "layers_block_type": ["mamba", "hybrid"],
            **ATTENTION,
            "num_key_value_heads": 4,
        },
    ),
    "FalconH1": (
        "mamba_d_state",
        {"mamba_d_ssm": 64, "mamba_n_groups": 1, "ssm_multipliers": [1.0, 2.0, 0.5, 2.0, 1.0], **HEADS, **ATTENTION},
    ),
    "Qwen3Next": ("linear_key_head_dim", {**DELTA, **EXPERTS}),
    "Qwen3_5": ("linear_key_head_dim", DELTA),
    "OlmoHybrid": ("linear_key_head_dim", {**DELTA, "linear_num_key_heads": 4, "pad_token_id": 0}),
    "LaraMini": ("linear_key_head_dim", {**DELTA, **EXPERTS, "pad_token_id": 0}),
}


def tokens(seed: int = 0, batch: int = 2) -> Any:
    return torch.randint(3, 90, (batch, 20), generator=torch.Generator().manual_seed(seed))


def build(name: str, **more: Any) -> Any:
    """A small causal model, its weights large enough for the states to matter."""
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name}TextConfig", None) or getattr(transformers, f"{name}Config", None)
    if config is None:
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = getattr(transformers, f"{name}ForCausalLM")(config(**{**SIZES, **MODELS[name][1], **more})).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim >= 2:
                p.normal_(std=0.2)
    return model


def logits(model: Any, data: Any) -> Any:
    with torch.no_grad():
        return model(data).logits


def replayed(layer: Any, x: Any, kept: Any = None) -> Any:
    """The layer's output from its signals, by the plain recurrence; `kept`, (groups, rank): of these states alone."""
    reader = _delta if is_gated_delta(layer) else {1: _mamba2, 2: _mamba1, 3: _zamba}[layer.A_log.ndim]
    s = reader(layer, x, None)
    groups, width = s.B.shape[2], s.dt.shape[-1] // s.B.shape[2]
    read = torch.ones(s.C.shape[2:]) if kept is None else torch.zeros(s.C.shape[2:]).scatter(1, torch.tensor(kept), 1.0)
    B, C = (v.repeat_interleave(width, dim=2) for v in (s.B, s.C * read))
    h, ys = torch.zeros(len(x), width * groups, s.B.shape[-1]), []
    for t in range(x.shape[1]):
        h = torch.exp(s.dt[:, t, :, None] * s.A) * h + s.drive[:, t, :, None] * B[:, t]
        ys.append((h * C[:, t]).sum(-1))
    y = torch.stack(ys, 1)
    D = getattr(layer, "D", torch.zeros(1)).flatten()
    skip = D.repeat_interleave(y.shape[-1] // D.numel()) * s.drive / s.dt
    return (s.gain(y, slice(None)) * (y + skip)) @ s.W.mT


def silence_keys(layer: Any) -> Any:
    """A copy of a Gated DeltaNet layer in which every other dimension of keys and queries is zero."""
    layer = copy.deepcopy(layer)
    quiet = torch.arange(2 * layer.key_dim) % 2 == 0  # heads have even numbers of dimensions
    with torch.no_grad():
        layer.conv1d.weight[: 2 * layer.key_dim][quiet] = 0
    norm = getattr(layer, "o_norm", None) or layer.norm
    norm.variance_epsilon = norm.eps = 0.0  # a layer with fewer keys has larger values before its norm
    return layer


def transformer(name: str, tie: bool = True, seed: int = 0, **sizes: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    known = getattr(transformers, f"{name}TextConfig", None) or getattr(transformers, f"{name}Config", None)
    if known is None:
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    config = known(**{**SIZES, **MODELS[name][1], **sizes}, tie_word_embeddings=tie)
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(transformers, f"{name}ForCausalLM")(config).eval()
