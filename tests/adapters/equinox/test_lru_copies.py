"""LRU layers of other packages in equinox and flax nnx: minimal-LRU's names, recognised by what they hold."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
eqx = pytest.importorskip("equinox")
nnx = pytest.importorskip("flax.nnx")

import flax.linen as nn  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from lru_copies import Equinox, Model, Nnx, output, parameters  # noqa: E402

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


def test_other_modules_are_not_recognised() -> None:
    full = Nnx(8)
    full.D = nnx.Param(jnp.ones(4))
    assert entry_of(full) is None
    with pytest.raises(AdapterNotFound):
        balred.reduce(full, 4)


def with_more(kind: str, scale: Any) -> Any:
    """A layer with a parameter of its own beside those that are known."""
    if kind == "nnx":
        layer = Nnx(8)
        layer.scale = nnx.Param(scale)
        return layer
    if kind == "tree":
        return {**parameters(8), "scale": scale}

    class More(Equinox):
        scale: Any = None

    return More(**parameters(8), state_dim=8, scale=scale)


@pytest.mark.parametrize("kind", ["nnx", "tree", "equinox"])
@pytest.mark.parametrize("size", [3, 8])
def test_a_parameter_that_the_adapter_does_not_know_is_refused_by_name(kind: str, size: int) -> None:
    """Such a layer was left as it is without a word where a model has others."""
    with pytest.raises(ValueError, match="every parameter of a layer must be known to its adapter, got scale beside"):
        balred.reduce(with_more(kind, jnp.ones(size)), 4)
    row, other = balred.plan([with_more(kind, jnp.ones(size)), equinox_layer()], 4).rows
    assert (row.after, other.after) == (None, 4)
    assert "got scale beside" in row.note


@pytest.mark.full
def test_a_linen_module_in_an_nnx_model_gets_the_size() -> None:
    """``ToNNX`` holds the parameters, and runs a linen module with fields of its own."""
    from linen_layers import LRU

    for module, fit in ((LRU(8, 3), True), (Unsized(), False)):
        model = nnx.bridge.ToNNX(module, rngs=nnx.Rngs(0)).lazy_init(U)
        if not fit:
            with pytest.raises(
                ValueError, match="must keep its states in a field to be made smaller, got Unsized of 8"
            ):
                balred.reduce(model, 4)
            continue
        small = balred.reduce(model, 4)
        alone = balred.reduce({name: getattr(model, name)[...] for name in parameters(8)}, 4)
        np.testing.assert_allclose(small(U), module.clone(d_hidden=4).apply({"params": alone}, U), atol=1e-6)


class Unsized(nn.Module):
    """An LRU of eight states, which are in none of its fields."""

    @nn.compact
    def __call__(self, u: Any) -> Any:
        values = {name: self.param(name, lambda key, x=x: x) for name, x in parameters(8).items()}
        return output(SimpleNamespace(**values), u)
