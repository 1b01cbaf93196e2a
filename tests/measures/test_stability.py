"""Rank-stability metrics: each against SciPy, a closed form, or a training constructed to have the property."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from tables import SINGLE, Backend, Library

import balred
from balred.hankel.spectrum import spectrum_of
from balred.measures.stability import (
    principal_angles,
    rank_correlation,
    rank_drift,
    settled,
    tail_energy,
    trace,
    track,
    weyl_bound,
)

vectors = st.integers(2, 20).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 2**20), min_size=n, max_size=n, unique=True)] * 2)
)


def near(system, size, seed=1):
    """`system` with its leaves moved by `size`: a checkpoint a little later, in the same coordinates."""
    rng = np.random.default_rng(seed)

    def move(x):
        noise = rng.standard_normal(x.shape) + (1j * rng.standard_normal(x.shape) if np.iscomplexobj(x) else 0)
        return x + size * noise

    names = ("log_poles", "B", "C") if hasattr(system, "log_poles") else ("A", "B", "C")
    return dataclasses.replace(system, **{n: move(getattr(system, n)) for n in names})


@given(v=vectors)
def test_kendall_and_spearman_equal_scipy(v):
    """Without ties all definitions agree."""
    x, y = v
    assert_allclose(rank_correlation(x, y), scipy.stats.kendalltau(x, y).statistic, atol=1e-12)
    assert_allclose(rank_correlation(x, y, "spearman"), scipy.stats.spearmanr(x, y).statistic, atol=1e-12)


def test_spearman_averages_ties():
    x, y = [1.0, 2.0, 2.0, 5.0, 7.0], [3.0, 1.0, 4.0, 4.0, 9.0]
    assert_allclose(rank_correlation(x, y, "spearman"), scipy.stats.spearmanr(x, y).statistic, rtol=1e-12)


def test_kendall_with_a_tie_by_hand():
    """Pairs (1,2) (1,3) (2,3): one tied, two concordant: 2/3 (tau-a, as documented)."""
    assert_allclose(rank_correlation([1.0, 2.0, 2.0], [1.0, 2.0, 3.0]), 2 / 3)


@pytest.mark.parametrize("kind", ["kendall", "spearman"])
def test_correlation_of_the_same_and_of_the_opposite_order(kind):
    x = np.array([5.0, 3.0, 2.0, 1.0])
    assert_allclose(rank_correlation(x, x**2, kind), 1)
    assert_allclose(rank_correlation(x, -x, kind), -1)


def test_correlation_errors():
    with pytest.raises(ValueError, match=r"vectors of one length of at least 2, got shapes \(1,\) and \(1,\)"):
        rank_correlation([1.0], [1.0])
    with pytest.raises(ValueError, match=r"got shapes \(2,\) and \(3,\)"):
        rank_correlation([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="kind must be 'kendall' or 'spearman', got 'pearson'"):
        rank_correlation([1.0, 2.0], [1.0, 2.0], "pearson")


@pytest.mark.parametrize("case", SINGLE, ids=str)
@pytest.mark.parametrize("size", [1e-2, 1e-7])
def test_angles_equal_scipy(case, size):
    """scipy.linalg.subspace_angles of the leading columns of the balancing transformation and of its inverse."""
    a = case.make(n=5)
    b = near(a, size)
    A, B = balred.balance(a), balred.balance(b)
    k = 2 if case.kind != "conjugate" else 4
    got = principal_angles(a, b, k)
    for mine, x, y in zip(got, (A.Tinv, A.T.conj().T), (B.Tinv, B.T.conj().T), strict=True):
        theirs = scipy.linalg.subspace_angles(x[:, :k], y[:, :k])[::-1]
        assert_allclose(mine, theirs, rtol=0, atol=1e-11)
        assert np.all(np.diff(mine) >= -1e-15)


@pytest.mark.parametrize("dt", [0, 1])
def test_what_is_compared_is_compared_in_one_set_of_coordinates(dt):
    """States in units of which each checkpoint alone would be solved in others: angles are those of the given ones."""
    t = np.array([1e-5, 1.0, 1e4, 1e-2, 1e3])
    first = balred.testing.random_system(5, dt=dt, seed=1)
    a, b = (balred.ss(t[:, None] * g.A / t, t[:, None] * g.B, g.C / t, g.D, dt) for g in (first, near(first, 1e-2)))
    b = balred.ss(b.A, b.B * np.logspace(0, 2, 5)[:, None], b.C, b.D, dt)
    A, B = balred.balance(a), balred.balance(b)
    for mine, x, y in zip(principal_angles(a, b, 2), (A.Tinv, A.T.T), (B.Tinv, B.T.T), strict=True):
        assert_allclose(mine, scipy.linalg.subspace_angles(x[:, :2], y[:, :2])[::-1], rtol=1e-6, atol=1e-9)
    one, other = first, near(first, 1e-2)
    assert_allclose(track([a, balred.ss(t[:, None] * other.A / t, t[:, None] * other.B, other.C / t, dt=dt)]),
                    track([one, other]), rtol=1e-7)  # fmt: skip
    # P^1/2 Q P^1/2 from Gramians that SciPy makes, in the given coordinates, of units for which matrix roots have digits
    roots, t = [], np.array([0.05, 1.0, 20.0, 0.5, 4.0])
    a, b = (balred.ss(t[:, None] * g.A / t, t[:, None] * g.B, g.C / t, dt=dt) for g in (one, other))
    for g in (a, b):
        P, Q = (scipy.linalg.sqrtm(x) for x in balred.gramians(g, solver="scipy"))
        roots.append(scipy.linalg.sqrtm(P @ Q @ Q @ P))
    assert_allclose(weyl_bound(a, b, "gramian"), np.linalg.norm(roots[0] - roots[1], 2), rtol=1e-4)


def test_angles_of_orthogonal_states():
    """Two decoupled states that swap: the dominant subspace turns by a right angle."""
    a, b = (balred.ss(-np.eye(2), np.diag(v), np.diag(v)) for v in ([2.0, 1.0], [1.0, 2.0]))
    for angles in principal_angles(a, b, 1):
        assert_allclose(angles, [np.pi / 2], atol=1e-12)


def test_angle_errors():
    a = balred.testing.random_system(4)
    with pytest.raises(ValueError, match="rank must be between 1 and 4, got 5"):
        principal_angles(a, a, 5)
    with pytest.raises(ValueError, match="checkpoints must have the same order, got 4 and 5"):
        principal_angles(a, balred.testing.random_system(5), 2)


@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([1e-4, 1e-2, 0.02]), row=st.sampled_from(SINGLE))
def test_weyl(seed, size, row):
    """No value moves by more than the Hankel norm of the difference, nor by the largest eigenvalue of H_a - H_b."""
    a = row.make(5, seed=seed)
    b = near(a, size, seed) if row.kind == "dense" else dataclasses.replace(a, B=(1 + size) * a.B)
    if (
        not (np.abs(np.linalg.eigvals(b.to_dense().A)) < 1).all()
        if b.discrete
        else np.linalg.eigvals(b.to_dense().A).real.max() >= 0
    ):
        return
    moved = np.abs(balred.hsv(a) - balred.hsv(b)).max()
    slack = 1e-9 * balred.hsv(a)[0]
    assert moved <= weyl_bound(a, b) + slack
    assert moved <= weyl_bound(a, b, "gramian") + slack


@pytest.mark.parametrize("kind", ["hankel", "gramian"])
def test_weyl_is_sharp_for_scaling(kind):
    """Twice the system: sigma_1 moves by sigma_1, which is the bound."""
    a = balred.testing.random_system(5, seed=2)
    r = 2**0.5
    b = dataclasses.replace(a, B=r * a.B, C=r * a.C)
    assert_allclose(weyl_bound(a, b, kind), balred.hsv(a)[0], rtol=1e-10)


def test_weyl_errors():
    a = balred.testing.random_system(3)
    with pytest.raises(ValueError, match="kind must be 'hankel' or 'gramian', got 'x'"):
        weyl_bound(a, a, "x")


def crossing(steps=9):
    """Two decoupled first-order modes -1, -2 with values going 3 -> 1 and 1 -> 3, crossing between checkpoints 4 and 5."""
    t = np.linspace(0, 1, steps + 1)
    first, second = 3 - 2 * t, 1 + 2 * t
    # sigma = |b c|/(2 a) with b = c
    b = [np.diag([np.sqrt(2 * x), np.sqrt(4 * y)]) for x, y in zip(first, second, strict=True)]
    return [balred.ss(np.diag([-1.0, -2.0]), x, x) for x in b], first, second


def test_track_follows_values_through_a_crossing():
    systems, first, second = crossing()
    spectra = np.array([balred.hsv(g) for g in systems])
    assert np.abs(spectra[-1] - spectra[0]).max() < 1e-12  # sorted values see nothing
    got = track(systems)
    assert_allclose(got[:, 0], first, atol=1e-12)
    assert_allclose(got[:, 1], second, atol=1e-12)
    # and the correlation of importance with the end turns from opposite to same there
    tau = [rank_correlation(row, got[-1]) for row in got]
    assert tau == [-1.0] * 5 + [1.0] * 5


@pytest.mark.parametrize("case", SINGLE, ids=str)
def test_track_of_a_still_system_is_its_spectrum(case):
    g = case.make(n=3)
    s = balred.hsv(g)
    assert_allclose(track([g, g, g]), [s, s, s], rtol=0, atol=1e-12 * s[0])


def test_track_follows_spectra_of_other_gramians():
    """Those of the systems themselves are followed as the systems are; scaled inputs change the order, as they do a system's."""
    systems, _, _ = crossing()
    factors = [balred.gramian_factors(g) for g in systems]
    own = [spectrum_of(g, *z) for g, z in zip(systems, factors, strict=True)]
    assert_allclose(track(own), track(systems), atol=1e-12)
    louder = np.diag([1.0, 10.0])  # the second input, which drives the second state alone
    data = [spectrum_of(g, louder @ Zp, Zq) for g, (Zp, Zq) in zip(systems, factors, strict=True)]
    scaled = [balred.ss(g.A, g.B @ louder, g.C) for g in systems]
    assert_allclose(track(data), track(scaled), atol=1e-11)


