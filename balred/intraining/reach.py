"""Selective layers of a model in training: at every attempt their states are measured on data and chosen from that.

They have no operator (:mod:`balred.reduction.selective`), so neither Hankel singular values nor an error bound: a rule is asked about the
spectrum of what the states contribute to the layer's output on the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.ranks.budget import Budget
from balred.ranks.rules import Rule
from balred.reduction.selective import Choice, check_wanted, choose, measure, of_one_size, rank_for, tails
from balred.registry.entries import Selective
from balred.registry.reading import is_selective, layers_of, linear_layers_of, selective_of
from balred.selection.calibration import Calibration
from balred.selection.moments import Moments


def layers_in_training(model: Any, calibration: Calibration | None) -> dict[str, Any]:
    """The layers of a model that cuts can reach: those with an operator, and with data the selective ones.

    Raises
    ------
    ValueError
        All are selective, and there are no data.
    """
    layers = layers_of(model) if calibration is not None else linear_layers_of(model)
    if calibration is None and layers and all(is_selective(layer) for layer in layers.values()):
        raise ValueError(
            "selective layers are cut by what their states contribute on data, so calibration must be what the model is "
            f"called with, or a function that returns it, got none for {', '.join(name or 'the layer' for name in layers)}"
        )
    return layers


def check_rule_for(rule: Rule | Budget, layers: Mapping[str, Any], calibration: Calibration | None) -> None:
    """Raise unless the selective ones among `layers` can meet the rule."""
    selective = selective_of(layers)
    if selective and calibration is not None and not isinstance(rule, Budget):
        check_wanted(selective, dict.fromkeys(selective, rule), calibration.selection)


class Measured:
    """The selective layers of a model at one attempt, measured on the data of now; none without data.

    Attributes
    ----------
    all : set of str
        Their names.
    layers, moments : dict
        Those that could be measured.
    failed : dict
        The others, and why.
    """

    def __init__(self, model: Any, layers: Mapping[str, Any], calibration: Calibration | None) -> None:
        self.layers: dict[str, tuple[Any, Selective]] = {} if calibration is None else selective_of(layers)
        self.all, self.failed = set(self.layers), {}
        self.moments: Mapping[str, Moments] = {}
        self._how = calibration
        if calibration is not None and self.layers:
            try:
                self.moments = measure(model, self.layers, calibration.now(), compensate=calibration.compensate)
            except (ValueError, ArithmeticError) as error:
                self.failed, self.layers = dict.fromkeys(self.layers, str(error)), {}

    @property
    def states(self) -> dict[str, int]:
        """States by layer."""
        return {name: entry.states(layer) for name, (layer, entry) in self.layers.items()}

    @property
    def tails(self) -> dict[str, NDArray[np.float64]]:
        """Squared errors at each rank, for a budget."""
        return tails(self.moments)

    @property
    def tied(self) -> list[str]:
        """Layers that must have one state dimension."""
        return [name for name, (_, entry) in self.layers.items() if entry.one_size]

    def ranks(self, wanted: Any) -> dict[str, tuple[int, int]]:
        """Of every layer the states that it has, and those that a rule, or ranks by name, choose for it."""
        asked = {n: wanted[n] if isinstance(wanted, Mapping) else wanted for n in self.layers}
        sizes = of_one_size(self.layers, {n: rank_for(asked[n], self.moments[n]) for n in self.layers})
        return {name: (states, sizes[name]) for name, states in self.states.items()}

    def choices(self, ranks: Mapping[str, int]) -> dict[str, Choice]:
        """The smaller layers of those that `ranks` names."""
        if self._how is None or not ranks:
            return {}
        some, how = {name: self.layers[name] for name in ranks}, self._how
        return choose(some, ranks, self.moments, measured="calibration data", selection=how.selection, seed=how.seed)
