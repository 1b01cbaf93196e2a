"""The way back from a reduced dense system to diagonal form.

A diagonal system is reduced in the (real) coordinates of its dense form and then diagonalised again: a conjugate pair
of the reduced real system becomes one stored state, and so does a real pole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred import arrays
from balred.arrays import backend_of, to_numpy
from balred.methods import Reduced
from balred.systems import DiagonalSystem, System

Complex = NDArray[np.complex128]


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


def diagonalised(
    template: DiagonalSystem, reduced: Callable[[int], Reduced], order: int, states: int, original: System, stable: bool
) -> tuple[DiagonalSystem, int, Change | None]:
    """Reduce in dense coordinates, then diagonalise on the host, one round trip for the whole batch.

    The largest order is taken whose poles fit into `states` stored states, are stable where they must be, and whose
    eigenvectors are well enough conditioned for the dtype of `original`, and for that of the computation.
    """
    be = backend_of(*template.leaves)
    limit = float(max(arrays.eps(arrays.real(g.B)) for g in (original, template)) ** -0.5)

    def attempt(k: int) -> tuple[int, Any]:
        """How many stored states too many order k takes, and the diagonal system if it is none and well conditioned."""
        g, L, R = reduced(k)
        A, B, C = (to_numpy(x) for x in g.leaves)
        poles, vectors = np.linalg.eig(A)
        vectors = vectors.astype(np.complex128)
        b, c = np.linalg.solve(vectors, B), C @ vectors
        picked = _picked(poles, b, c, template.conjugate)
        excess = max(len(p) for p in picked) - states
        margin = (1 - np.abs(poles)) if template.discrete else -poles.real
        if excess > 0 or (stable and not np.all(margin > 0)) or not np.all(np.linalg.cond(vectors) < limit):
            return excess, None
        if L is None or R is None:  # no projection: there are no coordinates to carry over
            maps = (np.zeros((*b.shape[:-2], template.order, b.shape[-2])), np.zeros((*b.shape[:-1], template.order)))
        else:
            maps = (to_numpy(R) @ vectors, np.linalg.solve(vectors, to_numpy(L)))
        log_poles, b, c, change = _modes(poles, picked, (b, c, *maps), template)
        log_poles, b, c = (be.from_numpy(x, like=template.B) for x in (log_poles, b, c))
        return excess, (
            DiagonalSystem(log_poles, b, c, g.D, template.dt, template.conjugate),
            k,
            None if L is None else change,
        )

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
    result: tuple[DiagonalSystem, int, Change | None] = best
    return result


def stored_states(g: System) -> int:
    """How many stored states hold the real system `g` as a conjugate one (the most over a batch)."""
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
