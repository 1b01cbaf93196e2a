"""mLSTM layers of Hugging Face transformers (xLSTM), in the package's own models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.0")

from attention_layers import apply, layer, model, products  # noqa: E402

import balred  # noqa: E402
from balred.adapters.torch import InTrainingReducer  # noqa: E402
from balred.adapters.torch.layers.attention import resize_model  # noqa: E402
from balred.registry import layers_of  # noqa: E402
from balred.registry.entries import entry_of  # noqa: E402

NAMES = ["backbone.blocks.0.mlstm_layer", "backbone.blocks.1.mlstm_layer"]
BIAS = pytest.mark.parametrize("bias", [False, True], ids=["", "biases"])
MODES = pytest.mark.parametrize("weights", ["single", "fused"])


def low_rank(full: Any, rank: int) -> None:
    with torch.no_grad():
        heads = full.q.weight.reshape(4, -1, 128)
        heads.copy_(
            heads @ torch.linalg.qr(torch.randn(4, 128, rank).to(heads))[0] @ torch.randn(4, rank, 128).to(heads) / 9
        )


@BIAS
@MODES
def test_the_layer_comes_back_at_full_rank(weights: str, bias: bool) -> None:
    full = layer(weights, bias)
    system, rebuild = balred.adapt(full)
    assert system.states == 32
    want = apply(full)
    assert np.abs(apply(rebuild(system)) - want).max() < 1e-10 * np.abs(want).max()


@BIAS
@MODES
def test_hankel_singular_values_are_those_of_the_products(weights: str, bias: bool) -> None:
    full = layer(weights, bias)
    want = np.linalg.svd(products(full), compute_uv=False)[:, :32]
    np.testing.assert_allclose(balred.hsv(full).detach().numpy(), want, rtol=1e-10)


@BIAS
@MODES
@pytest.mark.parametrize("rank", [5, 16])
def test_a_reduced_layer_has_the_best_products_of_that_rank(rank: int, weights: str, bias: bool) -> None:
    full = layer(weights, bias)
    small = balred.reduce(full, rank)
    assert type(small) is type(full)
    assert small.qk_dim == 64  # 16 a head: the package's cache is made for multiples of 64
    assert small.config.qk_dim == small.qk_dim
    assert full.qk_dim == full.config.qk_dim == 128
    U, s, V = np.linalg.svd(products(full))
    best = (U[:, :, :rank] * s[:, None, :rank]) @ V[:, :rank]
    np.testing.assert_allclose(products(small), best, atol=1e-10)
    error = np.linalg.norm(products(small) - products(full), 2, (1, 2))
    np.testing.assert_allclose(error, s[:, rank], rtol=1e-10)
    bound = balred.plan(full, rank).rows[0].bound
    assert bound is not None
    assert error.max() <= bound
    assert np.abs(apply(small) - apply(full)).max() > 1e-3


def test_what_has_the_rank_is_reduced_exactly() -> None:
    full = layer()
    low_rank(full, 16)
    small = balred.reduce(full, 16)
    assert small.q.weight.shape == small.k.weight.shape == (64, 128)
    assert small.q.out_features == small.k.out_features == 64
    want = apply(full)
    assert np.abs(apply(small) - want).max() < 1e-10 * np.abs(want).max()
    x = torch.randn(2, 128)
    with torch.no_grad():
        score = torch.einsum("bd,bd->b", small.q.double()(x.double())[:, :16], small.k(x.double())[:, :16]) / 16**0.5
        want = torch.einsum("bd,bd->b", full.q(x.double())[:, :32], full.k(x.double())[:, :32]) / 32**0.5
    torch.testing.assert_close(score, want)


def test_step_by_step_with_a_smaller_memory() -> None:
    full = model().backbone.blocks[0].mlstm_layer
    low_rank(full, 16)
    small = balred.reduce(full, 16)
    x = torch.randn(2, 20, 128)
    states: list[Any] = [None, None]
    with torch.no_grad():
        for t in range(20):
            outputs = []
            for i, each in enumerate((full, small)):
                y, states[i] = each(x[:, t : t + 1], states[i])
                outputs.append(y)
            torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-3, atol=1e-4)
    assert states[0][0].shape == (2, 4, 32, 32)
    assert states[1][0].shape == (2, 4, 16, 32)


@pytest.mark.alike
@BIAS
def test_a_model_generates_and_is_saved(bias: bool, tmp_path: Path) -> None:
    full = model(bias=bias)
    assert list(layers_of(full)) == NAMES
    small = balred.reduce(full, 16)
    ids = torch.randint(0, 90, (2, 40))
    assert small.config.qk_dim == 64
    assert all(block.mlstm_layer.config is small.config for block in small.backbone.blocks)
    assert full.config.qk_dim == 128
    kept = {"do_sample": False, "max_new_tokens": 8, "pad_token_id": 1}
    with_cache, without = (small.generate(ids, use_cache=use, **kept) for use in (True, False))
    assert torch.equal(with_cache, without)
    small.save_pretrained(tmp_path)
    again = transformers.xLSTMForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, small(ids).logits)
        assert (full(ids).logits - small(ids).logits).abs().max() > 1e-3


def test_unequal_ranks_are_filled_up_with_zeros() -> None:
    full = model(mode="train").double()
    alone = [balred.reduce(full.get_submodule(name), rank) for name, rank in zip(NAMES, (16, 31), strict=True)]
    small = balred.reduce(full, dict(zip(NAMES, (16, 31), strict=True)))
    assert small.config.qk_dim == 128
    for block, one in zip(small.backbone.blocks, alone, strict=True):
        assert block.mlstm_layer.qk_dim == 128
        np.testing.assert_allclose(apply(block.mlstm_layer), apply(one), atol=1e-12)


def test_half_precision_layers() -> None:
    full = layer().bfloat16()
    small = balred.reduce(full, 16)
    assert small.q.weight.dtype == torch.bfloat16
    U, s, V = np.linalg.svd(products(full))
    best = (U[:, :, :16] * s[:, None, :16]) @ V[:, :16]
    assert np.abs(products(small) - best).max() < 0.01 * np.abs(best).max()


def test_gradients_flow() -> None:
    full = layer(bias=True)
    balred.hsv(full).sum().backward()
    assert all(p.grad.any() for p in (full.q.weight, full.k.weight, full.q.bias, full.k.bias))
    small = balred.reduce(full, 16)
    small(torch.randn(1, 16, 128, dtype=torch.float64))[0].square().sum().backward()
    assert all(p.grad.any() for p in (small.q.weight, small.k.weight))


def test_in_training() -> None:
    net = model(mode="train").train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    reducer = InTrainingReducer(net, optimizer, balred.Energy(0.6), (0, 4), 2)
    ids = torch.randint(0, 90, (4, 32))
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = net(ids, labels=ids, use_cache=False).loss  # the cache is written into, in the graph
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        reducer.step()
    layers = [block.mlstm_layer for block in net.backbone.blocks]
    assert all(x.q.weight.shape[0] == x.qk_dim < 128 for x in layers)
    assert all(optimizer.state[p]["exp_avg"].shape == p.shape for p in net.parameters() if p.grad is not None)
    assert losses[-1] < losses[0]
    resize_model(net, layers[0])
    assert net.config.qk_dim == layers[0].qk_dim == layers[1].qk_dim


def started(rule: Any) -> tuple[Any, Any]:
    """A model whose first layer needs a rank of 16 a head, and a reducer that cuts at once."""
    net = model()
    low_rank(net.get_submodule(NAMES[0]), 16)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    return net, InTrainingReducer(net, optimizer, rule, (0, 1), 1, min_cut=0.0)


def test_in_training_all_layers_get_one_rank_and_run_with_a_cache() -> None:
    """The largest that a layer needs by itself; with other sizes the package's cache, one size for all layers, does not fit."""
    rule = balred.Energy(0.95)
    net, reducer = started(rule)
    alone = [balred.analyze(net.get_submodule(name)).rank(rule) for name in NAMES]
    assert alone[0] <= 16 < alone[1] < 32
    report = reducer.step()
    assert report.ranks == dict.fromkeys(NAMES, alone[1])
    assert {block.mlstm_layer.qk_dim for block in net.backbone.blocks} == {net.config.qk_dim}
    ids = torch.randint(0, 90, (2, 12), generator=torch.Generator().manual_seed(0))
    kept = {"do_sample": False, "max_new_tokens": 5, "pad_token_id": 1}
    with_cache, without = (net.generate(ids, use_cache=use, **kept) for use in (True, False))
    assert torch.equal(with_cache, without)


