"""What to write instead, for common objects of other libraries that are no systems as they stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_LINEARISE = "linearise it first, balred.reduce(control.linearize(sys, x0, u0), rank)"
_DIGITAL = " (a digital filter needs dt=1.0 or its step in the inner brackets)"
_SSDATA = "save what MATLAB's ssdata gives for it, [A, B, C, D] = ssdata(sys), and read these"
_LINES = {
    "control.nlsys.NonlinearIOSystem": _LINEARISE,
    "control.iosys.InputOutputSystem": _LINEARISE,
    "control.timeresp.TimeResponseData": "a model of an impulse response is balred.adapters.control.era(data, r)",
    "harold._classes.State": "write balred.ss(*G.matrices, dt=G.SamplingPeriod or 0)",
    "harold._classes.Transfer": ("write balred.ss(*harold.transfer_to_state(G).matrices, dt=G.SamplingPeriod or 0)"),
    "pymor.models.basic.InstationaryModel": "write balred.reduce(model.to_lti(), rank)",
    "pymor.models.transfer_function.TransferFunction": (
        "make a model of its values, balred.realisations.loewner.loewner(1j * w, [tf.eval_tf(1j * x) for x in w])"
    ),
    "pymor.models.iosys.BilinearModel": "it is not linear; balred.reduce takes its linear part as an LTIModel",
    "pymor.models.iosys.LinearStochasticModel": "balred.reduce takes its deterministic part as an LTIModel",
    "pymor.models.iosys.LinearDelayModel": (
        "make a model of its transfer function's values, balred.realisations.loewner.loewner(points, values)"
    ),
    "scipy.io.matlab._mio5_params.MatlabOpaque": _SSDATA,
    "scipy.io.matlab._mio5_params.MatlabObject": _SSDATA,
    "scipy.io.matlab._mio5_params.MatlabFunction": _SSDATA,
}
"""By the qualified names of classes, the first in the order of bases that has one."""


def hint_for(obj: Any) -> str:
    """One line that makes a system of `obj`, or an empty text where nothing is known of it."""
    names = [f"{base.__module__}.{base.__qualname__}" for base in type(obj).__mro__]
    found = next((_LINES[name] for name in names if name in _LINES), "")
    if found:
        return found
    if any(name.startswith("scipy.sparse.") for name in names):
        return "a system with sparse matrices is balred.realisations.sparse.sparse_system(A, B, C)"
    if type(obj) in (tuple, list) and 3 <= len(obj) <= 5 and [getattr(x, "ndim", None) for x in obj[:3]] == [2, 2, 2]:
        return "write balred.ss(*t)"
    if type(obj) is tuple:
        return _of_tuple(obj)
    fields = getattr(getattr(obj, "dtype", None), "names", None)
    if fields:  # a struct of MATLAB as loadmat gives it
        at = "s[0, 0]" if getattr(obj, "ndim", 0) == 2 else "s"
        return _matrices(fields, lambda name: f"{at}[{name!r}]")
    if isinstance(obj, Mapping):
        return _matrices([key for key in obj if isinstance(key, str)], lambda name: f"d[{name!r}]")
    if hasattr(obj, "ndim") and hasattr(obj, "dtype"):
        if obj.ndim == 2 and obj.shape[0] < obj.shape[1] == 6:
            return (
                "second-order sections go through balred.reduce(scipy.signal.ZerosPolesGain(*scipy.signal.sos2zpk(sos)), rank)"
                + _DIGITAL
            )
        return "a system is made of its matrices by balred.ss(A, B, C, D)"
    return _matrices([name for name in "ABCDabcd" if hasattr(obj, name)], lambda name: f"sys.{name}")


def _matrices(names: Any, write: Callable[[str], str]) -> str:
    for wanted in ("ABCD", "abcd"):
        held = [name for name in wanted if name in names]
        if len(held) >= 3 and held[:3] == list(wanted[:3]):
            return f"write balred.ss({', '.join(map(write, held))})"
    if {"num", "den"} <= set(names):
        return f"write balred.reduce(scipy.signal.TransferFunction({write('num')}, {write('den')}), rank)"
    if isinstance(names, list) and "__header__" in names:
        inside = [name for name in names if not name.startswith("__")]
        return f"pass the variable of the MATLAB file that holds the system, one of {', '.join(inside) or 'none'}"
    return ""


def _of_tuple(obj: tuple[Any, ...]) -> str:
    sizes = [getattr(x, "ndim", None) for x in obj]
    if len(obj) >= 4 and isinstance(obj[0], int) and sizes[1:4] == [2, 2, 2]:  # (nr, A, B, C, ...) of SLICOT's routines
        last = 5 if sizes[4:5] == [2] else 4
        return f"slycot returns the order and then the matrices: write balred.ss(*t[1:{last}])"
    if len(obj) == 2 and all(_is_vector(x) for x in obj):
        return "numerator and denominator go through balred.reduce(scipy.signal.TransferFunction(*t), rank)" + _DIGITAL
    if len(obj) == 3 and sizes[:2] == [2, 1]:  # (num, den, dt) of cont2discrete
        return "write balred.reduce(scipy.signal.TransferFunction(t[0].ravel(), t[1], dt=t[2]), rank)"
    if len(obj) in (3, 4) and all(_is_vector(x) for x in obj[:2]) and not any(_is_vector(x) for x in obj[2:]):
        given, digital = ("*t", _DIGITAL) if len(obj) == 3 else ("*t[:3], dt=t[3]", "")
        return f"zeros, poles and gain go through balred.reduce(scipy.signal.ZerosPolesGain({given}), rank){digital}"
    if len(obj) in (4, 5) and sizes[0] == 2 and any(_is_vector(x) for x in obj[1:3]):
        return "B must have shape (n, m) and C (p, n): write b[:, None] and c[None, :] for vectors"
    return ""


def _is_vector(x: Any) -> bool:
    if hasattr(x, "ndim"):
        return bool(x.ndim == 1)
    return isinstance(x, (list, tuple)) and all(isinstance(v, (int, float, complex)) for v in x)
