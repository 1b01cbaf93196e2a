"""The S5 layers of the package s5-pytorch, uni- and bidirectional: ``s5.S5`` and the ``S5SSM`` inside it.

The layer runs one way along its states and, if bidirectional, the same states the other way; either is written back
exactly, since every reduced pole is a sample of a continuous one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from balred.adapters.torch.modules import blank_copy, check_complex
from balred.backends.torch import from_numpy
from balred.layers.lru import keep_feedthrough, scale_ratio
from balred.layers.s5 import s5_parameters, s5_system
from balred.layers.sampled import Host
from balred.registry.entries import register
from balred.registry.kinds import Rebuild
from balred.systems.arrays import to_numpy
from balred.systems.leaves import System

_NAMES = ("Lambda", "B", "C", "D", "log_step")


@register("s5.s5_model.S5", accounts=["seq"])
def adapt_s5(layer: Any) -> tuple[System, Rebuild]:
    """The system of ``layer.seq``, which holds all of the layer's parameters."""
    return _adapted(layer, layer.seq, "seq.")


@register("s5.s5_model.S5SSM", accounts=_NAMES)
def adapt_s5_ssm(layer: Any) -> tuple[System, Rebuild]:
    """The conjugate system of an S5 layer; see :func:`balred.layers.s5.s5_system` for bidirectional ones."""
    return _adapted(layer, layer, "")


def _adapted(layer: Any, ssm: Any, prefix: str) -> tuple[System, Rebuild]:
    if ssm.liquid:
        raise ValueError("an S5 layer must be time-invariant, got a liquid one, whose poles move with its input")
    if ssm.degree != 1:
        raise ValueError(
            f"an S5 layer must have degree 1, got {ssm.degree}: the package takes other degrees only with as many states as features"
        )
    rule = "bilinear" if ssm.discretize.__name__ == "discretize_bilinear" else "zoh"

    def own_gain(poles: Host, steps: Host) -> Host:
        with torch.no_grad():
            written = from_numpy(poles, like=ssm.D), torch.exp(from_numpy(np.log(steps), like=ssm.D))
            return to_numpy(_gain(ssm, *written)).astype(np.complex128)

    check_complex(ssm.B)
    B, C, step = torch.view_as_complex(ssm.B), ssm.C, torch.exp(ssm.log_step)
    system = s5_system(ssm.Lambda, step, _gain(ssm, ssm.Lambda, step), B, C, ssm.D, rule=rule)

    def rebuild(reduced: Any) -> Any:
        keep_feedthrough(reduced, system)
        values = s5_parameters(
            reduced, float(np.exp(to_numpy(ssm.log_step).mean())), scale_ratio(to_numpy(B), to_numpy(system.C)),
            bidirectional=ssm.bidir, rule=rule, gain=own_gain,
        )  # fmt: skip
        values["B"] = np.stack([values["B"].real, values["B"].imag], axis=-1)
        return blank_copy(layer, {prefix + k: from_numpy(v, like=ssm.D) for k, v in values.items()})

    return system, rebuild


def _gain(ssm: Any, poles: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    gain: torch.Tensor = ssm.discretize(poles, torch.ones_like(poles)[:, None], step)[1]
    return gain[:, 0]
