r"""Descriptor systems :math:`E\dot x = Ax + Bu` as state-space systems; if there is none, an error says why.

A nonsingular E is divided out.  A singular E couples differential equations with algebraic equations, which are solved.
If the solution leads to further algebraic equations (index 2 and more), these are solved too.  The result has fewer
states.  There is no state-space system if the response grows with the frequency, because it then holds derivatives of
the input.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.solvers.gramians import factors
from balred.systems.arrays import backend
from balred.systems.checks import check_finite, host_array, of_kind
from balred.systems.dense_system import DenseSystem, ss

Matrix = NDArray[Any]

_EPS = float(np.finfo(np.float64).eps)
_BLUR = 8
"""Matrices that are products of others are known to so many times n rounding errors."""


def descriptor(
    E: Any, A: Any, B: Any, C: Any, D: Any = None, dt: float | bool = 0, *, tol: float | None = None
) -> DenseSystem:
    r"""Turn a descriptor system with a proper response, of any index, into a state-space system.

    .. math:: E\dot x = Ax + Bu,\quad y = Cx + Du \qquad\text{or}\qquad Ex_{k+1} = Ax_k + Bu_k

    With :math:`E = U_1SV_1^H` of rank r the rows :math:`U_2^H` of the equations are algebraic,
    :math:`0 = A_2x + B_2u`.  Let :math:`W_1` span what :math:`A_2` maps to zero and :math:`W_2` the rest; then
    :math:`x = W_1z + W_2w`, :math:`w = -(A_2W_2)^{-1}B_2u`, and

    .. math:: V_1^HW_1\dot z = S^{-1}U_1^H(AW_1z + AW_2w + Bu) - V_1^HW_2\dot w

    has the order r.  If :math:`V_1^HW_1` is singular in turn, the same is done again; the number of times is the index.
    Derivatives of u are carried along as powers of s, and are divided by :math:`sI-A` in the end.

    Parameters
    ----------
    E, A : array_like, shape (n, n)
    B : array_like, shape (n, m)
    C : array_like, shape (p, n)
    D : array_like, shape (p, m), optional
    dt : float or bool, default 0
    tol : float, optional
        Singular values of E (of :math:`V_1^HW_1`, and of :math:`A_2` with rows of norm one) up to `tol` count as zero,
        those of E relative to the largest.  The default is the size of rounding errors; if a rank is then in doubt,
        there is an error.

    Returns
    -------
    DenseSystem
        Its order is the number of finite poles of the pencil; 0 if there are none.

    Raises
    ------
    ValueError
        The pencil is singular; the response is not proper (the message says how it grows); a rank is in doubt and no
        `tol` is given.

    References
    ----------
    L. Dai, Singular Control Systems, Springer 1989, chapter 1; D. G. Luenberger, Time-invariant descriptor systems,
    Automatica 14 (1978), for the elimination step by step.

    Examples
    --------
    A state and an algebraic equation, x' = -x + z and 0 = x + 2z + u:

    >>> import balred.realisations.descriptor
    >>> g = descriptor([[1.0, 0.0], [0.0, 0.0]], [[-1.0, 1.0], [1.0, 2.0]], [[0.0], [1.0]], [[1.0, 1.0]])
    >>> g.order, round(complex(g(0.0)[0, 0]).real, 12)  # steady: x = -1/3 u, z = x
    (1, -0.666666666667)

    Two masses of 1 and 2 with a rod between them, index 3, and the position of one: 1/(3 s^2).

    >>> E = np.diag([1.0, 1.0, 1.0, 2.0, 0.0])  # positions, velocities, force in the rod
    >>> A = np.array([[0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, -1], [0, 0, 0, 0, 1], [1, -1, 0, 0, 0.0]])
    >>> g = descriptor(E, A, np.eye(5)[:, 2:3], np.eye(5)[:1])
    >>> g.order, round(abs(complex(g(1.0)[0, 0])), 12)
    (2, 0.333333333333)
    """
    E, g = _checked(E, A, B, C, D, dt)
    of_kind("tol", tol, "float | None")
    if tol is not None and not 0 <= tol < 1:
        raise ValueError(f"tol must be in [0, 1), got {tol}")
    *scaled, units = _scaled(E, g.A, g.B, g.C)
    given = *scaled, g.D
    A, B, C, D = _eliminated(given, tol)
    if len(A) == len(E):  # the states are those given
        A, B, C = units[:, None] * A / units, units[:, None] * B, C / units
    growing = np.any(D[1:], axis=(1, 2))
    if growing.any():
        # what stands there is a derivative, unless what is known of the matrices makes as much
        part = min(max(_BLUR * len(E) * _EPS, tol or 0.0), _EPS**0.5)
        others = [_eliminated(tuple(_blurred(x, part, seed) for x in given), tol, part)[3] for seed in range(4)]
        if any(x.shape != D.shape for x in others):
            raise ValueError(
                "the index must not depend on rounding errors, got one that they change: say with tol which values count as zero"
            )
        noise = 30 * np.max([np.abs(D[1:] - x[1:]) for x in others], axis=0)
        growing = np.any(np.abs(D[1:]) > noise, axis=(1, 2))
    if growing.any():
        power = 1 + int(np.flatnonzero(growing)[-1])
        what, of = ("later values", "z") if g.discrete else ("derivatives", "s")
        raise ValueError(
            f"the response must be proper, got one that grows like {of}^{power} (the index is {len(D)}): it holds {what} of "
            "the input, which no state-space system has"
        )
    return ss(A, B, C, D[0], g.dt)


def _eliminated(
    given: tuple[Matrix, ...], tol: float | None, blur: float = 0.0
) -> tuple[Matrix, Matrix, Matrix, Matrix]:
    """A, B, C of the state-space part, and D with the powers of s along the first axis, as many as the index or one.

    The entries of what is given are known but for the part `blur` of each, and rounding errors.
    """
    E, A, B, C, D = given
    error_E, size, what = _BLUR * len(E) * _EPS + len(E) ** 0.5 * blur, _norm(E, 2) or 1.0, "E"
    error_A = error_E * _norm(A)
    Bs, Ds = B[None], D[None]
    while True:
        U, s, Vh = np.linalg.svd(E)
        r = _rank(s, size, error_E, tol, what)
        if r == len(s):
            break
        T = U.conj().T
        T[:r] /= s[:r, None]
        # rounding turns the rows and columns that are told apart here by what it is beside the gaps that tell them apart
        gap = s[r - 1] if r else size
        turned = error_E * size / gap
        A2, error = T[r:] @ A, error_A + turned * _norm(A)
        rows = np.linalg.norm(A2, axis=1, keepdims=True)
        P, a, Wh = np.linalg.svd(A2 / np.where(rows > 0, rows, 1))
        least = error if tol is None else tol * _norm(A)
        if rows.min() <= least or _rank(a, 1.0, error / rows.min(), tol, "the algebraic equations") < len(a):
            raise ValueError(
                "the pencil sE - A must be regular, got one that is singular for every s: "
                "the equations contradict or repeat each other"
            )
        W2, W1 = Wh[: len(a)].conj().T, Wh[len(a) :].conj().T
        w = -W2 @ ((P / a).conj().T @ (T[r:] @ Bs / rows))
        V1, A1 = Vh[:r], T[:r] @ A
        nothing = np.zeros((1, *w.shape[1:]), w.dtype)
        w, last = np.concatenate([w, nothing]), np.concatenate([nothing, w])
        Bs = np.concatenate([T[:r] @ Bs, nothing[:, :r]]) + A1 @ w - V1 @ last
        Ds = np.concatenate([Ds, np.zeros((1, *D.shape))]) + C @ w
        split = float(error / rows.min() / a[-1])
        error_E, error_A = turned + split, error / gap + _norm(A1) * split
        E, A, C, size, what = V1 @ W1, A1 @ W1, C @ W1, 1.0, "what the algebraic equations leave of E"
    A, Bs = np.linalg.solve(E, A), np.linalg.solve(E, Bs)
    for i in range(len(Bs) - 1, 0, -1):  # s (sI - A)^-1 = I + A (sI - A)^-1
        Ds[i - 1] += C @ Bs[i]
        Bs[i - 1] += A @ Bs[i]
    return A, Bs[0], C, Ds[: max(len(Ds) - 1, 1)]


def _rank(s: Matrix, size: float, noise: float, tol: float | None, what: str) -> int:
    """How many singular values are not zero, or an error that asks for `tol` where that is in doubt."""
    rank = int(np.sum(s > (noise if tol is None else tol) * size))
    if tol is None and rank and s[rank - 1] < _EPS**0.5 * size:
        raise ValueError(
            f"{what} must be well conditioned, or singular beyond doubt, got a singular value {s[rank - 1] / size:.3g} of "
            "the largest: say with tol which values count as zero"
        )
    return rank


def _norm(x: Matrix, order: int | None = None) -> float:
    return float(np.linalg.norm(x, order)) if x.size else 0.0


def _blurred(x: Matrix, part: float, seed: int) -> Matrix:
    """`x` with errors of its entries, the same every time and of all sizes, lest they cancel; what is zero stays zero."""
    return np.asarray(x * (1 + part * np.random.default_rng(seed).standard_normal(x.shape)))


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
    E, A, B, C = (host_array(*named) for named in (("E", E), ("A", A), ("B", B), ("C", C)))
    g = ss(A, B, C, D, dt)
    if E.ndim != 2 or E.shape != g.A.shape:
        raise ValueError(f"E and A must be single matrices of one shape, got {E.shape} and {g.A.shape}")
    check_finite("E", E)
    return E, g


def _scaled(E: Matrix, A: Matrix, B: Matrix, C: Matrix) -> tuple[Matrix, Matrix, Matrix, Matrix, Matrix]:
    """The same in other units of states and equations, for nothing may depend on those that were given; and the states'.

    Powers of two bring the logarithms of all entries of E and A near to zero, in the least-squares sense and but for a
    unit of time [R. C. Ward, Balancing the generalized eigenvalue problem, SIAM J. Sci. Stat. Comput. 2 (1981)].
    """
    n = len(E)
    logs, masks = [], []
    for x in (E, A):
        size = np.abs(x)
        # what is this small in its row and in its column is a rounding error
        known = size > 1e-14 * np.minimum(size.max(axis=0, initial=0), size.max(axis=1, initial=0, keepdims=True))
        masks.append(known.astype(np.float64))
        logs.append(np.where(known, np.log2(np.where(known, size, 1.0)), 0.0))
    mask = masks[0]
    count, total = masks[0] + masks[1], logs[0] + logs[1]
    K = np.block([
        [np.diag(count.sum(axis=1)), count, mask.sum(axis=1)[:, None]],
        [count.T, np.diag(count.sum(axis=0)), mask.sum(axis=0)[:, None]],
        [mask.sum(axis=1)[None], mask.sum(axis=0)[None], np.full((1, 1), mask.sum())],
    ])  # fmt: skip
    right = -np.concatenate([total.sum(axis=1), total.sum(axis=0), [logs[0].sum()]])
    units = np.linalg.solve(K + 1e-9 * np.eye(2 * n + 1), right)  # of several solutions one near zero
    rows, columns = (np.exp2(np.round(x)) for x in (units[:n, None], units[n : 2 * n]))
    return rows * E * columns, rows * A * columns, rows * B, C * columns, columns
