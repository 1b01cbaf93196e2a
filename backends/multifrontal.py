"""Factors of ``A + pE`` for many p: the order and the places of all entries are found once, the rest is dense algebra.

An ADI iteration factors the same pattern at every shift.  The multifrontal method [Duff & Reid 1983] walks up the tree of
a nested dissection; each node is one dense matrix, its *front*: a few calls of LAPACK, which for meshes in two and three
dimensions are many times quicker than a factorisation entry by entry.  Pivots are sought inside a front only, so whoever
solves with these factors looks at the residual.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.csgraph
from numpy.typing import NDArray

from balred.backends.dissection import graph_of, nested_dissection

Array = NDArray[Any]
Ints = NDArray[np.int64]


class _Entries(NamedTuple):
    """The values of a matrix by node of the tree, and their places in the fronts."""

    values: Array
    places: Ints
    at: list[slice]


class Fronts:
    """The symbolic factorisation of ``A + pE``: what does not depend on p.

    Attributes
    ----------
    paired : bool
        Whether states without a term of their own are eliminated together with others.
    widest : int
        Size of the largest front.
    work : float
        Multiplications of an LU factorisation.
    entries : int
        Numbers in the factors.
    """

    def __init__(self, A: Any, E: Any, *, leaf: int) -> None:
        n = A.shape[0]
        pattern = _pattern(A) + _pattern(E)
        pattern = (pattern + pattern.T).tocsr()
        label = _clusters(A, E)
        count = int(label.max()) + 1
        spread = scipy.sparse.csr_array((np.ones(n, np.int8), (label, np.arange(n))), shape=(count, n))
        graph = pattern if count == n else spread @ pattern @ spread.T
        self.paired = count < n
        order, starts, self.parent = nested_dissection(graph, max(1, leaf * count // n))
        if count < n:
            sizes = np.bincount(label, minlength=count)
            by = np.argsort(label, kind="stable")
            begin = np.concatenate([[0], np.cumsum(sizes)])
            starts = np.concatenate([[0], np.cumsum(sizes[order])])[starts]
            order = np.concatenate([by[begin[k] : begin[k + 1]] for k in order])
        self.order, self.starts = order, starts
        self.place = np.empty(n, np.int64)
        self.place[order] = np.arange(n)
        self.node = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        self._struct(pattern)
        self.A, self.E = self._entries(A), self._entries(E)
        s, u = np.diff(starts), np.array([len(x) for x in self.rest])
        self.sizes = s.tolist()
        self.own = [slice(*at) for at in itertools.pairwise(starts.tolist())]
        self.widest = int((s + u).max())
        self.work = float(np.sum(2 / 3 * s**3.0 + 2 * s**2.0 * u + 2 * s * u**2.0))
        self.entries = int(np.sum(s * (s + 2 * u)))

    def _struct(self, pattern: Any) -> None:
        """The rows of every front that are eliminated later, and their places in the parent's front."""
        n, nodes = len(self.place), len(self.starts) - 1
        coo = pattern.tocoo()
        i, j = self.place[coo.row], self.place[coo.col]
        owner = self.node[i]
        later = j >= self.starts[owner + 1]
        keys = np.unique(owner[later] * n + j[later])
        begin = np.searchsorted(keys, np.arange(nodes + 1) * n)
        own = keys % n if n else keys
        rest: list[list[Ints]] = [[own[begin[k] : begin[k + 1]]] for k in range(nodes)]
        self.rest: list[Ints] = []
        self.children: list[list[int]] = [[] for _ in range(nodes)]
        for k in range(nodes):
            parts = rest[k]
            mine = parts[0] if len(parts) == 1 else np.unique(np.concatenate(parts))
            self.rest.append(mine)
            up = self.parent[k]
            if up >= 0:
                self.children[up].append(k)
                rest[up].append(mine[mine >= self.starts[up + 1]])
        lengths = np.array([len(x) for x in self.rest])
        self._begin = np.concatenate([[0], np.cumsum(lengths)])
        owners = np.repeat(np.arange(nodes), lengths)
        self._all = np.concatenate(self.rest) if nodes else np.zeros(0, np.int64)
        self._keys = owners * n + self._all
        where = self._local(np.repeat(self.parent, lengths), self._all)
        self.into = [where[self._begin[k] : self._begin[k + 1]] for k in range(nodes)]
        self.runs = [_runs(x) for x in self.into]

    def _local(self, owner: Ints, place: Ints) -> Ints:
        """Where a place in the order stands in the front of `owner`."""
        own = place < self.starts[owner + 1]
        size = self.starts[owner + 1] - self.starts[owner]
        found = np.searchsorted(self._keys, owner * len(self.place) + place) - self._begin[owner]
        return np.where(own, place - self.starts[owner], size + found)

    def _entries(self, M: Any) -> _Entries:
        coo = M.tocoo()
        i, j = self.place[coo.row], self.place[coo.col]
        owner = self.node[np.minimum(i, j)]
        by = np.argsort(owner, kind="stable")
        i, j, owner = i[by], j[by], owner[by]
        wide = (self.starts[owner + 1] - self.starts[owner]) + (self._begin[owner + 1] - self._begin[owner])
        places = self._local(owner, i) + wide * self._local(owner, j)
        begin = np.searchsorted(owner, np.arange(len(self.starts))).tolist()
        return _Entries(coo.data[by], places, [slice(*at) for at in itertools.pairwise(begin)])

    def factor(self, p: complex, definite: bool) -> Factors | None:
        """Factors of ``A + pE``, or (`definite`, Hermitian) of ``-(A + pE)``; None where a pivot is zero or not positive."""
        A, E = self.A, self.E
        dtype = np.result_type(A.values, E.values, np.complex128 if isinstance(p, complex) else np.float64)
        sign = -1 if definite else 1
        eliminate = _definite(dtype) if definite else _general(dtype)
        done: list[tuple[Array, ...]] = []
        waiting: dict[int, Array] = {}
        for k, rest in enumerate(self.rest):
            s, size = self.sizes[k], self.sizes[k] + len(rest)
            flat = np.zeros(size * size, dtype)
            a, e = A.at[k], E.at[k]
            flat[A.places[a]] = sign * A.values[a]
            flat[E.places[e]] += sign * p * E.values[e]
            front = flat.reshape(size, size)  # its transpose: LAPACK goes by columns
            for child in self.children[k]:
                _add(front, self.into[child], self.runs[child], waiting.pop(child).T, definite)
            made, update = eliminate(front.T, s)
            if made is None:
                return None
            done.append(made)
            if update is not None:
                waiting[k] = update
        return Factors(self, done, dtype, definite)


