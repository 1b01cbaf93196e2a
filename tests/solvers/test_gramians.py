"""Gramians solve their Lyapunov equations, and their factors are their factors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from tables import SINGLE, each_case, each_single, members

import balred
from balred.solvers.gramians import SOLVERS, structure


def ct(x):
    return np.conj(np.swapaxes(x, -1, -2))


def residuals(system, P, Q):
    """Residuals of both Lyapunov equations, each relative to the size of its largest term."""
    g = system.to_dense()
    A, B, C = g.A, g.B, g.C
    if g.discrete:
        rp, rq = A @ P @ ct(A) - P + B @ ct(B), ct(A) @ Q @ A - Q + ct(C) @ C
        size = 1 + np.linalg.norm(A) ** 2
    else:
        rp, rq = A @ P + P @ ct(A) + B @ ct(B), ct(A) @ Q + Q @ A + ct(C) @ C
        size = 2 * np.linalg.norm(A)
    return [np.linalg.norm(r) / (size * np.linalg.norm(X)) for r, X in ((rp, P), (rq, Q))]


@each_case
def test_lyapunov_residual(xp, case):
    system = case.make()
    P, Q = xp.call(balred.gramians, xp.system(system))
    exact = xp.exact(system)
    for g, p, q in zip(
        members(exact),
        xp.numpy(P).reshape(-1, exact.order, exact.order),
        xp.numpy(Q).reshape(-1, exact.order, exact.order),
        strict=True,
    ):
        # the result is rounded to the dtype: a relative change of eps in P moves the residual by that
        assert max(residuals(g, p, q)) < 50 * xp.eps


@each_case
def test_factors_reproduce_the_gramians(xp, case):
    g = xp.system(case.make())
    P, Q = xp.call(balred.gramians, g)
    Zp, Zq = xp.call(balred.gramian_factors, g)
    for Z, X in ((Zp, P), (Zq, Q)):
        z, x = xp.numpy(Z), xp.numpy(X)
        assert xp.owns(Z)
        assert xp.owns(X)
        assert z.shape[:-1] == (*case.batch, g.order)
        assert_allclose(z @ ct(z), x, rtol=0, atol=20 * xp.eps * np.abs(x).max())
        assert_allclose(x, ct(x), rtol=0, atol=20 * xp.eps * np.abs(x).max())


@pytest.mark.parametrize("solver", list(SOLVERS))
@each_single
def test_lyapunov_residual_of_every_solver(solver, case):
    g = case.make(n=6, m=1, p=1) if solver == "cauchy" else case.make(n=6)
    if SOLVERS[solver][structure(g)] or (solver == "slycot" and case.complex):
        pytest.skip(f"declared gap: {solver} does not take {case}")
    if solver == "slycot":
        pytest.importorskip("slycot")
    assert max(residuals(g, *balred.gramians(g, solver=solver))) < 1e-13


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 20),
    m=st.integers(1, 8),
    p=st.integers(1, 8),
    row=st.sampled_from(SINGLE),
)
def test_lyapunov_residual_of_random_systems(seed, n, m, p, row):
    """More inputs than states included; n states are squared and compressed on the way."""
    g = row.make(n, m, p, seed)
    assert max(residuals(g, *balred.gramians(g))) < 1e-13


@pytest.mark.parametrize("case", [c for c in SINGLE if c.kind == "conjugate"], ids=str)
def test_conjugate_gramians_are_those_of_the_real_operator(case):
    g = case.make(n=6)
    for a, b in zip(balred.gramians(g), balred.gramians(g.to_dense()), strict=True):
        assert a.dtype == np.float64
        assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(b).max())


@each_case
def test_batch_equals_loop(xp, case):
    system = case.make()
    P, Q = (xp.numpy(x) for x in xp.call(balred.gramians, xp.system(system)))
    n = system.order
    for g, p, q in zip(members(system), P.reshape(-1, n, n), Q.reshape(-1, n, n), strict=True):
        for got, want in zip((p, q), balred.gramians(xp.system(g)), strict=True):
            want = xp.numpy(want)
            # batched routines take other paths through LAPACK: n eps for the eigendecomposition, and a product
            assert_allclose(got, want, rtol=0, atol=10 * n * xp.eps * np.abs(want).max())


def test_by_hand():
    """-2 a p + b^2 = 0 and (1 - a^2) p = b^2: p = 9/4 and 9/0.75."""
    for g, p, q in (
        (balred.ss([[-2.0]], [[3.0]], [[4.0]]), 9 / 4, 4.0),
        (balred.ss([[0.5]], [[3.0]], [[4.0]], dt=1), 12.0, 16 / 0.75),
    ):
        P, Q = balred.gramians(g)
        assert_allclose([P[0, 0], Q[0, 0]], [p, q], rtol=1e-14)


def test_nilpotent_and_zero_state_matrices():
    """A chain of delays has P = I by inspection: the impulse visits each state once."""
    A = np.eye(4, k=-1)
    P, Q = balred.gramians(balred.ss(A, np.eye(4)[:, :1], np.eye(4)[-1:], dt=1))
    assert_allclose(P, np.eye(4), atol=1e-15)
    assert_allclose(Q, np.eye(4), atol=1e-15)
    P, _ = balred.gramians(balred.ss(np.zeros((2, 2)), [[1.0], [2.0]], [[1.0, 0.0]], dt=1))
    assert_allclose(P, [[1, 2], [2, 4]], atol=1e-15)


def test_stiff_poles():
    """Poles twelve decades apart, by hand: P_ij = 1/(a_i + a_j)."""
    a = np.array([1e-6, 1.0, 1e6])
    want = 1 / (a[:, None] + a)
    for g in (
        balred.diagonal(-a, np.ones((3, 1)), np.ones((1, 3))),
        balred.ss(np.diag(-a), np.ones((3, 1)), np.ones((1, 3))),
    ):
        P, Q = balred.gramians(g)
        assert_allclose(P, want, rtol=1e-7)
        assert_allclose(Q, want, rtol=1e-7)
        # small entries are right to rounding of the largest in their row and column
        assert np.abs((P - want) / np.sqrt(np.outer(np.diag(want), np.diag(want)))).max() < 1e-10


def test_the_array_given_is_not_written_to():
    g = balred.testing.random_system(6, dt=1, seed=0)
    before = [x.copy() for x in g.leaves]
    balred.gramians(g)
    balred.reduce(g, 2)
    assert all(np.array_equal(a, b) for a, b in zip(before, g.leaves, strict=True))
