"""Truncation of equinox models while they train.

JAX values do not change, so a cut returns a new model and a new optimizer state; the jitted training step retraces
once for the new shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx

from balred.adapters.jax.training import Parts, TreeReducer
from balred.intraining.settings import options_of
from balred.intraining.state import ReducerState
from balred.ranks.budget import Budget
from balred.ranks.divergence import Divergence
from balred.ranks.rules import Rule


class InTrainingReducer(TreeReducer):
    """Cut the layers of an equinox model, and the optax state with them, while it trains.

    Parameters
    ----------
    rule : rule, Budget or Divergence
        How many states a layer keeps, such as ``balred.Energy(0.99)``.
    window : (int, int)
        The steps between which cuts may happen, counted from 1.
    attempts : int, optional
        How often a cut is tried, at equidistant steps, the last one at the end of the window (default 4).
    **options
        The other settings of :class:`balred.intraining.TrainingSettings` (`interval`, `min_cut`, `settled`, `guard`, `dry_run`,
        `gradual`, `moments`, `log`, `calibration`) and of :class:`balred.adapters.jax.TreeReducer` (`ema_decay`).  The metric of the
        guard gets the model.
    optimizer : optax.GradientTransformation, optional
        Needed for states with other fields than the usual moments (adafactor with factored moments, schedule-free,
        L-BFGS).  For a cut layer, these fields are taken from ``optimizer.init`` of the cut model.  If `optimizer` is
        given, the shapes of the whole state are checked after a cut.

    Examples
    --------
    >>> import jax, optax, equinox as eqx, balred
    >>> from balred.adapters.equinox import InTrainingReducer, LRU
    >>> model = LRU(2, 32, key=jax.random.key(0))
    >>> optimizer = optax.adamw(1e-3)
    >>> opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    >>> reducer = InTrainingReducer(rule=balred.Energy(0.9), window=(0, 2), attempts=1)
    >>> state = reducer.init(model)
    >>> model, opt_state, state, report = reducer.update(model, opt_state, state, 2)
    >>> report.cuts[0].before > model.states
    True
    """

    @options_of(TreeReducer)
    def __init__(
        self,
        rule: Rule | Budget | Divergence,
        window: tuple[int, int],
        attempts: int | None = None,
        *,
        optimizer: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(rule, window, attempts, **options)
        self._fresh = None
        if optimizer is not None:
            self._fresh = lambda model: optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    def init(self, model: Any) -> ReducerState:
        """The state before the first step; `model` must contain a layer that an adapter knows."""
        return self._init(Parts(model, None))

    def update(
        self,
        model: Any,
        opt_state: Any,
        state: ReducerState,
        step: int,
        *,
        loss: Callable[[Any], Any] | None = None,
        averages: Any = None,
        others: Any = None,
    ) -> tuple[Any, ...]:
        """Cut if the policy says so after training step `step` (counted from 1).

        Parameters
        ----------
        model, opt_state, state, step
        loss : callable, optional
            ``loss(model)`` is the loss of the last batch; called before and after a cut, for the report.
        averages : pytree, optional
            Averaged copies of the model or of its parameters, and states of ``optax.ema``.  They are cut by the same transformation.
        others : pytree, optional
            Other values that a guard takes back: states of stateful layers (``eqx.nn.State``), random keys.

        Returns
        -------
        model, opt_state, state
            New values; the ones given if nothing was cut.
        report : Report or None
            None unless a cut was attempted or taken back at this step.
        averages, others
            In this order, those that were given.
        """
        parts, state, report = self._update(Parts(model, opt_state, averages, others), state, step, loss, self._fresh)
        more = [new for new, given in ((parts.averages, averages), (parts.others, others)) if given is not None]
        return parts.model, parts.opt_state, state, report, *more

    def resume(
        self, model: Any, opt_state: Any, saved: Mapping[str, Any], *, averages: Any = None, others: Any = None
    ) -> tuple[Any, ...]:
        """Go on from a checkpoint: make objects of the recorded sizes, into which the saved arrays fit, and the reducer's state.

        Parameters
        ----------
        model, opt_state, averages, others
            As for the first step of the training, of the full size.
        saved : dict
            What ``state.to_dict()`` gave.  Log files are rewound to what they held then.

        Returns
        -------
        model, opt_state, state, averages, others
            The averages and others, in this order, if they were given.

        Raises
        ------
        ValueError
            The model has other layers, or a layer has fewer states than recorded.
        """
        parts, state = self._resume(Parts(model, opt_state, averages, others), saved, self._fresh)
        more = [new for new, given in ((parts.averages, averages), (parts.others, others)) if given is not None]
        return parts.model, parts.opt_state, state, *more
