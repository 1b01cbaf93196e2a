"""What to do with a trained model: cut on white noise or on data, recovered or not, and what a ``Divergence`` promises and keeps.

    python benchmarks/recovery.py [--models digits text] [--seeds 3] [--out benchmarks/results] [--kept benchmarks/trained]

The models of ``calibration.py``, and Mamba and Mamba-2 on text, trained to the end.  Each is cut to a few sizes, on white noise and on data, and then trained on for a
twentieth of its steps, with a tenth of the largest rate falling to zero along a cosine and fresh moments; the full model is trained on
the same way, so that what further training gives by itself is seen.  Then ``balred.reduce(model, Divergence(tolerance),
calibration=data)``: how many states it keeps, what it measured on calibration data kept out, and what the divergence is on test data.
Once with training sequences as calibration data, as above, and once with fresh ones: the first half of the test data, judged on the other half.
Rows that are there are not run again.
"""

from __future__ import annotations

import copy
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from benchmarks_common import markdown, run_missing, training_arguments
from calibration import SEQUENCES, Judge, calibration, cut
from calibration_models import trained

import balred
from balred.cli.train import config_path
from balred.registry import layers_of
from balred.registry.sizes import ranks_of
from balred.studies.data.load_task import load_task
from balred.studies.demo import one_thread
from balred.studies.settings.plan import Order
from balred.studies.settings.train_config import read_config

MODELS = {
    "digits": ("digits", (8, 16, 32)),
    "listops": ("listops", (8, 16, 32)),
    "text": ("text", (16, 32, 64)),
    "s5": ("digits", (4, 8, 16)),
    "s4d": ("digits", (4, 8, 16)),
    "mamba": ("mamba_text", (4, 12, 32)),
    "mamba2": ("mamba_text", (4, 8, 16)),
}
TOLERANCES = (0.003, 0.01, 0.03)
SHARE, RATE = 0.05, 0.1
BASES = ("noise", "data")
SELECTIVE = ("mamba", "mamba2")
"""Their states have no values on white noise: in its place are states drawn at random, with C refitted."""


def main() -> None:
    arguments = training_arguments(__doc__, "models", MODELS)
    wanted = [{"model": name, "seed": seed} for seed in range(arguments.seeds) for name in arguments.models]
    with one_thread("torch"):
        run_missing(
            arguments.out, "recovery", wanted, lambda one: measured(one["model"], one["seed"], arguments.kept),
            lambda rows: "\n".join(tables(rows)), share=SHARE, rate=RATE, sequences=SEQUENCES,
        )  # fmt: skip


def measured(name: str, seed: int, kept: Path) -> dict[str, Any]:
    """A training, the cuts of it, and how they recover."""
    task_name, ranks = MODELS[name]
    config = read_config(config_path(task_name), "cpu", [])
    task = load_task(config, seed)
    model = trained(name, config, task, seed, kept)
    data = calibration(model, task.train_x, config.validation, SEQUENCES)
    judge = Judge(model, task)
    again = partial(recovered, config=config, task=task, seed=seed, after=model.steps)
    ways = []
    for rank in ranks:
        row: dict[str, Any] = {"rank": rank}
        for basis in BASES:
            blind = {"selection": "random"} if name in SELECTIVE else {"balanced_on": "noise"}
            small, left = cut(model, rank, data, **(blind if basis == "noise" else {}))
            row[basis] = judge(small) | {"left": left}
            row[f"{basis} recovered"] = judge(again(small))
        ways.append(row)
        print(name, seed, row, flush=True)
    kept_states = []
    half = len(task.test_x) // 2
    fresh = calibration(model, task.test_x, 0, min(half, SEQUENCES))
    rest = Judge(model, SimpleNamespace(test_x=task.test_x[half:], test_y=task.test_y[half:]))
    for source, given, by in (("training", data, judge), ("fresh", fresh, rest)):
        for tolerance in TOLERANCES:
            plan = balred.plan(model.model, balred.Divergence(tolerance), calibration=given)
            small = plan.apply()
            assert plan.divergence is not None
            kept_states.append({
                "calibration": source, "tolerance": tolerance, "states": list(ranks_of(layers_of(small)).values()),
                "measured": plan.divergence.value, "error": plan.divergence.error, **by(small), "full loss": by.loss,
            })  # fmt: skip
            print(name, seed, kept_states[-1], flush=True)
    return {
        "steps": model.steps, "states": list(model.states), "full": {"loss": judge.loss, "accuracy": judge.accuracy},
        "full recovered": judge(again(model.model)), "ways": ways, "divergences": kept_states,
    }  # fmt: skip


