r"""Optimal Hankel-norm approximation: the reduced system whose error has the least possible Hankel norm.

Truncation leaves an error whose Hankel norm is somewhere above :math:`\sigma_{k+1}`; Glover's construction attains it.
An embedding of the balanced system gives an error that is :math:`\sigma_{k+1}` times a contraction at every frequency,
and its stable part has order k.

Weighted: of :math:`V(G-G_k)W` with antistable V and W the Hankel norm sees the stable part alone, and that depends on the
poles of G and :math:`G_k` only: the stable part of :math:`VGW` has the states of G.  Its optimal approximation is computed as
if there were no weights, and the weights are then taken off again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.hankel.projections import projected
from balred.hankel.spectrum import Spectrum, spectrum
from balred.measures.promises import Gap
from balred.measures.weights import UnderWeights, of_gain_one
from balred.methods.method import Reduced
from balred.ranks.bounds import a_priori_bound
from balred.registry.reading import dense_on_host
from balred.solvers.riccati import dual
from balred.systems.arrays import backend, ct
from balred.systems.dense_system import DenseSystem
from balred.systems.parts import check_same_time, difference
from balred.systems.poles import check_stable, known_poles

Matrix = NDArray[Any]

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
    :math:`\|G-G_k\|_H = \sigma_{k+1}`.  Where k would split equal values, those are cut together: a constant is left if the
    first k+1 of them are equal, since no system of order k comes nearer.  Discrete systems are mapped to continuous time by a
    bilinear transformation, which keeps Hankel norms.

    References
    ----------
    K. Glover, All optimal Hankel-norm approximations of linear multivariable systems and their L-infinity error bounds,
    Int. J. Control 39 (1984), section 6 (SLICOT AB09CD).
    """
    k = _group(sp.sigma, k)
    if k >= sp.cap:
        return projected(sp, k)
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
    if g.order == 0:
        return g
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


@dataclass(frozen=True)
class WeightedHankel(UnderWeights):
    """The spectrum of the stable part of the weighted system, all in continuous time, and what the weights were."""

    system: DenseSystem


def weighted_hankel_norm(
    system: DenseSystem, solver: str | None = None, *, left: Any = None, right: Any = None
) -> WeightedHankel:
    r"""Frequency-weighted Hankel-norm approximation: the least weighted Hankel norm of the error.

    With :math:`V=(A_v,B_v,C_v,D_v)` antistable and X the solution of :math:`A_vX - XA + B_vC = 0`,

    .. math:: VG = (A,\ B,\ D_vC+C_vX,\ D_vD) + \text{an antistable system},

    and likewise for :math:`GW`.  The optimal Hankel-norm approximation :math:`(\hat A,\hat B,\hat C,\hat D)` of the stable
    part of :math:`VGW` is the stable part of :math:`VG_kW` for one :math:`G_k` of the same order:

    .. math::
        \begin{bmatrix}A_v&B_v\\C_v&D_v\end{bmatrix}\begin{bmatrix}X\\C_k\end{bmatrix}
        - \begin{bmatrix}X\hat A\\0\end{bmatrix} = \begin{bmatrix}0\\\hat C\end{bmatrix}

    gives its output matrix, the dual equation with W its input matrix.  Hence

    .. math:: \|[V(G-G_k)W]_{\mathrm{stable}}\|_H = \sigma_{k+1},

    and no system of order k makes it less.  Discrete systems are mapped to continuous time by a bilinear transformation,
    which keeps Hankel norms and the sides of the boundary.

    Parameters
    ----------
    left, right : system, layer, or anything :func:`balred.adapt` reads, optional
        V and W, square, invertible, of the same time step.  A weight that is antistable (every pole outside the stable
        region) is taken as it is; a stable one stands for its adjoint :math:`V^\sim(s) = V(-\bar s)^H` (in discrete time
        :math:`V(1/\bar z)^H`), which is antistable and has the same gains at every frequency.

    Raises
    ------
    ValueError
        A weight has poles on both sides of the boundary or on it; it is not square, of another size or time step; it is
        singular at every frequency, or has a zero at a pole of the reduced system (there the equations have no solution).

    Notes
    -----
    :math:`D_k = D + D_v^+(\hat D-D_vDD_w)D_w^+`, in continuous time; the Hankel norm does not depend on it.  Weights may be strictly
    proper.  There is no bound of the error at each frequency, where the antistable part of :math:`V(G-G_k)W` counts too.

    References
    ----------
    G. A. Latham and B. D. O. Anderson, Frequency-weighted optimal Hankel-norm approximation of stable transfer functions,
    Systems & Control Letters 5 (1985); A. Varga, Numerical approach for the frequency-weighted Hankel-norm approximation,
    ECC 2001 (SLICOT AB09JD with JOBV, JOBW = 'V', 'W' or 'C').

    Examples
    --------
    >>> import balred
    >>> g = balred.testing.random_system(8, 1, 1, seed=0)
    >>> low_pass = balred.ss([[-0.1]], [[0.1]], [[1.0]])
    >>> balred.reduce(g, 3, method="weighted_hankel_norm", left=low_pass)
    DenseSystem(states=3, inputs=1, outputs=1, continuous, float64, numpy)
    """
    check_stable(system)
    nothing = None, 0.0
    V, above = nothing if left is None else _antistable("left weight", left, system, len(system.C), "outputs")
    W, before = nothing if right is None else _antistable("right weight", right, system, system.B.shape[1], "inputs")
    g = bilinear(system) if system.discrete else system
    C = g.C if V is None else _seen_through(V, g.A, g.C)
    B = g.B if W is None else ct(_seen_through(dual(W), ct(g.A), ct(g.B)))
    Dv, Dw = (np.eye(n) if w is None else w.D for n, w in ((len(g.C), V), (g.B.shape[1], W)))
    sp = spectrum(DenseSystem(g.A, B, C, Dv @ g.D @ Dw), solver)
    return WeightedHankel(sp, system, left=V, right=W, power=above + before)


