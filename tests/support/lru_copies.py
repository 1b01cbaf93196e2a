"""LRU layers by minimal-LRU's names in equinox and flax nnx."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
eqx = pytest.importorskip("equinox")
nnx = pytest.importorskip("flax.nnx")
import jax.numpy as jnp  # noqa: E402
from jax_layers import recurrence  # noqa: E402


def output(layer: Any, u: Any) -> Any:
    """The recurrence of arXiv 2303.06349, section 3."""
    lam = jnp.exp(-jnp.exp(layer.nu_log[...]) + 1j * jnp.exp(layer.theta_log[...]))
    B = (layer.B_re[...] + 1j * layer.B_im[...]) * jnp.exp(layer.gamma_log[...])[:, None]
    C = layer.C_re[...] + 1j * layer.C_im[...]
    return (recurrence(lam, u @ B.T) @ C.T).real + layer.D[...] * u


def parameters(n: int, h: int = 3, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    values = {
        "nu_log": np.log(-np.log(rng.uniform(0.6, 0.99, n))), "theta_log": np.log(rng.uniform(0.01, 3, n)),
        "gamma_log": rng.normal(0, 0.3, n), "B_re": rng.normal(size=(n, h)), "B_im": rng.normal(size=(n, h)),
        "C_re": rng.normal(size=(h, n)), "C_im": rng.normal(size=(h, n)), "D": rng.normal(size=h),
    }  # fmt: skip
    return {k: jnp.asarray(v, jnp.float32) for k, v in values.items()}


class Equinox(eqx.Module):
    nu_log: Any
    theta_log: Any
    gamma_log: Any
    B_re: Any
    B_im: Any
    C_re: Any
    C_im: Any
    D: Any
    state_dim: int = eqx.field(static=True)
    name: str = eqx.field(static=True, default="lru")

    def __call__(self, u: Any) -> Any:
        return output(self, u)


class Nnx(nnx.Module):
    def __init__(self, n: int, seed: int = 0) -> None:
        self.d_hidden, self.d_model = n, 3
        for key, value in parameters(n, seed=seed).items():
            setattr(self, key, nnx.Param(value))

    def __call__(self, u: Any) -> Any:
        return output(self, u)


class Model(nnx.Module):
    def __init__(self) -> None:
        self.first = Nnx(8)
        self.again = self.first
        self.rest = nnx.List([Nnx(8, seed=1), nnx.Linear(3, 3, rngs=nnx.Rngs(0))])

    def __call__(self, u: Any) -> Any:
        for layer in (self.first, self.again, *self.rest):
            u = layer(u)
        return u
