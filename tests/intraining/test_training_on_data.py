"""Layers with an operator cut on data while they train: against balred.reduce, against white noise, and what follows a cut."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import balred
from balred.intraining import Guard
from balred.intraining.events import events_of
from balred.reduction import CalibrationWarning
from balred.selection import Calibration

torch = pytest.importorskip("torch")
from balred.adapters.torch import LRU, InTrainingReducer  # noqa: E402

STATES, RANK = 24, 4


class Net(torch.nn.Module):
    """Two LRU layers whose inputs are coloured and whose outputs matter unlike."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        torch.manual_seed(0)
        self.into, self.first, self.second = (
            torch.nn.Linear(1, 6),
            LRU(6, STATES, generator=g),
            LRU(6, STATES, generator=g),
        )
        self.head = torch.nn.Linear(6, 2)

    def forward(self, x: Any) -> Any:
        z = torch.tanh(self.into(x))
        z = z + torch.tanh(self.first(z))
        return self.head((z + torch.tanh(self.second(z)))[:, -8:].mean(1))


def data(seed: int, count: int = 24) -> Any:
    return torch.randn(count, 24, 1, generator=torch.Generator().manual_seed(seed)).cumsum(1) / 5


def target(x: Any) -> Any:
    return torch.cat([x[:, -6:].mean(1), x[:, :12].mean(1)], 1)


def made(**kw: Any) -> tuple[Any, Any, Any]:
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    options = {"rule": balred.Order(RANK), "window": (0, 20), "attempts": 1, "calibration": data(7), **kw}
    return model, optimizer, InTrainingReducer(model, optimizer, **options)


def one_step(model: Any, optimizer: Any, step: int) -> None:
    x = data(100 + step, 16)
    optimizer.zero_grad()
    (model(x) - target(x)).square().mean().backward()
    optimizer.step()


def train(model: Any, optimizer: Any, reducer: Any, steps: range, before: Any = None) -> Any:
    """The model as it was before the step of `before`, if it is one of these."""
    kept = None
    for step in steps:
        one_step(model, optimizer, step)
        kept = copy.deepcopy(model) if step == before else kept
        reducer.step()
    return kept


def change(model: Any, full: Any) -> float:
    fresh = data(9, 64)
    with torch.no_grad():
        return float((model(fresh) - full(fresh)).square().mean())


def test_a_cut_is_that_of_reduce_nearer_than_on_noise_and_told() -> None:
    model, optimizer, reducer = made()
    full = train(model, optimizer, reducer, range(1, 21), before=20)
    (report,) = reducer.reports
    assert [(c.layer, c.before, c.after, c.note) for c in report.cuts] == [
        (name, STATES, RANK, "balanced on data") for name in ("first", "second")
    ]
    assert "second 24 -> 4 states" in str(report)
    assert str(report).count("balanced on data") == 2
    assert [e["note"] for e in events_of(report)] == ["balanced on data"] * 2
    small = balred.reduce(full, RANK, calibration=data(7))
    for mine, other in zip(model.state_dict().values(), small.state_dict().values(), strict=True):
        assert torch.equal(mine, other)
    assert change(model, full) < change(balred.reduce(full, RANK), full) / 4
    assert model.training
    assert "forward" not in vars(model.first)


@pytest.mark.full
def test_a_resumed_training_ends_in_the_same_weights() -> None:
    steps = {"window": (0, 20), "attempts": 2, "rule": balred.Relative(1e-2), "calibration": lambda: [data(7), data(8)]}
    model, optimizer, reducer = made(**steps)
    train(model, optimizer, reducer, range(1, 13))
    saved = copy.deepcopy((reducer.state_dict(), model.state_dict(), optimizer.state_dict()))
    train(model, optimizer, reducer, range(13, 26))
    assert len([r for r in reducer.reports if r.cuts]) >= 1

    again, optimizer, reducer = made(**steps)
    reducer.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    optimizer.load_state_dict(saved[2])
    train(again, optimizer, reducer, range(13, 26))
    for mine, other in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(mine, other)


def test_averages_follow_and_a_guard_takes_a_cut_back() -> None:
    model = Net()
    average = torch.optim.swa_utils.AveragedModel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    reducer = InTrainingReducer(
        model, optimizer, balred.Order(RANK), (0, 1), 1, averages=[average], calibration=data(7), moments="carry"
    )
    optimizer.zero_grad()
    reducer.step()
    assert change(average.module, model) < 1e-10  # it was the model's equal before

    falls = Guard(lambda m: float(m.first.states), tolerance=0.0)
    model, optimizer, reducer = made(guard=falls)
    full = train(model, optimizer, reducer, range(1, 21), before=20)
    assert [r.restored for r in reducer.reports] == [True]
    assert change(model, full) == 0


def test_a_budget_is_shared_out_in_units_of_the_output() -> None:
    model, optimizer, reducer = made(rule=balred.Budget(states=12))
    full = train(model, optimizer, reducer, range(1, 21), before=20)
    small = balred.reduce(full, balred.Budget(states=12), calibration=data(7))
    assert [model.first.states, model.second.states] == [small.first.states, small.second.states]
    assert model.first.states + model.second.states == 12


