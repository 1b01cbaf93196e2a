"""The formats of files with systems: between named entries and bytes, one pair of functions for each format.

Entries mean the same in every format, and their names are listed here once; what a format cannot say by itself (complex
numbers in JSON, a list of names in MATLAB) is settled by its pair.  Nothing is unpickled.
"""

from __future__ import annotations

import io
import json
import math
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from balred.files.matlab import Opaque, Struct, read_mat
from balred.systems.arrays import backend

Entries = dict[str, Any]

SECOND_ORDER = ("M", "D", "K", "B", "Cp", "Cv")
ARRAYS = ("A", "B", "C", "D", "E", "poles", "log_poles", "M", "K", "Cp", "Cv")
NAMES = ("inputs", "outputs", "states")
KEYS = (*ARRAYS, "dt", "Ts", "conjugate", "name", *NAMES)

_ROOM = 2**28


class Format(NamedTuple):
    """How entries are read from bytes, and written to them."""

    decode: Callable[[bytes], Entries]
    encode: Callable[[Entries], bytes]


def room_of(data: bytes) -> int:
    """How many bytes the contents of a compressed file may need; more is a trap, or a matter for a file that is not."""
    return max(_ROOM, 50 * len(data))


def _from_mat(data: bytes) -> Entries:
    found = read_mat(data, lambda name, _: name in KEYS, room_of(data))
    if not set(found) & {"A", "poles", "log_poles"}:
        found = read_mat(data, lambda name, structure: structure or name in KEYS, room_of(data))
        systems = {name: entries for name, value in found.items() if (entries := _from_struct(name, value))}
        if len(systems) > 1:
            raise ValueError(f"a file must have one structure with A, B and C, got {', '.join(systems)}")
        if systems:
            return next(iter(systems.values()))
    return {
        _listed(name, value): None if isinstance(value, Opaque | Struct) and name not in KEYS else value
        for name, value in found.items()
    }


def _listed(name: str, value: Any) -> str:
    """The name of a variable, with a word on what to do about an object of a class of MATLAB's."""
    return (
        f"{name} (an object: save what ssdata gives for it)"
        if isinstance(value, Opaque) and value.kind == "object"
        else name
    )


_FIELDS = {key: key for key in KEYS} | {key.lower(): key for key in (*"ABCDE", "Ts")}
_FIELDS |= {"StateName": "states", "InputName": "inputs", "OutputName": "outputs", "Name": "name"}


def _from_struct(name: str, value: Any) -> Entries:
    """The entries in a structure, such as ``get(sys)`` or ``struct('A', A, ...)`` gives; none where it is no system."""
    fields = [(key, _FIELDS[key]) for key in value if key in _FIELDS] if isinstance(value, Struct) else []
    entries = {meant: value[key] for key, meant in fields}
    if not {"B", "C"} <= set(entries) or not set(entries) & {"A", "poles", "log_poles"}:
        return {}
    if len(entries) < len(fields):
        raise ValueError(f"a field of {name} must appear once, got {', '.join(key for key, _ in fields)}")
    for key in ("InputDelay", "OutputDelay", "InternalDelay", "IODelay", "ioDelay"):
        if np.any(np.asarray(value.get(key, 0)) != 0):
            raise ValueError(
                f"{name} must have no delays, got {key}: absorb them (absorbDelay) or approximate them (pade)"
            )
    unit = "".join(np.asarray(value.get("TimeUnit", "seconds")).reshape(-1).tolist())
    if unit != "seconds":
        raise ValueError(f"the TimeUnit of {name} must be seconds, got {unit!r}: chgTimeUnit converts it")
    for key in NAMES:
        if key in entries and not any(np.size(cell) for cell in np.asarray(entries[key]).reshape(-1)):
            del entries[key]
    return entries


def _to_mat(entries: Entries) -> bytes:
    out = {key: value for key, value in entries.items() if key != "dt"}
    out["Ts"] = -1.0 if entries["dt"] is True else float(entries["dt"])
    out |= {key: np.array(out[key], dtype=object) for key in NAMES if key in out}
    data: bytes = backend("scipy").write_mat(out)
    return data


