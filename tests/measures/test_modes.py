"""Peaks that are found among modes: those of the search that trusts no modes, and silence where rounding counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from tables import SINGLE, frequencies, gains

import balred
from balred.measures.hinf import hinf_peak
from balred.measures.modes import Modes, peak_of_modes


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 12),
    m=st.integers(1, 3),
    p=st.integers(1, 3),
    row=st.sampled_from(SINGLE),
)
def test_the_peak_is_that_of_the_search_without_modes(seed, n, m, p, row):
    g = row.make(n, m, p, seed).to_dense()
    found = peak_of_modes(g)
    if found is None:
        return
    assert_allclose(found[0], hinf_peak(g)[0], rtol=1e-9)
    assert found[0] >= gains(g, frequencies(g, 300)).max() * (1 - 1e-9)
    at = np.exp(1j * found[1]) if g.discrete else 1j * found[1]
    assert_allclose(np.linalg.norm(g(at), 2), found[0], rtol=1e-9)


def test_most_systems_need_no_other_search():
    """Of well-damped systems without pattern; else the test above would look at nothing."""
    found = [peak_of_modes(balred.testing.random_system(6, seed=seed)) for seed in range(20)]
    assert sum(one is not None for one in found) >= 15


@pytest.mark.parametrize("damping", [1e-2, 1e-9])
def test_nothing_is_said_where_rounding_counts(damping):
    """1/(s^2 + 2 z s + 1) peaks at 1/(2 z sqrt(1 - z^2)); rounding of an entry changes that by eps/z of itself."""
    g = balred.ss([[-damping, 1.0], [-1.0, -damping]], [[0.0], [1.0]], [[1.0, 0.0]])
    found = peak_of_modes(g)
    if damping < 1e-6:
        assert found is None
    else:
        assert found is not None  # poles -z +- i: w^2 = 1 - z^2 is the frequency, 1/(2 z) the gain there
        assert_allclose(found, [1 / (2 * damping), (1 - damping**2) ** 0.5], rtol=1e-9)


def test_nothing_is_said_of_unstable_systems_and_of_those_that_only_hand_on():
    assert peak_of_modes(balred.ss([[1e-3]], [[1.0]], [[1.0]])) is None
    assert peak_of_modes(balred.ss([[0.0]], [[1.0]], [[1.0]])) is None
    assert peak_of_modes(balred.ss([[-1.0]], [[1.0]], [[1e-3]], [[5.0]])) is None
    assert peak_of_modes(balred.ss([[-1.0]], [[1.0]], [[0.0]])) is None


def test_nothing_is_said_of_modes_that_are_nearly_the_same():
    """A Jordan block has one eigenvector, so the sum over its modes is a difference of large numbers."""
    g = balred.ss(-np.eye(3) + np.diag([1.0, 1.0], 1), [[0.0], [0.0], [1.0]], [[1.0, 0.0, 0.0]])
    assert peak_of_modes(g) is None
    assert_allclose(balred.norm(g, "hinf"), 1.0, rtol=1e-9)  # 1/(s + 1)^3 at zero


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (2, 2), (3, 2), (2, 3)])
def test_derivatives_are_those_of_differences(shape):
    """Central differences of the square of the largest singular value, whose errors are h^2 of the next derivative."""
    rng = np.random.default_rng(sum(shape))
    poles = np.concatenate([x := rng.standard_normal(3) * 1j - rng.uniform(0.5, 1, 3), x.conj()])
    B, C, D = (rng.standard_normal(s) + 0j for s in ((6, shape[1]), (shape[0], 6), shape))
    modes, w, h = Modes(poles, B, C, D), 0.7, 1e-4
    low, here, high = modes.gains(np.array([w - h, w, w + h]))[0] ** 2
    square, slope, bend = modes._derivatives(w)
    assert_allclose(square, here, rtol=1e-12)
    assert_allclose(slope, (high - low) / (2 * h), rtol=1e-6, atol=1e-6 * here)
    assert_allclose(bend, (high - 2 * here + low) / h**2, rtol=1e-4, atol=1e-4 * here)


def test_members_of_a_batch_are_told_one_by_one():
    several = [balred.testing.random_system(5, seed=seed) for seed in range(3)]
    leaves = [np.stack([getattr(g, name) for g in several]) for name in "ABCD"]
    values, where = balred.norm(balred.ss(*leaves), "hinf", peak=True)
    assert_allclose(values, [hinf_peak(g)[0] for g in several], rtol=1e-9)
    assert_allclose(where, [balred.norm(g, "hinf", peak=True)[1] for g in several], rtol=1e-9)
