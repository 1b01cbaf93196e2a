"""How LRU parameters hold a system: there and back in NumPy, and the carrying of moments against plain derivatives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import balred
from balred.layers.lru import LRU_NAMES, lru_join, lru_parameters, lru_split, lru_system, scale_ratio
from balred.layers.lru_carry import lru_carry
from balred.testing import random_system, simulate


def layer_of(system: Any, **kw: Any) -> dict[str, Any]:
    return lru_parameters(system, **kw)


def operator(values: dict[str, Any], D: Any) -> Any:
    return lru_system(*(values[k] for k in LRU_NAMES), D)


def output(values: dict[str, Any], u: Any) -> Any:
    """The paper's recurrence, written out once more."""
    lam = np.exp(-np.exp(values["nu_log"]) + 1j * np.exp(values["theta_log"]))
    x, y = np.zeros(len(lam), complex), []
    for step in u:
        x = lam * x + np.exp(values["gamma_log"]) * (values["B"] @ step)
        y.append((values["C"] @ x).real)
    return np.array(y)


@pytest.mark.parametrize("ratio", [None, 0.3])
def test_there_and_back(ratio: float | None) -> None:
    system = random_system(8, 2, 3, dt=True, kind="conjugate")
    values = layer_of(system, ratio=ratio)
    again = operator(values, system.D)
    u = np.random.default_rng(0).standard_normal((30, 2))
    want = simulate(system, u)
    np.testing.assert_allclose(simulate(again, u), want, rtol=0, atol=1e-12 * np.abs(want).max())
    np.testing.assert_allclose(output(values, u) + u @ system.D.T, want, rtol=0, atol=1e-12 * np.abs(want).max())
    if ratio is not None:
        norms = np.linalg.norm(values["B"], axis=1), np.linalg.norm(values["C"], axis=0)
        np.testing.assert_allclose(norms[0] / norms[1], ratio)  # of every state
        assert scale_ratio(values["B"], values["C"]) == pytest.approx(ratio)


def test_gamma_is_that_of_the_initialisation() -> None:
    values = layer_of(random_system(8, dt=True, kind="conjugate"))
    lam = np.exp(-np.exp(values["nu_log"]))
    np.testing.assert_allclose(np.exp(values["gamma_log"]), np.sqrt(1 - lam**2), rtol=1e-12)


def test_a_mode_without_input_keeps_finite_parameters() -> None:
    system = balred.diagonal(
        [0.5 + 0.1j, 0.2j], B=np.array([[0j], [1]]), C=np.ones((1, 2), complex), dt=True, conjugate=True
    )
    assert all(np.isfinite(v).all() for v in layer_of(system, ratio=1.0).values())


@pytest.mark.parametrize("angle", [0.0, 1e-14, -1e-14, 2 * np.pi])
def test_an_angle_of_zero_is_stored_as_a_full_turn(angle: float) -> None:
    system = balred.diagonal(
        log_poles=np.array([-0.1 + 1j * angle]),
        B=np.ones((1, 1), complex),
        C=np.ones((1, 1), complex),
        dt=True,
        conjugate=True,
    )
    assert np.exp(layer_of(system)["theta_log"][0]) == pytest.approx(2 * np.pi, rel=1e-15)


@pytest.mark.parametrize("dt", [0.5, 1])
def test_any_time_step_is_discrete(dt: float) -> None:
    assert set(layer_of(random_system(3, dt=dt, kind="conjugate"))) == set(LRU_NAMES)


@pytest.mark.parametrize(
    "system",
    [random_system(3, kind="conjugate"), random_system(3, dt=1, kind="diagonal"), random_system(3, dt=1)],
    ids=["continuous", "not conjugate", "dense"],
)
def test_what_an_lru_cannot_hold_is_refused(system: Any) -> None:
    with pytest.raises(ValueError, match="discrete conjugate system, got"):
        layer_of(system)


def test_split_and_join_are_inverse() -> None:
    values = layer_of(random_system(4, dt=True, kind="conjugate"))
    back = lru_join(lru_split(values) | {"D": np.ones(2)})
    assert set(back) == set(LRU_NAMES)
    for k in LRU_NAMES:
        np.testing.assert_array_equal(back[k], values[k])


# ------------------------------------------------------------------------------------------------ moments


def loss(values: dict[str, Any], u: Any) -> float:
    y = output(values, u)
    return float(np.sum(y**2) + np.sum(y[-1]))


def gradient(values: dict[str, Any], u: Any, h: float = 1e-6) -> dict[str, Any]:
    """Central differences, real and imaginary parts apart; both in one complex number."""
    out = {}
    for name in LRU_NAMES:
        g = np.zeros_like(values[name])
        for i in np.ndindex(g.shape):
            for unit in (1, 1j) if np.iscomplexobj(g) else (1,):
                up, down = ({k: v.copy() for k, v in values.items()} for _ in range(2))
                up[name][i] += h * unit
                down[name][i] -= h * unit
                g[i] += unit * (loss(up, u) - loss(down, u)) / (2 * h)
        out[name] = g
    return out


