"""Hankel singular values that are equal but for rounding of the entries: lossless systems in single precision."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from tables import skip_without

import balred
from balred.hankel.equal_values import Entries, _moved
from balred.hankel.spectrum import spectrum
from balred.measures.promises import RoundingWarning


def lossless(n: int, seed: int) -> tuple[np.ndarray, ...]:
    """A = S - B B^T/2 with S skew, C = -B^T, D = 1: G(-s) G(s) = 1 and both Gramians are the identity."""
    rng = np.random.default_rng(seed)
    S, B = 3 * rng.standard_normal((n, n)), rng.standard_normal((n, 1))
    T = rng.standard_normal((n, n))
    inverse = np.linalg.inv(T)
    return T @ (S - S.T - B @ B.T / 2) @ inverse, T @ B, -B.T @ inverse, np.eye(1)


@pytest.mark.parametrize("method", ["truncate", "square_root", "singular_perturbation"])
@pytest.mark.parametrize("seed", range(4))
def test_values_that_single_precision_leaves_equal_are_parted_alike(seed: int, method: str) -> None:
    """Given in float32 they differ by up to 1e-4; stable by more than its rounding, and within the bound (2 for each state cut)."""
    n = 4 + seed
    g = balred.ss(*(x.astype(np.float32) for x in lossless(n, seed)))
    exact = balred.ss(*(np.asarray(getattr(g, x), float) for x in "ABCD"))
    a = balred.analyze(g, method=method)
    for k in range(1, n):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", RoundingWarning)  # by how much the bound is missed is looked at here
            small = a.reduce(k)
        assert small.A.dtype == np.float32
        wide = balred.ss(*(np.asarray(getattr(small, x), float) for x in "ABCD"))
        assert balred.error(exact, wide) <= 2 * (n - k) + 1e-3


def test_rounding_of_the_entries_tells_how_far_equal_values_may_lie_apart() -> None:
    """By rounding the entries anew, of the same system in two sets of coordinates: the estimate is more, by less than a thousand."""
    A, B, C, _ = lossless(6, 0)
    eps, rng = 2.0**-23, np.random.default_rng(0)
    sp = spectrum(balred.ss(A, B, C), None)
    L, R = (sp.Zq @ sp.U).T / sp.s[:, None] ** 0.5, sp.Zp @ sp.V / sp.s**0.5
    L, R = sp.coordinates.after(L), sp.coordinates.before(R)
    given = Entries(A, B, C, L, R, eps, False)
    estimate = _moved(slice(0, 6), sp.s, L @ A @ R, given)
    moved = [
        np.abs(balred.hsv(balred.ss(*(x * (1 + eps / 2 * rng.uniform(-1, 1, x.shape)) for x in (A, B, C)))) - 1).max()
        for _ in range(20)
    ]
    assert max(moved) < estimate < 1000 * np.median(moved)


@skip_without("torch")
def test_of_a_batch_in_single_precision_each_member_is_parted_by_itself() -> None:
    import torch

    members = [[x.astype(np.float32) for x in lossless(5, seed)] for seed in range(3)]
    random = balred.testing.random_system(5, 1, 1, seed=0)
    members.append([np.asarray(getattr(random, x), np.float32) for x in "ABCD"])
    batch = balred.ss(*(torch.as_tensor(np.stack(x)) for x in zip(*members, strict=True)))
    made = balred.reduce(batch, 3)
    for i, member in enumerate(members):
        alone = balred.reduce(balred.ss(*member), 3)
        assert np.allclose(np.linalg.eigvals(np.asarray(made.A[i])), np.linalg.eigvals(alone.A), rtol=1e-4)
