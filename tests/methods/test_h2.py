"""H2-optimal reduction: the conditions of optimality, independent optimisers, published errors, and what is promised."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.signal
from numpy.testing import assert_allclose
from tables import SINGLE, each_single

import balred
from balred.methods import METHODS, h2_optimal, h2_runs, h2_step
from balred.methods.h2_optimal import ConvergenceWarning, h2_spectrum
from balred.solvers.resolvents import DiagonalResolvent, resolvent

each_h2 = pytest.mark.parametrize("method", ["irka", "tsia"])


def h2_error(g, small):
    """H2 norm of the difference of the strictly proper parts, of dense forms: closed-form Gramians would lose digits."""
    d = balred.systems.parts.difference(g.to_dense(), small.to_dense())
    return float(balred.norm(dataclasses.replace(d, D=0 * d.D), "h2"))


def size(g):
    return h2_error(g, dataclasses.replace(g, B=0 * g.B))


def residues(small):
    """Poles, b_i and c_i of ``sum c_i b_i^H / (s - pole_i)``, by NumPy alone."""
    g = small.to_dense()
    poles, E = np.linalg.eig(g.A)
    return poles, np.linalg.solve(E, g.B).conj(), (g.C @ E).T


def slope(g, s):
    """Derivative of the transfer function at s, ``-C (sI - A)^-2 B``."""
    g = g.to_dense()
    M = np.linalg.inv(s * np.eye(g.order) - g.A)
    return -g.C @ M @ M @ g.B


def violation(g, small):
    """How far the conditions of Meier & Luenberger (1967) and Wilson (1970) are from holding, relative to each term.

    At the mirror images of the reduced poles G and its approximation agree along the residues' directions, in value and
    slope [Gugercin, Antoulas & Beattie 2008, theorem 3.4; Bunse-Gerstner et al. 2010, theorem 3.1].
    """
    worst = 0.0
    for pole, b, c in zip(*residues(small), strict=True):
        if not (b.any() and c.any()):  # a real pole of a conjugate system is stored beside a state without a part in it
            continue
        mu = 1 / pole.conj() if g.discrete else -pole.conj()
        G, Gk, dG, dGk = g(mu) - g.D, small(mu) - small.D, slope(g, mu), slope(small, mu)
        pairs = [(G @ b, Gk @ b), (c.conj() @ G, c.conj() @ Gk), (c.conj() @ dG @ b, c.conj() @ dGk @ b)]
        worst = max(worst, *(float(np.linalg.norm(x - y) / np.linalg.norm(x)) for x, y in pairs))
    return worst


@pytest.mark.alike
@each_h2
@each_single
@pytest.mark.parametrize("k", [1, 2, 3])
def test_conditions_of_optimality(case, method, k):
    """Every structure, continuous and discrete, real and complex, with two inputs and three outputs."""
    g = case.make(n=6, m=2, p=3, seed=11)
    small = balred.reduce(g, k, method=method)
    assert type(small) is type(g)
    assert violation(g, small) < 1e-6
    assert violation(g, balred.reduce(g, k)) > 1e-3  # truncation does not satisfy them


@pytest.mark.alike
@each_h2
@pytest.mark.parametrize("dt", [0, 1])
@pytest.mark.parametrize("seed", range(8))
def test_never_worse_than_truncation_and_both_converge(method, dt, seed):
    g = balred.testing.random_system(12, 1 + seed % 3, 2, dt=dt, seed=seed)
    a, truncation = balred.analyze(g, method=method), balred.analyze(g)
    for k in (1, 2, 4, 7, 11):
        small = a.reduce(k)  # a ConvergenceWarning would be an error here
        assert small.order == k
        assert balred.systems.poles.pole_margin(small)[1].min() > 0
        assert h2_error(g, small) <= h2_error(g, truncation.reduce(k)) * (1 + 1e-9)


@pytest.mark.alike
@each_single
def test_the_two_reach_the_same_optimum(case):
    g = case.make(n=8, seed=2)
    one, other = (balred.reduce(g, 3, method=m) for m in ("irka", "tsia"))
    for s in (0.3 + 0.9j, 1.7):
        assert_allclose(one(s), other(s), rtol=1e-6)


FOM3 = ([1.0, 15.0, 50.0], [1.0, 5.0, 33.0, 79.0, 50.0])
FOM4 = ([1e4, 5e3], [1.0, 5e3, 25.0])


@each_h2
@pytest.mark.parametrize(
    ("model", "k", "published"),
    [(FOM3, 1, 4.818e-1), (FOM3, 2, 2.443e-1), (FOM3, 3, 5.74e-2), (FOM4, 1, 9.85e-2)],
)
def test_published_errors(method, model, k, published):
    """Relative H2 errors of the test systems FOM-3 and FOM-4 [Gugercin, Antoulas & Beattie 2008, section 5.1].

    Truncation has 0.995 for FOM-4, and so has the local optimum next to it.
    """
    g = balred.ss(*scipy.signal.tf2ss(*model))
    small = balred.reduce(g, k, method=method)
    assert_allclose(h2_error(g, small) / size(g), published, rtol=1e-3)


@each_h2
@pytest.mark.parametrize("dt", [0, 1])
@pytest.mark.parametrize("seed", range(4))
def test_first_order_by_a_search_along_the_pole(method, dt, seed):
    """With one input and output the best residue for a pole p is known, and leaves a function of p to be maximised.

    The squared error is ``|G|^2 + 2 p G(-p)^2``, or ``|G|^2 - (1 - p^2) (G(1/p) / p)^2`` in discrete time.
    """
    g = balred.testing.random_system(7, 1, 1, dt=dt, seed=seed)
    g = dataclasses.replace(g, D=0 * g.D)
    small = balred.reduce(g, 1, method=method)

    def gain(p):
        value = g(1 / p if dt else -p)[0, 0].real
        return (1 - p**2) * (value / p) ** 2 if dt else -2 * p * value**2

    pole = float(small.A[0, 0])
    near = sorted((pole * 0.98, pole * 1.02 if not dt else np.sign(pole) * min(abs(pole) * 1.02, 1 - 1e-9)))
    best = scipy.optimize.minimize_scalar(lambda p: -gain(p), bounds=near, method="bounded", options={"xatol": 1e-12})
    assert_allclose(pole, best.x, rtol=1e-6)
    assert_allclose(h2_error(g, small) ** 2, size(g) ** 2 - gain(pole), rtol=1e-7)


@each_h2
@pytest.mark.parametrize("dt", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_second_order_by_a_general_optimiser(method, dt, seed):
    """SciPy's BFGS on the coefficients of a rational function, with norms from SciPy's Lyapunov solvers."""
    g = balred.testing.random_system(6, 1, 1, dt=dt, seed=20 + seed)
    small = balred.reduce(g, 2, method=method)

    def companion(x):
        return np.array([[0.0, 1.0], [x[0], x[1]]]), np.array([[0.0], [1.0]]), np.array([[x[2], x[3]]])

    def square(x):
        A, B, C = companion(x)
        poles = np.linalg.eigvals(A)
        if not ((np.abs(poles) < 1).all() if dt else (poles.real < 0).all()):
            return np.inf
        A, B, C = scipy.linalg.block_diag(g.A, A), np.vstack([g.B, B]), np.hstack([g.C, -C])
        solve = scipy.linalg.solve_discrete_lyapunov if dt else scipy.linalg.solve_continuous_lyapunov
        return float((C @ solve(A, B @ B.T if dt else -B @ B.T) @ C.T)[0, 0])

    num, den = scipy.signal.ss2tf(small.A, small.B, small.C, 0 * small.D)
    x = np.array([-den[2], -den[1], num[0, 2], num[0, 1]])
    assert_allclose(square(x), h2_error(g, small) ** 2, rtol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # line searches across the boundary of the stable systems
        around = [
            scipy.optimize.minimize(square, x * (1 + 0.02 * np.random.default_rng(i).standard_normal(4)))
            for i in (0, 1)
        ]
    assert min(found.fun for found in around) >= square(x) * (1 - 1e-9)
    assert_allclose(min(around, key=lambda found: found.fun).x, x, rtol=1e-3)


def begun(g, k):
    state = h2_spectrum(g)
    now = h2_step.evaluated(
        state.target, balred.hankel.projections.projected(state.spectrum, k)[0], h2_optimal._schur_vectors
    )
    assert now is not None
    return state, now


@pytest.mark.parametrize("kind", ["dense", "complex", "conjugate"])
@pytest.mark.parametrize("dt", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_the_step_is_one_of_descent(kind, dt, seed):
    """The derivative that :func:`balred.methods.h2_step.descent` claims, against central differences of errors by Gramians."""
    if kind == "complex":
        g = balred.testing.random_system(8, 2, 3, dt=dt, complex=True, seed=seed)
    else:
        g = balred.testing.random_system(8, 2, 3, dt=dt, kind=kind, seed=seed)
    state, now = begun(g, 3)
    moved = h2_step.projection(state.target, now)
    step = h2_step.descent(now, moved)
    full, k, s, t = state.target.full, now.g, now.s, 1e-6

    def square(t):
        A, B, C = (x + t * d for x, d in zip(k.leaves, step, strict=True))
        return h2_error(full, balred.ss(A, B, C, full.D, k.dt)) ** 2

    measured = (square(t) - square(-t)) / (2 * t)
    W, V = now.Y / s, now.X / s
    N, dB, dC = np.eye(3) - W.conj().T @ V, k.B - W.conj().T @ full.B, k.C - full.C @ V
    row, column = (lambda Z: np.sum(s[:, None] * np.abs(Z) ** 2)), (lambda Z: np.sum(s * np.abs(Z) ** 2))
    scale = state.target.square
    if dt:
        assert measured <= -row(dB) - column(dC) + 1e-7 * scale
    else:
        claimed = -row(N @ k.B - dB) - row(dB) - column(k.C @ N - dC) - column(dC)
        assert_allclose(measured, claimed, atol=1e-7 * scale)
    assert measured < -1e-4 * scale


def test_where_plain_iterations_cycle():
    """Whole steps alone, as published, never settle on this system; the safeguarded ones do."""
    g = balred.testing.random_system(6, 1, 1, seed=0)
    state, now = begun(g, 1)
    changes, model = [], now.g
    for _ in range(100):
        now = h2_step.evaluated(state.target, model, h2_optimal._schur_vectors) or now
        new = h2_step.projection(state.target, now)[0]
        pole = new.A[0, 0]
        changes.append(abs(pole - model.A[0, 0]) / abs(pole))
        model = dataclasses.replace(new, A=-np.abs(new.A))  # the usual remedy: the pole is mirrored
    assert min(changes[50:]) > 0.1
    assert violation(g, balred.reduce(g, 1, method="irka")) < 1e-6


def test_a_start_near_an_integrator():
    """Truncation splits one of the pairs with nearly equal values of Penzl's system, and starts with a pole near zero."""
    blocks = [np.array([[-1.0, w], [-w, -1.0]]) for w in (100.0, 200.0, 400.0)]
    A = scipy.linalg.block_diag(*blocks, -np.diag(np.arange(1.0, 41.0)))
    B = np.concatenate([10 * np.ones(6), np.ones(40)])[:, None]
    g = balred.ss(A, B, B.T)
    for k in (2, 4, 8):
        small = balred.reduce(g, k, method="irka")
        assert violation(g, small) < 1e-6
        assert h2_error(g, small) < h2_error(g, balred.reduce(g, k))


