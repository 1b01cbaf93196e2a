"""Sharp digital filters as polynomials, whose companion matrices are farther from normal than double precision can follow."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest
import scipy.signal
from numpy.testing import assert_allclose
from oracle import oracle_hsv

import balred
from balred.solvers.rebalanced import exactly_balanced

FILTERS = {
    "high pass": (scipy.signal.butter, (8, 0.01, "highpass")),
    "band pass": (scipy.signal.butter, (3, [0.001, 0.003], "bandpass")),
    "Chebyshev": (scipy.signal.cheby2, (8, 40, 0.01)),
    "elliptic": (scipy.signal.ellip, (6, 1, 60, 0.001, "highpass")),
}


def companion(name: str) -> Any:
    make, how = FILTERS[name]
    return balred.ss(*scipy.signal.tf2ss(*make(*how)), dt=1)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.full] * (name in ("high pass", "Chebyshev"))) for name in FILTERS]
)
def test_values_are_those_of_the_entries_as_given(name: str) -> None:
    """By Lyapunov equations in 50 digits.  All of these were refused; SLICOT's AB09AD is wrong by 1e-2 and more, or refuses."""
    g = companion(name)
    want = oracle_hsv(g)
    assert_allclose(balred.hsv(g), want, rtol=0, atol=1e-11 * want[0])


TORN = {
    "Chebyshev": (scipy.signal.cheby1, (5, 1, 0.0005), 1),
    "Bessel": (scipy.signal.bessel, (6, 0.999, "highpass"), 1),
    "band pass": (scipy.signal.cheby2, (3, 40, [0.001, 0.003], "bandpass"), 1),
    "analogue band": (scipy.signal.bessel, (5, [999.5, 1000.5], "bandstop", True), 0),
}
"""Filters whose poles, computed from their polynomials, lie on both sides of the boundary, and those of the entries inside."""


@pytest.mark.filterwarnings("ignore::scipy.signal.BadCoefficients")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.full] * (name == "band pass")) for name in TORN]
)
def test_poles_torn_by_rounding_are_those_of_the_entries_and_told(name: str) -> None:
    """Lyapunov equations in 120 digits; all values were infinite, without a word."""
    make, how, dt = TORN[name]
    g = balred.ss(*scipy.signal.tf2ss(*make(*how)), dt=dt)
    assert not np.all(np.abs(np.linalg.eigvals(g.A)) < 1 if dt else np.linalg.eigvals(g.A).real < 0)
    with pytest.warns(balred.BoundaryWarning, match="counts as stable because the entries are taken as exact"):
        found = balred.hsv(g)
    want = oracle_hsv(g, 120)
    assert_allclose(found, want, rtol=0, atol=1e-10 * want[0])


@pytest.mark.filterwarnings("ignore::scipy.signal.BadCoefficients")
@pytest.mark.parametrize(("make", "how"), [(scipy.signal.butter, (5, 0.0002)), (scipy.signal.ellip, (8, 1, 60, 0.01))])
def test_poles_torn_by_rounding_that_lie_outside_are_told(make: Any, how: Any) -> None:
    """A pole of the rounded polynomial lies outside the unit circle (mpmath), the mean of all inside."""
    A, B, C, D = scipy.signal.tf2ss(*make(*how))
    with mpmath.workdps(60):
        assert max(abs(x) for x in mpmath.eig(mpmath.matrix(A.tolist()), left=False, right=False)) > 1
    with pytest.warns(
        balred.BoundaryWarning, match="counts as unstable, although the mean .* give a filter as zeros, poles and gain"
    ):
        assert np.isinf(balred.hsv(balred.ss(A, B, C, D, dt=1))).all()


def test_a_reduction_keeps_to_its_bound() -> None:
    """Beside the responses of the entries as given in 50 digits, in the stop band, at the edge and above."""
    g, k = companion("high pass"), 6
    small, bound, apart = balred.reduce(g, k), balred.analyze(g).bound(k), []
    with mpmath.workdps(50):
        A, B, C = (mpmath.matrix(np.asarray(x).tolist()) for x in g.leaves)
        for w in (0.001, 0.005, 0.009, 0.01, 0.011, 0.02, 0.1, 0.9):
            z = complex(np.exp(1j * np.pi * w))
            full = (C * mpmath.lu_solve(z * mpmath.eye(g.order) - A, B))[0] + g.D[0, 0]
            apart.append(abs(complex(full) - small(z)[0, 0]))
    assert 0.1 * bound < max(apart) <= bound * (1 + 1e-9)


@pytest.mark.filterwarnings("ignore::scipy.signal.BadCoefficients")  # of the numerator, which has no part in this
def test_what_polynomials_have_lost_is_said_and_where_it_is_kept() -> None:
    """Order 5 at 0.0003 of the Nyquist frequency: the rounded polynomial has a pole at 1 + 6e-7 (mpmath), the filter none."""
    make = scipy.signal.butter
    with pytest.raises(ArithmeticError, match="give a filter as zeros, poles and gain or in sections of second order"):
        balred.hsv(balred.ss(*scipy.signal.tf2ss(*make(5, 0.0003)), dt=1))
    kept = balred.hsv(scipy.signal.dlti(*make(5, 0.0003, output="zpk"), dt=1))
    # the bilinear transform of the analogue prototype has the same values
    want = oracle_hsv(balred.ss(*scipy.signal.tf2ss(*make(5, 1.0, analog=True))))
    assert_allclose(kept, want, rtol=1e-6)


def test_what_is_not_balanced_so() -> None:
    single = balred.ss([[0.5]], [[1.0]], [[1.0]], dt=1)
    assert exactly_balanced(single) is not None
    assert exactly_balanced(balred.ss([[2.0]], [[1.0]], [[1.0]], dt=1)) is None
    assert exactly_balanced(balred.ss([[0.5]], [[0.0]], [[1.0]], dt=1)) is None
    assert exactly_balanced(balred.ss([[0.0]], [[1.0]], [[1.0]])) is None
    assert (
        exactly_balanced(balred.ss([[1e-300]], [[1.0]], [[1.0]], dt=1)) is None
    )  # more digits than there are behind the point
    assert exactly_balanced(balred.ss([[0.5j]], [[1.0]], [[1.0]], dt=1)) is None
