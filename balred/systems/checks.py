"""What the factories accept: numbers, shapes, devices, finite values; each error states the rule and what was given.

Every array comes in by one door, :func:`as_array`: it keeps at least the precision that it has, or is refused by name.
"""

from __future__ import annotations

import math
import numbers
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from balred.systems.arrays import (
    Array,
    backend_of,
    is_complex,
    is_concrete,
    is_floating,
    is_known,
    library_of,
    namespace,
    size_of,
    to_numpy,
    zeros,
)

_NUMBERS = (bool, int, float, complex, np.bool_, np.integer, np.floating, np.complexfloating)


def as_array(name: str, value: Any) -> Array:
    """`value` as an array of floating-point numbers of a known library; whatever is of none becomes one of NumPy.

    Integers become float64 (in JAX the widest type that it allows), lists and arrays of other packages what
    ``np.asarray`` makes of them.

    Raises
    ------
    TypeError
        An entry is not a number, or has more digits than float64; the matrix is sparse.
    ValueError
        Rows of several lengths, masked entries.

    Examples
    --------
    >>> as_array("A", [[1, 2], [3, 4]])
    array([[1., 2.],
           [3., 4.]])
    >>> as_array("A", [[1, 2], [3]])
    Traceback (most recent call last):
        ...
    ValueError: A must have rows of one length, got rows of different lengths: setting an array element with a sequence. The requested array has an inhomogeneous shape after 1 dimensions. The detected shape was (2,) + inhomogeneous part.
    """
    if type(value) is np.ndarray and value.dtype.char in "dfDF" and value.dtype.isnative:
        return value
    if hasattr(value, "nnz") and hasattr(value, "tocsr"):
        raise TypeError(
            f"{name} must be dense, got a sparse {type(value).__name__}: make a sparse system with "
            f"balred.sparse_system(A, B, C, D), or a dense one of {name}.toarray()"
        )
    library = library_of(value)
    if hasattr(value, "dtype"):
        if library == "numpy":
            return _of_numpy(name, value)
        if is_known(library) or not hasattr(value, "__array__"):
            return _of_library(name, value)
    _check_unmasked(name, value)
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        if isinstance(value, (list, tuple)) and "inhomogeneous" in str(error):
            raise ValueError(f"{name} must have rows of one length, got rows of different lengths: {error}") from None
        raise TypeError(f"{name} must be an array or lists of numbers, got a {type(value).__name__}: {error}") from None
    return _of_numpy(name, array)


def as_matrix(name: str, value: Any) -> Array:
    """The same, and of a number a matrix of one entry."""
    array = as_array(name, value)
    return array if getattr(array, "ndim", 2) else namespace(array).reshape(array, (1, 1))


def host_array(name: str, value: Any) -> np.ndarray[Any, Any]:
    """The same as an array of NumPy in double precision, from any library; sparse matrices become full ones."""
    array = as_array(name, value.toarray() if hasattr(value, "toarray") else value)
    if not is_floating(array):
        raise TypeError(_not_numbers(name, array))
    host = to_numpy(array)
    return np.asarray(host, np.complex128 if np.iscomplexobj(host) else np.float64)


def _of_numpy(name: str, value: Any) -> Array:
    """The same of NumPy: a plain array, without mask and units."""
    _check_unmasked(name, value)
    array = np.asarray(value)
    if array.dtype.kind == "O":
        long = (np.longdouble, np.clongdouble)
        odd = {type(x).__name__ for x in array.flat if not isinstance(x, _NUMBERS) or isinstance(x, long)}
        if odd or not array.size:
            what = ", ".join(f"a {kind}" for kind in sorted(odd)) or "none"
            raise TypeError(f"{name} must hold numbers of at most double precision, got {what}: convert it first")
        complex_entry = any(isinstance(x, (complex, np.complexfloating)) for x in array.flat)
        try:
            array = np.array(array.tolist(), np.complex128 if complex_entry else np.float64)
        except OverflowError as error:
            raise ValueError(
                f"{name} must hold numbers that float64 can represent, got one that is too large: {error}"
            ) from None
    if array.dtype.kind in "biu":
        return array.astype(np.float64)
    if array.dtype.kind in "fc" and array.dtype.itemsize > (8 if array.dtype.kind == "f" else 16):
        raise TypeError(
            f"{name} must be of at most double precision, got dtype {array.dtype}: convert it first, for example to float64"
        )
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _of_library(name: str, value: Any) -> Array:
    """The same of another library."""
    if not is_known(library_of(value)):
        return value
    try:
        xp, floating, _ = namespace(value), is_floating(value), tuple(value.shape)
        integral = xp.isdtype(value.dtype, ("integral", "bool"))
    except (TypeError, ValueError, RuntimeError) as error:  # sparse and ragged arrays, keys of random numbers
        raise TypeError(_not_dense(name, value, error)) from None
    if floating:
        small = value.dtype.itemsize < (8 if is_complex(value) else 4)
        return xp.astype(value, xp.complex64 if is_complex(value) else xp.float32) if small else value
    if not integral:
        return value
    widest = xp.result_type(xp.float32, xp.float64)  # in JAX float32, if it was not told otherwise
    floats = xp.astype(value, widest)
    if backend_of(value).is_concrete(value) and "32" in str(widest) and (to_numpy(floats) != to_numpy(value)).any():
        raise TypeError(
            f"{name} must hold integers that float32 can represent, got larger ones: allow JAX float64, or convert it"
        )
    return floats


