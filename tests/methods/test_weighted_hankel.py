"""Frequency-weighted Hankel-norm approximation: optimality measured on the cascade, SLICOT's example, AB09JD by routine."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from tables import frequencies

import balred
from balred.methods.hankel_norm import bilinear, hankel_norm, stable_part, weighted_hankel_norm
from balred.systems.arrays import ct
from balred.systems.parts import difference

TIMES = pytest.mark.parametrize("dt", [0, 0.5])
FIELDS = pytest.mark.parametrize("complex", [False, True])
SIDES = pytest.mark.parametrize("sides", ["left", "right", "left right"])


def plant(dt, complex=False, n=6, m=2, p=3, seed=1):
    return balred.testing.random_system(n, m, p, dt=dt, seed=seed, complex=complex)


def weight(size, dt, complex=False, seed=5):
    """A stable weight of full rank at every frequency, whose zeros are stable too."""
    w = balred.testing.random_system(3, size, size, dt=dt, seed=seed, complex=complex)
    return balred.ss(w.A, w.B, w.C, 1.1 * float(balred.norm(w, "hinf")) * np.eye(size) + 0 * w.D, dt)


def adjoint(w):
    """The system that at each frequency is the conjugate transpose (discrete: of a weight without poles at zero)."""
    if not w.discrete:
        return balred.ss(-ct(w.A), -ct(w.C), ct(w.B), ct(w.D))
    Ai = np.linalg.inv(ct(w.A))
    return balred.ss(Ai, -Ai @ ct(w.C), ct(w.B) @ Ai, ct(w.D) - ct(w.B) @ Ai @ ct(w.C), w.dt)


def series(first, second):
    """``second * first``."""
    zero = np.zeros((first.order, second.order))
    return balred.ss(
        np.block([[first.A, zero], [second.B @ first.C, second.A]]),
        np.vstack([first.B, second.B @ first.D]),
        np.hstack([second.D @ first.C, second.C]),
        second.D @ first.D,
        first.dt,
    )


def weighted_error(g, small, left, right):
    """Hankel norm of the stable part of V (G - Gk) W, antistable V and W, by none of the method's equations."""
    e = difference(g, small)
    e = e if right is None else series(right, e)
    e = e if left is None else series(e, left)
    return float(balred.norm(stable_part(bilinear(e) if e.discrete else e), "hankel"))


@TIMES
@FIELDS
@SIDES
@pytest.mark.parametrize("antistable", [False, True])
def test_the_weighted_error_has_the_least_hankel_norm(dt, complex, sides, antistable):
    """sigma_{k+1} of the stable part of VGW: no system of order k does better (Latham & Anderson 1985), ours attains it."""
    g = plant(dt, complex)
    stable = {"left": weight(3, dt, complex), "right": weight(2, dt, complex, seed=6)}
    given = {side: adjoint(stable[side]) if antistable else stable[side] for side in sides.split()}
    V, W = (adjoint(stable[side]) if side in given else None for side in ("left", "right"))
    a = balred.analyze(g, method="weighted_hankel_norm", **given)
    zero = balred.ss(np.zeros((0, 0)), np.zeros((0, 2)), np.zeros((3, 0)), g.D, dt)
    assert_allclose(a.hsv[0], weighted_error(g, zero, V, W), rtol=1e-9)
    for k in range(1, 6):
        small = a.reduce(k)
        assert small.states == k
        assert np.iscomplexobj(small.A) == complex
        assert_allclose(weighted_error(g, small, V, W), a.hsv[k], rtol=1e-6, atol=1e-9 * a.hsv[0])
        assert a.bound(k) == a.hsv[k]
        assert weighted_error(g, balred.reduce(g, k), V, W) > a.hsv[k]


