"""The Mamba-2 models of mamba2-jax, as their package ships them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
mamba2_jax = pytest.importorskip("mamba2_jax")

import jax.numpy as jnp  # noqa: E402
from flax import nnx  # noqa: E402
from mamba2_jax_models import build, mixer, replayed  # noqa: E402

import balred  # noqa: E402
from balred.adapters.flax.mamba import _signals  # noqa: E402
from balred.reduction import CalibrationWarning  # noqa: E402


def tokens(seed: int = 0) -> Any:
    return jax.random.randint(jax.random.key(seed), (2, 20), 3, 90)


def logits(model: Any, data: Any) -> Any:
    return np.asarray(model(data)["logits"])


@pytest.mark.full  # its programs compile for long
def test_the_signals_are_the_layers_own() -> None:
    layer = mixer(build())
    x = jax.random.normal(jax.random.key(2), (2, 13, 32))
    want = np.asarray(layer(x)[0])
    np.testing.assert_allclose(replayed(layer, x), want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.full  # its programs compile for long
def test_a_smaller_model_of_the_same_classes() -> None:
    model, data = build(), tokens()
    whole = logits(model, data)
    assert np.array_equal(logits(balred.reduce(model, 8, calibration=data), data), whole)
    small = balred.reduce(model, 3, calibration=[{"input_ids": data}, tokens(1)])
    assert type(small) is type(model)
    assert {m.cfg.state_size for _, m in nnx.iter_graph(small) if hasattr(m, "cfg")} == {3}
    assert {m.cfg.state_size for _, m in nnx.iter_graph(model) if hasattr(m, "cfg")} == {8}
    assert np.array_equal(logits(model, data), whole)

    # it has the shapes of a model that is made in its size
    fresh = mamba2_jax.Mamba2ForCausalLM(small.cfg, rngs=nnx.Rngs(0))
    shapes = [jax.tree.map(jnp.shape, nnx.to_pure_dict(nnx.state(m))) for m in (fresh, small)]
    assert shapes[0] == shapes[1]
    assert nnx.graphdef(fresh) == nnx.graphdef(small)
    nnx.update(fresh, nnx.state(small))
    assert np.array_equal(logits(fresh, data), logits(small, data))

    # one token after the other through the package's cache is the whole sequence at once
    cache, steps = mamba2_jax.create_empty_cache(small.cfg, 2), []
    for t in range(20):
        out = mamba2_jax.forward(small, data[:, t : t + 1], None, cache)
        cache = out["cache"]
        steps.append(np.asarray(out["logits"][:, 0]))
    want = logits(small, data)
    np.testing.assert_allclose(np.stack(steps, 1), want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.full
@pytest.mark.parametrize("calibrated", [True, False])
def test_states_that_are_never_read_are_given_up_exactly(calibrated: bool) -> None:
    model, data = build(), tokens()
    silent = {0: [0, 1, 2, 5], 1: [3, 4, 6, 7]}
    for layer, states in silent.items():
        conv = mixer(model, layer).conv1d.conv
        rows = 64 + 8 + np.array(states)
        conv.kernel[...] = conv.kernel[...].at[..., rows].set(0)
        conv.bias[...] = conv.bias[...].at[rows].set(0)
    if calibrated:
        small = balred.reduce(model, 4, calibration=data)
    else:
        with pytest.warns(CalibrationWarning):
            small = balred.reduce(model, 4)
    for layer, kept in ((0, [3, 4, 6, 7]), (1, [0, 1, 2, 5])):
        rows = [*range(64), *(64 + np.array(kept)), *(72 + np.array(kept))]
        got, want = (mixer(m, layer).conv1d.conv.kernel[...] for m in (small, model))
        assert np.array_equal(got, want[..., np.array(rows)])
    want = logits(model, data)
    np.testing.assert_allclose(logits(small, data), want, rtol=0, atol=1e-6 * np.abs(want).max())


@pytest.mark.full
def test_the_error_that_is_promised_is_the_error_that_is_made() -> None:
    """Of one layer, its norm's divisors as they were: what the moments give, against the replayed scan of the kept states."""
    layer = mixer(build())
    x = jax.random.normal(jax.random.key(2), (2, 13, 32))
    p = balred.plan(layer, 5, calibration=x)
    s = _signals(layer, x)
    columns, new = np.asarray(layer.in_proj.kernel[...]), np.asarray(p.apply().in_proj.kernel[...])
    rows = [i for i in range(8) if (columns[:, 128 + i, None] == new[:, 128 : 128 + 5]).all(0).any()]
    assert len(rows) == 5
    h, lost, whole = jnp.zeros((2, 64, 8)), 0.0, 0.0
    gone = ~np.isin(np.arange(8), rows)
    for t in range(13):
        h = s.decay[:, t, :, None] * h + s.drive[:, t, :, None] * s.B[:, t, None]
        y = (h * s.C[:, t, None]).sum(-1)
        signal = (y + s.skip[:, t]) * s.gate[:, t]
        gain = s.gate[:, t] / jnp.sqrt((signal**2).mean(-1, keepdims=True) + s.eps)
        lost += float((((gain * (h * s.C[:, t, None] * gone).sum(-1)) @ s.W.T) ** 2).sum())
        whole += float((((gain * y) @ s.W.T) ** 2).sum())
    assert 1 - p.rows[0].energy == pytest.approx(lost / whole, rel=1e-4)


