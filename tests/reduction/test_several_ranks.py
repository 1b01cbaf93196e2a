"""Several ranks of one system, from one analysis; and the names that other libraries have for a method."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import balred
from balred.reduction import operators
from balred.testing import random_system


@pytest.mark.parametrize("ranks", [[2, 4, 8], (2, 4, 8), range(2, 9, 3), np.array([2, 4])])
def test_a_list_of_ranks_is_each_by_itself(ranks: Any) -> None:
    g = random_system(12, seed=3)
    small = balred.reduce(g, ranks, method="singular_perturbation")
    assert isinstance(small, list)
    for rank, one in zip(ranks, small, strict=True):
        alone = balred.reduce(g, int(rank), method="singular_perturbation")
        for a, b in zip((*one.leaves, one.D), (*alone.leaves, alone.D), strict=True):
            assert_array_equal(a, b)


def test_rules_and_numbers_mix_and_keep_their_order() -> None:
    g = random_system(12, seed=3)
    rule = balred.ErrorBound(0.1, relative=True)
    assert [r.states for r in balred.reduce(g, [8, rule, 2])] == [8, balred.reduce(g, rule).states, 2]
    assert balred.reduce(g, []) == []


def test_one_analysis(monkeypatch: pytest.MonkeyPatch) -> None:
    solved = []
    solve = operators.analyses
    monkeypatch.setattr(operators, "analyses", lambda *given: solved.append(given) or solve(*given))
    balred.reduce(random_system(12, seed=3), [2, 4, 8])
    assert len(solved) == 1


def test_the_type_and_the_place_of_a_layer_are_kept() -> None:
    g = balred.diagonal([-1.0 + 2.0j, -3.0 + 1.0j, -9.0 + 4.0j], np.ones((3, 1)), np.ones((1, 3)), conjugate=True)
    small = balred.reduce({"layer": g}, [1, 2])
    assert [type(one["layer"]) for one in small] == [balred.DiagonalSystem] * 2
    assert [one["layer"].states for one in small] == [1, 2]


def test_a_model_of_several_layers_takes_one_rank_at_a_time() -> None:
    model = [random_system(6, seed=1), random_system(6, seed=2)]
    with pytest.raises(ValueError, match=r"a list of ranks must go with one system .*, got a model with 2 layers"):
        balred.reduce(model, [2, 3])


def test_every_rank_is_checked_before_anything_is_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "analyses", None)
    with pytest.raises(ValueError, match="rank must be between 1 and 6, got 7"):
        balred.reduce(random_system(6, seed=1), [2, 7])


def test_matchdc_is_singular_perturbation() -> None:
    """python-control's name: in reduce, plan, analyze and Analysis.by."""
    g = random_system(8, seed=4)
    want = balred.reduce(g, 3, method="singular_perturbation")
    analysis = balred.analyze(g)
    made = [
        balred.reduce(g, 3, method="matchdc"),
        balred.plan(g, 3, method="matchdc").apply(),
        balred.analyze(g, method="matchdc").reduce(3),
        analysis.reduce(3, method="matchdc"),
    ]
    for one in made:
        assert_array_equal(one.D, want.D)
    assert analysis.by("matchdc") is analysis.by("singular_perturbation")
    assert balred.analyze(g, method="matchdc").settings.method == "singular_perturbation"
    with pytest.raises(ValueError, match=r"matchdc \(for singular_perturbation\), got 'match_dc'"):
        balred.reduce(g, 3, method="match_dc")
