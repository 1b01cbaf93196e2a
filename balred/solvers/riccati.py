r"""What balancing with Riccati equations shares: their stabilising solutions, and Gramian factors made from them.

A solution X of a Riccati equation also solves the Lyapunov equation of its closed loop; solved once more for a factor,
that keeps the small singular values that an eigendecomposition of X would lose.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.solvers.smith import smith_factors
from balred.systems.arrays import backend, ct
from balred.systems.dense_system import DenseSystem

Matrix = NDArray[Any]
_ROUNDING = float(np.finfo(np.float64).eps) ** 0.5


def stabilising(A: Matrix, B: Matrix, Q: Matrix, R: Matrix, S: Matrix, discrete: bool, rule: str) -> Matrix:
    r"""The stabilising solution, Hermitian, of

    .. math::
        A^HX + XA - (XB+S)R^{-1}(XB+S)^H + Q = 0, \qquad
        A^HXA - X - (A^HXB+S)(R+B^HXB)^{-1}(A^HXB+S)^H + Q = 0

    in continuous and discrete time, for a definite R of either sign; or an error that states `rule`, without which there
    is none.

    It is solved in units in which :math:`R=\pm I`, :math:`|A|=1` in continuous time, and :math:`BR^{-1}B^H` is as large
    as what drives the equation.  Where the gain of the system is far from one, its solution has entries of very
    different sizes; they keep their digits in coordinates of :func:`reached_first`.
    """
    sign = float(np.sign(R[0, 0].real))
    K = inverse_root(sign * R, rule)
    b, s = B @ ct(K), S @ ct(K)
    time = 1.0 if discrete else _norm(A - sign * b @ ct(s)) or _norm(A) or 1.0
    drive, feed = _norm(Q - sign * s @ ct(s)), _norm(b) ** 2
    unit = (drive / feed) ** 0.5 if drive and feed else drive / time or (time / feed if feed else 1.0)
    a, b, q, s, r = (
        A / time, b * (unit / time) ** 0.5, Q / (unit * time), s / (unit * time) ** 0.5, sign * np.eye(len(R))
    )  # fmt: skip
    try:
        X: Matrix = backend("scipy").riccati(a, b, q, r, s, discrete)
    except (np.linalg.LinAlgError, ValueError) as error:
        raise ValueError(f"{rule}, got a Riccati equation without a stabilising solution ({error})") from None
    best, new = np.inf, (X + ct(X)) / 2
    while True:  # Newton's method, for as long as it helps
        G, H = ((ct(a) @ new @ b + s), r + ct(b) @ new @ b) if discrete else (new @ b + s, r)
        F = np.linalg.solve(H, ct(G))
        poles = np.linalg.eigvals(a - b @ F)
        worst = np.abs(poles).max() if discrete else time * poles.real.max()
        terms = [-G @ F, q, *([ct(a) @ new @ a - new] if discrete else [ct(a) @ new, new @ a])]
        # beside its own size a solution has a natural one, |A||R|/|B|^2: it may be zero but for rounding
        size = sum(map(_norm, terms)) + _ROUNDING * (1 + _norm(a)) ** 2 / max(_norm(b) ** 2, 1e-300)
        residual = _norm(sum(terms)) / size
        if not (worst < discrete and residual < best / 2):
            break
        X, best = new, residual
        try:
            new = X + backend("scipy").lyapunov(ct(a - b @ F), sum(terms), discrete)
        except np.linalg.LinAlgError:  # slow poles beside fast ones are on the boundary but for rounding
            break
    if not best <= 1e-6:
        what = f"a residual of {residual:.2g}" if worst < discrete else f"a pole of the closed loop at {worst:.3g}"
        raise ValueError(f"{rule}, got a Riccati equation whose solution has {what}")
    return unit * X


def _norm(x: Any) -> float:
    return float(np.linalg.norm(x))


def reached_first(A: Matrix, B: Matrix) -> Matrix:
    r"""Orthonormal coordinates W in which inputs reach one group of states after the other.

    In the staircase form :math:`(W^HAW, W^HB)` the input drives the first states, these drive the next, and so on.  A
    large gain makes the first ones fast and leaves the last ones slow: here the two lie in different rows, and a
    scaling of the rows does both justice.

    References
    ----------
    A. Varga, Numerically stable algorithm for standard controllability form determination, Electronics Letters 17 (1981)
    (SLICOT TB01UD).

    Examples
    --------
    A chain of two states, given from its end:

    >>> W = reached_first(np.array([[0.0, 1.0], [0.0, 0.0]]), np.array([[0.0], [1.0]]))
    >>> np.abs(W)
    array([[0., 1.],
           [1., 0.]])
    """
    W, new = np.zeros((len(A), 0), np.result_type(A, B)), B
    while W.shape[1] < len(A):
        size = _norm(new)
        for _ in range(2):  # once leaves rounding errors in the directions taken off
            new = new - W @ (ct(W) @ new)
        Q, s, _ = np.linalg.svd(new, full_matrices=False)
        Q = Q[:, s > len(A) * np.finfo(np.float64).eps * size]
        if Q.shape[1] == 0:  # no input reaches the others
            return np.concatenate([W, np.linalg.qr(W, mode="complete")[0][:, W.shape[1] :]], axis=1)
        W, new = np.concatenate([W, Q], axis=1), A @ Q
    return W


def seen_from(g: DenseSystem, W: Matrix) -> DenseSystem:
    """`g` in orthonormal coordinates W."""
    return DenseSystem(ct(W) @ g.A @ W, ct(W) @ g.B, g.C @ W, g.D, g.dt)


def dual(g: DenseSystem) -> DenseSystem:
    """The system with inputs and outputs exchanged: (A^H, C^H, B^H, D^H)."""
    return DenseSystem(ct(g.A), ct(g.C), ct(g.B), ct(g.D), g.dt)


def controllability_factor(A: Matrix, B: Matrix, dt: float | bool) -> Matrix:
    """Z with Z Z^H the controllability Gramian of a stable pair."""
    Z: Matrix = smith_factors(DenseSystem(A, B, np.zeros((1, len(A))), np.zeros((1, B.shape[1])), dt))[0]
    return Z


def observability_factor(A: Matrix, C: Matrix, dt: float | bool) -> Matrix:
    """Z with Z Z^H the observability Gramian of a stable pair."""
    return controllability_factor(ct(A), ct(C), dt)


def inverse_root(R: Matrix, rule: str) -> Matrix:
    """L^-1 of the Cholesky factor R = L L^H of a positive definite matrix, or an error that states `rule`."""
    R = (R + ct(R)) / 2
    w = np.linalg.eigvalsh(R)
    if not w[0] > len(w) * np.finfo(np.float64).eps * np.abs(w).max():
        raise ValueError(f"{rule}, got a least eigenvalue of {w[0]:.3g} beside {np.abs(w).max():.3g}")
    return np.asarray(np.linalg.inv(np.linalg.cholesky(R)))
