"""Truncation in PyTorch trainings beyond the plain loop: averages, guards, checkpoints, logs, compiled and mixed precision."""

from __future__ import annotations

import copy
import io
import json
from typing import Any

import numpy as np
import pytest

import balred
from balred.intraining import EventLog, Guard, Policy

torch = pytest.importorskip("torch")
from balred.adapters.torch import LRU, InTrainingReducer  # noqa: E402

RULE = balred.Energy(0.9)


class Net(torch.nn.Module):
    """Two LRU layers, a BatchNorm with buffers, dropout that draws from the generator, a head."""

    def __init__(self, states: int = 16) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.first, self.second = LRU(2, states, generator=g), LRU(2, states, generator=g)
        self.norm, self.drop, self.head = torch.nn.BatchNorm1d(2), torch.nn.Dropout(0.1), torch.nn.Linear(2, 2)

    def forward(self, u: Any) -> Any:
        h = self.norm(self.first(u).mT).mT
        return self.head(self.drop(torch.tanh(self.second(h))))


def ranks(model: Any) -> list[int]:
    return [len(model.first.nu_log), len(model.second.nu_log)]


def batch(step: int) -> Any:
    return torch.randn(4, 12, 2, generator=torch.Generator().manual_seed(step))


def one_step(model: Any, optimizer: Any, step: int, averages: Any = ()) -> Any:
    u = batch(step)
    optimizer.zero_grad()
    loss = (model(u) - u.roll(2, dims=1)).square().mean()
    loss.backward()
    optimizer.step()
    for average in averages:
        average.update_parameters(model)
    return loss.detach()


def made(seed: int = 0, states: int = 16, **kw: Any) -> tuple[Any, Any, Any]:
    torch.manual_seed(seed)
    model = Net(states)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    reducer = InTrainingReducer(model, optimizer, **{"rule": RULE, "window": (0, 8), "attempts": 2, **kw})
    return model, optimizer, reducer


# ------------------------------------------------------------------------------------------------------ averages


def test_an_average_is_cut_with_the_model_and_goes_on_averaging() -> None:
    torch.manual_seed(0)
    model = Net()
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=True
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    reducer = InTrainingReducer(model, optimizer, rule=RULE, window=(0, 8), attempts=2, averages=[average])
    for step in range(1, 12):
        one_step(model, optimizer, step, [average])
        reducer.step()
    assert ranks(average.module) == ranks(model) != [16, 16]
    gap = max(
        float((a - b).detach().abs().max())
        for a, b in zip(average.module.parameters(), model.parameters(), strict=True)
    )
    assert 0 < gap < 1


def test_an_average_follows_by_the_same_transformation_to_second_order() -> None:
    """Ten times nearer to the live layer, what is lost of an average is a hundred times less.

    The live layer holds every state twice, so the cut to half its order loses nothing; the average's copies differ.
    """
    from balred.intraining.averages import follow
    from balred.reduction.candidates import Smaller

    layer = doubled(LRU(2, 6, generator=torch.Generator().manual_seed(3)).double())
    a = balred.analyze(layer)
    made = a.reduction(6)
    cut = Smaller(a.reduce(6), layer.states, 6, a.energy(6), system=made.system, change=made.change)
    u = torch.randn(3, 40, 2, dtype=torch.double, generator=torch.Generator().manual_seed(9))

    def lost(distance: float) -> float:
        average = copy.deepcopy(layer)
        with torch.no_grad():
            for i, p in enumerate(average.parameters()):
                p.add_(distance * torch.randn(p.shape, generator=torch.Generator().manual_seed(i), dtype=p.dtype))
            return float((follow(average, layer, cut)(u) - average(u)).abs().max())

    assert lost(0.0) < 1e-10
    assert 1e-12 < lost(1e-5) < 1.5e-2 * lost(1e-4)


def doubled(half: Any) -> Any:
    """Every state twice, with half the outputs each: not minimal, the same operator."""
    from balred.adapters.torch import blank_copy

    values = {
        n: p.detach().repeat(2, *[1] * (p.ndim - 1))
        for n, p in half.named_parameters()
        if n.startswith(("nu", "th", "ga", "B"))
    }
    values |= {n: p.detach().repeat(1, 2) / 2 for n, p in half.named_parameters() if n.startswith("C")}
    return blank_copy(half, values)


