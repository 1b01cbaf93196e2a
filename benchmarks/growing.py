"""Why more states may be further off in a layer with unstable poles: where the error of a reduction on data comes from.

    python benchmarks/growing.py [--models s5 s5-growing] [--seeds 1] [--out benchmarks/results] [--kept benchmarks/trained]

Two layers of S5 trained on digits as for ``calibration.py``, once with the package's start, once with poles of which many grow.
Cut on data to equal states: as balred cuts, and *plainly*, with no rule for poles and eigenvectors.  Of the plain cut of each layer by
itself, on inputs from test data, the error of its operator's output in the last quarter of the sequences, over the output's size:
when it runs by itself, and when the full layer's states are projected at every position, which is all that the values can tell of.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks_common import markdown, run_missing, training_arguments
from calibration import Judge, calibration
from calibration_models import GROWING, trained

import balred
from balred.cli.train import config_path
from balred.layers.along_data import states_along
from balred.reduction import writing_back
from balred.registry.reading import replace_layers
from balred.studies.data.load_task import load_task
from balred.studies.demo import one_thread
from balred.studies.settings.train_config import read_config
from balred.systems.arrays import double_precision, mapped, to_numpy
from balred.systems.leaves import with_leaves

RANKS = (6, 8, 10, 11, 12, 16, 24, 32)
SEQUENCES = 64


def main() -> None:
    arguments = training_arguments(__doc__, "models", ("s5", GROWING))
    wanted = [{"model": name, "seed": seed} for seed in range(arguments.seeds) for name in arguments.models]
    with one_thread("torch"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_missing(
            arguments.out, "growing", wanted, lambda one: measured(one["model"], one["seed"], arguments.kept), table
        )


def measured(name: str, seed: int, kept: Path) -> dict[str, Any]:
    """A training, and what cuts of it come to."""
    config = read_config(config_path("digits"), "cpu", [])
    task = load_task(config, seed)
    model = trained(name, config, task, seed, kept)
    data, judge = calibration(model, task.train_x, config.validation, SEQUENCES), Judge(model, task)
    analyses = balred.analyze(model.model, calibration=data)
    entered = inputs_of(model.model, analyses, model.inputs(task.test_x[:256]))
    sizes = {n: np.abs(to_numpy(a.system.poles.detach())) for n, a in analyses.items()}
    rows = []
    for rank in RANKS:
        plain, errors = {}, []
        for layer, a in analyses.items():
            small, kept_states = plainly(a, rank)
            plain[layer] = a._rebuild(small.system)
            errors.append(last_quarter(exact(a.system), exact(small.system), kept_states, entered[layer]))
        rows.append({
            "states": rank, "ours": judge(balred.reduce(model.model, rank, calibration=data))["divergence"],
            "plain": judge(replace_layers(model.model, plain))["divergence"],
            "run": [one for one, _ in errors], "projected": [one for _, one in errors],
        })  # fmt: skip
        print(name, seed, rows[-1], flush=True)
    unstable = {
        "outside": [int((x > 1).sum()) for x in sizes.values()],
        "largest": [float(x.max()) for x in sizes.values()],
    }
    return {"length": int(task.length), **unstable, "rows": rows}


def inputs_of(model: Any, layers: Any, x: torch.Tensor) -> dict[str, Any]:
    """What enters each layer."""
    found: dict[str, Any] = {}

    def note(name: str) -> Any:
        return lambda module, given: found.__setitem__(name, given[0].double().numpy())

    hooks = [part.register_forward_pre_hook(note(name)) for name, part in model.named_modules() if name in layers]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return found


def plainly(a: Any, rank: int) -> tuple[writing_back.Reduction, Any]:
    """A cut with no rule for its poles and eigenvectors, and the projection of the states onto those that are left."""
    solved = replace(a.solved, margin=None, mixed=None, forms={})
    writing_back.forms_of(solved, a.settings)._limit = np.inf
    made = writing_back.reduced(solved, a.settings, rank)
    _, L, R = a.settings.row.reduced(solved.state, made.stable_order)
    return made, R @ L


def exact(system: Any) -> Any:
    """In NumPy, in double precision."""
    host = mapped(system, lambda x: to_numpy(x.detach()))
    with double_precision(*host.leaves) as leaves:
        return with_leaves(host, leaves)


def last_quarter(full: Any, small: Any, projection: Any, u: Any) -> tuple[float, float]:
    """The error of the output there over its size, run and projected."""
    C, now = full.to_dense().C.T, slice(-(u.shape[1] // 4), None)
    x = states_along(full, u)[:, now]
    y = x @ C
    run = states_along(small, u)[:, now] @ small.to_dense().C.T
    size = np.linalg.norm(y)
    return float(np.linalg.norm(y - run) / size), float(np.linalg.norm(y - x @ projection.T @ C) / size)


def table(rows: list[dict[str, Any]]) -> str:
    """One for each training."""
    texts = []
    for row in rows:
        outside, largest = (" and ".join(f"{x:.4g}" for x in row[key]) for key in ("outside", "largest"))
        texts.append(
            f"{row['model']}, seed {row['seed']}: {outside} of 64 poles outside the unit circle, the largest {largest}; {row['length']} positions.\n"
        )
        head = [
            "states a layer",
            "divergence, as balred cuts",
            "plainly",
            *(f"error of layer {i}, {how}" for i in (1, 2) for how in ("run", "projected")),
        ]
        body = [
            [str(one["states"]), f"{one['ours']:.2g}", f"{one['plain']:.2g}",
             *(f"{one[how][i]:.3f}" for i in (0, 1) for how in ("run", "projected"))]
            for one in row["rows"]
        ]  # fmt: skip
        texts.append(markdown(head, body))
    return "\n".join(texts)


if __name__ == "__main__":
    main()
