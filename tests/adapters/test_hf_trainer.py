"""Truncation under the Trainer of transformers itself, against the plain loop with the plain reducer."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

import balred
from balred.intraining import Guard

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
import torch  # noqa: E402

from balred.adapters.hf_trainer import InTrainingReduction  # noqa: E402
from balred.adapters.torch import LRU, InTrainingReducer, resize_on_load  # noqa: E402

RULE = balred.Energy(0.9)
STEPS = 12


class Config(transformers.PreTrainedConfig):
    model_type = "delaying"

    def __init__(self, states: Any = (16, 16), **kw: Any) -> None:
        self.states = list(states)
        super().__init__(**kw)


class Model(transformers.PreTrainedModel):
    """Two LRU layers and a head; learns to delay its input."""

    config_class = Config

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.first, self.second = (LRU(2, states) for states in config.states)
        self.head = torch.nn.Linear(2, 2)
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        pass

    def forward(self, u: Any) -> Any:
        y = self.head(self.second(torch.tanh(self.first(u))))
        return {"loss": (y - u.roll(2, dims=1)).square().mean(), "y": y}


class Plain(torch.nn.Module):
    """No model of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = LRU(2, 16), LRU(2, 16), torch.nn.Linear(2, 2)

    forward = Model.forward


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    transformers.utils.logging.disable_progress_bar()
    yield
    transformers.utils.logging.enable_progress_bar()


def made(kind: Any = Model) -> Any:
    torch.manual_seed(0)
    return kind(Config()) if kind is Model else kind()


def ranks(model: Any) -> list[int]:
    return [len(model.first.nu_log), len(model.second.nu_log)]


def data(count: int = STEPS) -> Any:
    u = torch.randn(4 * count, 12, 2, generator=torch.Generator().manual_seed(1))
    return [{"u": x} for x in u]


def arguments(tmp_path: Any, **kw: Any) -> Any:
    options = {
        "output_dir": str(tmp_path), "per_device_train_batch_size": 4, "learning_rate": 1e-2, "num_train_epochs": 1,
        "max_grad_norm": 0.0, "logging_steps": 1, "save_strategy": "no", "report_to": "none", "use_cpu": True,
        "disable_tqdm": True, "remove_unused_columns": False, "train_sampling_strategy": "sequential",
        "dataloader_pin_memory": False, "optim": "adamw_torch", **kw,
    }  # fmt: skip
    return transformers.TrainingArguments(**options)


def trainer(model: Any, args: Any, *callbacks: Any, count: int = STEPS, **kw: Any) -> Any:
    found = transformers.Trainer(model, args, train_dataset=data(count), callbacks=list(callbacks), **kw)
    found.remove_callback(transformers.PrinterCallback)
    return found


def losses(run: Any) -> list[float]:
    return [entry["loss"] for entry in run.state.log_history if "loss" in entry]


def same(a: Any, b: Any) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return all(torch.equal(mine[key], theirs[key]) for key in mine | theirs)


@pytest.mark.alike
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("kind", [Model, Plain])
def test_a_training_is_the_plain_loop_with_the_plain_reducer(kind: Any, parts: int, tmp_path: Any) -> None:
    """`parts` batches are accumulated to a step."""
    plain, want = made(kind), []
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-2, weight_decay=0.0)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 0, STEPS)
    reducer = InTrainingReducer(plain, optimizer, RULE, (0, 8), 2)
    u = torch.stack([x["u"] for x in data(STEPS * parts)]).reshape(STEPS, parts, 4, 12, 2)
    for step in range(STEPS):
        found = []
        for part in range(parts):
            loss = plain(u[step, part])["loss"] / parts
            loss.backward()
            found.append(loss.item())
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        reducer.step()
        want.append(sum(found))

    model, reduction = made(kind), InTrainingReduction(RULE, (0, 8), 2)
    run = trainer(model, arguments(tmp_path, gradient_accumulation_steps=parts), reduction, count=STEPS * parts)
    run.train()
    assert ranks(model) == ranks(plain) != [16, 16]
    assert [r.step for r in reduction.reports] == [4, 8]
    assert [r.ranks for r in reduction.reports] == [r.ranks for r in reducer.reports]
    assert losses(run) == pytest.approx(want, rel=1e-5)  # float32, added up in another order
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def reduction(guarded: bool = False, **kw: Any) -> Any:
    guard = Guard(lambda m: -float(len(m.first.nu_log) < 16), tolerance=0.5, delay=3) if guarded else None
    return InTrainingReduction(RULE, (0, 8), 2, guard=guard, **kw)


@pytest.mark.full
@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("kind", [Model, Plain])
def test_resumed_from_a_checkpoint_a_training_ends_in_the_same_weights(kind: Any, guarded: bool, tmp_path: Any) -> None:
    """Saved after step 5, a cut at step 4; with a guard, before that cut was judged, which takes it back."""
    args = arguments(tmp_path, save_strategy="steps", save_steps=5)
    whole, again, resumed = made(kind), made(kind), reduction(guarded)
    first, second = trainer(whole, args, reduction(guarded)), trainer(again, args, resumed)
    first.train()
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert second.state.global_step == STEPS
    assert (ranks(again) == [16, 16]) == guarded
    assert [(r.step, r.restored) for r in resumed.reports] == [(7, True)] if guarded else [(8, False)]
    assert losses(second) == losses(first)
    assert same(again, whole)
    state = json.loads((tmp_path / "checkpoint-5" / "trainer_state.json").read_text())
    kept = state["stateful_callbacks"]["InTrainingReduction"]["attributes"]
    assert kept["reducer"]["steps"] == 5
    assert (kept["held"] is not None) == guarded


