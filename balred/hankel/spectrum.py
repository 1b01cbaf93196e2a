r"""Balanced realisations and the projections of truncation.

With :math:`Z_q^H Z_p = U \Sigma V^H`, the columns of :math:`Z_p V_1` and :math:`Z_q U_1` span the dominant
controllable and observable directions.  Projections come from orthonormal bases of both (balancing-free, Varga
1991), so that a near-uncontrollable direction is never divided by; only the small reduced system is then scaled to
balanced coordinates with fixed signs, so that results repeat.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from balred.systems import arrays
from balred.systems.arrays import Array, backend_of, ct, double_precision, namespace, to_numpy
from balred.solvers.gramians import factors
from balred.ranks.rules import numerical_rank
from balred.systems.dense_system import DenseSystem, System, cast_like, with_leaves
from balred.systems.units import rescaled

_UNEVEN = 1024.0
"""Units of state that differ by less are left as they are."""


class Balanced(NamedTuple):
    """A balanced realisation: the system, its Hankel singular values, and T with x_balanced = T x."""

    system: DenseSystem
    hsv: Array
    T: Array
    Tinv: Array


class Spectrum(NamedTuple):
    """A pair of Gramian factors of a dense system and the singular value decomposition of their product."""

    system: DenseSystem
    Zp: Array
    Zq: Array
    U: Array
    s: Array
    V: Array
    match_dc: bool = False
    """Whether singular perturbation, not truncation, is to follow."""

    @property
    def sigma(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Hankel singular values on the host, padded with zeros to the order, shape (..., n)."""
        return pad(to_numpy(self.s), self.system.order)

    @property
    def cap(self) -> int:
        """The numerical rank, largest over a batch: beyond it projections divide by rounding errors."""
        return int(np.max(numerical_rank(self.sigma), initial=0))


def pad(s: np.ndarray[Any, Any], n: int) -> np.ndarray[Any, Any]:
    """`s` followed by zeros up to length `n`."""
    return np.concatenate([s[..., :n], np.zeros((*s.shape[:-1], max(n - s.shape[-1], 0)), s.dtype)], axis=-1)


def spectrum(system: System, solver: str | None) -> Spectrum:
    """Solve for the factors of `system` (in its own precision) and decompose their product."""
    return spectrum_of(system.to_dense(), *factors(system, solver))


def spectrum_of(system: DenseSystem, Zp: Array, Zq: Array, *, match_dc: bool = False) -> Spectrum:
    """The spectrum for a given pair of Gramian factors, whichever Gramians they are of."""

    be = backend_of(Zp, Zq)
    U, s, Vh = be.over_batch(lambda Zq, Zp: be.svd(ct(Zq) @ Zp), tuple(Zp.shape[:-2]), Zq, Zp)
    return Spectrum(system, Zp, Zq, U, s, ct(Vh), match_dc)


def projections(sp: Spectrum, k: int) -> tuple[Array, Array]:
    r"""L (..., k, n) and R (..., n, k) onto the k dominant balanced states, with :math:`LR = I`.

    .. math:: \Sigma_1^{-1/2}U_1^HZ_q^H = L, \qquad Z_pV_1\Sigma_1^{-1/2} = R

    computed through orthonormal bases.  In a batch, states beyond an element's own numerical rank get zero rows and
    columns.

    References
    ----------
    A. Varga, Balancing-free square-root algorithm for computing singular perturbation approximations, CDC 1991.
    """
    xp = namespace(sp.Zp)
    Tr, Rr = xp.linalg.qr(sp.Zp @ sp.V[..., :, :k], mode="reduced")
    Tl, _ = xp.linalg.qr(sp.Zq @ sp.U[..., :, :k], mode="reduced")
    s = sp.s[..., :k]
    n = sp.system.order
    alive = s > n * arrays.eps(s) * sp.s[..., :1]
    mask = xp.astype(alive, Tr.dtype)
    both = mask[..., :, None] * mask[..., None, :]
    dead = arrays.eye(Tr, k) * (1 - mask)[..., None, :]
    cross = both * (ct(Tl) @ Tr) + dead
    root = xp.astype(xp.sqrt(xp.where(alive, s, xp.ones_like(s))), Tr.dtype)
    X = both * Rr / root[..., None, :] + dead
    L = xp.linalg.solve(X, xp.linalg.solve(cross, ct(Tl)))
    R = Tr @ X
    return signed(mask[..., :, None] * L, mask[..., None, :] * R, sp.system.B)


