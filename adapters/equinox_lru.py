"""The LRU layer for equinox: a reference layer whose state dimension ``balred`` can cut."""

from __future__ import annotations

import math

try:
    import equinox as eqx
    import jax
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("JAX and equinox are not installed: pip install 'balred[jax]'") from error
import jax.numpy as jnp


def scan(log_poles: jax.Array, u: jax.Array) -> jax.Array:
    r"""All states of :math:`x_k = \lambda \odot x_{k-1} + u_k` from rest, by cyclic reduction.

    The states at odd positions obey the same recurrence with :math:`\lambda^2` over half the length; from them the
    even ones follow at once.  O(L) work in ceil(log2 L) levels, each over all its positions in parallel.  (The generic
    ``lax.associative_scan`` would carry a product of poles for every position besides.)

    Parameters
    ----------
    log_poles : array, shape (N,), complex
    u : array, shape (..., L, N), complex

    Returns
    -------
    array, shape (..., L, N)
    """
    length = u.shape[-2]
    if length < 2:
        return u
    poles, half = jnp.exp(log_poles), length // 2
    even, odd = u[..., 0::2, :], u[..., 1::2, :]
    x_odd = scan(2 * log_poles, odd + poles * even[..., :half, :])
    later = even[..., 1:, :] + poles * x_odd[..., : even.shape[-2] - 1, :]
    x_even = jnp.concatenate([even[..., :1, :], later], axis=-2)
    pairs = jnp.stack([x_even[..., :half, :], x_odd], axis=-2).reshape(*u.shape[:-2], 2 * half, u.shape[-1])
    return pairs if length % 2 == 0 else jnp.concatenate([pairs, x_even[..., half:, :]], axis=-2)


class LRU(eqx.Module):
    r"""Linear recurrent unit, :math:`x_k = \lambda x_{k-1} + e^\gamma Bu_k`, :math:`y_k = \mathrm{Re}(Cx_k) + D \odot u_k`.

    Parameters
    ----------
    features : int
        Width H of input and output.
    states : int
        Stored complex states N.
    r_min, r_max : float, default 0 and 1
        Moduli of the initial poles, uniform on the ring.
    max_phase : float, default 2 pi
        Largest initial angle.
    key : jax.Array
        Random key of the initialisation.

    Notes
    -----
    :math:`\lambda = \exp(-e^{\nu} + ie^{\theta})` (Orvieto et al. 2023, arXiv 2303.06349, section 3).  One sequence of
    shape (L, H) in, one out; ``jax.vmap`` for batches.

    Examples
    --------
    >>> import jax, balred
    >>> layer = LRU(features=4, states=16, key=jax.random.key(0))
    >>> balred.reduce(layer, 8).states
    8
    """

    nu_log: jax.Array
    theta_log: jax.Array
    gamma_log: jax.Array
    B_re: jax.Array
    B_im: jax.Array
    C_re: jax.Array
    C_im: jax.Array
    D: jax.Array

    def __init__(
        self,
        features: int,
        states: int,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 2 * math.pi,
        *,
        key: jax.Array,
    ) -> None:
        if features < 1 or states < 1:
            raise ValueError(f"features and states must be at least 1, got {features} and {states}")
        if not 0 <= r_min < r_max <= 1:
            raise ValueError(f"r_min and r_max must satisfy 0 <= r_min < r_max <= 1, got {r_min} and {r_max}")
        keys = jax.random.split(key, 7)
        u = jnp.clip(jax.random.uniform(keys[0], (states,)), 1e-7, 1 - 1e-7)
        phase = jnp.maximum(jax.random.uniform(keys[1], (states,)), 1e-7)
        rate = -0.5 * jnp.log(u * (r_max**2 - r_min**2) + r_min**2)
        self.nu_log = jnp.log(rate)
        self.theta_log = jnp.log(max_phase * phase)
        self.gamma_log = 0.5 * jnp.log(-jnp.expm1(-2 * rate))
        self.B_re = jax.random.normal(keys[2], (states, features)) / math.sqrt(2 * features)
        self.B_im = jax.random.normal(keys[3], (states, features)) / math.sqrt(2 * features)
        self.C_re = jax.random.normal(keys[4], (features, states)) / math.sqrt(states)
        self.C_im = jax.random.normal(keys[5], (features, states)) / math.sqrt(states)
        self.D = jax.random.normal(keys[6], (features,))

    @property
    def features(self) -> int:
        """Width H of input and output."""
        return int(self.D.shape[0])

    @property
    def states(self) -> int:
        """Stored complex states N."""
        return int(self.nu_log.shape[0])

    def __call__(self, u: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """Output sequence of the input sequence `u`, shape (L, H), from rest."""
        log_poles = jax.lax.complex(-jnp.exp(self.nu_log), jnp.exp(self.theta_log))
        gain = jnp.exp(self.gamma_log)[:, None]
        drive = jax.lax.complex(u @ (gain * self.B_re).T, u @ (gain * self.B_im).T)
        x = scan(log_poles, drive)
        return x.real @ self.C_re.T - x.imag @ self.C_im.T + self.D * u
