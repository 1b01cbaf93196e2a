r"""Reduction of second-order systems that gives mass, damping and stiffness again: one change of position coordinates.

Velocities are derivatives of positions, so both must be projected alike: :math:`q \approx T\hat q`, and the equations are tested with W,

.. math:: \hat M = W^HMT,\ \hat D = W^HDT,\ \hat K = W^HKT,\ \hat B = W^HB,\ \hat C_p = C_pT,\ \hat C_v = C_vT

What differs is where T and W come from: the position and velocity blocks of the Gramians, or modes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.ranks.bounds import numerical_rank
from balred.realisations.second_order import SecondOrderSystem, solved_evenly
from balred.realisations.sparse import TRUSTED, SparseSystem, gramian_factors_lr
from balred.solvers.gramians import factors
from balred.systems.arrays import backend, warn_caller
from balred.systems.dense_system import DenseSystem
from balred.systems.parts import block_diagonal
from balred.systems.poles import InstabilityWarning, UnstableError, check_stable

Matrix = NDArray[Any]

BALANCINGS = ("position", "velocity", "position_velocity")
DOMINANCES = ("frequency", "residue")


@dataclass(frozen=True, eq=False)
class Projected:
    """A second-order system looked at once, to be projected to any number of positions.

    Attributes
    ----------
    system : SecondOrderSystem
        What is projected: without rigid bodies, if there are any.
    sigma : array
        What rules read, descending.
    cap : int
        The largest number of positions that can be had, rigid bodies included.
    bases : callable
        ``bases(k) -> (W, T)``; W is None where it is T, which keeps symmetry and definiteness.
    strict : bool
        Whether an unstable result is an error, since the given system is known to be stable.
    rigid : SecondOrderSystem or None
        Rigid bodies, which stand beside the result.
    """

    system: SecondOrderSystem
    sigma: NDArray[np.float64]
    cap: int
    bases: Callable[[int], tuple[Matrix | None, Matrix]]
    strict: bool
    rigid: SecondOrderSystem | None = None

    @property
    def fixed(self) -> int:
        """How many positions are those of rigid bodies."""
        return 0 if self.rigid is None else self.rigid.states

    def reduced(self, k: int) -> SecondOrderSystem:
        """The system with `k` positions.

        Raises
        ------
        ValueError
            There are more rigid bodies than that.
        UnstableError
            It is unstable, though the given system is stable: balancing of second-order systems does not keep stability.
        """
        if k < self.fixed:
            raise ValueError(f"rank must be at least the number of rigid bodies, {self.fixed}, which are kept, got {k}")
        if self.rigid is None:
            return self._projected(k)
        return self.rigid if k == self.fixed else _beside(self.rigid, self._projected(k - self.fixed))

    def _projected(self, k: int) -> SecondOrderSystem:
        g = self.system
        W, T = self.bases(k)
        left = (T if W is None else W).conj().T
        exact = backend("scipy").ExactProduct  # the terms of a stiff K nearly cancel
        M, D, K = (left @ (exact(X)(T) if g.sparse else X @ T) for X in (g.M, g.D, g.K))
        if W is None and g.hermitian:
            M, D, K = ((X + X.conj().T) / 2 for X in (M, D, K))
        small = replace(g, M=M, D=D, K=K, B=left @ g.B, Cp=g.Cp @ T, Cv=g.Cv @ T)
        try:
            check_stable(small.to_dense())
        except UnstableError as error:
            why = f"the reduced second-order system with {k} positions must be stable, but {error}"
            if self.strict:
                raise UnstableError(
                    f"{why}: balancing of second-order systems does not keep stability; try another number of positions or "
                    "balancing, or galerkin=True where M, D and K are Hermitian"
                ) from None
            warn_caller(why.replace("must be stable, but", "is not stable:"), InstabilityWarning)
        return small


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
        Stable, dense or sparse.  Rigid bodies, positions without stiffness and damping, of a dense system with Hermitian
        M, D and K are kept beside what is balanced; :func:`modal` keeps undamped modes too.
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
    if (parts := _rigid_and_flexible(g)) is not None:
        rigid, flexible = parts
        looked = balanced(flexible, solver, balancing=balancing, galerkin=galerkin)
        return replace(looked, cap=rigid.states + looked.cap, rigid=rigid)
    given, (g, d), n = g, g.evened(), g.states
    first = g.first_order
    try:
        R, L = _gramian_factors(first, solver)
    except UnstableError as error:
        reason = str(error).partition(";")[0]
        raise UnstableError(f"{reason}: method='modal' keeps rigid bodies and undamped modes") from None
    if g.sparse:
        lu = backend("scipy").sparse_lu(g.M)

    def divided(X: Matrix) -> Matrix:
        return np.asarray(lu.solve(X, "H")) if g.sparse else solved_evenly(g.M.conj().T, X)

    if not g.sparse:
        L = np.concatenate([L[:n], divided(L[n:])])
    right = R[n:] if balancing == "velocity" else R[:n]
    left = divided(L[:n]) if balancing == "position" else L[n:]
    U, s, Vh = np.linalg.svd(left.conj().T @ (g.M @ right), full_matrices=False)
    s = s[:n]
    cap = int(numerical_rank(np.concatenate([s, np.zeros(n - len(s))]))) if len(s) else 0
    cap = min(cap, int(np.sum(s > TRUSTED * s[:1]))) if g.sparse else cap
    if cap == 0:
        raise ValueError(
            f"a second-order system must have a nonzero {balancing.replace('_', '-')} singular value, got none"
        )

    def bases(k: int) -> tuple[Matrix | None, Matrix]:
        T, W = right @ (Vh[:k].conj().T / np.sqrt(s[:k])), left @ (U[:, :k] / np.sqrt(s[:k]))
        sign = _signs(W.conj().T @ g.B)
        return (None, d[:, None] * np.linalg.qr(T)[0]) if galerkin else (d[:, None] * W * sign, d[:, None] * T * sign)

    return Projected(given, s, cap, bases, strict=True)


def _gramian_factors(first: DenseSystem | SparseSystem, solver: str | None) -> tuple[Matrix, Matrix]:
    """Factors of the Gramians of a first-order form; of a sparse one with E, that is of (A, E, B) and (A^H, E^H, C^H)."""
    if not isinstance(first, SparseSystem):
        with backend("numpy").double_scope():
            return factors(first, solver)
    if solver is not None:
        raise ValueError(f"solver must keep its default for a sparse system, got {solver!r}")
    return gramian_factors_lr(first)[:2]


def _rigid_and_flexible(g: SecondOrderSystem) -> tuple[SecondOrderSystem, SecondOrderSystem] | None:
    r"""Rigid bodies of unit mass and what is left beside them, of a dense system with Hermitian matrices; None without them.

    Where :math:`K\Phi = D\Phi = 0`, positions :math:`q = \Phi q_1+\Psi q_2` with :math:`\Phi^HM\Psi = 0` do not drive each other.
    """
    if g.sparse or not g.hermitian:
        return None
    even = g.evened()[0]
    sizes = [float(np.linalg.norm(X)) or 1.0 for X in (even.K, even.D)]
    _, s, Vh = np.linalg.svd(np.concatenate([even.K / sizes[0], even.D / sizes[1]]))
    rank = int(np.sum(s > 16 * g.states * np.finfo(np.float64).eps))
    Phi = Vh[rank:].conj().T
    if not 0 < rank < g.states or not np.linalg.eigvalsh(Phi.conj().T @ even.M @ Phi)[0] > 0:
        return None
    if not all(_is_rounding(X, Phi) for X in (even.K, even.D)):
        return None  # springs that are soft beside others, but springs
    Psi = np.linalg.qr(even.M @ Phi, mode="complete")[0][:, g.states - rank :]
    Phi = Phi @ np.linalg.inv(np.linalg.cholesky(Phi.conj().T @ even.M @ Phi)).conj().T
    Phi = Phi * _signs(Phi.conj().T @ even.B)
    rigid, flexible = (_seen_in(even, T) for T in (Phi, Psi))
    nothing = np.zeros_like(rigid.M)
    return replace(rigid, M=nothing + np.eye(len(nothing)), D=nothing, K=nothing), flexible


def _is_rounding(X: Matrix, Phi: Matrix) -> bool:
    """Whether the energies of displacements are no more than rounding errors of the terms that they are sums of."""
    energy = np.abs(np.einsum("ij,ij->j", Phi.conj(), X @ Phi))
    terms = np.einsum("ij,ij->j", np.abs(Phi), np.abs(X) @ np.abs(Phi))
    return bool((energy <= 16 * len(X) * np.finfo(np.float64).eps * terms).all())


def _seen_in(g: SecondOrderSystem, T: Matrix) -> SecondOrderSystem:
    """`g` for positions q = T q', tested with T: Hermitian as it is."""
    M, D, K = (T.conj().T @ X @ T for X in (g.M, g.D, g.K))
    M, D, K = ((X + X.conj().T) / 2 for X in (M, D, K))
    return replace(g, M=M, D=D, K=K, B=T.conj().T @ g.B, Cp=g.Cp @ T, Cv=g.Cv @ T)


