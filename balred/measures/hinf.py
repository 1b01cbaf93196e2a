"""The peak gain of a system, by the Hamiltonian level sets of Bruinsma and Steinbuch, to the last digits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from balred.systems.dense_system import DenseSystem
from balred.systems.long_products import response
from balred.systems.poles import eigenvalues

_TOLD = 1e-8
"""Relative error of a peak that may be rounding."""
_SLACK = 100.0
"""What first-order rounding errors are taken for times as large, to be sure."""

Matrix = NDArray[Any]
Form: TypeAlias = tuple[Matrix, Matrix, Matrix, Matrix]
"""A, B, C and D of a continuous system with the same gains."""

_ENTRIES = 2**19
"""Of state matrices at several frequencies that are solved with at once."""
_ROUNDS, _ROUNDING = 10, 1e-13
"""How often a peak is climbed at most, and the part of it that is no gain."""


def hinf_peak(
    system: DenseSystem, *others: DenseSystem, given: DenseSystem | None = None, tol: float = 1e-10
) -> tuple[float, float]:
    r"""H-infinity norm of one stable system (NumPy) and the frequency where it is attained (rad/s, or rad per step).

    Lower bounds are values of :math:`\bar\sigma(G)` at frequencies, hence never too large.  For a level
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
    turn = turn_of(np.linalg.eigvals(system.A)) if system.discrete else 1.0
    forms = [continuous(g, turn) for g in (system, *others)]
    A, B, C, D = forms[0]
    poles, gains = np.linalg.eigvals(A), gains_of(A, B, C, D)
    real = not any(np.iscomplexobj(x) for x in (A, B, C, D))
    starts = np.concatenate([poles.imag, np.sign(poles.imag) * np.abs(poles)])
    if len(starts) > 200:  # lightly damped poles first: the search below finds what these miss
        starts = poles.imag[np.argsort(np.abs(poles.real) / np.maximum(np.abs(poles), 1e-300))[:100]]
    size = np.abs(poles)
    grid = np.geomspace(1e-2 * size.min() + 1e-300, 1e4 * size.max() + 1e-300, 60)
    starts = np.concatenate([[0.0, np.inf], np.abs(starts) if real else starts, grid, [] if real else -grid])

    def climbed(best: float, where: float) -> tuple[float, float]:
        return _climb(gains, where, float(size.min()))

    best, where = raised(forms, gains, *largest(gains, starts), climbed, tol)
    if system.discrete:
        starts, where = on_circle(starts, turn), float(on_circle(where, turn))
    return _sure(system, given, best, where, starts)


def raised(
    forms: Sequence[Form],
    gains: Callable[[Matrix], Matrix],
    best: float,
    where: float,
    climbed: Callable[[float, float], tuple[float, float]],
    tol: float,
) -> tuple[float, float]:
    """The largest gain and where it is, from a gain and its frequency, by what the Hamiltonians of several forms say is above.

    ``climbed(gain, frequency)`` is the top of the peak there: the level above it need be looked at only once then.  It may be an
    estimate to less than `tol`; `gains` has the last word.
    """
    through, still = gain_of(forms[0][3]), 0.0
    real = not any(x.dtype.kind == "c" for x in forms[0])
    for _ in range(50):
        if best == 0.0:
            break
        best, where = climbed(best, where)
        # at the gain of D itself the Hamiltonian is singular: look a little above it too
        levels = (tol, 1e-8, 1e-6, 1e-4) if best <= through * (1 + 1e-6) else (tol,)
        found = [_crossings(*form, best * (1 + t), real) for form in forms for t in levels]
        middles = [np.concatenate([_middles(f), f]) for f in found if len(f)]
        points = np.concatenate([*middles, [where, 0.0] if where != 0 else [0.0]])
        values = gains(points)
        still, at = float(values[-1]), int(values.argmax())
        if values[at] <= best * (1 + tol):
            best = float(values[-2]) if where != 0 else still
            break
        best, where = float(values[at]), float(points[at])
    # a peak that is flat from zero on is told at zero, not at a frequency that rounding errors make
    return (max(still, best), 0.0) if still >= best * (1 - tol) and best > 0 else (best, where)


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
        return gain_of(system.D)
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


