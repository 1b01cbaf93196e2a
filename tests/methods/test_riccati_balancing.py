"""LQG, bounded-real and positive-real balancing: the property that each is for, in the given and the reduced system."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from numpy.testing import assert_allclose
from plants import unstable
from tables import frequencies

import balred
from balred.methods.coprime import left_factors
from balred.methods.riccati_balancing import bounded_real
from balred.solvers.riccati import dual
from balred.systems.arrays import ct

TIMES = pytest.mark.parametrize("dt", [0, 1])
MATCH = pytest.mark.parametrize("match_dc", [False, True])
SEEDS = pytest.mark.parametrize("seed", range(4))
FIELDS = pytest.mark.parametrize("complex", [False, True])


def contractive(seed, dt, complex=False, m=2, p=3):
    g = balred.testing.random_system(7, m, p, dt=dt, seed=seed, complex=complex)
    g = balred.ss(g.A, g.B, g.C, np.random.default_rng(seed).standard_normal((p, m)), dt)
    scale = 0.95 / float(balred.norm(g, "hinf"))
    return balred.ss(g.A, g.B, g.C * scale, g.D * scale, dt)


def passive(seed, dt, complex=False, m=2):
    """The Cayley transform (I - S)^-1 (I + S) of a contraction S is passive (by algebra)."""
    s = contractive(seed, dt, complex, m, m)
    inv = np.linalg.inv(np.eye(m) - s.D)
    return balred.ss(s.A + s.B @ inv @ s.C, 2**0.5 * s.B @ inv, 2**0.5 * inv @ s.C, inv @ (np.eye(m) + s.D), dt)


def keeps_the_steady_gain(small, g, match_dc):
    if match_dc:
        at = 1.0 if g.discrete else 0.0
        assert_allclose(small(at), g(at), rtol=1e-7, atol=1e-8)


@SEEDS
@TIMES
@MATCH
@FIELDS
def test_contractions_stay_contractions(seed, dt, match_dc, complex):
    g = contractive(seed, dt, complex)
    a = balred.analyze(g, method="bounded_real", match_dc=match_dc)
    assert np.all(np.asarray(a.hsv) <= 1 + 1e-9)
    for k in range(1, 7):
        small = a.reduce(k)
        assert float(balred.norm(small, "hinf")) <= 1 + 1e-8
        keeps_the_steady_gain(small, g, match_dc)
        assert float(balred.error(g, small)) <= a.bound(k) * (1 + 1e-8) + 1e-9
        assert is_stable(small.A, dt)
        if not dt:  # the balanced solutions, cut, are those of the reduced system
            assert_allclose(balred.analyze(small, method="bounded_real").hsv, a.hsv[:k], rtol=1e-6, atol=1e-8)


@TIMES
def test_another_level_is_the_scaled_system(dt):
    g = contractive(1, dt)
    big = balred.ss(g.A, g.B, 50 * g.C, 50 * g.D, dt)
    one, many = balred.analyze(g, method="bounded_real"), balred.analyze(big, method="bounded_real", gamma=50.0)
    assert_allclose(many.hsv, 50 * np.asarray(one.hsv), rtol=1e-7, atol=1e-9)
    for z in frequencies(g, 10):
        assert_allclose(many.reduce(3)(z), 50 * one.reduce(3)(z), rtol=1e-6, atol=1e-7)
    with pytest.raises(ValueError, match=r"gamma must be above the H-infinity norm of the system, 47.5, got 40"):
        balred.reduce(big, 3, method="bounded_real", gamma=40)


@SEEDS
@TIMES
@MATCH
@FIELDS
def test_passive_systems_stay_passive(seed, dt, match_dc, complex):
    g = passive(seed, dt, complex)
    assert min(np.linalg.eigvalsh(g(z) + g(z).conj().T)[0] for z in frequencies(g, 100)) > 0
    a = balred.analyze(g, method="positive_real", match_dc=match_dc)
    s = np.asarray(a.hsv)
    assert np.all(s <= 1 + 1e-9)  # both solutions lie between the extremal ones
    for k in range(1, 7):
        small = a.reduce(k)
        worst = min(np.linalg.eigvalsh(small(z) + small(z).conj().T)[0] for z in frequencies(g, 200))
        assert worst >= -1e-9
        keeps_the_steady_gain(small, g, match_dc)
        assert is_stable(small.A, dt)


@SEEDS
@TIMES
@FIELDS
@pytest.mark.filterwarnings("ignore::balred.InstabilityWarning")  # what is promised is of the factors
def test_lqg_values_and_the_error_of_the_factors(seed, dt, complex):
    g = unstable(seed, dt, complex=complex)
    a = balred.analyze(g, method="lqg")
    s = np.asarray(a.hsv)
    assert_allclose(
        balred.analyze(balred.ss(g.A.conj().T, g.C.conj().T, g.B.conj().T, g.D.conj().T, dt), method="lqg").hsv,
        s,
        rtol=1e-6,
        atol=1e-8 * s[0],
    )
    if dt:
        return
    # the values of the normalised factors are s / sqrt(1 + s^2) (Mustafa & Glover 1991)
    factors = left_factors(g, normalized=True)
    assert_allclose(balred.hsv(factors), s / np.sqrt(1 + s**2), rtol=1e-6, atol=1e-8)
    for match_dc in (False, True):
        a = balred.analyze(g, method="lqg", match_dc=match_dc)
        for k in range(2, 6):
            small = left_factors(a.reduce(k), normalized=True)
            points = frequencies(g, 100)
            U = turn(factors, small, [0.0]) if match_dc else np.eye(3)
            error = max(np.linalg.norm(factors(z) - U @ small(z), 2) for z in points)
            assert error <= a.bound(k) * (1 + 1e-7) + 1e-9


def turn(f, h, points):
    """Normalised factors are unique but for a unitary factor from the left: that which takes `h` nearest to `f`."""
    W, _, V = np.linalg.svd(sum(f(z) @ h(z).conj().T for z in points))
    return W @ V


def lqg_controller(g):
    """u = K y, the filter and the regulator for weights and noises of one, from SciPy's Riccati solvers."""
    solve = scipy.linalg.solve_discrete_are if g.discrete else scipy.linalg.solve_continuous_are

    def regulator(A, B, C, D):
        Q, R, S = ct(C) @ C, np.eye(B.shape[1]) + ct(D) @ D, ct(C) @ D
        X = solve(A, B, Q, R, s=S)
        if g.discrete:
            return -np.linalg.solve(R + ct(B) @ X @ B, ct(B) @ X @ A + ct(S))
        return -np.linalg.solve(R, ct(B) @ X + ct(S))

    F, L = regulator(g.A, g.B, g.C, g.D), ct(regulator(*(ct(x) for x in (g.A, g.C, g.B, g.D))))
    return balred.ss(g.A + g.B @ F + L @ g.C + L @ g.D @ F, -L, F, np.zeros((g.B.shape[1], len(g.C))), g.dt)


