r"""What balancing with Riccati equations shares: their stabilising solutions, and Gramian factors made from them.

A solution X of a Riccati equation also solves the Lyapunov equation of its closed loop; solved once more for a factor,
that keeps the small singular values that an eigendecomposition of X would lose.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from balred.solvers.smith import smith_factors
from balred.systems.arrays import backend, ct, size_of
from balred.systems.dense_system import DenseSystem

Matrix = NDArray[Any]
_ROUNDING, _ORTHONORMAL = float(np.finfo(np.float64).eps) ** 0.5, 1e-14
_MODERATE = 1e3
"""Gains up to this, and down to its inverse, make no solutions with entries of very different sizes."""
_MAX_DOUBLINGS = 30
"""So many are needed only where the closed loop has poles within 1e-9 of the boundary."""


class Equation(NamedTuple):
    r"""An algebraic Riccati equation with a definite R of either sign, in continuous and in discrete time

    .. math::
        A^HX + XA - (XB+S)R^{-1}(XB+S)^H + Q = 0, \qquad
        A^HXA - X - (A^HXB+S)(R+B^HXB)^{-1}(A^HXB+S)^H + Q = 0 .
    """

    A: Matrix
    B: Matrix
    Q: Matrix
    R: Matrix
    S: Matrix
    discrete: bool

    def gain(self, X: Matrix) -> tuple[Matrix, Matrix]:
        """F with A - B F the closed loop, and the factor (X B + S) before it."""
        if not self.discrete:
            G = X @ self.B + self.S
            return np.linalg.solve(self.R, ct(G)), G
        G = ct(self.A) @ X @ self.B + self.S
        return np.linalg.solve(self.R + ct(self.B) @ X @ self.B, ct(G)), G

    def residual(self, X: Matrix) -> tuple[Matrix, float, Matrix]:
        """What is left of the equation, its norm beside that of its terms, and the closed loop."""
        F, G = self.gain(X)
        terms = [-G @ F, self.Q, *([ct(self.A) @ X @ self.A - X] if self.discrete else [ct(self.A) @ X, X @ self.A])]
        # beside its own size a solution has a natural one, |A||R|/|B|^2: it may be zero but for rounding
        size = sum(map(_norm, terms)) + _ROUNDING * (1 + _norm(self.A)) ** 2 / max(_norm(self.B) ** 2, 1e-300)
        left = np.sum(terms, axis=0)
        return left, _norm(left) / size, self.A - self.B @ F


class _Scaled(NamedTuple):
    """An equation with R = +-I, |A| = 1 in continuous time, and two quadratic terms as large; X is `unit` times its own."""

    equation: Equation
    sign: float
    time: float
    unit: float


def _scaled(given: Equation, rule: str) -> _Scaled:
    A, B, Q, R, S, discrete = given
    sign = float(np.sign(R[0, 0].real))
    K = inverse_root(sign * R, rule)
    b, s = B @ ct(K), S @ ct(K)
    time = 1.0 if discrete else _norm(A - sign * b @ ct(s)) or _norm(A) or 1.0
    drive, feed = _norm(Q - sign * s @ ct(s)), _norm(b) ** 2
    unit = (drive / feed) ** 0.5 if drive and feed else drive / time or (time / feed if feed else 1.0)
    scaled = Equation(
        A / time,
        b * (unit / time) ** 0.5,
        Q / (unit * time),
        sign * np.eye(len(R)),
        s / (unit * time) ** 0.5,
        discrete,
    )
    return _Scaled(scaled, sign, time, unit)


def stabilising(given: Equation, rule: str, near: Matrix | None = None) -> Matrix:
    r"""The stabilising solution, Hermitian, of an equation; or an error that states `rule`, without which there is none.

    It is solved in units in which :math:`R=\pm I`, :math:`|A|=1` in continuous time, and :math:`BR^{-1}B^H` is as large
    as what drives the equation.  Where the gain of the system is far from one, its solution has entries of very
    different sizes; they keep their digits in coordinates of :func:`reached_first`.

    What may be `near` the solution, to half of its digits, is tried first: Newton's method restores the others.

    Examples
    --------
    >>> import numpy as np
    >>> from balred.solvers.riccati import Equation, stabilising
    >>> one = np.eye(1)
    >>> stabilising(Equation(one, one, one, one, 0 * one, False), "(A, B) must be stabilisable").round(6)  # 1 + 2^(1/2)
    array([[2.414214]])
    """
    scaled = _scaled(given, rule)
    if near is not None and (found := _polished(scaled, near)) is not None:
        return found
    e, _, time, unit = scaled
    try:
        X: Matrix = backend("scipy").riccati(*e)
    except (np.linalg.LinAlgError, ValueError) as error:
        raise ValueError(f"{rule}, got a Riccati equation without a stabilising solution ({error})") from None
    best, new = np.inf, (X + ct(X)) / 2
    while True:  # Newton's method, for as long as it helps
        left, residual, closed = e.residual(new)
        poles = np.linalg.eigvals(closed)
        worst = np.abs(poles).max() if e.discrete else time * poles.real.max()
        if not (worst < e.discrete and residual < best / 2):
            break
        X, best = new, residual
        try:
            new = X + backend("scipy").lyapunov(ct(closed), left, e.discrete)
        except np.linalg.LinAlgError:  # slow poles beside fast ones are on the boundary but for rounding
            break
    if not best <= 1e-6:
        what = f"a residual of {residual:.2g}" if worst < e.discrete else f"a pole of the closed loop at {worst:.3g}"
        raise ValueError(f"{rule}, got a Riccati equation whose solution has {what}")
    return unit * X


def stabilising_pair(given: Equation, dual: Equation, rule: str) -> tuple[Matrix, Matrix] | None:
    r"""The stabilising solutions of an equation and of its dual together, by doubling; None where another way is safer.

    With R eliminated both are in :math:`(F, G, H)`: :math:`F^HX+XF-XGX+H=0` and :math:`FY+YF^H-YHY+G=0`, and the
    structure-preserving doubling algorithm finds X and Y from products and inverses alone, several times as quickly as
    the Schur form of the Hamiltonian finds one.  A step of Newton's method restores the last digits, and what does not
    pass the equation itself to rounding errors, with a stable closed loop, is not returned.  Nor is anything where the
    gain is far from one: see :func:`stabilising`.

    References
    ----------
    E. K.-W. Chu, H.-Y. Fan and W.-W. Lin, A structure-preserving doubling algorithm for continuous-time algebraic
    Riccati equations, Linear Algebra Appl. 396 (2005).
    """
    scaled = _scaled(given, rule)
    (a, b, q, _, s, discrete), sign, _, unit = scaled
    gain = _norm(b) ** 2
    if not (len(a) and 1 / _MODERATE < gain < _MODERATE):
        return None
    n = len(a)
    E, G, H = a - sign * b @ ct(s), sign * b @ ct(b), q - sign * s @ ct(s)
    I = np.eye(n)
    with np.errstate(all="ignore"):  # what overflows does not pass
        try:
            if not discrete:
                shift = _centre(E, G, H)
                N = np.linalg.inv(np.block([[E - shift * I, -G], [H, ct(E) - shift * I]]))
                E, G, H = I + 2 * shift * ct(N[n:, n:]), 2 * shift * N[:n, n:], -2 * shift * N[n:, :n]
            for _ in range(_MAX_DOUBLINGS):
                M = np.linalg.inv(I + G @ H)
                EM = E @ M
                E, G, H, step = EM @ E, G + EM @ G @ ct(E), *_grown(H, ct(E) @ H @ (M @ E))
                G, H = (G + ct(G)) / 2, (H + ct(H)) / 2
                if not step > np.finfo(np.float64).eps * n:
                    break
            else:
                return None
            X, Y = _polished(scaled, unit * H), _polished(_scaled(dual, rule), sign / unit * G)
        except np.linalg.LinAlgError:
            return None
    return None if X is None or Y is None else (X, Y)


def _grown(H: Matrix, more: Matrix) -> tuple[Matrix, float]:
    new = H + more
    return new, _norm(more) / (_norm(new) or 1.0)


def _centre(F: Matrix, G: Matrix, H: Matrix) -> float:
    """The geometric mean of the largest and the least size in the Hamiltonian matrix, which centres its spectrum."""
    n = len(F)
    K = np.block([[F, -G], [-H, -ct(F)]])
    probes = np.cos(np.outer(np.arange(2 * n) ** 2, [1.0, 2**0.5, 3**0.5, 5**0.5]))
    return float((_norm(K) * _norm(probes) / _norm(np.linalg.solve(K, probes)) / (2 * n) ** 0.5) ** 0.5)


def _polished(scaled: _Scaled, X: Matrix) -> Matrix | None:
    """X after steps of Newton's method; None unless the closed loop is stable and the residual a rounding error."""
    e, _, _, unit = scaled
    X = X / unit
    enough = 8 * np.finfo(np.float64).eps * len(X) ** 0.5
    for _ in range(4):
        try:
            left, residual, closed = e.residual(X)
            if not residual < _ROUNDING:
                return None
            correction = _summed(ct(closed), left, e.discrete)
        except np.linalg.LinAlgError:
            return None
        if correction is None:
            return None
        X = X + correction
        if residual <= enough:  # it was, before the last correction
            return unit * X
    return None


