"""A study: the runs that a configuration asks for, for each seed, each in its folder, each able to go on after a kill."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

import balred
from balred.files.locking import LOCK, alone
from balred.files.replacing import PART, sweep
from balred.registry import layers_of
from balred.studies.data.load_task import load_task
from balred.studies.data.tasks import Task
from balred.studies.settings.plan import Run, runs_of
from balred.studies.settings.train_config import TrainConfig
from balred.studies.training.display import bars, heard
from balred.studies.training.loop import host_system
from balred.studies.training.one_run import posthoc, train
from balred.studies.training.run_files import RunFolder, saved_config, write_json
from balred.studies.training.run_torch import TorchRun

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
        `out` holds another study, or one and `resume` is not set, or another process works there; the task cannot be made.
    Interrupted
        Ctrl-C.
    """
    with alone(out):
        _claim(config, out, resume)
        sweep(out)
        _run(config, seeds, out, console or Console(stderr=True))
    return rows_of(config, out)


def _run(config: TrainConfig, seeds: Sequence[int], out: Path, console: Console) -> None:
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
                            posthoc(config, task, run, seed, out, folder)
                        else:
                            train(config, task, run, seed, out, folder, progress, stopped)
                        write_json(out / "results.json", rows_of(config, out))
    except KeyboardInterrupt:
        raise Interrupted from None


def rows_of(config: TrainConfig, out: Path) -> list[dict[str, Any]]:
    """The results of all seeds in a study's folder."""
    names = (path.name.partition("-")[2] for path in out.glob("seed-*"))
    seeds = sorted(int(name) for name in names if name.isdecimal())
    folders = (RunFolder(out / f"seed-{seed}" / run.name) for seed in seeds for run in runs_of(config))
    return [result for folder in folders if (result := folder.result) is not None]


def _warm_up(config: TrainConfig, task: Task) -> None:
    """A few steps with a cut, thrown away: loading libraries is charged to none of the runs."""
    short = replace(
        config, steps=20, attempts=1, window=0.1, states=(16,), ranks=(), batch=2, settled=0, cut_to=8, budget=0, divergence=0.0,
        modes=("truncated",), calibration=2,
    )  # fmt: skip
    nuclear = config.nuclear if config.model == "lru" else 0.0
    trainer = TorchRun(short, task, (16,), 0, Run("truncated"), nuclear=nuclear)
    for _ in range(2):
        trainer.train_step(task.train_x[:2], task.train_y[:2])
        trainer.reduce()
    for layer in layers_of(trainer.model).values() if config.model == "lru" else ():
        balred.hsv(host_system(layer))
    trainer.evaluate(task.test_x[:2], task.test_y[:2])


def _claim(config: TrainConfig, out: Path, resume: bool) -> None:
    """Write the study's settings to its folder, or see that they are those there."""
    file, mine = out / "config.json", {"balred": balred.__version__, "config": asdict(config)}
    if not file.exists():
        if out.exists() and any(path.suffix != PART and path.name != LOCK for path in out.iterdir()):
            raise ValueError(f"the folder of a study must be empty or hold a study, got {out}")
        write_json(file, mine)
        return
    if not resume:
        raise ValueError(f"{out} holds a study already: --resume goes on with it, another --out starts a new one")
    theirs, plain = saved_config(out), _plain(mine["config"])
    for key, value in plain.items():
        if key not in _VOLATILE and theirs.get(key) != value:
            raise ValueError(
                f"a study must resume with the settings that it began with, {key} = {theirs.get(key)!r}, got {value!r}"
            )


def _plain(values: Any) -> dict[str, Any]:
    return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}


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
