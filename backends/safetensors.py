"""Files of the safetensors format, through the package of that name: what the core asks of it, bytes as they are.

The package checks a file that is read, and says what is in it.  Its frontends make arrays of one library each, NumPy's none of float8;
bytes serve all of them, and the format has those of the tensors one after the other up to the end of the file.

Examples
--------
>>> import tempfile, numpy as np
>>> from balred.backends import safetensors as backend
>>> from balred.files.tensors import Tensor
>>> data = np.arange(8, dtype=np.uint8)  # the bytes of two numbers
>>> with tempfile.TemporaryDirectory() as folder:
...     path = f"{folder}/x.safetensors"
...     backend.write_tensors(path, {"x": Tensor("float32", (2,), lambda: data)}, {"x": data}, {})
...     tensors, metadata = backend.read_tensors(path)
...     print(tensors["x"].dtype, tensors["x"].shape, tensors["x"].read().tolist())
float32 (2,) [0, 1, 2, 3, 4, 5, 6, 7]
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.files.replacing import replacing
from balred.files.tensors import Tensor

try:
    from safetensors import SafetensorError, TensorSpec, safe_open
except ModuleNotFoundError as error:  # pragma: no cover - tested in a process without safetensors
    raise ModuleNotFoundError("safetensors is not installed: pip install 'balred[checkpoints]'") from error

DTYPES = (
    "float64", "int64", "uint64", "complex64", "float32", "int32", "uint32", "float16", "bfloat16", "int16", "uint16",
    "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "int8", "uint8", "bool",
)  # fmt: skip
"""The dtypes that the format and an array library have."""

_CODES = {name: TensorSpec(dtype=name, shape=(), data_ptr=0, data_len=0).dtype for name in DTYPES}
_NAMES = {code: name for name, code in _CODES.items()}


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors in a file, by name in the order of their bytes, which are paged in when they are read; its metadata."""
    with open(path, "rb") as stream:  # an OSError that names the file
        try:
            with safe_open(path, framework="np") as file:
                found = {name: file.get_slice(name) for name in file.offset_keys()}
                metadata = file.metadata() or {}
        except SafetensorError as error:
            raise ValueError(f"a safetensors file must be whole and in its format, got: {error}") from None
        data = np.memmap(stream, np.uint8, mode="r")
    tensors, end = {}, len(data)
    for name, x in reversed(found.items()):
        code, shape = x.get_dtype(), tuple(x.get_shape())
        start = end - math.prod(shape) * _bits(code) // 8
        tensors[name] = Tensor(_NAMES.get(code, code), shape, partial(np.asarray, data[start:end]))
        end = start
    return dict(reversed(tensors.items())), metadata


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    data: Mapping[str, NDArray[np.uint8]],
    metadata: Mapping[str, str],
) -> None:
    """Write tensors with these bytes to a file; an older one is replaced when all of the new one is there."""
    codes = {}
    for name, x in tensors.items():
        if x.dtype not in DTYPES:
            raise ValueError(f"the dtype of a tensor in a file must be one of {', '.join(DTYPES)}, got {x.dtype}")
        codes[name] = _CODES[x.dtype]
        size = math.prod(x.shape) * _bits(codes[name]) // 8
        if data[name].nbytes != size:
            raise ValueError(f"{name} must have {size} bytes, got {data[name].nbytes}")
    # the package writes the metadata in another order each time, and not in one go
    order = sorted(tensors, key=lambda name: (-_bits(codes[name]), name))  # the widest first: every number is aligned
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name in order:
        start, end = end, end + data[name].nbytes
        header[name] = {"dtype": codes[name], "shape": tensors[name].shape, "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(data[name].data)


def _bits(code: str) -> int:
    """Of one number: the format has them in the names of its dtypes."""
    digits = re.search(r"\d+", code)
    return int(digits[0]) if digits else 8
