r"""Optimal Hankel-norm approximation: the reduced system whose error has the least possible Hankel norm.

Truncation leaves an error whose Hankel norm is somewhere above :math:`\sigma_{k+1}`; Glover's construction attains it.
An embedding of the balanced system gives an error that is :math:`\sigma_{k+1}` times a contraction at every frequency,
and its stable part has order k.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from balred.hankel.projections import projected
from balred.hankel.spectrum import Spectrum
from balred.methods.method import Reduced
from balred.ranks.bounds import a_priori_bound
from balred.systems.arrays import backend, ct
from balred.systems.dense_system import DenseSystem

_SAME = 1e-8
"""Singular values that agree to this are one group: the construction divides by the differences of their squares."""


def hankel_norm(sp: Spectrum, k: int) -> Reduced:
    r"""Optimal Hankel-norm approximation of order k.

    With the balanced system partitioned by :math:`\Sigma = \mathrm{diag}(\Sigma_1, \sigma I)`,
    :math:`\sigma = \sigma_{k+1}`, :math:`\Gamma = \Sigma_1^2-\sigma^2I`, and U with :math:`B_2 = -C_2^HU`,

    .. math::
        \hat A = \Gamma^{-1}(\sigma^2A_{11}^H + \Sigma_1A_{11}\Sigma_1 - \sigma C_1^HUB_1^H),\quad
        \hat B = \Gamma^{-1}(\Sigma_1B_1+\sigma C_1^HU),\quad \hat C = C_1\Sigma_1+\sigma UB_1^H,\quad \hat D = D-\sigma U

    has k stable poles; the stable part of :math:`\hat G` with :math:`\hat D` is the result, and
    :math:`\|G-G_k\|_H = \sigma_{k+1}`.  Where k would split equal values, those are cut together.  Discrete systems are
    mapped to continuous time by a bilinear transformation, which keeps Hankel norms.

    References
    ----------
    K. Glover, All optimal Hankel-norm approximations of linear multivariable systems and their L-infinity error bounds,
    Int. J. Control 39 (1984), section 6 (SLICOT AB09CD).
    """
    k = _group(sp.sigma, k)
    if k >= sp.cap or k == 0:
        return projected(sp, max(k, 1))
    g, s = projected(sp, sp.cap)[0], np.asarray(sp.s[: sp.cap])
    best = optimal(bilinear(g) if g.discrete else g, s, k)
    kept = stable_part(best)
    return (bilinear(kept, back_to=g.dt) if g.discrete else kept), None, None


def hankel_norm_bound(sp: Spectrum, k: int) -> NDArray[np.float64]:
    r""":math:`\sigma_{k+1} + 2\sum_{i>k+1}\sigma_i`, distinct values counted once.

    The embedding's error has norm :math:`\sigma_{k+1}`; what is dropped of it has Hankel singular values at most those
    that remain [Glover 1984, corollary 9.3].
    """
    bound = a_priori_bound(sp.sigma, k)
    first = sp.sigma[k] if k < sp.cap else 0.0
    return np.asarray(bound - np.minimum(first, bound / 2))


def optimal(g: DenseSystem, s: NDArray[np.float64], k: int) -> DenseSystem:
    """The embedding of a balanced continuous system with values `s` for ``s[k]``: k stable poles, the others not."""
    sigma = s[k]
    two = np.abs(s - sigma) <= _SAME * sigma
    one = ~two
    S = s[one]
    gamma = 1 / (S**2 - sigma**2)
    A, B, C = g.A[np.ix_(one, one)], g.B[one], g.C[:, one]
    # the partial isometry nearest to the condition, which rounding lets no U meet exactly
    X, w, Y = np.linalg.svd(g.C[:, two] @ g.B[two], full_matrices=False)
    U = -X[:, w > 1e-8 * w[0]] @ Y[w > 1e-8 * w[0]]
    return DenseSystem(
        gamma[:, None] * (sigma**2 * ct(A) + S[:, None] * A * S - sigma * ct(C) @ U @ ct(B)),
        gamma[:, None] * (S[:, None] * B + sigma * ct(C) @ U),
        C * S + sigma * U @ ct(B),
        g.D - sigma * U,
        g.dt,
    )


def stable_part(g: DenseSystem) -> DenseSystem:
    """The stable part of a continuous system, with all of D."""
    T, Ti, unstable = backend("scipy").separate(g.A, lambda w: w.real < 0)
    keep = slice(unstable, None)
    return DenseSystem((Ti @ g.A @ T)[keep, keep], (Ti @ g.B)[keep], (g.C @ T)[:, keep], g.D, g.dt)


def bilinear(g: DenseSystem, back_to: float | bool | None = None) -> DenseSystem:
    r"""A discrete system in continuous time by :math:`z = (1+s)/(1-s)`, or with `back_to` the way back.

    Gramians, Hankel singular values and the H-infinity norm stay as they are.
    """
    I = np.eye(g.order)
    r2 = 2**0.5
    if back_to is None:
        inv = np.linalg.inv(I + g.A)
        return DenseSystem(inv @ (g.A - I), r2 * inv @ g.B, r2 * g.C @ inv, g.D - g.C @ inv @ g.B, 0)
    inv = np.linalg.inv(I - g.A)
    return DenseSystem(inv @ (I + g.A), r2 * inv @ g.B, r2 * g.C @ inv, g.D + g.C @ inv @ g.B, back_to)


def _group(s: NDArray[np.float64], k: int) -> int:
    """`k`, or less if it would split values that are equal."""
    while 0 < k < len(s) and s[k - 1] - s[k] <= _SAME * s[k]:
        k -= 1
    return k
