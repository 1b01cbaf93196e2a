"""The methods of reduction, in one table, and what happens around each of them.

A method reduces a dense system; what is common to all happens here: unstable modes are kept aside where it cannot take
them, orders are checked, and the result goes back to the structure, array library and precision of what was given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from balred.systems import arrays
from balred.systems.arrays import Array, backend_of, in_precision, namespace
from balred.methods.coprime import coprime, left_coprime, right_coprime
from balred.reduction.diagonalisation import Change, diagonalised
from balred.methods.h2_optimal import h2_spectrum, irka, tsia
from balred.methods.hankel_norm import hankel_norm, hankel_norm_bound
from balred.methods.limited import frequency_limited, limited_truncation, time_limited
from balred.methods.method import Method, no_bound
from balred.methods.modal import modal, modal_bound, modes
from balred.methods.riccati_balancing import bounded_real, lqg, lqg_bound, positive_real
from balred.systems.parts import join
from balred.methods.stochastic import stochastic, stochastic_bound
from balred.systems.dense_system import DiagonalSystem, System, with_leaves
from balred.methods.truncation import singular_perturbation, square_root, truncate, truncate_or_match
from balred.methods.weighted import frequency_weighted, weighted_bound, weighted_truncation
from balred.methods.weighted_hankel import weighted_hankel_bound, weighted_hankel_norm, weighted_hankel_reduction

if TYPE_CHECKING:
    from balred.reduction.analysis import Analysis

METHODS: dict[str, Method] = {
    "truncate": Method(truncate, agnostic=True),
    "square_root": Method(square_root, agnostic=True),
    "singular_perturbation": Method(singular_perturbation, agnostic=True),
    "hankel_norm": Method(hankel_norm, bound=hankel_norm_bound),
    "stochastic": Method(truncate_or_match, stochastic, stochastic_bound, "relative error, |G^-1 (G - Gk)|"),
    "left_coprime": Method(coprime, left_coprime, bounds="error of the coprime factors", whole=True),
    "right_coprime": Method(coprime, right_coprime, bounds="error of the coprime factors", whole=True),
    "lqg": Method(truncate_or_match, lqg, lqg_bound, "error of the normalised coprime factors", whole=True),
    "bounded_real": Method(truncate_or_match, bounded_real, whole=True),
    "positive_real": Method(truncate_or_match, positive_real, no_bound, whole=True),
    "modal": Method(modal, modes, modal_bound),
    "irka": Method(irka, h2_spectrum, no_bound, structured=True),
    "tsia": Method(tsia, h2_spectrum, no_bound, structured=True),
    "frequency_weighted": Method(
        weighted_truncation, frequency_weighted, weighted_bound, "weighted error, |W_o (G - Gk) W_i|"
    ),
    "time_limited": Method(limited_truncation, time_limited, weighted_bound, whole=True),
    "frequency_limited": Method(limited_truncation, frequency_limited, weighted_bound),
    "weighted_hankel_norm": Method(
        weighted_hankel_reduction, weighted_hankel_norm, weighted_hankel_bound, "Hankel norm of the weighted error"
    ),
}
"""The methods by name; ``reduce(obj, rank, method=...)``."""


def method_called(name: Any) -> Method:
    """The method called `name`, or an error that lists them."""
    if not isinstance(name, str) or name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {name!r}")
    return METHODS[name]


@dataclass(frozen=True, repr=False)
class Reduction:
    """A reduced system and what is known of it."""

    system: System
    orders: NDArray[np.int64]
    """Order of the stable part's reduced operator (for a conjugate system up to twice its stored states), shape (...)."""
    bound: NDArray[np.float64]
    change: Change | None = None
    """None where nothing was diagonalised: a dense system, an unstable part, or nothing cut."""

    @property
    def stable_order(self) -> int:
        """The order of the stable part's reduced operator, the least over a batch."""
        return int(self.orders.min())

    def __repr__(self) -> str:
        return f"Reduction({self.system!r}, bound={self.bound})"


