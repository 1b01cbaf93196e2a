"""What follows a cut in a JAX training besides the layers: states of optax, and averages of the parameters.

Both hold copies of the parameters somewhere inside, ``mu`` and ``nu`` of Adam, within chains and masks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from balred.registry.entries import entry_of
from balred.adapters.jax.trees import Copy, Keys, copies_of, named_leaves, names_of, outside, placed, rebuilt
from balred.systems.arrays import to_numpy
from balred.intraining.averages import follow
from balred.intraining.policy import Step
from balred.registry.tensors import tensors_of, with_tensors

Start = Callable[[], dict[str, Any]]

_POWER = {"mu": 1, "trace": 1, "ema": 1, "acc_grads": 1, "nu": 2, "nu_max": 2, "sum_of_squares": 2}
"""Fields of optax states that hold averages of gradients, and of which power."""
_CARRIED = ({"ScaleByAdamState"}, {"ScaleByAmsgradState"}, {"ScaleByLionState"}, {"TraceState"})
"""Transformations whose moments are plain averages, so that they can be carried; others (centred RMSprop) start afresh."""
_FACTORS = ("v_row", "v_col", "v")
"""Fields of adafactor: row and column means of second moments where they are large, all of them elsewhere; (1,) is unused."""


@dataclass(frozen=True)
class Resizing:
    """A model before and after a cut.

    Attributes
    ----------
    old, new : dict
        Arrays of the model by name.
    layers, smaller : dict
        The layers that change, by name.
    cuts : dict
        What was done to them; empty if only their sizes matter, since values will be loaded.
    """

    old: Mapping[str, Any]
    new: Mapping[str, Any]
    layers: Mapping[str, Any]
    smaller: Mapping[str, Any]
    cuts: Mapping[str, Step]

    def of(self, layer: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Those of `values` that belong to a layer, by their names in it."""
        prefix = f"{layer}." if layer else ""
        return {n[len(prefix) :]: x for n, x in values.items() if n.startswith(prefix)}

    def changed(self, name: str) -> bool:
        """Whether an array has another shape now."""
        return bool(self.old[name].shape != self.new[name].shape)


# ------------------------------------------------------------------------------------------------ states of optax


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
        function = getattr(entry_of(resizing.layers[layer]), "carry", None)
        reduction = resizing.cuts[layer].reduction if layer in resizing.cuts else None
        change = None if reduction is None else reduction.change
        carried: Mapping[str, Any] = {}
        if carry and function is not None and change is not None and len(known) == len(old):
            host = [{k: to_numpy(x) for k, x in part.items()} for part in (old, new, known)]
            carried = function(*host, change, power)
        for k, x in known.items():
            if old[k].shape != new[k].shape:
                level = np.mean(to_numpy(x)) if power == 2 else 0.0
                done[prefix + k] = jnp.asarray(carried.get(k, np.full(new[k].shape, level)), x.dtype)
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
    return jnp.asarray(np.full(first.shape, level if first.shape != (1,) else 0.0), x.dtype), False


def _unknown(got: str) -> ValueError:
    return ValueError(
        f"the optimizer state must hold moments ({', '.join(_POWER)}), got {got}: pass optimizer= to InTrainingReducer, to "
        "take it from optimizer.init"
    )


# ------------------------------------------------------------------------------------------------ averages


def cut_averages(averages: Any, resizing: Resizing, model: Any, decay: float | None) -> Any:
    """Averages of the parameters, anywhere in a pytree, cut by the transformation of the live layers.

    Parameters
    ----------
    averages : pytree
        Trees of parameters, or states of ``optax.ema``.
    decay : float, optional
        Of ``optax.ema``, whose averages start at zero.

    Raises
    ------
    ValueError
        It holds other arrays, a state of ``optax.ema`` without its `decay`, or an average of a part of a layer.
    """

    def scaled(tree: Any, inverse: bool) -> Any:
        def scale(node: Any) -> Any:
            if not _is_ema(node):
                return node
            if decay is None:
                raise ValueError(
                    "averages of optax.ema start at zero: pass its decay as ema_decay= to InTrainingReducer"
                )
            share = 1 - decay ** int(node.count)
            factor = (share if inverse else 1 / share) if share > 0 else 1.0
            return node._replace(ema=jax.tree.map(lambda x: placed(x * factor, x), node.ema))

        return jax.tree.map(scale, tree, is_leaf=_is_ema)

    averages = scaled(averages, inverse=False)
    copies = copies_of(averages, resizing.old)
    other = [f"{name!r} of shape {x.shape}" for _, name, x in outside(averages, copies) if getattr(x, "ndim", 0)]
    if other:
        raise ValueError(f"averages must be trees of the model's parameters, got {other[0]}")
    new: dict[Keys, Any] = {}
    for copy in copies.values():
        done = _average(copy.values, resizing)
        new |= {copy.paths[name]: placed(jnp.copy(x), copy.values[name]) for name, x in done.items()}
    return scaled(rebuilt(averages, new, model, copies), inverse=True)


def _is_ema(node: Any) -> bool:
    return type(node).__name__ == "EmaState" and hasattr(node, "ema")


def _average(values: Mapping[str, Any], resizing: Resizing) -> dict[str, Any]:
    done: dict[str, Any] = {}
    for layer, live in resizing.layers.items():
        mine, prefix = resizing.of(layer, values), f"{layer}." if layer else ""
        if not mine:
            continue
        own = tensors_of(live)
        wrong = [k for k in own if k not in mine or mine[k].shape != own[k].shape]
        if wrong:
            raise ValueError(
                f"an average must have all arrays of a layer, in its shapes, got {layer or 'layer'} without such {', '.join(wrong)}"
            )
        after = resizing.smaller[layer]
        if layer in resizing.cuts:
            after = follow(with_tensors(live, {k: mine[k] for k in own}), live, resizing.cuts[layer])
        done |= {
            prefix + k: x for k, x in tensors_of(after).items() if own[k].shape != x.shape or layer in resizing.cuts
        }
    return done
