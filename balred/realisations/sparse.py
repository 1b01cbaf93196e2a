r"""Large sparse systems, too large for dense methods: low-rank Gramian factors, and a dense system from them.

A :class:`SparseSystem` is known to :func:`balred.adapt` by its :attr:`~SparseSystem.compressed` form, the balanced
truncation to the order beyond which only rounding errors grow.  So every question and every method of the library takes it:
``balred.hsv``, ``balred.norm``, ``balred.reduce(sparse, rank, method=...)``.  The system says how accurately it is solved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.hankel.projections import signed
from balred.hankel.spectrum import pad
from balred.ranks.bounds import numerical_rank
from balred.ranks.choosing import choose_order, is_rule
from balred.ranks.shown import facts_html
from balred.registry.entries import register_entry
from balred.registry.kinds import Entry
from balred.solvers.adi import AdiInfo, ConvergenceError, check_nonsingular, low_rank_factors
from balred.solvers.smith import smith_factors
from balred.systems.arrays import backend
from balred.systems.checks import check_finite, checked_dt, host_array
from balred.systems.dense_system import DenseSystem, is_discrete, ss
from balred.systems.leaves import PencilUnits, pencil_units
from balred.systems.poles import UnstableError, warn_if_unstable

Matrix = NDArray[Any]

OPTIONS = ("tol", "max_steps")
"""What a sparse system may be told with a call."""

TRUSTED = 1e-12
"""Values below this fraction of the largest are left out: the factors do not hold them to any digit."""


@dataclass(frozen=True, eq=False, repr=False)
class SparseSystem:
    r"""A system with sparse state matrices.  :func:`sparse_system` makes and checks it.

    .. math:: E\dot x = Ax + Bu,\quad y = Cx + Du \qquad\text{or}\qquad Ex_{k+1} = Ax_k + Bu_k

    Attributes
    ----------
    A : sparse matrix, shape (n, n)
    B, C, D : arrays, shapes (n, m), (p, n) and (p, m)
    E : sparse matrix, shape (n, n), or None
        Nonsingular; None stands for the identity.
    dt : float or bool
    tol : float
        For the relative residuals of the equations of both Gramians, as :func:`gramian_factors_lr`.
    max_steps : int
        Of the iteration that solves them.

    Examples
    --------
    >>> import balred, numpy as np, scipy.sparse
    >>> A = scipy.sparse.diags([1.0, -2.0, 1.0], [-1, 0, 1], shape=(2000, 2000), format="csc")
    >>> rod = balred.sparse_system(A, np.eye(2000, 1), np.eye(1, 2000))
    >>> rod.states, rod.discrete, balred.reduce(rod, 6).states
    (2000, False, 6)
    """

    A: Any
    B: Matrix
    C: Matrix
    D: Matrix
    E: Any = None
    dt: float | bool = 0
    tol: float = 1e-14
    max_steps: int = 500

    @property
    def order(self) -> int:
        """Number of states n."""
        return int(self.A.shape[0])

    @property
    def states(self) -> int:
        """The order."""
        return self.order

    @property
    def discrete(self) -> bool:
        """Whether the system is discrete in time."""
        return is_discrete(self.dt)

    @cached_property
    def _mass(self) -> Any:
        return backend("scipy").sparse_eye(self.order) if self.E is None else self.E

    @cached_property
    def _pencil(self) -> Any:
        return backend("scipy").Pencil(self.A, self._mass)

    @cached_property
    def compressed(self) -> DenseSystem:
        """The most accurate dense system of low order, by :func:`reduce_sparse`; computed once."""
        return reduce_sparse(self)

    def to_dense(self) -> DenseSystem:
        """The same system with full matrices, for comparisons at small orders."""
        A, E = self.A.toarray(), self._mass.toarray()
        if self.E is None:
            return ss(A, self.B, self.C, self.D, self.dt)
        return ss(np.linalg.solve(E, A), np.linalg.solve(E, self.B), self.C, self.D, self.dt)

    def __call__(self, s: complex) -> Matrix:
        """Transfer function ``C (sE - A)^-1 B + D`` at the complex point `s` (or z), from one sparse solve."""
        X = self._pencil.factor(-complex(s)).solve(self.B.astype(np.complex128))
        out: Matrix = self.D - self.C @ X
        return out

    def __repr__(self) -> str:
        time = f"dt={self.dt}" if self.discrete else "continuous"
        nonzeros = self.A.nnz + (0 if self.E is None else self.E.nnz)
        return (
            f"SparseSystem(states={self.order}, inputs={self.B.shape[1]}, outputs={self.C.shape[0]}, {time}, "
            f"{nonzeros} nonzeros)"
        )

    def _repr_html_(self) -> str:
        """The same as a table, for notebooks."""
        return facts_html(repr(self))


def sparse_system(
    A: Any,
    B: Any,
    C: Any,
    D: Any = None,
    E: Any = None,
    dt: float | bool = 0,
    *,
    tol: float = 1e-14,
    max_steps: int = 500,
) -> SparseSystem:
    """Make a sparse system from its matrices, and check them.

    Parameters
    ----------
    A : sparse matrix, shape (n, n)
        Of ``scipy.sparse``, in any format.
    B : array_like or sparse, shape (n, m)
    C : array_like or sparse, shape (p, n)
    D : array_like, shape (p, m), optional
        Zero if omitted.
    E : sparse matrix, shape (n, n), optional
        The mass matrix, nonsingular; the identity if omitted.
    dt : float or bool, default 0
    tol : float, default 1e-14
        How small the relative residuals of the equations of its Gramians must become.  :func:`balred.reduce`,
        :func:`balred.plan` and :func:`balred.analyze` take another one with the call.
    max_steps : int, default 500
        The largest number of steps to reach `tol`; can be given with the call, too.

    Returns
    -------
    SparseSystem

    Raises
    ------
    ValueError
        Shapes do not fit, a dimension is empty, a value is NaN or infinite; `tol` or `max_steps` is out of range.

    Examples
    --------
    A rod of 10,000 cells, heated and measured at one end:

    >>> import balred, balred.realisations.sparse, scipy.sparse
    >>> n = 10_000
    >>> A = scipy.sparse.diags([1.0, -2.0, 1.0], [-1, 0, 1], shape=(n, n)) * n**2
    >>> B = scipy.sparse.csc_matrix(([float(n)], ([0], [0])), shape=(n, 1))
    >>> rod = balred.realisations.sparse.sparse_system(A, B, B.T)
    >>> rod
    SparseSystem(states=10000, inputs=1, outputs=1, continuous, 29998 nonzeros)
    >>> balred.reduce(rod, balred.ErrorBound(1e-3, relative=True)).states < 20
    True
    """
    host = backend("scipy")
    A, E = host.sparse_matrix(A), None if E is None else host.sparse_matrix(E)
    B, C = host_array("B", B), host_array("C", C)
    n = A.shape[0]
    if A.shape[0] != A.shape[1]:
        raise ValueError(f"A must have shape (n, n), got {A.shape}")
    if E is not None and E.shape != (n, n):
        raise ValueError(f"E must have the shape of A, {(n, n)}, got {E.shape}")
    if B.ndim != 2 or B.shape[0] != n:
        raise ValueError(f"B must have shape (n, m) with n = {n}, got {B.shape}")
    if C.ndim != 2 or C.shape[1] != n:
        raise ValueError(f"C must have shape (p, n) with n = {n}, got {C.shape}")
    p, m = C.shape[0], B.shape[1]
    if 0 in (n, m, p):
        raise ValueError(
            f"a sparse system must have at least one state, one input and one output, got n = {n}, m = {m}, p = {p}"
        )
    D = np.zeros((p, m)) if D is None else host_array("D", D)
    if D.ndim == 0:
        D = D + np.zeros((p, m))
    if D.shape != (p, m):
        raise ValueError(f"D must have shape (p, m) = {(p, m)}, got {D.shape}")
    for name, x in (("A", A.data), ("B", B), ("C", C), ("D", D), *((("E", E.data),) if E is not None else ())):
        check_finite(name, x)
    return _configured(SparseSystem(A, B, C, D, E, checked_dt(dt)), tol, max_steps)


def _configured(system: SparseSystem, tol: float | None, max_steps: int | None) -> SparseSystem:
    """`system` solved for so accurately; itself where nothing else is asked for."""
    tol, max_steps = system.tol if tol is None else tol, system.max_steps if max_steps is None else max_steps
    if isinstance(tol, bool) or not isinstance(tol, (int, float, np.number)) or not 0 < tol < 1:
        raise ValueError(f"tol must be a number between 0 and 1, got {tol!r}")
    if isinstance(max_steps, bool) or not isinstance(max_steps, (int, np.integer)) or max_steps < 1:
        raise ValueError(f"max_steps must be a positive integer, got {max_steps!r}")
    same = (tol, max_steps) == (system.tol, system.max_steps)
    return system if same else replace(system, tol=float(tol), max_steps=int(max_steps))


def gramian_factors_lr(
    system: SparseSystem, *, tol: float | None = None, max_steps: int | None = None
) -> tuple[Matrix, Matrix, AdiInfo]:
    r"""Low-rank factors of both Gramians of a stable sparse system, by :func:`balred.solvers.adi.low_rank_factors`.

    .. math::
        AZ_pZ_p^HE^H + EZ_pZ_p^HA^H + BB^H = 0,\quad A^HZ_qZ_q^HE + E^HZ_qZ_q^HA + C^HC = 0 \quad\text{(continuous)}

        AZ_pZ_p^HA^H - EZ_pZ_p^HE^H + BB^H = 0,\quad A^HZ_qZ_q^HA - E^HZ_qZ_q^HE + C^HC = 0 \quad\text{(discrete)}

    The Hankel singular values are those of :math:`Z_q^HEZ_p`.  A discrete system has the Gramians of the continuous one
    with :math:`A-E,\ A+E,\ \sqrt2B,\ \sqrt2C`, which is as sparse.

    Parameters
    ----------
    system : SparseSystem
    tol : float, optional
        For the relative residuals (see :class:`balred.solvers.adi.AdiInfo`); by default that of `system`.
    max_steps : int, optional
        By default that of `system`.

    Returns
    -------
    Zp, Zq : arrays, shape (n, k)
        k may differ between the two.
    info : AdiInfo
        Steps and measured residuals.

    Raises
    ------
    ConvergenceError
        The residuals did not fall below `tol`; the message says how far they came.
    UnstableError
        A pole at the stability boundary was met.
    ValueError
        E is singular; `tol` is not between 0 and 1, `max_steps` no positive integer.

    Examples
    --------
    >>> import numpy as np, scipy.sparse
    >>> A = scipy.sparse.diags([-np.arange(1.0, 1001.0)], [0])
    >>> g = sparse_system(A, np.ones((1000, 1)), np.ones((1, 1000)))
    >>> Zp, Zq, info = gramian_factors_lr(g)
    >>> max(info.residuals) < 1e-11
    True
    """
    system, units = _moderate(_configured(system, tol, max_steps))
    A, E, B, C = system.A, system._mass, system.B, system.C
    if system.E is not None:
        check_nonsingular("E", E, ": eliminate the algebraic equations first, as balred.descriptor does")
    if system.discrete:
        A, E, B, C = (A - E).tocsc(), (A + E).tocsc(), 2**0.5 * B, 2**0.5 * C
    Zp, Zq, info = low_rank_factors(A, E, B, C, tol=system.tol, max_steps=system.max_steps)
    return *units.factors(Zp, Zq), info


def reduce_sparse(
    system: SparseSystem, rank: Any = None, *, tol: float | None = None, max_steps: int | None = None
) -> DenseSystem:
    r"""Balanced truncation of a sparse system from low-rank Gramian factors.

    With :math:`Z_q^HEZ_p = U\Sigma V^H`,

    .. math:: L = \Sigma_1^{-1/2}U_1^HZ_q^H,\quad R = Z_pV_1\Sigma_1^{-1/2},\quad LER = I,\qquad (LAR,\ LB,\ CR,\ D)

    where the products of A with the columns of R are exact but for one rounding of each: those of a stiff A cancel.

    Parameters
    ----------
    system : SparseSystem
    rank : int or rule, optional
        By default the most accurate one: where the tail, which falls with the order, and the effect of rounding errors,
        which grows, meet.
    tol, max_steps : float and int, optional
        Relative residual of the Gramians' factors, and the most steps to reach it; by default those of `system`.

    Returns
    -------
    DenseSystem
        Balanced, as :func:`balred.reduce` gives.

    Raises
    ------
    ValueError
        `rank` is beyond the numerical rank, or nothing can be kept because inputs do not reach outputs.
    ConvergenceError, UnstableError, OverflowError
        The residuals did not fall below `tol`; a pole is at the stability boundary, or no truncation is stable; an entry overflows.

    Warns
    -----
    InstabilityWarning
        The result is unstable: the factors are not accurate enough, or the system is unstable itself.

    Notes
    -----
    The bound :math:`2\sum_{i>k}\sigma_i` sums the values that are known; those that the factors do not hold are below
    about ``1e-12`` of the largest each.

    References
    ----------
    T. Penzl, Algorithms for model reduction of large dynamical systems, Linear Algebra Appl. 415 (2006).

    Examples
    --------
    >>> import balred, numpy as np, scipy.sparse
    >>> A = scipy.sparse.diags([1.0, -2.0, 1.0], [-1, 0, 1], shape=(2000, 2000), format="csc")
    >>> reduce_sparse(balred.sparse_system(A, np.eye(2000, 1), np.eye(1, 2000)), balred.ErrorBound(1e-6))
    DenseSystem(states=20, inputs=1, outputs=1, continuous, float64, numpy)
    """
    system, units = _moderate(system)
    Zp, Zq, _ = gramian_factors_lr(system, tol=tol, max_steps=max_steps)
    U, s, Vh = np.linalg.svd(Zq.conj().T @ (system._mass @ Zp), full_matrices=False)
    cap = min(int(numerical_rank(s)), int(np.sum(s > TRUSTED * s[:1]))) if s.size else 0
    if cap == 0:
        raise ValueError(
            "a system must have a nonzero Hankel singular value to be reduced, got none: inputs do not reach outputs"
        )
    if rank is None:
        return units.balanced(_most_accurate(system, Zp, Zq, U, s, Vh))
    k = choose_order(rank, units.values(s)) if is_rule(rank) else rank
    if not isinstance(k, (int, np.integer)) or isinstance(k, bool) or not 1 <= k <= cap:
        raise ValueError(f"rank must be a rule or an integer between 1 and the numerical rank {cap}, got {rank!r}")
    small = units.balanced(_truncated(system, Zp, Zq, U, s, Vh, int(k)))
    warn_if_unstable(small, 0, f"the sparse system reduced to {small.states} states", "try another rank")
    return small


def _moderate(g: SparseSystem) -> tuple[SparseSystem, PencilUnits]:
    """`g` in units in which squares of its entries are numbers."""
    units = pencil_units(g.A.data, None if g.E is None else g.E.data, g.B, g.C, discrete=g.discrete)
    a, e, b, c = units
    return (replace(g, A=g.A / a, E=g._mass / e, B=g.B / b, C=g.C / c) if set(units) != {1.0} else g), units


def _truncated(g: SparseSystem, Zp: Matrix, Zq: Matrix, U: Matrix, s: Matrix, Vh: Matrix, k: int) -> DenseSystem:
    # stiff entries times the last digits of a factor are rounding errors beside what they leave, unless the product is exact
    L, R = signed((Zq @ U[:, :k] / np.sqrt(s[:k])).conj().T, Zp @ Vh[:k].conj().T / np.sqrt(s[:k]), g.B)
    return DenseSystem(L @ backend("scipy").ExactProduct(g.A)(R), L @ g.B, g.C @ R, g.D, g.dt)


def _most_accurate(g: SparseSystem, Zp: Matrix, Zq: Matrix, U: Matrix, s: Matrix, Vh: Matrix) -> DenseSystem:
    """The truncation with the least error: few states leave a tail, very many amplify rounding errors.

    The projections onto a state of value s_k scale the rounding errors of A by 1/s_k, and the Hankel singular values
    of the result then differ from those of the factors; their difference and the tail are weighed against each other.
    """
    best, least, whole = None, np.inf, _truncated(g, Zp, Zq, U, s, Vh, int(np.sum(s > TRUSTED * s[0])))
    for k in sorted({int(np.sum(s > t * s[0])) for t in TRUSTED * 10.0 ** np.arange(7)}):
        small = replace(whole, A=whole.A[:k, :k], B=whole.B[:k], C=whole.C[:, :k])
        try:
            with backend("numpy").double_scope():
                P, Q = smith_factors(small)
                own = np.linalg.svd(Q.conj().T @ P, compute_uv=False)
        except (UnstableError, ArithmeticError):
            continue
        missed = float(np.max(np.abs(pad(own, k) - s[:k]))) + 2 * float(np.sum(s[k:]))
        if missed < least:
            best, least = small, missed
    if best is None:
        raise ConvergenceError(
            "the truncation of a sparse system must be stable, got an unstable one at every order: the factors are not "
            "accurate enough, or the system itself is unstable"
        )
    return best


def adapt_sparse(obj: SparseSystem) -> tuple[DenseSystem, Any]:
    """The compressed system; what is made of it stays dense."""
    return obj.compressed, lambda reduced: reduced


def with_options(obj: SparseSystem, options: Mapping[str, Any]) -> tuple[SparseSystem, Mapping[str, Any]]:
    """`obj` with the `tol` and `max_steps` among `options`, and the others."""
    rest = {key: value for key, value in options.items() if key not in OPTIONS}
    return _configured(obj, options.get("tol"), options.get("max_steps")), rest


register_entry(SparseSystem, Entry(adapt_sparse, configured=with_options))
