"""Truncation under Lightning's own Trainer, against the plain loop with the plain reducer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import balred
from balred.intraining import Guard

pl = pytest.importorskip("lightning.pytorch")
import torch  # noqa: E402
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint  # noqa: E402

from balred.adapters.lightning import InTrainingReduction  # noqa: E402
from balred.adapters.torch import LRU, InTrainingReducer, resize_on_load  # noqa: E402

RULE = balred.Energy(0.9)
STEPS = 12
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.* is deprecated"),  # torch, said to Lightning
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]


class Module(pl.LightningModule):
    """Two LRU layers and a BatchNorm; learns to delay its input."""

    def __init__(self, states: int = 16) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.first, self.second = LRU(2, states, generator=g), LRU(2, states, generator=g)
        self.norm = torch.nn.BatchNorm1d(2)
        self.losses: list[float] = []
        resize_on_load(self)

    def forward(self, u: Any) -> Any:
        h = self.norm(self.first(u).mT).mT
        return self.second(torch.tanh(h))

    def loss(self, u: Any) -> Any:
        return (self(u) - u.roll(2, dims=1)).square().mean()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.losses.append(loss.item())
        self.log("loss", loss)
        return loss

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test", self.loss(batch))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def ranks(model: Any) -> list[int]:
    return [len(model.first.nu_log), len(model.second.nu_log)]


def batches(count: int = STEPS) -> Any:
    u = torch.randn(count, 4, 12, 2, generator=torch.Generator().manual_seed(1))
    return torch.utils.data.DataLoader(list(u), batch_size=None)


def trainer(tmp_path: Any, *callbacks: Any, **kw: Any) -> Any:
    options = {"max_epochs": 1, "logger": False, "enable_checkpointing": False, "log_every_n_steps": 1, **kw}
    return pl.Trainer(
        accelerator="cpu", default_root_dir=tmp_path, callbacks=list(callbacks), enable_progress_bar=False,
        enable_model_summary=False, **options,
    )  # fmt: skip


def same(a: Any, b: Any) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return all(torch.equal(mine[key], theirs[key]) for key in mine | theirs)


@pytest.mark.alike
@pytest.mark.parametrize("parts", [1, 3])
def test_a_fit_is_the_plain_loop_with_the_plain_reducer(parts: int, tmp_path: Any) -> None:
    """`parts` batches are accumulated to a step."""
    plain = Module()
    setup: Any = plain.configure_optimizers()
    optimizer, schedule = setup["optimizer"], setup["lr_scheduler"]["scheduler"]
    reducer = InTrainingReducer(plain, optimizer, RULE, (0, 8), 2)
    for i, u in enumerate(batches(STEPS * parts)):
        loss = plain.loss(u)
        plain.losses.append(loss.item())
        (loss / parts).backward()
        if (i + 1) % parts == 0:
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            reducer.step()

    model, reduction = Module(), InTrainingReduction(RULE, (0, 8), 2)
    trainer(tmp_path, reduction, accumulate_grad_batches=parts).fit(model, batches(STEPS * parts))
    assert ranks(model) == ranks(plain) != [16, 16]
    assert [r.step for r in reduction.reports] == [4, 8]
    assert [r.cuts for r in reduction.reports] == [r.cuts for r in reducer.reports]
    assert model.losses == plain.losses
    assert same(model, plain)


def callbacks(folder: Any, *, guarded: bool = False, averaging: bool = False) -> list[Any]:
    guard = Guard(lambda m: -float(len(m.first.nu_log) < 16), tolerance=0.5, delay=3) if guarded else None
    saving = ModelCheckpoint(folder, every_n_epochs=1, save_top_k=-1, filename="{epoch}")
    return [InTrainingReduction(RULE, (0, 6), 2, guard=guard), saving] + [EMAWeightAveraging(decay=0.8)] * averaging


@pytest.mark.alike
@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("averaging", [False, True])
def test_resumed_from_a_checkpoint_a_fit_ends_in_the_same_weights(
    averaging: bool, guarded: bool, tmp_path: Any
) -> None:
    """Saved after step 4, a cut at step 3; with a guard, before that cut was judged, which takes it back."""
    whole, wholly = Module(), callbacks(tmp_path / "saved", guarded=guarded, averaging=averaging)
    trainer(tmp_path, *wholly, enable_checkpointing=True, max_epochs=3).fit(whole, batches(4))

    again, resumed = Module(), callbacks(tmp_path / "saved", guarded=guarded, averaging=averaging)
    run = trainer(tmp_path, *resumed, enable_checkpointing=True, max_epochs=3)
    run.fit(again, batches(4), ckpt_path=tmp_path / "saved" / "epoch=0.ckpt", weights_only=True)
    assert run.global_step == 12
    assert (ranks(again) == [16, 16]) == guarded
    assert [r.step for r in resumed[0].reports] == [6]
    assert resumed[0].reports[0].restored == guarded
    assert again.losses == whole.losses[4:]
    assert same(again, whole)


def test_what_was_saved_after_a_cut_is_loaded_to_test_and_by_itself(tmp_path: Any) -> None:
    """The same numbers as the trained module's; and a module of another size may be saved before a cut, or after."""
    model = Module()
    run = trainer(tmp_path, *callbacks(tmp_path), enable_checkpointing=True, max_epochs=2)
    run.fit(model, batches(4))
    (want,) = run.test(model, batches(4), verbose=False)
    fresh = trainer(tmp_path, *callbacks(tmp_path), enable_checkpointing=True)
    (got,) = fresh.test(Module(), batches(4), ckpt_path=tmp_path / "epoch=1.ckpt", weights_only=True, verbose=False)
    assert got == want
    (before,) = run.test(model, batches(4), ckpt_path=tmp_path / "epoch=0.ckpt", weights_only=True, verbose=False)
    assert before != want
    loaded = Module.load_from_checkpoint(tmp_path / "epoch=1.ckpt", weights_only=True)
    reduction = next(c for c in run.callbacks if isinstance(c, InTrainingReduction))
    assert ranks(loaded) == list(reduction.reports[-1].ranks.values()) != [16, 16]
    assert max(ranks(model)) > max(ranks(loaded))  # the earlier checkpoint is the larger one


