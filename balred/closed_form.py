r"""Gramians of diagonal systems in closed form, from the logarithms of the poles.

:math:`P_{ij} = (BB^H)_{ij}/(1-\lambda_i\bar\lambda_j)`; a conjugate system's Gramians are those of its real form.
"""

from __future__ import annotations

from balred import arrays
from balred.arrays import Array, backend, backend_of, ct, is_concrete, namespace, to_numpy
from balred.cauchy import cauchy_factor, siso_hankel
from balred.poles import check_stable
from balred.systems import DiagonalSystem


def closed_form_factors(system: DiagonalSystem, *, relative: bool = False) -> tuple[Array, Array]:
    """Factors of both Gramians of a stable diagonal system, in its own precision.

    With one input (one output) by elimination in the Cauchy-like structure, else from the Gramian itself.  `relative`
    asks for every entry to high relative accuracy, which only the elimination gives.
    """
    xp = namespace(system.B)
    if relative and not is_siso(system):
        raise ValueError(
            "solver 'cauchy' takes systems with one input and one output and values that can be looked at, got "
            f"{system.B.shape[-1]} inputs and {system.C.shape[-2]} outputs"
        )
    if not is_concrete(*system.leaves):  # nobody could look at the poles: an unstable member becomes NaN
        stable = xp.max(arrays.real(system.log_poles), axis=-1) < 0
        P, Q = (xp.where(stable[..., None, None], G, xp.nan) for G in diagonal_gramians(system))
        return _eigh_factor(P), _eigh_factor(Q)
    one_input, one_output = system.B.shape[-1] == 1, system.C.shape[-2] == 1
    Zp = Zq = None
    if one_input:
        Zp = _structured_factor(system, system.log_poles, system.B[..., :, 0], relative)
    if one_output:
        Zq = _structured_factor(system, xp.conj(arrays.to_complex(system.log_poles)), ct(system.C)[..., :, 0], relative)
    if Zp is None or Zq is None:
        P, Q = diagonal_gramians(system)
        Zp, Zq = _eigh_factor(P) if Zp is None else Zp, _eigh_factor(Q) if Zq is None else Zq
    return Zp, Zq


def is_siso(system: DiagonalSystem) -> bool:
    """Whether there is one input and one output, with values that can be looked at."""
    return system.B.shape[-1] == system.C.shape[-2] == 1 and is_concrete(*system.leaves)


def siso_values(system: DiagonalSystem, *, relative: bool = False) -> Array:
    """Hankel singular values of a stable diagonal system (or a batch) with one input and one output.

    Each to high relative accuracy where `relative`, at several times the cost.
    """
    check_stable(system)

    def values(l: Array, b: Array, c: Array) -> Array:
        M = siso_hankel(l, b, c, discrete=system.discrete, conjugate=system.conjugate, full=relative)
        xp = namespace(M)
        if relative:
            host: Array = backend("numpy").graded_singular_values(to_numpy(M))
            return backend_of(M).from_numpy(host, like=M, real=True)
        if arrays.is_complex(M):
            return xp.linalg.svdvals(M)
        return xp.sort(xp.abs(xp.linalg.eigvalsh(M)), axis=-1, descending=True)

    leaves = (system.log_poles, system.B[..., :, 0], system.C[..., 0, :])
    batch = tuple(system.B.shape[:-2])
    return backend_of(system.B).over_batch(values, batch, *(arrays.to_complex(x) for x in leaves))


def _structured_factor(system: DiagonalSystem, log_poles: Array, g: Array, full: bool) -> Array:
    be = backend_of(system.B)

    def factor(l: Array, g: Array) -> Array:
        return cauchy_factor(l, g, discrete=system.discrete, conjugate=system.conjugate, full=full)

    batch = tuple(g.shape[:-1])
    return be.over_batch(factor, batch, arrays.to_complex(log_poles), arrays.to_complex(g))


def diagonal_gramians(system: DiagonalSystem) -> tuple[Array, Array]:
    r"""Gramians in closed form, in the coordinates of :meth:`DiagonalSystem.to_dense`.

    :math:`P_{ij} = (BB^H)_{ij} / d_{ij}`, :math:`Q_{ij} = (C^HC)_{ij} / \bar d_{ij}` with d of :func:`cauchy`.
    """
    xp = namespace(system.B)
    g = system.doubled()
    d = cauchy(g)
    B, C = arrays.to_complex(g.B), arrays.to_complex(g.C)
    P, Q = (B @ ct(B)) / d, (ct(C) @ C) / xp.conj(d)
    if not system.conjugate:
        return P, Q
    return _realified(P), _realified(Q)


def cauchy(system: DiagonalSystem) -> Array:
    r"""Denominators of the closed forms, shape (..., n, n).

    :math:`1-\lambda_i\bar\lambda_j = -\mathrm{expm1}(\log\lambda_i+\overline{\log\lambda_j})` in discrete time,
    :math:`-(\lambda_i+\bar\lambda_j)` in continuous time.
    """
    xp = namespace(system.log_poles)
    l = arrays.to_complex(system.log_poles)
    total = l[..., :, None] + xp.conj(l)[..., None, :]
    return -_expm1(total) if system.discrete else -total


def _expm1(z: Array) -> Array:
    """Complex ``expm1`` from real functions: PyTorch lacks the complex one."""
    xp = namespace(z)
    x, y = xp.real(z), xp.imag(z)
    half = xp.sin(y / 2)
    return xp.expm1(x) - 2 * xp.exp(x) * half * half + 1j * (xp.exp(x) * xp.sin(y))


def _realified(P: Array) -> Array:
    """Gramian of (x, conj x) in the coordinates sqrt(2) (Re x, Im x)."""
    xp = namespace(P)
    n = int(P.shape[-1]) // 2
    P1, P2 = P[..., :n, :n], P[..., :n, n:]
    return xp.concat(
        [
            xp.concat([xp.real(P1 + P2), xp.imag(P2 - P1)], axis=-1),
            xp.concat([xp.imag(P1 + P2), xp.real(P1 - P2)], axis=-1),
        ],
        axis=-2,
    )


def _eigh_factor(P: Array) -> Array:
    """Square-root factor of a positive semidefinite matrix, scaled to unit diagonal first for its digits."""
    xp = namespace(P)
    d = xp.sqrt(xp.maximum(arrays.real(xp.linalg.diagonal(P)), arrays.zeros(arrays.real(P), ())))
    d = xp.where(d > 0, d, xp.ones_like(d))
    scaled = P / _as(P, d[..., :, None] * d[..., None, :])
    w, V = xp.linalg.eigh((scaled + ct(scaled)) / 2)
    root = xp.sqrt(xp.where(w > 0, w, xp.zeros_like(w)))
    return _as(P, d)[..., :, None] * V * _as(P, root)[..., None, :]


def _as(like: Array, x: Array) -> Array:
    return namespace(x).astype(x, like.dtype)


def complexified(G: Array) -> Array:
    """From the real coordinates sqrt(2) (Re x, Im x) back to (x, conj x): the inverse of ``_realified``."""
    xp = namespace(G)
    n = int(G.shape[-1]) // 2
    rr, rs, sr, ss = G[..., :n, :n], G[..., :n, n:], G[..., n:, :n], G[..., n:, n:]
    G1 = ((rr + ss) + 1j * (sr - rs)) / 2
    G2 = ((rr - ss) + 1j * (sr + rs)) / 2
    return xp.concat([xp.concat([G1, G2], axis=-1), xp.concat([xp.conj(G2), xp.conj(G1)], axis=-1)], axis=-2)
