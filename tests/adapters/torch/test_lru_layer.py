"""The LRU layer for PyTorch, however it computes: the paper's recurrence, its gradients, other precisions, compiled."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from balred.adapters.torch import LRU  # noqa: E402
from balred.layers.recurrence import chunk_of  # noqa: E402

SHAPES = [
    (16, 64, 67, (4, 4)),
    (16, 256, 64, (16,)),
    (8, 24, 1000, (2,)),
    (40, 3, 20, (2,)),
    (3, 5, 1, ()),
    (1, 1, 40, ()),
]
"""Features, states, length and leading axes: in chunks, with and without a rest, and by the scan."""


def lru(features: int, states: int, dtype: Any = torch.float64, **kw: Any) -> Any:
    return LRU(features, states, generator=torch.Generator().manual_seed(0), **kw).to(dtype)


def signal(*shape: int, dtype: Any = torch.float64) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def recurrence(layer: Any, u: Any) -> Any:
    """The paper's recurrence, as it is written down."""
    poles = torch.exp(torch.complex(-torch.exp(layer.nu_log), torch.exp(layer.theta_log)))
    B, C = torch.complex(layer.B_re, layer.B_im), torch.complex(layer.C_re, layer.C_im)
    x, y = torch.zeros((*u.shape[:-2], layer.states), dtype=B.dtype), []
    for step in torch.unbind(u, -2):
        x = poles * x + torch.exp(layer.gamma_log) * (step.to(B.dtype) @ B.T)
        y.append((x @ C.T).real + layer.D * step)
    return torch.stack(y, -2)


def derivatives(function: Any, layer: Any, u: Any, weights: Any) -> list[Any]:
    u = u.clone().requires_grad_()
    wanted = [*layer.parameters(), u]
    return list(torch.autograd.grad((function(u) * weights).sum(), wanted, allow_unused=True, materialize_grads=True))


def test_the_shapes_meet_every_form() -> None:
    sizes = [chunk_of(h, n, length) for h, n, length, _ in SHAPES]
    assert 0 in sizes
    assert len({size for size in sizes if size}) > 1


@pytest.mark.parametrize(("features", "states", "length", "lead"), SHAPES)
@pytest.mark.parametrize("ring", [(0.0, 1.0), (0.98, 0.999)])
def test_outputs_and_gradients_are_the_recurrences(
    features: int, states: int, length: int, lead: tuple[int, ...], ring: tuple[float, float]
) -> None:
    layer, u = lru(features, states, r_min=ring[0], r_max=ring[1]), signal(*lead, length, features)
    want = recurrence(layer, u)
    torch.testing.assert_close(layer(u), want, rtol=0, atol=1e-12 * float(want.detach().abs().max()))
    weights = torch.cos(torch.arange(float(want.numel()), dtype=want.dtype)).reshape(want.shape)
    got = derivatives(layer, layer, u, weights)
    for mine, theirs in zip(got, derivatives(lambda u: recurrence(layer, u), layer, u, weights), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-11 * float(theirs.abs().max() + 1))


def test_second_derivatives_and_transforms() -> None:
    layer, u = lru(2, 24), signal(64, 32, 2)
    assert chunk_of(2, 24, 32) > 0
    torch.testing.assert_close(torch.func.vmap(layer)(u), layer(u), rtol=0, atol=1e-12)
    few = lru(1, 2)
    assert chunk_of(1, 2, 8) > 0
    assert torch.autograd.gradgradcheck(few, signal(4, 8, 1).requires_grad_())


def test_under_autocast_the_layer_computes_in_float32() -> None:
    """As exact as outside, where bfloat16 would have 2^-8; an input of half precision gets an output of its own."""
    layer, u = lru(16, 64, torch.float32, r_min=0.9, r_max=0.999), signal(16, 64, 16, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, short = layer(u), layer(u.bfloat16())
    assert torch.equal(got, layer(u))
    assert short.dtype == torch.bfloat16
    torch.testing.assert_close(short, layer(u.bfloat16().float()).bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_layer_of_half_precision_computes_in_float32(dtype: Any) -> None:
    layer, u = lru(16, 64, dtype), signal(16, 64, 16, dtype=dtype)
    wide = copy.deepcopy(layer).float()
    assert torch.equal(layer(u), wide(u.float()).to(dtype))


def test_on_the_meta_device() -> None:
    layer = lru(16, 64, torch.float32).to("meta")
    assert layer(torch.empty(16, 64, 16, device="meta")).shape == (16, 64, 16)


@pytest.mark.full
@pytest.mark.parametrize("shape", [(16, 64, 67, 16), (40, 3, 20, 2)])
@pytest.mark.parametrize("dynamic", [False, None])
def test_compiled(shape: tuple[int, ...], dynamic: bool | None) -> None:
    """In one graph, and the same for a second length, which may be compiled with a length that varies."""
    features, states, length, rows = shape
    layer = lru(features, states, torch.float32)
    run = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for more in (0, 5):
        u = signal(rows, length + more, features, dtype=torch.float32)
        got, want = derivatives(run, layer, u, torch.ones(())), derivatives(layer, layer, u, torch.ones(()))
        for mine, theirs in zip(got, want, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
    torch.compiler.reset()
