"""States of optax after a cut: they hold copies of the parameters somewhere inside, ``mu`` and ``nu`` of Adam, in chains and masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from balred.adapters.jax.resizing import Resizing
from balred.adapters.jax.trees import Copy, Keys, copies_of, named_leaves, names_of, outside, placed, rebuilt
from balred.intraining.moments import carrier
from balred.registry.tensors import tensors_of
from balred.systems.arrays import to_numpy

Start = Callable[[], dict[str, Any]]

_POWER = {"mu": 1, "trace": 1, "ema": 1, "acc_grads": 1, "nu": 2, "nu_max": 2, "sum_of_squares": 2}
"""Fields of optax states that hold averages of gradients, and of which power."""
_CARRIED = ({"ScaleByAdamState"}, {"ScaleByAmsgradState"}, {"ScaleByLionState"}, {"TraceState"})
"""Transformations whose moments are plain averages, so that they can be carried; others (centred RMSprop) start afresh."""
_FACTORS = ("v_row", "v_col", "v")
"""Fields of adafactor: row and column means of second moments where they are large, all of them elsewhere; (1,) is unused."""


def cut_state(opt_state: Any, resizing: Resizing, model: Any, carry: bool, fresh: Callable[[], Any] | None) -> Any:
    """`opt_state` for the cut model.

    Parameters
    ----------
    opt_state : pytree
    resizing : Resizing
    model : pytree
        The new model.
    carry : bool
        Take moments through the change of coordinates where that is known; else, and elsewhere, they start afresh.
    fresh : callable or None
        Returns what ``optimizer.init`` gives for the new model, if the optimizer is at hand.

    Raises
    ------
    ValueError
        The state has fields of unknown meaning, or arrays of unknown shape, and `fresh` is None.
    """
    shapes = {} if fresh is None else {name: x.shape for _, name, x in named_leaves(jax.eval_shape(fresh))}

    @cache
    def start() -> dict[str, Any]:
        # copies, since an optimizer may start with the parameters themselves, and a step donate both
        return {} if fresh is None else {name: jnp.array(x) for _, name, x in named_leaves(fresh())}

    copies = copies_of(opt_state, resizing.old)
    kinds = {type(x).__name__ for x in jax.tree.leaves(opt_state, is_leaf=_is_moments) if _is_moments(x)}
    new: dict[Keys, Any] = {}
    restarted: set[Keys] = set()
    for copy in copies.values():
        moments = _moments(copy, _power(copy, copies), resizing, carry and kinds in _CARRIED)
        for name, x in copy.values.items():
            if name in moments:
                new[copy.paths[name]] = placed(moments[name], x)
            elif resizing.changed(name) and x.ndim > 0:  # novograd keeps one number for each array
                value, whole = _afresh(copy, name, copies, resizing, start)
                new[copy.paths[name]] = placed(value, x)
                restarted |= {copy.root[:-1]} if whole else set()
    for path, name, x in outside(opt_state, copies):
        if fresh is None and np.ndim(x) > 0 and jnp.issubdtype(x.dtype, jnp.inexact):
            raise _unknown(f"{name!r} of shape {x.shape}, which is no copy of the parameters")
        if shapes.get(name, np.shape(x)) != np.shape(x):
            new[path] = start()[name]
    for path, name, _ in named_leaves(opt_state):
        if any(path[: len(root)] == root for root in restarted):
            new[path] = start()[name]
    result = rebuilt(opt_state, new, model, copies)
    for _, name, x in named_leaves(result):
        if shapes.get(name, np.shape(x)) != np.shape(x):
            raise ValueError(
                f"the optimizer state must have the shapes of optimizer.init, got {np.shape(x)} for {name}"
            )
    return result


def _is_moments(node: Any) -> bool:
    fields = set(getattr(node, "_fields", ()))
    return bool(fields & set(_POWER)) and not fields & {"acc_grads", "ema"}


def _power(copy: Copy, copies: Mapping[Keys, Copy]) -> int | None:
    """Which power of the gradient a copy averages; None if its field does not tell."""
    return 2 if _factors(copy, copies) else _POWER.get(copy.field)


def _factors(copy: Copy, copies: Mapping[Keys, Copy]) -> dict[str, Copy]:
    """What belongs to adafactor together with `copy`, by field; empty if it is not adafactor's."""
    beside = {c.field: c for c in copies.values() if c.root[:-1] == copy.root[:-1]}
    return {k: beside[k] for k in _FACTORS} if set(_FACTORS) <= set(beside) and copy.field in _FACTORS else {}


def _moments(copy: Copy, power: int | None, resizing: Resizing, carry: bool) -> dict[str, Any]:
    """The new moments of all changed parameters in a copy, where its field says what they are."""
    done: dict[str, Any] = {}
    for layer, smaller in resizing.smaller.items() if power is not None else ():
        mine, prefix = resizing.of(layer, copy.values), f"{layer}." if layer else ""
        old, new = tensors_of(resizing.layers[layer]), tensors_of(smaller)
        known = {k: x for k, x in mine.items() if k in old and x.shape == old[k].shape}
        through = carrier(resizing.layers[layer], resizing.cuts.get(layer)) if carry else None
        carried: Mapping[str, Any] = {}
        if through is not None and power is not None and len(known) == len(old):
            before, after, moments = ({k: to_numpy(x) for k, x in part.items()} for part in (old, new, known))
            carried = through(before, after, moments, power)
        for k, x in known.items():
            if old[k].shape != new[k].shape:
                level = np.mean(to_numpy(x)) if power == 2 else 0.0
                value = carried.get(k, np.full(new[k].shape, level))
                done[prefix + k] = jax.device_put(np.asarray(value, x.dtype))  # asarray is a program for every shape
    return done


def _afresh(copy: Copy, name: str, copies: Mapping[Keys, Copy], resizing: Resizing, start: Start) -> tuple[Any, bool]:
    """What a state that holds no plain moments starts with, and whether all of its transformation must start with it."""
    x, factors = copy.values[name], _factors(copy, copies)
    if factors and x.shape == factors["v_row"].values[name].shape == (1,):
        return x, False  # not factored, all is in v
    where = ".".join((*names_of(copy.root), name))
    first = start().get(where)
    if first is None:
        raise _unknown(f"a field {copy.field!r} of shape {x.shape} for {name} of shape {resizing.old[name].shape}")
    if not factors:
        return first, x.shape != resizing.old[name].shape  # a history of several steps is of no use in part
    # the step count goes on, so zeros would multiply the learning rate until they have filled up
    level = max(float(np.mean(to_numpy(c.values[name]))) for c in factors.values())
    return jax.device_put(np.full(first.shape, level if first.shape != (1,) else 0.0, x.dtype)), False


def _unknown(got: str) -> ValueError:
    return ValueError(
        f"the optimizer state must hold moments ({', '.join(_POWER)}), got {got}: pass optimizer= to InTrainingReducer, to "
        "take it from optimizer.init"
    )
