r"""Gated DeltaNet layers: linear attention in which each token corrects what the memory says to its key.

With unit keys :math:`k_t` and queries :math:`q_t` a head keeps a memory of d keys by values,

.. math:: S_t = e^{g_t}S_{t-1} + k_t\delta_t^T,\qquad \delta_t = \beta_t(v_t - e^{g_t}S_{t-1}^Tk_t),\qquad y_t = S_t^Tq_t/\sqrt d,

which is a selective scan over the d rows of S once the corrections :math:`\delta_t` are known.  So the states are the dimensions of
keys and queries, and each head selects its own along data.  Both pass a convolution, SiLU and a norm, so they cannot be mixed, and
the norms over fewer dimensions, and the corrections, make a selection approximate.

S. Yang et al., Gated Delta Networks (arXiv 2412.06464).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from balred.adapters.torch.layers.mamba_parts import (
    activation,
    convolved,
    like,
    linear,
    masked,
    model_resizer,
    sized,
    weight_and_bias,
)
from balred.adapters.torch.layers.signals import Read, Signals, differing, gatherer
from balred.adapters.torch.wrapped import with_outputs
from balred.registry.entries import register_selective
from balred.registry.kinds import Selective
from balred.selection.moments import Moments, Selection, first

_FUSED = ("in_proj_qkvz", "in_proj_ba", "norm", "out_proj")
_MIXED = ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "norm", "out_proj")
_SEPARATE = ("q_proj", "k_proj", "v_proj", "g_proj", "b_proj", "a_proj", "o_norm", "o_proj")
_LAYOUTS = (_FUSED, _MIXED, _SEPARATE)
_NUMBERS = ("num_k_heads", "num_v_heads", "head_k_dim", "head_v_dim")
_NOTE = "the norm over fewer keys changes it further, and that is not counted here"
_EPS = 1e-6
"""Below the norms of keys and queries."""


def is_gated_delta(module: Any) -> bool:
    """Whether a module has the parameters of a Gated DeltaNet layer, whatever its class."""
    heads = getattr(module, "A_log", None)
    if not isinstance(heads, torch.Tensor) or heads.ndim != 1 or _layout(module) is None:
        return False
    if not all(isinstance(getattr(module, name, None), int) for name in _NUMBERS):
        return False
    conv = getattr(getattr(module, "conv1d", None), "weight", None)
    keys, values = module.num_k_heads * module.head_k_dim, module.num_v_heads * module.head_v_dim
    return isinstance(conv, torch.Tensor) and len(conv) == 2 * keys + values and len(heads) == module.num_v_heads


def _layout(module: Any) -> tuple[str, ...] | None:
    def has(name: str) -> bool:
        return isinstance(getattr(getattr(module, name, None), "weight", None), torch.Tensor)

    return next((names for names in _LAYOUTS if all(map(has, names))), None)


def _projected(layer: Any, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values side by side; the gate; and for each value head the correction's rate and the decay's input."""
    layout = _layout(layer)
    if layout is _SEPARATE:
        q, k, v, z, b, a = (linear(getattr(layer, name), x) for name in _SEPARATE[:6])
        return torch.cat([q, k, v], -1), z, b, a
    if layout is _MIXED:
        qkv, z, b, a = (linear(getattr(layer, name), x) for name in _MIXED[:4])
        return qkv, z, b, a
    keys, values = layer.head_k_dim, layer.num_v_heads // layer.num_k_heads * layer.head_v_dim
    by_head = _split(linear(layer.in_proj_qkvz, x), layer.num_k_heads)
    q, k, v, z = (y.flatten(-2) for y in torch.split(by_head, [keys, keys, values, values], dim=-1))
    b, a = (y.flatten(-2) for y in _split(linear(layer.in_proj_ba, x), layer.num_k_heads).chunk(2, dim=-1))
    return torch.cat([q, k, v], -1), z, b, a


