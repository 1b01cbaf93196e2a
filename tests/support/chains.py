"""Chains of masses, springs and dampers: second-order systems of which much is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse

import balred


def chain(
    n: int,
    *,
    seed: int | None = None,
    proportional: bool = True,
    sparse: bool = False,
    free: bool = False,
    outputs: str = "p",
) -> balred.SecondOrderSystem:
    """Masses between two walls (`free`: between none); with a `seed` of random masses, springs and dampers."""
    rng = np.random.default_rng(seed)

    def draw(size: int) -> Any:
        return np.ones(size) if seed is None else rng.uniform(0.5, 2.0, size)

    def ladder(k: Any) -> Any:
        if free:
            k = np.concatenate([[0.0], k[1:-1], [0.0]])
        return scipy.sparse.diags([-k[1:-1], k[:-1] + k[1:], -k[1:-1]], [-1, 0, 1])

    M, K = scipy.sparse.diags([draw(n)], [0]), ladder(draw(n + 1))
    D = 0.02 * M + 0.05 * K if proportional else 0.1 * ladder(draw(n + 1)) + 0.01 * M
    B = np.zeros((n, 2))
    B[0, 0] = B[n // 2, 1] = 1
    C = np.zeros((1, n))
    C[0, n - 1] = 1
    if not sparse:
        M, D, K = M.toarray(), D.toarray(), K.toarray()
    return balred.second_order(M, D, K, B, C if "p" in outputs else None, C if "v" in outputs else None)
