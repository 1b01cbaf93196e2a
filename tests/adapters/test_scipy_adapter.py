"""``scipy.signal`` systems: the same form out as in, continuous and discrete."""

from __future__ import annotations

from typing import Any

import mpmath
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


# ---------------------------------------------------------------------------------- what comes back is what was reduced


def own_response(system: Any, s: Any) -> Any:
    """From the numbers that the object holds, by their definition."""
    if isinstance(system, signal.TransferFunction):
        num = np.atleast_2d(system.num)
        return np.array([np.polyval(row, s) / np.polyval(system.den, s) for row in num])
    up, down = (np.prod([s - x for x in y], axis=0) for y in (system.zeros, system.poles))
    return np.array([system.gain * up / down])


def back(form: Any, dt: Any) -> Any:
    """The way back to a form, taken from an object of it."""
    time = {} if dt is None else {"dt": dt}
    start = signal.TransferFunction([1.0], [1.0, 0.5], **time)
    return balred.adapt(start if form is signal.TransferFunction else start.to_zpk())[1]


@pytest.mark.parametrize("form", [signal.TransferFunction, signal.ZerosPolesGain])
@pytest.mark.parametrize("gain", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("unit", [1.0, 1e9])
@pytest.mark.parametrize("n", [0, 1, 4, 10])
def test_the_response_is_that_of_the_reduced_system(form: Any, gain: float, unit: float, n: int) -> None:
    g = random_system(max(n, 1), 1, 1, seed=n)
    g = balred.ss(unit * g.A[:n, :n], gain * unit * g.B[:n], g.C[:, :n], [[0.2 * gain * (n % 4 == 0)]])
    made = back(form, None)(g)
    s = 1j * unit * np.logspace(-1, 1.5, 30)
    # the state space itself, whose solve is accurate to rounding in these coordinates (mpmath: tests of rational)
    want = np.array([g(x)[0, 0] for x in s])
    np.testing.assert_allclose(own_response(made, s)[0], want, rtol=1e-10, atol=1e-13 * np.abs(want).max())
    np.testing.assert_allclose(made.freqresp(s.imag)[1], want, rtol=1e-10, atol=1e-13 * np.abs(want).max())
    # and it is read as what it is
    again = balred.adapt(made)[0]
    assert again.order == n
    np.testing.assert_allclose([again(x)[0, 0] for x in s], want, rtol=1e-10, atol=1e-12 * np.abs(want).max())


@pytest.mark.parametrize("dt", [0.1, True])
@pytest.mark.parametrize("form", [signal.TransferFunction, signal.ZerosPolesGain])
def test_discrete_responses(form: Any, dt: Any) -> None:
    g = random_system(7, 1, 1, dt=1, seed=3)
    made = back(form, dt)(balred.ss(g.A, g.B, g.C, g.D, dt))
    assert made.dt == dt
    w = np.linspace(0.01, 3.1, 40)
    want = np.array([g(x)[0, 0] for x in np.exp(1j * w)])
    np.testing.assert_allclose(made.freqresp(w)[1], want, rtol=1e-10, atol=1e-12 * np.abs(want).max())


def test_a_small_gain_at_full_order_keeps_its_dc_gain() -> None:
    system = signal.TransferFunction(1e-12 * np.array([1.0, 3.0, 1.0]), np.poly([-1.0, -2.0, -3.0]))
    small = balred.reduce(system, 3)
    # H(0) = 1e-12 / 6
    assert small.num[-1] / small.den[-1] == pytest.approx(1e-12 / 6, rel=1e-12)
    np.testing.assert_allclose(small.num, system.num, rtol=1e-10)


@pytest.mark.parametrize(
    "constant",
    [
        signal.TransferFunction([2.0], [1.0]),
        signal.TransferFunction([4.0], [2.0], dt=0.1),
        signal.ZerosPolesGain([], [], 2.0),
        signal.StateSpace(np.zeros((0, 0)), np.zeros((0, 1)), np.zeros((1, 0)), [[2.0]]),
        signal.TransferFunction([2.0], [1.0]).to_ss(),
    ],
)
def test_a_constant_has_no_states(constant: Any) -> None:
    system, rebuild = balred.adapt(constant)
    assert system.order == 0
    assert balred.hsv(constant).shape == (0,)
    again = rebuild(system)
    assert type(again) is type(constant)
    assert again.freqresp([1.0])[1] == pytest.approx(2.0)


def test_all_outputs_of_one_input() -> None:
    system = signal.TransferFunction([[1.0, 2.0, 0.0], [0.0, 3.0, 4.0], [0.0, 0.0, 1.0]], [1.0, 3.0, 2.0])
    assert balred.adapt(system)[0](1j) == pytest.approx(own_response(system, np.array([1j])))
    small = balred.reduce(system, 2)
    assert small.outputs == 3
    s = 1j * np.logspace(-2, 2, 20)
    np.testing.assert_allclose(own_response(small, s), own_response(system, s), rtol=1e-10, atol=1e-12)


def test_several_inputs_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"TransferFunction must have one input, got 2"):
        back(signal.TransferFunction, None)(random_system(3, 2, 1))
    with pytest.raises(ValueError, match=r"ZerosPolesGain must have one input and one output, got 1 and 2"):
        back(signal.ZerosPolesGain, None)(random_system(3, 1, 2))
    with pytest.raises(ValueError, match="one input and one output to be read"):
        balred.hsv(signal.ZerosPolesGain([[1.0], [2.0]], [-3.0, -4.0], [1.0, 2.0]))


def test_what_polynomials_cannot_hold_is_refused() -> None:
    # twenty resonances within a percent (tests of rational)
    pairs = np.kron(np.eye(20), [[-1e-3, 0.0], [0.0, -1e-3]])
    turn = np.kron(np.diag(np.linspace(1.0, 1.01, 20)), [[0.0, 1.0], [-1.0, 0.0]])
    g = balred.ss(pairs + turn, np.ones((40, 1)), np.ones((1, 40)))
    with pytest.raises(ValueError, match=r"TransferFunction must hold .* reduce its ZerosPolesGain or StateSpace form"):
        back(signal.TransferFunction, None)(g)


@pytest.mark.filterwarnings("ignore::scipy.signal.BadCoefficients")
@pytest.mark.filterwarnings("ignore::balred.BoundaryWarning")  # of poles that the coefficients have lost
@pytest.mark.parametrize("n", [4, 6, 8])
@pytest.mark.parametrize("cutoff", [0.2, 0.05, 0.02, 0.01, 0.005, 0.002])
def test_a_low_pass_in_coefficients_is_right_or_refused(n, cutoff):
    # the response of the coefficients themselves, in 60 digits
    given = signal.TransferFunction(*signal.butter(n, cutoff), dt=1.0)
    made, refusal = None, ""
    try:
        made = balred.reduce(given, n)
    except ValueError as error:
        refusal = str(error)
    if made is None:
        assert "must hold the frequency response to a relative 1e-08" in refusal
        return
    with mpmath.workdps(60):

        def value(f, w):
            num, den = ([mpmath.mpf(float(c)) for c in x] for x in (f.num, f.den))
            return mpmath.polyval(num, mpmath.expj(w)) / mpmath.polyval(den, mpmath.expj(w))

        for w in (0.0, *np.pi * cutoff * np.geomspace(0.1, 3, 20)):
            assert abs(value(given, w) - value(made, w)) < 3e-8
