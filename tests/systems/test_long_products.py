"""Responses to ten digits, whichever digits they are computed in: against sums of partial fractions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balred.systems import long_products
from balred.systems.long_products import ten_digits

mpmath = pytest.importorskip("mpmath")


def exact(A: Any, B: Any, C: Any, D: Any, s: complex) -> Any:
    """The response in 60 digits, of the very numbers that are given."""
    with mpmath.workdps(60):
        M = mpmath.mpc(s) * mpmath.eye(len(A)) - mpmath.matrix(A.tolist())
        X = (
            mpmath.lu_solve(M, mpmath.matrix(B.tolist()))
            if B.shape[1] == 1
            else mpmath.inverse(M) * mpmath.matrix(B.tolist())
        )
        value = mpmath.matrix(D.tolist()) + mpmath.matrix(C.tolist()) * X
        return np.array([[complex(value[i, j]) for j in range(B.shape[1])] for i in range(len(C))])


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 8), decades=st.integers(0, 12))
def test_ten_digits_are_right_however_far_poles_lie_apart(seed: int, n: int, decades: int) -> None:
    rng = np.random.default_rng(seed)
    poles = -(10.0 ** rng.uniform(-decades, 0, n))
    T = np.linalg.qr(rng.standard_normal((n, n)))[0]
    A, B, C, D = T @ np.diag(poles) @ T.T, rng.standard_normal((n, 2)), rng.standard_normal((3, n)), np.zeros((3, 2))
    points = 1j * np.array([1e-3, 0.1, 1.0, *-poles[:2]])
    found = ten_digits(A, B, C, D, points, False)
    assert found.shape == (len(points), 3, 2)
    for s, value in zip(points, found, strict=True):
        want = exact(A, B, C, D, complex(s))
        assert np.linalg.norm(value - want) <= 2e-10 * np.linalg.norm(want)
    assert np.array_equal(ten_digits(A, B, C, D, points[0], False), found[0])


def test_what_cancels_is_computed_with_twice_the_digits(monkeypatch: Any) -> None:
    """1/(s + 1) - 1/(s + 1 + e) at s = 0 is e/(1 + e): fourteen digits of the terms are lost for e = 2^-46."""
    e = 2.0**-46
    A, B, C, D = np.diag([-1.0, -1.0 - e]), np.ones((2, 1)), np.array([[1.0, -1.0]]), np.zeros((1, 1))
    calls = []
    response = long_products.response
    monkeypatch.setattr(long_products, "response", lambda *x: calls.append(x[4]) or response(*x))
    assert ten_digits(A, B, C, D, 0.0, False).item() == pytest.approx(e / (1 + e), rel=1e-10)
    assert calls == [0]
    assert ten_digits(A, B, np.ones((1, 2)), D, [0.0, 1j], False)[0].item() == pytest.approx(2 - e / (1 + e), rel=1e-14)
    assert calls == [0]


def test_a_response_at_a_pole_is_an_arithmetic_error() -> None:
    with pytest.raises(ArithmeticError, match="the response at 1\\+0j must be known to some digits"):
        long_products.response(*(np.ones((1, 1)),) * 4, 1.0 + 0j, discrete=True)
