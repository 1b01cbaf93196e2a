r"""Gramians of diagonal systems in closed form, from the logarithms of the poles.

:math:`P_{ij} = (BB^H)_{ij}/(1-\lambda_i\bar\lambda_j)`, written in continuous time; a conjugate system's Gramians are those
of its real form.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from balred.solvers.cauchy import cauchy_factor, half_plane, siso_hankel
from balred.systems import arrays
from balred.systems.arrays import Array, backend, backend_of, ct, is_concrete, namespace, to_numpy
from balred.systems.diagonal_system import DiagonalSystem
from balred.systems.leaves import unit_of
from balred.systems.poles import check_stable


def closed_form_factors(system: DiagonalSystem, *, relative: bool = False) -> tuple[Array, Array]:
    """Factors of both Gramians of a stable diagonal system, in its own precision.

    With one input (one output) by elimination in the Cauchy-like structure, else from the Gramian itself.  `relative`
    asks for every entry to high relative accuracy, which only the elimination gives.
    """
    xp = namespace(system.B)
    if relative and not is_siso(system):
        raise ValueError(
            "solver 'cauchy' takes systems with one input and one output, and concrete values (no traced arrays), got "
            f"{system.B.shape[-1]} inputs and {system.C.shape[-2]} outputs"
        )
    if not is_concrete(*system.leaves):  # nobody could look at the poles: an unstable member becomes NaN
        stable = xp.max(arrays.real(system.log_poles), axis=-1) < 0
        Zp, Zq = (xp.where(stable[..., None, None], Z, xp.nan) for Z in _full_factors(system))
        return Zp, Zq
    one_input, one_output = system.B.shape[-1] == 1, system.C.shape[-2] == 1
    Zp = Zq = None
    if one_input:
        Zp = _structured_factor(system, system.log_poles, system.B[..., :, 0], relative)
    if one_output:
        Zq = _structured_factor(system, xp.conj(arrays.to_complex(system.log_poles)), ct(system.C)[..., :, 0], relative)
    if Zp is None or Zq is None:
        Zs = _full_factors(system)
        Zp, Zq = Zs[0] if Zp is None else Zp, Zs[1] if Zq is None else Zq
    return Zp, Zq


def _full_factors(system: DiagonalSystem) -> tuple[Array, Array]:
    """From the Gramians themselves, each state in units of its own inputs and outputs, whose squares are numbers."""
    xp = namespace(system.B)
    b, c = unit_of(system.B, axis=-1), unit_of(system.C, axis=-2)
    P, Q = diagonal_gramians(dataclasses.replace(system, B=system.B / _as(system.B, b), C=system.C / _as(system.C, c)))
    c = xp.matrix_transpose(c)
    if system.conjugate:
        b, c = (xp.concat([x, x], axis=-2) for x in (b, c))
    Zp, Zq = _gramian_factor(P), _gramian_factor(Q)
    return Zp * _as(Zp, b), Zq * _as(Zq, c)


def squared_values_matrix(system: DiagonalSystem) -> tuple[Array, Array]:
    r""":math:`Z_p^HQZ_p` of a stable system, whose eigenvalues are squares of its Hankel singular values in some unit, and that.

    One factor of one Gramian is enough for it.
    """
    xp = namespace(system.B)
    b, c = unit_of(system.B, axis=-1), unit_of(system.C, axis=-2)
    P, Q = diagonal_gramians(dataclasses.replace(system, B=system.B / _as(system.B, b), C=system.C / _as(system.C, c)))
    d = b * xp.matrix_transpose(c)
    unit = xp.max(d, axis=-2, keepdims=True)
    d = d / unit
    Z = _gramian_factor(P) * _as(P, xp.concat([d, d], axis=-2) if system.conjugate else d)
    return backend_of(Z).congruent(Z, Q), unit[..., 0]


def is_siso(system: DiagonalSystem) -> bool:
    """Whether there is one input and one output, with values that can be looked at."""
    return system.B.shape[-1] == system.C.shape[-2] == 1 and is_concrete(*system.leaves)


def siso_values(system: DiagonalSystem, *, relative: bool = False) -> Array:
    """Hankel singular values of a stable diagonal system (or a batch) with one input and one output.

    Each to high relative accuracy where `relative`, at several times the cost.
    """
    check_stable(system)

    def values(l: Array, root: Array) -> Array:
        M = siso_hankel(l, root, discrete=system.discrete, conjugate=system.conjugate, full=relative)
        xp = namespace(M)
        if relative:
            host: Array = backend("numpy").graded_singular_values(to_numpy(M))
            return backend_of(M).from_numpy(host, like=M, real=True)
        if arrays.is_complex(M):
            return xp.linalg.svdvals(M)
        return xp.sort(xp.abs(xp.linalg.eigvalsh(M)), axis=-1, descending=True)

    xp = namespace(system.B)
    # only the product of b and c counts, which need not be a number where its root is
    root = xp.sqrt(arrays.to_complex(system.B[..., :, 0])) * xp.sqrt(arrays.to_complex(system.C[..., 0, :]))
    unit = unit_of(root, axis=-1)
    root = root / _as(root, unit)
    batch = tuple(system.B.shape[:-2])
    found: Array = backend_of(system.B).over_batch(values, batch, arrays.to_complex(system.log_poles), root)
    return found * unit * unit


def _structured_factor(system: DiagonalSystem, log_poles: Array, g: Array, full: bool) -> Array:
    be = backend_of(system.B)

    def factor(l: Array, g: Array) -> Array:
        return cauchy_factor(l, g, discrete=system.discrete, conjugate=system.conjugate, full=full)

    batch, unit = tuple(g.shape[:-1]), unit_of(g, axis=-1)
    Z: Array = be.over_batch(factor, batch, arrays.to_complex(log_poles), arrays.to_complex(g / _as(g, unit)))
    return Z * _as(Z, unit)[..., None]


def diagonal_gramians(system: DiagonalSystem) -> tuple[Array, Array]:
    r"""Gramians in closed form, in the coordinates of :meth:`DiagonalSystem.to_dense`.

    :math:`P = GG^H \circ R` and :math:`\bar Q = HH^H \circ R` with G, H, R of :func:`generators`.
    """
    xp = namespace(system.B)
    g = generators(system)
    if not system.conjugate:
        P, Q = ((x @ ct(x)) * g.R for x in (g.G, g.H))
        return P, xp.conj(Q)
    if isinstance(g.R, np.ndarray):
        P, Q = (_in_real_products(x, g.R) for x in (g.G, g.H))
        n = Q.shape[-1] // 2
        for block in (Q[..., :n, n:], Q[..., n:, :n]):  # of the conjugate
            np.negative(block, out=block)
        return P, Q
    P, Q = ((x @ mirrored(x, conjugate=True)) * g.R for x in (g.G, g.H))
    return _realified(P), _realified(xp.conj(Q))


class Generators(NamedTuple):
    r"""What the Gramians of a diagonal system are made of, in continuous time.

    Attributes
    ----------
    s : array, shape (..., n)
        Poles, those of discrete time by the bilinear map :math:`s = \tanh(\frac12\log\lambda)`, which leaves Gramians as
        they are where G and H carry its factors.
    G, H : arrays, shape (..., n, inputs) and (..., n, outputs)
        B and the transpose of C, each with that factor.
    R : array, shape (..., n, n) or (..., n, 2n)
        :math:`-1/(s_i+\bar s_j)`; of a conjugate system also the columns of the other halves, :math:`-1/(s_i+s_j)`.
    scale : array, shape (..., n), or None
        The factor, :math:`(1-s)/\sqrt2`; None in continuous time.
    """

    s: Array
    G: Array
    H: Array
    R: Array
    scale: Array | None


def generators(system: DiagonalSystem) -> Generators:
    """The generators of both Gramians of `system`; n numbers need transcendental functions, n^2 only arithmetic.

    Examples
    --------
    >>> import balred, numpy as np
    >>> from balred.solvers.closed_form import generators
    >>> g = generators(balred.diagonal(poles=np.array([-1.0, -2.0]), B=np.ones((2, 1)), C=np.ones((1, 2))))
    >>> g.R.real.round(6)  # 1/2, 1/3 and 1/4
    array([[0.5     , 0.333333],
           [0.333333, 0.25    ]])
    """
    xp = namespace(system.B)
    s, G, H = (arrays.to_complex(x) for x in (system.log_poles, system.B, xp.matrix_transpose(system.C)))
    scale = None
    if system.discrete:
        s, scale = half_plane(s, 1.0)
        G, H = G * scale[..., :, None], H * scale[..., :, None]
    other = xp.concat([xp.conj(s), s], axis=-1) if system.conjugate else xp.conj(s)
    return Generators(s, G, H, 1 / ((-s)[..., :, None] + (-other)[..., None, :]), scale)


def mirrored(G: Array, conjugate: bool) -> Array:
    """``G^H``, beside it ``G^T`` for the other halves of a conjugate system's states."""
    xp = namespace(G)
    return xp.concat([ct(G), xp.matrix_transpose(G)], axis=-1) if conjugate else ct(G)


