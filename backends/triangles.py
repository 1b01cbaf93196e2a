"""LAPACK without SciPy's front, triangular factors of NumPy's arrays by it, and the rank and the grades of such factors."""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

Array = NDArray[Any]
SMALL = 48
"""Orders up to which BLAS uses no second thread by itself."""


def compiled(name: str) -> Any:
    """SciPy's module ``_flapack`` or ``_fblas`` by itself: the rest of ``scipy.linalg`` takes longer to load than NumPy.

    What is loaded is in the place where ``scipy.linalg`` looks for it, and is the same there.  If it is not found so, all of
    ``scipy.linalg`` is loaded.
    """
    whole = f"scipy.linalg.{name}"
    if whole in sys.modules:
        return sys.modules[whole]
    found = importlib.machinery.PathFinder.find_spec(whole, [os.path.join(at, "linalg") for at in scipy.__path__])
    if found is None or not isinstance(found.loader, importlib.machinery.ExtensionFileLoader):
        return importlib.import_module(f"scipy.linalg.{name[2:]}")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return sys.modules.setdefault(whole, module)


@functools.cache
def lapack(name: str, char: str) -> Callable[..., Any]:
    """A routine of LAPACK or BLAS for a dtype (functions of SciPy look it up and check their arguments every time)."""
    library = compiled("_fblas" if name.startswith(("trmm", "syrk", "dot")) else "_flapack")
    return getattr(library, {"f": "s", "d": "d", "F": "c", "D": "z"}[char] + name)  # type: ignore[no-any-return]


def balancing(M: Array) -> Array:
    """Powers of two d for which ``M * d / d[:, None]`` has rows and columns of like norms (xGEBAL, without permutation), of each of a batch."""
    sizes, balance = np.abs(M), lapack("gebal", "d")
    if M.ndim == 2:
        return np.asarray(balance(sizes, scale=1, permute=0)[3])
    return np.reshape([balance(one, scale=1, permute=0)[3] for one in sizes.reshape(-1, *M.shape[-2:])], M.shape[:-1])


def triangular_factor(x: Array) -> Array:
    """R of the QR factorisation of `x`, without Q."""
    if x.ndim > 2:
        return np.asarray(np.linalg.qr(x, mode="r"))
    rows, n = x.shape
    R = lapack("geqrf", x.dtype.char)(x, lwork=64 * max(n, 1))[0][: min(rows, n)]
    return R * upper(len(R), n) if n <= SMALL else np.triu(R)


@functools.lru_cache(maxsize=2 * 64)
def upper(rows: int, n: int) -> Array:
    """Ones on and above the diagonal: for a few rows a product with them is quicker than a choice of places."""
    ones = np.asfortranarray(np.triu(np.ones((rows, n), bool)))
    ones.flags.writeable = False
    return ones


def extended_triangle(R: Array, W: Array) -> Array:
    """The triangular factor of [R; W] for an upper triangular R, at half the cost of any other; both are overwritten."""
    if R.ndim > 2:
        return triangular_factor(np.concatenate([R, W], axis=-2))
    n = R.shape[1]
    return np.asarray(lapack("tpqrt", R.dtype.char)(0, min(32, n), R, W, overwrite_a=1, overwrite_b=1)[0])


def extend_triangles(R: Array, W: Array) -> None:
    """The same in place for many triangles R, shape (n, n, k), and whatever stands below them, shape (rows, n, k).

    By reflections of all k at once: for a few states a call of LAPACK for each takes longer than its numbers do.
    """
    for j in range(len(R)):
        r, w = R[j, j], W[:, j].conj() if W.dtype.kind == "c" else W[:, j]
        size = np.abs(r)
        norm = np.sqrt(size * size + np.einsum("ik,ik->k", w, W[:, j]).real)
        first = -np.copysign(norm, r) if r.dtype.kind == "f" else -norm * np.exp(1j * np.angle(r))
        if j + 1 == len(R):
            R[j, j] = first
            return
        v, scale = r - first, norm * (norm + size)
        t = np.einsum("ik,ijk->jk", w, W[:, j + 1 :])
        t += v.conj() * R[j, j + 1 :]
        t /= np.where(scale > 0, scale, 1)
        R[j, j] = first
        R[j, j + 1 :] -= v * t
        W[:, j + 1 :] -= W[:, j, None] * t


