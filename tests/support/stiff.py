"""Plants whose rates spread over many decades, continuous ones and sampled ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.signal
from hypothesis import strategies as st

import balred

KINDS = ("parallel", "lags", "compartments", "cascade")


def exponents(least: int, most: int, *, sizes: tuple[int, int]) -> st.SearchStrategy[list[float]]:
    """Of ten, for rates an eighth apart at least: the truth is a sum over poles, which must not be double."""
    steps = st.integers(20 * least, 20 * most).map(lambda k: k / 20)
    return st.lists(steps, min_size=sizes[0], max_size=sizes[1], unique=True)


def stiff_chain(kind: str, exponents: Any) -> balred.DenseSystem:
    """States with the rates 10 ** exponents, side by side or one behind the other, with their units far apart."""
    rates = 10.0 ** np.asarray(exponents, dtype=float)
    n = len(rates)
    A, first, last = np.diag(-rates), np.eye(n)[:, :1], np.eye(n)[-1:]
    if kind == "parallel":
        return balred.ss(A, np.ones((n, 1)), np.ones((1, n)))
    if kind == "lags":  # each of gain one
        return balred.ss(A + np.diag(rates[1:], -1), rates[0] * first, last)
    if kind == "compartments":  # what one loses the next has, and all is seen
        return balred.ss(A + np.diag(rates[:-1], -1), first, np.ones((1, n)))
    return balred.ss(A + np.diag(np.ones(n - 1), -1), first, last)


def sampled(g: balred.DenseSystem, dt: float) -> balred.DenseSystem:
    """The plant behind a zero-order hold, as SciPy samples it."""
    A, B, C, D, _ = scipy.signal.cont2discrete((g.A, g.B, g.C, g.D), dt)
    return balred.ss(A, B, C, D, dt)
