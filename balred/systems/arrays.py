"""What the core asks of an array library.

The core writes its formulas in the array API standard, so nearly everything it needs comes from
``array_namespace`` of the data itself.  The few things the standard lacks (the triangular factor alone, a
while-loop that can be traced, host round trips, a custom derivative, a scope for double precision) are
functions that every module in ``balred.backends`` supplies under the same names.  This module finds the
backend that belongs to given arrays, or the one that is named, without importing any other.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeAlias

import array_api_compat
import numpy as np

Array: TypeAlias = Any
Backend: TypeAlias = Any
"""A module of ``balred.backends``: functions under agreed names (see ``docs/extending``)."""

_BACKENDS = {
    "numpy": "balred.backends.numpy",
    "scipy": "balred.backends.scipy",
    "slycot": "balred.backends.slycot",
    "safetensors": "balred.backends.safetensors",
    "torch": "balred.backends.torch",
    "jax": "balred.backends.jax",
    "jaxlib": "balred.backends.jax",
}

_LIBRARIES = ("numpy", "torch", "jax", "jaxlib")
"""Packages that arrays come from; the other backends are asked for by name."""


def backend(name: str) -> Backend:
    """Import and return the backend called `name`; an unknown name is an error that lists the known ones."""
    if name in _BACKENDS:
        return sys.modules.get(_BACKENDS[name]) or importlib.import_module(_BACKENDS[name])
    for point in entry_points(group="balred.backends"):
        if point.name == name:
            module: ModuleType = point.load()
            return module
    raise ValueError(f"backend must be one of {', '.join(sorted(_BACKENDS))} or an installed entry point, got {name!r}")


def entry_points(group: str) -> Iterable[Any]:
    """What installed packages offer under a name; asked for late, because to look takes longer than a small system does."""
    from importlib import metadata

    return metadata.entry_points(group=group)


def backend_of(*arrays: Array) -> Backend:
    """Return the backend of the array library that `arrays` come from (they must all come from one)."""
    if are_numpy(arrays):
        return backend("numpy")
    names = {library_of(a) for a in arrays if not isinstance(a, (int, float, complex))}
    if len(names) != 1:
        raise TypeError(f"A, B, C and D must come from one array library, got {', '.join(sorted(names)) or 'none'}")
    name = names.pop()
    if not is_known(name):
        raise TypeError(
            f"arrays must be NumPy, PyTorch or JAX arrays, got {name}; "
            "another library plugs in through the entry-point group 'balred.backends'"
        )
    return backend(name)


def are_numpy(arrays: tuple[Array, ...]) -> bool:
    """Whether all are plain arrays of NumPy, of which nothing needs to be asked (a loop is half as long as ``all``)."""
    for a in arrays:
        if type(a) is not np.ndarray:
            return False
    return bool(arrays)


def library_of(array: object) -> str:
    """The array library of a value: a package with a backend that its class or a base of it comes from, or its own."""
    cls: Any = type(array)
    return _library_of_class(cls)


@functools.cache
def _library_of_class(cls: Any) -> str:
    names = [base.__module__.partition(".")[0] for base in cls.__mro__]
    name = next((name for name in names if name in _LIBRARIES), names[0])
    return "jax" if name == "jaxlib" else name


def is_known(library: str) -> bool:
    """Whether a package of this name is an array library with a backend."""
    return library in _LIBRARIES or any(p.name == library for p in entry_points(group="balred.backends"))


class _NumPy:
    """NumPy from its second version on as the array API standard has it: what it spells otherwise is here.

    The module of array_api_compat would load all that NumPy has, tests and a Fortran compiler's front end included.
    """

    @staticmethod
    def astype(x: Array, dtype: Any, *, copy: bool = True) -> Array:
        return x.astype(dtype, copy=copy)

    @staticmethod
    def sort(x: Array, *, axis: int = -1, descending: bool = False) -> Array:
        return np.flip(np.sort(x, axis=axis), axis) if descending else np.sort(x, axis=axis)

    def __getattr__(self, name: str) -> Any:
        value = getattr(np, name)
        setattr(self, name, value)
        return value


_NUMPY: Any = _NumPy() if hasattr(np, "matrix_transpose") else importlib.import_module("array_api_compat.numpy")


def namespace(*arrays: Array) -> Any:
    """Return the array API namespace of `arrays` (asked 70 times in a small reduction: NumPy's is found at once)."""
    if are_numpy(arrays) or (arrays and all(isinstance(a, (np.ndarray, np.generic)) for a in arrays)):
        return _NUMPY
    return array_api_compat.array_namespace(*arrays)


def warn_caller(message: str, category: type[Warning]) -> None:
    """Warn in the name of the first caller outside this package, however deep inside it we are."""
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "balred":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def is_complex(x: Array) -> bool:
    """Whether `x` has a complex dtype."""
    if isinstance(x, np.ndarray):
        return bool(x.dtype.kind == "c")
    return bool(namespace(x).isdtype(x.dtype, "complex floating"))


def is_floating(x: Array) -> bool:
    """Whether `x` has a real or complex floating dtype (bfloat16 and float16 included)."""
    name = str(x.dtype)
    return "float" in name or "complex" in name


def is_double(x: Array) -> bool:
    """Whether `x` is in double precision."""
    if isinstance(x, np.ndarray):
        return x.dtype.char in "dD"
    return str(x.dtype).rpartition(".")[2] in ("float64", "complex128")


def eps(x: Array) -> float:
    """Unit roundoff (spacing at one) of the dtype of `x`."""
    if isinstance(x, np.ndarray):
        return _eps_of(x.dtype)
    return float(namespace(x).finfo(x.dtype).eps)


@functools.cache
def _eps_of(dtype: np.dtype[Any]) -> float:
    try:
        return float(np.finfo(dtype).eps)
    except ValueError:  # bfloat16 and its like are not NumPy's own
        return float(np.spacing(dtype.type(1)))


def ct(x: Array) -> Array:
    """Conjugate transpose of the last two axes."""
    if isinstance(x, np.ndarray):  # the same without looking up a namespace, which takes longer than small arrays do
        x = x.T if x.ndim == 2 else x.swapaxes(-2, -1)
        return x.conj() if x.dtype.kind == "c" else x
    xp = namespace(x)
    x = xp.matrix_transpose(x)
    return xp.conj(x) if is_complex(x) else x


def real(x: Array) -> Array:
    """Real part; `x` itself where it is real."""
    return namespace(x).real(x) if is_complex(x) else x


def device_of(x: Array) -> Any:
    """Where to put what belongs beside `x`: on its device, whole on each where JAX has split `x` over several."""
    device = array_api_compat.device(x)
    return type(device)(device.mesh, type(device.spec)()) if hasattr(device, "spec") else device


def eye(x: Array, n: int) -> Array:
    """Identity of order `n` in the dtype and on the device of `x`."""
    return namespace(x).eye(n, dtype=x.dtype, device=device_of(x))


@functools.lru_cache(maxsize=64)
def identity(n: int, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """That of NumPy, kept: for a few states it takes longer to make than to use."""
    made = np.eye(n, dtype=dtype)
    made.flags.writeable = False
    return made


def zeros(x: Array, shape: tuple[int, ...]) -> Array:
    """Zeros in the dtype and on the device of `x`."""
    return namespace(x).zeros(shape, dtype=x.dtype, device=device_of(x))


def full(x: Array, shape: tuple[int, ...], value: float) -> Array:
    """A constant in the dtype and on the device of `x`."""
    return namespace(x).full(shape, value, dtype=x.dtype, device=device_of(x))


def to_complex(x: Array) -> Array:
    """`x` in the complex dtype of its own precision."""
    if is_complex(x):
        return x
    xp = namespace(x)
    return xp.astype(x, xp.complex128 if "64" in str(x.dtype) else xp.complex64)


def fro(x: Array, *, keepdims: bool = False) -> Array:
    """Frobenius norm over the last two axes."""
    if isinstance(x, np.ndarray) and x.ndim == 2:  # one product, no copies
        entries = x.ravel("K")
        size = np.sqrt(np.vdot(entries, entries).real)
        return size.reshape(1, 1) if keepdims else size
    if isinstance(x, np.ndarray):  # a product for each member
        rows = np.ascontiguousarray(x).reshape(*x.shape[:-2], 1, x.shape[-2] * x.shape[-1])
        if is_complex(rows):  # in real numbers what is too large is infinite, and not NaN
            rows = rows.view(rows.real.dtype)
        size = np.sqrt(rows @ np.swapaxes(rows, -1, -2))
        return size if keepdims else size[..., 0, 0]
    xp = namespace(x)
    y = xp.abs(x)
    return xp.sqrt(xp.sum(y * y, axis=(-2, -1), keepdims=keepdims))


def is_one(x: Array) -> bool:
    """Whether `x` is one matrix of NumPy: for a few states all the time goes into calls, of which that needs fewest."""
    return type(x) is np.ndarray and x.ndim == 2


def size_of(x: np.ndarray[Any, Any]) -> float:
    """The Frobenius norm of one array of NumPy, as an ordinary number; of any numbers whose norm is one."""
    if not x.size:
        return 0.0
    entries = x.ravel("K")  # a copy is made of what does not lie in rows or columns
    square = float(_product_of(x.dtype.char)(entries, entries).real)  # which, unlike dot, does not warn of an overflow
    if _SQUARES[0] < square < _SQUARES[1]:
        return math.sqrt(square)
    largest = float(np.abs(x).max(initial=0.0))  # whose square is no number, or has few digits
    if largest == 0 or not math.isfinite(largest):
        return largest
    x = x / largest
    return largest * math.sqrt(float(np.vdot(x, x).real))


@functools.cache
def _product_of(char: str) -> Callable[[Any, Any], Any]:
    """The function of two vectors of a dtype that gives their product: that of BLAS, a fifth of NumPy's time for a few entries."""
    if char not in "fdFD":
        return np.vdot
    return backend("numpy").lapack("dot" if char in "fd" else "dotc", char)  # type: ignore[no-any-return]


def sizes_of(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """:func:`size_of` each of a batch, shape (...)."""
    largest = np.abs(x).max(axis=(-2, -1), keepdims=True, initial=0.0)
    size: np.ndarray[Any, Any] = largest[..., 0, 0] * np.linalg.norm(
        x / np.where(largest > 0, largest, 1), axis=(-2, -1)
    )
    return size


_SQUARES = (1e-30, 1e30)
"""Squares that are far from the ends of the range, in single precision too."""


def is_concrete(*arrays: Array) -> bool:
    """Whether the values can be looked at now (false while JAX or torch.func traces)."""
    return are_numpy(arrays) or all(backend_of(a).is_concrete(a) for a in arrays)


def on_host(*arrays: Array) -> bool:
    """Whether NumPy can compute with the arrays where they lie, and so does: nothing is faster there."""
    return are_numpy(arrays) or all(backend_of(a).on_host(a) for a in arrays)


def is_at_hand(*arrays: Array) -> bool:
    """Whether NumPy can compute where the arrays' own library would have to compile a program for every new shape (JAX)."""
    return on_host(*arrays) and not backend_of(*arrays).DYNAMIC_SHAPES


def to_numpy(x: Array) -> np.ndarray[Any, Any]:
    """Copy `x` to the host as a NumPy array."""
    if type(x) is np.ndarray:
        return x
    result: np.ndarray[Any, Any] = backend_of(x).to_numpy(x)
    return result


def mapped(system: Any, function: Callable[[Array], Array]) -> Any:
    """A system (any dataclass of arrays and settings) with `function` applied to its arrays."""
    fields = {f.name: getattr(system, f.name) for f in dataclasses.fields(system)}
    return dataclasses.replace(system, **{k: function(v) for k, v in fields.items() if hasattr(v, "shape")})


PRECISIONS = {"float64": "complex128", "float32": "complex64"}
"""What can be computed in, each with its complex dtype."""


def check_precision(precision: str) -> None:
    """Raise unless `precision` is one of :data:`PRECISIONS`."""
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise ValueError(f"precision must be {' or '.join(PRECISIONS)}, got {precision!r}")


@contextmanager
def in_precision(precision: str, *arrays: Array) -> Iterator[tuple[Array, ...]]:
    """Yield `arrays` in one of :data:`PRECISIONS`, within the scope that the library needs to compute in it."""
    be, xp = backend_of(*arrays), namespace(*arrays)
    with be.double_scope() if precision == "float64" else be.single_scope():
        dtypes = getattr(xp, precision), getattr(xp, PRECISIONS[precision])
        yield tuple(a if a.dtype == (to := dtypes[is_complex(a)]) else xp.astype(a, to) for a in arrays)


@contextmanager
def double_precision(*arrays: Array) -> Iterator[tuple[Array, ...]]:
    """The same in float64, whatever the arrays are in."""
    with in_precision("float64", *arrays) as wide:
        yield wide
