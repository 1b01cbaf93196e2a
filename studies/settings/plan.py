"""What a configuration asks for: the runs of a seed in the order that they need each other, and the order of the batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balred.studies.settings.train_config import Mode, TrainConfig


@dataclass(frozen=True)
class Run:
    """One row of a study: a training, or (mode posthoc) the cut of the model that the run `source` trained."""

    mode: Mode
    tau: float | None = None
    source: str = ""

    @property
    def name(self) -> str:
        """Also of its folder."""
        first = f"{self.source}-cut" if self.mode == "posthoc" else self.mode
        return first if self.tau is None else f"{first}-{self.tau:g}"


def runs_of(config: TrainConfig) -> list[Run]:
    """The runs of a configuration for one seed, those that others need first.

    Examples
    --------
    >>> config = TrainConfig(modes=("small", "full", "posthoc", "truncated"), taus=(0.04, 0.02))
    >>> [run.name for run in runs_of(config)]
    ['full', 'truncated-0.04', 'truncated-0.02', 'small-0.04', 'small-0.02', 'full-cut-0.04', 'full-cut-0.02']
    """
    cuts: Sequence[float | None] = (None,) if config.cut_to or config.budget or config.divergence else config.taus
    given = bool(config.ranks or config.ranks_from)
    grid: Sequence[float | None] = (None,) if given else cuts
    found = [Run(mode) for mode in ("full", "nuclear") if mode in config.modes]
    trained = [run.name for run in found]
    cutting: Sequence[Mode] = ("truncated", "squeezed", "random", "guarded")
    found += [Run(mode, tau) for mode in cutting if mode in config.modes for tau in cuts]
    if "small" in config.modes:
        found += [Run("small", tau) for tau in grid]
    if "posthoc" in config.modes:
        found += [Run("posthoc", tau, source) for source in trained for tau in grid]
    return found


class Order:
    """Which examples make which batch: any step can be asked for, so that a run may go on anywhere.

    Examples
    --------
    >>> order = Order(examples=10, batch=4, seed=0)
    >>> sorted(set(order.at(1)) | set(order.at(2))) == sorted(order.epoch(0)[:8])
    True
    """

    def __init__(self, examples: int, batch: int, seed: int) -> None:
        if not 1 <= batch <= examples:
            raise ValueError(f"batch must be between 1 and the {examples} training examples, got {batch}")
        self.examples, self.batch, self.seed = examples, batch, seed
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def epoch(self, number: int) -> NDArray[np.int64]:
        """All examples in the order of an epoch."""
        if number != self._epoch:
            rng = np.random.default_rng([self.seed, number])
            self._epoch, self._order = number, rng.permutation(self.examples)
        return self._order

    def at(self, step: int) -> NDArray[np.int64]:
        """The batch of a step, counted from 1; an incomplete last batch of an epoch is dropped."""
        number, place = divmod(step - 1, self.examples // self.batch)
        return self.epoch(number)[place * self.batch : (place + 1) * self.batch]
