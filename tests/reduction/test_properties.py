"""Properties over random systems of every shape and temper: the spectrum, the error and its bounds.

The expected relations are theorems: invariance under change of basis and scaling (definition), duality (P and Q change
places), sigma_{k+1} <= ||G - Gk||inf <= 2 sum of the tail (Glover 1984; Enns 1984), and that states which inputs do not
reach, or outputs do not see, have zero values.
"""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from numpy.testing import assert_allclose

import balred


@st.composite
def systems(draw: st.DrawFn, least: int = 1) -> Any:
    """A stable dense system of order at least `least`: any numbers of inputs and outputs, scales from 1e-8 to 1e8."""
    n, m, p = draw(st.integers(least, 9)), draw(st.integers(1, 12)), draw(st.integers(1, 12))
    dt = draw(st.sampled_from([0, 1, 0.1]))
    g = balred.testing.random_system(n, m, p, dt=dt, seed=draw(st.integers(0, 10**6)))
    b, c = (10.0 ** draw(st.integers(-8, 8)) for _ in range(2))
    rate = 1.0 if dt else 10.0 ** draw(st.integers(-8, 8))
    return balred.ss(g.A * rate, g.B * b, g.C * c, g.D, dt)


def moved(g: Any, T: Any) -> Any:
    return balred.ss(T @ g.A @ np.linalg.inv(T), T @ g.B, g.C @ np.linalg.inv(T), g.D, g.dt)


def basis(n: int, seed: int, condition: float = 10.0) -> Any:
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(2))
    return U * np.geomspace(1, condition, n) @ V


@given(systems(), st.integers(0, 99))
def test_values_are_those_of_the_operator(g, seed):
    s = balred.hsv(g)
    assert s.shape == (g.order,)
    assert np.all(np.diff(s) <= 0)
    assert_allclose(balred.hsv(moved(g, basis(g.order, seed))), s, rtol=1e-7, atol=1e-11 * s[0])
    dual = balred.ss(g.A.T, g.C.T, g.B.T, g.D.T, g.dt)
    assert_allclose(balred.hsv(dual), s, rtol=1e-9, atol=1e-12 * s[0])


@given(systems(), st.integers(-8, 8))
def test_values_scale_with_the_outputs(g, power):
    scaled = balred.ss(g.A, g.B, g.C * 10.0**power, g.D, g.dt)
    s = balred.hsv(g)
    assert_allclose(balred.hsv(scaled), s * 10.0**power, rtol=1e-9, atol=1e-12 * s[0] * 10.0**power)


@pytest.mark.parametrize("method", ["truncate", "square_root", "singular_perturbation"])
@given(g=systems(least=2), share=st.floats(0, 1))
def test_error_lies_between_its_bounds(method, g, share):
    a = balred.analyze(g)
    k = 1 + int(share * (a.numerical_rank - 1))
    small = a.reduce(k, method=method)
    error, s = float(balred.error(g, small)), balred.hsv(g)
    floor = 1e-10 * (s[0] + float(np.linalg.norm(g.D, 2)))
    assert (s[k] if k < len(s) else 0.0) <= error * (1 + 1e-9) + floor
    assert error <= a.bound(k) * (1 + 1e-9) + floor
    poles = np.linalg.eigvals(small.A)
    assert np.all(np.abs(poles) < 1) if g.discrete else np.all(poles.real < 0)


@given(systems(), st.integers(1, 4), st.integers(0, 99))
def test_states_that_take_no_part_have_no_value(g, extra, seed):
    """Non-minimal: `extra` states that hear nothing and `extra` that nobody hears, hidden by a change of basis."""
    n, rng = g.order, np.random.default_rng(seed)
    N = n + 2 * extra
    inner = -np.diag(rng.uniform(0.5, 2, 2 * extra)) * (np.abs(g.A).max() if not g.discrete else 0.4)
    A = np.zeros((N, N))
    A[:n, :n], A[n:, n:] = g.A, inner
    B = np.vstack([g.B, np.zeros((extra, g.B.shape[1])), np.abs(g.B).max() * np.ones((extra, g.B.shape[1]))])
    C = np.hstack([g.C, np.abs(g.C).max() * np.ones((g.C.shape[0], extra)), np.zeros((g.C.shape[0], extra))])
    s, padded = balred.hsv(g), balred.hsv(moved(balred.ss(A, B, C, g.D, g.dt), basis(N, seed)))
    assert_allclose(padded[:n], s, rtol=1e-6, atol=1e-9 * s[0])
    assert np.all(padded[n:] <= 1e-9 * s[0])


