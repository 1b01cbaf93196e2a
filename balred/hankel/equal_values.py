r"""Which Hankel singular values are equal but for rounding of what was given, and in which coordinates they are parted.

Values of a lossless system are equal in exact arithmetic.  Its entries are rounded, those in single precision to seven digits, and the
values differ by as much as that moves them: in some coordinates by far more than by the rounding of the entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from balred.systems.arrays import backend

Matrix = NDArray[Any]


class Entries(NamedTuple):
    """One system as it was given, each entry known to `eps` of itself (0: as it is), and balanced coordinates seen from there."""

    A: Matrix
    B: Matrix
    C: Matrix
    L: Matrix
    R: Matrix
    eps: float
    discrete: bool


def turned(s: Matrix, own: Matrix, equal: float, given: Entries) -> Matrix:
    """The unitary matrix that brings the parts of a balanced state matrix `own` which have equal values `s` to Schur form.

    Equal are values that differ by a part `equal` of themselves at most, or by what rounding of the entries `given` may do.

    Examples
    --------
    >>> A = np.array([[-0.5, 2.0], [-2.0, 0.0]])  # with B = C^H = [1, 0] and P = Q = 1
    >>> given = Entries(A, np.eye(2, 1), np.eye(1, 2), np.eye(2), np.eye(2), 0.0, False)
    >>> Q = turned(np.ones(2), A, 1e-9, given)
    >>> (Q.T @ A @ Q).diagonal().round(6)
    array([-0.25, -0.25])
    """
    Q = np.eye(len(s), dtype=own.dtype)
    for here in _runs(s, max(equal, given.eps**0.5)):
        for group in _groups(here, s, own, equal, given) if given.eps else [here]:
            Q[group, group] = backend("scipy").schur(own[group, group])[1]
    return Q


def _runs(s: Matrix, part: float) -> Iterator[slice]:
    """Where values follow each other that are equal within a part of themselves, two at least."""
    ends = [*(np.flatnonzero(s[1:] < s[:-1] * (1 - part)) + 1), len(s)]
    for first, end in zip([0, *ends[:-1]], ends, strict=True):
        if end > first + 1:
            yield slice(first, end)


def _groups(here: slice, s: Matrix, own: Matrix, equal: float, given: Entries) -> Iterator[slice]:
    """The runs in a run of values that agree in half of their digits which rounding leaves equal."""
    part = max(equal, _moved(here, s, own, given))
    for run in _runs(s[here], part):
        inner = slice(here.start + run.start, here.start + run.stop)
        if inner == here:
            yield here
        else:
            yield from _groups(inner, s, own, equal, given)


def _moved(here: slice, s: Matrix, own: Matrix, given: Entries) -> float:
    r"""By which part of themselves rounding of the entries may have moved the values of a group.

    To first order :math:`A\,\delta P+\delta P\,A^H+\sigma(\delta A+\delta A^H)+\delta(BB^H)=0` for the group's own A and B, and
    likewise for Q.  A norm of the solution is at most that of the right side times that of Y, :math:`AY+YA^H+I=0`.  Roundings are
    independent of each other, so their squares are added up.
    """
    A, I = own[here, here], np.eye(here.stop - here.start)
    try:
        Y = backend("scipy").lyapunov(A, I, given.discrete)
    except np.linalg.LinAlgError:
        return np.inf
    sizes = np.linalg.eigvalsh(Y)
    if not sizes[0] > 0:  # rounding has moved a pole of the group across the boundary
        return np.inf
    L, R, sigma = given.L[here], given.R[:, here], s[here][0]
    square = [np.abs(x) ** 2 for x in (L, R, given.A, given.B, given.C)]
    dA, dB, dC = (
        float(np.sqrt(x.sum()))
        for x in (square[0] @ square[2] @ square[1], square[0] @ square[3], square[4] @ square[1])
    )
    B, C = float(np.linalg.norm(L @ given.B)), float(np.linalg.norm(given.C @ R))
    return given.eps * float(sizes[-1]) * (2 * dA + (B * dB + C * dC) / float(sigma))
