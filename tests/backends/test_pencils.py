"""Solves with A + pE whatever the pattern: against their definition and dense solves, and the order that they stand on."""

from __future__ import annotations

import functools
import operator
from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from balred.backends import pencils
from balred.backends.bands import Bands
from balred.backends.dissection import nested_dissection
from balred.backends.multifrontal import Fronts
from balred.backends.pencils import ExactProduct, Pencil, sparse_condition


def line(k):
    return sp.diags([1.0, -2.0, 1.0], [-1, 0, 1], shape=(k, k))


def lattice(*sides):
    A = sp.csr_matrix((1, 1))
    for k in sides:
        A = sp.kron(A, sp.identity(k)) + sp.kron(sp.identity(A.shape[0]), line(k))
    return sp.csc_matrix(A)


def plate(k, wind):
    K, M, G = (sp.diags(v, [-1, 0, 1], shape=(k, k)) for v in ((-1.0, 2, -1), (1.0, 4, 1), (-0.5, 0, 0.5)))
    return sp.csc_matrix(-sp.kron(K, M) - sp.kron(M, K) - wind * sp.kron(G, M)), sp.csc_matrix(sp.kron(M, M))


def first_order(K):
    """Positions have no term of their own: their diagonal entries are zero."""
    eye = sp.identity(K.shape[0])
    return sp.csc_matrix(sp.bmat([[None, eye], [K, 0.2 * K - 0.5 * eye]]))


def random(n, *, complex=False, weak=False):
    rng = np.random.default_rng(0)
    A = sp.random(n, n, 3 / n, random_state=rng, data_rvs=rng.standard_normal) + line(n)
    if complex:
        A = A + 1j * sp.random(n, n, 3 / n, random_state=rng)
    if weak:  # diagonal entries that are no pivots: only a search in the whole column finds one
        A = A - sp.diags(A.diagonal() * (1 - 1e-17))
    return sp.csc_matrix(A)


