"""The arrays of a model by name, whatever framework it belongs to, and a copy of it with others in their places."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from balred.registry.entries import container_of


def tensors_of(obj: Any, path: str = "") -> dict[str, Any]:
    """The arrays of a model by name, parameters and buffers; an array that it has in several places is one object.

    Arrays are found in mappings, lists and tuples too.  Everything else (numbers, texts, functions, random keys) is
    left out.

    Examples
    --------
    >>> import torch
    >>> from balred.registry.tensors import tensors_of
    >>> list(tensors_of({"encoder": torch.nn.Linear(2, 3), "scale": torch.ones(2), "name": "mine"}))
    ['encoder.weight', 'encoder.bias', 'scale']
    """
    prefix = f"{path}." if path else ""
    container = container_of(obj)
    if container is not None and container.tensors is not None:
        return {prefix + name: x for name, x in container.tensors(obj).items()}
    members = obj.items() if isinstance(obj, Mapping) else enumerate(obj) if isinstance(obj, (list, tuple)) else None
    if members is not None:
        found = [item for key, value in members for item in tensors_of(value, f"{prefix}{key}").items()]
        if len(dict(found)) < len(found):
            raise ValueError(f"names of tensors must differ, got some twice below {path or 'the top'}")
        return dict(found)
    if _is_array(obj):
        return {path: obj}
    plain = obj is None or isinstance(obj, (bool, int, float, complex, str, bytes)) or inspect.isroutine(obj)
    if plain or hasattr(obj, "__wrapped__") or str(getattr(obj, "dtype", "")).startswith("key<"):
        return {}
    raise TypeError(
        "a checkpoint must hold models of PyTorch, equinox or flax (or of a registered container), arrays, or lists and dicts of these, "
        f"got {type(obj).__name__}{f' at {path}' if path else ''}"
    )


def with_tensors(obj: Any, new: Mapping[str, Any], path: str = "") -> Any:
    """A copy of a model with other arrays under the names of :func:`tensors_of`."""
    prefix = f"{path}." if path else ""
    container = container_of(obj)
    if container is not None and container.with_tensors is not None:
        return container.with_tensors(obj, {n[len(prefix) :]: x for n, x in new.items() if n.startswith(prefix)})
    if isinstance(obj, Mapping):
        values = {key: with_tensors(value, new, f"{prefix}{key}") for key, value in obj.items()}
        return type(obj)(values)  # type: ignore[call-arg]
    if isinstance(obj, (list, tuple)):
        members = [with_tensors(value, new, f"{prefix}{i}") for i, value in enumerate(obj)]
        return type(obj)(*members) if hasattr(obj, "_fields") else type(obj)(members)
    return new.get(path, obj)


def _is_array(x: Any) -> bool:
    return hasattr(x, "shape") and hasattr(x, "dtype") and not str(x.dtype).startswith("key<")


def dtype_of(x: Any) -> str:
    """The dtype of an array of any library as NumPy calls it: "float32", "bfloat16"."""
    return str(x.dtype).removeprefix("torch.")