def weighted_hankel_reduction(state: WeightedHankel, k: int) -> Reduced:
    """The optimal approximation of the weighted system, and the weights taken off it."""
    sp, V, W = state.spectrum, state.left, state.right
    h = hankel_norm(sp, k)[0]
    assert isinstance(h, DenseSystem)
    change = h.D - sp.system.D
    C, B = h.C, h.B
    if V is not None:
        C, change = _taken_off("left weight", V, h.A, h.C), np.linalg.pinv(V.D) @ change
    if W is not None:
        B, change = ct(_taken_off("right weight", dual(W), ct(h.A), ct(h.B))), change @ np.linalg.pinv(W.D)
    g = bilinear(state.system) if state.system.discrete else state.system
    if not np.iscomplexobj(h.A) and not any(np.iscomplexobj(x) for w in (V, W) if w is not None for x in w.leaves):
        B, C = B.real, C.real
    small = DenseSystem(h.A, B, C, g.D + change)
    return (bilinear(small, back_to=state.system.dt) if state.system.discrete else small), None, None


def weighted_hankel_bound(state: WeightedHankel, k: int) -> NDArray[np.float64]:
    r""":math:`\sigma_{k+1}`, which is attained."""
    return np.asarray(state.sigma[k] if k < state.cap else 0.0)


def weighted_hankel_gap(state: WeightedHankel, small: DenseSystem, options: Mapping[str, Any]) -> Gap:
    """The Hankel norm of the weighted error's stable part, a number for all frequencies."""
    k = bilinear(small) if small.discrete else small
    whole = state.spectrum.system
    C = k.C if state.left is None else _seen_through(state.left, k.A, k.C)
    B = k.B if state.right is None else ct(_seen_through(dual(state.right), ct(k.A), ct(k.B)))
    nothing = np.zeros((len(C), B.shape[1]))
    error = difference(replace(whole, D=nothing), DenseSystem(k.A, B, C, nothing)).to_dense()
    size = spectrum(error, None).sigma[:1]
    return lambda at: size[None]


def _antistable(name: str, obj: Any, system: DenseSystem, size: int, ports: str) -> tuple[DenseSystem, float]:
    """The weight, or its adjoint if that is the antistable one of the two, in continuous time; and the power of two it was divided by."""
    w = dense_on_host(name, obj)
    if w.D.shape != (size, size):
        raise ValueError(
            f"the {name} must be square with as many inputs as the system has {ports}, {size}, got shape {w.D.shape}"
        )
    check_same_time(name, w, "system", system)
    poles = known_poles(w)
    stable, antistable = poles.inside(), poles.margin < -poles.doubt
    if not (np.all(stable) or np.all(antistable)):
        found = ", ".join(f"{complex(z):.4g}" for z in sorted(poles.at, key=lambda z: (z.real, z.imag)))
        raise ValueError(f"the poles of the {name} must be all stable or all antistable, got {found}")
    flip = bool(np.all(stable)) and w.order > 0
    w, power = of_gain_one(name, w)
    if w.discrete:
        w = bilinear(w)
    return DenseSystem(-ct(w.A), -ct(w.C), ct(w.B), ct(w.D)) if flip else replace(w, dt=0), power


def _seen_through(V: DenseSystem, A: Matrix, C: Matrix) -> Matrix:
    """The output matrix of the part of V (A, B, C) that has the poles of A."""
    if V.order == 0:
        return np.asarray(V.D @ C)
    return np.asarray(V.D @ C + V.C @ backend("scipy").sylvester(V.A, A, -V.B @ C))


def _taken_off(name: str, V: DenseSystem, A: Matrix, C: Matrix) -> Matrix:
    """The output matrix that :func:`_seen_through` turns into C: column by column in Schur coordinates of A."""
    T, Q = backend("scipy").complex_schur(A)
    n = V.order
    pencil = np.block([[V.A, V.B], [V.C, V.D]]).astype(np.complex128)
    wanted, Y = C @ Q, np.zeros((len(pencil), len(T)), np.complex128)
    for j in range(len(T)):
        M = pencil.copy()
        M[:n, :n] -= T[j, j] * np.eye(n)
        right = np.concatenate([Y[:n, :j] @ T[:j, j], wanted[:, j]])
        size = np.linalg.svd(M, compute_uv=False)
        if size[-1] <= len(M) * np.finfo(np.float64).eps * size[0]:
            raise ValueError(
                f"the {name} must be invertible and have no zero at a pole of the reduced system, got one at {T[j, j]:.4g}"
            )
        Y[:, j] = np.linalg.solve(M, right)
    return np.asarray((Y @ ct(Q))[n:])
