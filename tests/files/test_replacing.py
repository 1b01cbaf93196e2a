"""Files are replaced whole or not at all: full disks, failing encoders, two writers, links; and the same bytes twice."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import run

import balred
import balred.files
from balred.files import replacing as module
from balred.files.replacing import replacing
from balred.layers.recurrence import lru_initial

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="needs limits and modes of POSIX")


def small(order: int = 4) -> Any:
    return balred.testing.random_system(order, 2, 2, seed=0)


def tree(states: int = 8) -> Any:
    rng = np.random.default_rng(0)
    layer = lru_initial(2, states, 0.5, 0.99, 3.0, rng.random, lambda *shape: rng.standard_normal(shape))
    return {"lru": layer, "z": {"a": layer["C_re"] + 1}}


def checkpoint(path: Path) -> None:
    pytest.importorskip("safetensors")
    balred.save(tree(), path)


def text(path: Path) -> None:
    with replacing(path) as file:
        file.write("words " * 4000)


def torch_file(path: Path) -> None:
    torch = pytest.importorskip("torch")
    with replacing(path, "wb") as file:
        torch.save({"x": torch.ones(9000)}, file)


def archive(path: Path) -> None:
    with replacing(path, "wb") as file:
        np.savez_compressed(file, x=np.random.default_rng(0).random(9000))


def picture(path: Path) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    from balred.cli.pictures import draw

    draw(Figure().subplots(), path)


WRITERS: dict[str, Callable[[Path], None]] = {
    "x.npz": lambda path: balred.files.save(small(40), path),
    "x.mat": lambda path: balred.files.save(small(40), path),
    "x.json": lambda path: balred.files.save(small(40), path),
    "x.safetensors": checkpoint,
    "x.pt": torch_file,
    "x.txt": text,
    "x.zip": archive,
    "x.png": picture,
}


class Full(module._Raw):
    """A disk with room for some bytes, which then takes a part of what it is given, and then nothing."""

    room = 0

    def write(self, data: Any) -> Any:
        if Full.room <= 0:
            self.failure = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise self.failure
        done: int = super().write(memoryview(data).cast("B")[: Full.room])
        Full.room -= done
        return done


@pytest.mark.parametrize("room", [0, 1, 700])
@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of zipfile's, which closes twice
def test_a_full_disk_leaves_the_older_file(
    name: str, room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    assert [x.name for x in tmp_path.iterdir()] == [name]
    before = path.read_bytes()
    assert len(before) > 700
    monkeypatch.setattr(module, "_Raw", Full)
    for there in (True, False):
        if not there:
            path.unlink()
        Full.room = room
        with pytest.raises(OSError, match="No space left") as caught:
            WRITERS[name](path)
        assert caught.value.filename == str(path)
        assert [x.read_bytes() for x in tmp_path.iterdir()] == [before] * there


@needs_posix
def test_a_limit_of_the_kernel(tmp_path: Path) -> None:
    """The same from outside: a limit on the size of files, in the command."""
    import resource

    balred.files.save(small(60), tmp_path / "g.npz")
    run("reduce", tmp_path / "g.npz", "--order", 3, "--no-error", "-o", tmp_path / "out.npz")
    before = (tmp_path / "out.npz").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
    try:
        again = ("reduce", tmp_path / "g.npz", "--order", 50, "--no-error", "-o")
        told = [run(*again, tmp_path / "out.npz", "--force", code=1), run(*again, tmp_path / "new.npz", code=1)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [x.stderr.splitlines()[-1] for x in told] == [
        f"balred reduce: {tmp_path / name}: {os.strerror(errno.EFBIG)}" for name in ("out.npz", "new.npz")
    ]
    assert (tmp_path / "out.npz").read_bytes() == before
    assert sorted(x.name for x in tmp_path.iterdir()) == ["g.npz", "out.npz"]


@pytest.mark.parametrize(
    "failure", [ValueError("the encoder's"), KeyboardInterrupt(), OSError(errno.EIO, "other", "input")]
)
def test_a_failure_of_the_body_is_its_own(failure: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("before")
    with pytest.raises(type(failure)) as caught, replacing(path) as file:  # noqa: PT012 (the body is what fails)
        file.write("half")
        raise failure
    assert caught.value is failure
    assert [x.read_text() for x in tmp_path.iterdir()] == ["before"]


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    texts = [str(i) * 50_000 for i in range(8)]
    start = threading.Barrier(len(texts))

    def write(text: str) -> None:
        start.wait()
        with replacing(tmp_path / "x") as file:
            file.write(text)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [x.name for x in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() in texts


@needs_posix
def test_links_modes_and_devices_stay(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to("real")
    with replacing(tmp_path / "link") as file:
        file.write("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "real").stat().st_mode) == 0o640
    with replacing(os.devnull) as file:
        file.write("x")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    long = tmp_path / ("ü" * 120)
    with replacing(long) as file:
        file.write("a name of 240 bytes")
    plain = tmp_path / "plain"
    plain.touch()
    assert long.stat().st_mode == plain.stat().st_mode


def test_what_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "x", tmp_path):
        with pytest.raises(OSError, match="directory") as caught, replacing(path):
            pytest.fail("nothing can be written here")
        assert caught.value.filename == str(path)


def test_the_older_one_may_be_kept(tmp_path: Path) -> None:
    path, older = tmp_path / "x", tmp_path / "x.1"
    for text in "abc":
        with replacing(path, previous=older) as file:
            file.write(text)
    assert (path.read_text(), older.read_text()) == ("c", "b")


@pytest.mark.parametrize("name", ["x.npz", "x.mat", "x.json", "x.safetensors"])
def test_the_same_contents_are_the_same_bytes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At another time, too."""
    WRITERS[name](tmp_path / name)
    first, now = (tmp_path / name).read_bytes(), time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1e6)
    monkeypatch.setattr(time, "asctime", lambda *_: "another day")
    for _ in range(3):
        WRITERS[name](tmp_path / name)
        assert (tmp_path / name).read_bytes() == first


def test_the_package_reads_what_is_written(tmp_path: Path) -> None:
    """Tensors in the order that keeps numbers aligned; names and texts of any language."""
    safetensors = pytest.importorskip("safetensors")
    from balred.files.tensors import Tensor, read_tensors, write_tensors

    arrays = {"ü": np.arange(3, dtype=np.int8), "b": np.arange(2.0), "a\n": np.arange(5, dtype=np.float32)}
    tensors = {k: Tensor(str(x.dtype), x.shape, lambda x=x: x.view(np.uint8)) for k, x in arrays.items()}
    write_tensors(tmp_path / "x", tensors, {"who": "möglich"})
    with safetensors.safe_open(tmp_path / "x", framework="np") as file:
        assert {k: file.get_tensor(k).tolist() for k in arrays} == {k: x.tolist() for k, x in arrays.items()}
        assert file.metadata()["who"] == "möglich"
    again = read_tensors(tmp_path / "x")
    again.check_seal()
    assert {k: x.values().tolist() for k, x in again.tensors.items()} == {k: x.tolist() for k, x in arrays.items()}
    assert io.BytesIO((tmp_path / "x").read_bytes()).read(8) != bytes(8)
