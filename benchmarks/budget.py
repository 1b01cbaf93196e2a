"""One number of states for a whole model: equal ranks in every layer against ranks shared out by marginal error.

    python benchmarks/budget.py [--seeds 3] [--layers 4] [--states 64] [--out benchmarks/results]

Models of LRU layers trained on the demo's data, then cut to a share of their states without further training.  For each
share: test accuracy, and how far the predictions moved from the full model's (Kullback-Leibler divergence), means over seeds.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks_common import describe_machine, markdown, write

import balred
from balred.registry import layers_of
from balred.studies.data.digits import digits
from balred.studies.demo import one_thread
from balred.studies.settings.records import DemoConfig, RunRecord
from balred.studies.training.loop import train
from balred.studies.training.train_torch import TorchTrainer

SHARES = (0.5, 0.375, 0.25, 0.1875, 0.125, 0.0625)


def trained(config: DemoConfig, seed: int) -> Any:
    data = digits(seed, config.test)
    held: list[TorchTrainer] = []

    def make() -> TorchTrainer:
        held.append(TorchTrainer(config, config.states, seed, truncate=False))
        return held[0]

    with one_thread("torch"):
        for _ in train(make, data, RunRecord("full", seed, config)):
            pass
    return held[0].model.eval(), torch.from_numpy(data.test_x), torch.from_numpy(data.test_y)


def logits(model: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model(part) for part in x.split(300)]).log_softmax(-1)


def choices(total: int, layers: int) -> tuple[tuple[str, Any], ...]:
    shared = balred.Budget(states=total)
    return ("equal", total // layers), ("Budget", shared), ("Budget, relative", replace(shared, relative=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--states", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    config = DemoConfig(states=(args.states,) * args.layers)
    models = [trained(config, seed) for seed in range(args.seeds)]
    full = [logits(model, x) for model, x, _ in models]
    right = [float((own.argmax(-1) == y).float().mean()) for own, (_, _, y) in zip(full, models, strict=True)]
    records: list[dict[str, Any]] = [{"choice": "full", "states": args.layers * args.states, "accuracy": right}]
    rows = [["full", str(args.layers * args.states), "", f"{100 * np.mean(right):.1f}", ""]]
    print(" | ".join(rows[-1]), flush=True)
    for share in SHARES:
        total = int(share * args.layers * args.states)
        for name, ranks in choices(total, args.layers):
            found = []
            for (model, x, y), own in zip(models, full, strict=True):
                small = balred.reduce(model, ranks)
                sizes = [balred.adapt(layer)[0].states for layer in layers_of(small).values()]
                new = logits(small, x)
                moved = float((own.exp() * (own - new)).sum(-1).mean())
                found.append((float((new.argmax(-1) == y).float().mean()), moved, sizes))
            records += [
                {"choice": name, "states": total, "accuracy": a, "divergence": m, "ranks": s} for a, m, s in found
            ]
            rows.append([
                name, str(total), " / ".join(" ".join(map(str, s)) for _, _, s in found),
                f"{100 * np.mean([a for a, _, _ in found]):.1f}", f"{np.mean([m for _, m, _ in found]):.4f}",
            ])  # fmt: skip
            print(" | ".join(rows[-1]), flush=True)
    header = ["ranks", "states", "by layer, each seed", "test accuracy %", "divergence from the full model"]
    write(args.out, "budget", {"machine": describe_machine(), "records": records}, markdown(header, rows))


if __name__ == "__main__":
    main()
