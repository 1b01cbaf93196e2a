r"""Transfer functions as zeros, poles and gain or as coefficients, and state spaces of them.

Other libraries hold transfer functions of one input and one output so.  Coefficients are a bad basis to compute in: their
sizes spread over (time scale)^order, and dropping small ones drops what matters.  So zeros and poles are eigenvalues, the
gain is one value of the transfer function, and coefficients are made of these exactly and rounded once.  What was made is
compared with the state space at frequencies around its poles and zeros: what a form cannot hold is refused.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.systems.arrays import backend
from balred.systems.checks import check_finite
from balred.systems.dense_system import DenseSystem, ss

Matrix = NDArray[Any]
Roots = tuple[complex, ...]

HELD = 1e-8
"""Relative error of a frequency response that a form may make: half the digits."""


def zeros_poles_gain(system: DenseSystem) -> tuple[Matrix, Matrix, Any]:
    r"""Zeros, poles and gain of a system with one input and one output.

    .. math:: H(s) = k\,\frac{\prod_i (s - z_i)}{\prod_i (s - p_i)}

    The poles are the eigenvalues of A, those that no input reaches or no output sees included, and the zeros the finite
    eigenvalues of the pencil

    .. math:: \begin{bmatrix} A & B \\ C & D\end{bmatrix} - s\begin{bmatrix} I & 0 \\ 0 & 0\end{bmatrix}

    whose infinite ones are deflated first.

    Parameters
    ----------
    system : DenseSystem
        Single, in double precision on the host.

    Returns
    -------
    zeros : ndarray, shape (k,)
    poles : ndarray, shape (n,)
    gain : float or complex
        Zero, without zeros, where the output never answers the input.

    Raises
    ------
    ValueError
        More than one input or output, or a batch.

    Examples
    --------
    >>> import balred
    >>> z, p, k = zeros_poles_gain(balred.ss([[-1.0]], [[1.0]], [[2.0]], [[1.0]]))
    >>> z, p, round(k, 12)
    (array([-3.]), array([-1.]), 1.0)
    """
    A, B, C, D = (np.asarray(x) for x in (system.A, system.B, system.C, system.D))
    if B.ndim != 2 or D.shape != (1, 1):
        raise ValueError(
            f"zeros, poles and gain belong to one input and one output, got {B.shape[-1]} and {C.shape[-2]}"
            f"{f' in a batch of shape {B.shape[:-2]}' if B.ndim > 2 else ''}"
        )
    A, B, C = _balanced(A, B, C)
    poles = np.linalg.eigvals(A)
    zeros = _zeros(A, B, C, D)
    real = not any(np.iscomplexobj(x) for x in (A, B, C, D))
    g = DenseSystem(A, B, C, D, system.dt)
    zeros, gain = _with_gain(g, zeros, poles, real)
    zeros, gain = _without_noise(g, zeros, poles, gain)
    return zeros, poles, gain


def _zeros(A: Matrix, B: Matrix, C: Matrix, D: Matrix) -> Matrix:
    b, c, reach = (float(np.linalg.norm(x)) for x in (B, C, A))
    if not (len(A) and b and c):
        return np.linalg.eigvals(A) if D.any() else np.zeros(0)
    unit = reach or 1.0
    M = np.block([[A / unit, B / b], [C / c, D * (unit / b / c)]])
    M[-1] /= max(1.0, float(np.linalg.norm(M[-1])))
    N = np.zeros_like(M)
    N[:-1, :-1] = np.eye(len(A))
    tol = 4 * len(M) * np.finfo(np.float64).eps
    while len(M):
        U, s, _ = np.linalg.svd(N)
        if s[-1] > tol * s[0]:
            break
        # the last left singular vector makes an equation without a derivative: what it fixes leaves
        row = U[:, -1:].conj().T @ M
        if np.linalg.norm(row) <= tol * np.linalg.norm(M):
            return np.zeros(0)  # a singular pencil: the transfer function is zero
        V = np.linalg.svd(row)[2][1:].conj().T
        M, N = U[:, :-1].conj().T @ M @ V, U[:, :-1].conj().T @ N @ V
    w = backend("scipy").pencil_eigenvalues(M, N) if len(M) else np.zeros(0)
    w = unit * w[np.isfinite(w)]
    if not np.iscomplexobj(A) and np.iscomplexobj(w):
        upper = w[w.imag > 0]
        w = np.concatenate([w[w.imag == 0], upper, upper.conj()]) if len(upper) else w.real
    return np.asarray(w)


def _with_gain(g: DenseSystem, zeros: Matrix, poles: Matrix, real: bool) -> tuple[Matrix, Any]:
    """The zeros and the gain, from the point on the real axis where the transfer function suffers least from cancellation."""
    roots = np.concatenate([poles, zeros])
    size = np.unique(np.abs(roots[roots != 0]))
    best, gain = 0.0, 0.0
    for s in np.concatenate([1.5 * size, -1.5 * size, [1.0]]):
        near = float(np.abs(s - roots).min(initial=np.inf)) / abs(s)
        if near == 0:
            continue
        value, terms = _sized(g, s)
        trust = min(near, 1.0) * abs(value) / terms if terms else 0.0
        if trust > best:
            best, gain = trust, value / value_of(zeros, poles, 1.0, s)
    if best < (g.order + 1) * np.finfo(np.float64).eps:
        return np.zeros(0), 0.0
    return zeros, float(np.real(gain)) if real else complex(gain)


def _sized(g: DenseSystem, s: Any) -> tuple[Any, float]:
    """The transfer function at s, and the size of the terms that it is a sum of."""
    with np.errstate(all="ignore"):
        try:
            x = np.linalg.solve(s * np.eye(g.order) - g.A, g.B.astype(np.complex128))
        except np.linalg.LinAlgError:  # at a pole
            return np.inf, np.inf
    return (g.C @ x + g.D)[0, 0], float((np.abs(g.C) @ np.abs(x) + np.abs(g.D))[0, 0])


def _without_noise(g: DenseSystem, zeros: Matrix, poles: Matrix, gain: Any) -> tuple[Matrix, Any]:
    """Without the far zeros that rounding puts in the place of infinite ones: together they change nothing around the poles."""
    far = zeros[np.argsort(-np.abs(zeros))]
    most = float(np.abs(poles).max(initial=0.0))
    count = 0 if g.D.any() else int((np.abs(far) > 1e3 * most).sum())
    s = around(poles, g.discrete)
    for k in range(count, 0, -1):
        change = value_of(far[:k], [], 1.0, s) / (unit := complex(np.prod(-far[:k])))
        if abs(unit.imag) <= 1e-12 * abs(unit) and np.abs(change - 1).max() <= 1e-13:
            return far[k:], gain * (unit if isinstance(gain, complex) else unit.real)
    return zeros, gain


def value_of(zeros: Any, poles: Any, gain: Any, s: Any) -> Any:
    """The transfer function of these at the points `s`; factors are multiplied in turn, so that they do not overflow."""
    s = np.asarray(s, np.complex128)
    up, down = ([s - x for x in sorted(np.ravel(y), key=abs)] for y in (zeros, poles))
    out = np.full(s.shape, gain, np.complex128)
    for i in range(max(len(up), len(down))):
        out = out * (up[i] if i < len(up) else 1.0) / (down[i] if i < len(down) else 1.0)
    return out


def coefficients(roots: Any, gain: Any = 1.0) -> Matrix:
    r"""Coefficients of :math:`k\prod_i(s - r_i)`, the highest power first, each the exact one rounded.

    Raises
    ------
    OverflowError
        One is too large for a floating-point number.

    Examples
    --------
    >>> coefficients([-1e9, -1.0], 2.0)
    array([2.e+00, 2.e+09, 2.e+09])
    """
    gain, roots = complex(gain), np.asarray(roots, np.complex128)
    re, im = [Fraction(gain.real)], [Fraction(gain.imag)]
    for root in roots:
        x, y = Fraction(root.real), Fraction(root.imag)
        down_re = [x * a - y * b for a, b in zip(re, im, strict=True)]
        down_im = [x * b + y * a for a, b in zip(re, im, strict=True)]
        re = [a - b for a, b in zip([*re, 0], [0, *down_re], strict=True)]
        im = [a - b for a, b in zip([*im, 0], [0, *down_im], strict=True)]
    real = np.array([float(x) for x in re])
    return real + 1j * np.array([float(x) for x in im]) if any(im) else real


def check_held(system: DenseSystem, response: Callable[[Matrix], Matrix], poles: Any, form: str, way_out: str) -> None:
    """Raise unless `response`, that of `form`, agrees with the one-channel `system` around the frequencies of its poles."""
    s = around(poles, system.discrete)
    with np.errstate(all="ignore"):
        got = np.asarray(response(s))
    want, terms = (np.asarray(x) for x in zip(*(_sized(system, x) for x in s), strict=True))
    size = np.abs(want)
    # beside the largest value nearby, since at a zero nothing is left to compare with; and beside the rounding of the terms
    size = np.maximum(size, np.maximum(np.append(size[1:], 0), np.append(0, size[:-1])))
    allowed = HELD * size + 100 * np.finfo(np.float64).eps * terms
    with np.errstate(all="ignore"):
        gap = np.where((got == want) | ~np.isfinite(want), 0.0, np.abs(got - want))
        bad = ~(gap <= allowed)
    if bad.any():
        worst = int(np.argmax(np.where(bad, np.nan_to_num(gap / size, nan=np.inf), 0.0)))
        raise ValueError(
            f"{form} must hold the frequency response to a relative {HELD:g}, got an error of {gap[worst] / size[worst]:.2g} "
            f"at {s[worst]:.4g} with {system.order} states: {way_out}"
        )


def around(poles: Any, discrete: bool) -> Matrix:
    """Points on the boundary of stability at the frequencies of the poles and on both sides of them, ascending."""
    p = np.asarray(poles, np.complex128)
    w = np.append(np.abs(np.log(p[p != 0])), 1.0) if discrete else np.abs(p)
    w = w[w > 0] if (w > 0).any() else np.ones(1)
    w = np.unique(np.concatenate([w * f for f in (0.3, 0.6, 1.0, 1.7, 3.0)]))
    return np.asarray(np.exp(1j * w[w < np.pi]) if discrete else 1j * w)


def fraction(system: DenseSystem, form: str, way_out: str) -> tuple[Matrix, Matrix]:
    r"""Numerator and denominator of a system with one input and one output, checked to hold its frequency response.

    Parameters
    ----------
    system : DenseSystem
    form, way_out : str
        What holds them, and what to use where it cannot, for the error.

    Returns
    -------
    num : ndarray, shape (k + 1,)
    den : ndarray, shape (n + 1,)
        Coefficients, the highest power first; that of the denominator is 1.

    Raises
    ------
    ValueError
        Coefficients in double precision cannot hold the frequency response.

    Examples
    --------
    >>> import balred
    >>> fraction(balred.ss([[-1.0]], [[1.0]], [[2.0]]), "a fraction", "keep the system")
    (array([2.]), array([1., 1.]))
    """
    zeros, poles, gain = zeros_poles_gain(system)
    try:
        num, den = coefficients(zeros, gain), coefficients(poles)
    except OverflowError:
        raise ValueError(f"{form} must have coefficients below 1.8e308, got larger ones: {way_out}") from None
    check_held(system, lambda s: np.polyval(num, s) / np.polyval(den, s), poles, form, way_out)
    return num, den


def from_coefficients(num: Any, den: Any, dt: float | bool = 0) -> DenseSystem:
    r"""The state space of transfer functions with one denominator, of one input.

    A companion matrix in a unit of time in which its coefficients are of one size, balanced.  Unit and balancing are powers
    of two: nothing is rounded but the direct term's part of the numerators.

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
    num, den = (np.asarray(x) for x in (num, den))
    num, den = (
        x.astype(np.complex128 if np.iscomplexobj(x) else np.float64) for x in (np.atleast_2d(num), den.ravel())
    )
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
    A, B, C = _balanced(A, B, c)
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
    A, B, C = _balanced(A, B, C)
    return ss(A, B, C * gain, D * gain, dt)


def _sections(zeros: Matrix, poles: Matrix) -> list[tuple[Roots, Roots]]:
    """Poles and zeros in groups of one or two poles and no more zeros, those of one size together, small ones first."""
    free, wanted = _units(poles), _units(zeros)
    if free is None or wanted is None:
        free, wanted = ([(complex(r),) for r in sorted(x, key=abs)] for x in (poles, zeros))
    made: list[tuple[Roots, Roots]] = []
    for pair in (u for u in wanted if len(u) == 2):
        single = [u for u in free if len(u) == 1]
        # a conjugate pair of poles, or two real ones that are neighbours
        fits = [[u] for u in free if len(u) == 2] or [list(two) for two in itertools.pairwise(single)]
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


def _balanced(A: Matrix, B: Matrix, C: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """The system in units of the states in which rows and columns of A are of one size."""
    if not len(A):
        return A, B, C
    d = backend("scipy").balancing(A)
    return A * d / d[:, None], B / d[:, None], C * d
