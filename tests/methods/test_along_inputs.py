"""Balancing on recorded inputs: the equations, what does not depend on coordinates, what is promised and what is told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.signal
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from tables import BATCHED, Case, Library, each_case, each_method, frequencies, members

import balred
from balred.measures.recordings import RecordingWarning, output_error, recordings_of, signals_factor
from balred.systems.arrays import to_numpy

RNG = np.random.default_rng(1)
TIMES = pytest.mark.parametrize("dt", [0, 0.5])


def system(seed: int = 1, n: int = 6, dt: float = 0.5) -> Any:
    return balred.testing.random_system(n, 2, 3, dt=dt, seed=seed)


def low_pass(samples: int, inputs: int = 2, seed: int = 0) -> Any:
    u = np.random.default_rng(seed).standard_normal((inputs, samples))
    return scipy.signal.lfilter([0.1], [1.0, -0.9], u)


def recorded(g: Any, u: Any, **how: Any) -> Any:
    """The options for a system of either kind."""
    return {"inputs": u, **({} if g.discrete else {"dt": 0.5}), **how}


def states_of(g: Any, u: Any) -> Any:
    Z, unit = signals_factor(g, recordings_of(g, u, 0.5))
    return (Z @ Z.T * unit**2)[: g.order, : g.order]


def lyapunov(A: Any, W: Any, dt: float) -> Any:
    return (scipy.linalg.solve_discrete_lyapunov if dt else lambda A, W: scipy.linalg.solve_continuous_lyapunov(A, -W))(
        A, W
    )


@TIMES
def test_values_are_those_of_the_states_and_the_observability_gramian(dt: float) -> None:
    g, u = system(dt=dt), low_pass(80)
    Q = lyapunov(g.A.T, g.C.T @ g.C, dt)
    wanted = np.sqrt(np.sort(np.linalg.eigvals(states_of(g, u) @ Q).real)[::-1])
    assert_allclose(balred.analyze(g, **recorded(g, u)).hsv, wanted, rtol=1e-6)


@TIMES
@pytest.mark.parametrize("states", [0, 2])
def test_left_weights_the_outputs(dt: float, states: int) -> None:
    """Enns: the block of the cascade's observability Gramian that belongs to the system."""
    g, u, W = system(dt=dt), low_pass(80), RNG.standard_normal((2, 3))
    w = (
        balred.testing.random_system(2, 3, 2, dt=dt, seed=9)
        if states
        else balred.ss(np.zeros((0, 0)), np.zeros((0, 3)), np.zeros((2, 0)), W, dt)
    )
    A = np.block([[g.A, np.zeros((6, states))], [w.B @ g.C, w.A]])
    C = np.hstack([w.D @ g.C, w.C])
    Q = lyapunov(A.T, C.T @ C, dt)[:6, :6]
    wanted = np.sqrt(np.sort(np.linalg.eigvals(states_of(g, u) @ Q).real)[::-1])
    for left in [w] if states else [w, W]:
        assert_allclose(balred.analyze(g, **recorded(g, u, left=left)).hsv, wanted, rtol=1e-6)


def test_white_inputs_give_hankel_values_at_the_rate_of_statistics() -> None:
    """A hundred times the samples, a tenth of the error: means of 30 draws, each known to a fifth."""
    g = system()
    wanted = balred.hsv(g)
    errors = [
        np.mean(
            [
                np.abs(
                    balred.analyze(g, inputs=np.random.default_rng(seed).standard_normal((2, samples))).hsv / wanted - 1
                )
                for seed in range(30)
            ]
        )
        for samples in (400, 40_000)
    ]
    assert 7 < errors[0] / errors[1] < 14


def test_a_long_stationary_signal_is_a_frequency_weight() -> None:
    """First-order noise x+ = .9 x + .1 w has the spectrum of .1/(1 - .9/z): Enns's values for that weight."""
    g = system()
    weight = balred.ss(0.9 * np.eye(2), 0.1 * np.eye(2), 0.9 * np.eye(2), 0.1 * np.eye(2), 0.5)
    wanted = balred.analyze(g, method="frequency_weighted", right=weight).hsv
    errors = [
        np.mean([np.abs(balred.analyze(g, inputs=low_pass(samples, seed=seed)).hsv / wanted - 1) for seed in range(30)])
        for samples in (1000, 100_000)
    ]
    assert errors[1] < 0.02
    assert 6 < errors[0] / errors[1] < 16  # correlated samples count as fewer at the start


