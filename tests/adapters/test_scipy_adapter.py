"""``scipy.signal`` systems: the same form out as in, continuous and discrete."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.signal as signal

import balred
from balred.testing import random_system

DTS = [None, 0.1, True]


def statespace(dt: Any, n: int = 6, m: int = 2, p: int = 2) -> Any:
    g = random_system(n, m, p, dt=0 if dt is None else 1)
    return signal.StateSpace(g.A, g.B, g.C, g.D, **({} if dt is None else {"dt": dt}))


def poles(dt: Any) -> Any:
    continuous = np.array([-1.0, -5.0, -20.0, -1 + 4j, -1 - 4j])
    return continuous if dt is None else np.exp(0.1 * continuous)


def points(dt: Any) -> Any:
    w = np.linspace(0.01, 3, 40)
    return 1j * 10 * w if dt is None else np.exp(1j * w)


def response(system: Any, s: Any) -> Any:
    g = system.to_ss()
    return np.stack([g.C @ np.linalg.solve(x * np.eye(len(g.A)) - g.A, g.B) + g.D for x in s])


@pytest.mark.parametrize("dt", DTS)
def test_state_space(dt: Any) -> None:
    system = statespace(dt)
    small = balred.reduce(system, 3)
    assert type(small) is type(system)
    assert small.A.shape == (3, 3)
    assert small.dt == dt
    assert system.A.shape == (6, 6)
    bound = 2 * balred.hsv(system)[3:].sum()
    gap = response(system, points(dt)) - response(small, points(dt))
    assert max(np.linalg.norm(x, 2) for x in gap) <= bound


@pytest.mark.parametrize("dt", DTS)
def test_zeros_poles_gain(dt: Any) -> None:
    system = signal.ZerosPolesGain([0.5], poles(dt), 2.0, **({} if dt is None else {"dt": dt}))
    small = balred.reduce(system, 3)
    assert type(small) is type(system)
    assert len(small.poles) == 3
    assert small.dt == dt
    gap = response(system, points(dt)) - response(small, points(dt))
    assert np.abs(gap).max() <= 2 * balred.hsv(system)[3:].sum() * (1 + 1e-6)


@pytest.mark.parametrize("dt", DTS)
@pytest.mark.parametrize("numerator", [[1.0, 2.0], [1.0, 0.0, 0.0, 0.0, 0.0, 2.0]], ids=["proper", "feedthrough"])
def test_transfer_function(dt: Any, numerator: list[float]) -> None:
    system = signal.TransferFunction(numerator, np.real(np.poly(poles(dt))), **({} if dt is None else {"dt": dt}))
    small = balred.reduce(system, 3)
    assert type(small) is type(system)
    assert len(small.den) == 4
    assert small.dt == dt
    gap = response(system, points(dt)) - response(small, points(dt))
    assert np.abs(gap).max() <= 2 * balred.hsv(system)[3:].sum() * (1 + 1e-6)


def test_the_generic_constructors() -> None:
    assert type(balred.reduce(signal.lti([1.0], [1.0, 3.0, 2.0]), 1)).__name__ == "TransferFunctionContinuous"
    assert type(balred.reduce(signal.dlti([1.0], [1.0, -0.7, 0.1], dt=0.5), 1)).__name__ == "TransferFunctionDiscrete"


def test_hsv_of_the_same_system_in_three_forms() -> None:
    zpk = signal.ZerosPolesGain([0.5], poles(None), 2.0)
    want = balred.hsv(zpk)
    np.testing.assert_allclose(balred.hsv(zpk.to_ss()), want, rtol=1e-8)
    np.testing.assert_allclose(balred.hsv(zpk.to_tf()), want, rtol=1e-6)


def test_integer_matrices_are_numbers_here() -> None:
    # scipy.signal takes [[-1]] and keeps integers; a system is one all the same
    assert balred.hsv(signal.StateSpace([[-1]], [[1]], [[1]], [[0]]))[0] == pytest.approx(0.5)
