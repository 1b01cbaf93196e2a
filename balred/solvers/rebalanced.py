r"""Coordinates in which a system is easy: those of its own balancing, found from Gramians that need not be right.

The state matrix of a filter in companion form, or of a system sampled often, may be far from normal: its powers grow before
they fall, and the rounding of what grew stays in the Gramians.  Balanced, the powers of a state matrix do not grow at
all.  So a few digits of the Gramians (those over a window of time, before the powers have grown too large) are enough to
come to coordinates in which more digits are had, and so on.  The change of coordinates is always made from the matrices
as given, with twice the digits: no step's rounding enters the result.

The polynomial of a sharp digital filter holds its poles in the last of its digits, and powers of its companion matrix may grow
beyond all that twice the digits hold.  The last resort is slow and sure: Gramians of a few states in whole numbers, of which
Python's have as many digits as are asked for.
"""

from __future__ import annotations

from fractions import Fraction
from math import isqrt, log2
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.systems.arrays import ct
from balred.systems.dense_system import DenseSystem
from balred.systems.long_products import BITS, MOST, NotHeld, bits, cayley, double, times, transformed, whole
from balred.systems.units import Coordinates, rescaled

Matrix = NDArray[Any]

_DOUBLINGS = 60


def rebalanced(given: DenseSystem, at: Coordinates, Zp: Matrix, Zq: Matrix) -> tuple[DenseSystem, Coordinates] | None:
    r"""One system (NumPy) in coordinates that nearly balance it, and these coordinates; None where they cannot be found.

    With :math:`Z_q^HZ_p = U\Sigma V^H`, :math:`R = Z_pV\Sigma^{-1/2}` and :math:`L = \Sigma^{-1/2}U^HZ_q^H`, whatever the
    factors are worth the transfer function of

    .. math:: ((LR)^{-1}LAR,\ (LR)^{-1}LB,\ CR)

    is that of (A, B, C), and LR is close to the identity.

    Parameters
    ----------
    given : DenseSystem
    at : Coordinates
        Where the factors were computed.
    Zp, Zq : arrays, shape (n, k)
        Factors of Gramians, or of parts of them.
    """
    n, m = given.B.shape
    P, Q = _definite(Zp, n), _definite(Zq, n)
    if P is None or Q is None:
        return None
    Zp, Zq = P, Q
    U, s, Vh = np.linalg.svd(ct(Zq) @ Zp)
    if not s[-1] > 0:
        return None
    root = np.sqrt(s)
    identity = np.eye(n)
    R, L = at.before(identity) @ (Zp @ ct(Vh) / root), ct(Zq @ U / root) @ at.after(identity)
    # in exact arithmetic the product is the identity; what rounding leaves of that is divided out
    L = np.linalg.solve(transformed(L, identity, R), L)
    E = transformed(L, identity, R)
    A, B = np.linalg.solve(E, transformed(L, given.A, R)), np.linalg.solve(E, transformed(L, given.B, np.eye(m)))
    C = transformed(np.eye(len(given.C)), given.C, R)
    if not all(np.isfinite(x).all() for x in (A, B, C, L, R)):
        return None
    A, B, C, d = rescaled(A, B, C)
    return DenseSystem(A, B, C, given.D, given.dt), Coordinates(None, R * d, L / d[:, None])


def exactly_balanced(given: DenseSystem) -> tuple[DenseSystem, Coordinates] | None:
    """One system (NumPy, real) in coordinates that balance it, and these coordinates; None where they cannot be had.

    Its poles are those of the entries as they are.  There is none for a system that is unstable, not minimal, or of many states.

    Examples
    --------
    >>> import balred
    >>> A = np.array([[0.0, 1.0], [-0.25, 1.0]])  # a double pole at 1/2
    >>> small, _ = exactly_balanced(balred.ss(A, [[0.0], [1.0]], [[1.0, 0.0]], dt=1))
    >>> np.linalg.eigvals(small.A).real.round(6)
    array([0.5, 0.5])
    """
    if given.order > MOST or any(np.iscomplexobj(x) for x in given.leaves):
        return None
    try:
        return _from_gramians(given, *(whole(x) for x in given.leaves))
    except NotHeld:
        return None


