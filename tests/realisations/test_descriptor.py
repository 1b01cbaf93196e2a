"""Descriptor systems: hidden Weierstrass forms of known index, Gramians against SLICOT's SG03AD and their equations."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import balred
from balred.realisations.descriptor import descriptor, generalized_gramians

POINTS = (0.3 + 1.1j, 2.3j, 3.1)


def weierstrass(seed, k, N, *, m=2, p=2, cond=1.0, complex=False):
    """E, A, B, C with k finite poles inside the unit disc of the left half plane and the nilpotent part N, disguised."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if complex else 0)

    def disguise(n):
        U, V = (np.linalg.qr(normal(n, n))[0] for _ in range(2))
        return U * cond ** np.linspace(0, 1, n) @ V

    J = normal(k, k)
    J = 0.4 * J / (np.linalg.norm(J, 2) or 1.0) - 0.5 * np.eye(k) if k else J
    n = k + len(N)
    P, Q = disguise(n), disguise(n)
    E = P @ scipy.linalg.block_diag(np.eye(k), N) @ Q
    A = P @ scipy.linalg.block_diag(J, np.eye(len(N))) @ Q
    return E, A, P @ normal(n, m), normal(p, n) @ Q


def transfer(E, A, B, C, s):
    return C @ np.linalg.solve(s * E - A, B)


@pytest.mark.parametrize("complex", [False, True])
@pytest.mark.parametrize("dt", [0, 0.1])
@given(
    seed=st.integers(0, 2**32 - 1), k=st.integers(0, 5), algebraic=st.integers(0, 3), cond=st.sampled_from([1.0, 100.0])
)
def test_index_zero_and_one_become_state_space_systems(seed, k, algebraic, cond, dt, complex):
    if k + algebraic == 0:
        algebraic = 1
    E, A, B, C = weierstrass(seed, k, np.zeros((algebraic, algebraic)), cond=cond, complex=complex)
    D = np.ones((2, 2))
    g = descriptor(E, A, B, C, D, dt)
    assert (g.order, g.dt) == (k, dt)
    assert np.iscomplexobj(g.A) == complex or k == 0
    for s in POINTS:
        want = transfer(E, A, B, C, s) + D
        assert_allclose(g(s), want, atol=1e-13 * cond**3 * np.abs(want).max())


