r"""What can be known of a matrix's poles: where each is, and how far from there rounding leaves it free to be.

A simple pole is known to rounding times its condition number.  A multiple one comes out as a ring of poles of radius
:math:`\varepsilon^{1/m}`, each of them known to no better than that, but their mean is known like a simple pole.  So poles
that cannot be told from the boundary of the stable region, one by one, are taken together with those that they cannot be
told from, until the mean of the group is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.systems.arrays import backend, size_of
from balred.systems.long_products import stable_as_given

Matrix = NDArray[Any]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_DOUBLE = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Poles:
    """Poles, how far each is inside the stable region (negative: outside), and how far rounding leaves that unknown.

    Arrays of shape (..., n).  Those of a group that cannot be told apart have its mean, its margin and its doubt.  A pole is
    `faint` if it is nearer to the boundary than rounding of the largest entries of its part of the state matrix may move it, so
    that only the smaller ones, taken as exact, tell where it is.  It is `torn` if its group has its mean inside and poles on both
    sides, as they are computed: whether it is stable can only be said of exact entries.
    """

    at: NDArray[np.complex128]
    margin: Floats
    doubt: Floats
    faint: Mask | None = None
    torn: Mask | None = None

    def inside(self, offset: float = 0.0) -> Mask:
        """Which are stable by more than `offset`, and certainly so."""
        return self.margin - offset > self.doubt

    @property
    def on_boundary(self) -> Mask:
        """Which cannot be told from the boundary of the stable region."""
        return np.abs(self.margin) <= self.doubt


def margins(poles: Matrix, discrete: bool) -> Floats:
    """How far poles are inside the stable region."""
    return np.asarray(1 - np.abs(poles) if discrete else -np.real(poles))


def rounding(n: int, eps: float) -> float:
    """What rounding leaves unknown of a matrix of order `n`, as a part of its norm; `eps` is that of its entries.

    That of an eigenvalue routine in double precision is below two eps, whatever the order (measured over thousands of
    matrices, times the condition of the pole); entries of a narrower kind are rounded independently of each other.
    """
    return float(10 * _DOUBLE * max(n, 1) ** 0.5 + (4 * eps / max(n, 1) ** 0.5 if eps > _DOUBLE else 0.0))


def poles_of_form(schur: Any, discrete: bool, eps: float) -> Poles:
    """What is known of the poles of a block Schur form (of the SciPy backend), in the order of its diagonal."""
    found = [_of_part(schur, states, here, discrete, eps) for states, here in schur.parts]
    return Poles(*(np.concatenate(x) for x in zip(*found, strict=True)))


def _of_part(
    schur: Any, states: Matrix, here: slice, discrete: bool, eps: float
) -> tuple[Matrix, Floats, Floats, Mask, Mask]:
    S = schur.T[here, here]
    unit = rounding(len(S), eps)
    if len(S) == 1:
        at = S[0].astype(np.complex128)
        return at, margins(at, discrete), unit * np.abs(at), np.zeros(1, bool), np.zeros(1, bool)
    host = backend("scipy")
    T, Q = host.triangular(S)
    V, inverse = schur.V[states, here] @ Q, Q.conj().T @ schur.inverse[here, states]
    A = schur.A[np.ix_(states, states)]
    at, doubt, condition = _one_by_one(A, T, V, inverse, unit)
    margin = margins(at, discrete)
    for i in np.flatnonzero(np.abs(margin) <= 2 * doubt):
        # two poles that rounding may make one: how far it moves them to first order is half of how far it may
        if 8 * doubt[i] > np.abs(np.delete(at, i) - at[i]).min():
            doubt[i] *= 2
    size, twin = unit * size_of(T), _twins(S)
    grouped, torn = np.zeros(len(T), bool), np.zeros(len(T), bool)
    for i in np.argsort(np.abs(margin)):
        if grouped[i] or np.abs(margin[i]) > doubt[i] or twin[i] < i:
            continue
        group = _closed_group(T, int(i), size)
        if np.sum(group) > 1:
            ring = np.diag(T)[group]
            mean = ring.mean()
            known, across = _group_doubt(ring, size / host.mean_condition(T, group), discrete)
            mirrored = np.zeros_like(group)
            mirrored[twin[group]] = True
            for members, value in ((mirrored, np.conj(mean)), (group, mean)):
                at[members], margin[members], doubt[members] = value, margins(value, discrete), known
                torn[members] = across
                grouped |= members
    second = twin < np.arange(len(T))  # of a pair both have one fate
    margin[second], doubt[second] = margin[twin[second]], doubt[twin[second]]
    faint = np.abs(margin) <= size * condition
    if torn.any() and (torn | (margin > doubt)).all():
        certain = stable_as_given(host.balanced(A)[0], discrete, float(np.abs(at[torn]).max()))
        doubt[torn], faint[torn] = (0.0, True) if certain else (doubt[torn], faint[torn])
    return at, margin, doubt, faint, torn


def _group_doubt(ring: Matrix, doubt: float, discrete: bool) -> tuple[float, bool]:
    """The doubt about a group of poles, that about its mean, or the radius of the ring if the boundary may cross it; and whether it does.

    A ring that is in the stable region, with its mean well inside, is taken for what it is computed to be.
    """
    mean = ring.mean()
    radius = float(np.abs(ring - mean).max())
    inside = float(margins(mean, discrete))
    if inside > max(doubt, radius / 2) and margins(ring, discrete).min() > 0:
        return doubt, False
    return max(doubt, radius), inside > doubt


def _one_by_one(A: Matrix, T: Matrix, V: Matrix, inverse: Matrix, unit: float) -> tuple[Matrix, Floats, Floats]:
    r"""Each pole of ``A = V T V^-1`` by itself, T upper triangular, the doubt about it, to first order, and its condition in T.

    :math:`|y|^T(|Ax-\lambda x| + \mathrm{unit}\,|A||x|)/|y^Hx|` is what was measured of the computation and what rounding
    may have done to the entries.  It does not depend on units of state, and leaves the small poles of a graded matrix
    the digits that they have, where the two-sided Rayleigh quotient finds them again.
    """
    left, right = backend("scipy").triangular_eigenvectors(T)
    X, YH = V @ right, left.conj().T @ inverse
    sizes = np.linalg.norm(left, axis=0) * np.linalg.norm(right, axis=0)
    AX, spread = A @ X, np.abs(A) @ np.abs(X)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        overlap = np.sum(YH.T * X, axis=0)
        best, least = np.diag(T).astype(np.complex128), np.full(len(T), np.inf)
        for at in (best, best + np.sum(YH.T * (AX - X * best), axis=0) / overlap):
            doubt = np.sum(np.abs(YH.T) * (np.abs(AX - X * at) + unit * spread), axis=0) / np.abs(overlap)
            better = doubt < least
            best, least = np.where(better, at, best), np.where(better, doubt, least)
        condition = sizes / np.abs(np.sum(left.conj() * right, axis=0))
    return best, least, condition


def _twins(S: Matrix) -> NDArray[np.intp]:
    """The place of each pole's conjugate on the diagonal of a real Schur form; of a complex one, each its own."""
    twin = np.arange(len(S))
    if not np.iscomplexobj(S):
        first = np.flatnonzero(np.diag(S, -1))
        twin[first], twin[first + 1] = first + 1, first
    return twin


