"""What a reduction would do to a model, as a table, before it is done.

``reduce(model, ranks)`` is ``plan(model, ranks).apply()``: the plan analyses every layer it can, decides its rank,
and records the a-priori bound and what it skips and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from balred.adapt import adapt, entry_of, layers_of, replace_layers
from balred.arrays import warn_caller
from balred.gramians import check_precision
from balred.hankel import Analysis
from balred.ranks import is_rule
from balred.reduction import check_rank, method_called
from balred.selective import Choice, choose


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
    ranks : int, rule, or dict by layer name of either
        In a dict, layers without a key are left alone.
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
    if isinstance(ranks, Mapping):
        if list(layers) == [""]:
            raise ValueError(f"ranks must be a number or a rule for a single system or layer, got {ranks!r}")
        ranks = {str(key): wanted for key, wanted in ranks.items()}
        unknown = [key for key in ranks if key not in layers]
        if unknown:
            raise ValueError(
                f"the keys of ranks must be layers of the model ({', '.join(layers)}), got {', '.join(unknown)}"
            )
    rows, new = [], {}
    chosen: Mapping[str, Choice] = {}
    if selective:
        if method != "truncate":
            raise ValueError(f"selective layers are reduced by selection, so method must be left alone, got {method!r}")
        asked = ranks if isinstance(ranks, Mapping) else dict.fromkeys(selective, ranks)
        chosen = choose(model, selective, asked, calibration, **choosing)
    for name, layer in layers.items():
        kind = type(layer).__name__
        if name in chosen:
            choice = chosen[name]
            rows.append(Row(name, kind, choice.states, choice.rank, None, choice.energy, choice.note))
            if choice.layer is not None:
                new[name] = choice.layer
            continue
        states = None
        wanted: Any = ranks.get(name) if isinstance(ranks, Mapping) else ranks
        whole = isinstance(wanted, (int, np.integer)) and not isinstance(wanted, bool)
        if len(layers) > 1 and wanted is not None and not is_rule(wanted) and not (whole and wanted >= 1):
            raise ValueError(f"rank must be an integer of at least 1 or a rule, got {wanted!r}")
        try:
            system, rebuild = adapt(layer)
            states = system.states
            if isinstance(ranks, Mapping) and wanted is None:
                rows.append(Row(name, kind, states, None, note="not in ranks"))
                continue
            if whole and len(layers) > 1 and wanted > states:
                rows.append(Row(name, kind, states, None, note=f"has only {states} states"))
                continue
            fixed = None if is_rule(wanted) else check_rank(wanted, states)
            analysis = Analysis(
                system, rebuild, method=method, solver=solver, offset=offset, precision=precision, **options
            )
            rank = analysis.rank(wanted) if fixed is None else fixed
            reduction = analysis.reduction(rank)
            if fixed is not None:
                analysis.warn_if_capped(rank, reduction)
            smaller = rebuild(reduction.system)
        except ValueError as error:
            if len(layers) == 1:
                raise
            rows.append(Row(name, kind, states, None, note=str(error)))
            continue
        new[name] = smaller
        bound = float(np.max(reduction.bound)) if reduction.bound.size else 0.0
        energy = float(np.min(analysis.energy(rank)))
        rows.append(Row(name, kind, states, reduction.system.states, bound, energy))
    return Plan(model, tuple(rows), new)
