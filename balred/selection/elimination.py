"""States left out one after the other, always the cheapest: the order in which they go, what is lost with each, and the mix of
the others that comes closest to what all of them did.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.selection.moments import FloatArray, Moments

_RIDGE = 1e-6
"""Relative weight that holds K at a mere selection where the data do not say better; moments have float32's digits."""


def elimination(moments: Moments) -> tuple[NDArray[np.intp], FloatArray]:
    """The order in which joint selection gives states up, (groups, states), and the error's energy at each rank, 0 to states."""
    if moments.products is not None:
        order, errors = _refitting_elimination(moments.products)
        return order[None], errors
    gram, groups, n = moments.contributions, moments.groups, moments.states
    price, gone = np.diag(gram).copy(), np.zeros(len(gram), dtype=bool)
    order, errors, total = np.zeros((groups, n), dtype=np.intp), np.zeros(n + 1), 0.0
    for k in range(n):
        for g in range(groups):
            mine = np.where(gone, np.inf, price)[g * n : (g + 1) * n]
            order[g, k] = best = int(np.argmin(mine))
            total += float(mine[best])
            gone[g * n + best] = True
            price += 2 * gram[:, g * n + best]  # the next to go adds its cross terms with those gone
        errors[n - k - 1] = max(total, 0.0)
    return order, errors


def _refitting_elimination(products: FloatArray) -> tuple[NDArray[np.intp], FloatArray]:
    n = len(products)
    gram, scale = _scaled(products)
    inverse, beta = np.linalg.inv(gram), np.eye(n).reshape(-1) * scale
    alive, order, errors, total = list(range(n)), np.zeros(n, dtype=np.intp), np.zeros(n + 1), 0.0
    for k in range(n):
        prices = []
        for m in alive:
            b = slice(m * n, (m + 1) * n)
            prices.append(float(beta[b] @ np.linalg.solve(inverse[b, b], beta[b])))
        m = alive.pop(int(np.argmin(prices)))
        total += max(min(prices), 0.0)
        order[k], errors[n - k - 1] = m, total
        b = slice(m * n, (m + 1) * n)
        step = np.linalg.solve(inverse[b, b], np.column_stack([inverse[b], beta[b]]))
        columns = inverse[:, b].copy()
        inverse = inverse - columns @ step[:, :-1]
        beta = beta - columns @ step[:, -1]
    return order, errors


def spectrum(moments: Moments) -> FloatArray:
    r"""What a rank rule looks at: descending values with :math:`\sum_{i>r}\sigma_i^2 \ge E_r`, the error's energy at rank r.

    The squares are what the error gains at each elimination; one that is less than a later one counts as that one, so that
    the values descend.  Without such cases equality holds.
    """
    errors = elimination(moments)[1]
    gained = np.maximum(errors[:-1] - errors[1:], 0.0)
    return np.asarray(np.sqrt(np.maximum.accumulate(gained[::-1])[::-1]))


def refitted(products: FloatArray, kept: Any) -> tuple[FloatArray, float]:
    r"""K, (rank, states), such that :math:`\sum_{m\in S}(KC)_m V_m` comes closest to the output, and the error's energy.

    Parameters
    ----------
    products : (states, states, states, states)
        ``products[n, m, k, l]`` of :math:`C_n V_m` with :math:`C_k V_l`, summed over the data.
    kept : (rank,) integers

    Examples
    --------
    >>> import numpy as np
    >>> from balred.selection import refitted
    >>> C, V = np.random.default_rng(0).normal(size=(2, 50, 2))
    >>> V[:, 1] = 3 * V[:, 0]                                       # the dropped state does thrice what the kept one does
    >>> f = np.einsum("tn,tm->tnm", C, V)
    >>> K, error = refitted(np.einsum("tnm,tkl->nmkl", f, f), [0])
    >>> np.round(K, 3), error < 1e-6
    (array([[1., 3.]]), True)
    """
    n, kept = len(products), np.asarray(kept)
    gram, scale = _scaled(products)
    full = np.eye(n)
    mine = np.zeros((n, n), dtype=bool)
    mine[kept] = True
    rows = mine.reshape(-1)
    target = full.reshape(-1) * scale
    beta = np.zeros(n * n)
    # at the least-squares solution the error is orthogonal to every kept product
    beta[rows] = target[rows] + np.linalg.solve(gram[np.ix_(rows, rows)], gram[np.ix_(rows, ~rows)] @ target[~rows])
    miss = beta - target
    error = float(miss @ (gram @ miss - _RIDGE * miss))
    return (beta / scale).reshape(n, n)[kept], max(error, 0.0)


def _scaled(products: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The products' Gram with blocks of one V each, (m n, m' n'), at unit diagonal with a ridge, and the scale of each row."""
    n = len(products)
    gram = products.transpose(1, 0, 3, 2).reshape(n * n, n * n)
    gram = (gram + gram.T) / 2
    diagonal = np.diag(gram)
    scale = np.sqrt(np.maximum(diagonal, 1e-12 * max(float(np.max(diagonal)), 1e-300)))
    return gram / scale[:, None] / scale + _RIDGE * np.eye(n * n), scale
