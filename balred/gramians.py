r"""Gramians and their factors, by the structure of the system.

Everything downstream works on *factors* :math:`P = Z_p Z_p^H`, :math:`Q = Z_q Z_q^H`: a Hankel singular value is a
singular value of :math:`Z_q^H Z_p`, whereas the eigenvalues of :math:`PQ` are its square and lose half the digits.

* Dense systems: the squared Smith iteration [Penzl 1998, Gugercin, Sorensen & Antoulas 2003] on factors, after a
  Cayley transform where time is continuous.  It needs matmul, solve, qr and svd, so it runs on every backend.
* Diagonal systems: the Gramians in closed form from the logarithms of the poles, then an eigendecomposition.
* ``solver="scipy"`` and ``solver="slycot"``: named references on the host.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from balred import arrays
from balred.arrays import Array, Backend, backend_of, ct, double_precision, eye, fro, is_concrete, namespace, to_numpy
from balred.systems import DenseSystem, DiagonalSystem, System

SOLVERS: dict[str, dict[str, str]] = {
    "smith": {"dense": "", "diagonal": "dense systems only", "conjugate": "dense systems only"},
    "closed": {"dense": "diagonal systems only", "diagonal": "", "conjugate": ""},
    "scipy": {"dense": "", "diagonal": "", "conjugate": ""},
    "slycot": {"dense": "", "diagonal": "real systems only", "conjugate": ""},
}
"""Which solver takes which structure; an entry is empty or says why not (tests and docs read this table)."""

_MAX_DOUBLINGS = 60


class UnstableError(ValueError):
    """A quantity that only stable systems have was asked of an unstable or marginally stable one."""


def gramian_factors(obj: Any, *, solver: str | None = None) -> tuple[Array, Array]:
    r"""Factors of the controllability and observability Gramians.

    .. math:: P = Z_p Z_p^H, \qquad Q = Z_q Z_q^H

    with P and Q as in :func:`gramians`.

    Parameters
    ----------
    obj : system, layer, or anything :func:`balred.adapt` reads
    solver : {"smith", "closed", "scipy", "slycot"}, optional
        By default the squared Smith iteration for dense systems and the closed form for diagonal ones.

    Returns
    -------
    Zp, Zq : arrays, shape (..., order, k)
        A factor has as many columns as it needs; k may differ between the two.

    Raises
    ------
    UnstableError
        A pole is unstable or marginal; the message names the worst.

    Examples
    --------
    >>> import balred
    >>> Zp, Zq = balred.gramian_factors(balred.ss([[-1.0]], [[2.0]], [[3.0]]))
    >>> round(float((Zp @ Zp.T)[0, 0]), 12), round(float((Zq @ Zq.T)[0, 0]), 12)
    (2.0, 4.5)
    """
    from balred.adapt import system_of

    system = system_of(obj)
    with double_precision(*system.leaves) as leaves:
        Zp, Zq = factors(with_leaves(system, leaves), solver)
        return cast_like(Zp, system), cast_like(Zq, system)


def gramians(obj: Any, *, solver: str | None = None) -> tuple[Array, Array]:
    r"""Controllability and observability Gramians of a stable system.

    .. math::
        A P + P A^H + B B^H = 0, \quad A^H Q + Q A + C^H C = 0 \qquad\text{(continuous)}

        P = A P A^H + B B^H, \quad Q = A^H Q A + C^H C \qquad\text{(discrete)}

    Parameters
    ----------
    obj, solver
        As :func:`gramian_factors`.

    Returns
    -------
    P, Q : arrays, shape (..., order, order)
        For a conjugate system those of its real form, :meth:`balred.DiagonalSystem.to_dense`.

    Raises
    ------
    UnstableError
        A pole is unstable or marginal; the message names the worst.

    References
    ----------
    A. C. Antoulas, Approximation of Large-Scale Dynamical Systems, SIAM 2005, section 4.3.

    Examples
    --------
    >>> import balred
    >>> P, Q = balred.gramians(balred.diagonal([0.5], B=[[3.0]], C=[[1.0]], dt=1))
    >>> round(float(P[0, 0].real), 12), round(float(Q[0, 0].real), 12)
    (12.0, 1.333333333333)
    """
    Zp, Zq = gramian_factors(obj, solver=solver)
    return Zp @ ct(Zp), Zq @ ct(Zq)


def with_leaves(system: System, leaves: tuple[Array, ...]) -> System:
    """`system` with other arrays in place of A, B, C (or log_poles, B, C), and D (if any) in their precision."""
    first, B, C = leaves
    if system.D is None:
        return dataclasses.replace(
            system,
            **dict(zip(("A" if isinstance(system, DenseSystem) else "log_poles", "B", "C"), leaves, strict=True)),
        )
    xp = namespace(B)
    wide = B.dtype in (xp.float64, xp.complex128)
    complex_D = arrays.is_complex(system.D)
    dtype = (xp.complex128 if wide else xp.complex64) if complex_D else (xp.float64 if wide else xp.float32)
    D = system.D if system.D.dtype == dtype else xp.astype(system.D, dtype)
    if isinstance(system, DenseSystem):
        return DenseSystem(first, B, C, D, system.dt)
    return DiagonalSystem(first, B, C, D, system.dt, system.conjugate)


def cast_like(x: Array, system: System) -> Array:
    """`x` in the precision of `system`."""
    xp = namespace(x)
    narrow = system.B.dtype in (xp.float32, xp.complex64)
    if not narrow:
        return x
    return xp.astype(x, xp.complex64 if arrays.is_complex(x) else xp.float32)


def structure(system: System) -> str:
    """The row of the capability table: ``dense``, ``diagonal`` or ``conjugate``."""
    if isinstance(system, DenseSystem):
        return "dense"
    return "conjugate" if system.conjugate else "diagonal"


def factors(system: System, solver: str | None) -> tuple[Array, Array]:
    """Gramian factors in the precision of the system's own arrays."""
    kind = structure(system)
    solver = solver or ("smith" if kind == "dense" else "closed")
    known = SOLVERS.get(solver)
    if known is not None and known[kind]:
        raise ValueError(f"solver {solver!r} does not take a {kind} system: {known[kind]}")
    if solver == "closed":
        assert isinstance(system, DiagonalSystem)
        check_stable(system)
        return _closed_form_factors(system)
    if solver == "smith":
        return _smith(system.to_dense())
    try:
        host = arrays.backend(solver)
    except ValueError:
        host = None
    if not hasattr(host, "gramian_factors"):
        raise ValueError(
            f"solver must be one of {', '.join(SOLVERS)} or a backend with gramian_factors, got {solver!r}"
        )
    check_stable(system)
    return _on_host(host, system.to_dense())


