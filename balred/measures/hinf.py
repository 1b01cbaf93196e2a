"""The peak gain of a system, by the Hamiltonian level sets of Bruinsma and Steinbuch, to the last digits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from balred.systems.arrays import backend, ct, identity
from balred.systems.dense_system import DenseSystem
from balred.systems.long_products import response
from balred.systems.poles import eigenvalues

_TOLD = 1e-8
"""Relative error of a peak that may be rounding."""
_SLACK = 100.0
"""What first-order rounding errors are taken for times as large, to be sure."""

_LISTED, _SQUARES = 16, (1e-140, 1e140)
"""Up to so many matrices ordinary numbers are quicker than arrays; squares that are numbers, with all their digits."""

Matrix = NDArray[Any]
Form: TypeAlias = tuple[Matrix, Matrix, Matrix, Matrix]
"""A, B, C and D, shape (k, ., .), of continuous systems with the same gains as k given ones."""
Gains: TypeAlias = Callable[[Matrix, Matrix], Matrix]
"""``gains(at, w)``: the largest singular values of the members `at` at their frequencies, shape (k', number)."""

_ENTRIES = 2**19
"""Of state matrices at several frequencies that are solved with at once."""
_ROUNDS, _ROUNDING = 10, 1e-13
"""How often a peak is climbed at most, and the part of it that is no gain."""


def hinf_peak(
    system: DenseSystem, *others: DenseSystem, given: DenseSystem | None = None, tol: float = 1e-10
) -> tuple[float, float]:
    r"""H-infinity norm of one stable system (NumPy) and the frequency where it is attained (rad/s, or rad per step).

    Lower bounds are values of :math:`\bar\sigma(G)` at frequencies, so they are never too large.  For a level
    :math:`\gamma` above the present one the imaginary eigenvalues of a Hamiltonian matrix are the frequencies where a
    singular value crosses it; the midpoints between crossings raise the bound, and the search ends when they do not.
    Discrete systems are mapped to continuous ones by a bilinear transformation, which keeps the norm.

    `others` are further realisations of the same transfer function, whose Hamiltonians may be better conditioned, and
    `given` is the one that was rounded to `system`, if it was.

    Examples
    --------
    >>> import balred
    >>> from balred.measures.hinf import hinf_peak
    >>> peak, where = hinf_peak(balred.ss([[0.0, 1.0], [-4.0, -0.4]], [[0.0], [1.0]], [[1.0, 0.0]]))
    >>> round(peak, 6), round(where, 6)  # a resonance near 2 rad/s
    (1.256297, 1.979899)
    """
    several = [stack_of(g) for g in (system, *others)]
    turn = turns_of(np.linalg.eigvals(several[0].A)) if system.discrete else None
    forms = [continuous(g, turn) for g in several]
    poles, one, gains = np.linalg.eigvals(forms[0][0][0]), np.array([0]), gains_of(*forms[0])
    real = not any(np.iscomplexobj(x) for x in forms[0])
    starts = np.concatenate([poles.imag, np.sign(poles.imag) * np.abs(poles)])
    if len(starts) > 200:  # lightly damped poles first: the search below finds what these miss
        starts = poles.imag[np.argsort(np.abs(poles.real) / np.maximum(np.abs(poles), 1e-300))[:100]]
    size = np.abs(poles)
    grid = np.geomspace(1e-2 * size.min() + 1e-300, 1e4 * size.max() + 1e-300, 60)
    starts = np.concatenate([[0.0, np.inf], np.abs(starts) if real else starts, grid, [] if real else -grid])

    def alone(w: Matrix) -> Matrix:
        return np.asarray(gains(one, w[None])[0])

    def climbed(at: Matrix, best: Matrix, where: Matrix) -> tuple[Matrix, Matrix]:
        top, w = _climb(alone, float(where[0]), float(size.min()))
        return np.array([top]), np.array([w])

    first, at = (np.array([x]) for x in largest(alone, starts))

    def crossed(at: Matrix, level: Matrix) -> list[Matrix]:
        return [crossings(members(form, at), level, real) for form in forms]

    values, places = raised(gain_of(forms[0][3]), gains, crossed, first, at, climbed, tol)
    best, where = float(values[0]), float(places[0])
    if turn is not None:
        starts, where = on_circle(starts, turn[0]), float(on_circle(where, turn[0]))
    return _sure(system, given, best, where, starts)


def per_time(system: DenseSystem, value: Any, frequency: Any) -> tuple[Any, Any]:
    """A gain and its frequency in rad per unit of time; of a real system the positive one."""
    if not any(np.iscomplexobj(x) for x in (system.A, system.B, system.C, system.D)):
        frequency = abs(frequency)
    return value, frequency / float(system.dt) if system.discrete else frequency


def members(form: Form, at: Any) -> Form:
    """Some of several systems."""
    A, B, C, D = form
    return A[at], B[at], C[at], D[at]


def stack_of(g: DenseSystem) -> DenseSystem:
    """One system as a batch of one."""
    return DenseSystem(g.A[None], g.B[None], g.C[None], g.D[None], g.dt)


def raised(
    through: Matrix,
    gains: Gains,
    crossed: Callable[[Matrix, Matrix], Sequence[Matrix]],
    best: Matrix,
    where: Matrix,
    climbed: Callable[[Matrix, Matrix, Matrix], tuple[Matrix, Matrix]],
    tol: float,
) -> tuple[Matrix, Matrix]:
    """The largest gains of k systems and where they are, from a gain and its frequency each, shape (k,), by what is above.

    ``crossed(members, levels)`` are frequencies at which their gains equal the levels, sorted, then NaN, of one form or of several.
    ``climbed(members, gains, frequencies)`` are the tops of the peaks there: the levels above them need be looked at only once
    then.  They may be estimates to less than `tol`; `gains` has the last word.  `through` are the gains of D.
    """
    best, where, still = best.copy(), where.copy(), np.zeros(len(best))
    at = np.flatnonzero(best > 0)
    for _ in range(50):
        if not len(at):
            break
        level, w = climbed(at, best[at], where[at])
        own = gains(at, np.stack([w, np.zeros(len(at))], axis=-1))
        best[at], where[at], still[at] = own[:, 0], w, own[:, 1]
        # at the gain of D itself the Hamiltonian is singular: look a little above it too
        near = bool((level <= through[at] * (1 + 1e-6)).any())
        above = (tol, 1e-8, 1e-6, 1e-4) if near else (tol,)
        found = [f for t in above for f in crossed(at, level * (1 + t))]
        points = np.concatenate([part for f in found for part in (*middles(f), f)], axis=-1)
        some = ~np.isnan(points).all(axis=-1)
        if not some.any():
            break
        at, points, level = at[some], points[some], np.maximum(level, own[:, 0])[some]
        points = np.where(np.isnan(points), 0.0, points)
        values = gains(at, points)
        first, rows = values.argmax(axis=-1), np.arange(len(at))
        values, points = values[rows, first], points[rows, first]
        more = values > level * (1 + tol)
        at = at[more]
        best[at], where[at] = values[more], points[more]
    # a peak that is flat from zero on is told at zero, not at a frequency that rounding errors make
    flat = (still >= best * (1 - tol)) & (best > 0)
    return np.where(flat, np.maximum(still, best), best), np.where(flat, 0.0, where)


def _sure(
    system: DenseSystem, given: DenseSystem | None, found: float, where: float, starts: NDArray[np.float64]
) -> tuple[float, float]:
    """The peak that was `found`, or where rounding errors are a part of it, the same with digits that they leave alone.

    Errors of reduced systems are small differences of large numbers, near poles that are close to the boundary.
    """
    if np.isinf(where) or not found > 0 or _gain_and_rounding(system, where)[1] <= _TOLD * found:
        return found, where

    def gain(w: float) -> float:
        if np.isinf(w):
            return float(np.linalg.norm(system.D, 2))
        s = complex(np.exp(1j * w)) if system.discrete else 1j * w
        if given is not None:
            try:
                return float(np.linalg.norm(response(*given.leaves, given.D, s, given.discrete), 2))
            except ArithmeticError:
                pass  # only other coordinates know anything of it
        return float(np.linalg.norm(response(*system.leaves, system.D, s, system.discrete), 2))

    def gains(w: Matrix) -> Matrix:
        return np.array([gain(x) for x in w.tolist()])

    value = gain(where)
    if abs(value - found) <= _TOLD * value:
        return value, where
    # where so much cancels that nobody knows the digits, the gain is small beside others
    others = [w for w in np.unique(starts).tolist() if w != where and _most(system, w) >= value]
    value, where = max((value, where), largest(gains, np.array(others))) if others else (value, where)
    sizes = np.abs(starts[np.isfinite(starts) & (starts != 0)])
    return _climb(gains, where, float(sizes.min(initial=np.inf)) if len(sizes) else 1.0)


def _most(system: DenseSystem, w: float) -> float:
    """More than the gain at w, by far where rounding errors are a part of what is computed of it."""
    if np.isinf(w):
        return float(np.linalg.norm(system.D, 2))
    gain, rounding = _gain_and_rounding(system, w)
    return gain + _SLACK * rounding


def _gain_and_rounding(system: DenseSystem, w: float) -> tuple[float, float]:
    """The gain at w in ordinary digits, and what rounding errors of entries may change of it, to first order."""
    A, B, C, D = system.A, system.B, system.C, system.D
    M = (np.exp(1j * w) if system.discrete else 1j * w) * np.eye(len(A)) - A
    states = np.linalg.solve(M, B)
    X, Y = np.abs(states), np.abs(np.linalg.solve(M.T, C.T)).T
    size = Y @ (np.abs(A) @ X + (X if system.discrete else abs(w) * X)) + np.abs(C) @ X + np.abs(D)
    return float(np.linalg.norm(C @ states + D, 2)), float(np.finfo(np.float64).eps * np.linalg.norm(size))


def gains_of(A: Matrix, B: Matrix, C: Matrix, D: Matrix) -> Gains:
    """The function that gives the largest singular values of the transfer functions at several frequencies."""
    n, through = A.shape[-1], gain_of(D)
    eye, piece = np.eye(n), max(1, _ENTRIES // (n * n or 1))

    def of(at: Matrix, w: Matrix) -> Matrix:
        a, b, c, d = (x[at] for x in (A, B, C, D))
        return largest_singular_values(d + c @ np.linalg.solve(1j * w[:, None, None] * eye - a, b))

    def gains(at: Matrix, w: Matrix) -> Matrix:
        members, flat = at.repeat(w.shape[1]), w.reshape(-1)
        if len(flat) <= piece and np.isfinite(flat).all():
            return of(members, flat).reshape(w.shape)
        found = through[members]
        finite = np.flatnonzero(np.isfinite(flat))
        for i in range(0, len(finite), piece):
            here = finite[i : i + piece]
            found[here] = of(members[here], flat[here])
        return found.reshape(w.shape)

    return gains


def gain_of(D: Matrix) -> Matrix:
    """The largest singular values of several matrices, most often zero."""
    return largest_singular_values(D) if D.any() else np.zeros(len(D))


def largest_singular_values(G: Matrix) -> Matrix:
    """The largest singular values of several matrices, shape (k,)."""
    few = min(G.shape[1:])
    if few > 2:
        return np.asarray(np.linalg.norm(G, 2, axis=(-2, -1)))
    if len(G) <= _LISTED:
        return np.array(each_largest(G))
    X = G if G.shape[1] == few else G.swapaxes(1, 2)
    conjugate = X.conj()
    squares = np.einsum("kij,kij->ik", X, conjugate).real
    if few == 1:
        return np.asarray(np.sqrt(squares[0]))
    # of two rows or columns in closed form: what squares lose is small beside the largest
    (a, b), cross = squares, np.einsum("kj,kj->k", X[:, 0], conjugate[:, 1])
    total = a + b
    if not (_SQUARES[0] < np.minimum.reduce(total) and np.maximum.reduce(total) < _SQUARES[1]):
        return np.asarray(np.linalg.norm(G, 2, axis=(-2, -1)))
    return np.asarray(np.sqrt(0.5 * (total + np.hypot(a - b, 2 * np.abs(cross)))))


def each_largest(G: Matrix) -> list[float]:
    """The same of a few matrices, in ordinary numbers."""
    if min(G.shape[1:]) > 2:
        return np.linalg.norm(G, 2, axis=(-2, -1)).tolist()  # type: ignore[no-any-return]
    X = G if G.shape[1] <= G.shape[2] else G.swapaxes(1, 2)
    found = []
    for one in (X @ X.conj().swapaxes(1, 2)).tolist():
        a, b, c = one[0][0].real, one[-1][-1].real, 2 * abs(one[0][-1])
        total = a + b
        if not _SQUARES[0] < total < _SQUARES[1]:
            return np.linalg.norm(G, 2, axis=(-2, -1)).tolist()  # type: ignore[no-any-return]
        found.append(math.sqrt(0.5 * (total + math.hypot(a - b, c))) if len(one) > 1 else math.sqrt(a))
    return found


def response_of(form: Form, w: float) -> Matrix:
    """The transfer function of one system, matrices of shape (., .), at one frequency."""
    A, B, C, D = form
    return np.asarray(C.dot(backend("numpy").solve(1j * w * identity(len(A), np.dtype(float)) - A, B)) + D)


def largest(gains: Callable[[Matrix], Matrix], w: Matrix) -> tuple[float, float]:
    """The largest gain at several frequencies, and where it is."""
    return max(zip(gains(w).tolist(), w.tolist(), strict=True))


def turns_of(poles: NDArray[Any]) -> NDArray[Any]:
    """Rotations of the unit circle after which no pole of each system lies near z = -1, which the bilinear map sends to infinity."""
    turns = np.exp(1j * np.linspace(0, 2 * np.pi, 17)[:-1])
    reach = np.abs(poles[:, None, :] + turns[:, None]).min(axis=-1)
    if (reach[:, 0] > 0.3).all():
        return np.ones(len(poles))
    return np.where(reach[:, 0] > 0.3, 1.0, turns[reach.argmax(axis=-1)])


def continuous(g: DenseSystem, turn: NDArray[Any] | None) -> Form:
    """`g` itself, or in discrete time its image under s = (z - 1) / (z + 1) after the rotation z -> z / turn."""
    A, B, C, D = g.A, g.B, g.C, g.D
    if turn is None:
        return A, B, C, D
    A, B = A / turn[:, None, None], B / turn[:, None, None]
    eye = np.eye(A.shape[-1])
    inv = np.linalg.inv(A + eye)
    return inv @ (A - eye), 2**0.5 * inv @ B, 2**0.5 * C @ inv, D - C @ inv @ B


def on_circle(w: Any, turn: Any) -> Any:
    """The angles of frequencies of the continuous form of a discrete system."""
    return np.angle(np.exp(2j * np.arctan(w)) * turn)


def crossings(form: Form, level: Matrix, real: bool) -> NDArray[np.float64]:
    """Frequencies at which a singular value of each transfer function equals its `level`, sorted (with some false ones), then NaN."""
    H = hamiltonian(form, level[:, None, None])
    w = np.linalg.eigvals(H)
    crossed = on_axis(w, real)
    if not crossed.any():
        return np.empty((len(H), 0))
    return np.sort(np.where(crossed, w.imag, np.nan), axis=-1)[:, : crossed.sum(axis=-1).max()]


def crossings_of_one(form: Form, level: float, real: bool) -> NDArray[np.float64]:
    """The same of one system, matrices of shape (., .)."""
    w = eigenvalues(hamiltonian(form, level))
    return np.sort(w.imag[on_axis(w, real)])


def hamiltonian(form: Form, level: Any) -> Matrix:
    """The matrix whose imaginary eigenvalues are the frequencies where a singular value equals the level, of one system or several."""
    A, B, C, D = form
    n, BH, CH = A.shape[-1], ct(B), ct(C)
    H = np.empty((*A.shape[:-2], 2 * n, 2 * n), "D" if any(x.dtype.kind == "c" for x in form) else "d")
    if D.any():
        DH = ct(D)
        RB = np.linalg.solve(level**2 * np.eye(D.shape[-1]) - DH @ D, np.concatenate([DH @ C, BH], axis=-1))
        top = A + B @ RB[..., :n]
        right, low = level * B @ RB[..., n:], (CH @ C + CH @ D @ RB[..., :n]) / level
    else:
        times = np.dot if A.ndim == 2 else np.matmul  # of small matrices a product by dot takes half as long
        top, right, low = A, times(B, BH) / level, times(CH, C) / level
    H[..., :n, :n], H[..., :n, n:], H[..., n:, :n], H[..., n:, n:] = top, right, -low, -ct(top)
    return H


def on_axis(w: Matrix, real: bool) -> NDArray[np.bool_]:
    """Which eigenvalues may be imaginary: such a one comes out with a rounding error of its real part, larger where it is double."""
    size = np.abs(w)
    found: NDArray[np.bool_] = np.abs(w.real) <= 1e-5 * (size + 1e-3 * np.maximum.reduce(size, -1, keepdims=True))
    if real:
        found &= w.imag >= 0
    return found


def middles(f: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Arithmetic and geometric means of neighbours: an interval may span ten decades."""
    low, high = f[..., :-1], f[..., 1:]
    return (high + low) / 2, np.sign(high) * np.sqrt(np.abs(high * low))


def _climb(gains: Callable[[Matrix], Matrix], w: float, scale: float) -> tuple[float, float]:
    """A local maximum near `w`, by steps on every scale and the vertices of the parabolas through three points."""
    best = float(gains(np.array([w]))[0])
    if np.isinf(w):
        return best, w
    for _ in range(_ROUNDS):
        h = (abs(w) + scale) * 10.0 ** -np.arange(1, 11)
        left, right = gains(np.concatenate([w - h, w + h])).reshape(2, -1)
        bend = left - 2 * best + right
        vertex = w + np.where(bend < 0, 0.5 * h * (left - right) / np.where(bend < 0, bend, 1.0), 0.0)
        points = np.concatenate([w - h, w + h, vertex])
        values = np.concatenate([left, right, gains(vertex)])
        i = int(np.argmax(values))
        gained = float(values[i]) - best
        if gained <= _ROUNDING * best:
            break
        best, w = float(values[i]), float(points[i])
    return best, w
