"""What strangers' and damaged files do to ``balred report`` and ``inspect``: one line and a status, never a traceback, in time.

Seeded: each case damages one file of a folder that was good, by bytes or by values.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import damaged, ends_well, run

import balred

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from safetensors.torch import save_file  # noqa: E402

from balred.adapters.torch import LRU  # noqa: E402
from balred.studies.settings.train_config import TrainConfig  # noqa: E402
from balred.studies.training.run_files import RunFolder, write_json  # noqa: E402

STRANGE: tuple[Any, ...] = (
    None, True, -1, 1.5, 1e308, float("nan"), float("inf"), 10**30, "", "x" * 500, "\x1b[2J", "\ud800", "../../x", "$\\frac$",
    [], [1, "a"], [[]], {}, {"a": {}}, {"": -1}, {"\udc80": 1}, {"../x": [1.0]}, {"a": []},
)  # fmt: skip


def strange(value: Any, rng: random.Random) -> Any:
    """A value of JSON with something else somewhere in it."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        kind = rng.random()
        if kind < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if kind < 0.15:
            return {k if k != key else rng.choice(("", "\ud800", "x" * 300, "..")): v for k, v in value.items()}
        return {**value, key: strange(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], strange(value[at], rng), *value[at + 1 :]]
    return rng.choice(STRANGE)


def spoil(folder: Path, rng: random.Random) -> str:
    """Damage one file below a folder; its name."""
    path = rng.choice(sorted(p for p in folder.rglob("*") if p.is_file()))
    data = path.read_bytes()
    if path.suffix in (".json", ".jsonl") and rng.random() < 0.7:
        lines = [json.loads(x) for x in data.splitlines()] if path.suffix == ".jsonl" else [json.loads(data)]
        at = rng.randrange(len(lines))
        lines[at] = strange(lines[at], rng)
        path.write_text("".join(json.dumps(x) + "\n" for x in lines))
    else:
        path.write_bytes(damaged(data, rng))
    return path.name


# --------------------------------------------------------------------------------------------------------- report


def study(root: Path) -> None:
    """A study of one seed with all kinds of files that a report opens."""
    config = TrainConfig(states=(3,), steps=20, attempts=1, taus=(0.04,), width=2)
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(config).items()}
    write_json(root / "config.json", {"config": plain})
    for name in ("full", "truncated-0.04"):
        folder = RunFolder(root / "seed-0" / name)
        for step in (0, 10):
            system: Any = balred.testing.random_system(3, 2, 2, kind="conjugate", dt=1, seed=step)
            folder.keep("a", step, system)
            folder.log("hsv", step, layers={"a": balred.hsv(system).tolist()})
        for step in (10, 20):
            folder.log("step", step, seconds=0.5 * step, loss=1.0, ranks={"a": 3})
            folder.log("evaluation", step, seconds=0.5 * step, loss=1.0, accuracy=0.5, test_loss=1.0, ranks={"a": 3})
        cut = {"event": "cut", "step": 2, "seconds": 1, "layer": "a", "from": 3, "to": 2, "energy": 0.9, "bound": 0.1}
        folder.events.append([cut, {"event": "nothing", "step": 3, "seconds": 1, "ranks": {"a": 2}}])
        folder.finish(
            {
                "run": name, "seed": 0, "mode": name.partition("-")[0], "tau": 0.04 if "-" in name else None, "accuracy": 0.5,
                "ranks": {"a": 2}, "seconds": 9.0, "steps": 20, "finished": True, "versions": {"torch": "1"}, "hardware": "one",
            }
        )  # fmt: skip


@pytest.fixture(scope="module")
def good_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("good") / "study"
    study(root)
    return root


