"""Projections onto balanced states keep the digits of each state, however small its value is beside the first."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

import balred
from balred.hankel.projections import projections
from balred.hankel.spectrum import spectrum


def series(*parts: tuple[np.ndarray, ...]) -> balred.DenseSystem:
    """Systems of one input and one output behind each other, the first first."""
    A, B, C, D = parts[0]
    for a, b, c, d in parts[1:]:
        A, B = np.block([[A, np.zeros((len(A), len(a)))], [b @ C, a]]), np.vstack([B, b @ D])
        C, D = np.hstack([d @ C, c]), d @ D
    return balred.ss(A, B, C, D)


def loop(filtered: float) -> balred.DenseSystem:
    """1/(s+1)^3 behind a lead of a tenth and a PI controller's zero, which cancels a pole: two poles at -1 and a fast one are left."""
    lag = (
        np.array([[-3.0, -3.0, -1.0], [1.0, 0, 0], [0, 1.0, 0]]),
        np.eye(3, 1),
        np.array([[0, 0, 1.0]]),
        np.zeros((1, 1)),
    )
    rate = 10 * filtered  # (s/10 + 1)/(s/rate + 1)
    lead = np.array([[-rate]]), np.array([[1.0]]), np.array([[rate - filtered * rate]]), np.array([[filtered]])
    # (s + 1)/(s + 1e-3): an integrator that leaks, so that all of it is stable
    pi = np.array([[-1e-3]]), np.array([[1.0]]), np.array([[1 - 1e-3]]), np.array([[1.0]])
    return series(lag, lead, pi)


def response(g: balred.DenseSystem, w: float) -> complex:
    """With 60 digits."""
    with mpmath.workdps(60):
        A, B, C = (mpmath.matrix(np.asarray(x).tolist()) for x in (g.A, g.B, g.C))
        x = mpmath.lu_solve(mpmath.mpc(0, w) * mpmath.eye(g.order) - A, B)
        return complex((C * x)[0]) + complex(g.D[0, 0])


@pytest.mark.parametrize("filtered", [1e2, 1e3, 1e4])
def test_small_states_cost_the_others_no_digits(filtered: float) -> None:
    """Where a fast pole leaves values of 1e-8 to 1e-14 beside the first: errors from mpmath, at most the bound and 1e-11 of it."""
    g = loop(filtered)
    a = balred.analyze(g)
    for k in range(1, a.numerical_rank + 1):
        small = a.reduce(k)
        error = max(abs(response(g, w) - response(small, w)) for w in (0.0, 1e-5, 1e-3, 1e-1, 1.0, 10.0, 1e3, 1e6))
        assert error <= a.bound(k) + 1e-11 * a.hsv[0]


def test_they_are_biorthogonal() -> None:
    """To rounding, where a state counts as much as it adds to the response, which is its value."""
    sp = spectrum(loop(1e4), None)
    for k in range(1, sp.cap + 1):
        L, R = projections(sp, k)
        weight = np.sqrt(sp.s[:k])
        assert np.abs((L @ R - np.eye(k)) * weight[:, None] * weight).max() < 1e-14 * sp.s[0]
