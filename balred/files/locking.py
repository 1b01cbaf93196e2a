"""Only one process at a time writes to a folder, because two trainings in one folder would mix their lines.

The lock is a folder with one file in it, whose *name* says who holds it.  A folder takes a name only where there is none, on
every file system, so one of many that come at once gets it.  The lock of a process that has ended, by a kill or with its
machine, is taken over by renaming that file: the name of a dead owner is there once, so one of many gets it here too, and no
step lies between two owners in which a third could come in.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

LOCK = ".in-use"
"""The name of the lock in a folder."""
_NAME = re.compile(r"([0-9]+),([^,]*),([^,]*),([0-9a-f]+)\.owner")


class Owner(NamedTuple):
    """A process that holds a lock; no two are alike, also where one process takes it twice."""

    pid: int
    host: str
    started: str | None
    """When it began; None where the platform does not tell."""
    token: str

    @property
    def name(self) -> str:
        """The name of its file, at most 255 characters with a host's name of 63."""
        return f"{self.pid},{quote(self.host, safe='')},{quote(self.started or '', safe='')},{self.token}.owner"

    @classmethod
    def of(cls, name: str) -> Owner | None:
        """Whose file has that name; None where it is nobody's."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        pid, host, started, token = found.groups()
        return cls(int(pid), unquote(host), unquote(started) or None, token)


@contextmanager
def alone(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Have a folder to oneself, which is made if it does not exist.

    Raises
    ------
    OSError
        Nothing can be written to the folder.
    ValueError
        Another process holds the folder, or a process on another machine does, and it cannot be seen whether that one has ended.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with alone(folder):
    ...         try:
    ...             with alone(folder):
    ...                 pass
    ...         except ValueError as error:
    ...             print("in use by process" in str(error))
    True
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock, me = folder / LOCK, _myself()
    _take(lock, me)
    try:
        yield
    finally:
        if (lock / me.name).exists():  # else somebody took it for a dead one's, by hand
            made = _beside(lock)
            lock.rename(made)  # in one go: nobody sees half a lock
            shutil.rmtree(made, ignore_errors=True)


def _take(lock: Path, me: Owner) -> None:
    made = _beside(lock)
    made.mkdir()
    try:
        (made / me.name).touch()
        for _ in range(100):  # each time that another was quicker
            try:
                made.rename(lock)
                return
            except OSError:
                if not lock.exists():  # gone meanwhile, or nothing can be written here
                    continue
            owner = _owner(lock)
            if owner is None:
                if lock.exists():
                    raise ValueError(
                        f"{lock}: a lock must name its process, got one that does not: delete it if no process works in this folder"
                    )
            elif _alive(owner):
                raise ValueError(
                    f"{lock.parent}: a folder must be written to by one process at a time, got one in use by process "
                    f"{owner.pid} of {owner.host}: {_advice(owner, lock)}"
                )
            else:
                with contextlib.suppress(FileNotFoundError):  # another took it over
                    (lock / owner.name).rename(lock / me.name)
                    return
        made.rename(lock)  # the error that it ends with
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _beside(lock: Path) -> Path:
    return lock.with_name(f"{lock.name}.{secrets.token_hex(6)}.part")


def _owner(lock: Path) -> Owner | None:
    """Who holds a lock; None where that cannot be told."""
    try:
        found = [Owner.of(name) for name in os.listdir(lock)]
    except OSError:
        return None
    return found[0] if len(found) == 1 else None


def _myself() -> Owner:
    pid = os.getpid()
    return Owner(pid, socket.gethostname(), _started(pid), secrets.token_hex(6))


def _advice(owner: Owner, lock: Path) -> str:
    if owner.host == socket.gethostname() and os.name != "nt":
        return "wait until it ends, or choose another folder"
    return f"if it has ended, delete {lock}"


def _alive(owner: Owner) -> bool:
    """Whether the process that took a lock still runs, as far as is known: one with its number may be another."""
    if owner.host != socket.gethostname() or os.name == "nt":  # a signal, even none, would end a process of Windows
        return True
    pid = owner.pid
    if pid < 1:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # somebody else's
    now = _started(pid)
    return now is None or owner.started is None or now == owner.started


def _started(pid: int) -> str | None:
    """When a process began, where the platform tells it: since which boot and at which tick.  "" if it has only to be buried."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()  # its name may hold anything
        return "" if fields[0] in (b"Z", b"X") else f"{boot} {int(fields[19])}"
    except (OSError, ValueError, IndexError):
        return None