def reduce(
    obj: Any,
    rank: Any,
    *,
    method: str = "truncate",
    calibration: Any = None,
    solver: str | None = None,
    offset: float | None = None,
    precision: str = "float64",
    **options: Any,
) -> Any:
    r"""Reduce a system, a layer, or every layer of a model to `rank` states.

    Parameters
    ----------
    obj : system, layer, model, or anything :func:`balred.adapt` reads
        Never changed.
    rank : int, rule, or Budget
        The number of states to keep, as the object counts them (stored states of a conjugate system; unstable
        modes included), or a rule such as ``balred.Energy(0.99)``.  For a model also a dict by layer name, or a
        :class:`balred.Budget` of states that its layers share.
    method : str, default "truncate"
        A name in ``balred.reduction.writing_back.METHODS``; the guide to the methods says which for what.
    calibration : tensor, dict of keyword inputs, or iterable of either, optional
        Data for layers whose dynamics depend on their input, as :func:`balred.plan`.
    solver : str, optional
        As :func:`balred.hsv`.
    offset : float, optional
        Poles within `offset` of the stability boundary count as unstable and are kept.
    precision : str, default "float64"
        As :func:`balred.analyze`.
    **options
        Of the method, ``beta=1.0`` for "stochastic" say.

    Returns
    -------
    The same type as `obj`
        A conjugate system may need fewer stored states than asked.

    Raises
    ------
    ValueError
        `rank` is not between 1 and the number of states, or less than the number of unstable modes; the reduced
        system cannot be diagonalised accurately; the rule cannot be met; unknown `method`.

    Warns
    -----
    RankWarning
        An integer `rank` is beyond the numerical rank, which is used instead.

    Notes
    -----
    :math:`\|G-G_r\|_\infty \le 2\sum_{i>r}\sigma_i`, distinct values counted once.  The dense result is in balanced
    coordinates (truncation), with the largest entry of each row of B positive, so that results repeat.

    Examples
    --------
    >>> import balred
    >>> sys = balred.testing.random_system(20, seed=0)
    >>> balred.reduce(sys, 4)
    DenseSystem(states=4, inputs=2, outputs=2, continuous, float64, numpy)
    >>> small = balred.reduce(sys, balred.ErrorBound(0.1, relative=True))
    """
    from balred.reduction.plan import plan

    return plan(
        obj, rank, calibration, method=method, solver=solver, offset=offset, precision=precision, **options
    ).apply()


def check_rank(rank: Any, states: int) -> int:
    """`rank` as an int, or the error that states its range."""
    if not isinstance(rank, (int, np.integer)) or isinstance(rank, bool):
        raise ValueError(f"rank must be an integer or a rule, got {rank!r}")
    if not 1 <= rank <= states:
        raise ValueError(f"rank must be between 1 and {states}, got {rank}")
    return int(rank)


def reduce_analysis(analysis: Analysis, rank: int) -> Reduction:
    """The reduction of an analysed system to `rank` states."""
    system, method = analysis.system, analysis.method
    be = backend_of(system.B)
    rank = check_rank(rank, system.states)
    kept, state, stable = analysis.unstable, analysis.state, analysis.stable
    fixed = 0 if kept is None else kept.states
    batch = analysis.sigma.shape[:-1]
    if rank < fixed:
        raise ValueError(
            f"rank must be at least the number of unstable modes, {fixed}, which are kept whole, got {rank}"
        )
    if state is None or stable is None:
        return Reduction(system, np.zeros(batch, np.int64), np.zeros(batch))
    if rank == fixed:
        raise ValueError(
            f"rank must be at least {fixed + 1}: {fixed} unstable modes and a state for the stable part, got {rank}"
        )
    if rank == system.states and isinstance(system, DiagonalSystem):
        return Reduction(system, np.full(batch, stable.order), np.zeros(batch))  # already diagonal, nothing to cut
    unit = stable.order // stable.states
    if state.cap == 0:
        raise ValueError(
            "a system must have a nonzero Hankel singular value to be reduced, got none: inputs do not reach outputs"
        )
    order = min((rank - fixed) * unit, state.cap)
    with in_precision(analysis.precision, *stable.leaves) as leaves:
        precise = with_leaves(stable, leaves)
        small: System
        if isinstance(precise, DiagonalSystem):
            small, orders, change = diagonalised(
                precise, method.reduce, state, order, rank - fixed, system, stable=not method.whole
            )
        else:
            small, change = method.reduce(state, order)[0], None
            orders = np.full(batch, min(order, small.order))
        joined = join(kept, small)
    if backend_of(joined.B) is be:
        narrow = with_leaves(joined, tuple(_cast(x, like=system.B) for x in joined.leaves))
    else:  # analysed on the host
        narrow = arrays.mapped(joined, lambda x: be.from_numpy(x, like=system.B))
    bounds = {int(k): method.bound(state, int(k)) for k in np.unique(orders)}
    bound = np.select([orders == k for k in bounds], list(bounds.values()))
    return Reduction(narrow, orders, np.asarray(bound), None if kept is not None else change)


def _cast(x: Array, like: Array) -> Array:
    xp = namespace(x)
    wide = like.dtype in (xp.float64, xp.complex128)
    dtypes = (xp.float64, xp.complex128) if wide else (xp.float32, xp.complex64)
    return xp.astype(x, dtypes[arrays.is_complex(x)])
