"""What several copies of a JAX layer answer to the same few tokens, which tells whether it computes what its arrays stand for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from balred.adapters.jax.running import Open, Opened
from balred.adapters.jax.tracing import QUICKLY
from balred.registry.answering import TOKENS
from balred.systems.arrays import eps, to_numpy

_SEQUENCES, _TOKENS, _WIDTHS = 2, 5, 8
_KEPT = 16
"""So many structures keep what was compiled for them: the layers of a model are mostly alike."""

Answers = tuple[list[np.ndarray[Any, Any]], float]


def answering(opened: Open) -> Callable[[Sequence[Any]], Answers | None]:
    """``answers(layers)`` of a framework, as :class:`balred.registry.Container` has it, from how its models are opened."""

    programs = dict[Any, Any]()

    def answers(layers: Sequence[Any]) -> Answers | None:
        each = [opened(layer, {}) for layer in layers]
        if len(programs) > _KEPT:
            programs.clear()
        for x in _inputs(each[0].values):
            try:
                made = [_made(one, x, programs) for one in each]
            except Exception:  # they run on something else
                continue
            if not jnp.issubdtype(made[0].dtype, jnp.inexact):
                return None  # a choice, which other values need not change
            # what the arrays are rounded to shows in the outputs, of whatever type those are
            coarse = max(eps(a) for a in (made[0], *_arrays(each[0].values)) if jnp.issubdtype(a.dtype, jnp.inexact))
            return [to_numpy(y).astype(np.result_type(y.dtype, np.float64)) for y in made], coarse
        return None

    return answers


def _made(one: Opened, x: Any, programs: dict[Any, Any]) -> Any:
    try:
        known = one.structure is not None and one.structure in programs
    except TypeError:  # no hash
        known = False
        one = one._replace(structure=None)
    program = programs[one.structure] if known else jax.jit(one.call, compiler_options=QUICKLY)
    if one.structure is not None:
        programs[one.structure] = program
    made = program(one.values, x)
    return made[0] if isinstance(made, (tuple, list)) else made


def _arrays(values: Any) -> list[Any]:
    return [x for x in jax.tree.leaves(values) if hasattr(x, "shape") and hasattr(x, "dtype")]


def _inputs(values: Any) -> Iterator[Any]:
    """A few tokens of every width that axes of the layer's arrays have, the frequent ones first."""
    arrays = _arrays(values)
    real = [x.dtype for x in arrays if jnp.issubdtype(x.dtype, jnp.floating)]
    widths = Counter(size for x in arrays for size in x.shape)
    tokens = next((n for n in range(_TOKENS, TOKENS + 1) if n not in widths), TOKENS)  # never taken for features
    rng = np.random.default_rng(0)
    for width, _ in widths.most_common(_WIDTHS):
        for shape in ((tokens, width), (_SEQUENCES, tokens, width)):
            yield jnp.asarray(rng.standard_normal(shape), real[0] if real else None)
