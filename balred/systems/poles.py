"""Where the poles lie: what counts as stable, and the error that names the worst one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from balred.systems import arrays
from balred.systems.arrays import backend, is_concrete, is_one, size_of, sizes_of, to_numpy, warn_caller
from balred.systems.clusters import Poles, margins, poles_of_form, rounding
from balred.systems.dense_system import DenseSystem, is_discrete
from balred.systems.diagonal_system import DiagonalSystem
from balred.systems.leaves import System

_SINGLE = float(np.finfo(np.float32).eps)
_ILL, _NEAR = 1e7, 1e-3
"""Poles farther inside than rounding times the first, or than the second (as parts of the norm), are stable for sure."""


_LEAST, _MOST = 1e-100, 1e100
"""Norms of state matrices whose squares, and inverses, are numbers."""


class BoundaryWarning(UserWarning):
    """A pole is so close to the stability boundary that rounding of the state matrix could decide its side; the entries, taken as exact, do.

    Examples
    --------
    >>> import warnings, balred
    >>> A = [[-100.0, -4.0], [10.0, 0.4 - 1e-14]]  # an integrator, but for rounding
    >>> with warnings.catch_warnings(record=True) as told:
    ...     warnings.simplefilter("always")
    ...     first = balred.hsv(balred.ss(A, [[1.0], [0.0]], [[0.0, 1.0]]))[0]
    >>> bool(first > 1e10), {warning.category.__name__ for warning in told}
    (True, {'BoundaryWarning'})
    >>> float(balred.hsv(balred.ss(A, [[1.0], [0.0]], [[0.0, 1.0]]), offset=1e-12)[0])
    inf
    """


class UnstableError(ValueError):
    """The system has an unstable or marginal pole, and you asked for something that exists for stable systems only.

    Examples
    --------
    >>> import balred
    >>> try:
    ...     balred.norm(balred.ss([[1.0]], [[1.0]], [[1.0]]), "hinf")
    ... except balred.UnstableError:
    ...     print("not stable, so there is no such norm")
    not stable, so there is no such norm
    """


class InstabilityWarning(UserWarning):
    """A reduced system has more unstable modes than the original.

    Examples
    --------
    >>> import warnings, balred, numpy as np
    >>> K = 2 * np.eye(12) - np.eye(12, k=1) - np.eye(12, k=-1)  # twelve masses between springs
    >>> A = np.block([[np.zeros((12, 12)), np.eye(12)], [-K, -0.02 * K - 0.01 * np.eye(12)]])
    >>> chain = balred.ss(A, np.eye(24)[:, 12:13], np.eye(24)[11:12])
    >>> with warnings.catch_warnings(record=True) as told:
    ...     warnings.simplefilter("always")
    ...     small = balred.reduce(chain, 8, method="frequency_limited", band=(0.1, 0.5))
    >>> told[0].category.__name__, bool(np.linalg.eigvals(small.A).real.max() > 0)
    ('InstabilityWarning', True)
    """


def pole_margin(system: System) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Poles on the host, and how far each is inside the stable region (negative: outside), as they are computed."""
    if isinstance(system, DiagonalSystem):
        logs = to_numpy(system.log_poles)
        return np.exp(logs) if system.discrete else logs, -logs.real
    poles = np.linalg.eigvals(to_numpy(system.A))
    return poles, margins(poles, system.discrete)


