"""Orders that part equal Hankel singular values: of what is lossless all values are equal, and users reduce it all the same."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.linalg
import scipy.signal
from tables import skip_without

import balred
from balred.hankel.spectrum import spectrum


def pade(order: int, delay: float) -> balred.DenseSystem:
    """exp(-s delay) by Padé, from its closed form: p(-s)/p(s), whose Hankel singular values are all one."""
    steps = np.arange(order)
    p = np.cumprod(np.concatenate([[1.0], (order - steps) / ((2 * order - steps) * (steps + 1))])) * delay ** np.arange(
        order + 1
    )
    return balred.ss(*scipy.signal.tf2ss((p * (-1.0) ** np.arange(order + 1))[::-1], p[::-1]))


def rates(*modes: tuple[float, float]) -> balred.DenseSystem:
    """Modes (frequency, damping) from forces to velocities, s/(s^2 + 2 d w s + w^2): of each both values are 1/(4 d w)."""
    A = scipy.linalg.block_diag(*([[0.0, 1.0], [-w * w, -2 * d * w]] for w, d in modes))
    B = np.kron(np.eye(len(modes)), [[0.0], [1.0]])
    return balred.ss(A, B, B.T)


def notch(width: float) -> balred.DenseSystem:
    """(s^2 + 1)/(s^2 + width s + 1) = 1 - width s/(...): twice the value 1/2."""
    return balred.ss(*scipy.signal.tf2ss([1.0, 0.0, 1.0], [1.0, width, 1.0]))


SYSTEMS = {
    **{f"pade {n}": (pade(n, delay), [1.0] * n) for n, delay in ((2, 1e-9), (3, 100.0), (6, 0.1), (9, 1e-3))},
    "rates": (rates((1.0, 1e-3), (3.0, 1e-2), (7.0, 0.05)), [250.0] * 2 + [25 / 3] * 2 + [5 / 7] * 2),
    "notch": (notch(1e-3), [0.5, 0.5]),
}


@pytest.mark.parametrize("method", ["truncate", "square_root", "singular_perturbation"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_equal_values_are_parted_between_stable_poles(name: str, method: str) -> None:
    """Stable without a warning, no pole faster than those given by more than balancing makes them, and within the bound."""
    g, values = SYSTEMS[name]
    a = balred.analyze(g, method=method)
    assert np.allclose(a.hsv, values, rtol=1e-9)
    fastest = np.abs(np.linalg.eigvals(g.A)).max()
    for k in range(1, g.order):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            small = a.reduce(k)
        poles = np.linalg.eigvals(small.A)
        assert (poles.real < 0).all()
        assert np.abs(poles).max() < 1e4 * fastest
        assert balred.error(g, small) <= a.bound(k) * (1 + 1e-9)


def test_poles_kept_of_a_lossless_system_are_its_own() -> None:
    """Truncated at a pair, whose block is whole, a delay keeps some of its poles, and the others are as stable."""
    g = pade(6, 1.0)
    own = np.linalg.eigvals(g.A)
    kept = [np.linalg.eigvals(balred.reduce(g, k).A) for k in (2, 4)]
    for poles in kept:
        assert np.abs(poles[:, None] - own).min(axis=1).max() < 1e-9


@skip_without("torch")
def test_of_other_libraries_and_in_batches() -> None:
    """Each member keeps a pair of its own poles, of which Padé's delays of order 4 have two; another member as it was."""
    import torch

    members = [pade(4, 1.0), balred.testing.random_system(4, 1, 1, seed=0), pade(4, 20.0)]
    batch = [np.stack([getattr(g, x) for g in members]) for x in "ABCD"]
    for made in (balred.reduce(balred.ss(*arrays), 2) for arrays in (batch, [torch.as_tensor(x) for x in batch])):
        A = np.asarray(made.A)
        for i in (0, 2):
            distance = np.abs(np.linalg.eigvals(A[i])[:, None] - np.linalg.eigvals(members[i].A)).min(axis=1)
            assert distance.max() < 1e-9
        assert np.allclose(A[1], balred.reduce(members[1], 2).A, rtol=1e-9)


def test_nothing_is_turned_where_values_differ() -> None:
    sp = spectrum(balred.testing.random_system(6, 2, 2, seed=0), None)
    U, _, Vh = np.linalg.svd(sp.Zq.T @ sp.Zp)
    assert np.allclose(np.abs(np.diag(U.T @ sp.U)), 1)
    assert np.allclose(np.abs(np.diag(Vh @ sp.V)), 1)
