"""A table of what a reduction would do to a model.

``reduce(model, ranks)`` is ``plan(model, ranks).apply()``: the plan analyses every layer it can, decides its rank,
and records the a-priori bound and what it skips and why.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np

from balred.layers.along_data import DataSums
from balred.ranks.budget import Budget
from balred.ranks.choosing import is_rule
from balred.ranks.divergence import Divergence, Measured
from balred.ranks.shown import table_html, table_text
from balred.reduction.analysis import reduced_alone, sums_along
from balred.reduction.candidates import (
    HEAD,
    Candidate,
    Candidates,
    Failure,
    Row,
    Smaller,
    check_even,
    cut_each,
    row_of,
)  # fmt: skip
from balred.reduction.choosing import (
    check_number,
    kept_apart,
    ranks_by_layer,
    shared_out,
    spared,
    wanted_by_layer,
    within_divergence,
    worths,
)
from balred.reduction.operators import Read, operator_candidates, read_operators, second_order_candidates
from balred.reduction.selective import CalibrationWarning, SelectiveLayers, check_wanted, selective_candidates
from balred.reduction.settings import Settings, configured_for
from balred.reduction.writing_back import warn_if_capped
from balred.registry.reading import adapt, layers_of, obstacles_of, replace_layers, second_order_of, selective_of
from balred.selection.calibration import Batch, Calibration
from balred.systems.arrays import warn_caller
from balred.systems.dense_system import DenseSystem
from balred.systems.diagonal_system import DiagonalSystem

_CHOOSING = ("selection", "compensate", "seed", "balanced_on", "scalar", "max_bytes", "vmapped", "progress")
"""Options that say how states are chosen on data; all others are the method's."""


class SkippedWarning(UserWarning):
    """A reduction left some layers of a model as they were; the message says which, and why.

    Examples
    --------
    >>> from balred.testing import random_system
    >>> plan({"wide": random_system(8, seed=1), "narrow": random_system(3, seed=2)}, 4).rows[1].note  # what is told of
    'has only 3 states'
    """


@dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """A table of the layers of `model` and the ranks they would be cut to; ``apply()`` returns the reduced model.

    Examples
    --------
    >>> import balred
    >>> p = balred.plan([balred.testing.random_system(8, seed=1), balred.testing.random_system(4, seed=2)], 5)
    >>> p.rows[0].after, p.rows[1].note
    (5, 'has only 4 states')
    """

    model: Any
    rows: tuple[Row, ...]
    """For each layer its name, type, states `before` and `after` (None if it is left as it is), bound, energy, and a note."""
    _new: Mapping[str, Any] = field(default_factory=dict)
    divergence: Measured | None = None
    """How far the answers of the reduced model are from those of the model, if a :class:`balred.Divergence` was asked for."""
    _told: str = ""

    def apply(self) -> Any:
        """Return a copy of the model with the planned layers reduced.  The original does not change."""
        skipped = [f"{r.layer or r.type} ({r.note})" for r in self.rows if r.after is None]
        if skipped:
            warn_caller(f"layers left as they are: {'; '.join(skipped)}", SkippedWarning)
        return replace_layers(self.model, self._new)

    def __repr__(self) -> str:
        return "\n".join([table_text(HEAD, [r.cells for r in self.rows]), *filter(None, [self._told])])

    def _repr_html_(self) -> str:
        """The same as a table, for notebooks."""
        return table_html(HEAD, [r.cells for r in self.rows], notes=[*filter(None, [self._told])])

    def plot(self, ax: Any = None) -> Any:
        """Draw the states of each layer before and after, on the axes `ax` or in a new figure; needs matplotlib."""
        return importlib.import_module("balred.adapters.matplotlib").plot_plan(self, ax=ax)


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
    """Choose a rank for every layer of `model`, as :func:`balred.reduce` would, without cutting anything.

    Parameters
    ----------
    model : system, layer, model
    ranks : int, rule, dict by layer name of either, Budget, or Divergence
        Numbers of states or rules.  In a dict, layers without a key stay as they are.  A :class:`balred.Budget` is divided
        among the layers, a :class:`balred.Divergence` is measured on the calibration data.
    calibration : tensor, dict of keyword inputs, or iterable of either, optional
        Inputs of the model.  Its layers are balanced on them, and the states of its selective layers are chosen on them.
    method : str, default "truncate"
        A name in ``balred.methods.METHODS``, such as "singular_perturbation".
    solver : {"smith", "closed", "cauchy", "scipy", "slycot"}, optional
        How the Gramians are computed; by default "smith" for dense systems and "closed" for diagonal ones.
    offset : float, optional
        Poles within `offset` of the stability boundary count as unstable and are kept.
    precision : {"float64", "float32"}, default "float64"
        float32 is for devices without fast float64; methods that run on the host have float64 only.
    **options
        Options of the method, of calibration, and of recorded inputs: see :func:`balred.reduce`.

    Returns
    -------
    Plan

    Raises
    ------
    ValueError
        A key of `ranks` is not a layer; a single system or layer cannot be reduced as asked (`rank` is out of range, the rule
        cannot be met).  In a model with several layers, a layer that cannot be cut is skipped; the table says why.

    Examples
    --------
    >>> import balred
    >>> layers = {"a": balred.testing.random_system(8, seed=1), "b": balred.testing.random_system(6, seed=2)}
    >>> [(row.layer, row.before, row.after) for row in plan(layers, 4).rows]
    [('a', 8, 4), ('b', 6, 4)]
    """
    choosing = {key: options.pop(key) for key in _CHOOSING if key in options}
    model, options = configured_for(model, method, options)
    layers = layers_of(model)
    selective, second = selective_of(layers), second_order_of(layers)
    if second and options and len(second) < len(layers):
        raise TypeError(
            f"options must mean the same for all systems, got {', '.join(options)} for second-order systems and others together"
        )
    settings = Settings(method, solver, offset, precision, {} if second else options)
    how = Calibration(calibration, **choosing)
    settings.check_recorded(len(layers), calibration)
    wanted = None if isinstance(ranks, (Budget, Divergence)) else wanted_by_layer(ranks, layers)
    _check(layers, selective, settings, choosing, wanted)
    refused = _refused(model, layers if wanted is None else {n: layers[n] for n in layers if n in wanted}, selective)

    kept: list[Batch] = []
    if isinstance(ranks, Divergence):
        how, kept = kept_apart(model, how)

    others = {name: layer for name, layer in layers.items() if name not in selective and name not in second}
    read, failed = read_operators(others)
    states = {name: system.states for name, (system, _) in (read | second).items()}
    outcomes: dict[str, Smaller | Failure | str] = {**failed, **refused}
    reached, told = None, ""
    if wanted is not None:
        outcomes |= spared(layers, wanted, states)

    read = {name: one for name, one in read.items() if name not in outcomes}
    groups: Iterable[Candidates] = operator_candidates(read, settings, _sums(model, layers, read, how))
    if second:
        wanted_of_them = {name: one for name, one in second.items() if name not in outcomes}
        groups = chain([second_order_candidates(wanted_of_them, settings, options, how)], groups)
    if selective:
        groups = chain([selective_candidates(model, selective, how)], groups)
    if wanted is None:
        looked = {name: one for group in groups for name, one in group.items()}
        groups = [{name: looked[name] for name in layers if name in looked}]
        if isinstance(ranks, Divergence):
            found = within_divergence(ranks, groups[0], model, kept, how)
            wanted, reached, told = found.ranks, found.measured, found.told
        else:
            wanted = shared_out(ranks, worths(groups[0]))
    for candidates in groups:
        chosen = ranks_by_layer(candidates, wanted)
        states |= {name: one.states for name, one in candidates.items() if not isinstance(one, Exception)}
        made = cut_each(candidates, {n: rank for n, rank in chosen.items() if n not in outcomes})
        check_even(candidates, made)
        outcomes |= {
            name: _told(one, candidates[name], wanted.get(name), recorded=settings.recorded)
            for name, one in made.items()
        }

    if len(layers) == 1 and isinstance(error := next(iter(outcomes.values())), Exception):
        raise error
    rows = [row_of(name, layer, states.get(name), outcomes[name]) for name, layer in layers.items()]
    new = {name: one.layer for name, one in outcomes.items() if isinstance(one, Smaller)}
    return Plan(model, tuple(rows), new, reached, told)


