"""Positions without stiffness that friction holds: carts, motors, what is free in one direction."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import balred
from balred.realisations.second_order.balancing import BALANCINGS

WAYS: list[dict[str, Any]] = [*({"balancing": b} for b in BALANCINGS), {"galerkin": True}, {"method": "modal"}]
POINTS = (1e-4j, 0.03j, 0.5j, 2.0 + 1j)


def train(n: int, at: int = 0, friction: float = 0.3) -> balred.SecondOrderSystem:
    """Carts of masses 1 to 2 coupled by springs and dampers, friction on one of them; a force on the first, positions of both ends."""
    K = 2.0 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    K[0, 0] = K[-1, -1] = 1.0
    D = 0.1 * K
    D[at, at] += friction
    return balred.second_order(np.diag(np.linspace(1, 2, n)), D, K, np.eye(n)[:, :1], np.eye(n)[[0, -1]])


def turned(g: balred.SecondOrderSystem, seed: int) -> balred.SecondOrderSystem:
    T = np.random.default_rng(seed).standard_normal((g.states, g.states))
    M, D, K = (T.T @ X @ T for X in (g.M, g.D, g.K))
    return balred.second_order(M, D, K, T.T @ g.B, g.Cp @ T, g.Cv @ T)


def gain(g: Any, s: complex) -> Any:
    return g.Cp @ np.linalg.solve(s * s * g.M + s * g.D + g.K, g.B.astype(complex))


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("at", [0, 4])
def test_full_order_reproduces(way: dict[str, Any], at: int) -> None:
    """An identity."""
    for g in (train(5, at), turned(train(5, at), 0)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            full = balred.reduce(g, 5, **way)
        for s in POINTS:
            assert_allclose(full(s), gain(g, s), rtol=1e-8)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_every_rank_drifts_as_the_whole(way: dict[str, Any]) -> None:
    """By Newton's law: under a constant force F all carts end at the speed F/d, so s G(s) -> 1/d; one pole is zero, the rest stable."""
    g = train(8, 3, friction=0.25)
    for k in (1, 2, 5):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            small = balred.reduce(g, k, **way)
        s = 1e-7
        assert_allclose(s * gain(small, s), 4.0, rtol=1e-5)
        poles = np.linalg.eigvals(small.to_dense().A)
        assert int((np.abs(poles) < 1e-12).sum()) == 1
        assert int((poles.real < -1e-3).sum()) == 2 * k - 1
        assert bool(np.isfinite(balred.error(g, small)))


def test_one_position_is_all_carts_as_one() -> None:
    """The masses add up, as do the frictions: 1/(s (m s + d)), whatever the balancing; Newton."""
    g = train(4, 2)
    for way in ({"galerkin": True}, {"method": "modal"}, {}):
        small = balred.reduce(g, 1, **way)
        for s in POINTS:
            assert_allclose(gain(small, s), np.full((2, 1), 1 / (s * (6 * s + 0.3))), rtol=1e-9)


@pytest.mark.parametrize("balancing", BALANCINGS)
def test_what_is_balanced_is_the_rest(balancing: str) -> None:
    """Where M, D and K have common modes, the rest is a system of its own, 1/(s (m s + d)) beside it; coordinates change nothing."""
    n, rng = 5, np.random.default_rng(1)
    squares, damping = np.array([0.0, 0.5, 1.0, 3.0, 9.0]), np.array([0.4, 0.2, 0.1, 0.3, 0.2])
    B, Cp = rng.standard_normal((n, 1)), rng.standard_normal((1, n))
    g = balred.second_order(np.eye(n), np.diag(damping), np.diag(squares), B, Cp)
    rest = balred.second_order(np.eye(n - 1), np.diag(damping[1:]), np.diag(squares[1:]), B[1:], Cp[:, 1:])
    want = balred.reduce(rest, 2, balancing=balancing)
    for one in (g, turned(g, 3)):
        small = balred.reduce(one, 3, balancing=balancing)
        for s in POINTS:
            assert_allclose(gain(small, s), gain(want, s) + Cp[:, :1] @ B[:1] / (s * (s + 0.4)), rtol=1e-7)
    assert balred.reduce(g, balred.Energy(0.6), balancing=balancing).states == 1 + (
        balred.reduce(rest, balred.Energy(0.6), balancing=balancing).states
    )


def test_forces_that_are_not_symmetric() -> None:
    """Gyroscopic and circulatory forces: K has other null vectors on its left."""
    rng = np.random.default_rng(5)
    X = rng.standard_normal((4, 3))
    K = X @ (X + 0.1 * rng.standard_normal((4, 3))).T
    G = rng.standard_normal((4, 4))
    g = balred.second_order(np.eye(4), np.eye(4) + G - G.T, K, np.eye(4)[:, :2], np.eye(4)[:1])
    for balancing in BALANCINGS:
        full = balred.reduce(g, 4, balancing=balancing)
        for s in POINTS:
            assert_allclose(full(s), gain(g, s), rtol=1e-8)


@pytest.mark.parametrize("units", [1e-6, 1.0, 1e6])
def test_units_change_nothing(units: float) -> None:
    """Positions in other units, masses, damping and stiffness with them."""
    g, t = train(6), np.array([1.0, units, 1.0, units, 1.0, units])
    M, D, K = (t[:, None] * X * t for X in (g.M, g.D, g.K))
    same = balred.second_order(M, D, K, t[:, None] * g.B, g.Cp * t)
    a, b = balred.reduce(g, 3), balred.reduce(same, 3)
    for s in POINTS:
        assert_allclose(gain(a, s), gain(b, s), rtol=1e-8)


def test_what_has_nothing_to_balance() -> None:
    """A motor, a mass, and two masses with a damper between them: the result is the system."""
    motor = balred.second_order([[2.0]], [[0.5]], [[0.0]], [[1.0]], [[1.0]])
    mass = balred.second_order([[2.0]], [[0.0]], [[0.0]], [[1.0]], [[1.0]])
    damper = balred.second_order(
        np.eye(2), [[1.0, -1.0], [-1.0, 1.0]], np.zeros((2, 2)), np.eye(2)[:, :1], np.eye(2)[-1:]
    )
    for g in (motor, mass, damper):
        for way in ({}, {"galerkin": True}, {"method": "modal"}):
            for rank in (g.states, balred.Energy(0.9)) if "method" not in way else (g.states,):
                same = balred.reduce(g, rank, **way)
                assert same.states == g.states
                assert_array_equal(same.K, 0 * same.K)
                for s in POINTS:
                    assert_allclose(gain(same, s), gain(g, s), rtol=1e-12)
    for rank in (1, balred.Order(1)):
        with pytest.raises(
            ValueError, match=r"rank must be at least the number of positions without stiffness, 2, .* got 1"
        ):
            balred.reduce(damper, rank)


def test_negative_friction_is_named() -> None:
    with pytest.raises(balred.UnstableError, match=r"got a pole at 0\.0"):
        balred.reduce(train(4, friction=-0.3), 2)


def test_galerkin_says_that_a_mode_is_left_without_damping() -> None:
    """Friction on the middle of three like carts: the mode in which it stands still is not damped, before and after."""
    K = np.array([[1.0, -1, 0], [-1, 2, -1], [0, -1, 1]])
    g = balred.second_order(np.eye(3), np.diag([0.0, 1, 0]), K, np.eye(3)[:, :1], np.eye(3)[:1])
    with pytest.raises(balred.UnstableError, match="method='modal' keeps"):
        balred.reduce(g, 2, galerkin=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert balred.reduce(g, 2, method="modal").states == 2
