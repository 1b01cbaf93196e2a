"""One process at a time writes to a folder: two trainings in one mix their lines, and neither is what it says.

The lock is a folder with a file in it that says who holds it: a folder takes a name only where there is none, on every file
system.  The lock of a process that has ended, by a kill or with its machine, is taken over.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LOCK = ".in-use"
"""The name of the lock in a folder."""
_OWNER = "owner.json"


@contextmanager
def alone(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Have a folder to oneself, which is made if it does not exist.

    Raises
    ------
    OSError
        Nothing can be written to the folder.
    ValueError
        Another process has it, or one of another machine, of which nobody knows here whether it has ended.

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
    lock, mine = folder / LOCK, _myself()
    _take(lock, mine)
    try:
        yield
    finally:
        _bury(lock, mine)


def _take(lock: Path, mine: dict[str, Any]) -> None:
    made = _beside(lock)
    made.mkdir()
    try:
        (made / _OWNER).write_text(json.dumps(mine), encoding="utf-8")
        for _ in range(10):
            try:
                made.rename(lock)
                return
            except OSError:
                if not lock.exists():  # gone meanwhile, or nothing can be written here
                    continue
            owner = _owner(lock)
            if owner is None and lock.exists():
                raise ValueError(
                    f"{lock}: a lock must say whose it is, got one that does not: delete it if nothing runs there"
                )
            if owner is not None and _alive(owner):
                raise ValueError(
                    f"{lock.parent}: a folder must be written to by one process at a time, got one in use by process "
                    f"{owner['pid']} of {owner['host']}: {_advice(owner, lock)}"
                )
            if owner is not None:
                _bury(lock, owner)
        made.rename(lock)  # the error that it ends with
    finally:
        _remove(made)


def _bury(lock: Path, dead: dict[str, Any]) -> None:
    """Take away the lock of `dead`, or one's own at the end, unless another process has taken it over meanwhile."""
    old = _beside(lock)
    with contextlib.suppress(OSError):
        lock.rename(old)  # in one go: nobody sees half a lock
        if _owner(old) != dead:
            old.rename(lock)
        else:
            _remove(old)


def _beside(lock: Path) -> Path:
    return lock.with_name(f"{lock.name}.{secrets.token_hex(6)}.part")


def _remove(lock: Path) -> None:
    shutil.rmtree(lock, ignore_errors=True)


def _owner(lock: Path) -> dict[str, Any] | None:
    """Who holds a lock; None where that cannot be told."""
    try:
        found = json.loads((lock / _OWNER).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    good = isinstance(found, dict) and type(found.get("pid")) is int and isinstance(found.get("host"), str)
    return found if good else None


def _myself() -> dict[str, Any]:
    pid = os.getpid()
    return {"pid": pid, "host": socket.gethostname(), "started": _started(pid), "token": secrets.token_hex(6)}


def _advice(owner: dict[str, Any], lock: Path) -> str:
    if owner["host"] == socket.gethostname() and os.name != "nt":
        return "wait until it ends, or choose another folder"
    return f"if it has ended, delete {lock}"


def _alive(owner: dict[str, Any]) -> bool:
    """Whether the process that took a lock still runs, as far as is known: one with its number may be another."""
    if owner["host"] != socket.gethostname() or os.name == "nt":  # a signal, even none, would end a process of Windows
        return True
    pid = owner["pid"]
    if pid < 1:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # somebody else's
    now = _started(pid)
    return now is None or owner.get("started") is None or now == owner["started"]


def _started(pid: int) -> str | None:
    """When a process began, where the platform tells it: since which boot and at which tick.  "" if it has only to be buried."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()  # its name may hold anything
        return "" if fields[0] in (b"Z", b"X") else f"{boot} {int(fields[19])}"
    except (OSError, ValueError, IndexError):
        return None