def two_of_six(seed, dt, complex):
    """A plant with an unstable pair or two unstable poles, and four weak stable ones."""
    strong = unstable(seed, dt, n=2, complex=complex)
    weak = balred.testing.random_system(4, 2, 3, dt=dt, seed=seed, complex=complex)
    size = 0.02 if dt else 0.1
    A = np.block([[strong.A, np.zeros((2, 4))], [np.zeros((4, 2)), weak.A if dt else weak.A - np.eye(4)]])
    B, C = np.vstack([strong.B, size * weak.B]), np.hstack([strong.C, size * weak.C])
    return balred.ss(A, B, C, 0.2 * strong.D, dt)


def loop_matrix(g, K):
    """State matrix of the loop u = K y around g; K has no direct term."""
    return np.block([[g.A, g.B @ K.C], [K.B @ g.C, K.A + K.B @ g.D @ K.C]])


def is_stable(A, dt):
    poles = np.linalg.eigvals(A)
    return bool(np.all(np.abs(poles) < 1) if dt else np.all(poles.real < 0))


def margin(g, K, points):
    """1/|[K; I] (I - G K)^-1 [I G]|: the error of normalised coprime factors that the loop bears (on a grid)."""
    inverse = []
    for z in points:
        G, k = g(z), K(z)
        inner = np.linalg.inv(np.eye(len(G)) - G @ k)
        inverse.append(np.linalg.norm(np.vstack([k, np.eye(len(G))]) @ inner @ np.hstack([np.eye(len(G)), G]), 2))
    return 1 / max(inverse)


@SEEDS
@TIMES
@FIELDS
@MATCH
def test_the_pair_of_lqg_is_kept(seed, dt, complex, match_dc):
    """The reduced plant has a stabilising pair of Riccati solutions; its controller also stabilises the plant if the
    error of the normalised factors is within the loop's margin (Glover & McFarlane 1989; Vidyasagar 1985)."""
    g = two_of_six(seed, dt, complex)
    a = balred.analyze(g, method="lqg", match_dc=match_dc)
    factors = left_factors(g, normalized=True)
    points = frequencies(g, 80)
    within = 0
    for k in range(1, 7):
        small = a.reduce(k)
        K = lqg_controller(small)
        assert is_stable(loop_matrix(small, K), dt)
        keeps_the_steady_gain(small, g, match_dc)
        assert np.isnan(a.bound(k)) == (dt == 1 and k < 6)
        if not dt:  # the balanced solutions, cut
            assert_allclose(balred.analyze(small, method="lqg").hsv, a.hsv[:k], rtol=1e-6, atol=1e-8)
        other = left_factors(small, normalized=True)
        U = turn(factors, other, points)
        gap = max(np.linalg.norm(factors(z) - U @ other(z), 2) for z in points)
        if gap < 0.95 * margin(small, K, points):
            within += 1
            assert is_stable(loop_matrix(g, K), dt)
    assert within >= 2  # not the plant itself alone


