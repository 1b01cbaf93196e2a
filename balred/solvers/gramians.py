r"""Gramians and their factors, by the structure of the system.

Everything downstream works on *factors* :math:`P = Z_p Z_p^H`, :math:`Q = Z_q Z_q^H`: a Hankel singular value is a
singular value of :math:`Z_q^H Z_p`, whereas the eigenvalues of :math:`PQ` are its square and lose half the digits.

* Dense systems: the squared Smith iteration [Penzl 1998, Gugercin, Sorensen & Antoulas 2003] on factors, after a
  Cayley transform where time is continuous.  It needs matmul, solve, qr and svd, so it runs on every backend.  States are
  brought to even units first, and to other coordinates where the result shows that too few digits are left.
* Diagonal systems: the Gramians in closed form from the logarithms of the poles, then an eigendecomposition; with one
  input or output an elimination that uses their Cauchy-like structure.
* ``solver="cauchy"`` for diagonal systems with one input and one output: every Hankel singular value, however small
  beside the first, to high relative accuracy.
* ``solver="scipy"`` and ``solver="slycot"``: named references on the host.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from balred.registry.reading import system_of
from balred.solvers.closed_form import closed_form_factors, is_siso
from balred.solvers.equations import residual
from balred.solvers.smith import Solved, smith_solved, surely_has_digits
from balred.systems import arrays
from balred.systems.arrays import Array, Backend, backend_of, ct, double_precision, is_concrete, namespace, to_numpy
from balred.systems.checks import check_representable, of_kind
from balred.systems.dense_system import DenseSystem
from balred.systems.diagonal_system import DiagonalSystem
from balred.systems.leaves import System, are_ordinary, at_hand, cast_like, moderate, unit_of, with_leaves
from balred.systems.poles import UnstableError, check_stable, check_stored
from balred.systems.units import Coordinates, even_units, in_units, whole_units

__all__ = ["SOLVERS", "factors", "gramian_factors", "gramians", "solved", "structure"]

SOLVERS: dict[str, dict[str, str]] = {
    "smith": {"dense": "", "diagonal": "dense systems only", "conjugate": "dense systems only"},
    "closed": {"dense": "diagonal systems only", "diagonal": "", "conjugate": ""},
    "cauchy": {"dense": "diagonal systems only", "diagonal": "", "conjugate": ""},
    "scipy": {"dense": "", "diagonal": "", "conjugate": ""},
    "slycot": {"dense": "", "diagonal": "real systems only", "conjugate": ""},
}
"""Which solver takes which structure; an entry is empty or says why not (tests and docs read this table)."""

_FEWEST = 1e-4
"""What may be left of a product of factors that are roots of Gramians: eps / 1e-8, so that half of the digits are right."""
_RESIDUAL = 1e-7
"""Of Gramians from elsewhere, beside the sizes of the terms of their equations."""


def gramian_factors(obj: Any, *, solver: str | None = None) -> tuple[Array, Array]:
    r"""Factors of the controllability and observability Gramians.

    .. math:: P = Z_p Z_p^H, \qquad Q = Z_q Z_q^H

    The Gramians P and Q solve

    .. math::
        A P + P A^H + B B^H = 0, \quad A^H Q + Q A + C^H C = 0 \qquad\text{(continuous)}

        P = A P A^H + B B^H, \quad Q = A^H Q A + C^H C \qquad\text{(discrete)}

    Parameters
    ----------
    obj : system, layer, or anything :func:`balred.adapt` reads
    solver : {"smith", "closed", "cauchy", "scipy", "slycot"}, optional
        By default the squared Smith iteration for dense systems and the closed form for diagonal ones.

    Returns
    -------
    Zp, Zq : arrays, shape (..., order, k)
        A factor has as many columns as it needs; k may differ between the two.

    Raises
    ------
    UnstableError
        A pole is unstable or marginal; the message names the worst.

    Examples
    --------
    >>> import balred
    >>> Zp, Zq = balred.gramian_factors(balred.ss([[-1.0]], [[2.0]], [[3.0]]))
    >>> round(float((Zp @ Zp.T)[0, 0]), 12), round(float((Zq @ Zq.T)[0, 0]), 12)
    (2.0, 4.5)
    """
    system = system_of(obj)
    check_stored(system)
    work = at_hand(system)
    with double_precision(*work.leaves) as leaves:
        Zp, Zq = factors(with_leaves(work, leaves), solver)
        return cast_like(Zp, system), cast_like(Zq, system)


def gramians(obj: Any, *, solver: str | None = None) -> tuple[Array, Array]:
    r"""Controllability and observability Gramians of a stable system.

    .. math::
        A P + P A^H + B B^H = 0, \quad A^H Q + Q A + C^H C = 0 \qquad\text{(continuous)}

        P = A P A^H + B B^H, \quad Q = A^H Q A + C^H C \qquad\text{(discrete)}

    Parameters
    ----------
    obj : system, layer, or anything :func:`balred.adapt` reads
    solver : {"smith", "closed", "cauchy", "scipy", "slycot"}, optional
        By default the squared Smith iteration for dense systems and the closed form for diagonal ones.

    Returns
    -------
    P, Q : arrays, shape (..., order, order)
        For a conjugate system those of its real form, :meth:`balred.DiagonalSystem.to_dense`.

    Raises
    ------
    UnstableError
        A pole is unstable or marginal; the message names the worst.
    OverflowError
        A Gramian is too large for the floating-point format; its factors may still fit (:func:`gramian_factors`).

    References
    ----------
    A. C. Antoulas, Approximation of Large-Scale Dynamical Systems, SIAM 2005, section 4.3.

    Examples
    --------
    >>> import balred
    >>> P, Q = balred.gramians(balred.diagonal([0.5], B=[[3.0]], C=[[1.0]], dt=1))
    >>> round(float(P[0, 0].real), 12), round(float(Q[0, 0].real), 12)
    (12.0, 1.333333333333)
    """
    Zp, Zq = gramian_factors(obj, solver=solver)
    with np.errstate(over="ignore", invalid="ignore"):
        P, Q = Zp @ ct(Zp), Zq @ ct(Zq)
    for x in (P, Q):
        check_representable("Gramians", x)
    return P, Q


def structure(system: System) -> str:
    """The row of the capability table: ``dense``, ``diagonal`` or ``conjugate``."""
    if isinstance(system, DenseSystem):
        return "dense"
    return "conjugate" if system.conjugate else "diagonal"


def check_precision(precision: str, solver: str | None) -> None:
    """Raise unless `solver` can compute in `precision`."""
    arrays.check_precision(precision)
    if precision != "float64" and solver not in (None, "smith", "closed"):
        raise ValueError(f"precision {precision!r} needs solver 'smith' or 'closed', got {solver!r}, which has float64")


def factors(system: System, solver: str | None) -> tuple[Array, Array]:
    """Gramian factors in the precision of the system's own arrays, and in its coordinates."""
    found = solved(system, solver)
    return found.coordinates.factors(found.Zp, found.Zq)


