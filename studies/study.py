"""A study: the runs that a configuration asks for, for each seed, each in its folder, each able to go on after a kill."""

from __future__ import annotations

import json
import os
import platform
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

import balred
from balred.adapt import layers_of
from balred.intraining import Guard
from balred.ranks import RankWarning
from balred.studies.display import bars, heard, show
from balred.studies.load_task import load_task
from balred.studies.plan import Order, Run, runs_of
from balred.studies.records import Point, Snapshot, Stopwatch
from balred.studies.run_files import RunFolder, write_json
from balred.studies.run_torch import TorchRun, classifier, cut, evaluate
from balred.studies.tasks import Task
from balred.studies.train_config import TrainConfig
from balred.studies.training import Event, host_system

_SMALL_SEED = 10_000
"""Added to the seed of the initialisation of a small model: its own draw from the same distribution."""
_VOLATILE = ("device", "threads", "checkpoint_every", "log_every", "folder")
"""Keys that may differ between a run and its continuation."""


class Interrupted(Exception):
    """Ctrl-C; what was written can be gone on from."""


def run_study(
    config: TrainConfig, seeds: Sequence[int], out: Path, resume: bool = False, console: Console | None = None
) -> list[dict[str, Any]]:
    """Make every run of every seed that is not finished yet; the rows of all.

    Raises
    ------
    ValueError
        `out` holds another study, or one and `resume` is not set; the task cannot be made.
    Interrupted
        Ctrl-C.
    """
    _claim(config, out, resume)
    console = console or Console(stderr=True)
    warm = False
    try:
        with heard() as stopped, one_setting(config.threads), bars(console) as progress:
            for seed in seeds:
                task = load_task(config, seed)
                for run in runs_of(config):
                    folder = RunFolder(out / f"seed-{seed}" / run.name)
                    if folder.result is None:
                        if not warm:
                            _warm_up(config, task)
                            warm = True
                        if run.mode == "posthoc":
                            _posthoc(config, task, run, seed, out, folder)
                        else:
                            _train(config, task, run, seed, out, folder, progress, stopped)
                        write_json(out / "results.json", rows_of(config, out))
    except KeyboardInterrupt:
        raise Interrupted from None
    return rows_of(config, out)


def rows_of(config: TrainConfig, out: Path) -> list[dict[str, Any]]:
    """The results of all seeds in a study's folder."""
    seeds = sorted(int(path.name.partition("-")[2]) for path in out.glob("seed-*"))
    folders = (RunFolder(out / f"seed-{seed}" / run.name) for seed in seeds for run in runs_of(config))
    return [result for folder in folders if (result := folder.result) is not None]


def _warm_up(config: TrainConfig, task: Task) -> None:
    """A few steps with a cut, thrown away: loading libraries is charged to none of the runs."""
    short = replace(config, steps=20, attempts=1, window=0.1, states=(16,), ranks=(), batch=2, settled=0)
    trainer = TorchRun(short, task, (16,), 0, tau=0.5, nuclear=config.nuclear)
    for _ in range(2):
        trainer.train_step(task.train_x[:2], task.train_y[:2])
        trainer.reduce()
    for layer in layers_of(trainer.model).values():
        balred.hsv(host_system(layer))
    trainer.evaluate(task.test_x[:2], task.test_y[:2])


def _claim(config: TrainConfig, out: Path, resume: bool) -> None:
    """Write the study's settings to its folder, or see that they are those there."""
    file, mine = out / "config.json", {"balred": balred.__version__, "config": asdict(config)}
    if not file.exists():
        if out.exists() and any(path.suffix != ".part" for path in out.iterdir()):
            raise ValueError(f"the folder of a study must be empty or hold a study, got {out}")
        write_json(file, mine)
        return
    if not resume:
        raise ValueError(f"{out} holds a study already: --resume goes on with it, another --out starts a new one")
    theirs, plain = saved_config(out), _plain(mine["config"])
    for key, value in plain.items():
        if key not in _VOLATILE and theirs.get(key) != value:
            raise ValueError(
                f"a study goes on with the settings it began with, {key} = {theirs.get(key)!r}, got {value!r}"
            )