@pytest.mark.parametrize(
    ("method", "reductor", "options"),
    [
        ("lqg", "LQGBTReductor", {}),
        ("bounded_real", "BRBTReductor", {"gamma": 2.0}),
        ("positive_real", "PRBTReductor", {}),
    ],
)
@SEEDS
def test_pymor(method, reductor, options, seed):
    bt = pytest.importorskip("pymor.reductors.bt")
    from pymor.models.iosys import LTIModel

    g = passive(seed, 0) if method == "positive_real" else contractive(seed, 0)
    model = LTIModel.from_matrices(g.A, g.B, g.C, g.D)
    made = getattr(bt, reductor)(model, *options.values()) if options else getattr(bt, reductor)(model)
    theirs = made.reduce(4)
    ours = balred.reduce(g, 4, method=method, **options)
    for z in frequencies(g, 12):
        # pyMOR's Riccati factors leave residuals up to 3e-3 in their equations, ours 1e-14 (tested below)
        assert_allclose(ours(z), theirs.transfer_function.eval_tf(z), rtol=0, atol=3e-3)


@SEEDS
@TIMES
@FIELDS
def test_the_factors_solve_their_equations(seed, dt, complex):
    g = contractive(seed, dt, complex)
    for h, Z in zip((g, dual(g)), reversed(bounded_real(g)[1:3]), strict=True):
        A, B, C, D = h.A, h.B, h.C, h.D
        X, R = Z @ ct(Z), np.eye(B.shape[1]) - ct(D) @ D
        M = (ct(A) @ X if dt else X) @ B + ct(C) @ D
        R = R - ct(B) @ X @ B if dt else R
        change = ct(A) @ X @ A - X if dt else ct(A) @ X + X @ A
        residual = change + ct(C) @ C + M @ np.linalg.solve(R, ct(M))
        assert np.abs(residual).max() < 1e-12 * np.abs(X).max()


def test_systems_that_are_not_passive_are_refused():
    g = balred.ss([[-1.0]], [[1.0]], [[-3.0]], [[1.0]])  # G(0) = -2
    with pytest.raises(ValueError, match="positive-real balancing needs a strictly passive system"):
        balred.reduce(g, 1, method="positive_real")
    g = balred.testing.random_system(4, 2, 3, seed=0)
    with pytest.raises(ValueError, match="as many inputs as outputs, got 2 inputs and 3 outputs"):
        balred.reduce(g, 2, method="positive_real")
    with pytest.raises(balred.UnstableError, match="every pole must have a negative real part"):
        balred.reduce(balred.ss([[1.0]], [[1.0]], [[1.0]]), 1, method="bounded_real")
    for method in ("bounded_real", "positive_real"):
        rule = f"{method.replace('_', '-')} balancing needs a stable system, .* got a pole at 0 .real part 0.$"
        with pytest.raises(balred.UnstableError, match=rule):
            balred.reduce(balred.ss([[0.0]], [[1.0]], [[1.0]], [[1.0]]), 1, method=method)


@pytest.mark.filterwarnings("ignore::balred.BoundaryWarning")  # of poles that are at zero but for rounding
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("masses", [1, 3])
def test_free_masses_of_which_velocities_are_seen_are_refused_for_what_they_are(masses, seed):
    """Where they are no output tells; in general coordinates rounding hides that from the equations, and not from their solution."""
    A = scipy.linalg.block_diag(*[[[0.0, 1.0], [0.0, 0.0]]] * masses)
    B = np.kron(np.diag(1 / np.arange(1.0, masses + 1)), [[0.0], [1.0]])
    T = np.linalg.qr(np.random.default_rng(seed).standard_normal(A.shape))[0]
    g = balred.ss(T @ A @ T.T, T @ B, np.kron(np.eye(masses), [0.0, 1.0]) @ T.T)
    for k in range(1, 2 * masses):
        with pytest.raises(ValueError, match="LQG balancing needs a stabilisable and detectable system"):
            balred.reduce(g, k, method="lqg")
