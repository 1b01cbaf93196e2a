"""The report of any run's folder: a study of ``balred train``, or whatever a training of the user's logged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balred.files.replacing import replacing
from balred.measures.stability import Trace, trace
from balred.ranks import Rule
from balred.studies.reports.summary import spread
from balred.studies.settings.records import RunRecord, Schedule
from balred.studies.settings.train_config import TrainConfig, config_from
from balred.studies.training.reading import EVENTS
from balred.studies.training.run_files import RunFolder, saved_config

HEADINGS = (
    "run", "test accuracy %", "states by layer", "wall time s", "speed-up over full", "time / time of small", "steps", "seeds",
)  # fmt: skip

_PAGE = """{% extends "base" %}
{% block intro %}
<h1>{{ title }}</h1>
{% if running %}<p class="warning">Not finished: {{ running|join(", ") }}. This page shows what has run until now.</p>{% endif %}
{% if config %}<p>Models of {{ config.states|length }} LRU block{{ "s" if config.states|length > 1 }} of width {{ config.width }}
with {{ config.states|join(" + ") }} stored states, or as many as the table says, on the task {{ config.task }}{% if config.shrink > 1
%} with images averaged over blocks of {{ config.shrink }} x {{ config.shrink }} pixels{% endif %}; {{ config.steps }} steps of
{{ config.batch }} examples, the same for all runs of a seed. Cuts in steps 0 to {{ config.last_cut }}.</p>{% endif %}
{% endblock %}
{% block note %}{% if headings|length > 2 %}
<p class="note">With several seeds, a cell is the mean ± the sample standard deviation. Ratios of times are taken seed by seed.
Test accuracy is the mean over the evaluations in the last 8 % of the training. Wall time is that of the training and its cuts, without
evaluation, snapshots and checkpoints. A row <i>X-cut-τ</i> is the model of run X, cut after its training to the ranks of truncated-τ
without further training. {% for line in hardware %}Hardware: {{ line }}. {% endfor %}</p>
{% endif %}{% endblock %}
"""


@dataclass(frozen=True)
class Found:
    """A run in a folder: its name and seed, its files, what they tell, and its result if it finished."""

    name: str
    seed: int
    folder: RunFolder
    record: RunRecord
    result: Mapping[str, Any] | None

    @property
    def tau(self) -> float | None:
        """The share of energy that its cuts might lose."""
        return None if self.result is None else self.result.get("tau")


def config_of(root: Path) -> TrainConfig | None:
    """The settings of a study; None where the folder holds other runs."""
    file = root / "config.json"
    if not file.exists():
        return None
    saved = saved_config(root)
    try:
        return config_from({key: (f"{file}: ", value) for key, value in saved.items()})
    except ValueError as error:
        raise ValueError(error if str(error).startswith(str(file)) else f"{file}: {error}") from None


def runs_in(root: Path, config: TrainConfig | None) -> list[Found]:
    """The runs below a folder, or in it.

    Raises
    ------
    ValueError
        There are none.
    """
    found = []
    for folder, label in _folders(root):
        result, path = folder.result, folder.path
        seed = int(path.parent.name.partition("-")[2]) if path.parent.name.removeprefix("seed-").isdecimal() else 0
        name = path.name if config is not None else label
        record = folder.record(name, seed, config or Schedule())
        if config is None:  # nobody says how long it is meant to be
            last = max([record.steps, *(report.step for report in record.reports)])
            record = folder.record(name, seed, Schedule(steps=max(20, last)))
        found.append(Found(name, seed, folder, record, result))
    if not found:
        raise ValueError(
            f"RUN_DIR must hold events.jsonl or metrics.jsonl of a run, or another log of a reducer, or folders that do, got {root}"
        )
    order = {name: i for i, name in enumerate(_names(config))}
    return sorted(found, key=lambda f: (order.get(f.name, len(order)), f.name, f.seed))


def _folders(root: Path) -> list[tuple[RunFolder, str]]:
    """The runs that have files below a folder, or in one file, and what to call them; of several logs in a folder each is a run."""
    if root.is_file():
        if root.name == "metrics.jsonl":
            return [(RunFolder(root.parent), root.parent.resolve().name)]
        if not _is_log(root):
            raise ValueError(f"RUN_DIR must be a folder, or the log of a reducer, got {root}, which holds no events")
        return [(RunFolder(root.parent, root.name), root.parent.resolve().name)]
    named = {p.parent for name in ("events.jsonl", "metrics.jsonl", "result.json") for p in root.rglob(name)}
    logs: dict[Path, list[str]] = {path: [] for path in named}
    for file in sorted(root.rglob("*")):
        if file.name not in ("events.jsonl", "metrics.jsonl") and file.is_file() and _is_log(file):
            logs.setdefault(file.parent, []).append(file.name)
    found = []
    for path, others in logs.items():
        name = path.resolve().name if path == root else str(path.relative_to(root))
        if (path / "events.jsonl").exists() or not others:
            found.append((RunFolder(path), name))
        elif len(others) == 1:
            found.append((RunFolder(path, others.pop()), name))
        found += [(RunFolder(path, other), f"{name}/{Path(other).stem}") for other in others]
    return found


_BEGINS = b'{"event": "'


def _is_log(file: Path) -> bool:
    """Whether a file begins as a reducer's log does: folders of runs hold all kinds of files, large ones too."""
    with file.open("rb") as opened:
        return opened.read(80).startswith(tuple(_BEGINS + f'{kind}"'.encode() for kind in EVENTS))