def _realified(P: Array) -> Array:
    """Gramian of (x, conj x), given by its upper half, in the coordinates sqrt(2) (Re x, Im x)."""
    xp = namespace(P)
    n = int(P.shape[-2])
    both, between = P[..., :, :n] + P[..., :, n:], P[..., :, :n] - P[..., :, n:]
    return xp.concat(
        [
            xp.concat([xp.real(both), -xp.imag(between)], axis=-1),
            xp.concat([xp.imag(both), xp.real(between)], axis=-1),
        ],
        axis=-2,
    )


def _in_real_products(G: Array, R: Array) -> Array:
    """What :func:`_realified` makes of ``(G [G^H, G^T]) * R``, in NumPy: the real product of the halves of G has all four parts of both."""
    n, halves = G.shape[-2], np.concatenate([G.real, G.imag], axis=-2)
    # copied, since of a matrix and its own transpose NumPy computes half and mirrors it, which takes longer
    out: Array = halves @ np.swapaxes(halves, -1, -2).copy()
    rr, ri, ir, ii = out[..., :n, :n], out[..., :n, n:], out[..., n:, :n], out[..., n:, n:]
    own, other = np.empty(rr.shape, G.dtype), np.empty(rr.shape, G.dtype)
    np.add(rr, ii, out=own.real)
    np.subtract(ir, ri, out=own.imag)
    np.subtract(rr, ii, out=other.real)
    np.add(ir, ri, out=other.imag)
    own *= R[..., :n]
    other *= R[..., n:]
    np.add(own.real, other.real, out=rr)
    np.subtract(other.imag, own.imag, out=ri)
    np.add(own.imag, other.imag, out=ir)
    np.subtract(own.real, other.real, out=ii)
    return out


def _gramian_factor(P: Array) -> Array:
    """Square-root factor of a positive semidefinite matrix, scaled to unit diagonal first for its digits."""
    xp = namespace(P)
    d = xp.sqrt(xp.maximum(arrays.real(xp.linalg.diagonal(P)), arrays.zeros(arrays.real(P), ())))
    d = xp.where(d > 0, d, xp.ones_like(d))
    d = _as(P, d)
    return d[..., :, None] * backend_of(P).semidefinite_factor(P / (d[..., :, None] * d[..., None, :]))


def _as(like: Array, x: Array) -> Array:
    return namespace(x).astype(x, like.dtype)


def complexified(G: Array) -> Array:
    """From the real coordinates sqrt(2) (Re x, Im x) back to the upper half of (x, conj x): the inverse of ``_realified``."""
    xp = namespace(G)
    n = int(G.shape[-1]) // 2
    rr, rs, sr, ss = G[..., :n, :n], G[..., :n, n:], G[..., n:, :n], G[..., n:, n:]
    return xp.concat([(rr + ss) + 1j * (sr - rs), (rr - ss) + 1j * (sr + rs)], axis=-1) / 2
