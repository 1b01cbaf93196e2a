"""Balanced realisations: both Gramians equal and diagonal, the operator unchanged, signs fixed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from tables import SINGLE, each_case, frequencies, members

import balred


@each_case
def test_gramians_are_equal_and_diagonal(xp, case):
    if xp.traced:
        pytest.skip("the numerical rank is looked at: not under a trace")
    system = case.make()
    b = balred.balance(xp.system(system))
    hsv = xp.numpy(b.hsv)
    for X in balred.gramians(b.system):
        x = xp.numpy(X)
        want = hsv[..., None] * np.eye(system.order)
        # the balanced matrices are rounded to the dtype, and a Gramian is as sensitive as the poles are near the boundary
        assert_allclose(x, want, rtol=0, atol=2e3 * xp.eps * hsv.max())
    assert xp.owns(b.system.A)
    assert xp.owns(b.T)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 8), row=st.sampled_from(SINGLE))
def test_transformation(seed, n, row):
    """T A T^-1, T B, C T^-1 is the balanced system, T T^-1 = I, and T P T^H = T^-H Q T^-1 = Sigma."""
    g = row.make(n, 3, 3, seed)
    b = balred.balance(g)
    d = g.to_dense()
    scale = np.linalg.norm(b.T) * np.linalg.norm(b.Tinv)
    assert_allclose(b.T @ b.Tinv, np.eye(d.order), atol=1e-12 * scale)
    assert_allclose(b.T @ d.A @ b.Tinv, b.system.A, atol=1e-12 * scale * np.abs(b.system.A).max())
    assert_allclose(b.T @ d.B, b.system.B, atol=1e-12 * scale * np.abs(b.system.B).max())
    assert_allclose(d.C @ b.Tinv, b.system.C, atol=1e-12 * scale * np.abs(b.system.C).max())
    P, Q = balred.gramians(d)
    assert_allclose(b.T @ P @ b.T.conj().T, np.diag(b.hsv), atol=1e-10 * b.hsv[0] * scale)
    assert_allclose(b.Tinv.conj().T @ Q @ b.Tinv, np.diag(b.hsv), atol=1e-10 * b.hsv[0] * scale)


@pytest.mark.parametrize("case", SINGLE, ids=str)
def test_the_operator_is_unchanged(case):
    g = case.make(n=5)
    b = balred.balance(g)
    for s in frequencies(g, 20):
        assert_allclose(b.system(s), g(s), rtol=0, atol=1e-11 * np.abs(g(s)).max())
    assert b.system.dt == g.dt
    assert_allclose(b.hsv, balred.hsv(g), rtol=0, atol=1e-13 * b.hsv[0])


@each_case
def test_signs_are_fixed(case):
    """The largest entry of each row of the balanced B is positive, whatever basis the system came in."""
    system = case.make()
    B = balred.balance(system).system.B
    largest = np.take_along_axis(B, np.abs(B).argmax(-1)[..., None], -1)
    assert np.all(largest.real > 0)
    assert_allclose(largest.imag, 0, atol=1e-14)


@pytest.mark.parametrize("case", [c for c in SINGLE if c.kind == "dense"], ids=str)
def test_results_repeat_in_another_basis(case):
    g = case.make()
    Q = np.linalg.qr(np.random.default_rng(3).standard_normal((4, 4)))[0]
    other = balred.ss(Q @ g.A @ Q.T, Q @ g.B, g.C @ Q.T, g.D, g.dt)
    for a, b in zip(balred.balance(g).system.leaves, balred.balance(other).system.leaves, strict=True):
        assert_allclose(a, b, rtol=0, atol=1e-10 * np.abs(a).max())


@each_case
def test_batch_equals_loop(case):
    system = case.make()
    together = balred.balance(system)
    for i, g in enumerate(members(system)):
        one = balred.balance(g)
        mine = together.system.A[i] if case.batch else together.system.A
        assert_allclose(mine, one.system.A, rtol=0, atol=1e-11 * np.abs(one.system.A).max())


def test_a_system_that_is_not_minimal_is_refused():
    g = balred.ss(np.diag([-1.0, -2.0, -3.0]), [[1.0], [1.0], [0.0]], np.ones((1, 3)))
    with pytest.raises(ValueError, match="needs a minimal system, got numerical rank 2 of 3: reduce it to 2 states"):
        balred.balance(g)


def test_a_balanced_system_stays_as_it_is():
    """By hand: A = -1, B = C = 1 is balanced with sigma = 1/2 already."""
    b = balred.balance(balred.ss([[-1.0]], [[1.0]], [[1.0]]))
    assert_allclose([b.T[0, 0], b.Tinv[0, 0], b.hsv[0]], [1, 1, 0.5], rtol=1e-14)


@pytest.mark.parametrize("dt", [0, 1])
def test_units_of_state_do_not_matter(dt):
    """T and its inverse for states in units from 1e-8 to 1e8: the same balanced system, T T^-1 = I, T in the new units."""
    g = balred.testing.random_system(6, 2, 2, dt=dt, seed=3)
    d = 10.0 ** np.array([8, -8, 3, -5, 0, 6])
    h = balred.ss(g.A * d[:, None] / d, g.B * d[:, None], g.C / d, g.D, dt)
    plain, other = balred.balance(g), balred.balance(h)
    np.testing.assert_allclose(other.system.A, plain.system.A, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(other.T @ other.Tinv, np.eye(6), atol=1e-9)
    np.testing.assert_allclose(other.T * d, plain.T, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(other.Tinv / d[:, None], plain.Tinv, rtol=1e-8, atol=1e-9)


def test_values_that_are_too_small_to_be_numbers_are_told_as_such():
    """B and C of 1e-300: the Hankel singular values are of the size 1e-600."""
    with pytest.raises(
        ValueError, match="are zero, or too small to be numbers: measure inputs or outputs in other units"
    ):
        balred.balance(balred.ss(-np.diag([1.0, 2.0]), np.full((2, 1), 1e-300), np.full((1, 2), 1e-300)))
