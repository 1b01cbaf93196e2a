"""Moments of an optimizer through a cut: which of them can be carried, whatever the optimizer calls them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from balred.reduction.candidates import Smaller
from balred.registry.entries import entry_of

Hosts = dict[str, NDArray[Any]]
"""Arrays on the host by the names of a layer's parameters."""

Carrier = Callable[[Hosts, Hosts, Hosts, int], Hosts]


def carrier(layer: Any, cut: Smaller | None) -> Carrier | None:
    """What takes the moments of a layer through its cut; None where that is not known, so that they must start afresh.

    Parameters
    ----------
    layer : layer
        As it was before the cut.
    cut : Smaller or None

    Returns
    -------
    callable or None
        ``carry(old, new, moments, power)``: the moments of the new parameters from those of the old ones, all as NumPy
        arrays by name; `power` is 1 for averages of gradients and 2 for those of their squares.

    Examples
    --------
    >>> import balred
    >>> from balred.reduction.candidates import Smaller
    >>> system = balred.testing.random_system(3)  # no layer: it has no parameters
    >>> carrier(system, Smaller(system, 2, 1, 0.9)) is None
    True
    """
    entry = entry_of(layer)
    function = None if entry is None else entry.carry
    change = None if cut is None else cut.change
    if function is None or change is None:
        return None
    return lambda old, new, moments, power: function(old, new, moments, change, power)
