r"""Where the gain of a sum of modes equals a level, from a matrix of the order of the system.

For real :math:`G(s) = D + \sum_i R_i/(s-\lambda_i)` the determinant of :math:`I - G(s)G(-s)^T/\gamma^2` is even in s.  With distinct
poles and residues of rank one it is

.. math:: \det\left(I - G(s)G(-s)^T/\gamma^2\right) = \delta + \sum_i\frac{\rho_i}{s^2-\lambda_i^2}

Its zeros :math:`s^2` are the eigenvalues of :math:`\mathrm{diag}(\lambda_i^2) - uv^T/\delta` with :math:`u_iv_i = \rho_i`, a matrix of half
the order of the Hamiltonian (:mod:`balred.measures.hinf`) that has the same zeros.  Squares spread further than poles do, though, and close
poles cancel.  So what the zeros say of the determinant is compared with the responses, at twice as many frequencies as there are poles
and more.  Where the two differ, nothing is said.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.measures.hinf import on_axis
from balred.systems.poles import eigenvalues

Matrix = NDArray[Any]

_DIFFERENT = 1e-10
"""By so much of the determinant, which is one without a system, zeros and responses may differ."""


def crossings_of_modes(
    poles: Matrix, residues: Matrix, D: Matrix, level: Matrix, w: Matrix, G: Matrix
) -> tuple[Matrix, Matrix]:
    """Frequencies at which a singular value of a real system equals its `level`, with some false ones, and whether they are known.

    Parameters
    ----------
    poles, residues, D : arrays, shape (..., n), (..., n, p, m) and (..., p, m)
        Of systems with no more than two inputs, or no more than two outputs.
    level : array, shape (...)
        A level each.
    w, G : arrays, shape (..., k) and (..., k, p, m)
        Frequencies and the responses there, by which the zeros are judged.

    Returns
    -------
    arrays, shape (..., n) and (...)
        NaN in the place of zeros that are at no frequency.

    Examples
    --------
    >>> w = np.linspace(0, 5, 9)
    >>> one = np.ones((1, 1, 1))
    >>> G = 1 / (1j * w + 1)[:, None, None]  # 1 / (s + 1) has the gain 1 / 2 at the root of 3
    >>> crossed, known = crossings_of_modes(np.array([-1.0]), one, 0 * one[0], np.array(0.5), w, G)
    >>> crossed.round(12).tolist(), bool(known)
    ([1.732050807569], True)
    """
    if D.shape[-2] > D.shape[-1]:
        residues, D, G = (x.swapaxes(-2, -1) for x in (residues, D, G))
    poles, scale = poles + 0j, 1 / (level * level)
    squares = poles * poles
    with np.errstate(all="ignore"):  # what is no number differs
        rho, end = _partial_fractions(poles, residues, D, scale)
        x, t = _zeros(squares, poles.imag, rho / end[..., None]), -(w**2)
        zeros, own = (
            np.moveaxis(y, -1, 0)[..., None] for y in (x, squares)
        )  # a product over the first axis is the quickest
        told = end[..., None] * ((t - zeros) / (t - own)).prod(0).real
        known = (np.abs(told - _determinants(G, scale[..., None])) <= _DIFFERENT).all(-1)
        s = np.sqrt(x + 0j)
    return np.where(on_axis(s, False), np.abs(s.imag), np.nan), known


def _determinants(G: Matrix, scale: Matrix) -> Matrix:
    """Of I - G G^H scale, for matrices of one or two rows."""
    squares = sum(np.einsum("...ij,...ij->...i", x, x) for x in (G.real, G.imag)) * scale[..., None]
    if G.shape[-2] == 1:
        return np.asarray(1 - squares[..., 0])
    cross = np.einsum("...j,...j->...", G[..., 0, :], G[..., 1, :].conj()) * scale
    return np.asarray((1 - squares[..., 0]) * (1 - squares[..., 1]) - cross.real**2 - cross.imag**2)


def _partial_fractions(poles: Matrix, residues: Matrix, D: Matrix, scale: Matrix) -> tuple[Matrix, Matrix]:
    """Every rho, shape (..., n), and delta, shape (...)."""
    few, n = D.shape[-2], poles.shape[-1]
    flat, through, scale = residues.reshape(*poles.shape, -1), D.reshape(*D.shape[:-2], 1, -1), scale[..., None]
    mirrored = through - 1 / (poles[..., :, None] + poles[..., None, :]) @ flat  # G at -pole
    end = _determinants(D, scale[..., 0])
    if few == 1:
        return -2 * poles * scale * (flat * mirrored).sum(-1), end
    apart = poles[..., :, None] - poles[..., None, :]
    own = np.arange(n)
    apart[..., own, own] = np.inf
    rest = through + 1 / apart @ flat  # G at the pole, without its own part
    back = mirrored.reshape(residues.shape).swapaxes(-2, -1)
    X, Z = residues @ back, rest.reshape(residues.shape) @ back
    both = (
        X[..., 0, 0] * Z[..., 1, 1]
        + X[..., 1, 1] * Z[..., 0, 0]
        - X[..., 0, 1] * Z[..., 1, 0]
        - X[..., 1, 0] * Z[..., 0, 1]
    )
    return 2 * poles * scale * (scale * both - X[..., 0, 0] - X[..., 1, 1]), end


def _zeros(squares: Matrix, imag: Matrix, rho: Matrix) -> Matrix:
    """The zeros of 1 + sum of rho_i / (x - squares_i), of real terms and of conjugate pairs beside each other."""
    n, root, first, real = squares.shape[-1], np.sqrt(rho), imag > 0, imag == 0
    size = np.abs(root)
    u = np.where(real, size, np.where(first, root.real, -root.imag))
    v = np.where(real, rho.real / np.where(size > 0, size, 1), np.where(first, 2 * root.real, 2 * root.imag))
    M = -u[..., :, None] * v[..., None, :]
    entries, turn = M.reshape(*M.shape[:-2], -1), np.where(first, squares.imag, 0)[..., :-1]
    entries[..., :: n + 1] += squares.real
    entries[..., 1 :: n + 1] -= turn
    entries[..., n :: n + 1] += turn
    finite = np.isfinite(M).all(axis=(-2, -1), keepdims=True)  # poles that are one have no zeros here
    M = M if finite.all() else np.where(finite, M, 0)
    return np.where(finite[..., 0], eigenvalues(M) if M.ndim == 2 else np.linalg.eigvals(M), np.nan)
