"""What in-training truncation costs a training: a check of every layer, and a cut, against a training step.

    python benchmarks/overhead.py [--models demo cifar] [--out benchmarks/results]

A check is all that happens at an attempt that cuts nothing: Hankel singular values of all layers, the rank choice, the policy.
A cut is an attempt that cuts every layer to a quarter: the same, and the smaller layers, put in place with the optimizer's
state.  "On data" is a cut that is balanced on data, of which a reducer takes 32 sequences unless it is told otherwise; the first one
of a training compiles programs in JAX, and those that follow run them.  Making the reducer, and its first step, which
looks for other optimizers, are not counted: a training does so once.
Two models of :mod:`balred.studies`: the demo's, an LRU of 256 states in width 64, batch 32, length 64; and six
LRUs of 384 states in width 512 as for sequential CIFAR-10, length 1024, with a batch of 4 instead of 50, so that the
step is shorter than a real one and the share of the check larger.  The demo's runs on one thread, as the demo does, and its
times are those of the processor: a cut is so much longer than a step that other work on the machine would meet it more often.  The other
runs on all threads, by the clock on the wall.  Memory is what Python's allocator saw at its peak
during a check, above what was there before, as a multiple of the parameters of the layers.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import time
import tracemalloc
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from benchmarks_common import describe_machine, markdown, write

import balred
from balred.adapters.equinox import InTrainingReducer as JaxReducer
from balred.adapters.torch import InTrainingReducer as TorchReducer
from balred.studies.demo import one_thread
from balred.studies.models.jax_models import Classifier as JaxClassifier
from balred.studies.models.torch_models import Classifier as TorchClassifier

MODELS = {
    "demo": ("demo: LRU 256, H 64", (64, (256,), 32, 64), time.process_time),
    "cifar": ("6 x LRU 384, H 512", (512, (384,) * 6, 4, 1024), time.perf_counter),
}
Clock = Callable[[], float]
EVERY = 100
SEQUENCES = 32
NEVER = balred.Energy(1.0)
"""A rule that keeps all there is to keep: at most the numerically zero values are cut, which `min_cut` forbids."""


def of_torch(width: int, states: tuple[int, ...], batch: int, length: int, clock: Clock) -> dict[str, Any]:
    model = TorchClassifier(width, states, seed=0, ring=(0.9, 0.999))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    x, y = torch.randn(batch, length), torch.randint(0, 10, (batch,))

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    def attempt(rule: Any, min_cut: float, on_data: bool = False) -> Callable[[], Any]:
        mine = (model, optimizer) if not on_data else copied(model)
        data = torch.randn(SEQUENCES, length) if on_data else None
        reducer = TorchReducer(*mine, rule=rule, window=(0, 2), attempts=1, min_cut=min_cut, calibration=data)
        reducer.step()
        return reducer.step

    return measured(
        step, attempt, states, layer_bytes(p.nbytes for b in model.blocks for p in b.lru.parameters()), clock
    )


def best_of(function: Callable[[], Any], repeats: int, clock: Clock) -> tuple[float, Any]:
    """The shortest time of some calls by `clock`, and the last result."""
    times = []
    for _ in range(repeats):
        began = clock()
        result = function()
        times.append(clock() - began)
    return min(times), result


def copied(model: Any) -> tuple[Any, Any]:
    new = copy.deepcopy(model)
    return new, torch.optim.AdamW(new.parameters(), lr=1e-4)


def of_jax(width: int, states: tuple[int, ...], batch: int, length: int, clock: Clock) -> dict[str, Any]:
    model = JaxClassifier(width, states, ring=(0.9, 0.999), key=jax.random.key(0))
    optimizer = optax.adamw(1e-4)
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    x, y = jax.random.normal(jax.random.key(1), (batch, length)), jnp.zeros(batch, jnp.int32)

    @eqx.filter_jit
    def update(model: Any, state: Any) -> Any:
        def loss(model: Any) -> Any:
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(model(x), y))

        updates, new = optimizer.update(eqx.filter_grad(loss)(model), state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), new

    @cache
    def attempt(rule: Any, min_cut: float, on_data: bool = False) -> Callable[[], Any]:
        data = jax.random.normal(jax.random.key(2), (SEQUENCES, length)) if on_data else None
        reducer = JaxReducer(rule=rule, window=(0, 1), attempts=1, min_cut=min_cut, calibration=data)
        begun = reducer.init(model)
        return lambda: reducer.update(model, state, begun, 1)[-1]

    sizes = (p.nbytes for b in model.blocks for p in jax.tree.leaves(eqx.filter(b.lru, eqx.is_array)))
    return measured(lambda: jax.block_until_ready(update(model, state)), attempt, states, layer_bytes(sizes), clock)


def layer_bytes(sizes: Any) -> int:
    return int(sum(sizes))


def measured(
    step: Callable[[], Any], attempt: Callable[..., Callable[[], Any]], states: tuple[int, ...], size: int, clock: Clock
) -> dict[str, Any]:
    """Best times of a step and of a check, the memory of a check, and then the one cut."""
    step()
    fast = best_of(step, 1, clock)[0]
    rounds = 3 if fast > 1 else 20
    seconds = {"step": fast}
    for _ in range(rounds):  # in turn, so that both meet the machine in the same moods
        seconds["step"] = min(seconds["step"], best_of(step, 1, clock)[0])
        spent, report = best_of(attempt(NEVER, 0.9), 1, clock)
        assert not report.cuts, report
        seconds["check"] = min(seconds.get("check", np.inf), spent)
    check = attempt(NEVER, 0.9)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    check()
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    quarter = balred.Order(states[0] // 4)
    if len(states) == 1:
        times = []
        for _ in range(6):
            spent, report = best_of(attempt(quarter, 0.05, True), 1, clock)
            assert all(cut.note.startswith("balanced on data") for cut in report.cuts), report
            times.append(spent)
            seconds["step"] = min(seconds["step"], best_of(step, 3, clock)[0])
        seconds |= {"first on data": times[0], "on data": min(times[1:])}
    seconds["cut"], report = best_of(attempt(quarter, 0.05), 1, clock)  # changes the model
    assert len(report.cuts) == len(states), report
    return {"seconds": seconds, "peak": peak, "parameters": size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models", nargs="+", default=list(MODELS), choices=list(MODELS), help="others keep their rows"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    before = args.out / "overhead.json"
    old = json.loads(before.read_text())["rows"] if before.exists() else []
    rows = []
    for key, (name, shape, clock) in MODELS.items():
        if key not in args.models:
            rows += [row for row in old if row["model"] == name]
            continue
        for framework, make in (("torch", of_torch), ("jax", of_jax)):
            with one_thread(framework) if key == "demo" else contextlib.nullcontext():
                rows.append({"model": name, "framework": framework, **make(*shape, clock)})
            print(rows[-1], flush=True)
    header = ["model", "framework", "a step", "a check", f"a check every {EVERY} steps", "a cut", "a cut on data", "the first of a training", "memory of a check", "of the layers' parameters"]  # fmt: skip
    text = markdown(header, [cells(row) for row in rows])
    print(text)
    write(args.out, "overhead", {"machine": describe_machine(), "rows": rows}, text)


def cells(row: dict[str, Any]) -> list[str]:
    """What the table says of a row."""
    t = row["seconds"]
    return [
        row["model"], row["framework"], f"{t['step']:.3g} s", f"{t['check'] / t['step']:.2f} steps", f"{100 * t['check'] / (EVERY * t['step']):.2f} %",
        f"{t['cut'] / t['step']:.2f} steps",
        *(f"{t[key] / t['step']:.0f} steps" if key in t else "–" for key in ("on data", "first on data")), f"{row['peak'] / 2**20:.0f} MiB", f"{row['peak'] / row['parameters']:.1f}x",
    ]  # fmt: skip


if __name__ == "__main__":
    main()
