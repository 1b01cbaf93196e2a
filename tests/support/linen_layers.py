"""LRU and S5 in flax linen, written from the papers' recurrences in the published layouts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
pytest.importorskip("flax")
import flax.linen as nn  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jax_layers import recurrence, s5_output  # noqa: E402

from balred.testing import simulate  # noqa: E402


class LRU(nn.Module):
    """LRU with the names and fields of minimal-LRU."""

    d_hidden: int
    d_model: int

    def setup(self) -> None:
        n, h = self.d_hidden, self.d_model

        def ring(key: Any, shape: Any) -> Any:
            return jnp.log(-jnp.log(jax.random.uniform(key, shape, minval=0.6, maxval=0.99)))

        self.nu_log = self.param("nu_log", ring, (n,))
        self.theta_log = self.param("theta_log", lambda k, s: jnp.log(3 * jax.random.uniform(k, s)), (n,))
        self.gamma_log = self.param("gamma_log", nn.initializers.normal(0.3), (n,))
        normal = nn.initializers.normal(1.0)
        self.B_re, self.B_im = (self.param(k, normal, (n, h)) for k in ("B_re", "B_im"))
        self.C_re, self.C_im = (self.param(k, normal, (h, n)) for k in ("C_re", "C_im"))
        self.D = self.param("D", normal, (h,))

    def __call__(self, u: Any) -> Any:
        lam = jnp.exp(-jnp.exp(self.nu_log) + 1j * jnp.exp(self.theta_log))
        B = (self.B_re + 1j * self.B_im) * jnp.exp(self.gamma_log)[:, None]
        x = recurrence(lam, u @ B.T)
        return (x @ (self.C_re + 1j * self.C_im).T).real + self.D * u


class S5(nn.Module):
    """S5 with the names and fields of its authors' module."""

    Lambda_re_init: Any
    Lambda_im_init: Any
    V: Any
    Vinv: Any
    H: int
    P: int
    discretization: str = "zoh"
    conj_sym: bool = True
    clip_eigs: bool = False
    bidirectional: bool = False
    step_rescale: float = 1.0
    one_C: bool = False

    def setup(self) -> None:
        rows = (2 if self.conj_sym else 1) * self.P

        def start_B(key: Any, shape: Any) -> Any:
            B = self.Vinv @ jax.random.normal(key, shape)
            return jnp.stack([B.real, B.imag], axis=-1)

        def start_C(key: Any, shape: Any) -> Any:
            C = jax.random.normal(key, shape)
            C = (C[..., 0] + 1j * C[..., 1]) @ self.V
            return jnp.stack([C.real, C.imag], axis=-1)

        self.Lambda_re = self.param("Lambda_re", lambda key, shape: self.Lambda_re_init, (None,))
        self.Lambda_im = self.param("Lambda_im", lambda key, shape: self.Lambda_im_init, (None,))
        self.B = self.param("B", start_B, (rows, self.H))
        if self.one_C:
            halves = 2 if self.bidirectional else 1
            self.C = self.param("C", nn.initializers.normal(1.0), (self.H, halves * self.P, 2))
        elif self.bidirectional:
            self.C1, self.C2 = (self.param(k, start_C, (self.H, rows, 2)) for k in ("C1", "C2"))
        else:
            self.C = self.param("C", start_C, (self.H, rows, 2))
        self.D = self.param("D", nn.initializers.normal(1.0), (self.H,))
        self.log_step = self.param(
            "log_step", lambda key, shape: jax.random.uniform(key, shape, minval=-3.5, maxval=-1.5), (self.P, 1)
        )

    def __call__(self, u: Any) -> Any:
        return s5_output(self, u)


def bound_lru(states: int = 8, width: int = 3) -> Any:
    module = LRU(states, width)
    return module.bind(module.init(jax.random.key(0), jnp.zeros((4, width))))


def bound_s5(states: int = 8, width: int = 3, conj_sym: bool = True, **kw: Any) -> Any:
    rows = (2 if conj_sym else 1) * states
    k1, k2, k3 = jax.random.split(jax.random.key(1), 3)
    V = jax.random.normal(k1, (rows, states), dtype=jnp.complex64) / rows**0.5
    re, im = -jax.random.uniform(k2, (states,), minval=0.3, maxval=1.0), 8 * jax.random.normal(k3, (states,))
    module = S5(re, im, V, V.conj().T, width, states, conj_sym=conj_sym, **kw)
    return module.bind(module.init(jax.random.key(0), jnp.zeros((4, width))))


def apply(bound: Any, u: Any) -> Any:
    """The output through the pair, as users have it: module.apply checks the parameters' shapes against the fields."""
    module, variables = bound.unbind()
    return np.asarray(module.apply(variables, jnp.asarray(u, jnp.float32)))


def expected(system: Any, u: Any, width: int) -> Any:
    forward = simulate(system, u)
    if forward.shape[1] == width:
        return forward
    backward = simulate(system, u[::-1])[::-1]
    return (forward[:, :width] + backward[:, width:]) / 2**0.5
