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


def oracle_gain(*systems: Any, digits: int = 60) -> float:
    """The largest gain of the first system, or of its difference from the second, with one input and one output each.

    Residues in so many digits, a grid of frequencies about every pole, and golden sections about each peak in it.
    """
    with mpmath.workdps(digits):
        discrete, terms, through = systems[0].discrete, [], mpmath.mpf(0)
        for sign, g in zip((1, -1), systems, strict=False):
            A, B, C = (mpmath.matrix(np.asarray(x, dtype=complex).tolist()) for x in (g.A, g.B, g.C))
            poles, V = mpmath.eig(A) if g.order > 1 else ([A[0, 0]], mpmath.eye(1))
            b, c = mpmath.inverse(V) * B, C * V
            terms += [(p, sign * c[0, i] * b[i, 0]) for i, p in enumerate(poles)]
            through += sign * mpmath.mpf(float(np.real(g.D[0, 0])))

        def gain(w: Any) -> Any:
            s = mpmath.expj(w) if discrete else mpmath.mpc(0, w)
            return abs(through + mpmath.fsum(r / (s - p) for p, r in terms))

        top = mpmath.pi if discrete else mpmath.inf
        sizes = {abs(mpmath.log(p)) if discrete else abs(p) for p, _ in terms}
        grid = sorted({mpmath.mpf(0), *(w * mpmath.mpf(f) for w in sizes for f in np.geomspace(0.03, 30, 25))})
        grid = [w for w in grid if w < top] + [top] * discrete
        values = [gain(w) for w in grid]
        best = max(values)
        for k, value in enumerate(values):
            low, high = max(k - 1, 0), min(k + 1, len(grid) - 1)
            if value < max(values[low], values[high], 0.9 * max(values)):
                continue  # no peak, or none that comes near
            low, high = grid[low], grid[high]
            for _ in range(40):
                a, b = low + (high - low) * mpmath.mpf("0.382"), low + (high - low) * mpmath.mpf("0.618")
                low, high = (a, high) if gain(a) < gain(b) else (low, b)
            best = max(best, gain((low + high) / 2))
        return float(best)