def test_a_shrunk_model_is_saved_and_loaded_as_any_other(tmp_path: Any) -> None:
    model = made()
    trainer(model, arguments(tmp_path), reduction(config="states")).train()
    assert model.config.states == ranks(model) != [16, 16]
    model.save_pretrained(tmp_path / "saved")
    again = Model.from_pretrained(tmp_path / "saved")
    u = data(1)[0]["u"][None]
    assert torch.equal(again(u)["y"], model(u)["y"])


@pytest.mark.full
def test_a_config_that_says_otherwise_is_refused(tmp_path: Any) -> None:
    model = made()
    with pytest.raises(ValueError, match=r"config.widths must be the states of the layers, \[16, 16\], got \[\]"):
        trainer(model, arguments(tmp_path), reduction(config="widths")).train()
    model.config.states = [8, 8]
    with pytest.raises(ValueError, match=r"config.states must be .*, \[16, 16\], got \[8, 8\]"):
        trainer(model, arguments(tmp_path), reduction(config="states")).train()


def test_the_best_model_may_be_that_before_a_cut(tmp_path: Any) -> None:
    """By a metric that is best at the second step."""
    model = made()
    args = arguments(
        tmp_path, save_strategy="steps", save_steps=2, eval_strategy="steps", eval_steps=2,
        load_best_model_at_end=True, metric_for_best_model="best",
    )  # fmt: skip
    run = trainer(
        model, args, reduction(config="states"), eval_dataset=data(1),
        compute_metrics=lambda _: {"best": -float(run.state.global_step)},
    )  # fmt: skip
    run.label_names = ["u"]
    run.train()
    assert run.state.best_model_checkpoint.endswith("checkpoint-2")
    assert ranks(model) == model.config.states == [16, 16]


@pytest.mark.alike
@pytest.mark.parametrize("added", [False, True])
def test_ranks_and_energies_are_logged(added: bool, tmp_path: Any) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    cutting = reduction()
    board = transformers.integrations.TensorBoardCallback(torch_writer(tmp_path))
    run = trainer(made(), arguments(tmp_path), board, *([] if added else [cutting]))
    if added:
        assert cutting.add_to(run) is cutting
    run.train()
    assert len(losses(run)) == STEPS  # what the Trainer logs itself is still there
    for report in cutting.reports:
        (entry,) = [e for e in run.state.log_history if e["step"] == report.step and "balred/rank/first" in e]
        for cut in report.cuts:
            assert entry[f"balred/rank/{cut.layer}"] == cut.after
            assert entry[f"balred/energy/{cut.layer}"] == cut.energy
    if added:
        events = event_accumulator.EventAccumulator(str(tmp_path / "board"))
        events.Reload()
        (tag,) = [t for t in events.Tags()["scalars"] if t.endswith("balred/rank/first")]
        assert [(e.step, e.value) for e in events.Scalars(tag)] == [(r.step, r.ranks["first"]) for r in cutting.reports]


def torch_writer(tmp_path: Any) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(tmp_path / "board"))


@pytest.mark.full
def test_a_model_made_anew_resumes_if_it_resizes(tmp_path: Any) -> None:
    """A Trainer with model_init= makes its model after its callbacks were told of one."""

    def model_init() -> Any:
        model = made()
        resize_on_load(model)
        return model

    def run() -> Any:
        args = arguments(tmp_path, save_strategy="steps", save_steps=5)
        return trainer(None, args, reduction(), model_init=model_init)

    whole, again = run(), run()
    whole.train()
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert same(again.model, whole.model)


@pytest.mark.parametrize("kind", ["deepspeed", "fsdp", "DEEPSPEED", "TPU"])
def test_what_keeps_shapes_is_refused(kind: str, tmp_path: Any, monkeypatch: Any) -> None:
    """Whether the arguments say so or, as with Accelerate's launcher, the state of the processes."""
    args, control = arguments(tmp_path), transformers.TrainerControl()
    if kind == "TPU":
        monkeypatch.setattr(type(args), "parallel_mode", transformers.training_args.ParallelMode.TPU)
    elif kind.isupper():
        monkeypatch.setattr(args, "distributed_state", SimpleNamespace(distributed_type=SimpleNamespace(name=kind)))
    else:
        monkeypatch.setattr(args, kind, {"version": 2})
    with pytest.raises(ValueError, match=rf"one process or with DistributedDataParallel, got {kind}"):
        reduction().on_train_begin(args, transformers.TrainerState(), control, model=made())


def test_what_cannot_work_is_refused(tmp_path: Any) -> None:
    args = arguments(tmp_path, restore_callback_states_from_checkpoint=True)
    with pytest.raises(ValueError, match="restore_callback_states_from_checkpoint must be False"):
        trainer(made(), args, reduction()).train()
    with pytest.raises(ValueError, match="window must be"):
        InTrainingReduction(RULE, (8, 0))
