"""Stacks of layers: cut member by member to one rank, the largest that a member needs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import balred
from balred.adapters.parameters import carry_lru, lru_of, s5_of
from balred.layers.lru_carry import lru_carry_split
from balred.layers.recurrence import lru_initial
from balred.registry.sizes import to_shapes
from balred.systems.batches import member

RULE = balred.Energy(0.9)


def lru(seed: int, states: int = 12) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    slow = 0.3 + 0.1 * seed  # so that members need different ranks
    return lru_initial(3, states, slow, 0.95, 3.0, rng.random, lambda *shape: rng.standard_normal(shape))


def behind(members: list[dict[str, Any]], axes: tuple[int, ...]) -> dict[str, Any]:
    return {k: np.stack([one[k] for one in members]).reshape(*axes, *members[0][k].shape) for k in members[0]}


@pytest.mark.parametrize("axes", [(4,), (2, 2), (4, 1)])
def test_each_member_is_cut_as_by_itself_to_the_largest_rank_needed(axes: tuple[int, ...]) -> None:
    members = [lru(seed) for seed in range(4)]
    needed = [balred.analyze(one).rank(RULE) for one in members]
    assert len(set(needed)) > 1
    small = balred.reduce(behind(members, axes), RULE)
    assert small["nu_log"].shape == (*axes, max(needed))
    for i, one in enumerate(members):
        want = balred.reduce(one, max(needed))
        for name, value in want.items():
            np.testing.assert_allclose(small[name].reshape(4, *value.shape)[i], value, rtol=1e-7, atol=1e-9)


def test_the_whole_is_found_again_at_full_rank() -> None:
    stack = behind([lru(seed) for seed in range(3)], (3,))
    new, old = lru_of(balred.reduce(stack, 12))[0], lru_of(stack)[0]
    np.testing.assert_allclose(new.log_poles, old.log_poles, rtol=1e-12)
    # the scale of a state is free between B and C
    residues = [np.einsum("kpn,knm->knpm", g.C, g.B) for g in (new, old)]
    np.testing.assert_allclose(*residues, rtol=1e-12, atol=1e-13)


def test_a_stack_is_a_layer_of_a_model_and_has_its_share_of_a_budget() -> None:
    model = {"blocks": {"lru": behind([lru(1), lru(2)], (2,))}, "last": lru(3)}
    rows = {row.layer: row for row in balred.plan(model, balred.Budget(states=10)).rows}
    assert rows["blocks.lru"].after + rows["last"].after == 10
    small = balred.plan(model, balred.Budget(states=10)).apply()
    assert small["blocks"]["lru"]["C_re"].shape == (2, 3, rows["blocks.lru"].after)
    shapes = {f"blocks.lru.{k}": v.shape for k, v in small["blocks"]["lru"].items()}
    shapes |= {f"last.{k}": v.shape for k, v in small["last"].items()}
    sized = to_shapes(model, shapes)
    assert {k: v.shape for k, v in sized["blocks"]["lru"].items()} == {
        k: v.shape for k, v in small["blocks"]["lru"].items()
    }


@pytest.mark.parametrize("power", [1, 2])
def test_moments_are_carried_member_by_member(power: int) -> None:
    members = [lru(seed) for seed in range(3)]
    stack = behind(members, (3,))
    a = balred.analyze(stack)
    new, change = a.reduce(5), a.reduction(5).change
    rng = np.random.default_rng(0)
    moments = {k: rng.random(v.shape) for k, v in stack.items()}
    carried = carry_lru(stack, new, moments, change, power)
    for i in range(3):
        mine = [{k: v[i] for k, v in one.items()} for one in (stack, new, moments)]
        for name, value in lru_carry_split(*mine, member(change, i), power).items():
            np.testing.assert_array_equal(carried[name][i], value)


def s5(seed: int, states: int = 8) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "Lambda_re": -rng.uniform(0.3, 1.0, states), "Lambda_im": 8 * rng.normal(size=states), "D": rng.normal(size=3),
        "B": rng.normal(size=(states, 3, 2)), "C": rng.normal(size=(3, states, 2)),
        "log_step": rng.uniform(-3.5, -1.5, (states, 1)),
    }  # fmt: skip


SETTINGS = SimpleNamespace(conj_sym=True, discretization="zoh", clip_eigs=False, step_rescale=1.0)


def test_a_stack_of_s5_layers_is_its_members() -> None:
    members = [s5(seed) for seed in range(3)]
    system, write = s5_of(behind(members, (3,)), SETTINGS)
    a = balred.analyze(system)
    small = write(a.reduction(5).system)
    for i, one in enumerate(members):
        alone, back = s5_of(one, SETTINGS)
        want = back(balred.reduce(alone, 5))
        for name, value in want.items():
            np.testing.assert_allclose(small[name][i], value, rtol=1e-6, atol=1e-9)


# ------------------------------------------------------------------------------------------------ what is refused by name


def refusals(model: Any) -> dict[str, str]:
    return {row.layer: row.note for row in balred.plan(model, 4).rows if row.after is None}


def test_layers_behind_each_other_along_other_axes_are_named() -> None:
    stack = {k: np.moveaxis(v, 0, -1) for k, v in behind([lru(0), lru(1)], (2,)).items()}
    with pytest.warns(balred.reduction.SkippedWarning, match="last .*first axes of all their parameters"):
        small = balred.reduce({"one": lru(2), "last": stack}, 4)
    assert small["one"]["nu_log"].shape == (4,)
    assert refusals({"one": lru(2), "last": stack})["last"].endswith("theta_log (12, 2)")


@pytest.mark.parametrize("axes", [(), (2,)])
def test_s5_parameters_without_settings_are_named(axes: tuple[int, ...]) -> None:
    tree = behind([s5(0), s5(1)], (2,)) if axes else s5(0)
    assert "conj_sym, discretization" in refusals({"one": lru(2), "ssm": tree})["ssm"]


def test_oscillators_behind_each_other_are_named() -> None:
    tree = {"A_diag": (4,), "steps": (4,), "B": (4, 3, 2), "C": (3, 4, 2), "D": (3,)}
    assert "discretization" in refusals({"one": lru(2), "x": {k: np.ones((2, *s)) for k, s in tree.items()}})["x"]
