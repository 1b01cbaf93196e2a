r"""Truncation and singular perturbation: what a pair of Gramian factors is used for, whichever Gramians they are of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.hankel.projections import projected, projected_by, signed
from balred.hankel.spectrum import Spectrum, parted
from balred.measures.promises import Promise, check_promises, error_gap, visible
from balred.methods.method import Reduced
from balred.ranks.bounds import a_priori_bound, numerical_rank
from balred.systems import arrays
from balred.systems.arrays import backend_of, ct, is_concrete, is_double, is_one, namespace, size_of, to_numpy
from balred.systems.dense_system import DenseSystem
from balred.systems.poles import known_poles

_DOUBLE = float(np.finfo(np.float64).eps)
_NEARLY = 5e-4
"""Values that lie no farther apart, as a part of themselves, may be equal in what was given with single precision."""


def truncate(sp: Spectrum, k: int) -> Reduced:
    r"""Balanced truncation by the square-root method, with its projections biorthogonal to the last digit.

    .. math:: A_r = LAR,\quad B_r = LB,\quad C_r = CR,\quad D_r = D,\qquad \|G-G_r\|_\infty \le 2\textstyle\sum_{i>k}\sigma_i

    References
    ----------
    B. C. Moore (1981); M. S. Tombs and I. Postlethwaite, Truncated balanced realization of a stable non-minimal state-space
    system, Int. J. Control 46 (1987) (SLICOT AB09AD).

    Examples
    --------
    >>> import balred
    >>> from balred.hankel.spectrum import spectrum
    >>> from balred.methods.truncation import truncate
    >>> g = balred.testing.random_system(20, seed=0)
    >>> small, L, R = truncate(spectrum(g, None), 4)
    >>> small.states, np.allclose(L @ R, np.eye(4)), np.allclose(small.A, L @ g.A @ R)
    (4, True, True)
    """
    return promised(sp, k, projected)


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

    Examples
    --------
    >>> import balred
    >>> from balred.hankel.spectrum import spectrum
    >>> from balred.methods.truncation import singular_perturbation
    >>> g = balred.testing.random_system(20, seed=0)
    >>> small, L, R = singular_perturbation(spectrum(g, None), 4)
    >>> np.allclose(small(0), g(0))  # the steady state
    True
    """
    return promised(sp, k, _residualised)


def _residualised(sp: Spectrum, k: int) -> Reduced:
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


def square_root(sp: Spectrum, k: int) -> Reduced:
    r"""Balanced truncation by the square-root method, which scales by the singular values themselves.

    .. math:: L = \Sigma_1^{-1/2}U_1^HZ_q^H,\qquad R = Z_pV_1\Sigma_1^{-1/2}

    The same system as :func:`truncate` in exact arithmetic, which divides out what rounding leaves of LR beside the identity; for
    comparisons with other implementations.

    References
    ----------
    M. S. Tombs and I. Postlethwaite, Truncated balanced realization of a stable non-minimal state-space system,
    Int. J. Control 46 (1987) (SLICOT AB09AD with job 'B').
    """
    return promised(sp, k, _scaled)


def _scaled(sp: Spectrum, k: int) -> Reduced:
    xp = namespace(sp.Zp)
    g, s = sp.system, sp.s[..., :k]
    alive = s > g.order * arrays.eps(s) * sp.s[..., :1]
    scale = xp.astype(xp.where(alive, 1 / xp.sqrt(xp.where(alive, s, xp.ones_like(s))), xp.zeros_like(s)), sp.Zp.dtype)
    L = scale[..., :, None] * ct(sp.Zq @ sp.U[..., :, :k])
    R = sp.Zp @ sp.V[..., :, :k] * scale[..., None, :]
    return projected_by(g, *signed(L, R, g.B))


def promised(sp: Spectrum, k: int, make: Callable[[Spectrum, int], Reduced]) -> Reduced:
    """What `make` makes of order k; where rounding may count, compared with what the bound promises (:mod:`balred.measures.promises`).

    Of a batch the members are looked at that need it; of traced arrays, and of what was computed in single precision, none is.
    Where k parts values that are nearly equal, and a result is beyond its bound or not stable for sure, coordinates of equal values are
    tried, in which poles keep their distance from the boundary of the stable region: those of values as near to each other as the
    two that are parted, and all that are nearly equal.  The best is taken.
    """
    made = make(sp, k)
    g = made[0]
    if not (sp.bounding and isinstance(g, DenseSystem)):
        return made
    if not (counts := _worth_comparing(sp, g)).any():
        return made
    promises = _promises(sp, k, g, counts)
    gap = _gap(sp, k)
    if (parting := counts & (gap <= _NEARLY)).any():
        excess = {i: _excess(promise) for i, promise in promises.items() if parting[i]}
        for within in (2 * gap[..., None], _NEARLY):
            if any(excess.values()):
                other = make(parted(sp, within), k)
                assert isinstance(other[0], DenseSystem)
                found = {i: (_excess(p), p) for i, p in _promises(sp, k, other[0], parting).items()}
                better = [i for i, (beyond, _) in found.items() if beyond < excess[i]]
                made = _chosen(made, other, better, counts.shape)
                excess |= {i: found[i][0] for i in better}
                promises |= {i: found[i][1] for i in better}
    check_promises(promises.values(), k)
    return made


