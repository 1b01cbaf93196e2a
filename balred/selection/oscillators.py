r"""Which of a bank of oscillators to keep, and with which input and output matrices, from their exact error under white noise.

Where the operator is a sum :math:`\sum_n h_n(k)\,R_n` of fixed scalar responses with residues :math:`R_n = \mathrm{Re}(c_n b_n)`, the
error of every selection follows from the inner products :math:`\sum_k h_n(k)h_m(k)`, and so do the best C for given B and the
best B for given C: linear least squares.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balred.selection.moments import FloatArray, Moments, Selection
from balred.selection.selecting import select

HORIZON = 4096
"""Steps over which energy counts where an oscillator is not damped, so that it has none over all time, and nobody says."""
_DAMPED = 1e-6
_RIDGE = 1e-8
"""Relative weight that holds B and C at what they are where the error does not say better."""
_SWEEPS = 20


@dataclass(frozen=True, eq=False, kw_only=True)
class Oscillators(Moments):
    r"""What oscillators do under white noise, and the matrices that can be refitted.

    Parameters
    ----------
    responses : (N, N)
        Inner products of the scalar responses.
    drives, outputs : (2 N, H)
        Rows :math:`\mathrm{Re}\,b_n, \mathrm{Im}\,b_n` and :math:`\mathrm{Re}\,c_n, -\mathrm{Im}\,c_n`, so that
        :math:`R_n` is the sum of two outer products.

    Examples
    --------
    >>> import numpy as np
    >>> both = moments_of(np.diag([2.0, 1.0]), np.ones((4, 1)), np.ones((4, 1)))
    >>> type(both).__name__, both.states, both.contributions.tolist()
    ('Oscillators', 2, [[8.0, 0.0], [0.0, 4.0]])
    """

    responses: FloatArray
    drives: FloatArray
    outputs: FloatArray


def moments_of(K: FloatArray, B: FloatArray, C: FloatArray) -> Oscillators:
    """The moments for `responses`, `drives` and `outputs`."""
    b, c = ((x**2).mean(axis=1).reshape(1, -1, 2).sum(-1) for x in (B, C))
    return Oscillators(_by_oscillator(_inner(K, (B, C), (B, C))), 1, b, c, responses=K, drives=B, outputs=C)


def response_gram(M: FloatArray, f: FloatArray, length: int | None = None) -> FloatArray:
    r"""Inner products :math:`\sum_{k<L} h_n(k)h_m(k)` of the responses :math:`h_n(k) = (M_n^kf_n)_2`, by doubling.

    Parameters
    ----------
    M : (N, 2, 2)
    f : (N, 2)
    length : int, optional
        Steps L.  Without it all time counts if every oscillator is damped, else ``HORIZON`` steps.

    Examples
    --------
    >>> response_gram(np.array([[[0.0, 0.0], [1.0, 0.5]]]), np.array([[0.0, 1.0]])).round(12)
    array([[1.33333333]])
    """
    radius = np.abs(np.linalg.eigvals(M)).max()
    if length is None and radius > 1 - _DAMPED:
        length = HORIZON
    first = f[:, None, :, None] * f[None, :, None, :]
    X, power = np.zeros_like(first), np.broadcast_to(np.eye(2), M.shape)

    def ahead(P: FloatArray, X: FloatArray) -> FloatArray:
        return np.asarray(P[:, None] @ X @ np.swapaxes(P, 1, 2)[None])

    with np.errstate(over="ignore", invalid="ignore"):  # told below
        if length is None:
            X, power = first, M
            while np.abs(power).max() > 1e-20:
                X, power = X + ahead(power, X), power @ power
        for bit in bin(length)[2:] if length is not None else "":
            X, power = X + ahead(power, X), power @ power
            if bit == "1":
                X, power = first + ahead(M, X), M @ power
    if not np.isfinite(X).all():
        raise ValueError(
            f"every oscillator must stay finite over the {length} steps of a sequence, got one with a pole of modulus {radius:.3g}"
        )
    return np.asarray(X[..., 1, 1])


Factors = tuple[FloatArray, FloatArray]


def _wide(K: FloatArray) -> FloatArray:
    """Every entry four times: for the rows of real and imaginary parts."""
    return np.repeat(np.repeat(K, 2, axis=0), 2, axis=1)


def _by_oscillator(x: FloatArray) -> FloatArray:
    """The sum over the four entries of each pair of oscillators."""
    return np.asarray(x.reshape(len(x) // 2, 2, -1, 2).sum(axis=(1, 3)))


def _scale(gram: FloatArray) -> FloatArray:
    """A column of the roots of the diagonal, held away from zero."""
    diagonal = np.diag(gram)
    return np.asarray(np.sqrt(np.maximum(diagonal, 1e-12 * max(float(np.max(diagonal)), 1e-300)))[:, None])


def _inner(K: FloatArray, one: Factors, other: Factors) -> FloatArray:
    """Inner products of outer products weighted by responses: (2 N, 2 M) for factors of N and M oscillators."""
    return np.asarray(_wide(K) * (one[0] @ other[0].T) * (one[1] @ other[1].T))


def refitted(m: Oscillators, kept: NDArray[np.intp]) -> tuple[FloatArray, FloatArray, float]:
    """B and C (as in :class:`Oscillators`) of the oscillators `kept` that stand in for all, and the error's energy.

    Linear least squares for C with B as it is, then for B, and so on: no sweep raises the error.

    Examples
    --------
    >>> import numpy as np
    >>> alike = moments_of(np.ones((2, 2)), np.ones((4, 1)), np.ones((4, 1)))
    >>> B, C, error = refitted(alike, np.array([0]))
    >>> B.shape, error < 1e-12  # one stands in for both: it is driven twice as hard
    ((2, 1), True)
    """
    rows = (2 * kept[:, None] + np.arange(2)).reshape(-1)
    full = m.drives, m.outputs
    B, C = (x[rows] for x in full)
    ours, cross = m.responses[np.ix_(kept, kept)], m.responses[kept]
    total, error = float(np.sum(_inner(m.responses, full, full))), np.inf
    for _ in range(_SWEEPS):
        C = _least_squares(ours, cross, (B, C), full)
        B = _least_squares(ours, cross, (C, B), full[::-1])
        now = total + float(np.sum(_inner(ours, (B, C), (B, C))) - 2 * np.sum(_inner(cross, (B, C), full)))
        if now > 0.99 * error:
            break
        error = now
    return B, C, max(min(now, error), 0.0)


def _least_squares(ours: FloatArray, cross: FloatArray, mine: Factors, full: Factors) -> FloatArray:
    """The best second factor for the first of `mine`, to come close to `full`."""
    gram = _wide(ours) * (mine[0] @ mine[0].T)
    wanted = (_wide(cross) * (mine[0] @ full[0].T)) @ full[1]
    scale = _scale(gram)
    held = _RIDGE * np.eye(len(gram))
    return np.asarray(np.linalg.solve(gram / scale / scale.T + held, wanted / scale + _RIDGE * scale * mine[1]) / scale)


def selected(moments: Moments, rank: int, how: str = "joint", *, seed: int = 0) -> Selection:
    """As :func:`balred.selection.select`, with the error after :func:`refitted`; "joint" looks at it for its choice too."""
    plain = select(moments, rank, how, seed=seed)
    if not isinstance(moments, Oscillators) or rank == moments.states:
        return plain
    sets = [plain.kept[0]] if how != "joint" else [plain.kept[0], *_proposed(moments, rank)]
    error, kept = min(((refitted(moments, kept)[2], kept) for kept in sets), key=lambda found: found[0])
    total = float(np.sum(moments.contributions))
    return Selection(kept[None], None, error / total if total > 0 else 0.0)


def _proposed(m: Oscillators, rank: int) -> list[NDArray[np.intp]]:
    """What elimination leaves if C is refitted, or B, or every R as a whole, of which both together can do a part."""
    B, C = m.drives @ m.drives.T, m.outputs @ m.outputs.T
    values, vectors = np.linalg.eigh(_by_oscillator(B * C))
    R = vectors * np.sqrt(np.maximum(values, 0.0))
    cases = [(_wide(m.responses) * B, m.outputs), (_wide(m.responses) * C, m.drives), (m.responses, R)]
    return [_eliminated(gram, beta, len(m.responses), rank) for gram, beta in cases]


def _eliminated(gram: FloatArray, beta: FloatArray, n: int, rank: int) -> NDArray[np.intp]:
    """Which of n groups of rows of `beta` remain if each time one goes whose loss costs least once the others are refitted.

    The cost of an error in ``beta`` is its square in the metric of `gram`.
    """
    scale, size = _scale(gram), len(gram) // n
    inverse, beta, alive = (
        np.linalg.inv(gram / scale / scale.T + _RIDGE * np.eye(len(gram))),
        beta * scale,
        np.arange(n),
    )
    for _ in range(n - rank):
        blocks = np.einsum("ninj->nij", inverse.reshape(len(alive), size, len(alive), size))
        own = beta.reshape(len(alive), size, -1)
        i = int(np.argmin(np.sum(own * np.linalg.solve(blocks, own), axis=(1, 2))))
        b, rest = slice(size * i, size * (i + 1)), np.arange(len(beta)) // size != i
        step = np.linalg.solve(blocks[i], np.column_stack([inverse[b][:, rest], beta[b]]))
        columns = inverse[rest, b]
        inverse = inverse[np.ix_(rest, rest)] - columns @ step[:, : np.count_nonzero(rest)]
        beta, alive = beta[rest] - columns @ step[:, np.count_nonzero(rest) :], np.delete(alive, i)
    return alive
