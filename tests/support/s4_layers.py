"""S4 layers as people copy them: the layout of the state-spaces ``s4.py``, written from its description."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from plants import legs

torch = pytest.importorskip("torch")
import balred  # noqa: E402
from balred.testing import simulate  # noqa: E402

nn = torch.nn


POSITIVE = {
    "none": (lambda x: x, lambda y: y),
    "exp": (torch.exp, torch.log),
    "relu": (lambda x: torch.relu(x) + 1e-4, lambda y: y - 1e-4),
    "sigmoid": (torch.sigmoid, torch.logit),
    "softplus": (nn.functional.softplus, lambda y: torch.log(torch.expm1(y))),
}
"""Ways to make positive numbers out of parameters, and back."""


class Sums(nn.Module):
    """K_l = 2 Re sum_n C_n g_n B_n pole_n^l for c outputs of each of H channels; copy h mod S of A and B for channel h."""

    def __init__(
        self, channels: int, order: int, *, outputs: int = 1, copies: int | None = None, disc: str = "zoh",
        transforms: tuple[str, str, str] = ("exp", "none", "exp"), tied: bool = True, dt_fast: bool = False,
        bandlimit: float | None = None, l_max: int | None = None, lr: float | None = None, **init: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        half, copies = order // 2, copies or channels
        self.N, self.l_max, self.disc, self.dt_fast, self.bandlimit = half, l_max, disc, dt_fast, bandlimit
        self.real_transform, self.imag_transform, self.dt_transform = transforms
        A, B = self.start(copies, half)
        step = torch.empty(channels, 1 if tied else half).uniform_(0.01, 0.1)
        step = POSITIVE[self.dt_transform][1](step)
        self.keep("inv_dt", torch.asinh(step) if dt_fast else step, lr)
        self.keep("A_real", POSITIVE[self.real_transform][1](-A.real), lr)
        self.keep("A_imag", POSITIVE[self.imag_transform][1](-A.imag), lr)
        self.keep("B", torch.view_as_real(B)[None].contiguous(), lr)
        self.keep("C", torch.randn(outputs, channels, half, 2), None)

    def start(self, copies: int, half: int) -> Any:
        imag = torch.pi * (torch.arange(half) + 0.01) * (1 + torch.rand(copies, 1))
        return torch.complex(torch.full_like(imag, -0.5), -imag), torch.randn(copies, half, dtype=torch.complex64)

    def keep(self, name: str, value: Any, lr: float | None) -> None:
        if lr == 0:
            self.register_buffer(name, value)
            return
        self.register_parameter(name, nn.Parameter(value))
        getattr(self, name)._optim = {"weight_decay": 0.0} | ({} if lr is None else {"lr": lr})

    def values(self) -> tuple[Any, ...]:
        times = self.C.shape[1] // self.A_real.shape[0]
        real, imag, step = (POSITIVE[f][0] for f in (self.real_transform, self.imag_transform, self.dt_transform))
        A = -torch.complex(real(self.A_real), imag(self.A_imag)).repeat(times, 1)
        dt = step(torch.sinh(self.inv_dt) if self.dt_fast else self.inv_dt)
        C = torch.view_as_complex(self.C)
        if self.bandlimit is not None:
            C = C * (dt * A.imag.abs() / (2 * torch.pi) < self.bandlimit / 2)
        return A, dt, torch.view_as_complex(self.B).repeat(1, times, 1), C

    def forward(self, L: int, state: Any = None, rate: float = 1.0) -> tuple[Any, None]:
        A, dt, B, C = self.values()
        x = A * dt
        if self.disc == "bilinear":
            pole, C = (1 + x / 2) / (1 - x / 2), 2 * C * B * dt / (1 - x / 2)
        else:
            pole, C = x.exp(), 2 * C * B * (x.exp() - 1) / A
        if self.disc == "dss":  # each state is normalised by its sum over the length, with a small number against 1 / 0
            x = A * (torch.exp(x * L) - 1)
            C = C / 2 * A * x.conj() / (x * x.conj() + 1e-7)
        powers = torch.exp(pole.log()[..., None] * torch.arange(L))
        return torch.einsum("chn,hnl->chl", C, powers).real, None


class LowRank(Sums):
    """The state matrix diag(A) - P P^*, sampled by the bilinear rule; C is made to see l_kernel values only."""

    def __init__(self, channels: int, order: int, *, rank: int = 1, lr: float | None = None, **kw: Any) -> None:
        super().__init__(channels, order, lr=lr, **kw)
        copies = self.A_real.shape[0]
        P = torch.tensor(legs(order)[1], dtype=torch.complex64).repeat(rank, copies, 1) / rank**0.5
        self.keep("P", torch.view_as_real(P + 0.1 * torch.randn_like(P)), lr)
        self.register_buffer("l_kernel", torch.tensor(0))

    def start(self, copies: int, half: int) -> Any:
        A, _, B = (torch.tensor(x, dtype=torch.complex64).repeat(copies, 1) for x in legs(2 * half))
        return A, B

    def recurrence(self) -> tuple[Any, Any]:
        A, dt, B, _ = self.values()
        P = torch.view_as_complex(self.P).repeat(1, len(A) // self.A_real.shape[0], 1)
        A, B, P = (torch.cat([x, x.conj()], -1) for x in (A, B[0], P))
        dt = dt if dt.shape[1] == 1 else torch.cat([dt, dt], -1)
        half = dt[..., None] / 2 * (torch.diag_embed(A) - torch.einsum("rhn,rhm->hnm", P, P.conj()))
        eye = torch.eye(A.shape[1])
        return torch.linalg.solve(eye - half, eye + half), torch.linalg.solve(eye - half, (dt * B)[..., None])[..., 0]

    def forward(self, state: Any = None, rate: float = 1.0, L: int | None = None) -> tuple[Any, None]:
        A, B = self.recurrence()
        C = torch.view_as_complex(self.C)
        with torch.no_grad():  # the parameter itself changes
            if int(self.l_kernel) == 0 and (self.l_max or L):
                self.see(A, self.l_max or L, -1.0)
                self.l_kernel = self.l_kernel + (self.l_max or L)
            while L is not None and int(self.l_kernel) < L:
                self.see(A, int(self.l_kernel), 1.0)
                self.l_kernel = 2 * self.l_kernel
        seen = int(self.l_kernel)
        C = torch.view_as_complex(self.C)
        C = torch.cat([C, C.conj()], -1)
        eye = torch.eye(A.shape[-1], dtype=A.dtype)
        C = torch.linalg.solve((eye - torch.linalg.matrix_power(A, seen)).mT, C.movedim(0, -1)).movedim(-1, 0)
        rows = []
        for _ in range(L or seen):
            rows.append(torch.einsum("chn,hn->ch", C, B).real)
            B = torch.einsum("hnm,hm->hn", A, B)
        return torch.stack(rows, -1), None

    def see(self, A: Any, length: int, sign: float) -> None:
        C = torch.view_as_complex(self.C)
        C = torch.cat([C, C.conj()], -1)
        C = C + sign * torch.einsum("chn,hnm->chm", C, torch.linalg.matrix_power(A, length))
        self.C.copy_(torch.view_as_real(C[..., : self.A_real.shape[1]].contiguous()))


class Convolution(nn.Module):
    """The convolution and the skip D, one way or both."""

    def __init__(
        self, channels: int = 3, order: int = 16, *, kind: Any = Sums, heads: int = 1, bidirectional: bool = False, **kw: Any
    ) -> None:  # fmt: skip
        super().__init__()
        self.bidirectional = bidirectional
        self.D = nn.Parameter(torch.randn(heads, channels))
        self.kernel = kind(channels, order, outputs=heads * (1 + bidirectional), **kw)

    def forward(self, u: Any) -> Any:  # (batch, channels, length)
        length = u.shape[-1]
        k = self.kernel(L=length)[0]
        if self.bidirectional:  # backwards from the next value on
            ahead, back = k.chunk(2)
            k = nn.functional.pad(ahead, (0, length)) + nn.functional.pad(back.flip(-1), (length, 0))
        y = torch.fft.rfft(k, n=2 * length) * torch.fft.rfft(u, n=2 * length)[:, None]
        y = torch.fft.irfft(y, n=2 * length)[..., :length] + self.D[..., None] * u[:, None]
        return y.flatten(1, 2)


def conv(double: bool = True, **kw: Any) -> Any:
    torch.manual_seed(0)
    layer = Convolution(**kw)
    return layer.double() if double else layer


U = np.random.default_rng(0).standard_normal((4, 50))


def output(layer: Any, u: Any = U) -> Any:
    """(c, H, length), on a copy, since kernels with low-rank terms change when they are called."""
    u = torch.tensor(u[: layer.D.shape[1]], dtype=layer.D.dtype)
    with torch.no_grad():
        return copy.deepcopy(layer)(u[None])[0].reshape(*layer.D.shape, -1).numpy()


def sampled(system: Any, layer: Any) -> Any:
    """Members (H) of the batch as discrete systems with the outputs of one channel: (logs, B, C (c), D (c))."""
    logs, B, C, D = (x.detach().numpy() for x in (*system.leaves, system.D))
    (outputs, H), S = layer.kernel.C.shape[:2], len(logs)
    step = layer.kernel.values()[1].detach().numpy()
    for h in range(H):
        rows = [o * (H // S) + h // S for o in range(outputs)]
        l, b = logs[h % S], B[h % S]
        if not system.discrete:
            if layer.kernel.disc == "bilinear" or hasattr(layer.kernel, "P"):
                gain = step[h] / (1 - step[h] * l / 2)
                l, b = np.log((1 + step[h] * l / 2) / (1 - step[h] * l / 2)), b * gain[:, None]
            else:
                l, b = step[h] * l, b * (np.expm1(step[h] * l) / l)[:, None]
        yield balred.diagonal(log_poles=l, B=b, C=C[h % S][rows], D=D[h % S][rows], dt=True, conjugate=True)


def applied(system: Any, layer: Any, u: Any = U) -> Any:
    """What a layer that holds `system` puts out, by the plain recurrence of each channel."""
    found = []
    for one, x in zip(sampled(system, layer), u, strict=False):
        y = simulate(one, x[:, None]).T
        if layer.bidirectional:
            ahead, back = y[: len(y) // 2], simulate(one, x[::-1, None]).T[len(y) // 2 :, ::-1]
            y = (ahead + np.pad(back[:, 1:], ((0, 0), (0, 1)))) / 2**0.5
        found.append(y)
    return np.stack(found, axis=1)
