"""Files that are replaced in one go: a process that is killed while it writes leaves the old one as it was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A file to write, beside `path`, whose place it takes at the end; it is on the disk by then.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "run", "notes.txt")
    ...     with replacing(path) as file:
    ...         _ = file.write("all of it")
    ...     path.read_text(), [other.name for other in path.parent.iterdir()]
    ('all of it', ['notes.txt'])
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open(mode, encoding=None if "b" in mode else "utf-8") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
