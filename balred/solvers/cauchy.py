r"""Gramian factors of diagonal systems with one input (or one output), entry by entry to high relative accuracy.

Such a Gramian is Cauchy-like, :math:`P_{ij} = g_i\bar g_j/d_{ij}`, and so is every Schur complement of it: eliminating
state k multiplies :math:`g_i` by a Blaschke factor of its pole.  A pivoted Cholesky factorisation thus costs
:math:`O(n)` a step instead of :math:`O(n^2)`, subtracts only data from data, and is run for thousands of channels at once
[Gohberg, Kailath & Olshevsky 1995; Haut & Beylkin 2012].
"""

from __future__ import annotations

import math

from balred.systems.arrays import Array, namespace, on_host


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
    columns = _columns(log_poles, g, discrete, conjugate, full)
    xp = namespace(log_poles)
    if not conjugate:
        return xp.stack(columns, axis=-1)
    halves = [xp.stack([part(x) for x in columns], axis=-1) for part in (xp.real, xp.imag)]
    return math.sqrt(2.0) * xp.concat(halves, axis=-2)


def half_plane(l: Array, g: Array | float) -> tuple[Array, Array]:
    r"""Poles and generator in continuous time: :math:`s = \tanh(l/2)`, :math:`1-\lambda_i\bar\lambda_j = -2(s_i+\bar s_j)/((1-s_i)(1-\bar s_j))`."""
    xp = namespace(l)
    x, y = xp.real(l), xp.imag(l)
    x = xp.where(x < -80, xp.full_like(x, -80.0), x)  # a pole below 1e-34 is zero, and its sinh would overflow
    half, cosine = xp.sinh(x / 2), xp.cos(y / 2)
    # both terms positive: no digits are lost near the unit circle
    below = 2 * (half * half + cosine * cosine)
    s = xp.sinh(x) / below + 1j * (xp.sin(y) / below)
    return s, g * (1 - s) / math.sqrt(2.0)


def _columns(l: Array, g: Array, discrete: bool, conjugate: bool, full: bool) -> list[Array]:
    """The factor's columns, each of shape (..., n): two a step for the stored half of a conjugate system."""
    xp = namespace(l)
    s, g = half_plane(l, g) if discrete else (l, g)
    n = int(s.shape[-1])
    gap = -2 * xp.real(s)
    negligible = (float(xp.finfo(gap.dtype).eps) / n) ** 2
    # what computes elsewhere is not asked, neither here nor at every step: it would have to be waited for
    ask, first = on_host(s), None
    pairs = ask and not bool(xp.any(xp.imag(s) == 0))
    poles: list[Array] = []
    pivots: list[Array] = []
    ratios: list[Array] = []
    for _ in range(n):
        re, im = xp.real(g), xp.imag(g)
        size = (re * re + im * im) / gap
        if ask and not full:
            pivot = xp.max(size, axis=-1)
            first = pivot if first is None else first
            if ratios and not bool(xp.any(pivot > negligible * first)):
                break
        k = xp.argmax(size, axis=-1, keepdims=True)
        sk = xp.take_along_axis(s, k, axis=-1)
        down, up = s - sk, s + xp.conj(sk)
        if conjugate:
            down, up = down * _to_mate(s, xp.conj(sk), sk, pairs), up * _to_mate(s, -sk, sk, pairs)
        ratio = g / up
        g = ratio * down
        poles.append(sk)
        pivots.append(k)
        ratios.append(ratio)
    if not conjugate:
        return [xp.sqrt(-2 * xp.real(sk)) * ratio for sk, ratio in zip(poles, ratios, strict=True)]
    at_pivots = [xp.take_along_axis(ratio, k, axis=-1) for ratio, k in zip(ratios, pivots, strict=True)]
    weights = _turned(xp.stack(poles), xp.stack(at_pivots))
    columns = []
    for i, (sk, ratio) in enumerate(zip(poles, ratios, strict=True)):
        u, v = ratio * _to_mate(s, -sk, sk, pairs), ratio * (s - sk)
        columns += [weights[0][i] * u + weights[1][i] * v, weights[2][i] * u - weights[3][i] * v]
    return columns


