"""Pictures that commands draw into files: judged before anything is computed, written in one go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from balred.files.replacing import replacing


def check_picture(path: Path | None) -> None:
    """Raise unless a picture can be drawn into `path`, as far as can be told before there is one; None is no picture.

    Raises
    ------
    ModuleNotFoundError
        matplotlib is not installed.
    ValueError
        The suffix is none that it draws, or there is no such folder.
    """
    if path is None:
        return
    from balred.adapters.matplotlib.style import formats

    if path.suffix[1:].lower() not in formats():
        raise ValueError(f"{path}: a picture's suffix must be one of .{', .'.join(formats())}, got {path.suffix!r}")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: no such folder")
    if path.is_dir():
        raise ValueError(f"{path}: a picture must be a file, got a folder")


def draw(axes: Any, path: Path) -> None:
    """Write the figure of `axes` to a file."""
    with replacing(path, "wb") as file:
        axes.figure.savefig(file, format=path.suffix[1:].lower())
