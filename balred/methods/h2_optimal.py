r"""H2-optimal reduction: the least mean-square error, by iterations whose fixed points satisfy the conditions of optimality.

Balanced truncation comes with a bound, but is not the best approximation in any norm.  Where the input is white noise, the
H2 norm of the error is the root mean square of what the reduced system gets wrong, and a reduced system that is locally
best interpolates the given one at the mirror images of its own poles.  IRKA and TSIA look for it by projecting again and
again onto the solutions of two Sylvester equations with the last reduced system.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from balred.hankel.projections import projected
from balred.hankel.spectrum import spectrum
from balred.methods.h2_step import NOISE, Iterate, Leaves, Modes, Target, evaluated, next_iterate, projection, seen
from balred.methods.method import OfSpectrum, Reduced
from balred.registry.reading import system_of
from balred.solvers.resolvents import Matrix, resolvent
from balred.solvers.smith import smith_factors
from balred.systems import arrays
from balred.systems.arrays import backend, ct, warn_caller
from balred.systems.dense_system import DenseSystem
from balred.systems.diagonal_system import DiagonalSystem
from balred.systems.leaves import System
from balred.systems.parts import difference
from balred.systems.poles import check_stable, pole_margin

_DEPTH = 5
"""How many of the last steps predict the next."""


class ConvergenceWarning(UserWarning):
    """An iteration did not reach its tolerance; the message says how far it came and what is returned."""


@dataclass(frozen=True)
class H2Spectrum(OfSpectrum):
    """The balanced spectrum of a system, from which the iterations start, and what they approximate."""

    target: Target
    maps: tuple[Matrix, Matrix] | None
    """L and R from the given coordinates to the target's, where they differ."""
    tol: float
    max_iterations: int
    init: DenseSystem | None

    @property
    def system(self) -> DenseSystem:
        """The given system, dense."""
        return self.spectrum.system


def h2_spectrum(
    system: System,
    solver: str | None = None,
    *,
    tol: float = 1e-9,
    max_iterations: int = 200,
    init: Any = None,
) -> H2Spectrum:
    r"""What "irka" and "tsia" start from; its values are the Hankel singular values.

    Parameters
    ----------
    tol : float, default 1e-9
        The iteration ends where the next projection changes the reduced system by less,
        :math:`\|F(G_k)-G_k\|_2 \le \mathrm{tol}\,\|G_k\|_2`.
    max_iterations : int, default 200
    init : system, or anything :func:`balred.adapt` reads, optional
        A stable minimal system of the order asked for, to start from.  By default balanced truncation, or the balanced
        states with the most output energy where those come closer.
    """
    if not tol > 0:
        raise ValueError(f"tol must be positive, got {tol}")
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

    Of a diagonal system the bases are quotients, pole by pole: nothing of its size squared is formed in an iteration.
    Steps that would not lessen the error are shortened (``balred.methods.h2_step``).

    References
    ----------
    S. Gugercin, A. C. Antoulas and C. Beattie, H2 model reduction for large-scale linear dynamical systems, SIAM J. Matrix
    Anal. Appl. 30 (2008); A. Bunse-Gerstner, D. Kubalinska, G. Vossen and D. Wilczek, h2-norm optimal model reduction for
    large scale discrete dynamical MIMO systems, J. Comput. Appl. Math. 233 (2010).
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


def _optimal(state: H2Spectrum, k: int, modes: Modes, name: str) -> Reduced:
    """What the iteration ends with, or balanced truncation where that is better; and what was reached is told."""
    truncated = projected(state.spectrum, k)
    if k >= state.cap:
        return truncated
    starts = [evaluated(state.target, g, modes) for g in _starts(state, k, truncated[0])]
    runs = []
    for start in sorted((start for start in starts if start is not None), key=lambda start: start.error):
        runs.append(_iterated(state, start, modes))
        if runs[-1].change <= state.tol:
            break
    if not runs and state.init is not None:
        raise ValueError(
            "init must be minimal, got a system with states that inputs do not reach or outputs do not see"
        )
    if not runs:  # truncation between equal values may leave a pole on the boundary
        return _optimal(state, k - 1, modes, name) if k > 1 else truncated
    result, error, change, count = min(runs, key=lambda run: run.error)
    told = []
    if not change <= state.tol:
        told.append(f"come within {state.tol:.3g} of a fixed point, got {change:.3g} after {count} iterations")
    kept = "the best stable system found, not a local optimum,"
    plain = starts[0].error if starts[0] is not None and state.init is None else -np.inf
    if error > plain - 10 * NOISE * state.target.square:  # differences of squares do not tell which is better
        found, simple = (_distance(state.system, g[0]) for g in (result, truncated))
        size = state.target.square**0.5
        if found > simple * (1 + 1e-9) + 1e-14 * size:
            result, kept = truncated, "balanced truncation"
            if not told and simple > NOISE**0.5 * size:  # below, neither is better
                told.append(f"be no worse than balanced truncation, whose error is {simple:.3g}, got {found:.3g}")
    if told:
        warn_caller(f"{name} at order {k} must {told[0]}: {kept} is returned", ConvergenceWarning)
    return result if result is truncated else _finished(state, *result)


