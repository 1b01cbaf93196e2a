"""A number or a rule becomes an order: checked here, and asked of a spectrum."""

from __future__ import annotations

from typing import Any

import numpy as np

from balred.ranks.bounds import FloatArray, a_priori_bound, numerical_rank
from balred.ranks.rules import ErrorBound, Order, Rule


class RankWarning(UserWarning):
    """A rank was given as an integer beyond the numerical rank; the numerical rank was used instead.

    Examples
    --------
    >>> import warnings, balred
    >>> g = balred.ss(-np.eye(3), np.ones((3, 1)), np.ones((1, 3)))  # three states that do the same
    >>> with warnings.catch_warnings(record=True) as told:
    ...     warnings.simplefilter("always")
    ...     small = balred.reduce(g, 2)
    >>> small.states, told[0].category.__name__
    (1, 'RankWarning')
    """


def choose_order(rule: Rule, hsv: FloatArray, states_per_rank: int = 1) -> int:
    """The order `rule` asks for: largest over a batch, rounded up to the rule's multiple, capped at the numerical rank.

    `states_per_rank` is 2 for conjugate systems, whose multiple and whose :class:`Order` count stored states.
    """
    given = np.asarray(hsv).reshape(-1, np.shape(hsv)[-1])
    given = given[given[:, 0] > 0]
    alive = given.astype(np.float64)
    if len(alive) == 0:
        raise ValueError(f"{rule} cannot choose a rank: every Hankel singular value is zero")
    scale = states_per_rank if isinstance(rule, Order) else 1
    order = max(rule.order(s) * scale for s in alive)
    bucket = max(rule.multiple_of, 1) * states_per_rank if rule.multiple_of > 1 else 1
    order, cap = -(-order // bucket) * bucket, int(np.max(numerical_rank(given)))
    # rounding up, or another member's order, may split a group of equal values, where the bound is larger again
    while isinstance(rule, ErrorBound) and order < cap and any(a_priori_bound(s, order) > rule.limit(s) for s in alive):
        order += bucket
    return min(order, cap)


def is_rule(value: Any) -> bool:
    """Whether `value` is a rule, not a number or a rule's class."""
    return hasattr(value, "order") and hasattr(value, "multiple_of") and not isinstance(value, type)


def check_rule(value: Any) -> None:
    """Raise unless `value` is a rule."""
    if not is_rule(value):
        raise TypeError(f"rule must be a rank rule such as balred.Energy(0.99), got {value!r}")


def check_rank(rank: Any, states: int) -> int:
    """`rank` as an int, or the error that states its range."""
    if not isinstance(rank, (int, np.integer)) or isinstance(rank, bool):
        raise ValueError(f"rank must be an integer or a rule, got {rank!r}")
    if states == 0:
        raise ValueError(f"a system must have states to be reduced, got one without, and a rank of {rank}")
    if not 1 <= rank <= states:
        raise ValueError(f"rank must be between 1 and {states}, got {rank}")
    return int(rank)
