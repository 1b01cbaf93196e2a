"""What the factories accept: shapes, dtypes, devices, finite values; each error states the rule and what was given."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from balred.systems.arrays import Array, as_array, backend_of, is_complex, is_floating, namespace, zeros


def checked_dt(dt: Any) -> float | bool:
    """`dt` as 0, a positive step or True."""
    if isinstance(dt, (bool, np.bool_)):
        return True if dt else 0
    if not isinstance(dt, (int, float, np.number)) or not math.isfinite(dt) or dt < 0:
        raise ValueError(f"dt must be 0 (continuous), a positive step or True (discrete), got {dt!r}")
    return dt if isinstance(dt, (int, float)) else float(dt)


def checked(
    names: tuple[str, str, str, str], first: Array, B: Array, C: Array, D: Any, n: int, *, real_D: bool = False
) -> tuple[Array, Array, Array, Array]:
    """The four arrays with common batch axes, precision, library and device; `first` is A or the poles, of order `n`."""
    for name, x in zip(names, (first, B, C), strict=False):
        if not is_floating(x):
            raise TypeError(
                f"{name} must be a floating-point array, got dtype {x.dtype}: convert it first, for example to float64"
            )
    be = backend_of(first, B, C)
    xp = namespace(first, B, C)
    if B.ndim < 2 or B.shape[-2] != n:
        raise ValueError(f"B must have shape (..., n, m) with n = {n}, got {tuple(B.shape)}")
    if C.ndim < 2 or C.shape[-1] != n:
        raise ValueError(f"C must have shape (..., p, n) with n = {n}, got {tuple(C.shape)}")
    p, m = int(C.shape[-2]), int(B.shape[-1])
    if 0 in (m, p) or (n == 0 and names[0] != "A"):
        states = "" if names[0] == "A" else "one state, "
        raise ValueError(f"a system must have at least {states}one input and one output, got n = {n}, m = {m}, p = {p}")
    if D is None:
        D = zeros(xp.real(C) if is_complex(C) and real_D else C, (p, m))
    elif not hasattr(D, "shape"):
        D = be.from_numpy(np.asarray(as_array(D)), like=C, real=not np.iscomplexobj(D))
    if not is_floating(D):
        raise TypeError(
            f"D must be a floating-point array, got dtype {D.dtype}: convert it first, for example to float64"
        )
    if D.ndim == 0:
        D = D + zeros(D, (p, m))
    if real_D and is_complex(D):
        raise TypeError(f"D must be real for a conjugate system, got dtype {D.dtype}")
    if tuple(D.shape[-2:]) != (p, m):
        raise ValueError(f"D must have shape (..., p, m) = (..., {p}, {m}), got {tuple(D.shape)}")
    arrays = (first, B, C, D)
    backend_of(*arrays)
    devices = sorted({be.device_name(x) for x in arrays} - {""})
    if len(devices) > 1:
        raise ValueError(f"all matrices must be on one device, got {', '.join(devices)}")
    for name, x in zip(names, arrays, strict=True):
        check_finite(name, x)
    batches = [
        tuple(first.shape[:-2] if names[0] == "A" else first.shape[:-1]),
        *(tuple(x.shape[:-2]) for x in arrays[1:]),
    ]
    try:
        batch = np.broadcast_shapes(*batches)
    except ValueError:
        raise ValueError(f"leading (batch) axes must broadcast, got {', '.join(map(str, batches))}") from None
    tails = [x.shape[len(b) :] for x, b in zip(arrays, batches, strict=True)]
    out = [
        x if b == batch else xp.broadcast_to(x, (*batch, *tail))
        for x, b, tail in zip(arrays, batches, tails, strict=True)
    ]
    if 0 in batch:
        raise ValueError(f"a batch must not be empty, got leading axes of shape {batch}")
    wide = any("64" in str(xp.real(x).dtype if is_complex(x) else x.dtype) for x in out)
    return tuple(_promoted(x, wide) for x in out)


def _promoted(x: Array, wide: bool) -> Array:
    xp = namespace(x)
    dtypes = (xp.complex64, xp.complex128) if is_complex(x) else (xp.float32, xp.float64)
    dtype = dtypes[wide]
    return x if x.dtype == dtype else xp.astype(x, dtype)


def check_finite(name: str, x: Array) -> None:
    """Raise if a concrete array has a NaN or infinite entry, naming the first."""
    be = backend_of(x)
    if be.is_concrete(x) and not be.all_finite(x):
        bad = np.argwhere(~np.isfinite(be.to_numpy(x)))
        where = tuple(int(i) for i in bad[0])
        raise ValueError(f"{name} must be finite, got {len(bad)} NaN or infinite entries, the first at {where}")


def check_representable(name: str, x: Array) -> None:
    """Raise if a concrete result is not finite, because it is larger than the largest number there is."""
    x = np.asarray(x) if isinstance(x, np.generic) else x
    be = backend_of(x)
    if be.is_concrete(x) and not be.all_finite(x):
        largest = float(namespace(x).finfo(x.dtype).max)
        raise OverflowError(
            f"{name} must be at most {largest:.3g}, got larger ones: measure inputs or outputs in other units"
        )
