"""A linen ``TrainState`` with S5 layers, whose meaning the parameters do not tell; and rules that are measured on its model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
pytest.importorskip("flax")

import flax.linen as nn  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import s5_copies  # noqa: E402
from flax.core import freeze  # noqa: E402
from flax.training.train_state import TrainState  # noqa: E402
from linen_layers import S5, bound_s5  # noqa: E402

import balred  # noqa: E402
from balred.adapters.flax import InTrainingReducer  # noqa: E402

U = jnp.asarray(np.random.default_rng(0).standard_normal((16, 3)), jnp.float32)
RULE = balred.Energy(0.9)


class Model(nn.Module):
    """Two S5 layers, the second read both ways."""

    ranks: tuple[int, int]

    def setup(self) -> None:
        self.ways = tuple(self.layer(n, bidirectional=both) for n, both in zip(self.ranks, (False, True), strict=True))

    def layer(self, states: int, **settings: Any) -> Any:
        start = jnp.ones(states)
        basis = jnp.eye(2 * states, states, dtype=jnp.complex64)
        return S5(-start, start, basis, basis.T, 3, states, **settings)

    def __call__(self, u: Any) -> Any:
        for layer in self.ways:
            u = layer(jnp.tanh(u))
        return u


def params() -> Any:
    return {
        "ways_0": s5_copies.parameters(seed=0),
        "ways_1": s5_copies.parameters(halves="C1 C2", seed=1),
    }


def module(ranks: dict[str, int]) -> Any:
    return Model((ranks["ways_0"], ranks["ways_1"]))


def trained(tree: Any = None, **options: Any) -> Any:
    state = TrainState.create(
        apply_fn=Model((8, 8)).apply, params=params() if tree is None else tree, tx=optax.adam(1e-3)
    )
    reducer = InTrainingReducer(RULE, (0, 1), 1, module=module, **{"settings": s5_copies.SETTINGS, **options})
    return state, reducer, reducer.init(state)


def step(state: Any) -> Any:
    grads = jax.grad(lambda p: jnp.mean((state.apply_fn({"params": p}, U) - U) ** 2))(state.params)
    return state.apply_gradients(grads=grads)


@pytest.mark.full  # its programs compile for long
@pytest.mark.parametrize("frozen", [False, True])
def test_s5_layers_are_cut_as_the_modules_are(frozen: bool) -> None:
    state, reducer, memory = trained(freeze(params()) if frozen else None)
    state = step(state)
    small, memory, report = reducer.update(state, memory, 1)
    assert type(small.params) is type(state.params)
    ranks = {cut.layer: cut.after for cut in report.cuts}
    assert set(ranks) == {"ways_0", "ways_1"}
    bound = bound_s5()
    for name, rank in ranks.items():
        one = bound.clone(parent=None, bidirectional=name == "ways_1").bind({"params": dict(state.params[name])})
        want = balred.reduce(one, RULE).variables["params"]
        assert rank == want["Lambda_re"].shape[0] < 8
        for key, value in want.items():
            np.testing.assert_array_equal(small.params[name][key], value)
    assert jax.tree.map(jnp.shape, small.opt_state[0].mu) == jax.tree.map(jnp.shape, small.params)
    again = step(small)  # goes on with a module of the new sizes
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(again.params))
    resumed, _ = reducer.resume(trained()[0], memory.to_dict())
    assert jax.tree.map(jnp.shape, dict(resumed.params)) == jax.tree.map(jnp.shape, dict(small.params))


def test_without_their_settings_they_are_named() -> None:
    with pytest.raises(ValueError, match=r"parameters of S5 layers mean something only with settings.*settings="):
        trained(settings=None)
    with pytest.raises(ValueError, match=r"settings must have conj_sym.*got none for clip_eigs"):
        trained(settings={k: v for k, v in s5_copies.SETTINGS.items() if k != "clip_eigs"})
    assert trained(settings=bound_s5().unbind()[0])[2].ranks == {"ways_0": 8, "ways_1": 8}


@pytest.mark.full
@pytest.mark.parametrize("tolerance", [1e-7, 0.5])
def test_a_divergence_is_measured_on_the_smaller_module(tolerance: float) -> None:
    """What is chosen holds: the model's answers before and after differ by no more, on the sequences that were kept out."""
    data = jax.random.normal(jax.random.key(0), (8, 16, 3))
    state = TrainState.create(apply_fn=Model((8, 8)).apply, params=params(), tx=optax.sgd(0.0))
    reducer = InTrainingReducer(
        balred.Divergence(tolerance, of="values"), (0, 1), 1, module=module, settings=s5_copies.SETTINGS, calibration=data,
        min_cut=0.0,
    )  # fmt: skip
    small, _, _ = reducer.update(state, reducer.init(state), 1)
    kept = data[6:]
    full, got = (jax.vmap(lambda u, s=s: s.apply_fn({"params": s.params}, u))(kept) for s in (state, small))
    assert float(((got - full) ** 2).sum() / (full**2).sum()) <= tolerance * 1.001
    states = sum(x["Lambda_re"].shape[0] for x in small.params.values())
    assert states < 16 if tolerance == 0.5 else states > 8
