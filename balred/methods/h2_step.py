r"""One step towards an H2-optimal system: Sylvester solutions, the projection onto them, and how far along it to go.

IRKA and TSIA as published take the whole step, and may cycle or leave the stable systems.  The step is a direction in which
the error falls, so a shorter one always exists; and the last few steps together predict where the next will end.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from balred.hankel.projections import projected
from balred.hankel.spectrum import spectrum
from balred.solvers.resolvents import Matrix, Resolvent
from balred.systems.arrays import ct
from balred.systems.dense_system import DenseSystem
from balred.systems.poles import BoundaryWarning, pole_margin

NOISE = 1e-12
"""Squared errors are differences of numbers as large as the squared norm, and known to this part of it."""

Modes: TypeAlias = Callable[[DenseSystem], tuple[Matrix, Matrix, Matrix]]
"""T, E and its inverse with ``A = E T E^-1`` and T upper triangular."""
Leaves: TypeAlias = tuple[Matrix, Matrix, Matrix]
Projection: TypeAlias = tuple[DenseSystem, Matrix, Matrix]
"""A reduced system with the L and R that make it."""


@dataclass(frozen=True)
class Target:
    """What is approximated, the solves with its state matrix, and its squared H2 norm (of the strictly proper part)."""

    full: DenseSystem
    resolvent: Resolvent
    square: float


class Iterate(NamedTuple):
    """A stable reduced system in balanced coordinates, the Sylvester solutions with it, and the square of its error."""

    g: DenseSystem
    s: NDArray[np.float64]
    """Its Hankel singular values: both its Gramians are diagonal."""
    X: Matrix
    Y: Matrix
    error: float
    change: tuple[Matrix, Matrix]
    """The change of coordinates that balanced it, and its inverse."""


@np.errstate(over="ignore", invalid="ignore", divide="ignore")  # what overflows is not stable
def evaluated(target: Target, g: DenseSystem, modes: Modes) -> Iterate | None:
    r"""All that a step needs to know of the reduced system `g`; None where it is not stable, or not minimal.

    .. math:: \|G-G_k\|_2^2 = \|G\|_2^2 - 2\,\mathrm{Re\,tr}(CXC_k^H) + \|G_k\|_2^2
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BoundaryWarning)  # of what is tried on the way; the result is looked at
            sp = spectrum(g, None)
        if sp.cap < g.order or not pole_margin(g)[1].min() > 0:
            return None
        g, l, r = projected(sp, g.order)
        T, E, inverse = modes(g)
    except (np.linalg.LinAlgError, ValueError, ArithmeticError):  # unstable, on the boundary, or overflow
        return None
    full = target.full
    flip = slice(None, None, -1)
    b, c = inverse @ g.B, g.C @ E
    real = not any(np.iscomplexobj(x) for x in (*g.leaves, *full.leaves))
    X = _columns(target, full.B @ ct(b)[:, flip], ct(T)[flip, flip], real, adjoint=False)[:, flip] @ ct(E)
    Y = _columns(target, ct(full.C) @ c, T, real, adjoint=True) @ inverse
    if not np.iscomplexobj(g.A):
        X, Y = X.real, Y.real
    inner = float(np.sum((full.C @ X) * g.C.conj()).real)
    square = float(np.sum(np.abs(g.C) ** 2 * sp.sigma))
    return Iterate(g, sp.sigma, X, Y, target.square - 2 * inner + square, (l, r))


def _columns(target: Target, right: Matrix, T: Matrix, real: bool, *, adjoint: bool) -> Matrix:
    """X of ``A X + X T + right = 0``, or ``X = A X T + right`` in discrete time, for an upper triangular T."""
    R, discrete = target.resolvent, target.full.discrete
    d = T.diagonal()
    a, b = (np.ones_like(d), d) if discrete else (-d, np.ones_like(d))
    if not np.triu(T, 1).any():
        first = _first_of_pairs(d, right) if real else np.ones(len(d), bool)
        X = R.solve(a[first], b[first], right[:, first], adjoint=adjoint)[:, np.cumsum(first) - 1]
        return np.where(first, X, X.conj())
    X = right.astype(np.complex128)
    for j in range(len(d)):
        rest = X[:, :j] @ T[:j, j : j + 1]
        rest = R.times(rest, adjoint=adjoint) if discrete else rest
        X[:, j : j + 1] = R.solve(a[j : j + 1], b[j : j + 1], X[:, j : j + 1] + rest, adjoint=adjoint)
    return X


