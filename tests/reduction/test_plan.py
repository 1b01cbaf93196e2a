"""The plan: a table of what would be cut, and what applying it does."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import balred
from balred.reduction import SkippedWarning
from balred.testing import random_system


@pytest.fixture
def model() -> dict[str, Any]:
    return {"wide": random_system(10, seed=1), "narrow": random_system(3, seed=2), "rest": [random_system(8, seed=3)]}


def test_the_table_says_what_apply_does(model: dict[str, Any]) -> None:
    p = balred.plan(model, 4)
    assert [(r.layer, r.type, r.before, r.after) for r in p.rows] == [
        ("wide", "DenseSystem", 10, 4),
        ("narrow", "DenseSystem", 3, None),
        ("rest.0", "DenseSystem", 8, 4),
    ]
    assert "3 states" in p.rows[1].note
    with pytest.warns(SkippedWarning, match="narrow.*3 states"):
        small = p.apply()
    assert [small["wide"].states, small["narrow"].states, small["rest"][0].states] == [4, 3, 4]
    assert small["narrow"] is model["narrow"]
    assert [model["wide"].states, model["rest"][0].states] == [10, 8]


def test_bound_and_energy_are_those_of_the_spectrum(model: dict[str, Any]) -> None:
    row = balred.plan(model["wide"], 4).rows[0]
    s = balred.hsv(model["wide"])
    assert row.bound == pytest.approx(2 * s[4:].sum(), rel=1e-10)
    assert row.energy == pytest.approx(s[:4].sum() / s.sum(), rel=1e-10)
    assert float(balred.error(model["wide"], balred.reduce(model["wide"], 4))) <= row.bound


def test_reduce_is_plan_and_apply(model: dict[str, Any]) -> None:
    planned, direct = balred.plan(model["wide"], 4).apply(), balred.reduce(model["wide"], 4)
    for a, b in zip(planned.leaves, direct.leaves, strict=True):
        np.testing.assert_array_equal(a, b)


def test_repr_is_a_table_with_every_layer_and_note(model: dict[str, Any]) -> None:
    lines = repr(balred.plan(model, {"wide": 4, "rest.0": balred.Energy(0.9)})).splitlines()
    assert lines[0].split() == ["layer", "type", "from", "to", "bound", "energy"]
    assert len(lines) == 4
    assert lines[1].split()[:4] == ["wide", "DenseSystem", "10", "4"]
    assert lines[2].split()[:4] == ["narrow", "DenseSystem", "3", "-"]
    assert lines[2].endswith("not in ranks")


def test_a_dict_of_ints_and_rules(model: dict[str, Any]) -> None:
    p = balred.plan(model, {"wide": 5, "rest.0": balred.Energy(0.9)})
    assert [r.after for r in p.rows] == [5, None, balred.analyze(model["rest"][0]).rank(balred.Energy(0.9))]


def test_an_unknown_key_is_an_error_that_lists_the_layers(model: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"wide, narrow, rest\.0.*got wyde"):
        balred.plan(model, {"wyde": 4})


@pytest.mark.parametrize(
    ("rank", "given"), [(0, "0"), (-1, "-1"), (11, "11"), (2.5, r"2\.5"), ("4", "'4'"), (True, "True")]
)
def test_a_bad_rank_of_one_system_is_an_error(model: dict[str, Any], rank: Any, given: str) -> None:
    with pytest.raises(ValueError, match=f"rank must be.*got {given}"):
        balred.plan(model["wide"], rank)


@pytest.mark.parametrize("rank", [0, -1, 2.5, "4"])
def test_a_bad_rank_of_a_model_is_an_error_too(model: dict[str, Any], rank: Any) -> None:
    with pytest.raises(ValueError, match="rank must be"):
        balred.plan(model, rank)


def test_an_unknown_method_is_an_error(model: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"method must be one of truncate, .*singular_perturbation.*, got 'cut'"):
        balred.plan(model, 2, method="cut")


def test_a_layer_that_cannot_be_cut_is_skipped_with_its_reason(model: dict[str, Any]) -> None:
    dead = balred.ss(-np.eye(3), np.zeros((3, 1)), np.ones((1, 3)))
    p = balred.plan({**model, "dead": dead}, balred.Energy(0.9))
    assert p.rows[3].after is None
    assert "zero" in p.rows[3].note
    with pytest.warns(SkippedWarning, match="dead"):
        p.apply()


def test_a_single_layer_that_cannot_be_cut_is_an_error() -> None:
    dead = balred.ss(-np.eye(3), np.zeros((3, 1)), np.ones((1, 3)))
    with pytest.raises(ValueError, match="zero"):
        balred.plan(dead, balred.Energy(0.9))


def test_nothing_is_warned_of_when_nothing_is_skipped(model: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small = balred.plan(model, 2).apply()
    assert small["narrow"].states == 2


def test_the_warning_points_at_the_caller(model: dict[str, Any]) -> None:
    for call in (lambda: balred.reduce(model, 4), lambda: balred.plan(model, 4).apply()):
        with pytest.warns(SkippedWarning) as caught:
            call()
        assert caught[0].filename == __file__


def test_a_plan_may_be_applied_twice(model: dict[str, Any]) -> None:
    p = balred.plan(model, 2)
    first, second = p.apply(), p.apply()
    np.testing.assert_array_equal(first["wide"].A, second["wide"].A)


def test_ranks_without_the_only_layer_are_an_error() -> None:
    with pytest.raises(ValueError, match="rank must be an integer or a rule, got None"):
        balred.plan({"only": random_system(4, seed=1)}, {})


def test_fewer_states_than_asked_for_are_told():
    """Of an order one pole may be real and fill a state of its own: whether there are as many states as asked for is counted here."""
    fewer = 0
    for seed in (0, 1):
        rng = np.random.default_rng(seed)
        poles = np.sqrt(rng.uniform(0.25, 0.98, 32)) * np.exp(1j * rng.uniform(0, 0.4, 32))
        B, C = (rng.standard_normal((2, *shape)) for shape in ((32, 4), (4, 32)))
        g = balred.diagonal(poles, B[0] + 1j * B[1], C[0] + 1j * C[1], dt=True, conjugate=True)
        for rank in range(2, 12):
            found, told = balred.reduce(g, rank).states, str(balred.plan(g, rank))
            assert (f"{found} states instead of {rank}: real poles fill one each" in told) == (found < rank)
            fewer += found < rank
    assert fewer
