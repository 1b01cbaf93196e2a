r"""Balanced stochastic truncation: a small *relative* error, everywhere along the frequency axis.

Truncation makes the largest absolute error small, and may miss a system entirely where its gain is low.  Balancing the
controllability Gramian against a Gramian of the inverse of its spectral factor weighs each frequency by the gain there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from balred.systems.arrays import ct
from balred.hankel.spectrum import Spectrum, spectrum_of
from balred.solvers.riccati import controllability_factor, inverse_root, observability_factor, stabilising
from balred.systems.dense_system import DenseSystem

_RULE = "stochastic balancing needs D of full row rank and no zeros on the stability boundary, or beta > 0"


def stochastic(
    system: DenseSystem, solver: str | None = None, *, beta: float = 0.0, match_dc: bool = False
) -> Spectrum:
    r"""The spectrum of balanced stochastic truncation.

    With the controllability Gramian P, :math:`R = DD^H+\beta^2I` and :math:`B_w = PC^H+BD^H`, Q is the stabilising
    solution of

    .. math:: A^HQ + QA + (C-B_w^HQ)^HR^{-1}(C-B_w^HQ) = 0 ;

    in discrete time :math:`R = DD^H+CPC^H+\beta^2I`, :math:`B_w = APC^H+BD^H` and

    .. math:: Q = A^HQA + (C-B_w^HQA)^H(R-B_w^HQB_w)^{-1}(C-B_w^HQA).

    The singular values lie between 0 and 1, and for :math:`\beta=0` and square G

    .. math:: \|G^{-1}(G-G_k)\|_\infty \le \prod_{i>k}\frac{1+\sigma_i}{1-\sigma_i}-1 .

    Parameters
    ----------
    beta : float, default 0
        The relative error is traded for the absolute one where the gain is below `beta`.
    match_dc : bool, default False
        Singular perturbation instead of truncation.

    References
    ----------
    U. B. Desai and D. Pal, IEEE Trans. Automat. Control 29 (1984); M. Green, A relative error bound for balanced
    stochastic truncation, ibid. 33 (1988); A. Varga and K. H. Fasol, A new square-root balancing-free stochastic
    truncation model reduction algorithm, IFAC 1993 (SLICOT AB09HD).
    """
    if not beta >= 0:
        raise ValueError(f"beta must be nonnegative, got {beta}")
    A, B, C, D = system.A, system.B, system.C, system.D
    Zp = controllability_factor(A, B, system.dt)
    P = Zp @ ct(Zp)
    R = D @ ct(D) + beta**2 * np.eye(len(C))
    Bw = (A @ P if system.discrete else P) @ ct(C) + B @ ct(D)
    inverse_root(R, _RULE)
    if system.discrete:
        R = R + C @ P @ ct(C)
    Q = stabilising(A, Bw, np.zeros_like(A), -R, -ct(C), system.discrete, _RULE)
    if system.discrete:
        M = inverse_root(R - ct(Bw) @ Q @ Bw, _RULE) @ (C - ct(Bw) @ Q @ A)
    else:
        M = inverse_root(R, _RULE) @ (C - ct(Bw) @ Q)
    return spectrum_of(system, Zp, observability_factor(A, M, system.dt), match_dc=match_dc)


def stochastic_bound(sp: Spectrum, k: int) -> NDArray[np.float64]:
    r""":math:`\prod_{i>k}(1+\sigma_i)/(1-\sigma_i) - 1`; infinite where a value cut is 1 (a zero outside the stable region)."""
    tail = np.minimum(sp.sigma[k:], 1.0)
    with np.errstate(divide="ignore"):
        return np.asarray(np.expm1(np.sum(np.log1p(tail) - np.log1p(-tail))))
