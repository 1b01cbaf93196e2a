"""Mamba layers of Hugging Face transformers and mambapy, in the packages' own models."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import balred  # noqa: E402
from balred.adapters.torch_mamba import _mamba1, _mamba2  # noqa: E402
from balred.selective import CalibrationWarning  # noqa: E402

SIZES = {"vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 2}
ATTENTION = {"intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
HEADS = {"mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_chunk_size": 8}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "Mamba": ("state_size", {"state_size": 8}),
    "FalconMamba": ("state_size", {"state_size": 8}),
    "Jamba": (
        "mamba_d_state",
        {"mamba_d_state": 8, "num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, **ATTENTION},
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
}


def tokens(seed: int = 0, batch: int = 2) -> Any:
    return torch.randint(3, 90, (batch, 20), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=MODELS)
def made(request: Any) -> tuple[Any, str]:
    transformers = pytest.importorskip("transformers")
    size, options = MODELS[request.param]
    config = getattr(transformers, f"{request.param}Config", None)
    if config is None:
        pytest.skip(f"transformers {transformers.__version__} has no {request.param}")
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = getattr(transformers, f"{request.param}ForCausalLM")(config(**SIZES, **options)).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim >= 2:
                p.normal_(std=0.2)  # so that the states matter more than at the initial values
    return model, size


def logits(model: Any, data: Any) -> Any:
    with torch.no_grad():
        return model(data).logits


def test_a_smaller_model_of_the_same_classes(made: Any, tmp_path: Path) -> None:
    model, size = made
    data = tokens()
    before = {n: v.clone() for n, v in model.state_dict().items()}
    whole = logits(model, data)
    assert torch.equal(logits(balred.reduce(model, 8, calibration=data), data), whole)
    small = balred.reduce(model, 3, calibration={"input_ids": data})
    assert [type(m) for m in small.modules()] == [type(m) for m in model.modules()]
    assert getattr(small.config, size) == 3
    assert getattr(model.config, size) == 8
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert torch.isfinite(logits(small, data)).all()

    # one token after the other through the cache is the whole sequence at once
    made_up = small.generate(data[:1, :6], max_new_tokens=4, do_sample=False)
    assert made_up.shape == (1, 10)
    greedy = data[:1, :6]
    for _ in range(4):
        greedy = torch.cat([greedy, logits(small, greedy)[:, -1:].argmax(-1)], 1)
    assert torch.equal(made_up, greedy)

    small.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(again, data), logits(small, data), rtol=1e-6, atol=1e-7)


def replayed(layer: Any, x: Any) -> Any:
    """The layer's output from its signals, by the plain recurrence."""
    s = (_mamba1 if layer.A_log.ndim == 2 else _mamba2)(layer, x, None)
    groups, width = s.B.shape[2], s.dt.shape[-1] // s.B.shape[2]
    B, C = (v.repeat_interleave(width, dim=2) for v in (s.B, s.C))
    h, ys = torch.zeros(len(x), width * groups, s.B.shape[-1]), []
    for t in range(x.shape[1]):
        h = torch.exp(s.dt[:, t, :, None] * s.A) * h + s.drive[:, t, :, None] * B[:, t]
        ys.append((h * C[:, t]).sum(-1))
    y = torch.stack(ys, 1)
    skip = layer.D.repeat_interleave(y.shape[-1] // len(layer.D)) * s.drive / s.dt
    return (s.gain(y, slice(None)) * (y + skip)) @ s.W.mT


def test_the_signals_are_the_layers_own(made: Any) -> None:
    model, _ = made
    layer = next(m for m in model.modules() if getattr(m, "A_log", None) is not None)
    x = torch.randn(2, 12, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        want = layer(x)
        torch.testing.assert_close(replayed(layer, x), want, rtol=1e-3, atol=1e-4 * float(want.abs().max()))


def test_padding_counts_for_nothing() -> None:
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    config = transformers.MambaConfig(state_size=8, **SIZES)
    model = transformers.MambaForCausalLM(config).eval()
    data = tokens()
    padded = torch.cat([torch.full((2, 7), 5), data], 1)
    mask = torch.cat([torch.zeros(2, 7, dtype=torch.long), torch.ones(2, 20, dtype=torch.long)], 1)
    plain = balred.plan(model, 3, calibration=data)
    masked = balred.plan(model, 3, calibration={"input_ids": padded, "attention_mask": mask})
    for a, b in zip(plain.rows, masked.rows, strict=True):
        assert a.energy == pytest.approx(b.energy, rel=1e-4)


def test_the_groups_of_mamba2_keep_states_of_their_own() -> None:
    """The second half of the first group and the first half of the second are silent: those are given up."""
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    config = transformers.Mamba2Config(state_size=4, n_groups=2, head_dim=16, num_heads=4, chunk_size=8, **SIZES)
    model = transformers.Mamba2ForCausalLM(config).eval()
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, torch.nn.Conv1d):
                for row in (2, 3, 4, 5):
                    m.weight[64 + 8 + row] = 0
                    m.bias[64 + 8 + row] = 0
    small = balred.reduce(model, 2, calibration=tokens())
    mixer = small.backbone.layers[0].mixer
    assert (mixer.conv_dim, mixer.conv1d.groups, mixer.ssm_state_size) == (64 + 8, 64 + 8, 2)
    old = model.backbone.layers[0].mixer.conv1d.weight
    rows = [*range(64), 64, 65, 70, 71, 72, 73, 78, 79]
    assert torch.equal(mixer.conv1d.weight, old[rows])
    torch.testing.assert_close(logits(small, tokens()), logits(model, tokens()), rtol=1e-5, atol=1e-6)


def test_unequal_ranks_are_rounded_up_and_bare_layers_work_too() -> None:
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    model = transformers.MambaModel(transformers.MambaConfig(state_size=8, **SIZES)).eval()
    p = balred.plan(model, {"layers.0.mixer": 2, "layers.1.mixer": 5}, calibration=tokens())
    assert [r.after for r in p.rows] == [5, 5]
    assert "configuration holds one" in p.rows[0].note
    mixer = model.layers[0].mixer
    with pytest.warns(CalibrationWarning):
        small = balred.reduce(mixer, 2)
    assert (small.ssm_state_size, small.config.state_size, mixer.config.state_size) == (2, 2, 8)
    assert small(torch.randn(1, 5, 32)).shape == (1, 5, 32)


@pytest.mark.parametrize("norms", [False, True])
def test_mambapy(norms: bool) -> None:
    mamba = pytest.importorskip("mambapy.mamba")
    torch.manual_seed(0)
    config = mamba.MambaConfig(d_model=16, n_layers=2, d_state=8, inner_layernorms=norms)
    model = mamba.Mamba(config)
    x = torch.randn(2, 12, 16)
    with torch.no_grad():
        torch.testing.assert_close(balred.reduce(model, 8, calibration=x)(x), model(x))
        small = balred.reduce(model, 3, calibration=x)
        y = small(x)
        caches = [(None, torch.zeros(2, 32, 3)) for _ in range(2)]
        steps = []
        for t in range(12):
            out, caches = small.step(x[:, t], caches)
            steps.append(out)
    assert type(small) is mamba.Mamba
    assert (small.config.d_state, config.d_state) == (3, 8)
    assert small.layers[0].mixer.A_log.shape == (32, 3)
    torch.testing.assert_close(torch.stack(steps, 1), y, rtol=1e-4, atol=1e-5)
    assert np.isfinite(y.numpy()).all()
