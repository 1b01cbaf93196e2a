r"""One computation that answers many questions: spectrum, choices of rank, bounds, reductions.

:math:`\sigma_i = \sqrt{\lambda_i(PQ)}` are the singular values of the Hankel operator, which maps past inputs to
future outputs.  :func:`balred.hsv` gives them and no more; :func:`analyze` keeps all that is needed to choose a rank and to
reduce.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.layers.along_data import DataSums
from balred.measures import norms
from balred.measures.recordings import output_error
from balred.methods.method import Method, State
from balred.methods.table import method_name
from balred.ranks.bounds import shares
from balred.ranks.budget import tail
from balred.ranks.choosing import check_rank, is_rule
from balred.ranks.rules import Rule
from balred.ranks.shown import facts_html, table_html
from balred.reduction.ranking import rank_for
from balred.reduction.settings import DataSettings, Settings, configured_for
from balred.reduction.solve import Solved, solve, solve_on_data, solve_together
from balred.reduction.writing_back import Reduction, reduced_at_once, reduced_or_mended, warn_if_capped
from balred.registry.entries import container_of, qualified
from balred.registry.reading import linear_layers_of, per_layer
from balred.selection.calibration import Calibration, at_most
from balred.systems.arrays import Array, to_numpy
from balred.systems.leaves import System
from balred.systems.parts import without_first
from balred.systems.poles import UnstableError


class Analysis:
    """Spectrum, rank choices, bounds and reductions of one system or layer, all from one solve.

    Made by :func:`analyze`.  For a conjugate system a rank counts stored states, each of which holds up to two of the
    real operator's states.

    Parameters
    ----------
    solved : Solved
    settings : Settings
        Method, solver, precision and options of the solve.
    rebuild : callable
        ``rebuild(system)`` writes a reduced system into an object of the type that was analysed.

    Examples
    --------
    >>> import balred
    >>> a = balred.analyze(balred.testing.random_system(20, seed=0))
    >>> a.rank(balred.Energy(0.99)), a.rank(balred.ErrorBound(0.01, relative=True))
    (6, 7)
    >>> bool(balred.error(a.system, a.reduce(8)) <= a.bound(8))
    True
    """

    def __init__(self, solved: Solved, settings: Settings, rebuild: Callable[[System], Any]) -> None:
        self.solved, self.settings, self._rebuild = solved, settings, rebuild
        self._made: dict[int, Reduction] = {}
        self._by: dict[str, Analysis] = {}

    @property
    def system(self) -> System:
        """The system that was analysed."""
        return self.solved.system

    @property
    def unstable(self) -> System | None:
        """The unstable part, which reductions keep whole; None if there is none."""
        return self.solved.unstable

    @property
    def stable(self) -> System | None:
        """The stable part, which the method reduces."""
        return self.solved.stable

    @property
    def state(self) -> State | None:
        """What the method found when it analysed the stable part."""
        return self.solved.state

    @property
    def sigma(self) -> NDArray[Any]:
        """The stable part's values on the host in the precision of the analysis, shape (..., stable order)."""
        return self.solved.sigma

    @property
    def hsv(self) -> Array:
        """All values, shape (..., order), in the array library and dtype of the data; unstable modes have ``inf``."""
        return self.solved.hsv

    @property
    def method(self) -> Method:
        """The method that reduces."""
        return self.settings.row

    @property
    def numerical_rank(self) -> int:
        """The order beyond which Hankel singular values are rounding errors (the largest of a batch)."""
        return self.solved.numerical_rank

    def __repr__(self) -> str:
        s = self.sigma.reshape(-1, self.sigma.shape[-1]) if self.sigma.size else np.zeros((1, 1))
        return (
            f"Analysis({self.system!r}, numerical rank {self.numerical_rank}, "
            f"hsv {s[:, 0].max():.3g} ... {s[:, -1].min():.3g})"
        )

    def _repr_html_(self) -> str:
        """A table for notebooks: each order up to the numerical rank, with its energy and bound; for a batch its facts alone."""
        if self.sigma.ndim > 1 or self.state is None:
            return facts_html(repr(self.system))
        energy, fixed = shares(self.sigma), self.solved.fixed
        rows = [
            (str(fixed + k + 1), f"{s:.4g}", f"{energy[k]:.4f}", f"{float(self.method.bounded(self.state, k + 1)):.4g}")
            for k, s in enumerate(map(float, self.sigma[: max(1, self.state.cap)]))
        ]
        notes = [f"{fixed} unstable states are kept and come first"] if fixed else []
        if beyond := self.sigma.size - len(rows):
            notes.append(f"{beyond} more values are rounding errors")
        return table_html(
            ("order", "value", "energy", f"bound on the {self.method.bounds}"), rows, repr(self.system), notes
        )

    def by(self, method: str | None) -> Analysis:
        """The same system analysed for another method; both share the solve if they need the same Gramians."""
        method = self.settings.method if method is None else method_name(method)
        if method == self.settings.method:
            return self
        if method not in self._by:
            settings = self.settings.by(method)
            solved = self.solved if settings.shares(self.settings) else solve(self.system, settings)
            self._by[method] = Analysis(solved, settings, self._rebuild)
        return self._by[method]

    def rank(self, rule: Rule, method: str | None = None) -> int:
        """The rank that `rule` chooses: stored states of a conjugate system, states otherwise.

        A rule chooses from the stable part; unstable modes are added to its choice (:class:`~balred.Order` includes them).
        """
        one = self.by(method)
        return rank_for(one.solved, one.settings, rule, one.reduction, one._errors)

    def reduction(self, rank: int, method: str | None = None) -> Reduction:
        """The reduction to `rank`, with its bound, poles and notes (made once)."""
        one = self.by(method)
        key = check_rank(rank, self.system.states)
        if key not in one._made:
            one._made[key] = reduced_or_mended(one.solved, one.settings, key)
        return one._made[key]

    def reduce(self, rank: int | Rule, *, method: str | None = None) -> Any:
        """Reduce the analysed object to `rank` states; the result has its type."""
        one = self.by(method)
        if is_rule(rank):
            return self._rebuild(one.reduction(one.rank(rank)).system)  # type: ignore[arg-type]
        chosen = check_rank(rank, self.system.states)
        made = one.reduction(chosen)
        warn_if_capped(chosen, made.system.states, made.capped, recorded=one.settings.recorded)
        return self._rebuild(made.system)

    def bound(self, rank: int, method: str | None = None) -> Any:
        r"""The a-priori bound at `rank`: of the H-infinity error, unless the method bounds another quantity; NaN if there is no bound.

        For truncation and singular perturbation :math:`2\sum\sigma_i` over the distinct values cut.  A float, or an
        array over a batch.
        """
        value = self.reduction(rank, method).bound
        return float(value) if value.ndim == 0 else value

    def energy(self, rank: int) -> Any:
        r"""Share of :math:`\sum\sigma_i` kept at `rank`; a float, or an array over a batch."""
        kept = np.concatenate([np.zeros((*self.sigma.shape[:-1], 1)), shares(self.sigma)], axis=-1)
        kept[..., 0] = np.all(self.sigma == 0, axis=-1)
        share = np.take_along_axis(kept, self.reduction(rank).orders[..., None], axis=-1)[..., 0]
        return float(share) if share.ndim == 0 else share

    def tail(self) -> NDArray[np.float64]:
        """The squared error at each rank, (states + 1,), added up over a batch: what a :class:`balred.Budget` compares.

        Values that are rounding errors count as zero.  Unstable modes stay, and at least one state of the stable part.
        """
        fixed = self.solved.fixed
        if self.stable is None or self.state is None:
            return np.concatenate([np.full(fixed, np.inf), [0.0]])
        real = np.arange(self.sigma.shape[-1]) < self.state.cap
        values, unit = np.where(real, self.sigma, 0.0), self.stable.order // self.stable.states
        return tail(values, unit, fixed, measured=self.settings.on_data)

    def error(self, rank: int) -> tuple[str, float | None]:
        """The measured error of the reduction to `rank`, and which norm that is.

        Returns
        -------
        kind : {"hinf", "linf"}
            "linf" if the difference is unstable, because a method that reduces unstable systems whole has changed their modes.
        value : float or None
            For a batch the largest.  None if it is infinite because a pole on the stability boundary was changed.

        Examples
        --------
        An integrator beside stable modes is kept, and the error is that of the others; the bound is attained, since C = B^T and
        A = A^T:

        >>> import numpy as np, balred
        >>> a = balred.analyze(balred.ss(np.diag([0.0, -1.0, -50.0]), np.ones((3, 1)), np.ones((1, 3))))
        >>> kind, value = a.error(2)
        >>> kind, round(value / a.bound(2), 9)
        ('hinf', 1.0)
        """
        kind, errors = self._errors(rank)
        return kind, None if errors is None else float(np.max(errors))

    def _errors(self, rank: int) -> tuple[str, NDArray[np.float64] | None]:
        """The same for each member of a batch."""
        made = self.reduction(rank)
        if made.system is self.system or self.stable is None:
            return "hinf", np.zeros(1)
        full, small = self.system, made.system
        if self.unstable is not None:
            full, small = self.stable, without_first(small, self.unstable.states)
        for kind in ("hinf", "linf"):
            try:
                return kind, np.atleast_1d(to_numpy(norms.error(full, small, kind)))
            except UnstableError:
                pass
        return "linf", None

    def output_error(self, rank: int) -> Any:
        """The relative error of the outputs along the recorded inputs that the analysis was made on, or an array over a batch.

        It is the norm of the outputs' difference over the norm of the full system's outputs.
        :func:`balred.measures.recordings.output_error` measures it along other recordings.

        Raises
        ------
        ValueError
            There are no recorded inputs; an output along them is zero, or overflows.

        Examples
        --------
        >>> import balred
        >>> a = balred.analyze(balred.testing.random_system(8, 1, 1, dt=1, seed=0), inputs=np.cumsum(np.ones(50)))
        >>> a.output_error(8) < 1e-9 < a.output_error(1) < 1
        True
        """
        given = self.settings.options
        if not self.settings.recorded:
            raise ValueError("an error along recordings needs an analysis with inputs=..., got one without")
        small = self.reduction(rank).system
        return output_error(self.system, small, given["inputs"], dt=given.get("dt"), hold=given.get("hold", "zoh"))