@pytest.mark.parametrize("backend", [Backend.TORCH, Backend.TORCH_GRAD, Backend.JAX], ids=lambda b: b.value)
def test_metrics_of_every_library(backend):
    pytest.importorskip(backend.library)
    systems, first, _ = crossing()
    lib = Library(backend, "float32")
    mine = [lib.system(g) for g in systems]
    assert_allclose(track(mine)[:, 0], first, atol=1e-6)
    assert_allclose(weyl_bound(mine[0], mine[1]), weyl_bound(systems[0], systems[1]), rtol=1e-5)
    assert_allclose(principal_angles(mine[0], mine[1], 1)[0], 0, atol=1e-6)


def test_rank_drift():
    """.9 of 12 is 10.8: three values; .9 of 9.1 is 8.19: two; .9 of 1: one."""
    assert rank_drift([[4.0, 4.0, 4.0], [8.0, 1.0, 0.1], [1.0, 0.0, 0.0]], balred.Energy(0.9)).tolist() == [3, 2, 1]


def test_tail_energy():
    assert tail_energy([6.0, 3.0, 1.0], 1) == pytest.approx(0.4)
    assert tail_energy([1.0, 6.0, 3.0], 1) == pytest.approx(0.4)  # in any order
    assert tail_energy([2.0, 1.0], 1, squared=True) == pytest.approx(0.2)
    assert tail_energy([2.0, 1.0], 2) == 0
    assert tail_energy([0.0, 0.0], 1) == 0


