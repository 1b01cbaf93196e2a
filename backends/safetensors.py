"""Files of the safetensors format, through the package of that name: what the core asks of it, bytes as they are.

The package checks a file and says what is in it.  Its frontends make arrays of one library each, NumPy's none of float8;
bytes serve all of them, and the format has those of the tensors one after the other up to the end of the file.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from balred.files.tensors import Tensor

try:
    from safetensors import SafetensorError, TensorSpec, safe_open, serialize_file
except ModuleNotFoundError as error:  # pragma: no cover - tested in a process without safetensors
    raise ModuleNotFoundError("safetensors is not installed: pip install 'balred[checkpoints]'") from error

DTYPES = (
    "float64", "int64", "uint64", "complex64", "float32", "int32", "uint32", "float16", "bfloat16", "int16", "uint16",
    "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "int8", "uint8", "bool",
)  # fmt: skip
"""The dtypes that the format and an array library have."""

_NAMES = {TensorSpec(dtype=name, shape=(), data_ptr=0, data_len=0).dtype: name for name in DTYPES}


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
    specs = {}
    for name, x in tensors.items():
        if x.dtype not in DTYPES:
            raise ValueError(f"the dtype of a tensor in a file must be one of {', '.join(DTYPES)}, got {x.dtype}")
        part = data[name]
        specs[name] = TensorSpec(dtype=x.dtype, shape=x.shape, data_ptr=part.ctypes.data, data_len=part.nbytes)
        size = math.prod(x.shape) * _bits(specs[name].dtype) // 8
        if part.nbytes != size:
            raise ValueError(f"{name} must have {size} bytes, got {part.nbytes}")
    path = Path(path)
    new = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        new.touch()
        mode = new.stat().st_mode  # that of any new file; the package would let its owner alone read it
        serialize_file(specs, new, dict(metadata))
        new.chmod(mode)
        new.replace(path)
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from None
    finally:
        new.unlink(missing_ok=True)


def _bits(code: str) -> int:
    """Of one number: the format has them in the names of its dtypes."""
    digits = re.search(r"\d+", code)
    return int(digits[0]) if digits else 8
