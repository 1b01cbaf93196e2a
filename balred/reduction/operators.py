"""Layers with an operator as candidates: ranked by values, cut by a method, written back exactly.

The values are Hankel singular values, of white inputs and outputs that matter alike, or those of the states along data
(:mod:`balred.layers.along_data`), which have one unit for all layers of a model: that of a scalar of the model's output.
Second-order systems are cut by methods of their own, which keep their form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from balred.hankel.spectrum import pad
from balred.layers.along_data import DataSums
from balred.methods.method import Method
from balred.methods.truncation import truncate
from balred.ranks.budget import tail
from balred.ranks.choosing import choose_order, is_rule
from balred.ranks.rules import ErrorBound, MeasuredError, Order
from balred.realisations.second_order.balancing import balanced
from balred.realisations.second_order.modes import modal
from balred.realisations.second_order.projected import Projected
from balred.reduction.analysis import Analysis, analysed_on_data, analyses
from balred.reduction.candidates import Candidates, Failure, Smaller, attempted
from balred.reduction.settings import Settings
from balred.registry.reading import adapt
from balred.selection.calibration import Calibration
from balred.systems.arrays import mapped, to_numpy
from balred.systems.batches import alike
from balred.systems.leaves import System
from balred.systems.poles import pole_margin

Read: TypeAlias = tuple[System, Callable[[System], Any]]
"""The operator of a layer, and the way back."""


@dataclass(frozen=True, eq=False)
class OperatorCandidate:
    """A layer whose operator was analysed."""

    analysis: Analysis
    rebuild: Callable[[System], Any]
    note: str = ""
    tied: bool = False

    @property
    def unit(self) -> str:
        """That of the model's output where the layer was seen on data."""
        return "change of the output" if self.analysis.settings.on_data else "Hankel singular values"

    @property
    def states(self) -> int:
        """Stored states."""
        return self.analysis.system.states

    def tail(self) -> NDArray[np.float64] | None:
        """Squares of sums of the values cut; None where nothing can be cut."""
        state = self.analysis.state
        return None if state is None or state.cap == 0 else self.analysis.tail()

    def rank(self, wanted: Any) -> int:
        """By the analysis."""
        if wanted is None:
            return self.states
        return self.analysis.rank(wanted) if is_rule(wanted) else int(wanted)

    def cut(self, rank: int) -> Smaller:
        """By the method of the analysis."""
        made = self.analysis.reduction(rank)
        settings = self.analysis.settings
        notes = [self.note, made.note]
        if settings.recorded:
            error = attempted(partial(self.analysis.output_error, rank))
            what = "unknown" if isinstance(error, Exception) else f"{np.max(error):.3g}"
            notes.append(f"relative error of the output along the recordings {what}")
        return Smaller(
            self.rebuild(made.system),
            self.states,
            made.system.states,
            energy=float(np.min(self.analysis.energy(rank))),
            bound=None if settings.on_data or settings.recorded else float(np.max(made.bound, initial=0.0)),
            note="; ".join(filter(None, notes)),
            system=made.system,
            change=made.change,
            capped=made.capped,
        )


def read_operators(layers: Mapping[str, Any]) -> tuple[dict[str, Read], dict[str, Failure]]:
    """The operators of layers by name, and of those that cannot be read, why."""
    found = {name: attempted(partial(adapt, layer)) for name, layer in layers.items()}
    read = {name: one for name, one in found.items() if not isinstance(one, Exception)}
    return read, {name: one for name, one in found.items() if isinstance(one, Exception)}


def operator_candidates(
    read: Mapping[str, Read], settings: Settings, sums: Mapping[str, DataSums | str] | None = None
) -> Iterator[Candidates]:
    """The layers analysed, those alike together; a group at a time, since large ones need much memory while they last.

    Those in `sums` were seen on data, or could not be, and why.
    """
    sums = sums or {}
    seen = {name: one for name, one in sums.items() if isinstance(one, DataSums) and name in read}
    if seen:
        yield {name: attempted(partial(_seen, *read[name], one, settings)) for name, one in seen.items()}
    blind = {name: one for name, one in read.items() if name not in seen}
    for names in alike({name: system for name, (system, _) in blind.items()}):
        found = analyses({name: read[name] for name in names}, settings)
        yield {
            name: one if isinstance(one, Exception) else OperatorCandidate(one, read[name][1], _unseen(sums.get(name)))
            for name, one in found.items()
        }


