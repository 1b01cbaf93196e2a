r"""Gramian factors of dense systems: the squared Smith iteration on factors, after a Cayley transform.

:math:`P = \sum_k A^kB(A^kB)^H` is summed by doubling, :math:`Z \leftarrow [Z, MZ]`, :math:`M \leftarrow M^2`, on the factor
itself, which is compressed as it grows [Penzl 1998; Gugercin, Sorensen & Antoulas 2003].  It needs matmul, inv, qr and
svd, so it runs on every backend, batched and under a trace.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from balred.systems import arrays
from balred.systems.arrays import Array, Backend, backend_of, ct, eye, fro, is_concrete, namespace
from balred.systems.dense_system import DenseSystem
from balred.systems.poles import check_stable

_MAX_DOUBLINGS = 60
_SUSPECT_DOUBLINGS = 26
"""More are needed only where a pole lies within about 1e-7 of the boundary, or on it but for rounding."""
_LONG, _LONGEST = 25, 52
"""So many are needed for a pole that rounding has moved off the boundary, at zero and anywhere."""
_SUSPECT_SHIFT = 1e-5
"""The shift of a matrix of condition 1e10, as a part of its norm: it may be singular but for rounding."""


def smith_factors(system: DenseSystem) -> tuple[Array, Array]:
    """Factors of both Gramians of a stable dense system, in its own precision."""
    with backend_of(*system.leaves).few_threads(system.order):
        return _smith_factors(system)


def _smith_factors(system: DenseSystem) -> tuple[Array, Array]:
    xp = namespace(*system.leaves)
    be = backend_of(*system.leaves)
    A, B, C = system.leaves
    least: Array = xp.asarray(1.0)
    if not system.discrete:
        try:
            shift = cayley_shift(A)
            least = xp.min(shift / xp.where(shift > 0, arrays.fro(A, keepdims=True), xp.ones_like(shift)))
            A, B, C = cayley(A, B, C, shift)
        except (np.linalg.LinAlgError, RuntimeError):  # a pole equals the shift, hence it is unstable
            check_stable(system)
            raise
    dtype = xp.result_type(A, B, C)
    # the factors lie on their sides, P = Fp^H Fp, so that what a QR factorisation leaves is the next factor
    M, Fp, Fq = xp.astype(A, dtype), ct(xp.astype(B, dtype)), xp.astype(C, dtype)
    concrete = is_concrete(M, Fp, Fq)
    shed = be.DYNAMIC_SHAPES and M.ndim == 2 and concrete
    n = int(M.shape[-1])
    eps = arrays.eps(arrays.real(M))
    huge = _huge(M)

    def grow(state: tuple[Any, ...]) -> tuple[Any, ...]:
        M, Fp, Fq, Wp, Wq, count, _ = state
        Fp, Fq = _joined(be, Fp, Wp, shed), _joined(be, Fq, Wq, shed)
        M = M @ M
        Wp, Wq = _times(be, Fp, ct(M)), _times(be, Fq, M)
        size = _size(M)
        # W is appended after the loop, and what would follow it is less than |M||W|
        reach = xp.where(size < 1, size, xp.ones_like(size))
        small = xp.all(reach * _size(Wp) <= eps * _size(Fp)) & xp.all(reach * _size(Wq) <= eps * _size(Fq))
        # neither converged nor diverged: go on
        return M, Fp, Fq, Wp, Wq, count + 1, ~small & (xp.max(size) < huge) & (count < _MAX_DOUBLINGS)

    Fp, Fq = (be.triangular_factor(F) if F.shape[-2] >= n else F for F in (Fp, Fq))
    counter, going = (0, True) if concrete else (xp.asarray(0), xp.asarray(True))
    state: tuple[Any, ...] = (M, Fp, Fq, _times(be, Fp, ct(M)), _times(be, Fq, M), counter, going)
    if not shed:  # a fixed number of doublings until both factors are square; their shapes change no more
        for _ in range(math.ceil(math.log2(n / min(Fp.shape[-2], Fq.shape[-2])))):
            state = grow(state)
    M, Fp, Fq, Wp, Wq, count, going = be.while_loop(lambda s: s[-1], grow, state)
    if concrete:
        suspect = int(count) > _SUSPECT_DOUBLINGS or not float(be.stop_gradient(least)) > _SUSPECT_SHIFT
        _check_converged(system, float(be.stop_gradient(xp.max(_size(M)))), int(count), suspect)
    Fp, Fq = _joined(be, Fp, Wp, shed), _joined(be, Fq, Wq, shed)
    if not concrete:
        size = arrays.fro(M)
        # nobody can look at the poles: one that rounding may have moved off the boundary makes no numbers either
        unknown = ((count > _LONG) & (least**2 < 10 * n**0.5 * eps)) | (count > _LONGEST)
        bad = ~(xp.isfinite(size) & (size < huge))[..., None, None] | (count >= _MAX_DOUBLINGS) | unknown
        Fp, Fq = xp.where(bad, xp.nan, Fp), xp.where(bad, xp.nan, Fq)
    return ct(Fp), ct(Fq)


def _check_converged(system: DenseSystem, size: float, count: int, suspect: bool) -> None:
    """Raise unless the iteration ended well; `size` is that of the last power of the state matrix."""
    if not size < 1 or suspect:
        check_stable(system)  # names the pole; a stable mode that inputs or outputs hardly see may end here too
        if not size < _huge(system.B) or count >= _MAX_DOUBLINGS:
            raise ArithmeticError(
                f"the squared Smith iteration must converge in {_MAX_DOUBLINGS} doublings, got |A^(2^k)| = {size:.3g}: "
                "the system is too close to instability; try solver='slycot'"
            )


def _huge(x: Array) -> float:
    """A power of the state matrix larger than this has diverged: its cube is still a number in the precision of `x`."""
    most = float(namespace(x).finfo(x.dtype).max)
    return math.pow(most, 1 / 3)


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
    if shed and rows <= most and both.shape[-2] >= max(16, n // 4):
        graded = be.graded_rows(both, most)
        if graded.shape[-2] <= most:
            return graded
    return both


def _times(be: Backend, F: Array, M: Array) -> Array:
    return be.triangle_times(F, M) if F.shape[-2] == F.shape[-1] else F @ M


def _size(x: Array) -> Array:
    """Frobenius norms (NumPy's routine for a single matrix makes no copies)."""
    return np.linalg.norm(x) if isinstance(x, np.ndarray) and x.ndim == 2 else arrays.fro(x)


def cayley_shift(A: Array) -> Array:
    r"""The shift of :func:`cayley`, shape (..., 1, 1): :math:`a = \sqrt{\|A\|/\|A^{-1}\|}` centres the spectrum.

    The norm of the inverse is estimated from its product with four vectors without pattern, the same every time.
    """
    xp = namespace(A)
    n = int(A.shape[-1])
    at = xp.arange(n, dtype=arrays.real(A).dtype, device=arrays.device_of(A))
    probes = xp.stack([xp.cos(root * at * at) for root in (1.0, 2**0.5, 3**0.5, 5**0.5)], axis=-1)
    probes = xp.broadcast_to(xp.astype(probes, A.dtype), (*A.shape[:-1], 4))
    try:
        a = xp.sqrt(
            fro(A, keepdims=True) * fro(probes, keepdims=True) / fro(xp.linalg.solve(A, probes), keepdims=True) / n**0.5
        )
    except (np.linalg.LinAlgError, RuntimeError):  # a singular A has a pole at zero
        a = 0 * fro(A, keepdims=True)
    return a


def cayley(A: Array, B: Array, C: Array, shift: Array | None = None) -> tuple[Array, Array, Array]:
    r"""Discrete system with the Gramians of a continuous one.

    .. math:: A_d = (aI-A)^{-1}(aI+A),\quad B_d = \sqrt{2a}\,(aI-A)^{-1}B,\quad C_d = \sqrt{2a}\,C(aI-A)^{-1}

    with the shift of :func:`cayley_shift`; any a > 0 is valid.
    """
    xp = namespace(A)
    n = int(A.shape[-1])
    I = eye(A, n)
    a = cayley_shift(A) if shift is None else shift
    a = xp.where(xp.isfinite(a) & (a > 0), a, fro(A, keepdims=True) + 1.0)  # a pole at zero: it will not converge
    shifted = backend_of(A).inverse(_scaled(I, a) - A)
    root = xp.sqrt(2 * a)
    return _scaled(shifted, 2 * a) - I, _scaled(shifted @ B, root), _scaled(C @ shifted, root)


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
