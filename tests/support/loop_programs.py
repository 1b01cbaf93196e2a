"""Trainings by other people's loops, started alone or by ``torchrun``: for ``test_loops_in_processes.py``.

``python loop_programs.py LOOP FOLDER [DEATH]`` trains on the same global batches whatever the number of processes, in float64,
and leaves what it ended in as ``FOLDER/PROCESS.pt``.  With a DEATH, which is a step, the last process kills itself while
it cuts there.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import distributed_runs
import torch
import torch.distributed as dist
from processes import leave

import balred
from balred.adapters.torch import InTrainingReducer
from balred.adapters.torch.training import reducer as reducers

RULE, STEPS, BATCH, WINDOW = balred.Energy(0.9), 12, 8, (0, 8)
RANK, SIZE = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


class Net(distributed_runs.Net):
    """The same layers, with a loss: learns to delay its input."""

    def forward(self, u: Any) -> Any:
        y = super().forward(u)
        return {"loss": (y - u.roll(2, dims=1)).square().mean(), "y": y}


def mamba() -> Any:
    """A Mamba of transformers, its weights large enough for the states to matter."""
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    config = MambaConfig(vocab_size=30, hidden_size=16, state_size=8, num_hidden_layers=2, use_cache=False)
    model = MambaForCausalLM(config)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2.0)
    return model.double()


def signals() -> Any:
    return torch.randn(STEPS * BATCH, 12, 2, generator=torch.Generator().manual_seed(1), dtype=torch.double)


def texts() -> Any:
    return torch.randint(0, 30, (STEPS * BATCH, 12), generator=torch.Generator().manual_seed(1))


def mine(data: Any) -> Any:
    """The part of calibration data that this process has."""
    return data[RANK::SIZE]


def described(net: Any, reports: Any, losses: list[float], ranks: Any) -> dict[str, Any]:
    """What a training ended in; of a state the sign may be either, so outputs are compared with other runs."""
    with torch.no_grad():
        shown = net(input_ids=texts()[:4]).logits if hasattr(net, "config") else net(signals()[:4])["y"]
        weights = {n: getattr(p, "full_tensor", lambda p=p: p)().clone() for n, p in net.named_parameters()}
    cuts = [(r.step, [(c.layer, c.before, c.after) for c in r.cuts], dict(r.skipped)) for r in reports]
    return {"ranks": ranks, "reports": cuts, "losses": losses, "outputs": shown, "weights": weights}


# ------------------------------------------------------------------------------------------------ the Trainer


def trainer(folder: Path) -> dict[str, Any]:
    """Mamba under the Trainer of transformers."""
    import transformers

    from balred.adapters.hf_trainer import InTrainingReduction

    transformers.utils.logging.disable_progress_bar()
    model = mamba()
    args = transformers.TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=BATCH // SIZE, learning_rate=1e-2, num_train_epochs=1,
        max_grad_norm=0.0, logging_steps=1, save_strategy="steps", save_steps=5, report_to="none", use_cpu=True,
        disable_tqdm=True, train_sampling_strategy="sequential", dataloader_pin_memory=False, optim="adamw_torch",
    )  # fmt: skip
    reduction = InTrainingReduction(
        RULE, WINDOW, 2, calibration=lambda: {"input_ids": mine(texts()[:16])}, log=folder / "cuts.jsonl"
    )
    data = [{"input_ids": x, "labels": x} for x in texts()]
    run = transformers.Trainer(model, args, train_dataset=data, callbacks=[reduction])
    run.remove_callback(transformers.PrinterCallback)
    started = (folder / "checkpoint-5").is_dir()
    run.train(resume_from_checkpoint=str(folder / "checkpoint-5") if started else None)
    losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    return described(model, reduction.reports, losses, [model.config.state_size])


# ---------------------------------------------------------------------------------------------------- Lightning


def lightning(folder: Path, strategy: Any = "ddp") -> dict[str, Any]:
    """LRU layers under Lightning, balanced on data."""
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import ModelCheckpoint

    from balred.adapters.lightning import InTrainingReduction

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    losses: list[float] = []

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def configure_model(self) -> None:
            if strategy != "ddp":
                from torch.distributed.fsdp import fully_shard

                for part in (self.net.first, self.net.second, self.net):
                    fully_shard(part, mesh=self.device_mesh["data_parallel"])

        def forward(self, u: Any) -> Any:
            return self.net(u)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            now = slice(BATCH * batch_idx, BATCH * (batch_idx + 1))  # a resumed loader begins anew, the count goes on
            loss = self.net(mine(signals()[now]))["loss"]
            losses.append(loss.item())
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    reduction = InTrainingReduction(
        RULE, WINDOW, 2, gradual=True, calibration=lambda: mine(signals()[:16]), log=folder / "cuts.jsonl"
    )
    saving = ModelCheckpoint(folder, every_n_train_steps=5, save_top_k=-1, filename="{step}")
    run = pl.Trainer(
        accelerator="cpu", devices=SIZE, strategy=strategy if SIZE > 1 else "auto", default_root_dir=folder, callbacks=[reduction, saving], logger=False,
        enable_progress_bar=False, enable_model_summary=False, max_epochs=1, use_distributed_sampler=False,
    )  # fmt: skip
    module, saved = Module(), folder / "step=5.ckpt"
    loader = torch.utils.data.DataLoader(range(STEPS), batch_size=None)
    run.fit(module, loader, ckpt_path=saved if saved.exists() else None, weights_only=True)
    net = module.net
    return described(net, reduction.reports, losses, [len(net.first.nu_log), len(net.second.nu_log)])


def lightning_sharded(folder: Path) -> dict[str, Any]:
    """The same under Lightning's strategy for FSDP2."""
    from lightning.pytorch.strategies import ModelParallelStrategy

    strategy = ModelParallelStrategy(data_parallel_size=SIZE, tensor_parallel_size=1)
    return lightning(folder, strategy)


