"""NumPy: the reference array backend, and the one that others fall back to; SciPy's LAPACK and BLAS come from ``triangles``.

Examples
--------
>>> import numpy as np
>>> from balred.backends import numpy as backend
>>> backend.svdvals(np.diag([3.0, 4.0])).tolist()
[4.0, 3.0]
"""

from __future__ import annotations

import contextvars
import functools
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from balred.backends.triangles import SMALL, compiled, lapack, upper
from balred.backends.triangles import balancing as balancing
from balred.backends.triangles import extend_triangles as extend_triangles
from balred.backends.triangles import extended_triangle as extended_triangle
from balred.backends.triangles import graded_rows as graded_rows
from balred.backends.triangles import triangular_factor as triangular_factor

Array = NDArray[Any]
_PIECE = 64
"""Members of a batch that are computed together, at most."""
_CACHED, _HELD, _WORTH = 2**14, 2**20, 2**17
"""Entries whose products stay in a core's cache; that the results of a piece may have; from how many on a second core is worth waking."""
_CLEAR = 16
"""Times the rounding of all entries of a row, that much must be left of each in a factorisation that does not pivot."""
_FEW = 1024
"""The order from which on a second thread is worth its waking."""
DYNAMIC_SHAPES = True
"""Shapes may change inside a loop at no cost, so that factors may shed columns."""


def is_concrete(x: Array) -> bool:
    """Always: NumPy does not trace."""
    return True


def on_host(x: Array) -> bool:
    """Always."""
    return True


def all_finite(x: Array) -> bool:
    """Whether no entry of the concrete array `x` is NaN or infinite."""
    return bool(np.isfinite(x).all())


def device_name(x: Array) -> str:
    """Always the host."""
    return "cpu"


def to_numpy(x: Array) -> Array:
    """Return `x` itself."""
    return np.asarray(x)


def from_numpy(x: Array, like: Array, real: bool = False) -> Array:
    """Return `x` in the precision of `like` (its real part where `real`)."""
    dtype = np.result_type(like.real.dtype if real or not np.iscomplexobj(x) else like.real.dtype.type(0) + 0j)
    with np.errstate(over="ignore"):  # whoever asks for it looks whether it is a number
        return np.asarray(x.real if real else x).astype(dtype)


def to_bytes(x: Array) -> NDArray[np.uint8]:
    """The bytes of `x` in C order, little-endian."""
    return np.ascontiguousarray(x, dtype=x.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)


def from_bytes(data: NDArray[np.uint8], like: Array) -> Array:
    """An array of the shape and dtype of `like` with these bytes."""
    return np.array(data).view(like.dtype.newbyteorder("=")).reshape(like.shape)


def inverse(x: Array) -> Array:
    """The inverse, from LU factors; a singular matrix is a LinAlgError."""
    if x.ndim > 2:
        return np.asarray(np.linalg.inv(x))
    char = x.dtype.char
    lu, pivots, info = lapack("getrf", char)(x.T)  # of the transpose, which needs no copy
    if info > 0:
        raise np.linalg.LinAlgError("Singular matrix")
    return np.asarray(lapack("getri", char)(lu, pivots, lwork=64 * len(x), overwrite_lu=1)[0].T)


def solve(a: Array, b: Array) -> Array:
    """The solution of ``a @ x = b`` for one matrix; a singular one is a LinAlgError."""
    _, _, x, info = lapack("gesv", a.dtype.char)(a, b)
    if info > 0:
        raise np.linalg.LinAlgError("Singular matrix")
    return np.asarray(x)


def qr(x: Array) -> tuple[Array, Array]:
    """Q and R of one matrix, of the smaller shapes."""
    if min(x.shape) == 0:
        return np.linalg.qr(x)
    rows, char = min(x.shape), x.dtype.char
    work, tau, _, _ = lapack("geqrf", char)(x, lwork=64 * x.shape[1])
    R = work[:rows] * upper(rows, x.shape[1]) if max(x.shape) <= SMALL else np.triu(work[:rows])
    multiply = lapack("ungqr" if x.dtype.kind == "c" else "orgqr", char)
    return multiply(work[:, :rows], tau, lwork=64 * rows, overwrite_a=1)[0], R


def triangle_times(R: Array, x: Array) -> Array:
    """``R @ x`` for a square upper triangular R."""
    return R @ x if R.ndim > 2 else np.asarray(lapack("trmm", R.dtype.char)(1.0, R, x))


