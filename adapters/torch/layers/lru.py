"""The LRU layer for PyTorch: a reference layer whose state dimension ``balred`` can cut."""

from __future__ import annotations

import math

import torch
from array_api_compat import torch as xp
from torch import nn

from balred.layers.lru import lru_initial, lru_output

Tensor = torch.Tensor


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
        """Output sequence of the input sequence `u`, shape (..., L, H), from rest."""
        output: Tensor = lru_output(xp, self, u)
        return output

    def extra_repr(self) -> str:
        """The sizes."""
        return f"features={self.features}, states={self.states}"
