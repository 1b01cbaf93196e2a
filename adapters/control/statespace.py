"""python-control: ``control.StateSpace`` in and out, with names and dt kept, and its own functions as drop-ins."""

from __future__ import annotations

from typing import Any

import control

from balred.adapters.control.gramians import balreal, gram, hankel_singular_values, hsvd
from balred.adapters.control.reduction import (
    balanced_reduction,
    balred,
    minimal_realization,
    minreal,
    model_reduction,
    modred,
)
from balred.registry.entries import register
from balred.systems.dense_system import ss
from balred.systems.leaves import System

__all__ = [
    "adapt_statespace",
    "balanced_reduction",
    "balreal",
    "balred",
    "gram",
    "hankel_singular_values",
    "hsvd",
    "minimal_realization",
    "minreal",
    "model_reduction",
    "modred",
]


@register(control.StateSpace)
def adapt_statespace(obj: Any) -> tuple[System, Any]:
    """The dense system of `obj`; states keep their names unless their number changes.

    An unspecified time base (``dt=None``) counts as continuous, and is None again on the way back.
    """
    system = ss(obj.A, obj.B, obj.C, obj.D, dt=0 if obj.dt is None else obj.dt)

    def rebuild(reduced: Any) -> Any:
        g = reduced.to_dense()
        names: dict[str, Any] = {"inputs": obj.input_labels, "outputs": obj.output_labels, "name": obj.name}
        if g.order == obj.nstates and g is system:
            names["states"] = obj.state_labels
        return control.StateSpace(g.A, g.B, g.C, g.D, obj.dt, **names)

    return system, rebuild