@pytest.mark.full
@pytest.mark.alike
@each_h2
def test_down_to_the_last_digits(method):
    """A heat equation, whose errors fall by decades: never worse than truncation where squares of errors are all noise."""
    n = 60
    A = (np.diag(np.ones(n - 1), 1) + np.diag(np.ones(n - 1), -1) - 2 * np.eye(n)) * (n + 1) ** 2
    B, C = np.zeros((n, 1)), np.zeros((1, n))
    B[n // 3], C[0, 2 * n // 3] = 1, 1
    g = balred.ss(A, B, C)
    a, truncation = balred.analyze(g, method=method), balred.analyze(g)
    for k in range(2, a.numerical_rank + 1, 2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            small = a.reduce(k)
        assert h2_error(g, small) <= h2_error(g, truncation.reduce(k)) * (1 + 1e-9) + 1e-13 * size(g)


@pytest.mark.parametrize("dt", [0, 1])
def test_equal_values_and_badly_scaled_states(dt):
    """Two copies of one system, so that values come in pairs, in coordinates that span ten decades."""
    one = balred.testing.random_system(4, 1, 1, dt=dt, seed=3)
    scale = 10.0 ** np.linspace(-5, 5, 8)
    A = np.kron(np.eye(2), one.A) * scale[:, None] / scale
    B, C = np.kron(np.eye(2), one.B) * scale[:, None], np.kron(np.eye(2), one.C) / scale
    g = balred.ss(A, B, C, dt=dt)
    plain = balred.ss(np.kron(np.eye(2), one.A), np.kron(np.eye(2), one.B), np.kron(np.eye(2), one.C), dt=dt)
    for k in (1, 2, 3):
        assert violation(plain, balred.reduce(g, k, method="tsia")) < 1e-6


# ------------------------------------------------------------------------------------------------- the solves


@pytest.mark.parametrize("kind", ["dense", "complex", "diagonal", "conjugate"])
@pytest.mark.parametrize("adjoint", [False, True])
def test_resolvents(kind, adjoint):
    """Every structure against dense solves with the matrix of ``to_dense()``."""
    if kind == "complex":
        g = balred.testing.random_system(5, complex=True, seed=0)
    else:
        g = balred.testing.random_system(5, kind=kind, seed=0)
    A = g.to_dense().A
    A = A.conj().T if adjoint else A
    R, rng = resolvent(g), np.random.default_rng(1)
    x = rng.standard_normal((len(A), 3)) + 1j * rng.standard_normal((len(A), 3))
    a, b = np.array([1.0, 2.0 + 1j, 3.0]), np.array([1.0, 1.0, 0.3 - 0.2j])
    want = np.stack([np.linalg.solve(p * np.eye(len(A)) - q * A, y) for p, q, y in zip(a, b, x.T, strict=True)], axis=1)
    assert_allclose(R.solve(a, b, x, adjoint=adjoint), want, rtol=1e-12)
    assert_allclose(R.times(x, adjoint=adjoint), A @ x, rtol=1e-12)


@pytest.mark.parametrize("dt", [0, 1])
def test_sylvester_equations_with_a_defective_reduced_system(dt):
    """A double pole of geometric multiplicity one, where eigenvectors do not exist: TSIA's equations hold all the same."""
    g = balred.testing.random_system(6, 2, 2, dt=dt, seed=4)
    pole = 0.5 if dt else -0.5
    small = balred.ss([[pole, 1.0], [0.0, pole]], np.eye(2), np.eye(2), dt=dt)
    state = h2_spectrum(g)
    now, full = h2_step.evaluated(state.target, small, h2_optimal._schur_vectors), state.target.full
    k, X, Y = now.g, now.X, now.Y
    if dt:
        one = full.A @ X @ k.A.T + full.B @ k.B.T - X
        two = full.A.T @ Y @ k.A + full.C.T @ k.C - Y
    else:
        one = full.A @ X + X @ k.A.T + full.B @ k.B.T
        two = full.A.T @ Y + Y @ k.A + full.C.T @ k.C
    assert np.abs(one).max() < 1e-12 * np.abs(X).max() * np.abs(full.A).max()
    assert np.abs(two).max() < 1e-12 * np.abs(Y).max() * np.abs(full.A).max()


@pytest.mark.full
@pytest.mark.alike
@pytest.mark.parametrize("kind", ["diagonal", "conjugate"])
def test_diagonal_systems_are_iterated_pole_by_pole(kind, monkeypatch):
    """No factorisation, inverse or eigenvalue problem of the system's size; the optimum is that of its dense form."""
    g = balred.testing.random_system(60, 1, 2, dt=1, kind=kind, seed=5)
    state = h2_spectrum(g)
    assert isinstance(state.target.resolvent, DiagonalResolvent)
    largest = []
    for name in ("inv", "solve", "eig", "eigvals", "svd", "qr"):
        original = getattr(np.linalg, name)

        def watched(x, *rest, original=original, **options):
            largest.append(min(x.shape[-2:]))
            return original(x, *rest, **options)

        monkeypatch.setattr(np.linalg, name, watched)
    start = balred.hankel.projections.projected(state.spectrum, 4)[0]
    largest.clear()  # the analysis and its truncation are not the iteration
    now = h2_step.evaluated(state.target, start, h2_optimal._eigenvectors)
    h2_runs.iterated(
        state, h2_runs.Run("here", (now.g, None, None), now.error, np.inf, 0, now), h2_optimal._eigenvectors
    )
    assert largest
    assert max(largest) <= 12
    monkeypatch.undo()
    small, dense = (
        balred.reduce(g, 4, method="irka"),
        balred.reduce(g.to_dense(), 8 // (1 + (kind == "diagonal")), method="irka"),
    )
    assert type(small) is type(g)
    assert small.states <= 4
    assert small.order == dense.order
    assert_allclose(h2_error(g, small), h2_error(g, dense), rtol=1e-8)


@each_h2
def test_projections_belong_to_the_result(method):
    """L R = I, and L A R, L B, C R are the reduced matrices: what carries a layer's optimiser state over."""
    for g in (balred.testing.random_system(9, 2, 2, seed=1), balred.testing.random_system(5, 2, 2, kind="conjugate")):
        with balred.systems.arrays.double_precision(*g.leaves):
            small, L, R = METHODS[method].reduce(h2_spectrum(g), 3)
        dense = g.to_dense()
        assert_allclose(L @ R, np.eye(3), atol=1e-10)
        for got, want in zip(small.leaves, (L @ dense.A @ R, L @ dense.B, dense.C @ R), strict=True):
            assert_allclose(got, want, atol=1e-8 * np.abs(want).max())


# ----------------------------------------------------------------------------------------- options and what is told


@each_h2
def test_too_few_iterations_are_told(method):
    g = balred.testing.random_system(12, 2, 2, seed=0)
    told = rf"^{method} at order 3 must come within 1e-09 of a fixed point, got .* after 2 iterations: the best stable"
    with pytest.warns(ConvergenceWarning, match=told):
        small = balred.reduce(g, 3, method=method, max_iterations=2)
    assert balred.systems.poles.pole_margin(small)[1].min() > 0
    assert h2_error(g, small) <= h2_error(g, balred.reduce(g, 3))


def test_a_loose_tolerance_ends_early():
    g = balred.testing.random_system(12, 2, 2, seed=0)
    loose, tight = (violation(g, balred.reduce(g, 3, method="irka", tol=tol)) for tol in (1e-2, 1e-11))
    assert tight < 1e-9 < 1e-5 < loose


@each_h2
def test_a_start_that_leads_to_a_worse_optimum(method):
    """A slow mode that holds nearly all of the H2 norm and a fast one, at which an interpolation is locally best too."""
    g = balred.ss(np.diag([-0.005, -5e3]), np.ones((2, 1)), [[100.0, 1e4]])
    start = balred.ss([[-5e3]], [[1.0]], [[1e4]])
    with pytest.warns(
        ConvergenceWarning, match=r"must be no worse than balanced truncation, whose error is .* is returned"
    ):
        small = balred.reduce(g, 1, method=method, init=start)
    assert_allclose(small.A, balred.reduce(g, 1).A)


def test_a_start_of_ones_own():
    """FOM-4 from its slow pole, a root of s^2 + 5000 s + 25, ends in the local optimum there: not the global one."""
    g = balred.ss(*scipy.signal.tf2ss(*FOM4))
    slow = balred.ss([[-0.005]], [[1.0]], [[1.0]])
    small = balred.reduce(g, 1, method="irka", init=slow)
    assert violation(g, small) < 1e-6
    assert -0.006 < small.A[0, 0] < -0.005
    assert h2_error(g, small) > 10 * h2_error(g, balred.reduce(g, 1, method="irka"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tol": 0.0}, r"tol must be positive and finite, got 0.0"),
        ({"max_iterations": 0}, r"max_iterations must be a positive integer, got 0"),
        ({"max_iterations": 2.5}, r"max_iterations must be a positive integer, got 2.5"),
        ({"init": balred.testing.random_system(2, 2, 2)}, r"init must have the order asked for, 3, got 2"),
        ({"init": balred.testing.random_system(3, 1, 2)}, r"same outputs and inputs"),
        ({"init": balred.testing.random_system(3, 2, 2, dt=1)}, r"same dt"),
        ({"init": balred.testing.random_system(3, 2, 2, complex=True)}, r"init must be real where the system is"),
        ({"init": balred.ss(-np.eye(3), np.zeros((3, 2)), np.ones((2, 3)))}, r"init must be minimal"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        balred.reduce(balred.testing.random_system(6, 2, 2, seed=0), 3, method="irka", **options)


def test_an_unstable_start_is_named():
    with pytest.raises(balred.UnstableError, match=r"got a pole at 1"):
        balred.reduce(
            balred.testing.random_system(6, 1, 1), 1, method="irka", init=balred.ss([[1.0]], [[1.0]], [[1.0]])
        )


def test_the_values_are_hankel_singular_values_and_there_is_no_bound():
    g = SINGLE[0].make(n=6)
    a = balred.analyze(g, method="irka")
    assert_allclose(a.hsv, balred.hsv(g), rtol=1e-12)
    assert np.isnan(a.bound(3))
    assert a.bound(6) == 0
    assert a.by("tsia").state is a.state  # one analysis serves both