@TIMES
@pytest.mark.parametrize("units", [1.0, 1e6])
def test_values_and_responses_do_not_depend_on_coordinates(dt: float, units: float) -> None:
    g, u = system(dt=dt), low_pass(100)
    T = np.linalg.qr(RNG.standard_normal((6, 6)))[0] @ np.diag(np.geomspace(1, units, 6))
    h = balred.ss(np.linalg.solve(T, g.A @ T), np.linalg.solve(T, g.B), g.C @ T, g.D, dt)
    a, b = (balred.analyze(x, **recorded(x, u)) for x in (g, h))
    assert_allclose(a.hsv, b.hsv, rtol=1e-7)
    for z in map(complex, frequencies(g, 10)):
        assert_allclose(a.reduce(3)(z), b.reduce(3)(z), rtol=0, atol=1e-6 * np.abs(g(z)).max())


@TIMES
def test_units_of_inputs_and_outputs_scale_the_values_alone(dt: float) -> None:
    g, u = system(dt=dt), low_pass(100)
    h = balred.ss(g.A, g.B / 1e5, g.C * 1e-3, g.D * 1e-8, dt)
    a, b = balred.analyze(g, **recorded(g, u)), balred.analyze(h, **recorded(h, 1e5 * u))
    assert_allclose(b.hsv, 1e-3 * a.hsv, rtol=1e-9)


@each_case
@each_method
def test_structures_libraries_and_full_rank(case: Case, method: str, xp: Library) -> None:
    """Every structure in every library: all states reproduce the system, fewer are as good as NumPy's float64."""
    g = case.make()
    mine, u = xp.system(g), low_pass(60)
    a, reference = (balred.analyze(x, method=method, **recorded(g, u)) for x in (mine, g))
    scale = float(reference.hsv.max())
    assert_allclose(to_numpy(a.hsv), reference.hsv, rtol=0, atol=3e3 * xp.eps * scale)
    full = a.reduce(g.states)
    assert type(full.B) is type(mine.B)
    for one, same in zip(members(mine), members(full), strict=True):
        assert_allclose(to_numpy(same(0.3 + 1j)), to_numpy(one(0.3 + 1j)), rtol=0, atol=3e4 * xp.eps * scale)


@pytest.mark.parametrize("case", BATCHED, ids=str)
def test_a_batch_is_its_members(case: Case) -> None:
    g, u = case.make(), low_pass(60)
    a = balred.analyze(g, **recorded(g, u))
    each = [balred.analyze(one, **recorded(g, u)) for one in members(g)]
    assert_allclose(a.hsv, [one.hsv for one in each], rtol=1e-10)
    assert_allclose(a.output_error(2), [one.output_error(2) for one in each], rtol=1e-6)


@pytest.mark.filterwarnings("ignore::balred.measures.recordings.RecordingWarning")
@given(
    seed=st.integers(0, 10**6), dt=st.sampled_from([0, 0.5]), samples=st.sampled_from([3, 10, 200]), k=st.integers(1, 6)
)
def test_reductions_are_stable_whatever_the_signal(seed: int, dt: float, samples: int, k: int) -> None:
    g = system(seed, dt=dt)
    w = np.random.default_rng(seed).uniform(0, 3)
    u = np.outer([1.0, 0.5], np.cos(w * np.arange(samples))) + (np.eye(2, samples) if seed % 2 else 0)
    a = balred.analyze(g, method="matchdc" if seed % 3 else "truncate", **recorded(g, u))
    poles = np.linalg.eigvals(a.reduction(min(k, a.numerical_rank)).system.A)
    assert np.all(np.abs(poles) < 1 if dt else poles.real < 0)


def test_it_is_better_where_it_was_made_for() -> None:
    """On another recording of the kind; a resonance at 2 rad a sample that slow inputs never reach."""
    slow = balred.testing.random_system(6, 1, 1, dt=1, seed=4)
    poles = 0.99 * np.exp([2j, -2j])
    fast = balred.ss(
        np.real(np.diag(poles.real) + np.array([[0, 1], [-1, 0]]) * poles[0].imag), [[1.0], [0.0]], [[3.0, 0.0]], dt=1
    )
    g = balred.ss(
        scipy.linalg.block_diag(slow.A, fast.A), np.vstack([slow.B, fast.B]), np.hstack([slow.C, fast.C]), dt=1
    )
    u, fresh = (
        scipy.signal.lfilter([1], np.poly([0.95] * 3), np.random.default_rng(s).standard_normal(2000)) for s in (1, 2)
    )
    white, ours = balred.reduce(g, 3), balred.reduce(g, 3, inputs=u)
    assert output_error(g, ours, fresh) < 0.2 * output_error(g, white, fresh)


