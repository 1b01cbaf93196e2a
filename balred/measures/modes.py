r"""The peak gain of a system that rounding leaves alone: found among its modes, and proved by one Hamiltonian matrix.

With :math:`A = V\Lambda V^{-1}` the gain at a frequency is a sum over modes, which costs next to nothing, and so are its derivatives.
Such sums only propose: the gain is told by the system itself, and that there is no larger one by the Hamiltonian
(:mod:`balred.measures.hinf`).  Its eigenvalues are those of a matrix that is rounding away from it, so what is said here
holds where rounding changes no gain by more than the search looks for.  Where it may, nothing is said.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from balred.measures.hinf import (
    continuous,
    gain_of,
    gains_of,
    largest_singular_values,
    on_circle,
    raised,
    turn_of,
)
from balred.systems.arrays import backend, is_one, size_of
from balred.systems.dense_system import DenseSystem
from balred.systems.poles import far_inside

_TOLERANCE = 1e-10
"""By which part another gain must be larger to count; rounding must change less."""
_THROUGH, _FIRST_ORDER = 0.9, 1e-5
"""Of the largest gain: a D above this part makes the Hamiltonian nearly singular.  Of the poles' distances from the boundary: by
less than this part rounding must move them, so that what it does to gains is told to first order."""
_MOST = 256
"""Beyond so many states a look in vain costs more than it is likely to save."""
_LITTLE = 1e-8
"""The part of a squared gain that a last step of Newton's method may add."""
_GRID, _STEPS = np.linspace(0, 1, 24), 12
"""Where frequencies are looked at beside those of the poles, from slow to fast; steps of Newton's method."""

Matrix = NDArray[Any]


class Modes(NamedTuple):
    """Poles of a continuous system, and its inputs and outputs by mode."""

    poles: Matrix
    B: Matrix
    C: Matrix
    D: Matrix

    def gains(self, w: Matrix) -> tuple[Matrix, Matrix]:
        """The largest singular values at several frequencies, and what its modes add up to there at most, twice."""
        r = 1 / (1j * w[:, None] - self.poles)
        square = r.real**2 + r.imag**2
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # of modes that all but coincide nothing is known, and so it is told
            states = square.dot(np.einsum("ij,ij->i", self.B, self.B.conj()).real)
            rows = square.dot(np.einsum("ij,ij->j", self.C, self.C.conj()).real)
            return largest_singular_values(self._summed(r) + self.D), np.sqrt(states * rows)

    def _summed(self, weights: Matrix) -> Matrix:
        """The modes added up with each of several rows of weights."""
        (p, m), n = self.D.shape, len(self.poles)
        return (weights[:, None, :] * self.C).reshape(-1, n).dot(self.B).reshape(len(weights), p, m)  # type: ignore[no-any-return]

    def top(self, w: float) -> tuple[float, float]:
        """The gain and the frequency of the peak near w, by Newton's method; those at w itself where that finds none that is higher."""
        scale, start = float(np.abs(self.poles).min()), (0.0, w)
        for count in range(_STEPS):
            square, slope, bend = self._derivatives(w)
            start = start if count else (square**0.5, w)
            if not (bend < 0 and abs(slope) < -0.5 * bend * (abs(w) + scale)):
                break
            w -= slope / bend
            more = -0.5 * slope * slope / bend
            if more <= _LITTLE * square:  # what is left after the step is a square of that
                return max(((square + more) ** 0.5, w), start)
        return start

    def _derivatives(self, w: float) -> tuple[float, float, float]:
        """The square of the largest singular value, and its first two derivatives."""
        r = 1 / (1j * w - self.poles)
        twice = -1j * r * r
        G, G1, G2 = self._summed(np.array([r, twice, -2j * twice * r]))
        G = G + self.D
        if 1 in G.shape:
            square, slope, bend = np.vdot(G, G).real, np.vdot(G, G1).real, (np.vdot(G, G2) + np.vdot(G1, G1)).real
            return float(square), 2 * float(slope), 2 * float(bend)
        if G.shape[0] < G.shape[1]:
            G, G1, G2 = G.T, G1.T, G2.T
        values, V, _ = backend("numpy").lapack("heevd", "D")(G.conj().T.dot(G))
        v, U, U1 = V[:, -1], G.dot(V), G1.dot(V)
        u, u1 = U[:, -1], U1[:, -1]
        bend = np.vdot(u, G2.dot(v)).real + np.vdot(u1, u1).real
        # the others turn into it
        *mixed, slope = (u1.conj().dot(U) + u.conj().dot(U1)).tolist()
        top = values.item(-1)
        for value, part in zip(values.tolist(), mixed, strict=False):
            bend += abs(part) ** 2 / (top - value) if value < top else 0.0
        return top, slope.real, 2 * float(bend)


def peak_of_modes(system: DenseSystem) -> tuple[float, float] | None:
    """The H-infinity norm of one system of NumPy in even units, and where it is attained, as :func:`balred.measures.hinf.hinf_peak`.

    None of a system that may be unstable, or the gain of which rounding may change by more than is looked for.
    """
    if not all(is_one(x) and x.dtype.char in "dD" for x in (*system.leaves, system.D)) or system.order > _MOST:
        return None
    found = far_inside(system)
    if found is None:
        return None
    poles, V = found
    turn = turn_of(poles) if system.discrete else 1.0
    A, B, C, D = form = continuous(system, turn)
    if system.discrete:
        poles = (poles - turn) / (poles + turn)
    inverse = _inverse(V)
    if inverse is None:
        return None
    modes, size = Modes(poles, inverse @ B, C @ V, D), np.abs(poles)
    starts = np.concatenate([poles.imag, np.sign(poles.imag) * size])
    grid = 0.1 * size.min() * (100 * size.max() / size.min()) ** _GRID
    real = not any(x.dtype.kind == "c" for x in form)
    starts = np.concatenate([[0.0], np.abs(starts) if real else starts, grid, [] if real else -grid])
    proposed, reach = modes.gains(starts)
    at = int(proposed.argmax())
    best, where = float(proposed[at]), float(starts[at])
    if not (best > 0 and gain_of(D) < _THROUGH * best):
        return None
    # the eigenvalues of the Hamiltonian are those of one that is rounding away from it: first what that does to poles, then to gains
    condition, eps = size_of(inverse) * len(V) ** 0.5, float(np.finfo(np.float64).eps)
    away = eps * condition * (size_of(A) + size_of(B) * size_of(C) / best + np.abs(starts))
    if not (away.max() < _FIRST_ORDER * np.abs(poles.real).min() and (away * reach).max() < _TOLERANCE * best):
        return None

    best, where = raised([form], gains_of(*form), best, where, lambda _, at: modes.top(at), _TOLERANCE)
    return best, float(on_circle(where, turn)) if system.discrete else where


def _inverse(V: Matrix) -> Matrix | None:
    """That of the modes; None where there is none."""
    try:
        return np.asarray(backend("numpy").inverse(V))
    except np.linalg.LinAlgError:
        return None
