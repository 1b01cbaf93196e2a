"""Truncation of flax linen models while they train: parameters, optimizer state and module of a ``TrainState`` shrink together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn

from balred.adapters.flax.described import Described, Settings
from balred.adapters.flax.linen import Applied
from balred.adapters.jax.training import Parts, TreeReducer
from balred.adapters.parameters import resized
from balred.intraining.report import Report
from balred.intraining.settings import options_of
from balred.intraining.state import ReducerState
from balred.ranks.budget import Budget
from balred.ranks.divergence import Divergence
from balred.ranks.rules import Rule
from balred.registry.reading import replace_layers
from balred.registry.sizes import ranks_of


class InTrainingReducer(TreeReducer):
    """Cut the layers of a flax linen model while it trains, and its whole ``TrainState`` with them.

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
        `gradual`, `moments`, `log`, `calibration`) and of :class:`balred.adapters.jax.TreeReducer` (`ema_decay`).  The guard's metric is
        called with the train state.
    module : callable, optional
        ``module(ranks)`` gets the states of each layer by name, and returns a module of these sizes.  Its ``apply``
        becomes the ``apply_fn``.  Without `module`, ``apply_fn`` must be the ``apply`` of a module with a single layer
        that keeps the number of states in a field such as ``d_hidden``.
    averages : sequence of str
        Fields of the train state that hold averages of the parameters, or states of ``optax.ema``.
    settings : mapping or module, optional
        Needed with S5 layers: their ``conj_sym``, ``discretization``, ``clip_eigs`` and ``step_rescale``, because the
        parameters do not contain them.  Pass a mapping of these, or a module that has them.

    Notes
    -----
    A guard takes the whole train state back, including its step, batch statistics and random keys.

    Examples
    --------
    >>> import flax.linen as nn, jax, jax.numpy as jnp, optax, balred
    >>> from balred.adapters.flax import InTrainingReducer
    >>> from balred.layers.recurrence import lru_initial
    >>> from flax.training.train_state import TrainState
    >>> class Model(nn.Module):
    ...     d_hidden: int
    ...     def __call__(self, u):
    ...         return u  # an LRU and more
    >>> key = jax.random.key(0)
    >>> layer = lru_initial(2, 32, 0.5, 0.99, 3.0, lambda n: jax.random.uniform(key, (n,)), lambda *s: jax.random.normal(key, s))
    >>> state = TrainState.create(apply_fn=Model(32).apply, params={"lru": layer}, tx=optax.adamw(1e-3))
    >>> reducer = InTrainingReducer(rule=balred.Energy(0.9), window=(0, 2), attempts=1)
    >>> memory = reducer.init(state)
    >>> state, memory, report = reducer.update(state, memory, 2)
    >>> state.params["lru"]["nu_log"].shape[0] == state.apply_fn.__self__.d_hidden < 32
    True
    """

    @options_of(TreeReducer)
    def __init__(
        self,
        rule: Rule | Budget | Divergence,
        window: tuple[int, int],
        attempts: int | None = None,
        *,
        module: Callable[[dict[str, int]], Any] | None = None,
        averages: Sequence[str] = (),
        settings: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(rule, window, attempts, **options)
        self._module, self._averages = module, tuple(averages)
        self._settings = None if settings is None else Settings(settings)

    def init(self, train_state: Any) -> ReducerState:
        """The state before the first step.

        Raises
        ------
        ValueError
            `module` is missing, and the module of another size cannot be made without it.
        balred.registry.AdapterNotFound
            The parameters contain no layer that an adapter knows.
        """
        missing = [name for name in self._averages if not hasattr(train_state, name)]
        if missing:
            raise ValueError(f"averages must be fields of the train state, got {', '.join(missing)}")
        parts = self._parts(train_state)
        ranks = ranks_of(self._layers(parts.model))
        self._apply_fn(train_state.apply_fn, ranks, ranks)
        return self._init(parts)

    def update(
        self, train_state: Any, state: ReducerState, step: int, *, loss: Callable[[Any], Any] | None = None
    ) -> tuple[Any, ReducerState, Report | None]:
        """Cut if the policy says so after training step `step` (counted from 1).

        Parameters
        ----------
        train_state, state
        step : int
            ``train_state.step`` is the same number, but reading it waits for the device at every step.
        loss : callable, optional
            ``loss(train_state)`` is the loss of the last batch; called before and after a cut, for the report.

        Returns
        -------
        train_state, state
            New values; the ones given if nothing was cut.
        report : Report or None
            None unless a cut was attempted or taken back at this step.
        """
        if not self._due(state, step):
            return train_state, state, None
        before = self._parts(train_state)
        parts, state, report = self._update(before, state, step, loss, _fresh(train_state))
        return (train_state if parts is before else self._whole(parts)), state, report

    def resume(self, train_state: Any, saved: Mapping[str, Any]) -> tuple[Any, ReducerState]:
        """Go on from a checkpoint: make a train state of the recorded sizes, into which the saved arrays fit, and the reducer's state.

        Parameters
        ----------
        train_state : TrainState
            As for the first step of the training, of the full size.
        saved : dict
            What ``state.to_dict()`` gave.  Log files are rewound to what they held then.
        """
        parts, state = self._resume(self._parts(train_state), saved, _fresh(train_state))
        return self._whole(parts), state

    def _parts(self, train_state: Any) -> Parts:
        emptied = dict.fromkeys(("params", "opt_state", *self._averages))
        averages = {name: getattr(train_state, name) for name in self._averages}
        model = Described(train_state.params, self._settings)
        return Parts(model, train_state.opt_state, averages, train_state.replace(**emptied))

    def _whole(self, parts: Parts) -> Any:
        return parts.others.replace(params=parts.model.tree, opt_state=parts.opt_state, **parts.averages)

    def _running(self, parts: Parts) -> Applied:
        """Its parameters and other collections, which are fields of the train state by convention."""
        state = parts.others
        beside = {
            k: v for k, v in vars(state).items() if isinstance(v, Mapping) and k not in ("params", *self._averages)
        }

        def smaller(new: Mapping[str, Any]) -> Applied:
            cut = parts._replace(model=replace_layers(parts.model, new))
            return self._running(self._told_sizes(parts, cut))

        return Applied(state.apply_fn, {"params": parts.model.tree, **beside}, smaller=smaller)

    def _told_sizes(self, before: Parts, parts: Parts) -> Parts:
        ranks = (ranks_of(self._layers(model)) for model in (before.model, parts.model))
        apply_fn = self._apply_fn(parts.others.apply_fn, *ranks)
        return parts._replace(others=parts.others.replace(apply_fn=apply_fn))

    def _apply_fn(self, apply_fn: Any, before: Mapping[str, int], after: Mapping[str, int]) -> Any:
        if self._module is not None:
            return self._module(dict(after)).apply
        owner = getattr(apply_fn, "__self__", None)
        if isinstance(owner, nn.Module) and len(before) == 1:
            (old,), (new,) = before.values(), after.values()
            sizes = resized(vars(owner), old, new)
            if sizes:
                clone: Any = owner.clone
                return clone(**sizes).apply
        got = type(owner).__name__ if owner is not None else repr(apply_fn)
        raise ValueError(
            "without module= the apply_fn must be that of a module with one layer and a field for its states, "
            f"got {got} with the layers {', '.join(f'{name} ({n} states)' for name, n in before.items())}"
        )


def _fresh(train_state: Any) -> Callable[[Any], Any]:
    return lambda model: train_state.tx.init(model.tree)
