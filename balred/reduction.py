r"""The methods of reduction, a function each, and their table; and the way back to diagonal form.

A method takes the :class:`~balred.balancing.Spectrum` of a stable system and an order, and returns a dense system with
the projections it used.  A diagonal system is reduced in the (real) coordinates of its dense form and then
diagonalised again: a conjugate pair of the reduced real system becomes one stored state, and so does a real pole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from balred import arrays
from balred.arrays import Array, backend_of, double_precision, namespace, to_numpy
from balred.balancing import Spectrum, projected
from balred.ranks import a_priori_bound, numerical_rank
from balred.separation import join
from balred.systems import DenseSystem, DiagonalSystem, System, with_leaves

if TYPE_CHECKING:
    from balred.hankel import Analysis

Complex = NDArray[np.complex128]


def truncate(sp: Spectrum, k: int) -> tuple[DenseSystem, Array, Array]:
    r"""Balanced truncation by the balancing-free square-root method.

    .. math:: A_r = LAR,\quad B_r = LB,\quad C_r = CR,\quad D_r = D,\qquad \|G-G_r\|_\infty \le 2\textstyle\sum_{i>k}\sigma_i

    References
    ----------
    B. C. Moore (1981); A. Varga, Efficient minimal realization procedure based on balancing, IMACS 1991 (SLICOT AB09AD).
    """
    return projected(sp, k)


def singular_perturbation(sp: Spectrum, k: int) -> tuple[DenseSystem, Array, Array]:
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
    return g, L[..., :k, :], R[..., :, :k]


METHODS: dict[str, Callable[[Spectrum, int], tuple[DenseSystem, Array, Array]]] = {
    "truncate": truncate,
    "singular_perturbation": singular_perturbation,
}
"""The methods by name; ``reduce(obj, rank, method=...)``."""


@dataclass(frozen=True)
class Change:
    r"""The change of state coordinates of a diagonal reduction, in stored states (host, complex128).

    :math:`x \approx V_1z + V_2\bar z` and :math:`z = W_1x + W_2\bar x`; the second terms are zero unless the system is
    conjugate.  Shapes (..., n, r) and (..., r, n).
    """

    V1: Complex
    V2: Complex
    W1: Complex
    W2: Complex


@dataclass(frozen=True, repr=False)
class Reduction:
    """A reduced system and what is known of it."""

    system: System
    stable_order: int
    """Order of the stable part's reduced operator (for a conjugate system up to twice its stored states)."""
    bound: NDArray[np.float64]
    change: Change | None = None
    """None where nothing was diagonalised: a dense system, an unstable part, or nothing cut."""

    def __repr__(self) -> str:
        return f"Reduction({self.system!r}, bound={self.bound})"


def reduce(
    obj: Any, rank: Any, *, method: str = "truncate", solver: str | None = None, offset: float | None = None
) -> Any:
    r"""Reduce a system, a layer, or every layer of a model to `rank` states.

    Parameters
    ----------
    obj : system, layer, model, or anything :func:`balred.adapt` reads
        Never changed.
    rank : int or rule
        The number of states to keep, as the object counts them (stored states of a conjugate system; unstable
        modes included), or a rule such as ``balred.Energy(0.99)``.  For a model also a dict by layer name.
    method : {"truncate", "singular_perturbation"}, default "truncate"
    solver : str, optional
        As :func:`balred.hsv`.
    offset : float, optional
        Poles within `offset` of the stability boundary count as unstable and are kept.

    Returns
    -------
    The same type as `obj`
        A conjugate system may need fewer stored states than asked.

    Raises
    ------
    ValueError
        `rank` is not between 1 and the number of states, or less than the number of unstable modes; the reduced
        system cannot be diagonalised accurately; the rule cannot be met; unknown `method`.

    Warns
    -----
    RankWarning
        An integer `rank` is beyond the numerical rank, which is used instead.

    Notes
    -----
    :math:`\|G-G_r\|_\infty \le 2\sum_{i>r}\sigma_i`, distinct values counted once.  The dense result is in balanced
    coordinates (truncation), with the largest entry of each row of B positive, so that results repeat.

    Examples
    --------
    >>> import balred
    >>> sys = balred.testing.random_system(20, seed=0)
    >>> balred.reduce(sys, 4)
    DenseSystem(states=4, inputs=2, outputs=2, continuous, float64, numpy)
    >>> small = balred.reduce(sys, balred.ErrorBound(0.1, relative=True))
    """
    from balred.plan import plan

    return plan(obj, rank, method=method, solver=solver, offset=offset).apply()


