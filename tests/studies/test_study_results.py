"""The committed results of the studies: each says how it came about, and the tables of the docs are made of them."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from balred.cli.train import config_path
from balred.studies.settings.train_config import config_from, read_config

ROOT = Path(__file__).parents[2]
RESULTS = sorted((ROOT / "benchmarks" / "results" / "studies").glob("*.json"))


@pytest.fixture
def tables() -> Iterator[Any]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import proof
        import study_tables

        yield SimpleNamespace(
            tables=lambda: study_tables.tables() | proof.tables(), ideal=study_tables.ideal, when=proof.cells
        )
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


@pytest.mark.parametrize("file", RESULTS, ids=lambda p: p.stem)
def test_a_result_says_how_it_came_about(file: Path) -> None:
    result = json.loads(file.read_text())
    assert result["runs"]
    steps = result["config"]["steps"]
    for row in result["runs"]:
        assert row["finished"]
        assert row["hardware"]
        assert {"balred", "torch", "numpy"} <= set(row["versions"])
        assert 0 <= row["accuracy"] <= 1
        assert isinstance(row["seed"], int)
        # the mean of five evaluations over the last 8 % of the training, each of which is in the curve
        if row["curve"]:
            final = {steps - i * (steps // 50) for i in range(5)}
            last = [a for step, _, a in row["curve"] if step in final]
            assert len(last) == 5
            assert row["accuracy"] == pytest.approx(np.mean(last), abs=1e-5)


@pytest.mark.parametrize("file", RESULTS, ids=lambda p: p.stem)
def test_the_command_makes_the_settings(file: Path) -> None:
    result = json.loads(file.read_text())
    words = shlex.split(result["command"])
    assert words[:2] == ["balred", "train"]
    assert int(words[words.index("--seeds") + 1]) == len({row["seed"] for row in result["runs"]})
    settings = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    # a key that the result does not have came later, and has its default in both
    saved = config_from({key: (f"{file.name}: ", value) for key, value in result["config"].items()})
    assert read_config(config_path(words[2]), "cpu", settings) == saved


def test_the_tables_of_the_docs_are_made_of_the_results(tables: Any) -> None:
    made = tables.tables()
    there = {p.stem for start in ("study", "long") for p in (ROOT / "docs" / "_tables").glob(f"{start}-*.md")}
    assert set(made) == there != set()
    for name, text in made.items():
        assert (ROOT / "docs" / "_tables" / f"{name}.md").read_text() == text, name


@pytest.mark.parametrize("file", sorted((ROOT / "benchmarks" / "results").glob("*.json")), ids=lambda p: p.stem)
def test_tables_of_benchmarks_are_those_that_were_printed(file: Path) -> None:
    """What the docs show of a benchmark is its result, to the letter; `demo` has one table of two."""
    if not file.stem.startswith("demo"):
        table = ROOT / "docs" / "_tables" / f"{file.stem}.md"
        assert table.read_text() == file.with_suffix(".md").read_text()
        assert f"_tables/{table.name}\n" in "".join(page.read_text() for page in (ROOT / "docs").rglob("*.md"))


def test_the_ideal_time(tables: Any) -> None:
    """By hand: 100 steps of 10 s at 8 states, 50 of 6 s at 5, half-way between the two models, and 50 of 2 s at 2."""
    full = {"seconds": 2000.0, "state_dims": [8], "ranks": {"a": 8}}
    small = {"seconds": 400.0, "state_dims": [2], "ranks": {"a": 2}}
    row = {"cuts": [[100, "a", 8, 5], [150, "a", 5, 2]]}
    assert tables.ideal(row, full, small, 200) == pytest.approx(100 * 10 + 50 * 6 + 50 * 2)


def test_a_line_of_when_to_cut_pairs_seeds(tables: Any) -> None:
    """By hand: .02 and -.01 nats over the small model of the same seed; half of the operations, three quarters of the time."""

    def row(seed: int, loss: float, flops: int, seconds: float) -> dict[str, Any]:
        return {
            "seed": seed, "state_dims": [4], "accuracy": 0.5, "test_loss": loss, "flops": flops, "processor_seconds": seconds,
        }  # fmt: skip

    full = {s: row(s, 1.0, 200, 8.0) for s in (0, 1)}
    small = {s: row(s, 1.2 + s, 80, 5.0) for s in (0, 1)}
    cut = {s: row(s, (1.22, 2.19)[s], 100, 6.0) for s in (0, 1)}
    line = tables.when("one", cut, full, small)
    assert line == ["one", "4", "50.0 ± 0.0", "1.705 ± 0.686", "+0.020, -0.010", "50", "75", "2"]
    assert tables.when("small", small, full, small)[4] == ""