@pytest.mark.full
def test_layers_in_a_list_and_layers_that_are_shared_are_seen() -> None:
    class Pile(nnx.Module):
        def __init__(self) -> None:
            self.layers = nnx.List([mixer(build()), mixer(build(), 1)])
            self.last = self.layers[0]

        def __call__(self, x: Any) -> Any:
            for layer in (*self.layers, self.last):
                x = x + layer(x)[0]
            return x

    pile = Pile()
    x = jax.random.normal(jax.random.key(2), (2, 13, 32))
    small = balred.reduce(pile, 3, calibration=x)
    assert [layer.ssm_state_size for layer in (*small.layers, small.last)] == [3, 3, 3]
    assert small.last is small.layers[0]
    assert small(x).shape == pile(x).shape


@pytest.mark.full  # its programs compile for long
def test_many_outputs_are_sketched() -> None:
    """More outputs than the sketch has: the states that matter are still those that are read."""
    layer = mixer(build(width=288, layers=1))
    conv = layer.conv1d.conv
    rows = 576 + 8 + np.array([0, 2, 4])
    conv.kernel[...] = conv.kernel[...].at[..., rows].set(0)
    conv.bias[...] = conv.bias[...].at[rows].set(0)
    x = jax.random.normal(jax.random.key(2), (2, 6, 288))  # one chunk: compiled sooner
    small = balred.reduce(layer, 5, calibration=x)
    want = np.asarray(layer(x)[0])
    np.testing.assert_allclose(small(x)[0], want, rtol=0, atol=1e-6 * np.abs(want).max())


@pytest.mark.alike
@pytest.mark.parametrize("data", ["text", 3, []])
def test_calibration_that_is_none(data: Any) -> None:
    with pytest.raises(ValueError, match="calibration must"):
        balred.reduce(build(), 3, calibration=data)


@pytest.mark.full  # its programs compile for long
@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.filterwarnings("ignore:without calibration data")
def test_damaged_weights_and_data_are_refused_and_nothing_changes(calibrated: bool) -> None:
    model = build()
    inner = next(m for _, m in nnx.iter_graph(model) if type(m) is type(mixer(model)))
    inner.D[...] = inner.D[...].at[0].set(jnp.nan)
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model)))
    with pytest.raises(ValueError, match="the layers' signals must be finite, got NaN or infinity in backbone"):
        balred.reduce(model, 3, calibration=tokens() if calibrated else None)
    jax.tree.map(np.testing.assert_array_equal, before, nnx.to_pure_dict(nnx.state(model)))
    with pytest.raises(ValueError, match="at least one batch, got none, or empty ones"):
        balred.reduce(build(), 3, calibration=tokens()[:0])


class Run(nnx.Module):
    """A layer, or a stack of layers, and how it is run."""

    def __init__(self, mixer: Any, how: Any) -> None:
        self.mixer, self.how = mixer, how

    def __call__(self, x: Any) -> Any:
        return self.how(self.mixer, x)


class Apart(nnx.Module):
    """The layers of a stack one by one."""

    def __init__(self, layers: Any, how: Any) -> None:
        self.layers, self.how = nnx.List(layers), how

    def __call__(self, x: Any) -> Any:
        return self.how(self.layers, x)


def behind(layers: Any) -> Any:
    """A stack of layers, as nnx.vmap makes it."""
    definition = nnx.graphdef(layers[0])
    return nnx.merge(definition, jax.tree.map(lambda *x: jnp.stack(x), *(nnx.state(layer) for layer in layers)))


def scanned(layers: Any, x: Any) -> Any:
    return nnx.scan(lambda x, layer: x + layer(x)[0], in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, layers)


def mapped(layers: Any, x: Any) -> Any:
    return nnx.vmap(lambda layer, x: layer(x)[0], in_axes=(0, None))(layers, x)


def one_after_the_other(layers: Any, x: Any) -> Any:
    for layer in layers:
        x = x + layer(x)[0]
    return x


def beside(layers: Any, x: Any) -> Any:
    return jnp.stack([layer(x)[0] for layer in layers])


def hidden() -> Any:
    return jax.random.normal(jax.random.key(3), (2, 9, 32))