def _sums(
    model: Any, layers: Mapping[str, Any], read: Mapping[str, Read], how: Calibration
) -> Mapping[str, DataSums | str]:
    """What the states of layers do along the data; of those that cannot be seen the reader is told."""
    sums = sums_along(model, {name: (layers[name], system) for name, (system, _) in read.items()}, how)
    if unseen := [f"{name or 'the layer'} ({why})" for name, why in sums.items() if isinstance(why, str)]:
        warn_caller(f"layers balanced on white noise, not on the data: {'; '.join(unseen)}", CalibrationWarning)
    return sums


def _check(
    layers: Mapping[str, Any],
    selective: SelectiveLayers,
    settings: Settings,
    choosing: Mapping[str, Any],
    wanted: Mapping[str, Any] | None,
) -> None:
    """Raise if something cannot be meant, before anything is looked at."""
    alone = [key for key in choosing if key in ("selection", "compensate")]
    if alone and not selective:
        raise TypeError(f"{', '.join(alone)} must go with selective layers, got a model that has none")
    if selective and settings.recorded:
        raise ValueError(
            "recorded inputs go with a linear system, got selective layers: a model takes its data as calibration="
        )
    if selective and settings.method != "truncate":
        raise ValueError(
            f"method must keep its default for selective layers, which are reduced by selection, got {settings.method!r}"
        )
    if wanted is not None:
        check_wanted(selective, wanted)
        for name in layers if len(layers) > 1 else ():
            if name in wanted and name not in selective:
                check_number(wanted[name])


def _refused(model: Any, layers: Mapping[str, Any], selective: SelectiveLayers) -> dict[str, Failure]:
    """Layers that cannot be cut among the rest of the model; an error if nothing else is left, or if they must have one size."""
    found = obstacles_of(model, layers, copied=True)
    if any(name in selective for name in found) or (found and len(found) == len(layers)):
        raise ValueError(f"a cut of a layer must leave the rest of the model as it is, got {_listed(found)}")
    return {name: ValueError(reason) for name, reason in found.items()}


def _listed(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"{name or 'the layer'}: {reason}" for name, reason in reasons.items())


