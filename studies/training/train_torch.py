"""The demo's training on PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from balred.adapters.torch import InTrainingReducer
from balred.intraining import Report
from balred.studies.models.torch_models import Classifier
from balred.studies.settings.records import DemoConfig


class TorchTrainer:
    """AdamW on a :class:`Classifier` with layers of `states`; truncated while it trains if `truncate` is set."""

    def __init__(self, config: DemoConfig, states: Sequence[int], seed: int, truncate: bool) -> None:
        self.model = Classifier(config.width, states, seed=seed, ring=config.ring)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config.rate, weight_decay=config.weight_decay)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: config.learning_rate(step) / config.rate
        )
        self.reducer = (
            InTrainingReducer(
                self.model,
                self.optimizer,
                rule=config.rule,
                window=(0, config.warmup),
                attempts=config.attempts,
                moments=config.moments,
            )
            if truncate
            else None
        )
        self._loss = torch.tensor(float("nan"))

    def train_step(self, x: NDArray[np.float32], y: NDArray[np.int64]) -> None:
        """One step on a batch."""
        self.optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(self.model(torch.from_numpy(x)), torch.from_numpy(y))
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.schedule.step()
        self._loss = loss.detach()

    def reduce(self) -> Report | None:
        """Truncate if it is time to."""
        return None if self.reducer is None else self.reducer.step()

    def loss(self) -> float:
        """Loss of the last batch."""
        return float(self._loss)

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.int64]:
        """The most likely digits."""
        with torch.no_grad():
            return np.asarray(self.model(torch.from_numpy(x)).argmax(-1).numpy())
