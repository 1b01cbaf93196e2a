"""Layers with a memory in which nothing can be cut: the error says of what kind they are, whatever their class is called."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import balred  # noqa: E402
from balred.adapters.torch import LRU, InTrainingReducer  # noqa: E402
from balred.adapters.torch.unknown import fixed  # noqa: E402
from balred.registry.entries import AdapterNotFound  # noqa: E402

SIZES = {"vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 2, "pad_token_id": 0}
MORE = {**SIZES, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 4}
CHANNEL = "states is a channel of the layer, so with fewer it would have another width"
CONVOLUTION = (
    "a gated short convolution: it remembers the last 2 inputs of each channel, and has no states to choose from"
)
HEADS = "linear attention with one head dimension, 8, for queries, keys and values"
LINEAR = {"linear_head_dim": 8, "linear_num_heads": 4, "layer_types": ["linear_attention", "full_attention"]}
MODELS: dict[str, tuple[dict[str, Any], str, str]] = {
    "RecurrentGemma": ({**MORE, "lru_width": 32}, "RecurrentGemmaRglru", f"an RG-LRU: each of its 32 {CHANNEL}"),
    "Rwkv": (
        {**SIZES, "attention_hidden_size": 48},
        "RwkvSelfAttention",
        f"as RWKV-4 has it: each of its 48 {CHANNEL}",
    ),
    "Lfm2": ({**MORE, "conv_L_cache": 3, "layer_types": ["conv", "full_attention"]}, "Lfm2ShortConv", CONVOLUTION),
    "MiniMax": ({**MORE, "num_local_experts": 2}, "MiniMaxLightningAttention", HEADS),
    "KimiLinear": ({**MORE, **LINEAR}, "KimiLinearDeltaAttention", HEADS),
    "BailingHybrid": ({**MORE, **LINEAR}, "BailingHybridDeltaAttention", HEADS),
}


def build(name: str) -> Any:
    transformers = pytest.importorskip("transformers", minversion="5.0")
    config = getattr(transformers, f"{name}Config", None)
    if config is None:
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        return getattr(transformers, f"{name}ForCausalLM")(config(**MODELS[name][0]))


@pytest.mark.parametrize("name", MODELS)
def test_the_error_names_the_kind_and_the_reason(name: str) -> None:
    _, cls, reason = MODELS[name]
    model = build(name)
    tokens = torch.zeros(1, 4, dtype=torch.long)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    uses = (
        lambda: balred.reduce(model, 4, calibration=tokens),
        lambda: balred.plan(model, balred.Energy(0.9)),
        lambda: balred.analyze(model),
        lambda: InTrainingReducer(model, optimizer, balred.Order(4), (0, 4)),
    )
    for use in uses:
        with pytest.raises(AdapterNotFound) as caught:
            use()
        said = str(caught.value)
        assert said.startswith(f"no layer of {type(model).__module__}.{type(model).__name__} can be made smaller: ")
        assert f"({cls}) is " in said
        assert reason in said
        assert "register" not in said  # nothing that a user could write would help
        assert "lacks" not in said
    layer = next(m for m in model.modules() if type(m).__name__ == cls)
    for one in (balred.adapt, balred.hsv):
        with pytest.raises(AdapterNotFound, match="can be made smaller: itself"):
            one(layer)


class Blocks(nn.Module):
    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.zeros(heads, width, width)), nn.Parameter(torch.zeros(heads, width))


def griffin() -> nn.Module:
    """As the authors' package has it: gates are modules."""
    layer = nn.Module()
    layer.a_param = nn.Parameter(torch.zeros(12))
    layer.input_gate, layer.a_gate = Blocks(3, 4), Blocks(3, 4)
    return layer


def lightning(heads: int = 2, size: int = 4, hidden: int = 8) -> Any:
    """As MiniMax's own code has it: the model hands the decays to its layers."""
    layer = nn.Module()
    layer.num_heads, layer.head_dim = heads, size
    layer.qkv_proj, layer.out_proj = nn.Linear(hidden, 3 * heads * size), nn.Linear(heads * size, hidden)
    layer.output_gate, layer.norm = nn.Linear(hidden, heads * size), nn.RMSNorm(heads * size)
    return layer


