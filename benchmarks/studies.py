"""The studies behind the page "Does it work?": trainings, and what is kept of them.

    python benchmarks/studies.py [NAME ...] [--runs runs] [--seeds 3] [--out benchmarks/results/studies]

Every study is one command of ``balred train``, which stands in its result beside all settings, versions and hardware.  What
has finished in the folder of runs is not trained again, so a killed call goes on when it is repeated; ``--collect`` trains
nothing and keeps what is there.
"""

from __future__ import annotations

import argparse
import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks_common import describe_machine
from study_tables import TIMED_ALONE

from balred.cli.train import config_path
from balred.intraining import Report
from balred.measures.stability import rank_correlation, rank_drift, tail_energy, track
from balred.studies.reports.run_report import Found, config_of, runs_in
from balred.studies.settings.records import RunRecord
from balred.studies.settings.train_config import TrainConfig, read_config
from balred.studies.training.study import run_study

ONE_CUT = ["modes=['truncated']", "attempts=1"]
WINDOWS = (0.01, 0.02, 0.05, 0.1, 0.2)
LOOKS = (0, 0.0125, 0.025, 0.05, 0.1, 0.2, 0.5, 1)

STUDIES: dict[str, tuple[str, list[str]]] = {
    "digits": ("digits", ["taus=[0.2, 0.1, 0.05]"]),
    "smnist": ("smnist", []),
    "smnist-squeezed": ("smnist", ["modes=['squeezed']"]),
    "smnist-published": ("smnist", ["modes=['truncated']", "balancing=half", "moments=slice"]),
    "sfashion": ("sfashion", []),
    "scifar": ("scifar", ["taus=[0.15, 0.05]"]),
    "text": ("text", []),
    "listops": ("listops", []),
    "mamba": ("mamba", []),
    "mamba-text": ("mamba_text", []),
    **{f"digits-at-{w:g}": ("digits", [*ONE_CUT, "cut_to=32", f"window={w:g}"]) for w in WINDOWS},
    **{f"smnist-at-{w:g}": ("smnist", [*ONE_CUT, "cut_to=64", f"window={w:g}"]) for w in WINDOWS},
}
"""By name: a configuration, and the settings beside it."""
for name in TIMED_ALONE:
    config, settings = STUDIES[name]
    quick = [*settings, "modes=['full', 'truncated', 'small']", "test=100"]
    STUDIES[f"{name}-speed"] = (config, quick)  # to be run while the machine does nothing else
for moments in ("reset", "carry", "slice"):
    STUDIES[f"digits-moments-{moments}"] = ("digits", ["modes=['truncated']", "cut_to=32", f"moments={moments}"])
for balancing in ("real", "half"):
    STUDIES[f"digits-balancing-{balancing}"] = (
        "digits",
        ["modes=['truncated']", "cut_to=32", f"balancing={balancing}"],
    )
for settled in (0, 2, 3):
    STUDIES[f"digits-settled-{settled}"] = (
        "digits", ["modes=['truncated']", "taus=[0.1]", "attempts=10", "window=0.2", f"settled={settled}"],
    )  # fmt: skip
WHEN = {
    "text": ("text-long", ["steps=5000", "checkpoint_every=250"], 32, 7000),
    "listops": ("listops-long", ["steps=5000", "checkpoint_every=250"], 32, 7250),
    "digits": ("digits-when", [], 32, 1890),
    "smnist": ("smnist-when", [], 64, 2870),
}
"""When to cut, by task: what the studies begin with, their length, the states a layer that all end with, and the steps that a small
model makes in the processor time of the full one (text and ListOps 5000 by 1.40 and 1.45, medians of 37 pairs of steps in turn; digits
1000 by 1.89 and sMNIST 1500 by 1.91, from the trainings that were timed alone)."""
AT = (0.1, 0.4, 0.05, 0.2)
GRADUAL = ["gradual=true", "attempts=8", "window=0.5", "min_cut=0"]
ON_DATA = "balanced_on=data"
for name, (begin, length, states, equal_time) in WHEN.items():
    cut_once = [*length, *ONE_CUT, f"cut_to={states}"]
    small = [*length, f"ranks={states}"]
    STUDIES[begin] = (name, [*small, "modes=['full', 'small', 'posthoc']", ON_DATA])
    spread = [*length, "modes=['truncated']", f"cut_to={states}", *GRADUAL]
    for basis, how in (("", []), ("-data", [ON_DATA])):
        STUDIES[f"{begin}-gradual{basis}"] = (name, [*spread, *how])
        for w in AT:
            STUDIES[f"{begin}-at-{w:g}{basis}"] = (name, [*cut_once, f"window={w:g}", *how])
    STUDIES[f"{begin}-time"] = (name, [*small, "modes=['small']", f"steps={equal_time}"])
    rules = {
        "divergence": ["divergence=0.01", ON_DATA, *GRADUAL], "energy": ["taus=[0.1]", *GRADUAL],
        "settled": ["taus=[0.1]", "settled=2", "attempts=8", "window=0.5"],
    }  # fmt: skip
    for rule, how in rules.items():
        STUDIES[f"{begin}-{rule}"] = (name, [*length, "modes=['truncated', 'small']", *how])
