r"""The squared Smith iteration on factors of both Gramians of a dense system, after a Cayley transform.

:math:`P = \sum_k A^kB(A^kB)^H` is summed by doubling, :math:`Z \leftarrow [Z, MZ]`, :math:`M \leftarrow M^2`, on the factor
itself, which is compressed as it grows [Penzl 1998; Gugercin, Sorensen & Antoulas 2003].  It needs matmul, inv, qr and
svd, so it runs on every backend, batched and under a trace.  One matrix of NumPy has a loop of its own, in ordinary
numbers: for a few states all the time goes into calls, and the other loop makes five times as many.
"""

from __future__ import annotations

import functools
import math
import operator
from typing import Any, NamedTuple

import numpy as np

from balred.solvers.equations import residual, residual_of_one, vectors
from balred.systems import arrays
from balred.systems.arrays import Array, Backend, backend_of, ct, eye, fro, is_concrete, is_one, namespace, size_of
from balred.systems.dense_system import DenseSystem

MAX_DOUBLINGS = 60
_FEW = 8
"""Up to so many states a batch is computed by operations on all its members at once."""
_STACKED = 64
"""Up to so many states the factors of one matrix are stacks of rows."""
_LATE = 1e-2
"""From such a norm of a power on, what follows may be too little to count: before, a slow pole that no input reaches and no output
sees would be overlooked."""
_FEWEST_SHED = 16
"""From so many states on, a factor of low numerical rank loses the rows it does not need."""


class Run(NamedTuple):
    """What an iteration ended with.

    Attributes
    ----------
    Zp, Zq : arrays, shape (..., n, k)
        Factors; of the Gramians over a window of time where the powers grew too large.  Zq is None where it was not asked for.
    growth : array, shape (...)
        The largest norm of a power of the state matrix.
    residual : array, shape (...)
        As :func:`balred.solvers.equations.residual`.
    count : int or array
        Doublings.
    nearest : array, shape ()
        The smallest shift of a continuous system as a part of its norm: about the root of its reciprocal condition.
    last : array, shape (...)
        The norm of the last power: where it is below one, every pole is stable.
    sizes : pair of float
        The norms of the factors of one matrix of NumPy.
    """

    Zp: Array
    Zq: Array
    growth: Array
    residual: Array
    count: Any
    nearest: Array
    last: Any = None
    sizes: tuple[float, float] = (0.0, 0.0)


def limit(x: Array) -> float:
    """Where a power of the state matrix is so large that few digits are left: the iteration ends."""
    return float(arrays.eps(x if isinstance(x, np.ndarray) else arrays.real(x)) ** -0.4)


def iterated(system: DenseSystem, both: bool = True) -> Run:
    """The iteration for a dense system, or a batch; what becomes of it is for the caller to judge.

    Of a batch of NumPy the factor of the controllability Gramian alone may be asked for, which takes half the time.

    Raises
    ------
    LinAlgError
        A pole equals the shift of the Cayley transform, or cannot be told from it: it is unstable, or poles spread too far.
    """
    if not isinstance(system.A, np.ndarray) or system.A.ndim == 2:
        return _iterated(system)

    def piece(A: Array, B: Array, C: Array) -> tuple[Array, ...]:
        run = _iterated(DenseSystem(A, B, C, system.D, system.dt), both)
        same = np.ones(A.shape[:-2])
        told = np.stack([run.growth, run.residual, run.count * same, run.nearest * same, run.last], axis=-1)
        return (told, run.Zp, run.Zq) if both else (told, run.Zp)

    told, *Z = backend_of(system.A).over_batch(piece, system.A.shape[:-2], *system.leaves)
    growth, rest, count, nearest, last = np.moveaxis(told, -1, 0)
    return Run(Z[0], Z[1] if both else None, growth, rest, int(count.max()), nearest.min(), last)


