"""What a checkpoint keeps of a training: read back by name, or refused before anything is changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import balred
from balred.intraining import Cut, EventLog, Guard, Policy, ReducerState, Report, sinks_of
from balred.intraining.events import counts_of, rewind
from balred.intraining.fitting import check_fit, named
from balred.intraining.state import Held

POLICY = Policy(balred.Energy(0.9), (0, 8))


@dataclass(frozen=True)
class Numbers:
    """What a framework might keep."""

    values: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        return dict(self.values)


def keep(saved: Mapping[str, Any], ranks: dict[str, int]) -> Numbers:
    assert ranks == {"a": 4}
    return Numbers(saved)


HELD = Held(due=7, metric=0.5, step=4, ranks={"a": 4}, kept=Numbers({"w": 1.5}))
STATE = ReducerState(POLICY.init(), {"a": 3}, {"cuts.jsonl": 2}, HELD)


def test_a_state_comes_back_from_plain_values() -> None:
    told = json.loads(json.dumps(STATE.to_dict()))
    assert ReducerState.from_dict(told, keep) == STATE
    alone = ReducerState(POLICY.init(), {"a": 3})
    assert ReducerState.from_dict(json.loads(json.dumps(alone.to_dict())), keep) == alone


@pytest.mark.parametrize("entry", ["policy", "ranks", "events", "held"])
def test_a_state_without_an_entry_is_refused(entry: str) -> None:
    told = STATE.to_dict()
    del told[entry]
    with pytest.raises(ValueError, match=f"must have the entries of this training, got one without {entry}$"):
        ReducerState.from_dict(told, keep)


def test_an_entry_of_what_is_held_may_not_miss_either() -> None:
    told = STATE.to_dict()
    told["held"]["kept before"] = told["held"].pop("kept")
    with pytest.raises(ValueError, match="cut to be judged of this training, got one without kept, with kept before"):
        ReducerState.from_dict(told, keep)


def test_a_cut_is_taken_back_where_the_guard_says_so_and_stays_without_one() -> None:
    guard = Guard(lambda m: 0.0, tolerance=0.1)
    assert HELD.verdict(guard, lambda g: 0.45, 7) is None
    back = HELD.verdict(guard, lambda g: 0.35, 7)
    assert back is not None
    assert (back.step, back.back_to, back.restored, back.ranks) == (7, 4, True, {"a": 4})
    assert HELD.verdict(None, lambda g: 0.0, 7) is None


def test_names_do_not_depend_on_the_order_of_different_things() -> None:
    assert named([1, 2.5, 3]) == {"int": 1, "float": 2.5, "int 2": 3}
    assert named([2.5, 1, 3]) == named([1, 2.5, 3])


def test_what_does_not_fit_is_named() -> None:
    check_fit("values", {"a": (2,), "b": (3,)}, {"b": (3,), "a": (2,)})
    with pytest.raises(ValueError, match=r"values of the checkpoint .* got \(4,\) for b of \(3,\)"):
        check_fit("values", {"a": (2,), "b": (3,)}, {"a": (2,), "b": (4,)})
    with pytest.raises(ValueError, match=r"got one without a, b, c and 1 more, with x$"):
        check_fit("values", dict.fromkeys("abcd"), {"x": None})


# ------------------------------------------------------------------------------------------------------ log files


REPORT = Report(3, (Cut("a", 4, 2, 0.9, 0.1),), {"a": 2})


def write(log: Path, events: int) -> EventLog:
    one = EventLog(log)
    for _ in range(events):
        one(REPORT)
    return one


def test_log_files_are_rewound_by_their_names(tmp_path: Path) -> None:
    first, second = write(tmp_path / "first.jsonl", 1), write(tmp_path / "second.jsonl", 3)
    counts = counts_of(sinks_of([first.path, second.path]))
    assert counts == {"first.jsonl": 1, "second.jsonl": 3}
    write(first.path, 2)
    write(second.path, 2)
    new = EventLog(tmp_path / "new.jsonl")
    rewind(sinks_of([second.path, new.path, first.path]), counts)  # in another order, with one more
    assert [len(log.read()) for log in (first, second, new)] == [1, 3, 0]


def test_a_log_of_another_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    mine, other = write(tmp_path / "mine.jsonl", 2), write(tmp_path / "other.jsonl", 3)
    with pytest.raises(ValueError, match=r"one of the checkpoint's \(mine.jsonl\), got .*other.jsonl with 3 events"):
        rewind(sinks_of([mine.path, other.path]), {"mine.jsonl": 1})
    assert [len(log.read()) for log in (mine, other)] == [2, 3]
