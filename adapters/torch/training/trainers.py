"""What the callbacks of other people's trainers have in common: the reducer is made only when model and optimizer exist.

Its arguments are checked when the callback is made, minutes before a large model is ready to train.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from balred.adapters.torch.optimizers import bare
from balred.adapters.torch.training.reducer import InTrainingReducer
from balred.intraining.settings import TrainingSettings
from balred.ranks.budget import Budget
from balred.ranks.divergence import Divergence
from balred.ranks.rules import Rule
from balred.registry.reading import layers_of


class ReducerLater:
    """Makes a reducer with these arguments once model and optimizer exist.

    Raises
    ------
    TypeError, ValueError
        A setting is not as it must be.
    """

    def __init__(
        self,
        rule: Rule | Budget | Divergence,
        window: tuple[int, int],
        attempts: int | None,
        *,
        averages: Sequence[nn.Module] = (),
        restore: Sequence[Any] = (),
        **options: Any,
    ) -> None:
        self.settings = TrainingSettings(rule, window, attempts, **options)
        self._averages, self._restore = averages, restore

    def __call__(
        self, model: nn.Module, optimizer: Any, averages: Sequence[nn.Module], restore: Sequence[Any]
    ) -> InTrainingReducer:
        """The reducer, with these averages and objects to take back beside those that are known."""
        return InTrainingReducer(
            model,
            optimizer,
            averages=[*self._averages, *averages],
            restore=[*self._restore, *restore],
            **vars(self.settings),
        )

    def outline(self, reducer: InTrainingReducer | None) -> str:
        """For the ``repr`` of a callback: what its reducer says, or when it will cut."""
        return f"before the training; {self.settings.outline()}" if reducer is None else reducer.outline()


def holder(optimizers: Sequence[Any], model: nn.Module) -> Any:
    """That one of several optimizers which holds the layers that can be cut."""
    mine = {id(p) for layer in layers_of(model).values() for p in layer.parameters() if p.requires_grad}
    held = [{id(p) for group in bare(one).param_groups for p in group["params"]} for one in optimizers]
    found = [one for one, ids in zip(optimizers, held, strict=True) if mine <= ids]
    if not found:
        kinds = ", ".join(type(bare(one)).__name__ for one in optimizers) or "none"
        raise ValueError(f"one optimizer must hold every parameter of the layers to be cut, got {kinds}")
    return found[0]