def _to_mate(s: Array, point: Array, sk: Array, pairs: bool) -> Array:
    """``s - point``, the factor of the conjugate of pole sk; a real pole has none, so 1 (there is none if `pairs`)."""
    away = s - point
    if pairs:
        return away
    xp = namespace(s)
    return xp.where(xp.imag(sk) == 0, xp.ones_like(away), away)


def _turned(sk: Array, at_pivot: Array) -> list[Array]:
    r"""Weights of two columns of single steps, for state k and its conjugate, in two that are real in the real coordinates.

    Given is :math:`g_k/((s_k+\bar s_k)(s_k+s_k))`.  The pivot block is
    :math:`\begin{pmatrix}\alpha&\beta\\\bar\beta&\alpha\end{pmatrix}`, with eigenvalues
    :math:`\alpha\pm|\beta|` and eigenvectors :math:`(z, \bar z)`, :math:`z = e^{i\arg(\beta)/2}/\sqrt2` or i times that;
    a unitary matrix takes the columns of the single steps to those of the eigenvectors.
    """
    xp = namespace(sk)
    dk, mate = -2 * xp.real(sk), xp.conj(sk)
    gk = -at_pivot * _to_mate(sk, -sk, sk, pairs=False)  # but for a positive factor
    size = xp.abs(gk)
    phase = xp.where(size > 0, gk / xp.where(size > 0, size, xp.ones_like(size)), xp.ones_like(gk))
    # at the conjugate state: the second pivot is real and positive after this phase
    gm = xp.conj(phase) * (mate - sk) / (2 * mate)
    height = xp.abs(gm)
    turn = gm / xp.where(height > 0, height, xp.ones_like(height))
    # beta / alpha = (g^2 / d_kk') / (|g|^2 / d_kk), and alpha^2 - |beta|^2 = alpha^2 |height|^2 exactly
    beta = -(phase * phase) * dk / (2 * sk)
    z = xp.sqrt(beta / xp.abs(beta)) / math.sqrt(2.0)
    plus = xp.sqrt(1 + xp.abs(beta))
    minus = height / plus
    # the phase of the second pivot's column relative to the Cholesky factor of the block
    u, v = xp.sqrt(dk) * xp.conj(phase) * z, xp.sqrt(dk) * xp.conj(turn * z)
    return [u * plus, v * minus, u * (1j * minus), v * (1j * plus)]


def siso_hankel(log_poles: Array, root: Array, *, discrete: bool, conjugate: bool, full: bool = False) -> Array:
    r"""A symmetric matrix whose singular values are the Hankel singular values of single-input, single-output systems.

    Where states are scaled so that :math:`b_i = c_i = \sqrt{b_ic_i}`, the system is its own transpose and
    :math:`Q = \bar P`: one factor :math:`P = LL^H` gives :math:`L^TL`, whose singular values are those of
    :math:`Z_q^HZ_p`.

    Parameters
    ----------
    log_poles : complex array, shape (..., n)
    root : complex array, shape (..., n)
        :math:`\sqrt{b_ic_i}`, of either sign.

    Returns
    -------
    array, shape (..., k, k) complex symmetric, or (..., 2k, 2k) real symmetric where `conjugate`
    """
    xp = namespace(log_poles)
    columns = _columns(log_poles, root, discrete, conjugate, full)
    if not conjugate:
        L = xp.stack(columns, axis=-2)
        return L @ xp.matrix_transpose(L)
    R, J = (xp.stack([part(x) for x in columns], axis=-2) for part in (xp.real, xp.imag))
    return 2 * (R @ xp.matrix_transpose(R) - J @ xp.matrix_transpose(J))
