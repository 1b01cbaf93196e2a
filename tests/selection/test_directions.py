"""Random directions: the same for a sequence however sequences are put together, another for each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from balred.selection.directions import DRAWS, SCALARS, Directions

RNG = np.random.default_rng(0)
U, Z = RNG.standard_normal((6, 4, 3)), RNG.standard_normal((6, 5, 2))


def drawn(scalar: str, *parts: Any, seed: int = 0) -> Any:
    """Of several batches, each its inputs and predictions, all draws, (draws, sequences, ...)."""
    directions = Directions(scalar, seed)
    return np.concatenate([np.stack(list(directions.of(z, [u]))) for u, z in parts], axis=1)


@pytest.mark.parametrize("scalar", SCALARS)
def test_batches_do_not_matter(scalar: str) -> None:
    whole = drawn(scalar, (U, Z))
    assert whole.shape == (DRAWS, *Z.shape)
    np.testing.assert_array_equal(drawn(scalar, (U[:1], Z[:1]), (U[1:], Z[1:])), whole)
    backwards = drawn(scalar, (U[::-1], Z[::-1]))
    np.testing.assert_array_equal(backwards[:, ::-1], whole)


def test_predictions_behind_each_other_are_those_of_their_sequences() -> None:
    """Some models flatten sequences and positions to one axis."""
    np.testing.assert_array_equal(
        drawn("outputs", (U, Z.reshape(30, 2))).reshape(DRAWS, *Z.shape), drawn("outputs", (U, Z))
    )


def test_every_sequence_draw_and_seed_has_another_one_also_where_a_sequence_comes_again() -> None:
    again = drawn("outputs", (U[:2], Z[:2]), (U[[0, 0]], Z[[0, 0]]))
    other = drawn("outputs", (U[:2], Z[:2]), seed=1)
    several = [*again.reshape(-1, 10), *other.reshape(-1, 10)]
    correlations = np.abs(np.corrcoef(several) - np.eye(len(several)))
    assert correlations.max() < 0.95  # the same one would give 1
    assert len({one.tobytes() for one in several}) == len(several)


def test_they_are_standard_normal_and_independent() -> None:
    W = drawn("outputs", (np.zeros((4000, 1)), np.zeros((4000, 3))))[0]  # one sequence 4000 times
    assert abs(W.mean()) < 4 / 12000**0.5
    np.testing.assert_allclose(np.cov(W.T), np.eye(3), atol=4 * (2 / 4000) ** 0.5)


def test_what_has_no_share_for_each_sequence_is_drawn_as_a_whole() -> None:
    W = drawn("outputs", (U, Z[:5]))
    assert W.shape == (DRAWS, 5, *Z.shape[1:])
    assert len(np.unique(W)) == W.size