def gains_of(A: Matrix, B: Matrix, C: Matrix, D: Matrix) -> Callable[[Matrix], Matrix]:
    """The function that gives the largest singular value of the transfer function at several frequencies."""
    n, through = len(A), gain_of(D)
    eye, piece = np.eye(n), max(1, _ENTRIES // (n * n or 1))

    def gains(w: Matrix) -> Matrix:
        if len(w) <= piece and np.isfinite(w).all():
            return largest_singular_values(D + C @ np.linalg.solve(1j * w[:, None, None] * eye - A, B[None]))
        found = np.full(len(w), through)
        finite = np.flatnonzero(np.isfinite(w))
        for i in range(0, len(finite), piece):
            at = finite[i : i + piece]
            found[at] = largest_singular_values(D + C @ np.linalg.solve(1j * w[at, None, None] * eye - A, B[None]))
        return found

    return gains


def gain_of(D: Matrix) -> float:
    """The largest singular value of one matrix, most often zero."""
    return float(np.linalg.norm(D, 2)) if D.any() else 0.0


def largest_singular_values(G: Matrix) -> Matrix:
    """The largest singular values of several matrices."""
    few = min(G.shape[1:])
    X = G if G.shape[1] == few else G.swapaxes(1, 2)
    if few > 2:
        return np.asarray(np.linalg.norm(G, 2, axis=(-2, -1)))
    conjugate = X.conj()
    squares = np.einsum("kij,kij->ik", X, conjugate).real
    if few == 1:
        return np.asarray(np.sqrt(squares[0]))
    # of two rows or columns in closed form: what squares lose is small beside the largest
    (a, b), cross = squares, np.einsum("kj,kj->k", X[:, 0], conjugate[:, 1])
    total = a + b
    if not (total.min() > 1e-140 and total.max() < 1e140):
        return np.asarray(np.linalg.norm(G, 2, axis=(-2, -1)))
    return np.asarray(np.sqrt(0.5 * (total + np.hypot(a - b, 2 * np.abs(cross)))))


def largest(gains: Callable[[Matrix], Matrix], w: Matrix) -> tuple[float, float]:
    """The largest gain at several frequencies, and where it is."""
    return max(zip(gains(w).tolist(), w.tolist(), strict=True))


def turn_of(poles: NDArray[Any]) -> complex:
    """A rotation of the unit circle after which no pole lies near z = -1, which the bilinear map sends to infinity."""
    turns = np.exp(1j * np.linspace(0, 2 * np.pi, 17)[:-1])
    return 1.0 if _reach(poles, 1.0) > 0.3 else max(turns, key=lambda t: _reach(poles, t))


def _reach(poles: NDArray[Any], turn: complex) -> float:
    return float(np.min(np.abs(poles + turn), initial=2.0))


def continuous(g: DenseSystem, turn: complex) -> Form:
    """`g` itself, or in discrete time its image under s = (z - 1) / (z + 1) after the rotation z -> z / turn."""
    A, B, C, D = g.A, g.B, g.C, g.D
    if not g.discrete:
        return A, B, C, D
    A, B = (A / turn, B / turn) if turn != 1.0 else (A, B)
    eye = np.eye(len(A))
    inv = np.linalg.inv(A + eye)
    return inv @ (A - eye), 2**0.5 * inv @ B, 2**0.5 * C @ inv, D - C @ inv @ B


def on_circle(w: Any, turn: complex) -> Any:
    """The angles of frequencies of the continuous form of a discrete system."""
    return np.angle(np.exp(2j * np.arctan(w)) * turn)


def _crossings(
    A: NDArray[Any], B: NDArray[Any], C: NDArray[Any], D: NDArray[Any], level: float, real: bool
) -> NDArray[np.float64]:
    """Frequencies at which a singular value of the transfer function equals `level`, sorted (with some false ones)."""
    n, BH, CH, dtype = len(A), B.conj().T, C.conj().T, np.result_type(A, B, C, D)
    if D.any():
        DH = D.conj().T
        R = level**2 * np.eye(D.shape[1]) - DH @ D
        RB = np.linalg.solve(R, np.concatenate([DH @ C, BH], axis=1))
        top = A + B @ RB[:, :n]
        right, low = level * B @ RB[:, n:], (CH @ C + CH @ D @ RB[:, :n]) / level
    else:
        top, right, low = A, B @ BH / level, CH @ C / level
    H = np.empty((2 * n, 2 * n), dtype)
    H[:n, :n], H[:n, n:], H[n:, :n], H[n:, n:] = top, right, -low, -top.conj().T
    w = eigenvalues(H)
    # an imaginary eigenvalue comes out with a rounding error of its real part, larger where it is double
    size = np.abs(w)
    frequencies = w.imag[np.abs(w.real) <= 1e-5 * (size + 1e-3 * size.max())]
    return np.array(sorted(set((np.abs(frequencies) if real else frequencies).tolist())))


def _middles(f: NDArray[np.float64]) -> NDArray[np.float64]:
    """Arithmetic and geometric means of neighbours: an interval may span ten decades."""
    return np.concatenate([(f[1:] + f[:-1]) / 2, np.sign(f[1:]) * np.sqrt(np.abs(f[1:] * f[:-1]))])


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
