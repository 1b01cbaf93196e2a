"""Which state-space layers a checkpoint holds, by the names and shapes of their parameters: there are no modules to ask.

A family of layers is known by one tensor that only it has, and confirmed by the shapes of the others beside it.  What a
checkpoint does not say (a step's rule, the number of groups) is assumed, and the note says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.files.opening import Checkpoint
from balred.files.tensors import Tensor
from balred.layers.lru import lru_system
from balred.layers.s4d import s4d_system
from balred.layers.s5 import s5_system
from balred.layers.sampled import input_gain
from balred.systems.leaves import System

_Group = Mapping[str, Tensor]
"""The tensors of a layer by their names inside it."""


@dataclass(frozen=True)
class Layer:
    """A layer that was recognised: ``read()`` gives its operator (without D, which no truncation changes), if it has one."""

    type: str
    states: int
    read: Callable[[], System] | None = None
    note: str = ""
    name: str = ""


_Recogniser = Callable[[_Group, Mapping[str, Any]], Layer | None]


def find_layers(checkpoint: Checkpoint) -> list[Layer]:
    """The layers of a checkpoint, in the order of their names (numbers by value); none of their values are read."""
    found: dict[str, Layer] = {}
    for prefix, group, recognise in _candidates(checkpoint.tensors):
        layer = recognise(group, checkpoint.config)
        if layer is not None:
            name = _called(prefix, checkpoint.layers)
            found.setdefault(name, replace(layer, name=name))
    return [found[name] for name in sorted(found, key=_natural)]


def _candidates(tensors: _Group) -> Iterator[tuple[str, _Group, _Recogniser]]:
    # no layer has a tensor without numbers, whose shape may then say anything
    tensors = {name: x for name, x in tensors.items() if 0 not in x.shape}
    for name in tensors:
        head, leaf = re.fullmatch(r"(?:(.*)[./])?([^./]*)", name, re.DOTALL).groups()  # type: ignore[union-attr]
        if leaf in FAMILIES:
            start = name[: len(name) - len(leaf)]
            yield head or "", {n[len(start) :]: x for n, x in tensors.items() if n.startswith(start)}, FAMILIES[leaf]


def _called(prefix: str, noted: Mapping[str, Any]) -> str:
    """The name of the layer that the parameters belong to: what was noted, or without the part that only holds them."""
    for name in noted:
        if prefix == name or prefix.startswith(f"{name}.") or not name:
            return name
    return re.sub(r"[./](kernel|seq)$", "", prefix)


def _natural(name: str) -> list[tuple[bool, int, str]]:
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name)]


def _fits(group: _Group, **shapes: tuple[int, ...]) -> bool:
    return all(name in group and group[name].shape == shape for name, shape in shapes.items())


def _numbers(x: Tensor) -> NDArray[Any]:
    values = x.values()
    return values.astype(np.complex128 if values.dtype.kind == "c" else np.float64)


def _shape(x: Tensor | None) -> tuple[int, ...]:
    """The shape of a complex tensor, kept as such or as pairs; () without one."""
    return (
        () if x is None else x.shape if x.dtype.startswith("complex") else x.shape[:-1] if x.shape[-1:] == (2,) else ()
    )


def _complex(x: Tensor) -> NDArray[Any]:
    values = _numbers(x)
    return values if values.dtype.kind == "c" else values[..., 0] + 1j * values[..., 1]


# ------------------------------------------------------------------------------------------ time-invariant layers


def _lru(group: _Group, config: Mapping[str, Any]) -> Layer | None:
    (n,) = states = group["nu_log"].shape if len(group["nu_log"].shape) == 1 else (0,)
    split = "B_re" in group and "C_re" in group
    B, C = (group.get(f"{k}_re" if split else k) for k in "BC")
    shapes = [x.shape if split and x is not None else _shape(x) for x in (B, C)]
    fits = _fits(group, nu_log=states, theta_log=states, gamma_log=states) and [len(s) for s in shapes] == [2, 2]
    if not fits or shapes[0][0] != n or shapes[1][1] != n:
        return None
    if split and not _fits(group, B_im=shapes[0], C_im=shapes[1]):
        return None

    def whole(k: str) -> NDArray[Any]:
        return _numbers(group[f"{k}_re"]) + 1j * _numbers(group[f"{k}_im"]) if split else _complex(group[k])

    def read() -> System:
        nu_log, theta_log, gamma_log = (_numbers(group[k]) for k in ("nu_log", "theta_log", "gamma_log"))
        B, C = whole("B"), whole("C")
        return lru_system(nu_log, theta_log, gamma_log, B, C, np.zeros((len(C), B.shape[1])))

    return Layer("LRU", n, read)


def _s5(group: _Group, config: Mapping[str, Any]) -> Layer | None:
    split = "Lambda" not in group
    states = group["Lambda_re"].shape if split else _shape(group["Lambda"])
    parts = ["C1", "C2"] if "C1" in group else ["C"]
    B, step = _shape(group.get("B")), group.get("log_step")
    outputs = [_shape(group.get(part)) for part in parts]
    if len(states) != 1 or len(B) != 2 or B[0] != states[0] or step is None or step.shape not in (states, (*states, 1)):
        return None
    if split and not _fits(group, Lambda_im=states):
        return None
    if any(len(s) != 2 or s[1] not in (states[0], 2 * states[0]) for s in outputs):
        return None

    def read() -> System:
        poles = _numbers(group["Lambda_re"]) + 1j * _numbers(group["Lambda_im"]) if split else _complex(group["Lambda"])
        steps = np.exp(_numbers(group["log_step"]).reshape(-1))
        C = np.concatenate([_complex(group[part]) for part in parts], axis=1)
        D = np.zeros(len(C))
        return s5_system(poles, steps, input_gain(poles, steps), _complex(group["B"]), C, D, twice=split)

    return Layer("S5", states[0], read, "a zero-order hold is assumed" + " and conjugate pairs are" * split)


def _s4d(group: _Group, config: Mapping[str, Any]) -> Layer | None:
    shape = group["log_A_real"].shape
    if len(shape) != 2 or not _fits(group, A_imag=shape, log_dt=shape[:1]) or _shape(group.get("C")) != shape:
        return None

    def read() -> System:
        poles = -np.exp(_numbers(group["log_A_real"])) + 1j * _numbers(group["A_imag"])
        step = np.exp(_numbers(group["log_dt"]))
        return s4d_system(poles, step, input_gain(poles, step[:, None]), _complex(group["C"]), None)

    return Layer("S4D", shape[1], read)


# ------------------------------------------------------------------------------- layers that need more than numbers


def _s4(group: _Group, config: Mapping[str, Any]) -> Layer | None:
    A = group.get("A_imag")
    if A is None or len(A.shape) != 2 or "B" not in group or "C" not in group:
        return None
    return Layer("S4", A.shape[1], note="ranks need the module, which knows the step's rule")


def _linoss(group: _Group, config: Mapping[str, Any]) -> Layer | None:
    shape = group["A_diag"].shape
    if len(shape) != 1 or not _fits(group, steps=shape) or _shape(group.get("B"))[:1] != shape:
        return None
    return Layer("LinOSS", shape[0], note="oscillators, which keep or lose both of their states")


_SELECTIVE = "selective: ranks need data, balred.plan(model, rule, calibration=data)"
_GROUPS = ("n_groups", "mamba_n_groups", "mamba_ngroups", "ngroups")


def _mamba(group: _Group, config: Mapping[str, Any]) -> Layer | None:
    shape = group["A_log"].shape
    if len(shape) == 2 and "x_proj.weight" in group and "dt_proj.weight" in group and group["dt_proj.weight"].shape:
        channels, states = shape
        rank = group["dt_proj.weight"].shape[-1]
        fits = _fits(group, **{"x_proj.weight": (rank + 2 * states, channels)})
        return Layer("Mamba-1", states, note=_SELECTIVE) if fits else None
    if len(shape) == 3 and "x_proj_weight" in group:  # heads of their own, as Zamba has them
        return Layer("Mamba-1", shape[2], note=_SELECTIVE)
    wanted = ("in_proj.weight", "conv1d.weight", "out_proj.weight", "dt_bias")
    if len(shape) != 1 or any(name not in group for name in wanted):
        return None
    if any(not group[name].shape for name in wanted):
        return None
    channels, width = group["out_proj.weight"].shape[-1], group["conv1d.weight"].shape[0]
    groups, guess = next(
        ((config[k], "") for k in _GROUPS if isinstance(config.get(k), int)), (1, "; one group assumed")
    )
    rows = channels + width + shape[0]
    if group["in_proj.weight"].shape[0] != rows or groups < 1 or (width - channels) % (2 * groups) or width <= channels:
        return None
    return Layer("Mamba-2", (width - channels) // (2 * groups), note=_SELECTIVE + guess)


_KEY_HEADS = "linear_num_key_heads"


def _delta(group: _Group, config: Mapping[str, Any]) -> Layer | None:
    """Gated DeltaNet: as many columns as the output projection has are values, the rest of what is convolved queries and keys."""
    heads = group["A_log"].shape
    rows = {
        name.removesuffix(".weight"): x.shape[0] for name, x in group.items() if name.endswith(".weight") and x.shape
    }
    out = next((group[name].shape for name in ("out_proj.weight", "o_proj.weight") if name in group), ())
    norm = next((rows[name] for name in ("norm", "out_norm", "o_norm") if name in rows), 0)
    if len(heads) != 1 or len(out) != 2 or norm * heads[0] != out[1] or not _fits(group, dt_bias=heads):
        return None
    n, values = heads[0], out[1]
    conv = rows.get("conv1d", sum(rows.get(f"{name}_conv1d", 0) for name in "qkv"))
    keys = (conv - values) // 2
    layouts: list[dict[str, int]] = [
        {"in_proj_qkvz": conv + values, "in_proj_ba": 2 * n},
        {"in_proj_qkv": conv, "in_proj_z": values, "in_proj_b": n, "in_proj_a": n},
        {"in_proj": conv + values + 2 * n},
        {"q_proj": keys, "k_proj": keys, "v_proj": values, "b_proj": n, "a_proj": n},
    ]
    if keys < 1 or conv != 2 * keys + values or not any(layout.items() <= rows.items() for layout in layouts):
        return None
    said = _said(config, _KEY_HEADS)
    count = gcd(keys, n) if said is None else said
    if count < 1 or keys % count or n % count:
        return None
    guess = "" if said is not None else f"; {count} heads of keys assumed"
    return Layer("Gated DeltaNet", keys // count, note=_SELECTIVE + guess)


def _said(config: Mapping[str, Any], name: str) -> int | None:
    """The number that a configuration, or one inside it, has under a name that nothing else has."""
    if type(config.get(name)) is int:
        return int(config[name])
    inside = (_said(x, name) for x in config.values() if isinstance(x, Mapping))
    return next((x for x in inside if x is not None), None)


FAMILIES: dict[str, _Recogniser] = {
    "nu_log": _lru,
    "Lambda": _s5,
    "Lambda_re": _s5,
    "log_A_real": _s4d,
    "inv_dt": _s4,
    "A_diag": _linoss,
    "A_log": lambda group, config: _mamba(group, config) or _delta(group, config),
}
"""By the tensor that gives a family away."""
