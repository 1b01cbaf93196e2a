"""Orders that part values which are nearly equal: lossless systems in single precision, or with a little beside them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.linalg
from tables import skip_without

import balred
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


@pytest.mark.filterwarnings("ignore::balred.BoundaryWarning")  # of the difference of the two, where it is measured
@pytest.mark.parametrize("method", ["truncate", "square_root", "singular_perturbation"])
@pytest.mark.parametrize("seed", range(4))
def test_nearly_equal_values_are_parted_as_equal_ones_are(seed: int, method: str) -> None:
    """A weak lag beside a lossless system moves its values by 1e-7 to 1e-4: within the bound, and stable, without a word."""
    A, B, C, D = lossless(5, seed)
    g = balred.ss(scipy.linalg.block_diag(A, -3.0), np.vstack([B, [[0.01]]]), np.hstack([C, [[0.01]]]), D)
    a = balred.analyze(g, method=method)
    for k in range(1, 6):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            small = a.reduce(k)
        assert balred.error(g, small) <= a.bound(k) + 1e-6 * a.hsv[0]


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