def eigenvalues(A: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Those of one matrix on the host: as NumPy's, which asks longer than a few states are worked on."""
    if not (size_of(A) < math.inf or np.isfinite(A).all()):
        raise np.linalg.LinAlgError("Array must not contain infs or NaNs")
    n = len(A)
    found = backend("numpy").lapack("geev", A.dtype.char)(A, compute_vl=0, compute_vr=0, lwork=max(64, 34 * n))
    if found[-1] > 0:
        raise np.linalg.LinAlgError("Eigenvalues did not converge")
    if A.dtype.kind == "c":
        return np.asarray(found[0])
    real, imag = found[:2]
    return np.asarray(real + 1j * imag if imag.any() else real)


def surely_stable(system: System) -> bool:
    """Whether one dense system of NumPy in double precision has its poles so far inside that none needs a closer look."""
    A, n = system.leaves[0], system.order
    if not (isinstance(system, DenseSystem) and n and is_one(A) and A.dtype.char in "dD"):
        return False
    size, poles = size_of(A), eigenvalues(A)
    worst = 1 - float(np.abs(poles).max()) if system.discrete else -float(poles.real.max())
    return _LEAST < size < _MOST and worst > far(n, entry_rounding(system)) * size


def far_inside(system: DenseSystem) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Poles and eigenvectors of dense systems of NumPy in double precision, shape (k, n) and (k, n, n), and which of the k
    systems have all their poles so far inside the stable region that none needs a closer look."""
    A = system.A
    poles, V = np.linalg.eig(A)
    near = far(A.shape[-1], entry_rounding(system)) * arrays.fro(A)
    return poles, V, margins(poles, system.discrete).min(axis=-1) > near


def far(n: int, eps: float) -> float:
    """By which part of the norm a pole is inside that needs no closer look."""
    return min(_ILL * rounding(n, eps), _NEAR)


def continuous_poles(poles: np.ndarray[Any, Any], dt: float | bool) -> np.ndarray[Any, Any]:
    """The poles as those of continuous time: log(z)/dt, a step of one where it is unspecified."""
    if not is_discrete(dt):
        return poles
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(poles.astype(np.complex128)) / float(dt))


def entry_rounding(system: System) -> float:
    """The relative error of the entries of `system`: that of their dtype, but never more than that of float32.

    What is kept in half precision are weights, which are what they are, and no measurements.
    """
    return min(arrays.eps(system.B), _SINGLE)


def known_poles(system: System, eps: float = 0.0) -> Poles:
    """The poles of `system` (or of each member of a batch) and what can be known of them.

    Those of a diagonal system are what it says.  A dense one's are looked at closely only where one of them is near the
    boundary or beyond it.  `eps` is the relative error of the entries where they were of a narrower kind before.

    Examples
    --------
    >>> import balred
    >>> poles = known_poles(balred.ss([[-1.0, 5.0], [0.0, 0.0]], np.ones((2, 1)), np.ones((1, 2))))
    >>> poles.at, poles.inside()
    (array([-1.+0.j,  0.+0.j]), array([ True, False]))
    """
    if isinstance(system, DiagonalSystem):
        poles, margin = pole_margin(system)
        return Poles(np.asarray(poles), margin, np.zeros(margin.shape))
    A = to_numpy(system.A)
    eps = max(eps, entry_rounding(system))
    A = A.astype(np.result_type(A.dtype, np.float64), copy=False)
    unit, near = rounding(A.shape[-1], eps), far(A.shape[-1], eps)
    size: Any
    if one := is_one(A) and len(A) > 0:  # the same in fewer calls
        poles, size = eigenvalues(A).astype(np.complex128), np.float64(size_of(A))
    else:
        poles, size = np.linalg.eigvals(A).astype(np.complex128), sizes_of(A)
    margin = margins(poles, system.discrete)
    if one and not _LEAST < size < _MOST and size > 0:
        return _far_from_one(DenseSystem(A, system.B, system.C, system.D, system.dt), eps, poles, float(size))
    if one and margin.min() > near * size:
        return Poles(poles, margin, np.full(margin.shape, unit * size))
    doubt = np.broadcast_to(unit * size[..., None], margin.shape).copy()
    unclear = ~(margin.min(axis=-1, initial=np.inf) > near * size)
    faint, torn = np.zeros(margin.shape, bool), np.zeros(margin.shape, bool)
    for i in np.argwhere(unclear):
        at = tuple(i)
        close = poles_of_form(backend("scipy").block_schur(A[at]), system.discrete, eps)
        poles[at], margin[at], doubt[at], faint[at], torn[at] = (
            close.at, close.margin, close.doubt, close.faint, close.torn
        )  # fmt: skip
    return Poles(poles, margin, doubt, faint, torn)


def _far_from_one(system: DenseSystem, eps: float, poles: np.ndarray[Any, Any], size: float) -> Poles:
    """The same of one state matrix whose squares are no numbers: in another unit of time, a power of two."""
    if system.discrete:  # whose poles have a unit: no closer look tells more of very large ones
        margin = margins(poles, True)
        return Poles(poles, margin, np.full(margin.shape, rounding(len(poles), eps) * size))
    unit = 2.0 ** np.clip(np.round(np.log2(size)), -1000, 1000)
    known = known_poles(DenseSystem(system.A / unit, system.B, system.C, system.D, 0), eps)
    return Poles(known.at * unit, known.margin * unit, known.doubt * unit, known.faint, known.torn)


def warn_if_faint(poles: Poles, offset: float = 0.0) -> None:
    """Tell of a pole that counts as stable only because entries that are rounding of others are taken as exact, or as unstable
    although its group has its mean inside.

    Stiff chains have such poles; so has an integrator in the coordinates of a program that left rounding in the place of zero, and
    a sharp filter as a polynomial.
    """
    if poles.faint is None or poles.torn is None:
        return
    inside = poles.inside(offset)
    for some, rest in (
        (poles.faint & inside, "stable because the entries are taken as exact: if it stands for an integrator, set the smallest entries to zero, or choose an offset above {:.2g}"),
        (poles.torn & ~inside & (poles.margin > offset), "unstable, although the mean of the poles around it is stable by {:.2g}: give a filter as zeros, poles and gain or in sections of second order, because polynomials lose digits"),
    ):  # fmt: skip
        if some.any():
            first = np.argmin(poles.margin[some])
            at, margin = complex(poles.at[some][first]), float(poles.margin[some][first])
            warn_caller(
                f"the pole at {at.real:.3g}{f'{at.imag:+.3g}j' if at.imag else ''} is so close to the boundary of stability that "
                f"rounding of the largest entries could move it there. It counts as {rest.format(margin)}",
                BoundaryWarning,
            )


def check_stable(system: System, eps: float = 0.0) -> None:
    """Raise :class:`UnstableError` naming the worst pole if `system` is not stable (no-op on tracers).

    Examples
    --------
    >>> import balred
    >>> check_stable(balred.ss([[-1.0]], [[1.0]], [[1.0]]))
    >>> check_stable(balred.ss([[2.0]], [[1.0]], [[1.0]]))
    Traceback (most recent call last):
        ...
    balred.systems.poles.UnstableError: every pole must have a negative real part, got a pole at 2 (real part 2); hsv and reduce split off the unstable part of a single system, which has no Gramians
    """
    if not is_concrete(*system.leaves):
        return
    poles = known_poles(system, eps)
    outside = ~poles.inside()
    if not outside.any():
        warn_if_faint(poles)
        return
    first = np.argmin(poles.margin[outside])
    worst, margin, doubt = complex(poles.at[outside][first]), poles.margin[outside][first], poles.doubt[outside][first]
    worst += 0  # no -0
    at = f"{worst.real:.6g}" if worst.imag == 0 else f"{worst.real:.6g}{worst.imag:+.6g}j"
    rule = (
        "every pole must lie inside the unit circle" if system.discrete else "every pole must have a negative real part"
    )
    size = f"modulus {abs(worst):.6g}" if system.discrete else f"real part {worst.real:.6g}"
    if margin > 0:  # a number inside alone would contradict the rule
        size += f", known to {doubt:.2g} from entries that are rounded"
    raise UnstableError(
        f"{rule}, got a pole at {at} ({size}); hsv and reduce split off the unstable part of a single system, which has no Gramians"
    )


def warn_if_unstable(small: System, had: Any, what: str, how: str | Callable[[], str]) -> None:
    """Warn if `small`, or a member of a batch, has more than `had` poles that are not inside by more than rounding.

    Parameters
    ----------
    small : System
        What was made; nothing is said of traced arrays, whose poles nobody can look at.
    had : int, array over the batch, or callable
        So many unstable poles are no surprise; a callable is asked only if there are some.
    what, how : str
        What was made, and what can be done about it, or a callable that says so.
    """
    if not is_concrete(*small.leaves) or surely_stable(small):
        return
    poles = known_poles(small)
    outside = ~poles.inside()
    if not outside.any():
        return
    had = np.asarray(had() if callable(had) else had)
    more = outside.sum(axis=-1) > had
    if not more.any():
        return
    worst = complex(poles.at[outside & more[..., None]][np.argmin(poles.margin[outside & more[..., None]])])
    where = "" if more.ndim == 0 else f" in {int(more.sum())} of {more.size} members"
    has = int(outside.sum(axis=-1)[more].max())
    warn_caller(
        f"{what} has {has} unstable or marginal {'poles' if has > 1 else 'pole'}{where}, the worst at {worst:.4g}, and the "
        f"original has {int(np.max(had)) or 'none'}: {how() if callable(how) else how}",
        InstabilityWarning,
    )


def check_stored(system: System) -> None:
    """:func:`check_stable` of a dense system with entries of fewer digits than are computed with.

    What that leaves unknown of the poles, a solution in double precision cannot see.
    """
    if isinstance(system, DenseSystem) and entry_rounding(system) > np.finfo(np.float64).eps:
        check_stable(system)


def check_boundary(system: System) -> None:
    """Raise :class:`UnstableError` naming the pole if one lies on the stability boundary (within rounding)."""
    poles = known_poles(system)
    if not poles.on_boundary.any():
        return
    at = complex(poles.at[poles.on_boundary][0])
    where = "unit circle" if system.discrete else "imaginary axis"
    raise UnstableError(f"no pole may lie on the {where}, got a pole at {at:.6g}")
