"""Errors between systems that share unstable or marginal modes, against closed forms; and those that do not share them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

import balred
from balred.measures.shared_modes import without_shared_modes
from balred.systems import DenseSystem
from balred.systems.parts import join
from balred.systems.poles import UnstableError

KINDS = ("hinf", "h2", "hankel", "linf", "l2")


def rotated(g: DenseSystem, seed: int) -> DenseSystem:
    Q = scipy.linalg.qr(np.random.default_rng(seed).standard_normal((g.order, g.order)))[0]
    return DenseSystem(Q.T @ g.A @ Q, Q.T @ g.B, g.C @ Q, g.D, g.dt)


def beside(modes: Any, B: Any, C: Any, other: DenseSystem) -> DenseSystem:
    """`other` beside the modes with the matrix `modes`."""
    return join(balred.ss(modes, B, C, dt=other.dt), other)  # type: ignore[return-value]


def lag(pole: float, gain: float, dt: float = 0) -> DenseSystem:
    return balred.ss([[pole]], [[1.0]], [[gain]], dt=dt)


INTEGRATORS = {
    "one": ([[0.0]], [[1.0]], [[1.0]]),
    "double": ([[0.0, 1.0], [0.0, 0.0]], [[0.0], [1.0]], [[1.0, 0.0]]),
    "triple": (np.diag([1.0, 1.0], 1), [[0.0], [0.0], [1.0]], [[1.0, 0.0, 0.0]]),
    "undamped": ([[0.0, 2.0], [-2.0, 0.0]], [[0.0], [1.0]], [[1.0, 0.0]]),
    "unstable": ([[3.0]], [[1.0]], [[1.0]]),
    "spread": (np.diag([0.0, 1e-3, 50.0]), np.ones((3, 1)), [[1.0, 1.0, 1e-3]]),
}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("name", INTEGRATORS)
def test_shared_modes_cancel(name: str, turned: bool) -> None:
    """1/(s + 1) and 2/(s + 3): |1/(1 + iw) - 2/(3 + iw)| = |1 - iw|/|(1 + iw)(3 + iw)| = 1/|3 + iw|, at most 1/3; H2 norm
    the root of 1/2 + 4/6 - 2*2/(1 + 3); Hankel norm from P = Q = [1/2, -1/4; -1/4, 1/6] scaled by C = (1, -2)."""
    g, r = (beside(*INTEGRATORS[name], lag(*x)) for x in ((-1.0, 1.0), (-3.0, 2.0)))
    if turned:
        g, r = rotated(g, 1), rotated(r, 2)
    P, Q = np.array([[1 / 2, 1 / 4], [1 / 4, 1 / 6]]), np.array([[1 / 2, -2 / 4], [-2 / 4, 4 / 6]])
    hankel = np.sqrt(np.linalg.eigvals(P @ Q).real.max())
    want = {"hinf": 1 / 3, "linf": 1 / 3, "h2": np.sqrt(1 / 6), "l2": np.sqrt(1 / 6), "hankel": hankel}
    for kind in KINDS:
        assert float(balred.error(g, r, kind)) == pytest.approx(want[kind], rel=1e-6), kind


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("double", [False, True])
def test_discrete_poles_at_one(turned: bool, double: bool) -> None:
    """1/(z - 1/2) and 2/(z - 1/2) beside poles at 1: the difference has the gain 2 at z = 1 and the H2 norm 1/sqrt(3/4)."""
    modes = ([[1.0, 1.0], [0.0, 1.0]], [[0.0], [1.0]], [[1.0, 0.0]]) if double else ([[1.0]], [[1.0]], [[1.0]])
    g, r = (beside(*modes, lag(0.5, gain, dt=0.1)) for gain in (1.0, 2.0))
    if turned:
        g, r = rotated(g, 3), rotated(r, 4)
    assert float(balred.error(g, r)) == pytest.approx(2, rel=1e-6)
    assert float(balred.error(g, r, "h2")) == pytest.approx(np.sqrt(4 / 3), rel=1e-6)


@pytest.mark.parametrize("apart", 10.0 ** np.arange(-7, 0))
@pytest.mark.parametrize("seed", range(10, 20))
def test_gains_of_integrators_that_differ_do_not_cancel_without_a_word(seed: int, apart: float) -> None:
    """Two integrators with other gains, in coordinates of condition up to 310: the error is infinite or refused, or a word is said.

    Where they count as the same the error is about that of the rest, and never one of 1e13.
    """
    rng = np.random.default_rng(seed)
    rest = [balred.testing.random_system(5, 2, 2, seed=s) for s in (seed, seed + 100)]
    B, C = rng.standard_normal((2, 2)), rng.standard_normal((2, 2))

    def full(other: Any, gain: float) -> DenseSystem:
        A, T = scipy.linalg.block_diag(np.zeros((2, 2)), other.A), rng.standard_normal((7, 7)) + 3 * np.eye(7)
        B_all, C_all = np.vstack([gain * B, other.B]), np.hstack([C, other.C])
        return balred.ss(np.linalg.solve(T, A @ T), np.linalg.solve(T, B_all), C_all @ T, other.D)

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            error = float(balred.error(full(rest[0], 1.0), full(rest[1], 1.0 + apart)))
        except UnstableError:
            error = np.inf
    if np.isfinite(error):
        assert any("count as the same" in str(w.message) for w in told)
        assert error == pytest.approx(float(balred.error(*rest)), rel=1e-3)


@pytest.mark.parametrize("stiff", [1.0, 1e6])
@pytest.mark.parametrize("moved", [1e-3, 1e-6, 1e-8, -1e-6])
def test_modes_that_differ_do_not_cancel(moved: float, stiff: float) -> None:
    """1/s - 1/(s + moved) is unbounded at zero, however little it moved, fast modes beside it or not."""
    g, r = (beside([[p]], [[1.0]], [[1.0]], lag(-stiff, 1.0)) for p in (0.0, -moved))
    for kind in KINDS:
        with pytest.raises(balred.UnstableError, match="got a pole at"):
            balred.error(g, r, kind)
    with pytest.raises(balred.UnstableError, match="got a pole at"):
        balred.error(rotated(beside([[0.0]], [[1.0]], [[1.0]], lag(-1.0, 1.0)), 5), r)


def test_gains_of_an_integrator_that_differ_do_not_cancel() -> None:
    g, r = (beside([[0.0]], [[1.0]], [[c]], lag(-1.0, 1.0)) for c in (1.0, 1.0 + 1e-9))
    with pytest.raises(balred.UnstableError, match="got a pole at 0"):
        balred.error(g, r)


def test_an_integrator_in_one_of_two() -> None:
    with pytest.raises(balred.UnstableError, match="got a pole at 0"):
        balred.error(lag(0.0, 1.0), lag(-1.0, 1.0))
    # one that no input reaches is none
    hidden = balred.ss(np.diag([0.0, -1.0]), [[0.0], [1.0]], [[1.0, 1.0]])
    assert float(balred.error(hidden, lag(-1.0, 2.0))) == pytest.approx(1, rel=1e-9)


def test_marginal_modes_alone_cancel_for_linf() -> None:
    """Beside an integrator 1/(s - 2) and 2/(s - 2): the unstable modes are not the same, the L-infinity norm is 1/2."""
    g, r = (beside([[0.0]], [[1.0]], [[1.0]], lag(2.0, gain)) for gain in (1.0, 2.0))
    assert float(balred.error(g, r, "linf")) == pytest.approx(0.5, rel=1e-9)
    with pytest.raises(balred.UnstableError):
        balred.error(g, r)


def test_systems_that_are_the_same_are_not_apart() -> None:
    g = beside(*INTEGRATORS["double"], lag(-1.0, 1.0))
    assert float(balred.error(g, rotated(g, 6))) < 1e-6
    assert float(balred.error(lag(0.0, 1.0), lag(0.0, 1.0))) == 0


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(3, 12), rank=st.integers(1, 3), turned=st.booleans())
def test_what_reduce_keeps_cancels(seed: int, n: int, rank: int, turned: bool) -> None:
    """The error with an integrator and an unstable pair beside a system is that of the system."""
    stable = balred.testing.random_system(n, seed=seed)
    modes = np.array([[0.0, 0.0, 0.0], [0.0, 0.3, 2.0], [0.0, -2.0, 0.3]])
    rng = np.random.default_rng(seed)
    g = beside(modes, rng.standard_normal((3, 2)), rng.standard_normal((2, 3)), stable)
    g = rotated(g, seed) if turned else g
    r = balred.reduce(g, 3 + rank)
    want = float(balred.error(stable, balred.reduce(stable, r.states - 3)))
    got = float(balred.error(g, rotated(r, seed + 1) if turned else r))
    assert got == pytest.approx(want, rel=1e-5, abs=1e-7 * float(balred.norm(stable, "hinf")))


def test_units_of_state_do_not_decide() -> None:
    g, r = (beside(*INTEGRATORS["one"], lag(*x)) for x in ((-1.0, 1.0), (-3.0, 2.0)))
    d = np.array([1e9, 1e-9])
    r = DenseSystem(r.A * d / d[:, None], r.B / d[:, None], r.C * d, r.D)
    assert float(balred.error(g, r)) == pytest.approx(1 / 3, rel=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_error_is_of_the_type_of_the_data(dtype: str) -> None:
    """In float32 the rotated integrators agree to the digits that they have."""
    g, r = (rotated(beside(*INTEGRATORS["one"], lag(*x)), k) for k, x in enumerate(((-1.0, 1.0), (-3.0, 2.0))))
    g, r = (balred.ss(*(x.astype(dtype) for x in (s.A, s.B, s.C))) for s in (g, r))
    got = balred.error(g, r)
    assert got.dtype == dtype
    assert float(got) == pytest.approx(1 / 3, rel=1e-9 if dtype == "float64" else 1e-4)


def test_diagonal_systems() -> None:
    g, r = (balred.diagonal([0.0, p], np.ones((2, 1)), [[1.0, c]]) for p, c in ((-1.0, 1.0), (-3.0, 2.0)))
    assert float(balred.error(g, r)) == pytest.approx(1 / 3, rel=1e-9)


def test_no_modes_in_common() -> None:
    assert without_shared_modes(lag(-1.0, 1.0), lag(-2.0, 1.0)) is None


@pytest.mark.parametrize("size", [1e-200, 1.0, 1e200])
def test_modes_are_shared_or_not_whatever_the_size_of_the_gains(size: float) -> None:
    """Of c/s + c/(s + 1) and c/s + 2 c/(s + 3) the rest has the H2 norm c sqrt(1/2 + 4/6 - 4/4); 2 c/s is another integrator."""
    first, second, other = (
        balred.ss(np.diag([0.0, p]), size * np.ones((2, 1)), [[r, c]])
        for p, r, c in ((-1.0, 1.0, 1.0), (-3.0, 1.0, 2.0), (-3.0, 2.0, 2.0))
    )
    assert float(balred.error(first, second, "h2")) == pytest.approx(size * np.sqrt(1 / 6), rel=1e-9)
    for stranger in (other, balred.ss(np.diag([-1.0, -3.0]), size * np.ones((2, 1)), [[1.0, 1.0]])):
        with pytest.raises(balred.UnstableError):
            balred.error(first, stranger, "h2")


def free_masses(J: float, k: float, d: float) -> DenseSystem:
    """Two masses on a spring, from a force on the first to the position of the second: a double integrator beside a mode."""
    rows = np.array([[-1.0, 1.0], [1 / 3, -1 / 3]]) / J
    A = np.block([[np.zeros((2, 2)), np.eye(2)], [k * rows, d * rows]])
    return balred.ss(A, [[0.0], [0.0], [1 / J], [0.0]], [[0.0, 1.0, 0.0, 0.0]])


def pendulum(mass: float, length: float) -> DenseSystem:
    """Upright on a cart of 5 kg, friction 1e-3, in position and angle: an integrator, an unstable pole and one at -2e-4."""
    M, b, inertia = 5.0, 1e-3, 0.03 * mass
    p = inertia * (M + mass) + M * mass * length**2
    A = np.zeros((4, 4))
    A[0, 1] = A[2, 3] = 1.0
    A[1, 1:3] = -(inertia + mass * length**2) * b / p, mass**2 * 9.81 * length**2 / p
    A[3, 1:3] = -mass * length * b / p, mass * 9.81 * length * (M + mass) / p
    return balred.ss(A, [[0], [(inertia + mass * length**2) / p], [0], [mass * length / p]], np.eye(4)[::2])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("g", [free_masses(1e-9, 1e-2, 1e-9), free_masses(1.0, 1e6, 1.0), pendulum(1e-3, 1e-2)])
def test_what_is_kept_cancels_whatever_the_coordinates(g: DenseSystem, seed: int) -> None:
    """In units a hundred times as large and as small, and turned: what is reduced has at most the error that theory bounds."""
    rng = np.random.default_rng(seed)
    T = 10.0 ** rng.uniform(-2, 2, 4)[:, None] * scipy.linalg.qr(rng.standard_normal((4, 4)))[0]
    turned = balred.ss(T @ np.linalg.solve(T.T, g.A.T).T, T @ g.B, np.linalg.solve(T.T, g.C.T).T, g.D)
    for one in (g, turned):
        a = balred.analyze(one)
        small = a.reduce(3)
        first = a.sigma[0]  # of which the coordinates round away 1e-12: the bound of one state is attained
        assert balred.error(one, small) <= a.bound(3) + 1e-11 * first
