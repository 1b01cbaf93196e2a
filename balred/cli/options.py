"""Options that several commands have, and what they mean to the library: a method's own, and the rule that chooses a rank.

What is wrong with an option by itself is an error of usage, which ends the command with status 2 before any file is read.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from balred.measures.recordings import HOLDS
from balred.methods.method import Method
from balred.methods.table import METHODS, method_name
from balred.methods.weighted import on_recordings
from balred.ranks.rules import Energy, ErrorBound, MeasuredError, Relative
from balred.realisations.sparse import OPTIONS
from balred.reduction.operators import SECOND_ORDER

ORDER, METHOD, OUTPUT = "Order: exactly one", "Method", "Output"
"""The groups in which ``--help`` lists options."""

File = Annotated[Path, typer.Argument(metavar="FILE", help="A system: .mat, .npz or .json.", show_default=False)]
MethodName = Annotated[
    str,
    typer.Option(
        "--method", metavar="NAME", help="How to reduce; 'balred methods' lists the names.", rich_help_panel=METHOD
    ),
]
Option = Annotated[
    list[str] | None,
    typer.Option(
        "--option", metavar="KEY=VALUE", help="An option of the method; may be repeated.", rich_help_panel=METHOD
    ),
]
Left = Annotated[
    Path | None,
    typer.Option("--left", metavar="FILE", help="A system that weights the outputs.", rich_help_panel=METHOD),
]
Right = Annotated[
    Path | None,
    typer.Option("--right", metavar="FILE", help="A system that weights the inputs.", rich_help_panel=METHOD),
]
Inputs = Annotated[
    list[Path] | None,
    typer.Option(
        "--inputs",
        metavar="FILE",
        help="Recorded inputs to balance on: .csv, .npy, .npz or .mat; may be repeated.",
        rich_help_panel=METHOD,
    ),
]
Step = Annotated[
    float | None,
    typer.Option(
        "--dt",
        metavar="SECONDS",
        help="Time between samples of --inputs, if its file does not say.",
        rich_help_panel=METHOD,
    ),
]
Hold = Annotated[
    str | None,
    typer.Option(
        "--hold",
        metavar="zoh|foh",
        help="What --inputs do between samples.",
        show_default="zoh",
        rich_help_panel=METHOD,
    ),
]
Solver = Annotated[
    str | None,
    typer.Option(help="The solver that finds the Gramians.", show_default="automatic", rich_help_panel=METHOD),
]
Offset = Annotated[
    float | None,
    typer.Option(min=0, help="Keep poles within this distance of the stability boundary.", rich_help_panel=METHOD),
]
Picture = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE", help="Draw the result into a .png, .pdf or .svg.", rich_help_panel=OUTPUT),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.", rich_help_panel=OUTPUT)]


def method_options(
    method: str, given: list[str] | None, left: Path | None, right: Path | None, recorded: bool = False
) -> dict[str, Any]:
    """The options of the method; a value is JSON where it can be, and text otherwise.  Weights are files still.

    Those of recorded inputs are not among them: :func:`recordings_given` has them.
    """
    try:
        row = METHODS[method_name(method)]
        row = on_recordings(method, row) if recorded else row
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--method") from None
    options: dict[str, Any] = {key: path for key, path in (("left", left), ("right", right)) if path is not None}
    for item in given or ():
        key, equals, text = item.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"must be KEY=VALUE, got {item!r}", param_hint="--option")
        try:
            options[key] = json.loads(text)
        except ValueError:
            options[key] = text
    try:
        row.checked_options(method, options)
    except TypeError as error:
        # only the file will say whether a system is sparse, or of second order: both have options of their own
        second = SECOND_ORDER.get(method_name(method))
        if not any(
            options.keys() <= set(known) for known in ([*row.options, *OPTIONS], second.options if second else ())
        ):
            raise typer.BadParameter(str(error), param_hint="--option") from None
    missing = [key for key in required(row) if key not in (*options, "inputs")]
    if missing:
        raise typer.BadParameter(f"method {method!r} needs {', '.join(missing)}, got none", param_hint="--option")
    return options


def recordings_given(inputs: list[Path] | None, dt: float | None, hold: str | None) -> list[Path]:
    """The files of recorded inputs, if any; what goes with them alone is an error of usage without."""
    for name, value in (("--dt", dt), ("--hold", hold)):
        if value is not None and not inputs:
            raise typer.BadParameter("must go with --inputs", param_hint=name)
    if hold not in (None, *HOLDS):
        raise typer.BadParameter(f"must be one of {', '.join(HOLDS)}, got {hold!r}", param_hint="--hold")
    if dt is not None and not 0 < dt < float("inf"):
        raise typer.BadParameter(f"must be a positive number, got {dt}", param_hint="--dt")
    return inputs or []


def required(method: Method) -> list[str]:
    """The options of a method that have no default."""
    return [key for key, value in method.options.items() if value is inspect.Parameter.empty]


def chosen_rank(
    order: int | None,
    energy: float | None,
    bound: float | None,
    measured: float | None,
    relative: bool,
    above: float | None,
) -> Any:
    """The order or the rule that the options ask for."""
    rules = {"--order": order, "--energy": energy, "--bound": bound, "--max-error": measured, "--relative-hsv": above}
    given = [name for name, value in rules.items() if value is not None]
    if len(given) != 1:
        raise typer.BadParameter(
            f"exactly one must be given, got {' and '.join(given) or 'none'}", param_hint=", ".join(rules)
        )
    if relative and bound is None and measured is None:
        raise typer.BadParameter("must go with --bound or --max-error", param_hint="--relative")
    try:
        if energy is not None:
            return Energy(energy)
        if bound is not None:
            return ErrorBound(bound, relative=relative)
        if measured is not None:
            return MeasuredError(measured, relative=relative)
        return order if above is None else Relative(above)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=given[0]) from None