def _from_npz(data: bytes) -> Entries:
    return read_npz(data, KEYS.__contains__)


def read_npz(data: bytes, wanted: Callable[[str], bool]) -> Entries:
    """The arrays of an .npz archive by name; of others than those wanted nothing but their names, for the error if something is missing."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            size = sum(member.file_size for key, member in members.items() if wanted(key))
            if size > room_of(data):
                raise ValueError(f"{size} bytes in a file of {len(data)}: save it uncompressed (numpy.savez)")
            return {key: _member(archive, member) if wanted(key) else None for key, member in members.items()}
    except (
        ValueError,
        LookupError,
        EOFError,
        OSError,
        RuntimeError,
        NotImplementedError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ValueError(f"the file must be an .npz archive of arrays without pickled objects, got: {error}") from None


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Any:
    with archive.open(member) as file:
        return read_npy(file.read(member.file_size), member.filename)


def read_npy(data: bytes, name: str) -> Any:
    """An array, whose size is compared with that of its bytes before there is room made for it."""
    stream = io.BytesIO(data)
    major, _ = np.lib.format.read_magic(stream)
    head = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    try:
        shape, _, dtype = head(stream)
    except (tokenize.TokenError, SyntaxError, RecursionError, MemoryError) as error:  # NumPy reads a header as Python
        raise ValueError(f"the header of {name} cannot be read: {error}") from None
    size = math.prod(shape) * dtype.itemsize
    if size > len(data):
        raise ValueError(f"{size} bytes are announced in {name} of {len(data)}")
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)


def _to_npz(entries: Entries) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **{key: np.asarray(value) for key, value in entries.items()})
    return stream.getvalue()


def _from_json(data: bytes) -> Entries:
    try:
        entries = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the file must be valid JSON, got: {error}") from None
    if not isinstance(entries, dict):
        raise ValueError(f"the file must hold a JSON object, got {type(entries).__name__}")
    unknown = [key for key in entries if key not in KEYS]
    if unknown:  # "DT" for "dt" would silently make a continuous system
        raise ValueError(f"the keys must be among {', '.join(KEYS)}, got {', '.join(unknown)}")
    mixed = [key for key in ("M", "K", "Cp", "Cv") if key in entries]
    if mixed and {"A", "poles", "log_poles"} & entries.keys():
        raise ValueError(f"a system must be of first or of second order, got {', '.join(mixed)} beside A or poles")
    entries |= {key: _json_array(key, entries[key]) for key in ARRAYS if key in entries}
    if "A" in entries and entries["A"].size == 0 and entries.get("D", np.zeros(0)).ndim == 2:
        p, m = entries["D"].shape  # lists cannot tell a (0, m) array from a (0,) one
        entries |= {"A": np.zeros((0, 0)), "B": np.zeros((0, m)), "C": np.zeros((p, 0))}
    return entries


def _json_array(key: str, value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"real", "imag"}:
        real, imag = (_json_array(key, value[part]) for part in ("real", "imag"))
        if real.shape != imag.shape:
            raise ValueError(f"the real and imaginary parts of {key} must match, got {real.shape} and {imag.shape}")
        return real + 1j * imag
    try:
        array = np.array(value)
    except ValueError:  # ragged
        array = np.array(None)
    if array.dtype.kind not in "iuf" and array.size:
        raise ValueError(f'{key} must be nested lists of numbers, or {{"real": ..., "imag": ...}} of such lists')
    return array.astype(np.float64)


def _to_json(entries: Entries) -> bytes:
    def plain(value: Any) -> Any:
        if np.iscomplexobj(value):
            return {"real": value.real.tolist(), "imag": value.imag.tolist()}
        return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value

    return json.dumps({key: plain(value) for key, value in entries.items()}, allow_nan=False).encode()


FORMATS: dict[str, Format] = {
    ".mat": Format(_from_mat, _to_mat),
    ".npz": Format(_from_npz, _to_npz),
    ".json": Format(_from_json, _to_json),
}
"""By suffix."""
