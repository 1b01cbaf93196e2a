"""``LRU_pytorch.LRU`` of the package lru-pytorch: complex B and C, a full D, and its state kept as an attribute."""

from __future__ import annotations

from typing import Any

import torch

from balred.adapters.torch.modules import blank_copy
from balred.backends.torch import from_numpy
from balred.layers.lru import LRU_NAMES, keep_feedthrough, lru_parameters, lru_system, scale_ratio
from balred.layers.lru_carry import lru_carry
from balred.registry.entries import register
from balred.systems.arrays import to_numpy
from balred.systems.leaves import System


def _carry(old: Any, new: Any, moments: Any, change: Any, power: int) -> dict[str, Any]:
    def pick(values: Any) -> dict[str, Any]:
        return {name: values[name] for name in LRU_NAMES}

    return lru_carry(pick(old), pick(new), pick(moments), change, power)


@register("LRU_pytorch.LRU.LRU", carry=_carry, accounts=(*LRU_NAMES, "D"))
def adapt_lru(layer: Any) -> tuple[System, Any]:
    """The conjugate system of the layer, and the way back; the attribute ``state`` shrinks too."""
    system = lru_system(layer.nu_log, layer.theta_log, layer.gamma_log, layer.B, layer.C, layer.D)

    def rebuild(reduced: Any) -> Any:
        keep_feedthrough(reduced, system)
        ratio = scale_ratio(to_numpy(layer.B), to_numpy(layer.C))
        values = {k: from_numpy(v, like=layer.B) for k, v in lru_parameters(reduced, ratio).items()}
        values["state"] = torch.zeros_like(values["B"][:, 0])
        return blank_copy(layer, values)

    return system, rebuild
