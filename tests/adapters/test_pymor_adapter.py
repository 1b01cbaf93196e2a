"""pyMOR's ``LTIModel`` in and out, and its Lyapunov equations with our solvers behind them.

The equations are those of pyMOR's own tests: a convection-diffusion problem in one dimension by finite differences
(E = I) and by finite elements, of order 10, 20 and 300, random full matrices (unstable, most of them), with the
residual below 1e-10 that is asked for there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sps
from numpy.testing import assert_allclose

pymor = pytest.importorskip("pymor")

from pymor.models.iosys import LTIModel, SecondOrderModel  # noqa: E402
from pymor.reductors.bt import BRBTReductor, BTReductor, LQGBTReductor, PRBTReductor  # noqa: E402
from pymor.reductors.sobt import (  # noqa: E402
    SOBTfvReductor,
    SOBTpReductor,
    SOBTpvReductor,
    SOBTReductor,
    SOBTvpReductor,
    SOBTvReductor,
)
from pymor.solvers.matrix_equations.default import MatrixEquationSolvers  # noqa: E402
from pymor.solvers.matrix_equations.equations import (  # noqa: E402
    LyapunovEquation,
    PositiveRiccatiEquation,
    RiccatiEquation,
)
from tables import frequencies  # noqa: E402

import balred  # noqa: E402
from balred.adapters.pymor import (  # noqa: E402
    BalredLyapunovSolver,
    BalredLyapunovSolverLR,
    BalredPositiveRiccatiSolver,
    BalredPositiveRiccatiSolverLR,
    BalredRiccatiSolver,
    BalredRiccatiSolverLR,
    lti_model,
    matrix_equation_solvers,
    second_order_model,
)
from balred.realisations.sparse import sparse_system  # noqa: E402
from balred.testing import random_system  # noqa: E402


def convection_diffusion(n: int, with_E: bool, dt: bool) -> tuple[Any, Any]:
    """A and E (None for finite differences) of u_t = u_xx - 0.1 u_x on (0, 1); explicit Euler steps if `dt`."""
    h, b = 1 / (n + 1), 0.1
    A = sps.diags([1 / h**2 + b / (2 * h), -2 / h**2, 1 / h**2 - b / (2 * h)], offsets=[-1, 0, 1], shape=(n, n))
    E = sps.diags([1 / 6, 2 / 3, 1 / 6], offsets=[-1, 0, 1], shape=(n, n))
    mass = E if with_E else sps.identity(n)
    if dt:
        A = mass + 0.1 / (4 / h**2 + b / h) * A
    return sps.csc_array(A), sps.csc_array(E) if with_E else None


def residual(equation: LyapunovEquation, X: Any) -> float:
    """Relative, from the definition of the equation."""
    A, E, B = equation.to_matrices()
    E = np.eye(len(A)) if E is None else E
    if equation.trans:
        A, E, B = A.T, E.T, B.T
    left = A @ X @ E.T + E @ X @ A.T if equation.cont_time else A @ X @ A.T - E @ X @ E.T
    return float(np.linalg.norm(left + B @ B.T) / np.linalg.norm(B @ B.T))


each_equation = pytest.mark.parametrize("with_E", [False, True], ids=["I", "E"])
each_side = pytest.mark.parametrize("trans", [False, True], ids=["control", "observe"])
each_time = pytest.mark.parametrize("cont_time", [True, False], ids=["continuous", "discrete"])
each_width = pytest.mark.parametrize("m", [1, 2])


@each_width
@each_equation
@each_side
@each_time
@pytest.mark.parametrize(("n", "sparse_from"), [(10, None), (20, None), (20, 1), (300, 1)])
def test_low_rank_factors(n: int, m: int, with_E: bool, trans: bool, cont_time: bool, sparse_from: int | None) -> None:
    A, E = convection_diffusion(n, with_E, not cont_time)
    B = np.random.default_rng(n + m).standard_normal((n, m))
    before = A.toarray(), None if E is None else E.toarray(), B.copy()
    equation = LyapunovEquation.from_matrices(A, E, B.T if trans else B, trans=trans, cont_time=cont_time)
    Z = equation.solve_lr(BalredLyapunovSolverLR(sparse_from=sparse_from))
    assert Z in equation.A.source
    assert len(Z) <= n
    assert residual(equation, Z.to_numpy() @ Z.to_numpy().T) < 1e-10
    for old, new in zip(before, (A.toarray(), None if E is None else E.toarray(), B), strict=True):
        np.testing.assert_array_equal(old, new)


@each_width
@each_equation
@each_side
@each_time
@pytest.mark.parametrize("stable", [True, False], ids=["stable", "unstable"])
@pytest.mark.parametrize("n", [1, 10, 20])
def test_dense_solutions(n: int, m: int, with_E: bool, trans: bool, cont_time: bool, stable: bool) -> None:
    rng = np.random.default_rng(n + 7 * m)
    A = rng.standard_normal((n, n))
    E = np.eye(n) + rng.standard_normal((n, n)) / n if with_E else None
    if stable:  # of the pencil, whatever E
        g = random_system(n, dt=0 if cont_time else 1, seed=n)
        A = g.A if E is None else E @ g.A
    B = rng.standard_normal((n, m))
    equation = LyapunovEquation.from_matrices(A, E, B.T if trans else B, trans=trans, cont_time=cont_time)
    X = equation.solve(BalredLyapunovSolver())
    assert type(X) is np.ndarray
    assert residual(equation, X) < 1e-10
    assert_allclose(X, X.T, rtol=1e-9, atol=1e-12 * np.abs(X).max())


@pytest.mark.parametrize("trans", [False, True])
def test_equations_that_nothing_drives(trans: bool) -> None:
    """Without a column on the right, or without an input, X = 0 solves them, and with outputs alone a Lyapunov equation is left."""
    A, none, some = np.array([[-1.0, 2.0], [0.0, -3.0]]), np.zeros((2, 0)), np.ones((2, 1))
    equation = LyapunovEquation.from_matrices(A, None, none.T if trans else none, trans=trans)
    assert not np.any(equation.solve(BalredLyapunovSolver()))
    assert not np.any(equation.solve_lr(BalredLyapunovSolverLR()).to_numpy())
    drive, rest = (none, some.T) if trans else (some, none.T)
    lyapunov = LyapunovEquation.from_matrices(A, None, some.T if trans else some, trans=trans)
    for kind, full, lr in (
        (RiccatiEquation, BalredRiccatiSolver, BalredRiccatiSolverLR),
        (PositiveRiccatiEquation, BalredPositiveRiccatiSolver, BalredPositiveRiccatiSolverLR),
    ):
        riccati = kind.from_matrices(A, None, drive, rest, trans=trans)
        assert_allclose(riccati.solve(full()), lyapunov.solve(BalredLyapunovSolver()), rtol=1e-12)
        Z = riccati.solve_lr(lr()).to_numpy()
        assert_allclose(Z @ Z.T, lyapunov.solve(BalredLyapunovSolver()), rtol=1e-12)
        still = kind.from_matrices(A, None, *((some, none.T) if trans else (none, some.T)), trans=trans)
        assert not np.any(still.solve(full()))
        assert not np.any(still.solve_lr(lr()).to_numpy())


def test_an_unstable_equation_has_no_factor() -> None:
    equation = LyapunovEquation.from_matrices(np.diag([1.0, -2.0]), None, np.ones((2, 1)))
    with pytest.raises(balred.UnstableError, match="got a pole at 1"):
        equation.solve_lr(BalredLyapunovSolverLR())


def solvers() -> MatrixEquationSolvers:
    return MatrixEquationSolvers(BalredLyapunovSolver(), BalredLyapunovSolverLR())


def test_pymors_reductor_sees_more_values_through_our_solver() -> None:
    # poles -1, -4, -9, ...: the values fall by eighteen decades
    A, B = np.diag(-(np.arange(1, 21.0) ** 2)), np.ones((20, 1))
    plain, model = (
        LTIModel.from_matrices(A, B, B.T, matrix_equation_solvers=s) for s in (MatrixEquationSolvers(), solvers())
    )
    # the closed form of a diagonal system, which has every value to high relative accuracy
    want = balred.hsv(balred.diagonal(-(np.arange(1, 21.0) ** 2), B, B.T), solver="cauchy")
    known = want > 1e-14 * want[0]
    assert_allclose(model.hsv()[known], want[known], rtol=1e-6)
    assert np.abs(plain.hsv()[known] / want[known] - 1).max() > 1e-6
    rom = BTReductor(model).reduce(6)
    assert balred.error(model, rom) <= 2 * want[6:].sum() * (1 + 1e-6)


def test_complex_models_have_the_right_values_through_our_solver() -> None:
    g = random_system(6, seed=1)
    rotated = balred.ss(g.A + 3j * np.eye(6), g.B * 1j, g.C * (1 + 1j) / 2**0.5)  # a shift along the axis keeps values
    model = lti_model(rotated, matrix_equation_solvers=solvers())
    assert_allclose(model.hsv(), balred.hsv(g), rtol=1e-8)


@pytest.mark.parametrize("dt", [0, 0.1])
@pytest.mark.parametrize("with_D", [True, False])
def test_a_model_in_and_out(dt: float, with_D: bool) -> None:
    g = random_system(8, 2, 3, dt=1 if dt else 0, seed=3)
    D = np.arange(6.0).reshape(3, 2) if with_D else None
    model = LTIModel.from_matrices(g.A, g.B, g.C, D, sampling_time=dt, name="plant", matrix_equation_solvers=solvers())
    small = balred.reduce(model, 3)
    assert type(small) is LTIModel
    assert (small.order, small.sampling_time, small.name, model.order) == (3, dt, "plant", 8)
    assert small.matrix_equation_solvers is model.matrix_equation_solvers
    want = balred.reduce(balred.ss(g.A, g.B, g.C, D, dt), 3)
    A, B, C, D_small, E = small.to_abcde_matrices()
    for mine, other in ((A, want.A), (B, want.B), (C, want.C)):
        assert_allclose(mine, other, atol=1e-12)
    assert E is None
    if with_D:
        assert_allclose(D_small, D)
    else:
        assert D_small is None
    z = np.exp(0.3j) if dt else 0.3j
    assert_allclose(small.transfer_function.eval_tf(z), want(z), atol=1e-12)
    assert_allclose(balred.hsv(model), model.hsv(), rtol=1e-8)
    if dt or not with_D:  # infinite in continuous time
        assert_allclose(balred.norm(model, "h2"), model.h2_norm(), rtol=1e-8)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("dt", [False, True])
def test_a_mass_matrix_is_divided_out(sparse: bool, dt: bool) -> None:
    A, E = convection_diffusion(20, True, dt)
    B = np.zeros((20, 1))
    B[3] = 1.0
    if not sparse:
        A, E = A.toarray(), E.toarray()
    model = LTIModel.from_matrices(A, B, B.T, E=E, sampling_time=float(dt), matrix_equation_solvers=solvers())
    assert_allclose(balred.hsv(model)[:8], model.hsv()[:8], rtol=1e-6)
    small = balred.reduce(model, 5)
    bound = balred.analyze(model).bound(5)
    for z in frequencies(balred.adapt(model)[0], 20):
        gap = small.transfer_function.eval_tf(z) - model.transfer_function.eval_tf(z)
        assert np.linalg.norm(gap, 2) <= bound * (1 + 1e-6)


def test_an_algebraic_equation_is_solved() -> None:
    # x' = -x + z + u, 0 = x - 2 z + u, y = x + z: z = (x + u) / 2
    E, A = np.diag([1.0, 0.0]), np.array([[-1.0, 1.0], [1.0, -2.0]])
    model = LTIModel.from_matrices(A, np.ones((2, 1)), np.ones((1, 2)), E=E)
    system, _ = balred.adapt(model)
    assert system.order == 1
    assert_allclose(system(0.7j), 1.5 * 1.5 / (0.7j + 0.5) + 0.5, rtol=1e-12)


@pytest.mark.full
def test_a_large_sparse_model_is_not_made_full() -> None:
    n = 3000
    A, E = convection_diffusion(n, True, False)
    B = np.zeros((n, 1))
    B[n // 2] = n
    model = LTIModel.from_matrices(A, sps.csc_array(B), sps.csc_array(B.T / n), E=E)
    system, _ = balred.adapt(model)
    assert system.order < 100
    small = balred.reduce(model, balred.ErrorBound(1e-6, relative=True))
    assert small.order < 40
    for s in (0.0, 1e2j, 1e5j):
        full = model.transfer_function.eval_tf(s)
        assert_allclose(small.transfer_function.eval_tf(s), full, atol=2e-6 * float(balred.hsv(model)[0]))


def test_what_cannot_be_read_says_so() -> None:
    A, B, C = np.diag([-1.0, -2.0]), np.ones((2, 1)), np.ones((1, 2))
    plain = LTIModel.from_matrices(A, B, C)
    parametric = plain.with_(A=plain.A * pymor.parameters.functionals.ProjectionParameterFunctional("mu"))
    with pytest.raises(ValueError, match="must not depend on parameters"):
        balred.hsv(parametric)
    index2 = LTIModel.from_matrices(np.eye(2), np.array([[0.0], [1.0]]), C, E=np.array([[0.0, 1.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match=r"grows like s\^1 \(the index is 2\)"):
        balred.hsv(index2)


def test_the_time_of_a_simulation_survives() -> None:
    from pymor.algorithms.timestepping import ImplicitEulerTimeStepper

    g = random_system(6, seed=0)
    make = {"T": 2.0, "time_stepper": ImplicitEulerTimeStepper(100)}
    model = LTIModel.from_matrices(g.A, g.B, g.C, **make)
    small = balred.reduce(model, 5)
    assert (small.T, small.time_stepper.nt) == (2.0, 100)
    assert np.abs(small.output(input="[sin(t[0]),1]") - model.output(input="[sin(t[0]),1]")).max() < 0.1
    moving = LTIModel.from_matrices(g.A, g.B, g.C, initial_data=np.ones((6, 1)), **make)
    assert balred.hsv(moving).shape == (6,)
    with pytest.raises(ValueError, match="initial data must be zero"):
        balred.reduce(moving, 3)


@pytest.mark.parametrize("dt", [0, 0.1])
def test_our_systems_become_models(dt: float) -> None:
    g = random_system(5, 2, 1, dt=1 if dt else 0, seed=2)
    g = balred.ss(g.A, g.B, g.C, [[1.0, 0.0]], dt)
    model = lti_model(g, name="ours")
    assert (model.name, model.sampling_time, model.dim_input, model.dim_output) == ("ours", dt, 2, 1)
    for mine, other in zip(model.to_abcde_matrices(), (g.A, g.B, g.C, g.D), strict=False):
        assert_allclose(mine, other)
    assert balred.adapt(lti_model(balred.reduce(g, 2)))[0].order == 2
    conjugate = balred.diagonal([-1.0 + 1j], B=[[1.0]], C=[[1.0]], conjugate=True)
    assert_allclose(lti_model(conjugate).transfer_function.eval_tf(1j), conjugate(1j), rtol=1e-12)


def test_a_sparse_system_stays_sparse_in_pymor() -> None:
    A, E = convection_diffusion(50, True, False)
    g = sparse_system(A, np.ones((50, 1)), np.ones((1, 50)), None, E)
    back = lti_model(g).to_abcde_matrices()
    assert sps.issparse(back[0])
    assert (back[0] != A).nnz == 0
    assert (back[4] != E).nnz == 0


def test_an_unspecified_step_must_be_given() -> None:
    g = random_system(3, dt=1, seed=0)
    g = balred.ss(g.A, g.B, g.C, dt=True)
    assert lti_model(g, sampling_time=0.5).sampling_time == 0.5
    with pytest.raises(ValueError, match="needs a step, got dt=True"):
        lti_model(g)
    with pytest.raises(ValueError, match="sampling_time must be that of the system, 0, got 1"):
        lti_model(random_system(3), sampling_time=1)


# ------------------------------------------------------------------------------------------------ Riccati equations


def riccati_residual(equation: Any, X: Any, sign: int) -> float:
    """Relative, from the definition of the equation."""
    A, E, B, C, R, S = equation.to_matrices()
    E = np.eye(len(A)) if E is None else E
    if equation.trans:
        S = np.zeros_like(B) if S is None else S
    else:
        A, E, B, C, S = A.T, E.T, C.T, B.T, np.zeros_like(C.T) if S is None else S.T
    R = np.eye(B.shape[1]) if R is None else R
    G = E.T @ X @ B + S
    terms = (A.T @ X @ E + E.T @ X @ A, sign * G @ np.linalg.solve(R, G.T), C.T @ C)
    return float(np.linalg.norm(terms[0] - terms[1] + terms[2]) / max(map(np.linalg.norm, terms)))


@each_equation
@each_side
@pytest.mark.parametrize("weights", ["plain", "R", "R and S"])
@pytest.mark.parametrize("sign", [1, -1], ids=["riccati", "positive"])
def test_riccati_equations(with_E: bool, trans: bool, weights: str, sign: int) -> None:
    n, m, p = 12, 2, 3
    rng = np.random.default_rng(n)
    g = random_system(n, m, p, seed=n)
    E = np.eye(n) + 0.1 * rng.standard_normal((n, n)) if with_E else None
    A = g.A if E is None else E @ g.A
    B, C = 0.05 * g.B, 0.05 * g.C  # small enough for the positive equation to have a solution
    k = m if trans else p
    R = None if weights == "plain" else np.eye(k) + 0.1 * np.ones((k, k))
    S = None if weights != "R and S" else 0.01 * (C.T @ np.ones((p, m)) if trans else (B @ np.ones((m, p))).T)
    make = RiccatiEquation if sign == 1 else PositiveRiccatiEquation
    equation = make.from_matrices(A, E, B, C, R=R, S=S, trans=trans)
    dense = BalredRiccatiSolver() if sign == 1 else BalredPositiveRiccatiSolver()
    low = BalredRiccatiSolverLR() if sign == 1 else BalredPositiveRiccatiSolverLR()
    X, Z = equation.solve(dense), equation.solve_lr(low)
    assert riccati_residual(equation, X, sign) < 1e-10
    assert Z in equation.A.source
    assert_allclose(Z.to_numpy() @ Z.to_numpy().T, X, atol=1e-9 * np.abs(X).max())
    assert_allclose(X, equation.solve(), atol=1e-8 * np.abs(X).max())  # pyMOR's own


def test_a_riccati_equation_without_a_solution_says_so() -> None:
    one = np.eye(1)
    # 2 a x + x^2 + c^2 = 0 has real roots for |a| >= c only
    equation = PositiveRiccatiEquation.from_matrices(-one, None, one, 2 * one, trans=True)
    with pytest.raises(ValueError, match="must have a stabilising solution, got"):
        equation.solve(BalredPositiveRiccatiSolver())


def test_large_sparse_riccati_equations_are_left_to_pymor() -> None:
    A, E = convection_diffusion(1000, True, False)
    B = np.zeros((1000, 1))
    B[500] = 1.0
    equation = RiccatiEquation.from_matrices(A, E, B, B.T, trans=True)
    Z = equation.solve_lr(BalredRiccatiSolverLR())
    assert len(Z) < 100


@pytest.mark.parametrize("reductor", [LQGBTReductor, BRBTReductor, PRBTReductor, BTReductor])
def test_pymors_reductors_take_all_our_solvers(reductor: Any) -> None:
    g = random_system(8, 1, 1, seed=2)
    # passive and of small gain: a symmetric system with a direct term
    A = -(g.A @ g.A.T) - np.eye(8)
    one, two = (
        LTIModel.from_matrices(A, 0.5 * g.B, 0.5 * g.B.T, np.eye(1), matrix_equation_solvers=s)
        for s in (matrix_equation_solvers(), MatrixEquationSolvers())
    )
    options = {} if reductor is not BRBTReductor else {"gamma": 100.0}
    mine, theirs = (reductor(model, **options).reduce(3) for model in (one, two))
    for s in (0.1j, 1j, 10j):
        assert_allclose(mine.transfer_function.eval_tf(s), theirs.transfer_function.eval_tf(s), rtol=1e-6)


# ------------------------------------------------------------------------------------------------ second order


def chain(n: int = 8, sparse: bool = False, **options: Any) -> SecondOrderModel:
    """Masses in a row between walls, pushed and read at the first."""
    M = np.diag(np.linspace(1.0, 2.0, n))
    K = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    B = np.eye(n)[:, :1]
    if sparse:
        M, K = sps.csc_array(M), sps.csc_array(K)
    return SecondOrderModel.from_matrices(M, 0.3 * K + 0.1 * M, K, B, B.T, **options)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_second_order_model_is_read_by_its_states(sparse: bool) -> None:
    model = chain(sparse=sparse)
    system = balred.adapt(model)[0]
    assert system.order == 16
    M, E, K, B, C, *_ = (x.toarray() if sps.issparse(x) else x for x in model.to_matrices())
    for s in (0.1j, 1j, 3j):
        assert_allclose(system(s), C @ np.linalg.solve(s**2 * M + s * E + K, B), rtol=1e-10)
    small = balred.analyze(model).reduce(4)  # of its first-order form
    assert type(small) is LTIModel
    assert balred.error(model, small) <= 2 * balred.hsv(model)[4:].sum() * (1 + 1e-6)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("balancing", ["position", "velocity", "position_velocity"])
def test_a_second_order_model_stays_one(balancing: str, sparse: bool) -> None:
    """What the library makes of its matrices; SOBTvReductor and SOBTpvReductor with pyMOR's own solvers make the same."""
    direct = np.array([[0.5]])
    model = chain(sparse=sparse, D=direct, name="chain", matrix_equation_solvers=matrix_equation_solvers())
    small = balred.reduce(model, 3, balancing=balancing)
    assert type(small) is SecondOrderModel
    assert (small.order, small.name, small.sampling_time) == (3, "chain", 0)
    assert small.matrix_equation_solvers is model.matrix_equation_solvers
    M, E, K, B, Cp, *_ = model.to_matrices()
    ours = balred.reduce(balred.second_order(M, E, K, B, Cp), 3, balancing=balancing)
    theirs = {"velocity": SOBTvReductor, "position_velocity": SOBTpvReductor}.get(balancing)
    for s in (0.0, 0.1j, 1j, 3j):
        mine = small.transfer_function.eval_tf(s)
        assert_allclose(mine, ours(s) + direct, rtol=1e-6)
        if theirs is not None:
            assert_allclose(mine, theirs(chain()).reduce(3).transfer_function.eval_tf(s) + direct, rtol=1e-6)
    assert float(balred.error(model, small)) < 0.5 * float(balred.norm(chain(), "hinf"))
    assert [g.order for g in balred.reduce(model, [2, 4], method="modal")] == [2, 4]


