"""What should become of Adam's moments at a cut?  Both answers, on the demo's data, in one run.

    python benchmarks/moments.py [--seeds 3] [--frameworks torch jax] [--out benchmarks/results]

Trains the demo's truncated model with ``moments="reset"`` and with ``moments="carry"``, the same start, batches and
schedule, and prints test accuracy, final states and the loss right after the last cut.  The defaults of the two
``InTrainingReducer`` follow from this table.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from benchmarks_common import describe_machine, markdown, write

from balred.studies.data.digits import digits
from balred.studies.demo import one_thread, trainer_of
from balred.studies.settings.records import DemoConfig, Framework, RunRecord
from balred.studies.training.loop import train


def one(framework: Framework, moments: str, seed: int, config: DemoConfig) -> dict[str, object]:
    record = RunRecord("truncated", seed, replace(config, moments=moments))
    make = partial(trainer_of(framework), record.config, config.states, seed, True)
    with one_thread(framework):
        losses = {event.step: event.loss for event in train(make, digits(seed, config.test), record)}
    after = [loss for step, loss in losses.items() if config.warmup < step <= config.warmup + 200]
    return {
        "framework": framework,
        "moments": moments,
        "seed": seed,
        "accuracy": record.accuracy,
        "states": sum(record.ranks.values()),
        "loss in the 200 steps after the last cut": float(np.mean(after)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--frameworks", nargs="+", default=["torch", "jax"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    config = DemoConfig(width=16, steps=2000, attempts=2)
    rows = []
    for framework in args.frameworks:
        for seed in range(args.seeds):
            for moments in ("reset", "carry"):
                rows.append(one(framework, moments, seed, config))
                print(json.dumps(rows[-1]), flush=True)
    table = []
    for framework in args.frameworks:
        for moments in ("reset", "carry"):
            mine = [r for r in rows if (r["framework"], r["moments"]) == (framework, moments)]
            accuracy = [100 * float(r["accuracy"]) for r in mine]  # type: ignore[arg-type]
            loss = [float(r["loss in the 200 steps after the last cut"]) for r in mine]  # type: ignore[arg-type]
            table.append([
                framework, moments, f"{np.mean(accuracy):.2f} ± {np.std(accuracy):.2f}",
                " ".join(f"{a:.1f}" for a in accuracy), f"{np.mean(loss):.3f}", " ".join(str(r["states"]) for r in mine),
            ])  # fmt: skip
    header = ["framework", "moments", "test accuracy %", "by seed", "loss, 200 steps after the cut", "final states"]
    text = markdown(header, table)
    print(text)
    write(args.out, "moments", {"machine": describe_machine(), "config": repr(config), "rows": rows}, text)


if __name__ == "__main__":
    main()
