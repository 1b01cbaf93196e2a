"""Every file that the library writes is written here: all of it takes the older one's place at once, or nothing changes.

If the disk is full, the process is killed or an encoder fails, the older file stays as it was, and nothing of the new
file remains.  Only logs are appended to (:mod:`balred.intraining.events`).
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

PART = ".part"
"""How the names of unfinished files end, which a killed process leaves."""


@contextmanager
def replacing(path: str | os.PathLike[str], mode: str = "w", previous: Path | None = None) -> Iterator[IO[Any]]:
    """A file to write beside `path`.  At the end, when it is on the disk, it takes the place of `path`.

    Parameters
    ----------
    path : path
        A link stays, and what it points at is replaced; a device or a pipe is written to.
    mode : {"w", "wb"}
        Text is UTF-8.
    previous : path, optional
        Where the older file goes, if there is one.

    Raises
    ------
    OSError
        The file cannot be written; the error names it and the cause, whatever the body made of the failure.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "notes.txt")
    ...     with replacing(path) as file:
    ...         _ = file.write("all of it")
    ...     path.read_text(), [other.name for other in path.parent.iterdir()]
    ('all of it', ['notes.txt'])
    """
    place = Path(os.path.realpath(path))
    special = place.exists() and not place.is_file()
    part = place if special else place.with_name(f".{place.name[:40]}.{secrets.token_hex(6)}{PART}")
    raw: _Raw | None = None
    try:
        raw = _Raw(part, "w" if special else "x")
        file: IO[Any] = io.BufferedWriter(raw)
        if "b" not in mode:
            file = io.TextIOWrapper(file, encoding="utf-8")
        yield file
        file.flush()
        if not special:
            os.fsync(raw.fileno())
        file.close()
        if not special:
            if place.exists():
                part.chmod(place.stat().st_mode)
                if previous is not None:
                    place.replace(previous)
            part.replace(place)
            _sync(place.parent)
    except BaseException as error:
        if raw is not None:
            raw.close()  # first, so that nothing more is flushed
            with contextlib.suppress(OSError, ValueError):
                file.close()
            if not special:
                part.unlink(missing_ok=True)
        cause = raw.failure if raw is not None and raw.failure is not None else error
        ours = isinstance(cause, OSError) and (cause.filename is None or Path(cause.filename) in (part, place))
        if ours and isinstance(cause, OSError) and cause.errno is not None:
            raise type(cause)(cause.errno, cause.strerror, str(path)) from None
        raise


def sweep(folder: Path) -> None:
    """Delete what killed processes left unfinished anywhere in a folder that nobody else writes to."""
    for part in folder.rglob(f".*{PART}"):
        if part.is_file() and not part.is_symlink():
            part.unlink(missing_ok=True)


class _Raw(io.FileIO):
    """A file that remembers why it could not be written: encoders make other errors of it."""

    failure: OSError | None = None

    def write(self, data: Any) -> Any:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise


def _sync(folder: Path) -> None:
    """Bring the new name to the disk, too, where folders can be opened."""
    with contextlib.suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
