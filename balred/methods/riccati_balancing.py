r"""Balancing with the solutions of Riccati equations in the place of Gramians, so that truncation keeps what they certify.

LQG balancing serves a plant that is to be controlled, stable or not; bounded-real balancing keeps a system contractive,
positive-real balancing keeps it passive, and stochastic balancing, of a Gramian and one such solution, bounds the relative
error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.hankel.spectrum import Spectrum, spectrum_of
from balred.measures.norms import norm
from balred.measures.promises import Gap, error_gap
from balred.methods.coprime import left_factors, normalised_factors
from balred.methods.method import no_bound
from balred.ranks.bounds import a_priori_bound
from balred.solvers.riccati import (
    Equation,
    Matrix,
    controllability_factor,
    dual,
    inverse_root,
    observability_factor,
    reached_first,
    seen_from,
    stabilising,
    stabilising_pair,
)
from balred.solvers.smith import smith_factors
from balred.systems.arrays import ct
from balred.systems.dense_system import DenseSystem
from balred.systems.long_products import ten_digits
from balred.systems.poles import UnstableError, check_stable, known_poles, surely_stable

_LQG = "LQG balancing needs a stabilisable and detectable system"
_CONTRACTIVE = "bounded-real balancing needs a norm strictly below gamma"
_PASSIVE = "positive-real balancing needs a strictly passive system, D + D^H > 0 included"
_STOCHASTIC = "stochastic balancing needs D of full row rank and no zeros on the stability boundary, or beta > 0"


def lqg(system: DenseSystem, solver: str | None = None, *, match_dc: bool = False) -> Spectrum:
    r"""LQG balancing, for plants that will be controlled.

    With :math:`R = I+D^HD`, X is the stabilising solution of the control equation

    .. math:: A^HX + XA - (XB+C^HD)R^{-1}(XB+C^HD)^H + C^HC = 0

    (in discrete time its analogue), Y that of the dual, the filter equation; both are balanced instead of the Gramians.

    Notes
    -----
    In continuous time the normalised coprime factors of G and :math:`G_k` differ by at most
    :math:`2\sum_{i>k}\sigma_i/\sqrt{1+\sigma_i^2}`: a controller for :math:`G_k` stabilises G if its margin is larger.

    References
    ----------
    E. A. Jonckheere and L. M. Silverman, A new set of invariants for linear systems, IEEE Trans. Automat. Control 28
    (1983); D. Mustafa and K. Glover, Controller reduction by H-infinity-balanced truncation, ibid. 36 (1991).
    """
    return spectrum_of(system, *_factors(system, _control_equation, _control_observed, _LQG), match_dc=match_dc)


def _factors(
    system: DenseSystem,
    equation: Callable[[DenseSystem], Equation],
    observed: Callable[[DenseSystem, Matrix], tuple[Matrix, Matrix]],
    rule: str,
) -> tuple[Matrix, Matrix]:
    """Factors of the solutions of the dual equation and of the equation itself.

    A solution X is the observability Gramian of the pair that `observed` makes of it.  Both are found at once where that
    is safe; otherwise each on its own, in coordinates that keep the digits of small entries.
    """
    sides = dual(system), system
    pair = stabilising_pair(equation(system), equation(sides[0]), rule)
    if pair is not None:
        (A, C), (other, B) = observed(system, pair[0]), observed(sides[0], pair[1])
        if A is system.A:  # the pairs have one state matrix: one iteration
            return smith_factors(DenseSystem(A, ct(B), C, np.zeros((len(C), len(B))), system.dt))
        return observability_factor(other, B, system.dt), observability_factor(A, C, system.dt)
    frames = [reached_first(g.A, g.B) for g in sides]
    seen = [seen_from(g, W) for g, W in zip(sides, frames, strict=True)]
    Y, X = (
        W @ observability_factor(*observed(g, stabilising(equation(g), rule)), g.dt)
        for g, W in zip(seen, frames, strict=True)
    )
    return Y, X


def _control_equation(g: DenseSystem) -> Equation:
    R, S, Q = np.eye(g.B.shape[1]) + ct(g.D) @ g.D, ct(g.C) @ g.D, ct(g.C) @ g.C
    return Equation(g.A, g.B, Q, R, S, g.discrete)


def _control_observed(g: DenseSystem, X: Matrix) -> tuple[Matrix, Matrix]:
    F = -_control_equation(g).gain(X)[0]
    return g.A + g.B @ F, np.concatenate([g.C + g.D @ F, F])


def lqg_bound(sp: Spectrum, k: int) -> NDArray[np.float64]:
    r""":math:`2\sum_{i>k}\sigma_i/\sqrt{1+\sigma_i^2}` in continuous time; in discrete time none is known."""
    if sp.system.discrete:
        return no_bound(sp, k)
    return a_priori_bound(sp.sigma / np.sqrt(1 + sp.sigma**2), k)


def lqg_gap(sp: Spectrum, small: DenseSystem, options: Mapping[str, Any]) -> Gap:
    r"""The error of the normalised left coprime factors, which come from Y, the factor of which is at hand.

    They are unique up to a unitary matrix, by which truncation and singular perturbation differ: the response at infinity, or at
    zero, is the same.  In continuous time the values that are kept solve the equations of the reduced system.
    """
    Y, kept = sp.Zp @ ct(sp.Zp), np.diag(sp.sigma[: small.order]).astype(small.A.dtype)
    full = normalised_factors(sp.system, Y)
    _check_detected(full)
    reduced = left_factors(small, normalized=True, near=kept)
    inner = error_gap(full, reduced)
    if not sp.match_dc:
        return inner
    X, _, Zh = np.linalg.svd(full(0.0) @ ct(reduced(0.0)))
    turned = replace(reduced, C=X @ Zh @ reduced.C, D=X @ Zh @ reduced.D)
    return error_gap(full, turned)


def bounded_real(
    system: DenseSystem, solver: str | None = None, *, gamma: float = 1.0, match_dc: bool = False
) -> Spectrum:
    r"""Bounded-real balancing: the reduced system has :math:`\|G_k\|_\infty \le \gamma` too.

    For :math:`G/\gamma`, X is the stabilising solution of

    .. math:: A^HX + XA + C^HC + (XB+C^HD)(I-D^HD)^{-1}(XB+C^HD)^H = 0

    (in discrete time its analogue), Y that of the dual.

    Parameters
    ----------
    gamma : float, default 1
        A level above the H-infinity norm of the system.

    References
    ----------
    P. C. Opdenacker and E. A. Jonckheere, A contraction mapping preserving balanced reduction scheme and its
    infinity norm error bounds, IEEE Trans. Circuits Syst. 35 (1988).
    """
    if not gamma > 0:
        raise ValueError(f"gamma must be positive, got {gamma}")
    _check_stable(system, "bounded-real")
    root = gamma**-0.5
    g = DenseSystem(system.A, root * system.B, root * system.C, system.D / gamma, system.dt)
    try:  # solutions prove that the norm is below gamma, which costs less than the norm
        Zp, Zq = _factors(g, _contraction_equation, _contraction_observed, _CONTRACTIVE)
    except ValueError:
        peak = float(norm(system, "hinf"))
        if not peak < gamma:
            raise ValueError(
                f"gamma must be above the H-infinity norm of the system, {peak:.6g}, got {gamma}"
            ) from None
        raise
    sp = spectrum_of(system, Zp, Zq, match_dc=match_dc)
    # in the units of the error
    return sp._replace(s=gamma * sp.s, Zp=sp.Zp * gamma**0.5, Zq=sp.Zq * gamma**0.5)


def _check_stable(system: DenseSystem, which: str) -> None:
    try:
        check_stable(system)
    except UnstableError as error:
        reason = str(error).partition(";")[0]
        raise UnstableError(
            f"{which} balancing needs a stable system, of which it keeps no part as it is: {reason}"
        ) from None


def _contraction_equation(g: DenseSystem) -> Equation:
    return Equation(g.A, g.B, ct(g.C) @ g.C, ct(g.D) @ g.D - np.eye(g.B.shape[1]), ct(g.C) @ g.D, g.discrete)


def _contraction_observed(g: DenseSystem, X: Matrix) -> tuple[Matrix, Matrix]:
    R, S = np.eye(g.B.shape[1]) - ct(g.D) @ g.D, ct(g.C) @ g.D
    if g.discrete:
        M = inverse_root(R - ct(g.B) @ X @ g.B, _CONTRACTIVE) @ (ct(g.B) @ X @ g.A + ct(S))
    else:
        M = inverse_root(R, _CONTRACTIVE) @ (ct(g.B) @ X + ct(S))
    return g.A, np.concatenate([g.C, M])


def positive_real(system: DenseSystem, solver: str | None = None, *, match_dc: bool = False) -> Spectrum:
    r"""Positive-real balancing: the reduced system is passive, :math:`G_k+G_k^H \ge 0` on the boundary.

    X is the stabilising solution of

    .. math:: A^HX + XA + (C-B^HX)^H(D+D^H)^{-1}(C-B^HX) = 0

    (in discrete time its analogue), Y that of the dual.

    References
    ----------
    U. B. Desai and D. Pal, IEEE Trans. Automat. Control 29 (1984); S. Gugercin and A. C. Antoulas, A survey of model
    reduction by balanced truncation and some new results, Int. J. Control 77 (2004), section 3.3.
    """
    if system.B.shape[1] != len(system.C):
        raise ValueError(
            f"a passive system has as many inputs as outputs, got {system.B.shape[1]} inputs and {len(system.C)} outputs"
        )
    _check_stable(system, "positive-real")
    T = _even_units(system.D + ct(system.D))
    g = DenseSystem(system.A, system.B * T, T[:, None] * system.C, T[:, None] * system.D * T, system.dt)
    return spectrum_of(system, *_factors(g, _passive_equation, _passive_observed, _PASSIVE), match_dc=match_dc)


def _even_units(R: NDArray[Any]) -> NDArray[np.float64]:
    """Powers of two T with a diagonal of T R T near one: a volt beside a newton hides no digits of either."""
    d = R.diagonal().real
    return np.exp2(-np.round(np.log2(np.where(d > 0, d, 1.0)) / 2))


def _check_detected(factors: DenseSystem) -> None:
    """Raise if the poles of a plant's factors cannot be told from the boundary: there a mode stays that no output shows."""
    if not surely_stable(factors) and not (poles := known_poles(factors)).inside().all():
        at = complex(poles.at[np.argmin(poles.margin)])
        raise ValueError(
            f"{_LQG}, got one whose observer has a pole at {at:.3g}, which rounding leaves no distance from the boundary of stability"
        )


