"""Weights of an error: systems that say how much it counts at one frequency beside another.

A multiple of a weight asks for the same reduced system.  Weights of 1e-200 or 1e200 have products and squares that are no numbers,
though: they are divided by a power of two, and the values and the bound of the weighted error are multiplied by it again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from balred.hankel.spectrum import OfSpectrum, spectrum
from balred.registry.reading import dense_on_host
from balred.solvers.gramians import of_good_digits
from balred.systems.checks import check_finite
from balred.systems.dense_system import DenseSystem
from balred.systems.leaves import shifted, unit_of
from balred.systems.parts import check_same_time
from balred.systems.poles import known_poles

_ROUNDING = 1e-10
"""Hankel singular values of a weight below this part of the first are taken for rounding."""


@dataclass(frozen=True, kw_only=True)
class UnderWeights(OfSpectrum):
    """The spectrum of a system under weights of gains near one, if there are weights.

    Attributes
    ----------
    left, right : DenseSystem or None
        The weights, divided by their gains.
    power : float
        The two gains together, as a power of two.
    """

    left: DenseSystem | None = None
    right: DenseSystem | None = None
    power: float = 0.0


def stable_weight(
    name: str, obj: Any, system: DenseSystem, *, inputs: int | None = None, outputs: int | None = None
) -> tuple[DenseSystem, float]:
    """A stable weight of gain near one, and what it was divided by, as a power of two; an error if it does not fit the system.

    Examples
    --------
    >>> import balred
    >>> from balred.measures.weights import stable_weight
    >>> g = balred.testing.random_system(4, 1, 1, seed=0)
    >>> low_pass, power = stable_weight("left weight", balred.ss([[-1.0]], [[1e-150]], [[1e-150]]), g, inputs=1)
    >>> bool(0.5 < abs(low_pass.B) < 2), power
    (True, -996.0)
    """
    w = dense_on_host(name, obj)
    for side, wanted, given, of in (
        ("inputs", inputs, w.B.shape[1], "outputs"),
        ("outputs", outputs, len(w.C), "inputs"),
    ):
        if wanted not in (None, given):
            raise ValueError(f"the {name} must have as many {side} as the system has {of}, {wanted}, got {given}")
    check_same_time(name, w, "system", system)
    _check_finite(name, w)  # before other coordinates, which would tell of them without the name
    poles = known_poles(w)
    if not poles.inside().all():
        raise ValueError(f"the {name} must be stable, got a pole at {complex(poles.at[np.argmin(poles.margin)]):.6g}")
    return of_gain_one(name, _of_good_digits(w))


def _of_good_digits(w: DenseSystem) -> DenseSystem:
    """A weight in coordinates where its Gramians have their digits; in those given where it has states that it does not need, which
    balancing would make as large as the others."""
    seen, at = of_good_digits(w)
    if at.right is None:
        return w
    s = spectrum(w, None).sigma
    return cast(DenseSystem, seen) if s[-1] > _ROUNDING * s[0] else w


def of_gain_one(name: str, w: DenseSystem) -> tuple[DenseSystem, float]:
    """A weight divided by a power of two near its gain, with an input matrix near one, and this power."""
    _check_finite(name, w)
    b, c, d = (float(np.log2(unit_of(x).item())) for x in (w.B, w.C, w.D))
    rate = 0.0 if w.discrete or not w.order else float(np.log2(unit_of(w.A).item()))
    gains = [d] if w.D.any() else []
    if w.B.any() and w.C.any():
        gains.append(b + c - rate)
    power = max(gains, default=0.0)
    return replace(w, B=shifted(w.B, -b), C=shifted(w.C, b - power), D=shifted(w.D, -power)), power


def _check_finite(name: str, w: DenseSystem) -> None:
    for part, x in (("B", w.B), ("C", w.C), ("D", w.D)):
        check_finite(f"{part} of the {name}", x)