def _plain(values: Any) -> dict[str, Any]:
    return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}


def saved_config(out: Path) -> dict[str, Any]:
    """The keys that a study was begun with."""
    found: dict[str, Any] = json.loads((out / "config.json").read_text(encoding="utf-8"))["config"]
    return found


@contextmanager
def one_setting(threads: int) -> Iterator[None]:
    """So many threads for PyTorch, and one for the linear algebra beside it."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


def ranks_for(config: TrainConfig, run: Run, seed: int, out: Path) -> dict[str, int]:
    """The ranks of a small or post-hoc model by layer: given, those of a folder, or of this seed's truncated run."""
    names = [f"blocks.{i}.lru" for i in range(len(config.states))]
    if config.ranks:
        return dict(zip(names, config.ranks * (len(names) // len(config.ranks)), strict=True))
    path = Path(config.ranks_from) if config.ranks_from else out / f"seed-{seed}" / Run("truncated", run.tau).name
    result = RunFolder(path).result
    if result is None or list(result.get("ranks", {})) != names:
        raise ValueError(f"ranks_from must be the folder of a finished run with layers {', '.join(names)}, got {path}")
    return dict(result["ranks"])


def _train(
    config: TrainConfig,
    task: Task,
    run: Run,
    seed: int,
    out: Path,
    folder: RunFolder,
    progress: Progress,
    stopped: threading.Event,
) -> None:
    line = progress.add_task(f"{run.name}, seed {seed}", total=config.steps, status="starting")
    clock = Stopwatch()
    trainer = _trainer(config, task, run, seed, out, folder)
    step = 0
    if folder.checkpoint.exists():
        saved = trainer.load(folder.checkpoint)
        step = saved["step"]
        folder.restart(saved["events"], saved["metrics"])
        clock = Stopwatch(saved["seconds"])
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
            trainer.save(folder.checkpoint, step=step, seconds=seconds, **lines)
            clock.start()
    balred.save(trainer.model, folder.model)
    final = folder.record(run.name, seed, config)
    folder.finish({**final.row(), **_common(config, run, seed), "ranks": dict(final.ranks)})


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
        run.tau if run.mode in ("truncated", "guarded") else None,
        guard,
        config.nuclear if run.mode == "nuclear" else 0.0,
        log=folder.events,
    )


def ranks_now(trainer: TorchRun) -> dict[str, int]:
    """States by layer."""
    return {name: int(layer.states) for name, layer in layers_of(trainer.model).items()}


def _look(
    config: TrainConfig, task: Task, trainer: TorchRun, step: int, clock: Stopwatch, folder: RunFolder, run: Run
) -> list[Point]:
    """Evaluate, and keep spectra, at the steps that ask for it; the clock is stopped meanwhile."""
    points = []
    seconds = clock.stop()
    if step in config.snapshots:
        systems = {name: host_system(layer) for name, layer in layers_of(trainer.model).items()}
        spectra = {}
        for name, system in systems.items():
            shot = Snapshot(step, system, np.asarray(balred.hsv(system), dtype=np.float64))
            spectra[name] = [float(f"{value:.6g}") for value in shot.hsv]
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


def _posthoc(config: TrainConfig, task: Task, run: Run, seed: int, out: Path, folder: RunFolder) -> None:
    """Cut what the source trained, and measure that; no training."""
    source = RunFolder(out / f"seed-{seed}" / run.source)
    model = balred.load(classifier(config, task, config.states, seed), source.model).to(config.device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankWarning)  # a regularised layer may have fewer states that matter
        smaller = cut(model, ranks_for(config, run, seed, out))
    ranks = {name: int(layer.states) for name, layer in layers_of(smaller).items()}
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


def versions() -> dict[str, str]:
    """Of what computed."""
    found = {"python": platform.python_version()}
    for package in ("balred", "numpy", "scipy", "torch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a source tree that was never installed
            found[package] = balred.__version__ if package == "balred" else "unknown"
    return found


def hardware(config: TrainConfig) -> str:
    """Device and threads, in words."""
    if config.device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    return f"{_processor()}, {config.threads} of {os.cpu_count()} threads"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _finite(x: float) -> float | None:
    return x if np.isfinite(x) else None
