"""What is measured of the states of a layer along data, and what is chosen from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


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
    tokens : float, default 1
        The number of tokens in these means; processes that have each measured their own data add up their sums.

    Examples
    --------
    >>> import numpy as np
    >>> from balred.selection import Moments
    >>> one = Moments(np.diag([3.0, 0.5, 1.0]), groups=1, B=np.ones((1, 3)), C=np.ones((1, 3)))
    >>> one.states, np.diag((one + one).contributions).tolist(), (one + one).B.tolist()
    (3, [6.0, 1.0, 2.0], [[1.0, 1.0, 1.0]])
    """

    contributions: FloatArray
    groups: int
    B: FloatArray
    C: FloatArray
    products: FloatArray | None = None
    tokens: float = 1.0

    def __add__(self, other: Moments) -> Moments:
        """Those of the data of both."""
        tokens = self.tokens + other.tokens
        B, C = ((a * self.tokens + b * other.tokens) / tokens for a, b in ((self.B, other.B), (self.C, other.C)))
        both = None if self.products is None or other.products is None else self.products + other.products
        return Moments(self.contributions + other.contributions, self.groups, B, C, both, tokens)

    @property
    def states(self) -> int:
        """Number of states in each group."""
        return len(self.contributions) // self.groups


@dataclass(frozen=True, eq=False)
class Stack(Moments):
    """Those of layers behind each other, which keep equally many states, each its own; `contributions` are theirs, one below the other."""

    members: tuple[Moments, ...] = ()

    def __add__(self, other: Moments) -> Stack:
        """Those of the data of both, member by member."""
        return stack_of([a + b for a, b in zip(self.members, members_of(other), strict=True)])


def stack_of(members: Sequence[Moments]) -> Stack:
    """The moments of a stack of layers with these.

    Examples
    --------
    >>> one = Moments(np.diag([3.0, 0.5]), groups=1, B=np.ones((1, 2)), C=np.ones((1, 2)))
    >>> two = stack_of([one, one])
    >>> two.states, two.groups, (two + two).members[1].contributions.tolist()
    (2, 2, [[6.0, 0.0], [0.0, 1.0]])
    """
    contributions, B, C = (np.concatenate([getattr(m, k) for m in members]) for k in ("contributions", "B", "C"))
    return Stack(contributions, sum(m.groups for m in members), B, C, members=tuple(members))


def members_of(moments: Moments) -> tuple[Moments, ...]:
    """The moments of each layer in a stack; of one layer its own."""
    return moments.members if isinstance(moments, Stack) else (moments,)


def finite(moments: Mapping[str, Moments]) -> dict[str, Moments]:
    """The moments of layers by name, or an error that names those that are no numbers: they rank nothing.

    Examples
    --------
    >>> import numpy as np
    >>> from balred.selection.moments import finite
    >>> finite({"mixer": Moments(np.full((1, 1), np.nan), groups=1, B=np.ones((1, 1)), C=np.ones((1, 1)))})
    Traceback (most recent call last):
        ...
    ValueError: the layers' signals must be finite, got NaN or infinity in mixer
    """
    bad = [name or "itself" for name, m in moments.items() if not np.isfinite(m.contributions).all()]
    if bad:
        raise ValueError(f"the layers' signals must be finite, got NaN or infinity in {', '.join(bad)}")
    return dict(moments)


@dataclass(frozen=True, eq=False)
class Selection:
    """The states that each group keeps, ascending, (groups, rank); K, (rank, states), or None; and the error's share of the energy.

    Examples
    --------
    >>> import numpy as np
    >>> from balred.selection import Moments, select
    >>> best = select(Moments(np.diag([3.0, 0.5, 1.0]), 1, np.ones((1, 3)), np.ones((1, 3))), 2)
    >>> best.kept.tolist(), round(best.error, 4)  # 0.5 of 4.5 is lost
    ([[0, 2]], 0.1111)
    """

    kept: NDArray[np.intp]
    mix: FloatArray | None
    error: float

    def of_member(self, i: int, of: int) -> Selection:
        """Of a stack of so many layers what the i-th keeps."""
        groups = len(self.kept) // of
        return Selection(self.kept[i * groups : (i + 1) * groups], self.mix, self.error)


def first(states: int, of: int, groups: int = 1) -> Selection:
    """The first of so many states of each group, where any will do; more than there are begin again.

    Examples
    --------
    >>> first(2, 4, groups=3).kept.tolist()
    [[0, 1], [0, 1], [0, 1]]
    >>> first(5, 3).kept.tolist()
    [[0, 1, 2, 0, 1]]
    """
    return Selection(np.tile(np.arange(states) % of, (groups, 1)), None, 0.0)
