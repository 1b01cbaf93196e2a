"""Planning the reduction of selective layers, whose dynamics depend on their input.

Such a layer is not one linear operator, so there is nothing for :func:`balred.adapt` to return.  A framework says how many
states a layer has, how to gather moments of its signals while data run through the model, and how to write a selection
of states into a smaller layer; which states those are is decided in :mod:`balred.selection`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.ranks.choosing import choose_order, is_rule
from balred.ranks.rules import ErrorBound, Order
from balred.registry.entries import Selective
from balred.selection.elimination import spectrum
from balred.selection.moments import Moments, Selection
from balred.selection.selecting import SELECTIONS, select
from balred.systems.arrays import warn_caller


class CalibrationWarning(UserWarning):
    """States of selective layers were chosen without data."""


@dataclass(frozen=True)
class Choice:
    """What becomes of a selective layer: the new one, its states, what it keeps of the output's energy, and remarks."""

    states: int
    layer: Any = None
    rank: int | None = None
    energy: float | None = None
    note: str = ""
    again: Callable[[Any], Any] | None = None
    """Cuts another layer of the same size, such as an average of this one, to the same states."""


def measure(
    model: Any, layers: Mapping[str, tuple[Any, Selective]], calibration: Any, *, compensate: bool = True
) -> dict[str, Moments]:
    """Moments of the signals of each of the selective `layers` of `model`, in one pass over the data.

    Parameters
    ----------
    model : the whole model
    layers : dict by name of layers and their entries
    calibration : tensor, dict of keyword inputs, iterable of either, or None
    compensate : bool
        Refit C so that kept states stand in for dropped ones, where the layer allows it.
    """
    if calibration is None and any(entry.select is None for _, entry in layers.values()):
        warn_caller(
            "without calibration data the states of selective layers are chosen by a time-invariant surrogate driven by white "
            "noise: what real inputs select, and how they correlate over time, is lost; pass calibration=",
            CalibrationWarning,
        )
    moments: dict[str, Moments] = {}
    for gather in {entry.gather for _, entry in layers.values()}:
        found = gather(model, {n: layer for n, (layer, entry) in layers.items() if entry.gather is gather}, calibration)
        moments.update(found if compensate else {n: _selection_only(m) for n, m in found.items()})
    return moments


def check_wanted(layers: Mapping[str, tuple[Any, Selective]], wanted: Mapping[str, Any], selection: str) -> None:
    """Raise unless each rank or rule in `wanted` is one that the selective `layers` can meet."""
    if selection not in SELECTIONS:
        raise ValueError(f"selection must be one of {', '.join(SELECTIONS)}, got {selection!r}")
    most = max(entry.states(layer) for layer, entry in layers.values())
    for name in layers:
        if name in wanted:
            _check(wanted[name], most)


def choose(
    layers: Mapping[str, tuple[Any, Selective]],
    wanted: Mapping[str, Any],
    moments: Mapping[str, Moments],
    *,
    measured: str,
    selection: str = "joint",
    seed: int = 0,
) -> dict[str, Choice]:
    """What becomes of each of the selective `layers`.

    Parameters
    ----------
    layers : dict by name of layers and their entries
    wanted : dict by name of ranks or rules; a layer without one keeps its states
    moments : dict by name, from :func:`measure`
    measured : str
        What the moments are of, for the remarks.
    selection : {"joint", "separate", "random"}
    seed : int
        Of "random".
    """
    states = {name: entry.states(layer) for name, (layer, entry) in layers.items()}
    ranks = {name: rank_for(wanted.get(name), moments[name]) for name in layers}
    result = {}
    for name, rank in of_one_size(layers, ranks).items():
        layer, entry = layers[name]
        note = "" if name in wanted else "not in ranks"
        if rank != ranks[name] and name in wanted:
            note = f"{ranks[name]} rounded up to {rank}: the model's configuration holds one state dimension"
        if rank == states[name] and name not in wanted:
            result[name] = Choice(states[name], note=note)
            continue
        chosen = (entry.select or select)(moments[name], rank, selection, seed=seed)
        source = f"on the {measured}" if entry.select is None else "under white noise"
        remark = f"output changes by {np.sqrt(chosen.error):.2g} {source}"
        again = _cutter(entry, chosen, moments[name])
        remarks = "; ".join(filter(None, [note, remark]))
        result[name] = Choice(states[name], again(layer), rank, 1 - chosen.error, remarks, again)
    return result


def _cutter(entry: Selective, chosen: Selection, moments: Moments) -> Callable[[Any], Any]:
    return lambda layer: entry.cut(layer, chosen, moments)


def of_one_size(layers: Mapping[str, tuple[Any, Selective]], ranks: Mapping[str, int]) -> dict[str, int]:
    """`ranks` rounded up to the largest among the layers that must have one state dimension, as far as they have it."""
    largest = max((ranks[name] for name, (_, entry) in layers.items() if entry.one_size), default=0)
    return {n: min(largest, entry.states(x)) if entry.one_size else ranks[n] for n, (x, entry) in layers.items()}


def tails(moments: Mapping[str, Moments]) -> dict[str, NDArray[np.float64]]:
    """For a :class:`balred.Budget`: the squared error of each layer at each rank from 0 on."""
    return {n: np.append(np.cumsum(spectrum(m)[::-1] ** 2)[::-1], 0.0) for n, m in moments.items()}


def _check(wanted: Any, most: int) -> None:
    if isinstance(wanted, ErrorBound):
        raise ValueError(
            f"a selective layer has no a-priori error bound, so the rule must be another one, got {wanted}"
        )
    if is_rule(wanted):
        return
    if not isinstance(wanted, (int, np.integer)) or isinstance(wanted, bool):
        raise ValueError(f"rank must be an integer or a rule, got {wanted!r}")
    if not 1 <= wanted <= most:
        raise ValueError(f"rank must be between 1 and {most}, got {wanted}")


def rank_for(wanted: Any, moments: Moments) -> int:
    """The states that a rank or rule asks for; all of them without."""
    if wanted is None:
        return moments.states
    if isinstance(wanted, Order):
        return min(-(-wanted.rank // wanted.multiple_of) * wanted.multiple_of, moments.states)
    if is_rule(wanted):
        return min(max(choose_order(wanted, spectrum(moments)), 1), moments.states)
    return min(int(wanted), moments.states)


def _selection_only(moments: Moments) -> Moments:
    return Moments(moments.contributions, moments.groups, moments.B, moments.C)
