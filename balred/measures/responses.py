"""Frequency responses, and a grid of frequencies that shows all peaks: the numbers behind a picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.registry.reading import system_of
from balred.solvers.resolvents import resolvent
from balred.systems.arrays import double_precision, mapped, to_numpy
from balred.systems.diagonal_system import DiagonalSystem
from balred.systems.leaves import System, with_leaves
from balred.systems.poles import pole_margin

FloatArray = NDArray[np.float64]


def step_of(g: System) -> float:
    """The time step in seconds; 1 where it is not specified, so that frequencies are in rad per step."""
    return 1.0 if g.dt is True else float(g.dt)


def single_system(obj: Any) -> System:
    """The one system that `obj` is or contains, in double precision on the host; a batch is an error."""
    system = system_of(obj)
    if system.B.ndim > 2:
        raise ValueError(f"a single system is needed, got a batch of shape {tuple(system.B.shape[:-2])}: loop over it")
    with double_precision(*system.leaves) as leaves:
        wide: System = mapped(with_leaves(system, leaves), to_numpy)
        return wide


def is_real(g: System) -> bool:
    """Whether the response at -ω is the conjugate of that at ω, by the types of the matrices."""
    conjugate = isinstance(g, DiagonalSystem) and g.conjugate
    return conjugate or not any(np.iscomplexobj(x) for x in (*g.leaves, g.D))


def frequency_response(obj: Any, omega: Any) -> NDArray[np.complex128]:
    r"""The transfer function at many frequencies.

    .. math:: G(i\omega) \qquad\text{or}\qquad G(e^{i\omega\,dt})

    Parameters
    ----------
    obj : system, layer, or anything :func:`balred.adapt` reads
        Single; stable or not.
    omega : array_like, shape (k,)
        In rad/s; in rad per step where the step is not specified.

    Returns
    -------
    ndarray, shape (k, p, m)

    Raises
    ------
    ValueError
        A batch, frequencies that are not a finite vector, or a pole at one of them.

    Notes
    -----
    The cost is one Schur form, and a triangular solve for each frequency and input.  Diagonal systems need neither.

    Examples
    --------
    >>> import balred
    >>> frequency_response(balred.ss([[-1.0]], [[1.0]], [[1.0]]), [0.0, 1.0]).ravel()
    array([1. +0.j , 0.5-0.5j])
    """
    g = single_system(obj)
    w = np.asarray(omega, dtype=np.float64)
    if w.ndim != 1 or not np.all(np.isfinite(w)):
        raise ValueError(f"omega must be a vector of finite frequencies, got {omega!r}")
    points = np.exp(1j * w * step_of(g)) if g.discrete else 1j * w
    dense = g.to_dense()
    H = np.repeat(dense.D[None].astype(np.complex128), len(w), axis=0)
    if g.order:
        solver, ones = resolvent(g), np.ones(len(w))
        with np.errstate(divide="ignore", invalid="ignore"):
            for j in range(dense.B.shape[1]):
                x = np.repeat(dense.B[:, j : j + 1].astype(np.complex128), len(w), axis=1)
                H[:, :, j] += (dense.C @ solver.solve(points, ones, x)).T
    finite = np.isfinite(H).all(axis=(1, 2))
    if not finite.all():
        raise ValueError(f"no pole may lie at a frequency of the response, got one at {w[~finite][0]:.6g}")
    return H


def frequency_grid(*systems: Any) -> FloatArray:
    """Positive frequencies, ascending, from a decade below the slowest pole to a decade above the fastest.

    In discrete time they end at the Nyquist frequency.  Around lightly damped poles they are as dense as the peak is
    narrow.

    Parameters
    ----------
    *systems : system, layer, or anything :func:`balred.adapt` reads
        Single, all with the same `dt`.

    Examples
    --------
    >>> import balred
    >>> w = frequency_grid(balred.ss([[-1.0]], [[1.0]], [[1.0]]))
    >>> float(w[0]), float(w[-1])
    (0.1, 10.0)
    """
    found = [single_system(x) for x in systems]
    poles = np.concatenate([_exponents(g) for g in found])
    size = np.abs(poles)
    size = size[size > 1e-10 * size.max(initial=0.0)]  # nearer to zero: an integrator and its rounding errors
    low, high = (size.min() / 10, size.max() * 10) if size.size else (0.1, 10.0)
    if found[0].discrete:
        high = np.pi / step_of(found[0])
        low = min(low, high / 100)
    # a pole on the axis itself has no width, and no finite peak
    sharp = poles[(np.abs(poles.real) < 0.3 * poles.imag) & (np.abs(poles.real) > 1e-9 * poles.imag)]
    sharp = sharp[np.argsort(np.abs(sharp.real) / sharp.imag)[:100], None]
    peaks = sharp.imag + np.abs(sharp.real) * np.linspace(-4, 4, 17)
    grid = np.concatenate([np.geomspace(low, high, 500), peaks.ravel()])
    return np.unique(grid[(grid >= low) & (grid <= high)])


def _exponents(g: System) -> NDArray[np.complex128]:
    """The poles; in discrete time the logarithms per second of those that are not zero."""
    poles = pole_margin(g)[0].astype(np.complex128)
    poles[poles.imag < 0] = poles[poles.imag < 0].conj()
    if not g.discrete:
        return poles
    exponents: NDArray[np.complex128] = np.log(poles[np.abs(poles) > 1e-12])
    return exponents / step_of(g)
