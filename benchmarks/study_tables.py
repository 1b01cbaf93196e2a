"""Tables and pictures of the page "Does it work?" from the committed results of ``benchmarks/studies.py``."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks_common import markdown

ROOT = Path(__file__).parent
RESULTS = ROOT / "results" / "studies"
TITLES = {
    "smnist": "sMNIST",
    "sfashion": "sFashion-MNIST",
    "scifar": "sCIFAR, grey",
    "digits": "digits",
    "listops": "ListOps",
    "text": "King James Bible",
    "mamba": "Mamba on sMNIST",
    "mamba-text": "Mamba on the King James Bible",
}
KINDS = {
    "full": "full",
    "truncated": "truncated in training",
    "squeezed": "truncated while regularised",
    "published": "truncated the published way",
    "random": "random states, cut in training",
    "guarded": "truncated, guarded",
    "small": "small from scratch",
    "full-cut": "cut after training",
    "nuclear": "regularised",
    "nuclear-cut": "regularised, then cut",
}
TIMED_ALONE = ("smnist", "sfashion", "scifar", "digits", "listops", "text", "mamba", "mamba-text")
"""Their other runs shared the machine with all sorts of work; they are timed in studies of their own, NAME-speed."""
MORE = ("squeezed", "published")
"""Studies of their own that belong beside another's runs."""
BASES = {"noise": "#999999", "inputs": "#7a9cc6", "data": "#c4552d"}
"""What a cut is balanced on, and its colour."""
CUT_MODELS = {
    "digits": "LRU, digits",
    "smnist": "LRU, sMNIST",
    "listops": "LRU, ListOps",
    "text": "LRU, King James Bible",
    "s5": "S5, digits",
    "s4d": "S4D, digits",
    "jax": "LRU in JAX, digits",
}
"""Of ``calibration.py``, and how their panels are called."""
SHARES = (0.0125, 0.05, 0.1, 0.2, 0.5, 1.0)
Row = dict[str, Any]


def study(name: str) -> dict[str, Any] | None:
    """A committed result, if there is one, with the runs of those that add to it."""
    file = RESULTS / f"{name}.json"
    if not file.exists():
        return None
    found: dict[str, Any] = json.loads(file.read_text())
    for what in MORE:
        other = RESULTS / f"{name}-{what}.json"
        for row in json.loads(other.read_text())["runs"] if other.exists() else []:
            found["runs"].append({**row, "run": f"{what}-{row['tau']:g}"})
    return found


def kind(row: Row) -> str:
    """What a row is, whatever its tau."""
    name: str = row["run"] if row["tau"] is None else row["run"].removesuffix(f"-{row['tau']:g}")
    return name


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean, and sample standard deviation where there are several."""
    if not values:
        return ""
    middle = f"{np.mean(values):.{digits}f}"
    return middle if len(values) < 2 else f"{middle} ± {np.std(values, ddof=1):.{digits}f}"


def by_name(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of all seeds by run, in the order of the first."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["run"], []).append(row)
    return found


def states(row: Row) -> float:
    """Mean over the layers."""
    return float(np.mean(row["state_dims"]))


def sizes(rows: Sequence[Row]) -> str:
    """Mean states of a layer, and their range over seeds."""
    found = [states(r) for r in rows]
    return f"{np.mean(found):.0f}" + ("" if max(found) - min(found) < 1 else f" ({min(found):.0f} to {max(found):.0f})")


def of(rows: Sequence[Row], name: str) -> dict[int, Row]:
    """The run of a name by seed."""
    return {r["seed"]: r for r in rows if r["run"] == name}


def sibling(row: Row, what: str) -> str:
    """The name of the run `what` of the same tau."""
    return what if row["tau"] is None else f"{what}-{row['tau']:g}"


def accuracy(name: str, data: dict[str, Any]) -> list[list[str]]:
    """A row for each run of a study."""
    rows, out = data["runs"], []
    for run in sorted(
        by_name(rows).values(), key=lambda r: (list(KINDS).index(kind(r[0])), -np.mean([states(x) for x in r]))
    ):
        first = run[0]
        out.append([
            TITLES[name], KINDS[kind(first)], "" if first["tau"] is None else f"{first['tau']:g}", sizes(run),
            spread([100 * r["accuracy"] for r in run]), spread([r["test_loss"] for r in run if "test_loss" in r], 3),
            str(len(run)),
        ])  # fmt: skip
    return out


ACCURACY = ["task", "model", "τ", "states a layer", "test accuracy %", "test loss (nats)", "seeds"]


def took(row: Row) -> float:
    """Seconds of a training: the processor's, which other work on the machine does not lengthen, where they were counted."""
    seconds: float = row.get("processor_seconds") or row["seconds"]
    return seconds


