r"""Where iterations towards an H2-optimal system begin: several places, because each leads to the optimum nearest to it.

No start is best for all systems.  Truncation is, where the values fall quickly; of lightly damped systems it may begin
between two resonances, and ends beside the one that matters less.  The starts here disagree about what matters: the
largest gain, the largest output energy, the steady state, the modes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from balred.hankel.projections import projected
from balred.hankel.spectrum import Spectrum, spectrum
from balred.methods.modal import modal, modes
from balred.methods.riccati_balancing import bounded_real
from balred.methods.truncation import singular_perturbation, truncate
from balred.solvers.resolvents import Matrix
from balred.systems.dense_system import DenseSystem
from balred.systems.leaves import System
from balred.systems.poles import pole_margin

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
        "bounded-real balancing": lambda: truncate(bounded_real(g, gamma=1.05 * _gain(g)), k)[0],
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


def _gain(g: DenseSystem) -> float:
    """The largest gain at the poles that promise most, which is the H-infinity norm of what resonates but for little."""
    poles, V = np.linalg.eig(g.A)
    residues = np.linalg.norm(g.C @ V, axis=0) * np.linalg.norm(np.linalg.solve(V, g.B), axis=1)
    best = np.argsort(-residues / np.abs(pole_margin(g)[1]))[:8]
    at = poles[best] / np.abs(poles[best]) if g.discrete else 1j * poles[best].imag
    ends = [1.0, -1.0] if g.discrete else [0.0]
    return max(float(np.linalg.norm(g(complex(s)), 2)) for s in [*at, *ends])