def check_rank(rank: Any, states: int) -> int:
    """`rank` as an int, or the error that states its range."""
    if not isinstance(rank, (int, np.integer)) or isinstance(rank, bool):
        raise ValueError(f"rank must be an integer or a rule, got {rank!r}")
    if not 1 <= rank <= states:
        raise ValueError(f"rank must be between 1 and {states}, got {rank}")
    return int(rank)


def reduce_analysis(analysis: Analysis, rank: int, method: str) -> Reduction:
    """The reduction of an analysed system to `rank` states by the method called `method`."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    system = analysis.system
    be = backend_of(system.B)
    rank = check_rank(rank, system.states)
    kept, sp, stable = analysis.unstable, analysis.spectrum, analysis.stable
    fixed = 0 if kept is None else kept.states
    batch = analysis.sigma.shape[:-1]
    if rank < fixed:
        raise ValueError(
            f"rank must be at least the number of unstable modes, {fixed}, which are kept whole, got {rank}"
        )
    if sp is None or stable is None:
        return Reduction(system, 0, np.zeros(batch))
    if rank == fixed:
        raise ValueError(
            f"rank must be at least {fixed + 1}: {fixed} unstable modes and a state for the stable part, got {rank}"
        )
    if rank == system.states and isinstance(system, DiagonalSystem):
        return Reduction(system, stable.order, np.zeros(batch))  # already diagonal, nothing to cut
    unit = stable.order // stable.states
    cap = int(np.max(numerical_rank(analysis.sigma)))
    if cap == 0:
        raise ValueError(
            "a system must have a nonzero Hankel singular value to be reduced, got none: inputs do not reach outputs"
        )
    order = min((rank - fixed) * unit, cap)
    with double_precision(*stable.leaves) as leaves:
        precise = with_leaves(stable, leaves)
        if isinstance(precise, DiagonalSystem):
            diagonal, order, change = _diagonal(precise, sp, order, rank - fixed, method, system)
            joined = join(kept, diagonal)
        else:
            joined, change = join(kept, METHODS[method](sp, order)[0]), None
    if backend_of(joined.B) is be:
        narrow = with_leaves(joined, tuple(_cast(x, like=system.B) for x in joined.leaves))
    else:  # analysed on the host
        narrow = arrays.mapped(joined, lambda x: be.from_numpy(x, like=system.B))
    return Reduction(narrow, order, a_priori_bound(analysis.sigma, order), None if kept is not None else change)


def _cast(x: Array, like: Array) -> Array:
    xp = namespace(x)
    wide = like.dtype in (xp.float64, xp.complex128)
    return x if wide else xp.astype(x, xp.complex64 if arrays.is_complex(x) else xp.float32)


def _diagonal(
    template: DiagonalSystem, sp: Spectrum, order: int, states: int, method: str, original: System
) -> tuple[DiagonalSystem, int, Change]:
    """Reduce in dense coordinates, then diagonalise on the host, one round trip for the whole batch.

    The largest order is taken whose poles fit into `states` stored states and whose eigenvectors are well enough
    conditioned for the dtype of `original`.
    """
    be = backend_of(*template.leaves)
    limit = float(arrays.eps(arrays.real(original.B)) ** -0.5)

    def attempt(k: int) -> tuple[int, Any]:
        """How many stored states too many order k takes, and the diagonal system if it is none and well conditioned."""
        g, L, R = METHODS[method](sp, k)
        A, B, C, L, R = (to_numpy(x) for x in (g.A, g.B, g.C, L, R))
        poles, vectors = np.linalg.eig(A)
        vectors = vectors.astype(np.complex128)
        b, c = np.linalg.solve(vectors, B), C @ vectors
        picked = _picked(poles, b, c, template.conjugate)
        excess = max(len(p) for p in picked) - states
        margin = (1 - np.abs(poles)) if template.discrete else -poles.real
        if excess > 0 or not np.all(margin > 0) or not np.all(np.linalg.cond(vectors) < limit):
            return excess, None
        parts = (b, c, R @ vectors, np.linalg.solve(vectors, L))
        log_poles, b, c, change = _modes(poles, picked, parts, template)
        log_poles, b, c = (be.from_numpy(x, like=template.B) for x in (log_poles, b, c))
        return excess, (DiagonalSystem(log_poles, b, c, g.D, template.dt, template.conjugate), k, change)

    k, refused, best = order, order + 1, None
    while k > 0 and best is None:
        excess, best = attempt(k)
        if best is None:
            refused, k = k, k - max(1, excess)  # one state less frees at most one stored state
    while best is not None and k + 1 < refused:  # the step down may have been too long
        k += 1
        _, better = attempt(k)
        if better is None:
            break
        best = better
    if best is None:
        raise ValueError(
            f"the reduced system must be diagonalisable to {states} or fewer states, got ill-conditioned eigenvectors at every order"
        )
    result: tuple[DiagonalSystem, int, Change] = best
    return result


def stored_states(sp: Spectrum, order: int, method: str) -> int:
    """How many stored states hold the conjugate system reduced to `order` (the most over a batch)."""
    g, _, _ = METHODS[method](sp, order)
    A, B, C = (to_numpy(x) for x in g.leaves)
    poles, vectors = np.linalg.eig(A)
    picked = _picked(poles, np.linalg.solve(vectors, B), C @ vectors, conjugate=True)
    return max(len(p) for p in picked)


def _picked(poles: NDArray[Any], b: NDArray[Any], c: NDArray[Any], conjugate: bool) -> list[NDArray[np.intp]]:
    """For each member of a batch the indices of the modes to store, by decreasing modulus of the pole.

    All, or one of each conjugate pair and the real ones; but not those that stand for states a member does not have.
    """
    alive = (np.abs(b).max(axis=-1) > 0) | (np.abs(c).max(axis=-2) > 0)
    chosen = []
    for lam, living in zip(poles.reshape(-1, poles.shape[-1]), alive.reshape(-1, poles.shape[-1]), strict=True):
        index = np.flatnonzero(living & (lam.imag >= 0)) if conjugate else np.flatnonzero(living)
        chosen.append(index[np.lexsort((lam[index].imag, -np.abs(lam[index])))])
    return chosen


def _modes(
    poles: NDArray[Any], picked: list[NDArray[np.intp]], parts: tuple[NDArray[Any], ...], template: DiagonalSystem
) -> tuple[Complex, Complex, Complex, Change]:
    """Log poles, b, c and the change of coordinates of the modes picked, for the whole batch."""
    count = max(len(p) for p in picked)
    flat = [x.reshape(-1, *x.shape[-2:]) for x in parts]
    members = zip(poles.reshape(-1, poles.shape[-1]), picked, *flat, strict=True)
    out = [_one_mode_set(p, q, b, c, V, W, count, template) for p, q, b, c, V, W in members]
    batch = poles.shape[:-1]
    log_poles, b, c, *maps = (np.stack(x).reshape(*batch, *x[0].shape) for x in zip(*out, strict=True))
    return log_poles, b, c, Change(*maps)


def _one_mode_set(
    poles: Complex, picked: NDArray[np.intp], b: Complex, c: Complex, V: Complex, W: Complex, count: int,
    template: DiagonalSystem,
) -> tuple[NDArray[Any], ...]:  # fmt: skip
    lam = poles[picked].astype(np.complex128)
    b, c, V, W = b[picked], c[:, picked], V[:, picked], W[picked]
    if template.conjugate:
        # a stored state speaks twice (2 Re), so a real mode must speak half as loud
        half = np.where(lam.imag == 0, 0.5, 1.0)
        c, V = c * half, V * half
        n = V.shape[0] // 2
        top, bottom = V[:n], V[n:]
        V1, V2 = (top + 1j * bottom) / 2**0.5, np.conj(top - 1j * bottom) / 2**0.5
        left, right = W[:, :n], W[:, n:]
        W1, W2 = (left - 1j * right) / 2**0.5, (left + 1j * right) / 2**0.5
    else:
        V1, V2, W1, W2 = V, np.zeros_like(V), W, np.zeros_like(W)
    # the modes' scale is free: give input and output vectors the same norm
    nb, nc = np.linalg.norm(b, axis=1), np.linalg.norm(c, axis=0)
    scale = np.sqrt(np.where((nb > 0) & (nc > 0), nc, 1.0) / np.where((nb > 0) & (nc > 0), nb, 1.0))
    b, c, V1, V2, W1, W2 = (
        b * scale[:, None],
        c / scale,
        V1 / scale,
        V2 / scale,
        W1 * scale[:, None],
        W2 * scale[:, None],
    )
    if template.discrete:
        lam = np.where(lam == 0, np.finfo(np.float64).tiny, lam)
        logs = np.log(lam)
    else:
        logs = lam
    extra = count - len(picked)
    if extra:  # batch members with fewer modes get states that neither hear nor speak
        logs = np.concatenate([logs, np.full(extra, -1.0)])
        b, W1, W2 = (np.concatenate([x, np.zeros((extra, x.shape[1]))]) for x in (b, W1, W2))
        c, V1, V2 = (np.concatenate([x, np.zeros((x.shape[0], extra))], axis=1) for x in (c, V1, V2))
    return logs, b, c, V1, V2, W1, W2
