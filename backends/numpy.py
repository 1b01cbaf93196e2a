"""NumPy with SciPy: the reference backend, and the host routines that every other backend falls back to."""

from __future__ import annotations

import contextvars
import functools
import io
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from threadpoolctl import ThreadpoolController

Array = NDArray[Any]
_PIECE = 64
"""Members of a batch that are computed together, at most."""
_CACHED, _WORTH = 2**20, 2**17
"""Entries that stay in a core's cache, and from how many on a second core is worth waking."""
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
    return np.asarray(x.real if real else x).astype(dtype)


def to_bytes(x: Array) -> NDArray[np.uint8]:
    """The bytes of `x` in C order, little-endian."""
    return np.ascontiguousarray(x, dtype=x.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)


def from_bytes(data: NDArray[np.uint8], like: Array) -> Array:
    """An array of the shape and dtype of `like` with these bytes."""
    return np.array(data).view(like.dtype.newbyteorder("=")).reshape(like.shape)


@functools.cache
def _lapack(name: str, char: str) -> Callable[..., Any]:
    """A routine of LAPACK or BLAS for a dtype (functions of SciPy look it up and check their arguments every time)."""
    library = scipy.linalg.blas if name == "trmm" or name.startswith("syrk") else scipy.linalg.lapack
    return getattr(library, {"f": "s", "d": "d", "F": "c", "D": "z"}[char] + name)  # type: ignore[no-any-return]


def inverse(x: Array) -> Array:
    """The inverse, from LU factors; a singular matrix is a LinAlgError."""
    if x.ndim > 2:
        return np.asarray(np.linalg.inv(x))
    char = x.dtype.char
    lu, pivots, info = _lapack("getrf", char)(x.T)  # of the transpose, which needs no copy
    if info > 0:
        raise np.linalg.LinAlgError("Singular matrix")
    return np.asarray(_lapack("getri", char)(lu, pivots, lwork=64 * len(x), overwrite_lu=1)[0].T)


def triangular_factor(x: Array) -> Array:
    """R of the QR factorisation of `x`, without Q."""
    if x.ndim > 2:
        return np.asarray(np.linalg.qr(x, mode="r"))
    rows, n = x.shape
    return np.triu(_lapack("geqrf", x.dtype.char)(x, lwork=64 * max(n, 1))[0][: min(rows, n)])


def extended_triangle(R: Array, W: Array) -> Array:
    """The triangular factor of [R; W] for an upper triangular R, at half the cost of any other; both are overwritten."""
    if R.ndim > 2:
        return triangular_factor(np.concatenate([R, W], axis=-2))
    n = R.shape[1]
    return np.asarray(_lapack("tpqrt", R.dtype.char)(0, min(32, n), R, W, overwrite_a=1, overwrite_b=1)[0])


def triangle_times(R: Array, x: Array) -> Array:
    """``R @ x`` for a square upper triangular R."""
    return R @ x if R.ndim > 2 else np.asarray(_lapack("trmm", R.dtype.char)(1.0, R, x))


def semidefinite_factor(x: Array) -> Array:
    """Z with ``Z Z^H = x`` to rounding for positive semidefinite matrices with ones on the diagonal.

    By Cholesky factorisation with pivoting, which costs less than an eigendecomposition and is no less accurate; Z has
    as many columns as the numerical rank (the largest in a batch).
    """
    batch = x.shape[:-2]
    factor, tolerance = _lapack("pstrf", x.dtype.char), 4 * np.finfo(x.dtype).eps
    out, columns = np.zeros_like(x), 1
    for at in np.ndindex(*batch):
        U, order, rank, _ = factor(x[at], tol=tolerance)
        out[(*at, order - 1, slice(rank))] = np.triu(U[:rank]).conj().T
        columns = max(columns, rank)
    return out[..., :columns]


def svd(x: Array) -> tuple[Array, Array, Array]:
    """U, s and V^H, of the smaller shapes; in single precision where `x` is, which NumPy itself computes in double."""
    if x.dtype.char not in "fF":
        return np.linalg.svd(x, full_matrices=False)
    if x.ndim == 2:
        return scipy.linalg.svd(x, full_matrices=False, check_finite=False)  # type: ignore[no-any-return]
    parts = [svd(one) for one in x.reshape(-1, *x.shape[-2:])]
    U, s, Vh = (np.stack(part) for part in zip(*parts, strict=True))
    return tuple(y.reshape(*x.shape[:-2], *y.shape[1:]) for y in (U, s, Vh))  # type: ignore[return-value]


