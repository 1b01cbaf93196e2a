"""Solvers for pyMOR's Lyapunov and Riccati equations that compute factors directly.

pyMOR makes a low-rank factor from a full Gramian, which loses half the digits.  With :class:`BalredLyapunovSolverLR`, pyMOR's own
reductors (for example ``BTReductor``) get factors with all digits, for sparse operators too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymor.algorithms.to_matrix import to_matrix
from pymor.solvers.matrix_equations.default import (
    DefaultPositiveRiccatiSolverLR,
    DefaultRiccatiSolverLR,
    MatrixEquationSolvers,
)
from pymor.solvers.matrix_equations.interface import (
    LyapunovSolver,
    LyapunovSolverLR,
    PositiveRiccatiSolver,
    PositiveRiccatiSolverLR,
    RiccatiSolver,
    RiccatiSolverLR,
)
from pymor.solvers.matrix_equations.utils import mat_eqn_sparse_min_size

from balred.realisations.sparse import gramian_factors_lr, sparse_system
from balred.solvers.gramians import factors
from balred.solvers.riccati import Equation, observability_factor, stabilising
from balred.systems.arrays import backend
from balred.systems.dense_system import DenseSystem, ss
from balred.systems.poles import UnstableError, check_stable

Matrix = NDArray[Any]


class BalredLyapunovSolver(LyapunovSolver):  # type: ignore[misc]
    r"""Dense solution of a pyMOR ``LyapunovEquation``, V being the vectors on its right-hand side.

    .. math::
        AXE^H + EXA^H + VV^H = 0 \qquad\text{or}\qquad AXA^H - EXE^H + VV^H = 0

    with :math:`A^H, E^H` in place of A, E for ``trans=True``.  For a stable pencil X is a product of factors, hence
    semidefinite; otherwise it comes from the Bartels-Stewart method, which asks only that the solution is unique.

    Examples
    --------
    >>> import numpy as np
    >>> from pymor.solvers.matrix_equations.equations import LyapunovEquation
    >>> from balred.adapters.pymor import BalredLyapunovSolver
    >>> equation = LyapunovEquation.from_matrices(np.array([[-2.0]]), None, np.array([[2.0]]))
    >>> equation.solve(BalredLyapunovSolver()).round(12)
    array([[1.]])
    """

    def _solve(self, equation: Any) -> Matrix:
        system = _state_space(*_matrices(equation, sparse_from=None), equation)
        try:
            Z = _factor(system)
        except UnstableError:
            out: Matrix = backend("scipy").lyapunov(system.A, system.B @ system.B.conj().T, system.discrete)
            return out
        return Z @ Z.conj().T


class BalredLyapunovSolverLR(LyapunovSolverLR):  # type: ignore[misc]
    r"""Factor Z of the solution :math:`X = ZZ^H` of a stable pyMOR ``LyapunovEquation``.

    The equations are those of :class:`BalredLyapunovSolver`, solved by the squared Smith iteration for full matrices and
    by low-rank ADI for sparse ones, in continuous and in discrete time.  An unstable equation has no such factor and is
    an UnstableError, or a ConvergenceError of the iteration.

    Parameters
    ----------
    sparse_from : int, optional
        The order from which sparse operators are not made full; by default pyMOR's ``mat_eqn_sparse_min_size``.
    tol : float, default 1e-14
        Relative residual of low-rank ADI.

    Examples
    --------
    >>> import balred
    >>> from pymor.reductors.bt import BTReductor
    >>> from pymor.solvers.matrix_equations.default import MatrixEquationSolvers
    >>> from balred.adapters.pymor import BalredLyapunovSolverLR, lti_model
    >>> solvers = MatrixEquationSolvers(lyapunov_lr=BalredLyapunovSolverLR())
    >>> model = lti_model(balred.testing.random_system(8, seed=0), matrix_equation_solvers=solvers)
    >>> BTReductor(model).reduce(3).order
    3
    """

    def __init__(self, sparse_from: int | None = None, tol: float = 1e-14) -> None:
        self.__auto_init(locals())  # pyMOR's own way: sets the attributes, which cannot change afterwards

    def _solve(self, equation: Any) -> Any:
        limit = mat_eqn_sparse_min_size() if self.sparse_from is None else self.sparse_from
        A, E, V = _matrices(equation, sparse_from=limit)
        if is_sparse(A):
            nothing = np.zeros((1, len(V)))
            g = sparse_system(A, V, nothing, None, E, 0 if equation.cont_time else True)
            Z = gramian_factors_lr(g, tol=self.tol)[0]
        else:
            Z = _factor(_state_space(A, E, V, equation))
        return equation.A.source.from_numpy(Z)


class BalredRiccatiSolver(RiccatiSolver):  # type: ignore[misc]
    r"""The stabilising solution of a pyMOR ``RiccatiEquation``, dense and checked.

    .. math::
        A^HXE + E^HXA - (E^HXB + S)R^{-1}(E^HXB + S)^H + C^HC = 0

    for ``trans=True``, the dual equation otherwise.  The vectors of ``equation.C`` are the columns of :math:`C^H`, as pyMOR's models
    have it; pyMOR's own solver, and its ``from_matrices``, take no conjugates.  One without such a solution is a ValueError.

    Examples
    --------
    >>> import numpy as np
    >>> from pymor.solvers.matrix_equations.equations import RiccatiEquation
    >>> from balred.adapters.pymor import BalredRiccatiSolver
    >>> one = np.eye(1)
    >>> equation = RiccatiEquation.from_matrices(0 * one, None, one, 2 * one, trans=True)
    >>> equation.solve(BalredRiccatiSolver()).round(12)
    array([[2.]])
    """

    def _solve(self, equation: Any) -> Matrix:
        return _riccati(equation, 1)[0]


class BalredRiccatiSolverLR(RiccatiSolverLR):  # type: ignore[misc]
    r"""Factor Z of the stabilising solution :math:`X = ZZ^H` of a pyMOR ``RiccatiEquation``.

    X also solves the Lyapunov equation of its closed loop; solved for a factor that keeps the small values which pyMOR loses
    with the full X.  Sparse operators of order ``mat_eqn_sparse_min_size`` or more are left to pyMOR's RADI.

    Examples
    --------
    >>> import numpy as np
    >>> from pymor.solvers.matrix_equations.equations import RiccatiEquation
    >>> from balred.adapters.pymor import BalredRiccatiSolverLR
    >>> one = np.eye(1)
    >>> equation = RiccatiEquation.from_matrices(0 * one, None, one, 2 * one, trans=True)
    >>> Z = equation.solve_lr(BalredRiccatiSolverLR()).to_numpy()
    >>> (Z * Z).round(12)
    array([[2.]])
    """

    def _solve(self, equation: Any) -> Any:
        if is_sparse(to_matrix(equation.A)) and equation.dim >= mat_eqn_sparse_min_size():
            return DefaultRiccatiSolverLR().solve(equation)
        X, A, B, C, R, S = _riccati(equation, 1)
        if np.any(S):
            return equation.A.source.from_numpy(_root(X))
        F = np.linalg.solve(R, B.conj().T @ X)
        Z = observability_factor(A - B @ F, np.vstack([C, np.linalg.cholesky(R).conj().T @ F]), 0)
        return equation.A.source.from_numpy(Z)


class BalredPositiveRiccatiSolver(PositiveRiccatiSolver):  # type: ignore[misc]
    """The stabilising solution of a pyMOR ``PositiveRiccatiEquation``: :class:`BalredRiccatiSolver` with -R in place of R.

    Examples
    --------
    >>> import numpy as np
    >>> from pymor.solvers.matrix_equations.equations import PositiveRiccatiEquation
    >>> from balred.adapters.pymor import BalredPositiveRiccatiSolver
    >>> one = np.eye(1)
    >>> equation = PositiveRiccatiEquation.from_matrices(-2 * one, None, one, one, R=one, trans=True)
    >>> x = equation.solve(BalredPositiveRiccatiSolver())
    >>> bool(np.allclose(x, 2 - 3**0.5))  # of x^2 - 4 x + 1 = 0
    True
    """

    def _solve(self, equation: Any) -> Matrix:
        return _riccati(equation, -1)[0]


class BalredPositiveRiccatiSolverLR(PositiveRiccatiSolverLR):  # type: ignore[misc]
    r"""Factor Z of the stabilising solution :math:`X = ZZ^H` of a pyMOR ``PositiveRiccatiEquation``.

    From the Lyapunov equation of A itself, whose right-hand side X completes; A must be stable, or it is an UnstableError.

    Examples
    --------
    >>> import numpy as np
    >>> from pymor.solvers.matrix_equations.equations import PositiveRiccatiEquation
    >>> from balred.adapters.pymor import BalredPositiveRiccatiSolverLR
    >>> one = np.eye(1)
    >>> equation = PositiveRiccatiEquation.from_matrices(-2 * one, None, one, one, R=one, trans=True)
    >>> z = equation.solve_lr(BalredPositiveRiccatiSolverLR()).to_numpy()
    >>> bool(np.allclose(z * z, 2 - 3**0.5))  # of x^2 - 4 x + 1 = 0
    True
    """

    def _solve(self, equation: Any) -> Any:
        if is_sparse(to_matrix(equation.A)) and equation.dim >= mat_eqn_sparse_min_size():
            return DefaultPositiveRiccatiSolverLR().solve(equation)
        X, A, B, C, R, S = _riccati(equation, -1)
        F = np.linalg.solve(R, (X @ B + S).conj().T)
        check_stable(ss(A, B, np.zeros((1, len(A)))))
        Z = observability_factor(A, np.vstack([C, np.linalg.cholesky(R).conj().T @ F]), 0)
        return equation.A.source.from_numpy(Z)


def matrix_equation_solvers() -> MatrixEquationSolvers:
    """The solvers of balred for all Lyapunov and Riccati equations of a model, as ``matrix_equation_solvers=`` takes them.

    Returns
    -------
    pymor MatrixEquationSolvers

    Examples
    --------
    >>> import balred
    >>> from pymor.reductors.bt import LQGBTReductor
    >>> from balred.adapters.pymor import lti_model, matrix_equation_solvers
    >>> g = balred.testing.random_system(8, seed=0)
    >>> LQGBTReductor(lti_model(g, matrix_equation_solvers=matrix_equation_solvers())).reduce(3).order
    3
    """
    return MatrixEquationSolvers(
        lyapunov=BalredLyapunovSolver(),
        lyapunov_lr=BalredLyapunovSolverLR(),
        riccati=BalredRiccatiSolver(),
        riccati_lr=BalredRiccatiSolverLR(),
        positive_riccati=BalredPositiveRiccatiSolver(),
        positive_riccati_lr=BalredPositiveRiccatiSolverLR(),
    )


def _riccati(equation: Any, sign: int) -> tuple[Matrix, Matrix, Matrix, Matrix, Matrix, Matrix]:
    """X, and A, B, C, R, S of the equation without E of its observability side; `sign` is that of R."""
    A, B, C = full(to_matrix(equation.A)), equation.B.to_numpy(), equation.C.to_numpy().conj().T
    E = None if equation.E is None else full(to_matrix(equation.E))
    if not equation.trans:
        A, B, C = A.conj().T, C.conj().T, B.conj().T
        E = None if E is None else E.conj().T
    S = np.zeros_like(B) if equation.S is None else equation.S.to_numpy()
    if E is not None:
        A, C = (np.linalg.solve(E.conj().T, x.conj().T).conj().T for x in (A, C))
        S = np.linalg.solve(E.conj().T, S)
    R = np.eye(B.shape[1]) if equation.R is None else equation.R
    if not B.shape[1]:  # a Lyapunov equation
        B, S, R = _some(B), _some(S), np.eye(1)
    rule = "the Riccati equation must have a stabilising solution"
    X = stabilising(Equation(A, B, C.conj().T @ C, sign * R, S, False), rule)
    return X, A, B, C, R, S


def _root(X: Matrix) -> Matrix:
    """Z with X = Z Z^H."""
    w, V = np.linalg.eigh(X)
    if w[0] < -len(w) * 1e-10 * np.abs(w).max():
        raise ValueError(f"the solution must be semidefinite to have a factor, got an eigenvalue of {w[0]:.3g}")
    out: Matrix = V * np.sqrt(np.maximum(w, 0.0))
    return out


def _matrices(equation: Any, sparse_from: int | None) -> tuple[Any, Any, Matrix]:
    """A and E (or their adjoints) and V, full unless they are sparse and of order `sparse_from` or more."""
    A, E = to_matrix(equation.A), None if equation.E is None else to_matrix(equation.E)
    if sparse_from is None or not is_sparse(A) or equation.dim < sparse_from:
        A, E = full(A), None if E is None else full(E)
    if equation.trans:
        A, E = A.conj().T, None if E is None else E.conj().T
    return A, E, _some(equation.B.to_numpy())


def _some(V: Matrix) -> Matrix:
    """V, or one column of zeros in the place of none: nothing drives the equation, and its solution is zero."""
    return V if V.shape[1] else np.zeros((len(V), 1), V.dtype)


def _state_space(A: Matrix, E: Matrix | None, V: Matrix, equation: Any) -> DenseSystem:
    """The system whose controllability Gramian solves `equation`."""
    if E is not None:
        A, V = np.linalg.solve(E, A), np.linalg.solve(E, V)
    return ss(A, V, np.zeros((1, len(A))), dt=0 if equation.cont_time else True)


def _factor(system: DenseSystem) -> Matrix:
    with backend("numpy").double_scope():
        Z: Matrix = factors(system, None)[0]
    return Z


def is_sparse(x: Any) -> bool:
    """Whether `x` is a sparse matrix."""
    return hasattr(x, "toarray")


def full(x: Any) -> Matrix:
    """`x` as an array of double precision."""
    out = x.toarray() if is_sparse(x) else np.asarray(x)
    return np.asarray(out, np.complex128 if np.iscomplexobj(out) else np.float64)
