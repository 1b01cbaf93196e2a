"""Digital filters as polynomials, and plants in oblique coordinates: far from normal, and no method may lose digits there without a word.

What a method finds does not depend on coordinates.  So it is compared with what it finds in those of balancing, where powers of the
state matrix do not grow; that Hankel singular values and the balanced realisation are right is compared with mpmath elsewhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.signal
from numpy.testing import assert_allclose

import balred
from balred.methods import METHODS
from balred.methods.limited import limited_gramians

STEP = 1
DESIGNS = {
    "Butterworth 3 at 0.003": scipy.signal.butter(3, 0.003),
    "Chebyshev 4 at 0.01": scipy.signal.cheby1(4, 0.5, 0.01),
    "high-pass 5 at 0.02": scipy.signal.butter(5, 0.02, btype="high"),
    "elliptic 6 at 0.01": scipy.signal.ellip(6, 0.5, 50, 0.01),
    "Butterworth 8 at 0.1": scipy.signal.butter(8, 0.1),
}


def companion(name: str) -> Any:
    return balred.ss(*scipy.signal.tf2ss(*DESIGNS[name]), dt=STEP)


def oblique(seed: int) -> Any:
    """A plant in coordinates of condition 1e6, which no units of states undo."""
    g, rng = balred.testing.random_system(6, 1, 1, seed=seed), np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.standard_normal((6, 6)))[0] for _ in range(2))
    d = np.logspace(-3, 3, 6)
    T, inverse = U * d @ V, V.T / d @ U.T
    return balred.ss(T @ g.A @ inverse, T @ g.B, g.C @ inverse, g.D)


def options_of(method: str, peak: float, dt: float) -> dict[str, Any]:
    low, high = (0.5, 2.0) if dt else (-1.0, 1.0)
    low_pass, antistable = (balred.ss([[p]], [[0.5]], [[1.0]], [[0.1]], dt) for p in (low, high))
    return {
        "stochastic": {"beta": 0.1 * peak},
        "bounded_real": {"gamma": 1.5 * peak},
        "frequency_weighted": {"left": low_pass},
        "weighted_hankel_norm": {"left": antistable},
        "time_limited": {"horizon": 100 if dt else 3.0},
        "frequency_limited": {"band": (0.0, 0.1 if dt else 2.0)},
    }.get(method, {})


@pytest.mark.filterwarnings("ignore::balred.InstabilityWarning")  # a short horizon promises nothing
@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("name", [*DESIGNS, *range(3)])
def test_methods_know_no_coordinates(name: str | int, method: str) -> None:
    g = oblique(name) if isinstance(name, int) else companion(name)
    b = balred.balance(g).system
    peak = float(balred.norm(b, "hinf"))
    found = []
    for one in (g, b):
        more = 2 * peak if method == "positive_real" else 0.0
        one = balred.ss(one.A, one.B, one.C, one.D + more, g.dt)
        found.append(balred.analyze(one, method=method, **options_of(method, peak, g.dt)))
    values, want = (np.asarray(a.hsv) for a in found)
    assert_allclose(values, want, rtol=0, atol=1e-6 * want[0])
    k = (g.order - 1) // 2 * 2  # modal truncation parts no pair
    small, expected = (a.reduce(k) for a in found)
    w = np.array([0.0, 1e-3, 1e-2, 0.1, 1.0, 3.0])
    at = np.exp(1j * w) if g.dt else 1j * w
    assert_allclose([small(z) for z in at], [expected(z) for z in at], rtol=0, atol=1e-5 * (peak + want[0]))


def test_limited_gramians_are_those_of_the_coordinates_given() -> None:
    """Over a horizon P is the sum of A^k B B^T (A^T)^k, added up in integers of Python: the entries are whole multiples of 2^-s."""
    g = companion("Chebyshev 4 at 0.01")
    bits = 60

    def whole(x: Any) -> Any:
        return np.array([[int(v * 2**bits) for v in row] for row in x], dtype=object)

    A, state = whole(g.A), whole(g.B)
    assert (A.astype(float) / 2.0**bits == g.A).all()
    P = 0 * state @ state.T
    for k in range(40):
        P = P + state @ state.T * 2 ** (2 * bits * (39 - k))  # the state is times 2^(bits (k + 1))
        state = A @ state
    want = np.array([[int(v) / 2 ** (2 * bits * 40) for v in row] for row in P])
    found, _ = limited_gramians(g, horizon=40)
    assert_allclose(found, want, rtol=1e-6)