def _passive_equation(g: DenseSystem) -> Equation:
    return Equation(g.A, g.B, np.zeros_like(g.A), -g.D - ct(g.D), -ct(g.C), g.discrete)


def _passive_observed(g: DenseSystem, X: Matrix) -> tuple[Matrix, Matrix]:
    R = g.D + ct(g.D)
    if g.discrete:
        M = inverse_root(R - ct(g.B) @ X @ g.B, _PASSIVE) @ (g.C - ct(g.B) @ X @ g.A)
    else:
        M = inverse_root(R, _PASSIVE) @ (g.C - ct(g.B) @ X)
    return g.A, M


def stochastic(
    system: DenseSystem, solver: str | None = None, *, beta: float = 0.0, match_dc: bool = False
) -> Spectrum:
    r"""Balanced stochastic truncation: a small relative error at every frequency.

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
    T = _even_units(R)[:, None]  # the relative error knows no units of outputs
    C, D, R = T * C, T * D, T * R * T.T
    Bw = (A @ P if system.discrete else P) @ ct(C) + B @ ct(D)
    inverse_root(R, _STOCHASTIC)
    if system.discrete:
        R = R + C @ P @ ct(C)
    W = reached_first(A, Bw)
    A, Bw, C = ct(W) @ A @ W, ct(W) @ Bw, C @ W
    Q = stabilising(Equation(A, Bw, np.zeros_like(A), -R, -ct(C), system.discrete), _STOCHASTIC)
    if system.discrete:
        M = inverse_root(R - ct(Bw) @ Q @ Bw, _STOCHASTIC) @ (C - ct(Bw) @ Q @ A)
    else:
        M = inverse_root(R, _STOCHASTIC) @ (C - ct(Bw) @ Q)
    return spectrum_of(system, Zp, W @ observability_factor(A, M, system.dt), match_dc=match_dc)


def stochastic_gap(sp: Spectrum, small: DenseSystem, options: Mapping[str, Any]) -> Gap | None:
    r""":math:`G^{-1}(G-G_k)`, of which there is a bound where G is square and nothing (`beta`) is traded."""
    g = sp.system
    if options.get("beta", 0.0) or g.D.shape[0] != g.D.shape[1]:
        return None
    inner = error_gap(g, small)
    return lambda at: np.linalg.solve(ten_digits(*g.leaves, g.D, at, g.discrete), inner(at))


def stochastic_bound(sp: Spectrum, k: int) -> NDArray[np.float64]:
    r""":math:`\prod_{i>k}(1+\sigma_i)/(1-\sigma_i) - 1`; infinite where a value cut is 1 (a zero outside the stable region)."""
    tail = np.minimum(sp.sigma[k:], 1.0)
    with np.errstate(divide="ignore"):
        return np.asarray(np.expm1(np.sum(np.log1p(tail) - np.log1p(-tail))))
