"""python-control's functions for Hankel singular values, Gramians and balanced realisations, under its own names."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.adapters.control.reduction import check_statespace
from balred.hankel.values import hsv
from balred.realisations.balanced import balance
from balred.registry.reading import adapt
from balred.solvers.cross_gramian import cholesky_factors
from balred.solvers.gramians import gramians
from balred.systems.dense_system import DenseSystem
from balred.systems.leaves import System
from balred.systems.parts import join, separation, split
from balred.systems.poles import UnstableError, check_stable

Matrix = NDArray[Any]


def hankel_singular_values(sys: Any, *, solver: str | None = None, offset: float | None = None) -> Matrix:
    """Hankel singular values of a state-space system, descending and real.

    Parameters
    ----------
    sys : control.StateSpace
        Continuous or discrete.
    solver : {"smith", "scipy", "slycot"}, optional
        Of the Lyapunov equations; by default "smith".
    offset : float, optional
        Poles within `offset` of the stability boundary count as unstable.

    Returns
    -------
    array, shape (n,)
        Unstable modes have ``inf``.

    Raises
    ------
    ValueError
        `sys` is not a state-space system.

    Examples
    --------
    >>> import control
    >>> from balred.adapters.control import hsvd
    >>> hsvd(control.ss(control.tf([1], [1, 2]))).round(12)
    array([0.25])
    """
    check_statespace(sys, ValueError)
    out: Matrix = hsv(sys, solver=solver, offset=offset)
    return out


def gram(sys: Any, type: str, *, solver: str | None = None) -> Matrix:
    r"""Gramian of a stable state-space system, or its upper triangular factor.

    Parameters
    ----------
    sys : control.StateSpace
    type : {"c", "o", "cf", "of"}
        Controllability or observability Gramian; with "f" the factor R of :math:`W = R^TR`, diagonal nonnegative.
    solver : {"smith", "scipy", "slycot"}, optional
        Of the Lyapunov equations; by default "smith".

    Returns
    -------
    array, shape (n, n)

    Raises
    ------
    ValueError
        `sys` is not a state-space system or is unstable; `type` is another.

    Examples
    --------
    >>> import control, numpy as np
    >>> from balred.adapters.control import gram
    >>> g = control.rss(3, 2, 5, strictly_proper=True)
    >>> R = gram(g, "cf")
    >>> bool(np.allclose(R.T @ R, gram(g, "c")))
    True
    """
    check_statespace(sys, ValueError)
    if type not in ("c", "o", "cf", "of"):
        raise ValueError(f"type must be one of c, o, cf, of, got {type!r}")
    system = adapt(sys)[0]
    try:
        check_stable(system)
        pair = (cholesky_factors if type.endswith("f") else gramians)(system, solver=solver)
    except UnstableError as error:
        raise UnstableError(f"the system is unstable: {error}") from None
    out: Matrix = pair[0 if type.startswith("c") else 1]
    return out


def balreal(sys: Any, *, solver: str | None = None, offset: float | None = None) -> tuple[Any, Matrix, Matrix, Matrix]:
    """Balanced realisation, as MATLAB's function of this name (python-control has none).

    Parameters
    ----------
    sys : control.StateSpace
        Minimal; unstable modes are split off and stand first.
    solver : {"smith", "scipy", "slycot"}, optional
        Of the Lyapunov equations; by default "smith".
    offset : float, optional
        Poles within `offset` of the stability boundary count as unstable.

    Returns
    -------
    sysb : control.StateSpace
        The same transfer function; the Gramians of its stable part are equal and diagonal.
    g : array, shape (n,)
        Hankel singular values, ``inf`` for unstable modes.
    T, Tinv : arrays, shape (n, n)
        ``x_balanced = T @ x``.

    Raises
    ------
    TypeError
        `sys` is not a state-space system.
    ValueError
        The stable part is not minimal; it cannot be separated from the unstable one.

    Examples
    --------
    >>> import control, numpy as np
    >>> from balred.adapters.control import balreal
    >>> sys = control.ss([[-1.0, 1.0], [0.0, 2.0]], [[1.0], [1.0]], [[1.0, 1.0]], 0)
    >>> sysb, g, T, Tinv = balreal(sys)
    >>> g, bool(np.allclose(sysb.A, T @ sys.A @ Tinv))
    (array([       inf, 0.33333333]), True)
    """
    check_statespace(sys, TypeError)
    system, rebuild = adapt(sys)
    assert isinstance(system, DenseSystem)
    unstable, stable = split(system, offset)
    if unstable is None:
        b = balance(system, solver=solver)
        return rebuild(b.system), b.hsv, b.T, b.Tinv
    V, Vinv = separation(system, offset or 0.0)[2:]
    g, T, Tinv = np.full(system.order, np.inf), Vinv, V
    whole: System = unstable
    if stable is None:
        T = Tinv = np.eye(system.order)
    else:
        k, b = unstable.order, balance(stable, solver=solver)
        g[k:] = b.hsv
        T, Tinv = T.copy(), Tinv.copy()
        T[k:], Tinv[:, k:] = b.T @ Vinv[k:], V[:, k:] @ b.Tinv
        whole = join(unstable, b.system)
    return rebuild(whole), g, T, Tinv


hsvd = hankel_singular_values
