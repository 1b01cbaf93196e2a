"""``scipy.signal`` systems: state space, transfer function, zeros and poles; continuous and discrete; the same form back.

SciPy's own conversions go through coefficients, and drop coefficients below 1e-14, however small the others are.  Here zeros,
poles and gain are computed from the state space.  If the form cannot hold the result, there is an error.

Examples
--------
>>> import balred, scipy.signal
>>> plant = scipy.signal.TransferFunction([1.0, 3.0, 1.0], [1.0, 6.0, 11.0, 6.0])
>>> small = balred.reduce(plant, 2)
>>> type(small).__name__, len(small.den) - 1
('TransferFunctionContinuous', 2)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from balred.realisations.rational import check_held, fractions, value_of, zeros_poles_gain
from balred.realisations.transfer import from_coefficients, from_zeros_poles_gain
from balred.registry.entries import register
from balred.systems.dense_system import DenseSystem, ss
from balred.systems.leaves import System

Matrix = NDArray[Any]


@register(signal.lti)
@register(signal.dlti)
def adapt_signal(obj: Any) -> tuple[System, Any]:
    """The dense system of a ``scipy.signal`` system, and the way back to its own form.

    A ``TransferFunction`` has one input, a ``ZerosPolesGain`` one output too.  A gain has no states (SciPy gives it one that
    nothing reaches).

    Raises
    ------
    ValueError
        Coefficients that are no proper transfer function of one input, zeros and poles of several; on the way back, a
        system of several inputs, or one whose frequency response the form cannot hold.
    """
    time = {} if obj.dt is None else {"dt": obj.dt}
    dt = obj.dt or 0
    write: Callable[[DenseSystem, dict[str, Any]], Any]
    if isinstance(obj, signal.TransferFunction):
        system, write = from_coefficients(obj.num, obj.den, dt), _transfer_function
    elif isinstance(obj, signal.ZerosPolesGain):
        if np.ndim(obj.zeros) > 1 or np.size(obj.gain) != 1:
            raise ValueError(
                f"a ZerosPolesGain must have one input and one output to be read, got zeros of shape {np.shape(obj.zeros)} "
                f"and {np.size(obj.gain)} gains: give a StateSpace"
            )
        system, write = from_zeros_poles_gain(obj.zeros, obj.poles, np.ravel(obj.gain)[0], dt), _zeros_poles_gain
    else:
        form = obj.to_ss()
        A, B, C, D = (np.asarray(x, dtype=np.result_type(x, np.float64)) for x in (form.A, form.B, form.C, form.D))
        if A.shape == (1, 1) and not (A.any() or B.any() or C.any()):
            A, B, C = A[:0, :0], B[:0], C[:, :0]
        system, write = ss(A, B, C, D, dt=dt), _state_space
    return system, lambda reduced: write(reduced.to_dense(), time)


def _state_space(g: DenseSystem, time: dict[str, Any]) -> Any:
    return signal.StateSpace(g.A, g.B, g.C, g.D, **time)


def _transfer_function(g: DenseSystem, time: dict[str, Any]) -> Any:
    if g.B.shape[1] != 1:
        raise ValueError(f"a scipy.signal.TransferFunction must have one input, got {g.B.shape[1]}: use a StateSpace")
    found = fractions(g, "a scipy.signal.TransferFunction", "reduce its ZerosPolesGain or StateSpace form")
    rows, den = [num for ((num, _),) in found], found[0][0][1]
    made = signal.TransferFunction([1.0], den, **time)
    # set afterwards: the constructor drops leading coefficients below 1e-14
    width = max(map(len, rows))
    made.num = rows[0] if len(rows) == 1 else np.array([np.pad(x, (width - len(x), 0)) for x in rows])
    return made


def _zeros_poles_gain(g: DenseSystem, time: dict[str, Any]) -> Any:
    if g.D.shape != (1, 1):
        raise ValueError(
            f"a scipy.signal.ZerosPolesGain must have one input and one output, got {g.D.shape[1]} and {g.D.shape[0]}: "
            "use a StateSpace"
        )
    zeros, poles, gain = zeros_poles_gain(g)
    form = "a scipy.signal.ZerosPolesGain"
    check_held(g, lambda s: value_of(zeros, poles, gain, s), poles, form, "reduce its StateSpace form")
    return signal.ZerosPolesGain(zeros, poles, gain, **time)
