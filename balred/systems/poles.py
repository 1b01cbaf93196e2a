"""Where the poles lie: what counts as stable, and the error that names the worst one."""

from __future__ import annotations

from typing import Any

import numpy as np

from balred.systems.arrays import is_concrete, to_numpy
from balred.systems.dense_system import is_discrete
from balred.systems.diagonal_system import DiagonalSystem
from balred.systems.leaves import System
from balred.systems.units import rescaled


class UnstableError(ValueError):
    """A quantity that only stable systems have was asked of an unstable or marginally stable one."""


def pole_margin(system: System) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Poles on the host, and how far each is inside the stable region (negative: outside)."""
    if isinstance(system, DiagonalSystem):
        logs = to_numpy(system.log_poles)
        return np.exp(logs) if system.discrete else logs, -logs.real
    poles = np.linalg.eigvals(to_numpy(system.A))
    return poles, (1 - np.abs(poles)) if system.discrete else -poles.real


def continuous_poles(poles: np.ndarray[Any, Any], dt: float | bool) -> np.ndarray[Any, Any]:
    """The poles as those of continuous time: log(z)/dt, a step of one where it is unspecified."""
    if not is_discrete(dt):
        return poles
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(poles.astype(np.complex128)) / float(dt))


def marginal_tolerance(system: System) -> float:
    """Poles closer than this to the stability boundary count as marginal: rounding of the state matrix."""
    if isinstance(system, DiagonalSystem):
        return 0.0
    A = to_numpy(system.A)
    # in units of state that make A small, as eigenvalue routines use them: others do not decide what is stable
    none = np.zeros((A.shape[-1], 0))
    size = max(
        (float(np.abs(rescaled(x, none, none.T)[0]).max()) for x in (A.reshape(-1, *A.shape[-2:]) if A.size else ())),
        default=0.0,
    )
    return float(A.shape[-1] * np.finfo(A.dtype).eps * max(1.0 if system.discrete else 0.0, size))


def check_stable(system: System) -> None:
    """Raise :class:`UnstableError` naming the worst pole if `system` is not stable (no-op on tracers)."""
    if not is_concrete(*system.leaves):
        return
    poles, margin = pole_margin(system)
    if margin.min(initial=np.inf) > marginal_tolerance(system):
        return
    worst = poles.reshape(-1)[np.argmin(margin)]
    at = f"{worst.real:.6g}" if worst.imag == 0 else f"{worst.real:.6g}{worst.imag:+.6g}j"
    rule = (
        "every pole must lie inside the unit circle" if system.discrete else "every pole must have a negative real part"
    )
    size = f"modulus {abs(worst):.6g}" if system.discrete else f"real part {worst.real:.6g}"
    raise UnstableError(
        f"{rule}, got a pole at {at} ({size}); hsv and reduce split off the unstable part of a single system, Gramians do not exist for it"
    )


def check_boundary(system: System) -> None:
    """Raise :class:`UnstableError` naming the pole if one lies on the stability boundary (within rounding)."""
    poles, margin = pole_margin(system)
    distance = np.abs(margin)
    if distance.min(initial=np.inf) > marginal_tolerance(system):
        return
    at = complex(poles.reshape(-1)[np.argmin(distance)])
    where = "unit circle" if system.discrete else "imaginary axis"
    raise UnstableError(f"no pole may lie on the {where}, got a pole at {at:.6g}")