def _delta(layer: Any, hidden: torch.Tensor, mask: Any) -> Signals:
    heads, size, width = layer.num_k_heads, layer.head_k_dim, layer.head_v_dim
    qkv, z, b, a = _projected(layer, masked(hidden, mask))
    q, k, v = torch.split(convolved(layer, qkv), [heads * size, heads * size, layer.num_v_heads * width], dim=-1)
    q, k = (_split(y, heads) for y in (q, k))
    q, k = (y * torch.rsqrt(y.square().sum(-1, keepdim=True) + _EPS) for y in (q, k))
    rate = b.sigmoid() * (2.0 if getattr(layer, "allow_neg_eigval", False) else 1.0)
    decay = torch.exp(like(layer.A_log, v)) * F.softplus(a + like(layer.dt_bias, v))
    norm, out = (getattr(layer, name) for name in (_layout(layer) or _FUSED)[-2:])
    gate = activation(norm)(z)
    W, bias = weight_and_bias(out, v)

    def gain(y: torch.Tensor, now: slice) -> torch.Tensor:
        """Gate and norm, the norm's divisor frozen at what it is."""
        by_head = _split(y, layer.num_v_heads)
        eps = float(getattr(norm, "variance_epsilon", getattr(norm, "eps", _EPS)))
        rms = torch.rsqrt(by_head.square().mean(-1, keepdim=True) + eps) * like(norm.weight, y)
        return gate[:, now] * rms.expand_as(by_head).flatten(-2)

    return Signals(
        dt=decay.repeat_interleave(width, dim=-1),
        drive=_corrections(k, v, rate, decay),
        A=-torch.ones_like(v[0, 0])[:, None],
        B=k,
        C=masked(q.flatten(-2), mask).reshape(q.shape) / size**0.5,
        W=W,
        bias=bias,
        skip=torch.zeros_like(v),
        gain=gain,
        mixes=False,
    )


def _split(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x.reshape(*x.shape[:-1], heads, -1)


def _corrections(k: torch.Tensor, v: torch.Tensor, rate: torch.Tensor, decay: torch.Tensor) -> torch.Tensor:
    """What each token adds to the memory at its key, (batch, length, values of all heads)."""
    heads, values = k.shape[2], rate.shape[-1]
    v = v.reshape(*v.shape[:2], heads, values // heads, -1)
    rate, keeps = (x.reshape(*x.shape[:2], heads, -1, 1) for x in (rate, torch.exp(-decay)))
    memory, found = v.new_zeros(*v[:, 0].shape, k.shape[-1]), []
    for t in range(v.shape[1]):
        memory = keeps[:, t, ..., None] * memory
        found.append(rate[:, t] * (v[:, t] - torch.einsum("bhrvk,bhk->bhrv", memory, k[:, t])))
        memory = memory + found[-1][..., None] * k[:, t, :, None, None, :]
    return torch.stack(found, 1).flatten(2)


def _blank_delta(layer: Any, states: int) -> Any:
    return _cut_delta(layer, first(states, layer.head_k_dim, groups=layer.num_k_heads))


def _cut_delta(layer: Any, selection: Selection, moments: Moments | None = None) -> Any:
    heads, size, rank = layer.num_k_heads, layer.head_k_dim, selection.kept.shape[1]
    values = layer.num_v_heads * layer.head_v_dim
    inner = (np.arange(heads)[:, None] * size + selection.kept).reshape(-1)
    conv = np.concatenate([inner, heads * size + inner, 2 * heads * size + np.arange(values)])
    layout = _layout(layer)
    if layout is _SEPARATE:
        rows = {"q_proj": inner, "k_proj": inner}
    elif layout is _MIXED:
        rows = {"in_proj_qkv": conv}
    else:
        rest = np.tile(2 * size + np.arange(2 * values // heads), (heads, 1))
        block = np.concatenate([selection.kept, size + selection.kept, rest], axis=1)
        rows = {"in_proj_qkvz": (np.arange(heads)[:, None] * (2 * size + rest.shape[1]) + block).reshape(-1)}
    new: dict[str, Any] = {}
    for part, index in (rows | {"conv1d": conv}).items():
        where = torch.as_tensor(index, device=layer.A_log.device)
        new |= with_outputs(layer, part, partial(torch.index_select, dim=0, index=where))
    new |= {f"conv1d.{name}": len(conv) for name in ("in_channels", "out_channels", "groups")}
    new |= {"head_k_dim": rank, "key_dim": heads * rank, "conv_dim": len(conv)}
    return sized(layer, new, rank)


def _state_size(layer: Any) -> int:
    return int(layer.head_k_dim)


def _read(layer: Any) -> Read:
    return _delta


def _width(layer: Any) -> int:
    return int(getattr(layer, (_layout(layer) or _FUSED)[0]).weight.shape[1])


register_selective(
    "torch.nn.modules.module.Module",
    Selective(
        _state_size,
        gatherer(_read, _width),
        _cut_delta,
        _blank_delta,
        note=_NOTE,
        differs=differing(_read, _width),
    ),
    recognises=is_gated_delta,
    resize_model=model_resizer(_state_size),
    accounts=("A_log", "dt_bias", "conv1d", *_FUSED, *_MIXED, *_SEPARATE),
)
