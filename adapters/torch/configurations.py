"""Where models write their state dimension besides the weights: configurations, as objects and as dicts, nested in each other.

A model made anew from the configuration of a cut one must take its weights, so every one of them follows.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import types
from typing import Any

import torch
from torch import nn

SIZES = ("ssm_state_size", "d_state", "state_size", "mamba_d_state", "linear_key_head_dim")
"""What the state dimension is called: in layers and in their configurations."""
_NAMED = re.compile("config|conf$|cfg|args|hparams|params$|settings|options|kwargs", re.IGNORECASE)
_ARGUMENTS = ("ssm_cfg", "ssm_config", "mamba_kwargs", "ssm_kwargs")
"""Dicts of arguments that a layer is made with: what is not in them has the layer's own default."""


def resize_configurations(module: nn.Module, states: int) -> None:
    """Write the number of states into all configurations that a module, itself, holds."""
    met: set[int] = set()
    for name, value in vars(module).items():
        if (
            name not in ("_parameters", "_buffers", "_modules")
            and "_hooks" not in name
            and _is_configuration(name, value)
        ):
            _resize(name, value, states, met)


def _is_configuration(name: str, value: Any) -> bool:
    if isinstance(value, dict):
        return True
    if isinstance(value, (nn.Module, torch.Tensor, type)) or callable(value) or not hasattr(value, "__dict__"):
        return False
    plain = dataclasses.is_dataclass(value) or isinstance(value, (types.SimpleNamespace, argparse.Namespace))
    return plain or bool(_NAMED.search(name) or _NAMED.search(type(value).__name__))


def _resize(name: str, value: Any, states: int, met: set[int]) -> None:
    if id(value) in met:
        return
    met.add(id(value))
    if isinstance(value, dict):
        sizes = [key for key in SIZES if _is_size(value.get(key))]
        if name in _ARGUMENTS and not sizes:
            sizes = ["d_state"]
        value.update(dict.fromkeys(sizes, states))
        inside = value
    else:
        for key in SIZES:
            if _is_size(getattr(value, key, None)):
                _set(value, key, states)
        inside = vars(value)
    for key, other in list(inside.items()):
        if _is_configuration(str(key), other):
            _resize(str(key), other, states, met)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _set(value: Any, key: str, states: int) -> None:
    if dataclasses.is_dataclass(value):
        object.__setattr__(value, key, states)  # frozen ones too
    else:
        setattr(value, key, states)
