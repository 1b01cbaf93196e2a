r"""Lyapunov, Sylvester and Stein equations as a user has them: any right-hand side, stable or not.

The other solvers of this folder make factors of Gramians, which keep all digits and need a stable system.  These take what
has one solution, and refuse what has none or many, naming the eigenvalues that are to blame.

What is left of a Lyapunov equation when a factor is put into it is told by a few vectors: a check that costs next to nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.systems import arrays
from balred.systems.arrays import Array, backend, backend_of, ct, fro, is_one, namespace, size_of, to_numpy
from balred.systems.checks import as_array, as_matrix, check_finite, check_representable
from balred.systems.leaves import are_ordinary, shifted, unit_of
from balred.systems.units import rescaled

Matrix = NDArray[Any]

_EPS = float(np.finfo(np.float64).eps)
_ROOTS = 1.0, 2**0.5, 3**0.5, 5**0.5


def lyap(A: Any, Q: Any, C: Any = None, E: Any = None) -> Any:
    r"""Solve a Lyapunov or a Sylvester equation of continuous time.

    .. math::
        AX + XA^H + Q &= 0 \qquad \texttt{lyap(A, Q)} \\
        AX + XQ + C &= 0 \qquad \texttt{lyap(A, Q, C)} \\
        AXE^H + EXA^H + Q &= 0 \qquad \texttt{lyap(A, Q, E=E)}

    Parameters
    ----------
    A : array_like, shape (n, n)
        Stable or not.
    Q : array_like, shape (n, n), or (m, m) with `C`
        Symmetric or not.
    C : array_like, shape (n, m), optional
    E : array_like, shape (n, n), optional
        Nonsingular.

    Returns
    -------
    X : array, shape (n, n) or (n, m)
        Hermitian where Q is; in the array library and precision of `A`, without a gradient.

    Raises
    ------
    ValueError
        Shapes do not fit; `C` and `E` are both given; E is singular; the equation has no single solution, because an
        eigenvalue of A and one of :math:`A^H` (of Q, in a Sylvester equation) add up to zero, exactly or as far as rounding errors
        allow to tell.  The message names them.
    ArithmeticError
        The solution does not satisfy the equation to working precision, or is too large for the floating-point format.

    Notes
    -----
    The signature is that of MATLAB and python-control.  Both matrices are brought to Schur form in units that make them
    small, and the triangular equation is solved column by column [1]_; a step of refinement follows, and the residual is measured.

    References
    ----------
    .. [1] R. H. Bartels and G. W. Stewart, Solution of the matrix equation AX + XB = C, Comm. ACM 15 (1972).

    Examples
    --------
    >>> import balred
    >>> balred.lyap([[-1.0, 0.0], [0.0, 3.0]], [[2.0, 4.0], [4.0, 6.0]])  # unstable, but no two poles add up to zero
    array([[ 1., -2.],
           [-2., -1.]])
    >>> balred.lyap(-2, 4)  # numbers are matrices of one entry
    array([[1.]])
    >>> balred.lyap([[1.0]], [[-1.0]], [[5.0]])
    Traceback (most recent call last):
    ValueError: the equation must have a single solution, but eigenvalue 1 of A and -1 of Q add up to 0
    """
    return _answer(A, Q, C, E, discrete=False)


def stein(A: Any, Q: Any, C: Any = None, E: Any = None) -> Any:
    r"""Solve a Lyapunov or a Sylvester equation of discrete time, which is called a Stein equation.

    .. math::
        AXA^H - X + Q &= 0 \qquad \texttt{stein(A, Q)} \\
        AXQ - X + C &= 0 \qquad \texttt{stein(A, Q, C)} \\
        AXA^H - EXE^H + Q &= 0 \qquad \texttt{stein(A, Q, E=E)}

    Parameters
    ----------
    A : array_like, shape (n, n)
        Stable or not.
    Q : array_like, shape (n, n), or (m, m) with `C`
        Symmetric or not.
    C : array_like, shape (n, m), optional
    E : array_like, shape (n, n), optional
        Nonsingular.

    Returns
    -------
    X : array, shape (n, n) or (n, m)

    Raises
    ------
    ValueError
        Shapes do not fit; `C` and `E` are both given; E is singular; the equation has no single solution, because the product of
        an eigenvalue of A and one of :math:`A^H` (of Q, in a Sylvester equation) is one, exactly or as far as rounding errors
        allow to tell.  The message names them.
    ArithmeticError
        The solution does not satisfy the equation to working precision.

    Notes
    -----
    MATLAB's and python-control's ``dlyap``.  The equation with three matrices is MATLAB's; that of python-control has
    :math:`Q^T` in place of Q.

    References
    ----------
    G. Kitagawa, An algorithm for solving the matrix equation X = FXF' + S, Int. J. Control 25 (1977).

    Examples
    --------
    >>> import balred
    >>> balred.stein([[0.5]], [[3.0]]), balred.stein([[2.0]], [[3.0]])
    (array([[4.]]), array([[-1.]]))
    """
    return _answer(A, Q, C, E, discrete=True)


def _answer(A: Any, Q: Any, C: Any, E: Any, discrete: bool) -> Any:
    given = as_array("A", A)
    a, q = _matrix("A", given), _matrix("Q", Q)
    c, e = (None if x is None else _matrix(name, x) for name, x in (("C", C), ("E", E)))
    if c is not None and e is not None:
        raise ValueError("C and E must not be given both: an equation with E has one right-hand side, Q")
    for name, x in (("A", a), *([("Q", q)] if c is not None else []), *([("E", e)] if e is not None else [])):
        if x.shape[0] != x.shape[1]:
            raise ValueError(f"{name} must be a square matrix, got shape {x.shape}")
    right, other = ("Q", q) if c is None else ("C", c)
    wanted = (len(a), len(a if c is None else q))
    if other.shape != wanted:
        raise ValueError(f"{right} must have shape {wanted}, got {other.shape}")
    if e is not None and e.shape != a.shape:
        raise ValueError(f"E must have the shape of A, {a.shape}, got {e.shape}")
    be = backend_of(given)
    X = _in_units(a, q if c is not None else None, other, e, discrete)
    check_representable("entries of the solution", X)
    return be.from_numpy(X, like=given)


def _in_units(A: Matrix, B: Matrix | None, F: Matrix, E: Matrix | None, discrete: bool) -> Matrix:
    """:func:`_solved`, of matrices whose squares are numbers: A = a A', B = a B', E = e E' and F = f F'."""
    a, b, e, f = (1.0 if x is None or are_ordinary(x) else unit_of(x).item() for x in (A, B, E, F))
    a = a if B is None else max(a, b)
    if discrete:  # A X A^H is compared with E X E^H
        a = e = max(a, e) if E is not None else 1.0
    if a == e == f == 1:
        return _solved(A, B, F, E, discrete)
    X = _solved(A / a, None if B is None else B / a, F / f, None if E is None else E / e, discrete)
    return shifted(X, math.log2(f) - math.log2(a) - math.log2(e))


def _matrix(name: str, x: Any) -> Matrix:
    x = as_matrix(name, x)
    host = to_numpy(backend_of(x).stop_gradient(x))
    if host.ndim != 2:
        raise ValueError(f"{name} must be one matrix, got shape {host.shape}")
    check_finite(name, host)
    return host.astype(np.result_type(host, np.float64))


def _solved(A: Matrix, B: Matrix | None, F: Matrix, E: Matrix | None, discrete: bool) -> Matrix:
    """X with ``A X E^H + E X A^H + F = 0`` (A X A^H - E X E^H + F in discrete time), or with B in place of A^H and no E."""
    M, G = A, F
    if E is not None:
        cond = float(np.linalg.cond(E)) if len(E) else 1.0
        if not cond < 1 / (len(E) * _EPS):
            raise ValueError(
                f"E must be nonsingular, got one of condition {cond:.3g}: with algebraic equations there is no single solution"
            )
        M = np.linalg.solve(E, A)
    last = M.conj().T if B is None else B
    names = ("A" if E is None else "E^-1 A", ("A^H" if E is None else "(E^-1 A)^H") if B is None else "Q")
    solve = _solver(M, last, discrete, names)

    def divided(R: Matrix) -> Matrix:
        return R if E is None else np.linalg.solve(E, np.linalg.solve(E, R).conj().T).conj().T

    def residual(X: Matrix) -> tuple[Matrix, float]:
        right, mass = (A.conj().T, np.eye(len(A)) if E is None else E) if B is None else (B, np.eye(len(A)))
        terms = (
            (A @ X @ right, -(mass @ X @ (mass.conj().T if B is None else np.eye(len(B)))))
            if discrete
            else ((A @ X @ mass.conj().T, mass @ X @ right) if B is None else (A @ X, X @ B))
        )
        norms = [float(np.linalg.norm(m)) for m in (A, right, mass, X)]
        pair = norms[0] * norms[1] + norms[2] ** 2 if discrete else (norms[0] + norms[1]) * max(norms[2], 1e-300)
        return terms[0] + terms[1] + F, pair * norms[3] + float(np.linalg.norm(F))

    X = solve(divided(G))
    X = X + solve(divided(residual(X)[0]))
    if not any(np.iscomplexobj(x) for x in (A, last, F, M)):
        X = X.real
    if B is None and np.array_equal(F, F.conj().T):
        X = (X + X.conj().T) / 2
    left, size = residual(X)
    missed = float(np.linalg.norm(left))
    if not missed <= 1e3 * max(len(A), 1) * _EPS * size:
        raise ArithmeticError(
            f"the solution must satisfy the equation to working precision, got a residual of {missed / (size or 1):.3g} of its terms"
        )
    return np.ascontiguousarray(X)


def _solver(A: Matrix, B: Matrix, discrete: bool, names: tuple[str, str]) -> Callable[[Matrix], Matrix]:
    """The function that gives X with ``A X + X B + F = 0`` (``A X B - X + F = 0``) for F, or an error that says why not."""
    (A, d), (B, e) = _balanced(A), _balanced(B)
    host = backend("scipy")
    (S, U), (T, V) = host.complex_schur(A), host.complex_schur(B)
    _check_single(np.diag(S), np.diag(T), _sizes(A, B, discrete), discrete, names)

    def solve(F: Matrix) -> Matrix:
        if not F.size:
            return F
        Y = _triangular(S, T, U.conj().T @ (F / d[:, None] * e) @ V, discrete)
        return np.asarray(U @ Y @ V.conj().T * d[:, None] / e)

    if S.size and T.size:
        probe = np.random.default_rng(0).standard_normal((len(S), len(T)))
        gain = float(np.linalg.norm(_triangular(S, T, probe.astype(complex), discrete)) / np.linalg.norm(probe))
        if not gain * _EPS * _sizes(A, B, discrete) < 0.1:
            raise ValueError(_blame(np.diag(S), np.diag(T), discrete, names, " within rounding errors"))
    return solve


def _balanced(A: Matrix) -> tuple[Matrix, Matrix]:
    """A in units of state that make it small, and these."""
    none = np.zeros((len(A), 0))
    scaled, _, _, d = rescaled(A, none, none.T)
    return scaled, d


def _sizes(A: Matrix, B: Matrix, discrete: bool) -> float:
    a, b = (float(np.linalg.norm(x)) for x in (A, B))
    return a * b + 1 if discrete else a + b


def _check_single(a: Matrix, b: Matrix, size: float, discrete: bool, names: tuple[str, str]) -> None:
    """Raise unless no eigenvalue of the one matrix meets one of the other."""
    apart = np.abs(_meeting(a, b, discrete))
    if apart.size and float(apart.min()) <= max(len(a), len(b)) * _EPS * size:
        raise ValueError(_blame(a, b, discrete, names, ""))


def _meeting(a: Matrix, b: Matrix, discrete: bool) -> Matrix:
    """What must not be zero."""
    return np.asarray(1 - a[:, None] * b if discrete else a[:, None] + b)


def _blame(a: Matrix, b: Matrix, discrete: bool, names: tuple[str, str], how: str) -> str:
    i, j = np.unravel_index(np.argmin(np.abs(_meeting(a, b, discrete))), (len(a), len(b)))
    one, other = (f"{x.real:.6g}" if x.imag == 0 else f"{x:.6g}" for x in (a[i], b[j]))
    meet = "have the product 1" if discrete else "add up to 0"
    return f"the equation must have a single solution, but eigenvalue {one} of {names[0]} and {other} of {names[1]} {meet}{how}"


def _triangular(S: Matrix, T: Matrix, F: Matrix, discrete: bool) -> Matrix:
    """Y with ``S Y + Y T + F = 0`` (``S Y T - Y + F = 0``) for upper triangular S and T, column by column."""
    host, eye = backend("scipy"), np.eye(len(S))
    Y = np.zeros_like(F, dtype=complex)
    for j in range(len(T)):
        before = Y[:, :j] @ T[:j, j]
        if discrete:
            Y[:, j] = host.triangular_solve(eye - T[j, j] * S, F[:, j] + S @ before)
        else:
            Y[:, j] = host.triangular_solve(S + T[j, j] * eye, -F[:, j] - before)
    return Y


def residual(A: Array, B: Array, C: Array, Zp: Array, Zq: Array | None = None, *, discrete: bool) -> Array:
    r"""How far factors are from solving their Lyapunov equations, beside the sizes of its terms, shape (...).

    .. math::
        \frac{\|(AP+PA^H+BB^H)x\|}{(2\|A\|\|Z_p\|^2+\|B\|^2)\|x\|}, \qquad
        \frac{\|(APA^H-P+BB^H)x\|}{((1+\|A\|^2)\|Z_p\|^2+\|B\|^2)\|x\|}

    with :math:`P=Z_pZ_p^H` and a vector x without pattern, in continuous and in discrete time, or the same of
    :math:`A^H, C^H` and :math:`Z_q`, if there is one, where that is larger.

    Examples
    --------
    >>> import balred
    >>> from balred.solvers.equations import residual
    >>> g = balred.testing.random_system(20, seed=0)
    >>> Zp, Zq = balred.gramian_factors(g)
    >>> bool(residual(g.A, g.B, g.C, Zp, Zq, discrete=False) < 1e-12)
    True
    >>> bool(residual(g.A, g.B, g.C, 2 * Zp, Zq, discrete=False) > 1e-3)
    True
    """
    if is_one(A) and Zq is not None:
        return residual_of_one(A, B, C, Zp, Zq, discrete, (size_of(Zp), size_of(Zq)))
    xp = namespace(A)
    x = vectors(A, 2)[:, 1:] / int(A.shape[-1]) ** 0.5
    AH, size = ct(A), fro(A)
    Ax, AHx = A @ x, AH @ x

    def side(A: Array, AHx: Array, B: Array, Z: Array) -> Array:
        ZH = ct(Z)
        P, other = Z @ (ZH @ x), Z @ (ZH @ AHx)
        rest, weight = (A @ other - P, 1 + size * size) if discrete else (A @ P + other, 2 * size)
        square, right = fro(Z), fro(B)
        scale = weight * square * square + right * right
        return fro(rest + B @ (ct(B) @ x)) / xp.where(scale > 0, scale, xp.ones_like(scale))

    reachable = side(A, AHx, B, Zp)
    return reachable if Zq is None else xp.maximum(reachable, side(AH, Ax, ct(C), Zq))


def residual_of_one(
    A: Array, B: Array, C: Array, Zp: Array, Zq: Array, discrete: bool, sizes: tuple[float, float]
) -> float:
    """The same for matrices of NumPy and factors of the norms `sizes`, in ordinary numbers."""
    x = _second_on_host(len(A), A.dtype)
    AH, size = ct(A), size_of(A)
    Ax, AHx, root = A.dot(x), AH.dot(x), len(A) ** 0.5

    def side(A: Array, AHx: Array, B: Array, Z: Array, own: float) -> float:
        ZH, right = ct(Z), size_of(B)
        seen, other = ZH.dot(x), ZH.dot(AHx)
        if discrete:
            rest, weight = A.dot(Z.dot(other)) - Z.dot(seen), 1 + size * size
        else:
            rest, weight = A.dot(Z.dot(seen)) + Z.dot(other), 2 * size
        return size_of(rest + B.dot(ct(B).dot(x))) / ((weight * own * own + right * right) * root or 1.0)

    reachable, observable = side(A, AHx, B, Zp, sizes[0]), side(AH, Ax, ct(C), Zq, sizes[1])
    return observable if math.isnan(observable) else max(reachable, observable)  # max() keeps a NaN that comes first


def vectors(A: Array, count: int) -> Array:
    """Up to four vectors without pattern, the same every time, in the kind of `A`, shape (n, count)."""
    n = int(A.shape[-1])
    if isinstance(A, np.ndarray):
        return _on_host(n, count, A.dtype)
    xp = namespace(A)
    at = xp.arange(n, dtype=arrays.real(A).dtype, device=arrays.device_of(A))
    return xp.astype(xp.stack([xp.cos(root * at * at) for root in _ROOTS[:count]], axis=-1), A.dtype)


@functools.lru_cache(maxsize=64)
def _on_host(n: int, count: int, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    at = np.arange(n, dtype=np.float64)
    x = np.stack([np.cos(root * at * at) for root in _ROOTS[:count]], axis=-1).astype(dtype)
    x.flags.writeable = False
    return x


@functools.lru_cache(maxsize=64)
def _second_on_host(n: int, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(_on_host(n, 2, dtype)[:, 1])