def semidefinite_factor(x: Array) -> Array:
    """Z with ``Z Z^H = x`` to rounding for positive semidefinite matrices with ones on the diagonal.

    By Cholesky factorisation, which costs less than an eigendecomposition and is no less accurate; with pivoting where
    rounding may count, since that takes some times as long.  Z has as many columns as the numerical rank (the largest in a batch).
    """
    batch, n, eps = x.shape[:-2], x.shape[-1], np.finfo(x.dtype).eps
    whole, pivoting = (lapack(name, x.dtype.char) for name in ("potrf", "pstrf"))

    def factor(one: Array) -> Array:
        U, info = whole(one.T, clean=1)  # LAPACK's order, and the half that takes least time
        if info == 0 and U.diagonal().real.min() ** 2 > n * _CLEAR * eps:
            return np.asarray(U.T)
        U, order, rank, _ = pivoting(one, tol=4 * eps)
        Z = np.zeros((n, max(rank, 1)), x.dtype)
        Z[order - 1, :rank] = np.triu(U[:rank]).conj().T
        return Z

    if not batch:
        return factor(x)
    parts = [factor(x[at])[None] for at in np.ndindex(*batch)]
    return _joined(parts, batch) if parts else x[..., :1]


def congruent(Z: Array, x: Array) -> Array:
    """The lower half of ``Z^H x Z``, which :func:`eigvalsh` reads, for a Hermitian x; of one Z that is lower triangular for a quarter of the operations."""
    if Z.ndim > 2 or Z.shape[0] != Z.shape[1] or np.triu(Z, 1).any():
        return np.asarray(np.swapaxes(Z.conj(), -1, -2) @ (x @ Z))
    product, _ = lapack("hegst" if x.dtype.kind == "c" else "sygst", x.dtype.char)(x.T, Z.T, itype=2, lower=0)
    return np.asarray(product.T)


def svd(x: Array) -> tuple[Array, Array, Array]:
    """U, s and V^H, of the smaller shapes; in single precision where `x` is, which NumPy itself computes in double."""
    if x.ndim == 2:
        return _lapack_svd(x, 1)
    if x.dtype.char not in "fF":
        return np.linalg.svd(x, full_matrices=False)
    parts = [svd(one) for one in x.reshape(-1, *x.shape[-2:])]
    U, s, Vh = (np.stack(part) for part in zip(*parts, strict=True))
    return tuple(y.reshape(*x.shape[:-2], *y.shape[1:]) for y in (U, s, Vh))  # type: ignore[return-value]


def _lapack_svd(x: Array, vectors: int) -> tuple[Array, Array, Array]:
    if min(x.shape) == 0:
        return np.linalg.svd(x, full_matrices=False)
    given: dict[str, int] = {"compute_uv": vectors, "full_matrices": 0}
    if max(x.shape) > SMALL:  # what is enough is not what is quickest
        given["lwork"] = int(lapack("gesdd_lwork", x.dtype.char)(*x.shape, **given)[0].real)
    U, s, Vh, info = lapack("gesdd", x.dtype.char)(x, **given)
    if info != 0:
        raise np.linalg.LinAlgError(f"singular values must converge, got info = {info}")
    return U, s, Vh


def svdvals(x: Array) -> Array:
    """The singular values alone, as :func:`svd`."""
    if x.ndim == 2:
        return _lapack_svd(x, 0)[1]
    if x.dtype.char not in "fF":
        return np.asarray(np.linalg.svd(x, compute_uv=False))
    values = [_lapack_svd(one, 0)[1] for one in x.reshape(-1, *x.shape[-2:])]
    return np.stack(values).reshape(*x.shape[:-2], -1)


def eigvalsh(x: Array) -> Array:
    """The eigenvalues of Hermitian matrices, ascending; in single precision where `x` is, unlike NumPy's own."""
    solve = lapack("heevd" if x.dtype.kind == "c" else "syevd", x.dtype.char)
    out = np.empty(x.shape[:-1], x.real.dtype)
    for at in np.ndindex(*x.shape[:-2]):
        # rows are LAPACK's columns, and their upper half takes least time, with 16 columns at once
        out[at], _, info = solve(x[at].T, compute_v=0, lower=0, lwork=18 * x.shape[-1] + 1)
        if info != 0:
            raise np.linalg.LinAlgError(f"eigenvalues must converge, got info = {info}")
    return out


def while_loop(cond: Callable[[Any], Any], body: Callable[[Any], Any], state: Any) -> Any:
    """Apply `body` while `cond`."""
    while cond(state):
        state = body(state)
    return state


def double_scope() -> AbstractContextManager[Any]:
    """A scope in which float64 exists, and overflow is judged by the caller, not warned about."""
    return np.errstate(over="ignore", invalid="ignore", divide="ignore")


def single_scope() -> AbstractContextManager[Any]:
    """The same for float32, which overflows earlier."""
    return double_scope()