def ideal(row: Row, full: Row, small: Row, steps: int) -> float:
    """The time of a training that costs what its size costs at each step, and nothing for the cuts.

    A step at a size in between costs between a step of the full and one of the small model, in proportion to the states.
    """
    slow, quick = took(full) / steps, took(small) / steps
    most, least = sum(full["state_dims"]), sum(small["state_dims"])
    now, last, total = dict(full["ranks"]), 0, 0.0
    for step, *cut in [*sorted(row["cuts"]), [steps]]:
        share = (sum(now.values()) - least) / (most - least)
        total += (step - last) * (quick + share * (slow - quick))
        last = step
        if cut:
            now[cut[0]] = cut[2]
    return total


def speed(name: str) -> list[list[str]]:
    """Speed-up of the truncated runs, against the full, the small and the ideal one; timed by themselves."""
    data = study(f"{name}-speed" if name in TIMED_ALONE else name)
    if data is None:
        return []
    rows, out = data["runs"], []
    full, steps = of(rows, "full"), data["config"]["steps"]
    for run in by_name(rows).values():
        if kind(run[0]) != "truncated":
            continue
        small = of(rows, sibling(run[0], "small"))
        seeds = [r for r in run if r["seed"] in full and r["seed"] in small]
        if not seeds:
            continue
        over = [took(full[r["seed"]]) / took(r) for r in seeds]
        best = [took(full[r["seed"]]) / took(small[r["seed"]]) for r in seeds]
        work = [full[r["seed"]]["flops"] / r["flops"] for r in seeds if r.get("flops")]
        away = [took(r) / ideal(r, full[r["seed"]], small[r["seed"]], steps) for r in seeds]
        out.append([
            TITLES[name], "" if run[0]["tau"] is None else f"{run[0]['tau']:g}",
            f"{states(full[seeds[0]['seed']]):.0f} → {sizes(seeds)}",
            f"{spread(over, 2)}", f"{spread(best, 2)}", f"{spread(away, 2)}", spread(work, 2) or "–", str(len(seeds)),
        ])  # fmt: skip
    return out


SPEED = [
    "task",
    "τ",
    "states a layer",
    "full / truncated",
    "full / small",
    "truncated / ideal",
    "full / truncated, operations",
    "seeds",
]


def settling(name: str, data: dict[str, Any]) -> list[list[str]]:
    """When the ranking of the full model's states settles."""
    out = []
    steps = data["config"]["steps"]
    full = list(of(data["runs"], "full").values())
    for layer in full[0].get("stability", {}):
        found = [r["stability"][layer] for r in full]
        at = [int(np.argmin([abs(s - share * steps) for s in found[0]["steps"]])) for share in SHARES]
        number = layer.split(".")[1]
        for what, key, digits in (("Kendall", "kendall", 2), ("states that the rule asks for", "ranks", 0)):
            cells = [f"{np.mean([f[key][i] for f in found]):.{digits}f}" for i in at]
            out.append([TITLES[name], number, what, *cells, str(len(found))])
    return out


SETTLING = ["task", "layer", "", *(f"{100 * s:g} %" for s in SHARES), "seeds"]


def timing(task: str) -> list[list[str]]:
    """What cutting early or late costs, at one size."""
    out = []
    for window in (0.01, 0.02, 0.05, 0.1, 0.2):
        data = study(f"{task}-at-{window:g}")
        if data is not None:
            runs = data["runs"]
            accuracies = spread([100 * r["accuracy"] for r in runs])
            out.append([TITLES[task], f"{100 * window:g} %", sizes(runs), accuracies, str(len(runs))])
    return out


