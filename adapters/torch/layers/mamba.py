"""The two layouts of Mamba layers that all packages share under different class names: how to read and to shrink them.

Mamba-1 has its own poles in every channel, and B and C that all channels share.  A two-way layer (Vim) has all of this a
second time, for the sequence read from its end, between the same projections; each way keeps states of its own.  Mamba-2 has one scalar decay per head, and B
and C that the heads of a group share and that pass a convolution and SiLU, so that they can be selected only.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

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
from balred.adapters.torch.wrapped import mixes_outputs, with_outputs
from balred.registry.entries import register_selective
from balred.registry.kinds import Selective
from balred.selection.moments import FloatArray, Moments, Selection, first

# ----------------------------------------------------------------------------------------------------- Mamba-1


def is_mamba1(module: Any) -> bool:
    """Whether a module has the parameters of the Mamba-1 layout, whatever its class."""
    if not has_weights(module, "in_proj", "conv1d", "x_proj", "dt_proj", "out_proj", poles=2):
        return False
    channels, states = module.A_log.shape
    shapes = (module.dt_proj.weight.shape[0], module.x_proj.weight.shape[0], module.in_proj.weight.shape[0])
    return shapes == (channels, module.dt_proj.weight.shape[1] + 2 * states, 2 * channels)


_WAY = ("A_log", "D", "conv1d", "x_proj", "dt_proj")
_BACK = (
    ("A_log_b", "D_b", "conv1d_b", "x_proj_b", "dt_proj_b"),  # mambapy
    ("A_b_log", "D_b", "conv1d_b", "x_proj_b", "dt_proj_b"),  # Vim's authors
)


def _ways(layer: Any) -> list[tuple[str, ...]]:
    """What the parts of each way are called in a layer, the way from the end last.

    Raises
    ------
    ValueError
        There are two ways, and norms over the states, of which both take the same, or one projection for both.
    """
    own = _way_shapes(layer, _WAY)
    ways: list[tuple[str, ...]] = [_WAY, *(names for names in _BACK if _way_shapes(layer, names) == own)]
    shared = [short.upper() for short in "bc" if len(ways) > 1 and _norm(layer, short) is not None]
    if shared:
        raise ValueError(
            "a two-way layer must have no norms over its states, since each way keeps states of its own, got one on "
            f"{' and on '.join(shared)} in {type(layer).__name__}"
        )
    if len({id(getattr(layer, names[3])) for names in ways}) < len(ways):
        raise ValueError(
            f"each way of a two-way layer must have projections of its own, got one {_WAY[3]} for both in {type(layer).__name__}: untie them first"
        )
    return ways


def _way_shapes(layer: Any, names: tuple[str, ...]) -> list[Any]:
    parts = [getattr(layer, name, None) for name in names]
    tensors = [getattr(x, "weight", x) for x in parts]
    return [tuple(x.shape) if isinstance(x, torch.Tensor) else None for x in tensors]


def _share(layer: Any, ways: int) -> float:
    """What each way counts in their sum."""
    halves = getattr(layer, "if_divide_out", getattr(getattr(layer, "config", None), "divide_output", False))
    return 1 / ways if halves else 1.0


def _mamba1(layer: Any, hidden: torch.Tensor, mask: Any) -> Signals:
    x, z = linear(layer.in_proj, masked(hidden, mask)).chunk(2, dim=-1)
    ways = _ways(layer)
    one = [_way(layer, x, names, mask, back=i > 0) for i, names in enumerate(ways)]
    dt, A, B, C, skip, drive = zip(*one, strict=True)
    gate = F.silu(z).repeat(1, 1, len(ways))
    W, bias = weight_and_bias(layer.out_proj, x)
    return Signals(
        dt=torch.cat(dt, -1),
        drive=torch.cat(drive, -1),
        A=torch.cat(A),
        B=torch.stack(B, 2),
        C=torch.stack(C, 2),
        W=W.repeat(1, len(ways)) * _share(layer, len(ways)),
        bias=bias,
        skip=torch.cat(skip, -1),
        gain=lambda y, now: gate[:, now],
        mixes=_norm(layer, "c") is None
        and mixes_outputs(layer.x_proj),  # two ways are two groups, which are selected from
        back=len(ways) - 1,
    )


def _way(layer: Any, x: torch.Tensor, names: tuple[str, ...], mask: Any, back: bool) -> tuple[torch.Tensor, ...]:
    """Steps, A, B, C, what passes by the states, and drive, of one way."""
    A, D, conv, x_proj, dt_proj = names
    x = convolved(layer, x.flip(1), conv).flip(1) if back else convolved(layer, x, conv)
    x = masked(x, mask)
    states, dt_rank = layer.A_log.shape[1], layer.dt_proj.weight.shape[1]
    dt, B, C = torch.split(linear(getattr(layer, x_proj), x), [dt_rank, states, states], dim=-1)
    dt, B, C = (_normed(layer, name, v) for name, v in (("dt", dt), ("b", B), ("c", C)))
    dt = F.softplus(linear(getattr(layer, dt_proj), dt))
    return dt, -torch.exp(like(getattr(layer, A), x)), B, masked(C, mask), like(getattr(layer, D), x) * x, dt * x


def _cut_mamba1(layer: Any, selection: Selection, moments: Moments) -> Any:
    return _smaller1(layer, selection, moments.B[0], moments.C[0])


def _blank_mamba1(layer: Any, states: int) -> Any:
    alike = np.ones(state_size(layer))
    return _smaller1(layer, first(states, state_size(layer), groups=len(_ways(layer))), alike, alike)


def _smaller1(layer: Any, selection: Selection, B: FloatArray, C: FloatArray) -> Any:
    """The layer with the selected states; B and C are mean squares of what norms are taken of."""
    states, dt_rank = layer.A_log.shape[1], layer.dt_proj.weight.shape[1]
    new: dict[str, Any] = {}
    for way, own in zip(_ways(layer), selection.kept, strict=True):
        kept = torch.as_tensor(own, device=layer.A_log.device)
        new[way[0]] = getattr(layer, way[0])[:, kept]
        new |= with_outputs(
            layer, way[3], partial(kept_rows, dt_rank=dt_rank, states=states, kept=kept, mix=selection.mix)
        )
    for short, squares in (("b", B), ("c", C)):
        norm = _norm(layer, short)
        if norm is None:
            continue
        name = next(n for n, m in layer.named_modules() if m is norm)
        if getattr(norm, "weight", None) is not None:
            weight = norm.weight.detach()
            share = squares / np.maximum(weight.double().cpu().numpy() ** 2, 1e-30)
            # fewer values are normed to mean square one: give them the mean square they had, where the weight is trained
            ratio = np.mean(share[selection.kept[0]]) / max(np.mean(share), 1e-30)
            scale = float(np.sqrt(ratio)) if isinstance(norm.weight, nn.Parameter) else 1.0
            new[f"{name}.weight"] = weight[kept] * scale
    return sized(layer, new, len(kept))


# ----------------------------------------------------------------------------------------------------- Mamba-2


def is_mamba2(module: Any) -> bool:
    """Whether a module has the parameters of the Mamba-2 layout, whatever its class."""
    if not has_weights(module, "in_proj", "conv1d", "out_proj", poles=1) or not hasattr(module, "dt_bias"):
        return False
    channels, groups, states, heads = _sizes2(module)
    conv = channels + 2 * groups * states
    shapes = (module.conv1d.weight.shape[0], module.in_proj.weight.shape[0], tuple(module.dt_bias.shape))
    return states > 0 and shapes == (conv, channels + conv + heads, (heads,))


def _sizes2(layer: Any) -> tuple[int, int, int, int]:
    """Channels, groups, states, heads."""
    groups = int(getattr(layer, "n_groups", getattr(layer, "ngroups", 1)))
    channels = int(layer.out_proj.weight.shape[1])
    return channels, groups, (int(layer.conv1d.weight.shape[0]) - channels) // (2 * groups), len(layer.A_log)


def _mamba2(layer: Any, hidden: torch.Tensor, mask: Any) -> Signals:
    channels, groups, states, heads = _sizes2(layer)
    projected = linear(layer.in_proj, masked(hidden, mask) * getattr(layer, "ssm_in_multiplier", 1.0))
    if hasattr(layer, "mup_vector"):
        projected = projected * like(layer.mup_vector, projected)
    z, xBC, dt = torch.split(projected, [channels, layer.conv1d.weight.shape[0], heads], dim=-1)
    xBC = masked(convolved(layer, xBC), mask)
    x, B, C = torch.split(xBC, [channels, groups * states, groups * states], dim=-1)
    low, high = getattr(layer, "time_step_limit", getattr(layer, "dt_limit", (0.0, float("inf"))))
    dt = F.softplus(dt + like(layer.dt_bias, x)).clamp(low, high)
    width = channels // heads
    dt = dt.repeat_interleave(width, dim=-1)
    A = -torch.exp(like(layer.A_log, x)).repeat_interleave(width)[:, None]
    skip = like(layer.D, x)
    skip = (skip.repeat_interleave(width) if skip.numel() == heads else skip.reshape(-1)) * x
    norm = getattr(layer, "norm", None)
    gate = F.silu(z)
    W, bias = weight_and_bias(layer.out_proj, x)

    def gain(y: torch.Tensor, now: slice) -> torch.Tensor:
        """Gate and gated norm, the norm's divisor frozen at what it is."""
        if norm is None or getattr(norm, "weight", None) is None:
            return gate[:, now]
        size = int(getattr(norm, "group_size", 0) or channels // int(getattr(norm, "n_groups", 1)))
        signal = y + skip[:, now]
        if not getattr(norm, "norm_before_gate", False):
            signal = signal * gate[:, now]
        signal = signal.reshape(*signal.shape[:-1], -1, size)
        eps = float(getattr(norm, "variance_epsilon", getattr(norm, "eps", 1e-6)))
        rms = torch.rsqrt(signal.square().mean(-1, keepdim=True) + eps).expand_as(signal).flatten(-2)
        return gate[:, now] * rms * like(norm.weight, y)

    return Signals(
        dt=dt,
        drive=dt * x,
        A=A,
        B=B.reshape(*B.shape[:-1], groups, states),
        C=C.reshape(*C.shape[:-1], groups, states),
        W=W,
        bias=bias,
        skip=skip,
        gain=gain,
        mixes=False,
    )


def _blank_mamba2(layer: Any, states: int) -> Any:
    return _cut_mamba2(layer, first(states, state_size(layer), groups=_sizes2(layer)[1]))


def _cut_mamba2(layer: Any, selection: Selection, moments: Moments | None = None) -> Any:
    channels, groups, states, heads = _sizes2(layer)
    rank = selection.kept.shape[1]
    inner = (np.arange(groups)[:, None] * states + selection.kept).reshape(-1)
    conv = np.concatenate([np.arange(channels), channels + inner, channels + groups * states + inner])
    last = 2 * channels + 2 * groups * states
    rows = np.concatenate([np.arange(channels), channels + conv, last + np.arange(heads)])
    device = layer.A_log.device
    new: dict[str, Any] = {}
    for module, index in (("in_proj", rows), ("conv1d", conv)):
        where = torch.as_tensor(index, device=device)
        new |= with_outputs(layer, module, partial(torch.index_select, dim=0, index=where))
    if hasattr(layer, "mup_vector"):
        new["mup_vector"] = layer.mup_vector[..., torch.as_tensor(rows, device=device)]
    new |= {f"conv1d.{name}": len(conv) for name in ("in_channels", "out_channels", "groups")}
    if hasattr(layer, "conv_dim"):
        new["conv_dim"] = len(conv)
    if hasattr(layer, "groups_time_state_size"):
        new["groups_time_state_size"] = groups * rank
    return sized(layer, new, rank)


# ------------------------------------------------------------------------------------------------------- both


def _read(layer: Any) -> Read:
    return _mamba1 if layer.A_log.ndim == 2 else _mamba2


def _width(layer: Any) -> int:
    return int(layer.in_proj.weight.shape[1])


_gather = gatherer(_read, _width)


def state_size(layer: Any) -> int:
    """The state dimension."""
    return int(layer.A_log.shape[1]) if layer.A_log.ndim == 2 else _sizes2(layer)[2]


def _norm(layer: Any, short: str) -> Any:
    for name in (f"{short}_layernorm", f"{short.upper()}_layernorm"):
        if getattr(layer, name, None) is not None:
            return getattr(layer, name)
    return None


def _normed(layer: Any, short: str, x: torch.Tensor) -> torch.Tensor:
    norm = _norm(layer, short)
    return x if norm is None else norm(x).to(x.dtype)


_MODULE = "torch.nn.modules.module.Module"
_resize_model = model_resizer(state_size)
_PARTS = ("A_log", "D", "in_proj", "conv1d", "out_proj")
_BACK_KEEPS = (
    "D_b",
    "conv1d_b",
    "dt_proj_b",
)  # of a second way that is not the whole of one, poles would stay as they are
_MAMBA1 = (*_PARTS, "x_proj", "dt_proj", *_BACK_KEEPS, *(f"{x}_layernorm" for x in ("dt", "b", "c", "B", "C")))
_MAMBA2 = (*_PARTS, "norm", "dt_bias", "mup_vector")
register_selective(
    _MODULE,
    Selective(state_size, _gather, _cut_mamba1, _blank_mamba1, differs=differing(_read, _width)),
    recognises=is_mamba1,
    resize_model=_resize_model,
    accounts=_MAMBA1,
)
register_selective(
    _MODULE,
    Selective(state_size, _gather, _cut_mamba2, _blank_mamba2, differs=differing(_read, _width)),
    recognises=is_mamba2,
    resize_model=_resize_model,
    accounts=_MAMBA2,
)
