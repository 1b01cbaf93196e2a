"""What a rule asks for of a solved system, in stored states: rules think in orders, layers in what they store."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from balred.measures.norms import norm
from balred.methods.method import State, tail_bound
from balred.ranks.choosing import check_rule, choose_order
from balred.ranks.rules import ErrorBound, MeasuredError, Order, Rule
from balred.reduction.settings import Settings
from balred.reduction.solve import Solved
from balred.reduction.writing_back import Reduction, forms_of
from balred.systems.arrays import in_precision, to_numpy


def rank_for(
    solved: Solved,
    settings: Settings,
    rule: Rule,
    reduction: Callable[[int], Reduction],
    error: Callable[[int], tuple[str, NDArray[np.float64] | None]],
) -> int:
    """The stored states that `rule` asks for, unstable modes included.

    Parameters
    ----------
    solved : Solved
    settings : Settings
    rule : Rule
    reduction : callable
        ``reduction(rank)``, since only the result tells whether a conjugate system holds the order that was chosen.
    error : callable
        ``error(rank)`` measures the error of that reduction, and says in which norm.

    Raises
    ------
    TypeError
        `rule` is none.
    ValueError
        It cannot be met.
    """
    check_rule(rule)
    system, stable, state, unit = solved.system, solved.stable, solved.state, solved.unit
    if system.states == 0:
        raise ValueError("a system must have states for a rule to choose from, got a static gain (n = 0)")
    if stable is None or state is None:
        return solved.fixed
    if isinstance(rule, Order):
        rank, enough = _rounded(rule.rank, rule), -(-state.cap // unit)
        if unit == 2 and enough + solved.fixed < rank:  # so many at least: real poles take more
            enough = _stored(solved, settings, state.cap)
        return min(rank, enough + solved.fixed, system.states)
    if isinstance(rule, MeasuredError):
        return _measured(solved, state, settings, rule, error)
    order = _chosen(solved, state, settings, rule)
    rank = -(-order // unit)
    if unit == 2 and rank < stable.states:
        # a reduced real pole fills a stored state by itself, so a few more may be needed to hold the order
        rank = _rounded(_stored(solved, settings, order), rule)
    rank, further = min(rank, stable.states), rule.multiple_of
    while unit == 2 and rank < stable.states:
        made = reduction(rank + solved.fixed)
        if _meets(solved, rule, order, made):
            break
        # no good form of the largest order there is, so none comes with more states: all of them are one already
        rank = stable.states if made.note and rank * unit >= state.cap else min(rank + further, stable.states)
        further *= 2
    return rank + solved.fixed


def _rounded(rank: int, rule: Rule) -> int:
    return -(-rank // rule.multiple_of) * rule.multiple_of


def _chosen(solved: Solved, state: State, settings: Settings, rule: Rule) -> int:
    """The order that `rule` asks for of the stable part."""
    method = settings.row
    if not isinstance(rule, ErrorBound) or method.bound is tail_bound:
        # a method that keeps conjugate pairs together, say, keeps what the rule asks for and its other half
        return state.closed(choose_order(rule, solved.sigma, solved.unit))
    limit, cap = rule.limit(solved.sigma), state.cap
    for k in range(1, cap + 1):
        value = float(method.bounded(state, k))
        if np.isnan(value):
            raise ValueError(f"ErrorBound needs a method with an a-priori error bound, got {settings.told}")
        if value <= limit:
            return min(_rounded(k, rule), cap)
    raise ValueError(
        f"tolerance must be at least {value:.3g}, the error bound of {settings.method!r} at its largest order {cap}, got {limit:.3g}"
    )


def _measured(
    solved: Solved,
    state: State,
    settings: Settings,
    rule: MeasuredError,
    error: Callable[[int], tuple[str, NDArray[np.float64] | None]],
) -> int:
    """The least rank whose reduction has an error within the rule, of all members of a batch."""
    stable, fixed, unit = solved.stable, solved.fixed, solved.unit
    assert stable is not None  # where there is a state of the method
    sizes = np.atleast_1d(to_numpy(norm(stable, "hinf"))) if rule.relative else np.ones(1)
    limit = rule.tolerance * sizes
    best = np.inf
    most = state.cap if unit == 1 else stable.states
    # Adamjan, Arov, Krein: nothing of order k is nearer than the next value, where the values are Hankel singular values
    hankel = settings.row.bound is tail_bound and not settings.on_data
    values = solved.sigma.reshape(-1, solved.sigma.shape[-1])
    ranks = range(rule.multiple_of, most + rule.multiple_of, rule.multiple_of)
    for rank in (min(rank, most) for rank in ranks):
        if hankel and rank < most and np.any(values[:, min(rank * unit, values.shape[1] - 1)] > limit * (1 + 1e-6)):
            continue
        kind, errors = error(rank + fixed)
        if errors is None or kind != "hinf":
            continue
        best = min(best, float(np.max(errors / np.where(sizes > 0, sizes, 1.0))))
        if np.all(errors <= limit):
            return rank + fixed
    raise ValueError(
        f"tolerance must be at least {best:.3g}, the least error that was measured up to rank {most + fixed}, got {rule}"
    )


def _stored(solved: Solved, settings: Settings, order: int) -> int:
    """How many stored states the reduction of the conjugate stable part to `order` fills."""
    assert solved.stable is not None
    with in_precision(settings.precision, *solved.stable.leaves):
        return forms_of(solved, settings).stored(order)


def _meets(solved: Solved, rule: Rule, order: int, made: Reduction) -> bool:
    """Whether a reduction holds the `order` that `rule` chose, and its bound is met."""
    if made.stable_order < order:
        return False
    if not isinstance(rule, ErrorBound):
        return True
    limits = [rule.limit(s) for s in solved.sigma.reshape(-1, solved.sigma.shape[-1])]
    return bool(np.all(made.bound.reshape(-1) <= limits))
