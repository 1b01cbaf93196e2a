r"""The covariance of the outputs under noise at the inputs, as MATLAB and python-control compute it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from balred.registry.reading import system_of
from balred.solvers.gramians import factors
from balred.systems.arrays import (
    Array,
    backend_of,
    ct,
    double_precision,
    eps,
    full,
    is_complex,
    is_concrete,
    namespace,
    to_complex,
)
from balred.systems.checks import check_representable, host_array
from balred.systems.diagonal_system import DiagonalSystem
from balred.systems.leaves import at_hand, cast_like, with_leaves
from balred.systems.poles import check_stable


def covar(obj: Any, W: Any = 1.0, *, solver: str | None = None) -> Array:
    r"""Steady covariance of the output under white noise at the input.

    .. math::
        \mathrm{E}\,yy^H = CPC^H\ [+\ DWD^H\ \text{in discrete time}],\quad
        AP + PA^H + BWB^H = 0\ \text{or}\ APA^H - P + BWB^H = 0

    Parameters
    ----------
    obj : system, layer, or anything :func:`balred.adapt` reads
    W : float or array_like, shape (m, m), default 1
        The intensity of the noise (in discrete time its covariance), Hermitian and not negative.  A number is multiplied by the identity.
    solver : str, optional
        How the equation is solved; by default "smith" for dense systems and "closed" for diagonal ones.

    Returns
    -------
    array, shape (..., p, p)
        Infinite in continuous time in the entries where :math:`DWD^H` is not zero, because white noise has no finite variance.

    Raises
    ------
    UnstableError
        The system is not stable.
    TypeError
        The arrays are traced.
    ValueError
        W is not Hermitian, has a negative eigenvalue or another shape; it is complex for a system of conjugate pairs.
    OverflowError
        A covariance is too large for the floating-point format.

    Notes
    -----
    MATLAB's ``covar``.  The covariance P of the state is ``balred.lyap(A, B @ W @ B.T)`` or ``balred.stein``.

    Examples
    --------
    >>> import balred
    >>> balred.covar(balred.ss([[-1.0]], [[2.0]], [[1.0]]), 0.5).round(12)
    array([[1.]])
    """
    system = system_of(obj)
    m = int(system.B.shape[-1])
    w = host_array("W", W)
    w = w * np.eye(m) if w.ndim == 0 else w
    if w.shape != (m, m):
        raise ValueError(f"W must be a number or have shape {(m, m)}, got {w.shape}")
    values, vectors = np.linalg.eigh((w + w.conj().T) / 2)
    noise = m * float(np.finfo(np.float64).eps) * float(np.abs(values).max())
    if not np.linalg.norm(w - w.conj().T) <= 2 * noise:
        raise ValueError("W must be Hermitian, got one that is not")
    if values[0] < -noise:
        raise ValueError(f"W must not be negative, got an eigenvalue {values[0]:.6g}")
    if np.iscomplexobj(w) and isinstance(system, DiagonalSystem) and system.conjugate:
        raise ValueError("W must be real for a system of conjugate pairs, whose signals are real, got a complex one")
    if not is_concrete(*system.leaves):
        raise TypeError("covar needs concrete values, got traced arrays")
    check_stable(system)
    root = vectors * np.sqrt(np.maximum(values, 0))
    work = at_hand(system)
    be = backend_of(work.B)
    with double_precision(*work.leaves) as leaves:
        wide = with_leaves(work, leaves)
        L, intensity = (be.from_numpy(x, like=wide.B) for x in (root, w))
        B, L = _alike(wide.B, L)
        driven = dataclasses.replace(wide, B=B @ L)
        C, Z = _alike(wide.to_dense().C, factors(driven, solver)[0])
        D, intensity = _alike(wide.D, intensity)
        with np.errstate(over="ignore", invalid="ignore"):
            P, through = _alike((G := C @ Z) @ ct(G), D @ intensity @ ct(D))
        for x in (P, through):
            check_representable("covariances", x)
        if system.discrete:
            return cast_like(P + through, system)
        xp = namespace(P)
        size = xp.abs(wide.D) @ xp.abs(intensity) @ xp.matrix_transpose(xp.abs(wide.D))
        shape = tuple(P.shape)
        infinite = xp.broadcast_to(xp.abs(through) > 4 * m * eps(size) * size, shape)
        return cast_like(xp.where(infinite, full(P, shape, float("inf")), P), system)


def _alike(x: Array, y: Array) -> tuple[Array, Array]:
    """Both complex if one is: PyTorch multiplies no others."""
    return (to_complex(x), to_complex(y)) if is_complex(x) or is_complex(y) else (x, y)