def test_an_average_of_another_model_or_shape_is_refused() -> None:
    model, optimizer, _ = made()
    with pytest.raises(ValueError, match="copy of the model, a Net, got Linear"):
        InTrainingReducer(model, optimizer, RULE, (0, 8), averages=[torch.nn.Linear(2, 2)])
    with pytest.raises(ValueError, match=r"model's shapes, got \(8,\) for first.nu_log, which has \(16,\)"):
        InTrainingReducer(model, optimizer, RULE, (0, 8), averages=[Net(8)])


def test_ema_pytorch() -> None:
    ema_pytorch = pytest.importorskip("ema_pytorch")
    model, optimizer, _ = made()
    ema = ema_pytorch.EMA(model, beta=0.9, update_after_step=1, update_every=1)
    reducer = InTrainingReducer(model, optimizer, RULE, (0, 8), 2, averages=[ema])
    for step in range(1, 12):
        one_step(model, optimizer, step)
        ema.update()
        reducer.step()
    assert ranks(ema.ema_model) == ranks(model) != [16, 16]


# --------------------------------------------------------------------------------------------------------- guards


@pytest.mark.alike
@pytest.mark.parametrize("delay", [0, 2])
def test_a_rollback_brings_everything_back(delay: int) -> None:
    """Model, buffers, optimizer, average, scheduler, generators and step are those from before the (last) cut."""
    torch.manual_seed(0)
    model = Net()
    average = torch.optim.swa_utils.AveragedModel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    guard = Guard(lambda m: -float(len(m.first.nu_log) < 16), tolerance=0.5, delay=delay)
    reducer = InTrainingReducer(model, optimizer, RULE, (0, 6), 1, guard=guard, averages=[average], restore=[schedule])
    for step in range(1, 7):
        one_step(model, optimizer, step, [average])
        schedule.step()
        if step < 6:
            assert reducer.step() is None
    kept = copy.deepcopy([model.state_dict(), average.state_dict(), optimizer.state_dict(), schedule.state_dict()])
    drawn = torch.get_rng_state()
    report = reducer.step()
    for step in range(7, 7 + delay):
        assert ranks(model) != [16, 16]
        one_step(model, optimizer, step, [average])
        schedule.step()
        report = reducer.step()
    assert report is not None
    assert report.restored
    assert report.back_to == 6
    assert reducer.steps == 6
    now = [model.state_dict(), average.state_dict(), optimizer.state_dict(), schedule.state_dict()]
    for before, after in zip(kept[:2], now[:2], strict=True):
        assert all(torch.equal(before[key], after[key]) for key in before)
    assert str(kept[2]) == str(now[2])
    assert str(kept[3]) == str(now[3])
    assert torch.equal(torch.get_rng_state(), drawn)
    for step in range(7, 12):  # no more cuts
        one_step(model, optimizer, step, [average])
        assert reducer.step() is None


class Listed(torch.optim.SGD):
    """Keeps its momentum in a list of its own, made at once or at the first step."""

    def __init__(self, params: Any, at_once: bool) -> None:
        super().__init__(params, lr=1e-2)
        self.kept = [torch.zeros_like(p) for p in self.param_groups[0]["params"]] if at_once else []

    def step(self, closure: Any = None) -> Any:
        self.kept = [torch.zeros_like(p) for p in self.param_groups[0]["params"]]
        return super().step(closure)


@pytest.mark.parametrize("at_once", [True, False])
def test_an_optimizer_with_a_history_beside_its_state_is_refused(at_once: bool) -> None:
    """After a cut its next step would meet the old shapes."""
    model = Net()
    optimizer = Listed(model.parameters(), at_once)

    def start() -> None:
        reducer = InTrainingReducer(model, optimizer, RULE, (0, 6), 1)
        one_step(model, optimizer, 1, [])
        reducer.step()

    with pytest.raises(ValueError, match="outside its state, got a Listed with some in kept"):
        start()