def graded_rows(x: Array, most: int) -> Array:
    """Rows with the same ``x^H x`` to rounding, falling in size, as many as the numerical rank, found by QR with pivoting.

    `x` itself if more than `most` rows are needed.  A square `x` is upper triangular.
    """
    rows, n = x.shape
    char = x.dtype.char
    eps = np.finfo(x.dtype).eps
    if rows == n and most < n <= SMALL:  # its inverse may tell at once that no singular value is rounding of the first
        inverse, singular = lapack("trtri", char)(x)
        if not singular and eps * np.linalg.norm(x) * np.linalg.norm(inverse) < 1:
            return x
    found = _pivoted(np.array(x.conj(), order="C"), most)
    if found is None:
        return x
    RH, parts = found
    rest = np.cumsum(np.einsum("ij,ij->j", RH, RH.conj()).real[::-1])[::-1]
    rank = max(1, int(np.sum(rest > eps**2 * rest[0])))
    if rank > most:
        return x
    # the columns of RH fall, but slower than the singular values; those of a second triangle do not
    kept = np.zeros((rank, n), x.dtype)
    kept[:, :rank] = triangular_factor(RH[:, :rank]).conj()
    name = "unmqr" if x.dtype.kind == "c" else "ormqr"
    for reflections, tau, at in reversed(parts):
        kept[:, at:] = lapack(name, char)("L", "N", reflections, tau, kept[:, at:].T, lwork=64 * rank)[0].T
    return np.asarray(kept.conj())


def _pivoted(Y: Array, most: int) -> tuple[Array, list[tuple[Array, Array, int]]] | None:
    """R^H and Q of a QR factorisation with pivoting of ``Y.T``, whose columns are the rows of `Y`, which is overwritten.

    The rows of R^H are in the order of the pivots.  Q is the product of several, each of reflections in their compact form that leave the
    first entries alone, as many as its number says.  None where the rank is most of `most`, as far as the first look tells.

    LAPACK's pivoting works column by column, which is slow.  A Cholesky factorisation with pivoting of the columns' products
    tells half of the rank's digits at once, in large blocks, and that of what is left then the other half
    [Fukaya, Nakatsukasa & Yamamoto, IPDPS 2024].
    """
    rows, n = Y.shape
    char, eps = Y.dtype.char, np.finfo(Y.dtype).eps
    if rows < 64:
        reflections, _, tau, _, _ = lapack("geqp3", char)(Y.T, lwork=2 * rows + 64 * (rows + 1))
        rank = min(rows, n)
        return (reflections[:rank] * upper(rank, rows)).conj().T, [(reflections[:, :rank], tau[:rank], 0)]
    apply, other = lapack("unmqr" if Y.dtype.kind == "c" else "ormqr", char), "C" if Y.dtype.kind == "c" else "T"
    RH, at, total = np.zeros((rows, min(rows, n)), Y.dtype, order="F"), 0, 0.0
    parts: list[tuple[Array, Array, int]] = []
    while True:
        gram = np.asarray(Y.conj() @ Y.T if Y.dtype.kind == "c" else Y @ Y.T)
        sizes = gram.diagonal().real
        total = total or float(sizes.sum())
        level = max(eps**0.875 * float(sizes.max()), eps**2 * total / rows)
        _, order, rank, _ = lapack("pstrf", char)(gram, tol=level, overwrite_a=1)
        if not parts and (rank > 0.75 * min(rows, most) or not total < np.inf):
            return None
        rank, order = min(max(rank, 1), Y.shape[1]), order - 1
        Y, RH[at:, :at] = Y[order], RH[at:, :at][order]
        reflections, tau, _, _ = lapack("geqrf", char)(Y[:rank].T, lwork=64 * rank, overwrite_a=1)
        parts.append((reflections, tau, at))
        RH[at : at + rank, at : at + rank] = np.triu(reflections[:rank]).conj().T
        if rank < len(Y):
            Y = apply("L", other, reflections, tau, Y[rank:].T, lwork=64 * len(Y), overwrite_c=1)[0].T
            RH[at + rank :, at : at + rank] = Y[:, :rank].conj()
        Y, at = np.ascontiguousarray(Y[:, rank:]), at + rank
        if at == min(rows, n) or at > most or float(np.vdot(Y, Y).real) <= eps**2 * total:
            return RH[:, :at], parts
