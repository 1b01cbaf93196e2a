"""Two checkouts of the library against each other: what a change costs, or brings, where people wait.

``python benchmarks/checkouts.py OLD NEW`` runs a fresh process of each in turn, so that a busy machine slows both, and prints
the medians and the ratio NEW / OLD of: ``hsv`` and ``reduce`` of dense systems, ``plan`` of a model of LRU layers, a check in
training that ends without a cut, and a cut.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

ROUNDS = 5


def seconds(function: Callable[[], object], repeat: int) -> float:
    """The median time of a call, after one to warm up."""
    function()
    taken = []
    for _ in range(repeat):
        began = time.perf_counter()
        function()
        taken.append(time.perf_counter() - began)
    return median(taken)


def measured() -> dict[str, float]:
    """What one process finds of the library that it imports."""
    import torch

    import balred
    from balred.adapters.torch import LRU, InTrainingReducer

    torch.set_num_threads(1)
    found = {}
    for n, repeat in ((4, 200), (64, 50), (256, 5)):
        g = balred.testing.random_system(n, 2, 2, seed=n)
        found[f"hsv, n = {n}"] = seconds(lambda g=g: balred.hsv(g), repeat)  # type: ignore[misc]
        found[f"reduce, n = {n}"] = seconds(lambda g=g, n=n: balred.reduce(g, n // 2), repeat)  # type: ignore[misc]

    def model(features: int, states: int, layers: int) -> torch.nn.Module:
        random = torch.Generator().manual_seed(0)
        return torch.nn.Sequential(*(LRU(features, states, generator=random) for _ in range(layers)))

    small, wide = model(8, 32, 6), model(16, 64, 6)
    found["plan, 6 LRU(8, 32), to 16"] = seconds(lambda: balred.plan(small, 16), 5)
    found["plan, 6 LRU(16, 64), by energy"] = seconds(lambda: balred.plan(wide, balred.Energy(0.9)), 3)

    def attempt(rule: object, min_cut: float) -> float:
        """The time of an attempt by itself."""
        net = model(8, 32, 6)
        optimizer = torch.optim.AdamW(net.parameters())
        reducer = InTrainingReducer(net, optimizer, rule=rule, window=(0, 1), attempts=1, min_cut=min_cut)
        net(torch.ones(1, 4, 8)).square().mean().backward()
        optimizer.step()
        began = time.perf_counter()
        reducer.step()
        return time.perf_counter() - began

    for name, rule, min_cut in (
        ("a check without a cut, 6 LRU(8, 32)", balred.Energy(0.9999), 0.9),
        ("a cut, 6 LRU(8, 32)", balred.Energy(0.9), 0.05),
        ("a cut within a budget, 6 LRU(8, 32)", balred.Budget(states=90), 0.05),
    ):
        attempt(rule, min_cut)
        found[name] = median(attempt(rule, min_cut) for _ in range(5))
    return found


def main() -> None:
    """Run both in turn and print the table."""
    if sys.argv[1:] == ["--one"]:
        print(json.dumps(measured()))
        return
    checkouts = [Path(p).resolve() for p in sys.argv[1:3]]
    if len(checkouts) != 2:
        raise SystemExit("two checkouts must be given, OLD and NEW")
    runs: list[list[dict[str, float]]] = [[], []]
    for _ in range(ROUNDS):
        for checkout, mine in zip(checkouts, runs, strict=True):
            environment = {**os.environ, "PYTHONPATH": str(checkout), "OPENBLAS_NUM_THREADS": "1"}
            done = subprocess.run(
                [sys.executable, __file__, "--one"], env=environment, capture_output=True, text=True, check=True
            )
            mine.append(json.loads(done.stdout.splitlines()[-1]))
    print("| | old, ms | new, ms | new / old |\n|---|---|---|---|")
    for name in runs[0][0]:
        old, new = (median(run[name] for run in mine) for mine in runs)
        print(f"| {name} | {1e3 * old:.2f} | {1e3 * new:.2f} | {new / old:.2f} |")


if __name__ == "__main__":
    main()
