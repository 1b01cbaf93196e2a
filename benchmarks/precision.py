"""How right the Hankel singular values are, by their size: against 100 digits; and the ranks that float32 chooses.

    python benchmarks/precision.py [--out benchmarks/results]

First table: the largest relative error among the values of one size (relative to the first), over systems of a kind; a dash
where no value of that size exists, "none" where no digit is right.  All contenders get the same float64 data; float32 is
``precision="float32"``.  Second table: on float32 layers, random ones and trained ones, how many of the ranks chosen in
float32 are those of float64.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import slycot
import torch
from benchmarks_common import describe_machine, markdown, write

import balred
from balred.studies.data.digits import digits
from balred.studies.settings.records import DemoConfig
from balred.studies.training.train_torch import TorchTrainer

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from oracle import oracle_hsv
from plants import lru_like, s4d_like
from s4d_layers import Mixer

SIZES = ((1.0, 1e-3), (1e-3, 1e-6), (1e-6, 1e-9), (1e-9, 1e-12), (1e-12, 1e-20))
TAUS = (1e-1, 1e-2, 1e-3)
SEEDS = 5


def lru(seed: int) -> Any:
    """16 stored states, 4 inputs and outputs."""
    return double(lru_like(seed, n=16))


def channel(seed: int) -> Any:
    """16 stored states, one input, one output: decay 1/2, angles of odd multiples of pi/2, a step of 0.01 to 0.1."""
    rng = np.random.default_rng(seed)
    poles = -0.5 + 0.5j * np.pi * (2 * np.arange(16) + 1)
    step = np.exp(rng.uniform(np.log(1e-2), np.log(1e-1)))
    C = rng.standard_normal((1, 16)) + 1j * rng.standard_normal((1, 16))
    return balred.diagonal(
        log_poles=step * poles, B=(np.expm1(step * poles) / poles)[:, None], C=C, dt=1, conjugate=True
    )


def real_channel(seed: int) -> Any:
    """S4D-Real: 16 states with poles -1 to -16, one input, one output."""
    rng = np.random.default_rng(seed)
    poles = -np.arange(1.0, 17.0) + 0j
    step = np.exp(rng.uniform(np.log(1e-2), np.log(1e-1)))
    C = rng.standard_normal((1, 16)) + 0j
    return balred.diagonal(log_poles=step * poles, B=(np.expm1(step * poles) / poles)[:, None], C=C, dt=1)


def heat(seed: int) -> Any:
    """A rod in 20 to 24 cells."""
    n = 20 + seed
    A = n**2 * (np.diag(np.ones(n - 1), 1) - 2 * np.eye(n) + np.diag(np.ones(n - 1), -1))
    return balred.ss(A, n**2 * np.eye(n)[:, :1], np.eye(n)[-1:])


def double(g: Any) -> Any:
    log_poles, B, C = (np.asarray(x, complex) for x in g.leaves)
    return balred.diagonal(log_poles=log_poles, B=B, C=C, dt=1, conjugate=True)


def slicot(g: Any) -> Any:
    dense = g if isinstance(g, balred.DenseSystem) else g.to_dense()
    A, B, C = (np.array(np.real(x), order="F") for x in dense.leaves)
    kind = "D" if g.discrete else "C"
    return slycot.ab09ad(kind, "B", "N", len(A), B.shape[1], C.shape[0], A, B, C, nr=1)[-1]


WAYS: dict[str, Callable[[Any], Any]] = {
    "balred": balred.hsv,
    "cauchy": lambda g: balred.hsv(g, solver="cauchy"),
    "float32": lambda g: balred.hsv(g, precision="float32"),
    "slycot ab09ad": slicot,
}


def accuracy() -> tuple[list[list[str]], list[dict[str, Any]]]:
    table, records = [], []
    for kind, make in (
        ("LRU, 4 inputs", lru),
        ("S4D channel", channel),
        ("S4D-Real channel", real_channel),
        ("heat, dense", heat),
    ):
        systems = [make(seed) for seed in range(SEEDS)]
        truths = [oracle_hsv(g, 100) for g in systems]
        for way, values in WAYS.items():
            if way == "cauchy" and "channel" not in kind:
                continue
            cells = []
            found = [np.asarray(values(g), dtype=float) for g in systems]
            for high, low in SIZES:
                errors = [
                    np.max(np.abs(f - t)[here] / t[here])
                    for f, t in zip(found, truths, strict=True)
                    if (here := (t <= high * t[0]) & (t > low * t[0])).any()
                ]
                worst = float(max(errors)) if errors else float("nan")
                cells.append("–" if not errors else "none" if worst >= 0.5 else f"{worst:.0e}")
                records.append({"systems": kind, "way": way, "size": [high, low], "error": worst})
            table.append([kind, way, *cells])
            print(table[-1], flush=True)
    return table, records


def trained_lru(seed: int) -> list[Any]:
    """The demo's layer after 500 steps."""
    config = DemoConfig(steps=500)
    data, rng = digits(seed, config.test), np.random.default_rng(seed)
    trainer = TorchTrainer(config, config.states, seed=seed, truncate=False)
    for _ in range(config.steps):
        batch = rng.choice(len(data.train_x), config.batch, replace=False)
        trainer.train_step(data.train_x[batch], data.train_y[batch])
    return [block.lru for block in trainer.model.blocks]