@pytest.mark.full  # its programs compile for long
@pytest.mark.parametrize(("how", "apart"), [(scanned, one_after_the_other), (mapped, beside)])
def test_a_stack_is_cut_as_its_members_are(how: Any, apart: Any) -> None:
    model, x = build(), hidden()
    layers = [mixer(model), mixer(model, 1)]
    p = balred.plan(Run(behind(layers), how), balred.Energy(0.9, squared=True), calibration=x)
    rank = p.rows[0].after
    alone = [
        row.after for row in balred.plan(Apart(layers, apart), balred.Energy(0.9, squared=True), calibration=x).rows
    ]
    assert rank == max(alone)  # of a model with one configuration all have the largest
    small, want = p.apply(), balred.reduce(Apart(layers, apart), rank, calibration=x)
    assert (small.mixer.ssm_state_size, small.mixer.cfg.state_size) == (rank, rank)
    cut = behind(list(want.layers))
    jax.tree.map(np.testing.assert_array_equal, nnx.state(small.mixer), nnx.state(cut))
    np.testing.assert_allclose(small(x), want(x), rtol=0, atol=1e-5 * np.abs(np.asarray(want(x))).max())


def test_a_stack_without_data_is_cut_as_its_members_are() -> None:
    model = build()
    layers = [mixer(model), mixer(model, 1)]
    with pytest.warns(CalibrationWarning):
        small = balred.reduce(behind(layers), 3)
    with pytest.warns(CalibrationWarning):
        want = behind([balred.reduce(layer, 3) for layer in layers])
    jax.tree.map(np.testing.assert_array_equal, nnx.state(small), nnx.state(want))


def test_a_stack_that_is_split_by_hand_is_not_seen() -> None:
    def by_hand(layers: Any, x: Any) -> Any:
        definition, state = nnx.split(layers)
        return jax.vmap(lambda one: nnx.merge(definition, one)(x)[0])(state)

    stack = behind([mixer(build(layers=1))] * 2)
    with pytest.raises(ValueError, match=r"got none in mixer; layers in a stack are seen in nnx\.vmap and nnx\.scan"):
        balred.reduce(Run(stack, by_hand), 3, calibration=hidden())


def test_a_layer_in_a_jit_of_nnx_is_seen_and_in_one_of_jax_it_is_told() -> None:
    layer, x = mixer(build(layers=1)), hidden()
    small = balred.reduce(Run(layer, nnx.jit(lambda layer, x: layer(x)[0])), 3, calibration=x)
    want = balred.reduce(layer, 3, calibration=x)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(small.mixer), nnx.state(want))
    with pytest.raises(ValueError, match=r"outside of jit.*mixer"):
        balred.reduce(Run(layer, lambda layer, x: jax.jit(lambda x: layer(x)[0])(x)), 3, calibration=x)


# ------------------------------------------------------------------------------------------------ against PyTorch


@pytest.mark.full  # its programs compile for long
def test_the_same_model_in_pytorch_is_cut_to_the_same_states() -> None:
    """Weights carried over by mamba2-jax's own table, from transformers' Mamba2, whose reader is another."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    import mamba_models
    from mamba2_jax.params import load_pytorch_weights

    there = mamba_models.build("Mamba2", n_groups=1, conv_kernel=4, tie_word_embeddings=False)
    data = np.asarray(tokens())

    def here(model: Any) -> Any:
        """A model of mamba2-jax with the weights of one of transformers."""
        size = model.config.state_size
        config = mamba2_jax.Mamba2Config(
            vocab_size=90, hidden_size=32, state_size=size, head_dim=16, chunk_size=8, num_hidden_layers=2,
            time_step_limit=model.config.time_step_limit, tie_word_embeddings=False,
        )  # fmt: skip
        weights = {n.replace("embeddings", "embedding"): x.numpy() for n, x in model.state_dict().items()}
        return load_pytorch_weights(mamba2_jax.Mamba2ForCausalLM(config, rngs=nnx.Rngs(0)), weights, strict=True)[0]

    def answers(model: Any) -> Any:
        with torch.no_grad():
            return model(torch.tensor(data)).logits.numpy()

    model = here(there)
    want = answers(there)
    np.testing.assert_allclose(logits(model, data), want, rtol=0, atol=1e-5 * np.abs(want).max())
    plans = [
        balred.plan(there, 4, calibration=torch.tensor(data)),
        balred.plan(model, 4, calibration=jnp.asarray(data)),
    ]
    small_there, small = (plan.apply() for plan in plans)
    for mine, his in zip(*(plan.rows for plan in plans), strict=True):
        assert mine.energy == pytest.approx(his.energy, rel=1e-4)
    carried = here(small_there)
    for a, b in zip(jax.tree.leaves(nnx.state(small)), jax.tree.leaves(nnx.state(carried)), strict=True):
        np.testing.assert_array_equal(a, b)
    want = answers(small_there)
    np.testing.assert_allclose(logits(small, data), want, rtol=0, atol=1e-5 * np.abs(want).max())
