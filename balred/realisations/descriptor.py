r"""Descriptor systems :math:`E\dot x = Ax + Bu`: a state-space system where there is one, and a reason where not.

A nonsingular E is divided out.  A singular E of index 1 couples differential equations with algebraic ones that can be
solved; doing so leaves fewer states and a direct term.  Beyond index 1 the response contains derivatives of the input,
which no state-space system has.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.solvers.gramians import factors
from balred.systems.arrays import backend
from balred.systems.checks import check_finite
from balred.systems.dense_system import DenseSystem, ss

Matrix = NDArray[Any]

_EPS = float(np.finfo(np.float64).eps)


def descriptor(
    E: Any, A: Any, B: Any, C: Any, D: Any = None, dt: float | bool = 0, *, tol: float | None = None
) -> DenseSystem:
    r"""The state-space system of a descriptor system of index 0 or 1.

    .. math:: E\dot x = Ax + Bu,\quad y = Cx + Du \qquad\text{or}\qquad Ex_{k+1} = Ax_k + Bu_k

    With :math:`E = U\,\mathrm{diag}(S, 0)\,V^H` and, in these coordinates, A, B and C in blocks, index 1 means that
    :math:`A_{22}` is nonsingular, and

    .. math::
        A_r = S^{-1}(A_{11} - A_{12}A_{22}^{-1}A_{21}),\quad B_r = S^{-1}(B_1 - A_{12}A_{22}^{-1}B_2),\quad
        C_r = C_1 - C_2A_{22}^{-1}A_{21},\quad D_r = D - C_2A_{22}^{-1}B_2

    Parameters
    ----------
    E, A : array_like, shape (n, n)
    B : array_like, shape (n, m)
    C : array_like, shape (p, n)
    D : array_like, shape (p, m), optional
    dt : float or bool, default 0
    tol : float, optional
        Singular values of E (of :math:`A_{22}`) up to `tol` times the largest count as zero.  By default ``n * eps``, and
        E must be clear about its rank.

    Returns
    -------
    DenseSystem
        Of order rank(E); 0 if E is zero.

    Raises
    ------
    ValueError
        The pencil is singular; its index is 2 or more (the message names it); the rank of E is in doubt and no `tol`
        is given.

    References
    ----------
    L. Dai, Singular Control Systems, Springer 1989, chapter 1.

    Examples
    --------
    A state and an algebraic equation, x' = -x + z and 0 = x + 2z + u:

    >>> import balred.realisations.descriptor
    >>> g = descriptor([[1.0, 0.0], [0.0, 0.0]], [[-1.0, 1.0], [1.0, 2.0]], [[0.0], [1.0]], [[1.0, 1.0]])
    >>> g.order, complex(g(0.0)[0, 0]).real  # steady: x = -1/3 u, z = x
    (1, -0.6666666666666666)
    """
    E, g = _checked(E, A, B, C, D, dt)
    if tol is not None and not 0 <= tol < 1:
        raise ValueError(f"tol must be in [0, 1), got {tol}")
    A, B, C, D = g.A, g.B, g.C, g.D
    n = len(E)
    E, A, B = _equations_scaled(E, A, B)
    U, s, Vh = np.linalg.svd(E)
    r = int(np.sum(s > (n * _EPS if tol is None else tol) * s[:1]))
    if tol is None and r and s[r - 1] < _EPS**0.5 * s[0]:
        raise ValueError(
            f"E must be well conditioned, or singular beyond doubt, got a singular value {s[r - 1] / s[0]:.3g} of the "
            "largest: say with tol which values count as zero"
        )
    if r == n:
        return ss(np.linalg.solve(E, A), np.linalg.solve(E, B), C, D, g.dt)
    equations = A
    A, B, C = U.conj().T @ A @ Vh.conj().T, U.conj().T @ B, C @ Vh.conj().T
    A22 = A[r:, r:]
    size = np.linalg.norm(A[r:]) + np.linalg.norm(A[:, r:])
    least = float(np.linalg.svd(A22, compute_uv=False)[-1])
    # the null spaces of E are known to the rounding errors of E over its least nonzero singular value
    noise = n * _EPS * (s[0] / s[r - 1] if r else 1.0)
    if not least > (noise if tol is None else tol) * size:
        raise ValueError(_why(E, equations))
    if tol is None and least < _EPS**0.5 * size:
        raise ValueError(
            f"the algebraic equations must be well conditioned, or singular beyond doubt, got a singular value "
            f"{least / size:.3g} of their norm: say with tol what counts as zero"
        )
    XA, XB = np.linalg.solve(A22, A[r:, :r]), np.linalg.solve(A22, B[r:])
    scale = s[:r, None]
    return ss(
        (A[:r, :r] - A[:r, r:] @ XA) / scale,
        (B[:r] - A[:r, r:] @ XB) / scale,
        C[:, :r] - C[:, r:] @ XA,
        D - C[:, r:] @ XB,
        g.dt,
    )


def generalized_gramians(E: Any, A: Any, B: Any, C: Any, dt: float | bool = 0) -> tuple[Matrix, Matrix]:
    r"""Gramians of a stable descriptor system with nonsingular E.

    .. math::
        APE^H + EPA^H + BB^H = 0,\quad A^HQE + E^HQA + C^HC = 0 \qquad\text{(continuous)}

        APA^H - EPE^H + BB^H = 0,\quad A^HQA - E^HQE + C^HC = 0 \qquad\text{(discrete)}

    P is the controllability Gramian of the state x; the observability Gramian of x is :math:`E^HQE`, and the Hankel
    singular values are the square roots of the eigenvalues of :math:`PE^HQE`.

    Parameters
    ----------
    E, A : array_like, shape (n, n)
    B : array_like, shape (n, m)
    C : array_like, shape (p, n)
    dt : float or bool, default 0

    Returns
    -------
    P, Q : arrays, shape (n, n)

    Raises
    ------
    ValueError
        E is singular to working precision.
    UnstableError
        A pole is unstable or marginal; the message names the worst.

    References
    ----------
    T. Penzl, Numerical solution of generalized Lyapunov equations, Adv. Comput. Math. 8 (1998) (SLICOT SG03AD).

    Examples
    --------
    >>> P, Q = generalized_gramians([[2.0]], [[-1.0]], [[2.0]], [[4.0]])
    >>> P, Q
    (array([[1.]]), array([[4.]]))
    """
    E, g = _checked(E, A, B, C, None, dt)
    cond = np.linalg.cond(E) if len(E) else 1.0
    if not cond < 1 / (len(E) * _EPS):
        raise ValueError(
            f"E must be nonsingular, got one of condition {cond:.3g}: make a state-space system of it first (descriptor)"
        )
    state_space = DenseSystem(np.linalg.solve(E, g.A), np.linalg.solve(E, g.B), g.C, g.D, g.dt)
    with backend("numpy").double_scope():
        Zp, Zq = factors(state_space, None)
    Zq = np.linalg.solve(E.conj().T, Zq)
    return Zp @ Zp.conj().T, Zq @ Zq.conj().T


def _checked(E: Any, A: Any, B: Any, C: Any, D: Any, dt: float | bool) -> tuple[Matrix, DenseSystem]:
    """The matrices in double precision, checked."""
    E, A, B, C = (np.asarray(x, np.complex128 if np.iscomplexobj(x) else np.float64) for x in (E, A, B, C))
    g = ss(A, B, C, D, dt)
    if E.ndim != 2 or E.shape != g.A.shape:
        raise ValueError(f"E and A must be single matrices of one shape, got {E.shape} and {g.A.shape}")
    check_finite("E", E)
    return E, g


def _equations_scaled(E: Matrix, A: Matrix, B: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """The equations in other units: rows of E have norm one, or those of A where rows of E are rounding errors."""
    size, other = (np.linalg.norm(x, axis=1, keepdims=True) for x in (E, A))
    size = np.where(size > 1e-13 * size.max(initial=0), size, np.where(other > 0, other, 1.0))
    return E / size, A / size, B / size


def _why(E: Matrix, A: Matrix) -> str:
    """Why the algebraic equations cannot be solved: no index at all, or one that is too large."""
    n = len(E)
    ratio = float((np.linalg.norm(A) or 1.0) / (np.linalg.norm(E) or 1.0))
    # a regular pencil is singular at n points at most, and these have nothing to do with its poles
    points = [ratio * t * np.exp(1j * t) for t in (0.7391, 1.2853, 2.6031)]
    conds = [float(np.linalg.cond(s * E - A)) for s in points]
    if not min(conds) < 1 / (n * _EPS):
        return (
            "the pencil sE - A must be regular, got one that is singular for every s: "
            "the equations contradict or repeat each other"
        )
    # the index is that of the zero eigenvalue of N = (sE - A)^-1 E: how often its range can shrink
    N = np.linalg.solve(points[int(np.argmin(conds))] * E - A, E)
    zero, index = n * _EPS * min(conds) * float(np.linalg.norm(N) or 1.0), 0
    while len(N):
        W, values, _ = np.linalg.svd(N)
        rank = int(np.sum(values > zero))
        if rank == len(N):
            break
        index += 1
        N = W[:, :rank].conj().T @ N @ W[:, :rank]
    return (
        f"the descriptor system must have index 1 at most, got index {max(index, 2)}: its response holds derivatives of "
        "the input, which no state-space system has"
    )
