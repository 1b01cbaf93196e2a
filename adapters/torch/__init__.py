"""PyTorch: the LRU layer, and the names of this framework that loops use."""

from __future__ import annotations

from typing import Any

try:
    import torch
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("PyTorch is not installed: pip install 'balred[torch]'") from error

from balred.registry.entries import register
from balred.adapters.torch.modules import blank_copy, set_layer
from balred.adapters.torch.loading import resize_on_load
from balred.adapters.torch.layers.lru import LRU
from balred.adapters.torch.training.reducer import InTrainingReducer
from balred.systems.arrays import to_numpy
from balred.backends.torch import from_numpy
from balred.layers.lru import keep_feedthrough, lru_carry_split, lru_parameters, lru_rows, lru_split, lru_system
from balred.systems.dense_system import System

__all__ = ["LRU", "InTrainingReducer", "blank_copy", "resize_on_load", "set_layer"]


@register(LRU, carry=lru_carry_split)
def adapt_lru(layer: LRU) -> tuple[System, Any]:
    """The conjugate system of an LRU layer, and the way back."""
    half = layer.D.dtype in (torch.bfloat16, torch.float16)  # which have no complex numbers
    p = {name: x.float() if half else x for name, x in layer.named_parameters()}
    B, C = torch.complex(p["B_re"], p["B_im"]), torch.complex(p["C_re"], p["C_im"])
    system = lru_system(p["nu_log"], p["theta_log"], p["gamma_log"], B, C, torch.diag(p["D"]))

    def rebuild(reduced: Any) -> LRU:
        values = lru_split(lru_parameters(reduced, lru_rows(to_numpy(B))))
        keep_feedthrough(reduced, system)
        result: LRU = blank_copy(layer, {k: from_numpy(v, like=p["D"]) for k, v in values.items()})
        return result

    return system, rebuild
