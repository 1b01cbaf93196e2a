"""Reading MATLAB's files of version 4 to 7 without trusting a byte of them: SciPy's reader ends the process on damaged ones.

Every length is compared with the bytes that are there before anything is made of it.  The format is that of "MAT-File
Format" (The MathWorks, R2024a); writing is left to SciPy.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.systems.arrays import backend

_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXT = {1: "latin-1", 2: "latin-1", 3: "utf-16", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _OBJECT, _CHAR, _SPARSE = 1, 2, 3, 4, 5
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_OTHERS = {16: "function handle", 17: "object"}
_LOGICAL, _COMPLEX = 0x200, 0x800
_OLD = ("f8", "f4", "i4", "i2", "u2", "u1")
_DEEPEST = 20

Wanted = Callable[[str, bool], bool]


@dataclass(frozen=True)
class Opaque:
    """A value that only MATLAB can read; `kind` says what it is.

    Examples
    --------
    >>> Opaque("a string of MATLAB").kind
    'a string of MATLAB'
    """

    kind: str


class Struct(dict[str, Any]):
    """The fields of a structure of one element.

    Examples
    --------
    >>> Struct(A=[[-1.0]], Ts=0.1)["Ts"]
    0.1
    """


class _Reader:
    """Bytes, read one after the other; to ask for more than there are is an error."""

    def __init__(self, data: memoryview, order: str, room: list[int]) -> None:
        self.data, self.order, self.at, self.room = data, order, 0, room

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, count: int) -> memoryview:
        if not 0 <= count <= self.left:
            raise ValueError(f"{count} bytes are announced where {self.left} are left")
        self.at += count
        return self.data[self.at - count : self.at]

    def words(self, count: int) -> list[int]:
        return [int(x) for x in np.frombuffer(self.take(4 * count), self.order + "u4")]

    def element(self) -> tuple[int, memoryview]:
        """The type and the bytes of the next element."""
        [kind] = self.words(1)
        if kind >> 16:  # a short one, in the tag itself
            data = self.take(4)
            if kind >> 16 > 4:
                raise ValueError(f"a short element announces {kind >> 16} bytes")
            return kind & 0xFFFF, data[: kind >> 16]
        [count] = self.words(1)
        data = self.take(count)
        if kind != _COMPRESSED:
            self.take(min(-count % 8, self.left))
        return kind, data

    def inner(self, data: memoryview) -> _Reader:
        return _Reader(data, self.order, self.room)

    def grow(self, count: int) -> None:
        """Account for memory that is about to be used."""
        self.room[0] -= count
        if self.room[0] < 0:
            raise ValueError("its contents are far larger than the file: save it uncompressed (-v6)")

    def numbers(self) -> NDArray[Any]:
        kind, data = self.element()
        if kind not in _STORED:
            raise ValueError(f"numbers are announced where there are none (type {kind})")
        dtype = np.dtype(self.order + _STORED[kind])
        if len(data) % dtype.itemsize:
            raise ValueError(f"{len(data)} bytes cannot be divided into numbers of {dtype.itemsize} bytes")
        return np.frombuffer(data, dtype)

    def text(self) -> str:
        kind, data = self.element()
        if kind not in _TEXT and len(data):
            raise ValueError(f"text is announced where there is none (type {kind})")
        encoding = _TEXT.get(kind, "latin-1")
        if encoding in ("utf-16", "utf-32"):
            encoding += "-le" if self.order == "<" else "-be"
        return bytes(data).decode(encoding)


def read_mat(data: bytes, wanted: Wanted, most: int) -> dict[str, Any]:
    """The variables of a MATLAB file.

    Parameters
    ----------
    data : bytes
    wanted : callable
        Gets the name of a variable, and whether it is a structure: whether its value matters, which is None otherwise.
    most : int
        How many bytes the contents may need at most.

    Returns
    -------
    dict
        Arrays, sparse matrices by columns, arrays of text (a row each), arrays of objects for cells, :class:`Struct`,
        :class:`Opaque`.

    Raises
    ------
    ValueError
        It is no such file, or a damaged one; the message says how to convert those of newer MATLABs and of Octave.
    """
    if data.startswith((b"# Created by Octave", b"Octave-1-")):
        raise ValueError("a .mat file must be MATLAB's, got one in a format of Octave's own: save it with -v7")
    if data.startswith(b"\x89HDF") or data[124:128] in (b"\x00\x02IM", b"\x02\x00MI"):
        raise ValueError("a .mat file must be of version 7 or older, got 7.3 (HDF5): save it with -v7")
    room = [most]
    try:
        if len(data) >= 20 and 0 in data[:4]:
            return _old_variables(memoryview(data), wanted, room)
        if len(data) < 128 or data[126:128] not in (b"IM", b"MI"):
            raise ValueError("it has no header of a MATLAB file")
        order = "<" if data[126:128] == b"IM" else ">"
        return _variables(_Reader(memoryview(data)[128:], order, room), wanted)
    except (ValueError, OverflowError, zlib.error) as error:
        raise ValueError(
            f"the file must be a MATLAB file of version 4 to 7, got a damaged or another one: {error}"
        ) from None


def _variables(reader: _Reader, wanted: Wanted) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while reader.left:
        kind, data = reader.element()
        if kind == _COMPRESSED:
            kind, data = _unpacked(reader, data, wanted)
        if kind == _MATRIX:
            name, value = _matrix(reader.inner(data), wanted)
            found[name] = value
        elif kind not in _STORED:
            raise ValueError(f"a variable is announced where there is none (type {kind})")
    return {name: value for name, value in found.items() if name and not name.startswith("__")}


def _unpacked(reader: _Reader, data: memoryview, wanted: Wanted) -> tuple[int, memoryview]:
    """A compressed variable, or as much of it as says what it is."""
    packed = zlib.decompressobj()
    tag = reader.inner(memoryview(packed.decompress(data, 8)))
    kind, count = tag.words(2)
    if kind != _MATRIX:
        raise ValueError(f"a compressed variable is announced where there is none (type {kind})")
    head = packed.decompress(packed.unconsumed_tail, 1024)
    flags, name = _head(reader.inner(memoryview(head)))[:2] if head else (0, "")
    if not wanted(name, flags & 0xFF == _STRUCT):
        return kind, memoryview(head)
    reader.grow(count)
    body = head + packed.decompress(packed.unconsumed_tail, count - len(head)) if count > len(head) else head
    rest = b"" if packed.eof else packed.decompress(packed.unconsumed_tail, 1)
    if len(body) != count or rest or not packed.eof:  # at its end is a checksum
        raise ValueError(f"a compressed variable announces {count} bytes, and holds more or fewer")
    return kind, memoryview(body)


def _head(reader: _Reader) -> tuple[int, str, tuple[int, ...]]:
    """Flags, name and sizes of an array."""
    flags = reader.numbers()
    if flags.size != 2:
        raise ValueError("an array has no flags")
    if int(flags[0]) & 0xFF == 17:
        return int(flags[0]), reader.text(), ()
    sizes = reader.numbers()
    shape = tuple(int(n) for n in sizes)
    if not 2 <= len(shape) <= 32 or min(shape) < 0:
        raise ValueError(f"an array has the shape {shape}")
    return int(flags[0]), reader.text(), shape


def _matrix(reader: _Reader, wanted: Wanted | None = None, depth: int = 0) -> tuple[str, Any]:
    if not reader.left:
        return "", np.zeros((0, 0))
    if depth > _DEEPEST:
        raise ValueError(f"it is nested more than {_DEEPEST} deep")
    flags, name, shape = _head(reader)
    kind, size = flags & 0xFF, math.prod(shape)
    if kind in _OTHERS:
        return name, Opaque(_OTHERS[kind])
    if wanted is not None and not wanted(name, kind == _STRUCT) and kind != _OBJECT:
        return name, None
    if kind == _CHAR:
        return name, _rows(reader.text(), shape)
    if kind in _CLASSES:
        return name, _full(reader, flags, shape)
    if kind == _SPARSE:
        return name, _sparse(reader, flags, shape)
    if kind == _OBJECT:
        reader.text()
        return name, Opaque("object")
    if kind not in (_CELL, _STRUCT):
        raise ValueError(f"an array is of the unknown class {kind}")
    fields = _fields(reader) if kind == _STRUCT else [""]
    if size * len(fields) * 8 > reader.left:  # each member has a tag
        raise ValueError(f"{size * len(fields)} members are announced in {reader.left} bytes")
    reader.grow(8 * size)
    members = []
    for _ in range(size * len(fields)):
        inner, data = reader.element()
        if inner != _MATRIX:
            raise ValueError(f"an array is announced where there is none (type {inner})")
        members.append(_matrix(reader.inner(data), None, depth + 1)[1])
    if kind == _STRUCT:
        return name, Struct(zip(fields, members, strict=True)) if size == 1 else Opaque("array of structures")
    cells = np.empty(size, dtype=object)
    cells[:] = members
    return name, cells.reshape(shape, order="F")


def _fields(reader: _Reader) -> list[str]:
    width, names = reader.numbers(), reader.text()
    if width.size != 1 or int(width[0]) < 1 or len(names) % int(width[0]):
        raise ValueError("a structure has no names of fields")
    step = int(width[0])
    return [names[i : i + step].partition("\0")[0] for i in range(0, len(names), step)]


def _full(reader: _Reader, flags: int, shape: tuple[int, ...]) -> NDArray[Any]:
    dtype, size = np.dtype(_CLASSES[flags & 0xFF]), math.prod(shape)
    parts = [reader.numbers() for _ in range(1 + bool(flags & _COMPLEX))]
    if any(part.size != size for part in parts):
        raise ValueError(f"an array of shape {shape} has {', '.join(str(part.size) for part in parts)} numbers")
    reader.grow(size * dtype.itemsize * len(parts))
    real = parts[0].astype(dtype)
    whole = real if len(parts) == 1 else _joined(real, parts[1].astype(dtype))
    return (whole.astype(bool) if flags & _LOGICAL else whole).reshape(shape, order="F")


def _joined(real: NDArray[Any], imag: NDArray[Any]) -> NDArray[Any]:
    """A complex array, exactly: ``1j * inf`` would have a NaN."""
    whole = np.empty(real.shape, np.result_type(real.dtype, np.complex64))
    whole.real, whole.imag = real, imag
    return whole


def _sparse(reader: _Reader, flags: int, shape: tuple[int, ...]) -> Any:
    rows, starts = reader.numbers().astype(np.int64), reader.numbers().astype(np.int64)
    if len(shape) != 2 or starts.size != shape[1] + 1 or starts[0] != 0 or np.any(np.diff(starts) < 0):
        raise ValueError("the columns of a sparse matrix do not follow each other")
    count = int(starts[-1])
    if count > rows.size or (count and not 0 <= rows[:count].min() <= rows[:count].max() < shape[0]):
        raise ValueError(f"the rows of a sparse matrix must be below {shape[0]}")
    parts = [reader.numbers() for _ in range(1 + bool(flags & _COMPLEX))]
    if any(part.size < count for part in parts):
        raise ValueError(f"a sparse matrix of {count} entries has {min(part.size for part in parts)} numbers")
    reader.grow(16 * (count + sum(shape)))  # a vector of either length is all that it takes to use it
    values = [part[:count].astype(np.float64) for part in parts]
    whole = values[0] if len(values) == 1 else _joined(*values)
    return backend("scipy").sparse_columns(whole, rows[:count], starts, shape)


def _rows(text: str, shape: tuple[int, ...]) -> NDArray[Any]:
    if not text:
        return np.array([], dtype="U1")
    if len(shape) != 2 or (len(text) != math.prod(shape) and shape[0] != 1):
        raise ValueError(f"text of shape {shape} has {len(text)} characters")
    letters = np.array(list(text)).reshape((1, -1) if shape[0] == 1 else shape, order="F")
    return np.array(["".join(row) for row in letters])


def _old_variables(data: memoryview, wanted: Wanted, room: list[int]) -> dict[str, Any]:
    """Of a file of version 4: headers of five numbers, a name, and the values."""
    order = "<" if np.frombuffer(data[:4], "<u4")[0] < 5000 else ">"
    reader = _Reader(data, order, room)
    found: dict[str, Any] = {}
    while reader.left:
        kind, rows, columns, imaginary, length = reader.words(5)
        machine, rest = divmod(kind, 1000)
        precision, what = divmod(rest % 100, 10)
        if machine > 1 or rest >= 100 or precision >= len(_OLD) or what > 2 or imaginary > 1:
            raise ValueError(f"it has no header of a MATLAB file (type {kind})")
        name = bytes(reader.take(length)).split(b"\0")[0].decode("latin-1")
        dtype = np.dtype(order + _OLD[precision])
        parts = [np.frombuffer(reader.take(rows * columns * dtype.itemsize), dtype) for _ in range(1 + imaginary)]
        if not wanted(name, False):
            found[name] = None
            continue
        reader.grow(rows * columns * 8 * len(parts))
        values = [part.astype(np.float64).reshape((rows, columns), order="F") for part in parts]
        whole = values[0] if len(values) == 1 else _joined(*values)
        if what == 1:
            found[name] = _rows("".join(map(chr, whole.real.astype(np.uint8).ravel(order="F"))), (rows, columns))
        else:
            found[name] = _old_sparse(reader, whole) if what == 2 else whole
    return found


def _old_sparse(reader: _Reader, triplets: NDArray[Any]) -> Any:
    """A sparse matrix from its rows (i, j, value), or (i, j, real, imaginary); the last one has its sizes."""
    if triplets.shape[0] < 1 or triplets.shape[1] not in (3, 4) or not np.all(np.abs(triplets[:, :2]) < 2**53):
        raise ValueError(f"a sparse matrix has entries of shape {triplets.shape}")
    i, j = (triplets[:, k].real.astype(np.int64) for k in (0, 1))
    shape = (int(i[-1]), int(j[-1]))
    i, j = i[:-1] - 1, j[:-1] - 1
    if i.size and not (0 <= i.min() <= i.max() < shape[0] and 0 <= j.min() <= j.max() < shape[1]):
        raise ValueError(f"the entries of a sparse matrix must be inside {shape}")
    if min(shape) < 0:
        raise ValueError(f"a sparse matrix has the shape {shape}")
    reader.grow(16 * (len(i) + sum(shape)))
    values = triplets[:-1, 2] if triplets.shape[1] == 3 else _joined(triplets[:-1, 2].real, triplets[:-1, 3].real)
    order = np.lexsort((i, j))
    starts = np.concatenate([[0], np.cumsum(np.bincount(j, minlength=shape[1]))])
    return backend("scipy").sparse_columns(values[order], i[order], starts, shape)
