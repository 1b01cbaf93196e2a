"""A JAX model before and after a cut, as states of optimizers and averages, which follow it, need to see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from balred.reduction.candidates import Smaller


@dataclass(frozen=True)
class Resizing:
    """A model before and after a cut.

    Attributes
    ----------
    old, new : dict
        Arrays of the model by name.
    layers, smaller : dict
        The layers that change, by name.
    cuts : dict
        What was done to them; empty if only their sizes matter, since values will be loaded.
    """

    old: Mapping[str, Any]
    new: Mapping[str, Any]
    layers: Mapping[str, Any]
    smaller: Mapping[str, Any]
    cuts: Mapping[str, Smaller]

    def of(self, layer: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Those of `values` that belong to a layer, by their names in it."""
        prefix = f"{layer}." if layer else ""
        return {n[len(prefix) :]: x for n, x in values.items() if n.startswith(prefix)}

    def changed(self, name: str) -> bool:
        """Whether an array has another shape now."""
        return bool(self.old[name].shape != self.new[name].shape)
