"""One training of a study on PyTorch: the model of a task, its optimizer and reducer, and a checkpoint of all of it."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    import torch
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("PyTorch is not installed: pip install 'balred[torch,studies]'") from error

import balred
from balred.adapters.torch.training.followers import random_states, set_random_states
from balred.files.sealing import read_checkpoint, write_checkpoint
from balred.intraining import Guard, Report
from balred.registry import layers_of
from balred.registry.reading import is_selective
from balred.registry.sizes import ranks_of
from balred.selection import Calibration
from balred.studies.data.tasks import Task
from balred.studies.models.published import by_halves, reducer_for
from balred.studies.models.torch_models import Classifier
from balred.studies.settings.plan import Run
from balred.studies.settings.train_config import TrainConfig
from balred.studies.training.flops import MatrixProducts

_CHUNK = 16_000_000
"""Complex states held at once in an evaluation: 128 MB."""


class TorchRun:
    """A model in training.

    Parameters
    ----------
    config : TrainConfig
    task : Task
    states : sequence of int
    seed : int
        Of the initialisation, and of dropout.
    run : Run, optional
        What cuts are made; none without.
    guard : Guard, optional
    nuclear : float, default 0
        Weight of the Hankel nuclear norm beside the loss.
    log : optional
        Gets the reducer's reports.
    """

    def __init__(
        self,
        config: TrainConfig,
        task: Task,
        states: Sequence[int],
        seed: int,
        run: Run | None = None,
        guard: Guard | None = None,
        nuclear: float = 0.0,
        log: Any = None,
    ) -> None:
        self.config, self.task, self.nuclear = config, task, nuclear
        self.device = torch.device(config.device)
        torch.manual_seed(seed)
        self.model = classifier(config, task, states, seed).to(self.device)
        layers = [p for m in layers_of(self.model).values() for p in m.parameters()]
        mine = {id(p) for p in layers}
        rest = [p for p in self.model.parameters() if id(p) not in mine]
        decay = config.weight_decay
        groups = [
            {"params": rest, "lr": config.rate, "weight_decay": decay},
            {
                "params": layers,
                "lr": config.rate * config.layer_rate,
                "weight_decay": decay if config.decay_layers else 0.0,
            },
        ]
        self.optimizer = torch.optim.AdamW(groups)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: config.learning_rate(step) / config.rate
        )
        self.reducer = None
        if run is not None:
            data = None
            examples = calibration(config, task, self.device)
            if examples is not None:
                data = Calibration(examples, "random" if run.mode == "random" else "joint", seed=seed)
            self.reducer = reducer_for(config.moments)(
                self.model, self.optimizer, config.rule(run.tau), (0, config.last_cut), config.attempts,
                min_cut=config.min_cut, settled=config.settled or None, guard=guard,
                gradual=config.gradual, restore=[self.schedule], log=log, calibration=data,
            )  # fmt: skip
        self.flops_of_step = 0
        self._counted = False
        self._weights: Any = None
        self._loss = torch.tensor(float("nan"))

    def train_step(self, x: NDArray[Any], y: NDArray[np.int64]) -> None:
        """One step on a batch."""
        if self._counted:
            self._step(x, y)
            return
        with MatrixProducts() as products:
            self._step(x, y)
        self.flops_of_step, self._counted = products.flops, True

    def _step(self, x: NDArray[Any], y: NDArray[np.int64]) -> None:
        self.model.train()
        self.optimizer.zero_grad()
        loss = self._entropy(self.model(self._on_device(x)), y)
        total = loss
        if self.nuclear:
            if self._weights is None:
                self._weights = balred.hankel_weights(self.model)
            total = loss + self.nuclear * balred.hankel_nuclear_norm(self.model, weights=self._weights)
        total.backward()  # type: ignore[no-untyped-call]
        if self.config.clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimizer.step()
        self.schedule.step()
        self._loss = loss.detach()

    def renew(self) -> None:
        """Have the weights of the Hankel nuclear norm made anew at the next step."""
        self._weights = None

    def reduce(self) -> Report | None:
        """Truncate if it is time to."""
        report = None if self.reducer is None else self.reducer.step()
        if report is not None:
            self.renew()  # of other shapes now
            self._counted = False
        return report

    def loss(self) -> float:
        """Loss of the last batch, without the regulariser; waits for the device."""
        return float(self._loss)

    def evaluate(self, x: NDArray[Any], y: NDArray[np.int64]) -> tuple[float, float]:
        """Accuracy and mean cross entropy (nats)."""
        return evaluate(self.model, self.task, x, y)

    def _entropy(self, logits: torch.Tensor, y: NDArray[np.int64]) -> torch.Tensor:
        targets = torch.from_numpy(y).to(self.device)
        return torch.nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten())

    def _on_device(self, x: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(self.task.inputs(x)).to(self.device)

    def save(self, path: Path, **more: Any) -> None:
        """Write all that :meth:`load` needs to go on, and plain values `more`, in one go; the last one is kept."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "reducer": None if self.reducer is None else self.reducer.state_dict(),
            "random": random_states(),
            "loss": self.loss(),
            **more,
        }
        stream = io.BytesIO()
        torch.save(state, stream)
        write_checkpoint(path, stream.getvalue())

    def load(self, path: Path, tell: Callable[[str], object], **same: Any) -> dict[str, Any] | None:
        """Go on from a checkpoint, if there is one: its contents, with the plain values it was saved with.

        Raises
        ------
        ValueError
            No checkpoint is whole, or it is of another training: one of the values `same` differs.
        """
        return read_checkpoint(path, lambda data: self._restored(path, data, same), tell)

    def _restored(self, path: Path, data: bytes, same: dict[str, Any]) -> dict[str, Any]:
        state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        for key, value in same.items():
            if state.get(key) != value:
                raise ValueError(f"{path}: a checkpoint must be of this run, {key} = {value!r}, got {state.get(key)!r}")
        if self.reducer is not None:
            self.reducer.load_state_dict(state["reducer"])  # first: the rest must fit
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        set_random_states(state["random"])
        self._loss = torch.tensor(state["loss"])
        return state


