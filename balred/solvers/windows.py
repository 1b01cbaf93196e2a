r"""Gramian factors over a window of time or a band of frequencies.

A limited Gramian is the difference of two large ones, or solves a Lyapunov equation whose right side is indefinite; either
way rounding errors make it indefinite too.  Here it is summed instead, on factors and with positive weights only: Gauss
quadrature over pieces so short that it is exact to rounding, of which those of a time window are added by doubling.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.solvers.resolvents import resolvent
from balred.solvers.smith import smith_factors
from balred.systems.arrays import backend, ct
from balred.systems.dense_system import DenseSystem
from balred.systems.poles import UnstableError, check_stable, known_poles, pole_margin

Matrix = NDArray[Any]
Band = tuple[float, float]
_CHUNK = 4096
"""Columns of a factor that are solved for before they are compressed."""


def propagator(system: DenseSystem, time: float) -> Matrix:
    """The matrix that takes a free state `time` seconds (steps) ahead."""
    if np.isinf(time):  # asked of stable systems only
        return np.zeros_like(system.A)
    if system.discrete:
        return np.linalg.matrix_power(system.A, int(time))
    return np.asarray(backend("scipy").expm(system.A * time))


def time_factors(system: DenseSystem, start: float, horizon: float) -> tuple[Matrix, Matrix]:
    r"""Factors of both Gramians over the window [start, horizon], or the steps start, ..., horizon - 1.

    .. math:: \int_s^T e^{At}BB^He^{A^Ht}\,dt, \qquad \sum_{s\le k<T}A^kBB^HA^{kH}

    An infinite horizon needs a stable system.  Relative errors grow with :math:`\|A\|T`, as those of the exponential itself do.
    """
    if np.isinf(horizon):
        check_stable(system)
        Zp, Zq = smith_factors(system)
    else:
        with np.errstate(over="ignore", invalid="ignore"):  # told below
            Zp, Zq = _summed(*(_steps if system.discrete else _doublings)(system, horizon - start))
    if start:
        E = propagator(system, start)
        Zp, Zq = E @ Zp, ct(E) @ Zq
    if not (np.isfinite(Zp).all() and np.isfinite(Zq).all()):
        raise ValueError(f"the response must stay finite up to the horizon, got one that overflows before {horizon}")
    return Zp, Zq


def _steps(system: DenseSystem, count: float) -> tuple[Matrix, Matrix, Matrix, int]:
    return system.A, ct(system.B), system.C, int(count)


def _doublings(system: DenseSystem, length: float) -> tuple[Matrix, Matrix, Matrix, int]:
    """The discrete system of a step of |A| h <= 1, over which eight Gauss points leave a remainder below rounding."""
    expm, A = backend("scipy").expm, system.A
    halvings = max(0, int(np.ceil(np.log2(max(float(np.abs(A).sum(axis=0).max(initial=0.0)) * length, 1e-300)))))
    h = length / 2.0**halvings
    x, w = np.polynomial.legendre.leggauss(8)
    rows_p, rows_q = [], []
    for t, root in zip(h * (1 + x) / 2, np.sqrt(h * w / 2), strict=True):
        E = expm(A * t)
        rows_p.append(root * ct(E @ system.B))
        rows_q.append(root * system.C @ E)
    return expm(A * h), np.concatenate(rows_p), np.concatenate(rows_q), 2**halvings


def _summed(A: Matrix, Fp: Matrix, Fq: Matrix, count: int) -> tuple[Matrix, Matrix]:
    """Factors of the sums of ``A^k Fp^H Fp A^kH`` and ``A^kH Fq^H Fq A^k`` over k < count, by the binary digits of count."""
    M, p, q = A, Fp, Fq
    for digit in bin(count)[3:]:
        p, q, M = _stacked(p, p @ ct(M)), _stacked(q, q @ M), M @ M
        if digit == "1":
            p, q, M = _stacked(Fp, p @ ct(A)), _stacked(Fq, q @ A), M @ A
    return ct(_stacked(p)), ct(_stacked(q))


def _stacked(*rows: Matrix) -> Matrix:
    """A factor on its side with the Gram matrix of `rows` one below the other, and no more rows than columns."""
    F = np.concatenate(rows)
    return np.asarray(backend("numpy").triangular_factor(F)) if F.shape[0] > F.shape[1] else F


def band_factors(system: DenseSystem, bands: list[Band]) -> tuple[Matrix, Matrix, Matrix, Matrix]:
    r"""Factors of both Gramians over bands and their mirror images, and :math:`FB`, :math:`(CF)^H`.

    With :math:`\Omega` the frequencies (rad per step in discrete time, where s is :math:`e^{i\omega}`) and
    :math:`R = (sI-A)^{-1}`,

    .. math::
        P = \frac1{2\pi}\int_\Omega RBB^HR^H\,d\omega, \qquad
        F = \frac1{2\pi}\int_\Omega R\,d\omega \quad\Bigl[\ \frac1{2\pi}\int_\Omega (sR - \tfrac12I)\,d\omega\ \Bigr]
    """
    if system.order == 0:
        return system.B, ct(system.C), system.B, ct(system.C)
    mirrored = not np.iscomplexobj(system.A) and not np.iscomplexobj(system.B) and not np.iscomplexobj(system.C)
    signed = bands if mirrored else bands + [(-b, -a) for a, b in bands]
    poles = pole_margin(system)[0].astype(np.complex128)
    at, weights = _nodes(system, poles, signed)
    points = np.exp(1j * at) if system.discrete else 1j * at
    solve = resolvent(system).solve
    out: list[Matrix] = []
    for B, adjoint in ((system.B, False), (ct(system.C), True)):
        m = B.shape[1]
        F, total = np.zeros((0, system.order), B.dtype), np.zeros_like(B)
        for chunk in np.array_split(np.arange(len(at)), 1 + m * len(at) // _CHUNK):
            s, w = points[chunk], weights[chunk] / (2 * np.pi)
            s = np.conj(s) if adjoint else s
            columns = np.tile(B.astype(np.complex128), (1, len(s)))
            X = solve(np.repeat(s, m), np.ones(m * len(s)), columns, adjoint=adjoint)
            Y = X * np.repeat(s, m) - columns / 2 if system.discrete else X
            part = np.sum((Y * np.repeat(w, m)).reshape(len(Y), len(s), m), axis=1)
            X = X * np.repeat(np.sqrt(w), m)
            if mirrored:  # the other side of the axis is the conjugate
                F, total = _stacked(F, 2**0.5 * X.real.T, 2**0.5 * X.imag.T), total + 2 * part.real
            else:
                F, total = _stacked(F, ct(X)), total + part
        out += [ct(F), total]
    return out[0], out[2], out[1], out[3]


def _nodes(system: DenseSystem, poles: Matrix, bands: list[Band]) -> tuple[Matrix, Matrix]:
    """Frequencies and weights of the quadrature: Gauss on pieces that are short beside their distance from the poles."""
    known = known_poles(system)
    near, at = (_frequencies(x, system.discrete) for x in (poles, known.at))
    near, doubt = near[np.isfinite(near)], np.tile(known.doubt, 3 if system.discrete else 1)
    for a, b in bands:
        within = np.abs(at - np.clip(at.real, a, b)) <= doubt
        if within.any():
            worst = complex(at[within][0])
            where = np.exp(1j * worst) if system.discrete else 1j * worst
            raise UnstableError(
                f"no pole may lie on the boundary of the stable region within the band, got one at {where:.6g}"
            )
    x, w = np.polynomial.legendre.leggauss(16)
    points: list[Matrix] = []
    weights: list[Matrix] = []
    far = 2 * float(np.abs(near).max(initial=0.0))
    for a, b in bands:
        for lo, hi, inverse in _charts(a, b, far):
            edges = _pieces(lo, hi, 1 / near[near != 0] if inverse else near)
            centre, radius = (edges[:, 1] + edges[:, 0]) / 2, (edges[:, 1] - edges[:, 0]) / 2
            u, wu = (centre[:, None] + radius[:, None] * x).ravel(), (radius[:, None] * w).ravel()
            points.append(1 / u if inverse else u)
            weights.append(wu / u**2 if inverse else wu)
    return np.concatenate(points), np.concatenate(weights)


def _frequencies(poles: Matrix, discrete: bool) -> Matrix:
    """Poles as complex frequencies, in discrete time also one turn before and after; a pole at zero is far away."""
    if not discrete:
        return -1j * poles
    with np.errstate(divide="ignore"):
        near = np.log(poles) / 1j
    return np.concatenate([near - 2 * np.pi, near, near + 2 * np.pi])


def _charts(a: float, b: float, far: float) -> list[tuple[float, float, bool]]:
    """The band as intervals of the frequency or, from `far` out to infinity, of its inverse."""
    if np.isfinite(a) and np.isfinite(b):
        return [(a, b, False)]
    if np.isinf(a):
        return [(-hi, -lo, inverse) for lo, hi, inverse in _charts(-b, -a, far)]
    start = max(a, far) or 1.0
    return [(0.0, 1 / start, True)] + ([(a, start, False)] if a < start else [])


def _pieces(a: float, b: float, poles: Matrix) -> Matrix:
    """The interval halved until every piece is at most as long as its centre is far from the nearest pole."""
    todo, done = np.array([[a, b]]), []
    while len(todo):
        centre = todo.mean(axis=1)
        distance = np.abs(poles[None, :] - centre[:, None]).min(axis=1, initial=np.inf)
        short = todo[:, 1] - todo[:, 0] <= distance
        done.append(todo[short])
        rest, middle = todo[~short], centre[~short]
        todo = np.concatenate([np.stack([rest[:, 0], middle], 1), np.stack([middle, rest[:, 1]], 1)])
    return np.concatenate(done)
