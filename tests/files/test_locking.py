"""One writer a folder: the second is told, a dead one's lock is taken over, also where its number lives on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from balred.files import locking as module
from balred.files.locking import LOCK, Owner, alone

needs_signals = pytest.mark.skipif(os.name == "nt", reason="on Windows nobody can be asked whether he lives")


def held(folder: Path, **owner: Any) -> None:
    """A lock as another process leaves it."""
    (folder / LOCK).mkdir(parents=True)
    (folder / LOCK / module._myself()._replace(**owner).name).touch()


def ended() -> int:
    """The number of a process that was."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_the_second_is_told_and_the_third_comes_after_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    with (
        alone(folder),
        pytest.raises(
            ValueError, match=rf"^{folder}: .* one in use by process {os.getpid()} of .*: wait until it ends"
        ),
        alone(folder),
    ):
        pytest.fail("two at once")
    with alone(folder):
        assert [x.name for x in folder.iterdir()] == [LOCK]
    assert not list(folder.iterdir())
    with pytest.raises(KeyError), alone(folder):
        raise KeyError
    assert not list(folder.iterdir())


@needs_signals
def test_a_dead_owner_is_succeeded(tmp_path: Path) -> None:
    held(tmp_path, pid=ended())
    with alone(tmp_path):
        assert [Owner.of(x.name).pid for x in (tmp_path / LOCK).iterdir()] == [os.getpid()]  # type: ignore[union-attr]
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no such file")
def test_a_number_that_is_used_again(tmp_path: Path) -> None:
    """The process with that number began at another time, or after another boot."""
    boot, tick = str(module._started(os.getpid())).split()
    for started in (f"{boot} {int(tick) - 1}", f"of-before {tick}"):
        held(tmp_path, started=started)
        with alone(tmp_path):
            pass
    child = subprocess.Popen([sys.executable, "-c", ""])
    while module._started(child.pid) not in ("", None):  # until it is a zombie
        pass
    held(tmp_path, pid=child.pid, started=f"{boot} 1")
    with alone(tmp_path):
        pass
    child.wait()


def test_another_machine_cannot_be_asked(tmp_path: Path) -> None:
    held(tmp_path, host="elsewhere", pid=1)
    with (
        pytest.raises(ValueError, match=r"process 1 of elsewhere: if it has ended, delete .*\.in-use"),
        alone(tmp_path),
    ):
        pass
    assert (tmp_path / LOCK).exists()


@pytest.mark.parametrize("names", [[], ["owner.json"], ["x,host,,ab.owner"], ["1,a,,ab.owner", "2,b,,cd.owner"]])
def test_a_lock_that_says_nothing(names: list[str], tmp_path: Path) -> None:
    (tmp_path / LOCK).mkdir()
    (tmp_path / LOCK / "left").mkdir()  # a folder that is empty takes another's name
    for name in names:
        (tmp_path / LOCK / name).touch()
    with (
        pytest.raises(ValueError, match="a lock must name its process, got one that does not: delete it"),
        alone(tmp_path),
    ):
        pass


@needs_signals
def test_of_many_one_comes_in(tmp_path: Path) -> None:
    """Also where all of them find a dead owner's lock at once."""
    gone = ended()
    for turn in range(60):
        if turn % 2:
            held(tmp_path, pid=gone)
        inside, most, done, start, end = [0], [0], [], threading.Barrier(6), threading.Barrier(6)

        def enter(inside: Any = inside, most: Any = most, done: Any = done, start: Any = start, end: Any = end) -> None:
            start.wait()
            try:
                with alone(tmp_path):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    end.wait()
                    inside[0] -= 1
            except ValueError:
                done.append(1)
                end.wait()

        threads = [threading.Thread(target=enter) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (most[0], len(done)) == (1, 5)
        assert not list(tmp_path.iterdir())
