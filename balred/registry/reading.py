"""Objects and models read through the registry: the systems in them, their layers by name, layers replaced."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from balred.registry.answering import check_follows
from balred.registry.entries import AdapterNotFound, T, container_of, entry_of, qualified
from balred.registry.hints import hint_for
from balred.registry.kinds import Container, Entry, Rebuild, Selective
from balred.registry.whole import check_held, check_runs, check_whole
from balred.systems import arrays
from balred.systems.arrays import backend_of, double_precision, to_numpy
from balred.systems.dense_system import DenseSystem, ss
from balred.systems.diagonal_system import DiagonalSystem
from balred.systems.leaves import System, with_leaves


def adapt(obj: Any) -> tuple[System, Rebuild]:
    """Read the operator out of `obj`.

    Parameters
    ----------
    obj : system, tuple (A, B, C, D) or (A, B, C, D, dt), system of python-control, ``scipy.signal`` or pyMOR, or a layer

    Returns
    -------
    system : DenseSystem or DiagonalSystem
    rebuild : callable
        ``rebuild(system)`` writes a system of any order into a new object of the type of `obj`.

    Raises
    ------
    AdapterNotFound
        The message names the type and says how to register it.  For common types it says what to write instead.

    Notes
    -----
    A tuple of matrices is read as a system only if it is passed by itself, because inside a model it could mean anything.

    Examples
    --------
    >>> import balred
    >>> system, rebuild = balred.adapt(balred.ss([[-1.0]], [[1.0]], [[1.0]]))
    >>> rebuild(system) is system
    True
    """
    if isinstance(obj, (DenseSystem, DiagonalSystem)):
        return obj, lambda system: system
    if _are_matrices(obj):
        return _from_matrices(obj)
    entry = entry_of(obj)
    if entry is None:
        raise AdapterNotFound(
            _nothing_to_cut(obj)
            or f"no adapter knows {qualified(type(obj))}: {_instead(obj)}register one with "
            f"balred.register({type(obj).__name__}, adapter), where adapter(obj) returns (system, rebuild)"
        )
    if entry.adapter is None:
        raise AdapterNotFound(
            f"{qualified(type(obj))} is selective: its dynamics depend on its input. So it has no linear operator and no Hankel "
            "singular values. Reduce it with balred.reduce(model, rank, calibration=data)"
        )
    check_fit(obj)
    system, rebuild = entry.adapter(obj)

    def rebuilt(small: Any) -> Any:
        new = rebuild(small)
        if isinstance(small, (DenseSystem, DiagonalSystem)) and small.states != system.states:
            sizes = {system.states, system.order} if isinstance(system, DiagonalSystem) else {system.states}
            widths = {int(a) for a in (*system.B.shape[:-2], system.B.shape[-1], system.C.shape[-2])}
            check_whole(obj, new, sizes, widths, entry.accounts)
            check_runs(obj, new, sizes)
            check_follows(obj, system, rebuild)
        check_held(obj, new)
        return new

    return system, rebuilt


def check_fit(layer: Any) -> None:
    """Raise if the arrays of a layer cannot be read or resized."""
    container = container_of(layer)
    reason = None if container is None or container.unfit is None else container.unfit(layer)
    if reason is not None:
        raise ValueError(f"the arrays of a layer must be plain ones, got others in a {type(layer).__name__}: {reason}")


def obstacles_of(obj: Any, layers: Mapping[str, Any], *, copied: bool) -> dict[str, str]:
    """By name why some of `layers`, of the model `obj`, cannot be cut among the rest of it.

    With `copied` the smaller ones get into a copy of the model, else into the model itself.
    """
    found: dict[str, str] = {}
    parts = _parts(obj, "")
    for container in {id(c): c for c, _, _ in parts}.values():
        if container.obstacles is not None:
            roots = {path: part for c, path, part in parts if c is container}
            found |= container.obstacles(roots, layers, copied=copied)
    return found


def _parts(obj: Any, path: str) -> list[tuple[Container, str, Any]]:
    """The models in lists, tuples and dicts, with their containers and paths."""
    container = container_of(obj)
    if container is not None:
        return [(container, path, obj)]
    items = obj.items() if isinstance(obj, dict) else enumerate(obj) if isinstance(obj, (list, tuple)) else ()
    return [found for key, value in items for found in _parts(value, f"{path}.{key}" if path else str(key))]


def _instead(obj: Any) -> str:
    hint = hint_for(obj)
    return f"{hint}; or " if hint else ""


def _are_matrices(obj: Any) -> bool:
    """Whether `obj` is a plain tuple (A, B, C, D) or (A, B, C, D, dt); whether they fit is another question."""
    if type(obj) is not tuple or len(obj) not in (4, 5):
        return False
    A, B, C, D = obj[:4]
    numbers = (bool, int, float, complex, np.number)
    return (
        all(_dimensions(x) == 2 for x in (A, B, C))
        and (D is None or isinstance(D, numbers) or _dimensions(D) in (0, 2))
        and all(isinstance(dt, numbers) for dt in obj[4:])
    )


def _dimensions(x: Any) -> int | None:
    """How many axes an array or nested lists of numbers have."""
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return len(x.shape)
    if not isinstance(x, list):
        return 0 if isinstance(x, (int, float, complex)) else None
    inner = {_dimensions(row) for row in x} or {1}
    first = inner.pop()
    return None if inner or first is None else first + 1


def _from_matrices(obj: tuple[Any, ...]) -> tuple[DenseSystem, Rebuild]:
    A, B, C, D = obj[:4]
    system = ss(A, B, C, None if isinstance(D, (int, float)) and D == 0 else D, *obj[4:])

    def rebuild(reduced: Any) -> tuple[Any, ...]:
        g = reduced.to_dense()
        return g.A, g.B, g.C, g.D, *obj[4:]

    return system, rebuild


def system_of(obj: Any) -> System:
    """The system that `obj` is or contains as its only layer."""
    if isinstance(obj, (DenseSystem, DiagonalSystem)):
        return obj
    found = linear_layers_of(obj)
    if len(found) > 1:
        raise ValueError(f"one system is needed, got a model with {len(found)} layers: {', '.join(found)}")
    return adapt(next(iter(found.values())))[0]


def dense_on_host(name: str, obj: Any) -> DenseSystem:
    """The one system in `obj`, dense, of NumPy arrays in double precision."""
    system = system_of(obj)
    if system.B.ndim > 2:
        raise ValueError(f"the {name} must be a single system, got a batch of shape {tuple(system.B.shape[:-2])}")
    be = backend_of(*system.leaves)
    work = arrays.mapped(system, lambda x: to_numpy(be.stop_gradient(x)))
    with double_precision(*work.leaves) as wide:
        return with_leaves(work, wide).to_dense()


def layers_of(obj: Any) -> dict[str, Any]:
    """The layers of a model by name; ``{"": obj}`` if `obj` is a system or a layer itself.

    Layers are found in lists, tuples and dicts, and in models of every registered framework.

    Examples
    --------
    >>> import balred
    >>> list(layers_of({"a": balred.testing.random_system(4), "b": balred.testing.random_system(3)}))
    ['a', 'b']
    """
    if _are_matrices(obj):
        return {"": obj}
    walked = _walk(obj, "")
    found = dict(walked)
    if len(found) < len(walked):
        names = [name for name, _ in walked]
        raise ValueError(
            f"layer names must differ, got {', '.join(sorted({n for n in names if names.count(n) > 1}))} twice"
        )
    if not found:
        near = [
            told
            for container, _, part in _parts(obj, "")
            if container.seen is not None
            for told in container.seen(part)
        ]
        saw = f"; what looks like one: {'; '.join(near)}" if near else ""
        raise AdapterNotFound(
            (
                _nothing_to_cut(obj)
                or f"no adapter knows {qualified(type(obj))} or any layer in it: {_instead(obj)}register the layer's class with "
                "balred.register(cls, adapter)"
            )
            + saw
        )
    return found


def _nothing_to_cut(obj: Any) -> str:
    """That there are layers with a memory in `obj`, and why they cannot be made smaller; an empty text if there are none."""
    fixed = [
        told for container, _, part in _parts(obj, "") if container.fixed is not None for told in container.fixed(part)
    ]
    return f"no layer of {qualified(type(obj))} can be made smaller: {'; '.join(fixed)}" if fixed else ""


def linear_layers_of(obj: Any) -> dict[str, Any]:
    """The layers of a model that have an operator, by name; all of them if none has."""
    found = layers_of(obj)
    entries = {name: entry_of(layer) for name, layer in found.items()}
    return {n: x for n, x in found.items() if (e := entries[n]) is None or e.adapter is not None} or found


def _walk(obj: Any, path: str) -> list[tuple[str, Any]]:
    if isinstance(obj, (DenseSystem, DiagonalSystem)) or entry_of(obj) is not None:
        return [(path, obj)]
    container = container_of(obj)
    prefix = f"{path}." if path else ""
    if container is not None:
        return [(prefix + name, layer) for name, layer in container.layers(obj).items()]
    items = obj.items() if isinstance(obj, dict) else enumerate(obj) if isinstance(obj, (list, tuple)) else ()
    return [found for key, value in items for found in _walk(value, f"{prefix}{key}")]


def selective_of(layers: Mapping[str, Any]) -> dict[str, tuple[Any, Selective]]:
    """Those among `layers` of which states are selected, with what is known of them."""
    entries = {name: entry_of(layer) for name, layer in layers.items()}
    return {n: (layers[n], _as_a_whole(e)) for n, e in entries.items() if e is not None and e.selective is not None}


def _as_a_whole(entry: Entry) -> Selective:
    """What is known of a selective layer, whose smaller ones are looked at as they are made."""
    known = entry.selective
    assert known is not None

    def checked(make: Callable[..., Any]) -> Callable[..., Any]:
        def made(layer: Any, *args: Any) -> Any:
            check_fit(layer)
            new, states = make(layer, *args), known.states(layer)
            if known.states(new) != states:
                check_whole(layer, new, {states}, set(), entry.accounts)
                check_runs(layer, new, {states}, known.differs)
            return new

        return made

    return replace(known, cut=checked(known.cut), blank=checked(known.blank))


def second_order_of(layers: Mapping[str, Any]) -> dict[str, tuple[Any, Rebuild]]:
    """Those among `layers` that are second-order systems, as such, each with the way back."""
    entries = {name: entry_of(layer) for name, layer in layers.items()}
    found = {n: e.second_order(layers[n]) for n, e in entries.items() if e is not None and e.second_order is not None}
    return {name: one for name, one in found.items() if one is not None}


def configured(obj: Any, options: Mapping[str, Any], known: Collection[str]) -> tuple[Any, Mapping[str, Any]]:
    """`obj` with those of `options` that say how the systems in it are read, and the others.

    What a method has an option for, in `known`, is the method's.

    Raises
    ------
    TypeError
        Systems in one model do not all have such an option.
    """
    mine = {key: value for key, value in options.items() if key not in known}
    if not mine or isinstance(obj, (DenseSystem, DiagonalSystem)):
        return obj, options
    layers = layers_of(obj)
    entries = {name: entry_of(layer) for name, layer in layers.items()}
    new, left = {}, dict[str, Mapping[str, Any]]()
    for name, layer in layers.items():
        entry = entries[name]
        new[name], left[name] = (
            (layer, mine) if entry is None or entry.configured is None else entry.configured(layer, mine)
        )
    rest = next(iter(left.values()))
    if any(one.keys() != rest.keys() for one in left.values()):
        several = sorted(set(mine) - set(rest).intersection(*left.values()))
        raise TypeError(
            f"options must mean the same for all systems, got {', '.join(several)} for sparse systems and others together"
        )
    changed = {name: layer for name, layer in new.items() if layer is not layers[name]}
    return replace_layers(obj, changed), {key: x for key, x in options.items() if key in known or key in rest}


def is_selective(layer: Any) -> bool:
    """Whether states of the layer can only be chosen along data."""
    entry = entry_of(layer)
    return entry is not None and entry.selective is not None and entry.selective.needs_data


def replace_layers(obj: Any, new: Mapping[str, Any]) -> Any:
    """A copy of the model `obj` with the layers called so in :func:`layers_of` replaced.

    Examples
    --------
    >>> import balred
    >>> model = {"a": balred.testing.random_system(4), "b": balred.testing.random_system(3)}
    >>> smaller = replace_layers(model, {"a": balred.reduce(model["a"], 2)})
    >>> smaller["a"].states, model["a"].states
    (2, 4)
    """
    return _replaced(obj, "", new) if new else obj


def _replaced(obj: Any, path: str, new: Mapping[str, Any]) -> Any:
    if path in new:
        return new[path]
    prefix = f"{path}." if path else ""
    container = container_of(obj)
    if container is not None:
        mine = {name[len(prefix) :]: layer for name, layer in new.items() if name.startswith(prefix)}
        return container.replace(obj, mine) if mine else obj
    if isinstance(obj, dict):
        result = copy.copy(obj)
        result.update({key: _replaced(value, f"{prefix}{key}", new) for key, value in obj.items()})
        return result
    if isinstance(obj, (list, tuple)):
        values = [_replaced(value, f"{prefix}{i}", new) for i, value in enumerate(obj)]
        return type(obj)(*values) if hasattr(obj, "_fields") else type(obj)(values)
    return obj


def per_layer(obj: Any, function: Callable[[System, Rebuild], T]) -> T | dict[str, T]:
    """`function` of the system in `obj`, or a dict of its values by layer name for a model with several layers."""
    if isinstance(obj, (DenseSystem, DiagonalSystem)):
        return function(*adapt(obj))
    found = linear_layers_of(obj)
    if list(found) == [""]:
        return function(*adapt(obj))
    return {name: function(*adapt(layer)) for name, layer in found.items()}
