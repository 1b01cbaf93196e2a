"""Large sparse systems: against dense solvers, closed forms of the heat equation, pyMOR, and the definition."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import balred
from balred.files.stored import StoredSystem
from balred.realisations.sparse import gramian_factors_lr, reduce_sparse, sparse_system
from balred.solvers.adi import ConvergenceError


def rod(n):
    """x_j' = (x_{j-1} - 2 x_j + x_{j+1})/h^2 with x_0 = u and x_{n+1} = 0, measured at the far end."""
    A = scipy.sparse.diags([1.0, -2.0, 1.0], [-1, 0, 1], shape=(n, n), format="csc") * (n + 1) ** 2
    B, C = np.zeros((n, 1)), np.zeros((1, n))
    B[0], C[0, -1] = (n + 1) ** 2, 1
    return sparse_system(A, B, C)


def rod_transfer(n, s):
    """Its transfer function, by hand: sinh(t) / sinh((n + 1) t) with 2 cosh(t) = 2 + s h^2."""
    h = 1 / (n + 1)
    t = 2 * np.arcsinh(np.sqrt(complex(s)) * h / 2)
    return h if s == 0 else np.sinh(t) / np.sinh((n + 1) * t)


def rod_modes(n):
    """The same system in its eigenvectors sqrt(2h) sin(jk pi h), a diagonal system in closed form."""
    h, k = 1 / (n + 1), np.arange(1, n + 1)
    poles = -4 / h**2 * np.sin(k * np.pi * h / 2) ** 2
    B = np.sqrt(2 * h) * np.sin(k * np.pi * h) / h**2
    return balred.diagonal(poles, B[:, None], np.sqrt(2 * h) * np.sin(n * k * np.pi * h)[None])


def plate(k, wind=0.0):
    """Bilinear finite elements on k x k interior nodes of the unit square: E x' = A x, with convection along one axis."""
    h = 1 / (k + 1)

    def tridiagonal(*values):
        return scipy.sparse.diags(values, [-1, 0, 1], shape=(k, k))

    K, M, G = tridiagonal(-1 / h, 2 / h, -1 / h), tridiagonal(h / 6, 4 * h / 6, h / 6), tridiagonal(-0.5, 0, 0.5)
    A = -scipy.sparse.kron(K, M) - scipy.sparse.kron(M, K) - wind * scipy.sparse.kron(G, M)
    E = scipy.sparse.kron(M, M)
    x = np.linspace(h, 1 - h, k)
    X, Y = (z.ravel() for z in np.meshgrid(x, x, indexing="ij"))
    B = E @ np.stack([(X < 0.3) & (Y < 0.3), (X > 0.4) & (Y > 0.7)], axis=1).astype(float)
    C = (E @ np.stack([X > 0.6, Y > 0.6, X * Y > 0.5], axis=1).astype(float)).T
    return sparse_system(A, B, C, E=E)


def penzl():
    """Penzl's 1006 states with three resonances at 100, 200 and 400 rad/s (the FOM example of his Lyapack)."""
    blocks = [scipy.sparse.csc_matrix([[-1.0, w], [-w, -1.0]]) for w in (100.0, 200.0, 400.0)]
    A = scipy.sparse.block_diag([*blocks, scipy.sparse.diags(-np.arange(1.0, 1001.0))])
    B = np.ones((1006, 1))
    B[:6] = 10
    return sparse_system(A, B, B.T)


def random_sparse(seed, n, m, p, *, mass=True, dt=0, complex=False):
    """A stable system with diagonally dominant matrices of random pattern, so that Gershgorin proves it stable."""
    rng = np.random.default_rng(seed)

    def entries(*shape):
        return rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if complex else 0)

    off = np.where(rng.random((n, n)) < 0.2, entries(n, n), 0)
    np.fill_diagonal(off, 0)
    reach = np.abs(off).sum(axis=1)
    A = off / (1.5 * max(reach.max(), 1e-3)) if dt else off - np.diag(reach + rng.uniform(0.1, 3, n))
    E = np.eye(n)
    if mass:  # E times a stable pencil
        E = np.eye(n) + 0.3 * np.where(rng.random((n, n)) < 0.1, entries(n, n), 0) / n
        A = E @ A
    return sparse_system(A, E @ entries(n, m), entries(p, n), entries(p, m), E if mass else None, dt)


