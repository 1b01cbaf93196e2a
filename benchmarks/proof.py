"""What the page "Does it work?" begins with, from committed results: cuts of trained models (``recovery.py``), and when to cut in a training.

The latter are trainings (``studies.py``, NAME-long... and NAME-when...) that end with the same states, by when and how they got there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks_common import markdown
from study_tables import BASES as NOISE_OR_DATA
from study_tables import CUT_MODELS, RESULTS, TITLES, Row, as_typed, hardware, over_states, sizes, spread

TASKS = {"text": "text-long", "listops": "listops-long", "digits": "digits-when", "smnist": "smnist-when"}
"""Tasks, and what the names of their studies begin with."""
BASES = {"": "", "-data": ", on data"}
WAYS: dict[str, tuple[str, str]] = {
    "full": ("", "full"),
    "cut after training, on data": ("", "full-cut"),
    "small from scratch": ("", "small"),
    "small from scratch, as much time as full": ("-time", "small"),
    **{
        f"one cut at {100 * w:g} %{said}": (f"-at-{w:g}{basis}", "truncated")
        for w in (0.05, 0.1, 0.2, 0.4)
        for basis, said in BASES.items()
    },
    **{
        f"gradual over the first half{said}": (f"-gradual{basis}", "truncated")
        for basis, said in BASES.items()
    },
}  # fmt: skip
"""By what it is called: the rest of the study's name, and the run in it; all of them end with the same states."""
PAPER: dict[str, tuple[str, str]] = {
    "full": ("", "full"),
    "cut after training, on data": ("", "full-cut"),
    "small from scratch": ("", "small"),
    "one cut at 10 %": ("-noise", "truncated"),
    "one cut at 10 %, on data": ("-data", "truncated"),
}
"""The same of the published model."""
PAPER_STUDIES = {
    "smnist-half": "sMNIST, 100,000 steps",
    "smnist-paper": "sMNIST, 20,000 steps",
    "sfashion-paper": "sFashion-MNIST, 20,000 steps",
}
"""What the names of its studies begin with, and what they are called."""
RULES = {
    "divergence": "gradual, `Divergence(0.01)` at each of 8 attempts",
    "energy": "gradual, `Energy(0.9)` at each of 8 attempts",
    "settled": "`Energy(0.9)` where two of 8 attempts agree",
}
"""Studies in which a rule chooses the states; small models of these states are beside them."""
HEAD = [
    "task", "model", "states a layer", "test accuracy %", "test loss (nats)", "loss over small, seed by seed", "operations, % of full",
    "processor time, % of full", "seeds",
]  # fmt: skip


def runs(name: str) -> list[Row]:
    """The rows of a committed study; none where there is none."""
    file = RESULTS / f"{name}.json"
    return [] if not file.exists() else list(json.loads(file.read_text())["runs"])


def of(rows: Sequence[Row], run: str) -> dict[int, Row]:
    """The run by seed, whatever its tau."""
    return {
        r["seed"]: r for r in rows if r["run"] == run or (r["tau"] is not None and r["run"] == f"{run}-{r['tau']:g}")
    }


def cells(label: str, found: dict[int, Row], full: dict[int, Row], small: dict[int, Row]) -> list[str]:
    """A line of the table."""
    seeds = sorted(found)
    over = [
        f"{found[s]['test_loss'] - small[s]['test_loss']:+.3f}" for s in seeds if s in small and found[s] != small[s]
    ]
    costs = []
    for key in ("flops", "processor_seconds"):
        paired = [100 * (found[s].get(key) or full[s][key]) / full[s][key] for s in seeds if s in full]
        costs.append(f"{np.mean(paired):.0f}" if paired else "–")
    rows = [found[s] for s in seeds]
    return [
        label, sizes(rows), spread([100 * r["accuracy"] for r in rows]), spread([r["test_loss"] for r in rows], 3), ", ".join(over),
        *costs, str(len(rows)),
    ]  # fmt: skip


def paper(begin: str) -> list[list[str]]:
    """The lines of the published model in the studies that begin so."""
    main = runs(begin)
    full, small = of(main, "full"), of(main, "small")
    return [
        [PAPER_STUDIES[begin], *cells(label, found, full, small)]
        for label, (study, run) in PAPER.items()
        if (found := of(runs(f"{begin}{study}"), run))
    ]


def when(task: str) -> list[list[str]]:
    """The lines of a task."""
    main = runs(TASKS[task])
    full, small = of(main, "full"), of(main, "small")
    out = []
    for label, (study, run) in WAYS.items():
        if found := of(runs(f"{TASKS[task]}{study}"), run):
            out.append([TITLES[task], *cells(label, found, full, small)])
    for rule, label in RULES.items():
        rows = runs(f"{TASKS[task]}-{rule}")
        cut, beside = of(rows, "truncated"), of(rows, "small")
        if cut:
            out.append([TITLES[task], *cells(label, cut, full, beside)])
        if beside:
            out.append([TITLES[task], *cells("... small from scratch, with these states", beside, full, beside)])
    return out