def svdvals(x: Array) -> Array:
    """The singular values alone, as :func:`svd`."""
    if x.dtype.char not in "fF":
        return np.asarray(np.linalg.svd(x, compute_uv=False))
    values = [scipy.linalg.svd(one, compute_uv=False, check_finite=False) for one in x.reshape(-1, *x.shape[-2:])]
    return np.stack(values).reshape(*x.shape[:-2], -1)


def graded_rows(x: Array, most: int) -> Array:
    """Rows with the same ``x^H x`` to rounding, falling in size, as many as the numerical rank, found by QR with pivoting.

    `x` itself if more than `most` rows are needed.
    """
    rows, n = x.shape
    char = x.dtype.char
    eps = np.finfo(x.dtype).eps
    if rows >= 64:  # pivoting is slow; a Cholesky factorisation tells half of the rank's digits at once
        gram = np.asarray(x @ x.conj().T)
        level = eps**0.875 * float(gram.diagonal().real.max())
        if _lapack("pstrf", char)(gram, tol=level, overwrite_a=1)[2] > 0.75 * min(rows, most):
            return x

    def pivoted(x: Array) -> tuple[Array, Array, Array, Array]:
        """R cut to the numerical rank, the order of the columns, and Q in its compact form."""
        qr, order, tau, _, _ = _lapack("geqp3", char)(x, lwork=2 * x.shape[1] + 64 * (x.shape[1] + 1))
        R = np.triu(qr[: min(x.shape)])
        size = np.linalg.norm(R[::-1] / (abs(R[0, 0]) or 1.0), axis=1)
        rest = np.sqrt(np.cumsum(size**2))[::-1]
        rank = max(1, int(np.sum(rest > eps * rest[0])))
        return R[:rank], order - 1, qr, tau

    R, order, _, _ = pivoted(x)
    if len(R) > most:
        return x
    kept = np.empty((len(R), n), x.dtype)
    kept[:, order] = R
    # the rows of R fall, but slower than the singular values; those of a second triangle do not
    L, _, qr, tau = pivoted(kept.conj().T)
    name = "ungqr" if np.iscomplexobj(x) else "orgqr"
    Q = _lapack(name, char)(qr[:, : len(L)], tau[: len(L)], lwork=64 * len(L))[0]
    return np.asarray(triangular_factor(L.conj().T) @ Q.conj().T)


def while_loop(cond: Callable[[Any], Any], body: Callable[[Any], Any], state: Any) -> Any:
    """Apply `body` while `cond`."""
    while cond(state):
        state = body(state)
    return state


