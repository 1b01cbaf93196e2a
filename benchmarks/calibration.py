"""What balancing on data is worth: trained models cut to equal states on white noise, on inputs and on data.

    python benchmarks/calibration.py [--models digits listops] [--seeds 3] [--out benchmarks/results]

The models are those of :mod:`balred.studies` at CPU scale, trained here to the end as `balred train` trains them.  They are then cut as
they are, without recovery, and compared with the full model on test data: the mean Kullback-Leibler divergence of the answers in
nats, the loss, and how many times smaller the divergence is on data than on white noise.  Calibration data are training
sequences, without labels.  The cost is that of a whole ``balred.reduce``, in training steps of the same model at its batch size.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks_common import best_of, describe_machine, markdown, write

import balred
from balred.cli.train import config_path
from balred.studies.data.load_task import load_task
from balred.studies.demo import one_thread
from balred.studies.settings.plan import Order
from balred.studies.settings.train_config import read_config
from balred.studies.training.run_torch import TorchRun, evaluate

SEQUENCES = 256
"""Of calibration."""
RANKS = {"digits": (8, 16, 32, 64, 128), "listops": (8, 16, 32, 64), "text": (8, 16, 32, 64)}
LEAST = 1e-6
"""Nats, below which a divergence counts as this."""
BASES = ("noise", "inputs", "data")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(RANKS), choices=list(RANKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=0, help="other than the study's")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    with one_thread("torch"):
        found = [measured(name, seed, arguments.steps) for name in arguments.models for seed in range(arguments.seeds)]
    result = {"machine": describe_machine(), "sequences": SEQUENCES, "trainings": found}
    table = "\n".join(
        text for name in arguments.models for text in tables(name, [x for x in found if x["model"] == name])
    )
    print(table)
    write(arguments.out, "calibration", result, table)


def measured(name: str, seed: int, steps: int) -> dict[str, Any]:
    """A training, and what the cuts of it come to."""
    config = read_config(config_path(name), "cpu", [f"steps={steps}"] if steps else [])
    task = load_task(config, seed)
    trainer = TorchRun(config, task, config.states, seed)
    order, kept = Order(len(task.train_y) - config.validation, config.batch, seed + 1000), config.validation
    for step in range(1, config.steps + 1):
        batch = kept + order.at(step)
        trainer.train_step(task.train_x[batch], task.train_y[batch])
    model = trainer.model.eval()

    def inputs(x: Any) -> torch.Tensor:
        return torch.from_numpy(task.inputs(x))

    def answers(model: Any) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([model(part) for part in inputs(task.test_x).split(64)]).double().log_softmax(-1)

    data, full = inputs(task.train_x[kept : kept + SEQUENCES]), answers(model)
    rows = []
    for rank in RANKS[name]:
        row: dict[str, Any] = {"rank": rank}
        for basis in BASES:
            small = cut(model, rank, data, basis)
            apart = (full.exp() * (full - answers(small))).sum(-1).mean()
            accuracy, loss = evaluate(small, task, task.test_x, task.test_y)
            row[basis] = {"divergence": float(apart), "loss": loss, "accuracy": accuracy}
        rows.append(row)
        print(name, seed, row, flush=True)
    batch = kept + order.at(1)
    accuracy, loss = evaluate(model, task, task.test_x, task.test_y)
    step_seconds, _ = best_of(lambda: trainer.train_step(task.train_x[batch], task.train_y[batch]), 5)
    rank = RANKS[name][1]
    seconds = {"noise": best_of(lambda: cut(model, rank, data, "noise"), 3)[0]}
    seconds |= {str(n): best_of(lambda n=n: cut(model, rank, data[:n], "data"), 3)[0] for n in (64, SEQUENCES)}
    return {
        "model": name, "seed": seed, "steps": config.steps, "states": list(config.states), "batch": config.batch,
        "full": {"loss": loss, "accuracy": accuracy}, "cuts": rows, "step": step_seconds, "seconds": seconds,
    }  # fmt: skip


def cut(model: Any, rank: int, data: torch.Tensor, basis: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", balred.ranks.RankWarning)
        return balred.reduce(model, rank, calibration=data, balanced_on=basis)


def tables(name: str, found: list[dict[str, Any]]) -> list[str]:
    """Means over seeds, and the least and the largest ratio."""
    states, seeds = found[0]["states"], len(found)

    def mean(values: Any) -> float:
        return float(np.mean(list(values)))

    rows = []
    for i, rank in enumerate(RANKS[name]):
        cuts = [x["cuts"][i] for x in found]
        ratios = [max(c["noise"]["divergence"], LEAST) / max(c["data"]["divergence"], LEAST) for c in cuts]
        apart = [f"{mean(c[b]['divergence'] for c in cuts):.2g}" for b in BASES]
        losses = [f"{mean(c[b]['loss'] for c in cuts):.3f}" for b in BASES]
        rows.append(
            [
                str(rank),
                *apart,
                f"{min(ratios):.1f}x to {max(ratios):.1f}x" if seeds > 1 else f"{ratios[0]:.1f}x",
                *losses,
            ]
        )
    loss = mean(x["full"]["loss"] for x in found)
    head = ["states a layer", *(f"divergence, {b}" for b in BASES), "noise / data", *(f"loss, {b}" for b in BASES)]
    costs = {key: mean(x["seconds"][key] / x["step"] for x in found) for key in found[0]["seconds"]}
    told = (
        f"{name}: {' + '.join(map(str, states))} states, {found[0]['steps']} steps, {seeds} seed{'s' * (seeds > 1)}; loss of the full "
        f"model {loss:.3f}. One reduction in training steps: {costs['noise']:.1f} on noise, {costs['64']:.1f} on 64 sequences, "
        f"{costs[str(SEQUENCES)]:.1f} on {SEQUENCES}.\n"
    )
    return [told, markdown(head, rows)]


if __name__ == "__main__":
    main()
