"""Hankel singular values: right to rounding on every library, and invariant where theory says so."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from oracle import oracle_hsv
from tables import SINGLE, each_case, each_single, members, oracle_of, skip_without

import balred
from balred.hankel.values import values_between
from balred.solvers.gramians import SOLVERS, structure
from balred.systems.batches import stacked


@each_case
def test_equal_the_oracle(xp, case):
    """Every library and structure against 50-digit arithmetic on the same (rounded) matrices."""
    got = xp.call(balred.hsv, xp.system(case.make()))
    assert xp.owns(got)
    want = oracle_of(case, xp.precision)
    # computed in float64 whatever the dtype: only the result is rounded to the dtype
    assert_allclose(xp.numpy(got), want, rtol=4 * xp.eps, atol=1e-12 * want.max())


@pytest.mark.parametrize("solver", list(SOLVERS))
@each_case
def test_every_solver_equals_the_oracle(solver, case):
    one = solver == "cauchy"  # takes one input and one output
    system = case.make(m=1, p=1) if one else case.make()
    if solver == "slycot":
        pytest.importorskip("slycot")
        if case.complex:
            with pytest.raises(TypeError, match="solver 'slycot' takes real systems, got a complex one"):
                balred.hsv(system, solver=solver)
            return
    gap = SOLVERS[solver][structure(system)]
    if gap:
        with pytest.raises(ValueError, match=f"solver '{solver}' does not take a {structure(system)} system: {gap}"):
            balred.hsv(system, solver=solver)
        return
    want = np.array([oracle_hsv(member) for member in members(system)]).reshape(*case.batch, -1)
    # SciPy's solver works on full Gramians, which square the condition: half the digits
    assert_allclose(
        balred.hsv(system, solver=solver), want, rtol=0, atol=(1e-7 if solver == "scipy" else 1e-12) * want.max()
    )


@each_case
def test_descending_nonnegative_and_of_the_order(case):
    system = case.make(n=5, m=1, p=3)
    s = balred.hsv(system)
    assert s.shape == (*case.batch, system.order)
    assert np.all(np.diff(s) <= 0)
    assert np.all(s >= 0)


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 12),
    m=st.integers(1, 4),
    p=st.integers(1, 4),
    row=st.sampled_from(SINGLE),
)
def test_invariant_under_a_change_of_basis(seed, n, m, p, row):
    g = row.make(n, m, p, seed).to_dense()
    rng = np.random.default_rng(seed)
    # singular values between 0.1 and 10, so that the change itself loses no more than two digits
    U, V = (np.linalg.qr(rng.standard_normal((g.order, g.order)))[0] for _ in range(2))
    d = 10 ** rng.uniform(-1, 1, g.order)
    T, Tinv = (U * d) @ V.T, (V / d) @ U.T
    changed = balred.ss(T @ g.A @ Tinv, T @ g.B, g.C @ Tinv, g.D, g.dt)
    s = balred.hsv(g)
    assert_allclose(balred.hsv(changed), s, rtol=0, atol=1e-9 * s[0])


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 12),
    m=st.integers(1, 4),
    p=st.integers(1, 4),
    row=st.sampled_from(SINGLE),
)
def test_equal_those_of_the_dual(seed, n, m, p, row):
    g = row.make(n, m, p, seed).to_dense()
    dual = balred.ss(g.A.conj().T, g.C.conj().T, g.B.conj().T, g.D.conj().T, g.dt)
    s = balred.hsv(g)
    assert_allclose(balred.hsv(dual), s, rtol=0, atol=1e-11 * s[0])


@given(seed=st.integers(0, 2**32 - 1), factor=st.floats(0.01, 100), row=st.sampled_from(SINGLE))
def test_scale_with_the_input(seed, factor, row):
    g = row.make(seed=seed)
    scaled = dataclasses.replace(g, B=factor * g.B)
    assert_allclose(balred.hsv(scaled), factor * balred.hsv(g), rtol=1e-9, atol=1e-12 * factor * balred.hsv(g)[0])


@pytest.mark.parametrize("case", [c for c in SINGLE if c.kind != "dense"], ids=str)
def test_diagonal_equals_its_dense_form(case):
    g = case.make(n=8)
    s = balred.hsv(g)
    assert_allclose(balred.hsv(g.to_dense()), s, rtol=0, atol=1e-12 * s[0])


@pytest.mark.parametrize("small", [1.0, 1e-3])
@pytest.mark.parametrize("case", [c for c in SINGLE if c.kind != "dense"], ids=str)
def test_the_quickest_look_tells_on_which_side_it_errs(case, small):
    """In float32, from squares: the values in float64 lie between, at most a hundredth from both where they are no smaller."""
    g = case.make(n=9, m=3, p=2)
    scale = np.where(np.arange(g.states) % 2, small, 1.0)
    g = dataclasses.replace(g, B=scale[:, None] * g.B, C=scale * g.C)
    s, (low, high) = balred.hsv(g), values_between(g)
    assert (low <= s * (1 + 1e-6)).all()
    assert (s <= high * (1 + 1e-6)).all()
    large = s > 2e-2 * s[0]
    assert_allclose(low[large], s[large], rtol=1e-2)
    assert_allclose(high[large], s[large], rtol=1e-2)
    assert_allclose(values_between(stacked([g, g]))[1], [low, high], rtol=1e-3, atol=1e-3 * s[0])


@each_case
def test_batch_equals_loop(xp, case):
    system = case.make()
    together = xp.numpy(xp.call(balred.hsv, xp.system(system)))
    one_by_one = np.array([xp.numpy(balred.hsv(xp.system(g))) for g in members(system)])
    assert_allclose(together.reshape(one_by_one.shape), one_by_one, rtol=4 * xp.eps, atol=1e-13 * one_by_one.max())


def test_leading_axes_broadcast():
    """One A shared by a batch of inputs equals the batch written out."""
    g = SINGLE[0].make()
    B = np.stack([g.B, 2 * g.B, 3 * g.B])
    s = balred.hsv(balred.ss(g.A, B, g.C))
    assert s.shape == (3, 4)
    assert_allclose(s, np.array([1, 2, 3])[:, None] * balred.hsv(g), rtol=1e-12)


@pytest.mark.alike
@skip_without("jax")
@each_single
def test_vmap_equals_the_batch(case):
    import jax

    with jax.enable_x64(True):
        from tables import Backend, Library

        batch = dataclasses.replace(case, batch=(3,)).make()
        system = Library(Backend.JAX, "float64").system(batch)
        got = np.asarray(jax.jit(jax.vmap(balred.hsv))(system))
    assert_allclose(got, balred.hsv(batch), rtol=0, atol=1e-12 * got.max())


@pytest.mark.parametrize(("a", "b", "c"), [(1.0, 1.0, 1.0), (0.2, -3.0, 2.0), (50.0, 1e-3, 7.0)])
def test_first_order_lag(a, b, c):
    """By hand: P = b^2/(2a), Q = c^2/(2a), so sigma = |bc|/(2a)."""
    assert_allclose(balred.hsv(balred.ss([[-a]], [[b]], [[c]])), [abs(b * c) / (2 * a)], rtol=1e-14)
    assert_allclose(balred.hsv(balred.diagonal([-a], [[b]], [[c]])), [abs(b * c) / (2 * a)], rtol=1e-14)


@pytest.mark.parametrize("gap", [0.1, 1e-6, 1e-12, 1e-15])
def test_pole_near_the_unit_circle_keeps_its_digits(gap):
    """By hand: sigma = |bc|/(1 - |z|^2) = 1/(-expm1(-2 gap)) for z = exp(-gap + 1j); poles are held as logarithms."""
    g = balred.diagonal(log_poles=[-gap + 1j], B=[[1.0]], C=[[1.0]], dt=1)
    assert_allclose(balred.hsv(g), [1 / -np.expm1(-2 * gap)], rtol=1e-13)


def test_cauchy_like_system_in_fifty_digits():
    """Poles -1 ... -6 with unit vectors: P is a Hilbert-like (Cauchy) matrix, HSVs fall by a factor of 1e8."""
    n = 6
    g = balred.diagonal(-np.arange(1.0, n + 1), np.ones((n, 1)), np.ones((1, n)))
    want = oracle_hsv(g)
    assert want[0] / want[-1] > 1e5
    assert_allclose(balred.hsv(g.to_dense()), want, rtol=0, atol=1e-15 * want[0])
    assert_allclose(balred.hsv(g), want, rtol=0, atol=1e-14 * want[0])


def test_direct_term_and_step_do_not_matter():
    g = balred.testing.random_system(5, dt=0.1, seed=1)
    assert np.array_equal(balred.hsv(dataclasses.replace(g, D=7 + g.D, dt=True)), balred.hsv(g))


def test_parts_that_do_not_count_are_zero():
    """A state that the inputs do not reach, and one that the outputs do not see, add zeros."""
    g = balred.ss(np.diag([-1.0, -2.0, -3.0]), [[1.0], [0.0], [1.0]], [[1.0, 1.0, 0.0]])
    assert_allclose(balred.hsv(g), [0.5, 0, 0], atol=1e-15)


def test_unstable_modes_are_infinite():
    """By hand: the stable mode at -1 alone has sigma = |bc|/2."""
    g = balred.ss([[-1.0, 0.0], [0.0, 2.0]], [[1.0], [1.0]], [[3.0, 1.0]])
    assert_allclose(balred.hsv(g), [np.inf, 1.5])
    assert_allclose(balred.hsv(balred.diagonal([-1.0, 2.0], g.B, g.C)), [np.inf, 1.5])
    assert np.all(np.isinf(balred.hsv(balred.ss(np.eye(2), np.ones((2, 1)), np.ones((1, 2))))))


@pytest.mark.full
@skip_without("jax")
@pytest.mark.parametrize("kind", ["dense", "diagonal"])
def test_unstable_under_jit_is_nan(kind):
    """A trace cannot branch on the poles: not a number is the honest answer, never a plausible one."""
    import jax
    import jax.numpy as jnp

    poles, B, C = jnp.asarray([0.3, -1.0]), jnp.ones((2, 1)), jnp.ones((1, 2))
    g = balred.diagonal(poles, B, C) if kind == "diagonal" else balred.ss(jnp.diag(poles), B, C)
    assert np.all(np.isnan(np.asarray(jax.jit(balred.hsv)(g))))


def test_analysis_answers_from_one_solve(xp):
    if xp.traced:
        pytest.skip("an analysis keeps host values: not under a trace")
    system = SINGLE[0].make(n=6)
    a = balred.analyze(xp.system(system))
    s = oracle_of(SINGLE[0], xp.precision, n=6)
    assert xp.owns(a.hsv)
    assert_allclose(xp.numpy(a.hsv), s, rtol=4 * xp.eps, atol=1e-12 * s[0])
    assert a.numerical_rank == 6
    assert a.bound(2) == pytest.approx(2 * s[2:].sum(), rel=1e-10)  # Glover's bound, distinct values
    assert a.energy(2) == pytest.approx(s[:2].sum() / s.sum(), rel=1e-10)
    small = a.reduce(2)
    assert small.states == 2
    assert xp.owns(small.A)


@skip_without("jax")
def test_analysis_refuses_a_trace():
    import jax

    with pytest.raises(TypeError, match="analyze needs concrete values, got traced arrays"):
        jax.jit(lambda A: balred.analyze(balred.ss(A, A, A)).hsv)(np.float32([[-1.0]]))


@skip_without("control")
@pytest.mark.parametrize("n", [3, 8, 20])
def test_equal_python_control(n):
    """control.hankel_singular_values (0.10) takes eigenvalues of the product of full Gramians: half the digits."""
    import control

    pytest.importorskip("slycot")  # which their Gramians come from
    g = balred.testing.random_system(n, seed=n)
    s = balred.hsv(g)
    theirs = np.sort(np.real(control.hankel_singular_values(control.ss(g.A, g.B, g.C, g.D))))[::-1]
    assert_allclose(theirs, s, rtol=0, atol=1e-6 * s[0])


@pytest.mark.parametrize(("solver", "digits"), [("slycot", 1e-12), ("scipy", 1e-7)])
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 20), dt=st.sampled_from([0, 1]))
def test_equal_the_named_references(solver, digits, seed, n, dt):
    pytest.importorskip(solver)
    g = balred.testing.random_system(n, dt=dt, seed=seed)
    s = balred.hsv(g)
    assert_allclose(balred.hsv(g, solver=solver), s, rtol=0, atol=digits * s[0])
