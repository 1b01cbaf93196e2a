"""Checkpoints of trainings with a seal at their end, so that a damaged checkpoint is always noticed.

The seal is a line with the SHA-256 of everything before it; ``torch.load`` ignores it.  It protects against damage, and not against forgers.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import TypeVar

from balred.files.replacing import replacing

T = TypeVar("T")

_LINE = b"\nbalred sha256 %s\n"
LENGTH = len(_LINE % bytes(64))


def sealed(data: bytes) -> bytes:
    """`data` with its seal.

    Examples
    --------
    >>> unsealed(sealed(b"weights"))
    b'weights'
    >>> unsealed(sealed(b"weights").replace(b"w", b"v"))
    Traceback (most recent call last):
    ...
    ValueError: a checkpoint must be as it was written, got contents whose SHA-256 differs from that in its seal
    """
    return data + _LINE % hashlib.sha256(data).hexdigest().encode()


def unsealed(data: bytes) -> bytes:
    """What was sealed.

    Raises
    ------
    ValueError
        It is not what was sealed, to the last bit.
    """
    body = data[:-LENGTH]
    if not has_seal(data):
        raise ValueError(
            f"a checkpoint must end with its seal, got {len(data)} bytes without one: the file was cut off, or is no checkpoint"
        )
    if sealed(body) != data:
        raise ValueError(
            "a checkpoint must be as it was written, got contents whose SHA-256 differs from that in its seal"
        )
    return body


def has_seal(data: bytes) -> bool:
    """Whether there is a seal at the end, right or wrong."""
    return re.fullmatch(re.escape(_LINE).replace(b"%s", b"[0-9a-f]{64}"), data[-LENGTH:]) is not None


def earlier(path: Path) -> Path:
    """Where the checkpoint before the one at `path` is kept."""
    return path.with_name(f"{path.stem}.earlier{path.suffix}")


def damaged(path: Path) -> Path:
    """Where a checkpoint goes that stood at `path` and could not be used."""
    return path.with_name(f"{path.stem}.damaged{path.suffix}")


def write_checkpoint(path: Path, data: bytes) -> None:
    """Write a sealed checkpoint; the one before it is kept beside it.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_checkpoint(pathlib.Path(folder, "state.ckpt"), b"numbers")
    ...     [path.name for path in pathlib.Path(folder).iterdir()]
    ['state.ckpt']
    """
    with replacing(path, "wb", previous=earlier(path)) as file:
        file.write(sealed(data))


def read_checkpoint(path: str | PathLike[str], use: Callable[[bytes], T], tell: Callable[[str], object]) -> T | None:
    """What `use` returns for the newest undamaged checkpoint; None if there is no checkpoint.

    Parameters
    ----------
    path : path
    use : callable
        Gets what was given to :func:`write_checkpoint`.  What it raises is raised.
    tell : callable
        Called with a message where the newest checkpoint cannot be used and the one before it is.  The damaged one is
        renamed, so that it does not take the place of the good one.

    Raises
    ------
    OSError
        A file cannot be read.
    ValueError
        All checkpoints are damaged.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "x.pt")
    ...     for step in (b"10", b"20"):
    ...         write_checkpoint(path, step)
    ...     _ = path.write_bytes(b"damage")
    ...     read_checkpoint(path, bytes.decode, lambda message: print("an earlier checkpoint" in message))
    True
    '10'
    """
    path = Path(path)
    found: list[str] = []
    for place in (path, earlier(path)):
        if not place.exists():
            continue
        try:
            data = unsealed(place.read_bytes())
        except ValueError as error:
            found.append(f"{place}: {error}")
            continue
        if place != path:
            why = found[0] if found else f"{path}: is missing"
            tell(f"{why}; goes on from an earlier checkpoint, {place.name}")
            if found:
                path.replace(damaged(path))
        return use(data)
    if found:
        raise ValueError(f"{'; '.join(found)}: no earlier checkpoint is whole, delete these to train from the start")
    return None