def _closed_group(T: Matrix, i: int, size: float) -> Mask:
    """The nearest poles to the i-th, as few as have a mean about which the doubt does not reach a further pole."""
    poles, host, n = np.diag(T), backend("scipy"), len(T)
    order = np.argsort(np.abs(poles - poles[i]), kind="stable")
    group, k = np.zeros(n, bool), 1
    while True:
        group[order[:k]] = True
        if k == n:
            return group
        s = host.mean_condition(T, group)
        gap = np.abs(poles[group][:, None] - poles[~group]).min()
        if s > 0 and size / s < gap:
            return group
        k = min(n, max(k + 1, k * 4 // 3))


def _null_first(P: Matrix, d: int) -> Matrix:
    """A unitary matrix whose first d columns span what P takes to the least.

    What a decomposition by parts deflates is a hundred times its rounding; a step of refinement brings that back.
    """
    U, s, Vh = np.linalg.svd(P)
    V, most = Vh.conj().T, int(np.sum(s[: len(P) - d] > 1e-8 * s[:1]))
    least, rest = V[:, len(P) - d :], V[:, : len(P) - d]
    least = least - rest[:, :most] @ ((U[:, :most].conj().T @ (P @ least)) / s[:most, None])
    return np.asarray(np.linalg.qr(np.hstack([least, rest]))[0])


def put_on_boundary(A: Matrix, marginal: Sequence[tuple[complex, float]], discrete: bool) -> tuple[Matrix, Matrix]:
    r"""A matrix with poles on the stability boundary, off which rounding had moved them, as (Q^H A Q, Q), Q unitary.

    Beside poles of its own kind alone such a pole would be known better than it is: at -1e-17 it would be stable.  A
    multiple one must not be put there pole by poles either, which would be a change as large as its ring, but by what rounding
    moved it by: vector after vector of the null space of :math:`A-\mu I`, or :math:`(A-\mu I)(A-\bar\mu I)` of a real
    matrix, is split off, and what is left below it, which is no more than rounding, becomes zero.

    Parameters
    ----------
    A : array, shape (n, n)
    marginal : sequence of (pole, doubt)
        The poles that are on the boundary, as often as they are poles.
    discrete : bool
    """
    given, n, real, start = A, len(A), not np.iscomplexobj(A), 0
    A, Q = A.copy(), np.eye(n, dtype=A.dtype)
    for pole, doubt in marginal:
        at = complex(pole / abs(pole) if discrete else 1j * pole.imag)
        if real and abs(at.imag) <= doubt:
            at = complex(np.sign(at.real))
        if real and at.imag < 0:
            continue  # with its twin
        d = 1 + (real and at.imag > 0)
        M, I = A[start:, start:], np.eye(n - start)
        if len(M) < d:
            return given, np.eye(n)
        P = M @ M - 2 * at.real * M + abs(at) ** 2 * I if d == 2 else M - (at.real if real else at) * I
        V = _null_first(P, d)
        A[start:] = V.conj().T @ A[start:]
        A[:, start:], Q[:, start:] = A[:, start:] @ V, Q[:, start:] @ V
        here, below = slice(start, start + d), slice(start + d, None)
        if not np.linalg.norm(A[below, here]) <= doubt:
            return given, np.eye(n)
        A[below, here] = 0
        block = A[here, here]
        if d == 1:
            A[start, start] = at.real if real else at
        elif discrete:
            A[here, here] = block / np.sqrt(np.linalg.det(block))
        else:
            A[here, here] = block - np.trace(block) / 2 * np.eye(2)
        start += d
    return A, Q
