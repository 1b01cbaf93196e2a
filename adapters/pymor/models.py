"""pyMOR: ``LTIModel`` in and out, and solvers for its Lyapunov and Riccati equations that work on factors.

pyMOR makes a low-rank factor from a full Gramian, which loses half the digits; behind :class:`BalredLyapunovSolverLR` its
own reductors (``BTReductor``, say) see factors that never were a product, for sparse operators too.
"""

from __future__ import annotations

from typing import Any

try:
    import pymor
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("pyMOR is not installed: pip install 'balred[pymor]'") from error

import numpy as np
from numpy.typing import NDArray
from pymor.algorithms.to_matrix import to_matrix
from pymor.models.iosys import LTIModel, SecondOrderModel
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

from balred.realisations.descriptor import descriptor
from balred.realisations.sparse import SparseSystem, gramian_factors_lr, sparse_system
from balred.registry.entries import register
from balred.registry.reading import adapt
from balred.solvers.gramians import factors
from balred.solvers.riccati import Equation, observability_factor, stabilising
from balred.systems.arrays import backend
from balred.systems.dense_system import DenseSystem, is_discrete, ss
from balred.systems.leaves import System
from balred.systems.poles import UnstableError, check_stable

__all__ = [
    "BalredLyapunovSolver",
    "BalredLyapunovSolverLR",
    "BalredPositiveRiccatiSolver",
    "BalredPositiveRiccatiSolverLR",
    "BalredRiccatiSolver",
    "BalredRiccatiSolverLR",
    "adapt_lti",
    "adapt_second_order",
    "lti_model",
    "matrix_equation_solvers",
]

Matrix = NDArray[Any]

if int(pymor.__version__.partition(".")[0]) < 2026:
    raise ImportError(f"pyMOR must be of version 2026.1 or newer, got {pymor.__version__}")


@register(LTIModel)
def adapt_lti(model: Any) -> tuple[System, Any]:
    """The system of a pyMOR ``LTIModel``, and the way back to one without E.

    E is divided out, and may be singular where the response is proper.  Sparse operators become full matrices below the
    order from which pyMOR itself uses its sparse solvers (``mat_eqn_sparse_min_size``, 1000); above it the model is read
    as a :class:`balred.realisations.sparse.SparseSystem`, that is by its most accurate balanced truncation.

    What belongs to the state space (visualizer, error estimator, presets) does not survive; the final time and the time
    stepper do, where the initial data are zero.

    Raises
    ------
    ValueError
        The model depends on parameters; its response is not proper; initial data that are not zero, on the way back.
    """
    if model.parametric:
        raise ValueError(
            f"an LTIModel must not depend on parameters to be read, got {model.parameters}: assemble its operators first"
        )
    A, B, C, D, E = model.to_abcde_matrices()
    dt = model.sampling_time
    system: System
    if _is_sparse(A) and model.order >= mat_eqn_sparse_min_size():
        system = sparse_system(A, B, C, None if D is None else _full(D), E, dt).compressed
    elif E is None:
        system = ss(_full(A), _full(B), _full(C), None if D is None else _full(D), dt)
    else:
        system = descriptor(_full(E), _full(A), _full(B), _full(C), None if D is None else _full(D), dt)

    def rebuild(reduced: System) -> Any:
        keep: dict[str, Any] = {}
        if model.T is not None:
            if model.initial_data.as_range_array().norm().any():
                raise ValueError("initial data must be zero for a reduced LTIModel, got others: set T=None first")
            keep = {"T": model.T, "time_stepper": model.time_stepper, "num_values": model.num_values}
        g = reduced.to_dense()
        return LTIModel.from_matrices(
            *(g.A, g.B, g.C, g.D if np.any(g.D) else None),
            sampling_time=dt,
            matrix_equation_solvers=model.matrix_equation_solvers,
            name=model.name,
            **keep,
        )

    return system, rebuild


@register(SecondOrderModel)
def adapt_second_order(model: Any) -> tuple[System, Any]:
    """The system of a pyMOR ``SecondOrderModel``, read through its ``to_lti()``, and the way back to an ``LTIModel``.

    The states of a reduced system are no positions and velocities any more.  pyMOR's own reductors (``SOBTpReductor``, ...)
    keep them, and take :func:`matrix_equation_solvers`.

    Raises
    ------
    ValueError
        As :func:`adapt_lti`: the model depends on parameters; its mass matrix is singular.
    """
    return adapt_lti(model.to_lti())


