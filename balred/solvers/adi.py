r"""Low-rank ADI: Gramian factors of large sparse systems, which never see a dense n x n matrix.

The Gramians of a system with few inputs and outputs are numerically of low rank.  The alternating directions implicit
iteration builds their factors a few columns at a time, each from one sparse solve with :math:`A + pE`, and knows the
residual of the Lyapunov equation exactly as it goes, because that residual is itself of low rank, :math:`WW^H`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.systems.arrays import backend
from balred.systems.poles import UnstableError

Matrix = NDArray[Any]

_FIRST_WINDOW, _LAST_WINDOW = 2, 64
"""How many of the last blocks of a factor shifts are taken from: more where the last shifts did little."""


_ROUNDING = 1e-6
"""What rounding errors may make of the residuals of a converged iteration, which the returned factors say: see AdiInfo."""


class ConvergenceError(ArithmeticError):
    """An iteration did not reach its tolerance; the message says how far it came."""


@dataclass(frozen=True)
class AdiInfo:
    r"""Steps and residuals of a run of low-rank ADI; pairs are for the controllability and the observability Gramian.

    Attributes
    ----------
    steps : int
        Shifts used; a conjugate pair counts as two.
    residuals : tuple of float
        :math:`\|R\|_2/\|BB^H\|_2`, measured with the factors that are returned.
    steady_residuals : tuple of float
        :math:`\|A^{-1}RA^{-H}\|_2/\|A^{-1}BB^HA^{-H}\|_2`, measured likewise: the residual as slow modes see it.
    columns : tuple of int
        Columns of the two factors.
    shifts : tuple of complex
        One of each conjugate pair.

    Examples
    --------
    >>> import numpy as np, scipy.sparse
    >>> from balred.solvers.adi import low_rank_factors
    >>> A = scipy.sparse.diags([1.0, -2.0, 1.0], [-1, 0, 1], shape=(500, 500), format="csc")
    >>> Zp, Zq, info = low_rank_factors(A, scipy.sparse.eye(500, format="csc"), np.eye(500, 1), np.eye(1, 500))
    >>> max(info.residuals) <= 1e-14, info.columns == (Zp.shape[1], Zq.shape[1])
    (True, True)
    """

    steps: int
    residuals: tuple[float, float]
    steady_residuals: tuple[float, float]
    columns: tuple[int, int]
    shifts: tuple[complex, ...]


class _Side:
    """One of the two Lyapunov equations, ``A Z Z^H E^H + E Z Z^H A^H + B B^H = W W^H`` at every step."""

    def __init__(self, A: Any, E: Any, B: Matrix, lu: Any, trans: str) -> None:
        self.A, self.E, self.B, self.W = A, E, B, B
        self.trans = trans
        self._lu = lu
        self.Z = np.zeros((len(B), 0), B.dtype)
        self.recent: list[Matrix] = []
        self._pending: list[Matrix] = []
        self._scale = _square(B), _square(self.steady(B))
        self.steady_residual = 1.0
        self.done = self._scale[0] == 0

    def steady(self, X: Matrix) -> Matrix:
        """A^-1 X."""
        out: Matrix = self._lu.solve(X, self.trans)
        return out

    @property
    def residual(self) -> float:
        return 0.0 if self._scale[0] == 0 else _square(self.W) / self._scale[0]

    def update(self, V: Matrix, p: complex, tol: float) -> None:
        """The step with shift p, or with p and its conjugate where the system is real and p is not; V solves for W."""
        if np.iscomplexobj(V) and not np.iscomplexobj(self.W):
            g, d = 2 * np.sqrt(-p.real), p.real / p.imag
            X = V.real + d * V.imag
            self.W = self.W + g * g * (self.E @ X)
            block = np.concatenate([g * X, g * np.sqrt(d * d + 1) * V.imag], axis=1)
        else:
            self.W = self.W - 2 * p.real * (self.E @ V)
            block = np.sqrt(-2 * p.real) * V
        self._pending.append(block)
        self.recent = [*self.recent[1 - _LAST_WINDOW :], block]
        if sum(b.shape[1] for b in self._pending) > 150 + self.Z.shape[1]:
            self.compress()
        if self.residual <= tol:
            self.look()
            self.done = max(self.residual, self.steady_residual) <= tol

    def look(self) -> None:
        """Measure the residual as slow modes see it."""
        self.steady_residual = _square(self.steady(self.W)) / self._scale[1] if self._scale[1] else 0.0

    def compress(self) -> None:
        """Shed the columns of the factor that are rounding errors."""
        Z = np.concatenate([self.Z, *self._pending], axis=1)
        _, s, Vh = np.linalg.svd(np.linalg.qr(Z, mode="r"), full_matrices=False)
        keep = int(np.sum(s > np.finfo(s.dtype).eps * s[:1]))
        self.Z, self._pending = Z @ Vh[:keep].conj().T, []

    def shifts(self, window: int) -> list[complex]:
        """Ritz values of (A, E) in the span of the last blocks and of the slowest of what is missing."""
        slow = self.steady(self.W)
        more = self.recent[-window:] if self.recent else [self.W]
        U = np.concatenate([slow, self.steady(self.E @ slow), *more], axis=1)
        size = np.linalg.norm(U, axis=0)
        Q, s, _ = np.linalg.svd(U[:, size > 0] / size[size > 0], full_matrices=False)
        Q = Q[:, s > 1e-10 * s[0]]
        H, G = Q.conj().T @ (self.A @ Q), Q.conj().T @ (self.E @ Q)
        w = np.linalg.eigvals(np.linalg.lstsq(G, H, rcond=None)[0])
        w = w[np.isfinite(w) & (w != 0)]
        # the values of a stable system may stray to the right: mirror them, and stay off the axis
        w = -np.maximum(np.abs(w.real), 1e-8 * np.abs(w)) + 1j * w.imag
        if not np.iscomplexobj(self.W):
            w = w[w.imag >= 0]
            w = np.where(w.imag > 1e-10 * np.abs(w), w, w.real)
        return [complex(p) for p in w[np.argsort(-np.abs(w))]]

    def measured(self) -> tuple[float, float]:
        """Both residuals of the returned factor, from their definition."""
        EZ = self.E @ self.Z
        return (
            _relative(self.A @ self.Z, EZ, self.B),
            _relative(self.Z, self.steady(EZ), self.steady(self.B)),
        )


def _square(W: Matrix) -> float:
    """||W W^H||_2."""
    return float(np.linalg.norm(W.conj().T @ W, 2))


def _relative(X: Matrix, Y: Matrix, B: Matrix) -> float:
    """``||X Y^H + Y X^H + B B^H||_2 / ||B B^H||_2``, by power iteration: from below, good to a few percent."""
    if not B.any():
        return 0.0
    x = np.random.default_rng(0).standard_normal(len(B)).astype(B.dtype)
    x = x / np.linalg.norm(x)
    most, last = 0.0, 0.0
    for _ in range(30):
        x = X @ (Y.conj().T @ x) + Y @ (X.conj().T @ x) + B @ (B.conj().T @ x)
        size = float(np.linalg.norm(x))
        most = max(most, size)
        if abs(size - last) <= 0.005 * size or size == 0:  # nothing may be left, of a residual that is rounding
            break
        x, last = x / size, size
    return most / _square(B)


def low_rank_factors(
    A: Any, E: Any, B: Matrix, C: Matrix, *, tol: float = 1e-14, max_steps: int = 500
) -> tuple[Matrix, Matrix, AdiInfo]:
    r"""Low-rank factors of both Gramians of :math:`E\dot x = Ax + Bu,\ y = Cx`, without densifying.

    .. math:: AZ_pZ_p^HE^H + EZ_pZ_p^HA^H + BB^H \approx 0, \qquad A^HZ_qZ_q^HE + E^HZ_qZ_q^HA + C^HC \approx 0

    With shifts :math:`p_j` in the left half plane, :math:`W_0 = B`, and :math:`V_j = (A+p_jE)^{-1}W_{j-1}`,

    .. math:: W_j = W_{j-1} - 2\,\mathrm{Re}(p_j)\,EV_j, \qquad Z_j = [Z_{j-1},\ \sqrt{-2\,\mathrm{Re}\,p_j}\;V_j];

    a pair of conjugate shifts of a real system takes one complex solve and two real blocks.  Both Gramians use the same
    shifts, hence the same LU factors.  The shifts generate themselves: Ritz values in the span of the last blocks and of
    :math:`A^{-1}W`.

    The residual :math:`W_jW_j^H` weighs fast modes: in a stiff system it can be small while the slow modes, which carry
    the Hankel singular values, have hardly been touched.  The iteration therefore also asks that
    :math:`A^{-1}WW^HA^{-H}` be small relative to :math:`A^{-1}BB^HA^{-H}`.

    Parameters
    ----------
    A, E : sparse matrices, shape (n, n)
    B : array, shape (n, m)
    C : array, shape (p, n)
    tol : float
        For both relative residuals of both equations.
    max_steps : int
        Largest number of shifts.

    Returns
    -------
    Zp, Zq : arrays, shape (n, k)
    info : AdiInfo

    Raises
    ------
    ConvergenceError
        The tolerance was not reached, or the residuals measured with the factors are far from those of the iteration.
    UnstableError
        A pole at zero, or one that is the mirror image of a shift.

    References
    ----------
    P. Benner, P. Kuerschner and J. Saak, An improved numerical method for balanced truncation for symmetric second-order
    systems, Math. Comput. Model. Dyn. Syst. 19 (2013); the same, Self-generating and efficient shift parameters in ADI
    methods for large Lyapunov and Sylvester equations, ETNA 43 (2014).

    Examples
    --------
    >>> import numpy as np, scipy.sparse
    >>> from balred.solvers.adi import low_rank_factors
    >>> A = scipy.sparse.diags([1.0, -2.0, 1.0], [-1, 0, 1], shape=(500, 500), format="csc")
    >>> Zp, Zq, info = low_rank_factors(A, scipy.sparse.eye(500, format="csc"), np.eye(500, 1), np.eye(1, 500))
    >>> P = Zp @ Zp.T
    >>> rest = A @ P + P @ A.T
    >>> rest[0, 0] += 1  # B B^H
    >>> bool(np.abs(rest).max() < 1e-12), Zp.shape[1] < 100
    (True, True)
    """
    pencil = backend("scipy").Pencil(A, E)
    lu = _factors(pencil, 0.0, "the system has a pole at zero")
    complex_data = any(np.iscomplexobj(x) for x in (A.data, E.data, B, C))
    dtype = np.dtype(np.complex128 if complex_data else np.float64)
    B, CH = B.astype(dtype), C.conj().T.astype(dtype)
    control = _Side(A, E, B, lu, "N")
    same = pencil.hermitian and bool(np.array_equal(B, CH))
    observe = control if same else _Side(A.conj().T, E.conj().T, CH, lu, "H" if complex_data else "T")
    sides = [control] if same else [control, observe]
    steps, window, queue, used = 0, _FIRST_WINDOW, list[complex](), list[complex]()
    last = np.inf
    while not all(side.done for side in sides):
        if not queue:
            for side in sides:
                side.look()
            worst = max((s for s in sides if not s.done), key=lambda s: max(s.residual, s.steady_residual))
            now = max(worst.residual, worst.steady_residual)
            window = min(2 * window, _LAST_WINDOW) if now > 0.1 * last else window
            last = now
            queue = worst.shifts(window)
        p = queue.pop(0)
        if steps >= max_steps or not np.isfinite(last) or last > 1e20:
            break
        factors = _factors(pencil, p if complex_data or p.imag else p.real, f"a pole is {-p:.6g}")
        used.append(p)
        steps += 1 if complex_data or not p.imag else 2
        going = [side for side in sides if not side.done]
        if pencil.hermitian and not p.imag:
            solved = factors.solve(np.concatenate([side.W for side in going], axis=1))
            blocks = np.split(solved, np.cumsum([side.W.shape[1] for side in going])[:-1], axis=1)
        else:
            blocks = [factors.solve(side.W, side.trans) for side in going]
        for side, V in zip(going, blocks, strict=True):
            # the adjoint equation of a complex system meets the conjugate shift, whose real part is the same
            side.update(V, p, tol)
    for side in sides:
        side.compress()
    (r1, s1), (r2, s2) = control.measured(), observe.measured()
    measured = max(r1, s1, r2, s2)
    if all(side.done for side in sides) and not measured <= max(10 * tol, _ROUNDING):
        raise ConvergenceError(
            f"the residuals of the factors of low-rank ADI must be below {max(10 * tol, _ROUNDING):.3g}, got "
            f"{measured:.3g}, although the iteration itself reached {tol:.3g}: rounding errors have taken over, as they do "
            "if the time scales of a system lie very far apart"
        )
    missed = [max(s.residual, s.steady_residual) for s in (control, observe)]
    if not all(side.done for side in sides):
        raise ConvergenceError(
            f"low-rank ADI must reach a relative residual of {tol:.3g} in {max_steps} steps, got {missed[0]:.3g} "
            f"(controllability) and {missed[1]:.3g} (observability) after {steps}: an unstable or a very lightly damped "
            "system will not converge; otherwise allow more steps, or a larger tol"
        )
    info = AdiInfo(steps, (r1, r2), (s1, s2), (control.Z.shape[1], observe.Z.shape[1]), tuple(used))
    return control.Z, observe.Z, info


def _factors(pencil: Any, p: complex, why: str) -> Any:
    try:
        return pencil.factor(p)
    except RuntimeError:
        raise UnstableError(f"every pole must have a negative real part, but {why}") from None


def check_nonsingular(name: str, E: Any, what: str) -> None:
    """Raise unless a sparse matrix is nonsingular to working precision, in any units; `what` is to be done otherwise."""
    for axis in (1, 0):
        largest = abs(E).max(axis=axis).toarray().ravel()
        size = np.ldexp(1.0, np.frexp(largest)[1] - 1)
        E = E.multiply(1 / size[:, None] if axis == 1 else 1 / size)
    if not backend("scipy").sparse_condition(E) * E.shape[0] * np.finfo(np.float64).eps < 1:
        raise ValueError(f"{name} must be nonsingular, got one that is singular to working precision{what}")
