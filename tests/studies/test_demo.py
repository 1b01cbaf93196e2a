"""The demo end to end at a toy size: what it writes, that it repeats, and that an interrupted one is readable."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from balred.studies import demo
from balred.studies.data.digits import batches, digits
from balred.studies.demo import run_demo
from balred.studies.reports import summary
from balred.studies.settings import records
from balred.studies.settings.records import DemoConfig, DemoResult, MissingExtra, RunRecord, Stopwatch, require_packages

TINY = DemoConfig(
    steps=20, states=(24,), fraction=0.8
)  # 24 states hold little to spare: a coarse rule, so that it cuts
FRAMEWORKS = ["torch", pytest.param("jax", marks=pytest.mark.full)]


@pytest.fixture(scope="module")
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[DemoResult, Path]:
    pytest.importorskip("torch" if request.param == "torch" else "equinox")
    out = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "_warm_up", lambda *_: None)  # nothing here looks at times
        return run_demo(request.param, (3,), out, TINY), out


@pytest.mark.full
@pytest.mark.parametrize("tiny", FRAMEWORKS, indirect=True)
class TestTiny:
    def test_results_json(self, tiny: tuple[DemoResult, Path]) -> None:
        rows = json.loads((tiny[1] / "results.json").read_text())
        assert [row["run"] for row in rows] == ["full", "truncated", "small"]
        for row in rows:
            assert {"run", "seed", "accuracy", "state_dims", "seconds", "steps"} <= set(row)
            assert row["seed"] == 3
            assert row["steps"] == TINY.steps
            assert 0 <= row["accuracy"] <= 1
            assert row["seconds"] > 0
        full, truncated, small = rows
        assert full["state_dims"] == [24]
        assert 1 <= truncated["state_dims"][0] < 24
        assert small["state_dims"] == truncated["state_dims"]

    def test_full_and_truncated_start_alike_and_small_does_not(self, tiny: tuple[DemoResult, Path]) -> None:
        full, truncated, small = (r.snapshots["blocks.0.lru"][0] for r in tiny[0].records)
        assert full.step == truncated.step == small.step == 0
        assert np.array_equal(full.system.log_poles, truncated.system.log_poles)
        assert np.array_equal(full.hsv, truncated.hsv)
        n = small.system.states
        assert not np.array_equal(full.system.log_poles[:n], small.system.log_poles)

    def test_accuracy_is_the_mean_of_the_final_evaluations(self, tiny: tuple[DemoResult, Path]) -> None:
        for record in tiny[0].records:
            by_step = {p.step: p.accuracy for p in record.points}
            # 20 steps: five evaluations over the last 8 %, one step apart at least
            assert record.accuracy == pytest.approx(np.mean([by_step[s] for s in (16, 17, 18, 19, 20)]), abs=1e-12)

    def test_the_report_needs_no_other_file(self, tiny: tuple[DemoResult, Path]) -> None:
        page = (tiny[1] / "report.html").read_text()
        sources = re.findall(r'(?:src|href)="([^"]*)"', page)
        assert len(sources) == 4
        assert all(s.startswith("data:image/png;base64,") for s in sources)
        assert "<script" not in page
        assert "Interrupted" not in page
        assert (tiny[1] / "spectrum.png").read_bytes().startswith(b"\x89PNG")
        for cell in summary.summary(tiny[0])[1]:
            assert cell in page

    def test_snapshots_do_not_move_with_the_training(self, tiny: tuple[DemoResult, Path]) -> None:
        shots = tiny[0].records[0].snapshots["blocks.0.lru"]
        assert [s.step for s in shots] == sorted(TINY.snapshots)
        assert not np.array_equal(shots[0].system.B, shots[-1].system.B)
        metrics = tiny[0].traces["blocks.0.lru"]
        assert metrics.steps.tolist() == [s.step for s in shots]
        # Weyl: no Hankel singular value moves by more than the Hankel norm of the difference
        assert np.all(metrics.change <= metrics.weyl * (1 + 1e-6))


@pytest.mark.full
def test_the_same_seed_gives_the_same_numbers_and_another_does_not(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    rows = [[r.row() for r in run_demo("torch", (seed,), tmp_path, TINY).records] for seed in (5, 5, 6)]
    first, again, other = ([(r["accuracy"], r["state_dims"]) for r in run] for run in rows)
    assert first == again
    assert first != other


@pytest.mark.full
def test_several_seeds_give_mean_and_deviation(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    result = run_demo("torch", (0, 1), tmp_path, TINY)
    values = [100 * r.accuracy for r in result.of("full") if r.accuracy is not None]
    # the sample standard deviation of two numbers is their distance over sqrt(2)
    expected = f"{(values[0] + values[1]) / 2:.1f} ± {abs(values[0] - values[1]) / 2**0.5:.1f}"
    assert summary.summary(result)[0][1] == expected
    assert [(r.run, r.seed) for r in result.records] == [
        (run, seed) for seed in (0, 1) for run in ("full", "truncated", "small")
    ]


@pytest.mark.alike
@pytest.mark.parametrize("steps", [0, 13, 27])
def test_interrupted(steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from balred.studies.training.train_torch import TorchTrainer

    monkeypatch.setattr(demo, "_warm_up", lambda *_: None)
    train_step, made = TorchTrainer.train_step, []

    def interrupted(self: Any, x: Any, y: Any) -> None:
        if len(made) == steps:
            raise KeyboardInterrupt
        made.append(1)
        train_step(self, x, y)

    monkeypatch.setattr(TorchTrainer, "train_step", interrupted)
    result = run_demo("torch", (0,), tmp_path, TINY)
    assert result.interrupted
    rows = json.loads((tmp_path / "results.json").read_text())
    assert sum(row["steps"] for row in rows) == steps
    assert [row["finished"] for row in rows] == [False] if steps < 20 else [True, False]
    assert rows[0]["accuracy"] is None if steps == 0 else 0 <= rows[0]["accuracy"] <= 1
    assert "Interrupted" in (tmp_path / "report.html").read_text()


def test_interrupted_before_anything_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "_warm_up", interrupted)
    run_demo("torch", (0,), tmp_path, TINY)
    assert json.loads((tmp_path / "results.json").read_text()) == []
    assert "No run has finished yet" in (tmp_path / "report.html").read_text()


def test_missing_packages_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records.importlib.util, "find_spec", lambda name: None if name in ("jax", "sklearn") else name)
    with pytest.raises(MissingExtra, match=r"jax, sklearn; pip install 'balred\[jax,studies\]'"):
        require_packages("jax")
    with pytest.raises(ValueError, match="framework must be torch or jax, got 'keras'"):
        require_packages("keras")


def test_digits_are_split_without_overlap_and_stratified() -> None:
    data = digits(0)
    assert data.train_x.shape == (897, 64)
    assert data.test_x.shape == (900, 64)
    assert data.train_x.dtype == np.float32
    shares = np.bincount(data.test_y) / np.bincount(np.concatenate([data.test_y, data.train_y]))
    # one image more or less of about 180 by digit
    assert np.all(np.abs(shares - 900 / 1797) < 1 / 170)
    # the image of row-major reading is the one that scikit-learn shows
    from sklearn.datasets import load_digits

    images = load_digits().images
    back = np.rint((np.concatenate([data.train_x, data.test_x]) * 0.376 + 0.305) * 16).reshape(-1, 8, 8)
    assert sorted(x.tobytes() for x in back.astype(np.int8)) == sorted(x.tobytes() for x in images.astype(np.int8))
    assert not np.array_equal(digits(1).train_x, data.train_x)


def test_an_epoch_shows_every_image_once() -> None:
    drawn = np.concatenate(list(batches(images=12, batch=4, steps=6, seed=0)))
    for epoch in (drawn[:12], drawn[12:]):
        assert sorted(epoch) == list(range(12))
    with pytest.raises(ValueError, match="batch must be between 1 and the 12 images, got 13"):
        next(batches(images=12, batch=13, steps=1, seed=0))


def test_both_frameworks_have_the_same_schedule() -> None:
    optax = pytest.importorskip("optax")
    config = DemoConfig(steps=200)
    theirs = optax.warmup_cosine_decay_schedule(0.0, config.rate, config.warmup, config.steps, 0.0)
    for step in (0, 1, 19, 20, 21, 110, 199):
        assert config.learning_rate(step) == pytest.approx(float(theirs(step)), rel=1e-5, abs=1e-9)


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match=r"states must be positive, one number for each layer, got \(0,\)"):
        DemoConfig(states=(0,))
    with pytest.raises(ValueError, match="steps must be at least 20, so that a tenth holds the cuts, got 10"):
        DemoConfig(steps=10)
    with pytest.raises(ValueError, match="attempts must be between 1 and the warm-up's length 2, got 3"):
        DemoConfig(steps=20, attempts=3)


def test_the_clock_counts_only_training(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(records.time, "perf_counter", lambda: now[0])
    clock = Stopwatch()
    now[0] = 2.0
    assert clock.stop() == 2.0
    now[0] = 50.0
    clock.start()
    now[0] = 53.0
    assert clock.seconds == 5.0


def test_the_clock_counts_the_processor_of_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    used = [0.0]
    monkeypatch.setattr(records.time, "process_time", lambda: used[0])
    clock = Stopwatch(spent=9.0, processor=4.0)
    used[0] = 2.0
    clock.stop()
    used[0] = 50.0
    clock.start()
    used[0] = 51.0
    clock.stop()
    clock.stop()
    assert clock.processor == 7.0


def test_ratios_pair_seeds_and_leave_out_what_did_not_finish() -> None:
    result = DemoResult("torch", (0, 1), TINY)
    for run, seed, steps, seconds in (("full", 0, 20, 8.0), ("truncated", 0, 20, 2.0), ("full", 1, 7, 9.0)):
        result.records.append(RunRecord(run, seed, TINY, steps, seconds))  # type: ignore[arg-type]
    assert summary.ratios(result, "full", "truncated") == [4.0]
    assert summary.ratios(result, "truncated", "small") == []