def recovered(model: Any, config: Any, task: Any, seed: int, after: int) -> Any:
    """A copy, trained on with the batches that would have come next."""
    model = copy.deepcopy(model).train()
    steps = max(1, round(SHARE * after))
    order = Order(len(task.train_y) - config.validation, config.batch, seed + 1000)
    optimizer = torch.optim.AdamW(model.parameters(), RATE * config.rate, weight_decay=0.0)
    for i in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * config.rate * 0.5 * (1 + math.cos(math.pi * i / steps))
        batch = config.validation + order.at(after + 1 + i)
        optimizer.zero_grad()
        logits = model(torch.from_numpy(np.ascontiguousarray(task.inputs(task.train_x[batch]))))
        targets = torch.from_numpy(task.train_y[batch]).flatten()
        torch.nn.functional.cross_entropy(logits.flatten(0, -2), targets).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip or 1.0)
        optimizer.step()
    return model.eval()


def tables(rows: list[dict[str, Any]]) -> list[str]:
    """Means over seeds: losses by states, and what a divergence promises and keeps."""
    names = [name for name in MODELS if any(row["model"] == name for row in rows)]
    body, kept = [], []
    for name in names:
        found = [row for row in rows if row["model"] == name]
        states, seeds = " + ".join(map(str, found[0]["states"])), str(len(found))

        def loss(values: Any, name: str = name) -> str:
            return f"{np.mean([one['loss'] for one in values]):.3f}"

        body.append([
            name, f"full: {states}", loss(r["full"] for r in found), "", loss(r["full recovered"] for r in found), "", seeds,
        ])  # fmt: skip
        for i, rank in enumerate(row["rank"] for row in found[0]["ways"]):
            cuts = [x["ways"][i] for x in found]
            cells = [loss(c[way] for c in cuts) for b in BASES for way in (b, f"{b} recovered")]
            mark = "\\*" * any(c["noise"]["left"] for c in cuts) + "†" * (name in SELECTIVE)
            body.append([name, str(rank), cells[0] + mark, cells[2], cells[1] + mark, cells[3], seeds])
        for i in range(len(found[0]["divergences"])):
            told = [x["divergences"][i] for x in found]
            each = [", ".join("+".join(map(str, t["states"])) for t in told)]
            measured = ", ".join(f"{t['measured']:.4f}" for t in told)
            test = ", ".join(f"{t['divergence']:.4f}" for t in told)
            change = np.mean([t["loss"] - t["full loss"] for t in told])
            first = told[0]
            kept.append([
                name, first["calibration"], f"{first['tolerance']:g}", states, *each, measured, test, f"{change:+.4f}",
            ])  # fmt: skip
    head = [
        "model",
        "states a layer",
        "cut on white noise",
        "cut on data",
        "white, recovered",
        "data, recovered",
        "seeds",
    ]
    left = (
        "\\* Some seed keeps a layer as it is: on white noise unstable poles are kept, and it has more than the states.\n"
        if any(c["noise"]["left"] for row in rows for c in row["ways"])
        else ""
    )
    return [
        f"Test loss in nats; recovered: trained on for {100 * SHARE:g} % of the steps. The full model stands in the columns of white noise.\n",
        markdown(head, body),
        *([left] if left else []),
        *(
            ["† States drawn at random, with C refitted on data: Mamba has no Gramians.\n"]
            if {*names} & {*SELECTIVE}
            else []
        ),
        "`Divergence`: by seed the states it keeps, what it measured on calibration data kept out, and the divergence on test data.\n",
        markdown(
            [
                "model",
                "data",
                "tolerance, nats",
                "states",
                "kept",
                "measured",
                "on test data",
                "change of the test loss",
            ],
            kept,
        ),
        kept_within(rows),
    ]


def kept_within(rows: list[dict[str, Any]]) -> str:
    """How often the divergence on test data is within the tolerance, and by how much it is not."""
    body = []
    for source in ("training", "fresh"):
        all_of = [d for row in rows for d in row["divergences"] if d["calibration"] == source]
        over = [d["divergence"] / d["tolerance"] for d in all_of]
        counts = [sum(x <= most for x in over) for most in (1, 1.1)]
        body.append([source, *(f"{n} of {len(over)}" for n in counts), f"{max(over):.2f}"])
    head = ["data", "within the tolerance on test data", "within 1.1 times it", "worst, in tolerances"]
    return markdown(head, body)


if __name__ == "__main__":
    main()
