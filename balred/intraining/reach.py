"""Which layers of a model cuts can reach while it trains: those with an operator, and selective ones where there are data.

The latter have no operator (:mod:`balred.reduction.selective`), so neither Hankel singular values nor an error bound: a rule is
asked about the spectrum of what the states contribute to the layer's output on the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from balred.ranks.budget import Budget
from balred.ranks.rules import Rule
from balred.reduction.selective import check_wanted, selective_candidates
from balred.registry.entries import Selective
from balred.registry.reading import is_selective, layers_of, linear_layers_of, obstacles_of, selective_of
from balred.registry.sizes import of_size, states_of
from balred.selection.calibration import Calibration


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


def check_cuttable(model: Any, layers: Mapping[str, Any], whole: Mapping[str, Any] | None = None) -> None:
    """Raise unless each of `layers` can be cut as a whole, in place, and nothing else of `model` with it.

    A cut that cannot be made would show at the first attempt, hours into a training.  `whole` are the layers as one process
    would have them, where the model has parts of them.

    Raises
    ------
    ValueError
        The message names the layer, and what is in the way.
    """
    refused = obstacles_of(model, layers, copied=False)
    for name, reason in refused.items():
        raise ValueError(f"layers must be such that a cut changes nothing else, got {name or 'the layer'}: {reason}")
    for name, layer in (layers if whole is None else whole).items():
        try:
            of_size(layer, max(1, states_of(layer) // 2))
        except ValueError as error:
            raise ValueError(f"layer {name or 'itself'}: {error}") from error


def check_rule_for(rule: Rule | Budget, layers: Mapping[str, Any], calibration: Calibration | None) -> None:
    """Raise unless the selective ones among `layers` can meet the rule."""
    if calibration is not None and not isinstance(rule, Budget):
        check_wanted(measured_layers(layers), dict.fromkeys(layers, rule))


def check_data(model: Any, layers: Mapping[str, Any], calibration: Calibration | None) -> None:
    """Raise unless the model runs on the first batch of the data, through every selective one among `layers`."""
    one = None if calibration is None else calibration.tried()
    selective = {} if one is None else measured_layers(layers)
    if one is not None and selective:
        selective_candidates(model, selective, one)


def measured_layers(layers: Mapping[str, Any]) -> dict[str, tuple[Any, Selective]]:
    """Those among `layers` whose states can only be chosen along data, with what is known of them."""
    return {name: (layer, known) for name, (layer, known) in selective_of(layers).items() if known.needs_data}
