"""Frequency responses against the transfer function point by point, and grids that miss no peak."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import balred
from balred.measures.hinf import hinf_peak
from balred.measures.responses import frequency_grid, frequency_response


@pytest.mark.parametrize(
    ("kind", "complex"), [("dense", False), ("dense", True), ("diagonal", True), ("conjugate", True)]
)
@pytest.mark.parametrize("dt", [0, True, 0.1])
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 6), m=st.integers(1, 3), p=st.integers(1, 3))
def test_the_response_is_the_transfer_function(seed, n, m, p, dt, kind, complex):
    g = balred.testing.random_system(n, m, p, dt=dt, kind=kind, complex=complex, seed=seed)
    omega = np.array([-2.0, 0.0, 0.3, 1.7])
    points = 1j * omega if dt == 0 else np.exp(1j * omega * (1 if dt is True else dt))
    want = np.array([g(s) for s in points])
    assert_allclose(frequency_response(g, omega), want, atol=1e-11 * np.abs(want).max())


def test_other_objects_gains_and_unstable_systems():
    control = pytest.importorskip("control")
    plant = control.ss([[0.5, 1.0], [0.0, 2.0]], [[1.0], [1.0]], [[1.0, 0.0]], 0.3, dt=0.5)
    want = plant(np.exp(1j * np.array([0.2, 1.0]) * 0.5))
    assert_allclose(frequency_response(plant, [0.2, 1.0])[:, 0, 0], want, rtol=1e-12)
    gain = balred.ss(np.zeros((0, 0)), np.zeros((0, 2)), np.zeros((1, 0)), [[3.0, 4.0]])
    assert_allclose(frequency_response(gain, [1.0, 2.0]), [[[3.0, 4.0]]] * 2)
    assert frequency_response(gain, []).shape == (0, 1, 2)


@pytest.mark.parametrize("dt", [0, 0.01])
def test_the_grid_shows_the_narrowest_peaks(dt):
    """Damping ratios of 1e-2 to 1e-5: the largest gain on the grid is the H-infinity norm but for a little."""
    for k in range(1, 5):
        zeta = 10.0 ** -(k + 1)
        pole = 37.0 * (-zeta + 1j * np.sqrt(1 - zeta**2))
        poles = np.array([pole, np.conj(pole)])
        poles = poles if dt == 0 else np.exp(dt * poles)
        A = np.array([[0, 1], [-np.prod(poles).real, poles.sum().real]])
        g = balred.ss(A, [[0.0], [1.0]], [[1.0, 0.0]], dt=dt)
        omega = frequency_grid(g)
        peak = hinf_peak(g)[0]
        assert_allclose(np.abs(frequency_response(g, omega)).max(), peak, rtol=1e-3)


def test_ends_of_the_grid():
    g = balred.ss(np.diag([-0.5, -20.0]), np.ones((2, 1)), np.ones((1, 2)))
    assert_allclose(frequency_grid(g)[[0, -1]], [0.05, 200.0])
    # together with another system; an integrator and rounding errors are no slow poles
    h = balred.ss(np.diag([0.0, -1e-14, -3000.0]), np.ones((3, 1)), np.ones((1, 3)))
    assert_allclose(frequency_grid(g, h)[[0, -1]], [0.05, 30000.0])
    for dt, step in [(True, 1.0), (0.01, 0.01)]:
        d = balred.ss(np.diag([0.0, np.exp(-0.3)]), np.ones((2, 1)), np.ones((1, 2)), dt=dt)
        omega = frequency_grid(d)
        assert_allclose(omega[[0, -1]], [0.03 / step, np.pi / step])
        assert np.all(np.diff(omega) > 0)
    gain = balred.ss(np.zeros((0, 0)), np.zeros((0, 1)), np.zeros((1, 0)), [[3.0]])
    assert_allclose(frequency_grid(gain)[[0, -1]], [0.1, 10.0])
    assert frequency_grid(balred.testing.random_system(3, dt=1, kind="conjugate")).max() == np.pi


def test_an_undamped_pole_is_not_hit_by_the_grid():
    g = balred.ss([[0.0, 1.0], [-4.0, 0.0]], [[0.0], [1.0]], [[1.0, 0.0]])
    assert np.all(np.isfinite(frequency_response(g, frequency_grid(g))))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: frequency_response(g, [[1.0]]), "omega must be a vector of finite frequencies"),
        (lambda g: frequency_response(g, [np.nan]), "omega must be a vector of finite frequencies"),
        (lambda g: frequency_response(g, [1.0, 2.0]), "no pole may lie at a frequency of the response, got one at 2"),
        (
            lambda g: frequency_response(balred.testing.random_system(2, batch=(3,)), [1.0]),
            r"a single system is needed, got a batch of shape \(3,\)",
        ),
    ],
)
def test_bad_input(call, message):
    g = balred.diagonal([2j, -2j], B=[[1.0], [1.0]], C=[[1.0, 1.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=message):
            call(g)
