"""Units decide nothing: other units of inputs, outputs and time give the same reduced system in those units.

For every method of the table.  What scales with the system is written in :func:`options`: a level in units of gain, a
horizon, a band and weights in units of time.  The two methods that weigh inputs against outputs, or states against both,
have a unit of gain of their own; for them an input in other units goes with an output in the inverse ones.
"""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest
import scipy.signal
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import balred
from balred.methods import METHODS
from balred.ranks.bounds import numerical_rank

OWN_UNIT_OF_GAIN = ("lqg", "left_coprime", "right_coprime")
EVERY = pytest.mark.parametrize("method", list(METHODS))
TIMES = pytest.mark.parametrize("dt", [0, 1])
DECADES = st.integers(-12, 12)


def in_units(g: Any, u: float, y: float, t: float) -> Any:
    """The system with inputs u times as large, outputs in units that make them y times as large, time in units 1/t."""
    A, B = (g.A, g.B) if g.discrete else (g.A / t, g.B / t)
    return balred.ss(A, u * B, y * g.C, u * y * g.D, g.dt * t)


def options(method: str, dt: int, gain: float, t: float) -> dict[str, Any]:
    I = np.eye(2)
    weight = in_units(balred.ss((0.3 if dt else -2.0) * I, I, I, 0.5 * I, dt), 1, 1, t)
    return {
        "frequency_weighted": {"left": weight},
        "weighted_hankel_norm": {"left": weight},
        "bounded_real": {"gamma": 1e3 * gain},
        "time_limited": {"horizon": 5 if dt else 3.0 * t},
        "frequency_limited": {"band": (0.1 / t, 1.0 / t)},
        "stochastic": {"beta": 0.1 * gain},
    }.get(method, {})


def plant(seed: int, dt: int, unstable: bool = False) -> Any:
    """A square random system; a stable one gets a direct term that makes it passive and of full rank."""
    g = balred.testing.random_system(6, 2, 2, dt=dt, seed=seed)
    if not unstable:
        through = balred.ss(g.A, g.B, g.C, dt=dt)  # all but the direct term that goes
        return balred.ss(g.A, g.B, g.C, 1.2 * float(balred.norm(through, "hinf")) * np.eye(2), dt)
    poles = np.linalg.eigvals(g.A)
    A = g.A * 1.2 / np.abs(poles).max() if dt else g.A + (0.3 - poles.real.max()) * np.eye(6)
    return balred.ss(A, g.B, g.C, dt=dt)


def points(dt: int) -> Any:
    return np.exp(1j * np.linspace(0.1, 3, 9)) if dt else 1j * np.logspace(-2, 2, 9)


def response(g: Any, s: Any) -> Any:
    return np.array([g(complex(x)) for x in s])


def check(method: str, g: Any, u: float, y: float, t: float, k: int = 3, **more: Any) -> None:
    dt = int(g.discrete)
    a = balred.analyze(g, method=method, **options(method, dt, 1.0, 1.0), **more)
    if method == "modal":
        k = a.state.closed(k)  # conjugate pairs have one value
    s = np.asarray(a.hsv)
    assume(s[k - 1] - s[k] > 1e-3 * s[k])  # where to cut is no matter of rounding
    small = a.reduce(k)
    other = balred.reduce(in_units(g, u, y, t), k, method=method, **options(method, dt, u * y, t), **more)
    assert other.order == small.order
    want, scale = response(small, points(dt)), 1 if dt else t
    got = response(other, points(dt) / scale) / (u * y)
    # the iterations of H2-optimal reduction end within their tolerance, 1e-9, of a fixed point
    assert_allclose(got, want, rtol=0, atol=(1e-6 if method in ("irka", "tsia") else 1e-9) * np.abs(want).max())


@pytest.mark.filterwarnings("ignore::balred.InstabilityWarning")  # of which some methods make some
@pytest.mark.alike
@EVERY
@TIMES
@settings(max_examples=12)
@given(seed=st.integers(0, 10**6), u=DECADES, y=DECADES, t=DECADES)
def test_units_of_inputs_outputs_and_time(method, dt, seed, u, y, t):
    y = -u if method in OWN_UNIT_OF_GAIN else y
    check(method, plant(seed, dt), 10.0**u, 10.0**y, 10.0**t)


@pytest.mark.parametrize("method", [k for k, m in METHODS.items() if m.takes_unstable and "real" not in k])
@pytest.mark.filterwarnings(
    "ignore::balred.InstabilityWarning"
)  # of the factors something is promised, not of the modes
@TIMES
@settings(max_examples=12)
@given(seed=st.integers(0, 10**6), u=DECADES, t=DECADES)
def test_units_of_unstable_systems(method, dt, seed, u, t):
    check(method, plant(seed, dt, unstable=True), 10.0**u, 10.0**-u, 10.0**t)


