"""Poles on the stability boundary in coordinates that hide them: never a finite value where there is none.

Integrators, chains of them, undamped oscillators, discrete poles at 1 and -1, beside lags.  The coordinates are rotated at
random, so that rounding moves a double pole by the root of it.  The values of the rest are those of the lags alone, in 50
digits; the error of a reduction that keeps the boundary is that of the lags alone.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from oracle import oracle_hsv
from tables import Backend, Library

import balred
from balred.methods import METHODS
from balred.solvers.gramians import SOLVERS
from balred.systems import DenseSystem, DiagonalSystem

few = settings(max_examples=max(2, settings.default.max_examples // 4))
"""What is asked of every method or library is asked of fewer examples."""

SWING = [[0.0, 2.0], [-2.0, 0.0]]
TURN = [[np.cos(1.0), np.sin(1.0)], [-np.sin(1.0), np.cos(1.0)]]
MODES: dict[str, tuple[Any, list[float], list[float], float]] = {
    "integrator": ([[0.0]], [1.0], [1.0], 0),
    "two integrators": (np.zeros((2, 2)), [1.0, 0.5], [1.0, 2.0], 0),
    "double integrator": ([[0.0, 1.0], [0.0, 0.0]], [0.0, 1.0], [1.0, 0.0], 0),
    "triple integrator": (np.diag([1.0, 1.0], 1), [0.0, 0.0, 1.0], [1.0, 0.0, 0.0], 0),
    "oscillator": (SWING, [0.0, 1.0], [1.0, 0.0], 0),
    "oscillator and integrator": (scipy.linalg.block_diag(SWING, 0.0), [0.0, 1.0, 1.0], [1.0, 0.0, 1.0], 0),
    "pole at 1": ([[1.0]], [1.0], [1.0], 1),
    "pole at -1": ([[-1.0]], [1.0], [1.0], 0.1),
    "poles at 1 and -1": (np.diag([1.0, -1.0]), [1.0, 1.0], [1.0, 1.0], 1),
    "double pole at 1": ([[1.0, 0.1], [0.0, 1.0]], [0.0, 1.0], [1.0, 0.0], 0.1),
    "double pole at -1": ([[-1.0, 1.0], [0.0, -1.0]], [0.0, 1.0], [1.0, 0.0], 1),
    "pair on the circle": (TURN, [0.0, 1.0], [1.0, 0.0], 1),
}
each_mode = pytest.mark.parametrize("name", MODES)
seeds = st.integers(0, 2**32 - 1)


def lags(dt: float) -> DenseSystem:
    """Three lags whose values lie within two decades."""
    return balred.ss(
        np.diag([0.5, -0.4, 0.1] if dt else [-1.0, -3.0, -0.4]), np.ones((3, 1)), [[1.0, 1.0, -0.7]], dt=dt
    )


TRUTH = {dt: oracle_hsv(lags(dt)) for dt in {dt for *_, dt in MODES.values()}}


def beside(name: str, stable: DenseSystem | None = None) -> DenseSystem:
    A, B, C, dt = MODES[name]
    g = lags(dt) if stable is None else stable
    return balred.ss(
        scipy.linalg.block_diag(A, g.A), np.vstack([np.array(B)[:, None], g.B]), np.hstack([[C], g.C]), dt=dt
    )


def turned(g: DenseSystem, seed: int) -> DenseSystem:
    Q = np.linalg.qr(np.random.default_rng(seed).standard_normal((g.order, g.order)))[0]
    return balred.ss(Q @ g.A @ Q.T, Q @ g.B, g.C @ Q.T, g.D, g.dt)


def count(name: str) -> int:
    return len(MODES[name][0])


def check_values(s: Any, name: str, tolerance: float) -> None:
    truth, k = TRUTH[MODES[name][3]], count(name)
    assert np.array_equal(np.isinf(s), np.arange(len(s)) < k), s
    assert_allclose(s[k:], truth, rtol=0, atol=tolerance * truth[0])


@each_mode
@given(seed=seeds)
def test_as_many_are_infinite_as_there_are_such_modes(name, seed):
    g = turned(beside(name), seed)
    check_values(balred.hsv(g), name, 1e-6)
    assert not balred.measures.norms.is_stable(g)


@pytest.mark.parametrize("solver", [s for s, takes in SOLVERS.items() if not takes["dense"]])
@each_mode
@given(seed=seeds)
def test_with_every_solver(solver, name, seed):
    if solver == "slycot":
        pytest.importorskip("slycot")
    check_values(balred.hsv(turned(beside(name), seed), solver=solver), name, 1e-6)


@pytest.mark.parametrize("backend", [Backend.NUMPY, Backend.TORCH, Backend.JAX], ids=lambda b: b.value)
@pytest.mark.parametrize("precision", ["float64", "float32"])
@each_mode
@given(seed=seeds)
def test_in_every_library_and_precision(backend, precision, name, seed):
    """Entries in single precision leave a double pole a thousandth of freedom, and the values what that makes of them."""
    pytest.importorskip(backend.library)
    lib = Library(backend, precision)
    with lib.scope():
        s = lib.numpy(balred.hsv(lib.system(turned(beside(name), seed)))).astype(np.float64)
    check_values(s, name, 1e-6 if precision == "float64" else 2e-3)


@each_mode
@given(seed=seeds)
def test_what_is_only_of_stable_systems_is_refused(name, seed):
    g = turned(beside(name), seed)
    for kind in ("h2", "hinf", "hankel", "linf", "l2"):
        with pytest.raises(balred.UnstableError, match="got a pole at"):
            balred.norm(g, kind)
    for function in (balred.gramians, balred.balance):
        with pytest.raises(balred.UnstableError, match="got a pole at"):
            function(g)


@pytest.mark.alike
@each_mode
@given(seed=seeds)
def test_one_more_state_than_the_boundary_needs(name, seed):
    """The reduction keeps these modes, so its error is that of the lags reduced to one state, within their bound."""
    dt, k = MODES[name][3], count(name)
    g = turned(beside(name), seed)
    a = balred.analyze(g)
    small = a.reduce(k + 1)
    assert small.order == k + 1
    assert np.sum(np.isinf(balred.hsv(small))) == k
    expected = float(balred.error(lags(dt), balred.reduce(lags(dt), 1)))
    assert_allclose(float(balred.error(g, small)), expected, rtol=1e-4)
    assert_allclose(float(a.bound(k + 1)), 2 * TRUTH[dt][1:].sum(), rtol=1e-5)
    with pytest.raises(ValueError, match="rank must be"):
        balred.reduce(g, k - 1 if k > 1 else 0)


@each_mode
@given(seed=seeds)
def test_minimal_keeps_them_and_loses_what_is_hidden(name, seed):
    g = beside(name)
    # a "two integrators" with one input is one integrator and a state that takes no part
    order = g.order - (name == "two integrators")
    hidden = balred.ss(
        scipy.linalg.block_diag(g.A, MODES[name][0]),
        np.vstack([g.B, np.zeros((count(name), 1))]),
        np.hstack([g.C, np.ones((1, count(name)))]),
        dt=g.dt,
    )
    for full in (g, hidden):
        small = balred.minimal(turned(full, seed))
        assert small.order == order
        for s in (0.3 + 0.4j, 2.1, 1.5j):
            assert_allclose(small(s), g(s), rtol=1e-7)


OPTIONS: dict[str, Any] = {
    "bounded_real": {"gamma": 1e3},
    "time_limited": {"horizon": 5},
    "frequency_limited": {"band": (0.1, 1.0)},
    "stochastic": {"beta": 0.1},
}


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("name", ["integrator", "double integrator", "pole at 1", "double pole at 1"])
@given(seed=seeds)
@few
def test_every_method_keeps_them_or_says_why_not(method, name, seed):
    """What comes back has the same gain where the boundary modes dominate, to the last state that the lags could change."""
    dt, k = MODES[name][3], count(name)
    passive = dataclasses.replace(lags(dt), D=np.array([[5.0]]))
    g = turned(dataclasses.replace(beside(name), D=passive.D), seed)
    options = dict(OPTIONS.get(method, {}))
    if "weighted" in method:
        options["left"] = balred.ss([[0.3 if dt else -2.0]], [[1.0]], [[1.0]], [[0.5]], dt)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            small = balred.reduce(g, k + 2, method=method, **options)
    except (ValueError, ArithmeticError):
        # Riccati methods take the whole system, which then must be stabilisable, passive ...
        if not METHODS[method].takes_unstable:
            raise
        return
    assert k <= small.order <= k + 2
    if not METHODS[method].takes_unstable:
        at = (1.0 if dt else 0.0) + 1e-4
        assert_allclose(small(at), g(at), rtol=5e-3)
        with pytest.raises(balred.UnstableError):
            balred.norm(small, "h2")
        if method != "frequency_limited":  # which may make a stable part unstable, as its page says
            assert np.isfinite(float(balred.error(g, small)))


@pytest.mark.parametrize("conjugate", [False, True])
@pytest.mark.parametrize("dt", [0, 1])
def test_of_diagonal_systems(dt, conjugate):
    """Poles are given one by one, and known as they are given."""
    poles = np.array([0j, 2j, -1.0, -0.5 + 1j]) if not dt else np.array([1, np.exp(1j), 0.5, 0.2 + 0.3j])
    g = balred.diagonal(poles, np.ones((4, 1)), np.ones((1, 4)), dt=dt, conjugate=conjugate)
    s, factor = balred.hsv(g), 1 + conjugate
    inside = balred.diagonal(poles[2:], np.ones((2, 1)), np.ones((1, 2)), dt=dt, conjugate=conjugate)
    assert np.array_equal(np.isinf(s), np.arange(4 * factor) < 2 * factor)
    assert_allclose(s[2 * factor :], balred.hsv(inside), rtol=1e-12)
    small = balred.reduce(g, 3)
    assert isinstance(small, DiagonalSystem)
    assert np.sum(np.isinf(balred.hsv(small))) == 2 * factor


@each_mode
def test_a_batch_with_such_a_member_is_refused(name):
    """What is split off has its own size for each member."""
    one, other = (turned(beside(name), seed) for seed in (0, 1))
    batch = balred.ss(*(np.stack([getattr(g, x) for g in (one, other)]) for x in "ABCD"), dt=one.dt)
    with pytest.raises(ValueError, match=r"the unstable part can be split off a single system only|must"):
        balred.hsv(batch)
    with pytest.raises(ValueError, match="pole"):
        balred.reduce(batch, 2)


@pytest.mark.alike
@each_mode
@given(seed=seeds)
def test_traced_ones_are_no_numbers(name, seed):
    """Under ``jit`` nobody can look at poles: what comes out must not be taken for a value."""
    pytest.importorskip("jax")
    lib = Library(Backend.JAX_JIT, "float64")
    with lib.scope():
        s = lib.numpy(lib.call(balred.hsv, lib.system(turned(beside(name), seed))))
    assert not np.all(np.isfinite(s)), s


@pytest.mark.parametrize("seed", range(20))
def test_an_integrator_with_rounding_in_the_place_of_zeros_is_infinite_or_told(seed: int) -> None:
    """A companion form with rounding where zeros should be, as realisations of transfer functions leave it.

    Expected: the first value is infinite, as without the rounding, or a warning says why it is not.
    """
    rng = np.random.default_rng(seed)
    n = 5
    lags = 10 ** rng.uniform(-1, 2, n - 1)
    A = scipy.linalg.matrix_balance(np.diag(np.ones(n - 1), -1) - np.eye(n, 1) * np.poly([*-lags, 0.0])[1:])[0]
    B, C = np.eye(n, 1), np.ones((1, n))
    assert balred.hsv(balred.ss(A, B, C))[0] == np.inf
    noise = np.where(A == 0, 1e-17 * np.linalg.norm(A) * rng.uniform(-1, 1, (n, n)), 0.0)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        first = balred.hsv(balred.ss(A + noise, B, C))[0]
        model = balred.reduce(balred.ss(A + noise, B, C), 3)
    kinds = {warning.category for warning in told}
    assert first == np.inf or balred.BoundaryWarning in kinds
    assert model.states == 3 or balred.RankWarning in kinds  # 1e17 leaves others no digits


def test_what_is_known_by_its_own_entries_is_not_told() -> None:
    """Chains of rates, whose poles stand on the diagonal, and filters: no warning (warnings are errors here)."""
    rates = np.logspace(-14, 3, 6)
    balred.hsv(balred.ss(np.diag(-rates) + np.diag(rates[1:], -1), np.eye(6, 1), np.ones((1, 6))))
    for wn in (1.0, 2e3, 1e9):
        balred.hsv(scipy.signal.lti(*scipy.signal.butter(4, wn, analog=True)))


@pytest.mark.parametrize("turned", [False, True], ids=["given", "turned"])
@pytest.mark.parametrize("xp", ["numpy", "jax", "torch"])
def test_an_oscillation_that_nothing_reaches_and_nothing_sees_is_one(xp, turned):
    """Of a discrete system beside it: the sums of inputs and outputs over time end early, and say nothing of it.  The poles are
    +-i and so on the boundary; the values of the rest are those of the rest alone."""
    rest = balred.ss([[0.5, 0.3], [-0.3, 0.5]], [[1.0], [1.0]], [[1.0, 2.0]], dt=1)
    A = np.kron(np.diag([1.0, 0.0]), rest.A) + np.kron(np.diag([0.0, 1.0]), [[0.0, 1.0], [-1.0, 0.0]])
    B, C = np.vstack([rest.B, np.zeros((2, 1))]), np.hstack([rest.C, np.zeros((1, 2))])
    T = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0] if turned else np.eye(4)
    library = pytest.importorskip("jax.numpy" if xp == "jax" else xp)
    A, B, C = (library.asarray(x) for x in (T @ A @ T.T, T @ B, C @ T.T))
    g = balred.ss(A, B, C, dt=1)
    values = np.asarray(balred.hsv(g))
    assert np.isinf(values[:2]).all()
    assert_allclose(values[2:], balred.hsv(rest), rtol=1e-6 if xp == "jax" else 1e-12)
    for several in (g, balred.ss(A[None], B, C, dt=1)):
        with pytest.raises(balred.UnstableError, match="got a pole at"):
            balred.gramian_factors(several)
