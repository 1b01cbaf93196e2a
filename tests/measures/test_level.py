"""Frequencies of a level, told by modes: against the Hamiltonian, closed forms, and where modes tell nothing."""

from __future__ import annotations

import numpy as np
import pytest

import balred
from balred.measures.hinf import crossings_of_one, hinf_peak
from balred.measures.level import crossings_of_modes
from balred.measures.modes import told_of_modes


def _told(g: balred.DenseSystem, level: float) -> tuple[np.ndarray, bool]:
    poles, V = np.linalg.eig(g.A)
    b, c = np.linalg.solve(V, g.B), g.C @ V
    w = np.concatenate([np.abs(poles), np.abs(poles.imag), np.geomspace(1e-2, 1e2, 20)])
    G = np.stack([g(1j * x) for x in w])
    found, known = crossings_of_modes(poles, c.T[:, :, None] * b[:, None], g.D, np.array(level), w, G)
    return np.sort(found[~np.isnan(found)]), bool(known)


def _random(n: int, p: int, m: int, through: float, seed: int) -> balred.DenseSystem:
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, n))
    A -= (np.linalg.eigvals(A).real.max() + 0.3) * np.eye(n)
    B, C, D = (rng.standard_normal(shape) for shape in ((n, m), (p, n), (p, m)))
    return balred.ss(A, B, C, through * D)


@pytest.mark.parametrize("through", [0.0, 0.05])
@pytest.mark.parametrize(("p", "m"), [(1, 1), (1, 3), (3, 1), (2, 2), (2, 3), (3, 2)])
@pytest.mark.parametrize("n", [1, 2, 9, 24])
def test_the_crossings_are_those_of_the_hamiltonian(n: int, p: int, m: int, through: float) -> None:
    """The eigenvalues of the Hamiltonian are the other way to them [Boyd, Balakrishnan & Kabamba 1989]."""
    g = _random(n, p, m, through, n)
    level = 0.7 * hinf_peak(g)[0]
    found, known = _told(g, level)
    expected = crossings_of_one((*g.leaves, g.D), level, True)
    assert known
    assert len(found) == len(expected)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)
    for w in found:
        assert np.abs(np.linalg.svd(g(1j * w), compute_uv=False) / level - 1).min() < 1e-10


def test_a_first_order_lag_crosses_where_its_formula_says() -> None:
    """|k / (s + a)| = level at w = sqrt(k^2 / level^2 - a^2)."""
    found, known = _told(balred.ss([[-2.0]], [[6.0]], [[1.0]]), 1.2)
    assert known
    np.testing.assert_allclose(found, np.sqrt(25.0 - 4.0), rtol=1e-14)


def test_above_the_peak_there_is_none() -> None:
    g = _random(12, 2, 2, 0.0, 3)
    found, known = _told(g, 1.01 * hinf_peak(g)[0])
    assert known
    assert not len(found)


@pytest.mark.parametrize("apart", [0.0, 1e-12, 1e-7])
def test_of_poles_that_are_nearly_one_nothing_is_said_or_what_is_right(apart: float) -> None:
    """Two decoupled channels of nearly one pole: of a double pole there is no partial fraction of the determinant."""
    poles = np.array([-1.0, -1.0 - apart])
    found, known = _told(balred.ss(np.diag(poles), np.eye(2), np.eye(2)), 0.5)
    assert not known or np.allclose(found, 3**0.5, rtol=1e-5)


def test_poles_that_are_far_apart_are_left_to_the_hamiltonian() -> None:
    """Squares of rates 1e9 apart leave no digits: the comparison with the responses sees it."""
    rates = np.geomspace(1e-5, 1e4, 12)
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((12, 12)))[0]
    g = balred.ss(-Q @ np.diag(rates) @ Q.T, Q[:, :2], Q[:, :2].T)
    assert not _told(g, 0.5 * hinf_peak(g)[0])[1]


def test_norms_of_lightly_damped_systems_are_those_of_the_level_sets() -> None:
    """One by one and as a batch, against Bruinsma and Steinbuch's iteration on the Hamiltonian alone."""
    rng = np.random.default_rng(5)
    systems = []
    for _ in range(24):
        n, damping = 20, 10.0 ** -rng.uniform(0, 3)
        A = np.zeros((n, n))
        for i, w in zip(range(0, n, 2), 10.0 ** rng.uniform(-1, 1, n // 2), strict=True):
            A[i : i + 2, i : i + 2] = [[-damping * w, w], [-w, -damping * w]]
        Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
        systems.append((Q @ A @ Q.T, rng.standard_normal((n, 2)), rng.standard_normal((2, n))))
    batch = told_of_modes(balred.ss(*(np.stack(x) for x in zip(*systems, strict=True))))
    assert batch is not None
    seen = 0
    for i, abc in enumerate(systems):
        g = balred.ss(*abc)
        one, expected = told_of_modes(g), hinf_peak(g)[0]
        for told in (None if one is None else float(one[0]), float(batch[0][i])):
            if told is not None and np.isfinite(told):
                seen += 1
                assert abs(told / expected - 1) < 1e-9
    assert seen > 24
