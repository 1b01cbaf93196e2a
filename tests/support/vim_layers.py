"""Two-way Mamba layers: mambapy's, and one with the names of Vim's authors, whose scan is a loop."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

WIDTH, STATES, LENGTH = 16, 8, 24


def model(layers: int = 1, **config: Any) -> Any:
    """Of mambapy, with poles and projections for each way that differ."""
    package = pytest.importorskip("mambapy.vim")
    torch.manual_seed(0)
    made = package.VMamba(package.MambaConfig(d_model=WIDTH, n_layers=layers, d_state=STATES, **config)).eval()
    return _apart(made)


def mixer(**config: Any) -> Any:
    return model(**config).layers[0].mixer


def _apart(made: Any) -> Any:
    with torch.no_grad():
        for name, p in made.named_parameters():
            if name.rpartition(".")[2] in ("A_log", "A_log_b", "A_b_log"):
                p.normal_()
            elif "x_proj" in name:
                p.normal_(std=0.4)
    return made


def noise(seed: int = 1) -> Any:
    return torch.randn(2, LENGTH, WIDTH, generator=torch.Generator().manual_seed(seed))


def output(layer: Any, x: Any) -> Any:
    with torch.no_grad():
        return layer(x).numpy()


def silenced(layer: Any, kept: Any) -> Any:
    """A copy of the layer in which C reads the kept states of each way, (2, rank), and zero from the others."""
    layer = copy.deepcopy(layer)
    for way, own in zip((layer.x_proj, layer.x_proj_b), kept, strict=True):
        rows = way.weight[-STATES:]
        read = torch.zeros(STATES, 1).index_fill_(0, torch.tensor(list(own), dtype=torch.long), 1.0)
        with torch.no_grad():
            rows.mul_(read)
    return layer


class Authors(nn.Module):
    """By the parameters that Vim's authors use."""

    def __init__(self, halves: bool) -> None:
        super().__init__()
        inner, rank = 2 * WIDTH, 2
        self.d_state, self.if_divide_out = STATES, halves
        self.in_proj, self.out_proj = nn.Linear(WIDTH, 2 * inner, bias=False), nn.Linear(inner, WIDTH, bias=False)
        self.A_log, self.A_b_log = (nn.Parameter(torch.zeros(inner, STATES)) for _ in range(2))
        for end in ("", "_b"):
            setattr(self, f"conv1d{end}", nn.Conv1d(inner, inner, 4, groups=inner, padding=3))
            setattr(self, f"x_proj{end}", nn.Linear(inner, rank + 2 * STATES, bias=False))
            setattr(self, f"dt_proj{end}", nn.Linear(rank, inner))
            setattr(self, f"D{end}", nn.Parameter(torch.ones(inner)))

    def forward(self, hidden_states: Any) -> Any:
        xz = self.in_proj(hidden_states)
        y = self._way(xz, self.A_log, "") + self._way(xz.flip(1), self.A_b_log, "_b").flip(1)
        return self.out_proj(y / 2 if self.if_divide_out else y)

    def _way(self, xz: Any, A_log: Any, end: str) -> Any:
        conv, x_proj, dt_proj, D = (getattr(self, f"{part}{end}") for part in ("conv1d", "x_proj", "dt_proj", "D"))
        x, z = xz.chunk(2, dim=-1)
        x = F.silu(conv(x.mT)[..., : x.shape[1]].mT)
        n = A_log.shape[1]
        dt, B, C = x_proj(x).split([dt_proj.in_features, n, n], dim=-1)
        dt = F.softplus(dt_proj(dt))
        h, ys = torch.zeros(len(x), *A_log.shape, dtype=x.dtype), []
        for t in range(x.shape[1]):
            h = torch.exp(-dt[:, t, :, None] * A_log.exp()) * h + (dt * x)[:, t, :, None] * B[:, t, None]
            ys.append((h * C[:, t, None]).sum(-1))
        return (torch.stack(ys, 1) + D * x) * F.silu(z)


def authors(halves: bool = True) -> Any:
    torch.manual_seed(0)
    return _apart(Authors(halves)).eval()
