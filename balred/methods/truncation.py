r"""Truncation and singular perturbation: what a pair of Gramian factors is used for, whichever Gramians they are of."""

from __future__ import annotations

import numpy as np

from balred.hankel.projections import projected, projected_by, signed
from balred.hankel.spectrum import Spectrum
from balred.methods.method import Reduced
from balred.ranks.bounds import a_priori_bound, numerical_rank
from balred.systems import arrays
from balred.systems.arrays import ct, namespace, warn_caller
from balred.systems.dense_system import DenseSystem
from balred.systems.long_products import response

_SLACK, _FLOOR, _DIGITS = 1e-6, 1e-8, 1e-6
"""Parts of the bound, and of the first value, by which an error may exceed the bound; beyond the last it is no result."""
_LOOKED_AT = 6


class RoundingWarning(UserWarning):
    """A result is as good as its precision allows, and that is less than its bound promises."""


def truncate(sp: Spectrum, k: int) -> Reduced:
    r"""Balanced truncation by the balancing-free square-root method.

    .. math:: A_r = LAR,\quad B_r = LB,\quad C_r = CR,\quad D_r = D,\qquad \|G-G_r\|_\infty \le 2\textstyle\sum_{i>k}\sigma_i

    References
    ----------
    B. C. Moore (1981); A. Varga, Efficient minimal realization procedure based on balancing, IMACS 1991 (SLICOT AB09AD).
    """
    return promised(sp, k, projected(sp, k))


def singular_perturbation(sp: Spectrum, k: int) -> Reduced:
    r"""Balanced residualisation: the discarded states are set to their steady state, so the DC gain is kept.

    With :math:`E = -A_{22}` in continuous and :math:`E = I - A_{22}` in discrete time,

    .. math::
        A_r = A_{11} + A_{12}E^{-1}A_{21},\quad B_r = B_1 + A_{12}E^{-1}B_2,\quad
        C_r = C_1 + C_2E^{-1}A_{21},\quad D_r = D + C_2E^{-1}B_2

    The error bound is that of truncation.

    References
    ----------
    Y. Liu and B. D. O. Anderson, Singular perturbation approximation of balanced systems, Int. J. Control 50 (1989)
    (SLICOT AB09BD, MATLAB's ``matchdc``).
    """
    xp = namespace(sp.Zp)
    n = max(k, int(np.max(numerical_rank(sp.sigma))))
    g, L, R = projected(sp, n)
    if n > k:
        A11, A12, A21, A22 = g.A[..., :k, :k], g.A[..., :k, k:], g.A[..., k:, :k], g.A[..., k:, k:]
        B1, B2, C1, C2 = g.B[..., :k, :], g.B[..., k:, :], g.C[..., :, :k], g.C[..., :, k:]
        E = arrays.eye(A22, n - k) - A22 if g.discrete else -A22
        XA, XB = xp.linalg.solve(E, A21), xp.linalg.solve(E, B2)
        g = DenseSystem(A11 + A12 @ XA, B1 + A12 @ XB, C1 + C2 @ XA, g.D + C2 @ XB, g.dt)
    return promised(sp, k, (g, L[..., :k, :], R[..., :, :k]))


def square_root(sp: Spectrum, k: int) -> Reduced:
    r"""Balanced truncation by the square-root method, which scales by the singular values themselves.

    .. math:: L = \Sigma_1^{-1/2}U_1^HZ_q^H,\qquad R = Z_pV_1\Sigma_1^{-1/2}

    The same system as :func:`truncate` in exact arithmetic, less accurate where the values span many decades; for
    comparisons with other implementations.

    References
    ----------
    M. S. Tombs and I. Postlethwaite, Truncated balanced realization of a stable non-minimal state-space system,
    Int. J. Control 46 (1987) (SLICOT AB09AD with job 'B').
    """
    xp = namespace(sp.Zp)
    g, s = sp.system, sp.s[..., :k]
    alive = s > g.order * arrays.eps(s) * sp.s[..., :1]
    scale = xp.astype(xp.where(alive, 1 / xp.sqrt(xp.where(alive, s, xp.ones_like(s))), xp.zeros_like(s)), sp.Zp.dtype)
    L = scale[..., :, None] * ct(sp.Zq @ sp.U[..., :, :k])
    R = sp.Zp @ sp.V[..., :, :k] * scale[..., None, :]
    return promised(sp, k, projected_by(g, *signed(L, R, g.B)))


def promised(sp: Spectrum, k: int, made: Reduced) -> Reduced:
    """What was `made` of order k, where rounding may count compared with what the bound promises, near its poles.

    Raises
    ------
    ArithmeticError
        Rounding leaves less than six digits of the response.

    Warns
    -----
    RoundingWarning
        The error is larger than the bound, because no system of that order with entries of that precision has a smaller one.
    """
    g = made[0]
    if not (sp.bounding and isinstance(g, DenseSystem) and _rounding_counts(sp, g)):
        return made
    bound, first = float(a_priori_bound(sp.sigma, k)), float(sp.s[0])
    poles = np.linalg.eigvals(g.A)
    near = poles[np.argsort(np.abs(1 - np.abs(poles)) if g.discrete else np.abs(poles.real))[:_LOOKED_AT]]
    with np.errstate(divide="ignore", invalid="ignore"):
        w = np.abs(np.log(near)) if g.discrete else np.abs(near)
    points = np.unique(np.concatenate([[0.0], w[np.isfinite(w)], np.abs(np.angle(near) if g.discrete else near.imag)]))
    for s in np.exp(1j * points[points <= np.pi]) if g.discrete else 1j * points:
        full, small = (response(*x.leaves, x.D, complex(s), g.discrete) for x in (sp.system, g))
        error = float(np.linalg.norm(full - small, 2))
        if error > bound + _DIGITS * first:
            raise ArithmeticError(
                f"a reduced system must keep the response to {_DIGITS:g} of the first Hankel singular value beyond its bound, got "
                f"an error of {error:.3g} with a bound of {bound:.3g}: its poles are close to the boundary of the stable region, "
                f"and rounding errors in double precision count for more there{'; use a longer time step' if g.discrete else ''}"
            )
        if error > bound * (1 + _SLACK) + _FLOOR * first:
            warn_caller(
                f"the error of order {k}, {error:.3g}, is larger than the bound, {bound:.3g}, by rounding errors of the "
                f"entries of the reduced system, whose poles are close to the boundary of the stable region",
                RoundingWarning,
            )
            break
    return made


def _rounding_counts(sp: Spectrum, g: DenseSystem) -> bool:
    """Whether rounding errors may be seen beside the error that a reduction makes: a look that costs nothing."""
    if not (isinstance(g.A, np.ndarray) and g.A.ndim == 2 and sp.s.dtype == np.float64):
        return False
    own, k, eps = g.A.diagonal(), g.order, float(np.finfo(np.float64).eps)
    margin, size = (
        (np.abs(1 - np.abs(own)), 1.0) if g.discrete else (np.abs(own.real), float(np.linalg.norm(sp.system.A)))
    )
    seen = max(_SLACK * float(sp.s[k:].sum()), 1e-2 * _FLOOR * float(sp.s[0]))
    with np.errstate(divide="ignore", invalid="ignore"):
        return bool(np.max(eps * sp.s[:k] * size / margin, initial=0.0) > seen)


def truncate_or_match(sp: Spectrum, k: int) -> Reduced:
    """Truncation, or singular perturbation where the analysis was asked to match the steady state (``match_dc``)."""
    return (singular_perturbation if sp.match_dc else truncate)(sp, k)