def test_what_a_guard_restores_must_have_a_state() -> None:
    model, optimizer, _ = made()
    with pytest.raises(ValueError, match="must have state_dict and load_state_dict, got 3"):
        InTrainingReducer(model, optimizer, RULE, (0, 8), restore=[3])


# ------------------------------------------------------------------------------------------------ dry runs, budgets


def test_a_dry_run_reports_what_a_run_would_cut_and_changes_nothing() -> None:
    model, optimizer, reducer = made(dry_run=True, attempts=1)
    twin, other, doer = made(attempts=1)
    plain, third, _ = made()
    for step in range(1, 10):
        for m, o in ((model, optimizer), (twin, other), (plain, third)):
            torch.manual_seed(step)
            one_step(m, o, step)
        reports = [r.step() for r in (reducer, doer)]
    said, done = reducer.reports[0], doer.reports[0]
    assert said.dry_run
    assert said.cuts == done.cuts
    assert said.ranks == {"first": 16, "second": 16} != done.ranks
    assert "would be 16 -> " in str(said)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    assert reports == [None, None]


def test_a_budget_of_states_in_training() -> None:
    model, optimizer, reducer = made(rule=balred.Budget(states=12))
    for step in range(1, 9):
        one_step(model, optimizer, step)
        reducer.step()
    assert sum(ranks(model)) == 12
    with pytest.raises(ValueError, match=r"must be a number of states.*fraction=0\.5"):
        Policy(balred.Budget(fraction=0.5), (0, 8))


# ------------------------------------------------------------------------------------------------- checkpoints, logs


def run(steps: range, model: Any, optimizer: Any, reducer: Any) -> None:
    for step in steps:
        one_step(model, optimizer, step)
        reducer.step(loss=lambda step=step: (model(batch(step)) - batch(step).roll(2, dims=1)).square().mean())


@pytest.mark.alike
@pytest.mark.parametrize("stop", [3, 4, 5, 7, 8, 11])
@pytest.mark.parametrize("guarded", [False, True])
def test_resumed_from_a_checkpoint_a_run_ends_in_the_same_weights(stop: int, guarded: bool, tmp_path: Any) -> None:
    guard = Guard(lambda m: -float(len(m.first.nu_log) < 9), tolerance=0.5, delay=2) if guarded else None
    kw: dict[str, Any] = {"guard": guard, "attempts": 2}
    model, optimizer, reducer = made(log=tmp_path / "whole.jsonl", **kw)
    run(range(1, 13), model, optimizer, reducer)

    first, o1, r1 = made(log=tmp_path / "parts.jsonl", **kw)
    run(range(1, stop + 1), first, o1, r1)
    file = io.BytesIO()
    torch.save(
        {
            "model": first.state_dict(),
            "optimizer": o1.state_dict(),
            "reducer": r1.state_dict(),
            "rng": torch.get_rng_state(),
        },
        file,
    )
    if stop < 11:
        run(range(stop + 1, stop + 2), first, o1, r1)  # what is lost when it is killed here
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second, o2, r2 = made(seed=5, log=tmp_path / "parts.jsonl", **kw)
    r2.load_state_dict(saved["reducer"])
    second.load_state_dict(saved["model"])
    o2.load_state_dict(saved["optimizer"])
    torch.set_rng_state(saved["rng"])
    run(range(stop + 1, 13), second, o2, r2)
    assert ranks(second) == ranks(model)
    for a, b in zip(model.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    events = [
        [{k: v for k, v in e.items() if k != "seconds"} for e in EventLog(tmp_path / f"{n}.jsonl").read()]
        for n in ("whole", "parts")
    ]
    assert events[0] == events[1]
    assert events[0]


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    small, _, reducer = made(states=8)
    state = reducer.state_dict()
    state["ranks"]["second"] = 12
    before = copy.deepcopy(small.state_dict())
    with pytest.raises(ValueError, match="layer second must have at least 12 states, got 8"):
        reducer.load_state_dict(state)
    with pytest.raises(ValueError, match="must have the layers other, got first, second"):
        reducer.load_state_dict({**state, "ranks": {"other": 3}})
    assert all(torch.equal(a, b) for a, b in zip(before.values(), small.state_dict().values(), strict=True))


def guarded(restore: Any, averages: Any = (), states: int = 16, **kw: Any) -> tuple[Any, Any, Any]:
    """A training whose cut at step 4 is judged, and taken back, at step 7."""
    torch.manual_seed(0)
    model = Net(states)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    objects = [make(optimizer) for make in restore]
    averages = [make(model) for make in averages]
    guard = Guard(lambda m: -float(len(m.first.nu_log) < states), tolerance=0.5, delay=3)
    reducer = InTrainingReducer(
        model, optimizer, RULE, (0, 4), 1, **{"guard": guard, "restore": objects, "averages": averages, **kw}
    )
    return reducer, objects, (model, optimizer)


def steps_of(kinds: Any) -> dict[str, Any]:
    return {type(one).__name__: one.last_epoch for one in kinds}


STEP = lambda o: torch.optim.lr_scheduler.StepLR(o, 3)  # noqa: E731
EXPONENTIAL = lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9)  # noqa: E731