@contextmanager
def double_scope() -> Iterator[None]:
    """A scope in which float64 exists, and overflow is judged by the caller, not warned about."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        yield


@contextmanager
def single_scope() -> Iterator[None]:
    """The same for float32, which overflows earlier."""
    with double_scope():
        yield


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


_FEW = 1024


def few_threads(n: int) -> AbstractContextManager[None]:
    """One BLAS thread for matrices of order `n`, where that is small; no change otherwise."""
    return one_blas_thread() if n <= _FEW else nullcontext()


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def over_batch(function: Callable[..., Any], batch: tuple[int, ...], *arrays: Array) -> Any:
    """``function(*arrays)`` by pieces of the leading axes `batch`, which fit into a core's cache, on all cores.

    The result, an array or a tuple of them, has the same leading axes; pieces with a shorter last axis are padded with
    zeros.
    """
    count = math.prod(batch)
    if not batch or count == 1:
        with few_threads(max(x.shape[-1] for x in arrays)):
            return function(*arrays)
    size = max(math.prod(x.shape[len(batch) :]) for x in arrays)
    size = max(size, arrays[0].shape[-1] ** 2)
    if count * size < _WORTH:
        with one_blas_thread():
            return function(*arrays)
    step = max(1, min(_PIECE, -(-count // _cores()), _CACHED // size))
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


def separate(A: Array, stable: Callable[[Array], Array]) -> tuple[Array, Array, int]:
    """Block-diagonalise a matrix by an ordered Schur form and a Sylvester equation.

    Returns T, T^-1 and k with ``Tinv @ A @ T = diag(A1, A2)``, A1 (k x k) holding the poles that are not `stable`.
    """
    Ts, U, k = scipy.linalg.schur(A, output="complex", sort=lambda w: not bool(stable(np.asarray(w))))
    if not np.iscomplexobj(A):
        Ts, U, k = scipy.linalg.schur(
            A, output="real", sort=lambda re, im=0.0: not bool(stable(np.asarray(complex(re, im))))
        )
    n = A.shape[0]
    Y = scipy.linalg.solve_sylvester(Ts[:k, :k], -Ts[k:, k:], -Ts[:k, k:])
    S, Sinv = np.eye(n, dtype=Ts.dtype), np.eye(n, dtype=Ts.dtype)
    S[:k, k:], Sinv[:k, k:] = Y, -Y
    return U @ S, Sinv @ U.conj().T, int(k)


def block_diagonal_form(A: Array, limit: float) -> tuple[Array, Array, Array, list[int], float]:
    """Block-diagonalise a matrix as finely as transformations of norm `limit` allow [Bavely & Stewart 1979].

    Returns T, T^-1, ``Tinv @ A @ T``, the sizes of its blocks and the condition number of T (but for units of state).
    Blocks are split off the Schur form one by one; one whose Sylvester equation has a solution larger than `limit`
    is first joined by the pole that is nearest to its own.
    """
    scaled, (scale, _) = scipy.linalg.matrix_balance(A, permute=False, separate=True)
    S, T = scipy.linalg.schur(scaled, output="complex" if np.iscomplexobj(A) else "real")
    char, n, start, sizes = S.dtype.char, len(A), 0, []

    def step(i: int) -> int:
        """Size of the block of the Schur form that begins at i."""
        return 2 if i + 1 < n and S[i + 1, i] != 0 else 1

    while start < n:
        stop = start + step(start)
        while stop < n:
            here, rest = slice(start, stop), slice(stop, n)
            X, shrink, _ = _lapack("trsyl", char)(S[here, here], S[rest, rest], -S[here, rest], isgn=-1)
            if np.linalg.norm(X) <= limit * shrink:
                T[:, rest] += T[:, here] @ (X / shrink)
                S[here, rest] = 0
                break
            centre = np.trace(S[here, here]) / (stop - start)
            blocks = {i: S[i : i + step(i), i : i + step(i)] for i in range(stop, n) if i == stop or S[i, i - 1] == 0}
            at = min(blocks, key=lambda i: float(np.abs(np.linalg.eigvals(blocks[i]) - centre).min()))
            part = slice(start, n)
            moved, Z, _ = _lapack("trexc", char)(S[part, part], np.eye(n - start), at - start + 1, stop - start + 1)
            S[part, part], T[:, part] = moved, T[:, part] @ Z
            stop += step(stop)
        sizes.append(stop - start)
        start = stop
    cond = float(np.linalg.cond(T / np.linalg.norm(T, axis=0))) if n else 1.0
    return scale[:, None] * T, np.linalg.inv(T) / scale, S, sizes, cond


def assignment(cost: Array) -> Array:
    """Column assigned to each row of the square matrix `cost` at least total cost."""
    return np.asarray(linear_sum_assignment(cost)[1])


def gramian_factors(A: Array, B: Array, C: Array, discrete: bool) -> tuple[Array, Array]:
    """Gramian factors from SciPy's full Lyapunov solvers and an eigendecomposition (``solver="scipy"``).

    A reference only: the full Gramian squares the condition, so that Hankel singular values below about 1e-8 of
    the largest are noise.
    """

    def factor(P: Array) -> Array:
        w, V = np.linalg.eigh((P + P.conj().T) / 2)
        return np.asarray(V * np.sqrt(np.maximum(w, 0)))

    AH, CH = A.conj().T, C.conj().T
    if discrete:
        return (
            factor(scipy.linalg.solve_discrete_lyapunov(A, B @ B.conj().T)),
            factor(scipy.linalg.solve_discrete_lyapunov(AH, CH @ C)),
        )
    return (
        factor(scipy.linalg.solve_continuous_lyapunov(A, -B @ B.conj().T)),
        factor(scipy.linalg.solve_continuous_lyapunov(AH, -CH @ C)),
    )


def sparse_matrix(x: Any) -> Any:
    """`x` (sparse, or anything ``np.asarray`` reads) as a sparse matrix by columns, real or complex in double precision."""
    M = scipy.sparse.csc_matrix(x, copy=True)
    M.eliminate_zeros()
    return M.astype(np.complex128 if np.issubdtype(M.dtype, np.complexfloating) else np.float64)


def sparse_eye(n: int) -> Any:
    """The sparse identity."""
    return scipy.sparse.identity(n, format="csc")


def sparse_lu(M: Any, symmetric: bool = False) -> Any:
    """LU factors of a sparse matrix: an object with ``solve(X, trans)`` for trans "N", "T" and "H".

    `symmetric` says that the pattern is; the ordering for that fills in far less.  A singular matrix is a RuntimeError.
    """
    return scipy.sparse.linalg.splu(M.tocsc(), permc_spec="MMD_AT_PLUS_A" if symmetric else "COLAMD")


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
        s, _, _, work, _, info = scipy.linalg.lapack.dgejsv(x[at], joba=2, jobu=3, jobv=3, jobr=0, jobt=0)
        if info != 0:
            raise ArithmeticError(f"dgejsv must converge, got info = {info}")
        out[at] = np.sort(s * (work[0] / work[1]))[::-1]
    return out


def riccati(A: Array, B: Array, Q: Array, R: Array, S: Array, discrete: bool) -> Array:
    """The stabilising solution of an algebraic Riccati equation; Q and R may be indefinite.

    ``A^H X + X A - (X B + S) R^-1 (X B + S)^H + Q = 0``, or
    ``A^H X A - X - (A^H X B + S) (R + B^H X B)^-1 (A^H X B + S)^H + Q = 0``.  Without one, a LinAlgError.
    """
    solve = scipy.linalg.solve_discrete_are if discrete else scipy.linalg.solve_continuous_are
    return np.asarray(solve(A, B, Q, R, s=S))


def lyapunov(A: Array, G: Array, discrete: bool) -> Array:
    """The Hermitian solution of ``A X + X A^H + G = 0`` or ``A X A^H - X + G = 0``, stable or not (Bartels & Stewart)."""
    X = scipy.linalg.solve_discrete_lyapunov(A, G) if discrete else scipy.linalg.solve_continuous_lyapunov(A, -G)
    return np.asarray((X + X.conj().T) / 2)


def complex_schur(A: Array) -> tuple[Array, Array]:
    """T and Q with ``A = Q T Q^H``, T upper triangular and Q unitary, both complex."""
    T, Q = scipy.linalg.schur(A, output="complex")
    return T, Q


def triangular_solve(T: Array, x: Array, adjoint: bool = False) -> Array:
    """``T^-1 x`` or ``T^-H x`` for an upper triangular complex T and a vector x."""
    return np.asarray(scipy.linalg.blas.ztrsv(T, x, trans=2 if adjoint else 0))


def read_mat(data: bytes) -> dict[str, Any]:
    """The variables of a MATLAB file (version 4 to 7): arrays, sparse matrices by columns, text.

    An object of a class of MATLAB's is listed with a word on what to do instead.
    """
    import scipy.io

    try:
        # numbers as they are stored: asked for MATLAB's own types, loadmat drops imaginary parts
        found = scipy.io.loadmat(io.BytesIO(data))
        logical = {name for name, _, kind in scipy.io.whosmat(io.BytesIO(data)) if kind == "logical"}
    except NotImplementedError:
        raise ValueError("a .mat file must be of version 7 or older, got 7.3 (HDF5): save it with -v7") from None
    except Exception as error:  # of every kind, where the bytes are not what they claim to be
        raise ValueError(f"the file must be a MATLAB file of version 4 to 7, got: {error}") from None
    objects = (scipy.io.matlab.MatlabObject, scipy.io.matlab.MatlabOpaque)
    return {
        f"{key} (an object: save what ssdata gives for it)" if isinstance(value, objects) else key: (
            value.astype(bool) if key in logical else value
        )
        for key, value in found.items()
        if not key.startswith("__")
    }


def write_mat(variables: dict[str, Any]) -> bytes:
    """A MATLAB file of version 5 with `variables`."""
    import scipy.io

    stream = io.BytesIO()
    scipy.io.savemat(stream, variables)
    return stream.getvalue()


def expm(A: Array) -> Array:
    """The matrix exponential, by scaling and squaring."""
    return np.asarray(scipy.linalg.expm(A))


def sylvester(A: Array, B: Array, G: Array) -> Array:
    """X with ``A X - X B = G`` (Bartels & Stewart)."""
    return np.asarray(scipy.linalg.solve_sylvester(A, -B, G))
