"""Zeros, poles and gain, and coefficients: the frequency response they hold is that of the state space.

Expected responses are those of mpmath, of the very numbers in the state space or the form.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest

import balred
from balred.realisations.rational import (
    around,
    check_held,
    coefficients,
    fraction,
    fractions,
    value_of,
    zeros_poles_gain,
)
from balred.realisations.transfer import from_coefficients, from_zeros_poles_gain
from balred.testing import random_system

GAINS, UNITS = (1e-12, 1.0, 1e12), (1.0, 1e9, 1e-9)


def exact(g: Any, points: Any) -> Any:
    """The transfer function of a state space with 50 digits."""
    if g.order == 0:
        return np.full(len(points), complex(g.D[0, 0]))
    with mpmath.workdps(50):
        A, B, C = (mpmath.matrix(x.tolist()) for x in (g.A, g.B, g.C))
        D = mpmath.mpmathify(g.D[0, 0].item())
        eye = mpmath.eye(g.order)
        solved = (mpmath.lu_solve(mpmath.mpc(complex(s)) * eye - A, B) for s in points)
        return np.array([complex((C * x)[0] + D) for x in solved])


def scaled(n: int, gain: float, unit: float, D: float, seed: int = 0) -> Any:
    if n == 0:
        return balred.ss(np.zeros((0, 0)), np.zeros((0, 1)), np.zeros((1, 0)), [[gain]])
    g = random_system(n, 1, 1, seed=seed + n)
    return balred.ss(unit * g.A, gain * unit * g.B, g.C, [[gain * D]])


@pytest.mark.parametrize("gain", GAINS)
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("n", [0, 1, 2, 5, 10])
@pytest.mark.parametrize("D", [0.0, 0.3])
def test_both_forms_hold_the_response_and_are_read_again(n: int, gain: float, unit: float, D: float) -> None:
    g = scaled(n, gain, unit, D)
    z, p, k = zeros_poles_gain(g)
    num, den = fraction(g, "a fraction", "")
    assert len(p) == len(den) - 1 == n
    s = around(p, False)[:: max(1, n // 2)]
    want = exact(g, s)
    tol = 1e-12 * np.abs(want).max()
    np.testing.assert_allclose(value_of(z, p, k, s), want, rtol=1e-11, atol=tol * 1e-3)
    np.testing.assert_allclose(np.polyval(num, s) / np.polyval(den, s), want, rtol=1e-11, atol=tol * 1e-3)
    for again in (from_zeros_poles_gain(z, p, k), from_coefficients(num, den)):
        assert again.order == n
        np.testing.assert_allclose(exact(again, s), want, rtol=1e-11, atol=tol * 1e-3)


@pytest.mark.parametrize("n", [2, 6, 9])
def test_discrete_systems(n: int) -> None:
    g = random_system(n, 1, 1, dt=1, seed=n)
    z, p, k = zeros_poles_gain(g)
    s = around(p, True)
    np.testing.assert_allclose(value_of(z, p, k, s), exact(g, s), rtol=1e-11, atol=1e-13)
    assert balred.adapt(from_zeros_poles_gain(z, p, k, 1))[0].dt == 1


def test_zeros_at_infinity_are_none() -> None:
    # 1 / (s + 1)^n has no zero, in whatever coordinates (of balanced ones rounding would say n - 1 far away)
    for n in (1, 2, 4, 6):
        g = from_coefficients([1.0], [float(c) for c in np.poly(-np.ones(n))])
        assert zeros_poles_gain(g)[0].size == 0
        assert zeros_poles_gain(balred.balance(g).system)[0].size == 0


def test_a_zero_that_is_far_is_one_all_the_same() -> None:
    z, _, k = zeros_poles_gain(from_zeros_poles_gain([-1e6], [-1.0, -2.0], 3.0))
    np.testing.assert_allclose(z, [-1e6], rtol=1e-9)
    assert k == pytest.approx(3.0, rel=1e-9)


def test_zeros_that_are_known() -> None:
    # (s^2 + 4)(s - 3) / ((s + 1)(s + 2)(s + 5)^2), and a pole that nothing reaches, which is a zero too
    z, p, k = zeros_poles_gain(from_zeros_poles_gain([2j, -2j, 3.0], [-1.0, -2.0, -5.0, -5.0], 7.0))
    np.testing.assert_allclose(sorted(z, key=lambda r: (r.real, r.imag)), [-2j, 2j, 3.0], atol=1e-12)
    assert k == pytest.approx(7.0)
    z, p, _ = zeros_poles_gain(balred.ss(np.diag([-1.0, -2.0]), [[1.0], [0.0]], [[1.0, 1.0]], [[0.0]]))
    np.testing.assert_allclose(z, [-2.0])
    np.testing.assert_allclose(np.sort(p), [-2.0, -1.0])


def test_a_system_whose_output_never_answers_is_zero() -> None:
    z, p, k = zeros_poles_gain(balred.ss(np.diag([-1.0, -2.0]), [[1.0], [0.0]], [[0.0, 1.0]]))
    assert (z.size, p.size, k) == (0, 2, 0.0)


def test_zeros_belong_to_one_channel() -> None:
    with pytest.raises(ValueError, match="one input and one output, got 2 and 1"):
        zeros_poles_gain(random_system(3, 2, 1))


def test_coefficients_are_exact_and_rounded_once() -> None:
    roots = [-0.1 + 0.3j, -0.1 - 0.3j, 1e9, -7.0]
    want = [Fraction(1)]
    for r in (1e9, -7.0):
        want = [a - Fraction(r) * b for a, b in zip([*want, 0], [0, *want], strict=True)]
    square = [Fraction(1), Fraction(0.2), Fraction(0.1) ** 2 + Fraction(0.3) ** 2]
    product = [sum((want[i] * square[j - i] for i in range(3) if 0 <= j - i < 3), Fraction(0)) for j in range(5)]
    np.testing.assert_array_equal(coefficients(roots, 0.5), [float(x) / 2 for x in product])
    with pytest.raises(OverflowError):
        coefficients([1e9] * 40)


def test_what_coefficients_cannot_hold_is_refused() -> None:
    # twenty resonances within a percent: the denominator there is 1e-16 of the terms that it is a sum of
    pairs = [np.array([[-1e-3, w], [-w, -1e-3]]) for w in np.linspace(1.0, 1.01, 20)]
    A = np.zeros((40, 40))
    for i, pair in enumerate(pairs):
        A[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = pair
    g = balred.ss(A, np.ones((40, 1)), np.ones((1, 40)))
    with pytest.raises(ValueError, match=r"a form must hold the frequency response .* with 40 states: take another"):
        fraction(g, "a form", "take another")
    huge = balred.ss(np.diag(-1e9 * np.arange(1, 41.0)), np.ones((40, 1)), np.ones((1, 40)))
    with pytest.raises(ValueError, match=r"a form must have coefficients below 1.8e308"):
        fraction(huge, "a form", "take another")


def test_a_wrong_response_is_seen() -> None:
    g = random_system(4, 1, 1)
    z, p, k = zeros_poles_gain(g)
    check_held(g, lambda s: value_of(z, p, k, s), p, "this", "")
    with pytest.raises(ValueError, match="this must hold"):
        check_held(g, lambda s: value_of(z, p, k * (1 + 1e-6), s), p, "this", "")


@pytest.mark.parametrize(
    ("zeros", "poles"),
    [
        ([], [-1.0, -1e9]),
        ([-3.0], [-1.0, -1e9]),
        ([-1 + 2j, -1 - 2j], [-1.0, -4.0, -9.0]),
        ([-5.0, -6.0, -7.0], [-1 + 1j, -1 - 1j, -2 + 3j, -2 - 3j]),
        ([1.0, -1 + 5j, -1 - 5j], [-0.1 + 9j, -0.1 - 9j, -3.0]),
        ([-1 + 5j], [-2 + 1j, -3.0]),
        ([-2.0, -3e9], [-1.0, -1e9]),
    ],
)
def test_zeros_and_poles_of_all_kinds_are_read(zeros: list[complex], poles: list[complex]) -> None:
    g = from_zeros_poles_gain(zeros, poles, 2.5)
    assert np.iscomplexobj(g.A) == (np.sum(np.imag(poles)) != 0)
    s = around(poles, False)
    with mpmath.workdps(50):
        want = [
            complex(
                2.5
                * mpmath.fprod(mpmath.mpc(complex(x)) - z for z in zeros)
                / mpmath.fprod(mpmath.mpc(complex(x)) - p for p in poles)
            )
            for x in s
        ]
    np.testing.assert_allclose(exact(g, s), want, rtol=1e-12)


def test_what_is_no_transfer_function_says_so() -> None:
    with pytest.raises(ValueError, match="as many poles as zeros at least, got 1 and 2"):
        from_zeros_poles_gain([1.0, 2.0], [-1.0], 1.0)
    with pytest.raises(ValueError, match="must be proper, got a numerator of degree 2 over degree 1"):
        from_coefficients([1.0, 0.0, 0.0], [1.0, 1.0])
    with pytest.raises(ValueError, match="must have a denominator, got zeros"):
        from_coefficients([1.0], [0.0, 0.0])
    with pytest.raises(ValueError, match="den must be finite"):
        from_coefficients([1.0], [1.0, np.nan])


SHIFT = np.eye(3, k=-1)
TURN = np.array([[0.6, 0.8], [-0.8, 0.6]])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("block", "dt"),
    [
        (SHIFT[:1, :1], 1),
        (SHIFT[:2, :2], 1),
        (SHIFT, 1),
        (TURN, 1),
        (np.eye(1), 1),
        (-np.eye(1), 1),
        (np.zeros((1, 1)), 0),
    ]
    + [(np.array([[0.0, w], [-w, 0.0]]), 0) for w in (1.0, 1e6)],
)
def test_poles_that_are_zero_or_on_the_boundary_do_not_hide_the_rest(block: Any, dt: int, seed: int) -> None:
    """Delays, integrators and oscillators in general coordinates: at such poles nobody knows a value, elsewhere all hold."""
    rng, k, g = np.random.default_rng(seed), len(block), random_system(3, 1, 1, seed=seed, dt=dt)
    unit = 1.0 if dt else max(1.0, float(np.abs(block).max()))
    A, B, C = np.zeros((k + 3, k + 3)), np.ones((k + 3, 1)), np.ones((1, k + 3))
    A[:k, :k], A[k:, k:], B[k:], C[:, k:] = block, unit * g.A, g.B, g.C
    T = np.linalg.qr(rng.standard_normal(A.shape))[0]
    turned = balred.ss(T @ A @ T.T, unit * T @ B, C @ T.T, dt=dt)
    z, p, gain = zeros_poles_gain(turned)
    num, den = fraction(turned, "a fraction", "")
    s = np.exp(1j * np.array([0.05, 0.4, 1.1, 2.6])) if dt else 1j * unit * np.array([0.05, 0.4, 1.1, 2.6])
    want = exact(turned, s)
    np.testing.assert_allclose(value_of(z, p, gain, s), want, rtol=1e-9)
    np.testing.assert_allclose(np.polyval(num, s) / np.polyval(den, s), want, rtol=1e-9)


def test_states_of_which_inputs_and_outputs_decide_the_unit() -> None:
    """Two slow poles in modal form, with factors of the residues 1e7 and 1e-9: zeros lost half of their digits."""
    p, b, c = [1.00000206, 0.99895849], [1e7, 0.15], [1.4e-9, -0.15]
    g = balred.ss(np.diag(p), np.array(b)[:, None], np.array(c)[None], dt=1)
    r = [x * y for x, y in zip(b, c, strict=True)]
    zero = (r[0] * p[1] + r[1] * p[0]) / (r[0] + r[1])  # of r0 / (z - p0) + r1 / (z - p1)
    np.testing.assert_allclose(zeros_poles_gain(g)[0], [zero], rtol=1e-14)


def test_a_channel_that_is_nothing_but_rounding_is_zero() -> None:
    """Two integrators, turned: c b is zero for one of the channels, and 1e-17 of what it is a sum of."""
    T = np.linalg.qr(np.random.default_rng(1).standard_normal((2, 2)))[0]
    A, B, C = np.zeros((2, 2)), T @ np.array([[2.0, 0.0], [1.0, 3.0]]), np.array([[1.0, 0.0], [1.0, 1.0]]) @ T.T
    assert 0 < abs((C @ B)[0, 1]) < 1e-15
    A[0, 1] = 3e-16  # what rounding leaves of two integrators
    ((a, b), (c, d)) = (
        [(num, den) for num, den in row] for row in fractions(balred.ss(A, B, C), "a fraction", "keep the system")
    )
    assert not b[0].any()
    for (num, den), residue in ((a, 2.0), (c, 3.0), (d, 3.0)):
        np.testing.assert_allclose(np.polyval(num, 1j) / np.polyval(den, 1j), residue / 1j, rtol=1e-14)


@pytest.mark.parametrize(
    ("A", "B", "C"),
    [
        (np.zeros((2, 2)), [[38.40314942], [-390.86439381]], [[-0.01153306, -1.48537518]]),
        (np.eye(2, k=-1), [[0.0], [-0.03269545]], [[-0.66892444, -0.83353997]]),
    ],
)
def test_integrators_one_of_which_cancels_a_zero(A: Any, B: Any, C: Any) -> None:
    """By hand H(s) = CB / s, with one more root at zero above and below, which rounding moves."""
    num, den = fraction(balred.ss(A, B, C), "a fraction", "keep the system")
    for s in (0.01, 1j, 30.0):
        np.testing.assert_allclose(np.polyval(num, s) / np.polyval(den, s), (np.array(C) @ B)[0, 0] / s, rtol=1e-12)
