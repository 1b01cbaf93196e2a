"""What a spectrum says before anything is cut: how many of its values are more than rounding errors, and how large the error
can become.  Rules and methods both ask for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
EQUAL = 1e-9
"""Values count as equal within this part of themselves."""


def numerical_rank(hsv: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Number of Hankel singular values above ``n * eps * sigma_1``, eps that of their dtype, shape (...).

    The threshold is SLICOT's (TOL2 of AB09AD).

    Examples
    --------
    >>> int(numerical_rank(np.array([1.0, 1e-3, 1e-20])))
    2
    """
    s = np.asarray(hsv)
    return np.asarray((s > s.shape[-1] * np.finfo(s.dtype).eps * s[..., :1]).sum(axis=-1))


def shares(values: Any) -> FloatArray:
    """The share of the sum of descending `values` (..., n) that the first 1, 2, ..., n of them hold; ones if all are zero.

    Examples
    --------
    >>> shares([1.5e308, 0.5e308]).tolist()
    [0.75, 1.0]
    """
    s = np.asarray(values, dtype=np.float64)
    largest = s.max(axis=-1, keepdims=True, initial=0.0)
    sums = np.cumsum(np.divide(s, largest, out=np.ones_like(s), where=largest > 0), axis=-1)
    return np.asarray(np.where(largest > 0, sums / sums[..., -1:], 1.0)) if s.shape[-1] else s


def a_priori_bound(hsv: FloatArray, order: int) -> FloatArray:
    r"""The error bound of balanced truncation and of singular perturbation, shape (...).

    .. math:: \|G-G_r\|_\infty \le 2\sum \sigma_i, \quad i > r,\ \text{distinct values counted once}

    Values count as equal within 1e-9 of themselves; a group that `order` splits counts each of its members.

    References
    ----------
    K. Glover, All optimal Hankel-norm approximations of linear multivariable systems and their L-infinity error
    bounds, Int. J. Control 39 (1984), section 9; U. M. Al-Saggaf and G. F. Franklin (1987) for discrete time.

    Examples
    --------
    >>> float(a_priori_bound(np.array([4.0, 1.0, 1.0, 0.5]), 1))
    3.0
    """
    s = np.asarray(hsv, dtype=np.float64)
    tail = s[..., order:]
    if tail.shape[-1] == 0:
        return np.zeros(s.shape[:-1])
    equal = tail[..., 1:] >= tail[..., :-1] * (1 - EQUAL)
    if not equal.any():
        return np.asarray(2 * tail.sum(axis=-1))
    same = np.zeros(tail.shape, dtype=bool)
    same[..., 1:] = equal
    if order > 0:
        split = np.cumprod(tail >= s[..., order - 1 : order] * (1 - EQUAL), axis=-1).astype(bool)
        same &= ~split
    return np.asarray(2 * np.sum(np.where(same, 0.0, tail), axis=-1))
