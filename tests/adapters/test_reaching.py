"""Functions in models of JAX that hold a layer: the smaller model would go on running the layer that it was."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import balred

eqx = pytest.importorskip("equinox")
nnx = pytest.importorskip("flax.nnx")
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import lru_copies  # noqa: E402

from balred.adapters.equinox import LRU, InTrainingReducer  # noqa: E402

U = jnp.ones((9, 3))


class Around(eqx.Module):
    """Calls its layer by a function."""

    layer: Any
    run: Any

    def __call__(self, u: Any) -> Any:
        return self.run(u)


class Fixed(eqx.Module):
    layer: Any
    run: Any = eqx.field(static=True)

    def __call__(self, u: Any) -> Any:
        return self.run(u)


HOLDERS: dict[str, Callable[[Any], Any]] = {
    "closure": lambda layer: lambda u: layer(u),
    "bound method": lambda layer: layer.__call__,
    "partial": lambda layer: functools.partial(lambda one, u: one(u), layer),
    "jax's partial": jax.tree_util.Partial,
    "compiled": lambda layer: jax.jit(lambda u: layer(u)),
    "an array": lambda layer: lambda u: u * layer.D,
}


@pytest.mark.parametrize("hold", HOLDERS.values(), ids=HOLDERS)
@pytest.mark.parametrize("kind", [Around, Fixed])
def test_a_layer_that_a_function_of_an_equinox_model_holds_is_refused(kind: Any, hold: Any) -> None:
    layer = LRU(3, 8, key=jax.random.key(0))
    model = kind(layer, hold(layer))
    for use in (lambda model: balred.reduce(model, 4), InTrainingReducer(balred.Order(4), (0, 1), 1).init):
        with pytest.raises(ValueError, match=r"(run|Partial) is or has a function that holds it"):
            use(model)


def test_a_layer_that_filter_jit_took_apart_is_refused() -> None:
    layer = LRU(3, 8, key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"run\._dynamic_fun\.0 is or has"):
        balred.reduce(Around(layer, eqx.filter_jit(layer)), 4)


@pytest.mark.parametrize(
    "run", [lambda layer: jax.tree_util.Partial(lambda one, u: one(u), layer), eqx.filter_checkpoint]
)
def test_what_is_a_part_of_the_tree_follows(run: Any) -> None:
    layer = LRU(3, 8, key=jax.random.key(0))
    small = balred.reduce(Around(layer, run(layer)), 4)
    np.testing.assert_array_equal(small(U), balred.reduce(layer, 4)(U))


def test_other_functions_are_no_reason_to_refuse() -> None:
    layer, other = LRU(3, 8, key=jax.random.key(0)), LRU(3, 8, key=jax.random.key(1))
    model = eqx.nn.Sequential([layer, eqx.nn.Lambda(jax.nn.gelu), eqx.nn.Lambda(lambda u: other(u))])
    assert balred.reduce(model, 4)[0].states == 4


def test_a_layer_that_a_function_of_an_nnx_model_holds_is_refused_in_a_copy() -> None:
    class Model(nnx.Module):
        def __init__(self) -> None:
            self.layer = layer = lru_copies.Nnx(8)
            self.run = lambda u: layer(u)

    with pytest.raises(ValueError, match="run is or has a function that holds it"):
        balred.reduce(Model(), 4)