def running_mean() -> nn.Module:
    layer = nn.Module()
    layer.time_decay, layer.time_first = nn.Parameter(torch.zeros(12)), nn.Parameter(torch.zeros(12))
    layer.k, layer.v, layer.r, layer.o = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 8)
    return layer


class RotaryEmbedding(nn.Module):
    pass


def keys_by_values(*into: str, out: str = "o_proj", rotary: bool = False) -> Any:
    """As flash-linear-attention has its layers, with 2 heads of 4 keys and 6 values; into keys and values."""
    layer = nn.Module()
    layer.num_heads, layer.head_k_dim, layer.head_v_dim = 2, 4, 6
    for name in into:
        setattr(layer, name, nn.Linear(16, 12 if name in ("v_proj", "g_proj", "i_proj") else 8, bias=False))
    setattr(layer, out, nn.Linear(12, 16, bias=False))
    if rotary:
        layer.rotary = RotaryEmbedding()
    return layer


def gated_linear_attention() -> nn.Module:
    layer = keys_by_values("q_proj", "k_proj", "v_proj", "g_proj")
    layer.gk_proj = nn.Sequential(nn.Linear(16, 4, bias=False), nn.Linear(4, 8))
    return layer


def retention() -> nn.Module:
    return keys_by_values("q_proj", "k_proj", "v_proj", "g_proj", rotary=True)


def hgrn2() -> nn.Module:
    layer = keys_by_values("q_proj", "f_proj", "i_proj")
    layer.head_f_dim, layer.head_i_dim = layer.head_k_dim, layer.head_v_dim
    del layer.head_k_dim, layer.head_v_dim
    return layer


KEYS = "linear attention with a memory of 4 keys by 6 values for each head, where each key "
OTHER, PAIRS = "takes part in a recurrence that no adapter knows", "turns with its position in pairs"


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (griffin, "RG-LRU"),
        (lightning, "linear attention"),
        (running_mean, "RWKV-4"),
        (gated_linear_attention, KEYS + OTHER),
        (retention, KEYS + PAIRS),
        (hgrn2, KEYS + OTHER),
    ],
    ids=["Griffin", "Lightning", "RWKV", "GLA", "RetNet", "HGRN2"],
)
def test_layers_are_known_by_their_parameters(make: Any, kind: str) -> None:
    with pytest.raises(AdapterNotFound, match=rf"smaller: 1 \(Module\) is .*{kind}"):
        balred.plan(nn.Sequential(nn.Linear(2, 2), make()), 2)


def softmax(gate: bool) -> Any:
    layer = lightning()
    if gate:
        layer.norm = nn.RMSNorm(layer.head_dim)
    else:
        del layer.output_gate
    return layer


def conformer() -> nn.Module:
    layer = nn.Module()
    layer.up, layer.down = nn.Linear(8, 16), nn.Linear(8, 8)
    layer.conv = nn.Conv1d(8, 8, 3, groups=8)
    return layer


@pytest.mark.parametrize(
    "layer",
    [softmax(gate=True), softmax(gate=False), conformer(), nn.LSTM(4, 4), nn.MultiheadAttention(8, 2), LRU(3, 4)],
    ids=["gated", "softmax", "Conformer", "LSTM", "multihead", "LRU"],
)
def test_others_are_not_taken_for_such(layer: nn.Module) -> None:
    assert fixed(nn.Sequential(layer)) == []


def test_layers_that_can_be_cut_are_cut_beside_them() -> None:
    torch.manual_seed(0)
    model = nn.ModuleList([griffin(), LRU(3, 8)])
    small = balred.reduce(model, 4)
    assert small[1].nu_log.shape == (4,)
    assert torch.equal(small[0].a_param, model[0].a_param)