def lti_model(obj: Any, *, sampling_time: float | None = None, **options: Any) -> Any:
    """A pyMOR ``LTIModel`` of a system of this library, or of anything :func:`balred.adapt` reads.

    Parameters
    ----------
    obj : system, SparseSystem, ``control.StateSpace``, layer, ...
        A :class:`balred.realisations.sparse.SparseSystem` keeps its sparse matrices and E.
    sampling_time : float, optional
        Needed for discrete systems with an unspecified step, ``dt=True``.
    **options
        Of ``LTIModel.from_matrices``: ``name``, ``matrix_equation_solvers``, ...

    Returns
    -------
    LTIModel

    Raises
    ------
    ValueError
        A discrete system without a step; a `sampling_time` that is not that of the system.

    Examples
    --------
    >>> import balred
    >>> from balred.adapters.pymor import lti_model
    >>> model = lti_model(balred.testing.random_system(8, seed=0), name="plant")
    >>> model.order, balred.reduce(model, 3).order
    (8, 3)
    """
    system: Any = obj if isinstance(obj, SparseSystem) else adapt(obj)[0].to_dense()
    step = sampling_time if system.dt is True or sampling_time is not None else system.dt
    if step is None:
        raise ValueError("a discrete LTIModel needs a step, got dt=True: give sampling_time")
    if is_discrete(step) != is_discrete(system.dt) or (system.dt is not True and step != system.dt):
        raise ValueError(f"sampling_time must be that of the system, {system.dt}, got {sampling_time}")
    D = system.D if np.any(system.D) else None
    E = system.E if isinstance(system, SparseSystem) else None
    return LTIModel.from_matrices(system.A, system.B, system.C, D, E, sampling_time=step, **options)


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
        if _is_sparse(A):
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

    for ``trans=True``, the dual equation otherwise.  One without such a solution is a ValueError.

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
    """

    def _solve(self, equation: Any) -> Any:
        if _is_sparse(to_matrix(equation.A)) and equation.dim >= mat_eqn_sparse_min_size():
            return DefaultRiccatiSolverLR().solve(equation)
        X, A, B, C, R, S = _riccati(equation, 1)
        if np.any(S):
            return equation.A.source.from_numpy(_root(X))
        F = np.linalg.solve(R, B.conj().T @ X)
        Z = observability_factor(A - B @ F, np.vstack([C, np.linalg.cholesky(R).conj().T @ F]), 0)
        return equation.A.source.from_numpy(Z)


class BalredPositiveRiccatiSolver(PositiveRiccatiSolver):  # type: ignore[misc]
    """The stabilising solution of a pyMOR ``PositiveRiccatiEquation``: :class:`BalredRiccatiSolver` with -R in place of R."""

    def _solve(self, equation: Any) -> Matrix:
        return _riccati(equation, -1)[0]


class BalredPositiveRiccatiSolverLR(PositiveRiccatiSolverLR):  # type: ignore[misc]
    r"""Factor Z of the stabilising solution :math:`X = ZZ^H` of a pyMOR ``PositiveRiccatiEquation``.

    From the Lyapunov equation of A itself, whose right-hand side X completes; A must be stable, or it is an UnstableError.
    """

    def _solve(self, equation: Any) -> Any:
        if _is_sparse(to_matrix(equation.A)) and equation.dim >= mat_eqn_sparse_min_size():
            return DefaultPositiveRiccatiSolverLR().solve(equation)
        X, A, B, C, R, S = _riccati(equation, -1)
        F = np.linalg.solve(R, (X @ B + S).conj().T)
        check_stable(ss(A, B, C))
        Z = observability_factor(A, np.vstack([C, np.linalg.cholesky(R).conj().T @ F]), 0)
        return equation.A.source.from_numpy(Z)


def matrix_equation_solvers() -> MatrixEquationSolvers:
    """Our solvers for all Lyapunov and Riccati equations of a model, as ``matrix_equation_solvers=`` takes them.

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
    A, B, C = _full(to_matrix(equation.A)), equation.B.to_numpy(), equation.C.to_numpy().conj().T
    E = None if equation.E is None else _full(to_matrix(equation.E))
    if not equation.trans:
        A, B, C = A.conj().T, C.conj().T, B.conj().T
        E = None if E is None else E.conj().T
    S = np.zeros_like(B) if equation.S is None else equation.S.to_numpy()
    if E is not None:
        A, C = (np.linalg.solve(E.conj().T, x.conj().T).conj().T for x in (A, C))
        S = np.linalg.solve(E.conj().T, S)
    R = np.eye(B.shape[1]) if equation.R is None else equation.R
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
    if sparse_from is None or not _is_sparse(A) or equation.dim < sparse_from:
        A, E = _full(A), None if E is None else _full(E)
    if equation.trans:
        A, E = A.conj().T, None if E is None else E.conj().T
    return A, E, equation.B.to_numpy()


def _state_space(A: Matrix, E: Matrix | None, V: Matrix, equation: Any) -> DenseSystem:
    """The system whose controllability Gramian solves `equation`."""
    if E is not None:
        A, V = np.linalg.solve(E, A), np.linalg.solve(E, V)
    return ss(A, V, np.zeros((1, len(A))), dt=0 if equation.cont_time else True)


def _factor(system: DenseSystem) -> Matrix:
    with backend("numpy").double_scope():
        Z: Matrix = factors(system, None)[0]
    return Z


def _is_sparse(x: Any) -> bool:
    return hasattr(x, "toarray")


def _full(x: Any) -> Matrix:
    out = x.toarray() if _is_sparse(x) else np.asarray(x)
    return np.asarray(out, np.complex128 if np.iscomplexobj(out) else np.float64)
