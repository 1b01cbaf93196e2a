r"""Modes that two systems have in common, taken out of both, so that their difference has a norm where it should.

An integrator in both cancels in :math:`G-G_r`, but not in a realisation of it, where it stands twice.  Which poles are
left out matters little, since what is left out is compared: it must be the same in both, as far as the entries of the
two systems say.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from balred.systems import arrays
from balred.systems.arrays import is_concrete, mapped, to_numpy, warn_caller
from balred.systems.clusters import rounding
from balred.systems.dense_system import DenseSystem
from balred.systems.leaves import System, unit_of
from balred.systems.parts import difference, separation, split_by
from balred.systems.poles import BoundaryWarning, pole_margin
from balred.systems.units import rescaled

Poles: TypeAlias = NDArray[Any]
_ROOTS = (2, 3, 4)
"""Rounding errors move a k-fold pole by the k-th root of what they move a simple one; of these multiplicities it is thought."""
_ALIKE, _DIGITS = 1e-3, 0.5
"""Parts that differ by more of their size are not the same, whatever rounding may do; those that agree to less than this share of the
digits count as the same only with a word."""


def without_shared_modes(a: System, b: System, *, boundary_only: bool = False) -> DenseSystem | None:
    """The difference ``a - b`` of two single systems without the unstable and marginal modes that they share.

    Parameters
    ----------
    a, b : System
        With the same inputs, outputs and time step.
    boundary_only : bool, default False
        If the unstable modes are not the same, leave out those on the stability boundary alone.

    Returns
    -------
    DenseSystem or None
        On the host in double precision; None where there are no such modes, or they are not the same in both.

    Notes
    -----
    The parts left out are compared on circles around their poles, outside of which both are analytic, also at infinity:
    what agrees on a circle agrees outside.  The smallest is one on which rounding errors of the entries change the parts by
    less than a thousandth; there poles that moved are seen, and on large ones gains that differ.  The parts may differ by
    these errors, to first order :math:`|C(sI-A)^{-1}|\\,|\\delta A|\\,|(sI-A)^{-1}B|`, and no more.

    Examples
    --------
    1/s + 1/(s + 1) and 1/s + 2/(s + 3):

    >>> import balred, numpy as np
    >>> g = balred.ss(np.diag([0.0, -1.0]), np.ones((2, 1)), [[1.0, 1.0]])
    >>> r = balred.ss(np.diag([0.0, -3.0]), np.ones((2, 1)), [[1.0, 2.0]])
    >>> np.linalg.eigvals(without_shared_modes(g, r).A)
    array([-1., -3.])
    """
    if not is_concrete(*a.leaves, *b.leaves) or a.B.ndim > 2 or b.B.ndim > 2:
        return None
    eps = max(arrays.eps(arrays.real(g.B)) for g in (a, b))
    both, (inputs, outputs) = _moderate([_scaled(g) for g in (a, b)])
    for parted, size in _ways(both, eps, boundary_only):
        try:
            parts = [parted(g) for g in both]
        except ValueError:
            continue  # too close to be told apart here: with some more poles they may be
        kept, others = ([_or_gain(p[i], g) for g, p in zip(both, parts, strict=True)] for i in (0, 1))
        if any(g.order for g in kept) and _same(both, kept, others, eps, size):
            gap = difference(*others).to_dense()
            return dataclasses.replace(gap, B=gap.B * inputs, C=gap.C * outputs)
    return None


def _scaled(g: System) -> DenseSystem:
    """On the host, dense, in double precision and in even units of state."""
    host: DenseSystem = mapped(mapped(g, to_numpy).to_dense(), lambda x: x.astype(np.result_type(x, np.float64)))
    A, B, C, _ = rescaled(*host.leaves)
    return DenseSystem(A, B, C, host.D, host.dt)


def _moderate(both: list[DenseSystem]) -> tuple[list[DenseSystem], tuple[float, float]]:
    """Both in units of inputs and outputs, powers of two, in which the largest entries of B and C are near one, and these units.

    The squares of their numbers are numbers then.
    """
    b = float(unit_of(np.concatenate([g.B for g in both], axis=0))[0, 0])
    c = float(unit_of(np.concatenate([g.C for g in both], axis=1))[0, 0])
    return [dataclasses.replace(g, B=g.B / b, C=g.C / c) for g in both], (b, c)


def _ways(
    both: list[DenseSystem], eps: float, boundary_only: bool
) -> Iterator[tuple[Callable[[DenseSystem], Any], float]]:
    """Ways to part modes in common from others, from the surest on, and the size of A."""
    size = max(float(np.abs(g.A).max(initial=1.0 if g.discrete else 0.0)) for g in both)
    yield (
        lambda g: separation(g, eps=eps)[:2],
        size,
    )  # as a reduction does, which puts what may be on the boundary there
    nearest = min(float(pole_margin(g)[1].min(initial=np.inf)) for g in both)
    for limit in (max(rounding(g.order, eps) * size for g in both), *(10 * size * eps ** (1 / k) for k in _ROOTS)):
        for band in (False, True) if boundary_only else (False,):
            if nearest <= limit:
                second = partial(_beyond, limit=limit, discrete=both[0].discrete, band=band)
                yield partial(split_by, second=second, names="modes in common and others", boundary="system"), size


def _beyond(poles: NDArray[Any], limit: float, discrete: bool, band: bool) -> NDArray[np.bool_]:
    """Which poles are farther inside the stable region than `limit`, or farther from its boundary on either side."""
    margin = 1 - np.abs(poles) if discrete else -poles.real
    return np.asarray((np.abs(margin) if band else margin) > limit)


def _or_gain(part: System | None, g: DenseSystem) -> DenseSystem:
    """`part` of `g`, or if there is none what else `g` is: its direct term."""
    if part is not None:
        return part.to_dense()
    m, p = g.B.shape[1], g.C.shape[0]
    return DenseSystem(np.zeros((0, 0)), np.zeros((0, m)), np.zeros((p, 0)), g.D, g.dt)


def _same(
    both: list[DenseSystem], parts: list[DenseSystem], others: list[DenseSystem], eps: float, size: float
) -> bool:
    """Whether the `parts` of two systems have the same transfer function, D aside, as far as the entries are known."""
    strict = [dataclasses.replace(g, D=0 * g.D) for g in parts]
    poles = np.concatenate([np.linalg.eigvals(g.A) for g in parts])
    centre = complex(poles.mean())
    # a difference of N states is zero if it is at more than N points
    turns = np.exp(2j * np.pi * (np.arange(4 * len(poles)) + 0.25) / (4 * len(poles)))
    radius = max(2 * float(np.abs(poles - centre).max()), 10 * eps * size) or 1.0
    discs = _discs(both, poles, np.concatenate([np.linalg.eigvals(g.A) for g in others]), eps)
    told, apart = False, 0.0
    while not told or radius <= 4 * (size + abs(centre)):
        circle = [complex(centre + radius * t) for t in turns]
        try:
            values = [np.array([g(s) for s in circle]) for g in strict]
        except np.linalg.LinAlgError:  # a pole is on the circle
            radius *= 32
            continue
        known = sum(min(_uncertainty(g, s, eps) for s in circle[:: len(circle) // 2]) for g in both)
        known = max(known, min(discs(s) for s in circle))
        gap = float(np.linalg.norm(values[0] - values[1], axis=(1, 2)).max())
        reach = max(float(np.linalg.norm(v, axis=(1, 2)).max()) for v in values)
        if known <= _ALIKE * reach or radius > 4 * (size + abs(centre)):
            told = True
            if gap > min(known, _ALIKE * reach):
                return False
            apart = gap / reach if reach else 0.0  # on the last circle, where a pole that rounding moved does not count
        radius *= 32
    if apart > eps**_DIGITS:
        warn_caller(
            f"modes that two systems share must be the same in both, got modes whose parts differ by {apart:.1g} of their size: they "
            "count as the same, because rounding of the entries may change them by as much; give both systems in the same coordinates",
            BoundaryWarning,
        )
    return True


def _discs(both: list[DenseSystem], poles: Poles, others: Poles, eps: float) -> Callable[[complex], float]:
    r"""What rounding errors may change of a part at a point outside of discs around its `poles` that hold no others.

    Beside the whole, which changes by less, the other part takes up what this one changes.  But
    :math:`\delta G_1(s) = \frac{1}{2\pi i}\int \delta G(z)/(s-z)\,dz` around the discs.
    """
    if not len(others):
        return lambda s: 0.0
    radii = np.array([float(np.abs(others - p).min()) / 2 for p in poles])
    if not radii.all():
        return lambda s: 0.0
    changed = [
        max(sum(_uncertainty(g, complex(p + r * t), eps) for g in both) for t in (1, 1j, -1, -1j))
        for p, r in zip(poles, radii, strict=True)
    ]

    def at(s: complex) -> float:
        far = np.abs(s - poles)
        return float(np.sum(2 * radii * changed / far)) if (far >= 2 * radii).all() else 0.0

    return at


def _uncertainty(g: DenseSystem, s: complex, eps: float) -> float:
    """What rounding errors of its entries, and those of an eigenvalue routine, may change of `g` at the point s."""
    n = g.order
    try:
        resolvent = np.linalg.inv(s * np.eye(n) - g.A)
    except np.linalg.LinAlgError:  # beside a pole nothing is known
        return np.inf
    left, right = np.abs(g.C @ resolvent), np.abs(resolvent @ g.B)
    entries = np.linalg.norm(left @ np.abs(g.A) @ right + left @ np.abs(g.B) + np.abs(g.C) @ right)
    routine = np.linalg.norm(g.A, 2) * np.linalg.norm(left) * np.linalg.norm(right) if n else 0.0
    return float(n * eps * (30 * entries + routine))
