"""The command: it starts fast, says what is wrong in one line, and survives Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import RUNNER

import balred
from balred.cli import app


def test_version_and_help() -> None:
    assert RUNNER.invoke(app, ["--version"]).stdout.strip() == f"balred {balred.__version__}"
    result = RUNNER.invoke(app, ["demo", "--help"], env={"COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb"})
    assert result.exit_code == 0
    for option in ("--framework", "--seed", "--seeds", "--out"):
        assert option in result.stdout
    assert "--steps" not in result.stdout


def test_help_imports_no_framework() -> None:
    code = "import sys, balred.cli, balred.studies; print([m for m in ('torch', 'jax', 'sklearn', 'matplotlib') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


@pytest.mark.parametrize(
    "arguments", [["--framework", "keras"], ["--seeds", "0"], ["--seed", "-1"], ["--steps", "19"], ["--states", "0"]]
)
def test_bad_options(arguments: list[str], tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["demo", "--out", str(tmp_path / "out"), *arguments])
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_missing_packages_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from balred.studies.settings import records

    monkeypatch.setattr(records.importlib.util, "find_spec", lambda name: None)
    result = RUNNER.invoke(app, ["demo", "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].endswith("pip install 'balred[torch,studies]'")
    assert not (tmp_path / "out").exists()


def test_ctrl_c_leaves_a_report(tmp_path: Path) -> None:
    for name in ("torch", "sklearn", "matplotlib", "jinja2"):
        pytest.importorskip(name)
    command = [sys.executable, "-c", "from balred.cli import app; app()", "demo", "--out", str(tmp_path)]
    # too many steps to end by itself
    command += ["--steps", "100000", "--states", "8"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=120)[0]
    assert line.startswith("training on"), line + rest
    assert process.returncode == 130, rest
    assert "interrupted" in rest
    assert isinstance(json.loads((tmp_path / "results.json").read_text()), list)
    assert "Interrupted" in (tmp_path / "report.html").read_text()
