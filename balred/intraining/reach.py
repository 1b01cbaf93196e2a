"""Which layers of a model cuts can reach while it trains: those with an operator, and selective ones where there are data.

With data the former are balanced on them.  The latter have no operator (:mod:`balred.reduction.selective`), so neither Hankel singular values nor an error bound: a rule is
asked about the spectrum of what the states contribute to the layer's output on the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from balred.ranks.budget import Budget
from balred.ranks.divergence import Divergence
from balred.ranks.rules import ErrorBound, Rule
from balred.reduction.analysis import sums_along
from balred.reduction.operators import read_operators
from balred.reduction.selective import CalibrationWarning, check_wanted, selective_candidates
from balred.registry.entries import entry_of
from balred.registry.kinds import Selective
from balred.registry.reading import is_selective, layers_of, linear_layers_of, obstacles_of, selective_of
from balred.registry.sizes import of_size, states_of
from balred.selection.calibration import Calibration
from balred.systems.arrays import warn_caller


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
            "calibration must be given for selective layers (inputs of the model, or a function that returns them), because "
            f"the contribution of each state is measured on it; got none for {', '.join(name or 'the layer' for name in layers)}"
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
        raise ValueError(
            f"a cut of a layer must leave the rest of the model as it is, got {name or 'the layer'}: {reason}"
        )
    for name, layer in (layers if whole is None else whole).items():
        try:
            of_size(layer, max(1, states_of(layer) // 2))
        except ValueError as error:
            raise ValueError(f"layer {name or 'itself'}: {error}") from error


def check_rule_for(
    rule: Rule | Budget | Divergence, layers: Mapping[str, Any], calibration: Calibration | None, processes: int = 1
) -> None:
    """Raise unless `layers` can meet the rule: on data there is no error bound, and without there is no divergence."""
    if isinstance(rule, Divergence):
        if calibration is None:
            raise ValueError("a divergence is measured on data, so calibration must be given, got none")
        if processes > 1:
            raise ValueError(f"a divergence is measured in one process, got {rule} and {processes} processes")
        return
    if isinstance(rule, Budget):
        return
    check_wanted(chosen_layers(layers, calibration), dict.fromkeys(layers, rule))
    if isinstance(rule, ErrorBound) and calibration is not None and calibration.basis != "noise":
        raise ValueError(f"a layer that is balanced on data has no a-priori error bound, got {rule}")


def check_data(model: Any, layers: Mapping[str, Any], calibration: Calibration | None) -> None:
    """Raise unless the model runs on the first batch of the data, through every selective one among `layers`.

    Warns
    -----
    CalibrationWarning
        Others cannot be seen on it, and will be balanced on white noise.
    """
    one = None if calibration is None else calibration.tried()
    if one is None:
        return
    if selective := measured_layers(layers):
        selective_candidates(model, selective, one)
    chosen = chosen_layers(layers, calibration)
    read, _ = read_operators({name: layer for name, layer in layers.items() if name not in chosen})
    wanted = {name: (layers[name], system) for name, (system, _) in read.items()}
    sums = sums_along(model, wanted, replace(one, sequences=2))  # on one it is not clear whether a model takes batches
    if unseen := [f"{name} ({why})" for name, why in sums.items() if isinstance(why, str)]:
        warn_caller(f"layers will be balanced on white noise, not on the data: {'; '.join(unseen)}", CalibrationWarning)


def measured_layers(layers: Mapping[str, Any]) -> dict[str, tuple[Any, Selective]]:
    """Those among `layers` whose states can only be chosen along data, with what is known of them."""
    return {name: (layer, known) for name, (layer, known) in selective_of(layers).items() if known.needs_data}


def even_layers(layers: Mapping[str, Any]) -> set[str]:
    """Those with an operator that must have one size."""
    return {name for name, layer in layers.items() if (entry := entry_of(layer)) is not None and entry.one_size}


def chosen_layers(layers: Mapping[str, Any], calibration: Calibration | None) -> dict[str, tuple[Any, Selective]]:
    """Those whose states are selected: the ones that need data where there are any, and the ones that need none."""
    found = selective_of(layers).items()
    return {name: one for name, one in found if calibration is not None or not one[1].needs_data}
