"""The arrays of a system of either kind, taken out and put back: to compute in another precision, place or size.

What is computed squares them, and squares squares, which are no numbers where the arrays are very large or small.  So they
are brought near one first, by powers of two, which round nothing, and what was computed is brought back.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from balred.systems import arrays
from balred.systems.arrays import (
    Array,
    backend_of,
    is_at_hand,
    is_complex,
    is_concrete,
    is_one,
    namespace,
    on_host,
    size_of,
    to_numpy,
)
from balred.systems.checks import check_finite, check_representable
from balred.systems.dense_system import DenseSystem
from balred.systems.diagonal_system import DiagonalSystem

System = DenseSystem | DiagonalSystem

_NAMES: dict[type, tuple[str, str, str]] = {DenseSystem: ("A", "B", "C"), DiagonalSystem: ("log_poles", "B", "C")}

_ORDINARY = (1e-9, 1e9)
"""Norms between which squares of squares are numbers, in single precision too."""


def with_leaves(system: System, leaves: tuple[Array, ...]) -> System:
    """`system` with other arrays in place of A, B, C (or log_poles, B, C), and D (if any) in their precision."""
    first, B, C = leaves
    D = system.D
    if D is not None:
        if (type(B) is np.ndarray) != (type(D) is np.ndarray):
            D = to_numpy(D) if type(B) is np.ndarray else backend_of(B).from_numpy(D, like=B)
        xp = namespace(B)
        wide = B.dtype in (xp.float64, xp.complex128)
        complex_D = is_complex(D)
        dtype = (xp.complex128 if wide else xp.complex64) if complex_D else (xp.float64 if wide else xp.float32)
        D = D if D.dtype == dtype else xp.astype(D, dtype)
    if isinstance(system, DenseSystem):
        return DenseSystem(first, B, C, D, system.dt)
    return DiagonalSystem(first, B, C, D, system.dt, system.conjugate)


def at_hand(system: System) -> System:
    """`system` in NumPy where its own library would compile a program for every new shape; :func:`cast_like` brings results back."""
    here: System = arrays.mapped(system, to_numpy) if is_at_hand(*system.leaves) else system
    return here


def cast_like(x: Array, system: System) -> Array:
    """`x` in the precision of `system`, and in its library."""
    if isinstance(x, (np.ndarray, np.generic)) and not isinstance(system.B, np.ndarray):
        back: Array = backend_of(system.B).from_numpy(np.asarray(x), like=system.B)
        return back
    xp = namespace(x)
    if system.B.dtype in (xp.float32, xp.complex64):
        dtype = xp.complex64 if is_complex(x) else xp.float32
    else:
        dtype = xp.complex128 if is_complex(x) else xp.float64
    return x if x.dtype == dtype else xp.astype(x, dtype)


def where_fastest(system: System) -> System:
    """`system` as a constant, on the device or on the host."""
    be = backend_of(*system.leaves)
    if is_one(system.B):
        return system  # a constant of NumPy already
    # in main memory, and where every new shape would be compiled (JAX), NumPy answers fastest
    stay = be.DYNAMIC_SHAPES and not on_host(*system.leaves)
    constant: System = arrays.mapped(system, be.stop_gradient if stay else to_numpy)
    return constant


class Ports(NamedTuple):
    """Powers of two, shape (..., 1, 1): A = time A', B = inputs B', C = outputs C'."""

    time: Array
    inputs: Array
    outputs: Array

    def gain(self, x: NDArray[Any], time: float = 1.0, more: float = 0.0) -> NDArray[Any]:
        """Values `x` of G' on the host, shape (...) or (..., k), as they are of G(s) = inputs outputs / time G'(s / time).

        With another power of `time` those of another integral of G, and `more` is a power of two that they are multiplied by beside.
        """
        sizes = (np.log2(to_numpy(size)[..., 0]) for size in self)
        clock, inputs, outputs = sizes
        power = inputs + outputs - time * clock + more
        power = np.clip(power if x.ndim == power.ndim else power[..., 0], -2000, 2000)
        half = np.round(power / 2)
        with np.errstate(over="ignore", under="ignore"):
            return np.asarray(x * 2.0**half * 2.0 ** (power - half))

    def factors(self, Zp: Array, Zq: Array) -> tuple[Array, Array]:
        """Gramian factors of (A, B, C), from those of (A', B', C'): only time is shared by the two."""
        xp = namespace(Zp)
        root = xp.sqrt(self.time)
        return Zp * xp.astype(self.inputs / root, Zp.dtype), Zq * xp.astype(self.outputs / root, Zq.dtype)

    def system(self, g: DenseSystem) -> DenseSystem:
        """`g` with its matrices in the units given."""
        xp = namespace(g.A)
        A, B, C = (x * xp.astype(size, x.dtype) for x, size in zip(g.leaves, self, strict=True))
        return DenseSystem(A, B, C, g.D, g.dt)


