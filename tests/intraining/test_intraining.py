"""The policy of in-training truncation: pure, so every step of it can be asked for."""

from __future__ import annotations

import copy
import math
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import balred
from balred.intraining import Guard, Policy, PolicyState, Report
from balred.intraining.decide import decide
from balred.intraining.exchange import together
from balred.testing import random_system

RULE = balred.Energy(0.9)


# ------------------------------------------------------------------------------------------------ when


@pytest.mark.parametrize(
    ("window", "attempts", "steps"),
    [
        ((0, 4000), 4, (1000, 2000, 3000, 4000)),
        ((0, 4000), None, (1000, 2000, 3000, 4000)),
        ((100, 300), 2, (200, 300)),
        ((0, 10), 3, (4, 7, 10)),  # ceil(10/3), ceil(20/3), 10
        ((0, 3), None, (1, 2, 3)),  # no room for the default of four
        ((7, 8), 1, (8,)),
    ],
)
def test_attempts_are_equidistant_and_end_with_the_window(
    window: tuple[int, int], attempts: int | None, steps: tuple[int, ...]
) -> None:
    assert Policy(RULE, window, attempts).steps == steps


@pytest.mark.parametrize(("window", "attempts"), [((0, 1000), 7), ((13, 997), 10), ((0, 5), 5), ((3, 104), 100)])
def test_attempts_are_as_many_as_asked_and_evenly_spread(window: tuple[int, int], attempts: int) -> None:
    steps = Policy(RULE, window, attempts).steps
    gaps = np.diff([window[0], *steps])
    assert len(steps) == attempts == len(set(steps))
    assert steps[-1] == window[1]
    # equidistant up to rounding to whole steps: no two gaps differ by more than one
    assert gaps.max() - gaps.min() <= 1


def test_interval() -> None:
    assert Policy(RULE, (0, 100), interval=30).steps == (30, 60, 90)
    assert Policy(RULE, (50, 110), interval=30).steps == (80, 110)


def test_due_at_its_steps_and_no_others_and_never_once_stopped() -> None:
    policy = Policy(RULE, (2, 20), 3)
    state = policy.init()
    assert tuple(s for s in range(40) if policy.due(state, s)) == policy.steps
    assert not any(policy.due(policy.stop(state), s) for s in range(40))


def test_last_step_includes_the_judgement() -> None:
    assert Policy(RULE, (0, 20), 2).last == 20
    assert Policy(RULE, (0, 20), 2, guard=Guard(lambda m: 0.0, 0.1, delay=5)).last == 25


# ------------------------------------------------------------------------------------------------ what


def test_a_layer_is_cut_only_below_95_percent_of_its_rank() -> None:
    policy = Policy(RULE, (0, 10))
    ranks = {"at": (100, 95), "above": (100, 96), "below": (100, 94), "same": (10, 10), "more": (10, 12)}
    cuts, _ = policy.update(policy.init(), 3, ranks)
    assert cuts == {"at": 95, "below": 94}


def test_min_cut_zero_still_needs_a_smaller_rank() -> None:
    policy = Policy(RULE, (0, 10), min_cut=0)
    assert policy.update(policy.init(), 3, {"a": (10, 10), "b": (10, 9)})[0] == {"b": 9}


@pytest.mark.parametrize("present", range(1, 60))
def test_min_cut_is_not_at_the_mercy_of_rounding(present: int) -> None:
    # with min_cut = 1/10 and present = 10 k the largest rank allowed is exactly 9 k
    policy = Policy(RULE, (0, 10), min_cut=0.1)
    cuts, _ = policy.update(policy.init(), 3, {"a": (10 * present, 9 * present)})
    assert cuts == {"a": 9 * present}


def test_update_leaves_its_input_alone_and_is_a_function() -> None:
    policy = Policy(RULE, (0, 10), settled=2)
    state = policy.init()
    _, state = policy.update(state, 3, {"a": (100, 50)})
    kept, ranks = copy.deepcopy(state), {"a": (100, 51)}
    first = policy.update(state, 6, ranks)
    assert state == kept
    assert ranks == {"a": (100, 51)}
    assert policy.update(state, 6, ranks) == first
    assert first[1].step == 6
    assert first[1].choices["a"] == (50, 51)
    assert policy.stop(state).stopped
    assert not state.stopped