def test_large_sparse_second_order_models_are_not_made_full() -> None:
    model = chain(1200, sparse=True)
    small = balred.reduce(model, 3, method="modal")
    assert type(small) is SecondOrderModel
    system = balred.registry.reading.second_order_of({"": model})[""][0]
    assert system.sparse
    # the lowest frequencies of the chain by SciPy
    M, _, K, *_ = model.to_matrices()
    squares = sps.linalg.eigsh(K, 3, M, sigma=0, return_eigenvectors=False)
    M, _, K, *_ = small.to_matrices()
    assert_allclose(np.sort(np.linalg.eigvals(np.linalg.solve(M, K)).real), np.sort(squares), rtol=1e-8)


def test_second_order_models_that_cannot_stay() -> None:
    """Discrete ones become an LTIModel; other methods, parameters and a singular mass are refused."""
    M, E, K = 4 * np.eye(3), -2 * np.eye(3), 0.3 * np.diag([1.0, 2.0, 3.0])
    discrete = SecondOrderModel.from_matrices(M, E, K, np.ones((3, 1)), np.ones((1, 3)), sampling_time=0.1)
    assert type(balred.reduce(discrete, 2)) is LTIModel
    with pytest.raises(ValueError, match="'truncate' or 'modal' for a second-order system, got 'irka'"):
        balred.reduce(chain(), 2, method="irka")
    singular = SecondOrderModel.from_matrices(0 * M, M, K, np.ones((3, 1)), np.ones((1, 3)))
    with pytest.raises(ValueError, match="M must be nonsingular"):
        balred.reduce(singular, 2)
    mu = pymor.parameters.functionals.ProjectionParameterFunctional("mu")
    with pytest.raises(ValueError, match="a SecondOrderModel must not depend on parameters"):
        balred.reduce(chain().with_(K=chain().K * mu), 2)


def test_our_second_order_systems_become_models() -> None:
    M, E, K, B, Cp, *_ = chain(sparse=True).to_matrices()
    g = balred.second_order(M, E, K, B, Cp, 2 * Cp)
    model = second_order_model(g, name="ours")
    assert sps.issparse(model.to_matrices()[0])
    assert_allclose(model.transfer_function.eval_tf(0.7j), g(0.7j), rtol=1e-12)
    with pytest.raises(TypeError, match="g must be a SecondOrderSystem, got DenseSystem: lti_model takes others"):
        second_order_model(random_system(3))


@pytest.mark.parametrize(
    "reductor",
    [SOBTpReductor, SOBTvReductor, SOBTpvReductor, SOBTvpReductor, SOBTfvReductor, SOBTReductor],
)
def test_pymors_second_order_reductors_take_our_solvers(reductor: Any) -> None:
    mine, theirs = (
        reductor(chain(matrix_equation_solvers=s)).reduce(3)
        for s in (matrix_equation_solvers(), MatrixEquationSolvers())
    )
    assert type(mine) is SecondOrderModel
    for s in (0.1j, 1j, 3j):
        assert_allclose(mine.transfer_function.eval_tf(s), theirs.transfer_function.eval_tf(s), rtol=1e-6)
