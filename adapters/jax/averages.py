"""Averages of the parameters in a JAX training, wherever they hide in a pytree: cut by the transformation of the live layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from balred.adapters.jax.resizing import Resizing
from balred.adapters.jax.trees import Keys, copies_of, outside, placed, rebuilt
from balred.intraining.averages import follow
from balred.registry.tensors import tensors_of, with_tensors


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
                f"an average must have all arrays of a layer, in the layer's shapes, got none or another shape for {', '.join(wrong)} of {layer or 'the layer'}"
            )
        after = resizing.smaller[layer]
        if layer in resizing.cuts:
            after = follow(with_tensors(live, {k: mine[k] for k in own}), live, resizing.cuts[layer])
        done |= {
            prefix + k: x for k, x in tensors_of(after).items() if own[k].shape != x.shape or layer in resizing.cuts
        }
    return done