def analyze(
    obj: Any,
    *,
    calibration: Any = None,
    balanced_on: str | None = None,
    scalar: Any = "outputs",
    seed: int = 0,
    max_bytes: int | None = None,
    vmapped: bool | None = None,
    progress: Any = None,
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
    calibration : tensor, dict of keyword inputs, or iterable of either, optional
        Inputs of the model; the values are then measured along these data.
    balanced_on : {"noise", "inputs", "data"}, optional
        The signals that the Gramians describe.  "data": inputs and gradients along the data (the default with
        `calibration`); "inputs": only the inputs along the data; "noise": white noise (the default without
        `calibration`).
    scalar : {"outputs", "tempered", "fisher"} or callable, default "outputs"
        The function of the model's output whose gradients are taken; `seed` (default 0) draws its directions.
    max_bytes : int, optional
        The most memory for states along the data (:class:`balred.selection.Calibration`).
    vmapped : bool, optional
        Whether a model of JAX takes one sequence (True) or a batch (False); needed only if it runs on both.
    progress : callable, optional
        Shows a bar for each pass over the batches of `calibration`, such as ``tqdm.auto.tqdm``.
    method : str, default "truncate"
        A name in ``balred.methods.METHODS``; ``hsv`` then holds the values that the method ranks states by.
    solver : {"smith", "closed", "cauchy", "scipy", "slycot"}, optional
        How the Gramians are computed; by default "smith" for dense systems and "closed" for diagonal ones.
    offset : float, optional
        Poles within `offset` of the stability boundary count as unstable and are kept.
    precision : {"float64", "float32"}, default "float64"
        The precision of the computation.  float32 is for devices without fast float64; methods that run on the host have
        float64 only.
    **options
        Options of the method, for example ``beta=1.0`` for "stochastic", or of a sparse system, for example ``tol=1e-10``.
        ``inputs``, recorded signals of shape (inputs, samples), balances a system on them.

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
    obj, options = configured_for(obj, method, options)
    settings = Settings(method, solver, offset, precision, options)
    choosing = {"balanced_on": balanced_on, "scalar": scalar, "seed": seed, "max_bytes": max_bytes}
    how = Calibration(calibration, **choosing, vmapped=vmapped, progress=progress)
    read = per_layer(obj, lambda system, rebuild: (system, rebuild))
    alone = not isinstance(read, dict)
    settings.check_recorded(1 if not isinstance(read, dict) else len(read), how.data)
    several = {"": read} if not isinstance(read, dict) else read
    sums: Mapping[str, DataSums | str] = {}
    if how.basis != "noise":
        layers = linear_layers_of(obj)
        sums = sums_along(obj, {n: (layers[n], several[n][0]) for n in several}, how)
        if unseen := [f"{name or 'the layer'}: {one}" for name, one in sums.items() if isinstance(one, str)]:
            raise ValueError(
                f"the operator of every layer must be found while the model runs on the calibration data, got layers without ({'; '.join(unseen)})"
            )
    if alone:
        system, rebuild = several[""]
        if sums:
            return analysed_on_data(system, rebuild, sums[""], settings)  # type: ignore[arg-type]
        return Analysis(solve(system, settings), settings, rebuild)
    if sums:
        return {n: analysed_on_data(*several[n], one, settings) for n, one in sums.items() if isinstance(one, DataSums)}
    found: dict[str, Any] = analyses(several, settings)
    for one in found.values():
        if isinstance(one, Exception):
            raise one
    return found


def reduced_alone(system: System, settings: Settings, rank: int | Rule) -> Any:
    """One system reduced to `rank` states."""
    quick = None if is_rule(rank) else reduced_at_once(system, settings, int(rank))  # type: ignore[arg-type]
    return Analysis(solve(system, settings), settings, lambda small: small).reduce(rank) if quick is None else quick


def analyses(
    read: Mapping[str, tuple[System, Callable[[System], Any]]], settings: Settings
) -> dict[str, Analysis | ValueError | ArithmeticError]:
    """The analysis of each layer by name, those of one shape from one solve; or the error that says why there is none."""
    solved = solve_together({name: system for name, (system, _) in read.items()}, settings)
    return {
        name: one if isinstance(one, Exception) else Analysis(one, settings, read[name][1])
        for name, one in solved.items()
    }


def sums_along(model: Any, layers: Mapping[str, tuple[Any, System]], how: Calibration) -> dict[str, DataSums | str]:
    """What the states of `layers` (objects and systems by name) do while data run through `model`, or why it cannot be seen.

    Raises
    ------
    ValueError
        A layer cannot be seen, and was to be balanced on nothing else.
    """
    if not layers or how.basis == "noise":
        return {}
    container = container_of(model)
    running = None if container is None else container.running
    found: dict[str, DataSums | str]
    if running is None:
        found = dict.fromkeys(layers, f"balred runs no data through a {qualified(type(model))}")
    else:
        found = dict(running.sums(model, layers, at_most(running.batches(model, how.now()), how.sequences), how))
    unseen = [f"{name or 'the layer'} ({reason})" for name, reason in found.items() if isinstance(reason, str)]
    if unseen and how.balanced_on is not None:
        raise ValueError(
            f"balanced_on={how.balanced_on!r} needs layers whose operators are found while the model runs on the calibration data, got layers without ({'; '.join(unseen)})"
        )
    return found


def analysed_on_data(system: System, rebuild: Callable[[System], Any], sums: DataSums, settings: Settings) -> Analysis:
    """The analysis of a system with its states along data in place of its Gramians."""
    options = {f: getattr(settings, f) for f in ("method", "solver", "offset", "precision", "options")}
    return Analysis(solve_on_data(system, sums), DataSettings(**options), rebuild)
