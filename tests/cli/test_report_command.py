"""balred report: the folder of a study, finished or not, and what other trainings logged."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import RUNNER

import balred
from balred.cli import app
from balred.intraining import Cut, Report

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from balred.studies.reports import plots
from balred.studies.reports.run_report import config_of, runs_in, summary, write_run_report
from balred.studies.settings.train_config import TrainConfig
from balred.studies.training.run_files import RunFolder, reports_of, write_json


def invoke(*arguments: str) -> Any:
    return RUNNER.invoke(app, ["report", *arguments], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


def pictures(page: str) -> list[str]:
    assert all(s.startswith("data:image/png;base64,") for s in re.findall(r'(?:src|href)="([^"]*)"', page))
    assert "<script" not in page
    return re.findall(r"<img [^>]*alt=\"([^\"]*)\"", page)


def run(
    root: Path, name: str, seed: int, states: int, seconds: float, accuracy: float, tau: float | None = None
) -> None:
    """A finished run of 20 steps, as balred train leaves it."""
    folder = RunFolder(root / f"seed-{seed}" / name)
    for step in (10, 20):
        ranks = {"ssm": states}
        folder.log(
            "evaluation", step, seconds=seconds * step / 20, loss=1.0, accuracy=accuracy, test_loss=1.0, ranks=ranks
        )
    folder.finish(
        {
            "run": name, "seed": seed, "mode": name.partition("-")[0], "tau": tau, "accuracy": accuracy, "ranks": {"ssm": states},
            "seconds": seconds, "steps": 20, "finished": True, "versions": {"torch": "1.0"}, "hardware": "an abacus",
        }
    )  # fmt: skip


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two seeds of full, truncated and small, written by hand."""
    root = tmp_path / "study"
    config = TrainConfig(states=(64,), steps=20, attempts=1, taus=(0.04,))
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(config).items()}
    write_json(root / "config.json", {"config": plain})
    for seed, (full, cut, small) in enumerate([(8.0, 4.0, 2.0), (9.0, 3.0, 2.0)]):
        run(root, "full", seed, 64, full, 0.9)
        run(root, "truncated-0.04", seed, 16, cut, 0.8 + seed / 10, 0.04)
        run(root, "small-0.04", seed, 16, small, 0.7, 0.04)
    return root


def test_the_table_pairs_seeds(study: Path) -> None:
    rows = {row[0]: row for row in summary(runs_in(study, config_of(study)))}
    assert list(rows) == ["full", "truncated-0.04", "small-0.04"]
    # accuracies 80 and 90; speed-ups 8/4 and 9/3; times over small 4/2 and 3/2
    assert rows["truncated-0.04"] == (
        "truncated-0.04", "85.0 ± 7.1", "16, 16", "3.5 ± 0.7", "2.50 ± 0.71", "1.75 ± 0.35", "20", "0, 1",
    )  # fmt: skip
    assert rows["full"][4:6] == ("1.00 ± 0.00", "-")


@pytest.mark.full
def test_a_study(study: Path) -> None:
    result = invoke(str(study))
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == f"report: {study / 'report.html'}"
    page = (study / "report.html").read_text()
    assert pictures(page) == ["Accuracy against wall time", "Accuracy against final dimension"]
    for text in ("85.0 ± 7.1", "2.50 ± 0.71", "an abacus", "torch 1.0", "<td>taus</td><td>(0.04,)</td>"):
        assert text in page
    assert "Not finished" not in page


def test_a_study_that_is_not_finished(study: Path) -> None:
    (study / "seed-1" / "small-0.04" / "result.json").unlink()
    page = write_run_report(study).read_text()
    assert "Not finished: small-0.04 (seed 1)" in page
    rows = {row[0]: row for row in summary(runs_in(study, config_of(study)))}
    assert rows["small-0.04"][7] == "0"
    assert rows["truncated-0.04"][5] == "2.00"  # seed 0 alone has both


def test_what_a_loop_of_ones_own_logged(tmp_path: Path) -> None:
    """Only the events of a reducer: cuts, and ranks against the step."""
    log = balred.intraining.EventLog(tmp_path / "mine" / "events.jsonl")
    log(Report(100, (Cut("a", 64, 32, 0.99, 0.1), Cut("b", 64, 16, 0.98, 0.2)), {"a": 32, "b": 16}))
    log(Report(200, (), {"a": 32, "b": 16}, skipped={"b": "a pole is unstable"}))
    assert invoke(str(tmp_path / "mine")).exit_code == 0
    page = (tmp_path / "mine" / "report.html").read_text()
    assert "step 100: a 64 -&gt; 32 states, 99.00 % of the energy, error bound 0.1" in page
    assert "step 200: b skipped: a pole is unstable" in page
    assert pictures(page) == ["Rank: a", "Rank: b"]
    assert "32+16" in page
    assert re.findall("<th>(.*?)</th>", page) == ["run", "states by layer"]  # nothing else was measured
    assert "seed" not in page
    assert invoke(str(tmp_path)).exit_code == 0  # the folder above it as well
    assert "<td>mine</td>" in (tmp_path / "report.html").read_text()