def hub(n):
    A = sp.lil_matrix(lattice(20, n // 20))
    A[7], A[:, 7] = 0.01, 0.01
    A[7, 7] = -n
    return sp.csc_matrix(A)


def hermitian(k):
    A = lattice(k, k).astype(complex)
    turn = sp.diags(np.exp(1j * np.arange(k * k)))
    return sp.csc_matrix(turn @ A @ turn.conj())


def eye(A):
    return sp.identity(A.shape[0], format="csc")


SYSTEMS = {
    "plane": lambda: (lattice(30, 31), None),
    "space": lambda: (lattice(9, 10, 11), None),
    "long": lambda: (lattice(250, 3), None),
    "line": lambda: (sp.csc_matrix(line(900)), None),
    "chain": lambda: (first_order(line(400)), None),
    "damped plane": lambda: (first_order(lattice(20, 20)), None),
    "mass": lambda: plate(25, 0.0),
    "wind": lambda: plate(25, 7.0),
    "random": lambda: (random(700), None),
    "complex": lambda: (random(700, complex=True), None),
    "weak": lambda: (random(700, weak=True), None),
    "hub": lambda: (hub(800), None),
    "hermitian": lambda: (hermitian(25), None),
    "pieces": lambda: (sp.block_diag([lattice(k % 7 + 1, k % 11 + 1) for k in range(30)], format="csc"), None),
    "diagonal": lambda: (sp.diags([-np.arange(1.0, 801.0)], [0], format="csc"), None),
    "small": lambda: (lattice(3, 4), None),
    "one": lambda: (sp.csc_matrix([[-2.0]]), None),
}


@functools.cache
def condition(name, p):
    """In the 2-norm: what every way of solving is asked to the same accuracy by."""
    A, E = SYSTEMS[name]()
    return np.linalg.cond((A + p * (eye(A) if E is None else E)).toarray())


@pytest.mark.alike
@pytest.mark.parametrize("heavy", [0, np.inf], ids=["fronts", "columns"])
@pytest.mark.parametrize("complex_columns", [False, True])
@pytest.mark.parametrize("p", [0.0, -0.37, -0.37 + 1.1j])
@pytest.mark.parametrize("name", SYSTEMS)
def test_solutions_fit_their_equations(name, p, complex_columns, heavy, monkeypatch):
    monkeypatch.setattr(pencils, "_HEAVY", heavy)
    A, E = SYSTEMS[name]()
    E = eye(A) if E is None else E
    n = A.shape[0]
    before = A.copy(), E.copy()
    M = (A + p * E).toarray()
    B = np.random.default_rng(1).standard_normal((n, 2))
    B = B + 1j * B[::-1] if complex_columns else B
    factors = Pencil(A, E).factor(p)
    for trans, matrix in (("N", M), ("T", M.T), ("H", M.conj().T)):
        X = factors.solve(B, trans)
        assert np.iscomplexobj(X) == np.iscomplexobj(M @ B)
        size = np.linalg.norm(M, 1) * np.abs(X).max() + np.abs(B).max()
        assert np.abs(matrix @ X - B).max() <= 1e-12 * size
        assert_allclose(X, np.linalg.solve(matrix, B), atol=1e-15 * condition(name, p) * np.abs(X).max() * n)
    for now, then in zip((A, E), before, strict=True):
        assert (now != then).nnz == 0


@pytest.mark.parametrize("heavy", [0, np.inf], ids=["fronts", "columns"])
@pytest.mark.parametrize("name", ["plane", "space", "hermitian", "mass", "wind", "damped plane"])
@pytest.mark.parametrize("p", [-0.37, -0.37 + 1.1j])
def test_meshes_need_no_pivoting(name, p, heavy, monkeypatch):
    """That the quick ways, fronts and SuperLU without pivoting, are right by themselves, and are not saved by the slow one."""
    monkeypatch.setattr(pencils, "sparse_lu", None)
    monkeypatch.setattr(pencils, "_HEAVY", heavy)
    A, E = SYSTEMS[name]()
    B = np.ones((A.shape[0], 1))
    X = Pencil(A, eye(A) if E is None else E).factor(p).solve(B)
    assert_allclose(A @ X + p * (X if E is None else E @ X), B, atol=1e-10 * max(1, np.abs(X).max()))


def test_a_solution_that_is_not_good_enough_goes_to_superlu(monkeypatch):
    A = lattice(30, 30)
    pencil = Pencil(A, eye(A))
    solver = pencil.factor(-0.5)

    class Spoilt:
        def solve(self, B, trans="N"):
            return np.full_like(B, np.nan)

    solver._factors = Spoilt()
    B = np.ones((900, 1))
    X = solver.solve(B)
    assert_allclose(A @ X - 0.5 * X, B, atol=1e-12)


@pytest.mark.parametrize("name", ["plane", "line", "wind", "small"])
def test_a_singular_matrix_is_an_error(name):
    A, _ = SYSTEMS[name]()
    A = sp.lil_matrix(A)
    A[3], A[:, 3] = 0, 0
    A = sp.csc_matrix(A)
    with pytest.raises(RuntimeError, match="singular"):
        Pencil(A, 0 * A).factor(0.0)
    assert sparse_condition(A) == np.inf


@pytest.mark.parametrize("name", ["plane", "space", "line", "wind", "random", "small", "one"])
def test_condition(name):
    A, _ = SYSTEMS[name]()
    want = np.linalg.cond(A.toarray(), 1)
    assert 0.3 * want <= sparse_condition(A) <= 1.0001 * want  # Higham and Tisseur 2000: nearly always within a third


@given(st.integers(1, 60), st.integers(0, 120), st.integers(1, 12), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_a_dissection_of_any_graph(n, edges, leaf, seed):
    rng = np.random.default_rng(seed)
    i, j = rng.integers(0, n, (2, edges))
    graph = sp.coo_array((np.ones(2 * edges), (np.r_[i, j], np.r_[j, i])), shape=(n, n))
    order, starts, parent = nested_dissection(graph, leaf)
    assert sorted(order) == list(range(n))
    assert (starts[0], starts[-1]) == (0, n)
    assert np.all(np.diff(starts) > 0)
    assert np.all((parent > np.arange(len(parent))) | (parent == -1))
    node = np.empty(n, int)
    node[order] = np.repeat(np.arange(len(parent)), np.diff(starts))

    def line_up(k):
        while k >= 0:
            yield k
            k = parent[k]

    for a, b in zip(node[i], node[j], strict=True):  # an edge joins a node with itself or what it hangs from
        assert max(a, b) in line_up(min(a, b))


@pytest.mark.parametrize(
    ("sides", "growth"), [((64, 64), 4 * 14 / 12), ((12, 12, 12), 8 ** (4 / 3))], ids=["n log n", "n^(4/3)"]
)
def test_factors_grow_as_those_of_nested_dissection(sides, growth):
    """Twice the sides: George 1973 for a square, Lipton, Rose and Tarjan 1979 for a cube; row by row it is n^(3/2), n^(5/3)."""
    small, large = (Fronts(A, eye(A), leaf=16).entries for A in (lattice(*sides), lattice(*(2 * k for k in sides))))
    assert large <= 1.25 * growth * small


@pytest.mark.parametrize(("name", "width"), [("line", 2), ("chain", 7), ("diagonal", 0)])
def test_bands_of_what_stands_in_a_line(name, width):
    A, _ = SYSTEMS[name]()
    bands = Bands(A, eye(A))
    assert bands.below + bands.above <= width


@pytest.mark.parametrize("complex", [False, True])
def test_an_exact_product_is_rounded_once(complex):
    """Against products in rational numbers, where terms of 1e10 cancel to one and smaller ones lie beside them."""
    rng = np.random.default_rng(0)
    M = sp.csr_matrix(
        np.where(rng.random((40, 60)) < 0.1, rng.standard_normal((40, 60)) * 10.0 ** rng.integers(-5, 6, (40, 60)), 0)
    )
    X = rng.standard_normal((60, 3)) + (1j * rng.standard_normal((60, 3)) if complex else 0)
    X[:, 1] *= 1e-200

    def exactly(X):
        return np.array(
            [[float(sum(map(operator.mul, map(Fraction, m), map(Fraction, x)))) for x in X.T] for m in M.toarray()]
        )

    want = exactly(X.real) + 1j * exactly(X.imag) if complex else exactly(X)
    scale = abs(M).max(axis=1).toarray() * np.abs(X).max(axis=0)
    plain, exact = np.abs(M @ X - want), np.abs(ExactProduct(M)(X) - want)
    assert np.all(exact <= 2 * np.finfo(float).eps * np.abs(want) + 1e-21 * scale)
    assert np.max(plain / scale) > 1e-17


def test_a_shift_is_not_lost_in_a_stiff_matrix():
    """A rod of h = 1e-5 at its slowest pole: sinh(t(n+1-j)) / sinh(t(n+1)) by hand; A + pE alone has the shift to seven digits."""
    n, p = 100_000, -3.0
    A = sp.csc_matrix(line(n)) * float(n + 1) ** 2
    B = np.zeros((n, 1))
    B[0] = -((n + 1.0) ** 2)
    # x_j of -(x_{j-1} - 2 x_j + x_{j+1}) / h^2 - p x_j = 0 with x_0 = 1, x_{n+1} = 0
    t = 2 * np.arcsinh(np.sqrt(-p) / (2 * (n + 1)))
    want = np.sinh(t * (n + 1 - np.arange(1.0, n + 1))) / np.sinh(t * (n + 1))
    assert_allclose(Pencil(A, eye(A)).factor(p).solve(B)[:, 0], want, rtol=0, atol=1e-13)
