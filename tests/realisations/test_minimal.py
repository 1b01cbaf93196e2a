"""Minimal realisations: known orders in hidden coordinates, transfer functions kept, SLICOT's TB01PD as the oracle."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.linalg
import scipy.signal
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from tables import each_single

import balred
from balred.realisations.minimal import minimal

POINTS = (0.3 + 1.1j, 2.3j, 3.1)


def kalman(seed, k, unreached, unseen, m, p, *, dt=0, complex=False, cond=1.0):
    """A system of minimal order k in random coordinates of condition `cond`; its poles lie anywhere.

    Built from the Kalman decomposition: k states that are reached and seen, `unseen` that are only reached, `unreached`
    that are only seen.
    """
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if complex else 0)

    n, seen = k + unseen + unreached, k + unseen
    A, B, C = normal(n, n) / np.sqrt(n), normal(n, m), normal(p, n)
    A[:k, k:seen] = 0
    A[seen:, :seen] = 0
    B[seen:] = 0
    C[:, k:seen] = 0
    U, V = (np.linalg.qr(normal(n, n))[0] for _ in range(2))
    T = U * cond ** np.linspace(0, 1, n) @ V
    return balred.ss(np.linalg.solve(T, A @ T), np.linalg.solve(T, B), C @ T, normal(p, m), dt)


def same_transfer(a, b, rtol):
    for s in POINTS:
        assert_allclose(b(s), a(s), atol=rtol * np.abs(a(s)).max())


@pytest.mark.parametrize("dt", [0, 0.5])
@pytest.mark.parametrize("complex", [False, True])
@given(
    seed=st.integers(0, 2**32 - 1),
    k=st.integers(1, 6),
    unreached=st.integers(0, 3),
    unseen=st.integers(0, 3),
    m=st.integers(1, 3),
    p=st.integers(1, 3),
)
def test_the_order_is_found_and_the_transfer_function_kept(seed, k, unreached, unseen, m, p, dt, complex):
    g = kalman(seed, k, unreached, unseen, m, p, dt=dt, complex=complex)
    small = minimal(g)
    assert small.order == k
    assert small.dt == g.dt
    assert np.iscomplexobj(small.A) == complex
    same_transfer(g, small, 1e-7)  # the default tolerance is 1.5e-8
    assert minimal(small).order == k
    if unreached == unseen == 0:
        assert small is g


@given(seed=st.integers(0, 2**32 - 1), decades=st.integers(-8, 8))
def test_units_of_states_inputs_and_outputs_do_not_matter(seed, decades):
    g = kalman(seed, 4, 2, 1, 2, 2)
    units = 10.0 ** np.linspace(0, decades, 7)
    scaled = balred.ss(g.A * units / units[:, None], g.B / units[:, None] * 10.0**decades, g.C * units * 10.0**-decades)
    assert minimal(scaled).order == 4
    fast = balred.ss(g.A * 10.0**decades, g.B, g.C)
    assert minimal(fast).order == 4


@given(seed=st.integers(0, 2**32 - 1), inputs=st.integers(-8, 8), outputs=st.integers(-8, 8))
def test_units_of_each_input_and_each_output_do_not_matter(seed, inputs, outputs):
    """No channel is noise beside another: each entry of the response stays, beside its own size."""
    g = kalman(seed, 4, 2, 1, 2, 2)
    small = minimal(balred.ss(g.A, g.B * [1.0, 10.0**inputs], g.C * [[1.0], [10.0**outputs]]))
    assert small.order == 4
    plain = balred.ss(small.A, small.B / [1.0, 10.0**inputs], small.C / [[1.0], [10.0**outputs]])
    same_transfer(balred.ss(g.A, g.B, g.C), plain, 1e-7)


@pytest.mark.parametrize("unit", [1e6, 1e10, 1e14])
def test_a_distillation_column_keeps_both_states_in_any_unit(unit):
    """Two lags of nearly parallel gains [S. Skogestad, M. Morari and J. Doyle, 1988], the second output in another unit."""
    g = balred.ss(-np.eye(2) / 75, np.eye(2) / 75, [[87.8, -86.4], [108.2 * unit, -109.6 * unit]])
    assert minimal(g) is g
    lags = balred.diagonal(np.full(2, -1 / 75), g.B, g.C)
    assert minimal(lags) is lags


def slow_filters():
    """Digital filters far below the sampling rate, in the companion form of SciPy's ``tf2ss``: (name, numerator, denominator)."""
    design = {"fs": 48e3}
    yield "band", *scipy.signal.butter(2, (4.8, 19.2), "band", **design)
    yield "band of six", *scipy.signal.cheby1(3, 1, (48.0, 96.0), "band", **design)
    yield "stop", *scipy.signal.cheby2(2, 40, (4.8, 19.2), "stop", **design)
    yield "low", *scipy.signal.ellip(4, 1, 60, 4.8, **design)
    yield "high", *scipy.signal.cheby1(5, 1, 48.0, "high", **design)


