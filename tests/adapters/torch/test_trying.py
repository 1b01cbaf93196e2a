"""Layers that keep their number of states in a number of their own: refused by name before anything is changed."""

from __future__ import annotations

import functools
import types
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from mamba_models import build, tokens  # noqa: E402

import balred  # noqa: E402
from balred.adapters.torch import LRU, InTrainingReducer, resize_on_load  # noqa: E402


class Own(LRU):
    """As a subclass of somebody's."""

    def __init__(self, states: int = 16) -> None:
        super().__init__(3, states, generator=torch.Generator().manual_seed(0))
        self.n = states

    def forward(self, u: Any) -> Any:
        return super().forward(u) + 0 * self.nu_log.reshape(self.n).sum()


class Nested(Own):
    def __init__(self, states: int = 16) -> None:
        super().__init__(states)
        self.helper, self.cfg = torch.nn.Identity(), types.SimpleNamespace(inner={"width": states})
        self.helper.size, self.n = states, 0

    def forward(self, u: Any) -> Any:
        width = self.cfg.inner["width"]
        return (
            LRU.forward(self, u)
            + 0 * self.nu_log.reshape(width).sum()
            + 0 * self.nu_log.reshape(self.helper.size).sum()
        )


class Bound(Own):
    def __init__(self, states: int = 16) -> None:
        super().__init__(states)
        self.shaped = functools.partial(torch.reshape, shape=(states,))

    def forward(self, u: Any) -> Any:
        return LRU.forward(self, u) + 0 * self.shaped(self.nu_log).sum()


class Another(Own):
    """The number is there, and nothing uses it."""

    def forward(self, u: Any) -> Any:
        return LRU.forward(self, u)


NAMED = {Own: "where n would stay 16", Nested: "helper.size", Bound: "shape '.16.' is invalid"}


def reducer(model: Any, **options: Any) -> Any:
    return InTrainingReducer(model, torch.optim.SGD(model.parameters(), lr=0.0), balred.Order(4), (0, 1), 1, **options)


@pytest.mark.parametrize("kind", NAMED)
def test_a_layer_that_would_break_is_refused(kind: Any) -> None:
    model = torch.nn.Sequential(kind(), torch.nn.Linear(3, 1))
    u = torch.randn(2, 9, 3)
    want = model(u)
    small = LRU(3, 4).state_dict()
    resize_on_load(model)
    for cut in (
        lambda: balred.reduce(model, 4),
        lambda: reducer(model),
        lambda: model.load_state_dict(
            {f"0.{n}": x for n, x in small.items()} | {"1.weight": torch.ones(1, 3), "1.bias": torch.ones(1)}
        ),
    ):
        with pytest.raises(ValueError, match=f"a layer must run with another number of states, got .*{NAMED[kind]}"):
            cut()
        assert torch.equal(model(u), want)


def test_a_number_that_nothing_uses_is_no_matter() -> None:
    small = balred.reduce(Another(), 4)
    assert small(torch.ones(1, 5, 3)).shape == (1, 5, 3)


def own_split(self: Any, hidden: Any, *args: Any, **kwargs: Any) -> Any:
    torch.split(self.x_proj.weight, [self.time_step_rank, self.n, self.n])
    return type(self).forward(self, hidden, *args, **kwargs)


def own_scale(self: Any, hidden: Any, *args: Any, **kwargs: Any) -> Any:
    """Runs with any number of states, and computes something else."""
    return type(self).forward(self, hidden, *args, **kwargs) * (self.n / self.A_log.shape[1])


@pytest.mark.parametrize(
    ("forward", "why"),
    [(own_split, "RuntimeError: split_with_sizes"), (own_scale, "an output with a relative difference of 0.5")],
)
def test_a_selective_layer_that_would_break_or_compute_otherwise_is_refused(forward: Any, why: str) -> None:
    model = build("Mamba")
    for layer in model.backbone.layers:
        layer.mixer.n, layer.mixer.forward = 8, types.MethodType(forward, layer.mixer)
    for cut in (
        lambda: balred.reduce(model, 4, calibration=tokens()),
        lambda: reducer(model, calibration=tokens()),
    ):
        with pytest.raises(ValueError, match=f"got {why}.* in MambaMixer, where n would stay 8"):
            cut()
    assert model.backbone.layers[0].mixer.A_log.shape[1] == 8


class Counting(LRU):
    """Remembers in its forward, as layers with a state of their own do."""

    calls = 0

    def forward(self, u: Any) -> Any:
        self.calls += 1
        return super().forward(u) + torch.rand(1) * 0


def test_nothing_is_left_of_trying() -> None:
    layer = Counting(3, 16)
    torch.manual_seed(0)
    want = torch.rand(1)
    torch.manual_seed(0)
    small = balred.reduce(layer, 4)
    assert torch.equal(torch.rand(1), want)
    assert (layer.calls, small.calls) == (0, 0)


class Softplus(LRU):
    """Other poles from the arrays of an LRU: exp(-softplus(nu)) and not exp(-exp(nu))."""

    inside = staticmethod(torch.nn.functional.softplus)

    def forward(self, u: Any) -> Any:
        lam = torch.exp(-self.inside(self.nu_log) + 1j * torch.exp(self.theta_log))
        B = torch.complex(self.B_re, self.B_im) * torch.exp(self.gamma_log)[:, None]
        x, ys = torch.zeros(1, dtype=B.dtype), []
        for v in torch.unbind(torch.tanh(u), -2):  # what surrounds the operator is no matter
            x = lam * x + v.to(B.dtype) @ B.mT
            ys.append((x @ torch.complex(self.C_re, self.C_im).mT).real + self.D * v)
        return torch.nn.functional.gelu(torch.stack(ys, -2)) + u


class Exp(Softplus):
    inside = staticmethod(torch.exp)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("features", "states"), [(1, 2), (5, 12), (12, 5), (3, 40)])
def test_a_layer_that_makes_other_poles_of_its_arrays_is_refused(features: int, states: int, dtype: Any) -> None:
    """The same forward with the poles that the names stand for is cut, whatever surrounds the operator."""
    torch.manual_seed(0)
    balred.reduce(Exp(features, states).to(dtype), states - 1)
    with pytest.raises(
        ValueError, match="must compute what its arrays stand for, got other outputs with an operator that is the same"
    ):
        balred.reduce(Softplus(features, states).to(dtype), states - 1)
