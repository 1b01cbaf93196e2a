"""Balanced stochastic truncation: the relative error, SLICOT's printed values, and AB09HD routine by routine."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from tables import frequencies

import balred

TIMES = pytest.mark.parametrize("dt", [0, 0.5])


def invertible(seed, n=6, m=2, dt=0, complex=False):
    g = balred.testing.random_system(n, m, m, dt=dt, seed=seed, complex=complex)
    return balred.ss(g.A, g.B, g.C, 0.7 * np.eye(m), dt)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("match_dc", [False, True])
@pytest.mark.parametrize("complex", [False, True])
@TIMES
def test_relative_error_within_its_bound(seed, match_dc, complex, dt):
    g = invertible(seed, dt=dt, complex=complex)
    a = balred.analyze(g, method="stochastic", match_dc=match_dc)
    s = np.asarray(a.hsv)
    assert np.all((s >= 0) & (s <= 1 + 1e-8))
    zeros_outside = int(np.sum(s > 1 - 1e-6))
    for k in range(max(1, zeros_outside), 6):
        small = a.reduce(k)
        poles = np.linalg.eigvals(small.A)
        assert np.all(np.abs(poles) < 1 if dt else poles.real < 0)
        worst = max(np.linalg.norm(np.linalg.solve(g(z), g(z) - small(z)), 2) for z in frequencies(g, 200))
        assert worst <= a.bound(k) * (1 + 1e-7) + 1e-9
        if match_dc:
            at = 1.0 if dt else 0.0
            assert_allclose(small(at), g(at), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("match_dc", [False, True])
@pytest.mark.parametrize("ports", [(1, 3), (3, 1), (2, 2)])
@TIMES
def test_beta_bounds_what_is_relative_above_it_and_absolute_below(seed, match_dc, ports, dt):
    """|(G G^H + beta^2 I)^-1/2 (G - Gk)|: the relative error of [G, beta I], for any shape and without a direct term."""
    beta = 0.3
    g = balred.testing.random_system(6, *ports, dt=dt, seed=seed)
    g = balred.ss(g.A, g.B, g.C, dt=dt)
    a = balred.analyze(g, method="stochastic", beta=beta, match_dc=match_dc)
    for k in range(1, 6):
        small, worst = a.reduce(k), 0.0
        for z in frequencies(g, 100):
            L = np.linalg.cholesky(g(z) @ g(z).conj().T + beta**2 * np.eye(ports[1]))
            worst = max(worst, np.linalg.norm(np.linalg.solve(L, g(z) - small(z)), 2))
        assert worst <= a.bound(k) * (1 + 1e-7) + 1e-9


@pytest.mark.parametrize("dt", [0, 0.5])
def test_values_at_one_are_the_zeros_outside(dt):
    """A square system with a full-rank D has as many values 1 as zeros outside the stable region (Green 1988)."""
    for seed in range(8):
        g = invertible(seed, dt=dt)
        zeros = np.linalg.eigvals(g.A - g.B @ np.linalg.solve(g.D, g.C))
        outside = int(np.sum(np.abs(zeros) > 1 if dt else zeros.real > 0))
        s = np.asarray(balred.analyze(g, method="stochastic").hsv)
        assert int(np.sum(s > 1 - 1e-6)) == outside


def test_slicot_example(plant):
    """Hankel singular values printed in the documentation of AB09HD, beta = 1 (four decimals)."""
    want = [0.8803, 0.8506, 0.8038, 0.4494, 0.3973, 0.0214, 0.0209]
    assert_allclose(balred.analyze(plant, method="stochastic", beta=1.0).hsv, want, atol=5e-5)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("job", ["B", "S"])
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_ab09hd(seed, job, beta):
    ctrlsys = pytest.importorskip("ctrlsys")
    g = invertible(seed)
    k = 4
    args = [np.asfortranarray(x.copy()) for x in (g.A, g.B, g.C, g.D)]
    out = ctrlsys.ab09hd("C", job, "N", "F", 6, 2, 2, k, 0.0, beta, *args, 0.0, 0.0)
    Ar, Br, Cr, Dr = out[:4]
    if out[-1] != 0 or Ar.shape[0] < k:
        pytest.skip("the routine refused this system")
    theirs = balred.ss(Ar[:k, :k], Br[:k], Cr[:, :k], Dr)
    ours = balred.reduce(g, k, method="stochastic", beta=beta, match_dc=job == "S")
    for z in frequencies(g, 20):
        assert_allclose(ours(z), theirs(z), rtol=1e-6, atol=1e-8)


def test_what_it_needs_is_said():
    g = balred.testing.random_system(4, 1, 1, seed=0)
    g = balred.ss(g.A, g.B, g.C)
    with pytest.raises(
        ValueError, match="needs D of full row rank and no zeros on the stability boundary, or beta > 0"
    ):
        balred.reduce(g, 2, method="stochastic")
    assert balred.reduce(g, 2, method="stochastic", beta=0.1).order == 2
    with pytest.raises(ValueError, match="beta must be nonnegative, got -1"):
        balred.reduce(g, 2, method="stochastic", beta=-1)


def test_zeros_on_the_boundary_are_named_as_the_reason():
    """(s + 2)/(s^2 + 101 s + 100) by Tustin's rule has a zero at -1, where the relative error has no bound."""
    s = 20 * np.array([1.0, -1.0]), np.array([1.0, 1.0])  # s = 20 (z - 1)/(z + 1) for steps of 0.1 s
    den = np.polymul(s[0], s[0]) + 101 * np.polymul(s[0], s[1]) + 100 * np.polymul(s[1], s[1])
    num = np.polymul(s[0] + 2 * s[1], s[1])
    d, a, b = num[0] / den[0], den[1:] / den[0], num[1:] / den[0]
    g = balred.ss([-a, [1.0, 0.0]], [[1.0], [0.0]], [b - d * a], [[d]], dt=0.1)
    with pytest.raises(
        (ArithmeticError, ValueError),
        match=r"zeros .* the (stability )?boundary|zeros are close to the boundary .* beta > 0",
    ):
        balred.reduce(g, 1, method="stochastic")
    assert balred.reduce(g, 1, method="stochastic", beta=1e-3).order == 1