def _summed(A: Matrix, R: Matrix, discrete: bool) -> Matrix | None:
    """The solution of a Lyapunov equation by doubling, for a small R: a norm below one of a power proves A stable."""
    if not discrete:
        a = float((_norm(A) / _norm(np.linalg.inv(A)) or 1.0) ** 0.5)
        shifted = np.linalg.inv(a * np.eye(len(A)) - A)
        A, R = shifted @ (A + a * np.eye(len(A))), 2 * a * shifted @ R @ ct(shifted)
    for _ in range(_MAX_DOUBLINGS):
        R = R + A @ R @ ct(A)
        A = A @ A
        if _norm(A) < 1e-3:
            return R
    return None


def _norm(x: Matrix) -> float:
    return size_of(x)


def reached_first(A: Matrix, B: Matrix) -> Matrix:
    r"""Orthonormal coordinates W in which inputs reach one group of states after the other.

    In the staircase form :math:`(W^HAW, W^HB)` the input drives the first states, these drive the next, and so on.  A
    large gain makes the first ones fast and leaves the last ones slow: here the two lie in different rows, and a
    scaling of the rows does both justice.

    References
    ----------
    A. Varga, Numerically stable algorithm for standard controllability form determination, Electronics Letters 17 (1981)
    (SLICOT TB01UD).

    Examples
    --------
    A chain of two states, given from its end:

    >>> W = reached_first(np.array([[0.0, 1.0], [0.0, 0.0]]), np.array([[0.0], [1.0]]))
    >>> np.abs(W)
    array([[0., 1.],
           [1., 0.]])
    """
    W, new = np.zeros((len(A), 0), np.result_type(A, B)), B
    while W.shape[1] < len(A):
        size = _norm(new)
        for _ in range(2):  # once leaves rounding errors in the directions taken off
            new = new - W @ (ct(W) @ new)
        Q, s, _ = np.linalg.svd(new, full_matrices=False)
        Q = Q[:, s > len(A) * np.finfo(np.float64).eps * size][:, : len(A) - W.shape[1]]  # there are no more
        if Q.shape[1] == 0:  # no input reaches the others
            return np.concatenate([W, np.linalg.qr(W, mode="complete")[0][:, W.shape[1] :]], axis=1)
        for _ in range(4):  # what is left of large directions may lie within those before
            if np.abs(within := ct(W) @ Q).max(initial=0.0) <= _ORTHONORMAL:
                break
            Q = np.linalg.qr(Q - W @ within)[0]
        W, new = np.concatenate([W, Q], axis=1), A @ Q
    return W


