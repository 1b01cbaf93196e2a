"""``control.StateSpace`` in and out, with names and dt kept."""

from __future__ import annotations

from typing import Any

import control

from balred.registry.entries import register
from balred.systems.dense_system import ss
from balred.systems.leaves import System


@register(control.StateSpace)
def adapt_statespace(obj: Any) -> tuple[System, Any]:
    """The dense system of `obj`; states keep their names unless their number changes.

    An unspecified time base (``dt=None``) counts as continuous, and is None again on the way back.

    Examples
    --------
    >>> import control
    >>> from balred.adapters.control import adapt_statespace
    >>> system, rebuild = adapt_statespace(control.ss([[-1.0]], [[1.0]], [[2.0]], 0, inputs=["force"]))
    >>> system
    DenseSystem(states=1, inputs=1, outputs=1, continuous, float64, numpy)
    >>> rebuild(system).input_labels
    ['force']
    """
    system = ss(obj.A, obj.B, obj.C, obj.D, dt=0 if obj.dt is None else obj.dt)

    def rebuild(reduced: Any) -> Any:
        g = reduced.to_dense()
        names: dict[str, Any] = {"inputs": obj.input_labels, "outputs": obj.output_labels, "name": obj.name}
        if g.order == obj.nstates and g is system:
            names["states"] = obj.state_labels
        return control.StateSpace(g.A, g.B, g.C, g.D, obj.dt, **names)

    return system, rebuild
