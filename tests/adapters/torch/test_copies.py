"""Averages of which a reducer was not told: each way in which people keep one is named before the cut; what is none is not.

The stand-ins keep what the packages document: timm's ``ModelEmaV2`` a module, latent diffusion's ``LitEma`` buffers with names without
dots, diffusers' ``EMAModel`` a list, others a dict whose tensors are made anew.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import balred  # noqa: E402
from balred.adapters.torch import LRU, AverageWarning, InTrainingReducer  # noqa: E402


def model_of(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(1, 4), LRU(4, 16), torch.nn.Linear(4, 1))


def near(several: Any, model: Any) -> None:
    """One step of an average."""
    for mine, theirs in zip(several, model.parameters(), strict=True):
        mine.data.mul_(0.9).add_(theirs.data, alpha=0.1)


class Wrapped(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.module = copy.deepcopy(model)

    def update(self, model: Any) -> None:
        near(self.module.parameters(), model)


class Buffers(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        for name, p in model.named_parameters():
            self.register_buffer(name.replace(".", ""), p.detach().clone())

    def update(self, model: Any) -> None:
        near(self.buffers(), model)


class Listed:
    def __init__(self, model: Any) -> None:
        self.shadow = [p.detach().clone() for p in model.parameters()]

    def update(self, model: Any) -> None:
        near(self.shadow, model)


class Named:
    def __init__(self, model: Any) -> None:
        self.shadow = {n: p.detach().clone() for n, p in model.named_parameters()}

    def update(self, model: Any) -> None:
        self.shadow = {n: 0.9 * self.shadow[n] + 0.1 * p.detach() for n, p in model.named_parameters()}


class Later:
    """``AveragedModel`` as it is for stochastic weight averaging: made at the start, updated at the end."""

    def __init__(self, model: Any) -> None:
        self.average = torch.optim.swa_utils.AveragedModel(model)

    def update(self, model: Any) -> None:
        pass


class Kept(Later):
    """A teacher, which stays as it is."""

    def __init__(self, model: Any) -> None:
        self.teacher = copy.deepcopy(model)


class Twin:
    """A model from the same start that is trained too."""

    def __init__(self, model: Any) -> None:
        self.model = copy.deepcopy(model)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-2)

    def update(self, model: Any) -> None:
        self.optimizer.zero_grad()
        self.model(torch.ones(1, 8, 1)).square().mean().backward()
        self.optimizer.step()


class Other(Later):
    """A model from another start, of the same shapes."""

    def __init__(self, model: Any) -> None:
        self.model = model_of(seed=1)

    def update(self, model: Any) -> None:
        near(self.model.parameters(), self.model)


class Whole(torch.nn.Module):
    """A model that has its target network inside."""

    def __init__(self) -> None:
        super().__init__()
        self.online = model_of()
        self.target = copy.deepcopy(self.online).requires_grad_(False)

    def forward(self, u: Any) -> Any:
        return self.online(u)


def train(model: Any, update: Callable[[], None], steps: int = 3, **options: Any) -> list[str]:
    """What a training with a cut at its third step warns of."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    reducer = InTrainingReducer(model, optimizer, balred.Order(4), window=(0, 3), attempts=1, **options)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", AverageWarning)
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.ones(2, 8, 1)).square().mean().backward()
            optimizer.step()
            update()
            report = reducer.step()
    assert report is not None
    assert report.cuts[0].after == 4
    return [str(w.message) for w in told if w.category is AverageWarning]


@pytest.mark.parametrize(
    ("made", "where"),
    [
        (Wrapped, "a Wrapped, as module.1."),
        (Buffers, "a Buffers, as 1"),
        (Listed, "a list, a dict"),
        (Named, "a list, a dict"),
        (Later, "a AveragedModel, as module.1."),
    ],
)
def test_an_average_is_named_once_before_it_breaks(made: Any, where: str) -> None:
    model = model_of()
    average = made(model)
    (told,) = train(model, lambda: average.update(model))
    assert (
        f"averages of the weights must be passed as averages= to follow a cut, got copies of the weights of 1 in {where}"
        in told
    )


def test_an_average_of_what_began_as_zeros_is_named() -> None:
    model = model_of()
    model[1].C_im.data.zero_()
    average = Wrapped(model)
    assert "1 in a Wrapped, as module.1." in train(model, lambda: average.update(model))[0]


@pytest.mark.parametrize("made", [Kept, Twin, Other])
def test_what_is_no_average_is_not_named(made: Any) -> None:
    model = model_of()
    other = made(model)
    assert train(model, lambda: other.update(model)) == []


def test_an_average_that_follows_is_not_named() -> None:
    model = model_of()
    average = Wrapped(model)
    assert train(model, lambda: average.update(model), averages=[average]) == []
    assert average.module[1].states == 4


def test_weights_that_are_kept_are_not_named() -> None:
    """The weights so far, and those just before the cut, are models to compare with."""
    model, kept = model_of(), list[Any]()
    assert train(model, lambda: kept.append(copy.deepcopy(model.state_dict()))) == []
    model = model_of(seed=1)
    assert train(model, lambda: kept.__setitem__(slice(None), [copy.deepcopy(model.state_dict())])) == []


def test_a_target_network_in_the_model_is_named() -> None:
    """It is cut by itself, to other states than those that it averages."""
    model = Whole()
    (told,) = train(model, lambda: near(model.target.parameters(), model.online))
    assert "online.1 in a Whole, as target.1." in told


def test_averages_without_a_copy_of_the_model_are_refused() -> None:
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    with pytest.raises(ValueError, match="must be a module that holds a copy of the model, a Sequential, got Listed"):
        InTrainingReducer(model, optimizer, balred.Order(4), window=(0, 3), averages=[Listed(model)])


def test_conjugates_of_the_shapes_of_the_weights_are_looked_at() -> None:
    """A view that PyTorch conjugates when it is read, of a size that is a layer's, and kept by somebody."""
    model = model_of()
    kept = torch.zeros(16, dtype=torch.complex64).conj()
    reducer = InTrainingReducer(model, torch.optim.SGD(model.parameters(), lr=0.0), balred.Order(4), (0, 1), attempts=1)
    assert reducer.step().ranks == {"1": 4}
    assert kept.is_conj()