def residuals(g, Zp, Zq):
    """The relative residuals of both equations in full matrices, from their definition."""
    A, E = g.A.toarray(), np.eye(g.order) if g.E is None else g.E.toarray()
    out = []
    for a, e, b, Z in ((A, E, g.B, Zp), (A.conj().T, E.conj().T, g.C.conj().T, Zq)):
        X = Z @ Z.conj().T
        R = a @ X @ a.conj().T - e @ X @ e.conj().T if g.discrete else a @ X @ e.conj().T + e @ X @ a.conj().T
        out.append(np.linalg.norm(R + b @ b.conj().T, 2) / np.linalg.norm(b @ b.conj().T, 2))
    return out


@pytest.mark.parametrize("complex", [False, True])
@pytest.mark.parametrize("dt", [0, 0.1])
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 30),
    m=st.integers(1, 3),
    p=st.integers(1, 3),
    mass=st.booleans(),
)
def test_random_systems_against_dense_solvers(seed, n, m, p, mass, dt, complex):
    g = random_sparse(seed, n, m, p, mass=mass, dt=dt, complex=complex)
    Zp, Zq, info = gramian_factors_lr(g)
    assert max(residuals(g, Zp, Zq)) < 1e-11
    assert max(*info.residuals, *info.steady_residuals) < 1e-11
    assert np.iscomplexobj(Zp) == complex
    E = np.eye(n) if g.E is None else g.E.toarray()
    values = np.linalg.svd(Zq.conj().T @ E @ Zp, compute_uv=False)
    want = balred.hsv(g.to_dense())
    k = min(len(values), n)
    assert_allclose(values[:k], want[:k], atol=1e-9 * want[0])
    # a Gramian known to a part r of it tells nothing of values below the square root of r
    assert np.all(want[k:] <= max(info.residuals) ** 0.5 * want[0])
    small = g.compressed
    assert (small.dt, np.iscomplexobj(small.A)) == (g.dt, complex)
    for s in (0.4 + 1.2j, 1.7):
        assert_allclose(small(s), g.to_dense()(s), atol=1e-8 * want[0])
        assert_allclose(g(s), g.to_dense()(s), rtol=1e-10)


@pytest.mark.alike
@pytest.mark.parametrize(
    "make", [lambda: plate(18), lambda: plate(18, wind=300.0), penzl], ids=["plate", "wind", "penzl"]
)
def test_hankel_singular_values_against_dense(make):
    g = make()
    values, want = balred.hsv(g), balred.hsv(g.to_dense())
    assert len(values) >= 12
    assert_allclose(values, want[: len(values)], atol=1e-10 * want[0])


@pytest.mark.full
def test_two_thousand_states_against_dense():
    g = rod(2000)
    values, want = balred.hsv(g), balred.hsv(g.to_dense())
    assert len(values) >= 10
    assert_allclose(values, want[: len(values)], atol=1e-9 * want[0])
    assert want[len(values)] < 1e-9 * want[0]


@pytest.mark.parametrize("n", [200, 2000])
def test_hankel_singular_values_against_modes_in_closed_form(n):
    values, want = balred.hsv(rod(n)), balred.hsv(rod_modes(n))
    assert_allclose(values, want[: len(values)], atol=1e-9 * want[0])


@pytest.mark.full
def test_slow_modes_are_reached_although_the_residual_is_small_without_them():
    """Heat enters at one cell of 20,000: the residual falls below 1e-10 long before anything has reached the other end.

    Iterations that watch it alone stop there, with Hankel singular values near zero; the truth is sinh/sinh.
    """
    n = 20_000
    g = rod(n)
    small = balred.reduce(g, 8)
    bound = balred.analyze(g).bound(8)
    assert bound < 1e-5 * balred.hsv(g)[0]
    for s in (0, 1j, 10j, 100j):
        assert_allclose(small(s), rod_transfer(n, s), rtol=0, atol=1.01 * bound)


def test_a_stiff_rod_has_the_values_of_its_modes():
    """2000 cells, poles from -9.9 to -1.6e7: entries of which the last digits are as large as the slow poles."""
    n = 2000
    g = rod(n)
    for s in (0, 1j, 100j):
        assert_allclose(g(s), rod_transfer(n, s), rtol=0, atol=1e-14 * rod_transfer(n, 0))
    values, want = balred.hsv(g)[:8], balred.hsv(rod_modes(n))[:8]
    assert_allclose(values, want, rtol=0, atol=1e-12 * rod_transfer(n, 0))


