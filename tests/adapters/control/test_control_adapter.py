"""``control.StateSpace`` in and out: names, dt, and answers that python-control itself gets wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

control = pytest.importorskip("control")

import balred  # noqa: E402
from balred.testing import random_system  # noqa: E402


def statespace(n: int = 8, dt: Any = 0, seed: int = 0) -> Any:
    g = random_system(n, 2, 3, dt=1 if dt else 0, seed=seed)
    return control.StateSpace(
        g.A,
        g.B,
        g.C,
        g.D,
        dt,
        inputs=["u", "v"],
        outputs=["x", "y", "z"],
        states=[f"s{i}" for i in range(n)],
        name="plant",
    )


@pytest.mark.parametrize("dt", [None, 0, 0.1, True])
def test_type_names_and_dt_are_kept(dt: Any) -> None:
    plant = statespace(dt=dt)
    small = balred.reduce(plant, 3)
    assert type(small) is control.StateSpace
    assert small.nstates == 3
    assert small.dt is dt if dt is None or dt is True else small.dt == dt
    assert small.input_labels == ["u", "v"]
    assert small.output_labels == ["x", "y", "z"]
    assert small.name == "plant"
    assert plant.nstates == 8
    assert plant.state_labels == [f"s{i}" for i in range(8)]
    assert small.isdtime(strict=True) == (dt not in (None, 0))


def test_state_names_are_kept_only_where_they_mean_the_same() -> None:
    plant = statespace()
    system, rebuild = balred.adapt(plant)
    assert rebuild(system).state_labels == plant.state_labels
    np.testing.assert_array_equal(rebuild(system).A, plant.A)
    assert balred.reduce(plant, 3).state_labels == ["x[0]", "x[1]", "x[2]"]


@pytest.mark.parametrize("seed", range(3))
def test_hankel_singular_values_agree_with_python_control(seed: int) -> None:
    pytest.importorskip("slycot")  # theirs come from it
    plant = statespace(6, seed=seed)
    want = np.sort(np.real(control.hankel_singular_values(plant)))[::-1]
    # python-control takes the root of an eigenvalue of PQ, so half the digits: the largest ones are right
    np.testing.assert_allclose(balred.hsv(plant), want, rtol=1e-6, atol=1e-7 * want[0])


def gain(plant: Any, other: Any, w: Any) -> float:
    gap = plant(np.exp(1j * w)) - other(np.exp(1j * w))
    return float(max(np.linalg.norm(gap[:, :, k], 2) for k in range(len(w))))


@pytest.mark.parametrize("rank", [2, 4, 6])
def test_a_discrete_system_is_reduced_as_one(rank: int) -> None:
    plant = statespace(8, dt=0.1)
    s = balred.hsv(plant)
    bound = 2 * s[rank:].sum()
    w = np.linspace(0, np.pi, 400)
    # the error of truncation lies between the first discarded value and twice their sum; a grid sees a lower bound
    got = gain(plant, balred.reduce(plant, rank), w)
    assert got <= bound
    assert float(balred.error(plant, balred.reduce(plant, rank))) >= s[rank] * (1 - 1e-9)
    assert got <= float(balred.error(plant, balred.reduce(plant, rank))) * (1 + 1e-9)


def test_python_control_forgets_dt_and_we_do_not() -> None:
    pytest.importorskip("slycot")  # theirs come from it
    plant = statespace(8, dt=0.1, seed=2)
    assert control.balred(statespace(8, dt=0), 3).dt == 0
    small = balred.reduce(plant, 3)
    assert small.dt == 0.1
    assert np.abs(np.linalg.eigvals(small.A)).max() < 1


def test_reduced_systems_simulate_and_connect_like_any_other() -> None:
    plant = statespace(8)
    small = balred.reduce(plant, 7)
    series = control.ss(np.diag([-1.0, -2.0, -3.0]), np.eye(3), np.eye(3), 0) * small
    assert series.nstates == 10
    t = np.linspace(0, 2, 50)
    full, part = (control.step_response(g, t, input=0).outputs for g in (plant, small))
    assert np.abs(full - part).max() < 0.2 * np.abs(full).max()


def test_singular_perturbation_keeps_the_dc_gain() -> None:
    plant = statespace(8)
    small = balred.reduce(plant, 3, method="singular_perturbation")
    np.testing.assert_allclose(small.dcgain(), plant.dcgain(), rtol=1e-8, atol=1e-10)


def test_a_gain_without_states_has_no_values_and_cannot_be_reduced() -> None:
    gain = control.ss([], [], [], [[1.0]])
    assert balred.hsv(gain).shape == (0,)
    with pytest.raises(ValueError, match="a system must have states to be reduced, got one without"):
        balred.reduce(gain, 1)


def test_an_unstable_system_keeps_its_unstable_part() -> None:
    g = random_system(6, 2, 3)
    A = np.block([[g.A, np.zeros((6, 1))], [np.zeros((1, 6)), np.array([[0.5]])]])
    plant = control.StateSpace(A, np.vstack([g.B, [[1.0, 1.0]]]), np.hstack([g.C, np.ones((3, 1))]), g.D)
    assert np.isinf(balred.hsv(plant)[0])
    small = balred.reduce(plant, 4)
    assert small.nstates == 4
    assert np.linalg.eigvals(small.A).real.max() == pytest.approx(0.5)
