"""One number of states in a configuration, and layers of two kinds that are made from it."""

from __future__ import annotations

import dataclasses
import types
import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch")
mambapy = pytest.importorskip("mambapy.mamba")

import balred  # noqa: E402
from balred.adapters.torch import LRU, ConfigurationWarning, InTrainingReducer  # noqa: E402
from balred.intraining import Guard  # noqa: E402

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


@dataclasses.dataclass
class Both:
    d_state: int
    mamba_d_state: int


class Two(torch.nn.Module):
    """Two kinds of layers, each of a number of its own in one configuration, in either order."""

    def __init__(self, config: Both, order: tuple[str, ...]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config = config
        for name in order:
            one = mambapy.MambaConfig(d_model=16, n_layers=1, d_state=config.mamba_d_state)
            setattr(self, name, mambapy.MambaBlock(one) if name == "ssm" else LRU(16, config.d_state))

    def forward(self, x: Any) -> Any:
        return self.lru(x + self.ssm(x))


@pytest.mark.parametrize("order", [("ssm", "lru"), ("lru", "ssm")], ids=" ".join)
@pytest.mark.parametrize("sizes", [(16, 8), (8, 16)], ids=str)
@pytest.mark.parametrize("training", [False, True])
def test_a_number_does_not_follow_where_another_has_come_to_be_it(
    order: tuple[str, ...], sizes: tuple[int, int], training: bool
) -> None:
    """16 becomes 8, and 8 becomes 4: what was 16 must stop at 8."""
    model = Two(Both(*sizes), order)
    now = sizes[0] // 2, sizes[1] // 2
    if training:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        ranks = InTrainingReducer(model, optimizer, HalfOf(), (0, 1), 1, calibration=X).step().ranks
        now = ranks["lru"], ranks["ssm"]
        assert now[1] == sizes[1] // 2
        assert now[0] < sizes[0]
    else:
        model = balred.reduce(model, {"lru": now[0], "ssm": now[1]}, calibration=X)
    assert model.config == Both(*now)
    Two(model.config, order).load_state_dict(model.state_dict())


@pytest.mark.parametrize("sizes", [(16, 8), (8, 16)], ids=str)
def test_every_change_of_sizes_is_followed(sizes: tuple[int, int]) -> None:
    """A rollback, a resumed training, a checkpoint of another size."""
    made = [Two(Both(*sizes), ("ssm", "lru")) for _ in range(3)]
    worse = iter([1.0, 0.0])
    guards = (Guard(lambda model: next(worse), tolerance=0.0, delay=0), None)
    trainings = [
        InTrainingReducer(
            model, torch.optim.SGD(model.parameters(), lr=0.0), HalfOf(), (0, 1), 1, calibration=X, guard=guard
        )
        for model, guard in zip(made, (*guards, None), strict=True)
    ]
    assert trainings[0].step().restored
    assert made[0].config == Both(*sizes)
    trainings[1].step()
    assert made[1].config.mamba_d_state == sizes[1] // 2
    trainings[2].load_state_dict(trainings[1].state_dict())
    assert made[2].config == made[1].config
    made[2].load_state_dict(made[0].state_dict())  # a reducer lets its model take any size
    assert made[2].config == Both(*sizes)


class HalfOf:
    """A rule that keeps half of the states."""

    multiple_of = 1

    def order(self, hsv: Any) -> int:
        return len(hsv) // 2


def test_equal_numbers_of_two_kinds_are_told_where_they_part() -> None:
    with pytest.warns(
        ConfigurationWarning, match=r"^config.d_state holds one number .* but these layers have another: lru with 4"
    ):
        balred.reduce(Two(Both(8, 8), ("ssm", "lru")), {"ssm": 2, "lru": 4}, calibration=X)


@pytest.mark.parametrize("ranks", [{"0": 4}, {"0": 4, "2": 6}, {"0": 2, "1": 3, "2": 4}], ids=str)
def test_a_list_has_one_number_for_each_layer(ranks: dict[str, int]) -> None:
    """With zeros for blocks of other kinds; other lists are others."""
    sizes = (8, 8, 16)
    model = torch.nn.Sequential(*(LRU(16, n) for n in sizes))
    model.config = types.SimpleNamespace(d_states=[8, 0, 8, 16], widths=[8, 8])
    small = balred.reduce(model, ranks)
    now = [ranks.get(str(i), before) for i, before in enumerate(sizes)]
    assert small.config == types.SimpleNamespace(d_states=[now[0], 0, *now[1:]], widths=[8, 8])
    assert model.config.d_states == [8, 0, 8, 16]


def test_a_list_that_is_another_is_told() -> None:
    model = torch.nn.Sequential(mambapy.MambaBlock(mambapy.MambaConfig(d_model=16, n_layers=1, d_state=8)))
    model.config = types.SimpleNamespace(d_states=[8, 8, 16])
    with pytest.warns(
        ConfigurationWarning, match=r"^config.d_states holds the list \[8, 8, 16\] of numbers of states, but"
    ):
        balred.reduce(model, 4, calibration=X)


def test_a_number_of_a_layer_that_writes_none_follows() -> None:
    model = torch.nn.Sequential(LRU(16, 8), LRU(16, 12))
    model.config = Config()
    small = balred.reduce(model, 4)
    assert (small.config.d_state, small.config.own, model.config.d_state) == (4, 8, 8)


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
