"""What a reduction of a system in a file came to, of first or of second order, and whether it keeps what it promises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import balred
from balred.cli.output import number
from balred.files.stored import StoredSystem
from balred.measures import norms
from balred.measures.comparison import unstable_poles
from balred.methods.method import Of
from balred.methods.table import method_name
from balred.realisations.second_order.system import SecondOrderSystem
from balred.realisations.sparse import SparseSystem
from balred.reduction.operators import SECOND_ORDER
from balred.systems.leaves import System
from balred.systems.poles import UnstableError, entry_rounding


@dataclass(frozen=True)
class Result:
    """A reduction, and what is known of it.

    Attributes
    ----------
    small : StoredSystem
        What is written.
    full, system : System
        Both systems in first-order form, as they were compared.
    before : int
        States, or positions of a second-order system that stays one, that there were.
    bound : float
        NaN where there is none.
    bounds : Of
        What it bounds.
    kind : str
    error : float or None
        As :meth:`balred.Analysis.error`; None too if it was not to be measured.
    """

    small: StoredSystem
    full: System
    system: System
    before: int
    bound: float
    bounds: Of
    kind: str
    error: float | None
    rounding: float = 0.0
    """By so much an error may be above its bound."""
    along: float | None = None
    """The relative error of the output along recorded inputs, where there are any and it is finite."""

    @property
    def after(self) -> int:
        """States, or positions, that are left."""
        return int(self.small.system.states)

    @property
    def problems(self) -> list[str]:
        """What a reduction promises and this one does not keep."""
        found = []
        had, has = (unstable_poles(g) for g in (self.full, self.system))
        if has > had:
            found.append(f"the result has {has} unstable or marginal poles, the system {had}")
        error = self.error if self.bounds is Of.ERROR and self.kind == "hinf" else None
        if error is not None and error > self.bound * (1 + 1e-6) + self.rounding:
            found.append(f"the error is {number(error)}, above its bound {number(self.bound)}")
        return found


def result_of(
    stored: StoredSystem, rank: Any, measure: bool, as_first: bool, *, method: str, **settings: Any
) -> Result:
    """The reduction to a number of states, or by a rule; of a second-order system one of second order unless `as_first`."""
    if isinstance(stored.system, SecondOrderSystem) and not as_first:
        return _second_order(stored, rank, measure, method, settings)
    analysis = balred.analyze(stored, method=method, **settings)
    chosen = rank if isinstance(rank, int) else analysis.rank(rank)
    small: StoredSystem = analysis.reduce(chosen)
    kind, error = analysis.error(chosen) if measure else ("hinf", None)
    return Result(
        small,
        analysis.system,
        analysis.reduction(chosen).system,
        first_order(stored.system).states,
        float(analysis.bound(chosen)),
        analysis.method.bounds,
        kind,
        error,
        # of a file in single or half precision the result is stored in single precision
        rounding=max(1e-10, 8 * entry_rounding(analysis.system)) * float(np.max(analysis.sigma, initial=0.0)),
        along=_along(analysis, chosen),
    )


def _along(analysis: balred.Analysis, rank: int) -> float | None:
    if not analysis.settings.recorded:
        return None
    try:
        return float(analysis.output_error(rank))
    except ValueError:  # it overflows where unstable modes run long, or is zero
        return None


def _second_order(stored: StoredSystem, rank: Any, measure: bool, method: str, settings: dict[str, Any]) -> Result:
    if method_name(method) not in SECOND_ORDER:
        raise ValueError(
            f"the method must be {' or '.join(SECOND_ORDER)} for a second-order system, got {method}: "
            "with --first-order every method works"
        )
    small: StoredSystem = balred.reduce(stored, rank, method=method, **settings)
    kind, error = _error(stored, small) if measure else ("hinf", None)
    full, system = (balred.adapt(g)[0] for g in (stored, small))
    return Result(small, full, system, stored.system.states, float("nan"), Of.ERROR, kind, error)


def _error(stored: StoredSystem, small: StoredSystem) -> tuple[str, float | None]:
    for kind in ("hinf", "linf"):
        try:
            return kind, float(norms.error(stored, small, kind))
        except UnstableError:
            pass
    return "linf", None


def first_order(system: System | SparseSystem | SecondOrderSystem) -> System | SparseSystem:
    """A second-order system in first-order form, others as they are."""
    return system.first_order if isinstance(system, SecondOrderSystem) else system