def _names(config: TrainConfig | None) -> list[str]:
    if config is None:
        return []
    from balred.studies.settings.plan import runs_of

    return [run.name for run in runs_of(config)]


def summary(found: Sequence[Found]) -> list[tuple[str, ...]]:
    """The cells of the table, a row for each run."""
    seconds = {(f.name, f.seed): f.record.seconds for f in found if f.result is not None and f.record.steps}
    rows: list[tuple[str, ...]] = []
    for name in dict.fromkeys(f.name for f in found):
        runs = [f for f in found if f.name == name]
        done = [f for f in runs if f.result is not None] or runs
        accuracies = [100 * a for a in (_accuracy(f) for f in done) if a is not None]
        mine = {f.seed: seconds[name, f.seed] for f in done if (name, f.seed) in seconds}
        over = [seconds["full", seed] / s for seed, s in mine.items() if ("full", seed) in seconds and s > 0]
        small = "small" if done[0].tau is None else f"small-{done[0].tau:g}"
        against = [s / seconds[small, seed] for seed, s in mine.items() if seconds.get((small, seed))]
        rows.append(
            (
                name,
                spread(accuracies),
                ", ".join("+".join(str(n) for n in _ranks(f).values()) for f in done) or "-",
                spread([f.record.seconds for f in done if f.record.seconds]),
                spread(over, 2),
                spread(against, 2),
                "-" if not done[0].record.steps else str(done[0].record.steps),
                ", ".join(str(f.seed) for f in done),
            )
        )
    return rows


def _accuracy(f: Found) -> float | None:
    accuracy = f.record.accuracy if f.result is None and f.record.points else None
    return accuracy if f.result is None else f.result.get("accuracy")


def _ranks(f: Found) -> Mapping[str, int]:
    return f.record.ranks if f.result is None else f.result.get("ranks", f.record.ranks)


def table(root: Path) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headings and rows for the terminal."""
    return HEADINGS, summary(runs_in(root, config_of(root)))


def write_run_report(root: Path) -> Path:
    """Write ``report.html`` to a folder with runs, or beside the log of one; its path.

    Raises
    ------
    ValueError
        There are no runs, or a file is damaged.
    """
    if not root.exists():
        raise ValueError(
            f"RUN_DIR must be a folder, or the log of a reducer, got {root}: there is no such file or folder"
        )
    try:
        return _written(root)
    except (LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, MemoryError) as error:
        # each file is what it must be by itself, and they do not fit together
        raise ValueError(f"{root}: a report must be of files that a run wrote, got others ({error!r:.120})") from None


def _written(root: Path) -> Path:
    from balred.studies.reports.report import render

    folder = root if root.is_dir() else root.parent
    config = config_of(root) if root.is_dir() else None
    found = runs_in(root, config)
    results = [f.result for f in found if f.result is not None]
    hardware = list(dict.fromkeys(str(r["hardware"]) for r in results if "hardware" in r))
    task = "" if config is None else f" on {config.task}"
    page = folder / "report.html"
    headings, rows = _measured(summary(found)) if config is None else (HEADINGS, summary(found))
    text = render(
        _PAGE,
        title=f"In-training truncation{task}: {folder.resolve().name}",
        config=config,
        running=[f"{f.name} (seed {f.seed})" for f in found if f.result is None] if config is not None else [],
        headings=headings,
        rows=rows,
        lines=[],
        cuts=[
            f"{f.name}: {line}" if config is None else f"{f.name}, seed {f.seed}: {line}"
            for f in found
            for r in f.record.reports
            for line in str(r).split("\n")
        ],
        figures=figures(found, config),
        settings=_settings(config, results) + (_logged(found) if config is None else []),
        hardware=hardware,
    )
    with replacing(page) as file:
        file.write(text)
    return page


def _measured(rows: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headings and rows without the columns of which no run knows anything: a training of the user's has no seeds."""
    kept = [i for i in range(len(HEADINGS) - 1) if i == 0 or any(row[i] != "-" for row in rows)]
    return tuple(HEADINGS[i] for i in kept), [tuple(row[i] for i in kept) for row in rows]


