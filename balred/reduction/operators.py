"""Layers with an operator as candidates: ranked by Hankel singular values, cut by a method, written back exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from balred.ranks.choosing import is_rule
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
