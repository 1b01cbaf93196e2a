"""Whether a reduced system is as near to the given one as its bound promises, looked at where rounding would show first.

Theory bounds the error of a system whose numbers are exact.  Rounding moves poles, and one near the boundary of the stable region
counts most: so what the bound is of is evaluated at the frequencies of the slowest poles, at zero and at infinity, and compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from balred.systems.arrays import warn_caller
from balred.systems.dense_system import DenseSystem
from balred.systems.long_products import ten_digits

Gap: TypeAlias = Callable[[Any], NDArray[Any]]
"""What a bound is of, at points of the boundary of the stable region, shape (...): matrices (..., p, m), the norms of which are bounded."""

_DOUBLE = float(np.finfo(np.float64).eps)
_SLACK, _FLOOR, _DIGITS = 1e-6, 1e-8, 1e-6
"""Parts of the bound, and of the first value, by which an error may exceed the bound; beyond the last it is no result."""
_ROUNDINGS = 16
"""So many of the entries of a result in single precision may be seen beside its first value."""
_LOOKED_AT = 6
_BEYOND = 1e6
"""Times its fastest pole a system has the response that it has at infinity."""
_BESIDE = np.array([-1.1, -0.5, 0.0, 0.5, 1.1])


class RoundingWarning(UserWarning):
    """The error of a reduced system is above its bound because of rounding errors.

    Examples
    --------
    >>> import warnings, balred, numpy as np
    >>> rates = np.array([1e-6, 1e2])  # the slow pole, exp(-1e-9), differs from one by a few units of rounding
    >>> A, B = np.exp(-1e-3 * rates), -np.expm1(-1e-3 * rates) / rates
    >>> g = balred.ss(np.diag(A), B[:, None], np.ones((1, 2)), dt=1e-3)
    >>> with warnings.catch_warnings(record=True) as told:
    ...     warnings.simplefilter("always")
    ...     small = balred.reduce(g, 1)
    >>> told[0].category.__name__, bool(balred.error(g, small) > 2 * balred.hsv(g)[1])  # the bound
    ('RoundingWarning', True)
    """


class Promise(NamedTuple):
    """What is promised of one reduced system: that `gap` stays below `bound`, beside the `first` value."""

    gap: Gap
    small: DenseSystem
    bound: float
    first: float
    rounding: float = _DOUBLE
    """That of the entries, those of the result too."""

    def worst(self) -> tuple[float, float]:
        """The largest error where rounding would show, and by how much of the first value it is above the bound and what may be."""
        error = float(np.linalg.norm(self.gap(_points(self.small)), 2, axis=(-2, -1)).max())
        above = error > self.bound * (1 + _SLACK) + max(_FLOOR, _ROUNDINGS * self.rounding) * self.first
        return error, (error - self.bound) / self.first if above and self.first else 0.0


def visible(error: Any, first: Any) -> Any:
    """The least change of a response that may be seen beside an error that is made anyway."""
    one, other = _SLACK * error, 1e-2 * _FLOOR * first
    return max(one, other) if isinstance(one, float) else np.maximum(one, other)


def error_gap(full: DenseSystem, small: DenseSystem) -> Gap:
    """The response of one system less that of another, each with ten digits of its own."""

    def gap(at: Any) -> NDArray[Any]:
        one, other = (ten_digits(*g.leaves, g.D, at, g.discrete) for g in (full, small))
        return np.asarray(one - other)

    return gap


def check_promises(promises: Iterable[Promise], order: int, of: str = "error", near: str = "poles") -> None:
    """Compare what was made with what is promised of it, and tell of the worst where there are several (the members of a batch).

    What is `near` the boundary of the stable region is the reason that is given.

    Raises
    ------
    ArithmeticError
        Rounding leaves less than six digits.

    Warns
    -----
    RoundingWarning
        What is bounded is above its bound.
    """
    worst, told = 0.0, ""
    for promise in promises:
        error, beyond = promise.worst()
        bound, narrow = promise.bound, promise.rounding > _DOUBLE
        if beyond > _DIGITS and not narrow:
            steps = "; use a longer time step" if promise.small.discrete else ""
            advice = steps if near == "poles" else "; with beta > 0 they count less"
            raise ArithmeticError(
                f"the {of} may exceed its bound by at most {_DIGITS:g} of the first Hankel singular value, got "
                f"{error:.3g} with a bound of {bound:.3g}: its {near} are close to the boundary of the stable region, "
                f"and rounding errors in double precision count for more there{advice}"
            )
        if beyond > worst:
            digits = " to single precision, give them in double" if narrow else ""
            worst = beyond
            told = (
                f"the {of} of order {order}, {error:.3g}, is larger than the bound, {bound:.3g}, by {error - bound:.1g}: the entries of "
                f"the reduced system are rounded{digits}, and its {near} are so close to the boundary of the stable region that this counts"
            )
    if told:
        warn_caller(told, RoundingWarning)


def _points(g: DenseSystem) -> NDArray[np.complex128]:
    r"""Zero, what is nearly infinity, and the frequencies at which the slowest poles change the response most when they are moved.

    A pole moved by rounding adds :math:`\epsilon/(1+jx)^2`, x its distance from the frequency in units of its distance from the
    boundary.  Beside an error of any phase that counts most between x = 0 and, against the sign, :math:`\sqrt3`: five points see
    at least 84 % of it, at phases where it is a fifth or more.
    """
    poles = np.linalg.eigvals(g.A).astype(np.complex128)
    poles = np.log(poles[poles != 0]) if g.discrete else poles
    near = poles[np.argsort(np.abs(poles.real))[:_LOOKED_AT], None]
    beyond = np.pi if g.discrete else _BEYOND * np.abs(poles).max(initial=0.0)
    points = np.unique(np.append(np.abs(near.imag + np.abs(near.real) * _BESIDE), [0.0, beyond]))
    return np.asarray(np.exp(1j * points[points <= np.pi]) if g.discrete else 1j * points)