def in_units_of_each(g: Any, u: Any, y: Any) -> Any:
    u, y = 10.0 ** np.array(u), 10.0 ** np.array(y)
    return balred.ss(g.A, g.B * u, y[:, None] * g.C, y[:, None] * g.D * u, g.dt)


@TIMES
@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), y=st.tuples(DECADES, DECADES))
def test_a_relative_error_knows_no_units_of_single_outputs(dt, seed, y):
    """:math:`(TG)^{-1}T(G-G_k) = G^{-1}(G-G_k)`, whatever the diagonal T."""
    g = plant(seed, dt)
    s = np.asarray(balred.analyze(g, method="stochastic").hsv)
    assume(s[2] - s[3] > 1e-3 * s[3])
    one, other = (balred.reduce(x, 3, method="stochastic") for x in (g, in_units_of_each(g, (0, 0), y)))
    for z in points(dt):
        want = one(complex(z))
        got = other(complex(z)) / 10.0 ** np.array(y)[:, None]
        assert_allclose(got, want, rtol=0, atol=1e-9 * np.abs(want).max())


@TIMES
@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), y=st.tuples(DECADES, DECADES))
def test_passivity_knows_no_units_of_ports(dt, seed, y):
    """:math:`T^HGT` is passive where G is: a port in volts and amperes beside one in newtons and metres per second."""
    g = plant(seed, dt)
    s = np.asarray(balred.analyze(g, method="positive_real").hsv)
    assume(s[2] - s[3] > 1e-3 * s[3])
    one, other = (balred.reduce(x, 3, method="positive_real") for x in (g, in_units_of_each(g, y, y)))
    T = 10.0 ** np.array(y)
    for z in points(dt):
        want = one(complex(z))
        assert_allclose(other(complex(z)) / T / T[:, None], want, rtol=0, atol=1e-9 * np.abs(want).max())


def unstable_pole(zeros, poles):
    return balred.ss(*scipy.signal.zpk2ss(zeros, poles, 1.0))


SYSTEMS = {
    "stable": balred.testing.random_system(4, 2, 2, seed=9),
    "unstable": balred.ss(
        *(lambda g: (g.A + 0.7 * np.eye(4), g.B, g.C))(balred.testing.random_system(4, 2, 2, seed=5))
    ),
    "direct": balred.testing.random_system(4, 2, 2, seed=5),
    "relative degree 4": unstable_pole([], [-1.0, -2.0, -3.0, -4.0]),
    "zero on the right": unstable_pole([3.0, -2.0], [-1.0, -2.5, -3.0, -4.0]),
    "integrator": unstable_pole([-2.0], [-1.0, -2.5, 0.1, -4.0]),
}


def lqg_values(g: Any) -> Any:
    """Square roots of the eigenvalues of YX in 60 digits, X and Y from eigenvectors of the two Hamiltonian matrices."""
    with mpmath.workdps(60):
        A, B, C, D = (mpmath.matrix(x.tolist()) for x in (g.A, g.B, g.C, g.D))

        def solution(A: Any, B: Any, C: Any, D: Any) -> Any:
            n, R = A.rows, (mpmath.eye(B.cols) + D.T * D) ** -1
            F = A - B * R * D.T * C
            H = mpmath.matrix(2 * n)
            H[:n, :n], H[:n, n:], H[n:, n:] = F, -B * R * B.T, -F.T
            H[n:, :n] = C.T * D * R * D.T * C - C.T * C
            poles, V = mpmath.eig(H)
            stable = [j for j in range(2 * n) if mpmath.re(poles[j]) < 0]
            U = mpmath.matrix(2 * n, n)
            for i, j in enumerate(stable):
                U[:, i] = V[:, j]
            return U[n:, :] * U[:n, :] ** -1

        product = solution(A.T, C.T, B.T, D.T) * solution(A, B, C, D)
        squares = mpmath.eig(product, left=False, right=False)
        return np.sort([float(mpmath.sqrt(abs(x))) for x in squares])[::-1]


@pytest.mark.alike
@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("decade", [-12, -9, 9, 12])
def test_gains_far_from_the_unit_of_the_controller(name, decade):
    """Values of LQG balancing above the numerical rank, and what they say of the normalised coprime factors.

    Those have the Hankel singular values :math:`\\sigma/\\sqrt{1+\\sigma^2}` [Meyer 1990].
    """
    g = in_units(SYSTEMS[name], 10.0**decade, 1, 1)
    want = lqg_values(g)
    rank = int(numerical_rank(want))
    a = balred.analyze(g, method="lqg")
    assert a.numerical_rank == rank
    # A + BF is rounded to eps times its fast poles, which a large gain makes 10^decade times as fast as the slow ones
    rtol = max(1e-9, 4 * np.finfo(np.float64).eps * 10.0**decade)
    assert_allclose(a.hsv[:rank], want[:rank], rtol=rtol)
    factors = np.asarray(balred.analyze(g, method="left_coprime", factorization="normalized").hsv)
    assert_allclose(factors, want / np.sqrt(1 + want**2), rtol=1e-6, atol=1e-9)
