"""One run of a study from its start or its last checkpoint to its result: the training loop, and the cut after a training."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

import balred
from balred.intraining import Guard
from balred.ranks import RankWarning
from balred.registry import layers_of
from balred.registry.sizes import ranks_of
from balred.studies.data.tasks import Task
from balred.studies.settings.plan import Order, Run
from balred.studies.settings.provenance import hardware, versions
from balred.studies.settings.records import Point, Stopwatch
from balred.studies.settings.train_config import TrainConfig
from balred.studies.training.display import say, show
from balred.studies.training.loop import Event, host_system
from balred.studies.training.run_files import RunFolder
from balred.studies.training.run_torch import TorchRun, calibration, classifier, cut, evaluate

_SMALL_SEED = 10_000
"""Added to the seed of the initialisation of a small model: its own draw from the same distribution."""


def ranks_for(config: TrainConfig, run: Run, seed: int, out: Path) -> dict[str, int]:
    """The ranks of a small or post-hoc model by layer: given, those of a folder, or of this seed's truncated run."""
    names = [f"blocks.{i}.{'mixer' if config.model == 'mamba' else 'lru'}" for i in range(len(config.states))]
    if config.ranks:
        return dict(zip(names, config.ranks * (len(names) // len(config.ranks)), strict=True))
    path = Path(config.ranks_from) if config.ranks_from else out / f"seed-{seed}" / Run("truncated", run.tau).name
    result = RunFolder(path).result
    if result is None or list(result.get("ranks", {})) != names:
        raise ValueError(f"ranks_from must be the folder of a finished run with layers {', '.join(names)}, got {path}")
    return dict(result["ranks"])


def train(
    config: TrainConfig,
    task: Task,
    run: Run,
    seed: int,
    out: Path,
    folder: RunFolder,
    progress: Progress,
    stopped: threading.Event,
) -> None:
    """Train from the start, or from the checkpoint in `folder`, to the end, and write the result."""
    line = progress.add_task(f"{run.name}, seed {seed}", total=config.steps, status="starting")
    clock = Stopwatch()
    trainer = _trainer(config, task, run, seed, out, folder)
    step = flops = 0
    who = {"run": run.name, "seed": seed}
    saved = trainer.load(folder.checkpoint, lambda message: say(progress, message), **who)
    if saved is not None:
        step = saved["step"]
        folder.restart(saved["events"], saved["metrics"])
        clock, flops = Stopwatch(saved["seconds"], saved["processor"]), saved["flops"]
    else:
        folder.restart()
        _look(config, task, trainer, 0, clock, folder, run)
    record = folder.record(run.name, seed, config)
    order = Order(len(task.train_y) - config.validation, config.batch, seed + 1000)
    kept = config.validation
    while step < config.steps:
        if stopped.is_set():
            raise KeyboardInterrupt
        step += 1
        batch = kept + order.at(step)
        if (step - 1) % config.nuclear_every == 0:
            trainer.renew()
        trainer.train_step(task.train_x[batch], task.train_y[batch])
        flops += trainer.flops_of_step
        report = trainer.reduce()
        if report is not None and report.back_to is not None:
            step = report.back_to
        looks = step in config.snapshots or step in config.evaluations
        if looks or report is not None or step % config.log_every == 0 or step == config.steps:
            loss, seconds = trainer.loss(), clock.stop()
            record.ranks = ranks_now(trainer)
            record.steps, record.seconds = step, seconds
            folder.log("step", step, seconds=round(seconds, 4), loss=_finite(loss), ranks=record.ranks)
            if looks:
                record.points += _look(config, task, trainer, step, clock, folder, run)
            show(progress, line, Event(record, step, loss, report))
            clock.start()
        if step % config.checkpoint_every == 0 and step < config.steps:
            seconds = clock.stop()
            trainer.renew()  # a run that goes on from here makes them anew as well
            lines = {"events": len(folder.events.read()), "metrics": len(folder.metrics.read())}
            spent = {"seconds": seconds, "processor": clock.processor, "flops": flops}
            trainer.save(folder.checkpoint, step=step, **spent, **lines, **who)
            clock.start()
    balred.save(trainer.model, folder.model)
    final = folder.record(run.name, seed, config)
    spent = {"processor_seconds": round(clock.processor, 3), "flops": flops}
    folder.finish({**final.row(), **spent, **_common(config, run, seed), "ranks": dict(final.ranks)})


def _trainer(config: TrainConfig, task: Task, run: Run, seed: int, out: Path, folder: RunFolder) -> TorchRun:
    states: Sequence[int] = config.states
    guard = None
    if run.mode == "small":
        states = list(ranks_for(config, run, seed, out).values())
    if run.mode == "guarded":
        x, y = task.train_x[: config.validation], task.train_y[: config.validation]
        guard = Guard(lambda model: evaluate(model, task, x, y)[0], config.tolerance, config.delay)
    return TorchRun(
        config,
        task,
        states,
        seed + _SMALL_SEED if run.mode == "small" else seed,
        run if run.mode in ("truncated", "squeezed", "random", "guarded") else None,
        guard,
        config.nuclear if run.mode in ("nuclear", "squeezed") else 0.0,
        log=folder.events,
    )


def ranks_now(trainer: TorchRun) -> dict[str, int]:
    """States by layer."""
    return ranks_of(layers_of(trainer.model))


def _look(
    config: TrainConfig, task: Task, trainer: TorchRun, step: int, clock: Stopwatch, folder: RunFolder, run: Run
) -> list[Point]:
    """Evaluate, and keep spectra, at the steps that ask for it; the clock is stopped meanwhile."""
    points = []
    seconds = clock.stop()
    if step in config.snapshots and config.model == "lru":  # a selective layer has no Hankel singular values
        systems = {name: host_system(layer) for name, layer in layers_of(trainer.model).items()}
        spectra = {}
        for name, system in systems.items():
            spectra[name] = [float(f"{value:.6g}") for value in np.asarray(balred.hsv(system))]
            if config.keep_systems and run.mode == "full":
                folder.keep(name, step, system)
        folder.log("hsv", step, layers=spectra)
    if step in config.evaluations:
        accuracy, nats = trainer.evaluate(task.test_x, task.test_y)
        folder.log(
            "evaluation", step, seconds=round(seconds, 4), loss=_finite(trainer.loss()), accuracy=accuracy, test_loss=_finite(nats),
            ranks=ranks_now(trainer),
        )  # fmt: skip
        points.append(Point(step, seconds, trainer.loss(), accuracy, ranks_now(trainer)))
    clock.start()
    return points


def posthoc(config: TrainConfig, task: Task, run: Run, seed: int, out: Path, folder: RunFolder) -> None:
    """Cut what the source trained, and measure that; no training."""
    source = RunFolder(out / f"seed-{seed}" / run.source)
    model = balred.load(classifier(config, task, config.states, seed), source.model).to(config.device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankWarning)  # a regularised layer may have fewer states that matter
        smaller = cut(model, ranks_for(config, run, seed, out), calibration(config, task))
    ranks = ranks_of(layers_of(smaller))
    accuracy, nats = evaluate(smaller, task, task.test_x, task.test_y)
    result = source.result
    assert result is not None
    row = {"run": run.name, "seed": seed, "accuracy": accuracy, "state_dims": list(ranks.values())}
    row |= {"seconds": result["seconds"], "steps": result["steps"], "finished": True}
    folder.finish({**row, **_common(config, run, seed), "ranks": ranks, "test_loss": nats})


def _common(config: TrainConfig, run: Run, seed: int) -> dict[str, Any]:
    """What every row of a result says of how it came about."""
    return {
        "mode": run.mode, "tau": run.tau, "task": config.task, "versions": versions(), "hardware": hardware(config),
    }  # fmt: skip


def _finite(x: float) -> float | None:
    return x if np.isfinite(x) else None
