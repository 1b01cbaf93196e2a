"""SciPy: what the host factorises for every array library, from Schur forms to sparse LU, and .mat files.

Its parts for sparse matrices and assignments are loaded when they are asked for: they take longer than a small system does.

Examples
--------
>>> import numpy as np
>>> from balred.backends import scipy as backend
>>> Zp, Zq = backend.gramian_factors(np.diag([-1.0, -2.0]), np.ones((2, 1)), np.ones((1, 2)), discrete=False)
>>> np.linalg.svd(Zq.T @ Zp, compute_uv=False).round(4)
array([0.731, 0.019])
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from balred.backends.triangles import balancing, lapack

Array = NDArray[Any]


def __getattr__(name: str) -> Any:
    """What factorises sparse pencils, from its own module."""
    if name not in ("ExactProduct", "Pencil", "sparse_condition", "sparse_lu"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from balred.backends import pencils

    return getattr(pencils, name)


def balanced(A: Array) -> tuple[Array, Array]:
    """``D^-1 A D`` with rows and columns of like norms, and D's diagonal: powers of two, which round nothing."""
    scale = balancing(A)
    return A * scale / scale[:, None], scale


def strong_components(edges: Array) -> Array:
    """For every state the number of those that it drives and that drive it, numbered from what is driven to what drives."""
    from scipy.sparse.csgraph import connected_components

    graph = scipy.sparse.csr_array(edges)
    return np.asarray(connected_components(graph, directed=True, connection="strong")[1])


class Schur(NamedTuple):
    """``A = V T V^-1``: T is block triangular, as far as the zeros of A allow, and its diagonal blocks are Schur forms."""

    A: Array
    T: Array
    V: Array
    inverse: Array
    parts: list[tuple[Array, slice]]
    """States of A and places on T's diagonal of each irreducible part, whose poles depend on nothing else."""


def block_schur(A: Array) -> Schur:
    """The Schur form of a matrix, part by irreducible part, each in units of state that make its norm small.

    What no rounding can couple stays apart: a triangular matrix keeps its diagonal to the last digit, however far its
    entries range, and a subsystem's poles do not depend on what it drives [Tarjan 1972 for the parts].
    """
    n, dtype = len(A), np.complex128 if np.iscomplexobj(A) else np.float64
    A = np.asarray(A, dtype)
    label = strong_components(A != 0)
    V, inverse = np.zeros((n, n), dtype), np.zeros((n, n), dtype)
    forms, parts, start = [], [], 0
    for part in np.unique(label)[::-1]:  # numbered from what is driven to what drives
        at = np.flatnonzero(label == part)
        block = A[np.ix_(at, at)]
        scaled, scale = balanced(block)
        # large rows first: the QR algorithm then leaves the small poles of a graded matrix their digits
        first = np.argsort(-np.linalg.norm(scaled, axis=1), kind="stable")
        S, Q = scipy.linalg.schur(scaled[np.ix_(first, first)], output="complex" if dtype is np.complex128 else "real")
        at, scale, here = at[first], scale[first], slice(start, start + len(at))
        V[at, here], inverse[here, at] = scale[:, None] * Q, Q.conj().T / scale
        forms.append(S)
        parts.append((at, here))
        start = here.stop
    T = inverse @ A @ V
    for (_, here), S in zip(parts, forms, strict=True):
        T[here, : here.stop] = 0
        T[here, here] = S
    return Schur(A, T, V, inverse, parts)


def triangular(S: Array) -> tuple[Array, Array]:
    """An upper triangular T and unitary Q with ``S = Q T Q^H``, of a real or complex Schur form."""
    if np.iscomplexobj(S):
        return S, np.eye(len(S), dtype=S.dtype)
    T, Q = scipy.linalg.rsf2csf(S, np.eye(len(S)))
    return T, Q


def triangular_eigenvectors(T: Array) -> tuple[Array, Array]:
    """Left and right eigenvectors of an upper triangular matrix, columns of norm one in the order of its diagonal."""
    _, left, right = scipy.linalg.eig(T, left=True, right=True)
    return left, right


def mean_condition(T: Array, chosen: Array) -> float:
    """LAPACK's s, the reciprocal condition number of the mean of the `chosen` poles of an upper triangular T (trsen)."""
    if np.all(chosen):
        return 1.0
    T = np.asfortranarray(T, dtype=np.complex128)
    n, k = len(T), int(np.sum(chosen))
    found = scipy.linalg.lapack.ztrsen(
        chosen.astype(np.int32), T, np.zeros_like(T), job="E", wantq=0, lwork=max(1, 2 * k * (n - k))
    )
    return float(found[4])


class Separation(NamedTuple):
    """``X^-1 A X = diag(A1, A2)``, and the norm of the spectral projector, which is what telling the two apart costs."""

    X: Array
    inverse: Array
    A1: Array
    A2: Array
    condition: float