def _beside(a: SecondOrderSystem, b: SecondOrderSystem) -> SecondOrderSystem:
    """Two systems with inputs and outputs in common: the sum of their responses."""
    M, D, K = (block_diagonal(X, Y) for X, Y in ((a.M, b.M), (a.D, b.D), (a.K, b.K)))
    Cp, Cv = (np.concatenate(pair, axis=1) for pair in ((a.Cp, b.Cp), (a.Cv, b.Cv)))
    return replace(b, M=M, D=D, K=K, B=np.concatenate([a.B, b.B]), Cp=Cp, Cv=Cv)


def _signs(B: Matrix) -> Matrix:
    """Phases that make the largest entry of each row positive, so that results repeat."""
    largest = np.take_along_axis(B, np.argmax(np.abs(B), axis=1)[:, None], axis=1)[:, 0]
    return np.where(largest != 0, largest / np.where(largest != 0, np.abs(largest), 1), 1.0)


def modal(g: SecondOrderSystem, solver: str | None = None, *, dominance: str = "frequency") -> Projected:
    r"""Modal truncation: some of the modes of the undamped system, :math:`K\phi = \omega^2M\phi`, as coordinates.

    Modes are normalised, :math:`\phi^HM\phi = 1`, and :math:`W = T = [\phi_1 \dots \phi_k]`.  With damping of which they are modes
    too (proportional, Caughey) the poles kept are those of the system, exactly; other damping couples them.

    Parameters
    ----------
    g : SecondOrderSystem
        M Hermitian and positive definite, K Hermitian.
    dominance : {"frequency", "residue"}, default "frequency"
        Keep the lowest frequencies (:math:`1/\omega_i` is what rules read), or those with the largest gain
        :math:`\|(C_p+i\omega_iC_v)\phi_i\|\,\|\phi_i^HB\|/(\phi_i^HD\phi_i\,\omega_i)`, for which all modes are computed: of
        dense systems only.

    Raises
    ------
    ValueError
        M or K is not as it must be; a mode does not satisfy its equation.
    """
    if dominance not in DOMINANCES:
        raise ValueError(f"dominance must be one of {', '.join(DOMINANCES)}, got {dominance!r}")
    if solver is not None:
        raise ValueError(f"solver must keep its default for modal truncation, got {solver!r}")
    if g.sparse and dominance != "frequency":
        raise ValueError(f"dominance of a sparse system must be 'frequency', got {dominance!r}")
    for name, X in (("M", g.M), ("K", g.K)):
        if not replace(g, M=X, D=X, K=X).hermitian:
            raise ValueError(f"{name} must be Hermitian for modal truncation, got a matrix that is not")
    if g.sparse:
        return Projected(g, np.zeros(0), g.states, lambda k: (None, _modes_of_sparse(g, k)), strict=False)
    try:
        inverse = np.linalg.inv(np.linalg.cholesky(g.M))
    except np.linalg.LinAlgError:
        raise ValueError("M must be positive definite for modal truncation, got a matrix that is not") from None
    squares, V = np.linalg.eigh(inverse @ g.K @ inverse.conj().T)
    T = inverse.conj().T @ V
    w = np.sqrt(np.abs(squares))
    tiny = float(np.finfo(np.float64).eps) * float(w.max(initial=0.0)) or 1.0
    scores = 1 / np.maximum(w, tiny)
    if dominance == "residue":
        seen = np.linalg.norm(g.Cp @ T + 1j * w * (g.Cv @ T), axis=0)
        driven = np.linalg.norm(T.conj().T @ g.B, axis=1)
        damping = np.abs(np.sum(T.conj() * (g.D @ T), axis=0))
        scores = seen * driven / np.maximum(damping * w, np.finfo(np.float64).tiny)
    order = np.argsort(-scores, kind="stable")
    T = T[:, order] * _signs(T[:, order].conj().T)
    return Projected(g, scores[order], g.states, lambda k: (None, T[:, :k]), strict=False)


def _modes_of_sparse(g: SecondOrderSystem, k: int) -> Matrix:
    squares, T = backend("scipy").lowest_modes(g.K, g.M, k)
    MT, KT = g.M @ T, g.K @ T
    missed = np.linalg.norm(KT - MT * squares, axis=0)
    size = np.linalg.norm(KT, axis=0) + np.abs(squares) * np.linalg.norm(MT, axis=0)
    noise = 1e-12 * float(abs(g.K).max()) * np.linalg.norm(T, axis=0)
    if not np.all(missed <= 1e-6 * size + noise):
        raise ValueError(f"modes must satisfy K phi = w^2 M phi, got a residual of {float((missed / size).max()):.3g}")
    return np.asarray(T * _signs(T.conj().T))
