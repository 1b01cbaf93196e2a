"""Values of a JAX training in checkpoints, and models of the size of one."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from balred.adapters.jax.trees import named_leaves, placed
from balred.registry.sizes import to_shapes


def skeleton_for(model: Any, metadata: Any) -> Any:
    """Shrink a model of the full size to the sizes of a checkpoint, so that the checkpoint can be restored into it.

    Parameters
    ----------
    model : equinox or nnx module, or tree of parameters
        Of the full size, such as a freshly made one.
    metadata : pytree
        Its leaves have a ``shape``, and are named like the arrays of `model`.  orbax's
        ``metadata(path).item_metadata.tree`` has such a tree for the part of the checkpoint that is the model.

    Returns
    -------
    model
        Its layers have the shapes in `metadata`.  Replace their values.

    Raises
    ------
    ValueError
        The shapes for a layer fit no number of states up to its own, or there are no shapes for it.

    Examples
    --------
    >>> import jax
    >>> from balred.adapters.equinox import LRU
    >>> full, saved = (LRU(2, states, key=jax.random.key(0)) for states in (16, 5))
    >>> skeleton_for(full, jax.eval_shape(lambda: saved)).states
    5
    """
    shapes = {name: tuple(x.shape) for _, name, x in named_leaves(metadata) if hasattr(x, "shape")}
    # orbax stores the variables of nnx as mappings to their values
    return to_shapes(model, shapes | {name.removesuffix(".value"): shape for name, shape in shapes.items()})


def is_array(x: Any) -> bool:
    """Whether it is an array of JAX, random keys included, or of NumPy."""
    return isinstance(x, (jax.Array, np.ndarray))


def is_value(x: Any) -> bool:
    """Whether it is an array, or a number as which one may begin (the step of a fresh TrainState)."""
    return is_array(x) or isinstance(x, (int, float, complex))


def _is_key(x: Any) -> bool:
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def plain(x: Any) -> Any:
    """A value for a checkpoint: a number, or a NumPy array.

    Examples
    --------
    >>> plain(jax.numpy.arange(3)), plain(0.5), plain(jax.random.key(7))
    (array([0, 1, 2], dtype=int32), 0.5, array([0, 7], dtype=uint32))
    """
    if not is_array(x):
        return x
    return np.asarray(jax.random.key_data(x) if _is_key(x) else x)


def shape_of(x: Any) -> tuple[int, ...]:
    """The shape of :func:`plain`, without bringing the value to the host."""
    return tuple(np.shape(jax.random.key_data(x) if _is_key(x) else x))


def filled_in(x: Any, values: Any) -> Any:
    """A value like `x` with `values` from a checkpoint."""
    if not is_array(x):
        return jnp.asarray(values) if is_array(values) else values
    if _is_key(x):
        return jax.random.wrap_key_data(jnp.asarray(values), impl=jax.random.key_impl(x))
    if isinstance(x, np.ndarray):
        return np.asarray(values, x.dtype)
    return placed(jnp.asarray(values, x.dtype), x)
