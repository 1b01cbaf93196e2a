"""Second-order systems: their first-order form, and reductions that give mass, damping and stiffness again."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
from chains import chain
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import balred
from balred.realisations.second_order.balancing import BALANCINGS, balanced

POINTS = (0.0, 0.3j, 1.0j, 2.5j, 1.0 + 0.5j)


def eigenvalues(g: balred.SecondOrderSystem) -> Any:
    return np.linalg.eigvals(g.to_dense().A)


def lively(seed: int, n: int = 4) -> balred.SecondOrderSystem:
    """Stable, with gyroscopic forces, hardly damped, and with inputs and outputs that have nothing to do with each other."""
    rng = np.random.default_rng(seed)
    X, Y, G = rng.standard_normal((n, n)), rng.standard_normal((n, 1)), 3 * rng.standard_normal((n, n))
    D = Y @ Y.T + 1e-3 * np.eye(n) + G - G.T
    return balred.second_order(
        np.eye(n),
        D,
        X @ X.T + 0.01 * np.eye(n),
        rng.standard_normal((n, 1)),
        rng.standard_normal((1, n)),
        rng.standard_normal((1, n)),
    )


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("outputs", ["p", "v", "pv"])
def test_the_first_order_form_is_the_same_system(sparse: bool, outputs: str) -> None:
    g = chain(7, seed=1, sparse=sparse, outputs=outputs, proportional=False)
    first = g.first_order
    for s in POINTS:
        P = s * s * g.M + s * g.D + g.K
        want = (g.Cp + s * g.Cv) @ np.linalg.solve(P.toarray() if sparse else P, g.B)
        for other in (g, g.to_dense(), first):
            assert_allclose(other(s), want, rtol=0, atol=1e-12)
    assert isinstance(first, balred.DenseSystem) != sparse
    assert_allclose(balred.hsv(g)[:6], balred.hsv(g.to_dense())[:6], rtol=1e-9)


@pytest.mark.parametrize("balancing", BALANCINGS)
@pytest.mark.parametrize("galerkin", [False, True])
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 5))
def test_full_order_reproduces(balancing: str, galerkin: bool, seed: int, n: int) -> None:
    g = chain(n, seed=seed, proportional=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", balred.RankWarning)
        full = balred.reduce(g, n, balancing=balancing, galerkin=galerkin)
    assert full.states == n
    for s in POINTS:
        assert_allclose(full(s), g(s), rtol=0, atol=1e-7 * max(1.0, np.abs(g(s)).max()))


@pytest.mark.parametrize("balancing", BALANCINGS)
def test_the_values_are_those_of_the_gramians(balancing: str) -> None:
    """Reis & Stykel 2008: the roots of the eigenvalues of P_p Q_p, P_v M^T Q_v M and P_p M^T Q_v M.  With Gramians of the state
    (q, q') the generalised ones are Q_v = M^-T (Q of the state)_v M^-1."""
    g = lively(2)
    first, n = g.to_dense(), g.states
    P = balred.lyap(first.A, first.B @ first.B.T)
    Q = balred.lyap(first.A.T, first.C.T @ first.C)
    p, v = slice(None, n), slice(n, None)
    right, left = {"position": (p, p), "velocity": (v, v), "position_velocity": (p, v)}[balancing]
    want = np.sqrt(np.sort(np.linalg.eigvals(P[right, right] @ Q[left, left]).real)[::-1])
    assert_allclose(balanced(g, balancing=balancing).sigma, want, rtol=1e-7)


@pytest.mark.parametrize("balancing", BALANCINGS)
def test_the_gramians_of_the_result_are_balanced(balancing: str) -> None:
    """At full order W^H M T = I, and the two blocks of its Gramians are the same diagonal matrix."""
    g = chain(4, seed=3, proportional=False)
    small = balred.reduce(g, 4, balancing=balancing)
    assert_allclose(small.M, np.eye(4), rtol=0, atol=1e-9)
    first = small.to_dense()
    P, Q = balred.lyap(first.A, first.B @ first.B.T), balred.lyap(first.A.T, first.C.T @ first.C)
    p, v = slice(None, 4), slice(4, None)
    right, left = {"position": (p, p), "velocity": (v, v), "position_velocity": (p, v)}[balancing]
    sigma = np.diag(balanced(g, balancing=balancing).sigma)
    assert_allclose(P[right, right], sigma, rtol=0, atol=1e-8 * sigma.max())
    assert_allclose(Q[left, left], sigma, rtol=0, atol=1e-8 * sigma.max())


@given(
    seed=st.integers(0, 2**32 - 1), n=st.integers(2, 8), k=st.integers(1, 4), outputs=st.sampled_from(["p", "v", "pv"])
)
def test_galerkin_keeps_symmetry_definiteness_and_stability(seed: int, n: int, k: int, outputs: str) -> None:
    """The promise for Hermitian definite M, D and K, whatever the rank: no projection with W = T can break it."""
    k = min(k, n)
    g = chain(n, seed=seed, proportional=False, outputs=outputs)
    for balancing in BALANCINGS:
        looked = balanced(g, balancing=balancing, galerkin=True)
        small = looked.reduced(min(k, looked.cap))
        for X in (small.M, small.D, small.K):
            assert_array_equal(X, X.T)
            assert np.linalg.eigvalsh(X)[0] > 0
        assert eigenvalues(small).real.max() < 0


@pytest.mark.parametrize("sparse", [False, True])
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 8), k=st.integers(1, 4))
def test_modal_truncation_is_exact_on_the_modes_kept(sparse: bool, seed: int, n: int, k: int) -> None:
    """With proportional damping a + b w^2 the system is the sum over its modes, of which the lowest k are left."""
    k = min(k, n)
    g = chain(n, seed=seed, sparse=sparse, outputs="pv")
    small = balred.reduce(g, k, method="modal")
    M, K = (x.toarray() if sparse else x for x in (g.M, g.K))
    w2, V = scipy.linalg.eigh(K, M)
    want = np.sort(np.concatenate([np.roots([1, 0.02 + 0.05 * x, x]) for x in w2[:k]]).imag)
    assert_allclose(np.sort(eigenvalues(small).imag), want, rtol=0, atol=1e-9)
    for s in POINTS:
        modes = [
            (g.Cp + s * g.Cv) @ np.outer(V[:, i], V[:, i]) @ g.B / (s * s + (0.02 + 0.05 * w2[i]) * s + w2[i])
            for i in range(k)
        ]
        assert_allclose(small(s), sum(modes), rtol=0, atol=1e-9)
    for X in (small.M, small.D, small.K):
        assert_array_equal(X, X.T)


