"""Mamba layers of Hugging Face transformers and mambapy, in the packages' own models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mamba_models import MODELS, SIZES, build, logits, replayed, silence_keys, tokens  # noqa: E402

import balred  # noqa: E402
from balred.adapters.torch.layers.zamba import _zamba  # noqa: E402
from balred.reduction import CalibrationWarning  # noqa: E402


@pytest.fixture(params=MODELS)
def made(request: Any) -> tuple[Any, str]:
    return build(request.param), MODELS[request.param][0]


@pytest.mark.alike
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


def test_the_heads_of_zamba_keep_states_of_their_own() -> None:
    """Other states are never read in each head: those are given up, and nobody notices."""
    model, data = build("Zamba"), tokens()
    mixers = [m for m in model.modules() if hasattr(m, "x_proj_weight")]
    silent = torch.tensor([[0, 1, 2, 5], [3, 4, 6, 7]])
    with torch.no_grad():
        for mixer in mixers:
            for head in range(2):
                mixer.x_proj_weight[head, mixer.time_step_rank + 8 + silent[head]] = 0
    small = balred.reduce(model, 4, calibration=data)
    for old, new in zip(mixers, (m for m in small.modules() if hasattr(m, "x_proj_weight")), strict=True):
        assert (new.ssm_state_size, new.config.mamba_d_state, old.ssm_state_size) == (4, 4, 8)
        for head, kept in enumerate(([3, 4, 6, 7], [0, 1, 2, 5])):
            assert torch.equal(new.A_log[head], old.A_log[head][:, kept])
    assert torch.equal(logits(small, data), logits(model, data))


def test_one_head_of_zamba_is_refitted_as_a_mamba1_layer() -> None:
    """State 1 does thrice what state 0 does, and is read on its own: C_0 + 3 C_1 stands in for it."""
    model, data = build("Zamba", n_mamba_heads=1), tokens()
    rows = range(2, 8)
    with torch.no_grad():
        for mixer in (m for m in model.modules() if hasattr(m, "x_proj_weight")):
            B, C = (mixer.time_step_rank + 8 * k for k in (0, 1))
            mixer.A_log[0, :, 1] = mixer.A_log[0, :, 0]
            mixer.x_proj_weight[0, B + 1] = 3 * mixer.x_proj_weight[0, B]
            mixer.x_proj_weight[0, [C + r for r in rows]] = 0
    small = balred.reduce(model, 1, calibration=data)
    bare = balred.reduce(model, 1, calibration=data, compensate=False)
    whole = logits(model, data)
    miss, bare_miss = (float((logits(x, data) - whole).abs().max() / whole.abs().max()) for x in (small, bare))
    assert miss < 1e-4
    assert bare_miss > 10 * miss


def test_padding_counts_for_nothing_in_zamba() -> None:
    layer = next(m for m in build("Zamba").modules() if hasattr(m, "x_proj_weight"))
    x = torch.randn(2, 12, 32, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, 12)
    mask[0, :5] = 0
    with torch.no_grad():
        s = _zamba(layer, x, mask)
        whole, alone = s.drive, _zamba(layer, x[:1, 5:], None)
    assert not whole[0, :5].any()
    assert not s.C[0, :5].any()
    torch.testing.assert_close(s.drive[:1, 5:], alone.drive)
    torch.testing.assert_close(s.C[:1, 5:], alone.C)


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


@pytest.mark.alike
@pytest.mark.parametrize("name", ["Qwen3Next", "Qwen3_5", "OlmoHybrid", "LaraMini"])
def test_keys_of_gated_delta_nets_that_say_nothing_are_given_up(name: str) -> None:
    """Every other dimension of keys and queries is zero: without them the layer is the same."""
    layer = silence_keys(next(m for m in build(name).modules() if getattr(m, "A_log", None) is not None))
    x = torch.randn(2, 12, 32, generator=torch.Generator().manual_seed(1))
    small = balred.reduce(layer, 4, calibration=x)
    with torch.no_grad():
        want = layer(x)
        torch.testing.assert_close(small(x), want, rtol=1e-3, atol=1e-4 * float(want.abs().max()))
    assert small.head_k_dim == 4
    assert "that is not counted here" in balred.plan(layer, 4, calibration=x).rows[0].note


@pytest.mark.alike
def test_activations_are_those_that_a_gated_delta_net_names() -> None:
    """Qwen4-Exp names one for its gate; a layer that computes something else than what is read of it would be refused."""
    layer = next(m for m in build("Qwen3Next", hidden_act="gelu").modules() if hasattr(m, "A_log"))
    layer.norm.activation = "sigmoid"
    x = torch.randn(2, 12, 32, generator=torch.Generator().manual_seed(1))
    assert balred.reduce(layer, 4, calibration=x).head_k_dim == 4
