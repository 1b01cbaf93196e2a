"""The commands for systems in files: ``balred hsv``, ``reduce``, ``compare`` and ``methods``.

They read options, ask the library, and print; what is computed is computed elsewhere.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import balred
from balred.cli.options import (
    METHOD,
    ORDER,
    OUTPUT,
    File,
    Hold,
    Inputs,
    Json,
    Left,
    MethodName,
    Offset,
    Option,
    Picture,
    Right,
    Solver,
    Step,
    chosen_rank,
    method_options,
    recordings_given,
    required,
)
from balred.cli.output import counted, emit_json, number, print_table, reported, say, tell
from balred.cli.pictures import check_picture, draw
from balred.cli.recordings import recorded_options
from balred.cli.results import first_order, result_of
from balred.files.stored import StoredSystem, check_suffix, load, save
from balred.measures.comparison import Comparison, GainChange, dc_gain_change, worst_pole
from balred.measures.comparison import compare as compared
from balred.measures.norms import is_stable
from balred.methods.method import Method, Of, no_bound
from balred.methods.table import METHODS
from balred.ranks.bounds import shares
from balred.realisations.second_order.system import SecondOrderSystem
from balred.realisations.sparse import SparseSystem
from balred.reduction.analysis import Analysis
from balred.reduction.operators import SECOND_ORDER


def hsv(
    file: File,
    method: MethodName = "truncate",
    option: Option = None,
    left: Left = None,
    right: Right = None,
    inputs: Inputs = None,
    dt: Step = None,
    hold: Hold = None,
    offset: Offset = None,
    solver: Solver = None,
    top: Annotated[int, typer.Option(min=1, help="How many rows to print.", rich_help_panel=OUTPUT)] = 20,
    plot: Picture = None,
    as_json: Json = False,
) -> None:
    """Print the Hankel singular values of a system, and what each order would keep.

    With --method or --inputs, print the values by which the method or the recording ranks states.
    """
    files = recordings_given(inputs, dt, hold)
    options = method_options(method, option, left, right, bool(files))
    with reported("hsv", f"analysing {file}"):
        check_picture(plot)
        stored, options = _loaded(file, options, files, dt, hold)
        analysis: Analysis = balred.analyze(stored, method=method, solver=solver, offset=offset, **options)
        fixed = len(analysis.hsv) - len(analysis.sigma)
        energy = [None] * fixed + list(shares(analysis.sigma))
        orders = range(0 if fixed else 1, len(analysis.sigma) + 1) if analysis.state is not None else ()
        known = [float(analysis.method.bounded(analysis.state, k)) for k in orders]
        bound = [None] * (len(analysis.hsv) - len(known)) + known
        if plot is not None:
            from balred.adapters.matplotlib import plot_hsv

            draw(plot_hsv(analysis), plot)
    if as_json:
        emit_json({
            **_described(file, stored), "method": method, **({"recordings": list(map(str, files))} if files else {}), "unstable": fixed,
            "numerical_rank": analysis.numerical_rank, "hsv": analysis.hsv, "energy": energy, "bound": bound,
        })  # fmt: skip
        return
    tell(_headline(file, stored))
    first = float(np.max(analysis.sigma, initial=0.0)) or 1.0
    rows = [
        (str(k + 1), number(s), number(s / first) if np.isfinite(s) else "-", number(energy[k]), number(bound[k]))
        for k, s in enumerate(map(float, analysis.hsv[:top]))
    ]
    print_table(("order", "sigma", "relative", "energy", "error bound"), rows, left=0)
    if len(analysis.hsv) > top:
        tell(f"and {len(analysis.hsv) - top} more (--top)")
    if fixed:
        tell(f"inf: unstable modes ({fixed}), which are kept")
    if analysis.system.order > analysis.system.states:
        tell(f"two values for each of the {analysis.system.states} stored states")
    if isinstance(stored.system, SecondOrderSystem):
        tell(
            "these are values of the first-order form, two states for each position; reduce --first-order cuts this form"
        )
    if isinstance(first_order(stored.system), SparseSystem):
        tell("all other values are too small to be found in double precision")


def reduce(
    file: File,
    order: Annotated[
        int | None, typer.Option(min=1, help="Keep this many states.", show_default=False, rich_help_panel=ORDER)
    ] = None,
    energy: Annotated[
        float | None,
        typer.Option(
            help="Keep this share of the sum of the values, such as 0.99.", show_default=False, rich_help_panel=ORDER
        ),
    ] = None,
    bound: Annotated[
        float | None,
        typer.Option(help="Keep the fewest states with this error bound.", show_default=False, rich_help_panel=ORDER),
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            help="Keep the fewest states with this measured error.", show_default=False, rich_help_panel=ORDER
        ),
    ] = None,
    relative: Annotated[
        bool,
        typer.Option(
            "--relative",
            help="Read --bound as a fraction of the largest value, --max-error as one of the system's norm.",
            rich_help_panel=ORDER,
        ),
    ] = False,
    relative_hsv: Annotated[
        float | None,
        typer.Option(
            help="Keep the values above this fraction of the largest.", show_default=False, rich_help_panel=ORDER
        ),
    ] = None,
    method: MethodName = "truncate",
    option: Option = None,
    left: Left = None,
    right: Right = None,
    inputs: Inputs = None,
    dt: Step = None,
    hold: Hold = None,
    offset: Offset = None,
    solver: Solver = None,
    as_first: Annotated[
        bool,
        typer.Option(
            "--first-order", help="Reduce the first-order form of a second-order system.", rich_help_panel=METHOD
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write the result to this .mat, .npz or .json file.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the output file if it exists.", rich_help_panel=OUTPUT)
    ] = False,
    measure: Annotated[
        bool, typer.Option("--error/--no-error", help="Measure the error of the result.", rich_help_panel=OUTPUT)
    ] = True,
    plot: Picture = None,
    as_json: Json = False,
) -> None:
    """Reduce a system, and print the error, the error bound and other facts about the result.

    Exactly one of --order, --energy, --bound, --max-error and --relative-hsv chooses the order.  Only --output writes a file.
    """
    files = recordings_given(inputs, dt, hold)
    options = method_options(method, option, left, right, bool(files))
    rank = chosen_rank(order, energy, bound, max_error, relative, relative_hsv)
    with reported("reduce", f"reducing {file}"):
        check_picture(plot)
        if output is not None:
            check_suffix(output)
            if not output.parent.is_dir():
                raise ValueError(f"{output}: no such folder")
            if output.exists() and not force:
                raise ValueError(f"{output}: exists already (--force replaces it)")
        stored, options = _loaded(file, options, files, dt, hold)
        made = result_of(stored, rank, measure, as_first, method=method, solver=solver, offset=offset, **options)
        dc = dc_gain_change(first_order(stored.system), made.system)
        dc_relative = None if dc is None or np.isnan(dc.relative) else dc.relative
        problems = made.problems
        if output is not None and not problems:
            save(made.small, output)
        if plot is not None:
            from balred.adapters.matplotlib import plot_error

            # a bound of something else than the error does not belong into its picture, nor one that there is not
            known = made.bound if made.bounds is Of.ERROR and not np.isnan(made.bound) else None
            draw(plot_error(made.full, made.system, bound=known), plot)
    stable = is_stable(made.system)
    written = None if output is None or problems else str(output)
    if as_json:
        emit_json({
            **_described(file, stored), "method": method, "order": made.after, "bound": made.bound,
            "bounds": str(made.bounds), "error": made.error, "error_norm": made.kind,
            **({"recordings": list(map(str, files)), "output_error": made.along} if files else {}), "stable": stable,
            "dc_gain_change": dc_relative, "dc_gain_change_absolute": None if dc is None else dc.absolute, "output": written, "problems": problems,
        })  # fmt: skip
        _end("reduce", problems, output)
        return
    tell(_headline(file, stored))
    unmeasured = "infinite: a pole on the stability boundary moved" if measure else "not measured"
    print_table(
        ("", ""),
        [
            ("order", f"{made.before} to {made.after}"),
            ("method", method),
            ("bound", "none" if np.isnan(made.bound) else f"{number(made.bound)} ({made.bounds})"),
            ("error", unmeasured if made.error is None else f"{number(made.error)} ({_NORMS[made.kind]} norm)"),
            *([("error of the output", f"{number(made.along)} (relative, along the inputs)")] if files else []),
            ("stable", "yes" if stable else "no"),
            ("DC gain", _steady(dc)),
            *([] if written is None else [("written", written)]),
        ],
        left=2,
    )
    _end("reduce", problems, output)


def _steady(dc: GainChange | None) -> str:
    """What became of the gain at frequency zero: relative alone would alarm where it was nearly zero."""
    if dc is None:
        return "infinite"
    if dc.absolute == 0 or dc.relative < 1e-8:
        return "kept"
    share = "of a gain of 0" if np.isnan(dc.relative) else f"{number(dc.relative)} relative"
    return f"changed by {number(dc.absolute)} ({share})"


def _end(command: str, problems: list[str], output: Path | None) -> None:
    """Say on standard error what is wrong with a result, and end with status 1 if anything is."""
    for problem in problems:
        say(command, f"{problem}{'' if output is None else f'; {output} is not written'}")
    if problems:
        raise typer.Exit(1)


def compare(
    file: File,
    reduced: Annotated[Path, typer.Argument(metavar="REDUCED", help="The other system.", show_default=False)],
    max_error: Annotated[
        float | None,
        typer.Option(help="End with status 1 if the H-infinity norm of the difference is larger.", show_default=False),
    ] = None,
    relative: Annotated[
        bool, typer.Option("--relative", help="Read --max-error as a fraction of the norm of FILE.")
    ] = False,
    plot: Picture = None,
    as_json: Json = False,
) -> None:
    """Print how far apart two systems are: norms of their difference, and the frequency where it is largest.

    With --max-error the exit status says whether they are close enough, for scripts and continuous integration.
    """
    if max_error is not None and not 0 < max_error < float("inf"):
        raise typer.BadParameter(f"must be a positive number, got {max_error}", param_hint="--max-error")
    if relative and max_error is None:
        raise typer.BadParameter("must go with --max-error", param_hint="--relative")
    with reported("compare", f"comparing {file} and {reduced}"):
        check_picture(plot)
        full, small = load(file), load(reduced)
        result = compared(full, small)
        firsts = [first_order(g.system) for g in (full, small)]
        poles = [None if isinstance(g, SparseSystem) else worst_pole(g) for g in firsts]
        if plot is not None:
            from balred.adapters.matplotlib import plot_error

            draw(plot_error(full, small), plot)
    pole = "modulus" if full.system.discrete else "real part"
    problems = [] if max_error is None else _too_far(result, max_error, relative)
    if as_json:
        emit_json({
            "file": str(file), "reduced": str(reduced), "states": [full.system.states, small.system.states],
            "error": result.error, "relative": result.relative, "frequency": result.frequency,
            f"largest_{pole.replace(' ', '_')}": poles, **({} if max_error is None else {"problems": problems}),
        })  # fmt: skip
        _end("compare", problems, None)
        return
    tell(_headline(file, full))
    tell(_headline(reduced, small))
    rows = [(_NORMS[kind], number(result.error[kind]), number(result.relative[kind])) for kind in result.error]
    print_table(("norm of the difference", "absolute", "relative"), rows)
    unit = "rad per step" if full.system.discrete else "rad/s"
    tell(f"largest at {number(result.frequency)} {unit}")
    tell(f"largest {pole} of a pole: {number(poles[0])} and {number(poles[1])}")
    _end("compare", problems, None)


def _too_far(result: Comparison, limit: float, relative: bool) -> list[str]:
    """Why two systems are not as near as --max-error asks; nothing if they are."""
    if "hinf" not in result.error:
        return ["the difference is unstable, so its H-infinity norm is infinite, above --max-error"]
    value = (result.relative if relative else result.error)["hinf"]
    if np.isnan(value):
        return [
            "FILE must have a finite, nonzero H-infinity norm for --relative, got one without: leave --relative out"
        ]
    if value <= limit:
        return []
    what = "the H-infinity norm of the difference" + (", relative to that of FILE," if relative else "")
    return [f"{what} must be at most {number(limit)} (--max-error), got {number(value)}"]


_NORMS = {"hinf": "H-infinity", "h2": "H2", "hankel": "Hankel", "linf": "L-infinity", "l2": "L2"}


def methods(as_json: Json = False) -> None:
    """List the methods of reduction: their error bounds, their options, and what they do with unstable modes."""
    table: dict[str, dict[str, Any]] = {
        name: {
            "summary": _summary(row),
            "bounds": None if row.bound is no_bound else str(row.bounds),
            "options": {key: value for key, value in row.options.items() if value is not inspect.Parameter.empty},
            "second_order": SECOND_ORDER[name].options if name in SECOND_ORDER else None,
            "required": required(row),
            "unstable": "reduced" if row.takes_unstable else "kept",
        }
        for name, row in METHODS.items()
    }
    if as_json:
        emit_json(table)
        return
    rows = []
    for name, row in table.items():
        known = [f"{key}=... (required)" for key in row["required"]]
        known += [f"{key}={json.dumps(value)}" for key, value in row["options"].items()]
        details = f"bounds: {row['bounds'] or 'none'}\noptions: {', '.join(known) or 'none'}\nunstable modes are {row['unstable']}\n"
        if row["second_order"] is not None:
            of_second = ", ".join(f"{key}={json.dumps(value)}" for key, value in row["second_order"].items())
            details += f"second-order systems stay second-order; options: {of_second}\n"
        rows.append((name, f"{row['summary']}\n{details}"))
    print_table(("method", "what it does"), rows, left=2)


def _summary(row: Method) -> str:
    """The first line of what is documented of the function that no other method has, with its formulas as plain text."""
    shared = [other.prepare for other in METHODS.values()].count(row.prepare) > 1
    text = (inspect.getdoc(row.reduce if shared else row.prepare) or "").partition("\n")[0]
    text = re.sub(r":\w+:`~?([^`]*)`", r"\1", text).replace("``", "")
    return re.sub(r"\\([a-z]+|.)", lambda found: _TEX.get(found[1], found[1]), text)


_TEX = {"infty": "inf", "le": "<=", "ge": ">="}


def _loaded(
    file: Path, options: dict[str, Any], recordings: list[Path], dt: float | None, hold: str | None
) -> tuple[StoredSystem, dict[str, Any]]:
    """The one system of a file, and the options with systems and signals in place of files."""
    options = {
        key: balred.adapt(load(value))[0] if isinstance(value, Path) else value for key, value in options.items()
    }
    stored = load(file)
    if stored.system.B.ndim > 2:
        raise ValueError(f"{file}: one system is needed, got a batch of shape {stored.system.B.shape[:-2]}")
    if recordings:
        options |= recorded_options(recordings, dt, hold, stored.system, stored.inputs)
    return stored, options


def _described(file: Path, stored: StoredSystem) -> dict[str, Any]:
    g = stored.system
    return {
        "file": str(file), "name": stored.name, "states": g.states, "inputs": g.B.shape[-1],
        "outputs": g.C.shape[-2], "dt": g.dt, "second_order": isinstance(g, SecondOrderSystem),
    }  # fmt: skip


def _headline(file: Path, stored: StoredSystem) -> str:
    d = _described(file, stored)
    time = "continuous" if not stored.system.discrete else "discrete" if d["dt"] is True else f"dt = {d['dt']:.6g}"
    name = f" ({stored.name})" if stored.name else ""
    order = counted(d["states"], "position" if d["second_order"] else "state")
    return f"{file}{name}: {order}, {counted(d['inputs'], 'input')}, {counted(d['outputs'], 'output')}, {time}"
