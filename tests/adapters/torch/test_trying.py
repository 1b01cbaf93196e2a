"""Layers that keep their number of states in a number of their own: refused by name before anything is changed."""

from __future__ import annotations

import copy
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


def pre_norm(layer: Any, u: Any, forward: Any) -> Any:
    return forward(torch.nn.functional.layer_norm(u, u.shape[-1:]))


def post_norm(layer: Any, u: Any, forward: Any) -> Any:
    return torch.nn.functional.layer_norm(forward(u) - layer.D * u, u.shape[-1:])


def zero_at_first(layer: Any, u: Any, forward: Any) -> Any:
    return u + layer.more * forward(u)


def without_sign(layer: Any, u: Any, forward: Any) -> Any:
    return (forward(u) - layer.D * u).abs()


def choice(layer: Any, u: Any, forward: Any) -> Any:
    return forward(u).argmax(-1)


def longer_inside(layer: Any, u: Any, forward: Any) -> Any:
    return forward(torch.cat([torch.ones(*u.shape[:-2], 16, u.shape[-1]), u], -2))[..., 16:, :]


def wrapped(base: Any, around: Any) -> Any:
    class Wrapped(base):
        def __init__(self) -> None:
            super().__init__(6, 12, generator=torch.Generator().manual_seed(0))
            self.more = torch.nn.Parameter(torch.zeros(6))

        def forward(self, u: Any) -> Any:
            return around(self, u, super().forward)

    return Wrapped()


HIDING = [pre_norm, post_norm, zero_at_first, without_sign, choice, longer_inside]


@pytest.mark.parametrize("base", [LRU, Exp])
@pytest.mark.parametrize("around", HIDING)
def test_what_hides_an_operator_is_no_contradiction(around: Any, base: Any) -> None:
    """Each of these changes nothing of the poles: a cut is what it is without it."""
    layer = wrapped(base, around)
    small = balred.reduce(layer, 6)
    assert (small.nu_log.shape, small.more.shape) == ((6,), (6,))
    assert torch.equal(layer.more, torch.zeros(6))


@pytest.mark.parametrize("around", [pre_norm, post_norm, without_sign, longer_inside])
def test_nor_do_they_hide_other_poles(around: Any) -> None:
    with pytest.raises(ValueError, match="got other outputs with an operator that is the same"):
        balred.reduce(wrapped(Softplus, around), 6)


class Narrow(Softplus):
    """In single precision, with less inside."""

    @staticmethod
    def inside(nu_log: Any) -> Any:
        return torch.exp(nu_log).to(torch.bfloat16).float()


@pytest.mark.parametrize("states", [2, 12, 40])
def test_narrow_arithmetic_inside_is_no_contradiction(states: int) -> None:
    balred.reduce(Narrow(6, states), states - 1)


class OneKernel(LRU):
    """Computes with what it made of its arrays in its first run."""

    def forward(self, u: Any) -> Any:
        if not hasattr(self, "kept"):
            self.kept = [copy.deepcopy(self).requires_grad_(requires_grad=False)]
        return LRU.forward(self.kept[0], u)


@pytest.mark.parametrize("around", [pre_norm, post_norm])
def test_nor_do_they_hide_a_kernel_that_is_kept(around: Any) -> None:
    layer = wrapped(OneKernel, around)
    balred.reduce(layer, 6)
    layer(torch.ones(1, 5, 6))
    with pytest.raises(
        ValueError, match="the same outputs with other arrays: it keeps what it computed from the old ones"
    ):
        balred.reduce(layer, 6)
