"""The formats of files with systems: between named entries and bytes, one pair of functions for each format.

Entries mean the same in every format, and their names are listed here once; what a format cannot say by itself (complex
numbers in JSON, a list of names in MATLAB) is settled by its pair.  Nothing is unpickled.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from balred.systems.arrays import backend

Entries = dict[str, Any]

ARRAYS = ("A", "B", "C", "D", "E", "poles", "log_poles")
NAMES = ("inputs", "outputs", "states")
KEYS = (*ARRAYS, "dt", "Ts", "conjugate", "name", *NAMES)


class Format(NamedTuple):
    """How entries are read from bytes, and written to them."""

    decode: Callable[[bytes], Entries]
    encode: Callable[[Entries], bytes]


def _from_mat(data: bytes) -> Entries:
    entries: Entries = backend("scipy").read_mat(data)
    return entries


def _to_mat(entries: Entries) -> bytes:
    out = {key: value for key, value in entries.items() if key != "dt"}
    out["Ts"] = -1.0 if entries["dt"] is True else float(entries["dt"])
    out |= {key: np.array(out[key], dtype=object) for key in NAMES if key in out}
    data: bytes = backend("scipy").write_mat(out)
    return data


def _from_npz(data: bytes) -> Entries:
    try:
        archive = np.load(io.BytesIO(data), allow_pickle=False)
        if not hasattr(archive, "files"):
            raise ValueError("it holds a single array")
        with archive:
            # of other arrays nothing but their names matters, for the error if something is missing
            return {key: archive[key] if key in KEYS else None for key in archive.files}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"the file must be an .npz archive of arrays without pickled objects, got: {error}") from None


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