AS_PUBLISHED = ["shrink=1", "rate=4e-4", "test=10000"]
TENTH = [*AS_PUBLISHED, "steps=20000", "checkpoint_every=500"]
HALF = [*AS_PUBLISHED, "steps=100000", "checkpoint_every=1000"]
"""The published model as published: 784 pixels, 256 states in width 8, batch 50; with a tenth of the steps, and with half of them."""
for name, begin, paper in (
    ("smnist", "smnist-paper", TENTH),
    ("sfashion", "sfashion-paper", TENTH),
    ("smnist", "smnist-half", HALF),
):
    one_cut = [*paper, "cut_to=64", *ONE_CUT, "window=0.1"]
    STUDIES[begin] = (name, [*paper, "ranks=64", "modes=['full', 'small', 'posthoc']", ON_DATA])
    STUDIES[f"{begin}-noise"] = (name, one_cut)
    STUDIES[f"{begin}-data"] = (name, [*one_cut, ON_DATA])
for name, rule in (("energy", "taus=[0.15]"), ("budget", "budget=160")):
    STUDIES[f"scifar-{name}"] = ("scifar", ["modes=['truncated']", "attempts=1", rule])


def command(name: str, seeds: int) -> str:
    """The line that makes a study."""
    config, settings = STUDIES[name]
    more = [part for setting in settings for part in ("--set", setting)]
    return shlex.join(["balred", "train", config, "--seeds", str(seeds), *more])


def cuts(reports: list[Report]) -> list[list[Any]]:
    """Step, layer, states before and after; a step alone for a cut that was taken back."""
    made = [[report.step, cut.layer, cut.before, cut.after] for report in reports for cut in report.cuts]
    return made + [[report.step] for report in reports if report.restored]


def stability(record: RunRecord, config: TrainConfig) -> dict[str, Any]:
    """How the spectra of every layer of a full run moved, at about the shares of the training in `LOOKS`."""
    found = {}
    for layer, all_shots in record.snapshots.items():
        shots = [s for s in all_shots if s.system is not None]
        if len(shots) < 2:
            continue
        near = sorted({min(shots, key=lambda s, w=w: abs(s.step - w * config.steps)).step for w in LOOKS})
        shots = [s for s in shots if s.step in near]
        states = track([s.system for s in shots])
        orders = rank_drift([s.hsv for s in shots], config.stability_rule)
        found[layer] = {
            "rule": str(config.stability_rule),
            "steps": near,
            "kendall": [round(rank_correlation(values, states[-1]), 4) for values in states],
            "ranks": [int(np.ceil(order / 2)) for order in orders],
            "tail": [round(tail_energy(s.hsv, int(orders[-1])), 5) for s in shots],
        }
    return found


def row(f: Found, config: TrainConfig) -> dict[str, Any]:
    """What is kept of a run."""
    assert f.result is not None
    curve = [[p.step, round(p.seconds, 2), round(p.accuracy, 5)] for p in f.record.points]
    kept = {**f.result, "cuts": cuts(f.record.reports), "curve": curve}
    final = config.final_evaluations
    losses = [x["test_loss"] for x in f.folder.metrics.read() if x["event"] == "evaluation" and x["step"] in final]
    if losses and None not in losses:
        kept["test_loss"] = round(float(np.mean(losses)), 5)
    if f.name == "full":
        kept["stability"] = stability(f.record, config)
    return kept


def collected(name: str, folder: Path) -> dict[str, Any]:
    """The result of a study from its folder."""
    config = config_of(folder)
    assert config is not None
    rows = [row(f, config) for f in runs_in(folder, config) if f.result is not None]
    seeds = len({r["seed"] for r in rows})
    return {
        "command": command(name, seeds), "machine": describe_machine(), "config": asdict(config), "runs": rows,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(STUDIES)}; all of them without")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--collect", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/studies"))
    args = parser.parse_args()
    for name in args.names or STUDIES:
        config, settings = STUDIES[name]
        folder = args.runs / name
        if not args.collect:
            print(command(name, args.seeds), flush=True)
            run_study(read_config(config_path(config), "cpu", settings), range(args.seeds), folder, folder.exists())
        if (folder / "results.json").exists():
            args.out.mkdir(parents=True, exist_ok=True)
            result = json.dumps(collected(name, folder), separators=(",", ":")).replace('{"run"', '\n{"run"')
            (args.out / f"{name}.json").write_text(result + "\n")


if __name__ == "__main__":
    main()
