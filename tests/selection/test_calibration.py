"""What counts as calibration data, apart from any framework."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from balred.selection.calibration import batches

X, Y = np.ones(3), np.zeros(2)


@pytest.mark.parametrize(
    ("given", "calls"),
    [
        (X, [((X,), {})]),
        ({"x": X}, [((), {"x": X})]),
        ([X, Y], [((X,), {}), ((Y,), {})]),
        ([[X], (Y,)], [((X,), {}), ((Y,), {})]),
        (iter([{"x": X}, Y]), [((), {"x": X}), ((Y,), {})]),
    ],
)
def test_each_batch_is_a_call(given: Any, calls: Any) -> None:
    got = list(batches(given, (np.ndarray,)))
    assert len(got) == len(calls)
    for (args, kwargs), (want_args, want_kwargs) in zip(got, calls, strict=True):
        assert [id(x) for x in args] == [id(x) for x in want_args]
        assert kwargs == want_kwargs


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, r"an iterable of either, got 3"),
        ("text", r"an iterable of either, got 'text'"),
        ([X, 3], r"got a batch of type int"),
        ([[X, Y]], r"got a batch of 2 arrays, and it is not said which of them are inputs"),
        ([], r"at least one batch, got none"),
        (X[:0], r"at least one batch, got none, or empty ones"),
        ([X[None, :0], {"x": X[:0]}], r"at least one batch, got none, or empty ones"),
    ],
)
def test_anything_else_is_an_error(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(batches(given, (np.ndarray,)))
