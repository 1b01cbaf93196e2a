"""A layer that was looked at: what every kind of looking must answer, so that all layers are cut by the same few lines.

Layers with an operator answer by Hankel singular values (``balred.reduction.operators``), selective ones by moments of
their signals (:mod:`balred.reduction.selective`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from balred.selection.moments import Selection
from balred.systems.coordinates import Change
from balred.systems.leaves import System

Failure = ValueError | ArithmeticError
"""Why a layer cannot be looked at or cut; the others go on without it."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Smaller:
    """A layer that was cut, and what is known of the cut.

    Attributes
    ----------
    layer : Any
        The new layer; None where another process has made the cut, which then tells `system` or `selection` only.
    before, rank : int
        The states that it had and has.
    energy : float
        The share kept: of the sum of Hankel singular values, or of the output's energy on data.
    bound : float or None
        The a-priori bound of the error; None of what is measured on data.
    note : str
        A remark for the reader.
    system : System or None
        What was written into the layer.
    change : Change or None
        The change of coordinates, for what follows the layer; None where it is not known.
    again : callable or None
        Cuts another layer of the same size, such as an average of this one, to the same states.
    capped : bool
        Whether the numerical rank leaves no more states.
    selection : Selection or None
        The states that were kept, of a layer of which they can be selected only.
    """

    layer: Any
    before: int
    rank: int
    energy: float
    bound: float | None = None
    note: str = ""
    system: System | None = None
    change: Change | None = None
    again: Callable[[Any], Any] | None = None
    capped: bool = False
    selection: Selection | None = None


class Candidate(Protocol):
    """A layer, looked at."""

    @property
    def states(self) -> int:
        """The states that it has."""

    @property
    def tied(self) -> bool:
        """Whether it must have one size with the others that are tied."""

    @property
    def unit(self) -> str:
        """What its errors are measured in: those of different kinds cannot be added up."""

    def tail(self) -> NDArray[np.float64] | None:
        """The squared error at each rank from 0 on, for a :class:`balred.Budget`; None if it takes no part."""

    def rank(self, wanted: Any) -> int:
        """The states that a number or a rule asks for; all of them without (None)."""

    def cut(self, rank: int) -> Smaller:
        """The layer with so many states."""


Candidates = Mapping[str, Candidate | Failure]
"""Layers by name that were looked at, or why they could not be."""


def attempted(function: Callable[[], T]) -> T | Failure:
    """What `function` returns, or the error that says why it does not."""
    try:
        return function()
    except (ValueError, ArithmeticError) as error:
        return error


def cut_each(candidates: Candidates, ranks: Mapping[str, int | Failure]) -> dict[str, Smaller | Failure]:
    """Each layer that `ranks` names cut, or why it is not."""
    made: dict[str, Smaller | Failure] = {}
    for name, rank in ranks.items():
        one = candidates[name]
        if isinstance(one, Exception):
            made[name] = one
        else:
            made[name] = rank if isinstance(rank, Exception) else attempted(partial(one.cut, rank))
    return made


def check_even(candidates: Candidates, made: Mapping[str, Smaller | Failure]) -> None:
    """Raise if of several layers that must have one size some could not be cut."""
    tied = [name for name in made if getattr(candidates[name], "tied", False)]
    failed = [f"{name}: {made[name]}" for name in tied if isinstance(made[name], Exception)]
    if failed and len(tied) > 1:
        raise ValueError(
            f"layers that share one size in the configuration must be cut together or not at all, got {'; '.join(failed)}"
        )


@dataclass(frozen=True)
class Row:
    """One layer of a plan.  If the layer is skipped, `after` is None and `note` says why.

    Examples
    --------
    >>> import balred
    >>> row = balred.plan({"encoder": balred.testing.random_system(8, seed=1)}, 4).rows[0]
    >>> row.layer, row.type, row.before, row.after
    ('encoder', 'DenseSystem', 8, 4)
    """

    layer: str
    type: str
    before: int | None
    after: int | None
    bound: float | None = None
    energy: float | None = None
    note: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        """What a table shows, under ``HEAD``."""
        before, after = ("-" if states is None else str(states) for states in (self.before, self.after))
        bound = "" if self.bound is None else f"{self.bound:.3g}"
        return (
            self.layer or "-", self.type, before, after, bound, "" if self.energy is None else f"{self.energy:.4f}", self.note,
        )  # fmt: skip


HEAD = ("layer", "type", "from", "to", "bound", "energy", "")


def row_of(name: str, layer: Any, states: int | None, outcome: Smaller | Failure | str) -> Row:
    """What a plan says of a layer that was cut, or could not be."""
    kind = type(layer).__name__
    if isinstance(outcome, Smaller):
        return Row(name, kind, outcome.before, outcome.rank, outcome.bound, outcome.energy, outcome.note)
    return Row(name, kind, states, None, note=str(outcome))
