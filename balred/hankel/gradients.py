r"""The derivative of Hankel singular values, written out once for every framework.

Singular vectors have no derivative where values repeat, spectral functions do: only those are differentiated.
"""

from __future__ import annotations

import math

from balred.hankel.spectrum import Spectrum
from balred.solvers.closed_form import complexified, generators, mirrored
from balred.solvers.doubling import lyapunov
from balred.solvers.smith import Solved
from balred.systems import arrays
from balred.systems.arrays import Array, ct, namespace
from balred.systems.dense_system import DenseSystem
from balred.systems.diagonal_system import DiagonalSystem
from balred.systems.leaves import System


def cotangents(sp: Spectrum, stable: System, g: Array) -> tuple[Array, ...]:
    r"""Gradient of :math:`\sum g_i\sigma_i` with respect to the leaves.

    With :math:`w_i = Z_qu_i\sigma_i^{-1/2}` and :math:`t_i = Z_pv_i\sigma_i^{-1/2}`,
    :math:`d\sigma_i = \frac12(w_i^H\,dP\,w_i + t_i^H\,dQ\,t_i)`; the adjoint of a Lyapunov equation is a Lyapunov
    equation.  Values below the numerical rank contribute nothing.
    """
    xp = namespace(sp.Zp)
    alive = sp.s > sp.system.order * arrays.eps(sp.s) * sp.s[..., :1]
    weight = xp.where(alive, g / (2 * xp.where(alive, sp.s, xp.ones_like(sp.s))), xp.zeros_like(sp.s))
    weight = xp.astype(weight, sp.Zp.dtype)[..., None, :]
    W, T = sp.Zq @ sp.U, sp.Zp @ sp.V
    GP, GQ = (W * weight) @ ct(W), (T * weight) @ ct(T)
    if isinstance(stable, DenseSystem):
        return _dense_cotangents(sp, GP, GQ)
    return _diagonal_cotangents(stable, GP, GQ)


def _dense_cotangents(sp: Spectrum, GP: Array, GQ: Array) -> tuple[Array, ...]:
    g = sp.system
    P, Q = sp.Zp @ ct(sp.Zp), sp.Zq @ ct(sp.Zq)
    X = lyapunov(ct(g.A), GP, g.discrete)
    Y = lyapunov(g.A, GQ, g.discrete)
    dA = (X @ g.A @ P + Q @ g.A @ Y) if g.discrete else (X @ P + Q @ Y)
    return sp.coordinates.cotangents(2 * dA, 2 * X @ g.B, 2 * g.C @ Y)


def _diagonal_cotangents(system: DiagonalSystem, GP: Array, GQ: Array) -> tuple[Array, ...]:
    if system.conjugate:
        GP, GQ = complexified(GP), complexified(GQ)
    return weighted_cotangents(system, GP, namespace(GQ).conj(GQ))


def weighted_cotangents(system: DiagonalSystem, WP: Array, WQ: Array) -> tuple[Array, ...]:
    r"""Gradient of :math:`\mathrm{Re}\langle W_P, P\rangle + \mathrm{Re}\langle W_Q, \bar Q\rangle` with respect to the leaves.

    The weights are Hermitian; of a conjugate system they are the upper halves, in the coordinates (x, conj x).  The
    Gramians, :math:`GG^H \circ R` and :math:`HH^H \circ R` with :func:`balred.solvers.closed_form.generators`, are never made:
    :math:`dR_{ij} = R_{ij}^2(ds_i + d\bar s_j)`, so that two products with G give all.
    """
    xp = namespace(system.B)
    g = generators(system)
    R = xp.conj(g.R)
    twice = 4.0 if system.conjugate else 2.0  # once for each half

    def side(G: Array, W: Array) -> tuple[Array, Array]:
        other = ct(mirrored(G, system.conjugate))
        E = W * R
        return twice * (E @ other), twice * xp.sum(xp.conj(G) * ((E * R) @ other), axis=-1)

    dG, ds = side(g.G, WP)
    dH, more = side(g.H, WQ)
    ds = ds + more
    if g.scale is None:
        return ds, dG, xp.matrix_transpose(dH)
    back = xp.conj(g.scale)[..., :, None]
    B, C = arrays.to_complex(system.B), xp.matrix_transpose(arrays.to_complex(system.C))
    ds = ds - (xp.sum(dG * xp.conj(B), axis=-1) + xp.sum(dH * xp.conj(C), axis=-1)) / math.sqrt(2.0)
    return ds * xp.conj((1 - g.s * g.s) / 2), dG * back, xp.matrix_transpose(dH * back)


def energy_cotangents(found: Solved) -> tuple[Array, ...]:
    r"""Gradient of the squared H2 norm :math:`\mathrm{tr}(CPC^H)` without D, with respect to the leaves.

    The same sum is :math:`\mathrm{tr}(B^HQB)`, so that Q is its cotangent with respect to :math:`BB^H` and P that with
    respect to :math:`C^HC`.
    """
    system, Zp, Zq, coordinates = found[:4]
    P, Q = Zp @ ct(Zp), Zq @ ct(Zq)
    if isinstance(system, DenseSystem):
        dA = Q @ system.A @ P if system.discrete else Q @ P
        return coordinates.cotangents(2 * dA, 2 * Q @ system.B, 2 * system.C @ P)
    g = system.to_dense()
    dl, dB, _ = _diagonal_cotangents(system, ct(g.C) @ g.C, 0 * P)
    _, _, dC = _diagonal_cotangents(system, 0 * Q, g.B @ ct(g.B))
    return dl, dB, dC
