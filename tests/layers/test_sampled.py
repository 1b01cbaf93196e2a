"""How S5 and S4D parameters hold a system: there and back in double precision, against the recurrences written out."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest
from numpy.testing import assert_allclose

import balred
from balred.layers.s4d import s4d_parameters, s4d_system
from balred.layers.s5 import s5_parameters, s5_system
from balred.layers.sampled import continuous_poles, input_gain, sampled_poles
from balred.testing import random_system, simulate

RULES = ("zoh", "bilinear")


def s5_output(values: dict[str, Any], D: Any, u: Any, twice: bool, rule: str) -> Any:
    """The published recurrence in its own words: sample, step, project; a second half of C runs backwards."""
    poles, step = values["Lambda"], np.exp(values["log_step"])
    if rule == "zoh":
        lam = np.exp(poles * step)
        drive = ((lam - 1) / poles)[:, None] * values["B"]
    else:
        lam = (1 + poles * step / 2) / (1 - poles * step / 2)
        drive = (step / (1 - poles * step / 2))[:, None] * values["B"]

    def run(C: Any, u: Any) -> Any:
        x, y = np.zeros(len(lam), complex), []
        for k in u:
            x = lam * x + drive @ k
            y.append((2 if twice else 1) * (C @ x).real)
        return np.array(y)

    n = len(lam)
    y = run(values["C"][:, :n], u)
    if values["C"].shape[1] == 2 * n:
        y = y + run(values["C"][:, n:], u[::-1])[::-1]
    return y + D * u


def apart(got: Any, want: Any) -> float:
    return float(np.abs(got - want).max() / np.abs(want).max())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("twice", [False, True])
def test_s5_there_and_back(rule: str, twice: bool) -> None:
    D = np.array([0.3, -0.7])
    system = balred.diagonal(
        log_poles=(g := random_system(9, 2, 2, dt=True, kind="conjugate")).log_poles,
        B=g.B, C=g.C, D=np.diag(D), dt=True, conjugate=True,
    )  # fmt: skip
    values = s5_parameters(system, 0.02, 0.7, twice=twice, rule=rule)
    norms = np.linalg.norm(values["B"], axis=1), np.linalg.norm(values["C"], axis=0)
    np.testing.assert_allclose(norms[0] * (1 if twice else 2) / norms[1], 0.7, rtol=1e-13)  # beside the system's C
    u = np.random.default_rng(0).standard_normal((40, 2))
    want = simulate(system, u)
    assert apart(s5_output(values, D, u, twice, rule), want) < 1e-12
    poles, step = values["Lambda"], np.exp(values["log_step"])
    again = s5_system(
        poles, step, input_gain(poles, step, rule), values["B"], values["C"], D, twice=twice, rule=rule
    )  # fmt: skip
    assert apart(simulate(again, u), want) < 1e-12


def test_a_bidirectional_layer_is_both_halves_side_by_side() -> None:
    rng = np.random.default_rng(1)
    n, h = 6, 2
    poles, step = -rng.uniform(0.2, 1, n) + 5j * rng.standard_normal(n), rng.uniform(0.05, 0.3, n)
    B = rng.standard_normal((n, h)) + 1j * rng.standard_normal((n, h))
    C, D = rng.standard_normal((h, 2 * n)) + 1j * rng.standard_normal((h, 2 * n)), rng.standard_normal(h)
    system = s5_system(poles, step, input_gain(poles, step), B, C, D)
    u = rng.standard_normal((30, h))
    forward, backward = simulate(system, u) / 2**0.5, simulate(system, u[::-1])[::-1] / 2**0.5
    want = s5_output({"Lambda": poles, "log_step": np.log(step), "B": B, "C": C}, D, u, False, "zoh")
    assert apart(forward[:, :h] + backward[:, h:], want) < 1e-12
    values = s5_parameters(system, 0.1, 1.0, bidirectional=True)
    assert values["C"].shape == (h, 2 * n)
    assert apart(s5_output(values, D, u, False, "zoh"), want) < 1e-12


def test_s4d_there_and_back() -> None:
    system = random_system(5, 1, 1, dt=True, kind="conjugate", batch=(3,))
    step = np.array([0.001, 0.02, 0.1])
    values = s4d_parameters(system, step)
    A, C = values["A"], values["C"]
    # the published kernel: K_l = 2 Re sum_n C (exp(dt A) - 1) / A exp(l dt A)
    dtA = A * step[:, None]
    kernel = 2 * np.einsum("hn,hnl->hl", C * (np.exp(dtA) - 1) / A, np.exp(dtA[..., None] * np.arange(20))).real
    impulse = np.eye(20)[:, :1]
    for h in range(3):
        part = balred.diagonal(
            log_poles=system.log_poles[h], B=system.B[h], C=system.C[h], dt=True, conjugate=True
        )  # fmt: skip
        # dt = 0.001 times a decay of 0.02 and more: the kernel's exp(dt A) - 1 itself is good to 1e-14 only
        assert apart(kernel[h], simulate(part, impulse)[:, 0]) < 1e-12
    again = s4d_system(A, step, input_gain(A, step[:, None]), C, None)
    for a, b in ((again.log_poles, system.log_poles), (again.B * np.moveaxis(again.C, -1, -2), system.B * np.moveaxis(system.C, -1, -2))):  # fmt: skip
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_the_poles_are_inverted_wherever_a_stable_pole_may_lie(rule: str) -> None:
    logs = np.log(np.array([0.999999, 0.5, -0.5 + 0j, -0.999, 1e-6 + 1e-6j, 0.9j, -0.3 - 0.9j, 1e-12]))
    step = np.array(0.01)
    back = sampled_poles(continuous_poles(logs, step, rule), step, rule)
    # compared as poles: the bilinear logarithm near -1 may come out on the other side of the cut
    np.testing.assert_allclose(np.exp(back), np.exp(logs), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("rule", RULES)
def test_the_fastest_and_the_slowest_poles_are_finite(rule: str) -> None:
    """A deadbeat mode comes with a logarithm of -708, a rounded one may have a decay of zero."""
    poles = continuous_poles(np.array([-708.0 + 0j, 0j, 1e-17 + 0.5j]), np.array(0.01), rule)
    assert np.isfinite(poles).all()
    assert (poles.real < 0).all()


def test_the_gain_of_a_slow_pole_has_all_its_digits() -> None:
    mpmath.mp.dps = 40
    for pole in (-1e-7 + 0j, -1e-9 + 1e-8j, -0.5 + 19.9j):
        exact = mpmath.expm1(mpmath.mpc(pole) * mpmath.mpf(0.001)) / mpmath.mpc(pole)
        got = input_gain(np.array([pole]), np.array([0.001]))[0]
        assert abs(got - complex(exact)) < 4e-16 * abs(complex(exact))


def test_the_gain_that_counts_is_the_layers_own_and_a_state_without_one_is_refused() -> None:
    """Twice the exact gain leaves half of B; in single precision exp(-1e-9) is 1, and the layer's own gain zero."""
    system = balred.diagonal(
        log_poles=np.array([-1e-9 + 0j, -0.5 + 1j]), B=np.ones((2, 1)) + 0j, C=np.ones((1, 2)) + 0j, dt=True, conjugate=True
    )  # fmt: skip
    twice, exact = (
        s5_parameters(system, 0.1, 1.0, gain=lambda poles, step, k=k: k * input_gain(poles, step)) for k in (2.0, 1.0)
    )
    assert_allclose(twice["C"] * twice["B"].T, exact["C"] * exact["B"].T / 2, rtol=1e-12)
    with pytest.raises(ValueError, match=r"every pole must differ from 1 .* lasts for 1e\+09 steps"):
        s5_parameters(
            system, 0.1, 1.0, gain=lambda poles, step: np.where(np.abs(poles * step) < 1e-6, 0, input_gain(poles, step))
        )


def test_a_step_of_zero_is_no_step() -> None:
    with pytest.raises(ValueError, match=r"every step of a layer must be a positive number, got 0\.0"):
        continuous_poles(np.array([-1.0 + 0j, -2.0]), np.array([0.5, 0.0]))


@pytest.mark.parametrize(
    "system",
    [random_system(3, kind="conjugate"), random_system(3, dt=1, kind="diagonal"), random_system(3, dt=1)],
    ids=["continuous", "not conjugate", "dense"],
)
def test_what_such_a_layer_cannot_hold_is_refused(system: Any) -> None:
    with pytest.raises(ValueError, match="an S5 layer holds a discrete conjugate system, got"):
        s5_parameters(system, 0.1, 1.0)
    with pytest.raises(ValueError, match="an S4D layer holds a discrete conjugate system, got"):
        s4d_parameters(system, np.ones(3))


def test_an_unknown_rule_is_refused() -> None:
    for function in (sampled_poles, input_gain, continuous_poles):
        with pytest.raises(ValueError, match="one of zoh, bilinear, got 'foh'"):
            function(np.array([-1 + 0j]), np.array([1.0]), "foh")