@pytest.mark.slow
def test_a_rod_of_a_hundred_thousand_states():
    n = 100_000
    g = rod(n)
    scale = rod_transfer(n, 0)
    for s in (0, 1j, 10j, 100j, 1000j):
        assert_allclose(g.compressed(s), rod_transfer(n, s), rtol=0, atol=1e-10 * scale)
    # over its steady gain a rod of n cells has values that tend to a limit like 1/n^2: from 2000 and 4000 in closed form
    coarse, fine = (balred.hsv(rod_modes(k))[:8] / rod_transfer(k, 0) for k in (2000, 4000))
    assert_allclose(balred.hsv(g)[:8] / scale, (4 * fine - coarse) / 3, rtol=0, atol=1e-10)


@pytest.mark.slow
def test_a_plate_of_a_hundred_thousand_states():
    g = plate(317)
    assert g.order > 100_000
    small = balred.reduce(g, balred.ErrorBound(1e-4, relative=True))
    bound = 1e-4 * balred.hsv(g)[0]
    for s in (0, 1j, 10j, 100j, 1000j):
        assert np.linalg.norm(small(s) - g(s), 2) <= bound


@pytest.mark.parametrize("scales", [(1e8, 1.0, 1.0), (1e-8, 1.0, 1.0), (1.0, 1e8, 1e-8), (1.0, 1e-8, 1e8)])
def test_units_do_not_matter(scales):
    """Time, inputs and outputs in other units: sigma is multiplied by those of B and C, divided by that of A."""
    time, inputs, outputs = scales
    g = plate(8)
    scaled = sparse_system(g.A * time, g.B * inputs, g.C * outputs, E=g.E)
    values, want = balred.hsv(scaled), balred.hsv(g) * inputs * outputs / time
    k = min(len(values), len(want))
    assert_allclose(values[:k], want[:k], atol=1e-10 * want[0])


def test_implicit_time_steps():
    """(E - tA) x+ = E x + tB u is a discrete system with a mass matrix."""
    g, t = plate(12), 1e-3
    step = sparse_system(g.E, t * g.B, g.C, E=g.E - t * g.A, dt=t)
    assert step.discrete
    values, want = balred.hsv(step), balred.hsv(step.to_dense())
    assert_allclose(values, want[: len(values)], atol=1e-10 * want[0])
    Zp, Zq, _ = gramian_factors_lr(step)
    assert max(residuals(step, Zp, Zq)) < 1e-11
    assert balred.reduce(step, 3).dt == t


def test_the_measured_residuals_are_those_of_the_definition():
    g = plate(10, wind=50.0)
    Zp, Zq, info = gramian_factors_lr(g, tol=1e-5)
    assert_allclose(info.residuals, residuals(g, Zp, Zq), rtol=0.05)
    assert max(info.residuals) > 1e-10
    assert info.columns == (Zp.shape[1], Zq.shape[1])
    A = np.linalg.inv(g.A.toarray())
    X, b = Zp @ Zp.T, A @ g.B
    R = X @ (A @ g.E.toarray()).T + A @ g.E.toarray() @ X + b @ b.T
    assert_allclose(info.steady_residuals[0], np.linalg.norm(R, 2) / np.linalg.norm(b @ b.T, 2), rtol=0.05)


def test_a_tighter_tolerance_takes_more_steps():
    g = plate(10)
    steps = [gramian_factors_lr(g, tol=tol)[2].steps for tol in (1e-4, 1e-8, 1e-12)]
    assert steps == sorted(steps)
    assert steps[0] < steps[2]


def test_a_symmetric_system_is_solved_once():
    A = rod(300).A
    B = np.zeros((300, 1))
    B[0] = 1
    Zp, Zq, _ = gramian_factors_lr(sparse_system(A, B, B.T))
    assert Zq is Zp


def test_against_pymor():
    """pyMOR's low-rank ADI, where nothing is stiff."""
    pytest.importorskip("pymor")
    from pymor.core.logger import set_log_levels
    from pymor.models.iosys import LTIModel

    set_log_levels({"pymor": "ERROR"})
    g = plate(35)  # larger than what pyMOR solves densely
    want = LTIModel.from_matrices(g.A, g.B, g.C, E=g.E).hsv()
    values = balred.hsv(g)
    k = min(len(values), len(want))
    assert k >= 10
    assert_allclose(values[:k], want[:k], atol=1e-9 * want[0])


@pytest.mark.parametrize("method", ["truncate", "singular_perturbation"])
def test_methods_and_rules_take_sparse_systems(method):
    g = plate(15)
    a = balred.analyze(g, method=method)
    for rule in (4, balred.Energy(0.999), balred.Relative(1e-4), balred.ErrorBound(1e-3, relative=True)):
        small = balred.reduce(g, rule, method=method)
        assert isinstance(small, balred.DenseSystem)
        for s in (0, 3j, 30j):
            assert np.linalg.norm(small(s) - g(s), 2) <= 1.001 * a.bound(small.order)
    if method == "singular_perturbation":
        assert_allclose(small(0), g(0), rtol=1e-8)
    assert_allclose(balred.reduce(g, 5, method=method)(2j), a.reduce(5)(2j))


