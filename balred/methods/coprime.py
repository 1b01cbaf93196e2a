r"""Coprime factors: unstable systems reduced whole, rather than with their unstable modes set aside.

:math:`G = M^{-1}N` with stable N and M; what is reduced is the stable system :math:`[N\ M]`, and
:math:`G_k = M_k^{-1}N_k`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from balred.hankel.spectrum import OfSpectrum, spectrum
from balred.methods.method import Reduced
from balred.methods.truncation import truncate_or_match
from balred.solvers.riccati import Equation, Matrix, dual, inverse_root, reached_first, seen_from, stabilising
from balred.systems.arrays import ct
from balred.systems.dense_system import DenseSystem
from balred.systems.poles import UnstableError

_RULES = {
    False: "a coprime factorisation needs a detectable (or stabilisable) system without poles on the stability boundary "
    "(factorization='normalized' takes such poles)",
    True: "a normalised coprime factorisation needs a detectable (or stabilisable) system",
}
"""What inner ones need, and normalised ones."""


@dataclass(frozen=True)
class Factors(OfSpectrum):
    """The spectrum of [N M] (of the dual system for right factors), of which N has `inputs` columns."""

    system: DenseSystem
    inputs: int
    right: bool
    W: Matrix | None = None
    """The coordinates of the spectrum, where they are not those of the system."""


def left_coprime(
    system: DenseSystem,
    solver: str | None = None,
    *,
    factorization: Literal["inner", "normalized"] = "inner",
    match_dc: bool = False,
) -> Factors:
    r"""Balancing of left coprime factors, :math:`G = M^{-1}N`: unstable modes are reduced with the rest.

    With an output injection L, :math:`[N\ M] = (A+LC,\ [B+LD\ \ L],\ VC,\ [VD\ \ V])`.  For an inner denominator
    (:math:`MM^\sim=I`) :math:`V=I`, :math:`L=-YC^H`, :math:`AY+YA^H-YC^HCY=0`; for normalised factors
    (:math:`NN^\sim+MM^\sim=I`) :math:`L=-(YC^H+BD^H)R^{-1}`, :math:`R=I+DD^H`,
    :math:`AY+YA^H-(YC^H+BD^H)R^{-1}(YC^H+BD^H)^H+BB^H=0` and :math:`V=R^{-1/2}`; likewise in discrete time.

    Parameters
    ----------
    factorization : {"inner", "normalized"}, default "inner"
        Of an inner denominator, or normalised.
    match_dc : bool, default False
        Singular perturbation of the factors: the steady gain stays.

    References
    ----------
    A. Varga, Coprime factors model reduction based on accuracy enhancing techniques, Systems Analysis Modelling
    Simulation 11 (1993) (SLICOT AB09FD, AB09GD); D. G. Meyer, IEEE Trans. Automat. Control 35 (1990).

    Examples
    --------
    >>> import balred
    >>> from balred.methods.coprime import left_coprime
    >>> unstable = balred.ss([[1.0, 0.0], [0.0, -2.0]], np.ones((2, 1)), np.ones((1, 2)))
    >>> left_coprime(unstable).sigma.round(6)
    array([1.04246 , 0.243125])
    """
    return _analysed(system, solver, factorization, match_dc, right=False)


def right_coprime(
    system: DenseSystem,
    solver: str | None = None,
    *,
    factorization: Literal["inner", "normalized"] = "inner",
    match_dc: bool = False,
) -> Factors:
    r"""Balancing of right coprime factors, :math:`G = NM^{-1}`: the left factors of the dual system.

    Parameters
    ----------
    factorization : {"inner", "normalized"}, default "inner"
        Of an inner denominator, :math:`M^\sim M=I`, or normalised, :math:`N^\sim N+M^\sim M=I`.
    match_dc : bool, default False
        Singular perturbation of the factors: the steady gain stays.

    Examples
    --------
    >>> import balred
    >>> from balred.methods.coprime import right_coprime
    >>> unstable = balred.ss([[1.0, 0.0], [0.0, -2.0]], np.ones((2, 1)), np.ones((1, 2)))
    >>> right_coprime(unstable).sigma.round(6)
    array([1.04246 , 0.243125])
    """
    return _analysed(system, solver, factorization, match_dc, right=True)


def _analysed(system: DenseSystem, solver: str | None, factorization: str, match_dc: bool, right: bool) -> Factors:
    if factorization not in ("inner", "normalized"):
        raise ValueError(f"factorization must be 'inner' or 'normalized', got {factorization!r}")
    g = dual(system) if right else system
    W = reached_first(ct(g.A), ct(g.C))
    try:
        sp = spectrum(left_factors(seen_from(g, W), normalized=factorization == "normalized"), solver)
    except UnstableError as error:
        rule = _RULES[factorization == "normalized"]
        raise ValueError(f"{rule}, got factors that are not stable ({error})") from None
    return Factors(sp._replace(match_dc=match_dc), system, g.B.shape[1], right, W)


def left_factors(g: DenseSystem, *, normalized: bool, near: Matrix | None = None) -> DenseSystem:
    """The stable system [N M] of :func:`left_coprime`; `near` may be the solution of its Riccati equation, or not."""
    p = len(g.C)
    I = np.eye(p, dtype=g.C.dtype)
    R, S, Q = (
        (I + g.D @ ct(g.D), g.B @ ct(g.D), g.B @ ct(g.B))
        if normalized
        else (I, np.zeros((g.order, p), g.A.dtype), np.zeros_like(g.A))
    )
    return _of_solution(g, stabilising(Equation(ct(g.A), ct(g.C), Q, R, S, g.discrete), _RULES[normalized], near), R, S)


def normalised_factors(g: DenseSystem, Y: Matrix) -> DenseSystem:
    """The same for normalised factors, where the solution of their Riccati equation is at hand."""
    return _of_solution(g, Y, np.eye(len(g.C), dtype=g.C.dtype) + g.D @ ct(g.D), g.B @ ct(g.D))


def _of_solution(g: DenseSystem, Y: Matrix, R: Matrix, S: Matrix) -> DenseSystem:
    if g.discrete:
        R, S = R + g.C @ Y @ ct(g.C), S + g.A @ Y @ ct(g.C)
    else:
        S = S + Y @ ct(g.C)
    V = inverse_root(R, _RULES[True])
    L = -S @ np.linalg.inv(R)
    return DenseSystem(
        g.A + L @ g.C,
        np.concatenate([g.B + L @ g.D, L], axis=1),
        V @ g.C,
        np.concatenate([V @ g.D, V], axis=1),
        g.dt,
    )


def coprime(state: Factors, k: int) -> Reduced:
    """Join the reduced factors to a system.

    Examples
    --------
    >>> import balred
    >>> from balred.methods.coprime import coprime, left_coprime
    >>> unstable = balred.ss([[1.0, 0.0], [0.0, -2.0]], np.ones((2, 1)), np.ones((1, 2)))
    >>> small, L, R = coprime(left_coprime(unstable), 1)
    >>> bool(small.A[0, 0] > 0)  # the unstable mode is there
    True
    """
    g, L, R = truncate_or_match(state.spectrum, k)
    assert isinstance(g, DenseSystem)
    m = state.inputs
    Bn, Bm, Dn, Dm = g.B[:, :m], g.B[:, m:], g.D[:, :m], g.D[:, m:]
    C, D = np.linalg.solve(Dm, g.C), np.linalg.solve(Dm, Dn)
    small = DenseSystem(g.A - Bm @ C, Bn - Bm @ D, C, D, state.system.dt)
    if state.W is not None:
        L, R = L @ ct(state.W), state.W @ R
    if not state.right:
        return small, L, R
    return dual(small), ct(R), ct(L)
