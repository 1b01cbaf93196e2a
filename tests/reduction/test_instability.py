"""A reduced model that is less stable than what it stands for says so, whatever made it."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import balred
from balred.methods.table import METHODS
from balred.realisations.sparse import reduce_sparse, sparse_system
from balred.systems.poles import known_poles, warn_if_unstable

BAND = (0.1, 0.5)


def chain(n: int = 12) -> balred.DenseSystem:
    """Masses and springs, lightly damped."""
    K = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    A = np.block([[np.zeros((n, n)), np.eye(n)], [-K, -0.02 * K - 0.01 * np.eye(n)]])
    return balred.ss(A, np.eye(2 * n)[:, [n]], np.eye(2 * n)[[n - 1]])


def unstable(g: Any) -> int:
    return int((~known_poles(g).inside()).sum())


def test_frequency_limited_truncation_tells_and_stable_does_not() -> None:
    g = chain()
    with pytest.warns(balred.InstabilityWarning, match="'frequency_limited' reduced to 8 states.*stable=True") as told:
        small = balred.reduce(g, 8, method="frequency_limited", band=BAND)
    assert np.linalg.eigvals(small.A).real.max() > 0
    assert told[0].filename == __file__
    assert unstable(balred.reduce(g, 8, method="frequency_limited", band=BAND, stable=True)) == 0


def test_only_what_the_method_made_is_blamed() -> None:
    # an unstable mode that is kept whole is no news; one more beside it is
    g = chain()
    A = np.block([[g.A, np.zeros((g.order, 1))], [np.zeros((1, g.order)), np.ones((1, 1))]])
    more = balred.ss(A, np.vstack([g.B, [[1.0]]]), np.hstack([g.C, [[1.0]]]))
    with pytest.warns(balred.InstabilityWarning, match="has 2 unstable or marginal poles.* the original has none"):
        balred.reduce(more, 9, method="frequency_limited", band=BAND)
    assert unstable(balred.reduce(more, 9)) == 1


OPTIONS: dict[str, dict[str, Any]] = {
    "frequency_limited": {"band": BAND},
    "time_limited": {"horizon": 5.0},
    "frequency_weighted": {"right": balred.ss([[-0.1]], [[0.1]], [[1.0]])},
    "weighted_hankel_norm": {"right": balred.ss([[-0.1]], [[0.1]], [[1.0]], [[0.5]])},
    "stochastic": {"beta": 0.5},
    "bounded_real": {"gamma": 1e4},
}


@pytest.mark.parametrize("method", [name for name in METHODS if name != "positive_real"])
def test_no_method_makes_an_unstable_model_without_a_word(method: str) -> None:
    g = chain()
    for rank in (1, 4, 8, 11):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                small = balred.reduce(g, rank, method=method, **OPTIONS.get(method, {}))
            except (ValueError, ArithmeticError):
                continue
        assert (unstable(small) > 0) == any(w.category is balred.InstabilityWarning for w in told)


def test_every_member_of_a_batch_is_looked_at() -> None:
    A = np.stack([np.diag([-1.0, -2.0]), np.diag([-1.0, 2.0]), np.diag([3.0, 2.0])])
    batch = balred.DenseSystem(A, np.ones((3, 2, 1)), np.ones((3, 1, 2)), np.zeros((3, 1, 1)), 0)
    with pytest.warns(balred.InstabilityWarning, match="in 1 of 3 members, the worst at 3"):
        warn_if_unstable(batch, np.array([0, 1, 1]), "it", "leave it")


def test_models_of_data_tell_only_where_something_was_cut() -> None:
    grows = balred.ss([[1.1, 0.2], [0.0, 0.3]], [[1.0], [1.0]], [[1.0, 1.0]], dt=1)
    h = [(grows.C @ np.linalg.matrix_power(grows.A, k) @ grows.B).item() for k in range(9)]
    assert unstable(balred.era([0.0, *h], 2)) == 1  # the data themselves grow, and nothing was cut
    with pytest.warns(balred.InstabilityWarning, match="model of order 1 of the data"):
        balred.era([0.0, *h], 1)


def test_a_sparse_system_is_looked_at_too() -> None:
    g = sparse_system(np.diag([-1.0, -2.0, -3.0]), np.ones((3, 1)), np.ones((1, 3)))
    assert unstable(reduce_sparse(g, 1)) == 0
