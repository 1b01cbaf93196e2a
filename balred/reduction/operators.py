"""Layers with an operator as candidates: ranked by Hankel singular values, cut by a method, written back exactly.

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
from balred.methods.method import Method
from balred.methods.truncation import truncate
from balred.ranks.budget import tail
from balred.ranks.choosing import choose_order, is_rule
from balred.ranks.rules import ErrorBound, Order
from balred.realisations.second_order_projection import Projected, balanced, modal
from balred.reduction.analysis import Analysis, analyses
from balred.reduction.candidates import Candidates, Failure, Smaller, attempted
from balred.reduction.settings import Settings
from balred.registry.reading import adapt
from balred.systems.batches import alike
from balred.systems.leaves import System

Read: TypeAlias = tuple[System, Callable[[System], Any]]
"""The operator of a layer, and the way back."""


@dataclass(frozen=True, eq=False)
class OperatorCandidate:
    """A layer whose operator was analysed."""

    analysis: Analysis
    rebuild: Callable[[System], Any]
    tied = False
    unit = "Hankel singular values"

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
        return Smaller(
            self.rebuild(made.system),
            self.states,
            made.system.states,
            energy=float(np.min(self.analysis.energy(rank))),
            bound=float(np.max(made.bound, initial=0.0)),
            system=made.system,
            change=made.change,
            capped=made.capped,
        )


def read_operators(layers: Mapping[str, Any]) -> tuple[dict[str, Read], dict[str, Failure]]:
    """The operators of layers by name, and of those that cannot be read, why."""
    found = {name: attempted(partial(adapt, layer)) for name, layer in layers.items()}
    read = {name: one for name, one in found.items() if not isinstance(one, Exception)}
    return read, {name: one for name, one in found.items() if isinstance(one, Exception)}


def operator_candidates(read: Mapping[str, Read], settings: Settings) -> Iterator[Candidates]:
    """The layers analysed, those alike together; a group at a time, since large ones need much memory while they last."""
    for names in alike({name: system for name, (system, _) in read.items()}):
        found = analyses({name: read[name] for name in names}, settings)
        yield {
            name: one if isinstance(one, Exception) else OperatorCandidate(one, read[name][1])
            for name, one in found.items()
        }


_SECOND_ORDER: dict[str, Callable[..., Projected]] = {"truncate": balanced, "modal": modal}
"""Methods that give a second-order system again."""


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
        return self.looked.system.states

    def tail(self) -> NDArray[np.float64] | None:
        """Squares of sums of the values cut; None where there are none, or values that are no singular values."""
        return tail(pad(self.looked.sigma, self.states), 1, 0) if self.looked.strict else None

    def rank(self, wanted: Any) -> int:
        """By the values; there is no error bound to choose by."""
        if wanted is None:
            return self.states
        if not is_rule(wanted):
            return int(wanted)
        if isinstance(wanted, ErrorBound):
            raise ValueError("ErrorBound needs a method with an a-priori error bound, got one for second-order systems")
        if not self.looked.sigma.size and not isinstance(wanted, Order):
            raise ValueError(f"modes of a sparse system are counted, so rank must be a number, got {wanted!r}")
        values = self.looked.sigma if self.looked.sigma.size else np.ones(self.states)
        return min(choose_order(wanted, pad(values, self.states)), self.looked.cap)

    def cut(self, rank: int) -> Smaller:
        """By projection of positions."""
        k, sigma = min(rank, self.looked.cap), self.looked.sigma
        energy = float(sigma[:k].sum() / sigma.sum()) if sigma.size else np.nan
        small = self.rebuild(self.looked.reduced(k))
        return Smaller(small, self.states, k, energy=energy, capped=k == self.looked.cap)


def second_order_candidates(
    layers: Mapping[str, tuple[Any, Callable[[Any], Any]]], settings: Settings, options: Mapping[str, Any]
) -> Candidates:
    """Second-order systems by name, looked at.

    Raises
    ------
    ValueError
        The method does not keep their form; an offset or a precision is given.
    TypeError
        The method does not have one of the options.
    """
    prepare = _SECOND_ORDER.get(settings.method)
    if prepare is None:
        raise ValueError(
            f"a second-order system is reduced by method {' or '.join(map(repr, _SECOND_ORDER))}, which keep its form, got "
            f"{settings.method!r}: take its first-order form, balred.adapt(system)[0], for others"
        )
    if settings.offset is not None or settings.precision != "float64":
        raise ValueError("offset and precision must be left alone for second-order systems, got one of them")
    Method(truncate, prepare).check_options(settings.method, options)
    return {
        name: one if isinstance(one, Exception) else SecondOrderCandidate(one, rebuild)
        for name, (system, rebuild) in layers.items()
        for one in [attempted(partial(prepare, system, settings.solver, **options))]
    }
