"""Peaks that are found among modes: those of the search that trusts no modes, and silence where rounding counts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from tables import SINGLE, frequencies, gains

import balred
from balred.measures.hinf import hinf_peak
from balred.measures.modes import Modes, peak_of_modes
from balred.systems.dense_system import DenseSystem


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


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (2, 2), (3, 2), (3, 4)])
def test_the_top_is_where_finer_and_finer_grids_have_it(shape):
    """Of each of several systems together, and of one by itself; six grids, each a tenth of the one before about its largest."""
    rng = np.random.default_rng(sum(shape))
    poles = np.concatenate([x := rng.standard_normal(3) * 1j - rng.uniform(0.5, 1, 3), x.conj()])
    residues = rng.standard_normal((2, 6, shape[0] * shape[1])) + 0j
    modes, w, width = (
        Modes(np.stack([poles, 2 * poles]), residues, rng.standard_normal((2, *shape))),
        np.zeros((2, 1)),
        3.0,
    )
    for _ in range(6):
        grid = w + width * np.linspace(-1, 1, 201)
        values = modes.gains(grid)
        at = values.argmax(axis=1)
        w, width = grid[[0, 1], at][:, None], width / 10
    near = w[:, 0] + 1e-2
    best, where = modes.tops(near)
    assert_allclose(best, values.max(axis=1), rtol=1e-10)
    assert_allclose(where, w[:, 0], atol=1e-4)
    for i in range(2):
        assert_allclose(Modes(*(x[i] for x in modes)).top(near[i])[:2], (best[i], where[i]), rtol=1e-9)


def test_members_of_a_batch_are_told_one_by_one():
    """Each as by itself, among others that modes do not tell: a Jordan block, a static path, numbers of another size."""
    several = [balred.testing.random_system(5, seed=seed) for seed in range(3)]
    odd = dataclasses.replace(several[0], A=-np.eye(5) + np.eye(5, k=1))
    bare = dataclasses.replace(several[2], D=np.zeros((2, 2)))
    several += [odd, dataclasses.replace(bare, D=100 * np.ones((2, 2))), dataclasses.replace(bare, B=1e150 * bare.B)]
    leaves = [np.stack([getattr(g, name) for g in several]) for name in "ABCD"]
    values, where = balred.norm(balred.ss(*leaves), "hinf", peak=True)
    assert_allclose(values[:5], [hinf_peak(g)[0] for g in several[:5]], rtol=1e-9)
    assert_allclose(values[5], 1e150 * hinf_peak(bare)[0], rtol=1e-9)
    assert_allclose(where, [balred.norm(g, "hinf", peak=True)[1] for g in several], rtol=1e-9)


def test_a_batch_may_share_a_static_path():
    """D without leading axes counts for every member; a batch of several axes keeps them."""
    several = [balred.testing.random_system(4, seed=seed) for seed in range(6)]
    A, B, C = (np.stack([getattr(g, name) for g in several]) for name in "ABC")
    A, B, C = (x.reshape(2, 3, *x.shape[1:]) for x in (A, B, C))
    values = balred.norm(DenseSystem(A, B, C, several[0].D), "hinf")
    want = [hinf_peak(dataclasses.replace(g, D=several[0].D))[0] for g in several]
    assert_allclose(values, np.reshape(want, (2, 3)), rtol=1e-9)