# --------------------------------------------------------------------------------------------------- Accelerate


def accelerate(folder: Path) -> dict[str, Any]:
    """LRU layers in a loop with Accelerate, balanced on data."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    net = Net()
    loader = torch.utils.data.DataLoader(signals(), batch_size=BATCH // SIZE)
    model, optimizer, loader = accelerator.prepare(net, torch.optim.AdamW(net.parameters(), lr=1e-2), loader)
    reducer = InTrainingReducer(
        model,
        optimizer,
        RULE,
        WINDOW,
        2,
        gradual=True,
        calibration=lambda: mine(signals()[:16]),
        log=folder / "cuts.jsonl",
    )
    accelerator.register_for_checkpointing(reducer)
    saved, losses = folder / "saved", list[float]()
    if saved.exists():
        accelerator.load_state(str(saved))
        loader = accelerator.skip_first_batches(loader, reducer.steps)
    for u in loader:
        loss = model(u)["loss"]
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        reducer.step()
        if reducer.steps == 5:
            accelerator.save_state(str(saved))
    return described(net, reducer.reports, losses, [len(net.first.nu_log), len(net.second.nu_log)])


LOOPS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "trainer": trainer, "lightning": lightning, "lightning_sharded": lightning_sharded, "accelerate": accelerate
}  # fmt: skip


def dying(at: int) -> None:
    """Let the last process kill itself at the second layer of a cut."""
    real, cut = reducers.InTrainingReducer._cut, list[int]()

    def _cut(self: Any, name: str, *rest: Any) -> Any:
        cut.append(self.steps)
        if RANK == SIZE - 1 and self.steps == at and cut.count(at) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, name, *rest)

    reducers.InTrainingReducer._cut = _cut  # type: ignore[method-assign]


def main(loop: str, folder: Path, *death: str) -> None:
    torch.set_num_threads(1)
    if loop != "trainer":  # whose Mamba computes in single precision anyway
        torch.set_default_dtype(torch.double)
    warnings.simplefilter("ignore")
    if death:
        dying(int(death[0]))
    torch.save(LOOPS[loop](folder), folder / f"{RANK}.pt")
    if dist.is_initialized():
        leave()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
