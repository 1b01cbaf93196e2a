"""equinox LRU and S5 layers of other packages, by their authors' names: known by the arrays that they hold."""

from __future__ import annotations

from typing import Any

try:
    import equinox as eqx
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("JAX and equinox are not installed: pip install 'balred[jax]'") from error

from balred.adapt import Rebuild, register
from balred.adapters.parameters import is_lru, is_s5, lru_of, resized, s5_of
from balred.parametrisations import lru_carry_split
from balred.systems import System


def _arrays(layer: Any) -> dict[str, Any]:
    return {key: value for key, value in vars(layer).items() if eqx.is_array(value)}


def _is_lru(layer: Any) -> bool:
    return is_lru(_arrays(layer))


def _is_s5(layer: Any) -> bool:
    return is_s5(_arrays(layer), layer)


@register(eqx.Module, carry=lru_carry_split, recognises=_is_lru)
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
    for key, size in resized(vars(layer), before, after).items():
        object.__setattr__(new, key, size)  # a new object of a frozen class, not yet handed out
    return new
