"""Lyapunov, Sylvester and Stein equations: residuals, Kronecker products, SciPy, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import balred

SOLVERS = {"continuous": balred.lyap, "discrete": balred.stein}


def matrices(seed: int, n: int, m: int, complex_: bool) -> Any:
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> Any:
        return rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if complex_ else 0)

    return draw(n, n), draw(m, m), draw(n, m), draw(n, n), draw(n, n) + 3 * np.sqrt(n) * np.eye(n)


def by_kronecker(left: list[Any], right: list[Any], F: Any) -> tuple[Any, float]:
    """X with the sum of L X R equal to -F, from one linear system, and its condition."""
    K = sum(np.kron(L, R.T) for L, R in zip(left, right, strict=True))
    return np.linalg.solve(K, -F.reshape(-1)).reshape(F.shape), float(np.linalg.cond(K))


@pytest.mark.parametrize("time", SOLVERS)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 6), m=st.integers(1, 6), complex_=st.booleans())
def test_equal_to_one_linear_system(time: str, seed: int, n: int, m: int, complex_: bool) -> None:
    """Random matrices, stable hardly ever; right-hand sides that are not symmetric."""
    A, B, C, Q, E = matrices(seed, n, m, complex_)
    AH, EH, one, other = A.conj().T, E.conj().T, np.eye(n), np.eye(m)
    solve = SOLVERS[time]
    if time == "continuous":
        forms = [((A, Q), [A, one], [one, AH]), ((A, B, C), [A, one], [other, B]), ((A, Q, None, E), [A, E], [EH, AH])]
    else:
        forms = [
            ((A, Q), [A, -one], [AH, one]),
            ((A, B, C), [A, -one], [B, other]),
            ((A, Q, None, E), [A, -E], [AH, EH]),
        ]
    for given_, left, right in forms:
        want, cond = by_kronecker(left, right, given_[2] if len(given_) == 3 else given_[1])
        if cond < 1e10:
            got = solve(*given_)
            assert np.iscomplexobj(got) == complex_
            assert_allclose(got, want, rtol=0, atol=1e-14 * n * m * cond * np.linalg.norm(want))


@pytest.mark.parametrize("n", [3, 60])
def test_equal_to_scipy(n: int) -> None:
    A, B, C, Q, _ = matrices(n, n, n, False)
    Q = Q + Q.T
    assert_allclose(balred.lyap(A, Q), scipy.linalg.solve_continuous_lyapunov(A, -Q), rtol=0, atol=1e-8)
    assert_allclose(balred.lyap(A, B, C), scipy.linalg.solve_sylvester(A, B, -C), rtol=0, atol=1e-8)
    A = A / np.sqrt(n) / 2
    assert_allclose(balred.stein(A, Q), scipy.linalg.solve_discrete_lyapunov(A, Q), rtol=0, atol=1e-10)


def test_a_symmetric_right_side_gives_a_symmetric_solution() -> None:
    A, _, _, Q, E = matrices(7, 8, 8, False)
    for X in (balred.lyap(A, Q + Q.T), balred.stein(A, Q + Q.T), balred.lyap(A, Q + Q.T, E=E)):
        assert_array_equal(X, X.T)


def test_gramians_are_solutions() -> None:
    g = balred.testing.random_system(9, seed=1)
    P, Q = balred.gramians(g)
    assert_allclose(balred.lyap(g.A, g.B @ g.B.T), P, rtol=0, atol=1e-11 * np.linalg.norm(P))
    assert_allclose(balred.lyap(g.A.T, g.C.T @ g.C), Q, rtol=0, atol=1e-11 * np.linalg.norm(Q))


def test_units_of_state_cost_no_digits() -> None:
    """x = d z: the solution in z is that in x over d d^T, to the last digits of each entry."""
    A, Q = np.array([[-1.0, 2.0], [0.5, -3.0]]), np.array([[1.0, 0.3], [0.3, 2.0]])
    d = np.array([1e12, 1e-3])
    want = balred.lyap(A, Q)
    got = balred.lyap(A * d / d[:, None], Q / np.outer(d, d))
    assert_allclose(got * np.outer(d, d), want, rtol=1e-13)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: balred.lyap(np.diag([1.0, 0.0]), np.eye(2)), "eigenvalue 0 of A and 0 of A^H add up to 0"),
        (lambda: balred.lyap(np.diag([2.0, -2.0, 5.0]), np.eye(3)), "eigenvalue 2 of A and -2 of A^H add up to 0"),
        (lambda: balred.lyap([[1.0]], [[-1.0]], [[1.0]]), "eigenvalue 1 of A and -1 of Q add up to 0"),
        (lambda: balred.stein(np.diag([0.5, 2.0]), np.eye(2)), "of A\\^H have the product 1"),
        (lambda: balred.stein([[1.0]], [[1.0]]), "eigenvalue 1 of A and 1 of A\\^H have the product 1"),
        (lambda: balred.stein([[4.0]], [[0.25]], [[1.0]]), "eigenvalue 4 of A and 0.25 of Q have the product 1"),
        (lambda: balred.lyap([[3.0]], [[1.0]], E=[[0.0]]), "E must be nonsingular"),
        (lambda: balred.lyap([[3.0]], [[1.0]], [[1.0]], [[1.0]]), "C and E must not be given both"),
        (lambda: balred.lyap(np.eye(2), np.eye(3)), r"Q must have shape \(2, 2\), got \(3, 3\)"),
        (lambda: balred.lyap(np.eye(2), np.eye(3), np.eye(2)), r"C must have shape \(2, 3\), got \(2, 2\)"),
        (lambda: balred.lyap(np.ones((2, 3)), np.eye(2)), r"A must be a square matrix, got shape \(2, 3\)"),
        (lambda: balred.lyap([[np.nan]], [[1.0]]), "A must be finite"),
        (lambda: balred.lyap([1.0], [[1.0]]), "A must be one matrix"),
    ],
)
def test_what_has_no_single_solution_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("^H add", r"\^H add")):
        call()


@pytest.mark.parametrize("seed", range(5))
def test_a_double_integrator_in_any_coordinates_is_refused(seed: int) -> None:
    """Its computed eigenvalues are some 1e-8, which add up to what is no rounding error of theirs."""
    X = scipy.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))[0]
    A = X.T @ np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, -1.0]]) @ X
    with pytest.raises(ValueError, match="add up to"):
        balred.lyap(A, np.eye(3))


def test_other_libraries_and_precisions() -> None:
    torch = pytest.importorskip("torch")
    X = balred.lyap(torch.tensor([[-1.0]]), torch.tensor([[2.0]]))
    assert (X.dtype, float(X)) == (torch.float32, 1.0)
    assert balred.lyap(np.float32([[-1.0]]), np.float32([[2.0]])).dtype == np.float32


def test_no_states() -> None:
    nothing = np.zeros((0, 0))
    assert balred.lyap(nothing, nothing).shape == (0, 0)
    assert balred.stein(nothing, np.eye(2), np.zeros((0, 2))).shape == (0, 2)


@pytest.mark.parametrize(("a", "f"), [(1000, 0), (-1000, -1000), (0, 700), (600, 900), (0, -900)])
def test_solutions_scale_as_the_matrices_do(a: int, f: int) -> None:
    """A 2^a and Q 2^f have a solution that is 2^(f - a) times the other: exactly, since powers of two round nothing."""
    A, B, C, Q, E = matrices(3, 4, 3, False)
    two, right = 2.0**a, 2.0**f
    for want, found in (
        (balred.lyap(A, Q), balred.lyap(A * two, Q * right)),
        (balred.lyap(A, B, C), balred.lyap(A * two, B * two, C * right)),
        (balred.lyap(A, Q, E=E), balred.lyap(A * two, Q * right, E=E)),
    ):
        assert_allclose(found * 2.0 ** ((a - f) // 2) * 2.0 ** (a - f - (a - f) // 2), want, rtol=1e-9)
    assert_allclose(balred.stein(A, Q * right) * 2.0**-f, balred.stein(A, Q), rtol=1e-9)
    with pytest.raises(OverflowError, match="entries of the solution must be at most"):
        balred.lyap(A * 2.0**-600, Q * 2.0**600)
