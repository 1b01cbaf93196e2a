"""Mamba layers that read a sequence from both ends: each way keeps states of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from vim_layers import STATES, authors, mixer, model, noise, output, silenced  # noqa: E402

import balred  # noqa: E402
from balred.adapters.torch import InTrainingReducer, resize_on_load  # noqa: E402
from balred.adapters.torch.layers import signals  # noqa: E402
from balred.registry.entries import entry_of  # noqa: E402
from balred.selection import select  # noqa: E402

LAYERS = pytest.mark.parametrize(
    "make",
    [mixer, lambda: mixer(divide_output=False), lambda: mixer(bias=True), authors, lambda: authors(halves=False)],
    ids=["mambapy", "summed", "biases", "authors", "authors, summed"],
)


def moments(layer: Any, x: Any) -> Any:
    return entry_of(layer).selective.gather(layer, {"": layer}, x)[""]


def kept_in(layer: Any, x: Any, rank: int) -> Any:
    return select(moments(layer, x), rank).kept


@LAYERS
def test_the_layer_comes_back_at_full_size(make: Any) -> None:
    layer = make()
    same = balred.reduce(layer, STATES, calibration=noise())
    np.testing.assert_array_equal(output(same, noise(2)), output(layer, noise(2)))


@LAYERS
@pytest.mark.parametrize("rank", [1, 3])
def test_a_smaller_layer_is_the_scan_of_the_kept_states(make: Any, rank: int) -> None:
    layer, x = make(), noise()
    small = balred.reduce(layer, rank, calibration=x)
    kept = kept_in(layer, x, rank)
    assert small.x_proj.weight.shape == small.x_proj_b.weight.shape
    assert small.x_proj.out_features == len(small.x_proj.weight) == layer.dt_proj.in_features + 2 * rank
    assert len(small.A_log[0]) == rank
    np.testing.assert_allclose(output(small, noise(2)), output(silenced(layer, kept), noise(2)), atol=1e-5)


@LAYERS
def test_energy_is_what_the_error_of_the_output_says(make: Any) -> None:
    """Both ways add up, so their cross terms count: the error is that of the layer's own outputs."""
    layer, x = make(), noise()
    got = balred.plan(layer, 3, calibration=x).rows[0].energy
    whole, small, without = (
        output(silenced(layer, kept), x).astype(float) for kept in ([range(STATES)] * 2, kept_in(layer, x, 3), [[], []])
    )
    want = 1 - np.sum((whole - small) ** 2) / np.sum((whole - without) ** 2)
    assert got == pytest.approx(want, rel=1e-3)


def test_the_best_single_states_are_found() -> None:
    layer, x = authors(), noise()
    whole = output(layer, x)
    errors = {
        pair: float(np.sum((output(silenced(layer, [[pair[0]], [pair[1]]]), x) - whole) ** 2))
        for pair in ((a, b) for a in range(STATES) for b in range(STATES))
    }
    found = tuple(int(one) for one in kept_in(layer, x, 1)[:, 0])
    better = [pair for pair, error in errors.items() if error < 0.999 * errors[found]]
    # exchanges end where no single one helps
    assert all(pair[0] != found[0] and pair[1] != found[1] for pair in better)


