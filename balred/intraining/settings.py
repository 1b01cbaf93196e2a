"""The settings of a reducer in training, in whatever framework.

The reducers, and the callbacks of other people's trainers, take these settings as keyword arguments, beside what their
framework alone has.  So an option is added, checked and described here, or in the policy, and nowhere else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from balred.intraining.events import sinks_of
from balred.intraining.policy import Policy
from balred.version import VERSION

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(Policy):
    """When and how far to cut in a training, and how optimizer moments, averages and logs follow a cut.

    Parameters
    ----------
    rule : rule, Budget or Divergence
        Chooses how many states a layer keeps, for example ``balred.Energy(0.99)``.  ``balred.Divergence(0.01)``
        measures from the model as it is at the attempt; it needs `calibration`, and works in one process only.
    window : (int, int)
        The steps between which cuts may happen, counted from 1.
    attempts : int, optional
        How often a cut is tried, at equidistant steps, the last one at the end of the window (default 4).
    interval : int, optional
        Instead of `attempts`: the number of steps between two attempts, counted from the window's start.
    min_cut : float, default 0.05
        A layer is cut only to at most ``(1 - min_cut)`` of its present rank.
    settled : int, optional
        A layer is cut only after the rank chosen for it has stayed within 5 % (or one state) over this many attempts in a row.
    guard : Guard, optional
        Takes a cut back if its metric gets worse by more than a tolerance.
    dry_run : bool, default False
        Only report what would be cut.
    gradual : bool, default False
        Cut a part of what the rule would cut at each attempt, and the rest at the last: many states at first, few at the end
        (:meth:`balred.intraining.Policy.next_rank`).  With small steps at the end, `min_cut` should be 0.
    moments : {"reset", "carry"}, default "reset"
        What becomes of the optimizer's moments of a cut layer.  "reset": they start afresh.  "carry": they are carried
        through the change of coordinates if they are plain averages of gradients (Adam and its relatives, momentum);
        those of other optimizers start afresh.  The documentation (*What happens at a cut*) compares the two.
    log : path, TensorBoard writer, W&B run, callable, or a sequence of these, optional
        Gets every report, see :func:`balred.intraining.sinks_of`.
    calibration : tensor, dict of keyword inputs, iterable of either, function that returns such, or Calibration, optional
        Inputs of the model.  At every attempt, layers with an operator are balanced on these data (documentation,
        *Balanced on data*), and the states of layers whose dynamics depend on their input (Mamba; documentation,
        *Selective layers*) are selected on them.  A function is called at every attempt, so it can return recent data.
        Without calibration, the former are balanced on white noise, and the latter stay as they are.  Layers with an
        operator see the first 32 sequences, or as many as :class:`balred.selection.Calibration` says.

    Raises
    ------
    ValueError, TypeError
        A setting breaks its rule; the message states the rule.

    Examples
    --------
    >>> import balred
    >>> settings = TrainingSettings(balred.Energy(0.99), window=(0, 4000), moments="carry")
    >>> settings.steps
    (1000, 2000, 3000, 4000)
    """

    moments: str = "reset"
    log: Any = None
    calibration: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.moments not in ("reset", "carry"):
            raise ValueError(f"moments must be 'reset' or 'carry', got {self.moments!r}")
        sinks_of(self.log)

    def recorded(self) -> dict[str, Any]:
        """The settings in plain values, as a log keeps them: what the reader of a report must know of the training.

        Examples
        --------
        >>> import balred
        >>> told = TrainingSettings(balred.Energy(0.99), window=(0, 4000), attempts=2).recorded()
        >>> told["window"], told["attempts at"], told["min_cut"], told["guard"]
        ([0, 4000], [2000, 4000], 0.05, None)
        """
        guard = self.guard and {"tolerance": self.guard.tolerance, "delay": self.guard.delay}
        return {
            "rule": repr(self.rule), "window": [int(step) for step in self.window], "attempts at": [int(step) for step in self.steps],
            "min_cut": self.min_cut, "settled": self.settled, "guard": guard, "dry_run": self.dry_run, "gradual": self.gradual, "moments": self.moments,
            "balanced on": "white noise" if self.calibration is None else "calibration data", "balred": VERSION,
        }  # fmt: skip


def options_of(source: Callable[..., Any], *without: str) -> Callable[[F], F]:
    """Have ``help()`` and editors show the keyword arguments of `source` where a function passes on ``**options``.

    Parameters
    ----------
    source : callable
        What gets the options; its arguments without a default are not among them.
    *without : str
        Options that the function does not pass on.

    Examples
    --------
    >>> @options_of(TrainingSettings, "calibration")
    ... def reducer(rule, window, **options):
    ...     return TrainingSettings(rule, window, **options)
    >>> list(inspect.signature(reducer).parameters)[:4], inspect.signature(reducer).parameters["min_cut"].default
    (['rule', 'window', 'attempts', 'interval'], 0.05)
    """

    def shown(function: F) -> F:
        mine, theirs = inspect.signature(function), inspect.signature(source)
        named = {n: p for n, p in mine.parameters.items() if p.kind is not p.VAR_KEYWORD}
        options = [
            p.replace(kind=p.KEYWORD_ONLY)
            for n, p in theirs.parameters.items()
            if p.default is not p.empty and n not in named and n not in without
        ]
        vars(function).update(__signature__=mine.replace(parameters=[*named.values(), *options]))
        return function

    return shown