def test_modes_of_a_large_sparse_chain_at_rest() -> None:
    """A free chain of n like masses has the frequencies 2 sin(pi i / (2 n)), i = 0 ... n - 1: the first is a motion at rest."""
    n = 2000
    g = chain(n, sparse=True, free=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it drifts, and always did
        small = balred.reduce(balred.second_order(g.M, 0 * g.M + 0.05 * g.K, g.K, g.B, g.Cp), 4, method="modal")
    w = 2 * np.sin(np.pi * np.arange(4) / (2 * n))
    assert_allclose(np.sqrt(np.abs(np.linalg.eigvalsh(small.K))), w, rtol=1e-5, atol=1e-6 * w[1])


def test_the_most_dominant_mode() -> None:
    """Of two masses that are not coupled the higher is driven a hundred times as hard: it is the one to keep."""
    g = balred.second_order(np.eye(2), 0.1 * np.eye(2), np.diag([1.0, 100.0]), [[0.01], [10.0]], [[1.0, 1.0]])
    assert float(balred.reduce(g, 1, method="modal").K[0, 0]) == pytest.approx(1)
    assert float(balred.reduce(g, 1, method="modal", dominance="residue").K[0, 0]) == pytest.approx(100)


@pytest.mark.parametrize("balancing", BALANCINGS)
@pytest.mark.parametrize("galerkin", [False, True])
def test_sparse_systems_give_the_same_as_dense_ones(balancing: str, galerkin: bool) -> None:
    dense, sparse = (chain(20, seed=4, sparse=s) for s in (False, True))
    a, b = (balred.reduce(g, 5, balancing=balancing, galerkin=galerkin) for g in (dense, sparse))
    for s in POINTS:
        assert_allclose(a(s), b(s), rtol=0, atol=1e-7)


def test_a_large_sparse_chain() -> None:
    """400 masses, overdamped; the reduction is dense, and near the full system."""
    g = chain(400, sparse=True)
    g = balred.second_order(g.M, 5.0 * g.M, 100 * g.K, g.B, g.Cp)
    small = balred.reduce(g, 8)
    assert (small.states, small.sparse) == (8, False)
    for s in (0.0, 0.01j, 0.1j):
        assert np.abs(small(s) - g(s)).max() < 1e-4 * np.abs(g(0.0)).max()


@pytest.mark.parametrize("balancing", BALANCINGS)
def test_a_result_is_stable_or_refused(balancing: str) -> None:
    """Reis & Stykel: none of the variants keeps stability in general.  Of these systems some come out unstable."""
    refused = 0
    for seed in range(25):
        g = lively(seed)
        assert eigenvalues(g).real.max() < 0
        looked = balanced(g, balancing=balancing)
        for k in (1, 2, 3):
            try:
                small = looked.reduced(k)
            except balred.UnstableError:
                refused += 1
            else:
                assert eigenvalues(small).real.max() < 0
    assert 0 < refused < 75


def test_the_refusal_says_what_helps() -> None:
    with pytest.raises(
        balred.UnstableError, match="balancing of second-order systems does not keep stability; try another"
    ):
        [balred.reduce(lively(seed), 2) for seed in range(30)]


def test_reduce_takes_it_as_it_takes_others() -> None:
    g = chain(8, seed=5)
    several = balred.reduce(g, [2, 3])
    assert [type(r) for r in several] == [balred.SecondOrderSystem] * 2
    assert_array_equal(several[0].K, balred.reduce(g, 2).K)
    sigma = balanced(g).sigma
    k = int(np.searchsorted(np.cumsum(sigma) / sigma.sum(), 0.9) + 1)
    assert balred.reduce(g, balred.Energy(0.9)).states == k
    model = {"arm": g, "plant": balred.testing.random_system(9, seed=1)}
    small = balred.reduce(model, 4)
    assert (small["arm"].states, small["plant"].states) == (4, 4)
    assert isinstance(small["arm"], balred.SecondOrderSystem)
    row = balred.plan(g, 3).rows[0]
    assert (row.before, row.after, row.bound) == (8, 3, None)
    # another way: its first-order form, by every method
    assert balred.reduce(balred.adapt(g)[0], 4, method="irka").states == 4
    assert float(balred.error(g, balred.reduce(g, 8))) < 1e-6 * float(balred.norm(g, "hinf"))


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"method": "irka"}, ValueError, "method must be 'truncate' or 'modal' for a second-order system, got 'irka'"),
        (
            {"balancing": "both"},
            ValueError,
            "balancing must be one of position, velocity, position_velocity, got 'both'",
        ),
        ({"beta": 1.0}, TypeError, "the options of method 'truncate' are balancing, galerkin, got 'beta'"),
        ({"method": "modal", "balancing": "position"}, TypeError, "the options of method 'modal' are dominance"),
        (
            {"method": "modal", "dominance": "loud"},
            ValueError,
            "dominance must be one of frequency, residue, got 'loud'",
        ),
        ({"offset": 0.1}, ValueError, "offset and precision must keep their defaults"),
        ({"rank": 9}, ValueError, "rank must be between 1 and 4, got 9"),
        ({"rank": balred.ErrorBound(0.1)}, ValueError, "ErrorBound needs a method with an a-priori error bound"),
    ],
)
def test_what_cannot_be_meant(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        balred.reduce(chain(4, seed=1), options.pop("rank", 2), **options)


@pytest.mark.parametrize(
    "options",
    [{}, {"balancing": "velocity"}, {"balancing": "position_velocity"}, {"galerkin": True}, {"method": "modal"}],
)
@pytest.mark.parametrize("sparse", [False, True])
def test_units_of_positions_change_nothing(options: dict[str, Any], sparse: bool) -> None:
    """q = T p with T over sixteen decades: M, D and K lose their symmetry to rounding, and M looks singular beside one."""
    g, T = chain(5, seed=3), 10.0 ** np.array([-8.0, -3.0, 0.0, 4.0, 8.0])
    kind = scipy.sparse.csc_array if sparse else np.asarray
    M, D, K = (kind(T[:, None] * (X * T)) for X in (g.M, g.D, g.K))
    other = balred.second_order(M, D, K, T[:, None] * g.B, g.Cp * T, g.Cv * T)
    want, got = balred.reduce(g, 3, **options), balred.reduce(other, 3, **options)
    assert_allclose(got(0.7j), want(0.7j), rtol=0, atol=1e-7 * np.abs(g(0.7j)).max())


def test_galerkin_needs_symmetry() -> None:
    with pytest.raises(ValueError, match="galerkin must go with Hermitian M, D and K"):
        balred.reduce(lively(1), 2, galerkin=True)
    with pytest.raises(ValueError, match="M must be positive definite for modal truncation"):
        balred.reduce(
            balred.second_order(-np.eye(2), np.eye(2), np.eye(2), np.ones((2, 1)), np.ones((1, 2))), 1, method="modal"
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"M": np.zeros((2, 2))}, "M must be nonsingular"),
        ({"M": scipy.sparse.diags([[1.0, 0.0]], [0])}, "M must be nonsingular"),
        ({"D": np.eye(3)}, r"D must have shape \(n, n\) .* got \(3, 3\)"),
        ({"K": [[np.inf, 0.0], [0.0, 1.0]]}, "K must be finite"),
        ({"B": np.ones((3, 1))}, r"B must have shape \(n, m\) with n = 2 .* got \(3, 1\)"),
        ({"Cp": np.ones((1, 3))}, r"Cp must have shape \(p, n\) with n = 2 .* got \(1, 3\)"),
        ({"Cv": np.ones((2, 2))}, r"Cv must have shape \(p, n\)"),
        ({"Cp": None}, "Cp or Cv must be given"),
    ],
)
def test_what_is_no_second_order_system(change: dict[str, Any], message: str) -> None:
    given_ = {"M": np.eye(2), "D": np.eye(2), "K": np.eye(2), "B": np.ones((2, 1)), "Cp": np.ones((1, 2))} | change
    with pytest.raises(ValueError, match=message):
        balred.second_order(**given_)


