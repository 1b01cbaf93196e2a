"""Cross Gramians and triangular factors: their equations, and the Hankel singular values in them."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from numpy.testing import assert_allclose
from tables import CASES, SINGLE, members

import balred
from balred.solvers.cross_gramian import cholesky_factors, cross_gramian

FEW = ["dense-discrete", "complex-continuous", "diagonal-discrete-batch", "conjugate-continuous"]
each_structure = pytest.mark.parametrize("case", [c for c in CASES if c.name in FEW], ids=str)


@each_structure
def test_the_equation_holds_in_every_library(xp, case):
    system = case.make(n=3)
    X = xp.call(cross_gramian, xp.system(system))
    assert tuple(X.shape) == (*case.batch, system.order, system.order)
    assert xp.owns(X)
    for g, x in zip(members(xp.exact(system)), xp.numpy(X).reshape(-1, system.order, system.order), strict=True):
        d = g.to_dense()
        R = d.A @ x @ d.A - x + d.B @ d.C if d.discrete else d.A @ x + x @ d.A + d.B @ d.C
        scale = np.linalg.norm(d.B @ d.C) + np.linalg.norm(x) * (1 + np.linalg.norm(d.A)) ** 2
        assert np.linalg.norm(R) <= 20 * xp.eps * scale


@pytest.mark.parametrize("case", [c for c in SINGLE if c.name.startswith(("dense", "conjugate"))], ids=str)
@pytest.mark.parametrize("n", [1, 6])
def test_its_eigenvalues_are_the_hankel_singular_values_of_one_channel(case, n):
    """X^2 = P Q holds for every real SISO system, by Fernando and Nicholson (1983)."""
    g = case.make(n=n, m=1, p=1)
    values = np.sort(np.abs(np.linalg.eigvals(cross_gramian(g))))[::-1]
    assert_allclose(values, balred.hsv(g), atol=1e-10 * values[0])


@pytest.mark.parametrize("dt", [0, 1])
def test_its_eigenvalues_are_the_hankel_singular_values_of_symmetric_systems(dt):
    rng = np.random.default_rng(2)
    S = rng.standard_normal((7, 7))
    A = S + S.T
    A = A / (1.2 * np.abs(np.linalg.eigvalsh(A)).max()) - (0 if dt else 1.5) * np.eye(7)
    B = rng.standard_normal((7, 3))
    g = balred.ss(A, B, B.T, dt=dt)
    values = np.sort(np.abs(np.linalg.eigvals(cross_gramian(g))))[::-1]
    assert_allclose(values, balred.hsv(g), atol=1e-12 * values[0])


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_against_sylvester_in_other_units(scale):
    g = balred.testing.random_system(8, 2, 2, seed=4)
    A, B = g.A * scale, g.B * scale
    want = scipy.linalg.solve_sylvester(A, A, -B @ g.C)
    assert_allclose(cross_gramian(balred.ss(A, B, g.C)), want, atol=1e-11 * np.abs(want).max())


@each_structure
def test_triangular_factors_in_every_library(xp, case):
    system = case.make(n=3, m=1, p=2)
    P, Q = (xp.numpy(x) for x in balred.gramians(xp.system(system)))
    for R, W in zip(xp.call(cholesky_factors, xp.system(system)), (P, Q), strict=True):
        R = xp.numpy(R)
        assert R.shape == W.shape
        assert_allclose(np.swapaxes(R.conj(), -1, -2) @ R, W, atol=50 * xp.eps * np.abs(W).max())
        assert np.all(np.tril(R, -1) == 0)
        diagonal = np.diagonal(R, axis1=-2, axis2=-1)
        assert_allclose(diagonal.imag, 0, atol=4 * xp.eps * np.abs(R).max())
        assert np.all(diagonal.real >= 0)


@pytest.mark.parametrize("dt", [0, 1])
def test_triangular_factors_are_those_of_slycot(dt):
    """SB03OD's factor of A'X + XA = -scale^2 B'B (or A'XA - X), upper with a nonnegative diagonal."""
    slycot = pytest.importorskip("slycot")
    g = balred.testing.random_system(6, 2, 3, dt=dt, seed=9)
    n = g.order
    C = np.vstack([g.C, np.zeros((n - 3, n))])
    U, scale, *_ = slycot.sb03od(n, n, g.A.copy(), np.zeros((n, n)), C, "D" if dt else "C")
    want = np.asarray(U)[:n, :n] / scale
    want = np.sign(np.diag(want))[:, None] * want
    assert_allclose(cholesky_factors(g)[1], want, atol=1e-12 * np.abs(want).max())


def test_a_singular_gramian_has_factors():
    """A third state that nothing reaches: Wc is singular, and its Cholesky factorisation would fail."""
    g = balred.ss(np.diag([-1.0, -2.0, -3.0]), [[1.0], [1.0], [0.0]], [[1.0, 1.0, 1.0]])
    R, _ = cholesky_factors(g)
    assert_allclose(R.T @ R, balred.gramians(g)[0], atol=1e-15)
    assert_allclose(R[:, 2], 0, atol=1e-15)


def test_errors():
    with pytest.raises(ValueError, match="as many outputs as inputs, got 3 and 2"):
        cross_gramian(balred.testing.random_system(4, 2, 3))
    for function in (cross_gramian, cholesky_factors):
        with pytest.raises(balred.UnstableError, match="got a pole at 1"):
            function(balred.ss([[1.0]], [[1.0]], [[1.0]]))


def test_static_gains():
    g = balred.ss(np.zeros((0, 0)), np.zeros((0, 1)), np.zeros((1, 0)), [[2.0]])
    assert cross_gramian(g).shape == (0, 0)
    assert [R.shape for R in cholesky_factors(g)] == [(0, 0), (0, 0)]
