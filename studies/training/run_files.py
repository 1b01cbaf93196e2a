"""The folder of one training: its settings, events, metrics, snapshots, checkpoint and result, written so that a kill harms nothing.

Every file is either appended to line by line or replaced in one go; a training that goes on from its checkpoint rewinds the
lines to what they were then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from balred.files.opening import read_json
from balred.files.replacing import replacing
from balred.files.sealing import damaged, earlier
from balred.files.stored import load, save
from balred.intraining import Cut, EventLog, Report
from balred.studies.settings.records import Point, RunRecord, Schedule, Snapshot
from balred.studies.training.reading import EVENTS, METRICS, RESULT, check, check_lines
from balred.systems import DiagonalSystem


class RunFolder:
    """Names and formats of the files in a run's folder; its log of events may have another name in a training of the user's."""

    def __init__(self, path: Path, events: str = "events.jsonl") -> None:
        self.path = path
        self.events = EventLog(path / events)
        self.metrics = EventLog(path / "metrics.jsonl")
        self.checkpoint = path / "checkpoint.pt"
        self.model = path / "model.safetensors"

    @property
    def result(self) -> dict[str, Any] | None:
        """What :meth:`finish` wrote; None before.

        Raises
        ------
        ValueError
            The file holds something else.
        """
        file = self.path / "result.json"
        if not file.exists():
            return None
        found = read_json(file)
        check(str(file), found, RESULT)
        return found

    def finish(self, row: Mapping[str, Any]) -> None:
        """Write the result, and drop the checkpoints that nothing needs any more."""
        write_json(self.path / "result.json", row)
        for checkpoint in (self.checkpoint, earlier(self.checkpoint), damaged(self.checkpoint)):
            checkpoint.unlink(missing_ok=True)

    def restart(self, events: int = 0, metrics: int = 0) -> None:
        """Forget what happened after a checkpoint with so many lines in both logs."""
        self.events.rewind(events)
        self.metrics.rewind(metrics)

    def log(self, kind: str, step: int, **values: Any) -> None:
        """Append a line to the metrics."""
        self.metrics.append([{"event": kind, "step": step, **values}])

    def keep(self, name: str, step: int, system: DiagonalSystem) -> None:
        """Write the system of a layer at a step."""
        path = self._snapshot(name, step)
        path.parent.mkdir(parents=True, exist_ok=True)
        save(system, path)

    def record(self, name: str, seed: int, config: Schedule) -> RunRecord:
        """What the files tell of the training, finished or not.

        Raises
        ------
        ValueError
            A file holds something else; the message begins with it.
        """
        record = RunRecord(name, seed, config)
        metrics, events = self.metrics.read(), self.events.read()
        check_lines(self.metrics.path, metrics, METRICS)
        check_lines(self.events.path, events, EVENTS)
        for line in metrics:
            step = int(line["step"])
            if line["event"] == "hsv":
                for layer, values in line["layers"].items():
                    shot = Snapshot(step, self._kept(layer, step), np.array(values, dtype=np.float64))
                    record.snapshots.setdefault(layer, []).append(shot)
                continue
            record.steps, record.seconds, record.ranks = step, line.get("seconds") or 0.0, line.get("ranks") or {}
            if line["event"] == "evaluation":
                loss = line["loss"] if line["loss"] is not None else float("nan")
                record.points.append(Point(step, line["seconds"], loss, line["accuracy"], line["ranks"]))
        record.reports = reports_of(events)
        for event in events:
            record.settings = event.get("settings") or record.settings
        logged: dict[str, int] = {}
        for report in record.reports:
            logged |= report.ranks
        record.ranks = {**logged, **record.ranks}
        return record

    def _kept(self, layer: str, step: int) -> DiagonalSystem | None:
        path = self._snapshot(layer, step)
        system = load(path).system if path.exists() else None
        if not isinstance(system, DiagonalSystem | None):
            raise ValueError(f"{path}: a snapshot must be a diagonal system, got {system!r}")
        return system

    def _snapshot(self, layer: str, step: int) -> Path:
        return self.path / "snapshots" / f"{layer}-{step}.npz"


def reports_of(events: list[dict[str, Any]]) -> list[Report]:
    """The reports that events came from; of a cut only the ranks of layers that were cut are known."""
    found = []
    for event in events:
        step, kind = int(event["step"]), event["event"]
        if kind in ("cut", "would cut"):
            bound = float("nan") if event["bound"] is None else event["bound"]
            cut = Cut(event["layer"], event["from"], event["to"], event["energy"], bound, event.get("note") or "")
            ranks = {cut.layer: cut.before if kind == "would cut" else cut.after}
            found.append(Report(step, (cut,), ranks, dry_run=kind == "would cut", loss=_loss(event)))
        elif kind == "skipped":
            found.append(Report(step, (), {}, {event["layer"]: event["why"]}))
        elif kind in ("restored", "nothing"):
            found.append(Report(step, (), event["ranks"], restored=kind == "restored", back_to=event.get("back_to")))
    return found


def _loss(event: dict[str, Any]) -> tuple[float, float] | None:
    """The loss of the last batch before and after a cut, where it was measured."""
    before, after = event.get("loss_before"), event.get("loss_after")
    return None if before is None or after is None else (before, after)


def saved_config(root: Path) -> dict[str, Any]:
    """The keys that a study was begun with."""
    file = root / "config.json"
    found = read_json(file).get("config")
    if not isinstance(found, dict):
        raise ValueError(f"{file}: config must be an object with the keys of a study, got {found!r:.60}")
    return found


def write_json(path: Path, data: Any) -> None:
    """Replace a file in one go; it is on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(json.dumps(data, indent=1) + "\n")
