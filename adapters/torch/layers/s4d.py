"""S4D layers as the state-spaces ``s4d.py`` writes them: a file that people copy into their projects, under any name.

They are known by what they hold: a kernel module with the four tensors log_dt (H), log_A_real, A_imag (H, N/2) and C
(H, N/2, 2), and around it a module with that ``kernel`` and D (H).  A learning rate of zero makes them buffers.  What
looks like such a kernel but computes another one is refused, since its own output is compared with what the adapter
read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from balred.adapters.torch.modules import blank_copy, check_complex
from balred.backends.torch import from_numpy
from balred.layers.lru import keep_feedthrough
from balred.layers.s4d import s4d_parameters, s4d_system
from balred.layers.sampled import Host
from balred.registry.entries import register_entry
from balred.registry.kinds import Entry, Rebuild
from balred.systems.arrays import is_concrete, to_numpy
from balred.systems.diagonal_system import DiagonalSystem
from balred.systems.leaves import System

_NAMES = {"C", "log_dt", "log_A_real", "A_imag"}
_SIZES = ("n", "d_state", "N")
"""Attributes in which copies keep the order of a channel, twice the stored states."""
_PROBE = 16


def _is_kernel(module: Any) -> bool:
    tensors = {k: v for k, v in (*module._parameters.items(), *module._buffers.items()) if v is not None}
    if set(tensors) != _NAMES or module._modules:
        return False
    A = tuple(tensors["A_imag"].shape)
    shapes = {"A_imag": A, "log_A_real": A, "log_dt": A[:1], "C": (*A, 2)}
    return len(A) == 2 and all(tensors[name].shape == shape for name, shape in shapes.items())


def _is_layer(module: Any) -> bool:
    kernel, D = dict(module.named_children()).get("kernel"), dict(module.named_parameters(recurse=False)).get("D")
    return isinstance(kernel, nn.Module) and D is not None and _is_kernel(kernel) and D.shape == kernel.log_dt.shape


def adapt_s4d(layer: Any) -> tuple[System, Rebuild]:
    """The convolutions of an S4D layer, D included: a batch of systems, one for each channel, which share one rank."""
    return _adapted(layer, layer.kernel, layer.D, "kernel.")


def adapt_s4d_kernel(kernel: Any) -> tuple[System, Rebuild]:
    """The same for a kernel on its own."""
    return _adapted(kernel, kernel, None, "")


register_entry("torch.nn.modules.module.Module", Entry(adapt_s4d, compares=True), _is_layer)
register_entry("torch.nn.modules.module.Module", Entry(adapt_s4d_kernel, compares=True), _is_kernel)


def _adapted(layer: Any, kernel: Any, D: torch.Tensor | None, prefix: str) -> tuple[System, Rebuild]:
    check_complex(kernel.C)
    step = torch.exp(kernel.log_dt)
    poles = torch.complex(-torch.exp(kernel.log_A_real), kernel.A_imag)
    system = s4d_system(poles, step, _gain(poles, step), torch.view_as_complex(kernel.C), D)
    if is_concrete(kernel.C):
        _check_kernel(kernel, poles * step[:, None], system)

    def own_gain(poles: Host, _: Host) -> Host:
        with torch.no_grad():
            A = torch.complex(-torch.exp(from_numpy(np.log(-poles.real), like=step)), from_numpy(poles.imag, like=step))
            return to_numpy(_gain(A, step)).astype(np.complex128)

    def rebuild(reduced: Any) -> Any:
        keep_feedthrough(reduced, system)
        new = s4d_parameters(reduced, to_numpy(step), own_gain)
        A, C = new["A"], new["C"]
        host = {"log_A_real": np.log(-A.real), "A_imag": A.imag, "C": np.stack([C.real, C.imag], axis=-1)}
        values: dict[str, Any] = {prefix + k: from_numpy(v, like=step) for k, v in host.items()}
        sizes = {k: 2 * A.shape[1] for k in _SIZES if vars(layer).get(k) == 2 * system.states}
        return blank_copy(layer, values | sizes)

    return system, rebuild


def _gain(A: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """The input gain in the kernel's own arithmetic."""
    return (torch.exp(A * step[:, None]) - 1.0) / A


def _check_kernel(kernel: Any, logs: torch.Tensor, system: DiagonalSystem) -> None:
    """That the module computes the kernel that its tensors stand for."""
    with torch.no_grad():
        powers = torch.exp(logs[..., None] * torch.arange(_PROBE, device=logs.device))
        want = 2 * torch.einsum("hn,hnl->hl", system.C[:, 0, :] * system.B[:, :, 0], powers).real
        try:
            got = kernel(_PROBE)
        except Exception as error:
            raise ValueError(
                f"an S4D kernel must return its {_PROBE} first values when called with {_PROBE}, got {error!r}"
            ) from error
        shape = tuple(getattr(got, "shape", ()))
        if shape != tuple(want.shape):
            raise ValueError(f"an S4D kernel must have shape {tuple(want.shape)}, got {shape or type(got).__name__}")
        worst = float((got - want).abs().max() / want.abs().max().clamp_min(torch.finfo(want.dtype).tiny))
        if not worst < 1e-3:
            raise ValueError(
                "a module with the tensors of an S4D kernel must compute 2 Re(C (exp(dt A) - 1) / A exp(dt A l)), "
                f"got one that differs by {worst:.1e} of the largest value"
            )