TIMING = ["task", "one cut after", "states a layer", "test accuracy %", "seeds"]
ABLATIONS = {
    "digits-balancing-real": ("digits", "the real operator is balanced (ours)"),
    "digits-balancing-half": ("digits", "its complex half is (published)"),
    "digits-moments-reset": ("digits", "Adam's moments start afresh (default)"),
    "digits-moments-carry": ("digits", "they are carried through the cut (option)"),
    "digits-moments-slice": ("digits", "their first entries stay (published)"),
    "digits-settled-0": ("digits", "ten attempts in 20 %, each may cut"),
    "digits-settled-2": ("digits", "... once two choices in a row agree"),
    "digits-settled-3": ("digits", "... once three do"),
    "scifar-energy": ("scifar", "τ for each layer by itself"),
    "scifar-budget": ("scifar", "one budget for both layers"),
}


def ablations() -> list[list[str]]:
    """One choice at a time."""
    out = []
    for name, (task, label) in ABLATIONS.items():
        data = study(name)
        if data is None:
            continue
        runs = data["runs"]
        dims = ["+".join(map(str, r["state_dims"])) for r in runs]
        seen = ", ".join(dict.fromkeys(dims))
        after = [_soon_after(r, data["config"]["steps"]) for r in runs]
        out.append([
            TITLES[task], label, seen, spread([100 * r["accuracy"] for r in runs]),
            spread([100 * a for a in after if not math.isnan(a)]), str(len(runs)),
        ])  # fmt: skip
    return out


ABLATED = ["task", "choice", "states", "test accuracy %", "at 15 % of the training", "seeds"]


def _soon_after(row: Row, steps: int) -> float:
    """Accuracy at the first evaluation from 15 % of the training on."""
    return next((float(a) for step, _, a in row["curve"] if step >= 0.15 * steps), math.nan)


def as_typed(data: dict[str, Any]) -> str:
    """The command of a study, its quotes within quotes as double ones, which TOML takes as well."""
    return f"`{data['command']}`".replace("'\"'\"'", '"')


def tables() -> dict[str, str]:
    """All tables by name."""
    found = {name: data for name in TITLES if (data := study(name)) is not None}
    lru = {name: data for name, data in found.items() if data["config"]["model"] == "lru"}
    mamba = {name: data for name, data in found.items() if name not in lru}
    made = {
        "study-accuracy": (ACCURACY, [row for n, d in lru.items() for row in accuracy(n, d)]),
        "study-mamba": (ACCURACY, [row for n, d in mamba.items() for row in accuracy(n, d)]),
        "study-speed": (SPEED, [row for n in found for row in speed(n)]),
        "study-settling": (SETTLING, [row for n, d in lru.items() for row in settling(n, d)]),
        "study-timing": (TIMING, [row for task in ("digits", "smnist") for row in timing(task)]),
        "study-ablations": (ABLATED, ablations()),
        "study-commands": (
            ["study", "command", "sequence", "steps", "hardware"],
            [[TITLES[n], as_typed(d), sequence(d), str(d["config"]["steps"]), hardware(d)] for n, d in found.items()],
        ),
    }
    return {name: markdown(header, rows) for name, (header, rows) in made.items() if rows}


def sequence(data: dict[str, Any]) -> str:
    """How long the sequences are that a study reads."""
    config = data["config"]
    pixels = {"mnist": 28, "fashion": 28, "cifar": 32}.get(config["task"])
    if config["task"] == "digits":
        return "64 pixels"
    if pixels is not None:
        return f"{(pixels // config['shrink']) ** 2} pixels"
    return f"{config['length']} tokens" if config["task"] == "text" else f"up to {config['length']} tokens"


def hardware(data: dict[str, Any]) -> str:
    """What a study ran on."""
    return ", ".join(dict.fromkeys(r["hardware"] for r in data["runs"]))