def test_in_training_none_is_cut_where_one_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    from balred.reduction.operators import OperatorCandidate

    net, reducer = started(balred.Order(16))
    real, first = OperatorCandidate.cut, []

    def failing(self: Any, rank: int) -> Any:
        first.append(self)
        if len(first) == 2:
            raise ValueError("injected")
        return real(self, rank)

    monkeypatch.setattr(OperatorCandidate, "cut", failing)
    report = reducer.step()
    assert not report.cuts
    assert report.skipped == {
        NAMES[0]: f"the configuration holds one number of states, and {NAMES[1]} would keep another",
        NAMES[1]: "injected",
    }
    assert net.config.qk_dim == 128


def test_other_layers_are_not_recognised() -> None:
    full = layer()
    full.qk_dim = 64
    assert entry_of(full) is None
    full = layer()
    del full.mlstm_backend
    assert entry_of(full) is None


def test_a_system_with_dynamics_is_refused() -> None:
    full = layer()
    with pytest.raises(ValueError, match="method='truncate'"):
        balred.reduce(full, 16, method="singular_perturbation")
    _, rebuild = balred.adapt(full)
    other = balred.testing.random_system(4, 32, 32, batch=(4,), dt=True)
    bare = balred.ss(other.A, other.B, other.C, dt=True)
    with pytest.raises(ValueError, match="have neither dynamics nor a feedthrough, got a system with one of them"):
        rebuild(bare)
