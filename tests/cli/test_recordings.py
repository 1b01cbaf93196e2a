"""``--inputs``: what files of recordings mean, and what is refused of them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from commands import as_json, damaged, ends_well, run
from numpy.testing import assert_allclose

import balred
from balred.cli.recordings import read_recording
from balred.files import StoredSystem, load, save

U = np.random.default_rng(0).standard_normal((2, 60))
T = 0.1 * np.arange(60)
G = balred.testing.random_system(6, 2, 3, seed=0)
WANTED = balred.reduce(G, 3, inputs=U, dt=0.1)


@pytest.fixture
def plant(tmp_path: Path) -> Path:
    save(StoredSystem(G, "plant", ("force", "flow")), tmp_path / "plant.mat")
    return tmp_path / "plant.mat"


def table(path: Path, columns: dict[str, Any], comma: str = ",", head: bool = True) -> Path:
    header = comma.join(columns) if head else ""
    np.savetxt(path, np.column_stack(list(columns.values())), delimiter=comma, header=header, comments="", fmt="%.17g")
    return path


def test_reduce_writes_what_the_library_makes(plant: Path, tmp_path: Path) -> None:
    u = table(tmp_path / "u.csv", {"time": T, "force": U[0], "flow": U[1]})
    out = as_json("reduce", plant, "--order", 3, "--inputs", u, "-o", tmp_path / "small.mat")
    assert_allclose(load(tmp_path / "small.mat").system.A, WANTED.A)
    assert out["recordings"] == [str(u)]
    assert out["inputs"] == 2  # the system's
    assert out["bound"] is None
    a = balred.analyze(G, inputs=U, dt=0.1)
    assert out["output_error"] == pytest.approx(a.output_error(3), rel=1e-9)
    text = run("reduce", plant, "--order", 3, "--inputs", u).stdout
    assert f"{a.output_error(3):.6g} (relative, along the inputs)" in text
    assert_allclose(as_json("hsv", plant, "--inputs", u)["hsv"], a.hsv)


def test_every_format_means_the_same(plant: Path, tmp_path: Path) -> None:
    table(
        tmp_path / "named.csv", {"t [s]": T, "level": U[0], "flow": U[1], "force": U[0]}
    )  # by name, whatever the order
    table(tmp_path / "semicolons.csv", {"Time": T, "a": U[0], "b": U[1]}, ";")
    table(tmp_path / "bare.csv", {"a": U[0], "b": U[1]}, head=False)
    np.save(tmp_path / "rows.npy", U)
    np.save(tmp_path / "columns.npy", U.T)
    np.savez(tmp_path / "step.npz", u=U, y=U, dt=0.1)
    np.savez(tmp_path / "times.npz", anything=U, t=T)
    scipy.io.savemat(tmp_path / "matlab.mat", {"u": U.T, "t": T[:, None], "y": 1.0})
    files = {path.name: path for path in tmp_path.iterdir() if path != plant}
    assert len(files) == 8
    for name, path in files.items():
        step = ["--dt", 0.1] if name.startswith("bare") or name.endswith(".npy") else []
        run("reduce", plant, "--order", 3, "--inputs", path, *step, "-o", tmp_path / "small.npz", "--force")
        assert_allclose(load(tmp_path / "small.npz").system.A, WANTED.A, rtol=1e-9, err_msg=name)


def test_several_files_holds_and_weights(plant: Path, tmp_path: Path) -> None:
    for name, part in (("a", U[:, :20]), ("b", U[:, 20:])):
        np.savez(tmp_path / f"{name}.npz", u=part, dt=0.1)
    save(w := balred.ss([[-1.0]], [[1.0, 0.0, 0.0]], [[1.0]]), tmp_path / "w.json")
    out = as_json(
        "hsv", plant, "--inputs", tmp_path / "a.npz", "--inputs", tmp_path / "b.npz", "--hold", "foh", "--left", tmp_path / "w.json"
    )  # fmt: skip
    wanted = balred.analyze(G, inputs=[U[:, :20], U[:, 20:]], dt=0.1, hold="foh", left=w).hsv
    assert_allclose(out["hsv"], wanted, rtol=1e-9)


def test_a_discrete_system_has_its_own_step(tmp_path: Path) -> None:
    save(balred.testing.random_system(4, 1, 1, dt=1 / 30, seed=1), tmp_path / "g.json")
    rounded = table(tmp_path / "u.csv", {"t": np.round(np.arange(60) / 30, 3), "u": U[0]})
    assert as_json("reduce", tmp_path / "g.json", "--order", 2, "--inputs", rounded)["order"] == 2
    said = run("reduce", tmp_path / "g.json", "--order", 2, "--inputs", rounded, "--dt", 0.1, code=1).stderr
    assert "must be the system's, 0.0333333, got 0.1 in --dt" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least one sample, got an empty file"),
        ("force,flow\n", "at least one sample"),
        ("t,force,flow\n", "at least two times"),
        ("t,force,flow\n0,1,2\n", "at least two times"),
        ("force,flow\n1,2\n3\n", "every line must have 2 columns, got 1 in line 3"),
        ("force,flow\n1,2\n3,x\n", "every column must hold numbers, got 'x' in line 3"),
        ("force,flow\n1,2\n3,\n", "every column must hold numbers, got '' in line 3"),
        ("t,force,flow\n0,1,2\n1,2,3\n5,3,4\n", "times must be equally spaced"),
        ("t,force,flow\n2,1,2\n1,2,3\n0,3,4\n", "times must be equally spaced"),
        ("t,force,flow\n0,1,2\nnan,2,3\n2,3,4\n", "times must be equally spaced, got nan at sample 1"),
        ("time (ms),force,flow\n0,1,2\n1,2,3\n", "time must be in seconds"),
        ("force,pressure\n1,2\n3,4\n", "must have all of the system's inputs, got force, pressure: flow missing"),
        ("a,b,c\n1,2,3\n3,4,5\n", "must have the system's inputs, force, flow, got columns a, b, c"),
        ("0,1,2\n1,2,3\n", "a column of times needs the name t or time"),
        ("force,flow\n1,nan\n3,4\n", "must be finite"),
        ("0.1,0.2x\n1,2\n3,4\n", "the first line must hold names or numbers, got both: '0.2x' in line 1"),
        (",0,1\n0,1,2\n1,3,4\n", "the first line must hold names or numbers, got both: '' in line 1"),
        ("force,flow,flow\n1,2,3\n4,5,6\n", "names of columns must differ, got force, flow, flow"),
    ],
)
def test_tables_that_are_none(plant: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "u.csv").write_text(text)
    assert message in run("reduce", plant, "--order", 3, "--inputs", tmp_path / "u.csv", "--dt", 1, code=1).stderr


@pytest.mark.parametrize(
    ("name", "arrays", "message"),
    [
        ("u.npz", {"a": U, "b": U}, "must be the only array, or called u or inputs, got a, b"),
        ("u.npz", {"u": U, "dt": 0.1, "t": T * 2}, "must agree"),
        ("u.npz", {"u": U, "dt": [0.1, 0.2]}, "dt must be one number"),
        ("u.npz", {"u": np.array(["a"]), "dt": 0.1}, "u must hold numbers"),
        ("u.npz", {"u": U, "dt": -1.0}, "positive number of seconds"),
        ("u.npz", {"u": U[None], "dt": 0.1}, "got shape (1, 2, 60)"),
        ("u.npz", {"u": U}, "need the seconds between samples"),
        ("u.mat", {"A": np.eye(2), "B": U}, "must be the only array"),
    ],
)
def test_arrays_that_are_none(plant: Path, tmp_path: Path, name: str, arrays: Any, message: str) -> None:
    if name.endswith(".npz"):
        np.savez(tmp_path / name, **arrays)
    else:
        scipy.io.savemat(tmp_path / name, arrays)
    assert message in run("reduce", plant, "--order", 3, "--inputs", tmp_path / name, code=1).stderr


@pytest.mark.parametrize("name", ["u.npy", "u.npz", "u.mat", "u.csv", "u.txt"])
def test_bytes_of_anything_else_end_with_one_line(plant: Path, tmp_path: Path, name: str) -> None:
    for data in (b"", b"\x93NUMPY\x01\x00", bytes(range(256)), b"PK\x03\x04" + bytes(60)):
        (tmp_path / name).write_bytes(data)
        said = run("reduce", plant, "--order", 3, "--inputs", tmp_path / name, "--dt", 1, code=1).stderr
        assert len(said.strip().splitlines()) == 1, said
        assert str(tmp_path / name) in said


def good_recordings(folder: Path) -> list[Path]:
    """A recording of two inputs in a file of each kind."""
    table(folder / "u.csv", {"force": U[0], "flow": U[1]})
    table(folder / "t.csv", {"time": T, "force": U[0], "flow": U[1]}, ";")
    np.save(folder / "u.npy", U)
    np.savez(folder / "u.npz", u=U, dt=0.1)
    np.savez_compressed(folder / "t.npz", u=U, t=T)
    scipy.io.savemat(folder / "u.mat", {"u": U, "Ts": 0.1})
    return sorted(folder.glob("[tu].*"))


def fuzz_recording(plant: Path, good: Path, seed: int) -> int:
    """The status of ``balred reduce`` along a damaged recording."""
    bad = good.with_name(f"bad{good.suffix}")
    bad.write_bytes(damaged(good.read_bytes(), random.Random(seed)))
    return ends_well("reduce", plant, "--order", 2, "--inputs", bad, "--dt", 0.1)


@pytest.mark.full
def test_damaged_recordings(plant: Path, tmp_path: Path) -> None:
    """Seeds 7 and 10 leave a cell of many zero bytes in a table, and a header that Python cannot read in an array."""
    found = [fuzz_recording(plant, good, seed) for good in good_recordings(tmp_path) for seed in range(12)]
    assert 0.5 * len(found) < sum(found) < len(found)


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "u.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="without pickled objects"):
        read_recording(tmp_path / "u.npy")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dt", "1"], "must go with --inputs"),
        (["--hold", "foh"], "must go with --inputs"),
        (["--inputs", "u.csv", "--hold", "cubic"], "must be one of zoh, foh"),
        (["--inputs", "u.csv", "--dt", "0"], "must be a positive number"),
        (["--inputs", "u.csv", "--method", "modal"], "with recorded inputs a method must be"),
        (["--inputs", "u.csv", "--right", "w.mat"], "the options of method"),
    ],
)
def test_options_that_cannot_be_meant(plant: Path, options: list[str], message: str) -> None:
    said = " ".join(run("reduce", plant, "--order", 3, *options, code=2).stderr.replace("│", " ").split())
    assert message in said
