"""Opening what people keep models in, without the code that made them: names, shapes, and numbers when they are asked for.

Known are safetensors files (single, sharded as Hugging Face does, or from :func:`balred.save`), a folder with such files and
a ``config.json``, and PyTorch's ``.pt``, of which nothing but tensors and plain containers is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from balred.files.notes import joined, notes
from balred.files.tensors import Tensor, read_tensors
from balred.registry.tensors import dtype_of
from balred.systems.arrays import backend, backend_of

_TORCH = (".pt", ".pth", ".bin", ".ckpt")
_INDEX = ".index.json"
_IN_FOLDERS = (
    "model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin",
)  # fmt: skip
_WRAPPERS = ("state_dict", "model_state_dict")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Tensors by name, the model's configuration if it lies beside them, and the layers that :func:`balred.save` noted."""

    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any] = field(default_factory=dict)
    layers: Mapping[str, Any] = field(default_factory=dict)


def open_checkpoint(path: str | PathLike[str]) -> Checkpoint:
    """Open a checkpoint; no tensor is read from a safetensors file before its values are asked for.

    Parameters
    ----------
    path : path
        A ``.safetensors`` file, an index of shards (``.index.json``), a folder of Hugging Face, or a file of PyTorch
        (``.pt``, ``.pth``, ``.bin``, ``.ckpt``).

    Raises
    ------
    OSError
        A file cannot be read.
    ValueError
        It is no checkpoint; the message begins with the file.
    """
    path = Path(path)
    if path.is_dir():
        return _from_folder(path)
    try:
        if path.name.endswith(_INDEX):
            return _from_index(path)
        if path.suffix.lower() in _TORCH:
            path.open("rb").close()  # an OSError for what cannot be read
            return Checkpoint(_flat(backend("torch").read_checkpoint(path), ""))
        file = read_tensors(path)
        record = notes(file)
        paired = record.get("complex", {})
        tensors = {name: joined(x, paired.get(name)) for name, x in file.tensors.items()}
        return Checkpoint(tensors, layers=record.get("layers", {}))
    except ValueError as error:
        raise ValueError(error if str(error).startswith(str(path)) else f"{path}: {error}") from None


def _from_folder(folder: Path) -> Checkpoint:
    found = [folder / name for name in _IN_FOLDERS if (folder / name).is_file()] or sorted(folder.glob("*.safetensors"))
    if not found:
        raise ValueError(
            f"{folder}: a folder must hold one of {', '.join(_IN_FOLDERS)} or another .safetensors file, got none"
        )
    if found[0].name not in _IN_FOLDERS and len(found) > 1:
        raise ValueError(
            f"{folder}: several files need an index ({_IN_FOLDERS[0]}), got {', '.join(x.name for x in found)}"
        )
    opened = open_checkpoint(found[0])
    config = folder / "config.json"
    return Checkpoint(opened.tensors, _json(config) if config.is_file() else {}, opened.layers)


def _from_index(path: Path) -> Checkpoint:
    places = _json(path).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(x, str) and Path(x).name == x for x in places.values()):
        raise ValueError("an index must have a weight_map of files in its folder by tensor, got none")
    files = {name: open_checkpoint(path.with_name(name)).tensors for name in dict.fromkeys(places.values())}
    missing = [name for name, file in places.items() if name not in files[file]]
    if missing:
        raise ValueError(f"every tensor of an index must be in its file, got {missing[0]} in {places[missing[0]]}")
    return Checkpoint({name: files[file][name] for name, file in places.items()})


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: the file must be valid JSON, got: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: the file must hold a JSON object, got {type(found).__name__}")
    return found


def _flat(tree: Any, path: str) -> dict[str, Tensor]:
    """The tensors anywhere in a tree of containers; what else a training wrote there is left out."""
    if hasattr(tree, "shape") and hasattr(tree, "dtype"):
        be = backend_of(tree)
        return {path: Tensor(dtype_of(tree), tuple(tree.shape), lambda: be.to_bytes(tree))}
    members = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, (list, tuple)) else ()
    found: dict[str, Tensor] = {}
    for key, value in members:
        inner = path if not path and key in _WRAPPERS else f"{path}.{key}" if path else str(key)
        found |= _flat(value, inner)
    return found
