"""Coordinates in which inputs reach one group of states after the other: square and orthonormal, whatever rounding does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from balred.solvers.equations import lyap
from balred.solvers.riccati import reached_first


@pytest.mark.parametrize("seed", range(40))
def test_coordinates_are_orthonormal(seed: int) -> None:
    """What the largest entries leave of the smallest ones by rounding is no direction of its own."""
    rng = np.random.default_rng(seed)
    A, B = rng.standard_normal((7, 7)) * 10.0 ** rng.uniform(-6, 6, (7, 1)), rng.standard_normal((7, 3))
    W = reached_first(A, B)
    assert W.shape == (7, 7)
    assert_allclose(W.T @ W, np.eye(7), atol=1e-13)


def test_there_are_no_more_directions_than_states(plant: Any) -> None:
    """Three directions were left for one state of the plant of SLICOT's examples, with these inputs: W had nine columns."""
    P = lyap(plant.A, plant.B @ plant.B.T)
    W = reached_first(plant.A, P @ plant.C.T)
    assert W.shape == (7, 7)
    assert_allclose(W.T @ W, np.eye(7), atol=1e-13)