def _iterated(system: DenseSystem, both: bool = True) -> Run:
    """The same without pieces."""
    A, B, C = system.leaves
    xp, be = namespace(A, B, C), backend_of(A, B, C)
    nearest: Array = 1.0 if is_one(A) else xp.asarray(1.0)
    if not system.discrete:
        try:
            A, B, C, nearest = _cayley(A, B, C)
        except RuntimeError as error:  # PyTorch's
            raise np.linalg.LinAlgError(str(error)) from None
    dtype = A.dtype if A.dtype == B.dtype == C.dtype else xp.result_type(A, B, C)
    # the factors lie on their sides, P = Fp^H Fp, so that what a QR factorisation leaves is the next factor
    M, *F = (x if x.dtype == dtype else xp.astype(x, dtype) for x in (A, ct(B), C)[: 2 + both])
    if is_one(M):
        Fp, Fq, growth, count, sizes = _one(be, M, *F)
        Zp, Zq = ct(Fp), ct(Fq)
        rest = residual_of_one(*system.leaves, Zp, Zq, system.discrete, sizes)
        return Run(Zp, Zq, growth, rest, count, nearest, sizes=sizes)
    loop = _many if isinstance(M, np.ndarray) and M.shape[-1] <= _FEW else _several
    F, growth, count, last = loop(be, M, F)
    Z = [ct(x) for x in F]
    rest = residual(*(be.stop_gradient(x) for x in (*system.leaves, *Z)), discrete=system.discrete)
    return Run(Z[0], Z[1] if both else None, growth, rest, count, nearest, last)


def _one(be: Backend, M: Array, Fp: Array, Fq: Array) -> tuple[Array, Array, float, int, tuple[float, float]]:
    """Both factors of one matrix of NumPy, the growth of its powers, the doublings and the norms of the factors."""
    factor = _Stack if len(M) <= _STACKED else _Triangle
    eps, most = arrays.eps(M), limit(M)
    P, Q, size = factor(be, Fp), factor(be, Fq), size_of(M)
    growth, count = size, 0
    while True:
        if count and not size < most:
            M, size = np.zeros_like(M), 0.0
        Wp, Wq = P.moved(ct(M)), Q.moved(M)
        # what would follow is less than |M| times what is appended
        last = size < _LATE and size * size_of(Wp) <= eps * size_of(P.F) and size * size_of(Wq) <= eps * size_of(Q.F)
        P.append(Wp)
        Q.append(Wq)
        if last or count == MAX_DOUBLINGS:
            Fp, Fq = P.finished(), Q.finished()
            return Fp, Fq, growth, count, (size_of(Fp), size_of(Fq))
        M = M.dot(M)
        size = size_of(M)
        growth, count = max(growth, size), count + 1