def picture(file: Path) -> None:
    """Accuracy against states, a panel for each task."""
    from matplotlib.figure import Figure

    from balred.studies.reports.plots import _colour

    found = {name: data for name in TITLES if (data := study(name)) is not None}
    marks = dict(zip(KINDS, "sohPv^D<>p", strict=True))
    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.4 * rows), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for ax, (name, data) in zip(axes, found.items(), strict=False):
        _against_states(ax, data["runs"], _colour, marks)
        ax.set_title(TITLES[name])
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes[len(found) :]:
        ax.set_visible(False)
    handles: dict[str, Any] = {}
    for ax in axes[: len(found)]:
        handles |= {label: h for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    figure.savefig(file, dpi=100, metadata={"Software": None})


def _against_states(ax: Any, rows: Sequence[Row], colour: Any, marks: dict[str, str]) -> None:
    for what, label in KINDS.items():
        runs = [run for run in by_name(rows).values() if kind(run[0]) == what and what != "guarded"]
        points = sorted((np.mean([states(r) for r in run]), [100 * r["accuracy"] for r in run]) for run in runs)
        if not points:
            continue
        x, y = [p[0] for p in points], [np.mean(p[1]) for p in points]
        error = [np.std(p[1], ddof=1) if len(p[1]) > 1 else 0.0 for p in points]
        shade = {"full-cut": "#7a9cc6", "nuclear-cut": "#d9c06a", "published": "#d98ca0"}.get(what, colour(what))
        ax.errorbar(x, y, error, fmt=marks[what] + "-", color=shade, label=label, ms=5, lw=1.2, capsize=2)
    ax.set(xscale="log", xlabel="states a layer", ylabel="test accuracy, %")
    ticks = [t for t in (4, 8, 16, 32, 64, 128, 256) if ax.get_xlim()[0] <= t <= ax.get_xlim()[1]]
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()


def over_states(ax: Any, name: str, states: Sequence[int], ranks: Sequence[int]) -> None:
    """Make `ax` a panel of test loss against states, of one model."""
    from matplotlib.ticker import LogLocator, NullLocator

    title = f"{CUT_MODELS[name]}, {' + '.join(map(str, states))} states"
    ax.set(xscale="log", yscale="log", xlabel="states a layer", ylabel="test loss, nats")
    ax.set_title(title, fontsize="medium")
    ax.set_xticks(ranks, [str(r) for r in ranks])
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("{x:.3g}")
    low, high = ax.get_ylim()
    if high > 3 * low:  # else the numbers of all minor ticks would overlap
        ax.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.tick_params(which="both", labelsize="small")
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)


def on_data(out: Path, models: Sequence[str] = ()) -> None:
    """Loss against states, a panel for each model; every seed is a thin line, their mean a thick one."""
    from matplotlib.figure import Figure

    found: dict[str, list[dict[str, Any]]] = {}
    for training in json.loads((ROOT / "results" / "calibration.json").read_text())["runs"]:
        found.setdefault(training["model"], []).append(training)
    names = [name for name in models or CUT_MODELS if name in found]
    lines = -(-len(names) // 4)
    columns = -(-len(names) // lines)
    size = (3.6 * columns, 3 * lines) if len(names) > 1 else (5.4, 3.2)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for ax in axes[len(names) :]:
        ax.set_axis_off()
    for ax, name in zip(axes, names, strict=False):
        trainings = found[name]
        ranks = [c["rank"] for c in trainings[0]["ways"]]
        full = np.mean([x["full"]["loss"] for x in trainings])
        ax.axhline(full, color="0.5", lw=1, ls="--", label="the full model")
        for basis, colour in BASES.items():
            losses = np.array([[c[basis]["loss"] for c in x["ways"]] for x in trainings])
            ax.plot(ranks, losses.T, color=colour, lw=0.6, alpha=0.5)
            ax.plot(ranks, losses.mean(0), "o-", color=colour, ms=4, lw=1.6, label=f"balanced on {basis}")
        over_states(ax, name, trainings[0]["states"], ranks)
    axes[0].legend(frameon=False, fontsize="small")
    figure.savefig(out, dpi=110, metadata={"Software": None})
