"""What other libraries get wrong: each test shows that we are right, and that python-control 0.10.2 or pyMOR 2026.1 is not.

A test that fails because the other library has become right is good news: its second half may go.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from oracle import oracle_hsv

import balred
from balred.testing import random_system


@pytest.fixture
def control() -> Any:
    pytest.importorskip("slycot")
    return pytest.importorskip("control")


@pytest.fixture
def ours() -> Any:
    pytest.importorskip("control")
    from balred.adapters import control

    return control


@pytest.fixture
def lti() -> Any:
    pytest.importorskip("pymor")
    from pymor.models.iosys import LTIModel

    return LTIModel.from_matrices


def bt(model: Any, **how: Any) -> Any:
    from pymor.reductors.bt import BTReductor

    return BTReductor(model).reduce(**how)


def falling(n: int = 20) -> balred.DenseSystem:
    """Poles -1, -4, -9, ... in rotated coordinates: Hankel singular values over twenty decades."""
    T, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((n, n)))
    B = T @ np.ones((n, 1))
    return balred.ss(T @ np.diag(-(np.arange(1.0, n + 1) ** 2)) @ T.T, B, B.T)


def discrete_plant(control: Any, seed: int = 0) -> Any:
    g = random_system(8, 2, 2, dt=1, seed=seed)
    return control.StateSpace(g.A, g.B, g.C, g.D, 0.1)


def gap(g: Any, h: Any) -> float:
    """A lower bound of the H-infinity norm of the difference of two discrete systems."""
    circle = np.exp(1j * np.linspace(0, np.pi, 60))
    return max(float(np.linalg.norm(np.atleast_2d(g(z) - h(z)), 2)) for z in circle)


# ---------------------------------------------------------------------------------------------- python-control


@pytest.mark.parametrize("seed", range(3))
def test_control_balred_takes_discrete_systems_for_continuous(control: Any, ours: Any, seed: int) -> None:
    sys = discrete_plant(control, seed)
    bound = 2 * balred.hsv(sys)[4:].sum()
    small = ours.balred(sys, 4)
    assert small.dt == 0.1
    assert gap(sys, small) <= bound
    theirs = control.balred(sys, 4)
    assert theirs.dt == 0
    assert gap(sys, control.StateSpace(theirs.A, theirs.B, theirs.C, theirs.D, 0.1)) > bound


def test_control_modred_has_no_steady_state_in_discrete_time(control: Any, ours: Any) -> None:
    sys = discrete_plant(control)
    assert_allclose(ours.modred(sys, [6, 7]).dcgain(), sys.dcgain(), rtol=1e-9)
    with pytest.raises(NotImplementedError):
        control.modred(sys, [6, 7])
    assert ours.modred(sys, [6, 7], "truncate").dt == 0.1
    assert control.modred(sys, [6, 7], "truncate").dt == 0


@pytest.mark.full
def test_control_hsvd_refuses_discrete_systems(control: Any, ours: Any) -> None:
    sys = discrete_plant(control)
    assert_allclose(ours.hsvd(sys), oracle_hsv(balred.adapt(sys)[0]), rtol=1e-8)
    with pytest.raises(NotImplementedError):
        control.hsvd(sys)


def test_control_hsvd_is_complex_and_has_half_the_digits(control: Any, ours: Any) -> None:
    g = falling()
    sys = control.StateSpace(g.A, g.B, g.C, g.D)
    truth = oracle_hsv(g)
    visible = truth > 1e-13 * truth[0]
    assert visible.sum() == 15
    mine, theirs = ours.hsvd(sys), control.hsvd(sys)
    assert mine.dtype == np.float64
    assert_allclose(mine[visible], truth[visible], rtol=1e-6)
    # which of the small values come out as roots of negative numbers is up to rounding errors; that they are wrong is not
    right = np.abs(theirs - truth) < 1e-6 * truth
    assert right.sum() <= 10
    assert np.iscomplexobj(theirs) or (theirs[truth < 1e-12 * truth[0]] > 1e-11).all()


def test_control_balred_ignores_alpha_when_it_truncates(control: Any, ours: Any) -> None:
    # the mode at -0.1 hardly matters, but alpha = -0.2 asks for it to be kept
    sys = control.ss(np.diag([-0.1, -1, -2, -3]), [[1e-4], [1.0], [1.0], [1.0]], [[1e-4, 1.0, 2.0, 3.0]], 0)
    for method in ("truncate", "matchdc"):
        assert np.abs(ours.balred(sys, 2, method, alpha=-0.2).poles() + 0.1).min() < 1e-12
    assert np.abs(control.balred(sys, 2, "matchdc", alpha=-0.2).poles() + 0.1).min() < 1e-12
    assert np.abs(control.balred(sys, 2, "truncate", alpha=-0.2).poles() + 0.1).min() > 0.5


def test_control_gramian_factors_need_few_inputs(control: Any, ours: Any) -> None:
    sys = control.ss([[-1.0]], [[1.0, 2.0]], [[1.0], [3.0]], 0)
    # 2 p = 1 + 4, 2 q = 1 + 9
    assert_allclose(ours.gram(sys, "cf") ** 2, [[2.5]])
    assert_allclose(ours.gram(sys, "of") ** 2, [[5.0]])
    for kind in ("cf", "of"):
        with pytest.raises(ValueError, match="could not broadcast"):
            control.gram(sys, kind)


def test_control_loses_names(control: Any, ours: Any) -> None:
    sys = control.ss([[-1.0, 0.0], [0.1, -2.0]], [[1.0], [1.0]], [[1.0, 1.0]], 0, inputs="force", outputs="speed")
    assert ours.balred(sys, 1).input_labels == ours.modred(sys, 1).input_labels == ["force"]
    assert control.balred(sys, 1).input_labels == control.modred(sys, 1).input_labels == ["u[0]"]


# ------------------------------------------------------------------------------------------------------- pyMOR


def test_pymor_returns_order_one_where_no_bound_meets_the_tolerance(lti: Any) -> None:
    g = random_system(8, seed=0)
    s = balred.hsv(g)
    tol = 1.5 * s[-1]  # leaving out a single state may already err by 2 s[-1]
    model = lti(g.A, g.B, g.C)
    mine = balred.reduce(model, balred.ErrorBound(tol))
    assert mine.order == 8
    assert balred.error(model, mine) <= tol
    theirs = bt(model, tol=tol)
    assert theirs.order == 1
    assert balred.error(model, theirs) > 1000 * tol


def test_a_tolerance_below_what_the_numerical_rank_allows_is_an_error_or_met() -> None:
    g = falling()
    with pytest.raises(ValueError, match="tol"):
        balred.ErrorBound(0.0)
    for tol in (1e-3, 1e-6, 1e-9):
        small = balred.reduce(g, balred.ErrorBound(tol))
        assert balred.error(g, small) <= tol


def test_pymor_has_wrong_values_for_complex_systems(lti: Any) -> None:
    rng = np.random.default_rng(1)
    g = random_system(5, seed=1)
    B, C = (x + 1j * rng.standard_normal(x.shape) for x in (g.B, g.C))
    system = balred.ss(g.A + 1j * np.diag(rng.standard_normal(5)) - np.eye(5), B, C)
    truth = oracle_hsv(system)
    model = lti(system.A, system.B, system.C)
    assert_allclose(balred.hsv(model), truth, rtol=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # behind it SLICOT drops the imaginary part, SciPy's solver gets B B^T for B B^H
        theirs = model.hsv()
    assert np.abs(theirs / truth - 1).max() > 0.01


def test_pymor_has_values_for_unstable_systems(lti: Any) -> None:
    A, B = np.diag([1.0, -2.0, -3.0]), np.ones((3, 1))
    model = lti(A, B, B.T)
    stable = balred.hsv(balred.ss(A[1:, 1:], B[1:], B[1:].T))
    assert_allclose(balred.hsv(model), [np.inf, *stable], rtol=1e-12)
    # the unstable pole stays where it is, and the bound is that of the stable part
    small = balred.reduce(model, 2)
    assert np.abs(small.poles() - 1).min() < 1e-12
    assert balred.norm(_difference(model, small), "linf") <= 2 * stable[1] * (1 + 1e-9)
    theirs = model.hsv()
    assert np.isfinite(theirs).all()
    assert np.abs(bt(model, r=2).poles() - 1).min() > 1e-3


def _difference(model: Any, small: Any) -> balred.DenseSystem:
    g, h = balred.adapt(model)[0], balred.adapt(small)[0]
    A = np.block([[g.A, np.zeros((g.order, h.order))], [np.zeros((h.order, g.order)), h.A]])
    return balred.ss(A, np.vstack([g.B, h.B]), np.hstack([g.C, -h.C]))


# ------------------------------------------------------------------------------------------ recurrent layers


def test_a_gramian_of_a_complex_diagonal_layer_needs_a_conjugate() -> None:
    r"""As published for LRU layers elsewhere, with :math:`\lambda_i\lambda_j` where :math:`\lambda_i\bar\lambda_j` belongs."""
    rng = np.random.default_rng(0)
    poles = 0.9 * np.exp(1j * rng.uniform(0.2, 2.0, 6))
    B, C = (rng.standard_normal(s) + 1j * rng.standard_normal(s) for s in ((6, 2), (3, 6)))
    layer = balred.diagonal(poles, B, C, dt=1)
    truth = oracle_hsv(layer)
    assert_allclose(balred.hsv(layer), truth, rtol=1e-9)

    def values(product: Any) -> Any:
        P, Q = (B @ B.conj().T) / (1 - product), (C.conj().T @ C) / (1 - product.conj())
        return np.sort(np.sqrt(np.linalg.eigvals(P @ Q)).real)[::-1]

    assert_allclose(values(np.outer(poles, poles.conj())), truth, rtol=1e-6)
    assert np.abs(values(np.outer(poles, poles)) / truth - 1).max() > 0.1