def seen_from(g: DenseSystem, W: Matrix) -> DenseSystem:
    """`g` in orthonormal coordinates W."""
    return DenseSystem(ct(W) @ g.A @ W, ct(W) @ g.B, g.C @ W, g.D, g.dt)


def dual(g: DenseSystem) -> DenseSystem:
    """The system with inputs and outputs exchanged: (A^H, C^H, B^H, D^H)."""
    return DenseSystem(ct(g.A), ct(g.C), ct(g.B), ct(g.D), g.dt)


def controllability_factor(A: Matrix, B: Matrix, dt: float | bool) -> Matrix:
    """Z with Z Z^H the controllability Gramian of a stable pair."""
    Z: Matrix = smith_factors(DenseSystem(A, B, np.zeros((0, len(A))), np.zeros((0, B.shape[1])), dt))[0]
    return Z


def observability_factor(A: Matrix, C: Matrix, dt: float | bool) -> Matrix:
    """Z with Z Z^H the observability Gramian of a stable pair."""
    return controllability_factor(ct(A), ct(C), dt)


def inverse_root(R: Matrix, rule: str) -> Matrix:
    """L^-1 of the Cholesky factor R = L L^H of a positive definite matrix, or an error that states `rule`."""
    R, eps = (R + ct(R)) / 2, float(np.finfo(np.float64).eps)
    try:
        L = np.linalg.cholesky(R)
        inverse = np.linalg.inv(L)
        # the squares of the norms bound the condition number: mostly there is nothing to look at
        far = (_norm(L) * _norm(inverse)) ** 2 * len(R) * eps < 0.5
    except np.linalg.LinAlgError:
        far = False
    if not far:
        w = np.linalg.eigvalsh(R)
        if not w[0] > len(w) * eps * np.abs(w).max():
            raise ValueError(f"{rule}, got a least eigenvalue of {w[0]:.3g} beside {np.abs(w).max():.3g}")
        inverse = np.linalg.inv(np.linalg.cholesky(R))
    return np.asarray(inverse)
