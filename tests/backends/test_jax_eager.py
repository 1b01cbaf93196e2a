"""JAX outside of ``jit``: in main memory NumPy computes, on a device JAX does, with the same answers of JAX's types."""

from __future__ import annotations

import unittest.mock
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import balred
from balred.systems import arrays
from balred.testing import random_system

jax = pytest.importorskip("jax")

FUNCTIONS: dict[str, Callable[[Any], tuple[Any, ...]]] = {
    "gramians": balred.gramians,
    "values": lambda g: (balred.hsv(g),),
    "balance": lambda g: (balred.balance(g).hsv, *balred.balance(g).system.leaves),
    "h2": lambda g: (balred.norm(g, "h2"),),
    "hinf": lambda g: (balred.norm(g, "hinf"),),
    "covar": lambda g: (balred.covar(g, 2.0),),
    "error": lambda g: (balred.error(g, balred.reduce(g, 2)),),
}


@pytest.mark.parametrize("place", ["main memory", pytest.param("device", marks=pytest.mark.full)])
@pytest.mark.parametrize("kind", ["dense", "diagonal"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_answers_are_numpys_in_jax_arrays(name: str, kind: str, place: str) -> None:
    """Expected: NumPy's.  A device is played by saying that NumPy cannot reach its arrays."""
    g = random_system(4, 1, 1, kind=kind, dt=1, seed=3)
    expected = FUNCTIONS[name](g)
    reach = unittest.mock.patch.object(arrays.backend("jax"), "on_host", return_value=False)
    with jax.enable_x64(True):
        given = arrays.mapped(g, jax.numpy.asarray)
        if place == "device":
            with reach:
                found = FUNCTIONS[name](given)
        else:
            found = FUNCTIONS[name](given)
    for x, y in zip(found, expected, strict=True):
        assert isinstance(x, jax.Array) or name == "hinf"
        assert x.dtype == y.dtype
        np.testing.assert_allclose(np.abs(np.asarray(x)), np.abs(y), rtol=1e-9, atol=1e-11 * np.abs(y).max())


def test_in_main_memory_nothing_is_compiled_for_it() -> None:
    """A first H2 norm, balancing or Gramian used to wait seconds for programs of its shapes."""
    with jax.enable_x64(True):
        given = arrays.mapped(random_system(7, 3, 2, seed=4), jax.numpy.asarray)
        with unittest.mock.patch.object(jax.lax, "while_loop", side_effect=AssertionError("JAX computed")):
            balred.gramians(given), balred.balance(given), balred.norm(given, "h2"), balred.covar(given, 1.0)