def free_chain(n, mass=1.0, stiffness=1.0, damping=0.01):
    """Masses from one to three times `mass` in a row, free at both ends: a force on the first, the position of the last."""
    K = 2.0 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    K[0, 0] = K[-1, -1] = 1.0
    return balred.second_order(
        np.diag(mass * np.linspace(1, 3, n)), damping * K, stiffness * K, np.eye(n)[:, :1], np.eye(n)[-1:]
    )


@pytest.mark.parametrize("units", [(1.0, 1.0, 0.01), (1e-12, 0.1, 1e-10), (1e5, 1e7, 1e3)])
def test_rigid_bodies_are_kept(units):
    """Of masses m and 3 m on a spring: 1/(4 m s^2) - 1/(4 m (s^2 + a d s + a k)) with a = 4/(3 m).  With one position the rigid body
    is left, and the error is the peak of the other mode, 1/(4 m) over 2 z w^2 (1 - z^2)^(1/2) with w^2 = a k and 2 z w = a d."""
    m, k, d = units
    g = free_chain(2, *units)
    small = balred.reduce(g, 1)
    w, a = np.sqrt(4 * k / (3 * m)), 4 / (3 * m)
    z = a * d / (2 * w)
    assert complex(small(1j * w).item()) == pytest.approx(-1 / (4 * m * w**2), rel=1e-12)
    assert float(balred.error(g, small)) == pytest.approx(1 / (8 * m * z * w**2 * np.sqrt(1 - z**2)), rel=1e-6)