def separated(schur: Schur, first: Array) -> Separation:
    """Block-diagonalise A = V T V^-1, the poles marked in `first` (by their place on T's diagonal) before the others."""
    T, n, k = schur.T, len(schur.T), int(np.sum(first))
    char = T.dtype.char
    S, Z, *_, failed = lapack("trsen", char)(
        first.astype(np.int32), T, np.eye(n, dtype=T.dtype), job="N", lwork=max(1, n)
    )
    if failed:
        raise ValueError("poles must be separable, got some that are too close to be put into another order")
    one, two = slice(None, k), slice(k, None)
    Y = S[one, two]
    if Y.size:
        Y, shrink, _ = lapack("trsyl", char)(S[one, one], S[two, two], -Y, isgn=-1)
        Y = Y / shrink
    right, left = np.eye(n, dtype=T.dtype), np.eye(n, dtype=T.dtype)
    right[one, two], left[one, two] = Y, -Y
    condition = float(np.sqrt(1 + np.linalg.norm(Y, 2) ** 2)) if Y.size else 1.0
    return Separation(schur.V @ (Z @ right), (left @ Z.conj().T) @ schur.inverse, S[one, one], S[two, two], condition)


def separate(A: Array, stable: Callable[[Array], Array]) -> tuple[Array, Array, int]:
    """Block-diagonalise a matrix by an ordered Schur form and a Sylvester equation.

    Returns T, T^-1 and k with ``Tinv @ A @ T = diag(A1, A2)``, A1 (k x k) holding the poles that are not `stable`.
    """
    schur = block_schur(A)
    made = separated(schur, ~np.asarray(stable(form_poles(schur))))
    return made.X, made.inverse, len(made.A1)


def form_poles(schur: Schur) -> Array:
    """The poles of a Schur form in the order of its diagonal, exactly conjugate where they come in pairs."""
    T = schur.T
    poles = np.diag(T).astype(np.complex128)
    if np.iscomplexobj(T):
        return poles
    for j in np.flatnonzero(np.diag(T, -1)):  # a standard block has equal entries on its diagonal
        poles[j : j + 2] += np.array([1j, -1j]) * np.sqrt(-T[j, j + 1] * T[j + 1, j])
    return poles


def block_diagonal_form(A: Array, limit: float) -> tuple[Array, Array, Array, list[int], float]:
    """Block-diagonalise a matrix as finely as transformations of norm `limit` allow [Bavely & Stewart 1979].

    Returns T, T^-1, ``Tinv @ A @ T``, the sizes of its blocks and the condition number of T (but for units of state).
    Blocks are split off the Schur form one by one; one whose Sylvester equation has a solution larger than `limit`
    is first joined by the pole that is nearest to its own.
    """
    scaled, scale = balanced(A)
    S, T = scipy.linalg.schur(scaled, output="complex" if np.iscomplexobj(A) else "real")
    char, n, start, sizes = S.dtype.char, len(A), 0, []

    def step(i: int) -> int:
        """Size of the block of the Schur form that begins at i."""
        return 2 if i + 1 < n and S[i + 1, i] != 0 else 1

    while start < n:
        stop = start + step(start)
        while stop < n:
            here, rest = slice(start, stop), slice(stop, n)
            X, shrink, _ = lapack("trsyl", char)(S[here, here], S[rest, rest], -S[here, rest], isgn=-1)
            if np.linalg.norm(X) <= limit * shrink:
                T[:, rest] += T[:, here] @ (X / shrink)
                S[here, rest] = 0
                break
            centre = np.trace(S[here, here]) / (stop - start)
            blocks = {i: S[i : i + step(i), i : i + step(i)] for i in range(stop, n) if i == stop or S[i, i - 1] == 0}
            at = min(blocks, key=lambda i: float(np.abs(np.linalg.eigvals(blocks[i]) - centre).min()))
            part = slice(start, n)
            moved, Z, _ = lapack("trexc", char)(S[part, part], np.eye(n - start), at - start + 1, stop - start + 1)
            S[part, part], T[:, part] = moved, T[:, part] @ Z
            stop += step(stop)
        sizes.append(stop - start)
        start = stop
    cond = float(np.linalg.cond(T / np.linalg.norm(T, axis=0))) if n else 1.0
    return scale[:, None] * T, np.linalg.inv(T) / scale, S, sizes, cond


def assignment(cost: Array) -> Array:
    """Column assigned to each row of the square matrix `cost` at least total cost."""
    from scipy.optimize import linear_sum_assignment

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


def sparse_columns(values: Array, rows: Array, starts: Array, shape: tuple[int, int]) -> Any:
    """A sparse matrix by columns: column k has `values` and `rows` from ``starts[k]`` up to ``starts[k + 1]``."""
    return scipy.sparse.csc_matrix((values, rows, starts), shape=shape)


def sparse_eye(n: int) -> Any:
    """The sparse identity."""
    return scipy.sparse.identity(n, format="csc")


def sparse_blocks(blocks: list[list[Any]]) -> Any:
    """A sparse matrix from blocks; None stands for zeros."""
    return scipy.sparse.bmat(blocks, format="csc")


