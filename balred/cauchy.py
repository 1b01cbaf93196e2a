r"""Gramian factors of diagonal systems with one input (or one output), entry by entry to high relative accuracy.

Such a Gramian is Cauchy-like, :math:`P_{ij} = g_i\bar g_j/d_{ij}`, and so is every Schur complement of it: eliminating
state k multiplies :math:`g_i` by a Blaschke factor of its pole.  A pivoted Cholesky factorisation thus costs
:math:`O(n)` a step instead of :math:`O(n^2)`, subtracts only data from data, and is run for thousands of channels at once
[Gohberg, Kailath & Olshevsky 1995; Haut & Beylkin 2012].
"""

from __future__ import annotations

import math

from balred.arrays import Array, namespace


def cauchy_factor(log_poles: Array, g: Array, *, discrete: bool, conjugate: bool, full: bool = False) -> Array:
    r"""Z with :math:`ZZ^H = P`, :math:`P_{ij} = g_i\bar g_j/(1-\lambda_i\bar\lambda_j)` or :math:`-g_i\bar g_j/(\lambda_i+\bar\lambda_j)`.

    Parameters
    ----------
    log_poles, g : complex arrays, shape (..., n)
        As a :class:`balred.DiagonalSystem` holds them; stable.
    conjugate : bool
        Every state stands for itself and its conjugate too: Z is real, of the system :meth:`DiagonalSystem.to_dense`.
    full : bool, default False
        Take every step, also those whose pivots are negligible beside the first.

    Returns
    -------
    array, shape (..., n, k) complex, or (..., 2n, 2k) real
        Columns by decreasing pivots.

    References
    ----------
    I. Gohberg, T. Kailath and V. Olshevsky, Fast Gaussian elimination with partial pivoting for matrices with
    displacement structure, Math. Comp. 64 (1995); T. Haut and G. Beylkin, Fast and accurate con-eigenvalue algorithm
    for optimal rational approximations, SIAM J. Matrix Anal. Appl. 33 (2012).
    """
    xp = namespace(log_poles)
    s, g = _half_plane(log_poles, g) if discrete else (log_poles, g)
    n = int(s.shape[-1])
    gap = -2 * xp.real(s)
    negligible = (float(xp.finfo(gap.dtype).eps) / n) ** 2
    columns, first = [], None
    for _ in range(n):
        size = xp.real(g * xp.conj(g)) / gap
        k = xp.argmax(size, axis=-1, keepdims=True)
        pivot = xp.take_along_axis(size, k, axis=-1)
        first = pivot if first is None else first
        if not full and not bool(xp.any(pivot > negligible * first)):
            break
        if conjugate:
            g, pair = _eliminate_pair(s, g, k, gap)
            columns += pair
        else:
            g, column = _eliminate(s, g, k, gap)
            columns.append(column)
    Z = xp.stack(columns, axis=-1)
    if not conjugate:
        return Z
    root = math.sqrt(2.0)
    return xp.concat([root * xp.real(Z), root * xp.imag(Z)], axis=-2)


def _half_plane(l: Array, g: Array) -> tuple[Array, Array]:
    r"""Poles and generator in continuous time: :math:`s = \tanh(l/2)`, :math:`1-\lambda_i\bar\lambda_j = -2(s_i+\bar s_j)/((1-s_i)(1-\bar s_j))`."""
    xp = namespace(l)
    x, y = xp.real(l), xp.imag(l)
    half, cosine = xp.sinh(x / 2), xp.cos(y / 2)
    # both terms positive: no digits are lost near the unit circle
    below = 2 * (half * half + cosine * cosine)
    s = xp.sinh(x) / below + 1j * (xp.sin(y) / below)
    return s, g * (1 - s) / math.sqrt(2.0)


def _eliminate(s: Array, g: Array, k: Array, gap: Array) -> tuple[Array, Array]:
    """The generator of the Schur complement of state k, and its column of the factor."""
    xp = namespace(s)
    sk, dk = xp.take_along_axis(s, k, axis=-1), xp.take_along_axis(gap, k, axis=-1)
    ratio = g / (s + xp.conj(sk))
    return ratio * (s - sk), -ratio * xp.sqrt(dk)


