"""A budget of states for a whole model: the ranks are those of the least total error, and bad budgets say so."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import balred
from balred.ranks.budget import tail
from balred.testing import random_system


@pytest.fixture
def model() -> dict[str, Any]:
    return {"wide": random_system(12, seed=1), "narrow": random_system(5, seed=2), "rest": [random_system(8, seed=3)]}


def _error(systems: list[Any], ranks: tuple[int, ...], relative: bool) -> float:
    """The sum of squared tails, from the Hankel singular values themselves."""
    values = [np.asarray(balred.hsv(s)) for s in systems]
    if relative:
        values = [s / s.sum() for s in values]
    return float(sum(s[r:].sum() ** 2 for s, r in zip(values, ranks, strict=True)))


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("states", [3, 7, 12, 20])
def test_no_other_ranks_of_the_same_total_have_less_error(model: dict[str, Any], states: int, relative: bool) -> None:
    systems = [model["wide"], model["narrow"], model["rest"][0]]
    ranks = tuple(r.after for r in balred.plan(model, balred.Budget(states=states, relative=relative)).rows)
    assert sum(ranks) == states
    every = (r for r in itertools.product(*(range(1, s.states + 1) for s in systems)) if sum(r) == states)
    assert _error(systems, ranks, relative) == pytest.approx(min(_error(systems, r, relative) for r in every), rel=1e-9)


@given(
    values=st.lists(st.lists(st.floats(0.01, 10), min_size=1, max_size=5), min_size=1, max_size=3),
    states=st.integers(3, 15),
    multiple=st.integers(1, 3),
)
def test_ranks_keep_to_budget_sizes_and_multiples(values: list[list[float]], states: int, multiple: int) -> None:
    tails = {str(i): tail(sorted(v, reverse=True)) for i, v in enumerate(values)}
    budget = balred.Budget(states=states, multiple_of=multiple)
    least = sum(min(multiple, len(v)) for v in values)
    if states < least:
        with pytest.raises(ValueError, match=rf"{least} with a multiple of {multiple}.*got {states} of"):
            budget.shared(tails)
        return
    ranks = budget.shared(tails)
    assert sum(ranks.values()) <= states
    for name, rank in ranks.items():
        size = len(tails[name]) - 1
        assert 1 <= rank <= size
        assert rank % multiple == 0 or rank == size


def test_tied_layers_keep_one_rank() -> None:
    tails = {"a": tail([8.0, 0.1, 0.1, 0.1]), "b": tail([1.0, 1.0, 1.0, 1.0]), "c": tail([1.0, 0.5, 0.1])}
    ranks = balred.Budget(states=7).shared(tails, [["a", "b"]])
    assert ranks["a"] == ranks["b"]
    assert sum(ranks.values()) <= 7
    short = balred.Budget(states=10).shared({"a": tail([1.0] * 8), "b": tail([1.0, 1.0])}, [["a", "b"]])
    assert short == {"a": 8, "b": 2}


def test_a_fraction_is_of_the_states_there_are(model: dict[str, Any]) -> None:
    small = balred.reduce(model, balred.Budget(fraction=0.4))
    assert small["wide"].states + small["narrow"].states + small["rest"][0].states == 10  # of 25
    assert balred.reduce(model["wide"], balred.Budget(fraction=0.5)).states == 6


def test_relative_errors_do_not_see_the_scale_of_a_layer(model: dict[str, Any]) -> None:
    budget = balred.Budget(states=9, relative=True)
    before = [r.after for r in balred.plan(model, budget).rows]
    w = model["wide"]
    loud = {**model, "wide": balred.ss(w.A, 1e3 * w.B, w.C, w.D)}
    assert [r.after for r in balred.plan(loud, budget).rows] == before
    assert [r.after for r in balred.plan(loud, balred.Budget(states=9)).rows] == [7, 1, 1]


def test_a_budget_for_more_than_there_is_keeps_all(model: dict[str, Any]) -> None:
    assert [r.after for r in balred.plan(model, balred.Budget(states=100)).rows] == [12, 5, 8]


def test_unstable_modes_stay_and_layers_that_cannot_be_cut_do_not_count() -> None:
    stable = random_system(6, seed=1)
    A = np.diag([0.5, -1.0, -2.0, -3.0])
    half = balred.ss(A, np.ones((4, 1)), np.ones((1, 4)))
    gain = balred.ss(np.diag([-1.0, -2.0]), np.zeros((2, 1)), np.ones((1, 2)))  # inputs do not reach it
    p = balred.plan([stable, half, gain], balred.Budget(states=5))
    assert p.rows[1].after is not None
    assert p.rows[1].after >= 2
    assert p.rows[2].after is None
    assert "nonzero Hankel singular value" in p.rows[2].note
    assert (p.rows[0].after or 0) + p.rows[1].after == 5
    with pytest.raises(ValueError, match=r"\(3 with a multiple of 1 and unstable modes\), got 2 of 10"):
        balred.plan([stable, half], balred.Budget(states=2))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "states or as a fraction, got states=None"),
        ({"states": 3, "fraction": 0.5}, "got states=3, fraction=0.5"),
        ({"states": 0}, "states must be a positive integer, got 0"),
        ({"states": True}, "states must be a positive integer, got True"),
        ({"fraction": 0.0}, r"fraction must be in \(0, 1\], got 0.0"),
        ({"fraction": "half"}, "fraction must be in"),
        ({"states": 3, "multiple_of": 0}, "multiple_of must be a positive integer, got 0"),
    ],
)
def test_bad_budgets(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        balred.Budget(**given)


def test_a_budget_is_not_for_one_layer(model: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="shared by all layers of a model, got one for wide"):
        balred.plan(model, {"wide": balred.Budget(states=3)})
    with pytest.raises(TypeError, match="rank rule"):
        balred.analyze(model["wide"]).rank(balred.Budget(states=3))


def test_channels_of_a_layer_share_a_rank_by_their_sum() -> None:
    rng = np.random.default_rng(0)
    channels = balred.diagonal(-rng.uniform(0.1, 5, (4, 6)), rng.normal(size=(4, 6, 1)), rng.normal(size=(4, 1, 6)))
    other = random_system(6, seed=5)
    sigma = np.asarray(balred.hsv(channels)), np.asarray(balred.hsv(other))[None]
    ranks = tuple(r.after for r in balred.plan([channels, other], balred.Budget(states=6)).rows)
    errors = {a: sum((s[:, r:].sum(1) ** 2).sum() for s, r in zip(sigma, (a, 6 - a), strict=True)) for a in range(1, 6)}
    assert ranks[0] == min(errors, key=errors.__getitem__)
