r"""Transfer functions of state spaces, as zeros, poles and gain or as coefficients.

Other libraries store transfer functions of one input and one output in this form.  Coefficients are a bad basis to
compute in: their sizes spread over (time scale)^order, and dropping small ones drops what matters.  So zeros and poles
are eigenvalues, the gain is one value of the transfer function, and coefficients are made of these exactly and rounded
once.  The result is compared with the state space at frequencies around its poles and zeros.  If a form cannot hold it,
there is an error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from decimal import MAX_EMAX, MIN_EMIN, Decimal, localcontext
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.systems.arrays import backend
from balred.systems.dense_system import DenseSystem
from balred.systems.long_products import response as long_response
from balred.systems.units import evened

Matrix = NDArray[Any]

HELD = 1e-8
"""Relative error of a frequency response that a form may make: half the digits."""
_ANY = [1.0, -1.0, 3.0]
"""Points for a gain where all roots are zero but for rounding: several, since most points must tell one."""


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
    g = evened(DenseSystem(A, B, C, D, system.dt))[0]
    poles = np.linalg.eigvals(g.A)
    zeros = _zeros(*g.leaves, D)
    real = not any(np.iscomplexobj(x) for x in (A, B, C, D))
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
    trust, gains = [0.0], [0.0 + 0.0j]
    for s in np.concatenate([1.5 * size, -1.5 * size, 4.0 * size[-1:], _ANY]):
        near = float(np.abs(s - roots).min(initial=np.inf)) / abs(s)
        if near == 0:
            continue
        value, terms = _sized(g, s)
        if not np.isfinite(value):
            continue
        trust.append(min(near, 1.0) * abs(value) / terms if terms else 0.0)
        gains.append(complex(value / value_of(zeros, poles, 1.0, s)))
    if max(trust) < (g.order + 1) * np.finfo(np.float64).eps:
        return np.zeros(0), 0.0
    # beside a root that is zero but for rounding a point tells a wrong gain: the one that most points tell is taken
    said = np.array(gains)
    votes = (np.abs(said - said[:, None]) <= HELD * np.abs(said)[:, None]).sum(axis=1)
    gain = gains[max(range(len(gains)), key=lambda i: (trust[i] > 0, votes[i], trust[i]))]
    return zeros, float(np.real(gain)) if real else complex(gain)


def _sized(g: DenseSystem, s: Any) -> tuple[Any, float]:
    """The transfer function at s, and the size of the terms that it is a sum of."""
    with np.errstate(all="ignore"):
        try:
            x = np.linalg.solve(s * np.eye(g.order) - g.A, g.B.astype(np.complex128))
        except np.linalg.LinAlgError:  # at a pole
            return np.inf, np.inf
    return (g.C @ x + g.D)[0, 0], float((np.abs(g.C) @ np.abs(x) + np.abs(g.D))[0, 0])


def _exactly(g: DenseSystem, s: Any) -> tuple[Any, float]:
    """:func:`_sized`, with more digits where terms cancel."""
    value, terms = _sized(g, s)
    if np.isfinite(terms) and terms * np.finfo(np.float64).eps * (g.order + 1) > 1e-2 * HELD * abs(value):
        with contextlib.suppress(ArithmeticError):  # beside a pole that rounding errors made
            value = long_response(*g.leaves, g.D, complex(s), False)[0, 0]
    return value, terms


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
    re, im, nothing = [Fraction(gain.real)], [Fraction(gain.imag)], Fraction(0)
    for root in roots:
        x, y = Fraction(root.real), Fraction(root.imag)
        down_re = [x * a - y * b for a, b in zip(re, im, strict=True)]
        down_im = [x * b + y * a for a, b in zip(re, im, strict=True)]
        re = [a - b for a, b in zip([*re, nothing], [nothing, *down_re], strict=True)]
        im = [a - b for a, b in zip([*im, nothing], [nothing, *down_im], strict=True)]
    real = np.array([float(x) for x in re])
    return real + 1j * np.array([float(x) for x in im]) if any(im) else real


def check_held(system: DenseSystem, response: Callable[[Matrix], Matrix], poles: Any, form: str, way_out: str) -> None:
    """Raise unless `response`, that of `form`, agrees with the one-channel `system` around the frequencies of its poles."""
    s = around(poles, system.discrete)
    with np.errstate(all="ignore"):
        got = np.asarray(response(s))
    want, terms = (np.asarray(x) for x in zip(*(_exactly(system, x) for x in s), strict=True))
    size = np.abs(want)
    # beside the largest value nearby, since at a zero nothing is left to compare with; and beside the rounding of the terms,
    # which may be large because of the coordinates only
    rounding = 100 * np.finfo(np.float64).eps
    terms = np.minimum(terms, np.max(size[np.isfinite(size)], initial=0.0))
    size = np.maximum(size, np.maximum(np.append(size[1:], 0), np.append(0, size[:-1])))
    allowed = HELD * size + rounding * terms
    with np.errstate(all="ignore"):
        gap = np.where((got == want) | ~np.isfinite(want), 0.0, np.abs(got - want))
        bad = ~(gap <= allowed)
        for i in np.flatnonzero(bad):
            unknown = rounding * _open(system, poles, complex(s[i]), want[i])
            bad[i] = not (gap[i] <= allowed[i] + unknown or unknown >= abs(want[i]))
    if bad.any():
        worst = int(np.argmax(np.where(bad, np.nan_to_num(gap / size, nan=np.inf), 0.0)))
        raise ValueError(
            f"{form} must hold the frequency response to a relative {HELD:g}, got an error of {gap[worst] / size[worst]:.2g} "
            f"at {s[worst]:.4g} with {system.order} states: {way_out}"
        )


def beside(poles: Any, discrete: bool) -> Matrix:
    """:func:`around` without the points that are poles themselves, but for rounding."""
    s, p = around(poles, discrete), np.asarray(poles)
    return np.asarray(s[np.abs(s[:, None] - p).min(axis=1, initial=np.inf) > 1e-6 * np.abs(s)])


def _open(system: DenseSystem, poles: Any, s: complex, value: complex) -> float:
    """How large a value beside a pole is that nobody knows better than to the rounding of A: over the rounding unit, what that changes.

    It is the lesser of two estimates: of A as a whole, which moves the pole, and of each entry of A.
    """
    A, B, C = evened(system)[0].leaves
    M = s * np.eye(len(A)) - A
    try:
        X, Y = np.abs(np.linalg.solve(M, B)), np.abs(np.linalg.solve(M.T, C.T)).T
    except np.linalg.LinAlgError:
        return np.inf
    entries = float((Y @ (np.abs(A) @ X + abs(s) * X))[0, 0] + Y.sum() * np.abs(B).max() + np.abs(C).max() * X.sum())
    gap = float(np.abs(s - np.asarray(poles)).min(initial=np.inf))
    return min(entries, abs(value) * (float(np.linalg.norm(A)) + abs(s)) / gap if gap else np.inf)


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
    check_held(system, lambda s: _quotients(num, den, s), poles, form, way_out)
    return num, den


def fractions(system: DenseSystem, form: str, way_out: str) -> list[list[tuple[Matrix, Matrix]]]:
    """:func:`fraction` of each channel, [output][input]; a channel that is nothing but rounding is zero.

    Examples
    --------
    >>> import balred, numpy as np
    >>> g = balred.ss(-np.eye(2), [[3.0, 1.0], [-1.0, 3.0]], [[3.0, 1.0], [1.0, -3.0]])
    >>> [[num.round(12).tolist() for num, _ in row] for row in fractions(g, "a fraction", "keep the system")]
    [[[8.0, 8.0], [6.0, 6.0]], [[6.0, 6.0], [-8.0, -8.0]]]
    """
    even = evened(system)[0]
    poles = np.linalg.eigvals(even.A)

    def channel(i: int, j: int) -> tuple[Matrix, Matrix]:
        g = DenseSystem(even.A, even.B[:, j : j + 1], even.C[i : i + 1], even.D[i : i + 1, j : j + 1], even.dt)
        try:
            return fraction(g, form, way_out)
        except ValueError:
            if g.D.any() or not _is_rounding(g, beside(poles, g.discrete)):
                raise
            return np.zeros(1), coefficients(poles)

    return [[channel(i, j) for j in range(system.D.shape[1])] for i in range(system.D.shape[0])]


def _is_rounding(g: DenseSystem, points: Matrix) -> bool:
    """Whether all that the output of one channel shows of its states is what rounding leaves of nothing."""
    for s in points:
        x = np.linalg.solve(s * np.eye(g.order) - g.A, g.B)
        if abs((g.C @ x)[0, 0]) > 1000 * np.finfo(np.float64).eps * np.linalg.norm(g.C) * np.linalg.norm(x):
            return False
    return True


def _quotients(num: Matrix, den: Matrix, s: Matrix) -> Matrix:
    """The values of a fraction at the points s, with more digits where terms of its polynomials cancel."""
    over, under = np.polyval(num, s), np.polyval(den, s)
    lost = sum(np.polyval(np.abs(x), np.abs(s)) / np.abs(y) for x, y in ((num, over), (den, under)))
    out = over / under
    for i in np.flatnonzero(~(lost * np.finfo(np.float64).eps * len(den) <= 1e-2 * HELD)):
        out[i] = _quotient(num, den, complex(s[i]))
    return np.asarray(out)


def _quotient(num: Matrix, den: Matrix, s: complex) -> complex:
    """The value of a fraction at s, in so many digits that those which cancel in the polynomials are not missed."""
    with localcontext() as context:
        context.prec, context.Emin, context.Emax = 60, MIN_EMIN, MAX_EMAX
        (a, b), (c, d) = _polynomial(num, s), _polynomial(den, s)
        size = c * c + d * d
        return complex((a * c + b * d) / size, (b * c - a * d) / size) if size else complex(np.nan)


def _polynomial(x: Matrix, s: complex) -> tuple[Decimal, Decimal]:
    re, im, a, b = Decimal(0), Decimal(0), Decimal(s.real), Decimal(s.imag)
    for coefficient in np.asarray(x, np.complex128):
        re, im = re * a - im * b + Decimal(coefficient.real), re * b + im * a + Decimal(coefficient.imag)
    return re, im


def balanced_units(A: Matrix, B: Matrix, C: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """The system in units of the states in which rows and columns of A are of one size."""
    if not len(A):
        return A, B, C
    d = backend("numpy").balancing(A)
    return A * d / d[:, None], B / d[:, None], C * d