def _promises(sp: Spectrum, k: int, g: DenseSystem, counts: NDArray[np.bool_]) -> dict[tuple[int, ...], Promise]:
    """What is promised of those members of a reduced system that count, rounded as they will be."""
    full, small = (_members(x, counts.shape) for x in (sp.system, g))
    s, bounds = np.broadcast_to(to_numpy(sp.s), (*counts.shape, sp.s.shape[-1])), a_priori_bound(sp.sigma, k)
    bounds = np.broadcast_to(bounds, counts.shape)

    def of(i: tuple[int, ...]) -> Promise:
        one, rounded = full(i), small(i) if sp.rounding <= _DOUBLE else in_single(small(i))
        return Promise(error_gap(one, rounded), rounded, float(bounds[i]), float(s[i][0]), sp.rounding)

    return {i: of(i) for i in map(tuple, np.argwhere(counts))}


def in_single(g: DenseSystem) -> DenseSystem:
    """One system of NumPy with its entries rounded to single precision, in double."""
    A, B, C, D = (
        x.astype(np.complex64 if np.iscomplexobj(x) else np.float32).astype(x.dtype) for x in (*g.leaves, g.D)
    )
    return DenseSystem(A, B, C, D, g.dt)


def _gap(sp: Spectrum, k: int) -> NDArray[np.float64]:
    """How far the two values that k parts lie from each other, as a part of the first, shape (...)."""
    s = to_numpy(backend_of(sp.s).stop_gradient(sp.s))
    if not 0 < k < s.shape[-1]:
        return np.ones(s.shape[:-1])
    with np.errstate(invalid="ignore"):
        return np.asarray(1 - s[..., k] / s[..., k - 1])


def _excess(promise: Promise) -> float:
    """By how much a result is worse than promised: infinitely where its poles are not known to be stable."""
    if not known_poles(promise.small, promise.rounding).inside().all():
        return np.inf
    return promise.worst()[1]


def _chosen(made: Reduced, other: Reduced, mended: Iterable[tuple[int, ...]], batch: tuple[int, ...]) -> Reduced:
    """The one reduction, or of those members that are `mended` the other."""
    which = np.zeros(batch, bool)
    for i in mended:
        which[i] = True
    if which.all() or not which.any():
        return other if which.all() else made
    be, xp = backend_of(made[0].B), namespace(made[0].B)
    mask = be.from_numpy(which.astype(float), like=made[0].B, real=True)[..., None, None] > 0
    (g, L, R), (h, M, S) = made, other
    assert isinstance(g, DenseSystem)
    assert isinstance(h, DenseSystem)
    A, B, C, D = (xp.where(mask, y, x) for x, y in zip((*g.leaves, g.D), (*h.leaves, h.D), strict=True))
    return DenseSystem(A, B, C, D, g.dt), xp.where(mask, M, L), xp.where(mask, S, R)


def _members(g: DenseSystem, batch: tuple[int, ...]) -> Callable[[tuple[int, ...]], DenseSystem]:
    be = backend_of(*g.leaves)
    leaves = [to_numpy(be.stop_gradient(x)) for x in (*g.leaves, g.D)]
    whole = [np.broadcast_to(x, (*batch, *x.shape[-2:])) for x in leaves]

    def one(i: tuple[int, ...]) -> DenseSystem:
        A, B, C, D = (x[i] for x in whole)
        return DenseSystem(A, B, C, D, g.dt)

    return one


def _worth_comparing(sp: Spectrum, g: DenseSystem) -> NDArray[np.bool_]:
    """Whether rounding errors may be seen beside the error that a reduction makes, shape (...): a look that costs nothing."""
    k, eps = g.order, sp.rounding
    if not (k and is_double(sp.s) and is_concrete(g.A)):
        return np.zeros(g.A.shape[:-2], bool)
    size: Any = 1.0
    if is_one(g.A):
        own, s = g.A.diagonal(), sp.s
        size = 1.0 if g.discrete else size_of(sp.system.A)
        nearest = float((np.abs(1 - np.abs(own)) if g.discrete else np.abs(own.real)).min())
        far = eps * float(s[0]) * size <= visible(float(s[k:].sum()), float(s[0])) * nearest
        if far and not (k < len(s) and s[k] >= s[k - 1] * (1 - _NEARLY)):
            return np.asarray(False)
    else:
        own, s = (to_numpy(backend_of(x).stop_gradient(x)) for x in (namespace(g.A).linalg.diagonal(g.A), sp.s))
        size = 1.0 if g.discrete else to_numpy(arrays.fro(backend_of(g.A).stop_gradient(sp.system.A)))[..., None]
    margin = np.abs(1 - np.abs(own)) if g.discrete else np.abs(own.real)
    lost = eps * s[..., :k] * size
    least = visible(s[..., k:].sum(-1), s[..., 0])
    return np.asarray((lost > least[..., None] * margin).any(-1) | (_gap(sp, k) <= _NEARLY))


def truncate_or_match(sp: Spectrum, k: int) -> Reduced:
    """Truncation, or singular perturbation if the analysis was made with ``match_dc=True``.

    Examples
    --------
    >>> import balred
    >>> from balred.hankel.spectrum import spectrum_of
    >>> from balred.methods.truncation import truncate_or_match
    >>> g = balred.testing.random_system(20, seed=0)
    >>> factors = balred.gramian_factors(g)
    >>> [np.allclose(truncate_or_match(spectrum_of(g, *factors, match_dc=m), 4)[0](0), g(0)) for m in (False, True)]
    [False, True]
    """
    return (singular_perturbation if sp.match_dc else truncate)(sp, k)
