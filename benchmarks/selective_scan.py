"""The selective scan of the studies, forward and backward on one thread, against mambapy's parallel scan, in one run.

    python benchmarks/selective_scan.py [--out benchmarks/results]

Both layers have the same weights, take turns, and the best time of each counts; outputs and gradients are compared.  A ratio
above 1 says how many times longer mambapy's takes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from benchmarks_common import describe_machine, markdown, write
from mambapy.mamba import MambaBlock, MambaConfig

from balred.studies.demo import one_thread
from balred.studies.models.mamba_models import Mixer

SHAPES = [(32, n, length, rows) for n in (4, 16, 64) for length, rows in ((64, 16), (256, 16), (1024, 4))]
"""Width, states, length and sequences."""
ROUNDS = 4


def step(layer: torch.nn.Module, u: torch.Tensor) -> tuple[float, list[torch.Tensor]]:
    """Seconds of a step, its output and its gradients."""
    inner = u.clone().requires_grad_()
    began = time.perf_counter()
    y = layer(inner)
    gradients = torch.autograd.grad(y.square().mean(), [*layer.parameters(), inner])
    return time.perf_counter() - began, [y.detach(), *gradients]


def difference(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """The largest over outputs and gradients, each beside its largest entry."""
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    rows, records = [], []
    with one_thread("torch"):
        for width, states, length, sequences in SHAPES:
            torch.manual_seed(0)
            layers = [kind(MambaConfig(d_model=width, n_layers=1, d_state=states)) for kind in (Mixer, MambaBlock)]
            layers[1].load_state_dict(layers[0].state_dict())
            u = torch.randn(sequences, length, width)
            made = [[step(layer, u) for layer in layers] for _ in range(ROUNDS)]
            ours, theirs = (min(pair[i][0] for pair in made[1:]) for i in (0, 1))
            differ = difference(made[0][0][1], made[0][1][1])
            if not differ < 1e-3:
                raise SystemExit(f"outputs and gradients must agree to 1e-3, got {differ:.1g}")
            records.append({"shape": [width, states, length, sequences], "seconds": [ours, theirs], "differ": differ})
            rows.append([
                *map(str, (width, states, length, sequences)), f"{1e3 * ours:.1f} ms", f"{theirs / ours:.2f}x", f"{differ:.0e}",
            ])  # fmt: skip
            print(rows[-1], flush=True)
    text = markdown(["H", "N", "L", "batch", "studies", "mambapy, slower by", "differ"], rows)
    print(text)
    print(f"median {np.median([r['seconds'][1] / r['seconds'][0] for r in records]):.2f}")
    write(arguments.out, "selective_scan", {"machine": describe_machine(), "rows": records}, text)


if __name__ == "__main__":
    main()
