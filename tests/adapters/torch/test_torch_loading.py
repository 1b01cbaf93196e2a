"""Checkpoints of PyTorch models whose layers have another number of states than the model at hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest

import balred
from balred.registry import AdapterNotFound

torch = pytest.importorskip("torch")
from balred.adapters.torch import LRU, InTrainingReducer, resize_on_load  # noqa: E402


def lru() -> Any:
    return LRU(3, 10, generator=torch.Generator().manual_seed(0))


def s4d() -> Any:
    from s4d_layers import mixer

    return mixer(torch.float32)


def s5(bidir: bool) -> Any:
    pytest.importorskip("s5")
    from s5_pytorch_layers import layer

    return layer(bidir=bidir)


KINDS = {"LRU": lru, "S4D": s4d, "S5, one way": lambda: s5(False), "S5, both ways": lambda: s5(True)}


class Net(torch.nn.Module):
    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.scale, self.layer = torch.nn.Parameter(torch.tensor(1.0)), layer


def same(a: Any, b: Any) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return all(torch.equal(mine[key], theirs[key]) for key in mine | theirs)


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("alone", [False, True], ids=["in a model", "alone"])
def test_a_model_takes_fewer_states_and_more(make: Any, alone: bool) -> None:
    """There and back: every tensor is the stored one, every parameter the object that it was."""
    full = make() if alone else Net(make())
    small, model = balred.reduce(full, 3), copy.deepcopy(full)
    resize_on_load(model)
    kept = list(model.parameters())
    for stored in (small, full):
        model.load_state_dict(stored.state_dict())
        assert same(model, stored)
        assert all(a is b for a, b in zip(kept, model.parameters(), strict=True))


def test_copies_of_a_model_do_the_same() -> None:
    model, small = Net(lru()), Net(balred.reduce(lru(), 3))
    resize_on_load(model)
    average = torch.optim.swa_utils.AveragedModel(model)
    average.load_state_dict(torch.optim.swa_utils.AveragedModel(small).state_dict())
    assert same(average.module, small)
    assert model.layer.states == 10


def test_a_checkpoint_in_pieces() -> None:
    """As large models are saved: no piece holds a whole layer."""
    model, small = Net(lru()), Net(balred.reduce(lru(), 3))
    resize_on_load(model)
    stored = list(small.state_dict().items())
    for piece in (stored[::2], stored[1::2]):
        model.load_state_dict(dict(piece), strict=False)
    assert same(model, small)


def test_what_differs_in_more_than_its_states_is_left_to_pytorch() -> None:
    model, wide = Net(lru()), Net(LRU(4, 5))
    resize_on_load(model)
    before = copy.deepcopy(model)
    with pytest.raises(RuntimeError, match=r"size mismatch for layer.nu_log: .*\[5\].*\[10\]"):
        model.load_state_dict(wide.state_dict())
    assert model.layer.states == before.layer.states == 10


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(AdapterNotFound):
        resize_on_load(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    "order", [["model", "optimizer", "reducer"], ["reducer", "model", "optimizer"], ["optimizer", "reducer", "model"]]
)
def test_a_training_is_loaded_in_any_order(order: list[str]) -> None:
    """Model, reducer and optimizer have the stored state, moments included, whichever comes first."""

    def made() -> dict[str, Any]:
        model = Net(lru())
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        reducer = InTrainingReducer(model, optimizer, balred.Energy(0.9), (0, 2), 1)
        return {"model": model, "optimizer": optimizer, "reducer": reducer}

    def step(parts: dict[str, Any]) -> None:
        parts["optimizer"].zero_grad()
        parts["model"].layer(torch.ones(1, 8, 3)).square().mean().backward()
        parts["optimizer"].step()
        parts["reducer"].step()

    first, second = made(), made()
    for _ in range(3):
        step(first)
    saved = {name: copy.deepcopy(part.state_dict()) for name, part in first.items()}
    for name in order:
        second[name].load_state_dict(copy.deepcopy(saved[name]))
    assert saved["reducer"]["ranks"]["layer"] < 10
    for parts in (first, second):
        step(parts)
    assert second["reducer"].state_dict() == first["reducer"].state_dict()
    assert same(second["model"], first["model"])


@pytest.mark.parametrize("fused", [False, True])
def test_an_optimizer_forgets_what_it_has_of_another_shape(fused: bool) -> None:
    """Its next step would stop, or, fused, go on with moments of other parameters."""
    model, small = (torch.nn.Sequential(LRU(2, states), torch.nn.Linear(2, 1)) for states in (16, 4))
    optimizer = torch.optim.Adam(model.parameters(), fused=fused)

    def step() -> None:
        optimizer.zero_grad()
        model(torch.ones(1, 5, 2)).sum().backward()
        optimizer.step()

    step()
    resize_on_load(model)
    model.load_state_dict(small.state_dict())
    step()
    assert {int(optimizer.state[p]["step"]) for p in model[1].parameters()} == {2}
    assert optimizer.state[model[0].B_re]["exp_avg"].shape == (4, 2)
