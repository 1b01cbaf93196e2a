"""One call for many: layers of one shape computed together, and batches computed piece by piece within a budget.

A model's layers are often small and alike, and a call for each costs more than the numbers in it; a batch of many
channels may need more memory at once than there is.  Both are matters of leading axes, and are settled here for every
structure and array library.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from balred.systems import arrays
from balred.systems.arrays import Array, backend_of, namespace
from balred.systems.diagonal_system import DiagonalSystem
from balred.systems.leaves import System

T = TypeVar("T")

LARGE = 2**15
"""Systems whose state matrices (or those of a batch together) have more entries are not joined.

They keep a machine busy by themselves, and their temporaries would add up.
"""


def together(function: Callable[[System], T], systems: Mapping[str, System]) -> dict[str, T]:
    """`function` of each system by name, called once for all those of one shape; its results are split like arrays.

    A batch is refused where a single system need not be (unstable members); then each is given by itself.
    """
    found: dict[str, T] = {}
    for names in alike(systems):
        several = [systems[name] for name in names]
        if len(names) > 1:
            try:
                joint = function(stacked(several))
            except (ValueError, ArithmeticError):
                pass
            else:
                found |= {name: member(joint, i) for i, name in enumerate(names)}
                continue
        found |= {name: function(system) for name, system in zip(names, several, strict=True)}
    return {name: found[name] for name in systems}


def alike(systems: Mapping[str, System]) -> list[list[str]]:
    """The names in groups that can be stacked: equal structure, time step, shapes, dtypes, device, and not large."""
    groups: dict[Any, list[str]] = {}
    for name, system in systems.items():
        leaves = [*system.leaves, system.D]
        be = backend_of(*leaves)
        conjugate = isinstance(system, DiagonalSystem) and system.conjugate
        what = [(tuple(x.shape), str(x.dtype), be.device_name(x)) for x in leaves]
        key = (type(system), conjugate, type(system.dt), system.dt, be.__name__, *what)
        large = math.prod(system.B.shape[:-2]) * system.order**2 > LARGE
        groups.setdefault(name if large else key, []).append(name)
    return list(groups.values())


def stacked(systems: Sequence[Any]) -> Any:
    """Systems of one shape as a batch, in a new leading axis."""
    first = systems[0]
    xp = namespace(*first.leaves)
    names = [f.name for f in dataclasses.fields(first) if hasattr(getattr(first, f.name), "shape")]
    return dataclasses.replace(first, **{name: xp.stack([getattr(g, name) for g in systems]) for name in names})


def member(value: Any, i: Any) -> Any:
    """Entry `i` of the leading axes of every array in `value`: an array, a system, or a named tuple of such."""
    return each_array(value, lambda x: x[i])


def each_array(value: Any, function: Callable[[Array], Array]) -> Any:
    """`value` with `function` of every array in it."""
    if hasattr(value, "shape"):
        return function(value)
    if dataclasses.is_dataclass(value):
        return arrays.mapped(value, function)
    if isinstance(value, tuple):
        return type(value)(*(each_array(x, function) for x in value))
    return value


def working_bytes(system: System) -> int:
    r"""What the values of one member of `system` take while they are computed, at most.

    :math:`(kN^2 + 2N(m+p))` numbers in double precision for order N, m inputs and p outputs: k is 20 for dense systems,
    10 for diagonal ones and 3 for those with one input and one output; complex numbers for a complex operator.
    """
    n, m, p = system.order, int(system.B.shape[-1]), int(system.C.shape[-2])
    diagonal = isinstance(system, DiagonalSystem)
    k = 20 if not diagonal else 3 if m == p == 1 else 10
    real = system.conjugate if isinstance(system, DiagonalSystem) else not any(map(arrays.is_complex, system.leaves))
    return (8 if real else 16) * (k * n * n + 2 * n * (m + p))


def check_budget(max_bytes: Any) -> None:
    """Raise unless `max_bytes` is a positive integer, or None."""
    if max_bytes is None:
        return
    if isinstance(max_bytes, bool) or not isinstance(max_bytes, (int, np.integer)) or max_bytes < 1:
        raise ValueError(f"max_bytes must be a positive integer, got {max_bytes!r}")


def streamed(function: Callable[[Any], Array], system: Any, max_bytes: int | None) -> Array:
    """`function` of a batch, so many members at a time as fit into `max_bytes` (at least one)."""
    if max_bytes is None:
        return function(system)
    batch = tuple(system.B.shape[:-2])
    count, step = math.prod(batch), max(1, int(max_bytes) // working_bytes(system))
    if step >= count:
        return function(system)
    xp = namespace(*system.leaves)
    flat = arrays.mapped(system, lambda x: xp.reshape(x, (count, *x.shape[len(batch) :])))
    pieces = range(0, count, step)
    parts = [function(arrays.mapped(flat, lambda x, i=i: x[i : i + step])) for i in pieces]  # type: ignore[misc]
    out = xp.concat(parts, axis=0)
    return xp.reshape(out, (*batch, *out.shape[1:]))