@pytest.mark.parametrize("numbers", [1, 3 * 2 * 2 * 32 * STATES, 23 * 2 * 2 * 32 * STATES])
def test_moments_do_not_depend_on_how_many_tokens_are_held(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = authors(), noise()
    want = moments(layer, x)
    monkeypatch.setattr(signals, "_CHUNK", numbers)
    got = moments(layer, x)
    scale = np.abs(want.contributions).max()
    np.testing.assert_allclose(got.contributions, want.contributions, atol=1e-5 * scale)
    np.testing.assert_allclose(got.B, want.B, rtol=1e-5)
    np.testing.assert_allclose(got.C, want.C, rtol=1e-5)


def test_a_reversed_sequence_swaps_the_ways() -> None:
    layer, other, x = authors(), authors(), noise()
    with torch.no_grad():
        mine = dict(layer.named_parameters())
        for name, p in other.named_parameters():
            turned = {"A_log": "A_b_log", "A_b_log": "A_log"}.get(name)
            part, _, rest = name.partition(".")
            if turned is None and part not in ("in_proj", "out_proj"):
                turned = (part[:-2] if part.endswith("_b") else f"{part}_b") + (f".{rest}" if rest else "")
            p.copy_(mine[turned or name])
    np.testing.assert_allclose(output(other, x.flip(1)), output(layer, x).copy()[:, ::-1], atol=1e-6)
    want, got = moments(layer, x), moments(other, x.flip(1))
    swapped = np.roll(want.contributions, (STATES, STATES), (0, 1))
    np.testing.assert_allclose(got.contributions, swapped, atol=1e-5 * np.abs(swapped).max())


def test_without_data() -> None:
    layer = mixer()
    with pytest.warns(balred.reduction.CalibrationWarning):
        small = balred.reduce(layer, 3)
    assert np.isfinite(output(small, noise())).all()
    assert small.A_log_b.shape[1] == 3


def test_a_model_is_saved_and_made_again_from_its_configuration(tmp_path: Path) -> None:
    full = model(layers=2)
    x = noise()
    small = balred.reduce(full, 3, calibration=x)
    assert (small.config.d_state, full.config.d_state) == (3, STATES)
    assert all(layer.mixer.config is small.config for layer in small.layers)
    again = type(full)(small.config).eval()
    again.load_state_dict(small.state_dict())
    np.testing.assert_array_equal(output(again, x), output(small, x))
    other = model(layers=2)
    resize_on_load(other)
    other.load_state_dict(small.state_dict())
    np.testing.assert_array_equal(output(other, x), output(small, x))
    balred.save(small, tmp_path / "small.safetensors")
    loaded = balred.load(model(layers=2), tmp_path / "small.safetensors")
    np.testing.assert_array_equal(output(loaded, x), output(small, x))


def test_in_training() -> None:
    full, x = model(layers=2).train(), noise()
    optimizer = torch.optim.Adam(full.parameters(), lr=1e-3)
    names = dict(full.named_parameters())
    reducer = InTrainingReducer(full, optimizer, balred.Order(3), (0, 2), 1, calibration=x)
    for _ in range(4):
        optimizer.zero_grad()
        full(x).square().mean().backward()
        optimizer.step()
        reducer.step()
    assert {layer.mixer.A_log_b.shape[1] for layer in full.layers} == {3}
    assert all(p is names[name] for name, p in full.named_parameters())
    assert all(optimizer.state[p]["exp_avg"].shape == p.shape for p in full.parameters())


def test_one_way_of_the_same_class_is_a_mamba_layer() -> None:
    layer, x = mixer(bidirectional=False), noise()
    assert moments(layer, x).groups == 1
    small = balred.reduce(layer, 3, calibration=x, compensate=False)
    assert small.A_log.shape[1] == 3
    assert np.isfinite(output(small, x)).all()


@pytest.mark.parametrize(
    ("part", "said"),
    [("A_log", "its A_log is shared with A_log_b"), ("x_proj", "must have projections of its own, got one x_proj")],
)
def test_parameters_that_both_ways_share_are_refused(part: str, said: str) -> None:
    layer = mixer()
    setattr(layer, f"{part}_b", getattr(layer, part))
    with pytest.raises(ValueError, match=said):
        balred.plan(layer, 3, calibration=noise())


@pytest.mark.parametrize("cut", ["plan", "blank", "training"])
def test_norms_that_both_ways_share_are_refused(cut: str) -> None:
    full = model(inner_layernorms=True)
    optimizer = torch.optim.SGD(full.parameters(), lr=0.1)
    uses = {
        "plan": lambda: balred.plan(full, 3, calibration=noise()),
        "blank": lambda: balred.registry.sizes.of_size(full.layers[0].mixer, 3),
        "training": lambda: InTrainingReducer(full, optimizer, balred.Order(3), (0, 2), 1, calibration=noise()),
    }
    with pytest.raises(ValueError, match="each way keeps states of its own, got one on B and on C in VMambaBlock"):
        uses[cut]()
