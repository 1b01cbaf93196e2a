"""What the LRU layers of all frameworks run, in any array library: initial values, and the output, the quickest way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from balred.layers.scans import chunked_output, scan
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
    """Output (..., L, H) of an LRU layer with split parameters, from rest; `xp` is the framework's array namespace.

    In chunks or by a scan, as :func:`chunk_of` says.  What is stored in half precision is computed in float32, since no
    library has complex numbers of half precision.

    Raises
    ------
    ValueError
        `u` is not real.
    """
    if xp.isdtype(u.dtype, "complex floating"):
        raise ValueError(f"inputs of an LRU layer must be real numbers, got {u.dtype}")
    names = ("nu_log", "theta_log", "gamma_log", "B_re", "B_im", "C_re", "C_im", "D")
    nu, theta, gamma, B_re, B_im, C_re, C_im, D = (_whole(xp, getattr(layer, name)) for name in names)
    given, u = u, _whole(xp, u)
    log_poles, gain = -xp.exp(nu) + 1j * xp.exp(theta), xp.exp(gamma)[:, None]
    chunk = chunk_of(D.shape[0], nu.shape[0], u.shape[-2])
    if chunk:
        B, C = gain * B_re + 1j * (gain * B_im), C_re + 1j * C_im
        y = chunked_output(xp, log_poles, B, C, u, chunk)
    else:
        x = scan(xp, log_poles, u @ (gain * B_re).T + 1j * (u @ (gain * B_im).T))
        y = xp.real(x) @ C_re.T - xp.imag(x) @ C_im.T
    y = y + D * u
    return y if u is given else xp.astype(y, given.dtype)


def _whole(xp: Any, x: Array) -> Array:
    """`x` itself, or in float32 what is stored in half precision."""
    return xp.astype(x, xp.float32) if str(x.dtype).rpartition(".")[2] in ("float16", "bfloat16") else x


def chunk_of(features: int, states: int, length: int) -> int:
    r"""Positions of a chunk for :func:`balred.layers.scans.chunked_output`, or 0 where the scan of all states is quicker.

    A chunk of T positions costs :math:`2TH^2` operations a position and 1/T of a scan, and matrices of :math:`T H N` numbers that
    are made once for all sequences, of which a training is taken to have 16.  That is least near
    :math:`T = \sqrt{N/H/(H/1000+N/(40L))}`, with both constants measured on a CPU; a chunk is a power of two from 4 to
    32.  Where it would be shorter the scan wins: in wide layers.  The number of sequences itself does not enter: it is
    unknown under ``jax.vmap`` and may vary in a compiled program, and one sequence shall be computed as many are.

    How many times longer others take for a training step of 16 sequences, forward and backward on one thread with PyTorch
    (``benchmarks/layers.py``, where the rest of the table is):

    ===  ====  =====  ======  =====  =====
    H    N     L      chunk   scan   FFT
    ===  ====  =====  ======  =====  =====
    16   64    64     8       1.5    1.1
    16   64    1024   16      6.2    2.5
    16   256   256    16      8.1    1.6
    16   256   1024   32      12     1.8
    64   64    64     4       0.7    3.3
    64   256   1024   8       3.4    5.8
    ===  ====  =====  ======  =====  =====

    At H = 256 it is the scan, and the best chunk takes 1.2 to 3.1 times its time.

    Examples
    --------
    >>> chunk_of(16, 256, 1024), chunk_of(64, 256, 1024), chunk_of(256, 256, 1024), chunk_of(16, 256, 4)
    (32, 8, 0, 0)
    """
    if length < 8:
        return 0
    squared = states / features / (features / 1000 + states / (40 * length))
    return next((size for size in (32, 16, 8, 4) if 2 * size <= length and size**2 <= 2 * squared), 0)
