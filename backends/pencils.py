"""Solves with ``A + pE`` for many p: which factorisation fits the pattern, and a look at every solution.

An iteration over shifts factors matrices of one pattern.  What can be found once is: states in a line have a band, meshes
a nested dissection whose dense fronts LAPACK factors; the rest, and what is small, goes to SuperLU with pivoting.

A stiff system has entries of 1e10 and slow poles near 10: a shift of 10 is lost where it is added to such an entry, and with it
seven digits of what the shift is there for.  Every solution is therefore refined once, by a residual that is computed
with A and the shift apart and the products with A exactly.  The quicker ways do not pivot freely: where the residual says that a
solution is no good, SuperLU takes over.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from numpy.typing import NDArray

from balred.backends.bands import Bands
from balred.backends.multifrontal import Fronts

Array = NDArray[Any]

_SMALL, _NARROW, _LEAF = 500, 24, 64
"""States below which SuperLU pivots; diagonals of a narrow band; vertices of a part that is not cut."""
_HEAVY, _HEAVY_HERMITIAN = 70_000, 20_000
"""Multiplications for each state from which dense fronts are quicker than SuperLU without pivoting, which gains nothing from
symmetry."""
_ENOUGH = 1e-13
"""Backward error of a refined solution at which a factorisation is dropped."""
_BITS = 24
"""Of a number's leading part; the products of two of them are exact, and so are sums of eight such products."""


def sparse_lu(M: Any, symmetric: bool = False) -> Any:
    """LU factors of a sparse matrix: an object with ``solve(X, trans)`` for trans "N", "T" and "H".

    `symmetric` says that the pattern is; the ordering for that fills in far less.  A singular matrix is a RuntimeError.
    """
    return scipy.sparse.linalg.splu(M.tocsc(), permc_spec="MMD_AT_PLUS_A" if symmetric else "COLAMD")


def sparse_condition(M: Any) -> float:
    """An estimate of the condition number of a sparse matrix in the 1-norm, from below; infinite if it is singular."""
    try:
        lu = Pencil(M, 0 * M).factor(0.0)
    except RuntimeError:
        return np.inf
    inverse = scipy.sparse.linalg.LinearOperator(
        M.shape,
        matvec=lu.solve,
        matmat=lu.solve,
        rmatvec=lambda x: lu.solve(x, "H"),
        rmatmat=lambda X: lu.solve(X, "H"),
        dtype=M.dtype,
    )
    return float(scipy.sparse.linalg.onenormest(inverse) * abs(M).sum(axis=0).max())


def _leading(x: Array, size: Array) -> Array:
    """The leading bits of `x`, counted from those of `size`; what is left of `x` without them is exact."""
    if np.iscomplexobj(x):
        return np.asarray(_leading(x.real, size) + 1j * _leading(x.imag, size))
    sigma = np.ldexp(1.0, np.frexp(size)[1] + 53 - _BITS)
    return np.asarray((x + sigma) - sigma)


class ExactProduct:
    r"""Products with a sparse matrix in about one and a half times the working precision.

    Matrix and columns are split into leading bits and the rest, :math:`MX = M_1X_1 + (M_1X_2 + M_2X)`, where the first
    product has no rounding errors, and those of the rest are smaller by the bits that were split off [Ozaki, Ogita, Oishi and
    Rump 2012, for dense products].
    """

    def __init__(self, M: Any) -> None:
        M = M.tocsr()
        size = np.zeros(M.shape[0])
        np.maximum.at(size, rows := np.repeat(np.arange(M.shape[0]), np.diff(M.indptr)), np.abs(M.data))
        self._first, self._second = M.copy(), M.copy()
        self._first.data = _leading(M.data, size[rows])
        self._second.data = M.data - self._first.data

    def parts(self, X: Array) -> tuple[Array, Array]:
        """Two arrays whose exact sum is the product, the larger one first."""
        X1 = _leading(X, np.abs(X).max(axis=0))
        return np.asarray(self._first @ X1), np.asarray(self._first @ (X - X1) + self._second @ X)

    def __call__(self, X: Array) -> Array:
        """The product, rounded once."""
        first, second = self.parts(X)
        return np.asarray(first + second)


class Columns:
    """SuperLU's factors of a sparse matrix, which take real and complex columns alike."""

    def __init__(self, M: Any, *, symmetric: bool = True, pivots: bool = True) -> None:
        self.pivots = pivots
        if pivots:
            self._lu = sparse_lu(M, symmetric)
        else:
            self._lu = scipy.sparse.linalg.splu(
                M.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0, options={"SymmetricMode": True}
            )
        self._real = not np.iscomplexobj(M.data)

    def solve(self, B: Array, trans: str = "N") -> Array:
        """Solve with the matrix ("N"), its transpose ("T") or its adjoint ("H")."""
        if self._real and np.iscomplexobj(B):
            return self.solve(B.real, trans) + 1j * self.solve(B.imag, trans)
        return np.asarray(self._lu.solve(np.ascontiguousarray(B), trans))


