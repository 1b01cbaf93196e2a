"""The Cauchy-like elimination: factors entry by entry, and Hankel singular values far below rounding of the first.

Expected numbers: the Gramians in closed form, and eigenvalues in 150-digit arithmetic (mpmath).
"""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from numpy.testing import assert_allclose
from oracle import oracle_hsv

import balred
from balred.solvers.cauchy import cauchy_factor
from balred.solvers.closed_form import diagonal_gramians


def channel(seed, n, dt, conjugate, real=False, batch=()):
    rng = np.random.default_rng(seed)
    l = -rng.uniform(0.5, 2, (*batch, n)) + (0j if real else 1j * rng.uniform(0, 1, (*batch, n)))
    b = np.exp(3 * rng.standard_normal((*batch, n, 1))) * np.exp(1j * rng.uniform(0, 6, (*batch, n, 1)))
    c = rng.standard_normal((*batch, 1, n)) + 1j * rng.standard_normal((*batch, 1, n))
    return balred.diagonal(log_poles=l, B=b, C=c, dt=dt, conjugate=conjugate)


@pytest.mark.parametrize("dt", [0, 1])
@pytest.mark.parametrize("conjugate", [False, True])
def test_factor_of_the_gramian(dt, conjugate):
    g = channel(0, 7, dt, conjugate, batch=(3,))
    l = g.log_poles.copy()
    l[0, 0] = l[0, 0].real  # a real pole among pairs
    l[1, 2] = l[1, 2].real + 1e-9j  # a nearly real one
    l[2, 3] = l[2, 4]  # a double one
    g = balred.diagonal(log_poles=l, B=g.B, C=g.C, dt=dt, conjugate=conjugate)
    P, _ = diagonal_gramians(g)
    Z = cauchy_factor(g.log_poles, g.B[..., 0], discrete=bool(dt), conjugate=conjugate, full=True)
    assert np.iscomplexobj(Z) != conjugate
    assert_allclose(Z @ Z.conj().swapaxes(-1, -2), P, rtol=0, atol=1e-14 * np.abs(P).max())


@pytest.mark.parametrize("solver", [None, "cauchy"])
@pytest.mark.parametrize("dt", [0, 1])
@pytest.mark.parametrize("conjugate", [False, True])
def test_values_of_a_batch_are_those_of_the_full_gramians(dt, conjugate, solver):
    g = channel(3, 6, dt, conjugate, batch=(140,))  # more than one piece
    want = balred.hsv(g, solver="scipy")
    assert_allclose(balred.hsv(g, solver=solver), want, rtol=1e-6, atol=1e-7 * want[..., :1].max())


@pytest.mark.parametrize("dt", [0, 1])
@pytest.mark.parametrize(
    ("conjugate", "real", "rtol"), [(True, False, 1e-11), (False, False, 1e-11), (False, True, 1e-11)]
)
def test_every_value_has_digits(dt, conjugate, real, rtol, monkeypatch):
    """The last values lie 25 to 50 decades below the first."""
    digits = mpmath.workdps
    monkeypatch.setattr(mpmath, "workdps", lambda _: digits(150))
    g = channel(1, 16, dt, conjugate, real)
    want = oracle_hsv(g)
    assert want[-1] < 1e-20 * want[0]
    got = balred.hsv(g, solver="cauchy")
    assert_allclose(got, want, rtol=rtol)
    down = want > 1e-13 * want[0]
    assert_allclose(got[down], want[down], rtol=1e-10)


def test_states_that_hear_nothing_or_say_nothing():
    g = channel(5, 5, 1, True)
    b, c = g.B.copy(), g.C.copy()
    b[1], c[0, 3] = 0, 0
    rest = [0, 2, 4]
    small = balred.diagonal(log_poles=g.log_poles[rest], B=b[rest], C=c[:, rest], dt=1, conjugate=True)
    g = balred.diagonal(log_poles=g.log_poles, B=b, C=c, dt=1, conjugate=True)
    for solver in (None, "cauchy"):
        s = balred.hsv(g, solver=solver)
        assert_allclose(s[:6], balred.hsv(small), rtol=1e-9)
        assert np.all(s[6:] <= 1e-14 * s[0])


@pytest.mark.parametrize("conjugate", [False, True])
@pytest.mark.parametrize("solver", [None, "cauchy"])
def test_a_system_that_hears_nothing_has_only_zeros(conjugate, solver):
    g = balred.diagonal([0.5 + 0.1j, 0.2], B=[[0.0], [0.0]], C=[[1.0, 2.0]], dt=1, conjugate=conjugate)
    assert np.array_equal(balred.hsv(g, solver=solver), np.zeros(g.order))
    Zp, Zq = balred.gramian_factors(g, solver=solver)
    assert not Zp.any()
    assert Zq.any()


def test_more_than_one_input_is_refused():
    g = balred.testing.random_system(4, 2, 1, dt=1, kind="conjugate", seed=0)
    with pytest.raises(ValueError, match="solver 'cauchy' takes systems with one input and one output"):
        balred.hsv(g, solver="cauchy")