def solved(system: System, solver: str | None) -> Solved:
    """Gramian factors in the precision of the system's own arrays, in the coordinates where they have their digits.

    Raises
    ------
    UnstableError
        A pole is unstable or marginal.
    ArithmeticError
        The factors cannot be had to half of the digits.
    """
    kind = structure(system)
    if system.order == 0:
        nothing = arrays.zeros(system.B, (*system.B.shape[:-2], 0, 0))
        return Solved(system, nothing, nothing, Coordinates(None))
    of_kind("solver", solver, "str | None")
    if solver is None:
        solver = "smith" if kind == "dense" else "closed"
    known = SOLVERS.get(solver)
    if known is not None and known[kind]:
        raise ValueError(f"solver {solver!r} does not take a {kind} system: {known[kind]}")
    if solver in ("closed", "cauchy"):
        assert isinstance(system, DiagonalSystem)
        check_stable(system)
        Zp, Zq = closed_form_factors(system, relative=solver == "cauchy")
        product, cancels = _product(system, Zp, Zq)
        if cancels:
            try:
                dense = smith_solved(system.to_dense())
            except UnstableError:  # of poles so close to the boundary that their logarithms alone tell them from it
                return Solved(system, Zp, Zq, Coordinates(None), product)
            (Zp, Zq), product = dense.coordinates.factors(dense.Zp, dense.Zq), None
        return Solved(system, Zp, Zq, Coordinates(None), product)
    if solver == "smith":
        return smith_solved(system.to_dense())
    try:
        host = arrays.backend(solver)
    except ValueError:
        host = None
    if not hasattr(host, "gramian_factors"):
        raise ValueError(
            f"solver must be one of {', '.join(SOLVERS)} or a backend with gramian_factors, got {solver!r}"
        )
    check_stable(system)
    return _on_host(host, system.to_dense(), solver)