@pytest.mark.parametrize("scales", [(1e-8, 1.0), (1.0, 1e8), (1e4, 1e-4)])
def test_units_of_the_equations_do_not_matter(scales):
    """Rows of the differential equations in other units, and the algebraic ones in theirs."""
    E = scipy.linalg.block_diag(np.eye(2), np.zeros((2, 2)))
    rng = np.random.default_rng(3)
    A, B, C = rng.standard_normal((4, 4)) - 3 * np.eye(4), rng.standard_normal((4, 1)), rng.standard_normal((1, 4))
    plain = descriptor(E, A, B, C)
    rows = np.array([scales[0], 1.0, scales[1], 1.0])[:, None]
    scaled = descriptor(E * rows, A * rows, B * rows, C)
    for s in POINTS:
        assert_allclose(scaled(s), plain(s), rtol=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("index", [2, 3, 4])
@pytest.mark.parametrize("cond", [1.0, 100.0])
def test_a_higher_index_is_refused_by_name(seed, index, cond):
    N = scipy.linalg.block_diag(np.diag(np.ones(index - 1), 1), np.zeros((1, 1)))
    grows = (
        rf"must be proper, got one that grows like s\^{index - 1} \(the index is {index}\): .* derivatives of the input"
    )
    with pytest.raises(ValueError, match=grows):
        descriptor(*weierstrass(seed, 4, N, cond=cond))


@pytest.mark.parametrize("seed", range(5))
def test_a_singular_pencil_is_refused(seed):
    E, A, B, C = weierstrass(seed, 4, np.zeros((2, 2)))
    v = np.random.default_rng(seed).standard_normal((6, 1))
    project = np.eye(6) - v @ v.T / (v.T @ v)  # a state that is in no equation
    with pytest.raises(ValueError, match="the pencil sE - A must be regular"):
        descriptor(E @ project, A @ project, B, C)


def test_a_circuit():
    """A capacitor behind a resistor and a voltage divider: 1/(sRC + 1) seen through (V_in + V_c)/2, by hand."""
    R, cap = 2.0, 0.5
    # states: capacitor voltage v, current i, output w;  C v' = i,  0 = u - v - R i,  0 = (u + v)/2 - w
    E = np.diag([cap, 0.0, 0.0])
    A = np.array([[0.0, 1.0, 0.0], [-1.0, -R, 0.0], [0.5, 0.0, -1.0]])
    B = np.array([[0.0], [1.0], [0.5]])
    g = descriptor(E, A, B, [[0.0, 0.0, 1.0]])
    assert g.order == 1
    for s in POINTS:
        assert_allclose(g(s), [[(1 + 1 / (s * R * cap + 1)) / 2]], rtol=1e-14)
    assert_allclose(g.D, [[0.5]], rtol=1e-14)


def test_a_rank_in_doubt_asks_for_a_tolerance():
    E = np.diag([1.0, 1e-10])
    U = np.linalg.qr(np.random.default_rng(0).standard_normal((2, 2)))[0]
    args = U @ E @ U.T, -np.eye(2), np.ones((2, 1)), np.ones((1, 2))
    with pytest.raises(
        ValueError, match=r"E must be well conditioned, or singular beyond doubt, got a singular value \d\.\d+e-10"
    ):
        descriptor(*args)
    assert descriptor(*args, tol=1e-8).order == 1
    assert descriptor(*args, tol=1e-12).order == 2
    A = U @ np.array([[-1.0, 1.0], [1.0, 1e-10]]) @ U.T
    singular = U @ np.diag([1.0, 0.0]) @ U.T
    with pytest.raises(ValueError, match="what the algebraic equations leave of E must be well conditioned"):
        descriptor(singular, A, *args[2:])


@pytest.mark.parametrize("complex", [False, True])
@pytest.mark.parametrize("dt", [0, 1])
@pytest.mark.parametrize("n", [1, 6])
def test_generalized_gramians(n, dt, complex):
    E, A, B, C = weierstrass(8, n, np.zeros((0, 0)), m=2, p=3, cond=10.0, complex=complex)
    P, Q = generalized_gramians(E, A, B, C, dt)
    H = np.conj
    if dt:
        residuals = A @ P @ H(A).T - E @ P @ H(E).T + B @ H(B).T, H(A).T @ Q @ A - H(E).T @ Q @ E + H(C).T @ C
    else:
        residuals = A @ P @ H(E).T + E @ P @ H(A).T + B @ H(B).T, H(A).T @ Q @ E + H(E).T @ Q @ A + H(C).T @ C
    for R, X in zip(residuals, (P, Q), strict=True):
        assert np.linalg.norm(R) <= 1e-12 * np.linalg.norm(E) * np.linalg.norm(A) * np.linalg.norm(X)
        assert_allclose(X, H(X).T)
    values = np.sqrt(np.sort(np.linalg.eigvals(P @ H(E).T @ Q @ E).real)[::-1])
    assert_allclose(values, balred.hsv(descriptor(E, A, B, C, dt=dt)), rtol=1e-6, atol=1e-9 * values[0])


@pytest.mark.parametrize("dt", [0, 1])
def test_generalized_gramians_are_those_of_slicot(dt):
    """SG03AD solves op(A)'X op(E) + op(E)'X op(A) = scale Y, or op(A)'X op(A) - op(E)'X op(E) = scale Y."""
    ctrlsys = pytest.importorskip("ctrlsys")
    E, A, B, C = weierstrass(11, 7, np.zeros((0, 0)), cond=5.0)
    P, Q = generalized_gramians(E, A, B, C, dt)
    # the transposed matrices for P: with op(M) = M^T this translation's continuous solutions leave residuals of a tenth
    for X, *matrices in ((P, A.T, E.T, -B @ B.T), (Q, A, E, -C.T @ C)):
        a, e, y = (np.asfortranarray(x.copy()) for x in matrices)
        want, scale, *_ = ctrlsys.sg03ad("D" if dt else "C", "X", "N", "N", "U", 7, a, e, y)
        assert_allclose(X, want / scale, atol=1e-11 * np.abs(want).max())


def test_generalized_gramians_errors():
    with pytest.raises(ValueError, match="E must be nonsingular, got one of condition inf"):
        generalized_gramians(np.diag([1.0, 0.0]), -np.eye(2), np.ones((2, 1)), np.ones((1, 2)))
    with pytest.raises(balred.UnstableError, match="got a pole at 2"):
        generalized_gramians([[0.5]], [[1.0]], [[1.0]], [[1.0]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.eye(3), -np.eye(2), np.ones((2, 1)), np.ones((1, 2))), r"of one shape, got \(3, 3\) and \(2, 2\)"),
        ((np.full((1, 1), np.nan), -np.eye(1), np.ones((1, 1)), np.ones((1, 1))), "E must be finite, got 1 NaN"),
        ((np.eye(2), -np.eye(2), np.ones((3, 1)), np.ones((1, 2))), r"B must have shape \(..., n, m\) with n = 2"),
    ],
)
def test_bad_matrices(arguments, message):
    with pytest.raises(ValueError, match=message):
        descriptor(*arguments)


def test_tolerance_is_checked():
    with pytest.raises(ValueError, match=r"tol must be in \[0, 1\), got -1"):
        descriptor([[1.0]], [[-1.0]], [[1.0]], [[1.0]], tol=-1)
