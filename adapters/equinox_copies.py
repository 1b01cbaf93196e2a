"""equinox LRU layers of other packages, by minimal-LRU's names: known by the arrays that they hold."""

from __future__ import annotations

from typing import Any

try:
    import equinox as eqx
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("JAX and equinox are not installed: pip install 'balred[jax]'") from error

from balred.adapt import Rebuild, register
from balred.adapters.parameters import SIZES, is_lru, lru_of
from balred.parametrisations import lru_carry_split
from balred.systems import System


def _arrays(layer: Any) -> dict[str, Any]:
    return {key: value for key, value in vars(layer).items() if eqx.is_array(value)}


def _is_lru(layer: Any) -> bool:
    return is_lru(_arrays(layer))


@register(eqx.Module, carry=lru_carry_split, recognises=_is_lru)
def adapt_lru(layer: Any) -> tuple[System, Rebuild]:
    """The conjugate system of an LRU layer; fields that hold the number of states change too."""
    system, write = lru_of(_arrays(layer))

    def rebuild(reduced: Any) -> Any:
        values = write(reduced)
        new = eqx.tree_at(lambda m: [getattr(m, k) for k in values], layer, list(values.values()))
        for key in SIZES:
            if vars(layer).get(key) == system.states:
                object.__setattr__(new, key, reduced.states)  # a new object of a frozen class, not yet handed out
        return new

    return system, rebuild
