"""S4D layers as people copy them: the layout of the state-spaces ``s4d.py``, written from its description."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import balred  # noqa: E402
from balred.testing import simulate  # noqa: E402

nn = torch.nn


class DiagonalConvolution(nn.Module):
    """K_l = 2 Re sum_n C_n (exp(dt A_n) - 1) / A_n exp(dt A_n l), for each channel."""

    def __init__(self, channels: int, order: int, lr: float | None = None) -> None:
        super().__init__()
        half = order // 2
        self.C = nn.Parameter(torch.randn(channels, half, 2))
        self.keep("log_dt", torch.log(torch.empty(channels).uniform_(0.01, 0.1)), lr)
        self.keep("log_A_real", torch.full((channels, half), 0.5).log(), lr)
        self.keep("A_imag", torch.pi * torch.arange(half).repeat(channels, 1).float(), lr)

    def keep(self, name: str, value: Any, lr: float | None) -> None:
        if lr == 0:
            self.register_buffer(name, value)
            return
        self.register_parameter(name, nn.Parameter(value))
        getattr(self, name)._optim = {"weight_decay": 0.0} | ({} if lr is None else {"lr": lr})

    def forward(self, length: int) -> Any:
        A = torch.complex(-self.log_A_real.exp(), self.A_imag)
        dtA = A * self.log_dt.exp()[:, None]
        C = torch.view_as_complex(self.C) * (torch.exp(dtA) - 1.0) / A
        powers = torch.exp(dtA[..., None] * torch.arange(length))
        return 2 * torch.einsum("hn,hnl->hl", C, powers).real


class Mixer(nn.Module):
    """The convolution, the skip D, and what S4D has around them."""

    def __init__(self, channels: int = 3, d_state: int = 16, lr: float | None = None) -> None:
        super().__init__()
        self.h, self.n = channels, d_state
        self.D = nn.Parameter(torch.randn(channels))
        self.kernel = DiagonalConvolution(channels, d_state, lr)
        self.out = nn.Sequential(nn.GELU(), nn.Conv1d(channels, 2 * channels, 1), nn.GLU(dim=-2))

    def convolve(self, u: Any) -> Any:  # (batch, channels, length)
        length = u.shape[-1]
        k = torch.fft.rfft(self.kernel(length), n=2 * length)
        y = torch.fft.irfft(torch.fft.rfft(u, n=2 * length) * k, n=2 * length)[..., :length]
        return y + self.D[:, None] * u

    def forward(self, u: Any) -> tuple[Any, None]:
        return self.out(self.convolve(u)), None


def mixer(dtype: Any = None, **kw: Any) -> Any:
    torch.manual_seed(0)
    return Mixer(**kw).to(dtype or torch.float64)


def channels(system: Any, u: Any) -> Any:
    """Output (channels, length) of the batch of systems on `u` of that shape, by the plain recurrence."""
    parts = [
        balred.diagonal(log_poles=l, B=B, C=C, D=D, dt=True, conjugate=True)
        for l, B, C, D in zip(*(x.detach().numpy() for x in (*system.leaves, system.D)), strict=True)
    ]
    return np.stack([simulate(part, x[:, None])[:, 0] for part, x in zip(parts, u, strict=True)])


def output(layer: Any, u: Any) -> Any:
    with torch.no_grad():
        return layer.convolve(torch.tensor(u, dtype=layer.D.dtype)[None])[0].numpy()
