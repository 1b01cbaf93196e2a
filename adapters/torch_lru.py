"""The LRU layer for PyTorch: a reference layer whose state dimension ``balred`` can cut."""

from __future__ import annotations

import math

try:
    import torch
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("PyTorch is not installed: pip install 'balred[torch]'") from error
from torch import nn

Tensor = torch.Tensor


def scan(log_poles: Tensor, u: Tensor) -> Tensor:
    r"""All states of :math:`x_k = \lambda \odot x_{k-1} + u_k` from rest, by cyclic reduction.

    The states at odd positions obey the same recurrence with :math:`\lambda^2` over half the length; from them the
    even ones follow at once.  O(L) work in ceil(log2 L) levels, each over all its positions in parallel.

    Parameters
    ----------
    log_poles : Tensor, shape (N,), complex
    u : Tensor, shape (..., L, N), complex

    Returns
    -------
    Tensor, shape (..., L, N)
    """
    length = u.shape[-2]
    if length < 2:
        return u
    poles, half = torch.exp(log_poles), length // 2
    even, odd = u[..., 0::2, :], u[..., 1::2, :]
    x_odd = scan(2 * log_poles, odd + poles * even[..., :half, :])
    later = even[..., 1:, :] + poles * x_odd[..., : even.shape[-2] - 1, :]
    x_even = torch.cat([even[..., :1, :], later], dim=-2)
    pairs = torch.stack([x_even[..., :half, :], x_odd], dim=-2).flatten(-3, -2)
    return pairs if length % 2 == 0 else torch.cat([pairs, x_even[..., half:, :]], dim=-2)


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
        if features < 1 or states < 1:
            raise ValueError(f"features and states must be at least 1, got {features} and {states}")
        if not 0 <= r_min < r_max <= 1:
            raise ValueError(f"r_min and r_max must satisfy 0 <= r_min < r_max <= 1, got {r_min} and {r_max}")

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        u = torch.rand(states, generator=generator).clamp(1e-7, 1 - 1e-7)
        phase = torch.rand(states, generator=generator).clamp_min(1e-7)
        rate = -0.5 * torch.log(u * (r_max**2 - r_min**2) + r_min**2)
        self.nu_log = nn.Parameter(torch.log(rate))
        self.theta_log = nn.Parameter(torch.log(max_phase * phase))
        self.gamma_log = nn.Parameter(0.5 * torch.log(-torch.expm1(-2 * rate)))
        self.B_re = nn.Parameter(normal(states, features) / math.sqrt(2 * features))
        self.B_im = nn.Parameter(normal(states, features) / math.sqrt(2 * features))
        self.C_re = nn.Parameter(normal(features, states) / math.sqrt(states))
        self.C_im = nn.Parameter(normal(features, states) / math.sqrt(states))
        self.D = nn.Parameter(normal(features))

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
        log_poles = torch.complex(-torch.exp(self.nu_log), torch.exp(self.theta_log))
        gain = torch.exp(self.gamma_log)
        drive = torch.complex(u @ (gain[:, None] * self.B_re).mT, u @ (gain[:, None] * self.B_im).mT)
        x = scan(log_poles, drive)
        return x.real @ self.C_re.mT - x.imag @ self.C_im.mT + self.D * u

    def extra_repr(self) -> str:
        """The sizes."""
        return f"features={self.features}, states={self.states}"
