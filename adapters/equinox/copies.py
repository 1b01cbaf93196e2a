"""equinox LRU, S5 and LinOSS layers of other packages, by their authors' names: known by the arrays that they hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from balred.adapters.parameters import carry_lru, is_lru, is_s5, lru_of, misfit, refused, resized, s5_of
from balred.adapters.stacks import behind, leading_axes, members, read_stack
from balred.backends.jax import from_numpy
from balred.layers import linoss
from balred.registry.entries import register, register_selective
from balred.registry.kinds import Rebuild, Selective
from balred.selection.moments import Moments, Selection, first, members_of, stack_of
from balred.selection.oscillators import selected
from balred.systems.arrays import to_numpy
from balred.systems.leaves import System


def _arrays(layer: Any) -> dict[str, Any]:
    return {key: value for key, value in vars(layer).items() if eqx.is_array(value) and not _is_count(value)}


def _is_count(value: Any) -> bool:
    """Whether it is a number of the layer's, such as its states, or what has become of it in a stack."""
    return bool(jnp.issubdtype(value.dtype, jnp.integer))


def _is_lru(layer: Any) -> bool:
    return is_lru(_arrays(layer))


def _is_s5(layer: Any) -> bool:
    return is_s5(_arrays(layer), layer)


@register(eqx.Module, carry=carry_lru, recognises=_is_lru)
def adapt_lru(layer: Any) -> tuple[System, Rebuild]:
    """The conjugate system of an LRU layer; fields that hold the number of states change too."""
    return _adapted(layer, *lru_of(_arrays(layer)))


@register(eqx.Module, recognises=_is_s5)
def adapt_s5(layer: Any) -> tuple[System, Rebuild]:
    """The conjugate system of an S5 layer; fields that hold the number of states change too."""
    return _adapted(layer, *s5_of(_arrays(layer), layer))


def _adapted(layer: Any, system: System, write: Any) -> tuple[System, Rebuild]:
    return system, lambda reduced: written(layer, write(reduced), system.states, reduced.states)


def written(layer: Any, values: dict[str, Any], before: int, after: int) -> Any:
    """A copy of `layer` with other arrays, and fields that held `before` states holding `after`."""
    new = eqx.tree_at(lambda m: [getattr(m, k) for k in values], layer, list(values.values()))
    counts = {k: x for k, x in vars(layer).items() if eqx.is_array(x) and x.size and _is_count(x)}
    held = vars(layer) | {k: int(x.reshape(-1)[0]) for k, x in counts.items()}
    for key, size in resized(held, before, after).items():
        value = jnp.full_like(counts[key], size) if key in counts else size
        object.__setattr__(new, key, value)  # a new object of a frozen class, not yet handed out
    return new


def _linoss_axes(layer: Any) -> tuple[int, ...] | None:
    """The leading axes of a stack of LinOSS layers, () for one by itself; None for others."""
    return leading_axes(_arrays(layer), lambda tree: linoss.is_linoss(tree, layer))


def adapt_linoss(layer: Any) -> tuple[System, Rebuild]:
    """The real system of a LinOSS layer, of a stack a batch, to look at: nothing but selected oscillators can be written back."""

    def read(tree: Mapping[str, Any]) -> tuple[System, Any]:
        return linoss.linoss_system(tree, layer.discretization), linoss.refuse

    return read_stack(_arrays(layer), _linoss_axes(layer) or (), read)[0], linoss.refuse


def gather_linoss(model: Any, layers: Mapping[str, Any], calibration: Any) -> dict[str, Moments]:
    """The moments of LinOSS layers, for white noise; `calibration` is the length of the sequences, if it is given."""
    whole = isinstance(calibration, int) and not isinstance(calibration, bool)
    if calibration is not None and not (whole and calibration >= 1):
        raise ValueError(
            f"calibration of LinOSS layers must be the length of the sequences, a positive integer, got {calibration!r}"
        )
    found = {
        n: [linoss.linoss_moments(one, x.discretization, calibration) for one in _members(x)] for n, x in layers.items()
    }
    return {n: stack_of(several) if len(several) > 1 else several[0] for n, several in found.items()}


def _members(layer: Any) -> list[dict[str, Any]]:
    """The arrays of each layer in a stack, on the host; of one layer its own."""
    return members({k: to_numpy(x) for k, x in _arrays(layer).items()}, _linoss_axes(layer) or ())


def _size(layer: Any) -> int:
    return int(layer.A_diag.shape[-1])


def cut_linoss(layer: Any, selection: Selection, moments: Moments | None) -> Any:
    """The layer with the selected oscillators; their values as they are where there are no moments."""
    trees = _members(layer)
    known = (None,) * len(trees) if moments is None else members_of(moments)
    done = [
        linoss.smaller(tree, selection.of_member(i, len(trees)), m)
        for i, (tree, m) in enumerate(zip(trees, known, strict=True))
    ]
    arrays = {k: from_numpy(v, like=layer.D) for k, v in behind(done, _linoss_axes(layer) or ()).items()}
    return written(layer, arrays, _size(layer), selection.kept.shape[1])


def blank_linoss(layer: Any, states: int) -> Any:
    """The layer with the first oscillators."""
    return cut_linoss(layer, first(states, _size(layer), math.prod(_linoss_axes(layer) or ())), None)


register_selective(
    eqx.Module,
    Selective(
        _size,
        gather_linoss,
        cut_linoss,
        blank_linoss,
        one_size=False,
        needs_data=False,
        select=selected,
    ),
    recognises=lambda layer: _linoss_axes(layer) is not None,
    adapter=adapt_linoss,
)
register(
    eqx.Module,
    lambda layer: refused(_arrays(layer), layer),
    recognises=lambda layer: bool(misfit(_arrays(layer), layer)),
)
