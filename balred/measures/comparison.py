r"""What can be measured of a reduced system beside the given one, also where both have the same unstable modes or integrators.

Modes that a reduction keeps as they are do not enter its error, but neither do they cancel by themselves in the
difference of the two systems, whose norm would then be infinite: they are taken out first.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from balred.measures.hinf import hinf_peak
from balred.measures.norms import norm
from balred.realisations.minimal import minimal_realisation
from balred.registry.reading import system_of
from balred.systems.arrays import mapped, to_numpy
from balred.systems.dense_system import DenseSystem
from balred.systems.diagonal_system import DiagonalSystem
from balred.systems.leaves import System
from balred.systems.parts import difference, split
from balred.systems.poles import UnstableError, check_boundary, check_stable, known_poles, pole_margin
from balred.systems.units import evened


def is_stable(system: System) -> bool:
    """Whether every pole lies inside the stable region, by more than rounding."""
    try:
        check_stable(system)
    except UnstableError:
        return False
    return True


def worst_pole(system: System) -> float | None:
    """The largest real part of a pole, or the largest modulus in discrete time; None without poles."""
    _, margin = pole_margin(system)
    if not margin.size:
        return None
    if not system.discrete:
        return -float(margin.min())
    return float(np.abs(pole_margin(system)[0]).max())


def dc_gain_change(full: Any, small: Any) -> float | None:
    r""":math:`\|G(0)-G_r(0)\|_2 / \|G(0)\|_2` (at z = 1 in discrete time); None where one of them is infinite.

    Examples
    --------
    >>> import balred
    >>> g = balred.ss([[-1.0, 0.0], [0.0, -9.0]], [[1.0], [1.0]], [[1.0, 1.0]])
    >>> small = balred.reduce(g, 1, method="singular_perturbation")
    >>> dc_gain_change(g, small) < 1e-14
    True
    """
    at = 1.0 if full.discrete else 0.0
    gains = []
    for g in (full, small):
        if isinstance(g, DenseSystem | DiagonalSystem):
            g = mapped(g, to_numpy)
            poles = known_poles(g)
            if np.any(np.abs(poles.at - at) <= poles.doubt):
                return None
        gains.append(g(at))
    scale = float(np.linalg.norm(gains[0], 2))
    return float(np.linalg.norm(gains[0] - gains[1], 2)) / (scale or 1.0)


@dataclass(frozen=True)
class Comparison:
    """How far two systems are apart.

    Attributes
    ----------
    error : dict
        By name of the norm: "hinf", "h2" and "hankel", or "linf" and "l2" where the difference is unstable.
    relative : dict
        The same as a fraction of the norm of the first system (L-infinity and L2 norm if that is unstable); NaN
        where it has none.
    frequency : float
        Where the largest singular value of the difference is largest, in rad/s, or rad per step in discrete time.
    """

    error: dict[str, float]
    relative: dict[str, float]
    frequency: float


def compare(sys: Any, reduced: Any) -> Comparison:
    """Norms of the difference of two systems.

    Parameters
    ----------
    sys, reduced : system, layer, or anything :func:`balred.adapt` reads

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError
        Inputs, outputs or `dt` differ.
    UnstableError
        A pole on the stability boundary that the two do not share.

    Notes
    -----
    Unstable parts that are the same to eight digits are left out, since they do not cancel by themselves.

    Examples
    --------
    >>> import balred
    >>> a, b = balred.ss([[-1.0]], [[1.0]], [[1.0]]), balred.ss([[-1.0]], [[1.0]], [[3.0]])
    >>> c = compare(a, b)
    >>> [round(c.error[kind], 6) for kind in ("hinf", "h2", "hankel")], round(c.relative["hinf"], 6), c.frequency
    ([2.0, 1.414214, 1.0], 2.0, 0.0)
    """
    full, small = (_precise(system_of(x)) for x in (sys, reduced))
    gap = difference(full, small).to_dense()
    kinds: tuple[str, ...] = ("hinf", "h2", "hankel")
    if not is_stable(gap):
        (kept, stable), (also_kept, other) = (split(g, None) for g in (full, small))
        if _same_modes(kept, also_kept):
            gap = difference(*(_or_gain(part, g) for part, g in ((stable, full), (other, small)))).to_dense()
        else:
            check_boundary(gap)
            kinds = ("linf", "l2")
    peak, frequency = _peak(gap)
    errors = {kind: peak if kind == kinds[0] else float(norm(gap, kind)) for kind in kinds}
    sizes = {kind: _size(full, kind) for kind in kinds}
    relative = {kind: errors[kind] / sizes[kind] if sizes[kind] else np.nan for kind in kinds}
    return Comparison(errors, relative, frequency)


def _or_gain(part: System | None, g: System) -> DenseSystem:
    """`part` of `g`, or if there is none what else `g` is: its direct term."""
    if part is not None:
        return part.to_dense()
    m, p = g.B.shape[1], g.C.shape[0]
    return DenseSystem(np.zeros((0, 0)), np.zeros((0, m)), np.zeros((p, 0)), g.D, g.dt)


def _same_modes(a: System | None, b: System | None) -> bool:
    """Whether two parts have the same transfer function, D aside, to eight digits.

    It is so everywhere if it is so on a circle around all poles, outside of which both are analytic, also at infinity.
    """
    if a is None or b is None:
        return False
    parts = [dataclasses.replace(g.to_dense(), D=0 * g.D) for g in (a, b)]
    poles = np.concatenate([pole_margin(g)[0] for g in parts])
    centre = poles.mean()
    radius = 2 * np.abs(poles - centre).max() + np.abs(centre) or 1.0
    circle = centre + radius * np.exp(2j * np.pi * np.arange(4 * len(poles)) / (4 * len(poles)))
    values = [np.array([g(complex(s)) for s in circle]) for g in parts]
    return bool(np.abs(values[0] - values[1]).max() <= 1e-8 * np.abs(values[0]).max())


def _precise(g: System) -> System:
    host: System = mapped(g, to_numpy)
    if host.B.ndim > 2:
        raise ValueError(f"one system is needed, got a batch of shape {host.B.shape[:-2]}")
    precise: System = mapped(host, lambda x: x.astype(np.result_type(x, np.float64)))
    return precise


def _peak(gap: DenseSystem) -> tuple[float, float]:
    if gap.order == 0:
        return float(np.linalg.norm(gap.D, 2)), 0.0
    smaller = minimal_realisation(gap)
    value, frequency = hinf_peak(evened(gap)[0], *([smaller] if 0 < smaller.order < gap.order else []))
    return value, frequency if any(np.iscomplexobj(x) for x in (gap.A, gap.B, gap.C, gap.D)) else abs(frequency)


def _size(g: System, kind: str) -> float:
    """The norm of the system itself, NaN where it has none."""
    if not is_stable(g):
        kind = {"hinf": "linf", "h2": "l2"}.get(kind, kind)
    try:
        return float(norm(g, kind))
    except UnstableError:
        return np.nan