@pytest.mark.parametrize(("name", "b", "a"), list(slow_filters()))
def test_slow_digital_filters_keep_their_states_and_cancel_whole(name, b, a):
    """Every Hankel singular value counts, so every state does; and a filter less itself is nothing, in rotated coordinates too."""
    g = balred.ss(*scipy.signal.tf2ss(b, a), dt=1)
    sigma = balred.hsv(g)
    assert sigma[-1] > 1e-2 * sigma[0]
    assert minimal(g) is g
    d = [scipy.linalg.block_diag(g.A, g.A), np.vstack([g.B, g.B]), np.hstack([g.C, -g.C])]
    T = np.linalg.qr(np.random.default_rng(0).standard_normal(d[0].shape))[0]
    assert minimal(balred.ss(*d, dt=1)).order == 0
    assert minimal(balred.ss(T @ d[0] @ T.T, T @ d[1], d[2] @ T.T, dt=1)).order == 0


def test_tolerance_is_relative_and_decides():
    g = balred.ss(np.diag([-1.0, -2.0]), [[1.0], [1e-6]], [[1.0, 1e-6]])
    assert minimal(g, tol=0).order == 2
    assert minimal(g, tol=1e-3).order == 1
    weaker = dataclasses.replace(g, B=g.B * 1e9)
    assert minimal(weaker, tol=1e-3).order == 1


def test_stiff_minimal_systems_keep_their_states():
    """A rod of 60 cells and eight decades of decay rates have nothing hidden."""
    n = 60
    A = n**2 * (np.diag(np.ones(n - 1), 1) - 2 * np.eye(n) + np.diag(np.ones(n - 1), -1))
    rod = balred.ss(A, n**2 * np.eye(n)[:, :1], np.eye(n)[-1:])
    assert minimal(rod) is rod
    rng = np.random.default_rng(1)
    U = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    stiff = balred.ss(
        -U * np.logspace(0, 8, 8) @ U.T, U @ rng.standard_normal((8, 2)), rng.standard_normal((2, 8)) @ U.T
    )
    assert minimal(stiff) is stiff


def test_nothing_left_is_a_static_gain():
    g = balred.ss(np.diag([1.0, -2.0]), [[1.0], [0.0]], [[0.0, 1.0]], [[3.0]], dt=1)
    small = minimal(g)
    assert (small.order, small.dt) == (0, 1)
    assert_allclose(small(0.7), [[3.0]])
    assert minimal(small) is small
    zero = minimal(balred.ss(np.zeros((2, 2)), np.zeros((2, 1)), np.ones((1, 2))))
    assert zero.order == 0


def test_it_prints_nothing(capsys):
    minimal(kalman(0, 3, 1, 1, 1, 1))
    assert capsys.readouterr() == ("", "")


@each_single
def test_minimal_systems_are_returned_themselves(case):
    g = case.make(n=5)
    assert minimal(g) is g


@pytest.mark.parametrize("dt", [0, 1])
@pytest.mark.parametrize("conjugate", [False, True])
def test_diagonal_systems_stay_diagonal(dt, conjugate):
    """Three poles, one of them four times with a residue of rank 2, one not reached: 1 + 2 states."""
    rng = np.random.default_rng(5)
    poles = np.array([0.5 + 0.3j, 0.2 - 0.4j, 0.2 - 0.4j, 0.2 - 0.4j, 0.2 - 0.4j, 0.1 + 0.1j]) - (0 if dt else 1)
    B, C = (rng.standard_normal(s) + 1j * rng.standard_normal(s) for s in ((6, 2), (2, 6)))
    B[5] = 0
    if conjugate:  # the same pole may be stored as its conjugate
        poles[2], B[2], C[:, 2] = poles[2].conj(), B[2].conj(), C[:, 2].conj()
    g = balred.diagonal(poles, B, C, np.ones((2, 2)), dt, conjugate=conjugate)
    small = minimal(g)
    assert isinstance(small, balred.DiagonalSystem)
    assert (small.states, small.dt, small.conjugate) == (3, dt, conjugate)
    same_transfer(g, small, 1e-12)
    dense = minimal(g.to_dense())
    assert dense.order == small.order


