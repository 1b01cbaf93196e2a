"""Optimal Hankel-norm approximation: its defining identities, SLICOT's printed example, and AB09CD routine by routine."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from tables import frequencies, gains

import balred
from balred.hankel.projections import projected
from balred.hankel.spectrum import spectrum
from balred.methods.hankel_norm import bilinear, optimal

CASES = pytest.mark.parametrize(
    ("seed", "n", "m", "p"), [(0, 4, 1, 1), (1, 6, 1, 1), (2, 7, 3, 1), (3, 8, 2, 4), (4, 9, 3, 3), (5, 5, 7, 2)]
)
TIMES = pytest.mark.parametrize("dt", [0, 0.5])
KINDS = pytest.mark.parametrize("complex", [False, True])


def system(seed, n, m, p, dt, complex=False):
    g = balred.testing.random_system(n, m, p, dt=dt, seed=seed, complex=complex)
    return balred.ss(g.A, g.B, g.C, np.random.default_rng(seed).standard_normal((p, m)), dt)


@CASES
@TIMES
@KINDS
def test_error_has_the_least_hankel_norm(seed, n, m, p, dt, complex):
    """sigma_{k+1} is a lower bound for every system of order k (Glover 1984, lemma 7.1), and it is attained."""
    g = system(seed, n, m, p, dt, complex)
    a = balred.analyze(g, method="hankel_norm")
    s = np.asarray(a.hsv)
    for k in range(1, n):
        small = a.reduce(k)
        assert small.states == k
        assert_allclose(float(balred.error(g, small, kind="hankel")), s[k], rtol=1e-6, atol=1e-9 * s[0])
        assert float(balred.error(g, small)) <= a.bound(k) * (1 + 1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_the_embedding_of_one_channel_is_all_pass(seed):
    """Before the antistable part is dropped, |E(i w)| = sigma_{k+1} at every frequency (Glover 1984, theorem 6.3)."""
    g = system(seed, 6, 1, 1, 0)
    sp = spectrum(g, None)
    balanced = projected(sp, 6)[0]
    for k in (1, 3, 5):
        best = optimal(balanced, np.asarray(sp.s), k)
        assert np.sum(np.linalg.eigvals(best.A).real < 0) == k
        E = [abs((balanced(z) - best(z))[0, 0]) for z in frequencies(g, 60)]
        assert_allclose(E, sp.s[k], rtol=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_the_embedding_of_several_channels_is_a_contraction(seed):
    g = system(seed, 7, 2, 3, 0)
    sp = spectrum(g, None)
    balanced = projected(sp, 7)[0]
    best = optimal(balanced, np.asarray(sp.s), 3)
    assert_allclose(gains(balred.measures.norms.difference(balanced, best), frequencies(g, 60)), sp.s[3], rtol=1e-7)


def test_equal_values_are_cut_together():
    one = system(1, 4, 1, 1, 0)
    eye = np.eye(2)
    g = balred.ss(*(np.kron(eye, x) for x in (one.A, one.B, one.C, one.D)))
    s = balred.hsv(g)
    a = balred.analyze(g, method="hankel_norm")
    assert a.reduce(3).states == 2
    assert_allclose(float(balred.error(g, a.reduce(2), kind="hankel")), s[2], rtol=1e-6)


@pytest.mark.parametrize("dt", [0, 0.1])
def test_a_constant_is_left_where_the_first_values_are_equal(dt):
    """Of an all-pass system all values are 1, and no system of lower order is nearer than 1 (Glover, theorem 6.1)."""
    g = balred.ss([[0.0, 1.0], [-5.0, -2.0]], [[0.0], [1.0]], [[0.0, -4.0]], [[1.0]])  # (s^2 - 2s + 5) / (s^2 + 2s + 5)
    g = bilinear(g, back_to=dt) if dt else g
    assert_allclose(balred.hsv(g), [1, 1], rtol=1e-9)
    a = balred.analyze(g, method="hankel_norm")
    small = a.reduce(1)
    assert small.states == 0
    assert float(balred.error(g, small)) == pytest.approx(1, rel=1e-9) == a.bound(1)
    weighted = balred.reduce(g, 1, method="weighted_hankel_norm", left=balred.ss([[-2.0]], [[1.0]], [[1.0]], dt=0) if not dt
                             else balred.ss([[0.5]], [[1.0]], [[1.0]], dt=dt))  # fmt: skip
    assert weighted.states <= 1


def test_a_band_pass_filter_keeps_its_bound():
    """Its values come in pairs that are equal to rounding, so one state less than a pair is no state of it."""
    import scipy.signal

    g = scipy.signal.ZerosPolesGain(*scipy.signal.butter(2, [1.0, 1.1], "bandpass", analog=True, output="zpk"))
    s = np.asarray(balred.hsv(g))
    assert_allclose(s[::2], s[1::2], rtol=1e-9)
    a = balred.analyze(g, method="hankel_norm")
    for k in (1, 2, 3):
        small = a.reduce(k)
        assert float(balred.error(g, small, "hankel")) == pytest.approx(s[k], rel=1e-6)
        assert float(balred.error(g, small)) <= a.bound(k) * (1 + 1e-6)


def test_bilinear_and_back():
    g = system(2, 5, 2, 2, 0.1)
    h = bilinear(bilinear(g), back_to=0.1)
    for x, y in zip((g.A, g.B, g.C, g.D), (h.A, h.B, h.C, h.D), strict=True):
        assert_allclose(x, y, atol=1e-12)
    assert_allclose(balred.hsv(bilinear(g)), balred.hsv(g), rtol=1e-9)


def test_slicot_example(plant):
    """D of order 5 as printed in the documentation of AB09CD (four decimals)."""
    small = balred.reduce(plant, 5, method="hankel_norm")
    assert_allclose(small.D, [[0.0126, -0.0126], [0.0005, -0.0005], [-0.0126, 0.0126]], atol=5e-5)


@CASES
@TIMES
def test_ab09cd(seed, n, m, p, dt):
    ctrlsys = pytest.importorskip("ctrlsys")
    g = system(seed, n, m, p, dt)
    k = n // 2
    args = [np.asfortranarray(x.copy()) for x in (g.A, g.B, g.C, g.D)]
    out = ctrlsys.ab09cd("D" if dt else "C", "N", "F", n, m, p, k, *args, 0.0, 0.0)
    assert out[-1] == 0
    nr = next(x for x in out if isinstance(x, int))
    theirs = balred.ss(out[0][:nr, :nr], out[1][:nr], out[2][:, :nr], out[3], dt)
    ours = balred.reduce(g, k, method="hankel_norm")
    for z in frequencies(g, 20):
        assert_allclose(ours(z), theirs(z), rtol=1e-6, atol=1e-8)
