"""What the readers of Mamba layers share: convolution and projections as any package has them, and how a cut layer is sized.

The packages differ in where the state dimension is written (attributes, configurations), and little in the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from balred.adapters.torch.configurations import SIZES, is_size, resize_configurations
from balred.adapters.torch.modules import blank_copy
from balred.adapters.torch.wrapped import effective, is_plain
from balred.registry.sizes import states_of

_CONFIGS = ("config", "args")
"""Attributes in which layers and models share one."""


def has_weights(module: Any, *parts: str, poles: int) -> bool:
    """Whether a module has weights under these names, and so many axes in ``A_log``."""
    weights = [getattr(getattr(module, part, None), "weight", None) for part in parts]
    A = getattr(module, "A_log", None)
    return (
        all(isinstance(w, torch.Tensor) and w.ndim >= 2 for w in weights)
        and isinstance(A, torch.Tensor)
        and A.ndim == poles
    )


def like(value: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The values in the precision of `x`."""
    return value.detach().to(x.dtype)


def linear(module: Any, x: torch.Tensor) -> torch.Tensor:
    """What a linear module does, in the precision of `x`."""
    return F.linear(x, *weight_and_bias(module, x))


def weight_and_bias(module: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Those of what a linear module computes, the bias if it has one, in the precision of `x`."""
    weight, bias = effective(module)
    return like(weight, x), None if bias is None else like(bias, x)


def masked(x: torch.Tensor, mask: Any) -> torch.Tensor:
    """`x`, (batch, length, features), with zeros where the mask, (batch, length), has them."""
    return x if mask is None else x * mask[:, -x.shape[1] :, None].to(x.dtype)


def convolved(layer: Any, x: torch.Tensor, part: str = "conv1d") -> torch.Tensor:
    """The layer's causal convolution and activation of `x`, (batch, length, channels)."""
    conv = getattr(layer, part)
    if not is_plain(conv):
        raise ValueError(
            f"a convolution must have a weight and a bias only, got others in {part}, a {type(conv).__name__}: merge them into the weight first"
        )
    weight, bias = conv.weight, conv.bias
    y = F.conv1d(
        x.mT,
        like(weight, x),
        None if bias is None else like(bias, x),
        padding=weight.shape[-1] - 1,
        groups=x.shape[-1],
    )[..., : x.shape[1]]
    return activation(layer)(y).mT


def activation(module: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """The activation of a layer or a gated norm: SiLU, if it does not hold another one or name one.

    Examples
    --------
    >>> activation(torch.nn.Module())(torch.ones(1)), activation(torch.nn.TransformerEncoderLayer(4, 1, activation="gelu")) is F.gelu
    (tensor([0.7311]), True)
    """
    act, name = getattr(module, "act", None), getattr(module, "activation", None)
    found = act if callable(act) else name if callable(name) else getattr(F, str(name), None)
    known: Callable[[torch.Tensor], torch.Tensor] = found if callable(found) else F.silu
    return known


def kept_rows(value: torch.Tensor, dt_rank: int, states: int, kept: torch.Tensor, mix: Any) -> torch.Tensor:
    """The rows of ``x_proj`` for [dt, B, C] that make the kept states' B and C, C refitted by `mix` if there is one."""
    dt, B, C = torch.split(value.detach(), [dt_rank, states, states])
    C = C[kept] if mix is None else (torch.as_tensor(mix, device=C.device) @ C.double()).to(C.dtype)
    return torch.cat([dt, B[kept], C])


def sized(layer: Any, new: dict[str, Any], rank: int) -> Any:
    """A copy of `layer` with these tensors and attributes, and `rank` wherever it or its configuration names its states."""
    before = states_of(layer)
    new |= {name: rank for name in SIZES if is_size(getattr(layer, name, None), before)}
    small: nn.Module = blank_copy(layer, new)
    for module in small.modules():
        resize_configurations(module, rank, before)
    return small


def model_resizer(state_size: Callable[[Any], int]) -> Callable[[nn.Module, Any, int], None]:
    """The ``resize_model`` of :func:`balred.registry.register_selective` for layers with so many states."""

    def resize_model(model: nn.Module, layer: Any, before: int) -> None:
        """Write the layer's state dimension into every configuration of `model`, and give the layer the model's own."""
        path, met = next((name for name, module in model.named_modules() if module is layer), ""), set[str]()
        for name, module in model.named_modules():
            if path.startswith(f"{name}." if name else "") and module is not layer:  # around it
                for size in (key for key in SIZES if is_size(vars(module).get(key), before)):
                    setattr(module, size, state_size(layer))
            resize_configurations(module, state_size(layer), before)
            for attribute in _CONFIGS:
                config = vars(module).get(attribute)
                if attribute not in met and config is not None and type(vars(layer).get(attribute)) is type(config):
                    setattr(layer, attribute, config)
                    met.add(attribute)  # those further in may be other layers' own

    return resize_model
