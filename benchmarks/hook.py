"""What the hook costs a training loop: steps a second with it and without, and after a cut against a model born at that size.

    python benchmarks/hook.py [--rounds 30] [--out benchmarks/results]

The demo's model and loop on one thread.  The trainings take turns, ten steps at a time, so that whatever else the machine does
meets all alike; a figure is the median over the rounds of ratios within a round, with the quartiles.  No attempt falls into the
steps measured "with the hook and no cut": what an attempt costs is in ``overhead.py``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks_common import describe_machine, markdown, write

from balred.studies.data.digits import batches, digits
from balred.studies.demo import one_thread, trainer_of
from balred.studies.settings.records import DemoConfig

BLOCK = 10
CONFIG = DemoConfig()


def trainer_in(framework: str) -> Any:
    """The trainer of a framework; "jax" is equinox."""
    if framework in ("torch", "jax"):
        return trainer_of(framework)
    import hook_models

    return {"linen": hook_models.LinenTrainer, "nnx": hook_models.NnxTrainer}[framework]


def ranks_of(trainer: Any) -> list[int]:
    if hasattr(trainer, "ranks"):
        return trainer.ranks()
    return [int(block.lru.nu_log.shape[0]) for block in trainer.model.blocks]


def runner(framework: Any, config: DemoConfig, states: Any, truncate: bool) -> tuple[Any, Callable[[], float]]:
    """A trainer, and what takes its next steps and returns the seconds."""
    data = digits(0, config.test)
    trainer = trainer_in(framework)(config, states, 0, truncate)
    order = batches(len(data.train_x), config.batch, 10**9, seed=1)

    def steps() -> float:
        began = time.perf_counter()
        for _ in range(BLOCK):
            batch = next(order)
            trainer.train_step(data.train_x[batch], data.train_y[batch])
            trainer.reduce()
        trainer.loss()
        return time.perf_counter() - began

    return trainer, steps


def measure(framework: Any, rounds: int) -> dict[str, list[float]]:
    late = replace(CONFIG, steps=10**7)  # the first attempt is far away
    early = replace(CONFIG, steps=400, attempts=1)
    _, plain = runner(framework, late, CONFIG.states, False)
    _, hooked = runner(framework, late, CONFIG.states, True)
    cut, after = runner(framework, early, CONFIG.states, True)
    for _ in range(early.warmup // BLOCK):
        after()
    ranks = ranks_of(cut)
    assert ranks < list(CONFIG.states)
    _, small = runner(framework, late, ranks, False)
    for steps in (plain, hooked, after, small):
        steps()
    found: dict[str, list[float]] = {"hook over none": [], "cut over born small": [], "full over cut": []}
    for _ in range(rounds):
        a, b, c, d = plain(), hooked(), after(), small()
        found["hook over none"].append(b / a)
        found["cut over born small"].append(c / d)
        found["full over cut"].append(a / c)
    return {**found, "ranks": ranks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--frameworks", nargs="+", default=["torch", "jax", "linen", "nnx"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    records, rows = [], []
    for framework in args.frameworks:
        with one_thread(framework):
            found = measure(framework, args.rounds)
        records.append({"framework": framework, **found})
        cells = []
        for name in ("hook over none", "cut over born small", "full over cut"):
            low, middle, high = np.percentile(found[name], (25, 50, 75))
            cells.append(f"{middle:.3f} ({low:.3f} to {high:.3f})")
        rows.append([framework, *cells, " ".join(map(str, found["ranks"]))])
        print(" | ".join(rows[-1]), flush=True)
    header = [
        "framework", "time with the hook and no cut, over time without", "time after a cut, over a model born at that size",
        "speed after the cut, over the full model's", "states after the cut",
    ]  # fmt: skip
    write(args.out, "hook", {"machine": describe_machine(), "records": records}, markdown(header, rows))


if __name__ == "__main__":
    main()