def test_settled_waits_for_choices_that_stay() -> None:
    policy = Policy(RULE, (0, 60), 6, settled=3)
    state, cut_at = policy.init(), []
    for step, chosen in zip(policy.steps, (80, 60, 50, 49, 51, 50), strict=True):
        cuts, state = policy.update(state, step, {"a": (100, chosen)})
        cut_at += [step] * bool(cuts)
    # 60, 50, 49 spread over 11; 50, 49, 51 lie within 5 % of each other for the first time at the fifth attempt
    assert cut_at == [50, 60]


@pytest.mark.parametrize("attempts", [2, 3, 8])
@pytest.mark.parametrize(("states", "chosen"), [(128, 24), (92, 28), (40, 39), (10, 1)])
def test_gradual_cuts_leave_cubically_less_and_end_at_the_choice(attempts: int, states: int, chosen: int) -> None:
    policy = Policy(balred.Order(chosen), (0, 100), attempts, min_cut=0, gradual=True)
    rank, ranks = states, []
    for step in policy.steps:
        cuts, _ = policy.update(policy.init(), step, {"a": (rank, chosen)})
        rank = cuts.get("a", rank)
        ranks.append(rank)
    assert ranks[-1] == chosen
    # Zhu and Gupta (2017), equation 1: what is left of the states to be cut; each rounding up adds less than one state
    for i, found in enumerate(ranks, start=1):
        exact = chosen + (states - chosen) * (1 - i / attempts) ** 3
        assert exact - 1e-9 <= found < exact + i


def test_gradual_cuts_are_multiples_and_follow_a_choice_that_moves() -> None:
    policy = Policy(balred.Order(24, multiple_of=8), (0, 4), 4, min_cut=0, gradual=True)
    assert [policy.next_rank(step, 128, 24) for step in policy.steps] == [72, 56, 40, 24]
    assert policy.next_rank(1, 16, 24) == 24  # no cut at all
    assert policy.next_rank(1, 30, 24) == 30  # no more than there are
    # one that was missed is made up for by the last
    assert policy.update(policy.init(), 4, {"a": (128, 40)})[0] == {"a": 40}
    at_once = Policy(balred.Order(24), (0, 4), 4)
    assert [at_once.next_rank(step, 128, 24) for step in at_once.steps] == [24] * 4


def test_gradual_cuts_are_those_that_the_layers_get() -> None:
    layers: dict[str, Any] = {"a": random_system(30, 1, 1, seed=1), "b": random_system(20, 1, 1, seed=2)}
    policy = Policy(balred.Order(4), (0, 3), 3, min_cut=0, gradual=True)
    state = policy.init()
    for step, wanted in zip(policy.steps, ({"a": 12, "b": 9}, {"a": 5, "b": 5}, {"a": 4, "b": 4}), strict=True):
        cuts, state, report = decide(policy, state, step, layers)
        layers |= {name: cut.layer for name, cut in cuts.items()}
        assert {c.layer: c.after for c in report.cuts} == {name: g.states for name, g in layers.items()} == wanted


def test_settled_allows_one_state_in_small_layers() -> None:
    policy = Policy(RULE, (0, 60), 6, settled=2)
    _, state = policy.update(policy.init(), 10, {"a": (10, 4)})
    assert policy.update(state, 20, {"a": (10, 5)})[0] == {"a": 5}
    assert policy.update(state, 20, {"a": (10, 6)})[0] == {}


def test_settled_is_judged_layer_by_layer() -> None:
    policy = Policy(RULE, (0, 60), 6, settled=2)
    _, state = policy.update(policy.init(), 10, {"a": (100, 40), "b": (100, 80)})
    assert policy.update(state, 20, {"a": (100, 40), "b": (100, 40)})[0] == {"a": 40}


def test_a_training_resumes_from_the_state() -> None:
    policy = Policy(RULE, (0, 60), 6, settled=2)
    _, state = policy.update(policy.init(), 10, {"a": (100, 40)})
    resumed: PolicyState = pickle.loads(pickle.dumps(state))
    assert resumed == state
    assert Policy(RULE, (0, 60), 6, settled=2).update(resumed, 20, {"a": (100, 41)})[0] == {"a": 41}


