"""Selective layers (Mamba) cut while they train: what follows a cut, against balred.reduce on the same model and data."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import balred
from balred.intraining import Guard
from balred.ranks import Budget
from balred.selection import Calibration

torch = pytest.importorskip("torch")
mambapy = pytest.importorskip("mambapy.mamba")
from balred.adapters.torch import LRU, InTrainingReducer, resize_on_load  # noqa: E402

RULE = balred.Order(5)


class Net(torch.nn.Module):
    """Two layers of Mamba, and on request an LRU between them."""

    def __init__(self, states: int = 12, linear: bool = False) -> None:
        super().__init__()
        self.into = torch.nn.Linear(2, 4)
        self.body = mambapy.Mamba(mambapy.MambaConfig(d_model=4, n_layers=2, d_state=states))
        self.lru = LRU(4, 16) if linear else torch.nn.Identity()
        self.head = torch.nn.Linear(4, 2)

    def forward(self, u: Any) -> Any:
        return self.head(self.lru(self.body(self.into(u))))


def data(seed: int = 7, length: int = 10) -> Any:
    return torch.randn(6, length, 2, generator=torch.Generator().manual_seed(seed))


def made(seed: int = 0, states: int = 12, linear: bool = False, **kw: Any) -> tuple[Any, Any, Any]:
    torch.manual_seed(seed)
    model = Net(states, linear)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    options = {"rule": RULE, "window": (0, 4), "attempts": 1, "calibration": data(), **kw}
    return model, optimizer, InTrainingReducer(model, optimizer, **options)


def one_step(model: Any, optimizer: Any, step: int) -> Any:
    u = data(100 + step)
    optimizer.zero_grad()
    loss = (model(u) - u.roll(2, dims=1)).square().mean()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def states(model: Any) -> list[int]:
    return [layer.mixer.A_log.shape[1] for layer in model.body.layers]


def trained(steps: int, **kw: Any) -> tuple[Any, Any, Any, list[Any]]:
    model, optimizer, reducer = made(**kw)
    reports = []
    for step in range(steps):
        one_step(model, optimizer, step)
        reports.append(reducer.step())
    return model, optimizer, reducer, [r for r in reports if r is not None]


def test_a_cut_is_what_reduce_makes_of_the_model_on_these_data() -> None:
    model, optimizer, reducer = made()
    for step in range(3):
        one_step(model, optimizer, step)
        assert reducer.step() is None
    one_step(model, optimizer, 3)
    expected = balred.reduce(model, 5, calibration=data())
    parameters = [id(p) for p in model.parameters()]
    report = reducer.step()
    assert report is not None
    assert [(c.layer, c.before, c.after) for c in report.cuts] == [
        ("body.layers.0.mixer", 12, 5),
        ("body.layers.1.mixer", 12, 5),
    ]
    assert all(0 < c.energy <= 1 and np.isnan(c.bound) for c in report.cuts)
    assert "bound" not in str(report)
    assert states(model) == [5, 5]
    assert [id(p) for p in model.parameters()] == parameters
    with torch.no_grad():
        assert torch.equal(model(data(8)), expected(data(8)))
    assert all(layer.mixer.config.d_state == 5 for layer in model.body.layers)
    cut = {"A_log", "x_proj.weight"}
    for name, p in model.body.layers[0].mixer.named_parameters():
        assert (p in optimizer.state) == (name not in cut)
    losses = [one_step(model, optimizer, step) for step in range(4, 30)]
    assert losses[-1] < losses[0]
    assert optimizer.state[model.body.layers[0].mixer.A_log]["exp_avg"].shape == (8, 5)


def test_a_function_is_asked_at_every_attempt_and_random_states_are_those_of_reduce() -> None:
    asked = []

    def now() -> Any:
        asked.append(1)
        return data(len(asked))

    *_, reports = trained(4, calibration=now, attempts=2, rule=balred.Energy(0.999999, squared=True), min_cut=0.9)
    assert (
        len(asked) == 3
    )  # for the two attempts, and when the reducer is made, to see at once whether the model runs on it
    assert not any(r.cuts for r in reports)
    model, optimizer, reducer = made(calibration=Calibration(data(), "random", compensate=False, seed=3), window=(0, 1))
    one_step(model, optimizer, 0)
    expected = balred.reduce(model, 5, calibration=data(), selection="random", compensate=False, seed=3)
    reducer.step()
    with torch.no_grad():
        assert torch.equal(model(data(8)), expected(data(8)))


def test_rules_and_budgets_choose_as_reduce_does() -> None:
    for rule in (balred.Energy(0.9, squared=True), Budget(states=10)):
        model, optimizer, reducer = made(rule=rule, window=(0, 1))
        one_step(model, optimizer, 0)
        expected = balred.reduce(model, rule, calibration=data())
        reducer.step()
        assert states(model) == states(expected)
        assert max(states(model)) < 12


def test_a_guard_takes_a_cut_of_a_selective_layer_back() -> None:
    values = iter([1.0, 0.0])
    model, optimizer, reducer = made(guard=Guard(lambda m: next(values), tolerance=0.1))
    for step in range(4):
        one_step(model, optimizer, step)
        if step == 3:
            before = copy.deepcopy(model.state_dict())
        report = reducer.step()
    assert report is not None
    assert report.restored
    assert report.ranks == {"body.layers.0.mixer": 12, "body.layers.1.mixer": 12}
    assert states(model) == [12, 12]
    assert all(layer.mixer.config.d_state == 12 for layer in model.body.layers)
    assert all(torch.equal(x, before[n]) for n, x in model.state_dict().items())
    one_step(model, optimizer, 5)


@pytest.mark.full
def test_a_checkpoint_is_gone_on_with_from_a_model_of_full_size() -> None:
    model, optimizer, reducer, _ = trained(6)
    saved = copy.deepcopy([model.state_dict(), optimizer.state_dict(), reducer.state_dict()])
    other, its_optimizer, its_reducer = made(seed=1)
    its_reducer.load_state_dict(saved[2])
    other.load_state_dict(saved[0])
    its_optimizer.load_state_dict(saved[1])
    for step in range(6, 9):
        assert one_step(model, optimizer, step) == one_step(other, its_optimizer, step)
        reducer.step(), its_reducer.step()
    assert states(other) == [5, 5]
    plain = Net()
    resize_on_load(plain)
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(plain(data(8)), model(data(8)))


def test_an_average_keeps_the_same_states() -> None:
    torch.manual_seed(0)
    model = Net()
    average = torch.optim.swa_utils.AveragedModel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    reducer = InTrainingReducer(model, optimizer, RULE, (0, 2), 1, calibration=data(), averages=[average])
    for step in range(2):
        one_step(model, optimizer, step)
        average.update_parameters(model)
        before = average.module.body.layers[0].mixer.A_log.detach().clone()
        live = model.body.layers[0].mixer.A_log.detach().clone()
        reducer.step()
    mine, theirs = (m.body.layers[0].mixer.A_log.detach() for m in (model, average.module))
    kept = [int(torch.nonzero((live == mine[:, [i]]).all(0)).item()) for i in range(5)]
    assert torch.equal(theirs, before[:, kept])
    average.update_parameters(model)


def test_layers_of_both_kinds_in_one_model() -> None:
    model, *_ = trained(4, linear=True, rule=balred.Energy(0.9))
    assert max(states(model)) < 12
    assert model.lru.states < 16
    model, *_ = trained(4, linear=True, rule=balred.Energy(0.9), calibration=None)
    assert states(model) == [12, 12]
    assert model.lru.states < 16
    model, *_ = trained(4, linear=True, rule=Budget(states=20))
    assert sum(states(model)) + model.lru.states <= 20


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"calibration must be given for selective layers.*got none for body.layers.0"):
        made(calibration=None)
    with pytest.raises(ValueError, match="no a-priori error bound"):
        made(rule=balred.ErrorBound(0.1))
    *_, reports = trained(4, rule=balred.Order(20))  # as for other layers: nothing to cut
    assert [r.cuts for r in reports] == [()]
    with pytest.raises(ValueError, match="selection must be one of joint, separate, random, got 'best'"):
        made(calibration=Calibration(data(), "best"))
    with pytest.raises(ValueError, match=r"must be finite, got NaN or infinity in body\.layers\.0\.mixer"):
        made(window=(0, 1), calibration=data() * float("nan"))
    given = iter([data(), data() * float("nan")])
    model, optimizer, reducer = made(window=(0, 1), calibration=lambda: next(given))
    before = one_step(model, optimizer, 0)
    report = reducer.step()
    assert np.isfinite(before)
    assert set(report.skipped) == {"body.layers.0.mixer", "body.layers.1.mixer"}
    assert "must be finite" in report.skipped["body.layers.0.mixer"]
    assert states(model) == [12, 12]


def test_what_no_process_can_run_by_itself_is_not_cut_along_data(monkeypatch: pytest.MonkeyPatch) -> None:
    from balred.adapters.torch.training import replicated as torch_distributed

    class Two:
        rank, size = 0, 2

    monkeypatch.setattr(torch_distributed.Place, "exchange", Two())
    monkeypatch.setattr(torch_distributed.Place, "runs_data", False)
    with pytest.raises(
        ValueError, match=r"calibration must be left out in several processes .* got calibration and 2 processes"
    ):
        made()


def test_under_the_trainer_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    import tempfile

    from balred.adapters.hf_trainer import InTrainingReduction

    torch.manual_seed(0)
    config = transformers.MambaConfig(vocab_size=11, hidden_size=8, state_size=6, num_hidden_layers=1, time_step_rank=2)
    model = transformers.MambaForCausalLM(config)
    tokens = torch.randint(1, 11, (8, 6), generator=torch.Generator().manual_seed(0))
    rows = [{"input_ids": t, "labels": t} for t in tokens]
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder, max_steps=4, per_device_train_batch_size=4, report_to=[], save_strategy="no", use_cpu=True,
            disable_tqdm=True,
        )  # fmt: skip
        callback = InTrainingReduction(balred.Order(2), (0, 2), 1, calibration={"input_ids": tokens})
        transformers.Trainer(model, arguments, train_dataset=rows, callbacks=[callback]).train()
        model.save_pretrained(folder)
        again = transformers.MambaForCausalLM.from_pretrained(folder)
    assert [c.after for r in callback.reports for c in r.cuts] == [2]
    assert again.config.state_size == model.config.state_size == 2
    with torch.no_grad():
        assert torch.allclose(again(input_ids=tokens).logits, model.eval()(input_ids=tokens).logits, atol=1e-6)