@pytest.mark.parametrize(
    "options", [{}, {"balancing": "velocity"}, {"balancing": "position_velocity"}, {"galerkin": True}]
)
def test_what_is_balanced_beside_rigid_bodies_is_the_rest(options):
    """In other coordinates of position too; the rest by hand: the modes of K and M but the first, which are all there is."""
    g = free_chain(6)
    squares, V = scipy.linalg.eigh(g.K, g.M)
    V = V[:, 1:]
    rest = balred.second_order(np.eye(5), V.T @ g.D @ V, np.diag(squares[1:]), V.T @ g.B, g.Cp @ V)
    T = np.random.default_rng(0).standard_normal((6, 6))
    turned = balred.second_order(*(T.T @ X @ T for X in (g.M, g.D, g.K)), T.T @ g.B, g.Cp @ T)
    want = balred.reduce(rest, 3, **options)
    for one in (g, turned):
        small = balred.reduce(one, 4, **options)
        assert small.hermitian == want.hermitian
        for s in (0.1j, 0.5j, 1 + 1j):
            assert small(s) == pytest.approx(want(s) + 1 / (12 * s**2), rel=1e-6)  # the masses add up to 12
    assert balred.reduce(g, balred.Order(3), **options).states == 3
    assert (
        balred.reduce(g, balred.Energy(0.5), **options).states
        == 1 + balred.reduce(rest, balred.Energy(0.5), **options).states
    )