@TIMES
@FIELDS
def test_without_a_weight_it_is_the_optimal_hankel_norm_approximation(dt, complex):
    g = plant(dt, complex)
    one = balred.ss(np.zeros((0, 0)), np.zeros((0, 3)), np.zeros((3, 0)), np.eye(3), dt)
    # the identity once more, with a state that hears nothing
    hidden = balred.ss([[0.3 if dt else -1.0]], [[0.0, 0.0]], [[1.0], [0.5]], np.eye(2), dt)
    for weights in ({}, {"left": one}, {"left": one, "right": hidden}):
        a, b = (balred.analyze(g, method=m, **o) for m, o in (("weighted_hankel_norm", weights), ("hankel_norm", {})))
        assert_allclose(a.hsv, b.hsv, rtol=1e-9)
        for k in (1, 3, 5, 6):
            for z in frequencies(g, 20):
                assert_allclose(a.reduce(k)(z), b.reduce(k)(z), rtol=1e-7, atol=1e-9)


@TIMES
def test_weights_may_be_strictly_proper_delay_or_have_unstable_zeros(dt):
    g = plant(dt, m=1, p=1)
    for w in (
        balred.ss([[0.9 if dt else -0.1]], [[1.0]], [[1.0]], None, dt),  # a low pass
        balred.ss([[0.0 if dt else -1.0]], [[1.0]], [[1.0]], None, dt),  # a delay: its adjoint in z is improper
        balred.ss([[0.9 if dt else -0.1]], [[1.0]], [[1.0]], [[-0.05]], dt),  # its adjoint has a stable zero
    ):
        a = balred.analyze(g, method="weighted_hankel_norm", left=w)
        b = balred.analyze(g, method="weighted_hankel_norm", right=w)
        assert_allclose(a.hsv, b.hsv, rtol=1e-8)  # one channel: weights commute
        small = a.reduce(3)
        h = bilinear(w) if dt else w
        e = difference(bilinear(g), bilinear(small)) if dt else difference(g, small)
        error = stable_part(series(e, adjoint(balred.ss(h.A, h.B, h.C, h.D))))
        assert_allclose(float(balred.norm(error, "hankel")), a.hsv[3], rtol=1e-6)
        assert_allclose(a.reduce(6)(0.3 + 0.9j), g(0.3 + 0.9j), rtol=1e-8)


# ------------------------------------------------------------------------------------------------- SLICOT


def slicot_example():
    """Data of the example program of AB09JD (SLICOT library documentation)."""
    A = np.diag(np.ones(5), -1)
    A[0] = [-3.8637, -7.4641, -9.1416, -7.4641, -3.8637, -1.0]
    g = balred.ss(A, np.eye(6)[:, :1], np.eye(6)[5:])
    return g, balred.ss([[0.2, -1.0], [1.0, 0.0]], [[1.0], [0.0]], [[-1.8, 0.0]], [[1.0]])


def test_slicot_example():
    """Hankel singular values of the weighted system and D of order 4 printed there (four decimals)."""
    g, V = slicot_example()
    a = balred.analyze(g, method="weighted_hankel_norm", left=V)
    assert_allclose(a.hsv, [2.6790, 2.1589, 0.8424, 0.1929, 0.0219, 0.0011], rtol=0, atol=0.5001e-4)
    assert_allclose(a.reduce(4).D, [[0.0219]], rtol=0, atol=0.5001e-4)