# ------------------------------------------------------------------------------------------------ the guard


def test_guard_accepts_within_the_tolerance() -> None:
    guard = Guard(lambda m: 0.0, tolerance=0.5)
    assert guard.accepts(3.0, 2.5)
    assert guard.accepts(3.0, 4.0)
    assert not guard.accepts(3.0, 2.0)
    lower = Guard(lambda m: 0.0, tolerance=0.5, higher_is_better=False)
    assert lower.accepts(3.0, 3.5)
    assert not lower.accepts(3.0, 4.0)


def test_guard_never_accepts_nan() -> None:
    guard = Guard(lambda m: 0.0, tolerance=math.inf)
    assert not guard.accepts(1.0, math.nan)


# ------------------------------------------------------------------------------------------------ bad arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": (5, 5)}, r"window must.*\(5, 5\)"),
        ({"window": (10, 5)}, r"window must.*\(10, 5\)"),
        ({"window": (-1, 5)}, r"window must.*\(-1, 5\)"),
        ({"attempts": 0}, "attempts must be between 1 and the window's length 10, got 0"),
        ({"attempts": 11}, "attempts must.*got 11"),
        ({"interval": 0}, "interval must.*got 0"),
        ({"interval": 11}, "interval must.*got 11"),
        ({"attempts": 2, "interval": 2}, "not both, got 2 and 2"),
        ({"min_cut": 1.0}, r"min_cut must.*got 1\.0"),
        ({"min_cut": -0.1}, r"min_cut must.*got -0\.1"),
        ({"settled": 1}, "settled must.*got 1"),
    ],
)
def test_bad_arguments_state_the_rule_and_what_was_given(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Policy(RULE, **{"window": (0, 10), **arguments})


@pytest.mark.parametrize("rule", [16, 0.99, "energy", None])
def test_what_is_no_rule_is_refused_at_once(rule: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="rule must"):
        Policy(rule, (0, 10))


@pytest.mark.parametrize("arguments", [{"tolerance": -0.1}, {"tolerance": 0.1, "delay": -1}])
def test_bad_guards(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must not be negative, got -"):
        Guard(lambda m: 0.0, **arguments)


# ------------------------------------------------------------------------------------------------ decide


def test_decide_reports_cuts_ranks_and_reasons() -> None:
    systems = {
        "a": random_system(30, 1, 1, seed=1),
        "dead": balred.ss(-np.eye(3), np.zeros((3, 1)), np.ones((1, 3))),
        "tiny": random_system(1, 1, 1, seed=2),
    }
    policy = Policy(RULE, (0, 10))
    steps, state, report = decide(policy, policy.init(), 3, systems)
    rank = balred.analyze(systems["a"]).rank(RULE)
    s = balred.hsv(systems["a"])
    assert list(steps) == ["a"]
    assert steps["a"].layer.states == steps["a"].system.states == rank
    assert systems["a"].states == 30
    (cut,) = report.cuts
    assert (cut.layer, cut.before, cut.after) == ("a", 30, rank)
    assert cut.energy == pytest.approx(s[:rank].sum() / s.sum(), rel=1e-10)
    assert cut.energy >= 0.9
    assert cut.bound == pytest.approx(2 * s[rank:].sum(), rel=1e-10)
    assert report.step == state.step == 3
    assert report.ranks == {"a": rank, "dead": 3, "tiny": 1}
    assert list(report.skipped) == ["dead"]
    assert "zero" in report.skipped["dead"]
    assert report.seconds > 0
    assert not report.restored
    text = str(report)
    assert f"step 3: a 30 -> {rank} states" in text
    assert "dead skipped" in text


@pytest.mark.parametrize("kind", ["diagonal", "conjugate"])
@pytest.mark.parametrize(
    "rule", [balred.Energy(0.999), balred.Energy(0.9), balred.Relative(1e-2), balred.Order(17), balred.ErrorBound(1e-2, relative=True)]
)  # fmt: skip
def test_the_quick_look_never_hides_a_cut(kind: str, rule: Any) -> None:
    """Whatever float32 says, the ranks of the layers that are cut are those of the analysis in float64."""
    layers = {str(i): random_system(24, 2, 2, dt=1, kind=kind, seed=i) for i in range(12)}
    policy = Policy(rule, (0, 1), min_cut=0.3)
    _, state, report = decide(policy, policy.init(), 1, layers)
    exact = {name: balred.analyze(g).rank(rule) for name, g in layers.items()}
    wanted = {name: r for name, r in exact.items() if r <= 0.7 * 24}
    assert {c.layer: c.after for c in report.cuts} == wanted
    assert all(state.choices[name][0] <= r for name, r in exact.items())


def test_a_check_without_a_cut_analyses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = {"a": random_system(24, 2, 2, dt=1, kind="conjugate", seed=0)}
    policy = Policy(balred.Energy(0.999), (0, 1), min_cut=0.8)
    monkeypatch.setattr("balred.reduction.operators.analyses", None)  # calling it would raise
    done, _, report = decide(policy, policy.init(), 1, layers)
    assert not done
    assert not report.skipped
    assert report.ranks == {"a": 24}
    monkeypatch.undo()
    settled = Policy(balred.Energy(0.999), (0, 2), min_cut=0.8, settled=2)  # needs the choices themselves
    _, state, _ = decide(settled, settled.init(), 1, layers)
    assert state.choices["a"] == (balred.analyze(layers["a"]).rank(balred.Energy(0.999)),)


def test_the_other_reports_say_so() -> None:
    assert "nothing cut" in str(Report(7, (), {"a": 3}))
    assert "taken back" in str(Report(7, (), {"a": 3}, restored=True))


# ------------------------------------------------------------------------------------------------ several processes


class Thread:
    """A process of several, as a thread: what all gave is there once all have given."""

    def __init__(self, rank: int, told: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.size, self.told, self.barrier = rank, len(told), told, barrier

    def gather(self, mine: Any) -> list[Any]:
        self.told[self.rank] = pickle.dumps(mine)
        self.barrier.wait(30)
        found = [pickle.loads(x) for x in self.told]
        self.barrier.wait(30)
        return found


@pytest.mark.full
@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize("rule", [RULE, balred.Budget(states=30)], ids=["rule", "budget"])
def test_processes_that_share_the_analysis_decide_as_one(rule: Any, size: int) -> None:
    layers: dict[str, Any] = {f"l{i}": random_system(12, 1, 1, dt=1, kind="conjugate", seed=i) for i in range(4)}
    layers["dead"] = balred.ss(-np.eye(3), np.zeros((3, 1)), np.ones((1, 3)))
    policy = Policy(rule, (0, 1))
    alone, state, report = decide(policy, policy.init(), 1, layers)
    told: list[Any] = [None] * size
    barrier = threading.Barrier(size)
    with ThreadPoolExecutor(size) as pool:
        jobs = [
            pool.submit(decide, policy, policy.init(), 1, layers, Thread(rank, told, barrier)) for rank in range(size)
        ]
        found = [job.result() for job in jobs]
    assert report.cuts
    for steps, its_state, its in found:
        assert its_state == state
        assert its.ranks == report.ranks
        assert its.skipped == report.skipped
        assert [(c.layer, c.before, c.after) for c in its.cuts] == [(c.layer, c.before, c.after) for c in report.cuts]
        assert [c.energy for c in its.cuts] == pytest.approx([c.energy for c in report.cuts], rel=1e-12)
        for name, step in steps.items():  # bitwise those of the process that computed it
            assert all(map(np.array_equal, step.layer.leaves, found[0][0][name].layer.leaves))
            assert balred.error(step.layer, alone[name].layer) < 1e-10


def test_a_failure_in_one_process_is_told_to_all() -> None:
    told: list[Any] = [None] * 2
    barrier = threading.Barrier(2)

    def failing() -> int:
        raise MemoryError("too large")

    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(together, Thread(r, told, barrier), compute) for r, compute in ((0, int), (1, failing))]
        with pytest.raises(RuntimeError, match="got in process 1: MemoryError: too large"):
            jobs[0].result()
        with pytest.raises(MemoryError, match="too large"):
            jobs[1].result()
