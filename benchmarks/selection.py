"""What choosing states of Mamba layers along data is worth: character models cut to fewer states, with and without recovery.

    python benchmarks/selection.py [--steps 3000] [--recovery 200] [--seeds 2] [--models DIR] [--out benchmarks/results]

The text is the Python documentation's help topics that every Python brings along (pydoc_data.topics); the last tenth is the
test set.  For each share of the states: cross-entropy per character, and how far the predictions moved from the full
model's (Kullback-Leibler divergence), means over models trained from several seeds.  Calibration data are training text.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
import transformers
from benchmarks_common import describe_machine, markdown, write
from mambapy.mamba import Mamba, MambaConfig
from torch.nn.functional import cross_entropy
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

import balred

WIDTH, LENGTH, SHARES = 64, 64, (0.75, 0.5, 0.25, 0.125)

VARIANTS: dict[str, dict[str, Any]] = {
    "jointly, C refitted (default)": {},
    "jointly": {"compensate": False},
    "each by its measured energy": {"selection": "separate", "compensate": False},
    "each by its energy in the mean system": {"calibration": None, "selection": "separate", "compensate": False},
    "jointly in the mean system, C refitted": {"calibration": None},
    "random": {"selection": "random", "compensate": False},
}
RANDOM = 3
"""Random selections are drawn so many times and averaged."""


def text() -> tuple[torch.Tensor, torch.Tensor, int]:
    """Training text, test text and the number of characters."""
    whole = "\n".join(topics[key] for key in sorted(topics))
    letters = {c: i for i, c in enumerate(sorted(set(whole)))}
    codes = torch.tensor([letters[c] for c in whole])
    cut = int(0.9 * len(codes))
    return codes[:cut], codes[cut:], len(letters)


class Characters(torch.nn.Module):
    """Characters in, a stack of layers, logits of the next character out."""

    def __init__(self, letters: int, width: int, body: torch.nn.Module) -> None:
        super().__init__()
        self.embed, self.body = torch.nn.Embedding(letters, width), body
        self.norm, self.head = torch.nn.LayerNorm(width), torch.nn.Linear(width, letters)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.body(self.embed(x))))


class Stack(torch.nn.Module):
    """Residual blocks of the layers of transformers, which have no scan of their own that is quick on a CPU but this one."""

    def __init__(self, layers: list[torch.nn.Module], width: int) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(layers)
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(width) for _ in layers)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        for norm, layer in zip(self.norms, self.layers, strict=True):
            h = h + layer(norm(h))
        return h


def model_of(kind: str, letters: int, seed: int) -> Any:
    """Two layers of Mamba (mambapy) or of Mamba-2 (transformers) of width 64."""
    torch.manual_seed(seed)
    if kind == "mamba":
        return Characters(letters, WIDTH, Mamba(MambaConfig(d_model=WIDTH, n_layers=2, d_state=16)))
    config = transformers.Mamba2Config(
        hidden_size=WIDTH, state_size=32, head_dim=16, num_heads=8, n_groups=1, chunk_size=32, num_hidden_layers=2
    )
    return Characters(letters, WIDTH, Stack([Mamba2Mixer(config, i) for i in range(2)], WIDTH))


def train(model: Any, data: torch.Tensor, steps: int, rate: float) -> None:
    """AdamW with one cycle of the learning rate, on the same batches for every variant."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        starts = torch.randint(0, len(data) - LENGTH - 1, (16,), generator=generator)
        batch = torch.stack([data[i : i + LENGTH + 1] for i in starts])
        loss = cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()


def scores(model: Any, test: torch.Tensor, full: torch.Tensor | None) -> tuple[float, float, torch.Tensor]:
    """Cross-entropy, divergence from the log probabilities `full`, and the model's own."""
    with torch.no_grad():
        own = model(test[:, :-1]).log_softmax(-1)
    loss = cross_entropy(own.flatten(0, 1), test[:, 1:].flatten())
    moved = 0.0 if full is None else float((full.exp() * (full - own)).sum(-1).mean())
    return float(loss), moved, own


def trained(kind: str, letters: int, seed: int, data: torch.Tensor, steps: int, keep: Path | None) -> Any:
    """A trained model, from the folder `keep` if it is there."""
    model = model_of(kind, letters, seed)
    file = None if keep is None else keep / f"{kind}{seed}.pt"
    if file is not None and file.exists():
        model.load_state_dict(torch.load(file, weights_only=True))
        return model.eval()
    train(model, data, steps, 6e-3)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), file)
    return model


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--recovery", type=int, default=200)
    parser.add_argument("--kinds", nargs="+", default=["mamba", "mamba2"])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--models", type=Path, help="keep the trained models there, and use those that are there")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    data, rest, letters = text()
    test = torch.stack([rest[i : i + LENGTH + 1] for i in range(0, len(rest) - LENGTH - 1, 3 * LENGTH)])
    calibration = torch.stack([data[i : i + LENGTH] for i in range(0, len(data) - LENGTH, len(data) // 256)])
    records, rows = [], []
    for kind in args.kinds:
        models = [trained(kind, letters, seed, data, args.steps, args.models) for seed in range(args.seeds)]
        states = balred.plan(models[0], 1, calibration=calibration[:1]).rows[0].before
        assert states is not None
        before = [scores(model, test, None) for model in models]
        loss = sum(b[0] for b in before) / len(before)
        records.append({"model": kind, "states": states, "losses": [b[0] for b in before]})
        rows.append([kind, "full", str(states), f"{loss:.4f}", "", ""])
        for share in SHARES:
            rank = int(states * share)
            for name, options in VARIANTS.items():
                results = []
                for model, (_, _, full) in zip(models, before, strict=True):
                    for draw in range(RANDOM if name == "random" else 1):
                        with warnings.catch_warnings():
                            warnings.simplefilter("ignore", balred.reduction.CalibrationWarning)
                            small = balred.reduce(model, rank, **{"calibration": calibration, "seed": draw, **options})
                        loss, moved, _ = scores(small, test, full)
                        if args.recovery:
                            train(small, data, args.recovery, 3e-4)
                        results.append((loss, moved, scores(small, test, None)[0]))
                loss, moved, after = (sum(column) / len(results) for column in zip(*results, strict=True))
                records.append({"model": kind, "states": rank, "choice": name, "results": results})
                rows.append([kind, name, str(rank), f"{loss:.4f}", f"{moved:.4f}", f"{after:.4f}"])
                print(" | ".join(rows[-1]), flush=True)
    recovered = f"loss after {args.recovery} steps"
    header = ["model", "choice", "states", "loss", "divergence from the full model", recovered]
    write(args.out, "selection", {"machine": describe_machine(), "records": records}, markdown(header, rows))


if __name__ == "__main__":
    main()
