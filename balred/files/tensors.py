"""Tensors in files, as bytes, of any framework, including dtypes that NumPy does not have (bfloat16).

The files are of the safetensors format, which the package of that name reads and writes (``backends/safetensors.py``).  A
file is data, never a program.  Those written here carry a SHA-256 of all that is in them, against damage, not against forgers.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.systems.arrays import backend

Bytes = NDArray[np.uint8]

SEAL = "sha256"
"""In the metadata of a file that was written here."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor whose bytes, in C order and little-endian, are fetched when they are needed.

    Parameters
    ----------
    dtype : str
        As array libraries call it.
    shape : tuple of int
    read : callable
        Returns the bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], Bytes]

    def values(self) -> NDArray[Any]:
        """The numbers as a NumPy array; bfloat16 becomes float32, which holds it exactly.

        Examples
        --------
        >>> Tensor("bfloat16", (2,), lambda: np.array([0x3F80, 0xC000], "<u2").view(np.uint8)).values()
        array([ 1., -2.], dtype=float32)
        """
        if self.dtype == "bfloat16":
            halves = self.read().view("<u2").astype(np.uint32)
            return (halves << 16).view(np.float32).reshape(self.shape)
        if not re.fullmatch(r"bool|(u?int|float|complex)\d+", self.dtype):
            raise ValueError(f"NumPy has no {self.dtype}")
        return self.read().view(self.dtype).reshape(self.shape)


@dataclass(frozen=True, eq=False)
class TensorFile:
    """An open file: its tensors by name, and its metadata with the seal."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]

    def check_seal(self) -> None:
        """Raise unless the file holds exactly the contents that :func:`write_tensors` wrote."""
        seal = self.metadata.get(SEAL)
        rest = {key: text for key, text in self.metadata.items() if key != SEAL}
        if seal != _digest(self.tensors, {name: x.read() for name, x in self.tensors.items()}, rest):
            raise ValueError(f"the file must be as it was written, got contents with another SHA-256 than {seal}")


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a sealed file; an older one is replaced when all of the new one is there.

    Parameters
    ----------
    path : path
    tensors : dict of Tensor by name
        Each is read once; the bytes of all of them are held until they are written.
    metadata : dict of str by str
        All of it text, as the format wants it.

    Raises
    ------
    ModuleNotFoundError
        safetensors is not installed.
    OSError
        The file cannot be written.
    ValueError
        The format does not have a dtype, or a tensor has another number of bytes than its shape needs.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_tensors(pathlib.Path(folder, "a.safetensors"), {}, {"trained": "twice"})
    ...     read_tensors(pathlib.Path(folder, "a.safetensors")).metadata["trained"]
    'twice'
    """
    data = {name: np.ascontiguousarray(x.read()) for name, x in tensors.items()}
    seal = _digest(tensors, data, metadata)
    backend("safetensors").write_tensors(path, tensors, data, {**metadata, SEAL: seal})


def read_tensors(path: str | os.PathLike[str]) -> TensorFile:
    """Open a file of the safetensors format; bytes of tensors are paged in when they are read.

    Raises
    ------
    ModuleNotFoundError
        safetensors is not installed.
    OSError
        The file cannot be read.
    ValueError
        The file has another format, or was cut off.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     one = Tensor("float32", (1,), lambda: np.ones(1, np.float32).view(np.uint8))
    ...     write_tensors(f"{folder}/x.safetensors", {"one": one}, {"by": "hand"})
    ...     file = read_tensors(f"{folder}/x.safetensors")
    ...     print(file.metadata["by"], file.tensors["one"].values())
    hand [1.]
    """
    return TensorFile(*backend("safetensors").read_tensors(path))


def _digest(tensors: Mapping[str, Tensor], data: Mapping[str, Bytes], metadata: Mapping[str, str]) -> str:
    """SHA-256 of the metadata and of the tensors' names, dtypes, shapes and bytes, in the order of their names."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(json.dumps([name, tensors[name].dtype, tensors[name].shape]).encode())
        digest.update(data[name].data)
    return digest.hexdigest()