def _settings(config: TrainConfig | None, results: Sequence[Mapping[str, Any]]) -> list[tuple[str, Any]]:
    from dataclasses import asdict

    rows: list[tuple[str, Any]] = [] if config is None else list(asdict(config).items())
    versions = dict.fromkeys(
        ", ".join(f"{k} {v}" for k, v in r["versions"].items()) for r in results if "versions" in r
    )
    return rows + [("versions", line) for line in versions]


def _logged(found: Sequence[Found]) -> list[tuple[str, Any]]:
    """What the logs say that the reducers were told, run by run where there are several."""
    return [
        (key if len(found) == 1 else f"{f.name}: {key}", "none" if value is None else value)
        for f in found
        for key, value in f.record.settings.items()
    ]


def figures(found: Sequence[Found], config: TrainConfig | None) -> list[tuple[str, str, str]]:
    """(title, what to look for, image) of every picture that the runs allow; layers and ranks of the first seed."""
    from balred.studies.reports import plots
    from balred.studies.reports.report import SPECTRA, STABILITY

    drawn = []
    names = list(dict.fromkeys(f.name for f in found))
    groups = [(name, [f.record for f in found if f.name == name and f.record.points]) for name in names]
    if any(records for _, records in groups):
        text = "One line for each seed; the dot is the last evaluation."
        drawn.append(("Accuracy against wall time", text, plots.png(plots.accuracy([g for g in groups if g[1]], {}))))
    points = _points(found)
    if sum(len(p) for _, p in points) > 1:
        text = "Each point is one run of one seed, at the size it ended with."
        drawn.append(("Accuracy against final dimension", text, plots.png(plots.dimensions(points))))
    first = [f.record for f in found if f.seed == found[0].seed]
    # a training of the user's is shaded where its log says, and not at all where it does not
    told: list[plots.Window] = [
        (r.settings["window"][0], r.settings["window"][1]) for r in first if "window" in r.settings
    ]
    windows = list(dict.fromkeys(told)) if config is None else [(0, config.last_cut)]
    full = next((r for r in first if r.run == "full"), None)
    for layer in dict.fromkeys(name for r in first for name in (*r.snapshots, *r.ranks)):
        seen = [r for r in first if layer in r.snapshots and r.run.partition("-")[0] in ("full", "truncated")][:2]
        label = layer or "the layer"
        if seen:
            picture = plots.png(plots.spectra(seen, layer, {}))
            drawn.append((f"Hankel singular values along the training: {label}", SPECTRA, picture))
        metrics = None if full is None or config is None else _trace(full, layer, config.stability_rule)
        moving = [r for r in first if r.first_states(layer) is not None]
        if moving:
            text = "States that the layer had, run by run" + (
                "" if metrics is None else "; dotted: what the rule would choose at each snapshot of the full run"
            )
            drawn.append((f"Rank: {label}", text + ".", plots.png(plots.ranks(moving, metrics, layer, windows, {}))))
        if metrics is not None and config is not None:
            picture = plots.png(plots.stability(metrics, config))
            drawn.append((f"Stability of the ranking: {label}", STABILITY.format("the full run"), picture))
    return drawn


def _points(found: Sequence[Found]) -> list[tuple[str, list[tuple[float, float]]]]:
    """(mean states, accuracy in per cent) of the finished runs by kind: the name without τ."""
    kinds: dict[str, list[tuple[float, float]]] = {}
    for f in found:
        ranks, accuracy = list(_ranks(f).values()), _accuracy(f)
        if f.result is None or accuracy is None or not ranks or math.isnan(accuracy):
            continue
        kind = f.name if f.tau is None else f.name.removesuffix(f"-{f.tau:g}")
        kinds.setdefault(kind, []).append((sum(ranks) / len(ranks), 100 * accuracy))
    return list(kinds.items())


def _trace(full: RunRecord, layer: str, rule: Rule) -> Trace | None:
    """The stability metrics of a layer whose systems were kept."""
    shots = [s for s in full.snapshots.get(layer, ()) if s.system is not None]
    return trace([s.step for s in shots], [s.system for s in shots], rule) if len(shots) > 1 else None