@TIMES
@SIDES
@pytest.mark.parametrize("job", ["plain", "conjugate"])
@pytest.mark.parametrize("seed", range(3))
def test_ab09jd(dt, sides, job, seed):
    """Where several optimal approximations exist (more channels than one) the embedding is the same, hence the result."""
    ctrlsys = pytest.importorskip("ctrlsys")
    m, p, k = 1 + seed, 1 + seed, 3
    g = plant(dt, n=7, m=m, p=p, seed=seed)
    given = {side: weight(n, dt, seed=5 + seed) for side, n in (("left", p), ("right", m)) if side in sides}
    if job == "plain":
        given = {side: adjoint(w) for side, w in given.items()}

    def columns(w, size):
        zero = np.zeros
        parts = (zero((0, 0)), zero((0, size)), zero((size, 0)), zero((size, size))) if w is None else (*w.leaves, w.D)
        return [np.asfortranarray(x.copy()) for x in parts]

    V, W = given.get("left"), given.get("right")
    jobs = ["N" if w is None else name if job == "plain" else "C" for w, name in ((V, "V"), (W, "W"))]
    orders = [0 if w is None else w.order for w in (V, W)]
    out = ctrlsys.ab09jd(
        *jobs, "I", "D" if dt else "C", "N", "F", g.order, *orders, m, p, k, 1.0 if dt else 0.0,
        *columns(g, 0), *columns(V, p), *columns(W, m), 0.0, 0.0,
    )  # fmt: skip
    assert (out[-1], out[10]) == (0, k)
    a = balred.analyze(g, method="weighted_hankel_norm", **given)
    assert_allclose(a.hsv, out[12], rtol=1e-8, atol=1e-11 * a.hsv[0])
    ours, theirs = a.reduce(k), balred.ss(out[0][:k, :k], out[1][:k], out[2][:, :k], out[3], dt)
    # in discrete time SLICOT takes another of the direct terms, on which the Hankel norm does not depend
    shift = theirs.D - ours.D if dt else 0
    for z in frequencies(g, 20):
        assert_allclose(ours(z) + shift, theirs(z), rtol=1e-6, atol=1e-7)


# -------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("A", "B", "C", "D", "message"),
    [
        ([[-1.0]], [[1.0]], [[1.0]], [[1.0]], r"the left weight must be square with as many inputs as the system has outputs, 2, got shape \(1, 1\)"),
        (np.diag([-1.0, 1.0]), np.eye(2), np.eye(2), np.eye(2), "the poles of the left weight must be all stable or all antistable, got -1.*, 1"),
        (np.diag([-1.0, 0.0]), np.eye(2), np.eye(2), np.eye(2), "the poles of the left weight must be all stable or all antistable"),
        (np.diag([-1.0, -2.0]), np.diag([1.0, 0.0]), np.eye(2), np.diag([1.0, 0.0]), "the left weight must be invertible and have no zero at a pole of the reduced system"),
    ],
)  # fmt: skip
def test_weights_that_will_not_do(A, B, C, D, message):
    g = plant(0, m=2, p=2)
    w = balred.ss(A, B, C, D)
    with pytest.raises(ValueError, match=message):
        balred.reduce(g, 3, method="weighted_hankel_norm", left=w)


def test_a_weight_with_a_zero_at_a_pole_of_the_result():
    """The pole of the result depends on the zero z of the weight; where the two meet is found by bisection."""
    g = plant(0, m=2, p=2, n=4, seed=0)
    g = balred.ss(g.A, g.B[:, :1], g.C[:1])

    def weight_with(z):
        return balred.ss([[3.0]], [[1.0]], [[3.0 - z]], [[1.0]])

    def gap(z):
        sp = weighted_hankel_norm(g, left=weight_with(z)).spectrum
        return np.linalg.eigvals(hankel_norm(sp, 1)[0].A)[0].real - z

    lo, hi = -3.0, -0.05
    assert gap(lo) > 0 > gap(hi)
    for _ in range(80):
        mid = (lo + hi) / 2
        lo, hi = (mid, hi) if gap(mid) > 0 else (lo, mid)
    with pytest.raises(
        ValueError, match="the left weight must be invertible and have no zero at a pole of the reduced"
    ):
        balred.reduce(g, 1, method="weighted_hankel_norm", left=weight_with(lo))
    balred.reduce(g, 1, method="weighted_hankel_norm", left=weight_with(lo * 1.01))


def test_weights_in_another_time_or_unstable_systems():
    with pytest.raises(ValueError, match=r"the right weight must have the dt of the system, 0, got 0.5"):
        balred.reduce(plant(0), 3, method="weighted_hankel_norm", right=weight(2, 0.5))
    with pytest.raises(ValueError, match=r"the left weight must be a single system, got a batch of shape \(2,\)"):
        balred.reduce(
            plant(0), 3, method="weighted_hankel_norm", left=balred.testing.random_system(2, 3, 3, batch=(2,))
        )
