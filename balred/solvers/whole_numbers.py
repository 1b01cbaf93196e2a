r"""Balanced coordinates of a few states from Gramians in whole numbers: the slow and sure last resort.

The polynomial of a sharp digital filter holds its poles in the last of its digits, and powers of its companion matrix may grow
beyond all that twice the digits of double precision hold.  Python's integers have as many digits as are asked for.  What they cost
does not matter for a few dozen states, and what comes out is right for the entries as they were given.
"""

from __future__ import annotations

from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.systems.arrays import ct
from balred.systems.dense_system import DenseSystem
from balred.systems.units import Coordinates, rescaled

Matrix = NDArray[Any]

_MOST = 32
"""States for which products of matrices of integers take some seconds."""
_BITS = 512
"""Behind the point: powers may grow to 2^128, and leave 256 bits of the Gramians."""
_DOUBLINGS = 60


def exactly_balanced(given: DenseSystem) -> tuple[DenseSystem, Coordinates] | None:
    """One discrete system (NumPy, real) in coordinates that balance it, and these coordinates; None where they cannot be had.

    Its poles are those of the entries as they are.  There is none for a system that is unstable, not minimal, or of many states.

    Examples
    --------
    >>> import balred
    >>> A = np.array([[0.0, 1.0], [-0.25, 1.0]])  # a double pole at 1/2
    >>> small, _ = exactly_balanced(balred.ss(A, [[0.0], [1.0]], [[1.0, 0.0]], dt=1))
    >>> np.linalg.eigvals(small.A).real.round(6)
    array([0.5, 0.5])
    """
    if not given.discrete or given.order > _MOST or any(np.iscomplexobj(x) for x in given.leaves):
        return None
    A, B, C = (_whole(x) for x in given.leaves)
    found = _gramians(A, B, C)
    if found is None:
        return None
    Zp, Zq = (_root(X) for X in found)
    U, s, Vh = np.linalg.svd(_double(_times(Zq.T, Zp)))
    if not (np.isfinite(s).all() and s[-1] > np.finfo(np.float64).eps * s[0]):
        return None
    R, L = _times(Zp, _whole(ct(Vh) / np.sqrt(s))), _times(_whole((U / np.sqrt(s)).T), Zq.T)
    E = _double(_times(L, R))  # the identity, but for the rounding of the singular vectors
    Ab, Bb = np.linalg.solve(E, _double(_times(L, _times(A, R)))), np.linalg.solve(E, _double(_times(L, B)))
    Ab, Bb, Cb, d = rescaled(Ab, Bb, _double(_times(C, R)))
    right, left = _double(R) * d, np.linalg.solve(E, _double(L)) / d[:, None]
    return DenseSystem(Ab, Bb, Cb, given.D, given.dt), Coordinates(None, right, left)


def _gramians(A: Matrix, B: Matrix, C: Matrix) -> tuple[Matrix, Matrix] | None:
    """Both Gramians by doubling; None where powers of A grow too large or do not fall."""
    M, P, Q = A, _times(B, B.T), _times(C.T, C)
    for _ in range(_DOUBLINGS):
        P, Q, M = P + _times(_times(M, P), M.T), Q + _times(_times(M.T, Q), M), _times(M, M)
        largest = max(abs(x) for x in M.flat).bit_length() - _BITS
        if largest > _BITS // 4:
            return None
        if largest < -(_BITS // 4):
            return P, Q
    return None


def _root(X: Matrix) -> Matrix:
    """The lower triangle L of X = L L^T, with a column of zeros where rounding leaves nothing."""
    L = np.full_like(X, 0)
    for j in range(len(X)):
        rest = X[j:, j] - (L[j:, :j] @ L[j, :j] >> _BITS) if j else X[j:, j]
        if rest[0] > 0:
            L[j:, j] = (rest << _BITS) // isqrt(rest[0] << _BITS)
    return L


def _whole(X: Matrix) -> Matrix:
    """Entries as integers, times 2^512."""
    out = np.empty(X.shape, object)
    for at, x in np.ndenumerate(X):
        above, below = float(x).as_integer_ratio()
        out[at] = (above << _BITS) // below
    return out


def _double(X: Matrix) -> Matrix:
    return np.array([x / (1 << _BITS) for x in X.flat], np.float64).reshape(X.shape)


def _times(X: Matrix, Y: Matrix) -> Matrix:
    return np.asarray(X @ Y >> _BITS)
