"""Whose fault is what a cut in training costs: the choice of the states, or the recovery from it?

    python benchmarks/whose_fault.py [--tasks digits text] [--seeds 3] [--out benchmarks/results] [--kept benchmarks/trained]

The trainings of ``after_cut.py``: cut once, after a tenth of their steps, to a fixed number of states, with the same weights, optimizer state
and batches before and after.  They differ in what is cut, and are evaluated right after the cut, after another 1 % and 10 % of the steps, and at
the end.  If ways that differ at the cut are alike at the end, the choice does not matter and recovery does; if they stay apart, it is the choice.

"published" balances the complex half of a layer and keeps the first entries of Adam's moments; "noise" and "data" are what the library does,
"data, moments carried" an option of it; "random" keeps states drawn at random and refits C by least squares on data; "small" has the states
from the start.  Rows that are there are not run again.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from after_cut import RANKS, SEQUENCES
from benchmarks_common import markdown, run_missing, train, training_arguments

import balred
from balred.cli.train import config_path
from balred.reduction.analysis import sums_along
from balred.reduction.candidates import Smaller
from balred.registry import layers_of
from balred.selection import Calibration
from balred.studies.data.load_task import load_task
from balred.studies.demo import one_thread
from balred.studies.models.published import by_halves, reducer_for
from balred.studies.settings.plan import Order
from balred.studies.settings.train_config import read_config
from balred.studies.training.run_torch import TorchRun

WAYS = {
    "published": "slice", "noise": "reset", "data": "reset", "data, moments carried": "carry", "random": "reset", "small": "",
}  # fmt: skip
"""What becomes of Adam's moments."""
AFTER = (0.01, 0.1)


def main() -> None:
    arguments = training_arguments(__doc__, "tasks", RANKS)
    wanted = [
        {"task": task, "seed": seed, "way": way}
        for seed in range(arguments.seeds)
        for task in arguments.tasks
        for way in WAYS
    ]
    with one_thread("torch"):
        run_missing(
            arguments.out, "whose_fault", wanted,
            lambda one: run(one["task"], one["seed"], one["way"], arguments.steps, arguments.kept), table,
        )  # fmt: skip


def run(name: str, seed: int, way: str, steps: int, kept: Path) -> dict[str, Any]:
    """One training, cut or small from the start, and its losses on the way."""
    config = read_config(config_path(name), "cpu", [f"steps={steps}"] if steps else [])
    task = load_task(config, seed)
    order, held = Order(len(task.train_y) - config.validation, config.batch, seed + 1000), config.validation
    states = tuple(RANKS[name] for _ in config.states) if way == "small" else config.states
    trainer = TorchRun(config, task, states, seed)
    path, last = kept / f"before-{name}-{seed}-{config.steps}.pt", config.last_cut
    if way == "small" or trainer.load(path, print) is None:
        train(trainer.train_step, task, order, held, 1, last)
        if way != "small":
            trainer.save(path)
    before = trainer.evaluate(task.test_x, task.test_y)[1]
    if way != "small":
        data = Calibration(
            torch.from_numpy(task.inputs(task.train_x[held : held + SEQUENCES])), seed=seed, sequences=SEQUENCES
        )
        cut(trainer, way, RANKS[name], data)
    losses = {"before": before, "cut": trainer.evaluate(task.test_x, task.test_y)[1]}
    for share in (*AFTER, 1.0):
        step = min(config.steps, config.last_cut + max(1, round(share * config.steps)))
        train(trainer.train_step, task, order, held, last + 1, step)
        last = step
        losses["end" if share == 1.0 else f"{share:g}"] = trainer.evaluate(task.test_x, task.test_y)[1]
    return {"states": RANKS[name], "steps": config.steps, "losses": losses}


def cut(trainer: TorchRun, way: str, rank: int, data: Calibration) -> None:
    """All layers of a training, to `rank`."""
    if way == "published":
        by_halves(trainer.model)
    on = data if way.startswith("data") else None
    reducer = reducer_for(WAYS[way])(trainer.model, trainer.optimizer, balred.Order(rank), (0, 1), 1, calibration=on)
    if way != "random":
        assert reducer.step() is not None, "the cut was not made"
        return
    with torch.no_grad():
        for name, small in drawn(trainer.model, rank, data).items():
            layer = trainer.model.get_submodule(name)
            reducer._cut(name, layer, Smaller(small, layer.states, rank, energy=math.nan))


def drawn(model: Any, rank: int, data: Calibration) -> dict[str, Any]:
    r"""Layers with `rank` of their states, drawn at random, and with the C that comes nearest to their outputs on data.

    With y = c x for the real states x and P the mean of their squares, those kept (K) give :math:`c P_{:K} P_{KK}^{-1}`.
    """
    layers, rng = layers_of(model), np.random.default_rng(data.seed)
    read = {name: balred.adapt(layer) for name, layer in layers.items()}
    sums = sums_along(
        model, {name: (layers[name], system) for name, (system, _) in read.items()}, replace(data, balanced_on="inputs")
    )
    found = {}
    for name, (system, rebuild) in read.items():
        n = system.states
        kept = np.sort(rng.choice(n, rank, replace=False))
        both = np.concatenate([kept, n + kept])  # real and imaginary parts
        C, P = np.asarray(system.to_dense().C.detach()), sums[name].P
        new = np.linalg.lstsq(P[np.ix_(both, both)], P[both] @ C.T, rcond=None)[0].T
        fitted = (new[:, :rank] - 1j * new[:, rank:]) / math.sqrt(2)  # the coordinates of `to_dense`
        found[name] = rebuild(of_states(system, kept, fitted))
    return found


def of_states(system: Any, kept: Any, C: Any) -> Any:
    """The stored states `kept` of a conjugate system, read out by `C`."""
    B, poles = (x.detach().numpy() for x in (system.B, system.log_poles))
    return replace(system, log_poles=poles[kept], B=B[kept], C=C, D=system.D.detach().numpy())


def table(rows: list[dict[str, Any]]) -> str:
    """Mean losses over seeds."""
    body = []
    for task in RANKS:
        for way in WAYS:
            found = [row["losses"] for row in rows if (row["task"], row["way"]) == (task, way)]
            if not found:
                continue
            cells = [f"{np.mean([one[key] for one in found]):.3f}" for key in (*map("{:g}".format, AFTER), "end")]
            at = (
                ["–"] * 2
                if way == "small"
                else [f"{np.mean([one[key] for one in found]):.3f}" for key in ("before", "cut")]
            )
            each = ", ".join(f"{one['end']:.3f}" for one in found)
            body.append([task, str(RANKS[task]), way, *at, *cells, each])
    head = [
        "task",
        "states a layer",
        "what was cut",
        "before",
        "right after",
        *(f"{100 * s:g} % later" for s in AFTER),
        "at the end",
        "of each seed",
    ]
    return markdown(head, body)


if __name__ == "__main__":
    main()
