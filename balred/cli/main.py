"""The command ``balred`` itself: its version, and the commands of the other files under one name; the demo is here.

Frameworks and studies are imported only by the command that needs them.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from balred.cli import info as cli_info
from balred.cli import inspect as cli_inspect
from balred.cli import systems as cli_systems
from balred.cli import train as cli_train
from balred.cli.output import reported
from balred.version import VERSION


class Commands(typer.core.TyperGroup):
    """The commands, where printing may fail: on a full disk, say, to which standard output was sent."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run what the command line says."""
        try:
            return super().main(*args, **options)
        except OSError as error:  # of files each command tells itself
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left would fail again
            typer.echo(f"balred: standard output: {error.strerror or error}", err=True)
            sys.exit(1)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    help="Model reduction for linear systems and state-space layers.",
)


class FrameworkName(StrEnum):
    """What the demo trains with."""

    torch = "torch"
    jax = "jax"


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"balred {VERSION}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Model reduction for linear systems and for the state-space layers of neural networks."""


GROUPS = {
    "Systems in files": (cli_systems.hsv, cli_systems.reduce, cli_systems.compare, cli_systems.methods),
    "Models and trainings": (cli_inspect.inspect, cli_train.train, cli_train.report),
    "This installation": (cli_info.info,),
}
"""The commands, in the groups of ``balred --help``."""

for group, commands in GROUPS.items():
    for command in commands:
        app.command(rich_help_panel=group)(command)


@app.command(rich_help_panel="Models and trainings")
def demo(
    framework: Annotated[FrameworkName, typer.Option(help="What to train with.")] = FrameworkName.torch,
    seed: Annotated[int, typer.Option(min=0, help="The first seed: split, initialisation and batches.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, counted up from the first.")] = 1,
    out: Annotated[
        Path, typer.Option(file_okay=False, help="Folder of report.html, results.json, spectrum.png.")
    ] = Path("demo-out"),
    steps: Annotated[int | None, typer.Option(min=20, hidden=True, help="Training steps of each run.")] = None,
    states: Annotated[int | None, typer.Option(min=1, hidden=True, help="Stored states of the full model.")] = None,
) -> None:
    """Train on handwritten digits in three ways, and compare: full, truncated in training, and small from the start.

    Takes a few minutes.  Ctrl-C leaves a report of what ran.
    """
    with reported("demo", None):
        from balred.studies.settings.records import DemoConfig, require_packages

        require_packages(framework.value)
        from balred.studies.demo import run_demo

        config = DemoConfig()
        config = replace(config, steps=steps or config.steps, states=(states,) if states else config.states)
        result = run_demo(framework.value, range(seed, seed + seeds), out, config)
    if result.interrupted:
        raise typer.Exit(130)