def _told(one: Smaller | Failure, candidate: Candidate | Failure, wanted: Any, *, recorded: bool) -> Smaller | Failure:
    """A layer that was cut, with what the reader must know of how its rank came about."""
    if isinstance(one, Exception) or isinstance(candidate, Exception):
        return one
    if not is_rule(wanted) and wanted is not None:
        warn_if_capped(int(wanted), one.rank, one.capped, recorded=recorded)
    asked = candidate.rank(wanted) if candidate.tied else one.rank
    if asked == one.rank:
        return one
    note = f"{asked} rounded up to {one.rank}: the model's configuration holds one number of states"
    return replace(one, note="; ".join(filter(None, [note, one.note])))


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
        It is not changed.
    rank : int, rule, Budget, Divergence, or a list of ints and rules
        The number of states to keep, or a rule such as ``balred.Energy(0.99)``.  States are counted as the object counts
        them: stored states of a conjugate system, unstable modes included.  A model also takes a dict by layer name, a
        :class:`balred.Budget` of states that its layers share, or a :class:`balred.Divergence` of its answers.  A list
        (tuple, range, array) of ranks of one system or layer gives a list of reduced objects, all from one analysis.
    method : str, default "truncate"
        A name in ``balred.methods.METHODS`` (the pages on methods say which one to choose), or "matchdc".
    calibration : tensor, dict of keyword inputs, or iterable of either, optional
        Inputs of the model.  Its layers are then balanced on the signals that these data cause in them, instead of on white
        noise.  Options (:class:`balred.selection.Calibration` has all): `balanced_on` is "data" (inputs and gradients, the default), "inputs" (inputs only) or "noise".  `scalar` is
        the function of the model's output whose gradients are taken: "outputs", "tempered", "fisher" or a callable; `seed` draws its
        directions.  `max_bytes`: the most memory for states along the data.  `vmapped`: whether a JAX model takes one sequence.  `progress` shows a bar for each pass, for example ``tqdm.auto.tqdm``.
    solver : {"smith", "closed", "cauchy", "scipy", "slycot"}, optional
        How the Gramians are computed; by default "smith" for dense systems and "closed" for diagonal ones.
    offset : float, optional
        Poles within `offset` of the stability boundary count as unstable and are kept.
    precision : {"float64", "float32"}, default "float64"
        float32 is for devices without fast float64; methods that run on the host have float64 only.
    **options
        Options of the method, for example ``beta=1.0`` for "stochastic".  A sparse system takes `tol` and `max_steps`
        (:func:`balred.sparse_system`).  A system also takes ``inputs``, recorded signals of shape (inputs, samples): it is
        then balanced on its states under them, instead of under white noise.  ``dt`` is the time between samples and
        ``hold`` ("zoh", "foh") what the signals do between them, for continuous systems; ``left`` weights the outputs
        (:func:`balred.methods.weighted.along_inputs`).  A :class:`balred.SecondOrderSystem` stays second-order by "truncate"
        (``balancing``, ``galerkin``) and "modal" (``dominance``); `rank` then counts positions, and there is no bound
        (documentation, *Second-order systems*).

    Returns
    -------
    The same type as `obj`, or a list of it
        A conjugate system may need fewer stored states than you ask for.

    Raises
    ------
    ValueError
        `rank` is out of range, or less than the number of unstable modes; the rule cannot be met; `method` is unknown; a list
        of ranks is given for a model of several layers; the reduced system cannot be diagonalised accurately.

    Warns
    -----
    CalibrationWarning
        The operator of a layer was not found while the model ran on the data; the layer is balanced on white noise.
    RankWarning
        An integer `rank` is beyond the numerical rank; the numerical rank is used instead.

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
    >>> [g.states for g in balred.reduce(sys, [2, 4, balred.ErrorBound(0.1, relative=True)])]
    [2, 4, 5]
    """
    if isinstance(rank, (list, tuple, range)) or (isinstance(rank, np.ndarray) and rank.ndim == 1):
        how = Calibration(calibration, **{key: options.pop(key) for key in _CHOOSING if key in options})
        obj, options = configured_for(obj, method, options)
        settings = Settings(method, solver, offset, precision, {} if second_order_of(layers_of(obj)) else options)
        settings.check_recorded(1, calibration)
        return _each(obj, list(rank), settings, options, how)
    if (
        isinstance(obj, (DenseSystem, DiagonalSystem))
        and calibration is None
        and not isinstance(rank, (Budget, Divergence, Mapping))
        and not any(key in options for key in _CHOOSING)
    ):
        # a system by itself needs no plan, which takes longer than a few states do
        settings = Settings(method, solver, offset, precision, options)
        check_number(rank, obj.states)
        return reduced_alone(obj, settings, rank)
    return plan(
        obj, rank, calibration, method=method, solver=solver, offset=offset, precision=precision, **options
    ).apply()


def _each(obj: Any, ranks: list[Any], settings: Settings, options: Mapping[str, Any], how: Calibration) -> list[Any]:
    """One system or layer reduced to each of several ranks, from one analysis."""
    layers = layers_of(obj)
    if len(layers) > 1 or selective_of(layers):
        what = f"a model with {len(layers)} layers" if len(layers) > 1 else "a selective layer"
        raise ValueError(
            f"a list of ranks must go with one system or one layer that is a linear operator, got {what}: "
            "call reduce for each rank, or give a dict of ranks by layer"
        )
    ((name, layer),) = layers.items()
    second = second_order_of(layers)
    states = second[name][0].states if second else (read := {name: adapt(layer)})[name][0].states
    for one in ranks:
        check_number(one, states)
    group = (
        second_order_candidates(second, settings, options, how)
        if second
        else next(operator_candidates(read, settings, _sums(obj, layers, read, how)))
    )
    looked = group[name]
    if isinstance(looked, Exception):
        raise looked
    made = [looked.cut(looked.rank(one)) for one in ranks]
    for wanted, smaller in zip(ranks, made, strict=True):
        if not is_rule(wanted):
            warn_if_capped(int(wanted), smaller.rank, smaller.capped, recorded=settings.recorded)
    return [replace_layers(obj, {name: smaller.layer}) for smaller in made]
