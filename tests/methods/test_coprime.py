"""Coprime factors: the factorisation's identities, SLICOT's printed values, and stable and unstable systems."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from plants import unstable
from tables import frequencies

import balred
from balred.methods.coprime import left_factors
from balred.solvers.riccati import dual

KINDS = pytest.mark.parametrize("factorization", ["inner", "normalized"])
METHODS = pytest.mark.parametrize("method", ["left_coprime", "right_coprime"])
TIMES = pytest.mark.parametrize("dt", [0, 1])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("complex", [False, True])
@KINDS
@TIMES
def test_factors(seed, factorization, complex, dt):
    g = unstable(seed, dt, complex=complex)
    m = g.B.shape[1]
    f = left_factors(g, normalized=factorization == "normalized")
    assert np.all(np.abs(np.linalg.eigvals(f.A)) < 1) if dt else np.all(np.linalg.eigvals(f.A).real < 0)
    for z in frequencies(g, 12):
        N, M = f(z)[:, :m], f(z)[:, m:]
        assert_allclose(np.linalg.solve(M, N), g(z), rtol=1e-7, atol=1e-9)
        whole = M if factorization == "inner" else f(z)
        assert_allclose(whole @ whole.conj().T, np.eye(3), atol=1e-7)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("match_dc", [False, True])
@METHODS
@KINDS
@TIMES
@pytest.mark.filterwarnings(
    "ignore::balred.InstabilityWarning"
)  # of the factors something is promised, not of the modes
def test_the_reduced_system_is_the_quotient_of_reduced_factors(seed, method, factorization, match_dc, dt):
    g = unstable(seed, dt)
    a = balred.analyze(g, method=method, factorization=factorization, match_dc=match_dc)
    right = method == "right_coprime"
    h = dual(g) if right else g
    f = left_factors(h, normalized=factorization == "normalized")
    m, errors = h.B.shape[1], []
    for k in range(2, 6):
        small = a.reduce(k)
        assert small.order == k
        factors = balred.reduce(f, k, method="singular_perturbation" if match_dc else "truncate")
        for z in frequencies(g, 12):
            value = factors(np.conj(z) if right else z)
            quotient = np.linalg.solve(value[:, m:], value[:, :m])
            assert_allclose(small(z), quotient.conj().T if right else quotient, rtol=1e-7, atol=1e-9)
        error = float(balred.error(f, factors))
        assert error <= a.bound(k) * (1 + 1e-9)
        errors.append(error)
        if match_dc:
            assert_allclose(small(1.0 if dt else 0.0), g(1.0 if dt else 0.0), rtol=1e-7, atol=1e-9)
    assert errors[-1] < errors[0]


@pytest.mark.filterwarnings("ignore::balred.InstabilityWarning")  # the plant has unstable poles, and may get more
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("match_dc", [False, True])
@METHODS
def test_normalised_factors_in_continuous_time_are_lqg_balancing(seed, match_dc, method):
    """D. G. Meyer (1990): both truncate the same coordinates."""
    g = unstable(seed, 0)
    lqg = balred.reduce(g, 4, method="lqg", match_dc=match_dc)
    factors = balred.reduce(g, 4, method=method, factorization="normalized", match_dc=match_dc)
    for z in frequencies(g, 10):
        assert_allclose(factors(z), lqg(z), rtol=1e-7, atol=1e-9)


def slicot_variant():
    """The system of the examples of AB09FD, AB09GD and AB13BD: the plant of AB09AD with unstable poles."""
    A = np.array([
        [-0.04165, 0, 4.92, 0.492, 0, 0, 0],
        [-5.21, -12.5, 0, 0, 0, 0, 0],
        [0, 3.33, -3.33, 0, 0, 0, 0],
        [0.545, 0, 0, 0, 0.0545, 0, 0],
        [0, 0, 0, -0.492, 0.004165, 0, 4.92],
        [0, 0, 0, 0, 0.521, -12.5, 0],
        [0, 0, 0, 0, 0, 3.33, -3.33],
    ])  # fmt: skip
    B = np.zeros((7, 2))
    B[1, 0] = B[5, 1] = 12.5
    return balred.ss(A, B, np.eye(7)[[0, 3, 4]])


def test_slicot_example():
    """Hankel singular values printed in the documentation of AB09FD and AB09GD (left, inner; four decimals)."""
    g = slicot_variant()
    assert np.linalg.eigvals(g.A).real.max() > 0
    want = [13.6047, 9.4106, 1.7684, 0.7456, 0.6891, 0.0241, 0.0230]
    assert_allclose(balred.analyze(g, method="left_coprime").hsv, want, atol=5e-5)


def test_stable_systems_with_inner_denominators_are_balanced_truncation():
    """A stable system is its own numerator, its denominator is I."""
    g = balred.testing.random_system(6, 2, 2, seed=0)
    small, plain = balred.reduce(g, 3, method="left_coprime"), balred.reduce(g, 3)
    for z in frequencies(g, 10):
        assert_allclose(small(z), plain(z), rtol=1e-6, atol=1e-9)


def test_a_marginal_pole_is_refused():
    g = balred.ss(np.diag([0.0, -1.0]), np.ones((2, 1)), np.ones((1, 2)))
    with pytest.raises(ValueError, match=r"without poles on the stability boundary"):
        balred.reduce(g, 1, method="left_coprime")


def test_an_unknown_factorization_is_named():
    with pytest.raises(ValueError, match="factorization must be 'inner' or 'normalized', got 'outer'"):
        balred.reduce(slicot_variant(), 3, method="left_coprime", factorization="outer")


@METHODS
@pytest.mark.parametrize("seed", [80, 89, *range(6)])
def test_units_less_than_a_thousand_apart_change_nothing(seed, method):
    """Of 400 such systems the first two were refused: a Riccati equation in mixed units has a solution of mixed sizes."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 9))
    A = rng.standard_normal((n, n))
    A *= rng.uniform(0.5, 1.3) / np.abs(np.linalg.eigvals(A)).max()
    B, C = rng.standard_normal((n, 2)), rng.standard_normal((2, n))
    D = np.zeros((2, 2)) if seed % 2 else rng.standard_normal((2, 2))
    gain = 10.0 ** rng.uniform(-3, 3)
    t = 2.0 ** rng.integers(-4, 6, n)
    even = balred.ss(A, B * gain, C, D * gain, 1)
    uneven = balred.ss(A * t / t[:, None], B * gain / t[:, None], C * t, D * gain, 1)
    want = balred.analyze(even, method=method).hsv
    assert_allclose(balred.analyze(uneven, method=method).hsv, want, rtol=0, atol=1e-9 * want[0])


@pytest.mark.parametrize("method", ["left_coprime", "right_coprime"])
def test_an_integrator_has_normalised_factors_alone(method):
    """1/s + 1/(s + 10): what refuses the inner ones names the others."""
    g = balred.ss(np.diag([0.0, -10.0]), np.ones((2, 1)), np.ones((1, 2)))
    with pytest.raises(
        ValueError, match=r"without poles on the stability boundary .factorization='normalized' takes such poles"
    ):
        balred.reduce(g, 1, method=method)
    assert balred.reduce(g, 1, method=method, factorization="normalized").order == 1
