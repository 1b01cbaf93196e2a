"""Modules that no adapter knows: what they lack to be known, or why there is nothing in them that could be cut.

Some layers have a memory and no state dimension of its own: a recurrence of each channel by itself, a short convolution, linear
attention with one size for keys and values.  Fewer states would be another width of everything around them.  They are told from
the others by the shapes of their parameters, since they are copied from project to project under other names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from balred.registry.entries import entry_of

_LAYOUTS: Mapping[str, tuple[str, ...]] = {
    "Mamba-1": ("A_log", "in_proj.weight", "conv1d.weight", "x_proj.weight", "dt_proj.weight", "out_proj.weight"),
    "Mamba-2": ("A_log", "dt_bias", "in_proj.weight", "conv1d.weight", "out_proj.weight"),
    "Zamba": ("A_log", "in_proj.weight", "conv1d.weight", "x_proj_weight", "dt_proj_weight", "out_proj.weight"),
    "S4D": ("log_dt", "log_A_real", "A_imag", "C"),
    "S4": ("inv_dt", "A_real", "A_imag", "B", "C"),
    "mLSTM": ("mlstm_backend", "qk_dim", "config.num_heads"),
}
_DYNAMICS = {"A_log", "A", "log_A_real", "A_real", "A_imag", "Lambda", "Lambda_re", "nu_log", "log_dt", "inv_dt", "log_step", "dt_bias"}  # fmt: skip


def seen(model: nn.Module) -> list[str]:
    """Of modules with tensors called as in state-space layers, what they lack to be layers that an adapter knows."""
    told: dict[str, str] = {}
    inside = {id(part) for _, module, _ in _fixed(model) for part in module.modules()}
    for name, module in model.named_modules():
        if id(module) in inside:
            continue
        if isinstance(module, torch.jit.ScriptModule):
            told[f"{name} is code"] = (
                f"{name or 'itself'} ({type(module).__name__}) is traced or scripted, so its code is fixed: cut the module that it was made of"
            )
            inside |= {id(part) for part in module.modules()}
            continue
        held = {*module._parameters, *module._buffers, *vars(module)}
        if not (held & _DYNAMICS) or entry_of(module) is not None:
            continue
        lacks = {kind: [n for n in names if not _has(module, n)] for kind, names in _LAYOUTS.items()}
        kind = min(lacks, key=lambda k: len(lacks[k]) / len(_LAYOUTS[k]))
        missing = f"lacks {', '.join(lacks[kind])}" if lacks[kind] else "has other shapes, or more tensors,"
        told.setdefault(type(module).__name__, f"{name or 'itself'} ({type(module).__name__}) {missing} of {kind}")
    return list(told.values())


def _has(module: Any, path: str) -> bool:
    for key in path.split("."):
        module = getattr(module, key, None)
    return module is not None


# ------------------------------------------------------------------------------------------------ nothing to cut


def fixed(model: nn.Module) -> list[str]:
    """Of modules with a memory in which no states can be chosen, of what kind they are and why, one of each class.

    Examples
    --------
    >>> class Gated(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.into, self.out = nn.Linear(4, 12), nn.Linear(4, 4)
    ...         self.conv = nn.Conv1d(4, 4, 3, groups=4, padding=2)
    >>> fixed(Gated())
    ['itself (Gated) is a gated short convolution: it remembers the last 2 inputs of each channel, and has no states to choose from']
    """
    told: dict[str, str] = {}
    for name, module, why in _fixed(model):
        told.setdefault(type(module).__name__, f"{name or 'itself'} ({type(module).__name__}) is {why}")
    return list(told.values())


def _fixed(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """The outermost ones, with their names."""
    last: str | None = None
    for name, module in model.named_modules():
        if (last is not None and (not last or name.startswith(f"{last}."))) or isinstance(
            module, torch.jit.ScriptModule
        ):
            continue
        why = next((why for kind in _KINDS if (why := kind(module)) is not None), None)
        if why is not None and entry_of(module) is None:
            last = name
            yield name, module, why


def _by_blocks(module: nn.Module) -> str | None:
    """Griffin's RG-LRU: a decay for each channel, and gates that mix channels in blocks."""
    widths = {len(p) for p in module.parameters(recurse=False) if p.ndim == 1}
    blocks = [p.shape for p in module.parameters() if p.ndim == 3 and p.shape[1] == p.shape[2]]
    square = {shape[0] * shape[1] for shape in blocks} if len(blocks) > 1 else set()
    rest = any(p.ndim > 3 or (p.ndim == 3 and p.shape[1] != p.shape[2]) for p in module.parameters())
    for width in () if rest or len(square) != 1 else widths & square:
        return f"a gated recurrence of each channel by itself, an RG-LRU: {_CHANNELS.format(width)}"
    return None


def _by_decay(module: nn.Module) -> str | None:
    """RWKV-4: running means of values, weighted by their keys, a decay and a bonus for each channel."""
    own = {name: len(p) for name, p in module.named_parameters(recurse=False) if p.ndim == 1}
    for name, width in own.items():
        into = [x for x in _linears(module) if x.weight.shape[0] == width]
        out = [x for x in _linears(module) if x.weight.shape[1] == width]
        if "decay" in name and list(own.values()).count(width) > 1 and len(into) > 1 and out:
            return f"a running mean of each channel by itself, as RWKV-4 has it: {_CHANNELS.format(width)}"
    return None


def _short_convolution(module: nn.Module) -> str | None:
    """LFM2's: a projection to two gates and a signal, which a depthwise convolution passes."""
    convs = [x for x in module.children() if isinstance(x, nn.Conv1d)]
    widths = [tuple(x.weight.shape) for x in _linears(module)]
    if len(convs) != 1 or len(widths) != 2 or any(True for _ in module.parameters(recurse=False)):
        return None
    channels, taps = convs[0].out_channels, convs[0].kernel_size[0]
    if (
        convs[0].groups != channels
        or not {3 * channels} <= {w[0] for w in widths}
        or channels not in {w[1] for w in widths}
    ):
        return None
    return f"a gated short convolution: it remembers the last {taps - 1} inputs of each channel, and has no states to choose from"


def _one_head_size(module: nn.Module) -> str | None:
    """Lightning attention, Kimi's delta attention: a memory of head dimension by head dimension."""
    size = getattr(module, "head_dim", None)
    heads = next((n for key in _HEADS if isinstance(n := getattr(module, key, None), int)), None)
    if not isinstance(size, int) or heads is None:
        return None
    linears, width = _linears(module), heads * size
    into = [len(x.weight) for x in linears]
    fused = 3 * width in into
    if not (fused or into.count(width) > 2) or all(x.weight.shape[1] != width for x in linears):
        return None
    named = (*module.named_parameters(), *module.named_buffers())
    decays = any(p.numel() % heads == 0 and any(word in name for word in _DECAYS) for name, p in named)
    norms = [x.weight.shape for x in module.children() if isinstance(getattr(x, "weight", None), torch.Tensor)]
    gated = fused and len(linears) > 2 and (width,) in norms  # its decays are handed to it by the model
    if not decays and not gated:
        return None
    return (
        f"linear attention with one head dimension, {size}, for queries, keys and values: its memory has as many keys as values, "
        "so with fewer keys the layer would have another width"
    )


def _keys_by_values(module: nn.Module) -> str | None:
    """Gated linear attention, retention, HGRN2, RWKV-6 and 7, delta rules: a memory of keys by values, in another recurrence each."""
    keys, values, heads = (_first(module, names) for names in (_KEYS, _VALUES, _HEADS))
    if keys is None or values is None or heads is None:
        return None
    linears = _linears(module)
    into, out = [len(x.weight) for x in linears], [x.weight.shape[1] for x in linears]
    if heads * keys not in into or heads * values not in out or len(linears) < 4:
        return None
    turned = any("rotary" in type(x).__name__.lower() for x in module.children())
    why = (
        "turns with its position in pairs, so that none can go alone"
        if turned
        else "takes part in a recurrence that no adapter knows: register one to select them"
    )
    return f"linear attention with a memory of {keys} keys by {values} values for each head, where each key {why}"


def _first(module: nn.Module, names: tuple[str, ...]) -> int | None:
    return next((n for key in names if isinstance(n := getattr(module, key, None), int)), None)


def _linears(module: nn.Module) -> list[Any]:
    found: list[Any] = [x for x in module.children() if isinstance(getattr(x, "weight", None), torch.Tensor)]
    return [x for x in found if x.weight.ndim == 2]


_CHANNELS = "each of its {} states is a channel of the layer, so with fewer it would have another width"
_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head")
_DECAYS = ("slope_rate", "decay", "A_log")
_KEYS = ("head_k_dim", "head_f_dim", "head_dim")
_VALUES = ("head_v_dim", "head_i_dim")
_KINDS = (_by_blocks, _by_decay, _short_convolution, _keys_by_values, _one_head_size)
