"""The LRU layer for equinox: a reference layer whose state dimension ``balred`` can cut."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp

from balred.layers.recurrence import lru_initial, lru_output


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
        keys = iter(jax.random.split(key, 7))
        values = lru_initial(
            features,
            states,
            r_min,
            r_max,
            max_phase,
            uniform=lambda n: jax.random.uniform(next(keys), (n,)),
            normal=lambda *shape: jax.random.normal(next(keys), shape),
        )
        for name, value in values.items():
            setattr(self, name, value)

    @property
    def features(self) -> int:
        """Width H of input and output."""
        return int(self.D.shape[-1])

    @property
    def states(self) -> int:
        """Stored complex states N."""
        return int(self.nu_log.shape[-1])

    def __call__(self, u: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """Output sequence of the input sequence `u`, shape (L, H), from rest."""
        output: jax.Array = lru_output(jnp, self, u)
        return output
