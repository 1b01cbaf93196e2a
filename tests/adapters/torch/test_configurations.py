"""One number of states in a configuration, and layers of two kinds that are made from it."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch")
mambapy = pytest.importorskip("mambapy.mamba")

import balred  # noqa: E402
from balred.adapters.torch import LRU, ConfigurationWarning, InTrainingReducer  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::balred.reduction.SkippedWarning")
X = torch.randn(4, 12, 16, generator=torch.Generator().manual_seed(1))


@dataclasses.dataclass
class Config:
    d_state: int = 8
    own: int = 8


class Hybrid(torch.nn.Module):
    """A Mamba and an LRU layer of one configuration."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config = config
        self.ssm = mambapy.MambaBlock(mambapy.MambaConfig(d_model=16, n_layers=1, d_state=config.d_state))
        self.lru = LRU(16, config.d_state)

    def forward(self, x: Any) -> Any:
        return self.lru(x + self.ssm(x))


def takes(small: Any) -> bool:
    """Whether a model made anew from the configuration takes the weights."""
    try:
        Hybrid(small.config).load_state_dict(small.state_dict())
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("ranks", [{"ssm": 4}, {"lru": 4}, {"ssm": 4, "lru": 6}], ids=str)
def test_a_configuration_that_cannot_hold_both_is_told(ranks: dict[str, int]) -> None:
    with pytest.warns(ConfigurationWarning, match=r"^config.d_state holds one number of states, 8 before .* lru with "):
        small = balred.reduce(Hybrid(Config()), ranks, calibration=X)
    assert not takes(small)


@pytest.mark.parametrize("ranks", [4, {"ssm": 4, "lru": 4}], ids=str)
def test_one_rank_for_both_is_held(ranks: Any) -> None:
    small = balred.reduce(Hybrid(Config()), ranks, calibration=X)  # a warning would be an error
    assert takes(small)
    assert (small.config.d_state, small.config.own) == (4, 8)


def test_a_layer_of_another_size_is_not_meant() -> None:
    model = Hybrid(Config())
    model.lru = LRU(16, 12)
    assert balred.reduce(model, {"ssm": 4}, calibration=X).config.d_state == 4


def test_where_there_are_several_numbers_each_kind_has_its_own() -> None:
    model = Hybrid(Config())
    model.config = {"ssm": Config(), "lru": Config(12)}
    assert balred.reduce(model, {"ssm": 4}, calibration=X).config == {"ssm": Config(4), "lru": Config(12)}


@pytest.mark.full
@pytest.mark.parametrize("rule", [balred.Order(4), balred.Budget(states=11)], ids=str)
def test_in_training(rule: Any) -> None:
    model = Hybrid(Config())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    reducer = InTrainingReducer(model, optimizer, rule, (0, 1), 1, calibration=X, min_cut=0.0)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        report = reducer.step()
    ranks = report.ranks
    assert len({*ranks.values()}) == (1 if isinstance(rule, balred.Order) else 2)
    assert [w.category for w in told if w.category is ConfigurationWarning] == [ConfigurationWarning] * (
        len({*ranks.values()}) - 1
    )
    assert takes(model) == (not told)
