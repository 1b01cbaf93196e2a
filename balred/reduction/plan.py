"""What a reduction would do to a model, as a table, before it is done.

``reduce(model, ranks)`` is ``plan(model, ranks).apply()``: the plan analyses every layer it can, decides its rank,
and records the a-priori bound and what it skips and why.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from balred.methods.table import method_called
from balred.ranks.budget import Budget, relative
from balred.ranks.choosing import check_rank, is_rule
from balred.reduction.analysis import Analysis, tail_of
from balred.reduction.selective import Choice, check_wanted, choose, measure, tails
from balred.registry.entries import entry_of
from balred.registry.reading import adapt, layers_of, replace_layers
from balred.selection.moments import Moments
from balred.solvers.gramians import check_precision
from balred.systems.arrays import warn_caller


class SkippedWarning(UserWarning):
    """Layers of a model that a reduction left as they were, and why."""


@dataclass(frozen=True)
class Row:
    """One layer of a plan: `after` is None where it is skipped, `note` says why."""

    layer: str
    type: str
    before: int | None
    after: int | None
    bound: float | None = None
    energy: float | None = None
    note: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """A table of what would be cut; ``apply()`` returns the reduced model.

    Examples
    --------
    >>> import balred
    >>> p = balred.plan([balred.testing.random_system(8, seed=1), balred.testing.random_system(4, seed=2)], 5)
    >>> p.rows[0].after, p.rows[1].note
    (5, 'has only 4 states')
    """

    model: Any
    rows: tuple[Row, ...]
    _new: Mapping[str, Any] = field(default_factory=dict)

    def apply(self) -> Any:
        """The model with the planned layers replaced; the original is untouched."""
        skipped = [f"{r.layer or r.type} ({r.note})" for r in self.rows if r.after is None]
        if skipped:
            warn_caller(f"layers left as they are: {'; '.join(skipped)}", SkippedWarning)
        return replace_layers(self.model, self._new)

    def __repr__(self) -> str:
        lines = [("layer", "type", "from", "to", "bound", "energy", "")]
        for r in self.rows:
            lines.append((
                r.layer or "-", r.type, "-" if r.before is None else str(r.before), "-" if r.after is None else str(r.after),
                "" if r.bound is None else f"{r.bound:.3g}", "" if r.energy is None else f"{r.energy:.4f}", r.note,
            ))  # fmt: skip
        widths = [max(len(line[i]) for line in lines) for i in range(7)]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def plan(
    model: Any,
    ranks: Any,
    calibration: Any = None,
    *,
    method: str = "truncate",
    solver: str | None = None,
    offset: float | None = None,
    precision: str = "float64",
    **options: Any,
) -> Plan:
    """Decide what :func:`balred.reduce` would do to `model`.

    Parameters
    ----------
    model : system, layer, model
    ranks : int, rule, dict by layer name of either, or Budget
        In a dict, layers without a key are left alone.  A :class:`balred.Budget` is shared out over the layers.
    calibration : tensor, dict of keyword inputs, or iterable of either, optional
        Data for layers whose dynamics depend on their input (docs, guide to selective layers); time-invariant layers
        need none.
    method, solver, offset, precision, **options
        As :func:`balred.reduce`.

    Returns
    -------
    Plan

    Raises
    ------
    ValueError
        As :func:`balred.reduce` for a single system or layer; a key of `ranks` that is no layer.  In a model with
        several layers, one that cannot be cut is skipped and the table says why.
    """
    layers = layers_of(model)
    entries = {name: entry_of(layer) for name, layer in layers.items()}
    selective = {n: (layers[n], e.selective) for n, e in entries.items() if e is not None and e.selective is not None}
    choosing = {k: options.pop(k) for k in ("selection", "compensate", "seed") if selective and k in options}
    method_called(method).check_options(method, options)
    check_precision(precision, solver)
    settings = {"method": method, "solver": solver, "offset": offset, "precision": precision, **options}
    wanted = ranks if isinstance(ranks, Budget) else _by_layer(ranks, layers)
    moments: Mapping[str, Moments] = {}
    if selective:
        if method != "truncate":
            raise ValueError(f"selective layers are reduced by selection, so method must be left alone, got {method!r}")
        compensate = choosing.pop("compensate", True)
        check_wanted(selective, {} if isinstance(wanted, Budget) else wanted, choosing.get("selection", "joint"))
        moments = measure(model, selective, calibration, compensate=compensate)
    ready: dict[str, Analysis] = {}
    if isinstance(wanted, Budget):
        ready = _analysed({n: x for n, x in layers.items() if n not in selective}, settings)
        errors = tails(moments) | {n: tail_of(a) for n, a in ready.items()}
        if wanted.relative or (moments and ready):
            errors = {n: relative(t) for n, t in errors.items()}
        tied = [n for n, (_, entry) in selective.items() if entry.one_size]
        shared = wanted.shared({name: errors[name] for name in layers if name in errors}, [tied])
        wanted = {name: shared.get(name, 1) for name in layers}  # of one that cannot be analysed, any rank says why
    chosen: Mapping[str, Choice] = {}
    if selective:
        source = "surrogate" if calibration is None else "calibration data"
        chosen = choose(selective, wanted, moments, measured=source, **choosing)
    rows, new = [], {}
    for name, layer in layers.items():
        if name in chosen:
            choice, smaller = chosen[name], chosen[name].layer
            row = Row(name, type(layer).__name__, choice.states, choice.rank, None, choice.energy, choice.note)
        else:
            row, smaller = _row(name, layer, wanted.get(name), len(layers) == 1, ready.get(name), settings)
        rows.append(row)
        if smaller is not None:
            new[name] = smaller
    return Plan(model, tuple(rows), new)


def _by_layer(ranks: Any, layers: Mapping[str, Any]) -> dict[str, Any]:
    """The rank or rule of each layer by name; layers without one are left alone."""
    if not isinstance(ranks, Mapping):
        return dict.fromkeys(layers, ranks)
    if list(layers) == [""]:
        raise ValueError(f"ranks must be a number or a rule for a single system or layer, got {ranks!r}")
    wanted = {str(key): value for key, value in ranks.items()}
    unknown = [key for key in wanted if key not in layers]
    if unknown:
        raise ValueError(
            f"the keys of ranks must be layers of the model ({', '.join(layers)}), got {', '.join(unknown)}"
        )
    budgets = [key for key, value in wanted.items() if isinstance(value, Budget)]
    if budgets:
        raise ValueError(f"a budget is shared by all layers of a model, got one for {', '.join(budgets)}")
    return {key: value for key, value in wanted.items() if value is not None}


def _analysed(layers: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Analysis]:
    """The analyses of those layers that have one."""
    found = {}
    for name, layer in layers.items():
        with contextlib.suppress(ValueError):  # the layer's row will say why
            analysis = Analysis(*adapt(layer), **settings)
            if analysis.state is not None and analysis.state.cap:
                found[name] = analysis
    return found


def _row(
    name: str, layer: Any, wanted: Any, alone: bool, analysis: Analysis | None, settings: Mapping[str, Any]
) -> tuple[Row, Any]:
    """What becomes of a layer that has an operator, and the smaller layer; a layer that is not `alone` may be skipped."""
    kind, states = type(layer).__name__, None
    whole = isinstance(wanted, (int, np.integer)) and not isinstance(wanted, bool)
    if not alone and wanted is not None and not is_rule(wanted) and not (whole and wanted >= 1):
        raise ValueError(f"rank must be an integer of at least 1 or a rule, got {wanted!r}")
    try:
        system, rebuild = adapt(layer)
        states = system.states
        if not alone and wanted is None:
            return Row(name, kind, states, None, note="not in ranks"), None
        if not alone and whole and wanted > states:
            return Row(name, kind, states, None, note=f"has only {states} states"), None
        fixed = None if is_rule(wanted) else check_rank(wanted, states)
        analysis = analysis or Analysis(system, rebuild, **settings)
        rank = analysis.rank(wanted) if fixed is None else fixed
        reduction = analysis.reduction(rank)
        if fixed is not None:
            analysis.warn_if_capped(rank, reduction)
        smaller = rebuild(reduction.system)
    except ValueError as error:
        if alone:
            raise
        return Row(name, kind, states, None, note=str(error)), None
    bound = float(np.max(reduction.bound)) if reduction.bound.size else 0.0
    return Row(name, kind, states, reduction.system.states, bound, float(np.min(analysis.energy(rank)))), smaller


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
        A name in ``balred.methods.METHODS``; the guide to the methods says which for what.
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
    return plan(
        obj, rank, calibration, method=method, solver=solver, offset=offset, precision=precision, **options
    ).apply()
