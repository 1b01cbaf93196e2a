"""A residual block of Mamba-1 for the studies: mambapy's layer, with a scan that is quick on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

try:
    from mambapy.mamba import MambaBlock, MambaConfig
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("mambapy is not installed: pip install mambapy") from error


class SelectiveScan(torch.autograd.Function):
    r"""``y_t = C_t h_t`` of ``h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t``, one step after the other.

    Time and memory are proportional to length, channels and states.  A step is an operation on (batch, channels, states), so
    on a CPU its overhead does not matter; on a GPU it would, there use the kernels of mamba_ssm.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dt: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor) -> Any:
        """`x`, `dt` (L, batch, channels), `A` (channels, states), `B`, `C` (L, batch, states); y like `x`."""
        decay = torch.exp(dt[..., None] * A)
        h, drive = torch.empty_like(decay), dt * x
        for t in range(len(x)):
            if t:
                torch.mul(decay[t], h[t - 1], out=h[t])
            else:
                h[t].zero_()
            h[t].addcmul_(drive[t, :, :, None], B[t, :, None, :])
        ctx.save_for_backward(x, dt, A, B, C, decay, h)
        return (h @ C[..., None]).squeeze(-1)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """The adjoint recurrence, backwards in time."""
        (dy,) = gradients
        x, dt, A, B, C, decay, h = ctx.saved_tensors
        g = torch.empty_like(h)
        for t in reversed(range(len(x))):
            torch.mul(dy[t, :, :, None], C[t, :, None, :], out=g[t])
            if t + 1 < len(x):
                g[t].addcmul_(decay[t + 1], g[t + 1])
        dC = (dy[:, :, None, :] @ h).squeeze(2)
        drive = dt * x
        ddrive, dB = (g @ B[..., None]).squeeze(-1), (drive[:, :, None, :] @ g).squeeze(2)
        g[0].zero_()
        g[1:].mul_(h[:-1]).mul_(decay[1:])  # of the exponent now
        ddt = (g * A).sum(-1) + ddrive * x
        return ddrive * dt, ddt, (g * dt[..., None]).sum((0, 1)), dB, dC


class Mixer(MambaBlock):  # type: ignore[misc]  # mambapy has no types
    """mambapy's Mamba with :class:`SelectiveScan` in place of its scan, which keeps a dozen copies of all states."""

    def selective_scan(
        self, x: torch.Tensor, dt: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor, D: torch.Tensor
    ) -> torch.Tensor:
        """Output (batch, L, channels); the arguments as in mambapy."""
        first = [v.transpose(0, 1).contiguous() for v in (x, dt, B, C)]
        y: torch.Tensor = SelectiveScan.apply(first[0], first[1], A, *first[2:])  # type: ignore[no-untyped-call]
        return y.transpose(0, 1) + D * x


class MambaResidual(nn.Module):
    """``x + Mamba(LayerNorm(x))`` with so many states."""

    def __init__(self, width: int, states: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mixer = Mixer(MambaConfig(d_model=width, n_layers=1, d_state=states))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Output sequence of the input sequence `x`, shape (batch, L, width)."""
        return x + self.dropout(self.mixer(self.norm(x)))  # type: ignore[no-any-return]
