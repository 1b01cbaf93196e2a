"""Selective layers as candidates: ranked by moments of their signals, cut by a selection of states.

Such a layer is not one linear operator, so there is nothing for :func:`balred.adapt` to return, no Hankel singular values and
no error bound.  A framework says how many states a layer has, how to gather moments of its signals while data run through
the model, and how to write a selection of states into a smaller layer (:class:`balred.registry.Selective`); which states
those are is decided in :mod:`balred.selection`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.ranks.choosing import choose_order, is_rule
from balred.ranks.rules import ErrorBound, MeasuredError, Order
from balred.reduction.candidates import Candidates, Smaller
from balred.registry.kinds import Selective
from balred.registry.reading import check_fit
from balred.selection.calibration import Calibration
from balred.selection.elimination import spectrum
from balred.selection.moments import Moments, Selection, Stack, members_of, stack_of
from balred.selection.selecting import select, select_each
from balred.systems.arrays import warn_caller

SelectiveLayers = Mapping[str, tuple[Any, Selective]]
"""Layers by name, with what is known of them."""


class CalibrationWarning(UserWarning):
    """Layers were reduced on white noise, because there were no data or a layer's signals could not be seen on them.

    Examples
    --------
    >>> import warnings, balred
    >>> from balred.reduction import CalibrationWarning
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", CalibrationWarning)  # a selective layer without data is an error now
    ...     small = balred.reduce(balred.testing.random_system(8, seed=0), 4)  # this layer needs none
    >>> small.states
    4
    """


@dataclass(frozen=True, eq=False)
class SelectiveCandidate:
    """A selective layer whose signals were measured."""

    layer: Any
    entry: Selective
    moments: Moments
    how: Calibration
    unit = "share of the output"

    @property
    def states(self) -> int:
        """As the layer counts them."""
        return int(self.entry.states(self.layer))

    @property
    def tied(self) -> bool:
        """Where the model's configuration holds one state dimension."""
        return self.entry.one_size

    @cached_property
    def _values(self) -> list[NDArray[np.float64]]:
        """Of a stack those of each member."""
        return [spectrum(m) for m in members_of(self.moments)]

    def tail(self) -> NDArray[np.float64]:
        """Squares of what the states cut contribute."""
        return np.append(np.cumsum(sum(values[::-1] ** 2 for values in self._values))[::-1], 0.0)

    def rank(self, wanted: Any) -> int:
        """By the spectrum of what the states contribute."""
        most = self.moments.states
        if wanted is None:
            return most
        if isinstance(wanted, Order):
            return min(-(-wanted.rank // wanted.multiple_of) * wanted.multiple_of, most)
        if is_rule(wanted):
            return min(max(1, *(choose_order(wanted, values) for values in self._values)), most)
        return min(int(wanted), most)

    def cut(self, rank: int) -> Smaller:
        """By a selection of states."""
        pick = self.entry.select or select
        chosen = select_each(self.moments, lambda m: pick(m, rank, self.how.selection, seed=self.how.seed))
        data = "surrogate" if self.how.data is None else "calibration data"
        source = f"on the {data}" if self.entry.needs_data else "under white noise"
        again = _cutter(self.entry, chosen, self.moments)
        return Smaller(
            again(self.layer),
            self.states,
            rank,
            energy=1 - chosen.error,
            note=f"what the states add to the output changes by {np.sqrt(chosen.error):.2g} {source}"
            + (f"; {self.entry.note}" if self.entry.note else ""),
            again=again,
            selection=chosen,
        )

    def written(self, told: Smaller) -> Smaller:
        """What another process chose, from the same moments, cut out of this one's layer."""
        assert told.selection is not None
        again = _cutter(self.entry, told.selection, self.moments)
        return replace(told, layer=again(self.layer), again=again)


def _cutter(entry: Selective, chosen: Selection, moments: Moments) -> Callable[[Any], Any]:
    return lambda layer: entry.cut(layer, chosen, moments)


def selective_candidates(model: Any, layers: SelectiveLayers, how: Calibration) -> Candidates:
    """The selective `layers` of `model`, measured in one pass over the data, or over a surrogate without."""
    return candidates_of(layers, moments_of(model, layers, how), how)


def candidates_of(
    layers: SelectiveLayers, moments: Mapping[str, Moments], how: Calibration
) -> dict[str, SelectiveCandidate]:
    """Layers whose moments are known."""
    return {n: SelectiveCandidate(layer, entry, moments[n], how) for n, (layer, entry) in layers.items()}


def moments_of(model: Any, layers: SelectiveLayers, how: Calibration) -> dict[str, Moments]:
    """What the signals of the `layers` of `model` are, in one pass over the data, or of a surrogate without."""
    if how.data is None and any(entry.needs_data for _, entry in layers.values()):
        warn_caller(
            "without calibration data the states of selective layers are chosen by a time-invariant substitute driven by white "
            "noise, which does not know what real inputs select or how they correlate over time: pass calibration=",
            CalibrationWarning,
        )
    for layer, _ in layers.values():
        check_fit(layer)
    data = how.now() if layers else None
    moments: dict[str, Moments] = {}
    for gather in {entry.gather for _, entry in layers.values()}:
        found = gather(model, {n: layer for n, (layer, entry) in layers.items() if entry.gather is gather}, data)
        moments.update(found if how.compensate else {n: _selection_only(m) for n, m in found.items()})
    return moments


def _selection_only(moments: Moments) -> Moments:
    if isinstance(moments, Stack):
        return stack_of([_selection_only(m) for m in moments.members])
    # of whatever kind: what a kind knows beside these is for the compensation
    return Moments(moments.contributions, moments.groups, moments.B, moments.C, tokens=moments.tokens)


def check_wanted(layers: SelectiveLayers, wanted: Mapping[str, Any]) -> None:
    """Raise unless each rank or rule in `wanted` is one that the selective `layers` can meet."""
    most = max((entry.states(layer) for layer, entry in layers.values()), default=0)
    for name in layers:
        one = wanted.get(name)
        if isinstance(one, (ErrorBound, MeasuredError)):
            raise ValueError(
                f"a selective layer has no a-priori error bound, and no H-infinity norm to measure, so the rule must be another one, got {one}"
            )
        if name not in wanted or is_rule(one):
            continue
        if not isinstance(one, (int, np.integer)) or isinstance(one, bool):
            raise ValueError(f"rank must be an integer or a rule, got {one!r}")
        if not 1 <= one <= most:
            raise ValueError(f"rank must be between 1 and {most}, got {one}")