def judged_later(restore: Any, **kw: Any) -> tuple[Any, Any]:
    """The state of a training after step 5, the cut of step 4 being held, and a checkpoint's copy of it."""
    reducer, objects, (model, optimizer) = guarded(restore, **kw)
    for step in range(1, 6):
        one_step(model, optimizer, step)
        for _ in range(len(objects)):
            objects[0].step()  # the first one alone, so that they differ
        reducer.step()
    file = io.BytesIO()
    torch.save(reducer.state_dict(), file)
    file.seek(0)
    return reducer, torch.load(file, weights_only=True)


def test_what_a_guard_restores_is_found_by_its_name() -> None:
    """Passed in another order after a restart, each scheduler gets its own state back."""
    _, saved = judged_later([STEP, EXPONENTIAL])
    assert saved["held"]["step"] == 4
    reducer, objects, (model, optimizer) = guarded([EXPONENTIAL, STEP])
    reducer.load_state_dict(saved)
    for step in (6, 7):
        one_step(model, optimizer, step)
        report = reducer.step()
    assert report.restored
    assert ranks(model) == [16, 16]
    assert steps_of(objects) == {"StepLR": 8, "ExponentialLR": 0}  # two a step, until the cut at step 4


def test_a_held_cut_of_another_training_is_refused_and_changes_nothing(tmp_path: Any) -> None:
    log = tmp_path / "cuts.jsonl"
    _, saved = judged_later([STEP], log=log)

    def refused(match: str, restore: Any, change: Any = None, **kw: Any) -> None:
        state = copy.deepcopy(saved)
        if change is not None:
            change(state)
        reducer, _, (model, _) = guarded(restore, **kw)
        before, text = copy.deepcopy(model.state_dict()), log.read_text()
        with pytest.raises(ValueError, match=match):
            reducer.load_state_dict(state)
        assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
        assert (reducer.steps, log.read_text()) == (0, text)

    refused("objects in restore= of this training, got one without ExponentialLR$", [STEP, EXPONENTIAL])
    refused("objects in restore= of this training, got one with StepLR$", [])
    refused(
        "averages of this training, got one without AveragedModel$",
        [STEP],
        averages=[torch.optim.swa_utils.AveragedModel],
    )
    refused("layers of this training, got one without first, with third$", [STEP], lambda s: s["held"].update(
        ranks={"third": 16, "second": 16}))  # fmt: skip
    refused(
        "tensors of this training, got one without head.bias$",
        [STEP],
        lambda s: s["held"]["kept"]["model"].pop("head.bias"),
    )
    refused("got 3 parameters for group 0 of", [STEP], lambda s: s["held"]["kept"]["optimizer"]["param_groups"][0].update(
        params=[0, 1, 2]))  # fmt: skip
    refused("entries of this training, got one without steps$", [STEP], lambda s: s.pop("steps"))
    refused("must be new, or one of the checkpoint's", [STEP], lambda s: s.update(events={"other.jsonl": 1}), log=log)


