"""How many states each layer keeps: numbers, rules or a budget, and what ties the layers of a model together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from balred.ranks.budget import Budget, relative
from balred.ranks.choosing import check_rank, is_rule
from balred.ranks.divergence import Divergence, Measured, least
from balred.reduction.candidates import Candidate, Candidates, Failure, Smaller, attempted, cut_each
from balred.registry.entries import container_of, qualified
from balred.registry.kinds import Running
from balred.registry.reading import replace_layers
from balred.selection.calibration import Batch, Calibration, as_given, kept_out


def wanted_by_layer(ranks: Any, layers: Collection[str]) -> dict[str, Any]:
    """The rank or rule of each layer by name; layers without one are left alone.

    Raises
    ------
    ValueError
        A key of `ranks` is no layer, or has a budget.
    """
    if not isinstance(ranks, Mapping):
        return dict.fromkeys(layers, ranks)
    if list(layers) == [""]:
        raise ValueError(f"ranks must be a number or a rule for a single system or layer, got {ranks!r}")
    wanted = {str(key): value for key, value in ranks.items()}
    unknown = [key for key in wanted if key not in layers]
    if unknown:
        raise ValueError(
            f"the keys of ranks must be layers of the model ({', '.join(layers)}), got {', '.join(unknown)}"
        )
    shared = [key for key, value in wanted.items() if isinstance(value, (Budget, Divergence))]
    if shared:
        raise ValueError(
            f"a budget or a divergence is shared by all layers of a model, got one for {', '.join(shared)}"
        )
    return {key: value for key, value in wanted.items() if value is not None}


def check_number(wanted: Any, states: int | None = None) -> None:
    """Raise unless `wanted` is a rule or a number of states; of a layer by itself, one that it has."""
    if is_rule(wanted):
        return
    if states is not None:
        check_rank(wanted, states)
    elif not isinstance(wanted, (int, np.integer)) or isinstance(wanted, bool) or wanted < 1:
        raise ValueError(f"rank must be an integer of at least 1 or a rule, got {wanted!r}")


class Worth(NamedTuple):
    """What a budget must know of a layer: the squared error at each rank, its unit, and whether the layer is tied."""

    tail: NDArray[np.float64]
    unit: str
    tied: bool


def worths(candidates: Candidates) -> dict[str, Worth]:
    """Of each layer that takes part in a budget what it must know."""
    looked = {name: one for name, one in candidates.items() if not isinstance(one, Exception)}
    tails = {name: one.tail() for name, one in looked.items()}
    return {name: Worth(tail, looked[name].unit, looked[name].tied) for name, tail in tails.items() if tail is not None}


def shared_out(budget: Budget, layers: Mapping[str, Worth]) -> dict[str, int]:
    """The rank of each layer within a budget; in units of their own where the layers have none in common."""
    own = budget.relative or len({one.unit for one in layers.values()}) > 1
    tails = {name: relative(one.tail) if own else one.tail for name, one in layers.items()}
    return budget.shared(tails, [[name for name, one in layers.items() if one.tied]])


@dataclass(frozen=True)
class Outcome:
    """Ranks within a divergence, what was measured there, and what the values foretold, where they have one unit."""

    rule: Divergence
    ranks: dict[str, int]
    measured: Measured
    foretold: float | None
    tries: int

    @property
    def told(self) -> str:
        """What a plan says of it."""
        value, error, count = self.measured
        foretold = (
            ""
            if self.foretold is None
            else f"; the values predict a squared change of the scalar of {self.foretold:.3g}"
        )
        return (
            f"divergence {value:.3g} +- {error:.2g} {self.rule.unit} (tolerance {self.rule.tolerance:g}), measured on {count} "
            f"sequences that were kept apart, {self.tries} tries{foretold}"
        )


def _running(model: Any) -> Running:
    container = container_of(model)
    if container is None or container.running is None:
        raise ValueError(f"a divergence is measured on a model that balred can run, got {qualified(type(model))}")
    return container.running


def kept_apart(model: Any, how: Calibration) -> tuple[Calibration, list[Batch]]:
    """What to choose states on, and the batches that are kept out of it, on which a divergence is measured.

    Raises
    ------
    ValueError
        There are no data, or too few; `model` is not one that runs on them.
    """
    if how.data is None:
        raise ValueError("a divergence is measured on data, so calibration must be given, got none")
    choose, kept = kept_out(_running(model).batches(model, how.now()))
    return replace(how, data=as_given(choose)), kept


def within_divergence(
    rule: Divergence, candidates: Candidates, model: Any, kept: list[Batch], how: Calibration
) -> Outcome:
    """The least states of all layers together for which the model stays within the rule, of those tried.

    Parameters
    ----------
    rule : Divergence
    candidates : dict by layer name
    model : Any
    kept : list of batches
        What the divergence from it is measured on.
    how : Calibration
        How it is called with them.

    Raises
    ------
    ValueError
        There is nothing to cut, or the model is not within the rule even with all that can be kept.
    """
    layers = worths(candidates)
    if not layers:
        failed = "; ".join(f"{name or 'the layer'} ({one})" for name, one in candidates.items())
        raise ValueError(f"a divergence needs layers that can be cut, got {failed or 'none'}")
    most = sum(len(one.tail) - 1 for one in layers.values())
    found: dict[int, tuple[dict[str, int], Measured]] = {}
    running = _running(model)
    whole_model = running.outputs(model, how)

    def measured(new: Mapping[str, Any]) -> Measured:
        small = running.outputs(replace_layers(model, new), how)

        def answers(batch: Batch) -> tuple[Any, Any, Any]:
            full, mask = whole_model(batch)
            return full, small(batch)[0], mask

        return rule.measure(answers(batch) for batch in how.watched(kept))

    def holds(states: int) -> bool:
        try:
            ranks = shared_out(Budget(states=states, multiple_of=rule.multiple_of), layers)
        except ValueError:  # not a state for every layer
            return False
        made = cut_each(candidates, ranks)
        new = {name: one.layer for name, one in made.items() if isinstance(one, Smaller)}
        found[states] = ranks, measured(new)
        # a layer that cannot be cut to its rank stays as it is, which is not what was asked
        whole = not any(isinstance(one, Exception) for one in made.values())
        return whole and rule.holds(found[states][1])

    states = least(holds, len(layers), most)
    if states is None:
        tried = f"{min(one.value for _, one in found.values()):.3g} at best" if found else "no states that can be tried"
        raise ValueError(f"some number of states must keep the divergence within the tolerance of {rule}, got {tried}")
    ranks, reached = found[states]
    one_unit = {one.unit for one in layers.values()} == {"change of the output"}
    foretold = sum(float(layers[name].tail[rank]) for name, rank in ranks.items()) if one_unit else None
    return Outcome(rule, ranks, reached, foretold, len(found))


def ranks_by_layer(candidates: Candidates, wanted: Mapping[str, Any]) -> dict[str, int | Failure]:
    """The rank of every layer, or why it has none; those that are tied get the largest of theirs, as far as they have it."""
    ranks: dict[str, int | Failure] = {}
    tied: dict[str, Candidate] = {}
    for name, one in candidates.items():
        ranks[name] = one if isinstance(one, Exception) else attempted(partial(one.rank, wanted.get(name)))
        if not isinstance(one, Exception) and one.tied:
            tied[name] = one
    known = [rank for name in tied if not isinstance(rank := ranks[name], Exception)]
    return ranks | {name: min(max(known), one.states) for name, one in tied.items() if known}


def spared(layers: Mapping[str, Any], wanted: Mapping[str, Any], states: Mapping[str, int]) -> dict[str, str]:
    """Layers that need not be looked at, and why; a number that a layer by itself does not have is an error."""
    if len(layers) == 1 and states:
        ((name, n),) = states.items()
        check_number(wanted.get(name), n)
        return {}
    left = {name: "not in ranks" for name in layers if name not in wanted}
    for name, n in states.items():
        if name in wanted and not is_rule(wanted[name]) and wanted[name] > n:
            left[name] = f"has only {n} states"
    return left