class _Run(NamedTuple):
    """A fixed point or the best that was reached, the square of its error, and how near a fixed point after how many."""

    result: Reduced
    error: float
    change: float
    iterations: int


def _iterated(state: H2Spectrum, now: Iterate, modes: Modes) -> _Run:
    """The iteration from one start."""
    past: list[tuple[Leaves, Leaves]] = []
    count, change = 0, np.inf
    while count < state.max_iterations:
        count += 1
        try:
            moved = projection(state.target, now)
        except np.linalg.LinAlgError:  # the two subspaces are orthogonal in some direction
            break
        change = relative_change(moved[0], now.g)
        if change <= state.tol:
            return _Run(moved, now.error, change, count)
        x, new = now.g.leaves, moved[0].leaves
        past = [*past[-_DEPTH:], (x, (new[0] - x[0], new[1] - x[1], new[2] - x[2]))]
        following = next_iterate(state.target, now, moved, past, modes)
        if following is None:
            break
        now = following
        past = [(seen(x, *now.change), seen(d, *now.change)) for x, d in past]
    return _Run((now.g, None, None), now.error, change, count)


def _starts(state: H2Spectrum, k: int, truncated: DenseSystem) -> list[DenseSystem]:
    """Where to begin: `init`, or balanced truncation and the k balanced states with the most output energy.

    Any part of a balanced system is stable; where a slow mode has the larger singular value, a fast one may have the larger
    H2 norm.
    """
    g = state.init
    if g is None:
        whole = projected(state.spectrum, state.cap)[0]
        energy = np.sum(np.abs(whole.C) ** 2, axis=0) * state.sigma[: state.cap]
        most = np.sort(np.argsort(-energy, kind="stable")[:k])
        other = DenseSystem(whole.A[np.ix_(most, most)], whole.B[most], whole.C[:, most], whole.D, whole.dt)
        return [truncated] if most[-1] == k - 1 else [truncated, other]
    if g.order != k:
        raise ValueError(f"init must have the order asked for, {k}, got {g.order}")
    dtype = np.result_type(*state.target.full.leaves)
    if any(np.iscomplexobj(x) for x in g.leaves) and dtype.kind != "c":
        raise ValueError("init must be real where the system is, got complex matrices")
    A, B, C = (x.astype(dtype) for x in g.leaves)
    return [DenseSystem(A, B, C, truncated.D, truncated.dt)]


def relative_change(new: DenseSystem, old: DenseSystem) -> float:
    """H2 norm of the difference beside that of `old`; infinite where `new` is not stable."""
    if not (np.isfinite(new.A).all() and pole_margin(new)[1].min() > 0):
        return np.inf
    return _distance(new, old) / _size(old)


def _distance(one: DenseSystem, other: System) -> float:
    """The H2 norm of the difference, not by a difference of squares; infinite where it is not stable."""
    try:
        return _size(difference(one, other))
    except (ValueError, ArithmeticError):
        return np.inf


def _size(g: System) -> float:
    """The H2 norm of the strictly proper part."""
    dense = g.to_dense()
    return float(np.linalg.norm(dense.C @ smith_factors(dense)[0]))


def _finished(state: H2Spectrum, g: System, L: Matrix | None, R: Matrix | None) -> Reduced:
    """The result in balanced coordinates with fixed signs, so that it repeats; its projections from the given ones."""
    sp = spectrum(g, None)
    if sp.cap == g.order:
        g, l, r = projected(sp, g.order)
        L, R = (None, None) if L is None or R is None else (l @ L, R @ r)
    if L is not None and R is not None and state.maps is not None:
        L, R = L @ state.maps[0], state.maps[1] @ R
    return g, L, R