def _from_gramians(given: DenseSystem, A: Matrix, B: Matrix, C: Matrix) -> tuple[DenseSystem, Coordinates] | None:
    """The same, from A, B and C in whole numbers."""
    Zp, Zq = (_root(X) for X in _gramians(given, A, B, C))
    U, s, Vh = np.linalg.svd(double(times(Zq.T, Zp)))
    if not (np.isfinite(s).all() and s[-1] > np.finfo(np.float64).eps * s[0]):
        return None
    R, L = times(Zp, whole(ct(Vh) / np.sqrt(s))), times(whole((U / np.sqrt(s)).T), Zq.T)
    E = double(times(L, R))  # the identity, but for the rounding of the singular vectors
    Ab, Bb = np.linalg.solve(E, double(times(L, times(A, R)))), np.linalg.solve(E, double(times(L, B)))
    Ab, Bb, Cb, d = rescaled(Ab, Bb, double(times(C, R)))
    right, left = double(R) * d, np.linalg.solve(E, double(L)) / d[:, None]
    return DenseSystem(Ab, Bb, Cb, given.D, given.dt), Coordinates(None, right, left)


def _gramians(given: DenseSystem, A: Matrix, B: Matrix, C: Matrix) -> tuple[Matrix, Matrix]:
    """Both Gramians by doubling, from A, B and C in whole numbers; `NotHeld` where powers grow too large or do not fall."""
    if not given.discrete:  # of the discrete system with the same Gramians
        sizes = np.abs(np.linalg.eigvals(given.A))
        if not 0 < sizes.min() <= sizes.max() < np.inf:
            raise NotHeld(f"poles must not be zero, got {sizes.min():.3g}")
        k = round((log2(sizes.min()) + log2(sizes.max()) - 2) / 4)
        A, inverse = cayley(given.A, 2.0 * 4.0**k)  # a unit with a root that is a power of two
        root = Fraction(2) ** -k
        B, C = (x * root.numerator // root.denominator for x in (times(inverse, B), times(C, inverse)))
    M, P, Q = A, times(B, B.T), times(C.T, C)
    for _ in range(_DOUBLINGS):
        P, Q, M = P + times(times(M, P), M.T), Q + times(times(M.T, Q), M), times(M, M)
        if bits(M) > BITS // 4:
            break
        if bits(M) < -BITS // 4:
            return P, Q
    raise NotHeld("powers must not grow far, and fall")


def _root(X: Matrix) -> Matrix:
    """The lower triangle L of X = L L^T, with a column of zeros where rounding leaves nothing."""
    L = np.full_like(X, 0)
    for j in range(len(X)):
        rest = X[j:, j] - (L[j:, :j] @ L[j, :j] >> BITS) if j else X[j:, j]
        if rest[0] > 0:
            L[j:, j] = (rest << BITS) // isqrt(rest[0] << BITS)
    return L


def continuous_image(g: DenseSystem) -> DenseSystem | None:
    r"""The continuous system with the Gramians of one discrete system (NumPy) that was sampled often; None of another.

    .. math:: \Delta = A - I,\quad A_c = (2I+\Delta)^{-1}\Delta,\quad B_c = \sqrt2\,(2I+\Delta)^{-1}B,\quad
        C_c = \sqrt2\,C\,(2I+\Delta)^{-1}

    Poles near one are what is left of a diagonal when one is taken away: powers of A lose what :math:`\Delta` has of them.
    """
    if not (g.discrete and isinstance(g.A, np.ndarray) and g.A.ndim == 2):
        return None
    n = g.order
    delta = g.A - np.eye(n, dtype=g.A.dtype)
    if not float(np.linalg.norm(delta)) < 1:
        return None
    inverse = np.linalg.inv(delta + 2 * np.eye(n, dtype=g.A.dtype))
    root = float(np.sqrt(2))
    return DenseSystem(inverse @ delta, root * (inverse @ g.B), root * (g.C @ inverse), g.D)


def _definite(Z: Matrix, n: int) -> Matrix | None:
    """A square factor of the Gramian and a little more, so that no direction is left out."""
    size = float(np.linalg.norm(Z))
    if not (np.isfinite(size) and size > 0):
        return None
    little = size * float(np.sqrt(np.finfo(Z.dtype).eps))
    return np.asarray(ct(np.linalg.qr(np.concatenate([ct(Z), little * np.eye(n, dtype=Z.dtype)]), mode="r")))
