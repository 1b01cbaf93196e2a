"""What choosing states of Mamba layers along data is worth: character models cut to fewer states, with and without recovery.

    python benchmarks/selection.py [--steps 3000] [--recovery 200] [--kinds mamba mamba2] [--out benchmarks/results]

The text is the Python documentation's help topics that every Python brings along (pydoc_data.topics); the last tenth is the
test set.  For each share of the states: cross-entropy per character, and how far the predictions moved from the full
model's (Kullback-Leibler divergence).  Calibration data are training text.
"""

from __future__ import annotations

import argparse
import copy
import json
import warnings
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
import transformers
from benchmarks_common import describe_machine, markdown, write
from torch.nn.functional import cross_entropy

import balred

LENGTH, SHARES = 96, (0.75, 0.5, 0.25, 0.125)

VARIANTS: dict[str, dict[str, Any]] = {
    "joint, C refitted": {},
    "joint": {"compensate": False},
    "each state by its energy": {"selection": "separate", "compensate": False},
    "random, C refitted": {"selection": "random"},
    "random": {"selection": "random", "compensate": False},
    "surrogate, no data": {"calibration": None},
}


def text() -> tuple[torch.Tensor, torch.Tensor, int]:
    """Training text, test text and the number of characters."""
    whole = "\n".join(topics[key] for key in sorted(topics))
    letters = {c: i for i, c in enumerate(sorted(set(whole)))}
    codes = torch.tensor([letters[c] for c in whole])
    cut = int(0.9 * len(codes))
    return codes[:cut], codes[cut:], len(letters)


def model_of(kind: str, letters: int) -> Any:
    torch.manual_seed(0)
    shape = {"vocab_size": letters, "hidden_size": 96, "num_hidden_layers": 2}
    if kind == "mamba":
        return transformers.MambaForCausalLM(transformers.MambaConfig(state_size=16, **shape))
    config = transformers.Mamba2Config(state_size=32, head_dim=24, num_heads=8, n_groups=1, chunk_size=32, **shape)
    return transformers.Mamba2ForCausalLM(config)


def train(model: Any, data: torch.Tensor, steps: int, rate: float) -> None:
    """AdamW with one cycle of the learning rate, on the same batches for every variant."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        starts = torch.randint(0, len(data) - LENGTH - 1, (16,), generator=generator)
        batch = torch.stack([data[i : i + LENGTH + 1] for i in starts])
        loss = cross_entropy(model(batch[:, :-1], use_cache=False).logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()


def scores(model: Any, test: torch.Tensor, full: torch.Tensor | None) -> tuple[float, float, torch.Tensor]:
    """Cross-entropy, divergence from the log probabilities `full`, and the model's own."""
    with torch.no_grad():
        own = model(test[:, :-1], use_cache=False).logits.log_softmax(-1)
    loss = cross_entropy(own.flatten(0, 1), test[:, 1:].flatten())
    moved = 0.0 if full is None else float((full.exp() * (full - own)).sum(-1).mean())
    return float(loss), moved, own


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--recovery", type=int, default=200)
    parser.add_argument("--kinds", nargs="+", default=["mamba", "mamba2"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    data, rest, letters = text()
    test = torch.stack([rest[i : i + LENGTH + 1] for i in range(0, len(rest) - LENGTH - 1, 3 * LENGTH)])
    calibration = torch.stack([data[i : i + LENGTH] for i in range(0, len(data) - LENGTH, len(data) // 64)])
    records, rows = [], []
    for kind in args.kinds:
        model = model_of(kind, letters)
        train(model, data, args.steps, 6e-3)
        states = balred.plan(model, 1, calibration=calibration[:1]).rows[0].before
        assert states is not None
        loss, _, full = scores(model, test, None)
        records.append({"model": kind, "states": states, "loss": loss})
        rows.append([kind, "full", str(states), f"{loss:.4f}", "", ""])
        for share in SHARES:
            rank = int(states * share)
            for name, options in VARIANTS.items():
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", balred.selective.CalibrationWarning)
                    small = balred.reduce(model, rank, **{"calibration": calibration, **options})
                loss, moved, _ = scores(small, test, full)
                after = float("nan")
                if args.recovery:
                    recovered = copy.deepcopy(small)
                    train(recovered, data, args.recovery, 1e-3)
                    after = scores(recovered, test, None)[0]
                records.append({
                    "model": kind, "states": rank, "choice": name, "loss": loss, "divergence": moved, "recovered": after,
                })  # fmt: skip
                rows.append([kind, name, str(rank), f"{loss:.4f}", f"{moved:.4f}", f"{after:.4f}"])
                print(json.dumps(records[-1]), flush=True)
    header = [
        "model",
        "choice",
        "states",
        "loss",
        "divergence from the full model",
        f"loss after {args.recovery} steps",
    ]
    write(args.out, "selection", {"machine": describe_machine(), "records": records}, markdown(header, rows))


if __name__ == "__main__":
    main()