class Pencil:
    """The matrices ``A + pE``.

    Attributes
    ----------
    hermitian : bool
        Whether both A and E are.
    """

    def __init__(self, A: Any, E: Any) -> None:
        self.A, self.E = A, E
        self.hermitian = _hermitian(A) and _hermitian(E)
        self.norms = tuple(float(max(abs(M).sum(axis=k).max() for k in (0, 1))) for M in (A, E))
        adjoints = A.conj().T.tocsr(), E.conj().T.tocsr()
        self._diagonals = A.diagonal(), E.diagonal()
        self._symmetric = _like(A, adjoints[0]) and _like(E, adjoints[1])
        self._plain = ExactProduct(A), E
        self._adjoint = self._plain if self.hermitian else (ExactProduct(adjoints[0]), adjoints[1])
        self._family: Bands | Fronts | None = None
        self._quick = False
        if A.shape[0] >= _SMALL:
            bands = Bands(A, E)
            fronts = None if bands.below + bands.above <= _NARROW else Fronts(A, E, leaf=_LEAF)
            # diagonal entries that are p alone are no pivots for SuperLU, however light the fill
            heavy = (_HEAVY_HERMITIAN if self.hermitian else _HEAVY) * A.shape[0]
            light = fronts is not None and not fronts.paired and fronts.work <= heavy
            self._family = bands if fronts is None else None if light else fronts
            self._quick = self._family is None

    def factor(self, p: complex) -> Solver:
        """Factors of ``A + pE``; a singular matrix is a RuntimeError."""
        return Solver(self, p, self._unpivoted(p) or self.pivoted(p))

    def _unpivoted(self, p: complex) -> Any:
        """The quick factors that fit the pattern, or None."""
        if isinstance(self._family, Bands):
            return self._family.factor(p)
        if self._quick:
            try:
                return Columns(self.A + p * self.E, pivots=False)
            except RuntimeError:
                return None
        if self._family is None:
            return None
        negative = self._diagonals[0] + p * self._diagonals[1]
        if self.hermitian and np.all(negative.real < 0) and not isinstance(p, complex):
            definite = self._family.factor(p, True)
            if definite is not None:
                return definite
        return self._family.factor(p, False)

    def pivoted(self, p: complex) -> Columns:
        """SuperLU's factors, with pivoting."""
        return Columns(self.A + p * self.E, symmetric=self._symmetric)

    def residual(self, p: complex, B: Array, X: Array, trans: str) -> Array:
        """``B - (A + pE) X``, or with the transpose or the adjoint: A and p apart, products with A exact."""
        if trans == "T":
            return self.residual(p, B.conj(), X.conj(), "H").conj()
        A, E = self._plain if trans == "N" else self._adjoint
        first, second = A.parts(X)
        return np.asarray((B - first) - second - (p if trans == "N" else p.conjugate()) * (E @ X))


class Solver:
    """Factors of one matrix, whose solutions are refined."""

    def __init__(self, pencil: Pencil, p: complex, factors: Any) -> None:
        self._pencil, self._p, self._factors = pencil, p, factors
        self._norm = pencil.norms[0] + abs(p) * pencil.norms[1]

    def solve(self, B: Array, trans: str = "N") -> Array:
        """Solve with the matrix ("N"), its transpose ("T") or its adjoint ("H")."""
        X: Array = self._factors.solve(B, trans)
        R, error = self._missed(B, X, trans)
        X = X + self._factors.solve(R, trans)
        pivoted = isinstance(self._factors, Columns) and self._factors.pivots
        if error <= _ENOUGH or pivoted or self._missed(B, X, trans)[1] <= _ENOUGH:
            return X
        self._factors = self._pencil.pivoted(self._p)
        return self.solve(B, trans)

    def _missed(self, B: Array, X: Array, trans: str) -> tuple[Array, float]:
        """The residual, and the largest backward error of a column."""
        R = self._pencil.residual(self._p, B, X, trans)
        size = self._norm * np.abs(X).max(axis=0) + np.abs(B).max(axis=0)
        error = np.abs(R).max(axis=0) / np.where(size > 0, size, 1)
        return R, float(error.max(initial=0.0))


def _like(A: Any, B: Any) -> bool:
    """Whether two sparse matrices have the same pattern."""
    return bool((abs(A).sign() != abs(B).sign()).nnz == 0)


def _hermitian(A: Any) -> bool:
    return bool((A != A.conj().T).nnz == 0)