def _definite(dtype: Any) -> Callable[..., Any]:
    """A step of Cholesky's factorisation; only lower triangles are kept up."""
    (potrf,) = scipy.linalg.get_lapack_funcs(("potrf",), dtype=dtype)
    real = dtype == np.float64
    trsm, rank_k = scipy.linalg.get_blas_funcs(("trsm", "syrk" if real else "herk"), dtype=dtype)

    def eliminate(F: Array, s: int) -> tuple[tuple[Array, ...] | None, Array | None]:
        L, failed = potrf(F[:s, :s], lower=1, overwrite_a=1, clean=1)
        if failed:
            return None, None
        if s == len(F):
            return (L,), None
        Y = trsm(1, L, F[s:, :s], side=1, lower=1, trans_a=1 if real else 2, overwrite_b=1)
        return (L, Y), rank_k(-1, Y, 1, F[s:, s:], lower=1, overwrite_c=1)

    return eliminate


def _general(dtype: Any) -> Callable[..., Any]:
    """A step of Gauss's, with pivots from the rows that the node eliminates."""
    getrf, getrs = scipy.linalg.get_lapack_funcs(("getrf", "getrs"), dtype=dtype)

    def eliminate(F: Array, s: int) -> tuple[tuple[Array, ...] | None, Array | None]:
        LU, pivots, failed = getrf(F[:s, :s], overwrite_a=1)
        if failed:
            return None, None
        if s == len(F):
            return (LU, pivots), None
        below, beside = F[s:, :s].copy(order="F"), getrs(LU, pivots, F[:s, s:])[0]
        return (LU, pivots, below, beside), F[s:, s:] - below @ beside

    return eliminate