def test_a_real_pole_of_a_conjugate_system_may_cancel_its_own_conjugate():
    g = balred.diagonal([-1.0, -2.0], B=[[1.0], [1.0]], C=[[1.0j, 1.0]], conjugate=True)  # 2 Re(i/(s+1)) = 0
    small = minimal(g)
    assert small.states == 1
    same_transfer(g, small, 1e-14)


def test_every_library_and_precision(xp):
    g = balred.diagonal([-1.0, -2.0, -3.0], B=[[1.0], [0.0], [2.0]], C=[[1.0, 1.0, 1.0]])
    for system in (xp.system(g), xp.system(g.to_dense())):
        small = minimal(system)
        assert type(small) is type(system)
        assert small.states == 2
        assert xp.owns(small.B)
        assert_allclose(xp.numpy(small(0.5))[0, 0], 1 / 1.5 + 2 / 3.5, rtol=20 * xp.eps)


def test_objects_of_other_libraries_come_back_as_such():
    control = pytest.importorskip("control")
    g = kalman(3, 2, 1, 1, 1, 1, dt=0.1)
    small = minimal(control.StateSpace(g.A, g.B, g.C, g.D, g.dt))
    assert isinstance(small, control.StateSpace)
    assert (small.nstates, small.dt) == (2, 0.1)


@pytest.mark.parametrize("seed", range(8))
def test_orders_are_those_of_slicot(seed):
    """TB01PD with the same tolerance, on systems whose order rounding does not hide."""
    ctrlsys = pytest.importorskip("ctrlsys")
    g = kalman(seed, 5, 3, 2, 2, 2, cond=10.0)
    A, B, C = (np.asfortranarray(x.copy()) for x in (g.A, g.B, g.C))
    order = ctrlsys.tb01pd("M", "S", A, B, C, 1e-8)[3]
    assert minimal(g, tol=1e-8).order == order == 5


def test_errors():
    g = kalman(0, 2, 1, 0, 1, 1)
    with pytest.raises(ValueError, match=r"tol must be in \[0, 1\), got 2"):
        minimal(g, tol=2)
    batch = balred.testing.random_system(3, batch=(2,))
    with pytest.raises(ValueError, match=r"a single system, got a batch of shape \(2,\)"):
        minimal(batch)
    with pytest.raises(ValueError, match="inputs do not reach its outputs"):
        minimal(balred.diagonal([-1.0, -2.0], B=[[1.0], [0.0]], C=[[0.0, 1.0]]))


def test_the_hankel_singular_values_stay():
    g = balred.testing.random_system(5, 2, 2, seed=3)
    hidden = balred.ss(
        scipy.linalg.block_diag(g.A, -np.eye(2)), np.vstack([g.B, np.ones((2, 2))]), np.hstack([g.C, np.zeros((2, 2))])
    )
    small = minimal(hidden)
    assert small.order == 5
    assert_allclose(balred.hsv(small), balred.hsv(g), rtol=1e-7)


@pytest.mark.parametrize(("dt", "slow"), [(0, 1e-9), (1e-3, 1e-3)])
def test_slow_states_beside_very_fast_ones_are_no_rounding(dt, slow):
    """Three states that inputs reach and outputs see, many decades apart: none can go, and a fourth that inputs do not reach can.

    A sampled slow pole is near 1, where other coordinates round it, so it is not as slow.
    """
    rates = np.array([-slow, -1.0, -1e9])
    poles = np.exp(rates * dt) if dt else rates
    g = balred.ss(np.diag(poles), np.ones((3, 1)), np.ones((1, 3)), dt=dt)
    assert balred.minimal(g) is g
    more = balred.ss(np.diag([*poles, 0.5 if dt else -7.0]), [[1.0], [1], [1], [0]], np.ones((1, 4)), dt=dt)
    small = balred.minimal(more)
    assert small.states in (3, 4)  # what cannot be told apart stays
    for rate in (slow, 1.0, 1e9 if not dt else 1e3):
        s = np.exp(1j * rate * dt) if dt else 1j * rate
        np.testing.assert_allclose(small(s), more(s), rtol=1e-5)
