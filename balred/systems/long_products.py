r"""Products of matrices with twice the digits, from ordinary ones.

A change of coordinates :math:`LAR` may cancel nearly all digits of its factors, and then has none of its own.  Here every
factor is cut into slices of so few bits that products of slices are exact, and the products are added in two words
[Ozaki et al. 2012].  The work is that of some fifteen ordinary products.

Where twice the digits are not enough, whole numbers are, of which Python's have as many digits as are asked for: a slow way, for
a few states.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from math import log2
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[Any]

_SLICES = 5
"""Of more than 20 bits each: more than the 106 bits of two words."""
_REFINEMENTS = 30
_FEW = 300
"""States for which an inverse takes less time than products with twice the digits."""
BITS = 512
"""Of whole numbers, behind the point: powers may grow to 2^128, and leave 256 bits of what is added up from them."""
MOST = 32
"""States for which products of matrices of whole numbers take some seconds."""
_INSIDE = 26
"""Doublings after which the powers of a matrix fall that has its poles inside by about 1e-6."""
_NEWTON = 12


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


def seen_through(L: Matrix, A: Matrix, B: Matrix, C: Matrix, R: Matrix) -> tuple[list[Matrix], list[Matrix]]:
    """A, B and C seen through the projection R (L R)^-1 L, where L R is about the identity, and what rounding leaves of them.

    Each is the sum of the two that are returned.
    """
    if any(np.iscomplexobj(x) for x in (L, A, B, C, R)):
        k, m, p = len(L), B.shape[1], len(C)
        found = seen_through(*(_real(x) for x in (L, A, B, C, R)))
        sizes = (k, k), (k, m), (p, k)
        high, low = ([x[:i, :j] + 1j * x[i:, :j] for x, (i, j) in zip(part, sizes, strict=True)] for part in found)
        return high, low
    eye = np.eye(len(L))
    E = _added([*_terms(L, R), -eye])
    gap = E[0] + E[1]

    def from_left(X: Matrix, below: Matrix) -> tuple[Matrix, Matrix]:
        high, low = _added([*_terms(L, X), L @ below])
        return _added([high, low - np.linalg.solve(eye + gap, gap @ high)])

    made = [from_left(*product(A, R)), from_left(B, np.zeros_like(B)), product(C, R)]
    return [x for x, _ in made], [x for _, x in made]


def response(
    A: Matrix,
    B: Matrix,
    C: Matrix,
    D: Matrix,
    at: complex,
    discrete: bool,
    near: Callable[[Matrix], Matrix] | None = None,
) -> Matrix:
    r"""``D + C (sI - A)^-1 B`` to some ten digits, however much cancels in it, at a point on the boundary of the stable region.

    A solution with ordinary digits is refined, its residual computed with twice as many.

    Parameters
    ----------
    A, B, C, D : arrays
    at : complex
        s = i w, or in discrete time z on the unit circle but for rounding, which is taken out.
    near : callable, optional
        ``near(X)`` is about :math:`(sI-A)^{-1}X`, by which the solution is found; by default from A itself.

    Raises
    ------
    ArithmeticError
        The refinement does not converge, because nothing near the solution is known.

    Examples
    --------
    >>> import numpy as np
    >>> from balred.systems.long_products import response
    >>> one = np.eye(1)
    >>> complex(response(-one, one, one, 0 * one, 1j, discrete=False)[0, 0])  # 1 / (1 + i)
    (0.5-0.5j)
    """
    n = len(A)
    dtype = np.complex128
    # Re(z) - 1 is exact near one, where small distances count
    words = [np.full(n, at, dtype), -np.diag(A).astype(dtype)]
    if discrete:
        x, y = Fraction(at.real), Fraction(at.imag)
        words.append(np.full(n, float(1 - x * x - y * y) / 2 * at, dtype))
    parts = [_added([w.real for w in words]), _added([w.imag for w in words])]
    M, below = -A.astype(dtype), parts[0][1] + 1j * parts[1][1]
    M[np.arange(n), np.arange(n)] = parts[0][0] + 1j * parts[1][0]
    near = near or partial(_nearly_solved, M)
    wide, right = _real(M), _stacked(B.astype(dtype))
    X = np.asarray(near(B.astype(dtype)), dtype)
    low, last = np.zeros_like(X), np.inf
    outer = _real(C.astype(dtype))
    for _ in range(_REFINEMENTS):
        value = _added([*_terms(outer, _stacked(X)), outer @ _stacked(low), _stacked(D.astype(dtype))])[0]
        rest = _added([right, *(-t for t in _terms(wide, _stacked(X))), -_stacked(M @ low + below[:, None] * X)])[0]
        step = near(rest[:n] + 1j * rest[n:])
        size = float(np.linalg.norm(step)) / (float(np.linalg.norm(X)) or 1.0)
        if not size <= last / 2:
            break
        # what the step changes of the value, beside it
        change, found = C @ step, value[: len(C)] + 1j * value[len(C) :]
        # what is less than a part of the terms by two dozen decades is nothing
        least = 1e-10 * np.linalg.norm(found) + 1e-24 * np.linalg.norm(np.abs(C) @ np.abs(X) + np.abs(D))
        if np.linalg.norm(np.abs(C) @ np.abs(step)) <= least:
            return np.asarray(found + change)
        last = size
        re, im = _added([X.real, low.real, step.real]), _added([X.imag, low.imag, step.imag])
        X, low = re[0] + 1j * im[0], re[1] + 1j * im[1]
    raise ArithmeticError(
        f"the response at {at:.6g} must be known to some digits, got equations in which rounding errors leave none"
    )


def _nearly_solved(M: Matrix, X: Matrix) -> Matrix:
    """M^-1 X, which nobody knows where M is singular in these digits."""
    try:
        return np.asarray(np.linalg.solve(M, X))
    except np.linalg.LinAlgError:
        return np.full_like(X, np.nan)


def ten_digits(A: Matrix, B: Matrix, C: Matrix, D: Matrix, at: Any, discrete: bool) -> Matrix:
    """:func:`response` to ten digits at least, at many points: in ordinary digits where these are shown to leave so many.

    Parameters
    ----------
    A, B, C, D : arrays
    at : complex, or array of them of any shape (...)

    Returns
    -------
    array, shape (..., p, m)

    Raises
    ------
    ArithmeticError
        As :func:`response`.

    Examples
    --------
    >>> A, B, C, D = np.diag([-1.0, -2.0]), np.ones((2, 1)), np.ones((1, 2)), np.zeros((1, 1))
    >>> s = 1j * np.arange(3)
    >>> bool(np.abs(ten_digits(A, B, C, D, s, False)[:, 0, 0] - 1 / (s + 1) - 1 / (s + 2)).max() < 1e-10)
    True
    """
    points = np.asarray(at, np.complex128)
    each = points.reshape(-1)
    out = np.empty((len(each), len(C), B.shape[1]), np.complex128)
    known = np.zeros(len(each), bool)
    if 0 < len(A) <= _FEW:
        out, known = _ordinary(A, B, C, D, each)
    for k in np.flatnonzero(~known):
        out[k] = response(A, B, C, D, complex(each[k]), discrete)
    return out.reshape(*points.shape, *out.shape[1:])


def _ordinary(A: Matrix, B: Matrix, C: Matrix, D: Matrix, at: Matrix) -> tuple[Matrix, NDArray[np.bool_]]:
    """The response at each point in ordinary digits, and whether ten of them are known to be right.

    An error in the solution X is that of its residual seen through ``C (sI - A)^-1``, which holds every rounding error: of the
    entries of the matrix, of the point, of the products.  It is bounded entry by entry by the sizes of what was multiplied.
    """
    n, eps = len(A), 1.5 * (len(A) + 2) * float(np.finfo(np.float64).eps)
    M = np.repeat(-A[None].astype(np.complex128), len(at), axis=0)
    M.reshape(len(at), -1)[:, :: n + 1] += at[:, None]
    try:
        inverse = np.linalg.inv(M)
    except np.linalg.LinAlgError:
        return np.empty((len(at), len(C), B.shape[1]), np.complex128), np.zeros(len(at), bool)
    size = np.abs(M)
    # the inverse is that of M but for a part of this size
    sound = size.sum(axis=-1).max(axis=-1) * np.abs(inverse).sum(axis=-1).max(axis=-1) * eps < 1e-3
    size.reshape(len(at), -1)[:, :: n + 1] += np.abs(at)[:, None]  # a difference may be less than what it is of
    X, seen = inverse @ B, np.abs(C @ inverse)
    found = D + C @ X
    reach = np.abs(X)
    missed = seen @ (np.abs(B - M @ X) + eps * (size @ reach + np.abs(B))) + eps * (np.abs(C) @ reach + np.abs(D))
    wanted, lost = (np.sqrt((np.abs(x) ** 2).sum(axis=(-2, -1))) for x in (found, missed))
    return found, sound & (lost <= 1e-10 * wanted)


def _stacked(X: Matrix) -> Matrix:
    return np.concatenate([X.real, X.imag])


def _real(X: Matrix) -> Matrix:
    """A complex matrix as a real one of twice the size, which multiplies alike."""
    n, m = X.shape
    out = np.empty((2 * n, 2 * m))
    out[:n, :m] = out[n:, m:] = X.real
    out[n:, :m] = X.imag
    np.negative(out[n:, :m], out=out[:n, m:])
    return out


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


class NotHeld(ArithmeticError):
    """Whole numbers have too few digits for what they are to hold."""


def whole(X: Matrix) -> Matrix:
    """Real entries as whole numbers, times 2^512; `NotHeld` where that is not all of their digits."""
    out = np.empty(X.shape, object)
    for at, x in np.ndenumerate(X):
        above, below = float(x).as_integer_ratio()
        out[at], lost = divmod(above << BITS, below)
        if lost:
            raise NotHeld(f"entries must be multiples of 2^-{BITS}, got {x}")
    return out


def double(X: Matrix) -> Matrix:
    """The nearest numbers of double precision to whole ones."""
    return np.array([x / (1 << BITS) for x in X.flat], np.float64).reshape(X.shape)


def times(X: Matrix, Y: Matrix) -> Matrix:
    """The product of matrices of whole numbers, rounded in the last bit."""
    return np.asarray(X @ Y >> BITS)


def bits(X: Matrix) -> int:
    """The logarithm of the largest of whole numbers."""
    return int(max(abs(x) for x in X.flat)).bit_length() - BITS


def cayley(A: Matrix, unit: float) -> tuple[Matrix, Matrix]:
    r"""``M = (I - A/s)^-1 (I + A/s)`` and ``(I - A/s)^-1`` in whole numbers, s a power of two, the `unit`; `NotHeld` without an inverse.

    M has its poles inside the unit circle where A has them in the left half-plane.
    """
    scaled, n = whole(A / unit), len(A)
    identity = np.eye(n, dtype=object) * (1 << BITS)
    try:
        inverse = whole(np.linalg.inv(np.eye(n) - A / unit))
    except (np.linalg.LinAlgError, OverflowError) as error:
        raise NotHeld(str(error)) from None
    for _ in range(_NEWTON):
        gap = identity - times(identity - scaled, inverse)
        inverse = inverse + times(inverse, gap)
        if bits(gap) > -1:
            break
        if bits(gap) < -BITS // 2:
            return times(inverse, identity + scaled), inverse
    raise NotHeld("an inverse in double precision must be near the true one")


def stable_as_given(A: Matrix, discrete: bool, unit: float) -> bool:
    r"""Whether all poles of a matrix with exact entries are stable, by more than about 1e-6 of the `unit` (one in discrete time).

    Their powers, or those of the :func:`cayley` image, say so, in whole numbers.  No, where it cannot be told.

    Examples
    --------
    >>> double_pole = np.array([[0.0, 1.0], [-(0.999**2), 1.998]])  # computed, one of the two is farther out than .999
    >>> stable_as_given(double_pole, True, 1.0), stable_as_given(double_pole / 0.999, True, 1.0)
    (True, False)
    """
    A = _real(A) if np.iscomplexobj(A) else A
    if len(A) > MOST or not np.isfinite(A).all():
        return False
    try:
        M = whole(A) if discrete else cayley(A, 2.0 ** round(log2(unit)))[0]
    except NotHeld:
        return False
    for _ in range(_INSIDE):
        M = times(M, M)
        if bits(M) > BITS // 4:
            return False
        if bits(M) < -BITS // 4:
            return True
    return False
