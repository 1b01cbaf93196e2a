"""Mamba-2 layers in flax nnx, the layout of mamba2-jax (and of bonsai, where it comes from): read, and shrunk by selection.

B and C belong to one group and pass a convolution and an activation, so states are selected only.  While data run through a
copy of the model, what enters the layers is seen by modules put in their places.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from balred.adapters.stacks import leading_axes
from balred.backends.jax import double_scope
from balred.registry.entries import register, register_selective
from balred.registry.kinds import Selective
from balred.selection.calibration import batches, ran
from balred.selection.moments import Moments, Selection, finite, first
from balred.systems.arrays import to_numpy

_OUTPUTS = 256  # beyond these a random sketch of the outputs, whose squared norms are unbiased, is as good


def is_mamba2(module: Any) -> bool:
    """Whether a module has the parameters of the layout, whatever its class."""
    return _axes(module) == ()


def _axes(module: Any) -> tuple[int, ...] | None:
    """The leading axes of a stack of such modules, () for one; None for others."""
    arrays = {part: _kernel(getattr(module, part, None)) for part in ("in_proj", "conv1d", "out_proj")}
    arrays |= {name: getattr(module, name, None) for name in ("A_log", "dt_bias")}
    return None if any(x is None for x in arrays.values()) else leading_axes(arrays, _is_one)


def _is_one(arrays: Mapping[str, Any]) -> bool:
    into, conv, out, heads = (arrays[name].shape for name in ("in_proj", "conv1d", "out_proj", "A_log"))
    if (len(into), len(conv), len(out), len(heads)) != (2, 3, 2, 1):
        return False
    extra = conv[-1] - out[0]
    return bool(extra > 0 and extra % 2 == 0 and into[1] == out[0] + conv[-1] + heads[0])


def _kernel(module: Any) -> Any:
    return getattr(getattr(module, "conv", module), "kernel", None)


def _sizes(layer: Any) -> tuple[int, int]:
    """Channels and states."""
    channels = int(layer.out_proj.kernel.shape[0])
    return channels, (int(layer.conv1d.conv.kernel.shape[-1]) - channels) // 2


def _states(layer: Any) -> int:
    return _sizes(layer)[1]


# ------------------------------------------------------------------------------------------------ moments


class _Signals(NamedTuple):
    """``h_t = decay_t h_{t-1} + drive_t B_t``, ``y_t = C_t h_t``; the output is W of gated and normed ``y + skip``."""

    decay: Any  # (batch, length, channels), as are drive, skip and gate
    drive: Any
    skip: Any
    gate: Any
    B: Any  # (batch, length, states), as is C
    C: Any
    W: Any  # (outputs, channels), with the norm's weight in it
    eps: float


def _signals(layer: Any, hidden: Any) -> _Signals:
    channels, states = _sizes(layer)
    heads = layer.A_log.shape[0]
    z, xBC, dt = jnp.split(layer.in_proj(hidden), [channels, 2 * channels + 2 * states], axis=-1)
    xBC = layer.act(layer.conv1d(xBC)[0])
    x, B, C = jnp.split(xBC, [channels, channels + states], axis=-1)
    dt = jnp.clip(jax.nn.softplus(dt + layer.dt_bias[...]), layer.dt_min, layer.dt_max)

    def wide(value: Any) -> Any:
        return jnp.repeat(value, channels // heads, axis=-1)

    W = layer.out_proj.kernel[...].T * layer.norm.weight[...]
    if len(W) > _OUTPUTS:
        W = jax.random.normal(jax.random.key(0), (_OUTPUTS, len(W)), W.dtype) / _OUTPUTS**0.5 @ W
    return _Signals(
        decay=wide(jnp.exp(-dt * jnp.exp(layer.A_log[...]))),
        drive=wide(dt) * x,
        skip=wide(layer.D[...]) * x,
        gate=jax.nn.silu(z),
        B=B,
        C=C,
        W=W,
        eps=float(layer.norm.eps),
    )


def _gain(s: Any, y: Any) -> Any:
    """Gate and gated norm, the norm's divisor frozen at what it is."""
    signal = (y + s.skip) * s.gate
    return s.gate * jax.lax.rsqrt(jnp.mean(signal * signal, axis=-1, keepdims=True) + s.eps)


@jax.jit
def _contributions(s: _Signals) -> Any:
    """Second moments of the states' contributions, summed over tokens and outputs, (states, states)."""

    def step(carry: Any, tokens: dict[str, Any]) -> Any:
        (h, total), now = carry, s._replace(**tokens)
        h = now.decay[..., None] * h + now.drive[..., None] * now.B[:, None]
        gain = _gain(now, jnp.einsum("bcn,bn->bc", h, now.C))
        parts = jnp.einsum("oc,bcn->bon", s.W, gain[..., None] * h) * now.C[:, None]
        parts = parts.reshape(-1, parts.shape[-1]).astype(total.dtype)
        return (h, total + parts.T @ parts), None

    states = s.B.shape[-1]
    start = jnp.zeros((*s.drive[:, 0].shape, states), s.B.dtype), jnp.zeros((states, states), float)
    by_token = {name: jnp.moveaxis(getattr(s, name), 1, 0) for name in ("decay", "drive", "skip", "gate", "B", "C")}
    return jax.lax.scan(step, start, by_token)[0][1]


