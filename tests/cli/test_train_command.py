"""balred train: what it is told, what it makes, and that a killed study goes on to the very same weights."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from commands import RUNNER

import balred
from balred.cli import app
from balred.cli.train import STUDIES, config_path
from balred.studies.settings.plan import Order, Run, runs_of
from balred.studies.settings.train_config import SCALES, Mode, TrainConfig, read_config

ROOT = Path(__file__).parents[2]
needs_torch = pytest.mark.skipif(
    any(__import__("importlib.util").util.find_spec(p) is None for p in ("torch", "sklearn", "matplotlib", "jinja2")),
    reason="needs torch, scikit-learn, matplotlib and jinja2",
)

TINY = """
task = "digits"
states = [12]
width = 4
steps = 30
batch = 16
rate = 1e-2
train = 200
test = 100
taus = [0.2]
attempts = 2
window = 0.5
checkpoint_every = 4
log_every = 5
"""


def config_file(folder: Path, more: str = "", text: str = TINY) -> Path:
    path = folder / "tiny.toml"
    path.write_text(text + more)
    return path


def invoke(*arguments: str) -> Any:
    return RUNNER.invoke(app, ["train", *arguments], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


# ------------------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.toml")), ids=lambda p: p.stem)
def test_every_configuration_of_the_package_is_good(path: Path, scale: Any) -> None:
    config = read_config(config_path(path.stem), scale)
    assert runs_of(config)
    last = {"random"} if config.model == "mamba" else {"nuclear", "guarded"}
    assert set(config.modes) == {"full", "truncated", "small", "posthoc"} | last


def test_the_papers_models_at_the_papers_scale() -> None:
    """Sizes, steps and tau of the tables in arXiv 2510.02823."""
    smnist, scifar, listops = (read_config(config_path(name), "paper") for name in ("smnist", "scifar", "listops"))
    assert (smnist.states, smnist.width, smnist.steps, smnist.batch, smnist.rate) == ((256,), 8, 200_000, 50, 4e-4)
    assert smnist.taus == (0.04, 0.02, 0.01)
    assert (scifar.states, scifar.width, scifar.steps) == ((384,) * 6, 512, 180_000)
    assert scifar.taus == (0.15, 0.10, 0.05)
    assert set(listops.states) == {256}
    assert listops.taus == (0.10,)
    assert smnist.shrink == scifar.shrink == 1


@pytest.mark.parametrize(
    ("more", "settings", "message"),
    [
        ("stepz = 3", [], r"tiny.toml: a key must be one that balred train knows, got 'stepz': is 'steps' meant\?"),
        ("[cpu]\ntua = 3", [], r"tiny.toml, \[cpu\]: a key must .* got 'tua': is 'taus' meant\?"),
        ("", ["batchsize=3"], r"--set: a key must .* got 'batchsize': is 'batch' meant\?"),
        ("", ["steps"], "--set must be given key=value, got 'steps'"),
        ("", ["steps=many"], "--set steps must be an integer, got 'many'"),
        ("", ["steps=true"], "--set steps must be an integer, got True"),
        ("", ["rate=fast"], "--set rate must be a number, got 'fast'"),
        ("", ["task=mnits"], r"--set task must be one of digits, .*, got 'mnits': is 'mnist' meant\?"),
        ("", ["ring=[0.5]"], r"--set ring must be 2 values, got \[0.5\]"),
        ("", ["decay_layers=1"], "--set decay_layers must be true or false, got 1"),
        ("x = ", [], "tiny.toml: must be TOML, got"),
        ("cpu = 3", [], "tiny.toml: cpu must be a table of keys, got 3"),
    ],
)
def test_what_is_wrong_with_a_configuration_is_said(
    tmp_path: Path, more: str, settings: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_config(config_file(tmp_path, more), "cpu", settings)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "tiny.toml: must be a configuration, got a file without a key"),
        (b"# task", "got a file without a key"),
        (b"task = '\xff'", "tiny.toml: must be TOML, got bytes that are no text"),
    ],
)
def test_a_file_that_says_nothing_trains_nothing(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "tiny.toml").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_config(tmp_path / "tiny.toml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"taus": (1.5,)}, r"taus must be in \(0, 1\), .* got \(1.5,\)"),
        ({"modes": ("full", "full")}, "modes must be different"),
        ({"modes": ("small",)}, "the mode small needs ranks: from the mode truncated"),
        ({"modes": ("truncated", "posthoc")}, "the mode posthoc cuts the models of full or nuclear, got the modes"),
        ({"modes": ("guarded",)}, "validation must be at least 1 for the mode guarded"),
        ({"ranks": (3,), "ranks_from": "x"}, "ranks or ranks_from may be given, not both"),
        ({"ranks": (3, 4)}, r"one number, or one for each of 1 layers, got \(3, 4\)"),
        ({"window": 0.0}, r"window must be in \(0, 1\]"),
        ({"window": 0.001, "attempts": 4}, "attempts must be between 1 and the window's 2 steps, got 4"),
        ({"task": "imdb"}, "folder must be given for the task imdb, which no package holds"),
        ({"rate": 0.0}, "rate must be positive, got 0.0"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"clip": -1.0}, "clip must not be negative, got -1.0"),
        (
            {"cut_to": 5, "budget": 5},
            "one of cut_to, budget and divergence may be given, got cut_to = 5 and budget = 5",
        ),
        ({"divergence": 0.01}, "balanced_on must be 'data' for a divergence, got 'noise' and divergence = 0.01"),
        ({"cut_to": 256}, "cut_to must be less than the 256 states of the layers, got 256"),
        ({"modes": ("random",)}, "the mode random is for layers whose states are selected, got the model lru"),
        ({"model": "mamba", "modes": ("nuclear",)}, "the mode nuclear needs layers with Hankel singular values"),
        ({"model": "mamba", "balancing": "half"}, "balancing must be 'real' for Mamba, got 'half'"),
        ({"model": "mamba", "budget": 8}, "budget must be 0 for Mamba, got 8"),
        ({"model": "mamba", "states": (4, 8)}, r"the blocks of Mamba must have one number of states, got \(4, 8\)"),
        ({"calibration": 0}, "calibration must be at least 1, got 0"),
    ],
)
def test_bad_settings(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**change)


def test_settings_beat_the_scale_and_the_scale_beats_the_file(tmp_path: Path) -> None:
    path = config_file(tmp_path, "[cpu]\nsteps = 40\n[paper]\nsteps = 50\nbatch = 2")
    assert read_config(path, "cpu").steps == 40
    assert (read_config(path, "paper").steps, read_config(path, "paper").batch) == (50, 2)
    read = read_config(path, "paper", ["steps=60", "states=7", "taus=[0.1, 0.3]", "task=fashion", "rate=1"])
    assert (read.steps, read.states, read.taus, read.task, read.rate) == (60, (7,), (0.1, 0.3), "fashion", 1.0)


PAGE = (ROOT / "docs" / "training_runs.md").read_text(encoding="utf-8")


def test_the_docs_explain_every_mode_and_list_each_key_once() -> None:
    terms = PAGE.partition("The modes:")[2].partition("All keys:")[0]
    assert sorted(re.findall(r"^`(\w+)`\n: ", terms, re.MULTILINE)) == sorted(get_args(Mode))
    keys = re.findall(r"^\| `(\w+)` \|", PAGE.partition("All keys:")[2], re.MULTILINE)
    assert sorted(k for k in keys if k in {f.name for f in fields(TrainConfig)}) == sorted(
        f.name for f in fields(TrainConfig)
    )


def test_the_docs_explain_every_key_and_say_its_default() -> None:
    rows = [
        line.strip("| ").split(" | ")
        for line in PAGE.partition("All keys:")[2].partition("\n## ")[0].splitlines()
        if line.startswith("| `")
    ]
    documented = {row[0].strip("` "): row[1].strip("` ") for row in rows}
    plain = TrainConfig()
    expected = {}
    for f in fields(TrainConfig):
        value = getattr(plain, f.name)
        expected[f.name] = json.dumps(list(value) if isinstance(value, tuple) else value)
    assert documented == expected


def test_an_unknown_configuration_names_those_there_are() -> None:
    result = invoke("smnits")
    assert result.exit_code == 1
    assert "CONFIG must be a file, or one of digits, " in result.stderr
    pytest.importorskip("torch")  # what is not installed is told first
    assert invoke("no/such.toml").stderr.strip() == "balred train: no/such.toml: No such file or directory"


# ---------------------------------------------------------------------------------------------------------- plan


def test_given_ranks_make_one_small_run() -> None:
    config = TrainConfig(modes=("full", "nuclear", "small", "posthoc"), taus=(0.1, 0.2), ranks=(5,))
    assert [run.name for run in runs_of(config)] == ["full", "nuclear", "small", "full-cut", "nuclear-cut"]


def test_cuts_to_given_sizes_make_one_run_of_each_mode() -> None:
    modes = ("full", "truncated", "random", "small", "posthoc")
    config = TrainConfig(model="mamba", modes=modes, taus=(0.1, 0.2), cut_to=12)  # type: ignore[arg-type]
    assert [run.name for run in runs_of(config)] == ["full", "truncated", "random", "small", "full-cut"]
    assert config.rule(None) == balred.Order(12)
    assert TrainConfig(budget=7).rule(None) == balred.Budget(states=7)
    assert TrainConfig(divergence=0.01, balanced_on="data").rule(None) == balred.Divergence(0.01)
    assert TrainConfig(budget=7).rule(0.25) == balred.Energy(0.75)


def test_any_batch_can_be_asked_for() -> None:
    order, again = Order(13, 4, seed=3), Order(13, 4, seed=3)
    ahead = [again.at(step) for step in (9, 2, 4, 1, 3)]  # three batches an epoch, one example left out
    assert [a.tolist() for a in ahead] == [order.at(step).tolist() for step in (9, 2, 4, 1, 3)]
    for first in (1, 4):
        drawn = np.concatenate([order.at(first + i) for i in range(3)])
        assert len(set(drawn.tolist())) == 12
    assert order.at(1).tolist() != order.at(4).tolist()
    with pytest.raises(ValueError, match="batch must be between 1 and the 3 training examples, got 4"):
        Order(3, 4, 0)


# ---------------------------------------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("study")
    path = config_file(
        folder,
        'modes = ["posthoc", "full", "truncated", "small", "nuclear", "guarded"]\nvalidation = 50\ntolerance = 1.0',
    )
    return folder / "out", invoke(str(path), "--out", str(folder / "out"), "--seeds", "2")


@pytest.mark.full
@needs_torch
class TestStudy:
    def test_every_row_says_how_it_came_about(self, study: tuple[Path, Any]) -> None:
        out, result = study
        assert result.exit_code == 0, result.output
        rows = json.loads((out / "results.json").read_text())
        names = ["full", "nuclear", "truncated-0.2", "guarded-0.2", "small-0.2", "full-cut-0.2", "nuclear-cut-0.2"]
        assert [(row["run"], row["seed"]) for row in rows] == [(name, seed) for seed in (0, 1) for name in names]
        for row in rows:
            assert row["finished"]
            assert row["steps"] == 30
            assert 0 <= row["accuracy"] <= 1
            assert {"torch", "balred", "numpy"} <= set(row["versions"])
            assert "1 of" in row["hardware"]
        config = json.loads((out / "config.json").read_text())["config"]
        assert config["states"] == [12]

    def test_sizes(self, study: tuple[Path, Any]) -> None:
        for seed in (0, 1):
            rows = {r["run"]: r for r in json.loads((study[0] / "results.json").read_text()) if r["seed"] == seed}
            cut = rows["truncated-0.2"]["state_dims"]
            assert 1 <= cut[0] < 12
            assert rows["full"]["state_dims"] == rows["nuclear"]["state_dims"] == [12]
            assert rows["small-0.2"]["state_dims"] == cut
            assert rows["full-cut-0.2"]["state_dims"] == cut
            # a tolerance of 1 accepts everything: the guard measures, and changes nothing
            assert rows["guarded-0.2"]["state_dims"] == cut
            assert rows["guarded-0.2"]["accuracy"] == rows["truncated-0.2"]["accuracy"]

    def test_the_saved_model_is_the_one_that_was_measured(self, study: tuple[Path, Any]) -> None:
        from balred.studies.data.load_task import load_task
        from balred.studies.training.run_torch import classifier, evaluate

        config = read_config(config_file(study[0].parent), "cpu")
        task = load_task(config, 0)
        folder = study[0] / "seed-0" / "truncated-0.2"
        model = balred.load(classifier(config, task, config.states, 5), folder / "model.safetensors")
        last = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines() if "evaluation" in x][-1]
        accuracy, nats = evaluate(model, task, task.test_x, task.test_y)
        assert last["step"] == 30
        assert accuracy == last["accuracy"]
        assert nats == pytest.approx(last["test_loss"], rel=1e-6)

    @pytest.mark.full
    def test_the_regulariser_shrinks_the_norm(self, study: tuple[Path, Any], tmp_path: Path) -> None:
        spectra = {}
        for name, strength in (("weak", 1e-9), ("strong", 1.0)):
            path = config_file(tmp_path, f'modes = ["nuclear"]\nnuclear = {strength}')
            assert invoke(str(path), "--out", str(tmp_path / name)).exit_code == 0
            lines = (tmp_path / name / "seed-0" / "nuclear" / "metrics.jsonl").read_text().splitlines()
            spectra[name] = [json.loads(x)["layers"]["blocks.0.lru"] for x in lines if '"hsv"' in x]
        assert spectra["weak"][0] == spectra["strong"][0]
        assert sum(spectra["strong"][-1]) < 0.5 * sum(spectra["weak"][-1])

    def test_a_study_is_not_overwritten(self, study: tuple[Path, Any], tmp_path: Path) -> None:
        path = config_file(tmp_path)
        result = invoke(str(path), "--out", str(study[0]))
        assert result.exit_code == 1
        assert "holds a study already: --resume goes on with it" in result.stderr
        result = invoke(str(path), "--out", str(study[0]), "--resume")
        assert "a study must resume with the settings that it began with, validation = 50, got 0" in result.stderr
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "file").touch()
        result = invoke(str(path), "--out", str(tmp_path / "other"))
        assert "the folder of a study must be empty or hold a study" in result.stderr

    def test_ranks_from_another_study(self, study: tuple[Path, Any], tmp_path: Path) -> None:
        theirs = study[0] / "seed-1" / "truncated-0.2"
        path = config_file(tmp_path, f'modes = ["small"]\nranks_from = "{theirs}"')
        assert invoke(str(path), "--out", str(tmp_path / "out")).exit_code == 0
        rows = json.loads((tmp_path / "out" / "results.json").read_text())
        assert [r["run"] for r in rows] == ["small"]
        assert rows[0]["state_dims"] == json.loads((theirs / "result.json").read_text())["state_dims"]
        path = config_file(tmp_path, f'modes = ["small"]\nranks_from = "{tmp_path}"')
        result = invoke(str(path), "--out", str(tmp_path / "none"))
        assert "ranks_from must be the folder of a finished run with layers blocks.0.lru" in result.stderr


@pytest.mark.full
@needs_torch
def test_a_study_of_mamba(tmp_path: Path) -> None:
    pytest.importorskip("mambapy")
    more = 'model = "mamba"\nmodes = ["full", "truncated", "random", "small", "posthoc"]\ncut_to = 3\ncalibration = 8'
    result = invoke(str(config_file(tmp_path, more)), "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    rows = {r["run"]: r for r in json.loads((tmp_path / "out" / "results.json").read_text())}
    assert {name: r["state_dims"] for name, r in rows.items()} == {
        "full": [12], "truncated": [3], "random": [3], "small": [3], "full-cut": [3],
    }  # fmt: skip
    whole, cut, other = (tensors(tmp_path / "out" / "seed-0" / name) for name in ("full", "truncated", "random"))
    (key,) = (k for k in whole if k.endswith("A_log"))
    assert whole[key].shape == (8, 12)
    assert cut[key].shape == (8, 3)
    assert not np.array_equal(cut[key], other[key])
    result = invoke(str(config_file(tmp_path, more)), "--out", str(tmp_path / "out"), "--resume")
    assert result.exit_code == 0, result.output


@pytest.mark.full
@needs_torch
def test_a_guard_goes_back_to_the_step_of_the_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A metric that always falls: after the delay all is as before the cut, and the batches since then come again."""
    from balred.studies.training import one_run as module
    from balred.studies.training.run_torch import TorchRun

    falling = iter(range(1000, 0, -1))
    seen: list[bytes] = []
    original = TorchRun.train_step

    def noted(self: Any, x: Any, y: Any) -> None:
        if len(y) > 2:  # not the warm-up's
            seen.append(x.tobytes())
        original(self, x, y)

    monkeypatch.setattr(TorchRun, "train_step", noted)
    real = module.evaluate
    monkeypatch.setattr(
        module, "evaluate", lambda m, t, x, y: (float(next(falling)), 0.0) if len(y) == 50 else real(m, t, x, y)
    )
    more = 'modes = ["full", "guarded"]\nvalidation = 50\ntolerance = 0.5\ndelay = 3'
    result = invoke(str(config_file(tmp_path, more)), "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    full, guarded = json.loads((tmp_path / "out" / "results.json").read_text())
    assert guarded["state_dims"] == full["state_dims"] == [12]
    # the first cut, at step 8 of window 0.5 x 30 = 15 in two attempts, was taken back after step 11
    events = [json.loads(x) for x in (tmp_path / "out/seed-0/guarded-0.2/events.jsonl").read_text().splitlines()]
    assert [(e["event"], e["step"]) for e in events] == [("cut", 8), ("restored", 11)]
    plain, again = seen[:30], seen[30:]
    assert again == [*plain[:11], *plain[8:]]
    # what was restored is all that there is: the run ends with the weights of the one that was never cut
    one, two = (tensors(tmp_path / "out" / "seed-0" / name) for name in ("full", "guarded-0.2"))
    assert all(np.array_equal(one[k], two[k]) for k in one)


def tensors(folder: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return dict(load_file(folder / "model.safetensors"))


KILLED = """
import os, signal, sys
from balred.studies.training.run_torch import TorchRun
from balred.cli import app
steps, original, calls = int(sys.argv.pop(1)), TorchRun.train_step, [0]
def train_step(self, x, y):
    if len(y) > 2:  # not the warm-up's
        if calls[0] == steps: os.kill(os.getpid(), signal.SIGKILL)
        calls[0] += 1
    original(self, x, y)
TorchRun.train_step = train_step
app()
"""


@pytest.mark.full
@needs_torch
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize(("mode", "kills"), [("guarded", (3, 9, 10)), ("nuclear", (13,))])
def test_a_killed_study_goes_on_to_the_same_weights(tmp_path: Path, mode: str, kills: tuple[int, ...]) -> None:
    """kill -9, each after so many steps of its process, then to the end: all but the times is as without.

    Checkpoints come every 4 steps: the first kill comes before one, the second between a cut (at step 8) and its judgement,
    the third after both cuts.
    """
    more = f'modes = ["{mode}"]\nvalidation = 50\ntolerance = 1.0\ndelay = 3\ndropout = 0.2\nnuclear_every = 5'
    path = config_file(tmp_path, more)
    assert invoke(str(path), "--out", str(tmp_path / "whole")).exit_code == 0
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    for kill in kills:
        command = [
            sys.executable,
            "-c",
            KILLED,
            str(kill),
            "train",
            str(path),
            "--out",
            str(tmp_path / "out"),
            "--resume",
        ]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
    result = invoke(str(path), "--out", str(tmp_path / "out"), "--resume")
    assert result.exit_code == 0, result.output
    name = Run(mode, 0.2 if mode == "guarded" else None).name  # type: ignore[arg-type]
    one, two = (tmp_path / which / "seed-0" / name for which in ("whole", "out"))
    a, b = tensors(one), tensors(two)
    assert a.keys() == b.keys()
    for key in a:
        assert np.array_equal(a[key], b[key]), key
    for file in ("metrics.jsonl", "events.jsonl"):
        if (one / file).exists():
            assert untimed(one / file) == untimed(two / file)
    assert not (two / "checkpoint.pt").exists()


@pytest.mark.full
@needs_torch
def test_damage_and_company_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any flipped byte of a checkpoint is found, the one before serves, and ends with the same weights; nobody works beside another."""
    from balred.files.locking import alone
    from balred.studies.training.run_torch import TorchRun

    original, calls = TorchRun.train_step, [0]

    def interrupted(self: Any, x: Any, y: Any) -> None:
        calls[0] += len(y) > 2  # not the warm-up's
        if calls[0] == 11:
            raise KeyboardInterrupt
        original(self, x, y)

    monkeypatch.setattr("balred.studies.training.study._warm_up", lambda *_: None)
    path, out = config_file(tmp_path, 'modes = ["full"]'), tmp_path / "out"
    assert invoke(str(path), "--out", str(tmp_path / "whole")).exit_code == 0
    monkeypatch.setattr(TorchRun, "train_step", interrupted)
    assert invoke(str(path), "--out", str(out)).exit_code == 130  # after the checkpoints of steps 4 and 8
    monkeypatch.setattr(TorchRun, "train_step", original)
    with alone(out):
        told = invoke(str(path), "--out", str(out), "--resume")
    assert told.exit_code == 1
    assert told.stderr.startswith(
        f"balred train: {out}: a folder must be written to by one process at a time, got one in use"
    )
    run = out / "seed-0" / "full"
    new, old = (run / name for name in ("checkpoint.pt", "checkpoint.earlier.pt"))
    good, earlier = new.read_bytes(), old.read_bytes()
    old.write_bytes(b"")
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(good), 5):
        new.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        told = invoke(str(path), "--out", str(out), "--resume")
        assert told.exit_code == 1
        assert f"{new}: a checkpoint must" in told.stderr
        assert "no earlier checkpoint is whole" in told.stderr
    old.write_bytes(earlier)
    told = invoke(str(path), "--out", str(out), "--resume")
    assert told.exit_code == 0, told.output
    assert "goes on from an earlier checkpoint, checkpoint.earlier.pt" in told.stderr
    one, two = tensors(tmp_path / "whole" / "seed-0" / "full"), tensors(run)
    assert all(np.array_equal(one[k], two[k]) for k in one)
    assert untimed(run / "metrics.jsonl") == untimed(tmp_path / "whole" / "seed-0" / "full" / "metrics.jsonl")
    assert sorted(x.name for x in run.iterdir()) == ["metrics.jsonl", "model.safetensors", "result.json", "snapshots"]


def untimed(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


@pytest.mark.full
@needs_torch
def test_ctrl_c_leaves_a_study_that_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from balred.studies.training.run_torch import TorchRun

    original, calls = TorchRun.train_step, [0]

    def interrupted(self: Any, x: Any, y: Any) -> None:
        calls[0] += 1
        if calls[0] == 12:
            raise KeyboardInterrupt
        original(self, x, y)

    path = config_file(tmp_path, 'modes = ["full"]')
    monkeypatch.setattr(TorchRun, "train_step", interrupted)
    result = invoke(str(path), "--out", str(tmp_path / "out"))
    assert result.exit_code == 130
    assert "balred train: interrupted: `--resume` goes on with" in result.stderr
    monkeypatch.setattr(TorchRun, "train_step", original)
    assert invoke(str(path), "--out", str(tmp_path / "out"), "--resume").exit_code == 0
    assert json.loads((tmp_path / "out" / "results.json").read_text())[0]["finished"]


@pytest.mark.full
@needs_torch
def test_wall_time_is_that_of_the_training_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that moves by 1 in a step, and by 100 in an evaluation: 30 steps take 30."""
    from balred.studies.settings import records
    from balred.studies.training.run_torch import TorchRun

    now = [0.0]
    step, look, save = TorchRun.train_step, TorchRun.evaluate, TorchRun.save

    def slow(original: Any, seconds: float) -> Any:
        def call(*args: Any, **kw: Any) -> Any:
            now[0] += seconds
            return original(*args, **kw)

        return call

    monkeypatch.setattr(records.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(TorchRun, "train_step", slow(step, 1.0))
    monkeypatch.setattr(TorchRun, "evaluate", slow(look, 100.0))
    monkeypatch.setattr(TorchRun, "save", slow(save, 1000.0))
    monkeypatch.setattr("balred.studies.training.study._warm_up", lambda *_: None)
    path, out = config_file(tmp_path, 'modes = ["full"]'), tmp_path / "out"
    assert invoke(str(path), "--out", str(out)).exit_code == 0
    assert json.loads((out / "results.json").read_text())[0]["seconds"] == 30.0


@pytest.mark.full
@needs_torch
def test_more_seeds_may_be_added(tmp_path: Path) -> None:
    path, out = (
        config_file(tmp_path, 'modes = ["full"]\nsteps = 20', TINY.replace("steps = 30\n", "")),
        tmp_path / "out",
    )
    for more in (["--seed", "2"], ["--seeds", "2", "--resume"]):
        assert invoke(str(path), "--out", str(out), *more).exit_code == 0
    assert [r["seed"] for r in json.loads((out / "results.json").read_text())] == [0, 1, 2]
    finished = (out / "seed-2" / "full" / "model.safetensors").stat().st_mtime_ns
    assert invoke(str(path), "--out", str(out), "--seed", "2", "--resume").exit_code == 0  # nothing is left to do
    assert (out / "seed-2" / "full" / "model.safetensors").stat().st_mtime_ns == finished


# -------------------------------------------------------------------------------------------------------- models


@needs_torch
def test_padding_changes_nothing() -> None:
    import torch

    from balred.studies.models.torch_models import Classifier

    tokens = torch.randint(1, 9, (3, 10), generator=torch.Generator().manual_seed(0))
    tokens[1, 6:] = 0
    longer = torch.cat([tokens, torch.zeros(3, 7, dtype=torch.long)], dim=1)
    for read in ("last", "mean"):
        model = Classifier(4, [6, 6], vocabulary=9, read=read)
        assert torch.allclose(model(tokens), model(longer), atol=1e-6)
        assert torch.allclose(model(tokens[1:2, :6]), model(tokens)[1:2], atol=1e-6)
    each = Classifier(4, [6], classes=5, vocabulary=9, read="each")(tokens)
    assert each.shape == (3, 10, 5)
    with pytest.raises(ValueError, match="read must be last, mean or each, got 'all'"):
        Classifier(4, [6], read="all")


@needs_torch
def test_pairs_are_read_one_by_one() -> None:
    import torch

    from balred.studies.models.torch_models import Classifier

    model = Classifier(4, [6], classes=2, vocabulary=9, read="mean", pairs=True)
    a, b = (torch.randint(1, 9, (3, 10), generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    together = model(torch.stack([a, b], dim=1))
    x, y = model._encoded(a), model._encoded(b)
    assert torch.allclose(together, model.head(torch.cat([x, y, x * y, x - y], dim=-1)), atol=1e-6)


@needs_torch
@pytest.mark.parametrize("kind", ["colour", "text", "pairs"])
def test_every_kind_of_task_trains(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from balred.studies.data.tasks import Task
    from balred.studies.data.texts import characters
    from balred.studies.training import study as module

    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 60)
    if kind == "colour":
        x = rng.integers(0, 256, (60, 9, 3), dtype=np.uint8)
        task = Task(x, y, x, y, classes=2, mean=np.float32(0.5), std=np.float32(0.3))
    elif kind == "text":
        task = characters("".join(rng.choice(list("abc"), 800)), length=10)
    else:
        x = rng.integers(1, 9, (60, 2, 9), dtype=np.uint8)
        task = Task(x, y, x, y, classes=2, vocabulary=9)
    monkeypatch.setattr(module, "load_task", lambda config, seed: task)
    config = replace(read_config(config_file(tmp_path)), modes=("truncated",), steps=20, batch=8)
    rows = module.run_study(config, [0], tmp_path / "out")
    assert rows[0]["finished"]
    lines = [json.loads(x) for x in (tmp_path / "out/seed-0/truncated-0.2/metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["event"] == "evaluation"][-1]
    assert 0 < last["test_loss"] < 2 * np.log(task.classes)
