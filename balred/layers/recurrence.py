"""What the LRU layers of all frameworks run, in any array library: initial values, the scan, the output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from balred.systems.arrays import Array, namespace


def lru_initial(
    features: int,
    states: int,
    r_min: float,
    r_max: float,
    max_phase: float,
    uniform: Callable[[int], Array],
    normal: Callable[..., Array],
) -> dict[str, Array]:
    r"""Initial LRU parameters: poles uniform on the ring between `r_min` and `r_max`, :math:`\gamma=\sqrt{1-|\lambda|^2}`.

    `uniform(n)` draws from (0, 1) and `normal(*shape)` from the standard normal distribution, in the framework's own
    arrays (Orvieto et al. 2023, section 3 and appendix A).
    """
    if not all(isinstance(size, (int, np.integer)) for size in (features, states)) or features < 1 or states < 1:
        raise ValueError(f"features and states must be integers of at least 1, got {features} and {states}")
    if not 0 <= r_min < r_max <= 1:
        raise ValueError(f"r_min and r_max must satisfy 0 <= r_min < r_max <= 1, got {r_min} and {r_max}")
    radius, phase = uniform(states), uniform(states)
    xp = namespace(radius)
    rate = -0.5 * xp.log(xp.clip(radius, 1e-7, 1 - 1e-7) * (r_max**2 - r_min**2) + r_min**2)
    return {
        "nu_log": xp.log(rate),
        "theta_log": xp.log(max_phase * xp.clip(phase, 1e-7, 1.0)),
        "gamma_log": 0.5 * xp.log(-xp.expm1(-2 * rate)),
        "B_re": normal(states, features) / (2 * features) ** 0.5,
        "B_im": normal(states, features) / (2 * features) ** 0.5,
        "C_re": normal(features, states) / states**0.5,
        "C_im": normal(features, states) / states**0.5,
        "D": normal(features),
    }


def lru_output(xp: Any, layer: Any, u: Array) -> Array:
    """Output (..., L, H) of an LRU layer with split parameters, from rest; `xp` is the framework's array namespace."""
    log_poles = -xp.exp(layer.nu_log) + 1j * xp.exp(layer.theta_log)
    gain = xp.exp(layer.gamma_log)[:, None]
    drive = u @ (gain * layer.B_re).T + 1j * (u @ (gain * layer.B_im).T)
    x = scan(xp, log_poles, drive)
    return xp.real(x) @ layer.C_re.T - xp.imag(x) @ layer.C_im.T + layer.D * u


def scan(xp: Any, log_poles: Array, u: Array) -> Array:
    r"""All states of :math:`x_k = \lambda \odot x_{k-1} + u_k` from rest, by cyclic reduction.

    The states at odd positions obey the same recurrence with :math:`\lambda^2` over half the length; from them the
    even ones follow at once.  O(L) work in ceil(log2 L) levels, each over all its positions in parallel; unlike a
    generic associative scan it does not carry a product of poles for every position.

    Parameters
    ----------
    xp : module
        Array namespace of `u`, named so that a compiler need not look it up.
    log_poles : array, shape (N,), complex
    u : array, shape (..., L, N), complex

    Returns
    -------
    array, shape (..., L, N)

    Examples
    --------
    >>> scan(np, np.log(np.array([0.5 + 0j])), np.ones((3, 1)) + 0j).real.ravel()
    array([1.  , 1.5 , 1.75])
    """
    if u.shape[-2] < 2:
        return u
    poles = xp.exp(log_poles)
    return _halved(xp, u, lambda x: poles * x, lambda x: scan(xp, 2 * log_poles, x))


def matrix_scan(xp: Any, M: Array, u: Array) -> Array:
    r"""The same of :math:`x_k = x_{k-1}M + u_k`, states in rows, with the squares of M.

    Parameters
    ----------
    xp : module
    M : array, shape (..., N, N)
    u : array, shape (..., L, N)

    Returns
    -------
    array, shape (..., L, N)

    Examples
    --------
    >>> matrix_scan(np, np.array([[0.0, 1.0], [0.0, 0.0]]), np.eye(3, 2)).tolist()
    [[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]
    """
    if u.shape[-2] < 2:
        return u
    return _halved(xp, u, lambda x: x @ M, lambda x: matrix_scan(xp, M @ M, x))


def _halved(xp: Any, u: Array, ahead: Callable[[Array], Array], rest: Callable[[Array], Array]) -> Array:
    """All states, of which `rest` finds those at odd positions; ``ahead(x)`` is a free state a step later."""
    length = u.shape[-2]
    half = length // 2
    even, odd = u[..., 0::2, :], u[..., 1::2, :]
    x_odd = rest(odd + ahead(even[..., :half, :]))
    later = even[..., 1:, :] + ahead(x_odd[..., : even.shape[-2] - 1, :])
    x_even = xp.concat([even[..., :1, :], later], axis=-2)
    pairs = xp.reshape(xp.stack([x_even[..., :half, :], x_odd], axis=-2), (*u.shape[:-2], 2 * half, u.shape[-1]))
    return pairs if length % 2 == 0 else xp.concat([pairs, x_even[..., half:, :]], axis=-2)
