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

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from balred.selection.elimination import elimination, refitted
from balred.selection.moments import FloatArray, Moments, Selection, members_of

SELECTIONS = ("joint", "separate", "random")
"""How states are chosen: as a set, each by its own energy, or at random (baselines to compare with)."""


def select(moments: Moments, rank: int, how: str = "joint", *, seed: int = 0) -> Selection:
    r"""The `rank` states of each group to keep, and K.

    Parameters
    ----------
    moments : Moments
    rank : int
    how : {"joint", "separate", "random"}
    seed : int
        The seed of "random".

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


def select_each(moments: Moments, pick: Callable[[Moments], Selection]) -> Selection:
    """What `pick` keeps of a layer, or of each layer in a stack.

    Examples
    --------
    >>> from balred.selection.moments import stack_of
    >>> one, other = (Moments(np.diag(d), 1, np.ones((1, 2)), np.ones((1, 2))) for d in ([3.0, 1.0], [0.0, 4.0]))
    >>> best = select_each(stack_of([one, other]), lambda m: select(m, 1))
    >>> best.kept.tolist(), best.error  # 1 of 8 is lost
    ([[0], [1]], 0.125)
    """
    members = members_of(moments)
    chosen = [pick(m) for m in members]
    if len(chosen) == 1:
        return chosen[0]
    lost = sum(one.error * float(np.sum(m.contributions)) for one, m in zip(chosen, members, strict=True))
    return Selection(np.concatenate([one.kept for one in chosen]), None, _share(moments, lost))


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