def _unseen(reason: Any) -> str:
    return f"balanced on white noise: {reason}" if reason else ""


def _seen(system: System, rebuild: Callable[[System], Any], sums: DataSums, settings: Settings) -> OperatorCandidate:
    outside = int((pole_margin(mapped(system, to_numpy))[1] <= 0).sum())
    notes = ["balanced on inputs alone" if sums.Q is None else "balanced on data"]
    if outside:
        notes.append(f"{outside} of {system.states} poles unstable")
    return OperatorCandidate(analysed_on_data(system, rebuild, sums, settings), rebuild, "; ".join(notes))


SECOND_ORDER = {"truncate": Method(truncate, balanced), "modal": Method(truncate, modal)}
"""Methods that give a second-order system again: how they look at one, and their options."""


@dataclass(frozen=True, eq=False)
class SecondOrderCandidate:
    """A second-order system that was looked at."""

    looked: Projected
    rebuild: Callable[[Any], Any]
    tied = False
    unit = "singular values of positions and velocities"

    @property
    def states(self) -> int:
        """Positions."""
        return self.looked.positions

    def tail(self) -> NDArray[np.float64] | None:
        """Squares of sums of the values cut; None where there are none, or values that are no singular values."""
        fixed = self.looked.fixed
        return tail(pad(self.looked.sigma, self.states - fixed), 1, fixed) if self.looked.strict else None

    def rank(self, wanted: Any) -> int:
        """By the values; there is no error bound to choose by."""
        if wanted is None:
            return self.states
        if not is_rule(wanted):
            return int(wanted)
        if isinstance(wanted, ErrorBound):
            raise ValueError("ErrorBound needs a method with an a-priori error bound, got one for second-order systems")
        if isinstance(wanted, MeasuredError):
            raise ValueError("MeasuredError needs a first-order system, got a second-order one: reduce its first_order")
        if self.looked.fixed == self.states:  # which leaves nothing to choose from
            return wanted.rank if isinstance(wanted, Order) else self.states
        if not self.looked.sigma.size and not isinstance(wanted, Order):
            raise ValueError(
                f"rank must be a number for modal truncation of a sparse system, which computes that many modes, got {wanted!r}"
            )
        values, fixed = self.looked.sigma if self.looked.sigma.size else np.ones(self.states), self.looked.fixed
        chosen = choose_order(wanted, pad(values, self.states - fixed))  # of an Order, rigid bodies included
        return min(chosen if isinstance(wanted, Order) else chosen + fixed, self.looked.cap)

    def cut(self, rank: int) -> Smaller:
        """By projection of positions."""
        k, sigma = min(rank, self.looked.cap), self.looked.sigma
        energy = float(sigma[: max(k - self.looked.fixed, 0)].sum() / sigma.sum()) if sigma.size else np.nan
        small = self.rebuild(self.looked.reduced(k))
        return Smaller(small, self.states, k, energy=energy, capped=k == self.looked.cap)


def second_order_candidates(
    layers: Mapping[str, tuple[Any, Callable[[Any], Any]]],
    settings: Settings,
    options: Mapping[str, Any],
    how: Calibration,
) -> Candidates:
    """Second-order systems by name, looked at.

    Raises
    ------
    ValueError
        The method does not keep their form; an offset, a precision or data are given.
    TypeError
        The method does not have one of the options.
    """
    row = SECOND_ORDER.get(settings.method)
    if row is None:
        raise ValueError(
            f"method must be {' or '.join(map(repr, SECOND_ORDER))} for a second-order system, got {settings.method!r}: "
            "the others reduce its first-order form, balred.adapt(system)[0]"
        )
    if settings.offset is not None or settings.precision != "float64":
        raise ValueError(
            f"offset and precision must keep their defaults for second-order systems, got {settings.offset!r} and {settings.precision!r}"
        )
    if "inputs" in options:
        raise ValueError(
            "methods that keep a second-order system second-order take no recorded inputs: reduce its first-order form, "
            "balred.adapt(system)[0], got inputs with the second-order one"
        )
    if how.basis != "noise":
        raise ValueError(f"second-order systems are balanced on white noise, got balanced_on={how.basis!r}")
    options = row.checked_options(settings.method, options)
    looked: dict[str, Projected | Failure] = {
        name: attempted(partial(row.prepare, system, settings.solver, **options))
        for name, (system, _) in layers.items()
    }
    return {
        name: one if isinstance(one, Exception) else SecondOrderCandidate(one, layers[name][1])
        for name, one in looked.items()
    }