def test_reduce_sparse_agrees_with_reduce():
    g = plate(15)
    for rule in (4, balred.Energy(0.999)):
        direct, through = reduce_sparse(g, rule), balred.reduce(g, rule)
        assert direct.order == through.order
        assert_allclose(direct(3j), through(3j), rtol=1e-6)
    P, Q = balred.gramians(reduce_sparse(g, 4))
    assert_allclose(np.diag(P), balred.hsv(g)[:4], rtol=1e-3)
    assert_allclose(np.diag(Q), balred.hsv(g)[:4], rtol=1e-3)


def test_norms_and_errors_of_sparse_systems():
    g = plate(12)
    dense = g.to_dense()
    for kind in ("h2", "hinf", "hankel"):
        assert_allclose(balred.norm(g, kind), balred.norm(dense, kind), rtol=1e-9)
    small = balred.reduce(g, 4)
    assert_allclose(balred.error(g, small), balred.error(dense, small), rtol=1e-5)


def test_the_system_itself():
    g = plate(4)
    assert repr(g) == "SparseSystem(states=16, inputs=2, outputs=3, continuous, 200 nonzeros)"
    assert (g.states, g.order, g.discrete) == (16, 16, False)
    assert g.compressed is g.compressed
    assert_allclose(g(2j), g.to_dense()(2j), rtol=1e-12)
    again = sparse_system(g.A.tocoo(), scipy.sparse.csr_matrix(g.B), g.C.tolist(), 1.0, g.E.tocsr(), 0.1)
    assert_allclose(again.D, np.ones((3, 2)))
    assert again.dt == 0.1


def damped(K):
    """Masses with stiffness K, Rayleigh damping, a force on one and the position of another."""
    m = K.shape[0]
    eye = scipy.sparse.identity(m)
    A = scipy.sparse.bmat([[None, eye], [-K, -0.5 * eye - 0.2 * K]])
    B, C = np.zeros((2 * m, 1)), np.zeros((1, 2 * m))
    B[m], C[0, m // 2] = 1, 1
    return sparse_system(A, B, C)


@pytest.mark.parametrize("tol", [1e-10, 1e-14])
def test_a_damped_chain_converges_at_the_default_too(tol):
    K = scipy.sparse.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(400, 400))
    g = damped(K)
    Zp, Zq, info = gramian_factors_lr(g, tol=tol)
    assert max(*info.residuals, *info.steady_residuals) <= 1.05 * max(tol, 1e-11)
    values, want = np.linalg.svd(Zq.T @ Zp, compute_uv=False), balred.hsv(g.to_dense())
    k = min(len(values), len(want))
    assert_allclose(values[:k], want[:k], atol=1e-5 * want[0] if tol > 1e-12 else 1e-9 * want[0])


def test_a_damped_plate_against_dense():
    line = scipy.sparse.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(17, 17))
    eye = scipy.sparse.identity(17)
    g = damped(scipy.sparse.kron(line, eye) + scipy.sparse.kron(eye, line))
    values, want = balred.hsv(g), balred.hsv(g.to_dense())
    assert_allclose(values, want[: len(values)], atol=1e-9 * want[0])


def test_options_say_how_accurately_a_sparse_system_is_solved():
    """As one that was made with them, of which the factors are looser than at the default."""
    g = plate(15)
    loose = sparse_system(g.A, g.B, g.C, E=g.E, tol=1e-4)
    steps = [gramian_factors_lr(x)[2].steps for x in (loose, g)]
    assert steps[0] < steps[1]
    assert gramian_factors_lr(g, tol=1e-4)[2].steps == steps[0]
    want, exact = balred.reduce(loose, 4)(3j), balred.reduce(g, 4)(3j)
    assert np.abs(want - exact).max() > 1e-12
    for made in (
        balred.reduce(g, 4, tol=1e-4),
        balred.reduce(g, [2, 4], tol=1e-4)[1],
        balred.plan(g, 4, tol=1e-4).apply(),
        balred.analyze(g, tol=1e-4).reduce(4),
        balred.reduce([g, g], 4, tol=1e-4)[1],
        balred.reduce(StoredSystem(g), 4, tol=1e-4).system,
    ):
        assert_allclose(made(3j), want, rtol=1e-12)
    assert_allclose(balred.reduce(g, 4, method="stochastic", beta=1.0, tol=1e-4)(3j), exact, rtol=0.1)
    assert balred.reduce(g, 4, tol=1e-14, max_steps=500).states == 4  # the defaults
    # a method that has a tolerance too keeps its own: 0.9 ends its iteration at once
    assert balred.reduce(g, 4, method="irka", tol=0.9).states == 4
    with pytest.raises(ConvergenceError, match=r"in 3 steps"):
        balred.reduce(g, 4, max_steps=3)


