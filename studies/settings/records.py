"""What a training is told and what it leaves behind: values shared by both frameworks, the demo and the report."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from balred.intraining import Report
from balred.measures.stability import Trace
from balred.ranks import Energy
from balred.systems import DiagonalSystem

Framework = Literal["torch", "jax"]
RunName = Literal["full", "truncated", "small"]
Moments = Literal["reset", "carry"]
RUNS: tuple[RunName, ...] = ("full", "truncated", "small")
_PACKAGES = {"torch": ("torch",), "jax": ("jax", "equinox", "optax")}
_STUDIES = ("sklearn", "matplotlib", "jinja2")


class MissingExtra(ImportError):
    """Optional packages are not installed; the message names the extra that brings them."""


def require_packages(framework: str) -> None:
    """Raise :class:`MissingExtra` unless everything that trainings need with `framework` is installed.

    Examples
    --------
    >>> require_packages("numpy")
    Traceback (most recent call last):
    ...
    ValueError: framework must be torch or jax, got 'numpy'
    """
    if framework not in _PACKAGES:
        raise ValueError(f"framework must be {' or '.join(_PACKAGES)}, got {framework!r}")
    missing = [name for name in (*_PACKAGES[framework], *_STUDIES) if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"training on {framework} needs packages that are not installed: {', '.join(missing)}; "
            f"pip install 'balred[{framework},studies]'"
        )


def require_report() -> None:
    """Raise :class:`MissingExtra` unless everything that a report needs is installed."""
    missing = [name for name in ("matplotlib", "jinja2") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"a report needs packages that are not installed: {', '.join(missing)}; pip install 'balred[studies]'"
        )


@dataclass(frozen=True)
class Schedule:
    """Sizes and settings that every training has, and when things happen in it.

    Attributes
    ----------
    states : tuple of int
        Stored states of each LRU layer of the full model; its length is the number of blocks.
    width : int
    ring : (float, float)
        Moduli between which the initial poles lie.
    steps, batch : int
    rate, weight_decay : float
        AdamW; the rate rises linearly over `warmup` steps and falls to zero along a cosine.
    multiple_of, attempts
        Cuts happen at `attempts` equidistant steps of the warm-up, to ranks rounded up to a multiple.
    moments : {"reset", "carry"}
        What becomes of Adam's moments of a cut layer.
    """

    states: tuple[int, ...] = (256,)
    width: int = 16
    ring: tuple[float, float] = (0.0, 1.0)
    steps: int = 2000
    batch: int = 32
    rate: float = 1e-2
    weight_decay: float = 0.01
    multiple_of: int = 4
    attempts: int = 2
    moments: Moments = "reset"

    def __post_init__(self) -> None:
        if not self.states or min(self.states) < 1:
            raise ValueError(f"states must be positive, one number for each layer, got {self.states}")
        if self.steps < 20:
            raise ValueError(f"steps must be at least 20, so that a tenth holds the cuts, got {self.steps}")
        if not 1 <= self.attempts <= self.warmup:
            raise ValueError(f"attempts must be between 1 and the warm-up's length {self.warmup}, got {self.attempts}")

    @property
    def warmup(self) -> int:
        """Steps of the warm-up, the first tenth: the learning rate rises, and cuts happen."""
        return self.steps // 10

    @property
    def last_cut(self) -> int:
        """The last step at which a cut may happen."""
        return self.warmup

    def learning_rate(self, step: int) -> float:
        """Learning rate of training step `step`, counted from 0.

        Examples
        --------
        >>> config = DemoConfig(steps=100, rate=1.0)
        >>> [round(config.learning_rate(k), 3) for k in (0, 5, 10, 55, 100)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
        """
        if step < self.warmup:
            return self.rate * step / self.warmup
        return self.rate * 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / (self.steps - self.warmup)))

    @property
    def final_evaluations(self) -> tuple[int, ...]:
        """Five steps over the last 8 %, where the learning rate is nearly zero: their mean is the test accuracy."""
        return tuple(sorted({self.steps - i * max(1, self.steps // 50) for i in range(5)}))

    @property
    def evaluations(self) -> frozenset[int]:
        """Steps after which the test accuracy is measured: every twentieth part, and the final ones."""
        return frozenset(_every(self.steps, 20)) | frozenset(self.final_evaluations)

    @property
    def snapshots(self) -> frozenset[int]:
        """Steps after which the layers' systems are kept: denser in the warm-up, where things move."""
        return frozenset({0, *_every(self.warmup, 8), *_every(self.steps, 20)})


def _every(steps: int, parts: int) -> list[int]:
    return [math.ceil((i + 1) * steps / parts) for i in range(parts)]


@dataclass(frozen=True)
class DemoConfig(Schedule):
    """Sizes and settings of the demo's trainings; the same for both frameworks.

    Attributes
    ----------
    width : int
        In a narrow layer states cost little, and there is little to gain by truncation.
    steps, attempts
        One cut after a tenth of the steps: in JAX each one compiles the training step again.
    fraction : float
        The cuts are made by ``Energy(fraction, multiple_of=multiple_of)``.
    test : int
        Images kept for the test, of 1797: half of them, since 450 make a point of noise.
    """

    width: int = 64
    steps: int = 3000
    attempts: int = 1
    fraction: float = 0.95
    test: int = 900

    @property
    def rule(self) -> Energy:
        """The rule that chooses the ranks."""
        return Energy(self.fraction, multiple_of=self.multiple_of)


@dataclass(frozen=True)
class Point:
    """One evaluation: step, training seconds so far, loss of the last batch, test accuracy in [0, 1], states by layer."""

    step: int
    seconds: float
    loss: float
    accuracy: float
    ranks: Mapping[str, int]


@dataclass(frozen=True)
class Snapshot:
    """One layer at one step: its system (NumPy copies; None where it was not kept) and Hankel singular values."""

    step: int
    system: DiagonalSystem | None
    hsv: NDArray[np.float64]


@dataclass
class RunRecord:
    """All that one training leaves; filled while it runs, so an interrupted one is readable."""

    run: str
    seed: int
    config: Schedule
    steps: int = 0
    seconds: float = 0.0
    ranks: Mapping[str, int] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    snapshots: dict[str, list[Snapshot]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What its log says that the reducer was told."""

    @property
    def finished(self) -> bool:
        """Whether all steps were made."""
        return self.steps == self.config.steps

    @property
    def accuracy(self) -> float | None:
        """Mean test accuracy over the final evaluations; the last one of an interrupted run; None before the first."""
        final = [p.accuracy for p in self.points if p.step in self.config.final_evaluations]
        if self.finished:
            return float(np.mean(final))
        return self.points[-1].accuracy if self.points else None

    def first_states(self, layer: str) -> int | None:
        """The states that a layer began with, as far as the records tell."""
        if self.snapshots.get(layer):
            return len(self.snapshots[layer][0].hsv) // 2
        return next((cut.before for report in self.reports for cut in report.cuts if cut.layer == layer), None)

    def row(self) -> dict[str, Any]:
        """The row of ``results.json``."""
        return {
            "run": self.run,
            "seed": self.seed,
            "accuracy": self.accuracy,
            "state_dims": list(self.ranks.values()),
            "seconds": round(self.seconds, 3),
            "steps": self.steps,
            "finished": self.finished,
        }


@dataclass
class DemoResult:
    """All that a demo leaves."""

    framework: Framework
    seeds: Sequence[int]
    config: DemoConfig
    records: list[RunRecord] = field(default_factory=list)
    traces: dict[str, Trace] = field(default_factory=dict)
    """Stability metrics of the first seed's full run, by layer."""
    interrupted: bool = False

    def of(self, run: str, finished: bool = False) -> list[RunRecord]:
        """The records of one kind of run, in the order of seeds."""
        return [r for r in self.records if r.run == run and (r.finished or not finished)]


class Stopwatch:
    """Seconds of training, from those `spent` before on; evaluation and snapshots are made while it is stopped.

    `processor` are the seconds that this process had of a processor, all threads together: other work beside a training takes wall time
    from it, and hardly any of these.
    """

    def __init__(self, spent: float = 0.0, processor: float = 0.0) -> None:
        self._spent, self.processor = spent, processor
        self._since: float | None = None
        self._began = 0.0
        self.start()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self._spent + (0.0 if self._since is None else time.perf_counter() - self._since)

    def stop(self) -> float:
        """Stop, if it runs, and say the seconds so far."""
        if self._since is not None:
            self.processor += time.process_time() - self._began
        self._spent, self._since = self.seconds, None
        return self._spent

    def start(self) -> None:
        """Go on after :meth:`stop`."""
        self._since, self._began = time.perf_counter(), time.process_time()