def moderate(system: DenseSystem) -> tuple[DenseSystem, Ports | None]:
    """`system` in units of time, inputs and outputs in which the squares of its numbers are numbers; None where they are.

    Raises
    ------
    ValueError
        An entry is NaN or infinite.
    """
    A, B, C = system.leaves
    if are_ordinary(A, B, C):
        return system, None
    xp = namespace(A)
    if is_concrete(A, B, C):
        for name, x in zip("ABC", (A, B, C), strict=True):
            check_finite(name, x)
    time, inputs, outputs = (unit_of(x, step=step) for x, step in ((A, 2), (B, 1), (C, 1)))
    ports = Ports(xp.ones_like(time) if system.discrete else time, inputs, outputs)
    A, B, C = (x / xp.astype(size, x.dtype) for x, size in zip((A, B, C), ports, strict=True))
    return DenseSystem(A, B, C, system.D, system.dt), ports


class PencilUnits(NamedTuple):
    """Powers of two: A = a A', E = e E', B = b B' and C = c C' of E x' = A x + B u, y = C x."""

    a: float
    e: float
    b: float
    c: float

    def factors(self, Zp: NDArray[Any], Zq: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Gramian factors of the system, from those in these units."""
        a, e, b, c = map(math.log2, self)
        found = shifted(Zp, b - (a + e) / 2), shifted(Zq, c - (a + e) / 2)
        for Z in found:
            check_representable("Gramian factors", Z)
        return found

    def values(self, s: NDArray[Any]) -> NDArray[Any]:
        """Its Hankel singular values, likewise; what is too large is infinite."""
        a, _, b, c = map(math.log2, self)
        return shifted(s, b + c - a)

    def balanced(self, g: DenseSystem) -> DenseSystem:
        """What was made of it with E = 1 and both Gramians alike, which they stay."""
        a, e, b, c = map(math.log2, self)
        A, (B, C) = shifted(g.A, a - e), (shifted(x, (b + c - e) / 2) for x in g.leaves[1:])
        for x in (A, B, C):
            check_representable("entries of the reduced system", x)
        return DenseSystem(A, B, C, g.D, g.dt)


def shifted(x: NDArray[Any], power: float) -> NDArray[Any]:
    """``x * 2**power``, which may be zero, or infinite."""
    if power == 0:
        return x
    half = round(power / 2)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return np.asarray(x * 2.0 ** max(-1000, min(half, 1000)) * 2.0 ** max(-1000, min(power - half, 1000)))


def pencil_units(
    A: NDArray[Any], E: NDArray[Any] | None, B: NDArray[Any], C: NDArray[Any], *, discrete: bool
) -> PencilUnits:
    """Those of the entries of one system on the host in which their squares are numbers: one where they are as given."""
    several = [np.atleast_2d(np.ones(1) if x is None else x) for x in (A, E, B, C)]
    if are_ordinary(*several):
        return PencilUnits(1.0, 1.0, 1.0, 1.0)
    a, e, b, c = (unit_of(x, step=4).item() for x in several)  # half of each other's powers are whole
    if discrete:  # A and E are compared with each other
        a = e = max(a, e)
    return PencilUnits(a, e, b, c)


def are_ordinary(*several: Array) -> bool:
    """Whether squares of squares of the arrays are numbers, as far as anybody can look."""
    if all(map(is_one, several)):
        least, most = _ORDINARY
        return all(least < size_of(x) < most for x in several)
    if not is_concrete(*several):
        return False
    xp = namespace(*several)
    return all(bool(xp.all(each_ordinary(x))) for x in several)


def each_ordinary(x: Array) -> Array:
    """The same of each member of a batch, shape (...)."""
    with np.errstate(over="ignore"):
        size = arrays.fro(x)
        return (size > _ORDINARY[0]) & (size < _ORDINARY[1])


def alike(system: System) -> tuple[Any, Array | None]:
    """`system` with B and C of one size, and the unit of all its states, shape (..., 1, 1); None where they are ordinary."""
    first, B, C = system.leaves
    if 0 in (*B.shape, *C.shape) or are_ordinary(B, C):
        return system, None
    xp = namespace(B)
    d = xp.log2(unit_of(B, step=2)) - xp.log2(unit_of(C, step=2))
    d = 2.0 ** xp.round(d / 2)
    leaves = first, B / xp.astype(d, B.dtype), C * xp.astype(d, C.dtype)
    return dataclasses.replace(system, **dict(zip(_NAMES[type(system)], leaves, strict=True))), d


def unit_of(x: Array, axis: int | tuple[int, ...] = (-2, -1), step: int = 1) -> Array:
    """A power of 2 ** step near the largest entry along `axis`, which stays with length 1; one where all are zero."""
    xp, be = namespace(x), backend_of(x)
    if 0 in x.shape:  # no inputs, or no outputs
        return xp.sum(xp.abs(x), axis=axis, keepdims=True) + 1.0
    largest = xp.max(xp.abs(be.stop_gradient(x)), axis=axis, keepdims=True)
    largest = xp.where(largest > 0, largest, xp.ones_like(largest))
    limits = xp.finfo(largest.dtype)
    most = step * (math.floor(math.log2(float(limits.max))) // step - 1)
    least = -step * (-math.floor(math.log2(float(limits.smallest_normal))) // step - 1)
    exponent = step * xp.round(xp.log2(largest) / step)
    power: Array = 2.0 ** xp.minimum(xp.maximum(exponent, xp.full_like(exponent, least)), xp.full_like(exponent, most))
    return power
