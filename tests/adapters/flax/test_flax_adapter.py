"""Parameter trees and bound linen modules of LRU and S5, written from the papers' recurrences in the published layouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
pytest.importorskip("flax")

import flax.linen as nn  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from flax.core import FrozenDict, freeze  # noqa: E402
from linen_layers import LRU, apply, bound_lru, bound_s5, expected  # noqa: E402

import balred  # noqa: E402
from balred.registry import AdapterNotFound, layers_of  # noqa: E402
from balred.registry.entries import entry_of  # noqa: E402
from balred.testing import check_adapter  # noqa: E402

KINDS: dict[str, Callable[[], Any]] = {
    "lru": bound_lru,
    "s5": bound_s5,
    "s5, no conjugates": lambda: bound_s5(conj_sym=False),
    "s5, bilinear": lambda: bound_s5(discretization="bilinear"),
    "s5, clipped": lambda: bound_s5(clip_eigs=True),
    "s5, rescaled": lambda: bound_s5(step_rescale=2.0),
    "s5, both ways": lambda: bound_s5(bidirectional=True),
    "s5, both ways, one C": lambda: bound_s5(bidirectional=True, one_C=True),
}
U = np.random.default_rng(0).standard_normal((40, 3))


@pytest.mark.full
@pytest.mark.parametrize("kind", [k for k in KINDS if "both" not in k])
def test_check_adapter(kind: str) -> None:
    check_adapter(KINDS[kind](), apply)


@pytest.mark.alike
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [5, None])
def test_outputs_are_those_of_the_reduced_system(kind: str, rank: int | None) -> None:
    full = KINDS[kind]()
    system, rebuild = balred.adapt(full)
    small = rebuild(system) if rank is None else balred.reduce(full, rank)
    want = apply(full, U) if rank is None else expected(balred.reduce(system, rank), U, 3)
    # float32: a hundred times its rounding
    assert np.abs(apply(small, U) - want).max() < 1e-5 * np.abs(want).max()


@pytest.mark.full
@pytest.mark.alike
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_returned_is_a_bound_module_of_the_smaller_size(kind: str) -> None:
    full = KINDS[kind]()
    before = jax.tree.map(np.array, full.variables)
    module, variables = balred.reduce(full, 3).unbind()
    assert type(module) is type(full)
    assert (module.d_hidden if kind == "lru" else module.P) == 3
    fresh = module.init(jax.random.key(5), jnp.zeros((4, 3)))
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, variables)
    assert jax.tree.map(lambda x: x.dtype, fresh) == jax.tree.map(lambda x: x.dtype, variables)
    jax.tree.map(np.testing.assert_array_equal, before, full.variables)


@pytest.mark.full
@pytest.mark.alike
@pytest.mark.parametrize("rank", [2, 5])
def test_the_error_of_both_ways_on_data_is_within_the_bound(rank: int) -> None:
    full = bound_s5(bidirectional=True)
    bound = balred.plan(full, rank).rows[0].bound
    assert bound is not None
    small = balred.reduce(full, rank)
    impulse = np.zeros((601, 3))
    errors = []
    for i in range(3):
        u = impulse.copy()
        u[300, i] = 1
        errors.append(np.fft.fft(apply(full, u) - apply(small, u), axis=0))
    worst = np.linalg.norm(np.stack(errors, axis=-1), ord=2, axis=(1, 2)).max()
    assert 0 < worst <= bound


@pytest.mark.full
def test_a_slow_pole_stays_away_from_the_clip() -> None:
    full = bound_s5(clip_eigs=True)
    module, variables = full.unbind()
    slow = {**variables["params"], "Lambda_re": -2e-4 * jnp.ones(8), "log_step": -6.0 * jnp.ones((8, 1))}
    full = module.bind({"params": slow})
    small = balred.reduce(full, 5)
    assert float(small.variables["params"]["Lambda_re"].max()) < -1e-4
    want = expected(balred.reduce(balred.adapt(full)[0], 5), U, 3)
    assert np.abs(apply(small, U) - want).max() < 1e-4 * np.abs(want).max()


# ------------------------------------------------------------------------------------------------ trees


class Stack(nn.Module):
    d_hidden: int
    layers: int = 2

    @nn.compact
    def __call__(self, u: Any) -> Any:
        for _ in range(self.layers):
            u = u + nn.Dense(3)(nn.gelu(LRU(self.d_hidden, 3)(nn.LayerNorm()(u))))
        return u


@pytest.mark.full
@pytest.mark.parametrize("frozen", [False, True])
def test_the_tree_of_a_model_goes_into_the_smaller_model(frozen: bool) -> None:
    variables = Stack(8).init(jax.random.key(0), jnp.zeros((4, 3)))
    variables = freeze(variables) if frozen else variables
    assert list(layers_of(variables)) == ["params.LRU_0", "params.LRU_1"]
    small = balred.reduce(variables, 7)
    assert type(small) is (FrozenDict if frozen else dict)
    assert variables["params"]["LRU_0"]["nu_log"].shape == (8,)
    assert small["params"]["LRU_1"]["nu_log"].shape == (7,)
    got = Stack(7).apply(small, jnp.asarray(U, jnp.float32))
    assert got.shape == (40, 3)
    # with nothing to lose the tree comes back equal in effect
    back = balred.reduce(variables, {"params.LRU_0": 8, "params.LRU_1": 8})
    np.testing.assert_allclose(
        Stack(8).apply(back, jnp.asarray(U, jnp.float32)),
        Stack(8).apply(variables, jnp.asarray(U, jnp.float32)),
        rtol=1e-4, atol=1e-4,
    )  # fmt: skip


@pytest.mark.full
@pytest.mark.parametrize("frozen", [False, True])
def test_the_parameters_of_a_layer_on_their_own(frozen: bool) -> None:
    tree = bound_lru().variables["params"]
    tree = freeze(tree) if frozen else dict(tree)

    def run(parameters: Any, u: Any) -> Any:
        module = LRU(parameters["nu_log"].shape[0], 3)
        return np.asarray(module.apply({"params": parameters}, jnp.asarray(u, jnp.float32)))

    check_adapter(tree, run)


@pytest.mark.parametrize("change", ["missing", "width"])
def test_other_trees_are_not_recognised(change: str) -> None:
    tree = dict(bound_lru().variables["params"])
    if change == "missing":
        del tree["gamma_log"]
    else:
        tree["D"] = jnp.ones(4)
    assert entry_of(tree) is None


@pytest.mark.parametrize("frozen", [False, True])
def test_layers_behind_each_other_are_one_layer(frozen: bool) -> None:
    """As a scan over layers, or an ensemble, stacks their parameters."""
    one = dict(bound_lru().variables["params"])
    tree: Any = {"blocks": {"lru": jax.tree.map(lambda x: jnp.stack([x, x, x]), one)}, "last": one}
    small = balred.reduce(freeze(tree) if frozen else tree, 4)
    for name, value in small["last"].items():
        np.testing.assert_allclose(small["blocks"]["lru"][name], jnp.stack([value] * 3), rtol=1e-5, atol=1e-6)


def test_a_module_that_is_not_bound_is_no_layer() -> None:
    with pytest.raises(AdapterNotFound):
        balred.reduce(LRU(8, 3), 4)