def redundant(n: int) -> tuple[dict[str, Any], Any]:
    """LRU parameters with every mode twice, and the system they hold."""
    rng = np.random.default_rng(5)
    log_poles = -rng.uniform(0.1, 0.5, n) + 1j * rng.uniform(0.3, 2.8, n)
    B, C = (rng.standard_normal((2, *s)) for s in ((n, 2), (2, n)))
    b, c = B[0] + 1j * B[1], C[0] + 1j * C[1]
    w = rng.standard_normal((2, n)) + 1j * rng.standard_normal((2, n))
    system = balred.diagonal(
        log_poles=np.tile(log_poles, 2),
        B=np.concatenate([w[0][:, None] * b, w[1][:, None] * b]),
        C=np.concatenate([0.4 * c / w[0], 0.6 * c / w[1]], axis=1),
        dt=True,
        conjugate=True,
    )
    values = layer_of(system)
    return values, operator(values, np.zeros((2, 2)))


@pytest.mark.parametrize("ratio", [None, 0.7])
def test_carried_gradients_are_gradients_when_nothing_is_lost(ratio: float | None) -> None:
    old, system = redundant(3)
    reduction = balred.analyze(system).reduction(3)
    assert reduction.system.states == 3
    new = layer_of(reduction.system, ratio=ratio)
    u = np.random.default_rng(6).standard_normal((10, 2))
    assert loss(new, u) == pytest.approx(loss(old, u), rel=1e-10)
    moved = lru_carry(old, new, gradient(old, u), reduction.change, 1)
    want = gradient(new, u)
    for name in ("B", "C", "gamma_log"):  # exact for B and C, and for gamma, which scales B
        np.testing.assert_allclose(moved[name], want[name], rtol=1e-5, atol=1e-6 * np.abs(want[name]).max())


def test_carried_gradients_are_exact_for_the_poles_too_when_states_are_only_renumbered() -> None:
    # no mode is shared out: V and W are diagonal up to the order of the states, so the diagonal says all
    system = random_system(4, 2, 2, dt=True, kind="conjugate", seed=3)
    old = layer_of(system)
    order = np.array([2, 0, 3, 1])
    V = np.eye(4)[:, order].astype(complex)
    change = balred.systems.coordinates.Change(V, np.zeros_like(V), V.T, np.zeros_like(V))
    new = {k: (v[:, order] if k == "C" else v[order]) for k, v in old.items()}
    u = np.random.default_rng(6).standard_normal((10, 2))
    moved, want = lru_carry(old, new, gradient(old, u), change, 1), gradient(new, u)
    for name in LRU_NAMES:
        np.testing.assert_allclose(moved[name], want[name], rtol=1e-4, atol=1e-6 * np.abs(want[name]).max())
    # and second moments are permuted: they are the old ones, except where two parameters share one (nu and theta;
    # real and imaginary parts), whose scaled mean they get
    squares = {k: np.abs(v) ** 2 * (1 + 1j if np.iscomplexobj(v) else 1) for k, v in gradient(old, u).items()}
    moved = lru_carry(old, new, squares, change, 2)
    np.testing.assert_allclose(moved["B"], squares["B"][order], rtol=1e-10)
    np.testing.assert_allclose(moved["C"], squares["C"][:, order], rtol=1e-10)


def test_second_moments_scale_as_squares() -> None:
    old, system = redundant(3)
    reduction = balred.analyze(system).reduction(3)
    new = layer_of(reduction.system)
    rng = np.random.default_rng(8)
    squares = {k: rng.random(v.shape) * (1 + 1j if np.iscomplexobj(v) else 1) for k, v in old.items()}
    one = lru_carry(old, new, squares, reduction.change, 2)
    nine = lru_carry(old, new, {k: 9 * v for k, v in squares.items()}, reduction.change, 2)
    for name in LRU_NAMES:
        np.testing.assert_allclose(nine[name], 9 * one[name], rtol=1e-12)
        assert (one[name].real > 0).all()
        assert one[name].shape == new[name].shape


def test_second_moments_are_the_variance_of_carried_noise() -> None:
    old, system = redundant(3)
    reduction = balred.analyze(system).reduction(3)
    new = layer_of(reduction.system)
    rng = np.random.default_rng(9)

    def noise() -> dict[str, Any]:
        return {
            k: rng.standard_normal(v.shape) + (1j * rng.standard_normal(v.shape) if np.iscomplexobj(v) else 0)
            for k, v in old.items()
        }

    draws = 4000
    total = {k: np.zeros_like(new[k]) for k in ("B", "C")}
    for _ in range(draws):
        moved = lru_carry(old, new, noise(), reduction.change, 1)
        for k in total:
            total[k] += moved[k].real ** 2 + 1j * moved[k].imag ** 2
    unit = {k: np.ones(v.shape) * (1 + 1j if np.iscomplexobj(v) else 1) for k, v in old.items()}
    want = lru_carry(old, new, unit, reduction.change, 2)
    for k in total:
        # the variance of a real part differs from that of the modulus by what V1 and V2 share; a factor of two covers it
        ratio = (total[k] / draws).real / want[k].real
        assert ratio.min() > 0.3, k
        assert ratio.max() < 2.2, k
        # the mean over real and imaginary parts is exact up to sampling: 4000 draws of a chi-square, five sigmas
        both = ((total[k].real + total[k].imag) / draws) / (2 * want[k].real)
        np.testing.assert_allclose(both, 1, atol=5 * np.sqrt(2 / draws))
