"""Marks in the program of a JAX model, around each run of a layer: what a trace keeps of which layer made what.

A traced program knows no layers.  So a layer's call puts its name on what enters it and on what leaves it, by primitives that do
nothing.  They go through ``jit``, ``vmap`` and ``grad`` as all primitives do; under ``vmap`` the mapped axis comes first, so
that what enters has its sequences outermost however a model is called.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

ENTERS: Any = Primitive("balred_enters")
LEAVES: Any = Primitive("balred_leaves")


def _unmoved(primitive: Any) -> Callable[..., Any]:
    def rule(args: Any, axes: Any, *, layer: str) -> Any:
        (x,), (axis,) = args, axes
        return primitive.bind(jnp.moveaxis(x, axis, 0), layer=layer), 0

    return rule


for _mark in (ENTERS, LEAVES):
    _mark.def_impl(lambda x, *, layer: x)
    _mark.def_abstract_eval(lambda x, *, layer: x)
    mlir.register_lowering(_mark, lambda ctx, x, *, layer: [x])
    ad.deflinear2(_mark, lambda cotangent, x, *, layer: [cotangent])  # type: ignore[no-untyped-call]
    batching.primitive_batchers[_mark] = _unmoved(_mark)


def is_numbers(x: Any) -> bool:
    """Whether it is an array of floating-point numbers."""
    return isinstance(x, (jax.Array, np.ndarray)) and bool(jnp.issubdtype(x.dtype, jnp.floating))


def marked(layer: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """``call(*args, **kwargs)`` with marks on the first array of numbers that enters it, and on all that leave it."""
    of_args = next((i for i, x in enumerate(args) if is_numbers(x)), None)
    if of_args is not None:
        args = (*args[:of_args], ENTERS.bind(jnp.asarray(args[of_args]), layer=layer), *args[of_args + 1 :])
    else:
        key = next((k for k, x in kwargs.items() if is_numbers(x)), None)
        if key is None:
            return call(*args, **kwargs)
        kwargs = {**kwargs, key: ENTERS.bind(jnp.asarray(kwargs[key]), layer=layer)}
    made = call(*args, **kwargs)
    return jax.tree.map(lambda x: LEAVES.bind(x, layer=layer) if is_numbers(x) else x, made)


@cache
def marking(cls: Any, layer: str) -> Any:
    """A class of layers with marks around what they compute: its objects stay what they are under every transformation."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return marked(layer, partial(cls.__call__, self), *args, **kwargs)

    with warnings.catch_warnings():  # of an __init__ that nobody calls
        warnings.simplefilter("ignore")
        return type(cls)(cls.__name__, (cls,), {"__module__": cls.__module__, "__call__": call})
