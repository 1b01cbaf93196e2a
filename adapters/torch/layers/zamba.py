"""The Mamba layers of Zamba: several Mamba-1 heads side by side, each with x_proj and dt_proj of its own.

Heads share the input projection, the convolution and the output projection.  So B and C belong to a head, and each head
keeps states of its own.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from balred.adapters.torch.layers.mamba_parts import (
    convolved,
    has_weights,
    kept_rows,
    like,
    linear,
    masked,
    model_resizer,
    sized,
    weight_and_bias,
)
from balred.adapters.torch.layers.signals import Read, Signals, differing, gatherer
from balred.registry.entries import register_selective
from balred.registry.kinds import Selective
from balred.selection.moments import Moments, Selection, first


def is_zamba(module: Any) -> bool:
    """Whether a module has the parameters of Zamba's layout, whatever its class."""
    if not has_weights(module, "in_proj", "conv1d", "out_proj", poles=3):
        return False
    weights: list[Any] = [getattr(module, name, None) for name in ("x_proj_weight", "dt_proj_weight")]
    if not all(isinstance(w, torch.Tensor) and w.ndim == 3 for w in weights):
        return False
    heads, width, states = module.A_log.shape
    dt_rank = module.dt_proj_weight.shape[2]
    shapes = (*(tuple(w.shape) for w in weights), module.in_proj.weight.shape[0])
    return shapes == ((heads, dt_rank + 2 * states, width), (heads, width, dt_rank), 2 * heads * width)


def _zamba(layer: Any, hidden: torch.Tensor, mask: Any) -> Signals:
    heads, width, states = layer.A_log.shape
    dt_rank = layer.dt_proj_weight.shape[2]
    projected = linear(layer.in_proj, masked(hidden, mask))
    x, z = projected[..., 0::2], projected[..., 1::2]  # value and gate of a channel lie side by side
    x = masked(convolved(layer, x), mask)
    by_head = x.reshape(*x.shape[:-1], heads, width)
    rows = torch.einsum("hrd,blhd->blhr", like(layer.x_proj_weight, x), by_head)
    dt, B, C = torch.split(rows, [dt_rank, states, states], dim=-1)
    dt = torch.einsum("hdr,blhr->blhd", like(layer.dt_proj_weight, x), dt)
    dt = F.softplus(dt + like(layer.dt_proj_bias, x)).flatten(-2)
    gate = F.silu(z)
    W, bias = weight_and_bias(layer.out_proj, x)
    return Signals(
        dt=dt,
        drive=dt * x,
        A=-torch.exp(like(layer.A_log, x)).flatten(0, 1),
        B=B,
        C=masked(C.flatten(-2), mask).reshape(C.shape),
        W=W,
        bias=bias,
        skip=like(layer.D, x).flatten() * x,
        gain=lambda y, now: gate[:, now],
        mixes=True,  # a single head is a Mamba-1 layer; several are selected from only
    )


def _blank_zamba(layer: Any, states: int) -> Any:
    return _cut_zamba(layer, first(states, _state_size(layer), groups=len(layer.A_log)))


def _cut_zamba(layer: Any, selection: Selection, moments: Moments | None = None) -> Any:
    heads, _, states = layer.A_log.shape
    dt_rank = layer.dt_proj_weight.shape[2]
    kept = torch.as_tensor(selection.kept, device=layer.A_log.device)
    rows = [kept_rows(layer.x_proj_weight[h], dt_rank, states, kept[h], selection.mix) for h in range(heads)]
    new: dict[str, Any] = {
        "A_log": torch.stack([layer.A_log[h][:, kept[h]] for h in range(heads)]),
        "x_proj_weight": torch.stack(rows),
    }
    return sized(layer, new, kept.shape[1])


def _state_size(layer: Any) -> int:
    return int(layer.A_log.shape[2])


def _read(layer: Any) -> Read:
    return _zamba


def _width(layer: Any) -> int:
    return int(layer.in_proj.weight.shape[1])


register_selective(
    "torch.nn.modules.module.Module",
    Selective(_state_size, gatherer(_read, _width), _cut_zamba, _blank_zamba, differs=differing(_read, _width)),
    recognises=is_zamba,
    resize_model=model_resizer(_state_size),
    accounts=("A_log", "D", "in_proj", "conv1d", "out_proj", "x_proj_weight", "dt_proj_weight", "dt_proj_bias"),
)
