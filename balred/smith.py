r"""Gramian factors of dense systems: the squared Smith iteration on factors, after a Cayley transform.

:math:`P = \sum_k A^kB(A^kB)^H` is summed by doubling, :math:`Z \leftarrow [Z, MZ]`, :math:`M \leftarrow M^2`, on the factor
itself, which is compressed as it grows [Penzl 1998; Gugercin, Sorensen & Antoulas 2003].  It needs matmul, inv, qr and
svd, so it runs on every backend, batched and under a trace.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from balred import arrays
from balred.arrays import Array, Backend, backend_of, ct, eye, fro, is_concrete, namespace
from balred.poles import check_stable
from balred.systems import DenseSystem

_MAX_DOUBLINGS = 60
_SUSPECT_DOUBLINGS = 40
"""So many are needed only where a pole lies within about 1e-11 of the boundary, or on it but for rounding."""


def smith_factors(system: DenseSystem) -> tuple[Array, Array]:
    """Factors of both Gramians of a stable dense system, in its own precision."""
    xp = namespace(*system.leaves)
    be = backend_of(*system.leaves)
    A, B, C = system.leaves
    if not system.discrete:
        try:
            A, B, C = cayley(A, B, C)
        except (np.linalg.LinAlgError, RuntimeError):  # a pole equals the shift, hence it is unstable
            check_stable(system)
            raise
    dtype = xp.result_type(A, B, C)
    M, Zp, Zq = (xp.astype(x, dtype) for x in (A, B, ct(C)))
    concrete = is_concrete(M, Zp, Zq)
    shed = be.DYNAMIC_SHAPES and M.ndim == 2 and concrete
    n = int(M.shape[-1])
    eps = arrays.eps(xp.real(M) if arrays.is_complex(M) else M)

    def joined(Z: Array, W: Array, start: int, count: Any) -> Array:
        both = xp.concat([Z, W], axis=-1)
        # the decomposition that sheds columns is wasted on a wide factor that has never shed any
        return _compress(be, both, shed and (2 * both.shape[-1] <= n or Z.shape[-1] < start << count))

    def grow(state: tuple[Any, ...]) -> tuple[Any, ...]:
        M, Zp, Zq, Wp, Wq, count, _ = state
        Zp, Zq = joined(Zp, Wp, start_p, count), joined(Zq, Wq, start_q, count)
        M = M @ M
        Wp, Wq = M @ Zp, ct(M) @ Zq
        small = xp.max(fro(Wp) - eps * fro(Zp)) <= 0
        small = small & (xp.max(fro(Wq) - eps * fro(Zq)) <= 0)
        size = xp.max(fro(M))
        # neither converged nor diverged: go on
        return M, Zp, Zq, Wp, Wq, count + 1, ~small & (size < 1e100) & (count < _MAX_DOUBLINGS)

    Zp, Zq = _compress(be, Zp, False), _compress(be, Zq, False)
    start_p, start_q = int(Zp.shape[-1]), int(Zq.shape[-1])
    counter, going = (0, True) if concrete else (xp.asarray(0), xp.asarray(True))
    state: tuple[Any, ...] = (M, Zp, Zq, M @ Zp, ct(M) @ Zq, counter, going)
    if not shed:  # a fixed number of doublings until both factors are square; their shapes change no more
        for _ in range(math.ceil(math.log2(n / min(Zp.shape[-1], Zq.shape[-1])))):
            state = grow(state)
    M, Zp, Zq, _, _, count, going = be.while_loop(lambda s: s[-1], grow, state)
    if not concrete:
        bad = ~(xp.isfinite(fro(M)) & (fro(M) < 1e100))[..., None, None] | (count >= _MAX_DOUBLINGS)
        return xp.where(bad, xp.nan, Zp), xp.where(bad, xp.nan, Zq)
    size = float(be.stop_gradient(xp.max(fro(M))))
    if not size < 1 or int(count) > _SUSPECT_DOUBLINGS:
        check_stable(system)  # names the pole; a stable mode that inputs or outputs hardly see may end here too
        if not size < 1e100 or int(count) >= _MAX_DOUBLINGS:
            raise ArithmeticError(
                f"the squared Smith iteration must converge in {_MAX_DOUBLINGS} doublings, got |A^(2^k)| = {size:.3g}: "
                "the system is too close to instability; try solver='slycot'"
            )
    return Zp, Zq


def cayley(A: Array, B: Array, C: Array) -> tuple[Array, Array, Array]:
    r"""Discrete system with the Gramians of a continuous one.

    .. math:: A_d = (aI-A)^{-1}(aI+A),\quad B_d = \sqrt{2a}\,(aI-A)^{-1}B,\quad C_d = \sqrt{2a}\,C(aI-A)^{-1}

    with :math:`a = \sqrt{\|A\|/\|A^{-1}\|}`, which centres the spectrum; any a > 0 is valid.
    """
    xp = namespace(A)
    I = eye(A, int(A.shape[-1]))
    try:
        a = xp.sqrt(fro(A, keepdims=True) / fro(xp.linalg.inv(A), keepdims=True))
    except (np.linalg.LinAlgError, RuntimeError):  # a singular A has a pole at zero: the iteration will not converge
        a = fro(A, keepdims=True) + 1.0
    a = xp.where(xp.isfinite(a) & (a > 0), a, xp.ones_like(a))
    shifted = xp.linalg.inv(_scaled(I, a) - A)
    root = xp.sqrt(2 * a)
    return _scaled(shifted, 2 * a) - I, _scaled(shifted @ B, root), _scaled(C @ shifted, root)


def _scaled(x: Array, factor: Array) -> Array:
    xp = namespace(x)
    return xp.astype(factor, x.dtype) * x


def _compress(be: Backend, Z: Array, shed: bool) -> Array:
    """A factor of the same Gramian with no more columns than rows; of full numerical rank where `shed`."""
    xp = namespace(Z)
    n, k = Z.shape[-2:]
    if k > n:
        return ct(be.triangular_factor(ct(Z)))
    if not shed or k == 1:
        return Z
    Q, R = xp.linalg.qr(Z, mode="reduced")
    U, s, _ = xp.linalg.svd(R, full_matrices=False)
    keep = max(1, int(xp.sum(xp.astype(s > arrays.eps(s) * s[0], xp.int64))))
    return Q @ (U[:, :keep] * s[:keep])


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
