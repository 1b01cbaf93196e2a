r"""Hankel singular values, and one solve that answers many questions.

:math:`\sigma_i = \sqrt{\lambda_i(PQ)}` are the singular values of the Hankel operator, which maps past inputs to
future outputs; :func:`hsv` gives them (differentiably), :func:`analyze` keeps everything needed to choose a rank and
to reduce.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from balred.measures.norms import error
from balred.methods.method import State, tail_bound
from balred.methods.table import method_called
from balred.ranks.budget import tail
from balred.ranks.choosing import RankWarning, check_rank, check_rule, choose_order, is_rule
from balred.ranks.rules import ErrorBound, Order, Rule
from balred.reduction.diagonalisation import stored_states
from balred.reduction.writing_back import Reduction, reduce_analysis
from balred.registry.reading import per_layer
from balred.solvers.gramians import check_precision
from balred.systems import arrays
from balred.systems.arrays import (
    backend_of,
    in_precision,
    is_concrete,
    to_numpy,
    warn_caller,
)
from balred.systems.batches import alike, member, stacked
from balred.systems.dense_system import DenseSystem
from balred.systems.diagonal_system import DiagonalSystem
from balred.systems.leaves import System, where_fastest, with_leaves
from balred.systems.parts import separated
from balred.systems.poles import UnstableError
from balred.systems.units import in_even_units


class Analysis:
    """One solve, many questions: spectrum, rank choices, bounds and reductions of one system or layer.

    Made by :func:`analyze`.  Attributes: ``hsv`` (array, shape (..., order), in the library and dtype of the data)
    and ``system``.  For a conjugate system a rank counts stored states, each of which holds up to two of the
    real operator's states.
    """

    def __init__(
        self,
        system: System,
        rebuild: Callable[[System], Any],
        *,
        method: str = "truncate",
        solver: str | None = None,
        offset: float | None = None,
        precision: str = "float64",
        **options: Any,
    ) -> None:
        be = backend_of(*system.leaves)
        self.method = method_called(method)
        self.method.check_options(method, options)
        check_precision(precision, solver)
        if precision != "float64" and self.method.takes != "arrays":
            raise ValueError(f"method {method!r} computes in float64, got precision {precision!r}")
        self.precision = precision
        if offset is not None and self.method.takes_unstable:
            raise ValueError(f"an offset needs a method that keeps unstable parts aside, got {offset} for {method!r}")
        if not is_concrete(*system.leaves):
            raise TypeError(
                "analyze needs concrete values, got traced arrays: call balred.hsv under jit, or analyze outside it"
            )
        self.system = system
        self._rebuild = rebuild
        self._settings: dict[str, Any] = {"method": method, "solver": solver, "offset": offset, **options}
        self._cache: dict[int, Reduction] = {}
        self._others: dict[str, Analysis] = {}
        work = where_fastest(system) if self.method.takes == "arrays" else arrays.mapped(system, to_numpy)
        self.unstable: System | None = None
        self.stable: System | None
        self.state: State | None
        with in_precision(precision, *work.leaves) as wide:
            precise, _ = in_even_units(with_leaves(work, wide))
            if system.order == 0:  # a static gain
                self.stable, self.state = None, None
            elif self.method.takes_unstable:
                self.stable, self.state = precise, self._prepare(precise)
            else:
                self.unstable, self.stable, self.state = separated(precise, offset, self._prepare)
        fixed = 0 if self.unstable is None else self.unstable.order
        batch = tuple(system.B.shape[:-2])
        sigma = np.zeros((*batch, 0), precision) if self.state is None else self.state.sigma
        self.sigma: np.ndarray[Any, Any] = sigma
        """The stable part's values on the host in the precision of the analysis, shape (..., stable order)."""
        values = np.concatenate([np.full((*batch, fixed), np.inf, sigma.dtype), sigma], axis=-1)
        self.hsv = be.from_numpy(values, like=system.B, real=True)
        self._unit = system.order // max(system.states, 1)

    def _prepare(self, part: System) -> State:
        options = {k: v for k, v in self._settings.items() if k not in ("method", "solver", "offset")}
        if self.method.takes != "arrays":
            part = single(part, self._settings["method"])
            part = part if self.method.takes == "host" else part.to_dense()
        state: State = self.method.prepare(part, self._settings["solver"], **options)
        return state

    def members(self, systems: Sequence[System], rebuilds: Sequence[Callable[[System], Any]]) -> list[Analysis]:
        """The analyses of the `systems` that were stacked into this one."""
        several = []
        for i, (system, rebuild) in enumerate(zip(systems, rebuilds, strict=True)):
            one = copy.copy(self)
            one.system, one._rebuild, one._cache, one._others = system, rebuild, {}, {}
            one.stable, one.state = member(self.stable, i), member(self.state, i)
            one.sigma, one.hsv = self.sigma[i], self.hsv[i]
            several.append(one)
        return several

    def by(self, method: str | None) -> Analysis:
        """The same system analysed for another method; the solve is shared where the two need the same."""
        if method is None or method == self._settings["method"]:
            return self
        if method not in self._others:
            other = method_called(method)
            if (other.prepare, other.takes, other.takes_unstable) == (
                self.method.prepare,
                self.method.takes,
                self.method.takes_unstable,
            ):
                twin = copy.copy(self)
                twin.method, twin._cache, twin._settings = other, {}, {**self._settings, "method": method}
                self._others[method] = twin
            else:
                same = {key: self._settings[key] for key in ("solver", "offset")}
                self._others[method] = Analysis(
                    self.system, self._rebuild, method=method, precision=self.precision, **same
                )
        return self._others[method]

    def __repr__(self) -> str:
        s = self.sigma.reshape(-1, self.sigma.shape[-1]) if self.sigma.size else np.zeros((1, 1))
        return (
            f"Analysis({self.system!r}, numerical rank {self.numerical_rank}, "
            f"hsv {s[:, 0].max():.3g} ... {s[:, -1].min():.3g})"
        )

    @property
    def numerical_rank(self) -> int:
        """Order beyond which Hankel singular values are rounding errors (largest over a batch)."""
        fixed = 0 if self.unstable is None else self.unstable.order
        return fixed + (0 if self.state is None else self.state.cap)

    def rank(self, rule: Rule, method: str | None = None) -> int:
        """The rank that `rule` chooses: stored states of a conjugate system, states otherwise.

        Unstable modes come on top of what the rule asks for the stable part (:class:`~balred.Order` counts them in).
        """
        if method is not None:
            return self.by(method).rank(rule)
        check_rule(rule)
        if self.system.states == 0:
            raise ValueError("a system must have states for a rule to choose from, got a static gain (n = 0)")
        fixed = 0 if self.unstable is None else self.unstable.states
        if self.stable is None or self.state is None:
            return fixed
        if isinstance(rule, Order):
            asked = -(-rule.rank // rule.multiple_of) * rule.multiple_of
            enough = self.state.cap
            if self._unit == 2 and enough < self.stable.order:
                enough = self._stored(enough)
            return min(asked, enough + fixed, self.system.states)
        order = self._chosen(rule)
        rank = -(-order // self._unit)
        if self._unit == 2 and rank < self.stable.states:
            # a reduced real pole fills a stored state by itself, so a few more may be needed to hold the order
            rank = self._stored(order)
            rank = -(-rank // rule.multiple_of) * rule.multiple_of
        rank = min(rank, self.stable.states)
        while self._unit == 2 and rank < self.stable.states and not self._meets(rule, order, rank + fixed):
            rank = min(rank + rule.multiple_of, self.stable.states)
        return rank + fixed

    def _chosen(self, rule: Rule) -> int:
        """The order that `rule` asks for of the stable part."""
        assert self.state is not None
        if not isinstance(rule, ErrorBound) or self.method.bound is tail_bound:
            order = choose_order(rule, self.sigma, self._unit)
            # a method that keeps conjugate pairs together, say, keeps what the rule asks for and its other half
            return self.state.closed(order)
        limit, cap, name = rule.limit(self.sigma), self.state.cap, self._settings["method"]
        for k in range(1, cap + 1):
            value = float(self.method.bound(self.state, k))
            if np.isnan(value):
                raise ValueError(f"ErrorBound needs a method with an a-priori error bound, got {name!r}")
            if value <= limit:
                return min(-(-k // rule.multiple_of) * rule.multiple_of, cap)
        raise ValueError(
            f"the error bound of {name!r} must be reachable, it is {value:.3g} at order {cap}, got a tolerance of {limit:.3g}"
        )

    def _stored(self, order: int) -> int:
        """How many stored states the reduction of the conjugate stable part to `order` fills."""
        return stored_states(self.method.reduce(self.state, order)[0])

    def _meets(self, rule: Rule, order: int, rank: int) -> bool:
        """Whether the reduction to `rank` holds the `order` that `rule` chose, and its bound is met."""
        made = self.reduction(rank)
        if made.stable_order < order:
            return False
        limits = (
            [rule.limit(s) for s in self.sigma.reshape(-1, self.sigma.shape[-1])]
            if isinstance(rule, ErrorBound)
            else []
        )
        return not limits or bool(np.all(made.bound.reshape(-1) <= limits))

    def bound(self, rank: int, method: str | None = None) -> Any:
        r"""A-priori bound at `rank`, of the H-infinity error where the method says nothing else; NaN without one.

        For truncation and singular perturbation :math:`2\sum\sigma_i` over the distinct values cut.  A float, or an
        array over a batch.
        """
        value = self.reduction(rank, method).bound
        return float(value) if value.ndim == 0 else value

    def energy(self, rank: int) -> Any:
        r"""Share of :math:`\sum\sigma_i` kept at `rank`; a float, or an array over a batch."""
        sums = np.cumsum(np.concatenate([np.zeros((*self.sigma.shape[:-1], 1)), self.sigma], axis=-1), axis=-1)
        kept = np.take_along_axis(sums, self.reduction(rank).orders[..., None], axis=-1)[..., 0]
        total = sums[..., -1]
        share = np.where(total > 0, kept / np.where(total > 0, total, 1), 1.0)
        return float(share) if share.ndim == 0 else share

    def reduction(self, rank: int, method: str | None = None) -> Reduction:
        """The reduction to `rank` with all that is known of it (cached)."""
        if self.by(method) is not self:
            return self.by(method).reduction(rank)
        key = check_rank(rank, self.system.states)
        if key not in self._cache:
            self._cache[key] = reduce_analysis(self, key)
        return self._cache[key]

    def reduce(self, rank: int | Rule, *, method: str | None = None) -> Any:
        """What was analysed, with `rank` states: the same type of object."""
        if self.by(method) is not self:
            return self.by(method).reduce(rank)
        if is_rule(rank):
            return self._rebuild(self.reduction(self.rank(rank)).system)  # type: ignore[arg-type]
        chosen = check_rank(rank, self.system.states)
        made = self.reduction(chosen)
        self.warn_if_capped(chosen, made)
        return self._rebuild(made.system)

    def warn_if_capped(self, rank: int, made: Reduction) -> None:
        """Warn that an integer `rank` was beyond the numerical rank, which `made` has."""
        if self.state is not None and made.system.states < rank and made.stable_order == self.state.cap:
            states = made.system.states
            warn_caller(
                f"rank {rank} is beyond the numerical rank; the reduced system has {states} states", RankWarning
            )


def single(part: System, method: str) -> System:
    """`part` itself, or an error that names the method if it is a batch."""
    if part.B.ndim > 2:
        raise ValueError(
            f"method {method!r} takes a single system, got a batch of shape {tuple(part.B.shape[:-2])}: loop over it"
        )
    return part


def analyze(
    obj: Any,
    *,
    method: str = "truncate",
    solver: str | None = None,
    offset: float | None = None,
    precision: str = "float64",
    **options: Any,
) -> Any:
    """Solve once for the Gramian factors of `obj`, and answer many questions from them.

    Parameters
    ----------
    obj : system, layer, model, or anything :func:`balred.adapt` reads
    method : str, default "truncate"
        As :func:`balred.reduce`; ``hsv`` then holds the values that the method ranks states by.
    solver : str, optional
    offset : float, optional
    precision : str, default "float64"
        As :func:`hsv`; methods that are SciPy's work on the host have float64 only.
    **options
        Of the method.

    Returns
    -------
    Analysis
        For a model with several layers a dict by layer name.

    Examples
    --------
    >>> import balred
    >>> a = balred.analyze(balred.testing.random_system(20, seed=1))
    >>> r = a.rank(balred.Energy(0.99))
    >>> small = a.reduce(r)
    >>> float(balred.error(a.system, small, kind="hinf")) <= a.bound(r)
    True
    """
    settings = {"method": method, "solver": solver, "offset": offset, "precision": precision, **options}
    read = per_layer(obj, lambda system, rebuild: (system, rebuild))
    if not isinstance(read, dict):
        return Analysis(*read, **settings)
    found = analyses(read, **settings)
    for one in found.values():
        if isinstance(one, Exception):
            raise one
    return found


def analyses(
    read: Mapping[str, tuple[System, Callable[[System], Any]]], **settings: Any
) -> dict[str, Analysis | ValueError | ArithmeticError]:
    """The analysis of each layer by name, those of one shape from one solve; or the error that says why there is none."""
    found: dict[str, Analysis | ValueError | ArithmeticError] = {}
    for names in alike({name: system for name, (system, _) in read.items()}):
        systems, rebuilds = zip(*(read[name] for name in names), strict=True)
        if len(names) > 1:
            try:
                joint = Analysis(stacked(systems), lambda system: system, **settings)
            except (ValueError, ArithmeticError):
                pass  # of one member at least: each by itself will tell of which
            else:
                found |= zip(names, joint.members(systems, rebuilds), strict=True)
                continue
        for name in names:
            try:
                found[name] = Analysis(*read[name], **settings)
            except (ValueError, ArithmeticError) as error:
                found[name] = error
    return {name: found[name] for name in read}


def reduction_error(analysis: Analysis, rank: int) -> tuple[str, float | None]:
    """The measured error of the reduction to `rank`, and which norm that is.

    Returns
    -------
    kind : {"hinf", "linf"}
        "linf" where the difference is unstable: a method that reduces unstable systems whole changed their modes.
    value : float or None
        None where even that is infinite, because of a pole on the stability boundary that was changed.

    Examples
    --------
    An integrator beside stable modes is kept, and the error is that of the others:

    >>> import numpy as np, balred
    >>> g = balred.ss(np.diag([0.0, -1.0, -50.0]), np.ones((3, 1)), np.ones((1, 3)))
    >>> kind, value = reduction_error(balred.analyze(g), 2)
    >>> kind, value <= balred.analyze(g).bound(2)
    ('hinf', True)
    """
    made = analysis.reduction(rank)
    if made.system is analysis.system or analysis.stable is None:
        return "hinf", 0.0
    full, small = analysis.system, made.system
    if analysis.unstable is not None:
        full, small = analysis.stable, _without_first(small, analysis.unstable.states)
    for kind in ("hinf", "linf"):
        try:
            return kind, float(error(full, small, kind))
        except UnstableError:
            pass
    return "linf", None


def _without_first(g: System, k: int) -> System:
    """`g` without its first k states, from which the others are apart."""
    if isinstance(g, DiagonalSystem):
        return dataclasses.replace(g, log_poles=g.log_poles[k:], B=g.B[k:, :], C=g.C[:, k:])
    return DenseSystem(g.A[k:, k:], g.B[k:, :], g.C[:, k:], g.D, g.dt)


def tail_of(analysis: Analysis) -> np.ndarray[Any, Any]:
    """The squared error of an analysed layer at each rank, (states + 1,), added up over a batch.

    Values that are rounding errors count as nothing.  Unstable modes stay, and a state at least beside them.
    """
    fixed = 0 if analysis.unstable is None else analysis.unstable.states
    if analysis.stable is None or analysis.state is None:
        return np.concatenate([np.full(fixed, np.inf), [0.0]])
    real = np.arange(analysis.sigma.shape[-1]) < analysis.state.cap
    unit = analysis.stable.order // analysis.stable.states
    return tail(np.where(real, analysis.sigma, 0.0), unit, fixed)
