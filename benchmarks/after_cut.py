"""What a training makes of a cut: which Gramians, how the scale of each state is split, what becomes of the optimizer's moments.

    python benchmarks/after_cut.py [--tasks digits text] [--seeds 3] [--out benchmarks/results] [--kept benchmarks/trained]

Trainings of :mod:`balred.studies` at CPU scale are cut once, after a tenth of their steps, to a fixed number of states, and trained to
the end: the same weights, optimizer state and batches before and after the cut, so that runs of one seed differ in one thing only.
Beside them a model that has the small number of states from the start.  Rows that are there are not run again.

Ways: "noise" or "data" is what the cut was balanced on; "rows" gives every row of B the same norm, "even" splits the scale of each
state between its row of B and its column of C in the proportion of the layer that was cut; "reset" starts the moments of what was
cut afresh, "carry" takes them through the cut.  "calm" cuts a little further, to the order whose eigenvectors are least nearly
parallel: a diagonal form of a reduced system is unique up to the scale of each state, so a better one is one of another order.
"""

from __future__ import annotations

import contextlib
import math
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from benchmarks_common import markdown, run_missing, train, training_arguments

import balred
from balred.adapters.torch import InTrainingReducer
from balred.cli.train import config_path
from balred.layers import lru
from balred.reduction import writing_back
from balred.reduction.diagonalisation import Forms
from balred.registry import layers_of
from balred.selection import Calibration
from balred.studies.data.load_task import load_task
from balred.studies.demo import one_thread
from balred.studies.settings.plan import Order
from balred.studies.settings.train_config import read_config
from balred.studies.training.run_torch import TorchRun

RANKS = {"digits": 16, "smnist": 32, "text": 48, "listops": 40}
WAYS = (
    "noise rows reset", "data rows reset", "data even reset", "data rows carry", "data even carry", "data even reset calm",
    "data even carry calm",
)  # fmt: skip
CALM = 0.85
"""The least share of the order that a calm cut keeps."""
SMALL = "small from scratch"
SEQUENCES = 64


def main() -> None:
    arguments = training_arguments(__doc__, "tasks", RANKS)
    wanted = [
        {"task": task, "seed": seed, "way": way}
        for seed in range(arguments.seeds)
        for task in arguments.tasks
        for way in (*WAYS, SMALL)
    ]
    with one_thread("torch"):
        run_missing(
            arguments.out,
            "after_cut",
            wanted,
            lambda one: run(one["task"], one["seed"], one["way"], arguments.steps, arguments.kept),
            table,
        )


def run(name: str, seed: int, way: str, steps: int, kept: Path) -> dict[str, Any]:
    """One training, cut or small from the start."""
    config = read_config(config_path(name), "cpu", [f"steps={steps}"] if steps else [])
    task = load_task(config, seed)
    order, held = Order(len(task.train_y) - config.validation, config.batch, seed + 1000), config.validation
    states = tuple(RANKS[name] for _ in config.states) if way == SMALL else config.states
    trainer = TorchRun(config, task, states, seed)
    first, after = 1, None
    if way != SMALL:
        path = kept / f"before-{name}-{seed}-{config.steps}.pt"
        if trainer.load(path, print) is None:
            train(trainer.train_step, task, order, held, 1, config.last_cut)
            trainer.save(path)
        cut(trainer, way, RANKS[name], torch.from_numpy(task.inputs(task.train_x[held : held + SEQUENCES])), seed)
        first, after = config.last_cut + 1, trainer.evaluate(task.test_x, task.test_y)[1]
    train(trainer.train_step, task, order, held, first, config.steps)
    accuracy, loss = trainer.evaluate(task.test_x, task.test_y)
    return {"states": RANKS[name], "steps": config.steps, "after": after, "loss": loss, "accuracy": accuracy}


def cut(trainer: TorchRun, way: str, rank: int, data: torch.Tensor, seed: int) -> None:
    basis, scale, moments, *calm = way.split()
    calibration = None if basis == "noise" else Calibration(data, seed=seed, sequences=SEQUENCES)
    reducer = InTrainingReducer(
        trainer.model, trainer.optimizer, balred.Order(rank), (0, 1), 1, moments=moments, calibration=calibration
    )
    with contextlib.ExitStack() as changed:
        if scale == "rows":
            alike = partial(rows_alike, lru_rows(trainer.model))
            changed.enter_context(mock.patch.object(lru, "scaled_evenly", alike))
        if calm:
            changed.enter_context(mock.patch.object(writing_back, "Forms", Calm))
        report = reducer.step()
    assert report is not None, "the cut was not made"


class Calm(Forms):
    """Of the orders a little below the largest, the one with the best conditioned eigenvectors."""

    def within(self, order: int, states: int) -> Any:
        """As usual, of that order."""
        largest = int(super().within(order, states)[1])
        orders = [k for k in range(math.ceil(CALM * largest), largest + 1) if self.stored(k) <= states]
        return super().within(min(orders, key=self._condition), states)

    def _condition(self, order: int) -> float:
        return float(np.linalg.cond(np.linalg.eig(self._reduce(self._state, order)[0].A)[1]))


def rows_alike(row_norm: float, B: Any, C: Any, _: float) -> tuple[Any, Any]:
    """Every row of B has the norm `row_norm`."""
    norms = np.linalg.norm(B, axis=1)
    scale = np.where(norms > 0, row_norm / np.where(norms > 0, norms, 1), 1.0)
    return B * scale[:, None], C / scale


def lru_rows(model: Any) -> float:
    """Root mean square norm of the rows of B of all layers."""
    squares = [x.detach().square().sum(1) for m in layers_of(model).values() for x in (m.B_re, m.B_im)]
    return float(torch.cat(squares).sum().div(sum(map(len, squares)) / 2).sqrt())


def table(rows: list[dict[str, Any]]) -> str:
    """Means over seeds of the loss right after the cut and at the end, and of the accuracy."""
    body = []
    for task in RANKS:
        for way in (*WAYS, SMALL):
            found = [row for row in rows if (row["task"], row["way"]) == (task, way)]
            if not found:
                continue
            after = [row["after"] for row in found if row["after"] is not None]
            losses = [row["loss"] for row in found]
            body.append([
                task, str(found[0]["states"]), way, f"{np.mean(after):.3f}" if after else "–", f"{np.mean(losses):.4f}",
                ", ".join(f"{x:.4f}" for x in losses), f"{100 * np.mean([row['accuracy'] for row in found]):.1f} %",
            ])  # fmt: skip
    return markdown(
        ["task", "states a layer", "way", "loss after the cut", "loss at the end", "of each seed", "accuracy"], body
    )


if __name__ == "__main__":
    main()
