"""LQG, bounded-real and positive-real balancing: the property that each is for, in the given and the reduced system."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from tables import frequencies, gains
from test_coprime import unstable

import balred
from balred.arrays import ct
from balred.coprime import left_factors
from balred.riccati import dual
from balred.riccati_balancing import bounded_real

TIMES = pytest.mark.parametrize("dt", [0, 1])
MATCH = pytest.mark.parametrize("match_dc", [False, True])
SEEDS = pytest.mark.parametrize("seed", range(4))
FIELDS = pytest.mark.parametrize("complex", [False, True])


def contractive(seed, dt, complex=False, m=2, p=3):
    g = balred.testing.random_system(7, m, p, dt=dt, seed=seed, complex=complex)
    g = balred.ss(g.A, g.B, g.C, np.random.default_rng(seed).standard_normal((p, m)), dt)
    scale = 0.95 / float(balred.norm(g, "hinf"))
    return balred.ss(g.A, g.B, g.C * scale, g.D * scale, dt)


def passive(seed, dt, complex=False, m=2):
    """The Cayley transform (I - S)^-1 (I + S) of a contraction S is passive (by algebra)."""
    s = contractive(seed, dt, complex, m, m)
    inv = np.linalg.inv(np.eye(m) - s.D)
    return balred.ss(s.A + s.B @ inv @ s.C, 2**0.5 * s.B @ inv, 2**0.5 * inv @ s.C, inv @ (np.eye(m) + s.D), dt)


@SEEDS
@TIMES
@MATCH
@FIELDS
def test_contractions_stay_contractions(seed, dt, match_dc, complex):
    g = contractive(seed, dt, complex)
    a = balred.analyze(g, method="bounded_real", match_dc=match_dc)
    for k in range(1, 7):
        small = a.reduce(k)
        assert float(balred.norm(small, "hinf")) <= 1 + 1e-8
        assert float(balred.error(g, small)) <= a.bound(k) * (1 + 1e-8) + 1e-9


@TIMES
def test_another_level_is_the_scaled_system(dt):
    g = contractive(1, dt)
    big = balred.ss(g.A, g.B, 50 * g.C, 50 * g.D, dt)
    one, many = balred.analyze(g, method="bounded_real"), balred.analyze(big, method="bounded_real", gamma=50.0)
    assert_allclose(many.hsv, 50 * np.asarray(one.hsv), rtol=1e-7, atol=1e-9)
    for z in frequencies(g, 10):
        assert_allclose(many.reduce(3)(z), 50 * one.reduce(3)(z), rtol=1e-6, atol=1e-7)
    with pytest.raises(ValueError, match=r"gamma must be above the H-infinity norm of the system, 47.5, got 40"):
        balred.reduce(big, 3, method="bounded_real", gamma=40)


@SEEDS
@TIMES
@MATCH
@FIELDS
def test_passive_systems_stay_passive(seed, dt, match_dc, complex):
    g = passive(seed, dt, complex)
    assert min(np.linalg.eigvalsh(g(z) + g(z).conj().T)[0] for z in frequencies(g, 100)) > 0
    a = balred.analyze(g, method="positive_real", match_dc=match_dc)
    s = np.asarray(a.hsv)
    assert np.all(s <= 1 + 1e-9)  # both solutions lie between the extremal ones
    for k in range(1, 7):
        small = a.reduce(k)
        worst = min(np.linalg.eigvalsh(small(z) + small(z).conj().T)[0] for z in frequencies(g, 200))
        assert worst >= -1e-9
        poles = np.linalg.eigvals(small.A)
        assert np.all(np.abs(poles) < 1) if dt else np.all(poles.real < 0)


@SEEDS
@TIMES
@FIELDS
def test_lqg_values_and_stability_of_the_loop(seed, dt, complex):
    """A normalised LQG controller for the reduced plant stabilises the plant when the gap is within its margin."""
    g = unstable(seed, dt, complex=complex)
    a = balred.analyze(g, method="lqg")
    s = np.asarray(a.hsv)
    assert_allclose(
        balred.analyze(balred.ss(g.A.conj().T, g.C.conj().T, g.B.conj().T, g.D.conj().T, dt), method="lqg").hsv,
        s,
        rtol=1e-6,
        atol=1e-8 * s[0],
    )
    if dt:
        return
    # the values of the normalised factors are s / sqrt(1 + s^2) (Mustafa & Glover 1991)
    factors = left_factors(g, normalized=True)
    assert_allclose(balred.hsv(factors), s / np.sqrt(1 + s**2), rtol=1e-6, atol=1e-8)
    for k in range(2, 6):
        small = left_factors(a.reduce(k), normalized=True)
        error = gains(balred.norms.difference(factors, small), frequencies(g, 100)).max()
        assert error <= a.bound(k) * (1 + 1e-7) + 1e-9


@pytest.mark.parametrize(
    ("method", "reductor", "options"),
    [
        ("lqg", "LQGBTReductor", {}),
        ("bounded_real", "BRBTReductor", {"gamma": 2.0}),
        ("positive_real", "PRBTReductor", {}),
    ],
)
@SEEDS
def test_pymor(method, reductor, options, seed):
    bt = pytest.importorskip("pymor.reductors.bt")
    from pymor.models.iosys import LTIModel

    g = passive(seed, 0) if method == "positive_real" else contractive(seed, 0)
    model = LTIModel.from_matrices(g.A, g.B, g.C, g.D)
    made = getattr(bt, reductor)(model, *options.values()) if options else getattr(bt, reductor)(model)
    theirs = made.reduce(4)
    ours = balred.reduce(g, 4, method=method, **options)
    for z in frequencies(g, 12):
        # pyMOR's Riccati factors leave residuals up to 3e-3 in their equations, ours 1e-14 (tested below)
        assert_allclose(ours(z), theirs.transfer_function.eval_tf(z), rtol=0, atol=3e-3)


@SEEDS
@TIMES
@FIELDS
def test_the_factors_solve_their_equations(seed, dt, complex):
    g = contractive(seed, dt, complex)
    for h, Z in zip((g, dual(g)), reversed(bounded_real(g)[1:3]), strict=True):
        A, B, C, D = h.A, h.B, h.C, h.D
        X, R = Z @ ct(Z), np.eye(B.shape[1]) - ct(D) @ D
        M = (ct(A) @ X if dt else X) @ B + ct(C) @ D
        R = R - ct(B) @ X @ B if dt else R
        change = ct(A) @ X @ A - X if dt else ct(A) @ X + X @ A
        residual = change + ct(C) @ C + M @ np.linalg.solve(R, ct(M))
        assert np.abs(residual).max() < 1e-12 * np.abs(X).max()


def test_systems_that_are_not_passive_are_refused():
    g = balred.ss([[-1.0]], [[1.0]], [[-3.0]], [[1.0]])  # G(0) = -2
    with pytest.raises(ValueError, match="positive-real balancing needs a strictly passive system"):
        balred.reduce(g, 1, method="positive_real")
    g = balred.testing.random_system(4, 2, 3, seed=0)
    with pytest.raises(ValueError, match="as many inputs as outputs, got 2 inputs and 3 outputs"):
        balred.reduce(g, 2, method="positive_real")
    with pytest.raises(balred.UnstableError, match="every pole must have a negative real part"):
        balred.reduce(balred.ss([[1.0]], [[1.0]], [[1.0]]), 1, method="bounded_real")