def test_a_divergence_is_that_of_a_plan() -> None:
    rule = balred.Divergence(0.02)
    model, optimizer, reducer = made(rule=rule)
    full = train(model, optimizer, reducer, range(1, 21), before=20)
    planned = balred.plan(full, rule, calibration=data(7))
    assert {c.layer: c.after for c in reducer.reports[0].cuts} == {row.layer: row.after for row in planned.rows}
    assert planned.divergence.value <= 0.02
    assert model.first.states + model.second.states < 2 * STATES


def test_a_divergence_that_cannot_be_measured_leaves_the_layers_and_says_why() -> None:
    with pytest.raises(ValueError, match="a divergence is measured on data, so calibration must be given, got none"):
        made(rule=balred.Divergence(0.02), calibration=None)
    far = balred.Divergence(0.02, of=lambda full, small: np.ones(len(full)))
    for rule, given, why in (
        (balred.Divergence(0.02), [data(7, 3)], "there must be at least 4 calibration sequences"),
        (far, data(7), "must keep the divergence within the tolerance"),
    ):
        model, optimizer, reducer = made(rule=rule, window=(0, 1), calibration=given)
        one_step(model, optimizer, 1)
        report = reducer.step()
        assert set(report.skipped) == {"first", "second"}
        assert why in report.skipped["first"]
        assert report.ranks == {"first": STATES, "second": STATES}


@pytest.mark.full
def test_so_many_sequences_as_are_asked_for_are_looked_at() -> None:
    many = torch.cat([data(7), data(8), data(9)])
    for given, used in (
        (many, many[:32]),
        (Calibration(many, sequences=10), many[:10]),
        ([many[:25], many[25:]], [many[:25], many[25:32]]),
    ):
        model, optimizer, reducer = made(calibration=given)
        full = train(model, optimizer, reducer, range(1, 21), before=20)
        assert change(model, balred.reduce(full, RANK, calibration=used)) < 1e-6 * change(model, full)
    with pytest.raises(ValueError, match="sequences must be a positive integer, got 0"):
        Calibration(many, sequences=0)


def test_what_cannot_be_done_is_said_when_the_reducer_is_made() -> None:
    with pytest.raises(ValueError, match="balanced on data has no a-priori error bound"):
        made(rule=balred.ErrorBound(0.1))
    made(rule=balred.ErrorBound(0.1), calibration=Calibration(data(7), balanced_on="noise"))
    with pytest.raises(ValueError, match="the model must run on the calibration data, got RuntimeError"):
        made(calibration=torch.ones(4, 24, 3))

    class Scaled(LRU):
        """Computes something else than its parameters say."""

        def forward(self, u: Any) -> Any:
            return torch.tanh(u) * super().forward(2 * u)

    model = Net()
    model.first = Scaled(6, STATES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    with pytest.warns(CalibrationWarning, match=r"will be balanced on white noise, not on the data: first \(no tensor"):
        reducer = InTrainingReducer(model, optimizer, balred.Order(RANK), (0, 1), 1, calibration=data(7))
    one_step(model, optimizer, 1)
    notes = {c.layer: c.note for c in reducer.step().cuts}
    assert notes["first"].startswith("balanced on white noise: no tensor in it")
    assert notes["second"] == "balanced on data"


def test_data_that_fail_later_leave_the_layers_and_say_why() -> None:
    given = iter([data(7), torch.ones(4, 24, 3)])
    model, optimizer, reducer = made(window=(0, 1), calibration=lambda: next(given))
    one_step(model, optimizer, 1)
    report = reducer.step()
    assert set(report.skipped) == {"first", "second"}
    assert "the model must run on the calibration data" in report.skipped["first"]
    assert model.first.states == STATES


def test_sums_of_several_processes_are_added_up() -> None:
    """As one process that has the data of both, with a scalar that draws nothing."""
    from balred.intraining import decide
    from balred.intraining.exchange import Alone
    from balred.reduction.operators import read_operators

    parts = [data(7), data(8)]
    how = [Calibration(part, scalar=lambda z: (z**3).sum()) for part in (*parts, torch.cat(parts))]
    model = Net()

    class Two:
        """Process 0 of two, which knows what the other would tell it of its sums, and finds nothing else there."""

        rank, size = 0, 2

        def gather(self, mine: Any) -> list[Any]:
            value, why = mine
            if isinstance(value, dict):
                with torch.no_grad():
                    value = decide._along_data(model, layers, read, how[1], Alone())
            return [mine, (value, why)]

    layers = {"first": model.first, "second": model.second}
    read, _ = read_operators(layers)
    joint = decide._along_data(model, layers, read, how[0], Two())
    alone = decide._along_data(
        model, layers, read, Calibration(how[2].data, scalar=how[2].scalar, sequences=48), Alone()
    )
    assert isinstance(joint, dict)
    assert isinstance(alone, dict)
    assert all(not isinstance(one, str) for one in joint.values()), joint
    for name in layers:
        np.testing.assert_allclose(joint[name].P, alone[name].P, rtol=1e-5)
        np.testing.assert_allclose(joint[name].Q, alone[name].Q, rtol=1e-4, atol=1e-6 * float(alone[name].Q.max()))
        assert joint[name].positions == alone[name].positions
        assert joint[name].predictions == alone[name].predictions