class Factors:
    """Numeric factors of one matrix of a family."""

    def __init__(self, fronts: Fronts, done: list[tuple[Array, ...]], dtype: Any, definite: bool) -> None:
        self._fronts, self._done, self._dtype, self._definite = fronts, done, dtype, definite

    def solve(self, B: Array, trans: str = "N") -> Array:
        """Solve with the matrix ("N"), its transpose ("T") or its adjoint ("H")."""
        f = self._fronts
        dtype = np.result_type(B, self._dtype)
        # the adjoint is the conjugate of the transpose; and the transpose of a Hermitian matrix its conjugate
        conjugate = dtype != np.float64 and trans == ("T" if self._definite else "H")
        x = np.asarray(B[f.order].conj() if conjugate else B[f.order], dtype)
        if self._definite:
            self._definite_sweeps(x)
        elif trans == "N":
            self._sweeps(x)
        else:
            self._transposed_sweeps(x)
        out = np.empty_like(x)
        out[f.order] = x.conj() if conjugate else x
        return out

    def _sweeps(self, x: Array) -> None:
        (getrs,) = scipy.linalg.get_lapack_funcs(("getrs",), dtype=x.dtype)
        nodes = list(zip(self._fronts.own, self._fronts.rest, self._done, strict=True))
        for own, rest, (LU, pivots, *more) in nodes:
            x[own] = getrs(LU, pivots, x[own])[0]
            if more:
                x[rest] -= more[0] @ x[own]
        for own, rest, (_, _, *more) in reversed(nodes):
            if more:
                x[own] -= more[1] @ x[rest]

    def _transposed_sweeps(self, x: Array) -> None:
        (getrs,) = scipy.linalg.get_lapack_funcs(("getrs",), dtype=x.dtype)
        nodes = list(zip(self._fronts.own, self._fronts.rest, self._done, strict=True))
        for own, rest, (_, _, *more) in nodes:
            if more:
                x[rest] -= more[1].T @ x[own]
        for own, rest, (LU, pivots, *more) in reversed(nodes):
            right = x[own] - more[0].T @ x[rest] if more else x[own]
            x[own] = getrs(LU, pivots, right, trans=1)[0]

    def _definite_sweeps(self, x: Array) -> None:
        (trtrs,) = scipy.linalg.get_lapack_funcs(("trtrs",), dtype=x.dtype)
        adjoint = 1 if x.dtype == np.float64 else 2
        nodes = list(zip(self._fronts.own, self._fronts.rest, self._done, strict=True))
        x *= -1  # the factors are those of the negative
        for own, rest, (L, *more) in nodes:
            x[own] = trtrs(L, x[own], lower=1)[0]
            if more:
                x[rest] -= more[0] @ x[own]
        for own, rest, (L, *more) in reversed(nodes):
            right = x[own] - more[0].conj().T @ x[rest] if more else x[own]
            x[own] = trtrs(L, right, lower=1, trans=adjoint)[0]


def _add(front: Array, into: Ints, runs: list[tuple[slice, slice]], child: Array, upper: bool) -> None:
    """Add what a child leaves to its parent's front; of a Hermitian one, which is transposed here, the `upper` triangle."""
    if len(runs) > 1 + len(into) // 16:
        flat, at = front.reshape(-1), into[:, None] * len(front) + into
        flat[at] = flat[at] + child  # `+=` does the same by a slower way
        return
    for k, (mine, its) in enumerate(runs):
        for to, of in runs[k:] if upper else runs:
            front[mine, to] += child[its, of]


def _runs(into: Ints) -> list[tuple[slice, slice]]:
    """Consecutive places: slices of the parent's front, and those of the child's that belong there."""
    cuts = [0, *(np.flatnonzero(np.diff(into) != 1) + 1).tolist(), len(into)]
    return [(slice(int(into[i]), int(into[i]) + j - i), slice(i, j)) for i, j in itertools.pairwise(cuts) if j > i]


def _pattern(M: Any) -> Any:
    M = scipy.sparse.csr_array(M)
    return scipy.sparse.csr_array((np.ones(M.nnz, bool), M.indices, M.indptr), shape=M.shape)


def _clusters(A: Any, E: Any) -> Ints:
    """States that are eliminated together: one without a term of its own in A, and the one that it is coupled to most.

    In first-order form a position has none; with its velocity it makes a pivot block that is not singular.
    """
    n = A.shape[0]
    bare = A.diagonal() == 0
    alone = np.arange(n)
    if not bare.any():
        return alone
    coupling = scipy.sparse.csr_array(abs(A).multiply(abs(A.T)))[np.flatnonzero(bare)]
    if not coupling.nnz:
        return alone
    mate = np.asarray(coupling.argmax(axis=1)).ravel()
    size = np.asarray(coupling.max(axis=1).todense()).ravel()
    tails, heads = np.flatnonzero(bare)[size > 0], mate[size > 0]
    _, label = scipy.sparse.csgraph.connected_components(graph_of(tails, heads, n), directed=False)
    return alone if np.bincount(label).max() > 8 else label.astype(np.int64)
