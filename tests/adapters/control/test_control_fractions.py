"""``control.TransferFunction`` and ``FrequencyResponseData``: in and out with names, dt and frequency response."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

control = pytest.importorskip("control")

import balred  # noqa: E402
from balred.adapters.control import frequency_data  # noqa: E402
from balred.realisations.loewner import loewner  # noqa: E402
from balred.testing import random_system  # noqa: E402


def points(dt: Any) -> Any:
    return np.exp(1j * np.linspace(0.05, 3.0, 25)) if dt else 1j * np.logspace(-2, 2, 25)


def values(g: Any, s: Any) -> Any:
    return g(s, squeeze=False)


def siso(dt: Any, gain: float = 1.0) -> Any:
    # poles of a damped chain; sampled for discrete time
    poles = np.array([-1.0, -3.0, -0.5 + 2j, -0.5 - 2j, -7.0])
    poles = np.exp(0.1 * poles) if dt else poles
    return control.tf(
        gain * np.array([1.0, 2.0, 0.5]), np.real(np.poly(poles)), dt or 0, inputs="u", outputs="y", name="plant"
    )


@pytest.mark.parametrize("dt", [0, 0.1, True])
@pytest.mark.parametrize("gain", [1e-12, 1.0, 1e12])
def test_a_transfer_function_comes_back_as_one(dt: Any, gain: float) -> None:
    plant = siso(dt, gain)
    full, small = balred.reduce(plant, 5), balred.reduce(plant, 3)
    for made, order in ((full, 5), (small, 3)):
        assert type(made) is control.TransferFunction
        assert len(made.den[0][0]) == order + 1
        assert (made.name, made.input_labels, made.output_labels) == ("plant", ["u"], ["y"])
        assert made.dt is True if dt is True else made.dt == dt
    s = points(dt)
    want = values(plant, s)
    assert_allclose(values(full, s), want, rtol=1e-8, atol=1e-11 * np.abs(want).max())
    assert np.abs(values(small, s) - want).max() <= 2 * balred.hsv(plant)[3:].sum() * (1 + 1e-6)


def test_an_unspecified_time_base_stays_one() -> None:
    plant = control.TransferFunction([1.0], [1.0, 3.0, 2.0], None)
    assert balred.reduce(plant, 1).dt is None
    assert balred.reduce(control.tf([3.0], [1.0, 1.0], 0.1), 1).dt == 0.1


@pytest.mark.parametrize("shape", [(1, 3), (3, 1), (2, 2), (3, 2)])
def test_several_inputs_and_outputs(shape: tuple[int, int]) -> None:
    p, m = shape
    g = random_system(5, m, p, seed=3)
    start = control.tf([[[1.0]] * m] * p, [[[1.0, 1.0]] * m] * p)
    made = balred.adapt(start)[1](g)
    assert (made.noutputs, made.ninputs) == shape
    s = points(0)
    want = np.stack([g(x) for x in s], axis=-1)
    assert_allclose(values(made, s), want, rtol=1e-9, atol=1e-12 * np.abs(want).max())
    # sixteen states stand for five in the entries; those they have in common are found again
    again = balred.adapt(made)[0]
    assert again.order == 5
    assert_allclose(np.stack([again(x) for x in s], axis=-1), want, rtol=1e-7, atol=1e-9 * np.abs(want).max())


def test_an_integrator_in_common_counts_once() -> None:
    plant = control.tf([[[1.0], [2.0]], [[3.0], [6.0]]], [[[1.0, 0.0]] * 2] * 2)
    assert balred.hsv(plant).tolist() == [np.inf]
    zero = control.tf([[[0.0], [2.0]]], [[[1.0], [1.0, 4.0]]])
    assert balred.hsv(zero) == pytest.approx([0.25])  # 2 / (s + 4): k / (2 a)


@pytest.mark.parametrize(("pair", "dt"), [([1.0, 0.0, 1.0], 0), ([1.0, -1.2, 1.0], 1)])
def test_entries_that_oscillate_are_read_and_written(pair: list[float], dt: int) -> None:
    """The poles of some entries are points at which others are compared."""
    lag, slow = ([1.0, -0.5], [1.0, -0.9]) if dt else ([1.0, 1.0], [1.0, 0.1])
    den = [[np.polymul(lag, pair), lag, np.polymul(slow, pair)], [pair, np.polymul(lag, slow), slow]]
    plant = control.tf([[[1.0, 2.0], [0.5], [3.0]], [[1.0], [1.0], [0.0]]], den, dt)
    system = balred.adapt(plant)[0]
    assert np.isinf(balred.hsv(system)).sum() == 4
    s = np.exp(1j * np.array([0.1, 0.7, 2.0])) if dt else 1j * np.array([0.1, 0.7, 2.0])
    want = np.moveaxis(values(plant, s), 2, 0)
    for x, one in zip(s, want, strict=True):
        assert_allclose(system(x), one, rtol=1e-12, atol=1e-12)
    again = balred.reduce(plant, system.order)
    assert_allclose(np.moveaxis(values(again, s), 2, 0), want, rtol=1e-8, atol=1e-12)


def test_gains_and_what_is_no_system() -> None:
    gain = control.tf([2.0], [1.0])
    assert balred.adapt(gain)[0].order == 0
    assert balred.adapt(gain)[1](balred.adapt(gain)[0]).num[0][0] == pytest.approx([2.0])
    with pytest.raises(ValueError, match="must be proper, got a numerator of degree 1 over degree 0"):
        balred.hsv(control.tf([1.0, 0.0], [1.0]))
    rotated = balred.ss([[-1.0 + 1j]], [[1.0 + 0j]], [[1.0 + 0j]])
    with pytest.raises(ValueError, match="must be real, got a complex system"):
        balred.adapt(gain)[1](rotated)


# ------------------------------------------------------------------------------------------------ frequency responses


@pytest.mark.parametrize("dt", [0, 0.1])
@pytest.mark.parametrize("shape", [(1, 1), (2, 3)])
def test_a_frequency_response_comes_back_as_one(dt: float, shape: tuple[int, int]) -> None:
    p, m = shape
    g = random_system(6, m, p, dt=1 if dt else 0, seed=1)
    plant = control.ss(g.A, g.B, g.C, g.D, dt)
    omega = np.linspace(0.5, 30, 40) if dt else np.logspace(-2, 2, 40)
    data = control.frd(plant, omega, name="measured")
    assert_allclose(balred.hsv(data)[:6], balred.hsv(plant), rtol=1e-5)
    small = balred.reduce(data, 4)
    assert type(small) is control.FrequencyResponseData
    assert (small.name, small.dt) == ("measured", dt)
    assert_allclose(small.omega, omega)
    gap = np.abs(np.moveaxis(small.frdata - data.frdata, 2, 0))
    assert np.linalg.norm(gap, axis=(1, 2)).max() <= 2 * (p * m) ** 0.5 * balred.hsv(plant)[4:].sum() * (1 + 1e-5)


def test_data_for_the_methods_of_data() -> None:
    plant = siso(0)
    omega = np.array([3.0, 0.1, 1.0, 0.3, 10.0, 0.03, 30.0, 5.0, 0.7, 2.0, 1.5, 0.5])
    data = control.FrequencyResponseData(values(plant, 1j * omega), omega)
    s, H = frequency_data(data)
    assert (np.diff(s.imag) > 0).all()
    g = loewner(s, H)
    assert g.order == 5
    assert_allclose(np.sort_complex(np.linalg.eigvals(g.A)), np.sort_complex(plant.poles()), rtol=1e-6)


def test_what_is_no_response_of_a_system_is_refused() -> None:
    omega = np.linspace(0.1, 40.0, 10)
    with pytest.raises(ValueError, match=r"beyond that of Nyquist, 31\.4159, got 40"):
        frequency_data(control.FrequencyResponseData(np.ones(10), omega, 0.1))
    with pytest.raises(ValueError, match="must not be below zero, got -1"):
        frequency_data(control.FrequencyResponseData(np.ones(2), [-1.0, 1.0]))
    with pytest.raises(TypeError, match=r"must be control.FrequencyResponseData, got TransferFunction"):
        frequency_data(siso(0))


@pytest.mark.parametrize("noise", [1e-3, 1e-6, 1e-9])
def test_noisy_data_are_refused_and_noise_can_be_told(noise: float) -> None:
    omega = np.logspace(-1.5, 1.5, 40)
    rng = np.random.default_rng(0)
    exact = values(siso(0), 1j * omega)
    data = control.FrequencyResponseData(exact * (1 + noise * rng.standard_normal(40)), omega)
    with pytest.raises(ValueError, match=r"the data must .*frequency_data\(data\), tol=noise\)"):
        balred.reduce(data, 3)
    g = loewner(*frequency_data(data), tol=5 * noise)
    assert g.order <= 5


def test_too_few_data_are_refused() -> None:
    omega = np.array([0.3, 1.0, 3.0])
    with pytest.raises(ValueError, match="got 2 for 3 frequencies, so they are noisy or too few"):
        balred.hsv(control.frd(siso(0), omega))
