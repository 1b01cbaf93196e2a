"""The commands ``balred train`` and ``balred report``: studies from a configuration, and the report of any run's folder."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from balred.cli.output import print_table, reported, say, tell

STUDIES = Path(__file__).parents[1] / "studies"


class ScaleName(StrEnum):
    """How much is computed."""

    cpu = "cpu"
    paper = "paper"


def config_path(name: str) -> Path:
    """The file `name`, or the configuration of that name that comes with the package."""
    path = Path(name)
    if path.is_file() or path.suffix or path.parent != Path():
        return path
    shipped = {file.stem: file for file in sorted(STUDIES.glob("*.toml"))}
    if name not in shipped:
        raise ValueError(f"CONFIG must be a file, or one of {', '.join(shipped)}, got {name!r}")
    return shipped[name]


def train(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="A .toml file, or a name such as smnist.", show_default=False)
    ],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key; may be repeated.")
    ] = None,
    scale: Annotated[ScaleName, typer.Option(help="Minutes to an hour on two cores, or the paper's protocol.")] = (
        ScaleName.cpu
    ),
    seed: Annotated[int, typer.Option(min=0, help="The first seed: data, initialisation and batches.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, counted up from the first.")] = 1,
    out: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder of the study.", show_default="runs/CONFIG-SCALE")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a study that was killed.")] = False,
) -> None:
    """Train the models of a configuration, with and without truncation, and write a report.

    With --resume, a study that was killed goes on from its last checkpoint.
    """
    with reported("train", None):
        from balred.studies.settings.records import require_packages

        path = config_path(config)
        require_packages("torch")
        from balred.studies.reports.run_report import table, write_run_report
        from balred.studies.settings.train_config import read_config
        from balred.studies.training.study import Interrupted, run_study

        read = read_config(path, scale.value, settings or ())
        folder = out or Path("runs") / f"{path.stem}-{scale.value}"
        try:
            run_study(read, range(seed, seed + seeds), folder, resume)
        except Interrupted:
            say("train", f"interrupted: `--resume` goes on with {folder}")
            raise typer.Exit(130) from None
        page = write_run_report(folder)
        heads, rows = table(folder)
        print_table(heads, rows)
        tell(f"report: {page}   rows: {folder / 'results.json'}")


def report(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_DIR", help="A study, a folder with logs of reducers, or one log.", show_default=False
        ),
    ],
) -> None:
    """Write report.html: what was cut, when it was cut, and what the results are.

    RUN_DIR may be the folder of a study, the log that a reducer wrote (log="run/cuts.jsonl"), or a folder with such logs.
    """
    with reported("report", None):
        from balred.studies.settings.records import require_report

        require_report()
        from balred.studies.reports.run_report import write_run_report

        tell(f"report: {write_run_report(folder)}")
