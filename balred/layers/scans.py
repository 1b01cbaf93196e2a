r"""A layer with a diagonal recurrence: by a scan, or a chunk of positions at a time, since a scan waits for memory.

A scan makes the states of all positions, some times over.  Here they are made where a chunk of T positions begins, and
nowhere else.  Within a chunk the output is a product with the layer's own kernel,
:math:`K_l = \mathrm{Re}(C\lambda^lB)`, as one Toeplitz matrix of T x T blocks; what a chunk leaves behind, and what the next one makes of it, are matrix products too.
It costs :math:`2TH^2 + 8HN` operations a position, the scan :math:`8HN` and a dozen passes over N complex numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from balred.systems.arrays import Array


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
    >>> import numpy as np
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
    >>> import numpy as np
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


def chunked_output(xp: Any, log_poles: Array, B: Array, C: Array, u: Array, chunk: int) -> Array:
    r"""Output of :math:`x_k = \lambda \odot x_{k-1} + Bu_k`, :math:`y_k = \mathrm{Re}(Cx_k)` from rest, by chunks.

    Exact to rounding, and causal: an output does not change with later inputs, as long as all numbers are finite.

    Parameters
    ----------
    xp : module
        Array namespace of `u`.
    log_poles : array, shape (N,), complex
    B : array, shape (N, H), complex
    C : array, shape (P, N), complex
    u : array, shape (..., L, H), real
    chunk : int
        Positions of a chunk, T; the last one may be shorter.

    Returns
    -------
    array, shape (..., L, P)

    Examples
    --------
    >>> import numpy as np
    >>> one = np.ones((1, 1)) + 0j
    >>> chunked_output(np, np.log(one[0] / 2), one, one, np.ones((3, 1)), 2).ravel()
    array([1.  , 1.5 , 1.75])
    """
    lead, length, width, out = u.shape[:-2], u.shape[-2], u.shape[-1], C.shape[0]
    states, size = log_poles.shape[0], min(chunk, length)
    count, rows = -(-length // size), math.prod(lead)
    missing = count * size - length
    if missing:
        u = xp.concat([u, xp.broadcast_to(xp.zeros_like(u[..., :1, :]), (*lead, missing, width))], axis=-2)
    u = xp.reshape(u, (rows, count, size * width))
    falling = powers(xp, log_poles, size)
    enter = _lagged(xp, falling, B.T)
    kernel = xp.reshape(enter @ xp.concat([xp.real(C), -xp.imag(C)], axis=1).T, (size, width, out))
    blocks = xp.permute_dims(toeplitz(xp, kernel), (1, 2, 0, 3))
    y = xp.reshape(u, (rows * count, size * width)) @ xp.reshape(blocks, (size * width, size * out))
    y = xp.reshape(y, (rows, count, size * out))
    if count > 1:
        s = xp.reshape(u[:, :-1, :], (rows * (count - 1), size * width)) @ enter
        s = xp.reshape(s[:, :states] + 1j * s[:, states:], (rows, count - 1, states))
        x = xp.reshape(scan(xp, size * log_poles, s), (rows * (count - 1), states))
        leave = _lagged(xp, xp.conj(xp.flip(falling, axis=(0,))), xp.conj(C * xp.exp(log_poles)))
        carried = xp.concat([xp.real(x), xp.imag(x)], axis=1) @ leave.T
        carried = xp.reshape(carried, (rows, count - 1, size * out))
        y = y + xp.concat([xp.zeros_like(y[:, :1, :]), carried], axis=1)
    y = xp.reshape(y, (*lead, count * size, out))
    return y[..., :length, :] if missing else y


def _lagged(xp: Any, powers: Array, M: Array) -> Array:
    """Real beside imaginary parts of each power's product with the rows of M; (T, N) and (H, N) to (TH, 2N).

    In real numbers: the derivative of a real part is a complex array, filled with zeros first.
    """
    re, im = xp.real(powers), xp.imag(powers)
    by_re, by_im = xp.concat([re, im], axis=1)[:, None, :], xp.concat([-im, re], axis=1)[:, None, :]
    M_re, M_im = xp.real(M), xp.imag(M)
    both = by_re * xp.concat([M_re, M_re], axis=1) + by_im * xp.concat([M_im, M_im], axis=1)
    return xp.reshape(both, (powers.shape[0] * M.shape[0], 2 * M.shape[1]))


def powers(xp: Any, log_poles: Array, count: int) -> Array:
    r"""The powers :math:`\lambda^{T-1} \dots \lambda^0` of N poles, shape (T, N).

    By doubling: :math:`\exp(l\log\lambda)` for an l that is no power of two would round the phase, which may be large.

    Examples
    --------
    >>> import numpy as np
    >>> powers(np, np.log(np.array([2 + 0j])), 4).real.round(12).ravel()
    array([8., 4., 2., 1.])
    """
    p = xp.ones_like(log_poles)[None]
    while p.shape[0] < count:
        p = xp.concat([xp.exp(p.shape[0] * log_poles) * p, p], axis=0)
    return p if p.shape[0] == count else p[p.shape[0] - count :]


def toeplitz(xp: Any, kernel: Array) -> Array:
    """Block (t, s) is that of lag t - s, zero where s > t; from blocks of falling lag, shape (T, ...) to (T, T, ...).

    A period of the blocks and as many zeros, repeated T times and cut into rows one shorter than the period, moves on
    by one in each row: slices and copies alone, whose derivatives are cheap in every framework.

    Examples
    --------
    >>> import numpy as np
    >>> toeplitz(np, np.array([3, 2, 1]))
    array([[1, 0, 0],
           [2, 1, 0],
           [3, 2, 1]])
    """
    size, rest = kernel.shape[0], kernel.shape[1:]
    period = xp.concat([kernel[size - 1 :], xp.zeros_like(kernel), kernel[: size - 1]], axis=0)
    rows = xp.reshape(xp.broadcast_to(period[None], (size, 2 * size, *rest)), (2 * size * size, *rest))
    return xp.reshape(rows[: size * (2 * size - 1)], (size, 2 * size - 1, *rest))[:, :size]