def test_a_held_cut_stays_where_the_guard_is_gone() -> None:
    _, saved = judged_later([])
    reducer, _, (model, optimizer) = guarded([], guard=None)
    reducer.load_state_dict(saved)
    for step in (6, 7):
        one_step(model, optimizer, step)
        assert reducer.step() is None
    assert ranks(model) != [16, 16]
    assert reducer.state_dict()["held"] is None


@pytest.mark.parametrize("fused", [False, True])
def test_optimizer_state_of_old_shapes_is_refused(fused: bool) -> None:
    model, optimizer, _ = made()
    one_step(model, optimizer, 1)
    old = optimizer.state_dict()
    small = Net(8)
    other = torch.optim.AdamW(small.parameters(), lr=1e-2, fused=fused)
    reducer = InTrainingReducer(small, other, RULE, (0, 8))
    other.load_state_dict(old)
    with pytest.raises(ValueError, match=r"got exp_avg of \(16,\) for first.nu_log of \(8,\)"):
        reducer.step()


def test_events_say_what_happened(tmp_path: Any) -> None:
    writer = torch_writer(tmp_path)
    model, optimizer, reducer = made(log=[tmp_path / "run" / "cuts.jsonl", *writer])
    run(range(1, 10), model, optimizer, reducer)
    lines = [json.loads(line) for line in (tmp_path / "run" / "cuts.jsonl").read_text().splitlines()]
    cuts = [e for e in lines if e["event"] == "cut"]
    assert cuts
    for event, cut in zip(cuts, [c for r in reducer.reports for c in r.cuts], strict=True):
        assert (event["layer"], event["from"], event["to"]) == (cut.layer, cut.before, cut.after)
        assert event["energy"] == cut.energy >= 0.9
        assert np.isfinite([event["loss_before"], event["loss_after"], event["seconds"], event["bound"]]).all()


def torch_writer(tmp_path: Any) -> list[Any]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError:
        return []
    return [SummaryWriter(str(tmp_path / "board"))]


def test_a_log_that_is_none_is_refused() -> None:
    model, optimizer, _ = made()
    with pytest.raises(TypeError, match=r"log must be a path, .*, got 3"):
        InTrainingReducer(model, optimizer, RULE, (0, 8), log=3)


# ------------------------------------------------------------------------------------------- precision, accumulation


@pytest.mark.alike
@pytest.mark.parametrize("scaled", [False, True])
def test_autocast_scaler_clipping_and_accumulation(scaled: bool) -> None:
    model, optimizer, reducer = made()
    scaler = torch.amp.GradScaler("cpu", enabled=scaled)
    losses = []
    for step in range(1, 25):
        optimizer.zero_grad()
        for part in range(2):
            u = batch(2 * step + part)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = (model(u).float() - u.roll(2, dims=1)).square().mean() / 2
            scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        reducer.step()
        losses.append(float(loss.detach()))
    assert ranks(model) != [16, 16]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


# ------------------------------------------------------------------------------------------------- compiled, graphs


@pytest.mark.full
def test_a_compiled_model_is_cut_through_its_wrapper() -> None:
    torch._dynamo.reset()
    model, optimizer, _ = made()
    compiled = torch.compile(model, backend="eager")
    reducer = InTrainingReducer(compiled, optimizer, RULE, (0, 8), 2)
    for step in range(1, 12):
        one_step(compiled, optimizer, step)
        reducer.step()
    assert set(reducer.reports[0].ranks) == {"first", "second"}
    assert ranks(model) != [16, 16]
    u = batch(99)
    model.eval()
    torch.testing.assert_close(compiled(u), model(u))


def test_a_captured_graph_is_refused() -> None:
    """What make_graphed_callables leaves behind is a forward with that name in it."""
    model, optimizer, _ = made()

    def make_graphed_callables() -> Any:
        def forward(u: Any) -> Any:
            return u

        return forward

    model.head.forward = make_graphed_callables()
    with pytest.raises(ValueError, match=r"CUDA graph.*got head from make_graphed_callables"):
        InTrainingReducer(model, optimizer, RULE, (0, 8))


