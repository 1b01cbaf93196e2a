"""The arrays of a system of either kind, taken out and put back: to compute in another precision, or in another place."""

from __future__ import annotations

from balred.systems import arrays
from balred.systems.arrays import (
    Array,
    backend_of,
    is_complex,
    is_one,
    namespace,
    on_host,
    to_numpy,
)
from balred.systems.dense_system import DenseSystem
from balred.systems.diagonal_system import DiagonalSystem

System = DenseSystem | DiagonalSystem


def with_leaves(system: System, leaves: tuple[Array, ...]) -> System:
    """`system` with other arrays in place of A, B, C (or log_poles, B, C), and D (if any) in their precision."""
    first, B, C = leaves
    D = system.D
    if D is not None:
        xp = namespace(B)
        wide = B.dtype in (xp.float64, xp.complex128)
        complex_D = is_complex(D)
        dtype = (xp.complex128 if wide else xp.complex64) if complex_D else (xp.float64 if wide else xp.float32)
        D = D if D.dtype == dtype else xp.astype(D, dtype)
    if isinstance(system, DenseSystem):
        return DenseSystem(first, B, C, D, system.dt)
    return DiagonalSystem(first, B, C, D, system.dt, system.conjugate)


def cast_like(x: Array, system: System) -> Array:
    """`x` in the precision of `system`."""
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
