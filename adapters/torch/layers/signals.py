"""Moments of a selective layer's signals in PyTorch, gathered by hooks while data run through the model.

The hook sees what enters the layer and computes the scan anew, state by state, so that fused kernels do not matter.
Sums are all that is kept: memory does not depend on the number of batches, and within one only on a chunk of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from balred.adapters.torch.running import evaluating, given
from balred.selection.calibration import ran
from balred.selection.moments import Moments, finite

_CHUNK = 1 << 23  # numbers held at a time: tokens times channels times states
_OUTPUTS = 256  # beyond these a random sketch of the outputs, whose squared norms are unbiased, is as good
_MIXABLE = 32  # moments of order four grow with the fourth power of the states


@dataclass(frozen=True)
class Signals:
    """What drives a selective scan, for ``length`` tokens and ``channels`` in ``groups`` that share B and C.

    ``h_t = exp(dt_t A) h_{t-1} + drive_t B_t``, ``y_t = C_t h_t``, output ``W (gain(y_t) (y_t + skip_t)) + bias``.
    """

    dt: torch.Tensor  # (batch, length, channels)
    drive: torch.Tensor  # (batch, length, channels)
    A: torch.Tensor  # (channels, states), or (channels, 1)
    B: torch.Tensor  # (batch, length, groups, states)
    C: torch.Tensor  # (batch, length, groups, states)
    W: torch.Tensor  # (outputs, channels)
    bias: torch.Tensor | None  # (outputs,)
    skip: torch.Tensor  # (batch, length, channels): what reaches the output past the states
    gain: Callable[[torch.Tensor, slice], torch.Tensor]  # of y (batch, tokens, channels) at these tokens
    mixes: bool  # C may be multiplied by a matrix
    back: int = 0  # so many of the groups, the last ones, run from the last token to the first


Read = Callable[[Any, torch.Tensor, Any], Signals]
"""``read(layer, hidden, mask)``: the signals of a layer for its input, (batch, length, features)."""


class Accumulator:
    """Sums of second moments over the tokens of all batches."""

    def __init__(self) -> None:
        self.contributions: Any = 0.0
        self.products: Any = 0.0
        self.B: Any = 0.0
        self.C: Any = 0.0
        self.tokens = 0
        self.groups = 0
        self.mixes = False

    def add(self, signals: Signals) -> torch.Tensor:
        """Run the scan over one batch; returns the layer's output, (batch, length, outputs), as it follows from the signals."""
        outputs = []
        batch, length, groups, states = signals.B.shape
        per_group = signals.dt.shape[-1] // groups
        A = signals.A.reshape(groups, per_group, -1)
        W = _sketched(signals.W).reshape(-1, groups, per_group)
        self.groups, self.mixes = groups, signals.mixes and groups == 1 and states <= _MIXABLE
        tokens = max(1, min(length, _CHUNK // (batch * groups * per_group * states)))
        spans = [slice(start, min(start + tokens, length)) for start in range(0, length, tokens)]
        h, back = signals.B.new_zeros(batch, groups, per_group, states), signals.back
        for now, late in zip(spans, _from_behind(signals, A, spans), strict=True):
            dt, drive, B = (_turned(x, back) for x in _driven(signals, now))
            if back:
                h = torch.cat([h[:, :-back], late], 1)
            path = []
            for t in range(B.shape[1]):
                h = torch.exp(dt[:, t] * A) * h + drive[:, t] * B[:, t, :, None, :]
                path.append(h)
            hs = _turned(torch.stack(path, 1), back)
            B, C = signals.B[:, now], signals.C[:, now]
            y = torch.einsum("btgcn,btgn->btgc", hs, C)
            gain = signals.gain(y.flatten(2), now)
            outputs.append(F.linear(gain * (y.flatten(2) + signals.skip[:, now]), signals.W, signals.bias))
            gain = gain.reshape(y.shape)
            V = torch.einsum("ogc,btgcn->btogn", W, gain[..., None] * hs)
            self._count(V, B.double(), C.double())
        return torch.cat(outputs, 1)

    def _count(self, V: torch.Tensor, B: torch.Tensor, C: torch.Tensor) -> None:
        batch, tokens, outputs, groups, states = V.shape
        V = V.double()
        parts = (V * C[:, :, None]).reshape(batch * tokens * outputs, groups * states)
        self.contributions = self.contributions + parts.T @ parts
        if self.mixes:
            c, v = C.reshape(-1, states), V.reshape(-1, outputs, states)
            outer = (c[:, :, None] * c[:, None, :]).reshape(len(c), -1)
            gram = (v.mT @ v).reshape(len(c), -1)
            self.products = self.products + (outer.T @ gram).reshape((states,) * 4)  # n, k, m, l
        self.B = self.B + (B * B).sum((0, 1))
        self.C = self.C + (C * C).sum((0, 1))
        self.tokens += batch * tokens

    def moments(self) -> Moments:
        """What was summed, on the host."""
        products = _host(self.products.permute(0, 2, 1, 3)) if self.mixes else None
        B, C = (_host(x) / self.tokens for x in (self.B, self.C))
        return Moments(_host(self.contributions), self.groups, B, C, products, self.tokens)


def _driven(signals: Signals, now: slice) -> tuple[torch.Tensor, ...]:
    """Steps and drive, (batch, tokens, groups, channels of one, 1), and B, at these tokens."""
    batch, _, groups, _ = signals.B.shape
    dt, drive = (x[:, now].reshape(batch, -1, groups, x.shape[-1] // groups, 1) for x in (signals.dt, signals.drive))
    return dt, drive, signals.B[:, now]


def _turned(x: torch.Tensor, back: int) -> torch.Tensor:
    """`x`, (batch, tokens, groups, ...), with the tokens of the last `back` groups in reverse."""
    return torch.cat([x[:, :, :-back], x[:, :, -back:].flip(1)], 2) if back else x


def _from_behind(signals: Signals, A: torch.Tensor, spans: list[slice]) -> list[torch.Tensor]:
    """The states of the groups that run backwards as they enter each span of tokens, from the one after it."""
    batch, _, groups, states = signals.B.shape
    mine = slice(groups - signals.back, groups)
    h, found = signals.B.new_zeros(batch, signals.back, A.shape[1], states), []
    for now in reversed(spans):
        found.append(h)
        if signals.back and now is not spans[0]:
            dt, drive, B = (x[:, :, mine].flip(1) for x in _driven(signals, now))
            for t in range(B.shape[1]):
                h = torch.exp(dt[:, t] * A[mine]) * h + drive[:, t] * B[:, t, :, None, :]
    return found[::-1]


def surrogate(signals: Signals) -> Moments:
    """Moments of the time-invariant layer with the mean decay, in which drive, B and C are independent white signals."""
    batch, length, groups, states = signals.B.shape
    wide = [x.double() for x in (signals.dt, signals.drive, signals.A, signals.B, signals.C, signals.W)]
    dt, drive, A, B, C, W = wide
    decay = torch.zeros_like(A)
    for x in dt.reshape(-1, len(A)):
        decay = decay + torch.exp(x[:, None] * A) / (batch * length)
    gain = signals.gain(torch.zeros_like(signals.dt), slice(None)).double()
    weight = (W * W).sum(0) * (gain * gain).mean((0, 1)) * (drive * drive).mean((0, 1))
    pairs = torch.clamp(1 - decay[:, :, None] * decay[:, None, :], min=1e-12)
    memory = (weight[:, None, None] / pairs).reshape(groups, -1, *pairs.shape[1:]).sum(1)
    BB, CC = (torch.einsum("btgn,btgm->gnm", x, x) / (batch * length) for x in (B, C))
    H = memory * BB
    mixes = signals.mixes and groups == 1 and states <= _MIXABLE
    products = _host(torch.einsum("nk,ml->nmkl", CC[0], H[0])) if mixes else None
    contributions = _host(torch.block_diag(*(CC * H)))  # type: ignore[no-untyped-call]
    squares = [_host(torch.diagonal(x, dim1=1, dim2=2)) for x in (BB, CC)]
    return Moments(contributions, groups, squares[0], squares[1], products)


def gatherer(read: Callable[[Any], Read], width: Callable[[Any], int]) -> Callable[..., dict[str, Moments]]:
    """The ``gather`` of a :class:`balred.registry.Selective`, for layers that ``read(layer)`` knows how to read."""

    def gather(model: Any, layers: Mapping[str, Any], calibration: Any) -> dict[str, Moments]:
        with torch.no_grad():
            if calibration is None:
                return finite({name: _without_data(name, x, read(x), width(x)) for name, x in layers.items()})
            return _along_data(model, layers, calibration, read)

    return gather


def _along_data(
    model: Any, layers: Mapping[str, Any], calibration: Any, read: Callable[[Any], Read]
) -> dict[str, Moments]:
    if not isinstance(model, nn.Module):
        raise ValueError(f"a model must be a torch.nn.Module to run on calibration data, got {type(model).__name__}")
    sums = {id(layer): Accumulator() for layer in layers.values()}
    counted = dict.fromkeys(sums, 0)

    names = {id(layer): name or "itself" for name, layer in layers.items()}
    faults: list[str] = []

    def see(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        named = [kwargs[k] for k in ("hidden_states", "x", "u", "input") if k in kwargs]
        hidden = next((x for x in (*args, *named) if isinstance(x, torch.Tensor)), None)
        if hidden is None or hidden.ndim != 3:
            got = sorted(kwargs) or [type(x).__name__ for x in args]
            faults.append(
                f"layer {names[id(layer)]} must be called with (batch, length, features), got {', '.join(got)}"
            )
            return
        mask = kwargs.get("attention_mask")
        mask = mask if mask is not None and mask.ndim == 2 else None
        counted[id(layer)] += hidden.shape[1] if mask is None else int(mask[:, -hidden.shape[1] :].count_nonzero())
        own = sums[id(layer)].add(read(layer)(layer, _wide(hidden), mask))
        faults.extend(_differs(names[id(layer)], layer, output, own, mask))

    hooks = [
        layer.register_forward_hook(see, with_kwargs=True, prepend=True)
        for layer in {id(x): x for x in layers.values()}.values()
    ]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        with evaluating(model):
            for args, kwargs in given(model, calibration):
                ran(model, tuple(_to(x, device) for x in args), {k: _to(x, device) for k, x in kwargs.items()})
                if faults:
                    raise ValueError(faults[0])
    finally:
        for hook in hooks:
            hook.remove()
    missed = [name for name, layer in layers.items() if counted[id(layer)] == 0]
    if missed:
        raise ValueError(
            f"the calibration data must run through every selective layer, got none in {', '.join(missed)} (masked tokens do not count)"
        )
    return finite({name: sums[id(layer)].moments() for name, layer in layers.items()})


def _without_data(name: str, layer: Any, read: Read, width: int) -> Moments:
    """The surrogate, of a layer that computes what was read of it wherever it can be run alone."""
    noise = _noise(layer, width)
    signals = read(layer, _wide(noise), None)
    with evaluating(layer):
        try:
            result = layer(noise)
        except Exception:  # some take more than their input, which a model alone can give
            result = None
    if result is not None:
        for fault in _differs(name or "itself", layer, result, Accumulator().add(signals), None):
            raise ValueError(fault)
    return surrogate(signals)


def differing(read: Callable[[Any], Read], width: Callable[[Any], int]) -> Callable[[Any], str | None]:
    """The ``differs`` of a :class:`balred.registry.Selective`, for layers that ``read(layer)`` knows how to read."""

    def differs(layer: Any) -> str | None:
        noise = _noise(layer, width(layer), sequences=1, tokens=6)
        with torch.no_grad(), evaluating(layer):
            try:
                result = layer.forward(noise)
            except Exception:  # some take more than their input
                return None
            return _away(layer, result, Accumulator().add(read(layer)(layer, _wide(noise), None)), None)

    return differs


def _differs(name: str, layer: nn.Module, output: Any, own: torch.Tensor, mask: Any) -> list[str]:
    """What is wrong where a layer's output is not what follows from the signals that were read of it."""
    away = _away(layer, output, own, mask)
    return (
        []
        if away is None
        else [
            f"the output of layer {name} ({type(layer).__name__}) must follow from its weights, as in other layers of its kind, got "
            f"{away}: something else takes part, such as another norm, a hook, a replaced forward, or a state carried over"
        ]
    )


def _away(layer: nn.Module, output: Any, own: torch.Tensor, mask: Any) -> str | None:
    """How far a layer's output is from what follows from the signals; None where it is that."""
    parts = output if isinstance(output, (tuple, list)) else [output]
    found = next((x for x in parts if isinstance(x, torch.Tensor) and x.shape == own.shape), None)
    if found is None:
        return f"no output of the shape that follows, {tuple(own.shape)}"
    counted = torch.ones_like(own[..., :1]) if mask is None else mask[:, -own.shape[1] :, None].to(own.dtype)
    want, got = (x.to(own.dtype) * counted for x in (found, own))
    miss = float((got - want).norm() / want.norm().clamp_min(torch.finfo(want.dtype).tiny))
    kinds = {found.dtype, *(p.dtype for p in layer.parameters() if p.is_floating_point())}
    limit = max(max(torch.finfo(d).eps for d in kinds) ** 0.5, 1e-3 if found.device.type == "cpu" else 2e-2)
    if miss <= limit or not torch.isfinite(own).all():  # moments that are not finite are refused for that
        return None
    return f"an output with a relative difference of {miss:.2g}"


def _noise(layer: nn.Module, width: int, sequences: int = 4, tokens: int = 256) -> torch.Tensor:
    """Standard normal tokens, as a norm with unit weights lets through."""
    like = next(iter(layer.parameters()))
    return torch.randn(sequences, tokens, width, generator=torch.Generator().manual_seed(0), device="cpu").to(
        like.device
    )


def _sketched(W: torch.Tensor) -> torch.Tensor:
    if len(W) <= _OUTPUTS:
        return W
    sketch = torch.randn(_OUTPUTS, len(W), generator=torch.Generator().manual_seed(0), device="cpu") / _OUTPUTS**0.5
    return torch.matmul(sketch.to(W), W)


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _to(x: Any, device: torch.device) -> Any:
    return x.to(device) if isinstance(x, torch.Tensor) else x


def _host(x: torch.Tensor) -> np.ndarray[Any, Any]:
    return np.asarray(x.detach().cpu().numpy(), dtype=np.float64)
