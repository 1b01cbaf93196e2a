"""Mamba-2 layers in flax nnx, the layout of mamba2-jax (and of bonsai, where it comes from): read, and shrunk by selection.

B and C belong to one group and pass a convolution and an activation, so states are selected only.  While data run through a
copy of the model, what enters the layers is seen by modules put in their places.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.errors import TraceContextError

from balred.adapters.stacks import leading_axes
from balred.backends.jax import double_scope
from balred.registry.entries import register_selective
from balred.registry.kinds import Selective
from balred.selection.calibration import batches, ran
from balred.selection.moments import Moments, Selection, finite, first, stack_of
from balred.systems.arrays import to_numpy

_OUTPUTS = 256  # beyond these a random sketch of the outputs, whose squared norms are unbiased, is as good


def is_mamba2(module: Any) -> bool:
    """Whether a module has the parameters of the layout, or of a stack of such modules, whatever its class."""
    return _axes(module) is not None


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
    channels = int(layer.out_proj.kernel.shape[-2])
    return channels, (int(layer.conv1d.conv.kernel.shape[-1]) - channels) // 2


def _states(layer: Any) -> int:
    return _sizes(layer)[1]


def _members(layer: Any) -> list[Any]:
    """The layers in a stack; of one layer itself."""
    axes = _axes(layer) or ()
    if not axes:
        return [layer]
    definition, state = nnx.split(layer)
    for path, x in nnx.to_flat_state(state):
        if tuple(x.shape[: len(axes)]) != axes:
            raise ValueError(
                f"everything in a stack of layers must lie along its leading axes of {axes}, got {'.'.join(map(str, path))} of {x.shape}"
            )

    def one(i: tuple[int, ...]) -> Any:
        return nnx.merge(definition, jax.tree.map(lambda x: x[i], state))

    return [one(i) for i in np.ndindex(axes)]


def _behind(layers: list[Any], axes: tuple[int, ...]) -> Any:
    """A stack of layers with these leading axes."""
    if not axes:
        return layers[0]
    definition = nnx.graphdef(layers[0])
    states = [nnx.state(layer) for layer in layers]
    return nnx.merge(definition, jax.tree.map(lambda *x: jnp.stack(x).reshape(*axes, *x[0].shape), *states))


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
    """A layer that notes what enters it; ``nnx.vmap`` and ``nnx.scan`` give the notes of a stack its leading axes."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.seen: Any = nnx.Intermediate(())

    def __call__(self, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
        self.seen = nnx.Intermediate((*self.seen.get_value(), hidden_states))
        return self.layer(hidden_states, *args, **kwargs)

    def taken(self) -> tuple[Any, ...]:
        """What entered since this was asked for, each with the axes of the stack first."""
        found, self.seen = self.seen.get_value(), nnx.Intermediate(())
        return tuple(found)


def _gather(model: Any, layers: Mapping[str, Any], calibration: Any) -> dict[str, Moments]:
    members = {name: _members(layer) for name, layer in layers.items()}
    if calibration is None:
        return finite({name: _together([_surrogate(one) for one in several]) for name, several in members.items()})
    sums = {name: [_Accumulator() for _ in several] for name, several in members.items()}
    watched = nnx.clone(model)
    watched.eval()
    nodes = {".".join(map(str, path)): node for path, node in nnx.iter_graph(watched) if isinstance(node, nnx.Module)}
    seen = {name: _Seen(nodes[name]) for name in layers}
    by_id = {id(one.layer): one for one in seen.values()}
    for parent in nodes.values():
        for key, value in list(vars(parent).items()):
            if id(value) in by_id:
                setattr(parent, key, by_id[id(value)])
    watched = by_id.get(id(watched), watched)
    for args, kwargs in batches(calibration, (jax.Array, np.ndarray)):
        try:
            ran(watched, args, kwargs)
        except ValueError as error:
            if isinstance(error.__cause__, TraceContextError):
                raise ValueError(
                    f"calibration data must run through the model outside of jit, got a traced {' or '.join(layers)}"
                ) from error
            raise
        for name, one in seen.items():
            for hidden in one.taken():
                _add(sums[name], members[name], hidden)
    missed = [name for name, found in sums.items() if found[0].tokens == 0]
    if missed:
        raise ValueError(
            f"the calibration data must run through every selective layer, got none in {', '.join(missed)}; layers in a stack are "
            "seen in nnx.vmap and nnx.scan"
        )
    return finite({name: _together([one.moments() for one in found]) for name, found in sums.items()})


def _add(sums: list[_Accumulator], members: list[Any], hidden: Any) -> None:
    apart = hidden.reshape(len(members), *hidden.shape[-3:])
    for one, member, entered in zip(sums, members, apart, strict=True):
        one.add(_signals(member, entered))


def _together(moments: list[Moments]) -> Moments:
    return stack_of(moments) if len(moments) > 1 else moments[0]


# ------------------------------------------------------------------------------------------------ writing back


def _blank(layer: Any, states: int) -> Any:
    return _cut(layer, first(states, _states(layer), groups=math.prod(_axes(layer) or ())))


def _cut(layer: Any, selection: Selection, moments: Moments | None = None) -> Any:
    """A stack member by member."""
    several = _members(layer)
    done = [_cut_one(one, selection.of_member(i, len(several))) for i, one in enumerate(several)]
    return _behind(done, _axes(layer) or ())


def _cut_one(layer: Any, selection: Selection) -> Any:
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
