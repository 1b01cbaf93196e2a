"""What reaches a terminal or a pipe: no escape codes of strangers, one line for a full disk, no work for a picture that cannot be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from commands import run

import balred
from balred.cli.output import say
from balred.files import StoredSystem, save

EVIL = "\x1b[2J\x1b]0;title\x07 a\rb\nforged: 9 states \u202e\x9b31m"


def stored(folder: Path, name: str = "plant", suffix: str = ".json") -> Path:
    path = folder / f"g{suffix}"
    save(StoredSystem(balred.ss([[-1.0]], [[1.0]], [[1.0]]), name, (name,), ("y",)), path)
    return path


@pytest.mark.parametrize("command", ["hsv", "reduce", "compare"])
def test_names_are_shown_and_not_obeyed(command: str, tmp_path: Path) -> None:
    for suffix in (".json", ".npz", ".mat"):
        path = stored(tmp_path, EVIL if suffix != ".mat" else "\x1b[2J\n", suffix)
        more = {"hsv": (), "reduce": ("--order", 1), "compare": (path,)}[command]
        out = run(command, path, *more).output
        assert not {c for c in out if not c.isprintable()} - {"\n"}
        assert "\\x1b[2J" in out
        assert not [line for line in out.splitlines() if line.startswith("forged")]


def test_errors_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "g.json"
    path.write_text('{"\\u001b[2J\\n\\u202e": 1}')
    told = run("hsv", path, code=1).stderr
    assert told.count("\n") == 1
    assert "\x1b" not in told


def test_errors_quote_no_whole_file(capsys: pytest.CaptureFixture[str]) -> None:
    """zipfile quotes a name in a damaged archive, which may be all of it."""
    say("hsv", f"g.npz: names must agree, got {bytes(4000)!r} and 'A'")
    told = capsys.readouterr().err
    assert told.startswith("balred hsv: g.npz: names must agree, got b'\\x00")
    assert told.endswith("x00' and 'A'\n")
    assert told.count("\n") == 1
    assert len(told) < 1000


def test_a_terminal_of_another_alphabet(tmp_path: Path) -> None:
    done = program("hsv", stored(tmp_path, "möglich Ω"), PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "(m\\xf6glich \\u03a9)" in done.stdout


def program(*arguments: Any, stdout: Any = subprocess.PIPE, **environment: str) -> Any:
    command = [sys.executable, "-m", "balred", *map(str, arguments)]
    paths = os.pathsep.join(p for p in sys.path if p)
    env = {**os.environ, "PYTHONPATH": paths, "COLUMNS": "120", **environment}
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=120, check=False, env=env)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")
@pytest.mark.parametrize("arguments", [("methods",), ("methods", "--json")])
def test_standard_output_on_a_full_disk(arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        done = program(*arguments, stdout=full)
    assert (done.returncode, done.stderr) == (1, "balred: standard output: No space left on device\n")


@pytest.mark.parametrize("command", ["hsv", "reduce", "compare", "inspect"])
def test_a_picture_is_judged_before_the_computing(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")

    def never(*args: Any, **kw: Any) -> None:
        pytest.fail("computed")

    monkeypatch.setattr("balred.cli.systems.load", never)
    monkeypatch.setattr("balred.cli.inspect.inspected", never)
    more = {"hsv": (), "reduce": ("--order", 1), "compare": ("g.json",), "inspect": ()}[command]
    (tmp_path / "folder.png").mkdir()
    for plot, message in (
        ("x.bmp2", "a picture's suffix must be one of ."), ("x", "got ''"), ("none/x.png", "no such folder"),
        ("folder.png", "a picture must be a file, got a folder"),
    ):  # fmt: skip
        told = run(command, "g.json", *more, "--plot", tmp_path / plot, code=1).stderr
        assert told.startswith(f"balred {command}: {tmp_path / plot}: ")
        assert message in told


@pytest.mark.parametrize("after", [0.05, 0.2, 0.4])
def test_ctrl_c_while_it_starts_is_answered_without_a_traceback(after: float, tmp_path: Path) -> None:
    """From the first line of the package on: the moment is waited for, not guessed, and then some."""
    mark = tmp_path / "began"
    code = (
        f"import pathlib, sys; sys.argv = ['balred', 'methods']; from balred.__main__ import main; "
        f"pathlib.Path({str(mark)!r}).touch(); main()"
    )
    paths = os.pathsep.join(p for p in sys.path if p)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    while not mark.exists():
        assert process.poll() is None, process.stderr
        time.sleep(0.01)
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    # it may have been done, or so nearly that Python had taken its handlers back: a shell says 130 to that, too
    assert process.returncode in (0, 130, -signal.SIGINT)
    assert "Traceback" not in told
    assert told.count("\n") <= 1