@pytest.mark.gpu
def test_a_captured_graph_is_refused_on_a_device() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = torch.nn.Sequential(LRU(2, 16), torch.nn.Linear(2, 2)).cuda()
    model[1] = torch.cuda.make_graphed_callables(model[1], (torch.randn(4, 12, 2, device="cuda", requires_grad=True),))
    with pytest.raises(ValueError, match="CUDA graph"):
        InTrainingReducer(model, torch.optim.AdamW(model.parameters()), RULE, (0, 8))


class Within(torch.optim.Optimizer):
    """An optimizer with the one that steps inside it, as sharpness-aware minimisation is written."""

    def __init__(self, parameters: Any, **options: Any) -> None:
        super().__init__(parameters, {})
        self.base_optimizer = torch.optim.Adam(self.param_groups, lr=1e-2, **options)

    def step(self, closure: Any = None) -> None:
        self.base_optimizer.step()


@pytest.mark.parametrize("fused", [False, True])
def test_optimizers_inside_and_beside_the_one_that_is_known_follow(fused: bool) -> None:
    """What is left of their old moments would stop a step, or go into it: a fused one does not look at shapes."""
    layer = LRU(2, 16, generator=torch.Generator().manual_seed(0))
    optimizer = Within(layer.parameters(), fused=fused)
    beside = torch.optim.Adam(layer.parameters(), lr=1e-3, fused=fused)
    reducer = InTrainingReducer(layer, optimizer, balred.Order(4), (0, 2), 1)
    for _ in range(4):
        optimizer.zero_grad()
        layer(torch.ones(2, 9, 2)).square().mean().backward()
        optimizer.step()
        beside.step()
        reducer.step()
    assert layer.states == 4
    for one in (optimizer.base_optimizer, beside):
        assert {p: one.state[p]["exp_avg"].shape for p in layer.parameters()} == {
            p: p.shape for p in layer.parameters()
        }
        assert int(one.state[layer.nu_log]["step"]) == 2  # begun afresh after the cut
        assert int(one.state[layer.D]["step"]) == 4


@pytest.mark.parametrize(
    "options", [{}, {"foreach": True}, {"fused": True}, {"fused": True, "nesterov": True}], ids=str
)
def test_momentum_starts_afresh_however_steps_are_computed(options: Any) -> None:
    """As in a model with these weights whose other parameters have their momentum; a fused step stopped with an error."""
    layer = LRU(2, 16, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-2, momentum=0.9, **options)
    reducer = InTrainingReducer(layer, optimizer, balred.Order(4), (0, 2), 1)

    def step(layer: Any, optimizer: Any) -> None:
        optimizer.zero_grad()
        layer(torch.ones(2, 9, 2)).square().mean().backward()
        optimizer.step()

    for _ in range(2):
        step(layer, optimizer)
        reducer.step()
    again = LRU(2, 4)
    again.load_state_dict(layer.state_dict())
    other = torch.optim.SGD(again.parameters(), lr=1e-2, momentum=0.9, nesterov=options.get("nesterov", False))
    other.state[again.D]["momentum_buffer"] = optimizer.state[layer.D]["momentum_buffer"].clone()
    for _ in range(3):
        step(layer, optimizer)
        step(again, other)
    for p, q in zip(layer.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(p, q)


class Lookahead:
    """Slow weights beside those that an optimizer changes."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer, self.param_groups = optimizer, optimizer.param_groups
        self.slow = {p: p.detach().clone() for group in self.param_groups for p in group["params"]}


def test_weights_that_are_kept_around_an_optimizer_are_refused_at_once() -> None:
    """After a cut they would have the old shapes."""
    layer = LRU(2, 16)
    around = Lookahead(torch.optim.SGD(layer.parameters(), lr=1e-2))
    with pytest.raises(
        ValueError,
        match="must hold no tensors of the parameters' shapes outside its state, got a Lookahead with some in slow",
    ):
        InTrainingReducer(layer, around, balred.Order(4), (0, 2), 1)
    around.slow.clear()
    assert InTrainingReducer(layer, around, balred.Order(4), (0, 2), 1).optimizer is around.optimizer