def of_good_digits(system: System) -> tuple[System, Coordinates]:
    """`system` as given; or a dense one in the coordinates in which its Gramians have their digits, where those given are far from that.

    In them so have Riccati equations, cascades with weights, and powers over a horizon, of which nobody looks at the digits.

    Examples
    --------
    >>> import balred, numpy as np
    >>> A = np.diag(np.ones(5), 1)
    >>> A[-1] = -np.poly(np.full(6, 0.9))[:0:-1]  # a pole at 0.9, six times, as a polynomial
    >>> g = balred.ss(A, np.eye(6)[:, 5:], np.eye(6)[:1], dt=1)
    >>> seen, at = of_good_digits(g)
    >>> bool(np.linalg.norm(g.A) > 10 * np.linalg.norm(seen.A)), np.allclose(at.left @ at.right, np.eye(6))
    (True, True)
    """
    nothing = Coordinates(None)
    if not isinstance(system, DenseSystem) or surely_has_digits(system):
        return system, nothing
    try:
        found = solved(system, None)
    except (ValueError, ArithmeticError):  # it is unstable, for example, and has none
        return system, nothing
    return (system, nothing) if found.coordinates.right is None else (found.system, found.coordinates)


def _product(system: DiagonalSystem, Zp: Array, Zq: Array) -> tuple[Array | None, bool]:
    """The product of the factors, and whether so much cancels in it that errors of Gramians, not of factors, would be seen.

    Where there are several inputs or outputs the factors come from Gramians: Hankel singular values have an error of
    rounding times the square of what cancels, and are to have half of their digits.  Of others there is no need to look.
    """
    if not is_concrete(*system.leaves) or is_siso(system) or "64" not in str(arrays.real(Zp).dtype):
        return None, False
    xp, be = namespace(Zp), backend_of(Zp)
    units = None
    if not are_ordinary(Zp, Zq):
        p, q = (xp.astype(unit_of(x), x.dtype) for x in (Zp, Zq))
        Zp, Zq, units = Zp / p, Zq / q, p * q
    product = ct(Zq) @ Zp
    size, *sizes = (arrays.fro(be.stop_gradient(x)) for x in (product, Zp, Zq))
    return product if units is None else product * units, bool(xp.any(size < _FEWEST * sizes[0] * sizes[1]))


def _on_host(host: Backend, system: DenseSystem, solver: str) -> Solved:
    be = backend_of(*system.leaves)
    leaves = [to_numpy(x) for x in system.leaves]
    batch = leaves[0].shape[:-2]
    flat = zip(*(x.reshape(-1, *x.shape[-2:]) for x in leaves), strict=True)
    parts = [_member(host, DenseSystem(A, B, C, system.D, system.dt), solver) for A, B, C in flat]

    def joined(several: list[Any], real: bool = False) -> Array:
        return be.from_numpy(np.stack(several).reshape(*batch, *several[0].shape), like=system.B, real=real)

    d, Zp, Zq = (joined([part[i] for part in parts], real=i == 0) for i in range(3))
    return Solved(in_units(system, d), Zp, Zq, Coordinates(d))


def _member(host: Backend, system: DenseSystem, solver: str) -> tuple[Any, Any, Any]:
    """Units d and, in these, factors of one system (NumPy): in even ones, or in others where much cancels in the product."""
    best, least = None, np.inf
    for d in (even_units(*system.leaves), whole_units(*system.leaves)):
        g, ports = moderate(in_units(system, d))
        Zp, Zq = host.gramian_factors(*g.leaves, system.discrete)
        rest = float(np.max(residual(*g.leaves, Zp, Zq, discrete=system.discrete)))
        if not rest <= _RESIDUAL:
            raise ArithmeticError(
                f"Gramians must solve their Lyapunov equations to {_RESIDUAL:.1g}, got those of solver {solver!r} with a "
                f"residual of {rest:.1g}: use the default solver"
            )
        product, reach = float(np.linalg.norm(ct(Zq) @ Zp)), float(np.linalg.norm(Zp)) * float(np.linalg.norm(Zq))
        fold = reach / product if product > 0 else np.finfo(np.float64).max if reach >= 0 else np.nan
        if fold < least:
            best, least = (d, *((Zp, Zq) if ports is None else ports.factors(Zp, Zq))), fold
        if fold * np.finfo(np.float64).eps < _RESIDUAL:
            break
    if best is None:
        raise ArithmeticError(f"Gramian factors must be finite, got NaN or infinity from solver {solver!r}")
    return best
