"""Hankel singular values in 50 digits or more: what tests and benchmarks take for the truth."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np

from balred.systems import DiagonalSystem


def oracle_hsv(system: Any, digits: int = 50) -> np.ndarray[Any, Any]:
    """Hankel singular values in arithmetic of so many digits, by none of the library's algorithms.

    Gramians from the Kronecker form of the Lyapunov equation (dense) or entry by entry (diagonal, a conjugate one
    written out as 2n complex states; dense of more than 8 states, diagonalised in as many digits), then the eigenvalues
    of L^H Q L with P = L L^H: squaring is harmless there.
    """
    with mpmath.workdps(digits):
        if isinstance(system, DiagonalSystem):
            P, Q = _oracle_diagonal(*_written_out(system), system.discrete)
        else:
            A, B, C = (mpmath.matrix(np.asarray(x, dtype=complex).tolist()) for x in (system.A, system.B, system.C))
            if system.order > 8:
                poles, V = mpmath.eig(A)
                P, Q = _oracle_diagonal(poles, mpmath.inverse(V) * B, C * V, system.discrete)
                return _oracle_values(P, Q)
            P = _oracle_lyapunov(A, B * B.H, system.discrete)
            Q = _oracle_lyapunov(A.H, C.H * C, system.discrete)
        return _oracle_values(P, Q)


def _oracle_values(P: Any, Q: Any) -> np.ndarray[Any, Any]:
    L = mpmath.cholesky((P + P.H) / 2)
    M = L.H * Q * L
    squares = mpmath.eighe((M + M.H) / 2, eigvals_only=True)
    return np.array(sorted((float(mpmath.sqrt(max(x, 0))) for x in squares), reverse=True))


def _written_out(system: DiagonalSystem) -> tuple[Any, Any, Any]:
    l, B, C = (np.asarray(x, dtype=complex) for x in (system.log_poles, system.B, system.C))
    if system.conjugate:
        l, B, C = np.concatenate([l, l.conj()]), np.concatenate([B, B.conj()]), np.concatenate([C, C.conj()], axis=1)
    poles = [mpmath.exp(mpmath.mpc(x)) if system.discrete else mpmath.mpc(x) for x in l]
    return poles, mpmath.matrix(B.tolist()), mpmath.matrix(C.tolist())


def _oracle_diagonal(poles: Any, B: Any, C: Any, discrete: bool) -> tuple[Any, Any]:
    BB, CC, n = B * B.H, C.H * C, len(poles)
    P, Q = mpmath.matrix(n, n), mpmath.matrix(n, n)
    for i in range(n):
        for j in range(n):
            a, b = poles[i], mpmath.conj(poles[j])
            d = 1 - a * b if discrete else -(a + b)
            P[i, j], Q[i, j] = BB[i, j] / d, CC[i, j] / mpmath.conj(d)
    return P, Q


def _oracle_lyapunov(A: Any, W: Any, discrete: bool) -> Any:
    """X with A X A^H - X + W = 0 or A X + X A^H + W = 0, as one linear system for the entries of X."""
    n = A.rows
    K, rhs = mpmath.matrix(n * n, n * n), mpmath.matrix(n * n, 1)
    for i in range(n):
        for j in range(n):
            row = i * n + j
            rhs[row] = -W[i, j]
            for k in range(n):
                if discrete:
                    for l in range(n):
                        K[row, k * n + l] += A[i, k] * mpmath.conj(A[j, l])
                else:
                    K[row, k * n + j] += A[i, k]
                    K[row, i * n + k] += mpmath.conj(A[j, k])
            if discrete:
                K[row, row] -= 1
    x = mpmath.lu_solve(K, rhs)
    return mpmath.matrix([[x[i * n + j] for j in range(n)] for i in range(n)])
