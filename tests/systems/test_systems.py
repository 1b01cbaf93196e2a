"""The values: factories, transfer functions, conversions, and what a conjugate system means."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from tables import SINGLE, Backend, Library, each_case, each_single, frequencies, members, skip_without

import balred
from balred.systems import DenseSystem, DiagonalSystem

CONJUGATE = [c for c in SINGLE if c.kind == "conjugate"]
each_conjugate = pytest.mark.parametrize("case", CONJUGATE, ids=str)


@each_case
def test_factories_keep_library_precision_and_shape(xp, case):
    system = xp.system(case.make(n=3, m=1, p=2))
    assert all(xp.owns(x) for x in (*system.leaves, system.D))
    assert system.states == 3
    assert system.order == (6 if case.kind == "conjugate" else 3)
    assert tuple(system.B.shape) == (*case.batch, 3, 1)
    assert tuple(system.C.shape) == (*case.batch, 2, 3)
    assert tuple(system.D.shape) == (*case.batch, 2, 1)
    assert system.discrete is (case.dt != 0)


@each_single
def test_transfer_function_of_the_dense_form(case):
    """C (sI - A)^-1 B + D, written out with the inverse."""
    g = case.make(n=5)
    d = g.to_dense()
    assert isinstance(d, DenseSystem)
    for s in frequencies(g, 20):
        want = d.C @ np.linalg.inv(s * np.eye(d.order) - d.A) @ d.B + d.D
        assert_allclose(g(s), want, rtol=0, atol=1e-11 * np.abs(want).max())
        assert_allclose(d(s), want, rtol=0, atol=1e-11 * np.abs(want).max())


@each_case
def test_transfer_function_on_every_library(xp, case):
    system, at = case.make(n=3), 0.3 + 1.1j
    got = xp.numpy(xp.system(system)(at))
    want = np.array([g(at) for g in members(xp.exact(system))]).reshape(got.shape)
    assert_allclose(got, want, rtol=0, atol=100 * xp.eps * np.abs(want).max())


# ---------------------------------------------------------------------------------- what a conjugate system means


@each_conjugate
def test_conjugate_is_a_real_operator_of_twice_the_order(case):
    g = case.make(n=4)
    d = g.to_dense()
    assert d.order == 8
    assert all(x.dtype == np.float64 for x in (d.A, d.B, d.C, d.D))
    p = np.concatenate([g.poles, g.poles.conj()])
    mine = np.linalg.eigvals(d.A)
    assert np.abs(mine[:, None] - p).min(axis=0).max() < 1e-13


@each_conjugate
def test_conjugate_transfer_function_by_its_definition(case):
    """y = 2 Re(C x) + D u: each stored mode b, c, p gives c b/(s - p) + its conjugate mode."""
    g = case.make(n=4)
    for s in frequencies(g, 20):
        modes = g.C @ (g.B / (s - g.poles)[:, None])
        mirrored = g.C.conj() @ (g.B.conj() / (s - g.poles.conj())[:, None])
        want = modes + mirrored + g.D
        assert_allclose(g(s), want, rtol=0, atol=1e-13 * np.abs(want).max())
        assert_allclose(g.doubled()(s), want, rtol=0, atol=1e-13 * np.abs(want).max())


def recurrence(system, u):
    """x_k = lambda x_{k-1} + B u_k, y_k = 2 Re(C x_k) + D u_k: the definition, without the library."""
    x, out = np.zeros(system.states, complex), []
    for step in u:
        x = system.poles * x + system.B @ step
        out.append(2 * (system.C @ x).real + system.D @ step)
    return np.array(out)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 8), m=st.integers(1, 3), p=st.integers(1, 3))
def test_conjugate_simulation(seed, n, m, p):
    g = balred.testing.random_system(n, m, p, dt=1, kind="conjugate", seed=seed)
    u = np.random.default_rng(seed).standard_normal((30, m))
    want = recurrence(g, u)
    assert_allclose(balred.testing.simulate(g, u), want, rtol=0, atol=1e-12 * np.abs(want).max())
    assert_allclose(balred.testing.simulate(g.to_dense(), u), want, rtol=0, atol=1e-12 * np.abs(want).max())
    assert_allclose(balred.testing.simulate(g.doubled(), u), want, rtol=0, atol=1e-12 * np.abs(want).max())


@each_conjugate
def test_conjugate_values_and_gramians_are_those_of_the_dense_operator(case):
    g = case.make(n=5)
    d = g.to_dense()
    s = balred.hsv(g)
    assert s.shape == (10,)
    assert_allclose(s, balred.hsv(d), rtol=0, atol=1e-12 * s[0])
    for a, b in zip(balred.gramians(g), balred.gramians(d), strict=True):
        assert_allclose(a, b, rtol=0, atol=1e-11 * np.abs(b).max())


def test_half_of_a_conjugate_system_is_another_operator():
    """Balancing the complex half instead would rank an imaginary part that is thrown away: the values differ."""
    g = CONJUGATE[1].make(n=5)
    half = dataclasses.replace(g, conjugate=False)
    assert np.abs(balred.hsv(half) - balred.hsv(g)[:5]).max() > 0.01 * balred.hsv(g)[0]


def test_impulse_response_of_simulate():
    """The output at step k sees the input of step k: y = C A^k B + D [k = 0]."""
    g = balred.testing.random_system(3, 1, 1, dt=1, seed=3)
    y = balred.testing.simulate(g, np.eye(6)[:, :1])
    want = [g.C @ np.linalg.matrix_power(g.A, k) @ g.B + (g.D if k == 0 else 0) for k in range(6)]
    assert_allclose(y, np.array(want)[:, :, 0], rtol=0, atol=1e-13)


# ------------------------------------------------------------------------------------------------- construction


def test_lists_and_integers_become_float64():
    g = balred.ss([[-1, 0], [0, -2]], [[1], [0]], [[1, 1]])
    assert g.A.dtype == g.B.dtype == np.float64
    assert np.array_equal(g.D, [[0.0]])


def test_matrices_are_read():
    with pytest.warns(PendingDeprecationWarning):
        A = np.matrix([[-1.0]])
    assert type(balred.ss(A, [[1]], [[1]]).A) is np.ndarray


def test_scalar_direct_term_fills():
    assert np.array_equal(balred.ss(-np.eye(2), np.ones((2, 2)), np.ones((1, 2)), 3.0).D, [[3.0, 3.0]])


@pytest.mark.parametrize(
    ("given", "held", "discrete"),
    [(0, 0, False), (False, 0, False), (True, True, True), (0.1, 0.1, True), (2, 2, True)],
)
def test_dt(given, held, discrete):
    g = balred.ss([[0.5]], [[1]], [[1]], dt=given) if discrete else balred.ss([[-0.5]], [[1]], [[1]], dt=given)
    assert g.dt == held
    assert g.discrete is discrete


def test_poles_and_log_poles_are_two_ways_to_say_one_thing():
    p = np.array([0.9 + 0.1j, -0.5, 0.3])
    a = balred.diagonal(p, np.ones((3, 1)), np.ones((1, 3)), dt=1)
    b = balred.diagonal(log_poles=np.log(p), B=np.ones((3, 1)), C=np.ones((1, 3)), dt=1)
    assert_allclose(a.poles, p, rtol=1e-15)
    assert np.array_equal(a.log_poles, b.log_poles)
    c = balred.diagonal([-1.0, -2.0], np.ones((2, 1)), np.ones((1, 2)))
    assert np.array_equal(c.poles, [-1.0, -2.0])


def test_a_pole_at_zero_stays_a_pole_at_zero():
    """A pure delay: G(z) = 1/z, one HSV of 1 (the chain of delays has unit Gramians)."""
    g = balred.diagonal([0.0], [[1.0]], [[1.0]], dt=1)
    assert_allclose(g(2.0), [[0.5]], rtol=1e-15)
    assert_allclose(balred.hsv(g), [1.0], rtol=1e-15)


def test_precisions_are_promoted_to_the_widest():
    g = balred.ss(-np.eye(2, dtype=np.float32), np.ones((2, 1)), np.ones((1, 2), np.float32))
    assert {x.dtype for x in (*g.leaves, g.D)} == {np.dtype(np.float64)}


def test_systems_are_immutable():
    g = balred.ss([[-1]], [[1]], [[1]])
    with pytest.raises(dataclasses.FrozenInstanceError):
        g.A = g.B


def test_repr_says_what_it_is():
    g = balred.testing.random_system(4, 2, 3, dt=0.5, batch=(5,))
    assert repr(g) == "DenseSystem(states=4, inputs=2, outputs=3, dt=0.5, batch=(5,), float64, numpy)"
    g = balred.testing.random_system(4, kind="conjugate")
    assert repr(g) == "DiagonalSystem(states=4, inputs=2, outputs=2, continuous, conjugate, complex128, numpy)"


@pytest.mark.parametrize("backend", [Backend.JAX, Backend.TORCH], ids=lambda b: b.value)
@each_single
def test_systems_are_pytrees(backend, case):
    """Leaves are the arrays; the time axis and the kind are structure, so that a trace can branch on them."""
    pytest.importorskip(backend.library)
    lib = Library(backend, "float32")
    g = lib.system(case.make())
    if backend is Backend.JAX:
        from jax import tree_util as tree
    else:
        import torch.utils._pytree as tree
    balred.hsv(g)  # the backend registers when it is first needed
    leaves, structure = tree.tree_flatten(g)
    assert len(leaves) == 4
    back = tree.tree_unflatten(*((structure, leaves) if backend is Backend.JAX else (leaves, structure)))
    assert type(back) is type(g)
    assert back.dt == g.dt
    assert not isinstance(g, DiagonalSystem) or back.conjugate is g.conjugate


@skip_without("jax")
def test_jit_of_a_function_of_systems():
    import jax

    g = Library(Backend.JAX, "float32").system(SINGLE[0].make())
    doubled = jax.jit(lambda g: dataclasses.replace(g, B=2 * g.B))(g)
    assert_allclose(np.asarray(doubled.B), 2 * np.asarray(g.B))
    assert doubled.dt == g.dt
