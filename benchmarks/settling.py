"""Do values along data settle earlier than Hankel singular values?  Both followed through trainings.

    python benchmarks/settling.py [--tasks digits text] [--seeds 3] [--out benchmarks/results]

Full models of :mod:`balred.studies` at CPU scale, looked at after shares of their training: on white noise, and on 64 training
sequences with the scalar ``outputs``.  States are followed from look to look by the overlap of their directions
(:func:`balred.measures.stability.track`); Kendall's correlation is that with the order at the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from benchmarks_common import markdown, run_missing, train, training_arguments

import balred
from balred.cli.train import config_path
from balred.hankel.spectrum import Spectrum, spectrum, spectrum_of
from balred.measures.stability import rank_correlation, rank_drift, tail_energy, track
from balred.reduction.analysis import sums_along
from balred.registry import layers_of
from balred.selection import Calibration
from balred.studies.data.load_task import load_task
from balred.studies.demo import one_thread
from balred.studies.settings.plan import Order
from balred.studies.settings.train_config import read_config
from balred.studies.training.loop import host_system
from balred.studies.training.run_torch import TorchRun
from balred.systems.arrays import double_precision
from balred.systems.leaves import with_leaves

TASKS = ("digits", "text", "listops")
SHARES = (0.0, 0.0125, 0.05, 0.1, 0.2, 0.5, 1.0)
SEQUENCES = 64
RULE = balred.Energy(0.95)
BASES = ("noise", "data")


def main() -> None:
    arguments = training_arguments(__doc__, "tasks", TASKS)
    wanted = [{"task": task, "seed": seed} for seed in range(arguments.seeds) for task in arguments.tasks]
    with one_thread("torch"):
        run_missing(
            arguments.out, "settling", wanted, lambda one: run(one["task"], one["seed"], arguments.steps), table,
            rule=str(RULE), sequences=SEQUENCES,
        )  # fmt: skip


def run(name: str, seed: int, steps: int) -> dict[str, Any]:
    """One training, and how the values of its layers moved."""
    config = read_config(config_path(name), "cpu", [f"steps={steps}"] if steps else [])
    task = load_task(config, seed)
    order, held = Order(len(task.train_y) - config.validation, config.batch, seed + 1000), config.validation
    trainer = TorchRun(config, task, config.states, seed)
    data = torch.from_numpy(task.inputs(task.train_x[held : held + SEQUENCES]))
    looks = [round(share * config.steps) for share in SHARES]
    seen: dict[str, dict[str, list[Spectrum]]] = {}
    last = 0
    for step in looks:
        train(trainer.train_step, task, order, held, last + 1, step)
        last = step
        for layer, basis, one in spectra(trainer.model, data, seed):
            seen.setdefault(layer, {}).setdefault(basis, []).append(one)
    return {
        "steps": config.steps, "looks": looks,
        "layers": {layer: {basis: moved(found) for basis, found in by.items()} for layer, by in seen.items()},
    }  # fmt: skip


def spectra(model: Any, data: Any, seed: int) -> Any:
    """Layer, basis and spectrum, in the coordinates of the layer's states."""
    systems = {name: host_system(layer) for name, layer in layers_of(model).items()}
    wanted = {name: (layer, balred.adapt(layer)[0]) for name, layer in layers_of(model).items()}
    sums = sums_along(model, wanted, Calibration(data, seed=seed, balanced_on="data"))
    for name, system in systems.items():
        dense, along = system.to_dense(), sums[name]
        with double_precision(*system.leaves) as leaves:
            yield name, "noise", spectrum(with_leaves(system, leaves), None)
        yield (
            name,
            "data",
            spectrum_of(dense, *(factor(x) for x in (along.P / along.positions, along.Q / along.predictions))),
        )


def factor(P: Any) -> Any:
    """Z with Z Z^T = P."""
    values, vectors = np.linalg.eigh((P + P.T) / 2)
    return vectors * np.sqrt(np.maximum(values, 0.0))


def moved(found: list[Spectrum]) -> dict[str, Any]:
    """At every look: Kendall's correlation with the end, states that the rule asks for, and the share beyond the final choice."""
    followed = track(found)
    orders = rank_drift([s.sigma for s in found], RULE)
    return {
        "states": int(followed.shape[1]),
        "kendall": [round(rank_correlation(values, followed[-1]), 4) for values in followed],
        "ranks": [int(np.ceil(k / 2)) for k in orders],
        "tail": [round(tail_energy(s.sigma, int(orders[-1])), 5) for s in found],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Means over seeds."""
    body = []
    for task in TASKS:
        found = [row for row in rows if row["task"] == task]
        for layer in found[0]["layers"] if found else ():
            for what, key, digits in (("Kendall", "kendall", 2), ("states asked for", "ranks", 0), ("tail", "tail", 3)):
                for basis in BASES:
                    values = np.mean([row["layers"][layer][basis][key] for row in found], axis=0)
                    cells = [f"{x:.{digits}f}" for x in values]
                    body.append([task, layer.split(".")[1], what, basis, *cells, str(len(found))])
    return markdown(["task", "layer", "", "values on", *(f"{100 * s:g} %" for s in SHARES), "seeds"], body)


if __name__ == "__main__":
    main()
