"""Reductions keep what they promise: the error bounds, the type, the time axis, the unstable part."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from tables import SINGLE, each_case, each_method, each_single, frequencies, gains, members

import balred
from balred.systems import DenseSystem, DiagonalSystem


def poles_of(system):
    return np.linalg.eigvals(system.to_dense().A)


@each_method
@each_case
def test_error_lies_between_its_bounds(xp, case, method):
    """sigma_{r+1} <= ||G - G_r||_inf <= 2 sum of the tail, for the operator of the order actually reached."""
    if xp.traced:
        pytest.skip("reduce returns new shapes: not under a trace")
    system = case.make(n=5)
    exact = xp.exact(system)
    spectra = balred.hsv(exact).reshape(-1, exact.order)
    rank = 2  # other ranks: the random systems below
    small = balred.reduce(xp.system(system), rank, method=method)
    assert type(small) is type(system)
    assert small.dt == system.dt
    assert small.states <= rank
    assert all(xp.owns(x) for x in (*small.leaves, small.D))
    host = dataclasses.replace(system, **{f: xp.numpy(getattr(small, f)) for f in fields(small)})
    # a conjugate system holds up to two of the operator's states in a stored one
    orders = balred.analyze(exact).reduction(rank, method).orders.reshape(-1)
    errors = np.atleast_1d(balred.error(exact, host))
    for s, e, reached in zip(spectra, errors, orders, strict=True):
        slack = 1e4 * xp.eps * s[0]  # the reduced matrices are rounded to the dtype
        assert e >= s[reached] - slack
        assert e <= 2 * s[reached:].sum() + slack


def fields(system):
    return [f.name for f in dataclasses.fields(system) if f.name not in ("dt", "conjugate")]


@each_method
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(2, 14),
    m=st.integers(1, 3),
    p=st.integers(1, 3),
    row=st.sampled_from(SINGLE),
    data=st.data(),
)
def test_error_bounds_of_random_systems(method, seed, n, m, p, row, data):
    g = row.make(n, m, p, seed)
    rank = data.draw(st.integers(1, n))
    a = balred.analyze(g)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", balred.RankWarning)
        reduction = a.reduction(rank, method)
    s, k = balred.hsv(g), reduction.stable_order
    e = float(balred.error(g, reduction.system))
    assert e <= 2 * s[k:].sum() + 1e-8 * s[0]
    assert e >= (s[k] if k < len(s) else 0) - 1e-8 * s[0]
    assert e <= float(reduction.bound) + 1e-8 * s[0]
    # the same error from below, without the library's norm
    w = frequencies(g, 100)
    assert max(np.linalg.norm(g(z) - reduction.system(z), 2) for z in w) <= e * (1 + 1e-9) + 1e-10 * s[0]


@each_method
@each_single
def test_full_rank_reproduces_the_operator(case, method):
    g = case.make(n=5)
    full = balred.reduce(g, 5, method=method)
    for s in frequencies(g, 40):
        assert_allclose(full(s), g(s), rtol=0, atol=1e-10 * np.abs(g(s)).max())


@each_method
@each_single
def test_idempotent(case, method):
    """What is reduced to r states is left unchanged by another reduction to r states."""
    g = case.make(n=6)
    once = balred.reduce(g, 3, method=method)
    twice = balred.reduce(once, once.states, method=method)
    for s in frequencies(g, 40):
        assert_allclose(twice(s), once(s), rtol=0, atol=1e-10 * np.abs(once(s)).max())


@each_single
def test_truncation_keeps_the_leading_values(case):
    """Continuous time: the truncated balanced system has the leading HSVs exactly; in discrete time they bound them."""
    g = case.make(n=6)
    k = balred.analyze(g).reduction(3, "truncate").stable_order
    s, r = balred.hsv(g)[:k], balred.hsv(balred.reduce(g, 3))[:k]
    if g.discrete:
        assert np.all(r <= s * (1 + 1e-9))
    else:
        assert_allclose(r, s, rtol=0, atol=1e-10 * s[0])


@each_single
def test_singular_perturbation_keeps_the_leading_values(case):
    """In either time: singular perturbation truncates the reciprocal system, which the bilinear map keeps balanced."""
    g = case.make(n=6)
    k = balred.analyze(g).reduction(3, "singular_perturbation").stable_order
    r = balred.hsv(balred.reduce(g, 3, method="singular_perturbation"))[:k]
    s = balred.hsv(g)[:k]
    assert_allclose(r, s, rtol=0, atol=1e-10 * s[0])


@each_single
def test_singular_perturbation_keeps_the_dc_gain(case):
    g = case.make(n=6)
    at = 1.0 if g.discrete else 0.0
    small = balred.reduce(g, 3, method="singular_perturbation")
    assert_allclose(small(at), g(at), rtol=0, atol=1e-11 * np.abs(g(at)).max())
    other = balred.reduce(g, 3)
    assert np.abs(other(at) - g(at)).max() > 1e-6  # truncation does not, so the test can fail


@each_single
def test_truncation_keeps_the_direct_term(case):
    g = case.make(n=6)
    assert np.array_equal(balred.reduce(g, 3).D, g.D)


@pytest.mark.parametrize("dt", [0, True, 0.01, 2])
@pytest.mark.parametrize("kind", ["dense", "diagonal", "conjugate"])
def test_time_axis_and_type_are_kept(kind, dt):
    g = balred.testing.random_system(5, dt=dt, kind=kind)
    small = balred.reduce(g, 2)
    assert type(small) is type(g)
    assert small.dt is g.dt or small.dt == g.dt
    if kind != "dense":
        assert small.conjugate is g.conjugate


@each_single
def test_reduced_systems_are_stable(case):
    g = case.make(n=8)
    for rank in range(1, 8):
        p = poles_of(balred.reduce(g, rank))
        assert np.all(np.abs(p) < 1) if g.discrete else np.all(p.real < 0)


@each_single
def test_results_repeat(case):
    g = case.make(n=6)
    for a, b in zip(balred.reduce(g, 3).leaves, balred.reduce(g, 3).leaves, strict=True):
        assert np.array_equal(a, b)


@each_method
@each_case
def test_batch_equals_loop(case, method):
    rank = 3 if case.kind == "conjugate" else 2  # some real poles, so that members differ in stored states
    system = case.make(n=5)
    together = balred.reduce(system, rank, method=method)
    whole = balred.analyze(system).reduction(rank, method)
    for i, g in enumerate(members(system)):
        alone = balred.analyze(g).reduction(rank, method)
        mine = members(together)[i]
        if case.batch:  # each member at the order that its own poles leave room for
            assert whole.orders[i] == alone.orders
            assert_allclose(whole.bound[i], alone.bound, rtol=1e-9)
        for s in frequencies(g, 20):
            want = alone.system(s)
            assert_allclose(mine(s), want, rtol=0, atol=1e-9 * np.abs(want).max())


@pytest.mark.parametrize("kind", ["dense", "diagonal"])
def test_a_batch_whose_members_differ_in_numerical_rank(kind):
    """One member of order 3, one of order 1: both are within their own bounds of themselves."""
    B = np.stack([np.ones((3, 1)), np.array([[1.0], [0.0], [0.0]])])
    C, poles = np.ones((2, 1, 3)), np.array([[-1.0, -2.0, -5.0]] * 2)
    g = balred.diagonal(poles, B, C)
    g = g.to_dense() if kind == "dense" else g
    small = balred.reduce(g, 2)
    e, s = balred.error(g, small), balred.hsv(g)
    assert e[0] <= 2 * s[0, 2:].sum() * (1 + 1e-9)
    assert e[1] < 1e-12


def test_rank_beyond_the_numerical_rank_warns_and_caps():
    g = balred.ss(np.diag([-1.0, -2.0, -3.0]), [[1.0], [1.0], [0.0]], np.ones((1, 3)))
    with pytest.warns(
        balred.RankWarning, match="rank 3 is beyond the numerical rank; the order of the reduced system is 2"
    ) as caught:
        small = balred.reduce(g, 3)
    assert caught[0].filename == __file__  # the warning points at the call, not into the library
    assert small.order == 2
    assert float(balred.error(g, small)) < 1e-13


def test_rules_choose_silently():
    g = balred.ss(np.diag([-1.0, -2.0, -3.0]), [[1.0], [1.0], [0.0]], np.ones((1, 3)))
    assert balred.reduce(g, balred.Energy(1.0)).order == 2
    assert balred.reduce(g, balred.Order(3)).order == 2


def test_conjugate_poles_come_in_stored_pairs():
    """The reduced operator is real: each stored state speaks for a pair or for a real pole, none for half a pair."""
    g = balred.testing.random_system(12, dt=1, kind="conjugate", seed=4)
    for rank in range(1, 12):
        small = balred.reduce(g, rank)
        assert small.conjugate
        dense = balred.reduce(g.to_dense(), balred.analyze(g).reduction(rank).stable_order)
        mine = small.poles
        pair = np.abs(mine.imag) > 1e-12  # exp(log(x)) of a negative real pole has a rounding error for imaginary part
        both = np.concatenate([mine[pair], mine[pair].conj(), mine[~pair].real])
        theirs = np.linalg.eigvals(dense.A)
        assert len(both) == len(theirs)
        assert np.abs(both[:, None] - theirs).min(axis=1).max() < 1e-9
        assert np.abs(both[:, None] - theirs).min(axis=0).max() < 1e-9


def test_real_poles_of_a_conjugate_system_are_stored_once():
    """A conjugate state with a real pole and real b, c is 2bc/(s + a): one real mode, not two."""
    g = balred.diagonal([-1.0 + 0j, -3.0 + 0j], [[1.0], [1.0]], [[1.0, 0.5]], conjugate=True)
    small = balred.reduce(g, 1)
    assert small.states == 1
    assert_allclose(g(0), [[2.0 + 1 / 3]], rtol=1e-14)
    assert float(balred.error(g, small)) <= 2 * balred.hsv(g)[1:].sum() * (1 + 1e-12)


# ------------------------------------------------------------------------------------------ the unstable part


@each_method
@pytest.mark.parametrize(("kind", "dt"), [("dense", 0), ("dense", 1), ("diagonal", 0), ("diagonal", 1)])
def test_unstable_poles_are_kept_exactly(kind, dt, method):
    unstable = np.array([2.0, 1.5]) if dt else np.array([0.3, 0.0])  # continuous: one unstable, one marginal
    rng = np.random.default_rng(1)
    stable = np.exp(-rng.uniform(0.1, 2, 6)) if dt else -rng.uniform(0.1, 2, 6)
    g = balred.diagonal(
        np.concatenate([stable, unstable]), rng.standard_normal((8, 2)), rng.standard_normal((2, 8)), dt=dt
    )
    if kind == "dense":
        T = rng.standard_normal((8, 8))
        d = g.to_dense()
        g = balred.ss(np.real(T @ d.A @ np.linalg.inv(T)), T @ d.B, d.C @ np.linalg.inv(T), d.D, dt)
    s = balred.hsv(g)
    assert np.all(np.isinf(s[:2]))
    assert np.all(np.isfinite(s[2:]))
    small = balred.reduce(g, 5, method=method)
    assert type(small) is type(g)
    assert small.states == 5
    kept = np.sort(poles_of(small).real)[-2:]
    assert_allclose(kept, np.sort(unstable), rtol=0, atol=1e-12 if kind == "dense" else 0)
    # the difference is that of the stable parts: its frequency response obeys their bound
    worst = max(np.linalg.norm(g(z) - small(z), 2) for z in frequencies(g, 200) if abs(z) > 1e-9)
    assert worst <= 2 * s[5:].sum() + 1e-9 * s[2]
    assert worst > 0


def test_offset_moves_the_boundary():
    """Poles at -0.1, -1, -5: within 0.5 of the axis only the first counts as unstable."""
    g = balred.ss(np.diag([-0.1, -1.0, -5.0]), np.ones((3, 1)), np.ones((1, 3)))
    s = balred.hsv(g, offset=0.5)
    assert np.isinf(s).tolist() == [True, False, False]
    assert_allclose(s[1:], balred.hsv(balred.ss(np.diag([-1.0, -5.0]), np.ones((2, 1)), np.ones((1, 2)))), rtol=1e-12)
    small = balred.reduce(g, 2, offset=0.5)
    assert np.min(np.abs(poles_of(small) + 0.1)) < 1e-14
    # no state for the stable part: what is left of it is its response at infinity, or the steady state 1/1 + 1/5
    for method, D in (("truncate", 0.0), ("singular_perturbation", 1.2), ("modal", 0.0)):
        alone = balred.reduce(g, 1, offset=0.5, method=method)
        assert_allclose([*alone.A.ravel(), *(alone.B * alone.C).ravel(), *alone.D.ravel()], [-0.1, 1.0, D], rtol=1e-12)


@pytest.mark.parametrize("turned", [False, True])
def test_a_motor_becomes_an_integrator(turned):
    """1/s - 1/(s + 50) = 50/(s (s + 50)): with one state 1/s, and the error is at most the gain 1/50, twice the value 1/100."""
    g = balred.ss([[0.0, 1.0], [0.0, -50.0]], [[0.0], [50.0]], [[1.0, 0.0]])
    if turned:
        Q = np.linalg.qr(np.random.default_rng(0).standard_normal((2, 2)))[0]
        g = balred.ss(Q @ g.A @ Q.T, Q @ g.B, g.C @ Q.T)
    a = balred.analyze(g)
    small = a.reduce(1)
    assert_allclose(small(1j), [[-1j]], rtol=1e-12)
    assert_allclose([a.bound(1), balred.error(g, small)], 1 / 50, rtol=1e-9)
    # stable modes that no input reaches leave the integrator, at every rank
    hidden = balred.ss(np.diag([0.0, -1.0, -2.0]), [[1.0], [0.0], [0.0]], [[1.0, 1.0, 1.0]])
    assert balred.reduce(hidden, 1).order == 1
    with pytest.warns(balred.RankWarning, match="the order of the reduced system is 1"):
        assert balred.reduce(hidden, 2).order == 1


def test_unstable_modes_of_a_layer_alone():
    """Stored poles 1.5 and 0.5 + 0.3i: of the pair its response at infinity is left, or at 1: 2 Re 1/(1 - (0.5 + 0.3i)) = 1/0.34."""
    d = balred.diagonal([1.5, 0.5 + 0.3j], [[1.0], [1.0]], [[1.0, 1.0]], dt=1, conjugate=True)
    for method, D in (("truncate", 0.0), ("singular_perturbation", 1 / 0.34)):
        small = balred.reduce(d, 1, method=method)
        assert_allclose(small.poles, [1.5])
        assert_allclose(small.D, [[D]], rtol=1e-12)


def test_rank_counts_unstable_modes():
    g = balred.ss(np.diag([1.0, 2.0, -1.0, -2.0]), np.ones((4, 1)), np.ones((1, 4)))
    with pytest.raises(
        ValueError, match="rank must be at least the number of unstable modes, 2, which are kept whole, got 1"
    ):
        balred.reduce(g, 1)
    assert balred.reduce(g, 3).order == 3
    assert balred.reduce(g, balred.Order(3)).order == 3  # Order is the number itself, unstable modes counted
    with pytest.raises(ValueError, match="rank must be at least the number of unstable modes"):
        balred.reduce(g, balred.Order(1))
    s = balred.hsv(g)[2:]  # the other rules speak of the stable part
    assert balred.analyze(g).rank(balred.Energy(float(s[0] / s.sum()) * 0.99)) == 3


def test_types_of_the_table():
    assert isinstance(balred.reduce(SINGLE[0].make(), 2), DenseSystem)
    assert isinstance(balred.reduce(SINGLE[-1].make(), 2), DiagonalSystem)


@each_method
@each_single
def test_one_reduction_is_that_of_an_analysis(case, method):
    """A few states are reduced without one."""
    g = case.make()
    small, same = balred.reduce(g, 2, method=method), balred.analyze(g, method=method).reduce(2)
    assert type(small) is type(same)
    for x, y in zip((*small.leaves, small.D), (*same.leaves, same.D), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_gain_is_not_tiny():
    """The grid that the bounds are compared with sees the system's gain (guards the tests above)."""
    g = SINGLE[0].make()
    assert gains(g, frequencies(g)).max() > 1e-3


def test_real_poles_cost_few_tries(monkeypatch):
    # many poles of a random 96-state layer become real; finding an order that fits must not go one state at a time
    g = balred.testing.random_system(96, 96, 96, dt=1, kind="conjugate", seed=3)
    a, tries = balred.analyze(g), []
    row = balred.methods.METHODS["truncate"]
    counted = dataclasses.replace(row, reduce=lambda sp, k: (tries.append(k), row.reduce(sp, k))[1])
    monkeypatch.setitem(balred.methods.METHODS, "truncate", counted)
    for rank in (20, 40, 56, 57, 70, 90):
        tries.clear()
        assert a.reduction(rank).system.states <= rank
        assert 1 <= len(tries) <= 8, tries
