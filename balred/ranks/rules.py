r"""The rules that choose a rank from Hankel singular values.

A rule answers one question: how many of the descending values :math:`\sigma_1 \ge \sigma_2 \ge \dots` must be kept?
Every rule is capped at the numerical rank (values above ``n * eps * sigma_1``), since truncation beyond it divides
by rounding errors, and may round its answer up to a multiple (a bucket), so that kernels and compilers see few sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from balred.ranks.bounds import FloatArray, a_priori_bound, numerical_rank, shares


class Rule(Protocol):
    """The protocol of rank rules: an attribute `multiple_of` and a method `order`.

    Examples
    --------
    >>> import balred, numpy as np
    >>> class Above:
    ...     "States whose value is above one."
    ...     multiple_of = 1
    ...
    ...     def order(self, hsv):
    ...         return int((np.asarray(hsv) > 1).sum())
    >>> g = balred.testing.random_system(20, seed=0)
    >>> balred.reduce(g, Above()).states == Above().order(balred.hsv(g))
    True
    """

    @property
    def multiple_of(self) -> int:
        """The rank is rounded up to a multiple of this."""

    def order(self, hsv: FloatArray) -> int:
        """Least number of values of the one spectrum `hsv` that satisfies the rule, before rounding and cap."""


@dataclass(frozen=True)
class Order:
    """Keep `rank` states, as the number itself does; `multiple_of` rounds it up, and the numerical rank limits it.

    For a conjugate system stored states are counted.  Unstable modes, which are always kept, count too.

    Examples
    --------
    >>> Order(3).order(np.array([3.0, 2.0, 1.0, 0.5]))
    3
    """

    rank: int
    multiple_of: int = 1

    def __post_init__(self) -> None:
        _check_integer("rank", self.rank)
        _check_integer("multiple_of", self.multiple_of)

    def order(self, hsv: FloatArray) -> int:
        """`rank` itself."""
        return self.rank


@dataclass(frozen=True)
class Energy:
    r"""Keep the least r with :math:`\sum_{i\le r}\sigma_i \ge f \sum_i \sigma_i`.

    Parameters
    ----------
    fraction : float
        f in (0, 1]; CompreSSM's tolerance is :math:`\tau = 1-f` (arXiv 2510.02823, section 3).
    squared : bool, default False
        Sum :math:`\sigma_i^2` instead.
    multiple_of : int, default 1
        The rank is rounded up to a multiple of this.

    Examples
    --------
    >>> Energy(0.9).order(np.array([8.0, 1.5, 0.4, 0.1]))
    2
    """

    fraction: float
    squared: bool = False
    multiple_of: int = 1

    def __post_init__(self) -> None:
        _check_number("fraction", self.fraction)
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be in (0, 1], got {self.fraction}")
        _check_flag("squared", self.squared)
        _check_integer("multiple_of", self.multiple_of)

    def order(self, hsv: FloatArray) -> int:
        """Least number of values that holds the fraction."""
        s = hsv / np.max(hsv)  # whose squares are numbers
        return int(np.searchsorted(shares(s**2 if self.squared else s), self.fraction * (1 - 4e-16 * len(s)))) + 1


@dataclass(frozen=True)
class Relative:
    r"""Keep every value with :math:`\sigma_i > t\,\sigma_1`.

    Parameters
    ----------
    tolerance : float
        t in [0, 1).
    multiple_of : int, default 1
        The rank is rounded up to a multiple of this.

    Examples
    --------
    >>> Relative(0.1).order(np.array([8.0, 1.5, 0.4, 0.1]))
    2
    """

    tolerance: float
    multiple_of: int = 1

    def __post_init__(self) -> None:
        _check_number("tolerance", self.tolerance)
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance must be in [0, 1), got {self.tolerance}")
        _check_integer("multiple_of", self.multiple_of)

    def order(self, hsv: FloatArray) -> int:
        """Number of values above the threshold."""
        return int(np.sum(hsv > self.tolerance * hsv[0]))


@dataclass(frozen=True)
class ErrorBound:
    r"""Keep the least r whose a-priori bound on the H-infinity error is at most `tolerance`.

    Parameters
    ----------
    tolerance : float
    relative : bool, default False
        `tolerance` is a fraction of :math:`\sigma_1`, which never exceeds the H-infinity norm of G - D.
    multiple_of : int, default 1
        The rank is rounded up to a multiple of this.

    Raises
    ------
    ValueError
        From :meth:`order`, if not even the numerical rank meets the tolerance.

    Examples
    --------
    >>> ErrorBound(1.0).order(np.array([8.0, 1.5, 0.4, 0.1]))
    2
    """

    tolerance: float
    relative: bool = False
    multiple_of: int = 1

    def __post_init__(self) -> None:
        _check_number("tolerance", self.tolerance)
        if not self.tolerance > 0:
            raise ValueError(f"tolerance must be positive, got {self.tolerance}")
        _check_flag("relative", self.relative)
        _check_integer("multiple_of", self.multiple_of)

    def limit(self, hsv: FloatArray) -> float:
        """The largest bound allowed, in the units of the values."""
        return self.tolerance * (float(hsv[0]) if self.relative else 1.0)

    def order(self, hsv: FloatArray) -> int:
        """Least order that meets the bound."""
        limit = self.limit(hsv)
        cap = int(numerical_rank(hsv))
        for r in range(1, cap + 1):
            if a_priori_bound(hsv, r) <= limit:
                return r
        best = float(a_priori_bound(hsv, cap))
        raise ValueError(
            f"tolerance must be at least {best:.3g}, the error bound at the numerical rank {cap}, got {limit:.3g}"
        )


@dataclass(frozen=True)
class MeasuredError:
    r"""Keep the least r whose reduction has a measured H-infinity error of at most `tolerance`.

    The error is measured on the reduced system itself.  So the order is often lower than that of :class:`ErrorBound`,
    and methods without an a-priori bound take this rule too.  Orders are tried upwards.  The first is the least that
    can meet the tolerance: every system of order r has an error of at least :math:`\sigma_{r+1}`.  Each order needs a
    norm, so this rule costs more than rules on Hankel singular values.

    Parameters
    ----------
    tolerance : float
    relative : bool, default False
        `tolerance` is a fraction of the H-infinity norm of the system.  If the system has unstable modes, which are
        kept, both norms are those of the stable part.
    multiple_of : int, default 1
        The rank is rounded up to a multiple of this.

    Raises
    ------
    ValueError
        From :meth:`order`, because Hankel singular values do not give a measured error; from :meth:`balred.Analysis.rank`,
        if not even the largest order of the method meets the tolerance.

    Examples
    --------
    >>> import balred
    >>> g = balred.testing.random_system(20, seed=1)
    >>> a = balred.analyze(g)
    >>> r = a.rank(MeasuredError(0.3))
    >>> r <= a.rank(balred.ErrorBound(0.3)), bool(balred.error(g, a.reduce(r)) <= 0.3 < balred.error(g, a.reduce(r - 1)))
    (True, True)
    """

    tolerance: float
    relative: bool = False
    multiple_of: int = 1

    def __post_init__(self) -> None:
        _check_number("tolerance", self.tolerance)
        if not 0 < self.tolerance < float("inf"):
            raise ValueError(f"tolerance must be positive and finite, got {self.tolerance}")
        _check_flag("relative", self.relative)
        _check_integer("multiple_of", self.multiple_of)

    def order(self, hsv: FloatArray) -> int:
        """Raise an error: this rule needs a system, on which the error is measured."""
        raise ValueError(f"a rule on measured errors needs a system to measure, got values alone for {self}")


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number, got {value!r}")


def _check_integer(name: str, value: Any) -> None:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")


def _check_flag(name: str, value: Any) -> None:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