def pole_margin(system: System) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Poles on the host, and how far each is inside the stable region (negative: outside)."""
    if isinstance(system, DiagonalSystem):
        logs = to_numpy(system.log_poles)
        return np.exp(logs) if system.discrete else logs, -logs.real
    poles = np.linalg.eigvals(to_numpy(system.A))
    return poles, (1 - np.abs(poles)) if system.discrete else -poles.real


def marginal_tolerance(system: System) -> float:
    """Poles closer than this to the stability boundary count as marginal: rounding of the state matrix."""
    if isinstance(system, DiagonalSystem):
        return 0.0
    A = to_numpy(system.A)
    return float(A.shape[-1] * np.finfo(A.dtype).eps * max(1.0 if system.discrete else 0.0, np.abs(A).max(initial=0.0)))


def check_stable(system: System) -> None:
    """Raise :class:`UnstableError` naming the worst pole if `system` is not stable (no-op on tracers)."""
    if not is_concrete(*system.leaves):
        return
    poles, margin = pole_margin(system)
    if margin.min() > marginal_tolerance(system):
        return
    worst = poles.reshape(-1)[np.argmin(margin)]
    at = f"{worst.real:.6g}" if worst.imag == 0 else f"{worst.real:.6g}{worst.imag:+.6g}j"
    rule = (
        "every pole must lie inside the unit circle" if system.discrete else "every pole must have a negative real part"
    )
    size = f"modulus {abs(worst):.6g}" if system.discrete else f"real part {worst.real:.6g}"
    raise UnstableError(
        f"{rule}, got a pole at {at} ({size}); hsv and reduce split off the unstable part of a single system, Gramians do not exist for it"
    )


def _on_host(host: Backend, system: DenseSystem) -> tuple[Array, Array]:
    be = backend_of(*system.leaves)
    A, B, C = (to_numpy(x) for x in system.leaves)
    batch = A.shape[:-2]
    parts = [
        host.gramian_factors(a, b, c, system.discrete)
        for a, b, c in zip(*(x.reshape(-1, *x.shape[-2:]) for x in (A, B, C)), strict=True)
    ]
    out = [np.stack([part[i] for part in parts]).reshape(*batch, *parts[0][i].shape) for i in (0, 1)]
    return be.from_numpy(out[0], like=system.B), be.from_numpy(out[1], like=system.B)


# ---------------------------------------------------------------------------------------------- dense systems


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


def _smith(system: DenseSystem) -> tuple[Array, Array]:
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
    if not size < 1 or int(count) >= _MAX_DOUBLINGS:
        check_stable(system)  # names the pole; a stable mode that inputs or outputs hardly see may end here too
        if not size < 1e100 or int(count) >= _MAX_DOUBLINGS:
            raise ArithmeticError(
                f"the squared Smith iteration must converge in {_MAX_DOUBLINGS} doublings, got |A^(2^k)| = {size:.3g}: "
                "the system is too close to instability; try solver='slycot'"
            )
    return Zp, Zq


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


# ------------------------------------------------------------------------------------------- diagonal systems


def cauchy(system: DiagonalSystem) -> Array:
    r"""Denominators of the closed forms, shape (..., n, n).

    :math:`1-\lambda_i\bar\lambda_j = -\mathrm{expm1}(\log\lambda_i+\overline{\log\lambda_j})` in discrete time,
    :math:`-(\lambda_i+\bar\lambda_j)` in continuous time.
    """
    xp = namespace(system.log_poles)
    l = arrays.to_complex(system.log_poles)
    total = l[..., :, None] + xp.conj(l)[..., None, :]
    return -_expm1(total) if system.discrete else -total


def _expm1(z: Array) -> Array:
    """Complex ``expm1`` from real functions: PyTorch lacks the complex one."""
    xp = namespace(z)
    x, y = xp.real(z), xp.imag(z)
    half = xp.sin(y / 2)
    return xp.expm1(x) - 2 * xp.exp(x) * half * half + 1j * (xp.exp(x) * xp.sin(y))


def diagonal_gramians(system: DiagonalSystem) -> tuple[Array, Array]:
    r"""Gramians in closed form, in the coordinates of :meth:`DiagonalSystem.to_dense`.

    :math:`P_{ij} = (BB^H)_{ij} / d_{ij}`, :math:`Q_{ij} = (C^HC)_{ij} / \bar d_{ij}` with d of :func:`cauchy`.
    """
    xp = namespace(system.B)
    g = system.doubled()
    d = cauchy(g)
    B, C = arrays.to_complex(g.B), arrays.to_complex(g.C)
    P, Q = (B @ ct(B)) / d, (ct(C) @ C) / xp.conj(d)
    if not system.conjugate:
        return P, Q
    return _realified(P), _realified(Q)


def _realified(P: Array) -> Array:
    """Gramian of (x, conj x) in the coordinates sqrt(2) (Re x, Im x)."""
    xp = namespace(P)
    n = int(P.shape[-1]) // 2
    P1, P2 = P[..., :n, :n], P[..., :n, n:]
    return xp.concat(
        [
            xp.concat([xp.real(P1 + P2), xp.imag(P2 - P1)], axis=-1),
            xp.concat([xp.imag(P1 + P2), xp.real(P1 - P2)], axis=-1),
        ],
        axis=-2,
    )


def _closed_form_factors(system: DiagonalSystem) -> tuple[Array, Array]:
    P, Q = diagonal_gramians(system)
    if not is_concrete(*system.leaves):  # nobody could look at the poles: an unstable member becomes NaN
        xp = namespace(P)
        stable = xp.max(arrays.real(system.log_poles), axis=-1) < 0
        P, Q = (xp.where(stable[..., None, None], G, xp.nan) for G in (P, Q))
    return _eigh_factor(P), _eigh_factor(Q)


def _eigh_factor(P: Array) -> Array:
    """Square-root factor of a positive semidefinite matrix, scaled to unit diagonal first for its digits."""
    xp = namespace(P)
    d = xp.sqrt(xp.maximum(arrays.real(xp.linalg.diagonal(P)), arrays.zeros(arrays.real(P), ())))
    d = xp.where(d > 0, d, xp.ones_like(d))
    scaled = P / _as(P, d[..., :, None] * d[..., None, :])
    w, V = xp.linalg.eigh((scaled + ct(scaled)) / 2)
    root = xp.sqrt(xp.where(w > 0, w, xp.zeros_like(w)))
    return _as(P, d)[..., :, None] * V * _as(P, root)[..., None, :]


def _as(like: Array, x: Array) -> Array:
    return namespace(x).astype(x, like.dtype)
