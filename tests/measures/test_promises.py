"""What a bound promises is compared with what was made, whatever the method."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
import pytest

import balred
from balred.measures import promises
from balred.methods import METHODS
from balred.methods.coprime import left_factors
from balred.methods.riccati_balancing import lqg, lqg_gap

LOW_PASS = balred.ss([[-0.7]], [[0.7]], [[1.0]], [[0.3]])
OPTIONS: dict[str, dict[str, Any]] = {
    "frequency_limited": {"band": (0.1, 3.0), "stable": True},
    "time_limited": {"horizon": 5.0, "stable": True},
    "frequency_weighted": {"right": LOW_PASS, "technique": "wang"},
    "weighted_hankel_norm": {"right": LOW_PASS},
}
BOUNDED = [
    name for name, row in METHODS.items() if row.gap is not None and name not in ("irka", "tsia", "positive_real")
]


def plant(name: str) -> balred.DenseSystem:
    g = balred.testing.random_system(6, 1, 1, seed=3)
    size = 1.25 * float(balred.norm(g, "hinf")) if name == "bounded_real" else 1.0
    return balred.ss(g.A, g.B, g.C / size, g.D * 0 + (0.2 if name == "bounded_real" else 3.0) / size)


def test_methods_without_a_comparison_compare_by_themselves() -> None:
    assert {name for name, row in METHODS.items() if row.gap is None} == {
        "truncate", "square_root", "singular_perturbation", "left_coprime", "right_coprime",
    }  # fmt: skip


@pytest.mark.parametrize("name", BOUNDED)
def test_a_result_that_breaks_its_bound_is_never_returned(name: str, monkeypatch: Any) -> None:
    g, row = plant(name), METHODS[name]
    a = balred.analyze(g, method=name, **OPTIONS.get(name, {}))
    assert np.isfinite(a.bound(4))  # what is right is returned, without a warning

    def wrong(state: Any, k: int) -> Any:
        small, L, R = row.reduce(state, k)
        return dataclasses.replace(small, C=50 * small.C), L, R

    monkeypatch.setitem(METHODS, name, dataclasses.replace(row, reduce=wrong))
    with pytest.raises(ArithmeticError, match="may exceed its bound by at most"):
        balred.reduce(g, 4, method=name, **OPTIONS.get(name, {}))


@pytest.mark.parametrize("match_dc", [False, True])
def test_the_gap_of_lqg_is_that_of_the_normalised_factors(match_dc: bool) -> None:
    g = balred.testing.random_system(6, 2, 2, seed=1)
    g = balred.ss(g.A + 0.3 * np.eye(6), g.B, g.C, g.D)
    sp = lqg(g, match_dc=match_dc)
    small = balred.reduce(g, 6, method="lqg", match_dc=match_dc)
    gap = lqg_gap(sp, small, {})
    assert max(float(np.linalg.norm(gap(1j * w), 2)) for w in (0.0, 0.3, 2.0)) < 1e-8  # the same system
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", balred.InstabilityWarning)
        small = balred.reduce(g, 3, method="lqg", match_dc=match_dc)
    F, H = left_factors(g, normalized=True), left_factors(small, normalized=True)
    W, _, V = np.linalg.svd(F(0.0) @ H(0.0).T)
    U = W @ V if match_dc else np.eye(2)
    for w in (0.0, 0.3, 2.0):
        # the Riccati equation of the whole system, solved again
        want = np.linalg.norm(F(1j * w) - U @ H(1j * w), 2)
        assert np.linalg.norm(lqg_gap(sp, small, {})(1j * w), 2) == pytest.approx(want, rel=1e-6, abs=1e-9)


def test_points_see_what_a_moved_pole_adds_beside_an_error_of_any_phase() -> None:
    """It adds a multiple of 1/(1 + jx)^2; expected: the most of that along the phase, on a fine grid."""
    points = promises._points(balred.ss([[-1.0, 10.0], [-10.0, -1.0]], np.ones((2, 1)), np.ones((1, 2))))
    phase = np.exp(1j * np.linspace(0, 2 * np.pi, 361))[:, None]

    def most(x: Any) -> Any:
        return np.real(phase / (1 + 1j * x) ** 2).max(axis=1)

    seen, there = most(points.imag - 10), most(np.linspace(-10, 10, 4001))
    assert (seen >= 0.8 * there)[there > 0.2].all()
