"""The main job, end to end: a layer truncated while it trains, beside the full model and one small from the start.

Three trainings at equal steps on the same data and batches: ``full``; ``truncated``, which starts from the same
initialisation and is cut during the warm-up; ``small``, which starts with the sizes that ``truncated`` ended with.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from balred.files.locking import alone
from balred.measures.stability import trace
from balred.studies.data.digits import Digits, digits
from balred.studies.reports.summary import HEADINGS, LABELS, summary, verdicts
from balred.studies.settings.records import (
    RUNS,
    DemoConfig,
    DemoResult,
    Framework,
    RunRecord,
    require_packages,
)
from balred.studies.training.display import bars, heard, show, undisturbed
from balred.studies.training.loop import Trainer, train
from balred.studies.training.run_files import write_json

_SMALL_SEED = 10_000
"""Added to the seed of (c)'s initialisation: its own draw from the same distribution."""


def trainer_of(framework: Framework) -> Callable[[DemoConfig, Sequence[int], int, bool], Trainer]:
    """The trainer of `framework`, imported now."""
    if framework == "torch":
        from balred.studies.training.train_torch import TorchTrainer

        return TorchTrainer
    from balred.studies.training.train_jax import JaxTrainer

    return JaxTrainer


def run_demo(
    framework: Framework = "torch",
    seeds: Sequence[int] = (0,),
    out: Path | str = "demo-out",
    config: DemoConfig | None = None,
    console: Console | None = None,
) -> DemoResult:
    """Run the three trainings for each seed, show them live, and write ``results.json`` and the report to `out`.

    Parameters
    ----------
    framework : {"torch", "jax"}
    seeds : sequence of int
    out : path
        Made if it does not exist.
    config : DemoConfig, optional
    console : rich.console.Console, optional

    Returns
    -------
    DemoResult
        With ``interrupted`` set if Ctrl-C ended it; the files then tell of what ran.

    Raises
    ------
    MissingExtra
        If optional packages are not installed.
    ValueError
        Another process works in `out`.
    """
    require_packages(framework)
    folder, console = Path(out), console or Console()
    with alone(folder):
        return _run(framework, seeds, folder, config or DemoConfig(), console)


def _run(framework: Framework, seeds: Sequence[int], folder: Path, config: DemoConfig, console: Console) -> DemoResult:
    from balred.studies.reports.report import write_report

    result = DemoResult(framework, tuple(seeds), config)
    try:
        with heard() as stopped:
            console.print(f"training on scikit-learn's digits with {framework}; Ctrl-C ends it and leaves a report")
            _warm_up(framework, result.config)
            with bars(console) as progress:
                for seed in result.seeds:
                    _one_seed(result, seed, progress, folder, stopped)
    except KeyboardInterrupt:
        result.interrupted = True
        console.print("interrupted: the report shows what ran")
    finally:
        with undisturbed():
            write_results(result, folder / "results.json")
            write_report(result, folder)
    console.print(result_table(result))
    for line in verdicts(result):
        console.print(line)
    console.print(f"report: {folder / 'report.html'}   numbers: {folder / 'results.json'}")
    return result


def _one_seed(result: DemoResult, seed: int, progress: Progress, folder: Path, stopped: threading.Event) -> None:
    data = digits(seed, result.config.test)
    for run in RUNS:
        states: Sequence[int] = result.config.states
        if run == "small":
            states = list(result.records[-1].ranks.values())
        record = RunRecord(run, seed, result.config)
        result.records.append(record)
        make = trainer_of(result.framework)
        init = seed + _SMALL_SEED if run == "small" else seed
        task = progress.add_task(f"{LABELS[run]}, seed {seed}", total=result.config.steps, status="starting")
        with one_thread(result.framework):
            for event in train(partial(make, result.config, states, init, run == "truncated"), data, record):
                show(progress, task, event)
                if stopped.is_set():
                    raise KeyboardInterrupt
        write_results(result, folder / "results.json")
        if run == "full" and not result.traces:
            _metrics(result, record, progress)


def _metrics(result: DemoResult, record: RunRecord, progress: Progress) -> None:
    """Stability metrics of the first full run; untimed.  The rule without its bucket, which would hide small moves."""
    rule = replace(result.config.rule, multiple_of=1)
    task = progress.add_task("metrics of (a)", total=len(record.snapshots), status="")
    for name, shots in record.snapshots.items():
        with one_thread(result.framework):
            result.traces[name] = trace([s.step for s in shots], [s.system for s in shots], rule)
        progress.advance(task)


@contextmanager
def one_thread(framework: Framework) -> Iterator[None]:
    """Linear algebra on one thread.

    The arrays are small: a second thread gains next to nothing, and on a machine that does other work as well, threads
    that wait for each other have been seen to slow a step down tenfold and a cut a hundredfold.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        if framework != "torch":
            yield
            return
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def _warm_up(framework: Framework, config: DemoConfig) -> None:
    """A few steps with a cut, thrown away: loading libraries is charged to none of the runs."""
    short = replace(config, steps=20, attempts=1, states=tuple(min(n, 16) for n in config.states))
    data = digits(0, short.test)
    small = Digits(data.train_x, data.train_y, data.test_x[:100], data.test_y[:100])
    with one_thread(framework):
        for _ in train(lambda: trainer_of(framework)(short, short.states, 0, True), small, RunRecord("full", 0, short)):
            pass


# ------------------------------------------------------------------------------------------------------- results


def write_results(result: DemoResult, path: Path) -> None:
    """The rows of all runs so far, as JSON; replaced in one go, so that a reader never sees half a file."""
    write_json(path, [r.row() for r in result.records])


def result_table(result: DemoResult) -> Table:
    """The final table for the terminal."""
    count = f", mean ± standard deviation over {len(result.seeds)} seeds" if len(result.seeds) > 1 else ""
    table = Table(title=f"digits as 64-step sequences, {result.framework}{count}")
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "run" else "right")
    for row in summary(result):
        table.add_row(*row)
    return table