@TIMES
def test_unstable_modes_are_kept_whole(dt: float) -> None:
    g = system(dt=dt)
    poles = [1.2, 1.0] if dt else [0.3, 0.0]
    h = balred.ss(
        scipy.linalg.block_diag(np.diag(poles), g.A),
        np.vstack([np.ones((2, 2)), g.B]),
        np.hstack([np.ones((3, 2)), g.C]),
        dt=dt,
    )
    a, b = (balred.analyze(x, **recorded(x, low_pass(40))) for x in (h, g))
    assert np.isinf(a.hsv[:2]).all()
    assert_allclose(a.hsv[2:], b.hsv, rtol=1e-8)
    kept = np.linalg.eigvals(a.reduce(4).A)
    for pole in poles:
        assert np.abs(kept - pole).min() < 1e-9


def test_no_bound_is_promised() -> None:
    a = balred.analyze(system(), inputs=low_pass(40))
    assert np.isnan(a.bound(3))
    with pytest.raises(ValueError, match="a-priori error bound, got 'truncate' on recorded inputs"):
        a.reduce(balred.ErrorBound(0.1))
    assert a.reduce(balred.Energy(0.9)).states <= a.reduce(balred.Energy(0.99)).states
    row = balred.plan(system(), 3, inputs=low_pass(40)).rows[0]
    assert row.bound is None
    assert row.note == f"relative error of the output along the recordings {a.output_error(3):.3g}"


def test_what_the_recordings_do_not_tell_is_told() -> None:
    g, u = system(), low_pass(100)
    with pytest.warns(RecordingWarning, match="tell only 1 of 2 inputs apart"):
        balred.reduce(g, 3, inputs=np.stack([u[0], 0 * u[0]]))
    with pytest.warns(
        balred.RankWarning, match="the order of the reduced system is 3, because the recordings excite no more"
    ):
        balred.reduce(g, 5, inputs=u[:, :4])  # after rest, of which states there are three
    with pytest.raises(ValueError, match="must move the states"):
        balred.reduce(g, 3, inputs=np.zeros((2, 10)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g, u: balred.reduce(g, 3, inputs=u, method="hankel_norm"), "must be truncate, square_root or singular"),
        (lambda g, u: balred.analyze(g, inputs=u).by("modal"), "must be truncate, square_root or singular"),
        (lambda g, u: balred.reduce([g, g], 3, inputs=u), "go with one system, got a model with 2 layers"),
        (lambda g, u: balred.analyze([g, g], inputs=u), "go with one system, got a model with 2 layers"),
        (lambda g, u: balred.plan(g, 3, calibration=u, inputs=u), "go with one system, got calibration"),
        (
            lambda g, u: balred.reduce(g, 3, inputs=u, left=np.ones((1, 2))),
            "as many inputs as the system has outputs, 3, got 2",
        ),
        (lambda g, u: balred.reduce(g, 3, inputs=u, left=np.full((1, 3), np.nan)), "left weight must be finite"),
        (
            lambda g, u: balred.reduce(g, 3, inputs=u, left=balred.ss([[-1.0]], [[1.0, 0, 0]], [[1.0]])),
            "dt of the system",
        ),
        (
            lambda g, u: balred.reduce(g, 3, inputs=u, left=balred.ss([[2.0]], [[1.0, 0, 0]], [[1.0]], dt=0.5)),
            "must be stable",
        ),
        (lambda g, u: balred.analyze(g).output_error(3), "needs an analysis with inputs"),
        (
            lambda g, u: balred.reduce(
                balred.second_order(*[np.eye(2)] * 3, np.ones((2, 1)), np.ones((1, 2))), 1, inputs=u
            ),
            "reduce its first-order form",
        ),
    ],
)
def test_what_cannot_be_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(system(), low_pass(40))


def test_no_inputs_are_no_option() -> None:
    g = system()
    assert_allclose(balred.reduce(g, 3, inputs=None).A, balred.reduce(g, 3).A, rtol=0, atol=0)


def test_lists_of_ranks_layers_and_control_systems() -> None:
    control = pytest.importorskip("control")
    g, u = system(), low_pass(60)
    several = balred.reduce(g, [2, 4], inputs=u)
    assert_allclose(several[1].A, balred.reduce(g, 4, inputs=u).A)
    small = balred.reduce(control.ss(g.A, g.B, g.C, g.D, 0.5), 3, inputs=u)
    assert isinstance(small, control.StateSpace)
    assert_allclose(small.A, balred.reduce(g, 3, inputs=u).A)
