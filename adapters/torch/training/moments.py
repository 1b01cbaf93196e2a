"""The optimizer's moments of a PyTorch layer through its cut."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from balred.adapters.torch.training.place import Place
from balred.intraining.moments import Hosts, carrier
from balred.reduction.candidates import Smaller
from balred.systems.arrays import to_numpy

_POWER = {"exp_avg": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2, "momentum_buffer": 1}
"""The moments that can be carried (Adam's family, SGD's momentum), and which power of the gradient they average."""


def carried(
    place: Place, layer: nn.Module, cut: Smaller, old: Hosts, new: Hosts, states: dict[str, Any]
) -> dict[str, Hosts]:
    """The moments of a layer after its cut, by key and parameter; empty if they must start afresh.

    Parameters
    ----------
    place : Place
    layer : torch.nn.Module
    cut : Smaller
    old, new : dict
        The whole parameters before and after it.
    states : dict
        What the optimizer has of each parameter.
    """
    carry = carrier(layer, cut)
    kinds = [{k for k, v in s.items() if isinstance(v, torch.Tensor) and v.ndim > 0} for s in states.values()]
    keys = kinds[0]
    known = keys == {"momentum_buffer"} or {"exp_avg", "exp_avg_sq"} <= keys <= set(_POWER) - {"momentum_buffer"}
    if carry is None or not known or any(k != keys for k in kinds):
        return {}
    moments = {
        key: {n: to_numpy(place.whole(s[key])) for n, s in states.items()} for key in sorted(keys)
    }  # all processes in one order
    return {
        key: carry(old, new, values, _POWER[key]) | {n: v for n, v in values.items() if v.shape == new[n].shape}
        for key, values in moments.items()
    }