def commands() -> list[list[str]]:
    """How the studies are made."""
    names = [
        f"{TASKS[task]}{study}"
        for task in TASKS
        for study in [*dict.fromkeys(s for s, _ in WAYS.values()), *(f"-{r}" for r in RULES)]
    ]
    names += [f"{begin}{study}" for begin in PAPER_STUDIES for study in dict.fromkeys(s for s, _ in PAPER.values())]
    out = []
    for name in names:
        file = RESULTS / f"{name}.json"
        if file.exists():
            data = json.loads(file.read_text())
            out.append([name, as_typed(data), hardware(data)])
    return out


def tables() -> dict[str, str]:
    """All tables by name."""
    made = {
        "long-when": (HEAD, [row for task in TASKS for row in when(task)]),
        "long-paper": (HEAD, [row for begin in PAPER_STUDIES for row in paper(begin)]),
        "long-commands": (["study", "command", "hardware"], commands()),
    }
    return {name: markdown(head, rows) for name, (head, rows) in made.items() if rows}


COLOURS = {"full": "#333333", "cut": "#7a9cc6", "small": "#999999", "one": "#e0a458", "gradual": "#c4552d"}


def when_picture(out: Path) -> None:
    """Test loss against operations, a panel for each task; hollow: a cut made on white noise, line: the two lengths of the small model."""
    from matplotlib.figure import Figure

    shown = [task for task in TASKS if when(task)]
    columns = min(2, len(shown))
    lines = -(-len(shown) // columns)
    figure = Figure(figsize=(2.8 + 4.2 * columns, 3.8 * lines), layout="constrained")
    marks: dict[str, Any] = {}
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for ax in axes[len(shown) :]:
        ax.set_axis_off()
    for ax, task in zip(axes, shown, strict=False):
        main = runs(TASKS[task])
        full = of(main, "full")
        line = []
        for (label, (study, run)), mark in zip(WAYS.items(), "os^vD<>PpXdh*8", strict=True):
            found = of(runs(f"{TASKS[task]}{study}"), run)
            points = [
                (100 * (r.get("flops") or full[s]["flops"]) / full[s]["flops"], r["test_loss"])
                for s, r in found.items()
                if s in full
            ]
            if not points:
                continue
            colour = COLOURS[label.split()[0].rstrip(",")]
            marks[label] = ax.scatter(
                *zip(*points, strict=True),
                s=38,
                marker=mark,
                label=label,
                edgecolors=colour,
                facecolors=colour if "data" in study or not label.startswith(("one", "grad")) else "none",
            )
            line += [np.mean(points, axis=0)] * label.startswith("small")
        ax.plot(*zip(*line, strict=True), color=COLOURS["small"], lw=0.8, zorder=0)
        ax.set(
            title=TITLES[task],
            xlabel="operations of the training, % of the full model's",
            ylabel="test loss, nats",
        )
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *([f(label) for label in WAYS if label in marks] for f in (marks.get, str)),
        frameon=False,
        fontsize="small",
        loc="outside right upper",
    )
    figure.savefig(out, dpi=110, metadata={"Software": None})


def recovery_picture(out: Path) -> None:
    """Loss against states, a panel for each model: cut on white noise and on data, and the latter trained on for a short time."""
    from matplotlib.figure import Figure

    rows = json.loads((RESULTS.parent / "recovery.json").read_text())["runs"]
    names = [name for name in CUT_MODELS if any(row["model"] == name for row in rows)]
    columns = 3
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(3.6 * columns, 3 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for ax in axes[len(names) :]:
        ax.set_axis_off()
    for ax, name in zip(axes, names, strict=False):
        found = [row for row in rows if row["model"] == name]
        ranks = [cut["rank"] for cut in found[0]["ways"]]
        ax.axhline(np.mean([x["full"]["loss"] for x in found]), color="0.5", lw=1, ls="--", label="the full model")
        for way, label, colour, style in (
            ("noise", "cut on white noise", NOISE_OR_DATA["noise"], "o-"),
            ("data", "cut on data", NOISE_OR_DATA["data"], "o-"),
            ("data recovered", "... and trained on for 5 %", NOISE_OR_DATA["data"], "o:"),
        ):
            losses = np.array([[cut[way]["loss"] for cut in x["ways"]] for x in found])
            ax.plot(ranks, losses.T, color=colour, lw=0.6, ls=style[1:], alpha=0.5 if len(found) > 1 else 0)
            ax.plot(ranks, losses.mean(0), style, color=colour, ms=4, lw=1.6, label=label)
        told = [
            (
                np.mean(d["states"]),
                x["full"]["loss"] + d["loss"] - d["full loss"],
            )  # the latter two are on half of the test data
            for x in found
            for d in x["divergences"]
            if d["calibration"] == "fresh" and d["tolerance"] == 0.01
        ]
        ax.plot(*zip(*told, strict=True), "*", color="#2b6f4e", ms=9, label="Divergence(0.01), fresh data")
        over_states(ax, name, found[0]["states"], ranks)
    axes[0].legend(frameon=False, fontsize="small")
    figure.savefig(out, dpi=110, metadata={"Software": None})