def trained_s4d(seed: int) -> list[Any]:
    """Two S4D layers of 16 channels and 64 states (32 stored) in a classifier of the digits, after 500 steps."""
    torch.manual_seed(seed)
    data, rng = digits(seed, 899), np.random.default_rng(seed)
    embed, head = torch.nn.Linear(1, 16), torch.nn.Linear(16, 10)
    layers = torch.nn.ModuleList(Mixer(16, 64) for _ in range(2))
    optimizer = torch.optim.AdamW([p for m in (embed, head, layers) for p in m.parameters()], lr=4e-3)
    for _ in range(500):
        batch = rng.choice(len(data.train_x), 32, replace=False)
        h = embed(torch.from_numpy(data.train_x[batch])[..., None]).mT
        for layer in layers:
            h = h + layer(h)[0]
        loss = torch.nn.functional.cross_entropy(head(h.mean(-1)), torch.from_numpy(data.train_y[batch]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"S4D seed {seed}: last loss {loss.item():.2f}", flush=True)
    return list(layers)


def ranks() -> tuple[list[list[str]], list[dict[str, Any]]]:
    kinds: dict[str, Callable[[int], list[Any]]] = {
        "LRU 64, 4 inputs, random": lambda seed: [lru_like(10 * seed + i) for i in range(10)],
        "S4D, 8 channels of 32, random": lambda seed: [s4d_like(10 * seed + i) for i in range(10)],
        "LRU 256, 16 inputs, trained": trained_lru,
        "S4D, 16 channels of 32, trained": trained_s4d,
    }
    table, records = [], []
    for kind, make in kinds.items():
        layers = [layer for seed in range(3) for layer in make(seed)]
        same = dict.fromkeys(TAUS, 0)
        away, finite = 0, True
        for layer in layers:
            both = [balred.analyze(layer, precision=p) for p in ("float64", "float32")]
            finite &= bool(np.isfinite(both[1].sigma).all())
            for tau in TAUS:
                r, s = (a.rank(balred.Energy(1 - tau)) for a in both)
                same[tau] += r == s
                away = max(away, abs(r - s))
        table.append([kind, str(len(layers)), *(str(same[t]) for t in TAUS), str(away), "yes" if finite else "no"])
        records.append(
            {"layers": kind, "count": len(layers), "same": same, "largest difference": away, "finite": finite}
        )
        print(table[-1], flush=True)
    return table, records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    first, errors = accuracy()
    second, chosen = ranks()
    names = [f"{high:g} to {low:g}" for high, low in SIZES]
    text = markdown(["systems", "way", *names], first) + "\n"
    header = ["float32 layers", "layers", *(f"same rank at τ = {t:g}" for t in TAUS), "largest difference", "finite"]
    text += markdown(header, second)
    print(text)
    write(args.out, "precision", {"machine": describe_machine(), "errors": errors, "ranks": chosen}, text)


if __name__ == "__main__":
    main()
