"""The LRU layer for JAX, however it computes: the paper's recurrence and its gradients, jitted, eager and mapped."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
eqx = pytest.importorskip("equinox")

import jax.numpy as jnp  # noqa: E402

from balred.adapters.equinox import LRU  # noqa: E402
from balred.layers.recurrence import chunk_of  # noqa: E402

SHAPES = [(16, 64, 67, (4, 4)), (16, 256, 64, (16,)), (40, 3, 20, (2,))]
"""Features, states, length and leading axes: in chunks, with and without a rest, and by the scan."""


@pytest.fixture
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def data(*shape: int) -> Any:
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), dtype=jnp.result_type(float))


def recurrence(layer: Any, u: Any) -> Any:
    """The paper's recurrence, as it is written down, in plain steps."""
    poles = jnp.exp(-jnp.exp(layer.nu_log) + 1j * jnp.exp(layer.theta_log))
    B, C = layer.B_re + 1j * layer.B_im, layer.C_re + 1j * layer.C_im

    def step(x: Any, v: Any) -> Any:
        x = poles * x + jnp.exp(layer.gamma_log) * (v @ B.T)
        return x, jnp.real(x @ C.T) + layer.D * v

    start = jnp.zeros((*u.shape[:-2], layer.states), B.dtype)
    return jnp.moveaxis(jax.lax.scan(step, start, jnp.moveaxis(u, -2, 0))[1], 0, -2)


def total(run: Any) -> Any:
    def loss(layer: Any, u: Any) -> Any:
        y = run(layer, u)
        return jnp.sum(y * jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    return eqx.filter_jit(eqx.filter_grad(lambda both: loss(*both)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("features", "states", "length", "lead"), SHAPES)
def test_outputs_and_gradients_are_the_recurrences(
    features: int, states: int, length: int, lead: tuple[int, ...]
) -> None:
    layer, u = LRU(features, states, key=jax.random.key(0)), data(*lead, length, features)
    want = eqx.filter_jit(recurrence)(layer, u)
    got = eqx.filter_jit(lambda layer, u: layer(u))(layer, u)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12 * float(jnp.abs(want).max()))
    mine, theirs = (jax.tree.leaves(total(f)((layer, u))) for f in (lambda layer, u: layer(u), recurrence))
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-11 * float(jnp.abs(b).max() + 1))


@pytest.mark.usefixtures("x64")
def test_jitted_eager_and_mapped_are_one() -> None:
    layer, u = LRU(4, 12, key=jax.random.key(0)), data(16, 67, 4)
    assert chunk_of(4, 12, 67) > 0
    eager = layer(u)
    for other in (eqx.filter_jit(layer)(u), jax.vmap(layer)(u), jnp.stack([layer(v) for v in u[:2]])):
        np.testing.assert_allclose(other, eager[: len(other)], rtol=0, atol=1e-12)


def test_half_precision_is_computed_in_float32() -> None:
    wide = LRU(4, 12, key=jax.random.key(0))
    layer = jax.tree.map(lambda x: x.astype(jnp.bfloat16), wide)
    back = jax.tree.map(lambda x: x.astype(jnp.float32), layer)
    u = data(67, 4).astype(jnp.bfloat16)
    got = layer(u)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, back(u.astype(jnp.float32)).astype(jnp.bfloat16))


def test_complex_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="must be real"):
        LRU(4, 12, key=jax.random.key(0))(jnp.ones((8, 4), jnp.complex64))


def test_a_stack_of_layers_has_the_sizes_of_its_members() -> None:
    """As equinox makes one for an ensemble, or a scan over layers."""
    stack = eqx.filter_vmap(lambda key: LRU(2, 8, key=key))(jax.random.split(jax.random.key(0), 3))
    assert (stack.features, stack.states) == (2, 8)


@pytest.mark.full
def test_a_layer_is_known_at_the_first_look() -> None:
    """Its class is registered by what the package of its base brings, which the first look loads."""
    code = (
        "import jax, balred; from balred.adapters.equinox import LRU; "
        "print(balred.hsv(LRU(2, 4, key=jax.random.key(0))).shape)"
    )
    path = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.stdout == "(8,)\n", done.stderr