def stop_gradient(x: Array) -> Array:
    """Return `x`: NumPy does not differentiate."""
    return x


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_blas_lock = threading.Lock()
_blas_users: list[Any] = []


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """One BLAS thread, for small matrices: several wait for each other longer than they compute.

    The setting belongs to the process, so whoever comes first makes it, and whoever leaves last takes it back.
    """
    with _blas_lock:
        _blas_users.append(None if _blas_users else _controller().limit(limits=1, user_api="blas"))
    try:
        yield
    finally:
        with _blas_lock:
            if len(_blas_users) == 1:
                _blas_users[0].restore_original_limits()
            _blas_users.pop()


def few_threads(n: int) -> AbstractContextManager[None]:
    """One BLAS thread for matrices of order `n`, where that is small but not so small that BLAS uses one anyway."""
    return one_blas_thread() if SMALL < n <= _FEW else nullcontext()


@functools.cache
def _controller() -> ThreadpoolController:
    compiled("_flapack")  # the BLAS of SciPy is another one than NumPy's, and is to be limited too
    return ThreadpoolController()


def over_batch(function: Callable[..., Any], batch: tuple[int, ...], *arrays: Array, held: int = 0) -> Any:
    """``function(*arrays)`` by pieces of the leading axes `batch`, which fit into a core's cache, on all cores.

    The result, an array or a tuple of them, has the same leading axes; pieces with a shorter last axis are padded with
    zeros.  A function that holds many more entries for a member at once than the arrays have says how many (`held`).
    """
    count = math.prod(batch)
    if not batch or count == 1:
        with few_threads(max(x.shape[-1] for x in arrays)):
            return function(*arrays)
    size = max(math.prod(x.shape[len(batch) :]) for x in arrays)
    result = max(size, arrays[0].shape[-1] ** 2)  # where vectors are given, a matrix is made of them
    if count * max(result, held) < _WORTH:
        with one_blas_thread():
            return function(*arrays)
    most = _HELD // held if held else min(_PIECE, _CACHED // size, _HELD // result)
    step = max(1, min(-(-count // _cores()), most))
    flat = [x.reshape(count, *x.shape[len(batch) :]) for x in arrays]

    def piece(i: int) -> tuple[contextvars.Context, list[Array]]:
        return contextvars.copy_context(), [x[i : i + step] for x in flat]  # NumPy's errstate is in the context

    with one_blas_thread(), ThreadPoolExecutor(_cores()) as pool:
        parts = list(pool.map(lambda p: p[0].run(function, *p[1]), map(piece, range(0, count, step))))
    if isinstance(parts[0], tuple):
        return tuple(_joined(several, batch) for several in zip(*parts, strict=True))
    return _joined(parts, batch)


def _joined(parts: Sequence[Array], batch: tuple[int, ...]) -> Array:
    """The pieces in one array, padded to the longest last axis."""
    width = max(part.shape[-1] for part in parts)
    out = np.zeros((sum(map(len, parts)), *parts[0].shape[1:-1], width), parts[0].dtype)
    at = 0
    for part in parts:
        out[at : at + len(part), ..., : part.shape[-1]] = part
        at += len(part)
    return out.reshape(*batch, *out.shape[1:])


def differentiable(
    value: Callable[..., tuple[Array, Any]], vjp: Callable[[Any, Array], Sequence[Array]], *args: Array
) -> Array:
    """Return ``value(*args)[0]``; the derivative `vjp` has no use here."""
    return value(*args, residuals=False)[0]


def graded_singular_values(x: Array) -> Array:
    """Singular values of ``D1 @ W @ D2``, each to high relative accuracy whatever the diagonal scalings (xGEJSV).

    One-sided Jacobi after a rank-revealing QR factorisation with row and column pivoting; of order n, so meant for W
    that are well conditioned.  [Drmac & Veselic, SIAM J. Matrix Anal. Appl. 29 (2008)].
    """
    if np.iscomplexobj(x):  # the real form has every value twice; entry by entry, so that it is graded like x
        rows, columns = x.shape[-2:]
        real = np.empty((*x.shape[:-2], rows, 2, columns, 2))
        real[..., 0, :, 0] = real[..., 1, :, 1] = x.real
        real[..., 1, :, 0], real[..., 0, :, 1] = x.imag, -x.imag
        return graded_singular_values(real.reshape(*x.shape[:-2], 2 * rows, 2 * columns))[..., ::2]
    out = np.empty(x.shape[:-1])
    for at in np.ndindex(*x.shape[:-2]):
        s, _, _, work, _, info = lapack("gejsv", "d")(x[at], joba=2, jobu=3, jobv=3, jobr=0, jobt=0)
        if info != 0:
            raise ArithmeticError(f"dgejsv must converge, got info = {info}")
        out[at] = np.sort(s * (work[0] / work[1]))[::-1]
    return out
