"""Truncation of flax nnx models while they train: model and ``nnx.Optimizer`` are references, and shrink in place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import nnx

from balred.adapters.jax.training import Parts, TreeReducer
from balred.intraining.report import Report
from balred.intraining.state import ReducerState


class InTrainingReducer(TreeReducer):
    """Cut the layers of a flax nnx model while it trains, and the state of its optimizer with them; all in place.

    Parameters
    ----------
    rule : rule or Budget
        How many states a layer keeps, such as ``balred.Energy(0.99)``.
    window : (int, int)
        The steps between which cuts may happen, counted from 1.
    attempts : int, optional
        How often a cut is tried, at equidistant steps, the last one at the end of the window (default 4).
    **options
        The other settings of :class:`balred.intraining.TrainingSettings` (`interval`, `min_cut`, `settled`, `guard`, `dry_run`,
        `gradual`, `moments`, `log`, `calibration`) and of :class:`balred.adapters.jax.TreeReducer` (`ema_decay`).  The guard's metric is
        called with the model.

    Examples
    --------
    >>> import jax, optax, balred
    >>> from balred.adapters.flax.nnx import InTrainingReducer
    >>> from balred.layers.recurrence import lru_initial
    >>> from flax import nnx
    >>> class LRU(nnx.Module):
    ...     def __init__(self, features, states, rngs):
    ...         uniform, normal = rngs.params.uniform, rngs.params.normal
    ...         values = lru_initial(features, states, 0.5, 0.99, 3.0, lambda n: uniform((n,)), lambda *shape: normal(shape))
    ...         for name, value in values.items():
    ...             setattr(self, name, nnx.Param(value))
    >>> model = LRU(2, 32, nnx.Rngs(0))
    >>> optimizer = nnx.Optimizer(model, optax.adamw(1e-3), wrt=nnx.Param)
    >>> reducer = InTrainingReducer(rule=balred.Energy(0.9), window=(0, 2), attempts=1)
    >>> state = reducer.init(model)
    >>> state, report = reducer.update(model, optimizer, state, 2)
    >>> model.nu_log.shape[0] == report.cuts[0].after < 32
    True
    """

    def init(self, model: Any) -> ReducerState:
        """The state before the first step; `model` must contain a layer that an adapter knows."""
        return self._init(Parts(model, None))

    def update(
        self,
        model: Any,
        optimizer: Any,
        state: ReducerState,
        step: int,
        *,
        loss: Callable[[Any], Any] | None = None,
        averages: Sequence[Any] = (),
        others: Sequence[Any] = (),
    ) -> tuple[ReducerState, Report | None]:
        """Cut `model` and `optimizer` in place if the policy says so after training step `step` (counted from 1).

        Parameters
        ----------
        model, optimizer, state, step
        loss : callable, optional
            ``loss(model)`` is the loss of the last batch; called before and after a cut, for the report.
        averages : sequence of nnx modules
            Averaged copies of the model, cut in place by the same transformation.
        others : sequence of nnx objects
            Other objects that a guard takes back: ``nnx.Rngs``, metrics.

        Returns
        -------
        state : ReducerState
        report : Report or None
            None unless a cut was attempted or taken back at this step.
        """
        if not self._due(state, step):
            return state, None
        before = _parts(model, optimizer, averages, others)
        parts, state, report = self._update(before, state, step, loss, _fresh(optimizer))
        if parts is not before:
            _write(parts, model, optimizer, averages, others)
        return state, report

    def resume(
        self,
        model: Any,
        optimizer: Any,
        saved: Mapping[str, Any],
        *,
        averages: Sequence[Any] = (),
        others: Sequence[Any] = (),
    ) -> ReducerState:
        """Go on from a checkpoint: shrink `model`, `optimizer` and `averages` in place, so that what was saved fits.

        Parameters
        ----------
        model, optimizer, averages, others
            As for the first step of the training, of the full size.
        saved : dict
            What ``state.to_dict()`` gave.  Log files are rewound to what they held then.

        Raises
        ------
        ValueError
            The model has other layers, or a layer has fewer states than recorded.  Nothing is changed then.
        """
        before = _parts(model, optimizer, averages, others)
        parts, state = self._resume(before, saved, _fresh(optimizer))
        if parts is not before:
            _write(parts, model, optimizer, averages, others)
        return state

    def _tree(self, parts: Parts) -> Any:
        return parts._replace(model=nnx.state(parts.model))

    def _filled(self, parts: Parts, tree: Any) -> Parts:
        model = nnx.clone(parts.model)
        nnx.update(model, tree.model)
        filled: Parts = tree._replace(model=model)
        return filled


def _parts(model: Any, optimizer: Any, averages: Sequence[Any], others: Sequence[Any]) -> Parts:
    beside = tuple(nnx.state(one) for one in others)
    return Parts(model, optimizer.opt_state, tuple(nnx.state(a) for a in averages), (optimizer.step[...], beside))


def _fresh(optimizer: Any) -> Callable[[Any], Any]:
    return lambda model: optimizer.tx.init(nnx.state(model, optimizer.wrt))


def _write(parts: Parts, model: Any, optimizer: Any, averages: Sequence[Any], others: Sequence[Any]) -> None:
    """Put `parts` into the objects that the training holds."""
    resized = _resized(model, parts.model)
    for one, state in zip((model, *averages), (nnx.state(parts.model), *parts.averages), strict=True):
        nodes = _modules(one)
        for path, key, value in resized:
            setattr(nodes[path], key, value)
        nnx.update(one, state)
    step, beside = parts.others
    optimizer.step[...] = step
    for one, state in zip(others, beside, strict=True):
        nnx.update(one, state)
    mine, theirs = (
        jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, nnx.Variable))
        for tree in (optimizer.opt_state, parts.opt_state)
    )
    for variable, other in zip(mine, theirs, strict=True):
        variable.set_value(other.get_value())


def _modules(model: Any) -> dict[Any, Any]:
    return {path: node for path, node in nnx.iter_graph(model) if isinstance(node, nnx.Module)}


def _resized(old: Any, new: Any) -> list[tuple[Any, str, Any]]:
    """What modules of a new size hold that is no array, where it is another: sizes, shapes and configurations."""
    before = _modules(old)
    return [
        (path, key, value)
        for path, node in _modules(new).items()
        for key, value in vars(node).items()
        if (type(value) in (int, tuple) or dataclasses.is_dataclass(value))
        and not key.startswith("_")
        and not isinstance(value, nnx.Module)
        and value != vars(before[path]).get(key)
    ]
