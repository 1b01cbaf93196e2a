"""What stands in a file of a model beside its tensors, so that they can be read back: layers and ranks, shared and complex ones.

:mod:`balred.files.checkpoints` writes it; :mod:`balred.files.opening` reads it too, without the model.
"""

from __future__ import annotations

import json
from typing import Any

from balred.files.tensors import Tensor, TensorFile
from balred.registry.tensors import dtype_of
from balred.systems.arrays import backend_of

KEY = "balred"
FORMAT = 1
PARTS = {"complex64": "float32", "complex128": "float64"}


def notes(file: TensorFile) -> dict[str, Any]:
    """What :func:`balred.save` noted in a file: "layers" by name with "type" and "states", "shared", "complex"; empty without."""
    if KEY not in file.metadata:
        return {}
    try:
        record = json.loads(file.metadata[KEY])
        if record["format"] > FORMAT:
            wanted = f"the file must be of format {FORMAT} or older"
            raise ValueError(f"{wanted}, got {record['format']}, written by balred {record['version']}")
        found = {key: dict(record[key]) for key in ("layers", "shared", "complex")}
        whole = all(isinstance(x["type"], str) and type(x["states"]) is int for x in found["layers"].values())
        whole = whole and all(other in file.tensors for other in found["shared"].values())
        whole = whole and all(
            dtype in PARTS and (file.tensors[name].dtype, file.tensors[name].shape[-1:]) == (PARTS[dtype], (2,))
            for name, dtype in found["complex"].items()
        )
    except (TypeError, KeyError, AttributeError, RecursionError, json.JSONDecodeError):
        whole = False
    if not whole:
        raise ValueError(f"the notes of balred.save must be whole, got {file.metadata[KEY]!r:.80}")
    return found


def written_tensor(x: Any) -> Tensor:
    """An array as it is written."""
    dtype, shape, be = dtype_of(x), tuple(map(int, x.shape)), backend_of(x)
    if dtype in PARTS:
        dtype, shape = PARTS[dtype], (*shape, 2)
    return Tensor(dtype, shape, lambda: be.to_bytes(x))


def joined(x: Tensor, dtype: str | None) -> Tensor:
    """A tensor as it was before it was written: complex, if `dtype` was noted."""
    return x if dtype is None else Tensor(dtype, x.shape[:-1], x.read)
