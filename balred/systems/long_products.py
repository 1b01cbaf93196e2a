r"""Products of matrices with twice the digits, from ordinary ones.

A change of coordinates :math:`LAR` may cancel nearly all digits of its factors, and then has none of its own.  Here every
factor is cut into slices of so few bits that products of slices are exact, and the products are added in two words
[Ozaki et al. 2012].  The work is that of some fifteen ordinary products.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[Any]

_SLICES = 5
"""Of more than 20 bits each: more than the 106 bits of two words."""


def product(X: Matrix, Y: Matrix) -> tuple[Matrix, Matrix]:
    """X Y as the sum of a matrix and a much smaller one, to about 100 bits beside the largest entries of rows and columns.

    References
    ----------
    K. Ozaki, T. Ogita, S. Oishi and S. M. Rump, Error-free transformations of matrix multiplication by using fast
    routines of matrix multiplication and its applications, Numer. Algorithms 59 (2012).

    Examples
    --------
    >>> X, Y = np.array([[1.0, 2.0**-60, -1.0]]), np.array([[1.0], [1.0], [1.0]])
    >>> high, low = product(X, Y)
    >>> float(high[0, 0]) == 2.0**-60
    True
    """
    return _added(_terms(X, Y))


def transformed(L: Matrix, A: Matrix, R: Matrix) -> Matrix:
    """L A R, rounded once; NaN where entries are so far apart that not even twice the digits are enough."""
    if any(np.iscomplexobj(x) for x in (L, A, R)):
        n, m = len(L), R.shape[1]
        both = transformed(*(_real(x) for x in (L, A, R)))
        return both[:n, :m] + 1j * both[n:, :m]
    high, low = product(A, R)
    found = _added([*_terms(L, high), L @ low])[0]
    # beside the largest entries of the rows of L, of A, and of the columns of R
    lost = 2.0**-98 * len(A) ** 2 * np.outer(np.abs(L).max(axis=1), np.abs(R).max(axis=0)) * np.abs(A).max(initial=0.0)
    enough = float(np.linalg.norm(lost)) <= 1e-15 * float(np.linalg.norm(found))
    return found if enough else np.full_like(found, np.nan)


def _real(X: Matrix) -> Matrix:
    """A complex matrix as a real one of twice the size, which multiplies alike."""
    return np.block([[X.real, -X.imag], [X.imag, X.real]])


def _terms(X: Matrix, Y: Matrix) -> list[Matrix]:
    bits = (52 - int(np.ceil(np.log2(max(X.shape[1], 2))))) // 2
    left, right = _slices(X, bits), [part.T for part in _slices(Y.T, bits)]
    return [left[i] @ right[j] for i in range(_SLICES) for j in range(_SLICES - i)]


def _slices(X: Matrix, bits: int) -> list[Matrix]:
    """Matrices that add up to X, row by row multiples of ever smaller powers of two."""
    largest = np.abs(X).max(axis=1, initial=0.0)[:, None]
    unit = np.ldexp(1.0, np.frexp(largest)[1])
    out = []
    for _ in range(_SLICES):
        unit = unit * 2.0**-bits
        part = np.round(X / unit) * unit
        out.append(part)
        X = X - part
    return out


def _added(terms: list[Matrix]) -> tuple[Matrix, Matrix]:
    """The sum of many matrices in two words [Knuth 1969, theorem 4.2.2C]."""
    high, low = np.zeros_like(terms[0]), np.zeros_like(terms[0])
    for term in terms:
        total = high + term
        part = total - high
        low = low + ((high - (total - part)) + (term - part))
        high = total
    total = high + low
    return total, low - (total - high)
