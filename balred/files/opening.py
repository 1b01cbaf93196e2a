"""Open checkpoints without the code of the model: names and shapes at once, and numbers when they are needed.

Known are safetensors files (single, sharded as Hugging Face does, or from :func:`balred.save`), a folder with such files and
a ``config.json``, and PyTorch's ``.pt``, of which nothing but tensors and plain containers is ever unpickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from balred.files.notes import KEY, joined, notes
from balred.files.sealing import LENGTH, has_seal, unsealed
from balred.files.tensors import SEAL, Bytes, Tensor, read_tensors
from balred.registry.tensors import dtype_of
from balred.systems.arrays import backend, backend_of

_TORCH = (".pt", ".pth", ".bin", ".ckpt")
_SHARDS = (".safetensors", *_TORCH)
_INDEX = ".index.json"
_IN_FOLDERS = (
    "model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin",
)  # fmt: skip
_WRAPPERS = ("state_dict", "model_state_dict")
_MOST, _LONGEST = 1_000_000, 5_000


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
        The file is not a checkpoint.  The message begins with the name of the file.

    Examples
    --------
    >>> import pathlib, tempfile, torch
    >>> from balred.files.opening import open_checkpoint
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save(torch.nn.Linear(2, 3).state_dict(), pathlib.Path(folder, "model.pt"))
    ...     checkpoint = open_checkpoint(pathlib.Path(folder, "model.pt"))
    >>> {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    {'weight': (3, 2), 'bias': (3,)}
    """
    path = Path(path)
    if path.is_dir():
        return _from_folder(path)
    return _from_index(path) if path.name.endswith(_INDEX) else _from_file(path)


def _from_file(path: Path) -> Checkpoint:
    try:
        if path.suffix.lower() in _TORCH:
            return _from_torch(path)
        file = read_tensors(path)
        if KEY in file.metadata or SEAL in file.metadata:  # of balred.save
            file.check_seal()
        record = notes(file)
        paired = record.get("complex", {})
        tensors = {name: joined(x, paired.get(name)) for name, x in file.tensors.items()}
        return Checkpoint(tensors, layers=record.get("layers", {}))
    except (ValueError, ArithmeticError, RecursionError, MemoryError) as error:
        raise ValueError(f"{path}: {error}") from None


def _from_torch(path: Path) -> Checkpoint:
    with path.open("rb") as file:  # an OSError for what cannot be read
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - LENGTH))
        if has_seal(file.read()):
            unsealed(path.read_bytes())
    tensors: dict[str, Tensor] = {}
    _flatten(backend("torch").read_checkpoint(path), size, tensors)
    return Checkpoint(tensors)


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
    return Checkpoint(opened.tensors, read_json(config) if config.is_file() else {}, opened.layers)


def _from_index(path: Path) -> Checkpoint:
    places = read_json(path).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ValueError(f"{path}: an index must have a weight_map of files in its folder by tensor, got none")
    for name in places.values():
        if not isinstance(name, str) or not _is_shard(name):
            raise ValueError(
                f"{path}: an index must have a weight_map of files in its folder, {', '.join(_SHARDS)}, by tensor, got {name!r:.80}"
            )
    files = {name: _from_file(path.with_name(name)).tensors for name in dict.fromkeys(places.values())}
    missing = [name for name, file in places.items() if name not in files[file]]
    if missing:
        raise ValueError(
            f"{path}: every tensor of an index must be in its file, got {missing[0]:.80} in {places[missing[0]]}"
        )
    return Checkpoint({name: files[file][name] for name, file in places.items()})


def _is_shard(name: str) -> bool:
    """Whether it is the name of a file with tensors, and leads nowhere else."""
    return not set(name) & set("/\\\0") and Path(name).suffix.lower() in _SHARDS and not name.endswith(_INDEX)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file of JSON.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        There is none in it.
    """
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: the file must be valid JSON, got: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: the file must hold a JSON object, got {type(found).__name__}")
    return found


def _flatten(tree: Any, size: int, found: dict[str, Tensor]) -> None:
    """Find the tensors anywhere in a tree of containers in a file of `size` bytes; what else a training wrote is left out."""
    waiting: list[tuple[str, Any]] = [("", tree)]
    for _ in range(_MOST):
        if not waiting:
            return
        path, one = waiting.pop()
        if len(path) > _LONGEST:
            break
        if hasattr(one, "shape") and hasattr(one, "dtype"):
            found[path] = _tensor(one, size)
            continue
        members = one.items() if isinstance(one, Mapping) else enumerate(one) if isinstance(one, (list, tuple)) else ()
        for key, value in reversed(list(members)):
            waiting.append((path if not path and key in _WRAPPERS else f"{path}.{key}" if path else str(key), value))
    raise ValueError(
        f"a checkpoint must have at most {_MOST} tensors and containers, with names of at most {_LONGEST} characters, got more, "
        "or a container that holds itself"
    )


def _tensor(x: Any, size: int) -> Tensor:
    be, dtype, shape = backend_of(x), dtype_of(x), tuple(x.shape)

    def read() -> Bytes:
        if x.nbytes > size:  # views of few numbers, which would become many
            raise ValueError(
                f"a tensor must fit into its file of {size} bytes, got one of shape {shape} with {x.nbytes} bytes"
            )
        data: Bytes = be.to_bytes(x)
        return data

    return Tensor(dtype, shape, read)
