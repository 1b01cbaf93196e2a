r"""Where iterations towards an H2-optimal system begin: several places, because each leads to the optimum nearest to it.

No start is best for all systems.  Truncation is, where the values fall quickly; of lightly damped systems it may begin
between two resonances, and ends beside the one that matters less.  The starts here disagree about what matters: the
largest gain, the largest output energy, the steady state, the modes, all frequencies alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from balred.hankel.projections import projected
from balred.hankel.spectrum import Spectrum, spectrum
from balred.measures.norms import norm
from balred.methods.modal import modal, modes
from balred.methods.riccati_balancing import bounded_real
from balred.methods.truncation import singular_perturbation, truncate
from balred.solvers.resolvents import Matrix
from balred.systems.arrays import ct
from balred.systems.dense_system import DenseSystem
from balred.systems.leaves import System
from balred.systems.poles import continuous_poles

_ROOM = 16
"""What is looked at has so many states more than four times the order: the rest has no part in where to begin."""


def starts(sp: Spectrum, k: int) -> Iterator[tuple[str, DenseSystem]]:
    """The starts of order k with their names; what cannot be made of a system is left out.

    Parameters
    ----------
    sp : Spectrum
        Of the system that is to be approximated.
    k : int
        Below the numerical rank.
    """
    yield "balanced truncation", projected(sp, k)[0]
    g = projected(sp, min(sp.cap, 4 * k + _ROOM))[0]
    makers: dict[str, Callable[[], System]] = {
        "matched steady state": lambda: singular_perturbation(spectrum(g, None), k)[0],
        "most output energy": lambda: _energetic(g, sp.sigma, k),
        "dominant modes": lambda: _modal(g, k),
        "bounded-real balancing": lambda: truncate(bounded_real(g, gamma=1.01 * float(norm(g, "hinf"))), k)[0],
        "points over all frequencies": lambda: _interpolating(g, k),
    }
    for name, make in makers.items():
        try:
            start = make()
        except (ValueError, ArithmeticError, np.linalg.LinAlgError):  # no room between the poles, say
            continue
        if start.order == k:
            yield name, start.to_dense()


def _modal(g: DenseSystem, k: int) -> System:
    """The dominant poles, as many as make a group of conjugates full, and of them what matters."""
    kept = modes(g, dominance="h2")
    return truncate(spectrum(modal(kept, kept.closed(k))[0].to_dense(), None), k)[0]


def _energetic(g: DenseSystem, sigma: Matrix, k: int) -> DenseSystem:
    """The k balanced states with the most output energy: any part of a balanced system is stable.

    Where a slow mode has the larger singular value, a fast one may have the larger H2 norm.
    """
    energy = np.sum(np.abs(g.C) ** 2, axis=0) * sigma[: g.order]
    most = np.sort(np.argsort(-energy, kind="stable")[:k])
    return DenseSystem(g.A[np.ix_(most, most)], g.B[most], g.C[:, most], g.D, g.dt)


def _interpolating(g: DenseSystem, k: int) -> DenseSystem:
    """What agrees with `g` at k points between its slowest and its fastest pole, where it is largest, made stable."""
    size = np.abs(continuous_poles(np.linalg.eigvals(g.A), float(g.discrete)))
    size = np.clip(size[np.isfinite(size)], 1e-8 * size[np.isfinite(size)].max(), None)
    points = np.geomspace(size.min(), size.max(), k) if k > 1 else [(size.min() * size.max()) ** 0.5]
    I, right, left = np.eye(g.order), [], []
    for s in np.exp(points) if g.discrete else points:
        U, _, Vh = np.linalg.svd(g(s) - g.D)
        u, v = (x if np.iscomplexobj(g.A) else x.real for x in (U[:, 0], Vh[0].conj()))
        right.append(np.linalg.solve(s * I - g.A, g.B @ v))
        left.append(np.linalg.solve(s * I - ct(g.A), ct(g.C) @ u))
    V, W = (np.linalg.qr(np.stack(x, axis=1))[0] for x in (right, left))
    A = np.linalg.solve(ct(W) @ V, ct(W) @ g.A @ V)
    poles, E = np.linalg.eig(A)
    outside = np.abs(poles) > 1 if g.discrete else poles.real > 0
    if outside.any():
        mirrored = np.where(outside, 1 / poles.conj() if g.discrete else -poles.conj(), poles)
        A = (E * mirrored) @ np.linalg.inv(E)
        A = A if np.iscomplexobj(g.A) else A.real
    return DenseSystem(A, np.linalg.solve(ct(W) @ V, ct(W) @ g.B), g.C @ V, g.D, g.dt)
