r"""How far a reduced system is from the given one, also if both have the same unstable modes or integrators.

A reduction keeps such modes as they are, so they do not belong to its error.  In the difference of the two systems they do not cancel
by themselves, and its norm would be infinite.  So they are taken out first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from balred.measures.norms import is_stable, norm
from balred.measures.shared_modes import without_shared_modes
from balred.registry.reading import system_of
from balred.systems.arrays import mapped, to_numpy
from balred.systems.dense_system import DenseSystem
from balred.systems.diagonal_system import DiagonalSystem
from balred.systems.leaves import System
from balred.systems.parts import difference
from balred.systems.poles import UnstableError, check_boundary, known_poles, pole_margin


def worst_pole(system: System) -> float | None:
    """The largest real part of a pole, or the largest modulus in discrete time; None without poles."""
    _, margin = pole_margin(system)
    if not margin.size:
        return None
    if not system.discrete:
        return -float(margin.min())
    return float(np.abs(pole_margin(system)[0]).max())


def unstable_poles(system: System) -> int:
    """How many poles do not lie inside the stable region by more than rounding."""
    return int(np.sum(~known_poles(system).inside()))


class GainChange(NamedTuple):
    """How far a gain moved, in its own units and as a share of what it was: NaN where that is zero."""

    absolute: float
    relative: float


def dc_gain_change(full: Any, small: Any) -> GainChange | None:
    r""":math:`\|G(0)-G_r(0)\|_2`, and its ratio to :math:`\|G(0)\|_2` (at z = 1 in discrete time); None if one of them is infinite.

    Examples
    --------
    >>> import balred
    >>> g = balred.ss([[-1.0, 0.0], [0.0, -9.0]], [[1.0], [1.0]], [[1.0, 1.0]])
    >>> small = balred.reduce(g, 1, method="singular_perturbation")
    >>> dc_gain_change(g, small).relative < 1e-14
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
        with np.errstate(over="ignore", invalid="ignore"):
            gains.append(g(at))
        if not np.isfinite(gains[-1]).all():
            return None
    scale = float(np.linalg.norm(gains[0], 2))
    change = float(np.linalg.norm(gains[0] - gains[1], 2))
    return GainChange(change, change / scale if scale else np.nan)


@dataclass(frozen=True)
class Comparison:
    """Norms of the difference of two systems, and the change of their DC gain.

    Attributes
    ----------
    error : dict
        By name of the norm: "hinf", "h2" and "hankel", or "linf" and "l2" where the difference is unstable.
    relative : dict
        The same numbers as a fraction of the norm of the first system (L-infinity and L2 norm if that is unstable); NaN
        where that is zero or infinite.
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
        One of the systems has a pole on the stability boundary that the other does not have.

    Notes
    -----
    Unstable and marginal modes that both have are left out, as :func:`balred.error` does.

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
        cancelled = without_shared_modes(full, small, boundary_only=True)
        gap = gap if cancelled is None else cancelled
        if not is_stable(gap):
            check_boundary(gap)
            kinds = ("linf", "l2")
    peak, frequency = norm(gap, kinds[0], peak=True)
    errors = {kind: float(peak if kind == kinds[0] else norm(gap, kind)) for kind in kinds}
    sizes = {kind: _size(full, kind) for kind in kinds}
    relative = {kind: errors[kind] / sizes[kind] if 0 < sizes[kind] < np.inf else np.nan for kind in kinds}
    return Comparison(errors, relative, float(frequency) * (float(gap.dt) if gap.discrete else 1.0))


def _precise(g: System) -> System:
    host: System = mapped(g, to_numpy)
    if host.B.ndim > 2:
        raise ValueError(f"one system is needed, got a batch of shape {host.B.shape[:-2]}")
    precise: System = mapped(host, lambda x: x.astype(np.result_type(x, np.float64)))
    return precise


def _size(g: System, kind: str) -> float:
    """The norm of the system itself, NaN where it has none."""
    if not is_stable(g):
        kind = {"hinf": "linf", "h2": "l2"}.get(kind, kind)
    try:
        return float(norm(g, kind))
    except UnstableError:
        return np.nan
