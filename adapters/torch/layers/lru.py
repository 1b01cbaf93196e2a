"""The LRU layer for PyTorch: a reference layer whose state dimension ``balred`` can cut."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
from array_api_compat import torch as xp
from torch import nn

from balred.adapters.torch.modules import blank_copy
from balred.backends.torch import from_numpy
from balred.layers.lru import keep_feedthrough, lru_parameters, lru_split, lru_system, scale_ratio
from balred.layers.lru_carry import lru_carry_split
from balred.layers.recurrence import lru_initial, lru_output
from balred.registry.entries import register
from balred.systems.arrays import to_numpy
from balred.systems.leaves import System

Tensor = torch.Tensor


NAMES = ("nu_log", "theta_log", "gamma_log", "B_re", "B_im", "C_re", "C_im", "D")


class LRU(nn.Module):
    r"""Linear recurrent unit, :math:`x_k = \lambda x_{k-1} + e^\gamma Bu_k`, :math:`y_k = \mathrm{Re}(Cx_k) + D \odot u_k`.

    Parameters
    ----------
    features : int
        Width H of input and output.
    states : int
        Stored complex states N.
    r_min, r_max : float, default 0 and 1
        Moduli of the initial poles, uniform on the ring.
    max_phase : float, default 2 pi
        Largest initial angle.
    generator : torch.Generator, optional
        For a reproducible initialisation.

    Notes
    -----
    :math:`\lambda = \exp(-e^{\nu} + ie^{\theta})` (Orvieto et al. 2023, arXiv 2303.06349, section 3).  Input and
    output have shape (..., L, H).

    Examples
    --------
    >>> import torch, balred
    >>> layer = LRU(features=4, states=16)
    >>> balred.reduce(layer, 8)
    LRU(features=4, states=8)
    """

    nu_log: Tensor
    theta_log: Tensor
    gamma_log: Tensor
    B_re: Tensor
    B_im: Tensor
    C_re: Tensor
    C_im: Tensor
    D: Tensor

    def __init__(
        self,
        features: int,
        states: int,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 2 * math.pi,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        values = lru_initial(
            features,
            states,
            r_min,
            r_max,
            max_phase,
            uniform=lambda n: torch.rand(n, generator=generator),
            normal=lambda *shape: torch.randn(*shape, generator=generator),
        )
        for name, value in values.items():
            self.register_parameter(name, nn.Parameter(value))

    @property
    def features(self) -> int:
        """Width H of input and output."""
        return int(self.D.shape[0])

    @property
    def states(self) -> int:
        """Stored complex states N."""
        return int(self.nu_log.shape[0])

    def forward(self, u: Tensor) -> Tensor:
        """Output sequence of the input sequence `u`, shape (..., L, H), from rest; under autocast in float32."""
        kind = u.device.type
        whole = torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
        with whole:  # powers of poles near the unit circle do not survive bfloat16
            output: Tensor = lru_output(xp, self, u)
        return output

    def extra_repr(self) -> str:
        """The sizes."""
        return f"features={self.features}, states={self.states}"


@register(LRU, carry=lru_carry_split, accounts=NAMES)
def adapt_lru(layer: LRU) -> tuple[System, Any]:
    """The conjugate system of an LRU layer, and the way back."""
    half = layer.D.dtype in (torch.bfloat16, torch.float16)  # which have no complex numbers
    p = {name: x.float() if half else x for name, x in layer.named_parameters(remove_duplicate=False)}
    B, C = torch.complex(p["B_re"], p["B_im"]), torch.complex(p["C_re"], p["C_im"])
    system = lru_system(p["nu_log"], p["theta_log"], p["gamma_log"], B, C, torch.diag(p["D"]))

    def rebuild(reduced: Any) -> LRU:
        values = lru_split(lru_parameters(reduced, scale_ratio(to_numpy(B), to_numpy(C))))
        keep_feedthrough(reduced, system)
        result: LRU = blank_copy(layer, {k: from_numpy(v, like=p["D"]) for k, v in values.items()})
        return result

    return system, rebuild
