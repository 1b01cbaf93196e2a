r"""State spaces of transfer functions that are given by coefficients, or by zeros, poles and gain.

The textbook's companion matrix holds numbers as different as the powers of a time scale, and neighbours of poles that are
far apart.  Units of time and of states, and series of small sections, keep what was given.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.realisations.rational import balanced_units
from balred.systems.checks import check_finite, host_array
from balred.systems.dense_system import DenseSystem, ss

Matrix = NDArray[Any]
Roots = tuple[complex, ...]


def from_coefficients(num: Any, den: Any, dt: float | bool = 0) -> DenseSystem:
    r"""The state space of transfer functions with one denominator, of one input.

    The result is a balanced companion matrix, in a unit of time in which its coefficients have similar sizes.  Unit and
    balancing are powers of two, so nothing is rounded except the part of the numerators that belongs to the direct
    term.

    Parameters
    ----------
    num : array_like, shape (p, k + 1) or (k + 1,)
        Coefficients, the highest power first.
    den : array_like, shape (n + 1,)
        Leading zeros are dropped.

    Returns
    -------
    DenseSystem
        Of order n; a static gain for n = 0.

    Raises
    ------
    ValueError
        The denominator is zero; a numerator is of a higher degree; a value is NaN or infinite.

    Examples
    --------
    >>> from_coefficients([1.0], [1.0, 2e9])(0.0)
    array([[5.e-10+0.j]])
    """
    num, den = np.atleast_2d(host_array("num", num)), host_array("den", den).ravel()
    check_finite("num", num)
    check_finite("den", den)
    if not den.any():
        raise ValueError("a transfer function must have a denominator, got zeros")
    den = den[np.flatnonzero(den)[0] :]
    n = len(den) - 1
    surplus = num.shape[1] - 1 - n
    if surplus > 0 and num[:, :surplus].any():
        k = num.shape[1] - 1 - int(np.flatnonzero(num.any(axis=0))[0])
        raise ValueError(f"a transfer function must be proper, got a numerator of degree {k} over degree {n}")
    num = num[:, max(surplus, 0) :] / den[0]
    num = np.hstack([np.zeros((len(num), n + 1 - num.shape[1])), num])
    den = den / den[0]
    D = num[:, :1]
    if n == 0:
        return ss(np.zeros((0, 0)), np.zeros((0, 1)), np.zeros((len(D), 0)), D, dt)
    k = np.arange(1, n + 1)
    held = den[1:] != 0
    sizes = np.log2(np.abs(den[1:][held])) / k[held]
    # the geometric mean of the poles if none is zero, an even power of two so that it has a root
    unit = 2 * round(float(sizes[-1] if held[-1] else sizes.max(initial=0.0)) / 2)
    a, c = (_scaled(x, -unit * k) for x in (den[1:], num[:, 1:] - D * den[1:]))
    A = np.eye(n, k=-1, dtype=a.dtype)
    A[0] = -a
    B = np.zeros((n, 1))
    B[0] = 1.0
    A, B, C = balanced_units(A, B, c)
    return ss(_scaled(A, unit), _scaled(B, unit // 2), _scaled(C, unit // 2), D, dt)


def _scaled(x: Matrix, power: Any) -> Matrix:
    if np.iscomplexobj(x):
        return np.asarray(np.ldexp(x.real, power) + 1j * np.ldexp(x.imag, power))
    return np.asarray(np.ldexp(x, power))


def from_zeros_poles_gain(zeros: Any, poles: Any, gain: Any, dt: float | bool = 0) -> DenseSystem:
    r"""The state space of a transfer function given by its zeros, poles and gain.

    A series of sections of order two (a conjugate pair, or two real poles; complex roots without their conjugates stand
    alone), slow ones first, so that poles of very different sizes stand beside each other without loss.

    Parameters
    ----------
    zeros : array_like, shape (k,)
    poles : array_like, shape (n,)
        At least as many as zeros.
    gain : float or complex

    Returns
    -------
    DenseSystem
        Of order n.

    Raises
    ------
    ValueError
        More zeros than poles; a value is NaN or infinite.

    Examples
    --------
    >>> g = from_zeros_poles_gain([-3.0], [-1.0, -2.0], 4.0)
    >>> g.order, g(0.0).real
    (2, array([[6.]]))
    """
    z, p = (np.asarray(x, np.complex128).ravel() for x in (zeros, poles))
    check_finite("zeros", z)
    check_finite("poles", p)
    if len(z) > len(p):
        raise ValueError(f"a transfer function must have as many poles as zeros at least, got {len(p)} and {len(z)}")
    A, B, C, D = np.zeros((0, 0)), np.zeros((0, 1)), np.zeros((1, 0)), np.ones((1, 1))
    for ours, theirs in _sections(z, p):
        a, b, c, d = _section(ours, theirs)
        A = np.block([[A, np.zeros((len(A), len(a)))], [b @ C, a]])
        B, C, D = np.vstack([B, b @ D]), np.hstack([d * C, c]), d * D
    gain = gain.item() if hasattr(gain, "item") else gain
    A, B, C = balanced_units(A, B, C)
    return ss(A, B, C * gain, D * gain, dt)


def _sections(zeros: Matrix, poles: Matrix) -> list[tuple[Roots, Roots]]:
    """Poles and zeros in groups of one or two poles and no more zeros, those of one size together, small ones first."""
    real_poles, real_zeros = _units(poles), _units(zeros)
    if real_poles is None or real_zeros is None:
        free, wanted = _singles(poles), _singles(zeros)
    else:
        free, wanted = real_poles, real_zeros
    made: list[tuple[Roots, Roots]] = []
    for pair in (u for u in wanted if len(u) == 2):
        single = [u for u in free if len(u) == 1]
        # a conjugate pair of poles, or two real ones that are neighbours
        fits: list[list[Roots]] = [[u] for u in free if len(u) == 2]
        fits = fits or [[first, second] for first, second in itertools.pairwise(single)]
        taken = min(fits, key=lambda units: abs(_size(units) - _size([pair])))
        for unit in taken:
            free.remove(unit)
        made.append((tuple(r for unit in taken for r in unit), pair))
    real = [u for u in wanted if len(u) == 1]
    while real:
        fit = min(free, key=lambda u: (len(u), abs(_size([u]) - _size(real[:1]))))
        free.remove(fit)
        made.append((fit, tuple(r for (r,) in real[: len(fit)])))
        real = real[len(fit) :]
    return sorted(made + [(unit, ()) for unit in free], key=lambda group: _size([group[0]]))


def _units(roots: Matrix) -> list[Roots] | None:
    """Real roots and conjugate pairs, small ones first; None if some have no conjugate."""
    upper, lower = roots[roots.imag > 0], roots[roots.imag < 0]
    if sorted(upper, key=_key) != sorted(lower.conj(), key=_key):
        return None
    units: list[Roots] = [(complex(r),) for r in roots[roots.imag == 0]]
    return sorted([*units, *((complex(r), complex(r.conjugate())) for r in upper)], key=lambda unit: _size([unit]))


def _singles(roots: Matrix) -> list[Roots]:
    return [(complex(r),) for r in sorted(roots, key=abs)]


def _key(root: Any) -> tuple[float, float]:
    return float(root.real), float(root.imag)


def _size(units: Sequence[Roots]) -> float:
    """The logarithm of the mean size of roots."""
    return float(np.mean(np.log([max(abs(r), 1e-300) for unit in units for r in unit])))


def _section(p: Roots, z: Roots) -> tuple[Matrix, Matrix, Matrix, Any]:
    """The state space of one or two poles, and at most as many zeros."""
    if len(p) == 1:
        x, gap = p[0], p[0] - z[0] if z else 1.0
        if x.imag == 0 == np.imag(gap):
            x, gap = x.real, np.real(gap)
        return np.array([[x]]), np.ones((1, 1)), np.array([[gap]]), float(len(z))
    # (s - a)(s - b) + w^2 with states x2 = 1 / that and x1 = (s - b) x2
    (a, b), w = (r.real for r in p), p[0].imag
    A, B = np.array([[a, -(w**2)], [1.0, b]]), np.array([[1.0], [0.0]])
    if len(z) < 2:
        return A, B, np.array([[1.0, b - z[0].real] if z else [0.0, 1.0]]), 0.0
    c1, c2 = (a - z[0].real) + (b - z[1].real), ((b - z[0]) * (b - z[1])).real - w**2
    return A, B, np.array([[c1, c2]]), 1.0
