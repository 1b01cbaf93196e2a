r"""Systems of second order, as mechanics writes them: mass, damping and stiffness, which a reduction is to keep.

A :class:`SecondOrderSystem` is known to :func:`balred.adapt` by its first-order form, so that every question and every method
takes it.  :func:`balred.reduce` keeps the form (documentation, *Second-order systems*).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.ranks.shown import facts_html
from balred.realisations.sparse import SparseSystem, adapt_sparse
from balred.registry.entries import register_entry
from balred.registry.kinds import Entry
from balred.solvers.adi import check_nonsingular
from balred.systems.arrays import backend
from balred.systems.checks import as_matrix, check_finite, host_array
from balred.systems.dense_system import DenseSystem, ss

Matrix = NDArray[Any]
_ROUNDING = 16 * float(np.finfo(np.float64).eps)
"""Of a matrix that was assembled, or brought to other units, as a part of its diagonal."""


@dataclass(frozen=True, eq=False, repr=False)
class SecondOrderSystem:
    r"""A system of second order.  :func:`second_order` makes and checks it.

    .. math:: M\ddot q + D\dot q + Kq = Bu,\quad y = C_pq + C_v\dot q

    Attributes
    ----------
    M, D, K : array or sparse matrix, shape (n, n)
        Mass (nonsingular), damping, stiffness; all three sparse or none.
    B : array, shape (n, m)
    Cp, Cv : array, shape (p, n)

    Examples
    --------
    >>> import numpy as np, balred
    >>> g = balred.second_order(np.eye(2), np.eye(2), np.diag([1.0, 4.0]), np.ones((2, 1)), np.ones((1, 2)))
    >>> g.states, g.first_order.states
    (2, 4)
    """

    M: Any
    D: Any
    K: Any
    B: Matrix
    Cp: Matrix
    Cv: Matrix
    dt: float | bool = 0
    """Always continuous."""

    @property
    def states(self) -> int:
        """The number of states that a rank counts: the positions n."""
        return int(self.M.shape[0])

    @property
    def order(self) -> int:
        """Positions and velocities: 2 n."""
        return 2 * self.states

    @property
    def discrete(self) -> bool:
        """Always False: second-order systems are continuous."""
        return False

    @property
    def sparse(self) -> bool:
        """Whether M, D and K are sparse matrices."""
        return hasattr(self.M, "toarray")

    @property
    def C(self) -> Matrix:
        """``[Cp, Cv]``, shape (p, 2 n)."""
        return np.concatenate([self.Cp, self.Cv], axis=1)

    @property
    def hermitian(self) -> bool:
        """Whether M, D and K are equal to their conjugate transposes; :func:`second_order` takes away what is rounding."""
        return all(is_hermitian(x) for x in (self.M, self.D, self.K))

    def evened(self) -> tuple[SecondOrderSystem, NDArray[np.float64]]:
        """The same with positions in units of about one mass each, and these: powers of two d with q = d p."""
        masses = np.abs(self.M.diagonal())
        d = 2.0 ** -np.round(np.log2(np.where(masses > 0, masses, 1.0)) / 2)

        def both(X: Any) -> Any:
            return (
                backend("scipy").sparse_matrix(X.multiply(d[:, None]).multiply(d))
                if self.sparse
                else d[:, None] * X * d
            )

        M, D, K = map(both, (self.M, self.D, self.K))
        return SecondOrderSystem(M, D, K, d[:, None] * self.B, self.Cp * d, self.Cv * d), d

    def to_dense(self) -> DenseSystem:
        """The first-order system of the state (q, q'), with full matrices."""
        return in_first_order(self, np.eye(self.states))

    @cached_property
    def first_order(self) -> DenseSystem | SparseSystem:
        """The first-order system; if M, D and K are sparse, the sparse descriptor system ``[I, 0; 0, M] x' = [0, I; -K, -D] x + [0; B] u``."""
        if not self.sparse:
            return self.to_dense()
        host = backend("scipy")
        eye = host.sparse_eye(self.states)
        A, E = host.sparse_blocks([[None, eye], [-self.K, -self.D]]), host.sparse_blocks([[eye, None], [None, self.M]])
        B = np.concatenate([0 * self.B, self.B])
        return SparseSystem(A, B, self.C, np.zeros((len(self.Cp), self.B.shape[1])), E)

    def __call__(self, s: complex) -> Matrix:
        """Transfer function ``(Cp + s Cv) (s^2 M + s D + K)^-1 B`` at the complex point `s`."""
        s, first = complex(s), self.first_order
        if isinstance(first, SparseSystem):
            return first(s)
        X = np.linalg.solve(s * s * self.M + s * self.D + self.K, self.B.astype(np.complex128))
        out: Matrix = (self.Cp + s * self.Cv) @ X
        return out

    def __repr__(self) -> str:
        kind = f", {self.M.nnz + self.D.nnz + self.K.nnz} nonzeros" if self.sparse else ""
        return f"SecondOrderSystem(positions={self.states}, inputs={self.B.shape[1]}, outputs={len(self.Cp)}{kind})"

    def _repr_html_(self) -> str:
        """The same as a table, for notebooks."""
        return facts_html(repr(self))


def in_first_order(g: SecondOrderSystem, rest: Matrix) -> DenseSystem:
    """The first-order system of the state (P^H q, q'), with the orthonormal columns P of `rest` beside which K is nothing."""
    M, D, K = (x.toarray() if g.sparse else x for x in (g.M, g.D, g.K))
    n, k = rest.shape
    below = solved_evenly(M, np.concatenate([-K @ rest, -D, g.B], axis=1))
    A = np.concatenate([np.concatenate([np.zeros((k, k)), rest.conj().T], axis=1), below[:, : k + n]])
    B = np.concatenate([np.zeros((k, g.B.shape[1])), below[:, k + n :]])
    return ss(A, B, np.concatenate([g.Cp @ rest, g.Cv], axis=1))


def solved_evenly(M: Matrix, X: Matrix) -> Matrix:
    """``M^-1 X``, whatever units the rows and columns of M are in."""
    rows, columns = _units(M)
    out: Matrix = np.linalg.solve(M / rows[:, None] / columns, X / rows[:, None]) / columns[:, None]
    return out


def even_condition(M: Matrix) -> float:
    """The condition number of M, whatever units its rows and columns are in."""
    rows, columns = _units(M)
    return float(np.linalg.cond(M / rows[:, None] / columns))


def _units(M: Matrix) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Powers of two, the sizes of rows and then of columns."""

    def powers(largest: Any) -> NDArray[np.float64]:
        return np.asarray(np.ldexp(1.0, np.frexp(largest)[1] - 1))

    rows = powers(np.abs(M).max(axis=1))
    return rows, powers((np.abs(M) / rows[:, None]).max(axis=0))


def _settled(X: Any) -> Any:
    """A matrix that is Hermitian but for rounding, beside its diagonal, to the last digit; another one as it is."""
    gap, size = X - X.conj().T, np.sqrt(np.abs(X.diagonal()))
    i, j = gap.nonzero()
    if len(i) and np.all(np.abs(np.asarray(gap[i, j])) <= _ROUNDING * size[i] * size[j]):
        return X / 2 + X.conj().T / 2
    return X


def is_hermitian(X: Any) -> bool:
    """Whether a dense or sparse matrix is its conjugate transpose, to the last digit."""
    return (X != X.conj().T).nnz == 0 if hasattr(X, "nnz") else bool(np.array_equal(X, X.conj().T))


def second_order(M: Any, D: Any, K: Any, B: Any, Cp: Any = None, Cv: Any = None) -> SecondOrderSystem:
    r"""Make a system of second order from its matrices, and check them.

    .. math:: M\ddot q + D\dot q + Kq = Bu,\quad y = C_pq + C_v\dot q

    Parameters
    ----------
    M, D, K : array_like or sparse matrix, shape (n, n)
        Mass, damping, stiffness.  If one of them is sparse, all become sparse.
    B : array_like or sparse, shape (n, m)
    Cp, Cv : array_like or sparse, shape (p, n), optional
        The output is ``Cp q + Cv q'``; give at least one of them.

    Returns
    -------
    SecondOrderSystem
        Of NumPy arrays (or sparse matrices) in double precision.

    Raises
    ------
    ValueError
        Shapes do not fit, a dimension is empty, a value is NaN or infinite, M is singular, neither Cp nor Cv is given.

    Examples
    --------
    A mass on a spring, q'' + q'/5 + q = u, whose peak is that of a resonance:

    >>> import balred
    >>> g = balred.second_order([[1.0]], [[0.2]], [[1.0]], [[1.0]], [[1.0]])
    >>> g
    SecondOrderSystem(positions=1, inputs=1, outputs=1)
    >>> round(float(balred.norm(g, "hinf")), 4)
    5.0252
    """
    if Cp is None and Cv is None:
        raise ValueError("Cp or Cv must be given, got neither: outputs see positions, velocities or both")
    sparse = any(hasattr(x, "toarray") for x in (M, D, K))
    square = [
        backend("scipy").sparse_matrix(x) if sparse else np.asarray(as_matrix(name, host_array(name, x)))
        for name, x in (("M", M), ("D", D), ("K", K))
    ]
    n = square[0].shape[0] if len(square[0].shape) == 2 else 0
    for name, x in zip("MDK", square, strict=True):
        if tuple(x.shape) != (n, n) or n == 0:
            raise ValueError(f"{name} must have shape (n, n) with n of at least 1, that of M, got {tuple(x.shape)}")
    B = as_matrix("B", host_array("B", B))
    Cp, Cv = (None if x is None else as_matrix(name, host_array(name, x)) for name, x in (("Cp", Cp), ("Cv", Cv)))
    Cp = np.zeros_like(Cv) if Cp is None else Cp
    Cv = np.zeros_like(Cp) if Cv is None else Cv
    if B.ndim != 2 or len(B) != n or B.shape[1] == 0:
        raise ValueError(f"B must have shape (n, m) with n = {n} and m of at least 1, got {B.shape}")
    for name, x in (("Cp", Cp), ("Cv", Cv)):
        if x.ndim != 2 or x.shape[1] != n or len(x) != len(Cp) or len(x) == 0:
            raise ValueError(f"{name} must have shape (p, n) with n = {n} and p of at least 1, got {x.shape}")
    g = SecondOrderSystem(square[0], square[1], square[2], B, Cp, Cv)
    for name in ("M", "D", "K", "B", "Cp", "Cv"):
        x = getattr(g, name)
        check_finite(name, x.data if hasattr(x, "toarray") else x)
    g = replace(g, M=_settled(g.M), D=_settled(g.D), K=_settled(g.K))
    if sparse:
        check_nonsingular("M", g.M, "")
    else:
        if not (cond := even_condition(g.M)) < 1 / (n * np.finfo(np.float64).eps):
            raise ValueError(f"M must be nonsingular in any units, got one of condition {cond:.3g}")
    return g


def _adapt(g: SecondOrderSystem) -> tuple[DenseSystem, Any]:
    """The first-order form, compressed where it is sparse; what is made of it is of first order."""
    first = g.evened()[0].first_order if g.sparse else g.to_dense()
    return (first, lambda reduced: reduced) if isinstance(first, DenseSystem) else adapt_sparse(first)


register_entry(SecondOrderSystem, Entry(_adapt, second_order=lambda g: (g, lambda reduced: reduced)))
