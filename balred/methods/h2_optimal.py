r"""H2-optimal reduction: the least mean-square error, by iterations whose fixed points satisfy the conditions of optimality.

Balanced truncation comes with a bound, but is not the best approximation in any norm.  Where the input is white noise, the
H2 norm of the error is the root mean square of what the reduced system gets wrong, and a reduced system that is locally
best interpolates the given one at the mirror images of its own poles.  IRKA and TSIA look for it by projecting again and
again onto the solutions of two Sylvester equations with the last reduced system.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from balred.hankel.projections import projected
from balred.hankel.spectrum import spectrum
from balred.methods.h2_runs import H2Spectrum, distance, runs_of
from balred.methods.h2_step import NOISE, Modes, Target, evaluated
from balred.methods.method import Reduced
from balred.registry.reading import dense_on_host, system_of
from balred.solvers.resolvents import Matrix, resolvent
from balred.systems import arrays
from balred.systems.arrays import backend, ct, warn_caller
from balred.systems.dense_system import DenseSystem
from balred.systems.diagonal_system import DiagonalSystem
from balred.systems.leaves import System
from balred.systems.parts import difference
from balred.systems.poles import check_stable

_UNSEEN = 1e-8
"""The target, a minimal realisation, lacks much less than this part of the norm of the whole, fast states that hardly count."""


class ConvergenceWarning(UserWarning):
    """An iteration did not reach its tolerance; the message says how far it came and what is returned."""


def h2_spectrum(
    system: System,
    solver: str | None = None,
    *,
    tol: float = 1e-9,
    max_iterations: int = 200,
    init: Any = None,
) -> H2Spectrum:
    r"""The state from which "irka" and "tsia" start; its values are the Hankel singular values.

    Parameters
    ----------
    tol : float, default 1e-9
        The iteration ends where the next projection changes the reduced system by less,
        :math:`\|F(G_k)-G_k\|_2 \le \mathrm{tol}\,\|G_k\|_2`.
    max_iterations : int, default 200
        Most steps of the iteration.
    init : system, or anything :func:`balred.adapt` reads, optional
        A stable minimal system of the order that you ask for; it is then the only start.  By default there are several
        starts of different kinds, and the best result is kept; :func:`attempts` lists all of them.

    Examples
    --------
    >>> import balred
    >>> from balred.methods.h2_optimal import h2_spectrum
    >>> h2_spectrum(balred.ss(np.diag([-1.0, -2.0]), np.ones((2, 1)), np.ones((1, 2)))).sigma.round(6)
    array([0.731, 0.019])
    """
    if not 0 < tol < np.inf:
        raise ValueError(f"tol must be positive and finite, got {tol}")
    if isinstance(max_iterations, bool) or not isinstance(max_iterations, (int, np.integer)) or max_iterations < 1:
        raise ValueError(f"max_iterations must be a positive integer, got {max_iterations!r}")
    start = None
    if init is not None:
        start = arrays.mapped(system_of(init), arrays.to_numpy).to_dense()
        check_stable(start)
        difference(system, start)  # raises where inputs, outputs or dt differ
    sp = spectrum(system, solver)
    square = float(np.linalg.norm(sp.system.C @ sp.Zp)) ** 2
    if isinstance(system, DiagonalSystem) or sp.cap == 0:
        full, maps, solves = sp.system, None, resolvent(system)
    else:  # a balanced minimal realisation is smaller, and well scaled
        full, *sides = projected(sp, sp.cap)
        maps, solves = (sides[0], sides[1]), resolvent(full)
    return H2Spectrum(sp, Target(full, solves, square), maps, tol, max_iterations, start)


def irka(state: H2Spectrum, k: int) -> Reduced:
    r"""The iterative rational Krylov algorithm: interpolation at the mirror images of the reduced poles.

    With the poles and residues :math:`G_k(s)-D = \sum_i c_ib_i^H/(s-\lambda_i)` of the last reduced system, the bases

    .. math:: v_i = (-\bar\lambda_iI-A)^{-1}Bb_i, \qquad w_i = (-\lambda_iI-A^H)^{-1}C^Hc_i

    (in discrete time :math:`(I-\bar\lambda_iA)^{-1}Bb_i` and :math:`(I-\lambda_iA^H)^{-1}C^Hc_i`) give the next one,
    :math:`A_k=(W^HV)^{-1}W^HAV,\ B_k=(W^HV)^{-1}W^HB,\ C_k=CV`.  At a fixed point, with :math:`\mu_i=-\bar\lambda_i`
    (:math:`1/\bar\lambda_i`), the first-order conditions of H2 optimality hold:

    .. math::
        G(\mu_i)b_i = G_k(\mu_i)b_i,\quad c_i^HG(\mu_i) = c_i^HG_k(\mu_i),\quad c_i^HG'(\mu_i)b_i = c_i^HG_k'(\mu_i)b_i.

    For a diagonal system the bases are quotients, pole by pole, so no matrix of n x n numbers is formed in an
    iteration.  Steps that would not lower the error are shortened (``balred.methods.h2_step``).

    References
    ----------
    S. Gugercin, A. C. Antoulas and C. Beattie, H2 model reduction for large-scale linear dynamical systems, SIAM J. Matrix
    Anal. Appl. 30 (2008); A. Bunse-Gerstner, D. Kubalinska, G. Vossen and D. Wilczek, h2-norm optimal model reduction for
    large scale discrete dynamical MIMO systems, J. Comput. Appl. Math. 233 (2010).

    Examples
    --------
    >>> import balred
    >>> g = balred.testing.random_system(20, seed=0)
    >>> best, plain = (balred.error(g, balred.reduce(g, 4, method=name), kind="h2") for name in ("irka", "truncate"))
    >>> bool(best < plain)
    True
    """
    return _optimal(state, k, _eigenvectors, "irka")


def tsia(state: H2Spectrum, k: int) -> Reduced:
    r"""The two-sided iteration algorithm: projection onto the solutions of two Sylvester equations.

    .. math:: AX + XA_k^H + BB_k^H = 0, \qquad A^HY + YA_k + C^HC_k = 0

    (:math:`X = AXA_k^H + BB_k^H,\ Y = A^HYA_k + C^HC_k` in discrete time); the next system is the projection onto the range
    of X along the kernel of :math:`Y^H`.  The equations are solved column by column from the Schur form of :math:`A_k`.  In
    exact arithmetic the iterates are those of :func:`irka`; reduced poles may be defective here.

    References
    ----------
    Y. Xu and T. Zeng, Optimal H2 model reduction for large scale MIMO systems via tangential interpolation, Int. J. Numer.
    Anal. Model. 8 (2011); P. Benner, M. Koehler and J. Saak, Sparse-dense Sylvester equations in H2-model order reduction,
    MPI Magdeburg Preprint 11-11 (2011).
    """
    return _optimal(state, k, _schur_vectors, "tsia")


def _eigenvectors(g: DenseSystem) -> tuple[Matrix, Matrix, Matrix]:
    poles, E = np.linalg.eig(g.A)
    return np.diag(poles), E, np.linalg.inv(E)


def _schur_vectors(g: DenseSystem) -> tuple[Matrix, Matrix, Matrix]:
    T, U = backend("scipy").complex_schur(g.A)
    return T, U, ct(U)


@dataclass(frozen=True)
class Attempt:
    """The result of the iteration from one start.

    Attributes
    ----------
    start : str
        Where it began.
    system : DenseSystem
        Where it ended.
    error : float
        The H2 norm of its error, known to a millionth of the norm of the system.
    change : float
        How much the next step would change it, relative to its norm: its distance from a fixed point.  Only the best
        goes on to the tolerance, the others stop where it is clear that they are not.
    iterations : int
    """

    start: str
    system: DenseSystem
    error: float
    change: float
    iterations: int


def attempts(
    obj: Any, rank: int, *, method: Literal["irka", "tsia"] = "irka", tol: float = 1e-9, max_iterations: int = 200
) -> list[Attempt]:
    """The results of all starts of "irka" or "tsia"; the first is the one that a reduction returns.

    Parameters
    ----------
    obj : system, or anything :func:`balred.adapt` reads
        One stable system.
    rank : int
        The order of the reduced systems, below the numerical rank.
    method : {"irka", "tsia"}, default "irka"
    tol : float, default 1e-9
        The iteration ends where the next projection changes the reduced system by less, relative to its H2 norm.
    max_iterations : int, default 200
        Most steps of the iteration.

    Returns
    -------
    list of Attempt

    Raises
    ------
    ValueError
        `rank` is not below the numerical rank, or the method raises an error.

    Examples
    --------
    Two resonances, and the optima next to either:

    >>> import balred
    >>> g = balred.ss(np.diag([-0.005, -5e3]), np.ones((2, 1)), [[1.0, 1e4]])
    >>> found = attempts(g, 1)
    >>> sorted({round(x.error, 3) for x in found}), found[0].change < 1e-9
    ([10.0, 100.0], True)
    """
    state = h2_spectrum(dense_on_host("system", obj), tol=tol, max_iterations=max_iterations)
    if not 1 <= rank < state.cap:
        raise ValueError(f"rank must be between 1 and {state.cap - 1}, below the numerical rank, got {rank}")
    runs = runs_of(state, rank, {"irka": _eigenvectors, "tsia": _schur_vectors}[method])
    return [Attempt(r.start, r.result[0].to_dense(), max(r.error, 0.0) ** 0.5, r.change, r.iterations) for r in runs]


def _optimal(state: H2Spectrum, k: int, modes: Modes, name: str) -> Reduced:
    """The best end of all starts, or balanced truncation where that is better; and what was reached is told."""
    truncated = projected(state.spectrum, k)
    if k >= state.cap:
        return truncated
    runs = runs_of(state, k, modes)
    if not runs and state.init is not None:
        raise ValueError(
            "init must be minimal, got a system with states that inputs do not reach or outputs do not see"
        )
    if not runs:  # truncation between equal values may leave a pole on the boundary
        return _optimal(state, k - 1, modes, name) if k > 1 else truncated
    result, change, count = runs[0].result, runs[0].change, runs[0].iterations
    told = []
    if not change <= state.tol:
        told.append(f"come within {state.tol:.3g} of a fixed point, got {change:.3g} after {count} iterations")
    kept = "the best stable system that was found, which is no local optimum,"
    plain = evaluated(state.target, truncated[0], modes)
    # differences of squares do not tell which of two is better where they are this near
    if plain is None or runs[0].error > plain.error - 10 * NOISE * state.target.square:
        found, simple = _apart(state, result[0], truncated[0])
        if found > simple * (1 + 1e-9):
            result, kept = truncated, "balanced truncation"
            if not told:
                told.append(f"be no worse than balanced truncation, whose error is {simple:.3g}, got {found:.3g}")
    if told:
        warn_caller(f"{name} at order {k} must {told[0]}: {kept} is returned", ConvergenceWarning)
    return result if result is truncated else _finished(state, *result)


def _apart(state: H2Spectrum, result: System, truncated: System) -> tuple[float, float]:
    """How far two reduced systems are from the whole, if their distances from the (much smaller) target do not tell."""
    slack = _UNSEEN * state.target.square**0.5
    for g in (state.target.full, state.system) if state.maps is not None else (state.system,):
        found, simple = distance(result.to_dense(), g), distance(truncated.to_dense(), g)
        if found + slack < simple:
            break
    return found, simple


def _finished(state: H2Spectrum, g: System, L: Matrix | None, R: Matrix | None) -> Reduced:
    """The result in balanced coordinates with fixed signs, so that it repeats; its projections from the given ones."""
    sp = spectrum(g, None)
    if sp.cap == g.order:
        g, l, r = projected(sp, g.order)
        L, R = (None, None) if L is None or R is None else (l @ L, R @ r)
    if L is not None and R is not None and state.maps is not None:
        L, R = L @ state.maps[0], state.maps[1] @ R
    return g, L, R
