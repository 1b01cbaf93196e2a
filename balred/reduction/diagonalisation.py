"""The way back from a reduced dense system to diagonal form.

A diagonal system is reduced in the (real) coordinates of its dense form and then diagonalised again: a conjugate pair
of the reduced real system becomes one stored state, and so does a real pole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from balred.methods.method import Method, Reduced
from balred.systems import arrays
from balred.systems.arrays import backend_of, to_numpy
from balred.systems.batches import each_array, member
from balred.systems.coordinates import Change, Complex, coefficients
from balred.systems.diagonal_system import DiagonalSystem
from balred.systems.leaves import System

_Modes: TypeAlias = tuple[NDArray[Any], ...]
"""Logarithms of poles, b, c and the four matrices of :class:`Change`, of one member of a batch."""


def diagonalised(
    template: DiagonalSystem,
    method: Method,
    state: Any,
    order: int,
    states: int,
    original: System,
    margin: float | None,
) -> tuple[DiagonalSystem, NDArray[np.int64], Change | None, str]:
    """Reduce in dense coordinates, then diagonalise on the host, one round trip for the whole batch.

    Each member gets the largest order, also returned, whose poles fit into `states` stored states, lie further than `margin`
    inside the stable region where there is one, and whose eigenvectors are well enough conditioned for the dtype of `original`, and for that of the computation.
    The last value tells if that cost more states than real poles do, which fill a stored state each.
    """
    be = backend_of(*template.leaves)
    limit = float(max(arrays.eps(arrays.real(g.B)) for g in (original, template)) ** -0.5)
    made = method.reduced(state, order)
    found = _attempt(made, template, states, limit, margin)
    batch, D = tuple(template.B.shape[:-2]), made[0].D
    orders = np.full(len(found), order)
    wrong = [i for i, (_, modes) in enumerate(found) if modes is None]
    unfit = any(found[i][0] <= 0 for i in wrong)
    if wrong:
        if not be.on_host(template.B):  # what remains is a search, in steps too small for a device
            state = each_array(state, to_numpy)
        every = to_numpy(made[0].leaves[0]).reshape(-1, order, order) if made[0].order == order else None
        feedthrough = np.broadcast_to(to_numpy(D), (*batch, *D.shape[-2:])).reshape(-1, *D.shape[-2:]).copy()
        for i in wrong:
            one = member(state, np.unravel_index(i, batch)) if batch else state

            def attempt(k: int, one: Any = one) -> tuple[int, tuple[_Modes | None, Any]]:
                reduced = method.reduced(one, k)
                [(excess, modes)] = _attempt(reduced, template, states, limit, margin)
                return excess, (modes, reduced[0].D)

            refused, k = order, order - max(1, found[i][0])  # one state less frees at most one stored state
            if method.nested and every is not None and template.conjugate and found[i][0] > 0:
                living = one.cap  # others of a batch may have more
                k = _predicted(every[i][:living, :living], found[i][0], states)
                refused = k + 1
            orders[i], modes, feedthrough[i] = _largest(attempt, k, refused, states)
            found[i] = (0, modes)
        D = be.from_numpy(feedthrough.reshape(*batch, *D.shape[-2:]), like=template.B)
    parts = [modes for _, modes in found if modes is not None]
    count = max(len(modes[0]) for modes in parts)
    several = zip(*(_extended(modes, count) for modes in parts), strict=True)
    log_poles, b, c, *maps = (np.stack(x).reshape(*batch, *x[0].shape) for x in several)
    log_poles, b, c = (be.from_numpy(x, like=template.B) for x in (log_poles, b, c))
    small = DiagonalSystem(log_poles, b, c, D, template.dt, template.conjugate)
    note = (
        f"order {int(orders.min())} instead of {order}, which has unstable poles or nearly parallel eigenvectors"
        if unfit
        else ""
    )
    return small, orders.reshape(batch), None if made[1] is None else Change(*maps), note


def _predicted(A: NDArray[Any], excess: int, states: int) -> int:
    """The largest order at which the poles of a leading block of A fit, which has `excess` stored states too many.

    They cost less than a reduction and its eigenvectors.
    """

    def unfit(k: int) -> int:
        return _count(np.linalg.eigvals(A[:k, :k])) - states

    refused = k = len(A)
    while excess > 0 and k > 1:
        refused, k = k, max(1, k - excess)
        excess = unfit(k)
    while k + 1 < refused and unfit(k + 1) <= 0:  # the step down may have been too long
        k += 1
    return k


def _largest(
    attempt: Callable[[int], tuple[int, tuple[_Modes | None, Any]]], k: int, refused: int, states: int
) -> tuple[int, _Modes, Any]:
    """The largest order below `refused` at which an attempt succeeds, looked for from `k` on."""
    best: tuple[_Modes | None, Any] = (None, None)
    while k > 0 and best[0] is None:
        excess, best = attempt(k)
        if best[0] is None:
            refused, k = k, k - max(1, excess)
    while best[0] is not None and k + 1 < refused:  # the step down may have been too long
        _, better = attempt(k + 1)
        if better[0] is None:
            break
        k, best = k + 1, better
    if best[0] is None:
        raise ValueError(
            f"the reduced system must be diagonalisable to {states} or fewer states, got ill-conditioned eigenvectors or unstable poles at every order"
        )
    return k, best[0], best[1]


def _attempt(
    reduced: Reduced, template: DiagonalSystem, states: int, limit: float, least: float | None
) -> list[tuple[int, _Modes | None]]:
    """For each member: how many stored states too many it takes, and its modes if it is none and well conditioned."""
    g, L, R = reduced
    A, B, C = (to_numpy(x) for x in g.leaves)
    poles, vectors = np.linalg.eig(A)
    if template.conjugate and poles.ndim == 1 and _count(poles) > states:
        return [(_count(poles) - states, None)]
    vectors = vectors.astype(np.complex128)
    condition = np.linalg.cond(vectors)
    usable = np.isfinite(condition)[..., None]
    vectors = np.where(usable[..., None], vectors, np.eye(vectors.shape[-1]))
    paired = np.where(usable, poles, 0.0)
    b, c = coefficients(paired, vectors, B), C @ vectors
    picked = _picked(poles, b, c, template.conjugate)
    margin = (1 - np.abs(poles)) if template.discrete else -poles.real
    good = condition < limit
    if least is not None:
        good &= np.all(margin > least, axis=-1)
    if L is None or R is None:  # no projection: there are no coordinates to carry over
        V, W = (
            np.zeros((*b.shape[:-2], *shape))
            for shape in ((template.order, b.shape[-2]), (b.shape[-2], template.order))
        )
    else:
        V, W = to_numpy(R) @ vectors, coefficients(paired, vectors, to_numpy(L))
    flat = [x.reshape(-1, *x.shape[-2:]) for x in (b, c, V, W)]
    members = zip(poles.reshape(-1, poles.shape[-1]), picked, good.reshape(-1), *flat, strict=True)
    return [
        (len(at) - states, _one_mode_set(template, lam, at, *four) if fine and len(at) <= states else None)
        for lam, at, fine, *four in members
    ]


def stored_states(g: System) -> int:
    """How many stored states hold the real system `g` as a conjugate one (the most over a batch)."""
    A, B, C = (to_numpy(x) for x in g.leaves)
    if A.ndim == 2:
        return _count(np.linalg.eigvals(A))
    poles, vectors = np.linalg.eig(A)
    picked = _picked(poles, np.linalg.solve(vectors, B), C @ vectors, conjugate=True)
    return max(len(p) for p in picked)


def _count(poles: NDArray[Any]) -> int:
    """How many stored states hold these poles of a real system: one for a conjugate pair, one for a real pole."""
    return int((poles.imag >= 0).sum())


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


def _one_mode_set(template: DiagonalSystem, poles: Complex, picked: NDArray[np.intp], *parts: Complex) -> _Modes:
    """The modes picked of one member; `parts` are its b, c, right and left eigenvectors in coordinates of the state."""
    b, c, V, W = parts
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
    return logs, b, c, V1, V2, W1, W2


def _extended(modes: _Modes, count: int) -> _Modes:
    """`modes` and, where they are fewer than `count`, states that neither hear nor speak."""
    logs, b, c, V1, V2, W1, W2 = modes
    extra = count - len(logs)
    if extra:
        logs = np.concatenate([logs, np.full(extra, -1.0)])
        b, W1, W2 = (np.concatenate([x, np.zeros((extra, x.shape[1]))]) for x in (b, W1, W2))
        c, V1, V2 = (np.concatenate([x, np.zeros((x.shape[0], extra))], axis=1) for x in (c, V1, V2))
    return logs, b, c, V1, V2, W1, W2