def _first_of_pairs(d: Matrix, right: Matrix) -> NDArray[np.bool_]:
    """Which columns stand for their neighbours too, which are their conjugates as the poles are; all where not all are in pairs."""
    first = d.imag >= 0
    second = np.flatnonzero(~first)
    gap = right[:, second] - right[:, second - 1].conj()
    if np.array_equal(d[second], d[second - 1].conj()) and np.linalg.norm(gap) <= 1e-10 * np.linalg.norm(right):
        return first
    return np.ones(len(d), bool)


def projection(target: Target, now: Iterate) -> Projection:
    r"""The next system of IRKA and TSIA with its projections, in coordinates in which a fixed point stays as it is.

    With :math:`W = Y\Sigma_k^{-1}` and :math:`V = X\Sigma_k^{-1}`, where the last one is balanced with the Gramians
    :math:`\Sigma_k`, :math:`L=W^H` and :math:`R=V(W^HV)^{-1}`.
    """
    L, V = ct(now.Y / now.s), now.X / now.s
    R = V @ np.linalg.inv(L @ V)
    full = target.full
    return DenseSystem(L @ target.resolvent.times(R), L @ full.B, full.C @ R, full.D, full.dt), L, R


def descent(now: Iterate, moved: Projection) -> tuple[Matrix, Matrix, Matrix]:
    r"""The step to the next projection to first order, along which the error falls unless it is stationary.

    With :math:`N = I-W^HV`, :math:`\delta_B = B_k-W^HB` and :math:`\delta_C = C_k-CV` it is
    :math:`(W^HAV+A_kN-A_k,\ -\delta_B,\ C_kN-\delta_C)`.  By the Sylvester equations the derivative of the squared error along it
    is, in continuous time,

    .. math::
        -|NB_k-\delta_B|^2-|\delta_B|^2-|C_kN-\delta_C|^2-|\delta_C|^2, \qquad
        |\delta_B|^2=\mathrm{tr}(\delta_B^H\Sigma_k\delta_B),\ |\delta_C|^2=\mathrm{tr}(\delta_C\Sigma_k\delta_C^H),

    and at most :math:`-|\delta_B|^2-|\delta_C|^2` in discrete time.
    """
    g, (new, L, _) = now.g, moved
    M = L @ (now.X / now.s)
    N = np.eye(g.order) - M
    return new.A @ M + g.A @ N - g.A, new.B - g.B, new.C @ M + g.C @ N - g.C


def next_iterate(
    target: Target,
    now: Iterate,
    moved: Projection,
    past: list[tuple[Leaves, Leaves]],
    modes: Modes,
) -> Iterate | None:
    """The first of these that is stable and no worse: the prediction from past steps, the projection, and shorter steps.

    The prediction is Anderson's: the combination of past steps that would leave the least change.
    """

    def trials() -> Iterator[DenseSystem]:
        if len(past) > 1:
            xs, rs = (np.array([_vector(leaves) for leaves in side]) for side in zip(*past, strict=True))
            dx, dr = np.diff(xs, axis=0).T, np.diff(rs, axis=0).T
            yield _system(xs[-1] + rs[-1] - (dx + dr) @ np.linalg.lstsq(dr, rs[-1], rcond=1e-10)[0], now.g)
        yield moved[0]
        g, (dA, dB, dC) = now.g, descent(now, moved)
        for t in 0.5 ** np.arange(1, 25):
            yield DenseSystem(g.A + t * dA, g.B + t * dB, g.C + t * dC, g.D, g.dt)

    for g in trials():
        found = evaluated(target, g, modes)
        if found is not None and found.error <= now.error + NOISE * target.square:
            return found
    return None


def seen(x: Leaves, l: Matrix, r: Matrix) -> Leaves:
    """The matrices of a system, or a difference of two, in other coordinates."""
    return l @ x[0] @ r, l @ x[1], x[2] @ r


def _vector(leaves: Leaves) -> Matrix:
    return np.concatenate([np.ascontiguousarray(x).reshape(-1).view(np.float64) for x in leaves])


def _system(x: Matrix, like: DenseSystem) -> DenseSystem:
    parts = np.split(x, np.cumsum([y.size * (y.itemsize // 8) for y in like.leaves])[:-1])
    A, B, C = (part.view(y.dtype).reshape(y.shape) for part, y in zip(parts, like.leaves, strict=True))
    return DenseSystem(A, B, C, like.D, like.dt)
