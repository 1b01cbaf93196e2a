"""Covariances of outputs against their equations, and where there are none."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from tables import each_case, each_single, members

import balred


@each_single
def test_the_covariance_solves_its_equation(case):  # type: ignore[no-untyped-def]
    g = case.make(n=4)
    d = g.to_dense()
    M = np.random.default_rng(1).standard_normal((d.B.shape[1],) * 2)
    W = M @ M.T
    Q = d.B @ W @ d.B.conj().T
    P = balred.stein(d.A, Q) if g.discrete else balred.lyap(d.A, Q)
    want = d.C @ P @ d.C.conj().T
    through = d.D @ W @ d.D.conj().T
    want = want + through if g.discrete else np.where(through != 0, np.inf, want)
    got = balred.covar(g, W)
    finite = np.isfinite(want)
    assert_allclose(got[finite], want[finite], rtol=0, atol=1e-9 * np.abs(want[finite]).max(initial=1.0))
    assert np.all(np.isinf(got[~finite]))


@each_case
def test_every_library(xp, case):  # type: ignore[no-untyped-def]
    system = case.make(n=3)
    if xp.traced:
        with pytest.raises(TypeError, match="covar needs concrete values"):
            xp.call(balred.covar, xp.system(system))
        return
    got = xp.numpy(balred.covar(xp.system(system)))
    one = [balred.covar(g) for g in members(xp.exact(system))]
    assert_allclose(got.reshape(-1, *got.shape[-2:]), np.stack(one), rtol=1e3 * xp.eps, atol=1e3 * xp.eps)


def test_the_trace_is_the_square_of_the_h2_norm() -> None:
    g = balred.testing.random_system(6, seed=2)
    g = balred.ss(g.A, g.B, g.C)
    assert float(np.trace(balred.covar(g))) == pytest.approx(float(balred.norm(g)) ** 2, rel=1e-12)


def test_noise_straight_through_one_output_is_infinite_there() -> None:
    """MATLAB's rule: the other output keeps its variance, 1/2 of 1/(s + 1)."""
    g = balred.ss([[-1.0]], [[1.0]], [[1.0], [1.0]], [[1.0], [0.0]])
    assert_allclose(balred.covar(g), [[np.inf, 0.5], [0.5, 0.5]])


@pytest.mark.parametrize(
    ("W", "message"),
    [
        (np.eye(3), r"W must be a number or have shape \(2, 2\), got \(3, 3\)"),
        ([[1.0, 0.5], [0.0, 1.0]], "W must be Hermitian"),
        (-1.0, "W must not be negative, got an eigenvalue -1"),
        ([[1.0, 2.0], [2.0, 1.0]], "W must not be negative, got an eigenvalue -1"),
    ],
)
def test_intensities_that_are_none(W: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        balred.covar(balred.testing.random_system(3, seed=1), W)


def test_unstable_systems_have_none() -> None:
    with pytest.raises(balred.UnstableError):
        balred.covar(balred.ss([[1.0]], [[1.0]], [[1.0]]))