def test_a_log_of_any_name_and_its_folder(tmp_path: Path) -> None:
    """The settings of the training are in the log; the page has them, and the file or its folder may be asked for."""
    log = balred.intraining.EventLog(tmp_path / "run" / "cuts.jsonl", _told(window=(30, 90)))
    log(Report(60, (Cut("a", 64, 32, 0.99, 0.1, "balanced on data"),), {"a": 32}, loss=(0.5, 0.25)))
    log(Report(90, (), {"a": 32}))
    (tmp_path / "run" / "model.pt").write_bytes(b"\x80")
    for path in (log.path, tmp_path / "run", tmp_path):
        result = invoke(str(path))
        assert result.exit_code == 0, result.output
        page = (tmp_path / ("report.html" if path == tmp_path else "run/report.html")).read_text()
        assert "<td>window</td><td>[30, 90]</td>" in page
        assert "<td>rule</td><td>Energy(" in page
        assert "64 -&gt; 32 states, 99.00 % of the energy, error bound 0.1, balanced on data" in page
        assert "loss of the last batch 0.5 -&gt; 0.25" in page
        (tmp_path / "run" / "report.html").unlink(missing_ok=True)
    assert [f.name for f in runs_in(tmp_path / "run", None)] == ["run"]


def test_each_of_several_logs_in_a_folder_is_a_run(tmp_path: Path) -> None:
    for name, window in (("one.jsonl", (0, 10)), ("two.log", (5, 20))):
        balred.intraining.EventLog(tmp_path / name, _told(window=window))(
            Report(10, (Cut("a", 8, 4, 0.9, 0.1),), {"a": 4})
        )
    (tmp_path / "data.jsonl").write_text('{"text": "no event"}\n')
    found = runs_in(tmp_path, None)
    assert [f.name for f in found] == [f"{tmp_path.name}/one", f"{tmp_path.name}/two"]
    assert [f.record.settings["window"] for f in found] == [[0, 10], [5, 20]]
    assert len(runs_in(tmp_path / "one.jsonl", None)) == 1
    result = invoke(str(tmp_path / "data.jsonl"))
    assert result.exit_code == 1
    assert "which holds no events" in result.stderr


def test_the_shaded_window_is_the_recorded_one(tmp_path: Path) -> None:
    """Without a record nothing is shaded: a guess would be taken for what happened."""
    record = RunFolder(tmp_path).record("mine", 0, TrainConfig())
    record.reports = [Report(60, (Cut("a", 64, 32, 0.99, 0.1),), {"a": 32})]
    for windows in ([(30, 90)], []):
        figure = plots.ranks([record], None, "a", windows)
        shaded = (
            [p.get_x() for p in figure.axes[0].patches],
            [p.get_x() + p.get_width() for p in figure.axes[0].patches],
        )
        assert shaded == ([w[0] for w in windows], [w[1] for w in windows])


def _told(window: tuple[int, int]) -> dict[str, Any]:
    return balred.intraining.TrainingSettings(balred.Energy(0.9), window, 1).recorded()


@pytest.mark.parametrize("dry", [False, True])
def test_reports_come_back_from_their_events(dry: bool) -> None:
    report = Report(7, (Cut("a", 8, 4, 0.9, 0.5),), {"a": 8 if dry else 4}, dry_run=dry)
    restored = Report(9, (), {"a": 8}, restored=True, back_to=7)
    nothing = Report(11, (), {"a": 8})
    events = [e for r in (report, restored, nothing) for e in balred.intraining.events.events_of(r)]
    assert reports_of(events) == [report, restored, nothing]


def test_snapshots_come_back(tmp_path: Path) -> None:
    system = balred.testing.random_system(6, kind="conjugate", dt=1, seed=0)
    folder = RunFolder(tmp_path)
    assert isinstance(system, balred.DiagonalSystem)
    folder.keep("a.b", 3, system)
    folder.log("hsv", 3, layers={"a.b": [2.0, 1.0], "c": [1.0]})
    record = folder.record("full", 0, TrainConfig())
    kept = record.snapshots["a.b"][0].system
    assert kept is not None
    assert (kept.dt, kept.conjugate) == (system.dt, system.conjugate)
    assert np.array_equal(balred.hsv(kept), balred.hsv(system))
    assert record.snapshots["c"][0].system is None


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    result = invoke(str(tmp_path))
    assert result.exit_code == 1
    assert (
        "RUN_DIR must hold events.jsonl or metrics.jsonl of a run, or another log of a reducer, or folders that do, got"
        in result.stderr
    )
    result = invoke(str(tmp_path / "none"))
    assert "RUN_DIR must be a folder, or the log of a reducer, got" in result.stderr
    (tmp_path / "events.jsonl").write_text('{"event": "cut"}\n{}\n')
    result = invoke(str(tmp_path))
    assert result.exit_code == 1
    assert "events.jsonl: every line must be an event, got line 1" in result.stderr
    (tmp_path / "events.jsonl").write_text("")
    (tmp_path / "config.json").write_text(json.dumps({"config": {"step": 3}}))
    assert "is 'steps' meant?" in invoke(str(tmp_path)).stderr
