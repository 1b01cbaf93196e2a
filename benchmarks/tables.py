"""Make the tables of the docs from the committed results: ``python benchmarks/tables.py`` (no measurement is made)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import proof
import study_tables
from benchmarks_common import markdown

ROOT = Path(__file__).parent
RESULTS, TABLES = ROOT / "results", ROOT.parent / "docs" / "_tables"
COPIED = (
    "moments", "variants", "calibration", "dense", "large", "right", "gradient", "channels", "precision", "overhead", "pipeline", "budget", "selection", "inputs",
    "hook", "promises", "fuzz", "layers", "selective_scan", "decoding", "small", "after_cut", "recovery", "settling", "whose_fault", "growing",
)  # fmt: skip
"""Results whose tables the docs show as they were printed."""
NAMES = {"full": "(a) full", "truncated": "(b) truncated", "small": "(c) small from scratch"}


def demo(framework: str) -> list[list[str]]:
    rows = json.loads((RESULTS / f"demo-{framework}.json").read_text())
    by = {run: sorted((r for r in rows if r["run"] == run), key=lambda r: r["seed"]) for run in NAMES}
    out = []
    for run, name in NAMES.items():
        accuracy = [100 * r["accuracy"] for r in by[run]]
        over = [a["seconds"] / r["seconds"] for a, r in zip(by["full"], by[run], strict=True)]
        to_small = [r["seconds"] / c["seconds"] for c, r in zip(by["small"], by[run], strict=True)]
        out.append([
            framework, name, f"{np.mean(accuracy):.1f} ± {np.std(accuracy):.1f}", " ".join(f"{a:.1f}" for a in accuracy),
            " ".join(str(sum(r["state_dims"])) for r in by[run]), f"{np.mean(over):.1f}x", f"{np.mean(to_small):.2f}",
        ])  # fmt: skip
    return out


def main() -> None:
    header = ["framework", "run", "test accuracy %", "by seed", "states", "faster than (a)", "time over (c)"]
    rows = [row for framework in ("torch", "jax") for row in demo(framework)]
    TABLES.mkdir(exist_ok=True)
    (TABLES / "demo.md").write_text(markdown(header, rows))
    for name, text in (study_tables.tables() | proof.tables()).items():
        (TABLES / f"{name}.md").write_text(text)
    study_tables.picture(ROOT.parent / "docs" / "_static" / "study-accuracy.png")
    proof.recovery_picture(ROOT.parent / "docs" / "_static" / "recovery.png")
    proof.when_picture(ROOT.parent / "docs" / "_static" / "when.png")
    study_tables.on_data(ROOT.parent / "docs" / "_static" / "on_data.png")
    study_tables.on_data(ROOT.parent / "docs" / "_static" / "front.png", ["digits"])
    for name in COPIED:
        (TABLES / f"{name}.md").write_text((RESULTS / f"{name}.md").read_text())


if __name__ == "__main__":
    main()
