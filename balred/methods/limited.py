r"""Balancing for a window of time or a band of frequencies, and no other.

The Gramians of a system count responses at all times and all frequencies.  Those of what lies inside a window or a band
rank the states by their part in it: more accuracy where it is asked for, paid for outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from balred.hankel.spectrum import spectrum_of
from balred.methods.method import Reduced
from balred.methods.truncation import truncate_or_match
from balred.methods.weighted import Weighted, definite_factor
from balred.registry.reading import dense_on_host, system_of
from balred.solvers.gramians import of_good_digits
from balred.solvers.riccati import controllability_factor, observability_factor
from balred.solvers.windows import Band, band_factors, propagator, time_factors
from balred.systems.arrays import Array, backend_of, ct
from balred.systems.dense_system import DenseSystem
from balred.systems.poles import check_stable

Matrix = NDArray[Any]
Bands: TypeAlias = tuple[float, float] | Sequence[tuple[float, float]]


def time_limited(
    system: DenseSystem,
    solver: str | None = None,
    *,
    horizon: float,
    start: float = 0,
    stable: bool = False,
    match_dc: bool = False,
) -> Weighted:
    r"""Time-limited balancing: small errors of responses up to the horizon.

    .. math::
        P = \int_s^T e^{At}BB^He^{A^Ht}\,dt, \quad Q = \int_s^T e^{A^Ht}C^HCe^{At}\,dt
        \qquad\Bigl[\ \sum_{s\le k<T}A^kBB^HA^{kH}, \quad \sum_{s\le k<T}A^{kH}C^HCA^k\ \Bigr]

    These exist for unstable systems too, which are reduced whole.

    Parameters
    ----------
    horizon : float
        T in seconds; in discrete time a number of steps.  It may be infinite for stable systems.
    start : float, default 0
        s, to leave out the first part of the response.
    stable : bool, default False
        Take the modified Gramians of Gugercin and Antoulas.  The result is then stable, and with `start` = 0 it has a
        bound.  The price is some accuracy within the window.  The system must be stable.
    match_dc : bool, default False
        Singular perturbation instead of truncation.

    Raises
    ------
    ValueError
        The window is empty, or not of whole steps; the response overflows before the horizon.
    UnstableError
        A pole is unstable or marginal, and `stable` is set or the horizon is infinite.

    Notes
    -----
    Without `stable` there is no a-priori bound, and a stable system may become unstable.  With it, P solves
    :math:`AP+PA^H+\bar B\bar B^H=0` (or the discrete equation), :math:`\bar B\bar B^H = U|S|U^H` for
    :math:`e^{As}BB^He^{A^Hs}-e^{AT}BB^He^{A^HT} = USU^H`; Q likewise, with :math:`\bar C`; and with
    :math:`B=\bar BK`, :math:`C=L\bar C`

    .. math:: \|G-G_k\|_\infty \le 2\,\|L\|\|K\|\textstyle\sum_{i>k}\sigma_i .

    References
    ----------
    W. Gawronski and J.-N. Juang, Model reduction in limited time and frequency intervals, Int. J. Systems Sci. 21 (1990);
    S. Gugercin and A. C. Antoulas, A survey of model reduction by balanced truncation and some new results, Int. J.
    Control 77 (2004), section 3.5.

    Examples
    --------
    >>> import balred
    >>> balred.reduce(balred.testing.random_system(8, seed=0), 3, method="time_limited", horizon=2.0)
    DenseSystem(states=3, inputs=2, outputs=2, continuous, float64, numpy)
    """
    _check_window(start, horizon, system.discrete)
    if not stable:
        return Weighted(spectrum_of(system, *time_factors(system, start, horizon), match_dc=match_dc), np.nan)
    check_stable(system)
    Es, Eh = propagator(system, start), propagator(system, horizon)

    def ends(B: Matrix, first: Matrix, last: Matrix) -> tuple[Matrix, Matrix]:
        return np.concatenate([first @ B, last @ B], axis=1), np.kron(np.diag([1.0, -1.0]), np.eye(B.shape[1]))

    return _modified(system, ends(system.B, Es, Eh), ends(ct(system.C), ct(Es), ct(Eh)), match_dc)


def frequency_limited(
    system: DenseSystem, solver: str | None = None, *, band: Bands, stable: bool = False, match_dc: bool = False
) -> Weighted:
    r"""Frequency-limited balancing: a small error at the frequencies of a band.

    With :math:`\Omega` the band and its mirror image :math:`-\Omega`, and :math:`s=i\omega` (or :math:`e^{i\omega}`),

    .. math::
        P = \frac1{2\pi}\int_\Omega (sI-A)^{-1}BB^H(sI-A)^{-H}d\omega, \quad
        Q = \frac1{2\pi}\int_\Omega (sI-A)^{-H}C^HC(sI-A)^{-1}d\omega .

    Parameters
    ----------
    band : (w1, w2), or a list of such
        In rad/s, with 0 <= w1 < w2; w2 may be infinite.  In discrete time at most the Nyquist frequency pi/dt (``dt=True``
        stands for a step of one second).
    stable : bool, default False
        Take the modified Gramians of Gugercin and Antoulas.  The result is then stable and has an a-priori bound.  The
        price is some accuracy within the band.
    match_dc : bool, default False
        Singular perturbation instead of truncation.

    Raises
    ------
    ValueError
        A band is empty, out of range, or overlaps another.

    Notes
    -----
    Without `stable` there is no a-priori bound, and the result may be unstable.  With it, as in :func:`time_limited` for
    :math:`FBB^H+BB^HF^H = USU^H`, where :math:`F = \frac1{2\pi}\int_\Omega (sI-A)^{-1}d\omega`, which is usually written
    with a matrix logarithm.  Unstable modes are kept whole: no response shows their frequencies alone.

    References
    ----------
    W. Gawronski and J.-N. Juang, Model reduction in limited time and frequency intervals, Int. J. Systems Sci. 21 (1990);
    S. Gugercin and A. C. Antoulas, A survey of model reduction by balanced truncation and some new results, Int. J.
    Control 77 (2004), section 3.4.

    Examples
    --------
    >>> import balred
    >>> g = balred.testing.random_system(8, seed=0)
    >>> balred.reduce(g, 3, method="frequency_limited", band=(0.5, 2.0))
    DenseSystem(states=3, inputs=2, outputs=2, continuous, float64, numpy)
    """
    bands = _checked_bands(band, system)
    check_stable(system)
    Zp, Zq, FB, FC = band_factors(system, bands)
    if not stable:
        return Weighted(spectrum_of(system, Zp, Zq, match_dc=match_dc), np.nan)

    def crossed(B: Matrix, FB: Matrix) -> tuple[Matrix, Matrix]:
        return np.concatenate([B, FB], axis=1), np.kron(np.array([[0.0, 1.0], [1.0, 0.0]]), np.eye(B.shape[1]))

    return _modified(system, crossed(system.B, FB), crossed(ct(system.C), FC), match_dc)


def limited_truncation(state: Weighted, k: int) -> Reduced:
    """Truncation or singular perturbation with the limited Gramians."""
    return truncate_or_match(state.spectrum, k)


def limited_gramians(
    obj: Any, *, horizon: float | None = None, start: float = 0, band: Bands | None = None
) -> tuple[Array, Array]:
    r"""Controllability and observability Gramians over a window of time or a band of frequencies.

    The equations are those of :func:`time_limited` (`horizon`, `start`) and of :func:`frequency_limited` (`band`).

    Parameters
    ----------
    obj : system, layer, or anything :func:`balred.adapt` reads
        Stable or not; no pole may lie on the boundary of the stable region within the band.
    horizon, start : float
    band : (w1, w2), or a list of such

    Returns
    -------
    P, Q : arrays, shape (order, order)
        For a conjugate system those of its real form.

    Raises
    ------
    ValueError
        Both or neither of `horizon` and `band` are given; the window or the band is not valid; the system is a batch.
    UnstableError
        A pole lies on the boundary within the band; the horizon is infinite and the system is unstable.

    Examples
    --------
    >>> import balred
    >>> from balred.methods.limited import limited_gramians
    >>> P, Q = limited_gramians(balred.ss([[-1.0]], [[1.0]], [[2.0]]), horizon=1.0)
    >>> round(float(P[0, 0]), 9), round(float(Q[0, 0]), 9)  # (1 - e^-2) / 2 and four times that
    (0.432332358, 1.729329434)
    >>> P, Q = limited_gramians(balred.ss([[-1.0]], [[1.0]], [[2.0]]), band=(0, 1))
    >>> round(float(P[0, 0]), 9)  # arctan(1) / pi
    0.25
    """
    if (horizon is None) == (band is None):
        raise ValueError(
            "exactly one of horizon and band must be given, got " + ("neither" if horizon is None else "both")
        )
    like = system_of(obj).B
    system, at = of_good_digits(dense_on_host("system", obj))
    assert isinstance(system, DenseSystem)
    if band is not None:
        Zp, Zq, *_ = band_factors(system, _checked_bands(band, system))
    else:
        assert horizon is not None
        _check_window(start, horizon, system.discrete)
        Zp, Zq = time_factors(system, start, horizon)
    Zp, Zq = at.factors(Zp, Zq)
    be = backend_of(like)
    return be.from_numpy(Zp @ ct(Zp), like=like), be.from_numpy(Zq @ ct(Zq), like=like)


def _modified(
    system: DenseSystem, right: tuple[Matrix, Matrix], left: tuple[Matrix, Matrix], match_dc: bool
) -> Weighted:
    """The state with the definite forms of F J F^H in the Lyapunov equations, for `right` (F, J) of B and `left` of C^H."""
    Bbar, Cbar = (definite_factor(F, J, positive=False) for F, J in (right, left))
    Zp, Zq = controllability_factor(system.A, Bbar, system.dt), observability_factor(system.A, ct(Cbar), system.dt)
    factor = _gain(system.B, Bbar) * _gain(ct(system.C), Cbar)
    return Weighted(spectrum_of(system, Zp, Zq, match_dc=match_dc), factor)


def _gain(B: Matrix, Bbar: Matrix) -> float:
    r"""The norm of K with :math:`\bar BK = B`, NaN where there is none."""
    K = np.linalg.lstsq(Bbar, B, rcond=None)[0]
    off = np.linalg.norm(Bbar @ K - B) > 1e-9 * np.linalg.norm(B)
    return np.nan if off else float(np.linalg.norm(K, 2))


def _check_window(start: float, horizon: float, discrete: bool) -> None:
    if not 0 <= start < horizon:
        raise ValueError(f"a window must have 0 <= start < horizon, got start = {start} and horizon = {horizon}")
    for name, value in (("start", start), ("horizon", horizon)):
        if discrete and np.isfinite(value) and value != int(value):
            raise ValueError(f"{name} must be a whole number of steps in discrete time, got {value}")


def _checked_bands(band: Bands, system: DenseSystem) -> list[Band]:
    """The bands in rad per second (per step), sorted; an infinite end is the Nyquist frequency in discrete time."""
    try:
        given = np.atleast_2d(np.asarray(band, dtype=np.float64))
    except (TypeError, ValueError):
        given = np.empty((0, 0))
    if given.ndim != 2 or given.shape[1] != 2:
        raise ValueError(f"band must be a pair (w1, w2) or a list of pairs, got {band!r}")
    scale, end = (1.0 if system.dt is True else float(system.dt), np.pi) if system.discrete else (1.0, np.inf)
    bands = sorted((float(a * scale), float(b * scale)) for a, b in given)
    bands = [(a, end if np.isinf(b) else b) for a, b in bands]
    for a, b in bands:
        if not (0 <= a < b <= end * (1 + 1e-12)):
            top = f"pi/dt = {np.pi / scale:.6g}" if system.discrete else "infinity"
            raise ValueError(f"band must have 0 <= w1 < w2 <= {top}, got ({a / scale:.6g}, {b / scale:.6g})")
    for (_, b), (a, _) in pairwise(bands):
        if a < b:
            raise ValueError(
                f"bands must not overlap, got one that ends at {b / scale:.6g} and one from {a / scale:.6g}"
            )
    return bands
