"""LRU layers of other packages in equinox and flax nnx: minimal-LRU's names, recognised by what they hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
eqx = pytest.importorskip("equinox")
nnx = pytest.importorskip("flax.nnx")

import jax.numpy as jnp  # noqa: E402
from lru_copies import Equinox, Model, Nnx, parameters  # noqa: E402

import balred  # noqa: E402
from balred.registry import AdapterNotFound, layers_of  # noqa: E402
from balred.registry.entries import entry_of  # noqa: E402
from balred.testing import check_adapter  # noqa: E402

U = np.random.default_rng(0).standard_normal((30, 3)).astype(np.float32)


def equinox_layer(n: int = 8) -> Any:
    return Equinox(**parameters(n), state_dim=n)


@pytest.mark.full
@pytest.mark.parametrize("make", [equinox_layer, lambda: Nnx(8)], ids=["equinox", "nnx"])
def test_check_adapter(make: Any) -> None:
    check_adapter(make())


def test_the_equinox_layer_changes_its_size_field_and_nothing_else() -> None:
    full = equinox_layer()
    small = balred.reduce([full, 3], 4)[0]
    assert (full.state_dim, small.state_dim, small.name) == (8, 4, "lru")
    assert small.B_re.shape == (4, 3)
    # a jitted call sees the new static field
    assert eqx.filter_jit(small)(U).shape == (30, 3)


@pytest.mark.full
def test_an_nnx_model_is_walked_cloned_and_keeps_what_is_shared() -> None:
    model = Model()
    assert set(layers_of(model)) == {next(iter(layers_of(model))), "rest.0"}
    before = np.asarray(model(U))
    small = balred.reduce(model, 5)
    assert type(small) is Model
    assert small.first is small.again
    assert small.first is not model.first
    assert (small.first.d_hidden, small.first.d_model, small.rest[0].nu_log.shape) == (5, 3, (5,))
    assert isinstance(small.first.nu_log, nnx.Param)
    np.testing.assert_array_equal(model(U), before)
    alone = balred.reduce(model.first, 5)
    np.testing.assert_array_equal(small.first(U), alone(U))
    assert nnx.state(small, nnx.Param)["rest"][0]["B_re"].shape == (5, 3)


@pytest.mark.parametrize("change", ["extra", "width"])
def test_other_modules_are_not_recognised(change: str) -> None:
    full = Nnx(8)
    if change == "extra":
        full.scale = nnx.Param(jnp.ones(3))
    else:
        full.D = nnx.Param(jnp.ones(4))
    assert entry_of(full) is None
    with pytest.raises(AdapterNotFound):
        balred.reduce(full, 4)
