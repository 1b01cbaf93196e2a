"""JAX layers with the arrays of known ones that compute something else of them are refused before a cut."""

from __future__ import annotations

from typing import Any

import pytest

jax = pytest.importorskip("jax")
pytest.importorskip("equinox")
pytest.importorskip("flax")
import jax.numpy as jnp  # noqa: E402
import linen_layers  # noqa: E402
import lru_copies  # noqa: E402
import s5_copies  # noqa: E402
from jax_layers import recurrence  # noqa: E402

import balred  # noqa: E402


def lru_output(inside: Any, scale: Any, layer: Any, u: Any) -> Any:
    lam = jnp.exp(-inside(layer.nu_log[...]) + 1j * jnp.exp(layer.theta_log[...]))
    B = (layer.B_re[...] + 1j * layer.B_im[...]) * jnp.exp(layer.gamma_log[...])[:, None]
    x = recurrence(lam, jnp.tanh(u) @ B.T)  # what surrounds the operator is no matter
    return jax.nn.gelu((x @ (layer.C_re[...] + 1j * layer.C_im[...]).T).real * scale(lam.size)) + u


def s5_output(layer: Any, u: Any, step: float) -> Any:
    """With `step` 1 zero-order hold, as the setting says."""
    poles, B, C = (
        layer.Lambda_re[...] + 1j * layer.Lambda_im[...],
        layer.B[...][..., 0] + 1j * layer.B[...][..., 1],
        layer.C[...][..., 0] + 1j * layer.C[...][..., 1],
    )
    lam = jnp.exp(poles * jnp.exp(layer.log_step[...]).reshape(-1) * step)
    x = recurrence(lam, u @ (B * ((lam - 1) / poles)[:, None]).T)
    return 2 * (x @ C.T).real + layer.D[...] * u


WAYS = {
    "right": (jnp.exp, lambda n: 1.0, None),
    "other poles": (jax.nn.softplus, lambda n: 1.0, "an operator that is the same"),
    "by states": (jnp.exp, lambda n: 1 / n, "added states that do nothing"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["equinox", "nnx", "linen"])
def test_an_lru_that_computes_something_else_is_refused(kind: str, way: str) -> None:
    inside, scale, why = WAYS[way]
    base: Any = {"equinox": lru_copies.Equinox, "nnx": lru_copies.Nnx, "linen": linen_layers.LRU}[kind]

    class Layer(base):
        def __call__(self, u: Any) -> Any:
            return lru_output(inside, scale, self, u)

    if kind == "equinox":
        layer: Any = Layer(**lru_copies.parameters(8), state_dim=8)
    else:
        layer = Layer(8) if kind == "nnx" else Layer(8, 3)
    if kind == "linen":
        layer = layer.bind(layer.init(jax.random.key(0), jnp.zeros((4, 3))))
    if why is None:
        balred.reduce(layer, 4)
        return
    with pytest.raises(ValueError, match=f"must compute what its arrays stand for, got other outputs with {why}"):
        balred.reduce(layer, 4)


@pytest.mark.parametrize("step", [1.0, 0.5])
def test_an_s5_with_another_step_is_refused(step: float) -> None:
    class Layer(s5_copies.Nnx):
        def __call__(self, u: Any) -> Any:
            return s5_output(self, u, step)

    layer = Layer(s5_copies.parameters(8), **s5_copies.SETTINGS)
    if step == 1:
        balred.reduce(layer, 4)
    else:
        with pytest.raises(ValueError, match="must compute what its arrays stand for"):
            balred.reduce(layer, 4)
