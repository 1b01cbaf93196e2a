"""Options of methods: of another kind than they must be, they are named before anything is computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import balred
from balred.methods import METHODS

G = balred.ss([[-1.0, 0.2], [0.0, -2.0]], np.ones((2, 1)), np.ones((1, 2)), [[1.0]])
WRONG: dict[type, list[Any]] = {
    float: ["3", None, (1, 2), [1.0], np.array([1.0, 2.0]), True, 1j, {}, b"3", 10**400],
    bool: ["False", None, 0, 1.0, [True], "no"],
    str: [None, 1, True, np.array([1.0, 2.0]), ["enns"]],
}
KINDS = {"horizon": float}
"""Of options that have no default."""
CASES = [
    (method, option, value)
    for method, row in METHODS.items()
    for option, default in row.options.items()
    if option != "dominance"  # which may be a function
    for value in WRONG.get(KINDS.get(option, float if option == "start" else type(default)), [])
]


@pytest.mark.parametrize(("method", "option", "value"), CASES, ids=repr)
def test_options_of_another_kind_are_named(method: str, option: str, value: Any) -> None:
    """A string "False" counted as True before."""
    needed: dict[str, Any] = {"time_limited": {"horizon": 1.0}, "frequency_limited": {"band": (1, 2)}}.get(method, {})
    with pytest.raises(TypeError, match=rf"^{option} must be .*, got "):
        balred.reduce(G, 1, method=method, **{**needed, option: value})


@pytest.mark.parametrize("gamma", [3, np.float32(3), np.array(3.0), balred.norm(G, "hinf") * 2])
def test_numbers_of_arrays_are_numbers(gamma: Any) -> None:
    assert balred.reduce(G, 1, method="bounded_real", gamma=gamma).states == 1


def test_frameworks_numbers_are_numbers(xp: Any) -> None:
    assert balred.reduce(G, 1, method="time_limited", horizon=xp.array([2.0])[0]).states == 1


CALLS: dict[str, Any] = {
    "hsv": (lambda **k: balred.hsv(G, **k), {"solver": str, "offset": float}),
    "reduce": (lambda **k: balred.reduce(G, 1, **k), {"solver": str, "offset": float}),
    "norm": (lambda **k: balred.norm(G, **k), {"kind": str, "peak": bool, "solver": str}),
    "minimal": (lambda **k: balred.minimal(G, **k), {"tol": float}),
    "descriptor": (lambda **k: balred.descriptor(np.eye(2), G.A, G.B, G.C, **k), {"tol": float}),
    "loewner": (lambda **k: balred.loewner([1j, 2j], [1.0, 2.0], **k), {"tol": float, "real": bool}),
    "era": (lambda **k: balred.era(0.5 ** np.arange(9), 1, **k), {"stable": bool}),
    "diagonal": (lambda **k: balred.diagonal([-1.0], [[1.0]], [[1.0]], **k), {"conjugate": bool}),
    "Energy": (lambda **k: balred.Energy(0.9, **k), {"squared": bool}),
    "ErrorBound": (lambda **k: balred.ErrorBound(0.9, **k), {"relative": bool}),
    "MeasuredError": (lambda **k: balred.MeasuredError(0.9, **k), {"relative": bool}),
}


@pytest.mark.parametrize(
    ("call", "option", "value"),
    [
        (call, option, value)
        for call, (_, options) in CALLS.items()
        for option, kind in options.items()
        for value in WRONG[kind]
        if not (value is None and option in ("solver", "offset", "tol") and call != "loewner")
    ],
    ids=repr,
)
def test_options_of_functions_are_named(call: str, option: str, value: Any) -> None:
    with pytest.raises(TypeError, match=rf"^{option} must be .*, got "):
        CALLS[call][0](**{option: value})


@pytest.mark.parametrize("precision", [None, 64, ["float64"], np.array("x"), "double"])
def test_precisions_are_named(precision: Any) -> None:
    with pytest.raises(ValueError, match="precision must be float64 or float32, got "):
        balred.hsv(G, precision=precision)
