"""The third-party layer ``LRU_pytorch.LRU``, as its package ships it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
lru_pytorch = pytest.importorskip("LRU_pytorch")

import balred  # noqa: E402
from balred.adapters.torch import InTrainingReducer  # noqa: E402
from balred.testing import check_adapter, simulate  # noqa: E402


def layer(inputs: int = 3, outputs: int = 2, states: int = 10) -> Any:
    torch.manual_seed(0)
    return lru_pytorch.LRU(inputs, outputs, states)


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 3), (3, 2), (1, 4)])
def test_check_adapter(inputs: int, outputs: int) -> None:
    check_adapter(layer(inputs, outputs))


def test_the_plain_attribute_shrinks_with_the_parameters() -> None:
    full = layer()
    before = copy.deepcopy(full.state_dict())
    small = balred.reduce(full, 4)
    assert type(small) is lru_pytorch.LRU
    assert small.state.shape == (4,)
    assert small.state.dtype == torch.complex64
    assert {n: tuple(p.shape) for n, p in small.named_parameters()} == {
        "D": (2, 3), "nu_log": (4,), "theta_log": (4,), "gamma_log": (4,), "B": (4, 3), "C": (2, 4),
    }  # fmt: skip
    assert torch.equal(small.D, full.D)
    assert small.D is not full.D
    assert full.state.shape == (10,)
    assert all(torch.equal(before[k], v) for k, v in full.state_dict().items())


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_outputs_are_those_of_the_reduced_system(rank: int) -> None:
    full = layer()
    u = torch.randn(2, 25, 3, generator=torch.Generator().manual_seed(1))
    small = balred.reduce(full, rank)
    want = np.stack([simulate(balred.reduce(balred.adapt(full)[0], rank), x) for x in u.numpy().astype(float)])
    # float32 layer: a thousand times its rounding, relative to the largest output
    assert np.abs(small(u).detach().numpy() - want).max() < 1e-4 * np.abs(want).max()


def test_singular_perturbation_is_refused() -> None:
    with pytest.raises(ValueError, match="method='truncate'"):
        balred.reduce(layer(), 4, method="singular_perturbation")


@pytest.mark.parametrize("moments", ["reset", "carry"])
def test_in_training(moments: str) -> None:
    model = torch.nn.Sequential(layer(2, 3, 12), torch.nn.Linear(3, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    reducer = InTrainingReducer(model, optimizer, balred.Energy(0.9), (0, 4), 2, moments=moments)
    u = torch.randn(2, 6, 2, generator=torch.Generator().manual_seed(1))
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = (model(u) - 1).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        reducer.step()
    states = model[0].nu_log.shape[0]
    assert states < 12
    assert model[0].state.shape == (states,)
    for p in model.parameters():
        for key in ("exp_avg", "exp_avg_sq"):
            assert optimizer.state[p][key].shape == p.shape
            assert optimizer.state[p][key].dtype == p.dtype
    assert losses[-1] < losses[4]
