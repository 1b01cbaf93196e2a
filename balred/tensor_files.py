"""Tensors in files of the safetensors format: read lazily from a memory map, written without a copy of the whole.

The format is eight bytes of length, a JSON header of that length, and the tensors' bytes one after the other; that much
NumPy can do alone, whatever framework a tensor belongs to and also for dtypes that NumPy lacks (bfloat16).  A file is
data, never a program.  Files written here carry a SHA-256 of all their bytes, against damage, not against forgers.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

DTYPES = {
    "F64": "float64", "I64": "int64", "U64": "uint64", "C64": "complex64",
    "F32": "float32", "I32": "int32", "U32": "uint32",
    "F16": "float16", "BF16": "bfloat16", "I16": "int16", "U16": "uint16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
"""What the format calls a dtype, and what array libraries do."""

_CODES = {name: code for code, name in DTYPES.items()}
_FOREIGN = {"bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1}
_SEAL = "sha256"
_UNSEALED = "0" * 64
_HEADER_LIMIT = 100_000_000  # the format's own


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor whose bytes, in C order and little-endian, are fetched when they are needed.

    Parameters
    ----------
    dtype : str
        As in the values of :data:`DTYPES`.
    shape : tuple of int
    read : callable
        Returns the bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], Bytes]

    @property
    def size(self) -> int:
        """Number of bytes."""
        return math.prod(self.shape) * itemsize(self.dtype)

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
        if self.dtype in _FOREIGN:
            raise ValueError(f"NumPy has no {self.dtype}")
        return self.read().view(self.dtype).reshape(self.shape)


def itemsize(dtype: str) -> int:
    """Bytes of one number of the dtype of this name; an error for names that the format does not know."""
    if dtype not in _CODES:
        raise ValueError(f"the dtype of a tensor in a file must be one of {', '.join(_CODES)}, got {dtype}")
    return _FOREIGN.get(dtype) or np.dtype(dtype).itemsize


@dataclass(frozen=True, eq=False)
class TensorFile:
    """An open file: its tensors by name, its metadata, and what the seal is checked against."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    _head: bytes
    _data: Bytes

    def check_seal(self) -> None:
        """Raise unless the file is bit for bit the one that :func:`write_tensors` wrote."""
        seal = self.metadata.get(_SEAL, "")
        digest = hashlib.sha256(self._head.replace(seal.encode(), _UNSEALED.encode(), 1))
        digest.update(self._data.data)
        if seal != digest.hexdigest():
            raise ValueError(f"the file must be as it was written, got contents with another SHA-256 than {seal}")


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a sealed file; an older one is replaced when all of the new one is there.

    Parameters
    ----------
    path : path
    tensors : dict of Tensor by name
        Read one after the other, each once.
    metadata : dict of str by str
        All of it text, as the format wants it.
    """
    # wide dtypes first, so that every tensor is aligned in a memory map
    ordered = sorted(tensors, key=lambda name: (-itemsize(tensors[name].dtype), name))
    header: dict[str, Any] = {"__metadata__": {**metadata, _SEAL: _UNSEALED}}
    end = 0
    for name in ordered:
        start, end = end, end + tensors[name].size
        code, shape = _CODES[tensors[name].dtype], list(tensors[name].shape)
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    digest = hashlib.sha256(head)
    path = Path(path)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as stream:
            stream.write(head)
            for name in ordered:
                data = tensors[name].read()
                if data.nbytes != tensors[name].size:
                    raise ValueError(f"{name} must have {tensors[name].size} bytes, got {data.nbytes}")
                stream.write(data.data)
                digest.update(data.data)
            stream.seek(0)
            stream.write(head.replace(_UNSEALED.encode(), digest.hexdigest().encode(), 1))
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def read_tensors(path: str | os.PathLike[str]) -> TensorFile:
    """Open a file of the safetensors format; bytes of tensors are paged in when they are read.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It is not of that format, or cut off.

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
    with open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or not 2 <= length <= min(size - 8, _HEADER_LIMIT):
            raise ValueError(f"a safetensors file must begin with the length of its header, got {size} bytes without")
        text = stream.read(length)
        data = np.zeros(0, np.uint8)
        if size > 8 + length:
            data = np.memmap(stream, np.uint8, mode="r", offset=8 + length)
    try:
        header = json.loads(text, object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the header of a safetensors file must be JSON, got: {error}") from None
    if not isinstance(header, dict):
        raise ValueError(f"the header of a safetensors file must be an object, got {type(header).__name__}")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"the metadata of a safetensors file must be texts by name, got {metadata!r:.80}")
    return TensorFile(dict(_entries(header, data)), metadata, start + text, data)


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands there twice")
    return found


def _entries(header: Mapping[str, Any], data: Bytes) -> Iterator[tuple[str, Tensor]]:
    """The tensors in the order of their bytes, which they must cover without gap or overlap."""
    spans = []
    for name, entry in header.items():
        try:
            dtype, shape, (start, end) = DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
            whole = all(type(x) is int and x >= 0 for x in (*shape, start, end))
        except (TypeError, KeyError, ValueError):
            whole = False
        if not whole or end - start != math.prod(shape) * itemsize(dtype):
            raise ValueError(f"{name} must have a dtype, a shape and matching offsets, got {entry!r:.120}")
        spans.append((start, end, name, dtype, shape))
    last = 0
    for start, end, name, dtype, shape in sorted(spans):
        if start != last:
            raise ValueError(f"tensors must follow each other without gap, got {name} at {start} after {last}")
        last = end
        yield name, Tensor(dtype, shape, _reader(data, start, end))
    if last != len(data):
        raise ValueError(f"the file must hold {last} bytes of tensors, got {len(data)}")


def _reader(data: Bytes, start: int, end: int) -> Callable[[], Bytes]:
    return lambda: data[start:end]
