"""Layers of s5-pytorch, and what they compute."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
s5 = pytest.importorskip("s5")
from balred.testing import simulate  # noqa: E402


def layer(width: int = 3, states: int = 10, bidir: bool = False, **kw: Any) -> Any:
    torch.manual_seed(0)
    full = s5.S5(width, state_width=states, bidir=bidir, dt_min=0.02, dt_max=0.2, **kw)
    with torch.no_grad():
        full.seq.D.mul_(0.1)  # so that the states are what the outputs are made of
    return full


def expected(system: Any, u: Any, width: int) -> Any:
    """The layer's output from its system in double precision: the second half of the outputs runs backwards."""
    forward = simulate(system, u)
    if forward.shape[1] == width:
        return forward
    backward = simulate(system, u[::-1])[::-1]
    return (forward[:, :width] + backward[:, width:]) / 2**0.5
