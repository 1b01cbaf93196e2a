"""``scipy.signal`` systems: StateSpace and dlti, continuous and discrete; transfer functions through their state space."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import signal

from balred.registry.entries import register
from balred.systems.dense_system import ss
from balred.systems.leaves import System


def _adapt(obj: Any) -> tuple[System, Any]:
    """The dense system of `obj`, and the way back to its own form (state space, transfer function or zeros and poles)."""
    form = obj.to_ss()
    A, B, C, D = (np.asarray(x, dtype=np.result_type(x, np.float64)) for x in (form.A, form.B, form.C, form.D))
    system = ss(A, B, C, D, dt=0 if obj.dt is None else obj.dt)

    def rebuild(reduced: Any) -> Any:
        g = reduced.to_dense()
        make = signal.StateSpace
        small = make(g.A, g.B, g.C, g.D) if obj.dt is None else make(g.A, g.B, g.C, g.D, dt=obj.dt)
        if isinstance(obj, signal.StateSpace):
            return small
        num, den = signal.ss2tf(small.A, small.B, small.C, small.D)
        num = num[0]  # SciPy's own conversions warn of the zeros that a strictly proper system begins with
        num = num[np.argmax(np.abs(num) > 1e-12 * np.abs(num).max()) :]
        time = {} if obj.dt is None else {"dt": obj.dt}
        if isinstance(obj, signal.TransferFunction):
            return signal.TransferFunction(num, den, **time)
        return signal.ZerosPolesGain(np.roots(num), np.linalg.eigvals(small.A), num[0], **time)

    return system, rebuild


for _cls in (signal.lti, signal.dlti):
    register(_cls, _adapt)
