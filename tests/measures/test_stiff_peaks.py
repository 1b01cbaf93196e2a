"""Peaks of what cancels, and of poles that spread over many decades, against 60 digits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
from hypothesis import example, given
from hypothesis import strategies as st
from oracle import oracle_gain
from stiff import KINDS, exponents, sampled, stiff_chain

import balred


@example("cascade", [-11.8, -13.45, -9.95, -8.0])  # whose balanced coordinates round a pole onto the shift
@example("cascade", [-12.05, -13.9, -9.85, -7.95])
@given(st.sampled_from(KINDS), exponents(-14, 3, sizes=(1, 4)))
def test_norms_of_stiff_chains(kind: str, rates: list[float]) -> None:
    g = stiff_chain(kind, rates)
    assert float(balred.norm(g, "hinf")) == pytest.approx(oracle_gain(g), rel=1e-6)


@given(st.floats(-9, -1), st.floats(-13, -4), st.sampled_from([0.0, 1e-3, 1.0]))
def test_two_systems_that_nearly_cancel(slow: float, apart: float, dt: float) -> None:
    """1/(s + a) and the same with another residue: what is left is 10^apart of either."""
    a = stiff_chain("parallel", [slow, 1.0])
    b = balred.ss(a.A, a.B, a.C * (1 + 10.0**apart))
    if dt:
        a = sampled(a, dt)
        b = balred.ss(a.A, a.B, a.C * (1 + 10.0**apart), a.D, dt)
    assert float(balred.error(a, b)) == pytest.approx(oracle_gain(a, b), rel=1e-6)


def test_a_system_and_itself() -> None:
    g: Any = sampled(stiff_chain("lags", [-6.0, -1.0, 2.0]), 1e-3)
    assert float(balred.error(g, g)) <= 1e-15 * float(balred.norm(g, "hinf")) * np.sqrt(g.order)


@pytest.mark.parametrize("states", [16, pytest.param(19, marks=pytest.mark.full)])
def test_loops_whose_gains_fall_below_all_digits_at_high_frequencies(states: int) -> None:
    """A reduced controller of ten masses in its loop; at 20 rad/s the loops' difference is 1e-30 of what it is made of."""
    import mpmath

    n = 10
    K = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    A = np.block([[np.zeros((n, n)), np.eye(n)], [-K, -0.1 * np.eye(n) - 0.2 * K]])
    B, C = np.eye(2 * n)[:, n : n + 1], np.eye(2 * n)[n // 2 : n // 2 + 1]
    F = B.T @ scipy.linalg.solve_continuous_are(A, B, 100 * C.T @ C, np.eye(1))
    L = scipy.linalg.solve_continuous_are(A.T, C.T, 100 * B @ B.T, np.eye(1)) @ C.T
    controller = balred.ss(A - B @ F - L @ C, L, F)

    def closed(k: Any) -> Any:
        loop = np.block([[A, -B @ k.C], [k.B @ C, k.A]])
        return balred.ss(loop, np.vstack([B, 0 * k.B]), np.hstack([C, 0 * k.C]))

    def gain(g: Any, w: float) -> Any:
        A, B, C = (mpmath.matrix(x.tolist()) for x in (g.A, g.B, g.C))
        return (C * mpmath.lu_solve(mpmath.mpc(0, w) * mpmath.eye(g.order) - A, B))[0, 0]

    whole, small = closed(controller), closed(balred.reduce(controller, states))
    grid = np.linspace(0, 4, 4001)
    rough = [abs(complex((whole(1j * w) - small(1j * w))[0, 0])) for w in grid]
    with mpmath.workdps(40):
        exact = [float(abs(gain(whole, w) - gain(small, w))) for w in grid[np.argsort(rough)[-3:]]]
    assert float(balred.error(whole, small, "hinf")) == pytest.approx(max(exact), rel=1e-5)
