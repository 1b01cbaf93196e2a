"""Killed with kill -9 at any step and started again, a training ends in the ranks and, bitwise, the weights of a whole one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from balred.intraining import EventLog  # noqa: E402

LOOP = Path(__file__).parents[2] / "support" / "kill_loop.py"


def run(folder: Path, *death: str) -> int:
    """The exit status of a run, with one thread and the path of this process."""
    folder.mkdir(exist_ok=True)
    path = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, str(LOOP), str(folder), *death],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=180,
        check=False,
        text=True,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def end_of(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)
    events = EventLog(folder / "cuts.jsonl").read()
    return saved, [{k: v for k, v in e.items() if k != "seconds"} for e in events]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("whole")
    assert run(folder) == 0
    return end_of(folder)


DEATHS = [("step", "2"), ("cut", "4"), ("save", "6"), ("cut", "8"), ("restore", "13"), ("step", "16")]


@pytest.mark.full
@pytest.mark.parametrize("deaths", [[("cut", "4")], DEATHS], ids=["once", "often"])
def test_killed_at_several_places_a_run_ends_the_same(deaths: Any, tmp_path: Path, whole: Any) -> None:
    saved, events = whole
    kinds = [e["event"] for e in events]
    assert kinds.count("cut") >= 3
    assert kinds[-1] == "restored"
    assert [run(tmp_path, *death) for death in deaths] == [-signal.SIGKILL] * len(deaths)
    assert run(tmp_path) == 0
    mine, log = end_of(tmp_path)
    assert mine["done"] == saved["done"]
    assert mine["reducer"]["ranks"] == saved["reducer"]["ranks"] != {"first": 16, "second": 16}
    for name, value in saved["net"].items():
        assert torch.equal(mine["net"][name], value), name
    assert str(mine["optimizer"]) == str(saved["optimizer"])
    assert torch.equal(mine["random"], saved["random"])
    assert log == events