def signed(L: Array, R: Array, B: Array) -> tuple[Array, Array]:
    """The projections with signs (phases) that make the largest entry of each row of ``L @ B`` positive."""
    sign = _signs(L @ B)
    conj = namespace(sign).conj(sign) if arrays.is_complex(sign) else sign
    return conj[..., :, None] * L, R * sign[..., None, :]


def _signs(B: Array) -> Array:
    """Phase of the largest entry of each row (1 for a zero row): dividing by it makes that entry positive."""
    xp = namespace(B)
    size = xp.abs(B)
    at = xp.argmax(size, axis=-1, keepdims=True)
    value = xp.take_along_axis(B, at, axis=-1)[..., 0]
    norm = xp.abs(value)
    safe = xp.where(norm > 0, norm, xp.ones_like(norm))
    return xp.where(norm > 0, value / xp.astype(safe, B.dtype), xp.ones_like(value))


def projected(sp: Spectrum, k: int) -> tuple[DenseSystem, Array, Array]:
    """Balanced truncation to order k with its projections; masked states of a batch become stable and unused."""
    return projected_by(sp.system, *projections(sp, k))


def projected_by(g: DenseSystem, L: Array, R: Array) -> tuple[DenseSystem, Array, Array]:
    """`g` seen through given projections, with them."""
    xp = namespace(L)
    A = L @ g.A @ R
    if not g.discrete:
        dead = xp.all(L == 0, axis=-1)
        A = A - arrays.eye(A, int(A.shape[-1])) * xp.astype(dead, A.dtype)[..., None, :]
    return DenseSystem(A, L @ g.B, g.C @ R, g.D, g.dt), L, R


def in_even_units(system: System) -> tuple[System, np.ndarray[Any, Any] | None]:
    """A single dense system on the host in other units of state, and d (x = d x_new), where its own lie far apart.

    Other systems as they are, and None: what some methods make depends a little on the coordinates (frequency-weighted
    balancing with definite parts, say), and those given are the ones to use where they do no harm.
    """
    if not (isinstance(system, DenseSystem) and isinstance(system.A, np.ndarray) and system.A.ndim == 2):
        return system, None
    *leaves, d = rescaled(*system.leaves)
    if d.size == 0 or d.max() <= _UNEVEN * d.min():
        return system, None
    return with_leaves(system, tuple(leaves)), d


def balance(obj: Any, *, solver: str | None = None) -> Balanced:
    r"""Balanced realisation: both Gramians equal :math:`\mathrm{diag}(\sigma_1, \dots, \sigma_n)`.

    .. math:: TPT^H = T^{-H}QT^{-1} = \Sigma, \qquad (TAT^{-1},\ TB,\ CT^{-1},\ D)

    Parameters
    ----------
    obj : system, layer, or anything :func:`balred.adapt` reads
    solver : str, optional

    Returns
    -------
    Balanced
        ``system`` (dense; real of order 2n for a conjugate system), ``hsv``, ``T`` (x_balanced = T x), ``Tinv``.
        The largest entry of each row of the balanced B is positive.

    Raises
    ------
    ValueError
        The system is not minimal to working precision, so that T does not exist.
    UnstableError
        A pole is unstable or marginal.

    References
    ----------
    B. C. Moore, Principal component analysis in linear systems, IEEE Trans. Automat. Control 26 (1981).

    Examples
    --------
    >>> import balred
    >>> b = balred.balance(balred.ss([[-1.0, 0.0], [1.0, -2.0]], [[1.0], [0.0]], [[0.0, 1.0]]))
    >>> P, Q = balred.gramians(b.system)
    >>> bool(abs(P - Q).max() < 1e-12)
    True
    """
    from balred.registry.entries import system_of

    original = system_of(obj)
    with double_precision(*original.leaves) as leaves:
        precise, d = in_even_units(with_leaves(original, leaves))
        sp = spectrum(precise, solver)
        n = sp.system.order
        rank = int(np.min(numerical_rank(sp.sigma)))
        if rank < n:
            raise ValueError(
                f"a balanced realisation needs a minimal system, got numerical rank {rank} of {n}: reduce it to {rank} states"
            )
        g, L, R = projected(sp, n)
        if d is not None:
            L, R = L / d, d[:, None] * R
        narrow = with_leaves(g, tuple(cast_like(x, original) for x in g.leaves))
        assert isinstance(narrow, DenseSystem)
        return Balanced(narrow, cast_like(sp.s, original), cast_like(L, original), cast_like(R, original))