@given(systems(least=2), st.integers(2, 3))
def test_repeated_values_are_kept_or_cut_together(g, copies):
    """The system beside itself has every value `copies` times; the bound counts each once."""
    eye = np.eye(copies)
    h = balred.ss(np.kron(eye, g.A), np.kron(eye, g.B), np.kron(eye, g.C), np.kron(eye, g.D), g.dt)
    s = balred.hsv(g)
    assert_allclose(balred.hsv(h), np.repeat(s, copies), rtol=1e-7, atol=1e-12 * s[0])
    k = 1
    one, many = balred.analyze(g), balred.analyze(h)
    if one.numerical_rank > k and s[0] > s[1] * (1 + 1e-6):
        assert_allclose(many.bound(k * copies), one.bound(k), rtol=1e-6, atol=1e-9 * s[0])
        small = many.reduce(k * copies)
        assert float(balred.error(h, small)) <= many.bound(k * copies) * (1 + 1e-9) + 1e-9 * s[0]


@given(systems(least=2), st.floats(0.01, 2), st.integers(0, 99))
def test_unstable_modes_are_infinite_and_survive(g, speed, seed):
    rate = 1 + speed if g.discrete else speed * np.abs(g.A).max()
    n, m, p = g.order, g.B.shape[1], g.C.shape[0]
    A = np.zeros((n + 1, n + 1))
    A[:n, :n], A[n, n] = g.A, rate
    h = balred.ss(A, np.vstack([g.B, np.full((1, m), g.B.std() + np.abs(g.B).max())]),
                  np.hstack([g.C, np.full((p, 1), np.abs(g.C).max())]), g.D, g.dt)  # fmt: skip
    h = moved(h, basis(n + 1, seed))
    s = balred.hsv(h)
    assert np.isinf(s[0])
    assert_allclose(s[1:], balred.hsv(g), rtol=1e-5, atol=1e-8 * s[1])
    small = balred.reduce(h, 2)
    poles = np.linalg.eigvals(small.A)
    worst = poles[np.argmax(np.abs(poles) if g.discrete else poles.real)]
    assert_allclose(worst, rate, rtol=1e-8)


@given(systems(least=2))
def test_marginal_poles_are_named(g):
    A = g.A.copy()
    A[0, :], A[:, 0] = 0.0, 0.0
    A[0, 0] = 1.0 if g.discrete else 0.0
    h = balred.ss(A, g.B, g.C, g.D, g.dt)
    assert np.isinf(balred.hsv(h)[0])
    with pytest.raises(balred.UnstableError):
        balred.norm(h, "h2")


@given(systems())
def test_one_state_is_the_formula(g):
    """A lag b c / (s - a): sigma = |b||c| / (2|a|), in discrete time / (1 - a^2) (by hand)."""
    a, b, c = g.A[:1, :1], g.B[:1], g.C[:, :1]
    a = a if (abs(a[0, 0]) < 1 if g.discrete else a[0, 0] < 0) else -np.abs(a) * (0.5 if g.discrete else 1.0) - 1e-3
    if g.discrete and abs(a[0, 0]) >= 1:
        a = a / (2 * abs(a[0, 0]))
    lag = balred.ss(a, b, c, dt=g.dt)
    gap = 1 - a[0, 0] ** 2 if g.discrete else -2 * a[0, 0]
    assert_allclose(balred.hsv(lag)[0], np.linalg.norm(b) * np.linalg.norm(c) / gap, rtol=1e-10)
