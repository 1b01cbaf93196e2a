r"""Models from samples of a transfer function: the Loewner framework.

Measured frequency responses, or those of a solver that gives nothing else, determine a descriptor system that
interpolates them, without any fit: its matrices are divided differences of the data.  The rank of these matrices is the
order of the system behind the data, so that it is revealed where there is little noise, and can be chosen where there is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from balred.ranks.bounds import numerical_rank
from balred.ranks.rules import Rule
from balred.realisations.descriptor import descriptor
from balred.realisations.era import order_of, warn_if_cut_unstable
from balred.systems.checks import check_finite, checked_dt, host_array, of_kind
from balred.systems.dense_system import DenseSystem

Matrix = NDArray[Any]


class Pencil(NamedTuple):
    r"""The Loewner matrices of data in units of `unit`: :math:`H(s) = W(L_s - \tfrac{s}{unit}L)^{-1}V`."""

    L: Matrix
    Ls: Matrix
    V: Matrix
    W: Matrix
    unit: float
    noise: tuple[float, float]
    """How far errors of the data may have moved the singular values of L and of Ls."""

    @property
    def singular_values(self) -> NDArray[np.float64]:
        """Of [L, Ls], descending; zero where errors of the data could have made them."""
        s: NDArray[np.float64] = np.linalg.svd(np.hstack([self.L, self.Ls]), compute_uv=False)
        return np.where(s > np.hypot(*self.noise), s, 0.0)


def loewner_singular_values(
    points: Any, values: Any, *, left: Any = None, right: Any = None, real: bool = True, tol: float = 1e-13
) -> NDArray[np.float64]:
    r"""Singular values of the Loewner pencil :math:`[L, L_s]`, descending; :func:`loewner` chooses a rank from them.

    Parameters
    ----------
    points : array_like, shape (N,)
        Distinct complex numbers.  The first, third, ... are right data, the others left data.
    values : array_like, shape (N, p, m) or (N,)
        The transfer function there.
    left : array_like, shape (N // 2, p), optional
    right : array_like, shape ((N + 1) // 2, m), optional
        Tangential directions, one for each point; by default all unit vectors at every point.
    real : bool, default True
        The conjugate data are added, as for a real model.
    tol : float, default 1e-13
        Relative accuracy of the values.

    Returns
    -------
    ndarray, shape (k,)
        Those that errors of relative size `tol` in the values could make are set to zero.

    Examples
    --------
    >>> s = 1j * np.array([0.1, 0.3, 1.0, 3.0])
    >>> loewner_singular_values(s, 1 / (s + 1)) > 0
    array([ True, False, False, False])
    """
    return _pencil(points, values, left, right, real, tol).singular_values


def loewner(
    points: Any,
    values: Any,
    rank: int | Rule | None = None,
    *,
    dt: float | bool = 0,
    left: Any = None,
    right: Any = None,
    real: bool = True,
    tol: float = 1e-13,
) -> DenseSystem:
    r"""A model that interpolates samples of a transfer function.

    Every second point is right data, :math:`w_j = H(\lambda_j)r_j`, the others are left data,
    :math:`v_i = \ell_iH(\mu_i)`.  With

    .. math::
        L_{ij} = \frac{v_ir_j - \ell_iw_j}{\mu_i - \lambda_j}, \qquad
        (L_s)_{ij} = \frac{\mu_iv_ir_j - \lambda_j\ell_iw_j}{\mu_i - \lambda_j}, \qquad
        H(s) = W(L_s - sL)^{-1}V

    interpolates the data if the pencil is regular at the points.  Otherwise there are more data than the system has states,
    and it is projected by the dominant singular vectors: :math:`Y` of :math:`[L, L_s]` from the left, :math:`X` of
    :math:`[L; L_s]` from the right.

    Parameters
    ----------
    points : array_like, shape (N,)
        Distinct complex numbers, usually on the imaginary axis (s = iω) or, in discrete time, on the unit circle
        (z = exp(iω dt)).  The first, third, ... are right data; in ascending order left and right data interlace.
    values : array_like, shape (N, p, m) or (N,)
        The transfer function there.
    rank : int or rule, optional
        The rank to which the pencil is cut, by its singular values; by default all values above the noise are kept.
        The rank is the order of the model, plus the rank of D if the data show a direct term.
    dt : float or bool, default 0
    left : array_like, shape (N // 2, p), optional
    right : array_like, shape ((N + 1) // 2, m), optional
        Tangential directions :math:`\ell_i` and :math:`r_j`, one for each point.  By default all unit vectors at every
        point, so that whole values are interpolated.
    real : bool, default True
        A real model: the conjugate data are added, so that points must lie in the closed upper half plane.
    tol : float, default 1e-13
        Relative accuracy of the values.  Singular values that errors of this size could make count as zero; with measured
        data set it to the noise level, and the rank that is above the noise is found.

    Returns
    -------
    DenseSystem
        It may be unstable, and is not balanced.

    Raises
    ------
    ValueError
        Shapes do not fit; fewer than two points; points that repeat; NaN; `rank` is larger than the pencil; with `real`:
        points below the real axis, or complex values on it; the data grow with frequency as no state-space system does.

    Warns
    -----
    RankWarning
        An integer `rank` is larger than the rank above the noise; the latter is used instead.
    InstabilityWarning
        Less than that rank is kept, and the model is unstable.

    Notes
    -----
    Exact for a system of order n without noise if left and right data both are n + rank(D) vectors at least (conjugates
    included) in general position.  Then rank(L) = n and rank([L, Ls]) = n + rank(D), and ``balred.realisations.descriptor.descriptor``
    finds D by solving the algebraic equations.  A relative error `tol` of the values moves singular values of L by at most

    .. math:: \mathit{tol}\cdot\Bigl\|\frac{|v_i||r_j| + |\ell_i||w_j|}{|\mu_i - \lambda_j|}\Bigr\|_F

    References
    ----------
    A. J. Mayo and A. C. Antoulas, A framework for the solution of the generalized realization problem, Linear Algebra
    Appl. 425 (2007), sections 3 and 5.

    Examples
    --------
    >>> s = 1j * np.array([0.1, 0.3, 1.0, 3.0])
    >>> g = loewner(s, (s + 3) / (s + 1))
    >>> g.order, g.A.round(6), g.D.round(6)
    (1, array([[-1.]]), array([[1.]]))
    """
    dt = checked_dt(dt)
    pencil = _pencil(points, values, left, right, real, tol)
    s = pencil.singular_values
    k = order_of(int(numerical_rank(s)) if rank is None and s.any() else rank, s)
    L, Ls, V, W, unit, noise = pencil
    Y = np.linalg.svd(np.hstack([L, Ls]), full_matrices=False)[0][:, :k]
    X = np.linalg.svd(np.vstack([L, Ls]), full_matrices=False)[2][:k].conj().T
    Y = Y.conj().T
    # in the singular vectors of E the noise is cut off exactly: whatever Y and X are, it moved no singular value further
    U, e, Zh = np.linalg.svd(-Y @ L @ X)
    Y, X = U.conj().T @ Y, X @ Zh.conj().T
    e = np.where(e > noise[0], e, 0.0)
    A = -Y @ Ls @ X
    algebraic = np.linalg.norm(A[e == 0], axis=1).min(initial=np.inf)
    g = descriptor(np.diag(e), A, Y @ V, W @ X, dt=dt, tol=min(noise[1] / algebraic, 0.5) if algebraic else 0.5)
    g = DenseSystem(unit * g.A, unit * g.B, g.C, g.D, dt)
    warn_if_cut_unstable(g, k, s, "try another rank, or keep the stable part alone (balred.realisations.separation)")
    return g


def _pencil(points: Any, values: Any, left: Any, right: Any, real: bool, tol: float) -> Pencil:
    """The Loewner matrices of the data, real if `real`."""
    of_kind("tol", tol, "float")
    of_kind("real", real, "bool")
    if not 0 <= tol < 1:
        raise ValueError(f"tol must be in [0, 1), got {tol}")
    s, H = _checked(points, values, real)
    p, m = H.shape[1:]
    r, l = _directions("right", right, len(s[0::2]), m), _directions("left", left, len(s[1::2]), p)
    # columns of right data and rows of left data, one for each direction at each point
    right_data = np.repeat(s[0::2], r.shape[1]), r.reshape(-1, m).T, (r @ H[0::2].swapaxes(1, 2)).reshape(-1, p).T
    left_data = np.repeat(s[1::2], l.shape[1]), l.reshape(-1, p).T, (l @ H[1::2]).reshape(-1, m).T
    size = np.abs(s[s != 0])
    unit = float(np.exp(np.log(size).mean())) if len(size) else 1.0
    (lam, R, W), cols = _closed(*right_data, real)
    (mu, l, V), rows = _closed(*left_data, real)
    lam, mu, V, l = lam / unit, mu[:, None] / unit, V.T, l.T
    gap = mu - lam
    same = np.abs(gap) <= 1e-12 * (np.abs(mu) + np.abs(lam))
    if same.any():
        i, j = np.argwhere(same)[0]
        raise ValueError(f"points must be distinct, got {unit * mu[i, 0]:.6g} and {unit * lam[j]:.6g}")
    VR, lW = V @ R, l @ W
    a, b = np.abs(V) @ np.abs(R), np.abs(l) @ np.abs(W)
    noise = (
        tol * float(np.linalg.norm((a + b) / np.abs(gap))),
        tol * float(np.linalg.norm((np.abs(mu) * a + np.abs(lam) * b) / np.abs(gap))),
    )
    L, Ls = (VR - lW) / gap, (mu * VR - lam * lW) / gap
    if real:
        J, K = _realifying(len(l), rows).conj().T, _realifying(R.shape[1], cols)
        L, Ls, V, W = (x.real for x in (J @ L @ K, J @ Ls @ K, J @ V, W @ K))
    return Pencil(L, Ls, V, W, unit, noise)


def _checked(points: Any, values: Any, real: bool) -> tuple[Matrix, Matrix]:
    s, H = host_array("points", points).astype(np.complex128), host_array("values", values).astype(np.complex128)
    if s.ndim != 1 or H.ndim not in (1, 3) or len(H) != len(s) or 0 in H.shape[1:]:
        raise ValueError(f"points and values must have shapes (N,) and (N, p, m) or (N,), got {s.shape} and {H.shape}")
    if len(s) < 2:
        raise ValueError(f"at least two points are needed, one for each side, got {len(s)}")
    check_finite("points", s)
    check_finite("values", H)
    H = H.reshape(len(s), *(H.shape[1:] or (1, 1)))
    unique, counts = np.unique(s, return_counts=True)
    if len(unique) < len(s):
        raise ValueError(f"points must be distinct, got {unique[counts > 1][0]:.6g} twice")
    if not real:
        return s, H
    on_axis = np.abs(s.imag) <= 1e-12 * np.abs(s)
    if (below := s[(s.imag < 0) & ~on_axis]).size:
        raise ValueError(
            f"points must lie in the closed upper half plane where real=True, which adds their conjugates, got {below[0]:.6g}"
        )
    size = np.abs(H).max(axis=(1, 2))
    off = on_axis & (np.abs(H.imag).max(axis=(1, 2)) > np.finfo(np.float64).eps ** 0.5 * size)
    if off.any():
        raise ValueError(
            f"values at real points must be real where real=True, got {H[off][0].tolist()} at {s[off][0]:.6g}"
        )
    return np.where(on_axis, s.real, s), np.where(on_axis[:, None, None], H.real, H)


def _directions(name: str, given: Any, count: int, width: int) -> Matrix:
    """Directions at each of `count` points, shape (count, directions, width)."""
    if given is None:
        return np.broadcast_to(np.eye(width), (count, width, width))
    d = host_array(name, given).astype(np.complex128)
    if d.shape != (count, width):
        raise ValueError(f"{name} must have a direction for each of its points, shape {(count, width)}, got {d.shape}")
    check_finite(name, d)
    if not d.any(axis=1).all():
        raise ValueError(f"the directions in {name} must not be zero, got {d[~d.any(axis=1)][0].tolist()}")
    return d[:, None]


def _closed(s: Matrix, d: Matrix, x: Matrix, real: bool) -> tuple[tuple[Matrix, Matrix, Matrix], int]:
    """Columns of data with, if `real`, the conjugates of those that are not real at the end; and how many these are."""
    if not real:
        return (s, d, x), 0
    pair = (s.imag != 0) | (d.imag != 0).any(axis=0)
    together = [np.concatenate([y[..., ~pair], y[..., pair], y[..., pair].conj()], axis=-1) for y in (s, d, x)]
    return (together[0], together[1], together[2]), int(pair.sum())


def _realifying(n: int, pairs: int) -> Matrix:
    """The unitary matrix that makes columns ``[a, b, conj(b)]``, `pairs` of them b, real: [a, √2 Re b, √2 Im b]."""
    J = np.eye(n, dtype=np.complex128)
    b, c = np.arange(n - 2 * pairs, n - pairs), np.arange(n - pairs, n)
    J[b, b] = J[c, b] = 0.5**0.5
    J[b, c], J[c, c] = -1j * 0.5**0.5, 1j * 0.5**0.5
    return J