class _Stack:
    """Rows that become a triangle only where there are very many: a QR factorisation of those takes hardly longer than of a few."""

    def __init__(self, be: Backend, F: Array) -> None:
        self.be, self.n, self.shed = be, F.shape[1], F.shape[1] >= _FEWEST_SHED
        self.most = max(2 * self.n, 128) if self.n > _FEW else 512
        self.rows = np.empty((2 * self.most, self.n), F.dtype)
        self._start(F if len(F) < self.most else be.triangular_factor(F))

    def _start(self, F: Array) -> None:
        self.rows[: len(F)] = F
        self.F = self.rows[: len(F)]

    def moved(self, X: Array) -> Array:
        """F X, in the place of the next rows."""
        at = len(self.F)
        return self.F.dot(X, self.rows[at : 2 * at])

    def append(self, W: Array) -> None:
        """The next rows, which are what was moved last."""
        self.F = self.rows[: 2 * len(W)]
        if len(self.F) >= self.most:
            self._start(self.compressed())

    def compressed(self) -> Array:
        F = self.be.triangular_factor(self.F)
        if self.shed:
            graded = self.be.graded_rows(F, 4 * self.n // 5)
            self.shed = len(graded) <= 4 * self.n // 5
            F = graded if self.shed else F
        return F

    def finished(self) -> Array:
        return self.compressed() if len(self.F) > self.n else self.F


class _Triangle:
    """The factor of a Gramian of more states: a triangle as soon as there are so many rows, whose zeros save half the work."""

    def __init__(self, be: Backend, F: Array) -> None:
        self.be, self.n, self.shed = be, F.shape[1], False
        self.F = be.triangular_factor(F) if len(F) >= self.n else F
        self.tpqrt, self.trmm = (be.lapack(name, F.dtype.char) for name in ("tpqrt", "trmm"))

    def moved(self, X: Array) -> Array:
        """F X."""
        return self.trmm(1.0, self.F, X) if len(self.F) == self.n else self.F.dot(X)

    def append(self, W: Array) -> None:
        """More rows."""
        if len(self.F) == self.n:
            self.F = self.tpqrt(0, min(32, self.n), self.F, W, overwrite_a=1, overwrite_b=1)[0]
        elif len(self.F):  # empty where one Gramian alone is asked for
            if self.shed:  # rows that are rounding of the factor would be lost as those before them were
                size = np.sqrt(np.einsum("ij,ij->i", W, W.conj()).real)
                W = W[size > arrays.eps(W) * size_of(self.F) / len(W) ** 0.5]
            if len(W):
                most = min(len(self.F) + len(W), self.n)
                self.F = _joined(self.be, self.F, W, True)
                self.shed = self.shed or len(self.F) < most

    def finished(self) -> Array:
        return self.F


def _many(be: Backend, M: Array, F: list[Array]) -> tuple[list[Array], Array, int, Array]:
    """The same for a batch of small matrices of NumPy, by operations on all of them at once; one that is done leaves.

    The batch is the last axis here, where a processor takes several numbers at a time; both factors are one array.
    """
    batch, n, sides = M.shape[:-2], M.shape[-1], len(F)
    M, *F = (np.moveaxis(x.reshape(-1, *x.shape[-2:]), 0, -1) for x in (M, *F))
    k, eps, most = M.shape[-1], arrays.eps(arrays.real(M)), limit(M)
    W = np.zeros((max(map(len, F)), n, sides * k), M.dtype)
    for i, x in enumerate(F):
        W[: len(x), :, i * k : (i + 1) * k] = x
    R = np.zeros((n, n, sides * k), M.dtype)
    be.extend_triangles(R, W)
    M = np.ascontiguousarray(M)
    left, count = np.arange(k), 0
    found, growth, last = np.empty((n, n, sides * k), M.dtype), np.empty(k), np.empty(k)

    def sizes(X: Array) -> Array:
        return np.sqrt(np.einsum("ijk,ijk->k", X.conj(), X).real)

    size, weight = sizes(M), sizes(R)
    growth[:] = size
    while True:
        if count and not (size < most).all():  # what grows too large stops growing, whatever else goes on
            M, size = np.where(size < most, M, 0), np.where(size < most, size, 0.0)
        W = np.einsum("ijk,jlk->ilk", R, np.concatenate([M.swapaxes(0, 1).conj(), M][:sides], axis=-1))
        more = sizes(W)
        small = np.tile(size, sides) * more <= eps * weight
        be.extend_triangles(R, W)
        done = small.reshape(sides, -1).all(axis=0) & (size < _LATE)
        last[left] = size
        if done.all() or count == MAX_DOUBLINGS:
            found[:, :, np.concatenate([left + i * k for i in range(sides)])] = R
            break
        weight = np.hypot(weight, more)
        if 3 * done.sum() >= len(done):
            ended, rest = np.flatnonzero(np.tile(done, sides)), np.flatnonzero(np.tile(~done, sides))
            found[:, :, np.concatenate([left[done] + i * k for i in range(sides)])] = R.take(ended, axis=2)
            left, M, R, weight = left[~done], M.take(np.flatnonzero(~done), axis=2), R.take(rest, axis=2), weight[rest]
        M = np.einsum("ijk,jlk->ilk", M, M)
        size = sizes(M)
        growth[left], count = np.maximum(growth[left], size), count + 1
    F = [np.ascontiguousarray(np.moveaxis(x, -1, 0)).reshape(*batch, n, n) for x in np.split(found, sides, axis=-1)]
    return F, growth.reshape(batch), count, last.reshape(batch)


def _several(be: Backend, M: Array, F: list[Array]) -> tuple[list[Array], Array, Any, Array]:
    """The same for a batch, for arrays of any library, and under a trace."""
    xp, n = namespace(M), int(M.shape[-1])
    concrete = is_concrete(M, *F)
    shed = be.DYNAMIC_SHAPES and M.ndim == 2 and concrete
    tall = 4 * n if isinstance(M, np.ndarray) and M.ndim > 2 and n <= _STACKED else 0
    eps, most = arrays.eps(arrays.real(M)), limit(M)

    def grow(state: tuple[Any, ...]) -> tuple[Any, ...]:
        M, F, W, growth, count, _ = state
        F = joined(F, W, tall)
        M = M @ M
        size = fro(M)
        growth = xp.maximum(growth, be.stop_gradient(size))
        if not concrete or not bool(xp.all(size < most)):  # what grows too large stops growing, whatever else goes on
            M = xp.where((size < most)[..., None, None], M, xp.zeros_like(M))
            size = xp.where(size < most, size, xp.zeros_like(size))
        W = moved(M, F)
        # W is appended after the loop, and what would follow it is less than |M||W|
        small = functools.reduce(
            operator.and_,
            (xp.all(size * fro(w) <= eps * fro(f)) for f, w in zip(F, W, strict=True)),
            xp.all(size < _LATE),
        )
        return M, F, W, growth, count + 1, ~small & (count < MAX_DOUBLINGS)

    def joined(F: tuple[Array, ...], W: tuple[Array, ...], tall: int) -> tuple[Array, ...]:
        if tall:  # a QR factorisation of many rows takes hardly longer than one of a few
            stacks = (xp.concat([f, w], axis=-2) for f, w in zip(F, W, strict=True))
            return tuple(be.triangular_factor(f) if f.shape[-2] >= tall else f for f in stacks)
        return tuple(_joined(be, f, w, shed) for f, w in zip(F, W, strict=True))

    def moved(M: Array, F: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(_times(be, f, m) for f, m in zip(F, (ct(M), M), strict=False))

    start = tuple(be.triangular_factor(f) if f.shape[-2] >= n else f for f in F)
    counter, going = (0, True) if concrete else (xp.asarray(0), xp.asarray(True))
    growth = be.stop_gradient(fro(M))
    state: tuple[Any, ...] = (M, start, moved(M, start), growth, counter, going)
    if not (shed or tall):  # a fixed number of doublings until the factors are square; their shapes change no more
        for _ in range(math.ceil(math.log2(n / min(f.shape[-2] for f in start)))):
            state = grow(state)
    M, last, W, growth, count, _ = be.while_loop(lambda s: s[-1], grow, state)
    if not concrete:
        growth = xp.where(count < MAX_DOUBLINGS, growth, xp.inf)
    return list(joined(last, W, tall and n)), growth, count, fro(M)


def _joined(be: Backend, F: Array, W: Array, shed: bool) -> Array:
    """A factor F of the sum of two Gramians with no more than n rows; one of n rows is upper triangular.

    Where `shed`, a factor of low numerical rank loses the rows it does not need and has the others graded, from the
    largest to the smallest: rounding errors of the large ones then never reach the small ones, so that Hankel
    singular values far below eps of the first have digits too.
    """
    rows, n = F.shape[-2:]
    if rows == n:
        return be.extended_triangle(F, W)
    both = namespace(F).concat([F, W], axis=-2)
    if both.shape[-2] >= n:
        both = be.triangular_factor(both)
    # a factor that needs most of its rows is cheapest as a triangle; below 100 states digits are cheap
    most = n // 2 if n > 100 else 4 * n // 5
    # and a few rows more are cheapest as they are
    if shed and rows <= most and both.shape[-2] >= max(16, n // 4, rows + rows // 8):
        graded = be.graded_rows(both, most)
        if graded.shape[-2] <= most:
            return graded
    return both


def _times(be: Backend, F: Array, M: Array) -> Array:
    return be.triangle_times(F, M) if F.shape[-2] == F.shape[-1] else F @ M


def cayley(A: Array, B: Array, C: Array) -> tuple[Array, Array, Array]:
    r"""Discrete system with the Gramians of a continuous one.

    .. math:: A_d = (aI-A)^{-1}(aI+A),\quad B_d = \sqrt{2a}\,(aI-A)^{-1}B,\quad C_d = \sqrt{2a}\,C(aI-A)^{-1}

    Any a > 0 is valid; :math:`a = \sqrt{\|A\|/\|A^{-1}\|}` centres the spectrum.  The norm of the inverse is estimated from
    its product with four vectors without pattern, the same every time.
    """
    return _cayley(A, B, C)[:3]


def _cayley(A: Array, B: Array, C: Array) -> tuple[Array, Array, Array, Array]:
    """The same, and the smallest shift as a part of the norm."""
    be, n = backend_of(A), int(A.shape[-1])
    probes = vectors(A, 4)
    if is_one(A):  # the same in ordinary numbers and in place
        size = size_of(A)
        try:
            at = math.sqrt(size * size_of(probes) / size_of(be.solve(A, probes)) / n**0.5)
        except (np.linalg.LinAlgError, ZeroDivisionError):  # a singular A has a pole at zero
            at = 0.0
        nearest = at / size if at > 0 else at
        at = at if 0 < at < math.inf else size + 1.0
        identity = arrays.identity(n, A.dtype)
        shifted = be.inverse(at * identity - A)
        M = shifted * (2 * at) - identity
        shifted *= math.sqrt(2 * at)
        return M, shifted.dot(B), C.dot(shifted), nearest
    xp, size, length = namespace(A), fro(A, keepdims=True), fro(probes, keepdims=True)
    probes = xp.broadcast_to(probes, (*A.shape[:-1], 4)) if A.ndim > 2 else probes
    try:
        a = xp.sqrt(size * length / fro(xp.linalg.solve(A, probes), keepdims=True) / n**0.5)
    except (np.linalg.LinAlgError, RuntimeError):
        a = 0 * size
    nearest = be.stop_gradient(xp.min(a / xp.where(a > 0, size, xp.ones_like(a))))
    a = xp.where(xp.isfinite(a) & (a > 0), a, size + 1.0)  # a pole at zero: it will not converge
    shifted = be.inverse(_scaled(eye(A, n), a) - A)
    root = xp.sqrt(2 * a)
    return _scaled(shifted, 2 * a) - eye(A, n), _scaled(shifted @ B, root), _scaled(C @ shifted, root), nearest


def _scaled(x: Array, factor: Array) -> Array:
    xp = namespace(x)
    return xp.astype(factor, x.dtype) * x


def lyapunov(A: Array, G: Array, discrete: bool) -> Array:
    """X = A X A^H + G (or A X + X A^H + G = 0) for Hermitian G of any sign, by squared Smith on the full matrix."""
    be, xp = backend_of(A), namespace(A)
    M, X = A, G
    if not discrete:
        # (aI - A)^-1 sqrt(2a) G (...)^H sqrt(2a): with B = I the transform returns the factor to apply
        I = arrays.eye(A, int(A.shape[-1]))
        M, S, _ = cayley(A, I, I)
        X = S @ G @ ct(S)
    tol = arrays.eps(arrays.real(X))

    def body(state: tuple[Array, ...]) -> tuple[Array, ...]:
        M, X, _, count = state
        step = M @ X @ ct(M)
        return M @ M, X + step, xp.max(arrays.fro(step) - tol * arrays.fro(X)) > 0, count + 1

    state = (M, X, xp.max(arrays.fro(X)) >= 0, xp.asarray(0))
    return be.while_loop(lambda s: s[2] & (s[3] < 60), body, state)[1]
