"""Modal truncation of second-order systems: bases from the modes of the undamped system."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.realisations.second_order.free_positions import phases, stiffless
from balred.realisations.second_order.projected import Projected
from balred.realisations.second_order.system import SecondOrderSystem
from balred.systems.arrays import backend

Matrix = NDArray[Any]

DOMINANCES = ("frequency", "residue")


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
    still = np.zeros(g.states, bool)
    still[np.argsort(w)[: stiffless(g.evened()[0].K)]] = True
    w[still] = 0
    tiny = float(np.finfo(np.float64).eps) * float(w.max(initial=0.0)) or 1.0
    scores = 1 / np.maximum(w, tiny)
    if dominance == "residue":
        seen = np.linalg.norm(g.Cp @ T + 1j * w * (g.Cv @ T), axis=0)
        driven = np.linalg.norm(T.conj().T @ g.B, axis=1)
        damping = np.abs(np.sum(T.conj() * (g.D @ T), axis=0))
        scores = seen * driven / np.maximum(damping * np.maximum(w, tiny), np.finfo(np.float64).tiny)
    order = np.argsort(-scores, kind="stable")
    T = T[:, order] * phases(T[:, order].conj().T)
    return Projected(g, scores[order], g.states, lambda k: (None, T[:, :k]), strict=False, still=still[order])


def _modes_of_sparse(g: SecondOrderSystem, k: int) -> Matrix:
    squares, T = backend("scipy").lowest_modes(g.K, g.M, k)
    MT, KT = g.M @ T, g.K @ T
    missed = np.linalg.norm(KT - MT * squares, axis=0)
    size = np.linalg.norm(KT, axis=0) + np.abs(squares) * np.linalg.norm(MT, axis=0)
    noise = 1e-12 * float(abs(g.K).max()) * np.linalg.norm(T, axis=0)
    if not np.all(missed <= 1e-6 * size + noise):
        raise ValueError(f"modes must satisfy K phi = w^2 M phi, got a residual of {float((missed / size).max()):.3g}")
    return np.asarray(T * phases(T.conj().T))
