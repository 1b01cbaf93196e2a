"""The divergence rule: what it measures, against plain formulas, and the search, which trusts nothing but what it tried."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balred.ranks.divergence import Divergence, least


@given(st.sets(st.integers(1, 60)))
def test_what_is_found_holds_and_where_all_larger_ones_hold_it_is_the_least(good: set[int]) -> None:
    tried = []
    found = least(lambda k: (tried.append(k), k in good)[1], 1, 60)
    assert found is None or found in good
    assert len(tried) == len(set(tried))
    if good == set(range(min(good, default=61), 61)):
        assert found == min(good, default=None)


def test_padding_is_left_out_of_a_divergence() -> None:
    rng = np.random.default_rng(0)
    full, small = rng.standard_normal((2, 6, 5, 4))
    mask = np.arange(5) < np.array([[5], [3], [1], [5], [2], [4]])
    p, q = (np.exp(z) / np.exp(z).sum(-1, keepdims=True) for z in (full, small))
    kl = (p * np.log(p / q)).sum(-1)
    measured = Divergence(1.0).measure([(full[:4], small[:4], mask[:4]), (full[4:], small[4:], mask[4:])])
    assert measured.sequences == 6
    np.testing.assert_allclose(measured.value, kl[mask].mean(), rtol=1e-12)
    relative = Divergence(1.0, of="values").measure([(full, small, mask)])
    np.testing.assert_allclose(relative.value, ((full - small)[mask] ** 2).sum() / (full[mask] ** 2).sum(), rtol=1e-12)


def test_what_cannot_be_meant_is_refused() -> None:
    for tolerance in (0, -1.0, np.inf, True, "0.1"):
        with pytest.raises(ValueError, match="tolerance must be a positive number"):
            Divergence(tolerance)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="of must be logits, values or a function"):
        Divergence(0.1, of="loss")
    one = np.zeros((3, 1))
    with pytest.raises(ValueError, match="logits must have at least two classes"):
        Divergence(0.1).measure([(one, one, None)])
    with pytest.raises(ValueError, match="a number for each of 3 sequences, got 1"):
        Divergence(0.1, of=lambda a, b: 0.0).measure([(one, one, None)])
    assert not Divergence(0.1).holds(Divergence(0.1, of=lambda a, b: [np.nan] * 3).measure([(one, one, None)]))