def fuzz_report(good: Path, folder: Path, seed: int) -> int:
    """The status of ``balred report`` of a study with one damaged file."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good, folder)
    spoil(folder, random.Random(seed))
    return ends_well("report", folder)


@pytest.mark.full
def test_damaged_runs(good_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from balred.studies.reports import plots

    monkeypatch.setattr(plots, "png", lambda figure, dpi=0: "data:image/png;base64,")  # to draw takes most of the time
    assert ends_well("report", good_study) == 0
    codes = [fuzz_report(good_study, tmp_path / "x", seed) for seed in range(60)]
    assert codes.count(1) > 20


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.json", "{}", "config.json: config must be an object with the keys of a study, got None"),
        ("config.json", "", "config.json: the file must be valid JSON, got: Expecting value"),
        ("config.json", "[" * 100_000, "config.json: the file must be valid JSON, got: "),
        ("config.json", '{"config": {"steps": 3}}', "config.json: steps must be at least 20"),
        ("seed-0/full/result.json", "null", "result.json: the file must hold a JSON object, got NoneType"),
        ("seed-0/full/result.json", "{}", "result.json: run must be what balred writes there, got none"),
        ("seed-0/full/result.json", "[" * 100_000, "result.json: the file must be valid JSON"),
        ("seed-0/full/events.jsonl", '{"event": "cut", "step": 1}\n', "events.jsonl, line 1 (cut): layer must be what"),
        ("seed-0/full/events.jsonl", '{"event": [], "step": 1}\n', "events.jsonl, line 1: event must be text, got []"),
        ("seed-0/full/metrics.jsonl", '{"event": "hsv", "step": 1, "layers": {"../../x": [1]}}\n', "layers must be what"),
        ("seed-0/full/metrics.jsonl", '{"event": "hsv", "step": 1, "layers": {"a": []}}\n', "layers must be what"),
        ("seed-0/full/metrics.jsonl", '{"event": "x", "step": 1, "ranks": {"\\ud800": 1}}\n', "ranks must be what"),
        ("seed-0/full/snapshots/a-0.npz", "nonsense", "a-0.npz: the file must be an .npz archive"),
    ],
)  # fmt: skip
def test_what_a_run_must_hold(file: str, text: str, message: str, good_study: Path, tmp_path: Path) -> None:
    shutil.copytree(good_study, tmp_path / "x")
    (tmp_path / "x" / file).write_text(text)
    told = run("report", tmp_path / "x", code=1).stderr
    assert told.startswith(f"balred report: {tmp_path / 'x' / file}"[:-1])
    assert message in told
    assert told.count("\n") == 1


# -------------------------------------------------------------------------------------------------------- inspect


def whole(folder: Path) -> None:
    """A file of each kind that inspect opens, good ones."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), LRU(3, 4))
    balred.save(model, folder / "saved.safetensors")
    state = model.state_dict()
    save_file(state, folder / "plain.safetensors")
    torch.save({"state_dict": state, "step": 3}, folder / "model.pt")
    torch.save(state, folder / "old.pt", _use_new_zipfile_serialization=False)
    (folder / "shards").mkdir()
    names = {name: f"{name.partition('.')[0]}.safetensors" for name in state}
    for file in set(names.values()):
        save_file({k: state[k] for k in state if names[k] == file}, folder / "shards" / file)
    (folder / "shards" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    (folder / "shards" / "config.json").write_text(json.dumps({"n_groups": 2, "model_type": "x"}))


PLACES = ("saved.safetensors", "plain.safetensors", "model.pt", "old.pt", "shards")


@pytest.fixture(scope="module")
def good_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    whole(folder)
    return folder


def fuzz_inspect(good: Path, folder: Path, place: str, seed: int) -> int:
    """The status of ``balred inspect`` of a damaged file, or of a folder with one."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good, folder)
    rng = random.Random(seed)
    if (folder / place).is_dir():
        spoil(folder / place, rng)
    else:
        (folder / place).write_bytes(damaged((good / place).read_bytes(), rng))
    return ends_well("inspect", folder / place)


@pytest.mark.alike
@pytest.mark.parametrize("place", PLACES)
def test_damaged_checkpoints(place: str, good_files: Path, tmp_path: Path) -> None:
    assert ends_well("inspect", good_files / place) == 0
    codes = [fuzz_inspect(good_files, tmp_path / "x", place, seed) for seed in range(30)]
    assert codes.count(1) >= 8
    if place == "saved.safetensors":  # whose seal finds whatever is damaged
        before = (good_files / place).read_bytes()
        same = [damaged(before, random.Random(seed)) == before for seed in range(30)]
        assert codes == [0 if x else 1 for x in same]


def shape_tensors(seed: int) -> dict[str, Any]:
    """Tensors called like those of layers, of any shapes."""
    rng = random.Random(seed)
    from balred.files.families import FAMILIES

    names = (
        *FAMILIES, "theta_log", "gamma_log", "B", "C", "C1", "C2", "B_re", "B_im", "C_re", "C_im", "log_step", "Lambda_im", "A_imag",
        "log_dt", "steps", "x_proj.weight", "dt_proj.weight", "x_proj_weight", "in_proj.weight", "conv1d.weight",
        "out_proj.weight", "dt_bias",
    )  # fmt: skip
    sizes = (0, 1, 2, 2, 2, 4)
    chosen = rng.sample(names, rng.randrange(4, len(names)))
    return {f"m.{k}": torch.rand([rng.choice(sizes) for _ in range(rng.randrange(4))]) for k in chosen}


def test_layers_of_any_shapes(tmp_path: Path) -> None:
    for seed in range(60):
        save_file(shape_tensors(seed), tmp_path / "x.safetensors")
        ends_well("inspect", tmp_path / "x.safetensors")


def header(path: Path, tensors: dict[str, Any], data: bytes = b"") -> None:
    text = json.dumps(tensors).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_shapes_without_numbers_cost_nothing(tmp_path: Path) -> None:
    big = 10**11
    empty = {"dtype": "F32", "data_offsets": [0, 0]}
    header(
        tmp_path / "x.safetensors",
        {
            "nu_log": {**empty, "shape": [0]}, "theta_log": {**empty, "shape": [0]}, "gamma_log": {**empty, "shape": [0]},
            "B": {**empty, "shape": [0, big, 2]}, "C": {**empty, "shape": [big, 0, 2]},
        },
    )  # fmt: skip
    assert ends_well("inspect", tmp_path / "x.safetensors", seconds=5) == 1


def itself() -> Any:
    loop: list[Any] = []
    loop.append(loop)
    return loop


def doubling() -> Any:
    tree: Any = [1]
    for _ in range(60):
        tree = [tree, tree]
    return tree


def views() -> Any:
    """A layer whose matrices are one number each."""
    one = torch.ones(1)
    vectors = {k: one.expand(40_000) for k in ("nu_log", "theta_log", "gamma_log")}
    return vectors | {"B": one.expand(40_000, 40_000, 2), "C": one.expand(40_000, 40_000, 2)}


@pytest.mark.full
@pytest.mark.parametrize("make", [itself, doubling, views])
def test_files_that_grow(make: Callable[[], Any], tmp_path: Path) -> None:
    torch.save(make(), tmp_path / "x.pt")
    status = ends_well("inspect", tmp_path / "x.pt", seconds=30)
    assert status == (0 if make is views else 1)
    if make is views:
        assert "a tensor must fit into its file of" in run("inspect", tmp_path / "x.pt").stdout


def test_a_packed_checkpoint_is_not_unpacked(tmp_path: Path) -> None:
    import zipfile

    torch.save({"nu_log": torch.zeros(100)}, tmp_path / "x.pt")
    with (
        zipfile.ZipFile(tmp_path / "x.pt") as old,
        zipfile.ZipFile(tmp_path / "y.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for item in old.infolist():
            new.writestr(item.filename, old.read(item) + bytes(10_000_000 * item.filename.endswith("data.pkl")))
    told = run("inspect", tmp_path / "y.pt", code=1).stderr
    assert "y.pt: a PyTorch checkpoint must be stored without compression, got 1000" in told


@pytest.mark.parametrize(
    "name",
    [
        "..", ".", "", "../x.safetensors", "/etc/x.safetensors", "..\\x.safetensors", "a\0.safetensors", "shards", "config.json",
        "model.safetensors.index.json", "other.index.json", 3, None, ["x.safetensors"],
    ],
)  # fmt: skip
def test_an_index_leads_nowhere_else(name: Any, good_files: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    shutil.copytree(good_files / "shards", folder)
    shutil.copy(good_files / "plain.safetensors", tmp_path / "x.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "x.safetensors"}}')
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"1.nu_log": name}}))
    told = run("inspect", folder, code=1).stderr
    assert told.startswith(
        f"balred inspect: {folder / 'model.safetensors.index.json'}: an index must have a weight_map"
    )


def test_code_in_a_checkpoint_is_named_and_not_recommended(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pt")
    told = run("inspect", tmp_path / "x.pt", code=1).stderr
    assert told == (
        f"balred inspect: {tmp_path / 'x.pt'}: a PyTorch checkpoint must hold tensors and nothing that is code, got one with "
        "torch.nn.modules.linear.Linear\n"
    )


def test_names_do_not_reach_the_terminal(tmp_path: Path) -> None:
    state = {f"\x1b[2J\n\ud7ffü{k}": v for k, v in LRU(2, 3).state_dict(prefix=".").items()}
    save_file(state, tmp_path / "x.safetensors")
    out = run("inspect", tmp_path / "x.safetensors").stdout
    assert "\x1b" not in out
    assert "ü" in out