class _Accumulator:
    """Sums over all batches."""

    def __init__(self) -> None:
        self.contributions: Any = 0.0
        self.B: Any = 0.0
        self.C: Any = 0.0
        self.tokens = 0

    def add(self, s: _Signals) -> None:
        with double_scope():  # sums are float64, signals stay what they are
            self.contributions = self.contributions + to_numpy(_contributions(s))
        B, C = (to_numpy(x).astype(np.float64) for x in (s.B, s.C))
        self.B, self.C = self.B + (B * B).sum((0, 1)), self.C + (C * C).sum((0, 1))
        self.tokens += B.shape[0] * B.shape[1]

    def moments(self) -> Moments:
        B, C = self.B[None] / self.tokens, self.C[None] / self.tokens
        return Moments(self.contributions, 1, B, C, tokens=self.tokens)


def _surrogate(layer: Any) -> Moments:
    """Moments of the time-invariant layer with the mean decay, in which drive, B and C are independent white signals."""
    noise = jax.random.normal(jax.random.key(0), (4, 256, layer.in_proj.kernel.shape[0]))
    s = _signals(layer, noise)
    gain = to_numpy(_gain(s, jnp.zeros_like(s.drive))).astype(np.float64)
    decay, drive, B, C, W = (to_numpy(x).astype(np.float64) for x in (s.decay, s.drive, s.B, s.C, s.W))
    power = (W**2).sum(0) * (gain**2).mean((0, 1)) * (drive**2).mean((0, 1))
    memory = np.sum(power / np.maximum(1 - decay.mean((0, 1)) ** 2, 1e-12))
    BB, CC = (np.einsum("btn,btm->nm", x, x) / (x.shape[0] * x.shape[1]) for x in (B, C))
    return Moments(memory * BB * CC, 1, np.diag(BB)[None], np.diag(CC)[None])


class _Seen(nnx.Module):
    """A layer that tells what enters it."""

    def __init__(self, layer: Any, see: Callable[[Any], None]) -> None:
        self.layer, self.see = layer, see

    def __call__(self, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
        self.see(hidden_states)
        return self.layer(hidden_states, *args, **kwargs)


def _gather(model: Any, layers: Mapping[str, Any], calibration: Any) -> dict[str, Moments]:
    if calibration is None:
        return finite({name: _surrogate(layer) for name, layer in layers.items()})
    sums = {name: _Accumulator() for name in layers}

    def seeing(name: str) -> Callable[[Any], None]:
        def see(hidden: Any) -> None:
            if isinstance(hidden, jax.core.Tracer):
                raise ValueError(f"calibration data must run through the model outside of jit, got a traced {name}")
            sums[name].add(_signals(layers[name], hidden))

        return see

    watched = nnx.clone(model)
    watched.eval()
    nodes = {".".join(map(str, path)): node for path, node in nnx.iter_graph(watched) if isinstance(node, nnx.Module)}
    seen = {id(nodes[name]): _Seen(nodes[name], seeing(name)) for name in layers}
    for parent in nodes.values():
        for key, value in list(vars(parent).items()):
            if id(value) in seen:
                setattr(parent, key, seen[id(value)])
    watched = seen.get(id(watched), watched)
    for args, kwargs in batches(calibration, (jax.Array, np.ndarray)):
        ran(watched, args, kwargs)
    missed = [name for name, found in sums.items() if found.tokens == 0]
    if missed:
        raise ValueError(
            f"the calibration data must run through every selective layer, got none in {', '.join(missed)}"
        )
    return finite({name: found.moments() for name, found in sums.items()})


# ------------------------------------------------------------------------------------------------ writing back


def _blank(layer: Any, states: int) -> Any:
    return _cut(layer, first(states, _states(layer)))


def _cut(layer: Any, selection: Selection, moments: Moments | None = None) -> Any:
    channels, states = _sizes(layer)
    kept = selection.kept[0]
    conv = np.concatenate([np.arange(channels), channels + kept, channels + states + kept])
    last = 2 * channels + 2 * states
    into = np.concatenate([np.arange(channels), channels + conv, np.arange(last, last + layer.A_log.shape[0])])
    new = nnx.clone(layer)
    for module, index in ((new.in_proj, into), (new.conv1d.conv, conv)):
        for name in ("kernel", "bias"):
            value = getattr(module, name)
            if value is not None:
                setattr(module, name, value.replace(value[...][..., index]))
        module.out_features = len(index)
    inner = new.conv1d.conv
    inner.in_features = inner.feature_group_count = len(conv)
    inner.kernel_shape = inner.kernel.shape
    new.conv1d.features = len(conv)
    new.ssm_state_size = len(kept)
    new.cfg = dataclasses.replace(layer.cfg, state_size=len(kept))
    return new


def _resize_model(model: Any, layer: Any, before: int) -> None:
    """Write the layer's state dimension into every configuration of its kind in the (new) model."""
    for _, node in nnx.iter_graph(model):
        cfg: Any = getattr(node, "cfg", None) if isinstance(node, nnx.Module) else None
        if type(cfg) is type(layer.cfg) and cfg.state_size == before:
            node.cfg = dataclasses.replace(cfg, state_size=_states(layer))


_selective = Selective(_states, _gather, _cut, _blank)
register_selective("flax.nnx.module.Module", _selective, recognises=is_mamba2, resize_model=_resize_model)


@register("flax.nnx.module.Module", recognises=lambda module: bool(_axes(module)))
def adapt_stacked(module: Any) -> Any:
    """Refused: the signals of layers in a scan or under ``vmap`` are not seen."""
    raise ValueError(
        "states of Mamba-2 layers are selected in one layer at a time, got several along leading axes of "
        f"{_axes(module)}, as nnx.vmap and nnx.scan stack them: reduce a model whose layers are apart"
    )