def lowest_modes(K: Any, M: Any, k: int) -> tuple[Array, Array]:
    """The k least eigenvalues of ``K x = w M x``, ascending, with M-orthonormal vectors; Hermitian, M positive definite."""
    from scipy.sparse.linalg import eigsh

    n = K.shape[0]
    if k >= n - 1 or n < 50:
        w, V = scipy.linalg.eigh(K.toarray(), M.toarray(), subset_by_index=(0, k - 1))
        return w, V
    # a little below zero, where K - shift M is definite also if K has modes at rest
    shift = -1e-9 * abs(K).max() / abs(M).max()
    start = np.random.default_rng(0).standard_normal(n)
    w, V = eigsh(K, k, M, sigma=shift, which="LM", v0=start)
    order = np.argsort(w)
    return w[order], V[:, order]


def riccati(A: Array, B: Array, Q: Array, R: Array, S: Array, discrete: bool) -> Array:
    """The stabilising solution of an algebraic Riccati equation; Q and R may be indefinite.

    ``A^H X + X A - (X B + S) R^-1 (X B + S)^H + Q = 0``, or
    ``A^H X A - X - (A^H X B + S) (R + B^H X B)^-1 (A^H X B + S)^H + Q = 0``.  Without one, a LinAlgError.

    In continuous time from the ordered Schur form of the Hamiltonian matrix, balanced, which is quicker than the QZ
    algorithm on a pencil with R in it, and for R well conditioned as exact.
    """
    if discrete:
        return np.asarray(scipy.linalg.solve_discrete_are(A, B, Q, R, s=S))
    n = len(A)
    F, G = np.linalg.solve(R, S.conj().T), np.linalg.solve(R, B.conj().T)
    closed = A - B @ F
    H = np.block([[closed, -B @ G], [S @ F - Q, -closed.conj().T]])
    H, (scale, _) = scipy.linalg.matrix_balance(H, permute=False, separate=True)
    _, U, stable = scipy.linalg.schur(H, output="complex" if np.iscomplexobj(H) else "real", sort="lhp")
    if stable != n:
        raise np.linalg.LinAlgError(f"the Hamiltonian matrix has {stable} stable eigenvalues of {2 * n}")
    U = scale[:, None] * U[:, :n]
    return np.asarray(np.linalg.solve(U[:n].T, U[n:].T).T)


def lyapunov(A: Array, G: Array, discrete: bool) -> Array:
    """The Hermitian solution of ``A X + X A^H + G = 0`` or ``A X A^H - X + G = 0``, stable or not (Bartels & Stewart).

    Without a unique one, to working precision, a LinAlgError.
    """
    if discrete:
        X = scipy.linalg.solve_discrete_lyapunov(A, G)
    else:
        real = not np.iscomplexobj(A) and not np.iscomplexobj(G)
        T, U = scipy.linalg.schur(A, output="real" if real else "complex")
        F = U.conj().T @ G @ U
        Y, scale, info = lapack("trsyl", F.dtype.char)(T, T, -F, tranb="T" if real else "C")
        if info:
            raise np.linalg.LinAlgError(
                "a Lyapunov equation must have a unique solution, got poles that mirror each other"
            )
        X = U @ (Y / scale) @ U.conj().T
    return np.asarray((X + X.conj().T) / 2)


def complex_schur(A: Array) -> tuple[Array, Array]:
    """T and Q with ``A = Q T Q^H``, T upper triangular and Q unitary, both complex."""
    if not len(A):  # of which some versions of SciPy make an error
        return A.astype(np.complex128), A.astype(np.complex128)
    T, Q = scipy.linalg.schur(A, output="complex")
    return T, Q


def schur(A: Array) -> tuple[Array, Array]:
    """T and Q with ``A = Q T Q^H``, of a real A real: a conjugate pair is then a block of two whose diagonal is its real part."""
    T, Q = scipy.linalg.schur(A, output="complex" if np.iscomplexobj(A) else "real")
    return T, Q


def triangular_solve(T: Array, x: Array, adjoint: bool = False) -> Array:
    """``T^-1 x`` or ``T^-H x`` for an upper triangular complex T and a vector x."""
    return np.asarray(scipy.linalg.blas.ztrsv(T, x, trans=2 if adjoint else 0))


def write_mat(variables: dict[str, Any]) -> bytes:
    """A MATLAB file of version 5 with `variables`."""
    import scipy.io

    stream = io.BytesIO()
    scipy.io.savemat(stream, variables)
    # the same file for the same variables: SciPy's text says when and where it was written
    return b"MATLAB 5.0 MAT-file, written by balred".ljust(116) + stream.getvalue()[116:]


def expm(A: Array) -> Array:
    """The matrix exponential, by scaling and squaring."""
    return np.asarray(scipy.linalg.expm(A))


def sylvester(A: Array, B: Array, G: Array) -> Array:
    """X with ``A X - X B = G`` (Bartels & Stewart)."""
    return np.asarray(scipy.linalg.solve_sylvester(A, -B, G))


def pencil_eigenvalues(M: Array, N: Array) -> Array:
    """The eigenvalues w with ``M x = w N x`` (QZ)."""
    return np.asarray(scipy.linalg.eigvals(M, N))
