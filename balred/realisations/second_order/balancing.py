"""Balanced truncation of second-order systems: bases from the position and velocity blocks of the Gramians."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.ranks.bounds import numerical_rank
from balred.realisations.second_order.free_positions import free_positions, phases, rigid_and_flexible
from balred.realisations.second_order.projected import Projected
from balred.realisations.second_order.system import SecondOrderSystem, solved_evenly
from balred.realisations.sparse import TRUSTED, SparseSystem, gramian_factors_lr
from balred.solvers.gramians import factors
from balred.systems.arrays import backend
from balred.systems.dense_system import DenseSystem
from balred.systems.poles import UnstableError

Matrix = NDArray[Any]

BALANCINGS = ("position", "velocity", "position_velocity")


def balanced(
    g: SecondOrderSystem, solver: str | None = None, *, balancing: str = "position", galerkin: bool = False
) -> Projected:
    r"""Second-order balanced truncation.

    With the position and velocity blocks of the factors of the Gramians of the first-order form,
    :math:`P = [R_p; R_v][R_p; R_v]^H` and :math:`Q = [L_p; L_v][L_p; L_v]^H`, of

    .. math:: AP\mathcal E^H + \mathcal EPA^H + BB^H = 0,\quad A^HQ\mathcal E + \mathcal E^HQA + C^HC = 0,\quad
        \mathcal E = \begin{bmatrix}I\\&M\end{bmatrix},\ A = \begin{bmatrix}&I\\-K&-D\end{bmatrix}

    ===================  ======================================  =========================  ===============================
    `balancing`          singular values :math:`U\Sigma V^H` of  :math:`T`                  :math:`W`
    ===================  ======================================  =========================  ===============================
    "position"           :math:`L_p^HR_p`                        :math:`R_pV\Sigma^{-1/2}`  :math:`M^{-H}L_pU\Sigma^{-1/2}`
    "velocity"           :math:`L_v^HMR_v`                       :math:`R_vV\Sigma^{-1/2}`  :math:`L_vU\Sigma^{-1/2}`
    "position_velocity"  :math:`L_v^HMR_p`                       :math:`R_pV\Sigma^{-1/2}`  :math:`L_vU\Sigma^{-1/2}`
    ===================  ======================================  =========================  ===============================

    so that :math:`W^HMT = I`.  With `galerkin`, :math:`W = T`.

    Parameters
    ----------
    g : SecondOrderSystem
        Stable, dense or sparse.  Positions without stiffness of a dense system are kept beside what is balanced: those that
        friction holds, and rigid bodies where M, D and K are Hermitian.  :func:`modal` keeps undamped modes too.
    solver : str, optional
        Solver of the Gramians, such as "scipy" or "slycot"; for dense systems only.
    balancing : {"position", "velocity", "position_velocity"}, default "position"
    galerkin : bool, default False
        Project with a basis of the range of T on both sides, orthonormal in units of about one mass each.  M, D and K must be
        Hermitian, and stay Hermitian.  If they are definite, they stay definite, so the system stays stable.

    Notes
    -----
    None of the variants has an error bound, and without `galerkin` none keeps stability in general [2]_: the result is checked.

    References
    ----------
    .. [1] D. G. Meyer and S. Srinivasan, Balancing and model reduction for second-order form linear systems, IEEE Trans.
       Automat. Control 41 (1996).
    .. [2] T. Reis and T. Stykel, Balanced truncation model reduction of second-order systems, Math. Comput. Model. Dyn.
       Syst. 14 (2008).
    """
    if balancing not in BALANCINGS:
        raise ValueError(f"balancing must be one of {', '.join(BALANCINGS)}, got {balancing!r}")
    if galerkin and not g.hermitian:
        raise ValueError(
            "galerkin must go with Hermitian M, D and K, whose symmetry it keeps, got matrices that are not Hermitian"
        )
    if (parts := rigid_and_flexible(g)) is not None:
        rigid, flexible = parts
        if flexible.states == 0:
            return Projected(
                flexible, np.zeros(0), rigid.states, lambda k: (None, np.zeros((0, k))), strict=True, rigid=rigid
            )
        looked = balanced(flexible, solver, balancing=balancing, galerkin=galerkin)
        return replace(looked, cap=rigid.states + looked.cap, rigid=rigid)
    given, (g, d), n = g, g.evened(), g.states
    free = free_positions(g)
    f = 0 if free is None else free.count
    first = g.first_order if free is None else free.moving(g)
    try:
        R, L = _gramian_factors(first, solver)
    except UnstableError as error:
        reason = str(error).partition(";")[0]
        raise UnstableError(f"{reason}: method='modal' keeps rigid bodies and undamped modes") from None
    if g.sparse:
        lu = backend("scipy").sparse_lu(g.M)

    def divided(X: Matrix) -> Matrix:
        return np.asarray(lu.solve(X, "H")) if g.sparse else solved_evenly(g.M.conj().T, X)

    if free is not None:
        R, L = (np.concatenate([free.rest @ X[: n - f], X[n - f :]]) for X in (R, L))
    if not g.sparse:
        L = np.concatenate([L[:n], divided(L[n:])])
    right = R[n:] if balancing == "velocity" else R[:n]
    left = divided(L[:n]) if balancing == "position" else L[n:]
    if free is not None:
        left, right = free.apart(g, left, right)
    U, s, Vh = np.linalg.svd(left.conj().T @ (g.M @ right), full_matrices=False)
    s = s[: n - f]
    cap = int(numerical_rank(np.concatenate([s, np.zeros(n - f - len(s))]))) if len(s) else 0
    cap = min(cap, int(np.sum(s > TRUSTED * s[:1]))) if g.sparse else cap
    if cap + f == 0:
        raise ValueError(
            f"a second-order system must have a nonzero {balancing.replace('_', '-')} singular value, got none"
        )

    def bases(k: int) -> tuple[Matrix | None, Matrix]:
        k -= f
        T, W = right @ (Vh[:k].conj().T / np.sqrt(s[:k])), left @ (U[:, :k] / np.sqrt(s[:k]))
        sign = phases(W.conj().T @ g.B)
        W, T = W * sign, T * sign
        if free is not None:
            W, T = np.concatenate([free.left, W], axis=1), np.concatenate([free.right, T], axis=1)
        return (None, d[:, None] * np.linalg.qr(T)[0]) if galerkin else (d[:, None] * W, d[:, None] * T)

    return Projected(given, s, cap + f, bases, strict=True, still=np.arange(n) < f, free=f)


def _gramian_factors(first: DenseSystem | SparseSystem, solver: str | None) -> tuple[Matrix, Matrix]:
    """Factors of the Gramians of a first-order form; of a sparse one with E, that is of (A, E, B) and (A^H, E^H, C^H)."""
    if not isinstance(first, SparseSystem):
        with backend("numpy").double_scope():
            return factors(first, solver)
    if solver is not None:
        raise ValueError(f"solver must keep its default for a sparse system, got {solver!r}")
    return gramian_factors_lr(first)[:2]
