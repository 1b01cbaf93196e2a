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


def stabilising(A: Matrix, B: Matrix, Q: Matrix, R: Matrix, S: Matrix, discrete: bool, rule: str) -> Matrix:
    r"""The stabilising solution, Hermitian, of

    .. math::
        A^HX + XA - (XB+S)R^{-1}(XB+S)^H + Q = 0, \qquad
        A^HXA - X - (A^HXB+S)(R+B^HXB)^{-1}(A^HXB+S)^H + Q = 0

    in continuous and discrete time; or an error that states `rule`, without which there is none.
    """
    try:
        X: Matrix = backend("scipy").riccati(A, B, Q, R, S, discrete)
    except (np.linalg.LinAlgError, ValueError) as error:
        raise ValueError(f"{rule}, got a Riccati equation without a stabilising solution ({error})") from None
    X = np.asarray((X + ct(X)) / 2)
    G, H = ((ct(A) @ X @ B + S), R + ct(B) @ X @ B) if discrete else (X @ B + S, R)
    F = np.linalg.solve(H, ct(G))
    residual = (ct(A) @ X @ A - X if discrete else ct(A) @ X + X @ A) - G @ F + Q
    reach = float(np.linalg.norm(A)) + discrete
    # beside its own size a solution has a natural one, |A||R|/|B|^2: it may be zero but for rounding
    natural = reach * float(np.linalg.norm(R)) / max(float(np.linalg.norm(B)) ** 2, 1e-300)
    size = (float(np.linalg.norm(X)) + natural) * reach ** (2 if discrete else 1) + float(np.linalg.norm(Q))
    poles = np.linalg.eigvals(A - B @ F)
    if not (np.linalg.norm(residual) <= 1e-6 * size and np.all(np.abs(poles) < 1 if discrete else poles.real < 0)):
        worst = np.abs(poles).max() if discrete else poles.real.max()
        raise ValueError(f"{rule}, got a Riccati equation whose closed loop has a pole at {worst:.3g}")
    return X


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
