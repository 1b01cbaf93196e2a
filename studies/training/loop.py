"""The one training loop; a framework supplies a :class:`Trainer`, some sixty lines, and nothing is written twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import balred
from balred.intraining import Report
from balred.registry import layers_of
from balred.studies.data.digits import Digits, batches
from balred.studies.settings.records import Point, RunRecord, Snapshot, Stopwatch
from balred.systems import DiagonalSystem
from balred.systems.arrays import to_numpy

_EVERY = 20
"""Steps between two events: each waits for the device, so not every step makes one."""
_CHUNK = 300
"""Images evaluated at once: 300 x 64 x 256 complex states are 39 MB."""


class Trainer(Protocol):
    """A model in training, as the loop sees it."""

    model: Any

    def train_step(self, x: NDArray[np.float32], y: NDArray[np.int64]) -> None:
        """One step of the optimizer on a batch."""

    def reduce(self) -> Report | None:
        """Truncate if it is time to; the report of :class:`InTrainingReducer`."""

    def loss(self) -> float:
        """Loss of the last batch; waits for all that was dispatched."""

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.int64]:
        """The most likely digits."""


@dataclass(frozen=True)
class Event:
    """What the live display shows."""

    record: RunRecord
    step: int
    loss: float
    report: Report | None = None


def train(make: Callable[[], Trainer], data: Digits, record: RunRecord) -> Iterator[Event]:
    """Train, filling `record`; yields events for a display.

    The clock runs from the making of the model to the last step: initialisation, compilation and cuts included,
    evaluation and snapshots excluded, for every run alike.
    """
    config, clock = record.config, Stopwatch()
    trainer = make()
    _look(trainer, record, clock, loss=float("nan"))
    # the same batches for all runs of a seed; offset from the seed of the split and of the initialisation
    order = batches(len(data.train_x), config.batch, config.steps, record.seed + 1000)
    for step, batch in enumerate(order, start=1):
        trainer.train_step(data.train_x[batch], data.train_y[batch])
        report = trainer.reduce()
        record.steps, record.seconds = step, clock.seconds
        if report is not None:
            record.reports.append(report)
            record.ranks = {**record.ranks, **report.ranks}
        looks = step in config.snapshots or step in config.evaluations
        if looks or report is not None or step % _EVERY == 0:
            loss = trainer.loss()
            if looks:
                _look(trainer, record, clock, loss, data)
            yield Event(record, step, loss, report)


def _look(trainer: Trainer, record: RunRecord, clock: Stopwatch, loss: float, data: Digits | None = None) -> None:
    """Evaluate and keep snapshots at the steps that ask for it, with the clock stopped."""
    record.seconds = clock.stop()
    layers = layers_of(trainer.model)
    systems = {name: host_system(layer) for name, layer in layers.items()}
    record.ranks = {name: s.states for name, s in systems.items()}
    if record.steps in record.config.snapshots:
        for name, system in systems.items():
            values = np.asarray(balred.hsv(system), dtype=np.float64)
            record.snapshots.setdefault(name, []).append(Snapshot(record.steps, system, values))
    if data is not None and record.steps in record.config.evaluations:
        chunks = range(0, len(data.test_x), _CHUNK)
        right = [trainer.predict(data.test_x[i : i + _CHUNK]) == data.test_y[i : i + _CHUNK] for i in chunks]
        accuracy = float(np.mean(np.concatenate(right)))
        record.points.append(Point(record.steps, record.seconds, loss, accuracy, dict(record.ranks)))
    clock.start()


def host_system(layer: Any) -> DiagonalSystem:
    """A copy of the layer's system in NumPy, which later training steps do not touch."""
    system, _ = balred.adapt(layer)
    if not isinstance(system, DiagonalSystem):
        raise TypeError(f"the demo's layers must hold diagonal systems, got {system!r}")
    log_poles, B, C, D = (to_numpy(x).copy() for x in (system.log_poles, system.B, system.C, system.D))
    return DiagonalSystem(log_poles, B, C, D, dt=system.dt, conjugate=system.conjugate)