def _eliminate_pair(s: Array, g: Array, k: Array, gap: Array) -> tuple[Array, list[Array]]:
    r"""The same for state k and its conjugate together, with two columns that are real in the real coordinates.

    The pivot block is :math:`\begin{pmatrix}\alpha&\beta\\\bar\beta&\alpha\end{pmatrix}`, with eigenvalues
    :math:`\alpha\pm|\beta|` and eigenvectors :math:`(z, \bar z)`, :math:`z = e^{i\arg(\beta)/2}/\sqrt2` or i times that;
    a unitary matrix takes the columns of two single steps to those of the eigenvectors.
    """
    xp = namespace(s)
    sk, gk, dk = (xp.take_along_axis(x, k, axis=-1) for x in (s, g, gap))
    mate = xp.conj(sk)
    size = xp.abs(gk)
    phase = xp.where(size > 0, gk / xp.where(size > 0, size, xp.ones_like(size)), xp.ones_like(gk))
    ratio = g / (s + mate)
    u = -ratio * xp.sqrt(dk) * xp.conj(phase)
    g = ratio * (s - sk)
    # at the conjugate state: the second pivot is real and positive after this phase
    gm = xp.conj(phase) * (mate - sk) / (2 * mate)
    height = xp.abs(gm)
    real_pole = height == 0
    turn = gm / xp.where(real_pole, xp.ones_like(height), height)
    ratio = g / (s + sk)
    v = xp.where(real_pole, xp.zeros_like(g), -ratio * xp.sqrt(dk) * xp.conj(turn))
    g = xp.where(real_pole, g, ratio * (s - mate))
    # beta / alpha = (g^2 / d_kk') / (|g|^2 / d_kk), and alpha^2 - |beta|^2 = alpha^2 |height|^2 exactly
    beta = -(phase * phase) * dk / (2 * sk)
    z = xp.sqrt(beta / xp.abs(beta)) / math.sqrt(2.0)
    plus = xp.sqrt(1 + xp.abs(beta))
    minus = height / plus
    # the phase of the second pivot's column relative to the Cholesky factor of the block
    return g, [u * (z * plus) + v * (xp.conj(z) * minus), u * (1j * z * minus) - v * (1j * xp.conj(z) * plus)]


def siso_hankel(log_poles: Array, b: Array, c: Array, *, discrete: bool, conjugate: bool, full: bool = False) -> Array:
    r"""A symmetric matrix whose singular values are the Hankel singular values of single-input, single-output systems.

    Where states are scaled so that :math:`|b_i| = |c_i|`, the two Gramians are :math:`P` and
    :math:`\Theta\bar P\Theta^H` with unitary diagonal :math:`\Theta = \mathrm{diag}(e^{i(\arg b_i-\arg c_i)})`: one
    factor :math:`P = LL^H` gives :math:`L^T\bar\Theta L`, whose singular values are those of :math:`Z_q^HZ_p`.

    Parameters
    ----------
    log_poles, b, c : complex arrays, shape (..., n)

    Returns
    -------
    array, shape (..., k, k) complex symmetric, or (..., 2k, 2k) real symmetric where `conjugate`
    """
    xp = namespace(log_poles)
    product = b * c
    size = xp.abs(product)
    nonzero = size > 0
    turn = xp.where(nonzero, product / xp.where(nonzero, size, xp.ones_like(size)), xp.ones_like(product))
    height = xp.abs(b)
    phase = xp.where(nonzero, b / xp.where(nonzero, height, xp.ones_like(height)), xp.ones_like(product))
    # conj(Theta_i) = e^{i (arg c - arg b)} = e^{i arg(bc)} e^{-2i arg b}
    theta = turn * xp.conj(phase * phase)
    Z = cauchy_factor(log_poles, xp.sqrt(size) * phase, discrete=discrete, conjugate=conjugate, full=full)
    ZT = xp.matrix_transpose(Z)
    if not conjugate:
        return ZT @ (theta[..., :, None] * Z)
    n = int(log_poles.shape[-1])
    re, im = Z[..., :n, :], Z[..., n:, :]
    cos, sin = xp.real(theta)[..., :, None], xp.imag(theta)[..., :, None]
    return ZT @ xp.concat([cos * re - sin * im, -(sin * re + cos * im)], axis=-2)