def classifier(config: TrainConfig, task: Task, states: Sequence[int], seed: int) -> Classifier:
    """A fresh model for a task."""
    block: Callable[[int], torch.nn.Module] | None = None
    if config.model == "mamba":
        from balred.studies.models.mamba_models import MambaResidual  # needs mambapy

        block = partial(MambaResidual, config.width, dropout=config.dropout)
    model = Classifier(
        config.width, states, task.classes, seed, config.ring, channels=task.channels, vocabulary=task.vocabulary,
        read="each" if task.dense else config.read, pairs=task.pairs, dropout=config.dropout, block=block,
    )  # fmt: skip
    return by_halves(model) if config.balancing == "half" else model


def calibration(config: TrainConfig, task: Task, device: torch.device | str = "cpu") -> torch.Tensor | None:
    """The first training examples as inputs, for layers that are selective or balanced on data."""
    if config.model != "mamba" and config.balanced_on == "noise":
        return None
    x = task.train_x[config.validation : config.validation + config.calibration]
    return torch.from_numpy(task.inputs(x)).to(device)


def evaluate(model: Classifier, task: Task, x: NDArray[Any], y: NDArray[np.int64]) -> tuple[float, float]:
    """Accuracy and mean cross entropy (nats) of `model`."""
    device = model.head.weight.device
    widest = max(ranks_of(layers_of(model)).values())
    if any(is_selective(layer) for layer in layers_of(model).values()):
        widest *= 2 * model.head.in_features  # every channel has states of its own
    chunk = max(1, _CHUNK // (task.length * (1 + task.pairs) * widest))
    right, nats = 0, 0.0
    was = model.training
    model.eval()
    with torch.no_grad():
        for i in range(0, len(y), chunk):
            logits = model(torch.from_numpy(task.inputs(x[i : i + chunk])).to(device)).flatten(0, -2)
            targets = torch.from_numpy(y[i : i + chunk]).to(device).flatten()
            right += int((logits.argmax(-1) == targets).sum())
            nats += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
    model.train(was)
    return right / y.size, nats / y.size


def cut(model: Classifier, ranks: dict[str, int], data: torch.Tensor | None = None) -> Classifier:
    """A copy with layers truncated to `ranks`; None of them is asked for more states than it has."""
    have = ranks_of(layers_of(model))
    smaller = {name: min(rank, have[name]) for name, rank in ranks.items() if rank < have[name]}
    result: Classifier = balred.reduce(model, smaller, calibration=data) if smaller else model
    return result
