r"""One number of states for a whole model, divided among its layers so that the error is least.

A layer that keeps r states makes an error of at most twice the tail of its Hankel singular values.  The layers of a network
mostly add to one stream, where errors of different layers add up like independent ones, in squares; so the ranks minimise

.. math:: \sum_l e_l(r_l)^2, \qquad e_l(r) = \sum_{i>r}\sigma_i ,

for a given total.  Values descend, so squared tails are convex, and taking away one state after the other, always the
cheapest, ends at the minimum.  Tails in units of each layer's own (``relative``) are for systems that share no units; on
trained networks they do worse than equal ranks (``benchmarks/budget.py``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Budget:
    r"""A number of states for all layers of a model together; each state goes where it lowers the error most.

    Parameters
    ----------
    states : int, optional
        The most states of all layers together, counted as the layers count them.
    fraction : float, optional
        In place of `states`: a share, in (0, 1], of the states that the layers have now.
    multiple_of : int, default 1
        Ranks are multiples of this, unless a layer keeps all of its states.
    relative : bool, default False
        Measure the error of each layer in units of its own :math:`\sum\sigma_i`, for layers that share no units.  If a model
        has selective layers and others, errors are always relative.

    Notes
    -----
    Layers that cannot be reduced do not take part.  Every layer keeps at least one state, and all of its unstable modes.

    Examples
    --------
    >>> import balred
    >>> layers = [balred.testing.random_system(8, seed=1), balred.testing.random_system(40, seed=2)]
    >>> [layer.states for layer in balred.reduce(layers, balred.Budget(fraction=0.25))]
    [3, 9]
    """

    states: int | None = None
    fraction: float | None = None
    multiple_of: int = 1
    relative: bool = False

    def __post_init__(self) -> None:
        if (self.states is None) == (self.fraction is None):
            raise ValueError(
                f"a budget must be given as states or as a fraction, got states={self.states}, fraction={self.fraction}"
            )
        for name in ("states", "multiple_of"):
            value = getattr(self, name)
            whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
            if value is not None and not (whole and value >= 1):
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        number = isinstance(self.fraction, (int, float, np.floating)) and not isinstance(self.fraction, bool)
        if self.fraction is not None and not (number and 0 < self.fraction <= 1):
            raise ValueError(f"fraction must be in (0, 1], got {self.fraction!r}")

    def shared(self, tails: Mapping[str, FloatArray], tied: Collection[Collection[str]] = ()) -> dict[str, int]:
        """The rank of every layer.

        Parameters
        ----------
        tails : dict by layer name of (states + 1,) arrays
            The squared error at each rank from 0 on, falling and convex; infinite at ranks that are too small.
        tied : collection of collections of names
            Layers that must have one rank, or all their states where they have fewer.

        Returns
        -------
        dict

        Raises
        ------
        ValueError
            The budget is too small for one state in every layer.

        Examples
        --------
        >>> import numpy as np
        >>> tails = {"flat": np.array([1.0, 0.75, 0.5, 0.25, 0.0]), "steep": np.array([1.0, 0.1, 0.01, 0.001, 0.0])}
        >>> Budget(states=5).shared(tails)
        {'flat': 4, 'steep': 1}
        """
        groups = [[n for n in g if n in tails] for g in tied]
        groups = [g for g in groups if g]
        bound = {name for g in groups for name in g}
        groups += [[name] for name in tails if name not in bound]
        sizes = {name: len(tail) - 1 for name, tail in tails.items()}
        total = sum(sizes.values())
        allowed = int(self.states) if self.states is not None else int(round((self.fraction or 0) * total, 9))
        ranks = [max(sizes[n] for n in g) for g in groups]

        def at(group: list[str], rank: int) -> tuple[float, int]:
            """Error and states of a group at a rank."""
            kept = [min(rank, sizes[n]) for n in group]
            return float(sum(tails[n][k] for n, k in zip(group, kept, strict=True))), sum(kept)

        def price(i: int) -> tuple[float, int, int]:
            """What a group's next step down costs for each state it frees, the rank it leads to, and the states freed."""
            lower = (ranks[i] - 1) // self.multiple_of * self.multiple_of
            (now, had), (then, has) = at(groups[i], ranks[i]), at(groups[i], max(lower, 0))
            if lower < 1 or not np.isfinite(then):
                return np.inf, ranks[i], 0
            return max(then - now, 0.0) / (had - has), lower, had - has

        prices, used = [price(i) for i in range(len(groups))], total
        while used > allowed:
            i = min(range(len(groups)), key=lambda j: prices[j][0])
            cost, lower, freed = prices[i]
            if not np.isfinite(cost):
                rule = f"a state in every layer ({used} with a multiple of {self.multiple_of} and unstable modes)"
                raise ValueError(f"the budget must be enough for {rule}, got {allowed} of {total} states")
            ranks[i], used = lower, used - freed
            prices[i] = price(i)
        found = {n: min(rank, sizes[n]) for group, rank in zip(groups, ranks, strict=True) for n in group}
        return {name: found[name] for name in tails}


def tail(values: Any, unit: int = 1, fixed: int = 0, *, measured: bool = False) -> FloatArray:
    """The squared sums of the last of descending `values` (..., order), at each rank, of which `unit` belong to a state.

    What is `measured` along data is no bound: there errors add up like independent ones, and so it is the sum of squares.

    Examples
    --------
    >>> tail([3.0, 1.0]).tolist(), tail([3.0, 1.0], measured=True).tolist()
    ([16.0, 1.0, 0.0], [10.0, 1.0, 0.0])
    """
    s = np.asarray(values, dtype=np.float64)
    power = 2 if measured else 1
    sums = np.cumsum(s[..., ::-1] ** power, axis=-1)[..., ::-1]
    squares = (sums ** (2 // power)).reshape(-1, s.shape[-1]).sum(0)
    at = np.concatenate([squares, [0.0]])[::unit]
    return np.concatenate([np.full(fixed, np.inf), [np.inf if fixed else at[0]], at[1:]])


def relative(tails: FloatArray) -> FloatArray:
    """In units of the largest (finite) one."""
    largest = float(np.max(tails[np.isfinite(tails)], initial=0.0))
    return tails / largest if largest > 0 else tails
