"""Cuts under other people's loops in two processes: killed in a cut and started again, they end as one process does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from balred.intraining import EventLog

torch = pytest.importorskip("torch")

PROGRAMS = Path(__file__).parents[1] / "support" / "loop_programs.py"
NEEDS = {"trainer": "transformers", "accelerate": "accelerate"}


def run(loop: str, folder: Path, processes: int, *death: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    path = os.pathsep.join(p for p in sys.path if p)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.run(
        [sys.executable, *(torchrun if processes > 1 else []), str(PROGRAMS), loop, str(folder), *death],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=240,
        check=False,
        text=True,
    )


def end_of(folder: Path, process: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / f"{process}.pt", weights_only=False)
    return found


def log_of(folder: Path) -> list[tuple[Any, ...]]:
    return [(e["step"], e["layer"], e["from"], e["to"]) for e in EventLog(folder / "cuts.jsonl").read() if "layer" in e]


@pytest.mark.full
@pytest.mark.parametrize("loop", ["trainer", "lightning", "lightning_sharded", "accelerate"])
def test_two_processes_one_killed_in_a_cut_end_as_one_process(loop: str, tmp_path: Path) -> None:
    """Cuts at steps 4 and 8, saved after step 5; at the second the last process dies between the two layers."""
    pytest.importorskip(NEEDS.get(loop, "lightning"))
    alone = run(loop.removesuffix("_sharded"), tmp_path / "alone", 1)
    assert alone.returncode == 0, alone.stderr
    dead = run(loop, tmp_path / "two", 2, "8")
    assert dead.returncode != 0
    assert f"Signal {signal.SIGKILL.value} (SIGKILL)" in dead.stderr, dead.stderr
    again = run(loop, tmp_path / "two", 2)
    assert again.returncode == 0, again.stderr

    want, first, second = end_of(tmp_path / "alone"), *(end_of(tmp_path / "two", i) for i in range(2))
    assert [(step, len(cuts)) for step, cuts, _ in want["reports"]] == [(4, 2), (8, 2)]
    assert first["reports"] == second["reports"] == want["reports"][1:]  # resumed after the first
    assert first["ranks"] == second["ranks"] == want["ranks"]
    for name, value in first["weights"].items():
        assert torch.equal(value, second["weights"][name]), name
    # the Mamba of transformers computes in single precision whatever its weights are
    tolerance = 1e-5 if loop == "trainer" else 1e-8
    torch.testing.assert_close(first["outputs"], want["outputs"], rtol=tolerance, atol=tolerance)
    assert log_of(tmp_path / "two") == log_of(tmp_path / "alone")