@pytest.mark.parametrize(
    ("choices", "want"),
    [
        ([5, 5, 5], 0),
        ([9, 5, 5, 5], 1),
        ([9, 7, 6, 5], 2),  # one state more or less does not count
        ([90, 40, 21, 20, 20], 2),
        ([100, 104, 96, 100], 0),  # within 5 %
        ([100, 106, 100, 100], 2),
        ([9, 5], None),  # still moving at the end: nothing can be said
        ([5, 5, 9], None),
        ([7], 0),
    ],
)
def test_settled(choices, want):
    assert settled(choices) == want


def test_settled_in_steps_and_with_a_tolerance():
    assert settled([50, 30, 20, 20], steps=[0, 10, 20, 30]) == 20
    assert settled([50, 30, 20, 20], steps=[0, 10, 20, 30], tolerance=0.5) == 10
    with pytest.raises(ValueError, match=r"choices must be a non-empty sequence, got shape \(0,\)"):
        settled([])
    with pytest.raises(ValueError, match="steps must be as many as choices, got 1 and 2"):
        settled([1, 2], steps=[1])


def test_trace_of_a_crossing():
    systems, first, second = crossing()
    steps = list(range(0, 1000, 100))
    t = trace(steps, systems, balred.Relative(0.9))
    assert t.steps.tolist() == steps
    s = np.sort([first, second], axis=0)[::-1]
    assert t.ranks.tolist() == [1 + int(b > 0.9 * a) for a, b in s.T]
    assert_allclose(t.change, np.abs(np.diff(s, axis=1)).max(axis=0), atol=1e-12)
    # decoupled modes: the Hankel norm of the difference is the larger of the two modes' own moves
    b1, b2 = np.sqrt(2 * first), np.sqrt(4 * second)
    want = np.maximum(np.abs(np.diff(b1**2)) / 2, np.abs(np.diff(b2**2)) / 4)
    assert_allclose(t.weyl, want, rtol=1e-9)
    assert np.all(t.change <= t.weyl + 1e-12)
    final = int(t.ranks[-1])
    assert_allclose(t.tail, s[final:].sum(axis=0) / s.sum(axis=0), atol=1e-12)
    assert_allclose(t.angle[[0, -1]], 0, atol=1e-7)
    assert_allclose(t.angle[4], np.pi / 2, atol=1e-7)  # the dominant state changes here
    assert t.kendall.tolist() == t.spearman.tolist() == [-1.0] * 5 + [1.0] * 5


def test_trace_errors():
    g = balred.testing.random_system(3)
    with pytest.raises(ValueError, match="steps and systems must be as many, at least 2, got 1 and 1"):
        trace([0], [g], balred.Energy(0.9))