def _check_unmasked(name: str, value: Any) -> None:
    """Raise where an entry is masked, in lists too: what is missing is no number."""
    ma = sys.modules.get("numpy.ma")  # no array of it where it was never imported
    if ma is None:
        return
    if isinstance(value, (list, tuple)):
        for part in value:
            _check_unmasked(name, part)
    elif isinstance(value, ma.MaskedArray) and (count := int(np.sum(ma.getmaskarray(value)))):
        raise ValueError(
            f"{name} must have no masked entries, got {count}: fill them first, with filled(0.0) for example"
        )


def _not_dense(name: str, value: Any, error: Exception) -> str:
    kind = f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}"
    layout = f" of layout {value.layout}" if hasattr(value, "layout") else ""
    reason = str(error).partition("\n")[0]
    return f"{name} must be a dense array of numbers in memory, got a {kind}{layout}: {reason}"


def _not_numbers(name: str, x: Array) -> str:
    return f"{name} must be a floating-point array, got dtype {x.dtype}: convert it first, for example to float64"


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
            raise TypeError(_not_numbers(name, x))
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
    else:
        given, D = D, as_array("D", D)
        if not is_floating(D):
            raise TypeError(_not_numbers("D", D))
        if not hasattr(given, "shape"):  # a number or lists
            D = be.from_numpy(D, like=C)
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
    if devices == ["meta"]:
        raise ValueError("the matrices must be in memory, got tensors on the meta device: load their values first")
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
    if not be.is_concrete(x):
        return
    try:
        finite = be.all_finite(x)
    except (TypeError, RuntimeError) as error:
        raise TypeError(_not_dense(name, x, error)) from None
    if not finite:
        bad = np.argwhere(~np.isfinite(be.to_numpy(x)))
        where = tuple(int(i) for i in bad[0])
        raise ValueError(f"{name} must be finite, got {len(bad)} NaN or infinite entries, the first at {where}")


def check_representable(name: str, x: Array) -> None:
    """Raise if a concrete result is not finite, because it is larger than the largest number there is."""
    x = np.asarray(x) if isinstance(x, np.generic) else x
    if type(x) is np.ndarray and (size_of(x) < math.inf or np.isfinite(x).all()):
        return
    be = backend_of(x)
    if be.is_concrete(x) and not be.all_finite(x):
        largest = float(namespace(x).finfo(x.dtype).max)
        raise OverflowError(
            f"{name} must be at most {largest:.3g}, got larger ones: measure inputs or outputs in other units"
        )


def _is_real(value: Any) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return isinstance(value, numbers.Real)


_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "float": ("a number", _is_real),
    "bool": ("True or False", lambda value: isinstance(value, (bool, np.bool_))),
    **dict.fromkeys(("str", "Literal", "Technique"), ("a string", lambda value: isinstance(value, str))),
    "float | None": ("a number", lambda value: value is None or _is_real(value)),
    "str | None": ("a string", lambda value: value is None or isinstance(value, str)),
}
"""By annotation: the rule, and whether a value keeps it."""


def of_kind(name: str, value: Any, kind: str) -> Any:
    """`value`, an array of one number as that number, if it is of a kind; of annotations that are not in the table, all are.

    Raises
    ------
    TypeError
        It is of another kind.
    """
    rule, holds = _KINDS.get(kind.partition("[")[0], ("", None))
    if holds is None:
        return value
    plain = value
    if getattr(value, "shape", None) == () and not isinstance(value, np.generic) and is_concrete(value):
        plain = to_numpy(value).item()
    if not holds(plain):
        raise TypeError(f"{name} must be {rule}, got {value!r}")
    return plain
