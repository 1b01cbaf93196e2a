"""How many states each layer keeps: numbers, rules or a budget, and what ties the layers of a model together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from balred.ranks.budget import Budget, relative
from balred.ranks.choosing import check_rank, is_rule
from balred.reduction.candidates import Candidate, Candidates, Failure, attempted


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
    budgets = [key for key, value in wanted.items() if isinstance(value, Budget)]
    if budgets:
        raise ValueError(f"a budget is shared by all layers of a model, got one for {', '.join(budgets)}")
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
