"""Systems that several tests ask about."""

from __future__ import annotations

from typing import Any

import numpy as np

import balred


def legs(n: int) -> tuple[Any, Any, Any]:
    """The stored halves of HiPPO-LegS: poles, P and B (Gu et al. 2022, appendix C.1: A + PP^T is -1/2 plus skew)."""
    q = np.arange(n)
    root = np.sqrt(2 * q + 1)
    A = -np.where(q[:, None] > q, root[:, None] * root, np.diag(q + 1))
    P = np.sqrt(q + 0.5)
    skew, V = np.linalg.eigh(-1j * (A + np.outer(P, P) + np.eye(n) / 2))
    V = V[:, : n // 2]
    return -0.5 + 1j * skew[: n // 2], V.conj().T @ P, V.conj().T @ root


def unstable(seed, dt, n=6, m=2, p=3, complex=False):
    rng = np.random.default_rng(seed)
    g = balred.testing.random_system(n, m, p, dt=dt, seed=seed, complex=complex)
    poles = np.linalg.eigvals(g.A)
    A = g.A * 1.3 / np.abs(poles).min() ** 0.5 if dt else g.A + np.abs(poles.real).mean() * np.eye(n)
    return balred.ss(A, g.B, g.C, rng.standard_normal((p, m)), dt)


def lru_like(seed, n=64, m=4):
    """Poles on a ring up to 0.999, as LRU layers start with."""
    rng = np.random.default_rng(seed)
    modulus = np.sqrt(rng.uniform(0.3**2, 0.999**2, n))
    l = np.log(modulus) + 1j * rng.uniform(0, 2 * np.pi, n)
    B = (rng.standard_normal((n, m)) + 1j * rng.standard_normal((n, m))) * np.sqrt((1 - modulus**2) / (2 * m))[:, None]
    C = (rng.standard_normal((m, n)) + 1j * rng.standard_normal((m, n))) / np.sqrt(n)
    return balred.diagonal(
        log_poles=l.astype(np.complex64), B=B.astype(np.complex64), C=C.astype(np.complex64), dt=1, conjugate=True
    )


def s4d_like(seed, n=32):
    """S4D-Lin after a zero-order hold: poles -1/2 + i pi k, a step of 0.001 to 0.1 for each channel."""
    rng = np.random.default_rng(seed)
    step = np.exp(rng.uniform(np.log(1e-3), np.log(1e-1), (8, 1)))
    l = step * (-0.5 + 1j * np.pi * np.arange(n))
    B = np.expm1(l)[..., None] / (-0.5 + 1j * np.pi * np.arange(n))[:, None]
    C = rng.standard_normal((8, 1, n)) + 1j * rng.standard_normal((8, 1, n))
    return balred.diagonal(
        log_poles=l.astype(np.complex64), B=B.astype(np.complex64), C=C.astype(np.complex64), dt=1, conjugate=True
    )
