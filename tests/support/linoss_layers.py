"""LinOSS layers by discretax's names: the oscillators' equations stepped as they stand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
eqx = pytest.importorskip("equinox")
import jax.numpy as jnp  # noqa: E402

H, N = 3, 8


class LinOSS(eqx.Module):
    A_diag: Any
    G_diag: Any
    B: Any
    C: Any
    D: Any
    steps: Any
    state_dim: int
    discretization: str = eqx.field(static=True)

    @eqx.filter_jit
    def __call__(self, u: Any) -> Any:
        dt = jax.nn.sigmoid(self.steps)
        A, G = jax.nn.relu(self.A_diag), jnp.zeros_like(self.A_diag)
        if self.G_diag is not None:
            G = jax.nn.relu(self.G_diag)
            # between these both poles have one modulus, 1 / sqrt(1 + dt G): the discriminant of the pair vanishes there
            low, high = ((jnp.sqrt(1 + dt * G) + sign) ** 2 / dt**2 for sign in (-1, 1))
            A = jnp.clip(self.A_diag, low, high)

        def step(state: Any, drive: Any) -> Any:
            z, x = state
            if self.discretization == "IM":  # z' = z + dt (drive - A x'), x' = x + dt z'
                z = (z + dt * (drive - A * x)) / (1 + dt**2 * A)
            else:  # z' = z + dt (drive - A x - G z'), x' = x + dt z'
                z = (z + dt * (drive - A * x)) / (1 + dt * G)
            x = x + dt * z
            return (z, x), x

        drive = u @ (self.B[..., 0] + 1j * self.B[..., 1]).T
        x = jax.lax.scan(step, (jnp.zeros_like(drive[0]),) * 2, drive)[1]
        return (x @ (self.C[..., 0] + 1j * self.C[..., 1]).T).real + self.D * u


def linoss(kind: str, n: int = N, h: int = H, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    values = {
        "A_diag": rng.uniform(0.2, 2.0, n), "steps": rng.normal(0, 0.5, n), "B": rng.uniform(-1, 1, (n, h, 2)),
        "C": rng.uniform(-1, 1, (h, n, 2)), "D": rng.normal(size=h),
        "G_diag": rng.uniform(0.1, 0.5, n) if kind == "damped" else None,
    }  # fmt: skip
    arrays = {k: None if v is None else jnp.asarray(v, jnp.float32) for k, v in values.items()}
    return LinOSS(**arrays, state_dim=n, discretization="IM" if kind == "implicit" else "IMEX")


U = np.random.default_rng(1).standard_normal((60, H))