def test_options_that_a_system_does_not_have_are_told_by_name():
    g = plate(5)
    for obj in (g.to_dense(), [g.to_dense(), g.to_dense()]):
        with pytest.raises(TypeError, match=r"the options of method 'truncate' are none, got 'tol'"):
            balred.reduce(obj, 2, tol=1e-8)
    with pytest.raises(TypeError, match=r"are none, got 'tolerance'"):
        balred.reduce(g, 2, tol=1e-8, tolerance=1)
    with pytest.raises(TypeError, match=r"must mean the same for all systems, got tol for sparse systems and others"):
        balred.reduce([g, g.to_dense()], 2, tol=1e-8)
    for tol in (0, 1, -1e-8, np.nan, "small", True):
        with pytest.raises(ValueError, match=r"tol must be a number between 0 and 1, got"):
            balred.reduce(g, 2, tol=tol)
    for steps in (0, 2.5, True):
        with pytest.raises(ValueError, match=r"max_steps must be a positive integer, got"):
            sparse_system(g.A, g.B, g.C, max_steps=steps)


def test_residuals_that_rounding_has_taken_over_are_told(monkeypatch):
    from balred.solvers import adi

    monkeypatch.setattr(adi._Side, "measured", lambda side: (1e-5, 1e-9))
    with pytest.raises(
        ConvergenceError, match=r"must be below 1e-06, got 1e-05, although the iteration itself reached 1e-14"
    ):
        gramian_factors_lr(plate(8))


def test_failure_to_converge_is_told():
    with pytest.raises(ConvergenceError, match=r"a relative residual of 1e-14 in 5 steps, got .* after [56]"):
        gramian_factors_lr(plate(12), max_steps=5)
    g = rod(50)
    unstable = dataclasses.replace(g, A=g.A + 50 * scipy.sparse.identity(50, format="csc"))
    with pytest.raises((ConvergenceError, balred.UnstableError)):
        balred.hsv(unstable)


def test_errors():
    g = plate(5)
    with pytest.raises(balred.UnstableError, match="the system has a pole at zero"):
        gramian_factors_lr(sparse_system(0 * g.A, g.B, g.C))
    singular = g.E.tolil()
    singular[0] = 0
    with pytest.raises(ValueError, match="E must be nonsingular, got one that is singular to working precision"):
        balred.hsv(sparse_system(g.A, g.B, g.C, E=singular))
    for B, C in ((0 * g.B, g.C), (g.B, 0 * g.C)):
        with pytest.raises(ValueError, match="got none: inputs do not reach outputs"):
            balred.hsv(sparse_system(g.A, B, C))
    for rank in (0, 10_000, 2.0, True):
        with pytest.raises(ValueError, match="rank must be a rule or an integer between 1 and the numerical rank"):
            reduce_sparse(g, rank)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"A": np.ones((2, 3))}, r"A must have shape \(n, n\), got \(2, 3\)"),
        ({"E": np.eye(3)}, r"E must have the shape of A, \(2, 2\), got \(3, 3\)"),
        ({"B": np.ones((3, 1))}, r"B must have shape \(n, m\) with n = 2, got \(3, 1\)"),
        ({"B": np.ones(2)}, r"B must have shape \(n, m\) with n = 2, got \(2,\)"),
        ({"C": np.ones((1, 3))}, r"C must have shape \(p, n\) with n = 2, got \(1, 3\)"),
        ({"D": np.ones((2, 2))}, r"D must have shape \(p, m\) = \(1, 1\), got \(2, 2\)"),
        ({"B": np.ones((2, 0))}, "at least one state, one input and one output, got n = 2, m = 0, p = 1"),
        ({"A": np.diag([np.nan, 1.0])}, "A must be finite, got 1 NaN"),
        ({"E": np.diag([np.inf, 1.0])}, "E must be finite, got 1 NaN or infinite entries"),
        ({"dt": -1}, "dt must be 0 .*, got -1"),
    ],
)
def test_bad_matrices(change, message):
    arguments = {"A": -np.eye(2), "B": np.ones((2, 1)), "C": np.ones((1, 2)), **change}
    with pytest.raises(ValueError, match=message):
        sparse_system(**arguments)
