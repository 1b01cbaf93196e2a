r"""Two more forms of Gramians: the cross Gramian, and triangular (Cholesky-type) factors.

The cross Gramian holds what both Gramians hold in one matrix, for systems with as many inputs as outputs; the
triangular factors are what other libraries return and expect.
"""

from __future__ import annotations

from typing import Any

from balred.registry.reading import system_of
from balred.solvers.doubling import cayley
from balred.solvers.gramians import factors
from balred.systems import arrays
from balred.systems.arrays import Array, backend_of, ct, double_precision, fro, is_concrete, namespace
from balred.systems.diagonal_system import DiagonalSystem
from balred.systems.leaves import System, at_hand, cast_like, with_leaves
from balred.systems.poles import check_stable, check_stored


def cross_gramian(obj: Any) -> Array:
    r"""Cross Gramian of a stable system with as many inputs as outputs.

    .. math:: AX + XA + BC = 0 \quad\text{(continuous)}, \qquad AXA - X + BC = 0 \quad\text{(discrete)}

    For a single-input single-output system, and for every system with a symmetric transfer function, the absolute values
    of the eigenvalues of X are the Hankel singular values (:math:`X^2 = PQ`).

    Parameters
    ----------
    obj : system, layer, or anything :func:`balred.adapt` reads

    Returns
    -------
    array, shape (..., order, order)
        For a conjugate system that of its real form, :meth:`balred.DiagonalSystem.to_dense`.

    Raises
    ------
    ValueError
        The numbers of inputs and outputs differ.
    UnstableError
        A pole is unstable or marginal; the message names the worst.

    References
    ----------
    K. V. Fernando and H. Nicholson, On the structure of balanced and other principal representations of SISO systems,
    IEEE Trans. Automat. Control 28 (1983).

    Examples
    --------
    >>> import balred, numpy as np
    >>> g = balred.ss([[1.0, -2.0], [3.0, -4.0]], [[5.0], [7.0]], [[6.0, 8.0]])
    >>> np.sort(abs(np.linalg.eigvals(cross_gramian(g))))[::-1].round(4)
    array([24.4269,  0.5731])
    """
    system = system_of(obj)
    p, m = int(system.C.shape[-2]), int(system.B.shape[-1])
    if p != m:
        raise ValueError(f"a cross Gramian needs as many outputs as inputs, got {p} and {m}")
    check_stable(system)
    work = at_hand(system)
    with double_precision(*work.leaves) as leaves:
        return cast_like(_cross(with_leaves(work, leaves)), system)


def _cross(system: System) -> Array:
    if isinstance(system, DiagonalSystem) and not system.conjugate:
        xp = namespace(system.B)
        l = system.log_poles
        total = l[..., :, None] + l[..., None, :]
        return (system.B @ system.C) / -(xp.expm1(total) if system.discrete else total)
    g = system.to_dense()
    xp, be = namespace(g.A), backend_of(g.A)
    A, B, C = g.A, g.B, g.C
    if g.order == 0:
        return A
    if not g.discrete:
        A, B, C = cayley(A, B, C)
    # X = sum of A^k BC A^k, by doubling
    dtype = xp.result_type(A, B, C)
    A, X = xp.astype(A, dtype), xp.astype(B @ C, dtype)
    tol = arrays.eps(arrays.real(X))

    def grow(state: tuple[Any, ...]) -> tuple[Any, ...]:
        M, X, _, count = state
        step = M @ X @ M
        return M @ M, X + step, xp.max(fro(step) - tol * fro(X)) > 0, count + 1

    start = (0, True) if is_concrete(A, X) else (xp.asarray(0), xp.asarray(True))
    state: tuple[Any, ...] = (A, X, start[1], start[0])
    return be.while_loop(lambda s: s[2] & (s[3] < 60), grow, state)[1]


def cholesky_factors(obj: Any, *, solver: str | None = None) -> tuple[Array, Array]:
    r"""Upper triangular factors of both Gramians, with nonnegative diagonals.

    .. math:: W_c = R_c^HR_c, \qquad W_o = R_o^HR_o

    from the factors of :func:`balred.gramian_factors`, never from the Gramians themselves, whose Cholesky factorisation
    fails where they are singular to working precision.

    Parameters
    ----------
    obj : system, layer, or anything :func:`balred.adapt` reads
    solver : {"smith", "closed", "cauchy", "scipy", "slycot"}, optional
        By default the squared Smith iteration for dense systems and the closed form for diagonal ones.

    Returns
    -------
    Rc, Ro : arrays, shape (..., order, order)

    Raises
    ------
    UnstableError
        A pole is unstable or marginal; the message names the worst.

    Examples
    --------
    >>> import balred
    >>> Rc, Ro = cholesky_factors(balred.ss([[-1.0]], [[2.0]], [[3.0]]))
    >>> round(float(Rc[0, 0]) ** 2, 12), round(float(Ro[0, 0]) ** 2, 12)
    (2.0, 4.5)
    """
    system = system_of(obj)
    check_stored(system)
    work = at_hand(system)
    with double_precision(*work.leaves) as leaves:
        Zp, Zq = factors(with_leaves(work, leaves), solver)
        return cast_like(_upper(Zp), system), cast_like(_upper(Zq), system)


def _upper(Z: Array) -> Array:
    xp, be = namespace(Z), backend_of(Z)
    n, k = Z.shape[-2:]
    if k < n:
        Z = xp.concat([Z, arrays.zeros(Z, (*Z.shape[:-1], n - k))], axis=-1)
    if n == 0:
        return Z
    R = be.triangular_factor(ct(Z))
    diagonal = xp.linalg.diagonal(R)
    size = xp.abs(diagonal)
    phase = diagonal / xp.astype(xp.where(size > 0, size, xp.ones_like(size)), R.dtype)
    phase = xp.where(size > 0, phase, xp.ones_like(phase))
    return (xp.conj(phase) if arrays.is_complex(phase) else phase)[..., :, None] * R