def test_a_soft_spring_beside_a_stiff_one_is_no_rigid_body():
    """k = 1e-16 beside 1: the entries give the steady state 1/k, not infinity, or it is said that digits do not suffice.
    A free chain of springs that differ as much as 1e8 and 1 has a rigid body: by Newton's law 1/(3 s^2) of three unit masses."""
    soft = balred.second_order(np.eye(2), np.diag([0.1, 1e-16]), np.diag([1, 1e-16]), np.eye(2), np.eye(2))
    with pytest.raises(ArithmeticError, match="poles spread too far"):
        balred.reduce(soft, 1)
    stiff = np.array([[1e8, -1e8, 0], [-1e8, 1e8 + 1, -1], [0, -1, 1]])
    small = balred.reduce(balred.second_order(np.eye(3), 0.1 * stiff, stiff, np.eye(3)[:, :1], np.eye(3)[:1]), 1)
    assert small(0.1).item() == pytest.approx(1 / 0.03, rel=1e-6)


def test_what_rigid_bodies_ask_for():
    K = np.zeros((4, 4))
    K[:2, :2] = [[1.0, -1.0], [-1.0, 1.0]]
    g = balred.second_order(np.diag([1.0, 2, 3, 4]), 0.1 * K, K, np.ones((4, 2)), np.ones((2, 4)))
    assert balred.reduce(g, 3).states == 3
    with pytest.raises(
        ValueError, match="rank must be at least the number of positions without stiffness, 3, which are kept, got 2"
    ):
        balred.reduce(g, 2)
    undamped = balred.second_order(np.eye(2), np.zeros((2, 2)), np.diag([1.0, 4.0]), np.ones((2, 1)), np.ones((1, 2)))
    loose = free_chain(4)
    sparse = balred.second_order(*(scipy.sparse.csr_array(X) for X in (loose.M, loose.D, loose.K)), loose.B, loose.Cp)
    for one in (undamped, sparse):
        with pytest.raises(balred.UnstableError, match="method='modal' keeps rigid bodies and undamped modes"):
            balred.reduce(one, 1)
