"""Reduced models in files: tensors with the ranks of the layers, so that a full-size skeleton knows what to become.

A file has the safetensors format (:mod:`balred.files.tensors`), whatever framework the model belongs to.  Complex
tensors are stored as pairs of real numbers.  A tensor that a model has in several places is stored once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from balred.files.notes import FORMAT, KEY, PARTS, joined, notes, written_tensor
from balred.files.tensors import Tensor, TensorFile, read_tensors, write_tensors
from balred.registry.reading import layers_of, replace_layers
from balred.registry.sizes import of_size, states_of
from balred.registry.tensors import dtype_of, tensors_of, with_tensors
from balred.systems.arrays import backend_of
from balred.version import VERSION


def save(model: Any, path: str | PathLike[str]) -> None:
    """Write a model, and the ranks of its layers, to a file that :func:`load` reads.

    Parameters
    ----------
    model : layer, model, or lists, tuples and dicts of them
        Of PyTorch, equinox, flax (a parameter tree, a bound linen module, an nnx module), or of a framework whose
        registered container has ``tensors``.
    path : path
        The file, usually ``.safetensors``.  An existing file is replaced, after the new one is written completely.

    Raises
    ------
    balred.registry.AdapterNotFound
        No layer of the model is known.
    TypeError
        Something in the model is neither an array nor a model.
    OSError
        The file cannot be written.

    Notes
    -----
    All parameters and buffers are written, including buffers that a ``state_dict`` leaves out.  The rest of a model
    (its classes, random keys, numbers that are not arrays) comes from the skeleton when the file is loaded.

    Examples
    --------
    >>> import tempfile, balred, numpy as np
    >>> from balred.layers.recurrence import lru_initial
    >>> rng = np.random.default_rng(0)
    >>> def fresh():
    ...     return {"lru": lru_initial(2, 8, 0.5, 0.99, 3.0, rng.random, lambda *shape: rng.standard_normal(shape))}
    >>> small = balred.reduce(fresh(), 3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     balred.save(small, f"{folder}/small.safetensors")
    ...     again = balred.load(fresh(), f"{folder}/small.safetensors")
    >>> bool(np.all(again["lru"]["C_re"] == small["lru"]["C_re"]))
    True
    """
    layers = {n: {"type": _type(layer), "states": states_of(layer)} for n, layer in layers_of(model).items()}
    found = tensors_of(model)
    first: dict[int, str] = {}
    shared = {}
    for name, x in found.items():
        if first.setdefault(id(x), name) != name:
            shared[name] = first[id(x)]
    paired = {name: dtype for name, x in found.items() if name not in shared and (dtype := dtype_of(x)) in PARTS}
    record = {"format": FORMAT, "version": VERSION, "layers": layers, "shared": shared, "complex": paired}
    tensors = {name: written_tensor(x) for name, x in found.items() if name not in shared}
    write_tensors(path, tensors, {KEY: json.dumps(record)})


def load(skeleton: Any, path: str | PathLike[str]) -> Any:
    """Read a model from a file that :func:`save` wrote.

    Parameters
    ----------
    skeleton : model
        A model of the full size with the classes of the saved model, for example a newly made one.  Its layers are
        copied with the recorded ranks, then every tensor is read.
    path : path

    Returns
    -------
    model
        A new model, on the device of `skeleton`.  The skeleton does not change.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        The file is damaged or not from :func:`save`; a layer of the skeleton is of another type, has fewer states
        or another width; tensors are missing or left over, or differ in shape or dtype.  The message begins with the file.

    Examples
    --------
    >>> import tempfile
    >>> import balred, numpy as np
    >>> from balred.layers.recurrence import lru_initial
    >>> rng = np.random.default_rng(0)
    >>> def fresh():
    ...     return {"lru": lru_initial(2, 8, 0.5, 0.99, 3.0, rng.random, lambda *shape: rng.standard_normal(shape))}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     balred.save(balred.reduce(fresh(), 3), f"{folder}/small.safetensors")
    ...     skeleton = fresh()  # of the full size
    ...     again = balred.load(skeleton, f"{folder}/small.safetensors")
    >>> again["lru"]["C_re"].shape, skeleton["lru"]["C_re"].shape
    ((2, 3), (2, 8))
    """
    path = Path(path)
    try:
        file = read_tensors(path)
        return _loaded(skeleton, file)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _loaded(skeleton: Any, file: TensorFile) -> Any:
    if KEY not in file.metadata:
        raise ValueError("the file must be one that balred.save wrote, got one without its notes")
    file.check_seal()
    record = notes(file)
    stored = {name: joined(x, record["complex"].get(name)) for name, x in file.tensors.items()}
    stored |= {name: stored[other] for name, other in record["shared"].items()}
    model = _shrunk(skeleton, record["layers"], stored)
    mine = tensors_of(model)
    _compare(mine, stored)
    by_id: dict[int, Tensor] = {}
    for name, x in mine.items():
        one = by_id.setdefault(id(x), stored[name])
        if one is not stored[name] and not np.array_equal(one.read(), stored[name].read()):
            raise ValueError(
                f"tensors that the skeleton shares must be equal in the file, got another value for {name}"
            )
    made = {key: backend_of(x).from_bytes(by_id[key].read(), x) for key, x in {id(x): x for x in mine.values()}.items()}
    return with_tensors(model, {name: made[id(x)] for name, x in mine.items()})


def _compare(mine: Mapping[str, Any], stored: Mapping[str, Tensor]) -> None:
    missing, extra = [n for n in mine if n not in stored], [n for n in stored if n not in mine]
    if missing or extra:
        got = [f"without {_few(missing)}"] * bool(missing) + [f"with {_few(extra)}"] * bool(extra)
        raise ValueError(f"the file must hold the skeleton's tensors, got one {' and '.join(got)}")
    for what, of in (("shape", lambda x: tuple(x.shape)), ("dtype", dtype_of)):
        other = [f"{n} {of(mine[n])}, got {of(stored[n])}" for n in mine if of(mine[n]) != of(stored[n])]
        if other:
            raise ValueError(f"every tensor must have the skeleton's {what}: {_few(other, '; ')}")


def _few(items: list[str], separator: str = ", ") -> str:
    rest = [f"{len(items) - 5} more"] if len(items) > 5 else []
    return separator.join(items[:5] + rest)


def _type(layer: Any) -> str:
    return "mapping" if isinstance(layer, Mapping) else type(layer).__name__


def _shrunk(skeleton: Any, layers: Mapping[str, Any], stored: Mapping[str, Tensor]) -> Any:
    """The skeleton with its layers of the recorded sizes."""
    mine = layers_of(skeleton)
    if set(mine) != set(layers):
        raise ValueError(f"the skeleton must have the layers {', '.join(layers)}, got {', '.join(mine)}")
    own = {name: tuple(x.shape) for name, x in tensors_of(skeleton).items()}
    theirs = {name: x.shape for name, x in stored.items()}
    new = {}
    for name, layer in mine.items():
        kind, states = layers[name]["type"], layers[name]["states"]
        if _type(layer) != kind:
            raise ValueError(f"the skeleton's layer {name or 'itself'} must be a {kind}, got a {_type(layer)}")
        have, prefix = states_of(layer), f"{name}." if name else ""
        if have < states:
            raise ValueError(f"the skeleton's layer {name or 'itself'} must have at least {states} states, got {have}")
        # a cut may change more than the size, S4 to a diagonal one: then the same number of states is written anew, too
        if have > states or _under(prefix, own) != _under(prefix, theirs):
            new[name] = of_size(layer, states)
    return replace_layers(skeleton, new)


def _under(prefix: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in shapes.items() if name.startswith(prefix)}
