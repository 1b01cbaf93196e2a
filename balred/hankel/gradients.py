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
from balred.systems.leaves import Ports, System, moderate


def cotangents(sp: Spectrum, stable: System, g: Array) -> tuple[Array, ...]:
    r"""Gradient of :math:`\sum g_i\sigma_i` with respect to the leaves.

    With :math:`w_i = Z_qu_i\sigma_i^{-1/2}` and :math:`t_i = Z_pv_i\sigma_i^{-1/2}`,
    :math:`d\sigma_i = \frac12(w_i^H\,dP\,w_i + t_i^H\,dQ\,t_i)`; the adjoint of a Lyapunov equation is a Lyapunov
    equation.  Values below the numerical rank contribute nothing.
    """
    xp = namespace(sp.Zp)
    system, Zp, Zq, s = sp.system, sp.Zp, sp.Zq, sp.s
    ports: Ports | None = None
    if isinstance(stable, DenseSystem) and isinstance(system, DenseSystem):
        system, Zp, Zq, ports = in_moderate_units(system, Zp, Zq)
    if ports is not None:
        s = s / ports.inputs[..., 0] / ports.outputs[..., 0] * ports.time[..., 0]
    alive = s > system.order * arrays.eps(s) * s[..., :1]
    weight = xp.where(alive, g / (2 * xp.where(alive, s, xp.ones_like(s))), xp.zeros_like(s))
    weight = xp.astype(weight, Zp.dtype)[..., None, :]
    W, T = Zq @ sp.U, Zp @ sp.V
    GP, GQ = (W * weight) @ ct(W), (T * weight) @ ct(T)
    if isinstance(stable, DenseSystem):
        assert isinstance(system, DenseSystem)
        found = _dense_cotangents(system, Zp, Zq, GP, GQ)
        return sp.coordinates.cotangents(*(found if ports is None else in_given_units(found, ports, ports.time)))
    return _diagonal_cotangents(stable, GP, GQ)


def in_moderate_units(g: DenseSystem, Zp: Array, Zq: Array) -> tuple[DenseSystem, Array, Array, Ports | None]:
    """A system and factors of its Gramians in units in which the squares of all these are numbers; None where they are."""
    g, ports = moderate(g)
    if ports is None:
        return g, Zp, Zq, None
    xp = namespace(Zp)
    root = xp.astype(xp.sqrt(ports.time), Zp.dtype)
    inputs, outputs = (xp.astype(x, Zp.dtype) for x in (ports.inputs, ports.outputs))
    return g, Zp / inputs * root, Zq / outputs * root, ports


def in_given_units(found: tuple[Array, ...], ports: Ports, per: Array) -> tuple[Array, ...]:
    """Derivatives for the given system, of a number that is inputs outputs / `per` times that of the system in moderate units."""
    dA, dB, dC = found
    xp = namespace(dA)
    time, inputs, outputs, per = (xp.astype(x, dA.dtype) for x in (*ports, per))
    return dA * (inputs / time) * (outputs / per), dB * (outputs / per), dC * (inputs / per)


def _dense_cotangents(g: DenseSystem, Zp: Array, Zq: Array, GP: Array, GQ: Array) -> tuple[Array, ...]:
    P, Q = Zp @ ct(Zp), Zq @ ct(Zq)
    X = lyapunov(ct(g.A), GP, g.discrete)
    Y = lyapunov(g.A, GQ, g.discrete)
    dA = (X @ g.A @ P + Q @ g.A @ Y) if g.discrete else (X @ P + Q @ Y)
    return 2 * dA, 2 * X @ g.B, 2 * g.C @ Y


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
