r"""Which states of a selective layer to keep, from moments of its signals.

A selective layer (Mamba) has diagonal or scalar dynamics that depend on its input.  States can be left out exactly, the
others do not notice; they cannot be mixed.  So its output is a sum of contributions, one for each state,

.. math:: y_t = \sum_n C_{tn} V_{tn}, \qquad V_{tn} = W\,\mathrm{diag}(g_t)\, h_{tn},

with :math:`h_{tn}` the channels of state n, :math:`g_t` the gate and W the output projection, and leaving states out makes
an error that second moments of the contributions give *exactly*, for every set of states.  No adjoint recursion is needed:
what a kept state does later does not depend on the dropped ones.  If the rows that make C may be mixed, kept states
stand in for dropped ones through :math:`C' = K C`, and the best K is a linear regression on the products
:math:`C_n V_m`, whose moments are gathered as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

SELECTIONS = ("joint", "separate", "random")
"""How states are chosen: as a set, each by its own energy, or at random (baselines to compare with)."""

_RIDGE = 1e-6
"""Relative weight that holds K at a mere selection where the data do not say better; moments have float32's digits."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Second moments of a layer's contributions, summed over tokens and outputs.

    Parameters
    ----------
    contributions : (groups * states, groups * states)
        Of :math:`C_n V_n`, the states of a group side by side.
    groups : int
        Each group keeps equally many states, its own (Mamba-2 shares B and C within groups of heads).
    products : (states, states, states, states), optional
        ``products[n, m, k, l]`` of :math:`C_n V_m` with :math:`C_k V_l`; None where C cannot be mixed.
    B, C : (groups, states)
        Mean squares of the layer's B and C.
    """

    contributions: FloatArray
    groups: int
    B: FloatArray
    C: FloatArray
    products: FloatArray | None = None

    @property
    def states(self) -> int:
        """Number of states in each group."""
        return len(self.contributions) // self.groups


@dataclass(frozen=True, eq=False)
class Selection:
    """The kept states of each group, ascending, (groups, rank); K, (rank, states), or None; the error's share of the energy."""

    kept: NDArray[np.intp]
    mix: FloatArray | None
    error: float


def select(moments: Moments, rank: int, how: str = "joint", *, seed: int = 0) -> Selection:
    r"""The `rank` states of each group to keep, and K.

    Parameters
    ----------
    moments : Moments
    rank : int
    how : {"joint", "separate", "random"}
    seed : int
        Of "random".

    Returns
    -------
    Selection
        `error` is :math:`\sum\|y-\hat y\|^2 / \sum\|y\|^2` on the data of the moments.

    Notes
    -----
    "joint" eliminates states one by one, each time the one whose loss raises the error least *after* the others have been
    refitted (optimal brain surgeon on groups of weights), and without products exchanges states while that helps.

    References
    ----------
    B. Hassibi and D. G. Stork, Second order derivatives for network pruning: optimal brain surgeon, NeurIPS 1992.

    Examples
    --------
    >>> import numpy as np
    >>> from balred.selection import Moments, select
    >>> gram = np.diag([3.0, 0.0, 1.0, 0.5])
    >>> select(Moments(gram, 1, np.ones((1, 4)), np.ones((1, 4))), 2).kept
    array([[0, 2]])
    """
    n, groups = moments.states, moments.groups
    if how == "joint":
        removed, _ = elimination(moments)
        kept = np.sort(removed[:, n - rank :], axis=1)
        if moments.products is None:
            kept = _exchanged(moments, kept)
    elif how == "separate":
        energy = np.diag(moments.contributions).reshape(groups, n)
        kept = np.sort(np.argsort(-energy, axis=1, kind="stable")[:, :rank], axis=1)
    elif how == "random":
        rng = np.random.default_rng(seed)
        kept = np.sort([rng.permutation(n)[:rank] for _ in range(groups)], axis=1)
    else:
        raise ValueError(f"selection must be one of {', '.join(SELECTIONS)}, got {how!r}")
    if moments.products is None or rank == n:
        return Selection(kept, None, _share(moments, _dropped_energy(moments, kept)))
    mix, error = refitted(moments.products, kept[0])
    return Selection(kept, mix, _share(moments, error))


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


def spectrum(moments: Moments) -> FloatArray:
    r"""What a rank rule looks at: descending values with :math:`\sum_{i>r}\sigma_i^2 \ge E_r`, the error's energy at rank r.

    The squares are what the error gains at each elimination; one that is less than a later one counts as that one, so that
    the values descend.  Without such cases equality holds.
    """
    errors = elimination(moments)[1]
    gained = np.maximum(errors[:-1] - errors[1:], 0.0)
    return np.asarray(np.sqrt(np.maximum.accumulate(gained[::-1])[::-1]))


def _share(moments: Moments, energy: float) -> float:
    total = float(np.sum(moments.contributions))
    return max(energy, 0.0) / total if total > 0 else 0.0


def _dropped_energy(moments: Moments, kept: NDArray[np.intp]) -> float:
    gone = _gone(moments, kept)
    return float(gone @ moments.contributions @ gone)


def _gone(moments: Moments, kept: NDArray[np.intp]) -> FloatArray:
    gone = np.ones((moments.groups, moments.states))
    np.put_along_axis(gone, kept, 0.0, axis=1)
    return gone.reshape(-1)


def _exchanged(moments: Moments, kept: NDArray[np.intp]) -> NDArray[np.intp]:
    """`kept` after exchanging a kept and a dropped state of a group for as long as the error falls."""
    gram, n = moments.contributions, moments.states
    gone = _gone(moments, kept)
    diagonal = np.diag(gram)
    for _ in range(4 * len(gram)):
        pull = gram @ gone
        gain = (diagonal + 2 * pull)[:, None] + (diagonal - 2 * pull)[None, :] - 2 * gram  # row goes, column returns
        same = np.arange(len(gram)) // n
        allowed = (gone[:, None] == 0) & (gone[None, :] == 1) & (same[:, None] == same[None, :])
        gain = np.where(allowed, gain, np.inf)
        out, back = np.unravel_index(int(np.argmin(gain)), gain.shape)
        if not gain[out, back] < -1e-12 * np.sum(diagonal):
            break
        gone[out], gone[back] = 1.0, 0.0
    return np.stack([np.flatnonzero(g == 0) for g in gone.reshape(moments.groups, n)])


def _scaled(products: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The products' Gram with blocks of one V each, (m n, m' n'), at unit diagonal with a ridge, and the scale of each row."""
    n = len(products)
    gram = products.transpose(1, 0, 3, 2).reshape(n * n, n * n)
    gram = (gram + gram.T) / 2
    diagonal = np.diag(gram)
    scale = np.sqrt(np.maximum(diagonal, 1e-12 * max(float(np.max(diagonal)), 1e-300)))
    return gram / scale[:, None] / scale + _RIDGE * np.eye(n * n), scale


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


def refitted(products: FloatArray, kept: Any) -> tuple[FloatArray, float]:
    r"""K, (rank, states), such that :math:`\sum_{m\in S}(KC)_m V_m` comes closest to the output, and the error's energy.

    Parameters
    ----------
    products : (states, states, states, states)
        As in :class:`Moments`.
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