def test_a_callback_shows_when_it_cuts_and_the_sizes_of_the_layers(tmp_path: Any) -> None:
    reduction = InTrainingReduction(balred.Order(5), window=(0, 10), attempts=1)
    policy = "Order(rank=5, multiple_of=1), attempts at 10"
    assert repr(reduction) == f"InTrainingReduction(before the training; {policy})"
    trainer(tmp_path, reduction).fit(Module(), batches())
    shown = f"first: 5 states, second: 5 states; step {STEPS}; {policy}"
    assert repr(reduction) == f"InTrainingReduction({shown})"


def test_a_second_fit_of_the_same_trainer_goes_on(tmp_path: Any) -> None:
    """Lightning makes a new optimizer; the policy counts on."""
    model, reduction = Module(), InTrainingReduction(RULE, (0, 6), 2)
    run = trainer(tmp_path, reduction, max_epochs=1)
    run.fit(model, batches(4))
    assert [r.step for r in reduction.reports] == [3]
    run.fit_loop.max_epochs = 3
    run.fit(model, batches(4))
    assert [r.step for r in reduction.reports] == [6]
    assert reduction.reducer is not None
    assert reduction.reducer.steps == run.global_step == 12


def test_ranks_energies_and_losses_are_logged(tmp_path: Any) -> None:
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    loggers = [CSVLogger(tmp_path, "csv"), TensorBoardLogger(tmp_path, "board")]
    reduction = InTrainingReduction(RULE, (0, 8), 2, loss=lambda module, batch: module.loss(batch))
    model = Module()
    trainer(tmp_path, reduction, logger=loggers).fit(model, batches())
    board = event_accumulator.EventAccumulator(loggers[1].log_dir)
    board.Reload()
    for report in reduction.reports:
        assert report.loss is not None
        assert report.loss[0] != report.loss[1]
        for cut in report.cuts:
            for kind, value in (("rank", cut.after), ("energy", cut.energy), ("bound", cut.bound)):
                (found,) = [e for e in board.Scalars(f"balred/{kind}/{cut.layer}") if e.step == report.step]
                assert found.value == pytest.approx(value, rel=1e-6)  # it keeps float32
    lines = (tmp_path / "csv" / "version_0" / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("balred/rank/first")
    logged = [float(x) for x in (line.split(",")[column] for line in lines[1:]) if x]
    assert logged == [r.ranks["first"] for r in reduction.reports]


class Two(Module):
    """Two optimizers, the second one for the layers, or torn between them."""

    def __init__(self, torn: bool = False) -> None:
        super().__init__()
        self.automatic_optimization, self.torn = False, torn

    def configure_optimizers(self) -> Any:
        rest = self.second.parameters() if self.torn else self.norm.parameters()
        mine = [*self.first.parameters(), *([] if self.torn else self.second.parameters())]
        return [torch.optim.SGD(rest, lr=1e-2), torch.optim.AdamW(mine, lr=1e-2)]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        loss = self.loss(batch)
        self.losses.append(loss.item())
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()


def test_of_several_optimizers_that_with_the_layers_is_followed(tmp_path: Any) -> None:
    model, reduction = Two(), InTrainingReduction(RULE, (0, 8), 2)
    trainer(tmp_path, reduction).fit(model, batches())
    assert [r.step for r in reduction.reports] == [4, 8]
    assert ranks(model) != [16, 16]
    assert reduction.reducer is not None
    assert isinstance(reduction.reducer.optimizer, torch.optim.AdamW)
    with pytest.raises(ValueError, match=r"one optimizer must hold every parameter of the layers .* got SGD, AdamW"):
        trainer(tmp_path, InTrainingReduction(RULE, (0, 8), 2)).fit(Two(torn=True), batches())


def test_wrong_arguments_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="attempts must be between 1 and the window's length 8, got 9"):
        InTrainingReduction(RULE, (0, 8), 9)
    with pytest.raises(TypeError, match="unexpected keyword argument 'atempts'"):
        InTrainingReduction(RULE, (0, 8), atempts=2)


@pytest.mark.parametrize("kind", ["FSDPStrategy", "DeepSpeedStrategy"])
def test_a_strategy_that_keeps_shapes_is_refused(kind: str) -> None:
    """By its class: they run on GPUs only, or with a package of their own."""
    strategy = object.__new__(getattr(pl.strategies, kind))
    run = SimpleNamespace(strategy=strategy)
    with pytest.raises(ValueError, match=rf"strategy must be .*DDPStrategy, ModelParallelStrategy, got {kind}"):
        InTrainingReduction(RULE, (0, 8), 2).on_fit_start(run, Module())  # type: ignore[arg-type]
