"""Outputs of S5 layers in their authors' names, from the recurrence of arXiv 2208.04933, section 3: for any JAX framework."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


@jax.jit
def recurrence(lam: Any, drive: Any) -> Any:
    """All states of x_k = lam x_{k-1} + drive_k, one after the other."""
    return jax.lax.scan(lambda x, u: (lam * x + u,) * 2, jnp.zeros_like(drive[0]), drive)[1]


def s5_output(layer: Any, u: Any) -> Any:
    """Of a layer with parameters and settings as attributes; log_step (P,) or (P, 1)."""
    value = {k: getattr(layer, k)[...] for k in ("Lambda_re", "Lambda_im", "B", "D", "log_step")}
    real = jnp.minimum(value["Lambda_re"], -1e-4) if layer.clip_eigs else value["Lambda_re"]
    poles, step = real + 1j * value["Lambda_im"], layer.step_rescale * jnp.exp(value["log_step"].reshape(-1))
    if layer.discretization == "zoh":
        lam = jnp.exp(poles * step)
        gain = (lam - 1) / poles
    else:
        lam, gain = (1 + poles * step / 2) / (1 - poles * step / 2), step / (1 - poles * step / 2)
    C = jnp.concatenate([layer.C1[...], layer.C2[...]], axis=1) if hasattr(layer, "C1") else layer.C[...]
    B, C = value["B"][..., 0] + 1j * value["B"][..., 1], C[..., 0] + 1j * C[..., 1]
    drive = u @ (gain[:, None] * B).T
    x = recurrence(lam, drive)
    if C.shape[1] == 2 * len(poles):
        x = jnp.concatenate([x, recurrence(lam, drive[::-1])[::-1]], axis=1)
    return (2 if layer.conj_sym else 1) * (x @ C.T).real + value["D"] * u
