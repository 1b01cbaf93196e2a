"""Projections onto balanced coordinates, and a system seen through them.

They are those of the square-root method, each state with its own digits; what rounding leaves of their product beside the identity
is divided out.  (Orthonormal bases of the two spaces, of which the balancing-free method makes them, mix states: where a value is
1e-11 of the first, its rounding errors then reach the others.)  Signs are fixed, so that results repeat.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.hankel.spectrum import Spectrum
from balred.systems import arrays
from balred.systems.arrays import Array, backend_of, ct, is_concrete, is_double, is_one, namespace, size_of, to_numpy
from balred.systems.dense_system import DenseSystem
from balred.systems.long_products import seen_through

_SEEN, _FINE = 1e-6, 1e-7
"""Rounding counts above this part of the error, of which less than a part of the first value does not."""
_LITTLE = 1e-5
"""A change of coordinates that leaves them about as they were."""


def projections(sp: Spectrum, k: int) -> tuple[Array, Array]:
    r"""L (..., k, n) and R (..., n, k) onto the k dominant balanced states, with :math:`LR = I`.

    .. math:: \hat L = \Sigma_1^{-1/2}U_1^HZ_q^H, \qquad R = Z_pV_1\Sigma_1^{-1/2}, \qquad L = (\hat LR)^{-1}\hat L

    in the coordinates of ``sp.system``.  In exact arithmetic :math:`\hat LR` is the identity.  In a batch, states beyond an element's own
    numerical rank get zero rows and columns.

    References
    ----------
    M. S. Tombs and I. Postlethwaite, Truncated balanced realization of a stable non-minimal state-space system,
    Int. J. Control 46 (1987).
    """
    right, left, s = sp.Zp @ sp.V[..., :, :k], sp.Zq @ sp.U[..., :, :k], sp.s[..., :k]
    if k and is_one(right) and s[k - 1] > sp.system.order * arrays.eps(s) * sp.s[0]:  # nothing to mask, and fewer calls
        root = np.sqrt(s)
        L, R = ct(left) / root[:, None], right / root
        return signed(backend_of(L).solve(L.dot(R), L), R, sp.system.B)
    xp = namespace(sp.Zp)
    alive = s > sp.system.order * arrays.eps(s) * sp.s[..., :1]
    mask = xp.astype(alive, right.dtype)
    scale = xp.astype(xp.where(alive, 1 / xp.sqrt(xp.where(alive, s, xp.ones_like(s))), xp.zeros_like(s)), right.dtype)
    L, R = scale[..., :, None] * ct(left), right * scale[..., None, :]
    E = L @ R + arrays.eye(R, k) * (1 - mask)[..., None, :]
    return signed(xp.linalg.solve(E, L), R, sp.system.B)


def projected(sp: Spectrum, k: int) -> tuple[DenseSystem, Array, Array]:
    """Balanced truncation to order k with its projections, from the coordinates given; masked states of a batch become
    stable and unused."""
    g, L, R = projected_by(sp.system, *projections(sp, k))
    counts = rounding_counts(sp, g, L, R)
    if counts.any():
        g, L, R = _rounded_once(sp.system, L, R) if counts.ndim == 0 else _members_once(sp.system, g, L, R, counts)
    return g, sp.coordinates.after(L), sp.coordinates.before(R)


def rounding_counts(sp: Spectrum, g: DenseSystem, L: Array, R: Array) -> NDArray[np.bool_]:
    """Whether rounding errors of the product L A R may be seen beside the error that the reduction itself makes, shape (...).

    They move a pole that is near the boundary of the stable region by as much as others, which counts more.  Of traced arrays,
    and in single precision, they are taken for what they are.
    """
    k, eps = int(L.shape[-2]), float(np.finfo(np.float64).eps)
    if not (k and is_double(sp.s) and is_concrete(L)):
        return np.zeros(L.shape[:-2], bool)
    if is_one(L):  # the same in fewer calls
        own, first = g.A.diagonal(), float(sp.s[0])
        margin = np.abs(1 - np.abs(own)) if g.discrete else np.abs(own.real)
        tail = max(float(sp.s[k:].sum()), _FINE * first)
        if eps * first * size_of(L) * size_of(sp.system.A) * size_of(R) <= _SEEN * tail * float(margin.min()):
            return np.asarray(False)
        driven = np.abs(L)
        if not driven.sum(axis=1).all():
            return np.asarray(False)
        size = ((driven @ np.abs(sp.system.A)) * np.abs(R).T).sum(1)
        return np.asarray((eps * sp.s[:k] * size > _SEEN * tail * margin).any())
    be, xp = backend_of(L), namespace(L)
    L, R, A, own, s = (be.stop_gradient(x) for x in (L, R, sp.system.A, xp.linalg.diagonal(g.A), sp.s))
    size = xp.sum((xp.abs(L) @ xp.abs(A)) * xp.matrix_transpose(xp.abs(R)), axis=-1)
    margin = xp.abs(1 - xp.abs(own)) if g.discrete else xp.abs(arrays.real(own))
    tail = xp.maximum(xp.sum(s[..., k:], axis=-1), _FINE * s[..., 0])[..., None]
    # a state that is masked has no size, and no part in this
    counts = to_numpy(eps * s[..., :k] * size > _SEEN * tail * margin)
    return np.asarray(counts.any(axis=-1))


def _members_once(
    system: DenseSystem, g: DenseSystem, L: Array, R: Array, again: NDArray[np.bool_]
) -> tuple[DenseSystem, Array, Array]:
    """Those members of a batch (or a system on a device) that need it seen through their projections with twice the digits."""
    be = backend_of(L)
    given = [to_numpy(be.stop_gradient(x)) for x in (*system.leaves, system.D)]
    paths = (g.A, g.B, g.C, L, R)
    given = [np.broadcast_to(x, (*again.shape, *x.shape[-2:])) for x in given]
    made = [np.array(to_numpy(be.stop_gradient(x))) for x in paths]
    for i in map(tuple, np.argwhere(again)):
        A, B, C, l, r = (x[i] for x in made)
        alive = np.abs(l).sum(axis=1) > 0
        one = DenseSystem(given[0][i], given[1][i], given[2][i], given[3][i], system.dt)
        small, left, right = _rounded_once(one, l[alive], r[:, alive])
        A[np.ix_(alive, alive)], B[alive], C[:, alive], l[alive], r[:, alive] = *small.leaves, left, right
    # the values are these; the way to them is only for derivatives
    A, B, C, L, R = (
        be.from_numpy(x, like=path) + (path - be.stop_gradient(path)) for x, path in zip(made, paths, strict=True)
    )
    return DenseSystem(A, B, C, g.D, g.dt), L, R


def _rounded_once(g: DenseSystem, L: Any, R: Any) -> tuple[DenseSystem, Any, Any]:
    """`g` seen through the projection R (L R)^-1 L, computed with twice the digits."""
    (A, B, C), (dA, dB, dC) = seen_through(L, g.A, g.B, g.C, R)
    if g.discrete:
        L, R = L.copy(), R.copy()
        _exact_diagonal((A, B, C), (dA, dB, dC), L, R)
    return DenseSystem(A + dA, B + dB, C + dC, g.D, g.dt), L, R


def _exact_diagonal(high: Any, low: Any, L: Any, R: Any) -> None:
    r"""Change `low`, what rounding leaves of A, B and C, so that none is left on A's diagonal but where it counts least.

    Poles near one are the difference between a diagonal and one, of which rounding the diagonal leaves few digits; small entries
    beside it have all of theirs.  The coordinates :math:`I + t e_ie_j^T`, with the fastest state j,
    move the rounding error of state i there; L and R follow.
    """
    (A, B, C), (dA, dB, dC) = high, low
    j = int(np.argmin(np.abs(A.diagonal())))
    change = A - np.eye(len(A))  # the identity is the same in all coordinates
    for i in range(len(A)):
        through = A[j, i] + dA[j, i]
        if i == j or not abs(dA[i, i]) < _LITTLE * abs(through):
            continue
        t = dA[i, i] / through
        dA[:, j] += t * (change[:, i] + dA[:, i])
        dA[i, :] -= t * (change[j, :] + dA[j, :])
        dB[i] -= t * (B[j] + dB[j])
        dC[:, j] += t * (C[:, i] + dC[:, i])
        L[i] -= t * L[j]
        R[:, j] += t * R[:, i]


def projected_by(g: DenseSystem, L: Array, R: Array) -> tuple[DenseSystem, Array, Array]:
    """`g` seen through given projections, with them."""
    if is_one(L) and (g.discrete or L.any(axis=1).all()):  # the same in fewer calls
        return DenseSystem(L.dot(g.A).dot(R), L.dot(g.B), g.C.dot(R), g.D, g.dt), L, R
    xp = namespace(L)
    A = L @ g.A @ R
    if not g.discrete:
        dead = xp.all(L == 0, axis=-1)
        A = A - arrays.eye(A, int(A.shape[-1])) * xp.astype(dead, A.dtype)[..., None, :]
    return DenseSystem(A, L @ g.B, g.C @ R, g.D, g.dt), L, R


def signed(L: Array, R: Array, B: Array) -> tuple[Array, Array]:
    """The projections with signs (phases) that make the largest entry of each row of ``L @ B`` positive."""
    sign = _signs(L.dot(B) if is_one(L) else L @ B)
    conj = namespace(sign).conj(sign) if arrays.is_complex(sign) else sign
    return conj[..., :, None] * L, R * sign[..., None, :]


def _signs(B: Array) -> Array:
    """Phase of the largest entry of each row (1 for a zero row): dividing by it makes that entry positive."""
    xp = namespace(B)
    size = xp.abs(B)
    if is_one(B):
        value = B[np.arange(len(B)), size.argmax(-1)]
        if value.dtype.kind == "f":
            return np.where(value < 0, -1.0, 1.0).astype(B.dtype, copy=False)
        norm = np.abs(value)
        return np.where(norm > 0, value / np.where(norm > 0, norm, 1.0), 1.0).astype(B.dtype)
    at = xp.argmax(size, axis=-1, keepdims=True)
    value = xp.take_along_axis(B, at, axis=-1)[..., 0]
    norm = xp.abs(value)
    safe = xp.where(norm > 0, norm, xp.ones_like(norm))
    return xp.where(norm > 0, value / xp.astype(safe, B.dtype), xp.ones_like(value))
