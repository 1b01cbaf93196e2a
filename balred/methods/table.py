"""The methods of reduction, in one table: what commands, tests and documentation know of them is read from it."""

from __future__ import annotations

from typing import Any

from balred.methods.coprime import coprime, left_coprime, right_coprime
from balred.methods.h2_optimal import h2_spectrum, irka, tsia
from balred.methods.hankel_norm import (
    hankel_norm,
    hankel_norm_bound,
    weighted_hankel_bound,
    weighted_hankel_gap,
    weighted_hankel_norm,
    weighted_hankel_reduction,
)
from balred.methods.limited import frequency_limited, limited_truncation, time_limited
from balred.methods.method import Method, Of, no_bound
from balred.methods.modal import modal, modal_bound, modes
from balred.methods.riccati_balancing import (
    bounded_real,
    lqg,
    lqg_bound,
    lqg_gap,
    positive_real,
    stochastic,
    stochastic_bound,
    stochastic_gap,
)
from balred.methods.truncation import singular_perturbation, square_root, truncate, truncate_or_match
from balred.methods.weighted import frequency_weighted, weighted_bound, weighted_gap, weighted_truncation

METHODS: dict[str, Method] = {
    "truncate": Method(truncate, gap=None, takes="arrays", linear=True, nested=True),
    "square_root": Method(square_root, gap=None, takes="arrays", linear=True, nested=True),
    "singular_perturbation": Method(singular_perturbation, gap=None, takes="arrays", linear=True),
    "hankel_norm": Method(hankel_norm, bound=hankel_norm_bound, linear=True),
    "stochastic": Method(truncate_or_match, stochastic, stochastic_bound, Of.RELATIVE, stochastic_gap, invariant=True),
    "left_coprime": Method(coprime, left_coprime, bounds=Of.COPRIME, gap=None, takes_unstable=True),
    "right_coprime": Method(coprime, right_coprime, bounds=Of.COPRIME, gap=None, takes_unstable=True),
    "lqg": Method(truncate_or_match, lqg, lqg_bound, Of.NORMALIZED, lqg_gap, takes_unstable=True),
    "bounded_real": Method(truncate_or_match, bounded_real, takes_unstable=True),
    "positive_real": Method(truncate_or_match, positive_real, no_bound, takes_unstable=True, invariant=True),
    "modal": Method(modal, modes, modal_bound, sizes=(1e-290, 1e290)),  # squares of roots alone
    "irka": Method(irka, h2_spectrum, no_bound, takes="host", linear=True),
    "tsia": Method(tsia, h2_spectrum, no_bound, takes="host", linear=True),
    "frequency_weighted": Method(
        weighted_truncation,
        frequency_weighted,
        weighted_bound,
        Of.WEIGHTED,
        weighted_gap,
        mixes_units=True,
        linear=True,
    ),
    "time_limited": Method(
        limited_truncation, time_limited, weighted_bound, takes_unstable=True, mixes_units=True, linear=True
    ),
    "frequency_limited": Method(limited_truncation, frequency_limited, weighted_bound, mixes_units=True, linear=True),
    "weighted_hankel_norm": Method(
        weighted_hankel_reduction,
        weighted_hankel_norm,
        weighted_hankel_bound,
        Of.WEIGHTED_HANKEL,
        weighted_hankel_gap,
        linear=True,
    ),
}
"""The methods by name; ``reduce(obj, rank, method=...)``."""

ALIASES = {"matchdc": "singular_perturbation"}
"""What other libraries call a method: python-control's and MATLAB's match of the DC gain."""


def method_name(name: Any) -> str:
    """The name in :data:`METHODS` of the method called `name`, or an error that lists them."""
    known = ALIASES.get(name, name) if isinstance(name, str) else None
    if known not in METHODS:
        also = ", ".join(f"{alias} (for {one})" for alias, one in ALIASES.items())
        raise ValueError(f"method must be one of {', '.join(METHODS)}, or {also}, got {name!r}")
    return known


def method_called(name: Any) -> Method:
    """The method called `name`, or an error that lists them.

    Examples
    --------
    >>> from balred.methods import method_called
    >>> str(method_called("bounded_real").bounds)
    'H-infinity norm of the error'
    >>> method_called("balance")
    Traceback (most recent call last):
        ...
    ValueError: method must be one of truncate, square_root, singular_perturbation, hankel_norm, stochastic, left_coprime, right_coprime, lqg, bounded_real, positive_real, modal, irka, tsia, frequency_weighted, time_limited, frequency_limited, weighted_hankel_norm, or matchdc (for singular_perturbation), got 'balance'
    """
    return METHODS[method_name(name)]
