"""What every command says in the same way: errors in one line, tables for people, JSON for programs, a spinner.

Results go to standard output, everything else to standard error, so that a pipe sees results only.
"""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

_ROOM = 900
"""Characters of a line of error."""


@contextmanager
def reported(command: str, doing: str | None) -> Iterator[Callable[[str], object]]:
    """Run the body with a spinner on a terminal; an error of what was given ends the command with one line and status 1.

    Without `doing` there is no spinner.  Warnings are notes, a line each.  The body gets a function that says beside the spinner how far it is.
    """
    console = Console(stderr=True)
    failure = None
    with warnings.catch_warnings(record=True) as notes:
        warnings.filterwarnings("always", category=UserWarning)
        try:
            if doing is not None and console.is_terminal:
                line = shown(f"{doing} ...", sys.stderr)
                with console.status(escape(line)) as status:
                    yield lambda progress: status.update(escape(f"{line} {shown(progress, sys.stderr)}"))
            else:
                yield lambda progress: None
        except (ValueError, TypeError, ArithmeticError, MemoryError, ImportError) as error:
            failure = str(error)
        except OSError as error:
            failure = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        except RecursionError as error:
            failure = f"what was given is nested too deeply ({error})"
    for note in notes:
        say(command, f"note: {note.message}")
    if failure is not None:
        say(command, failure)
        raise typer.Exit(1)


def say(command: str, message: str) -> None:
    """A line on standard error: its beginning and its end where it quotes more of a file than anybody reads."""
    line = shown(f"balred {command}: {' '.join(message.split())}", sys.stderr)
    typer.echo(line if len(line) <= _ROOM else f"{line[: _ROOM * 2 // 3]} ... {line[-_ROOM // 3 :]}", err=True)


def tell(line: str) -> None:
    """A line on standard output."""
    typer.echo(shown(line, sys.stdout))


def counted(number: int, noun: str) -> str:
    """`number` and `noun`, with an s for any number but one: ``counted(1, "input")`` is ``"1 input"``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def shown(text: str, stream: IO[str], lines: bool = False) -> str:
    """`text` as a terminal may see it: names come from files of strangers, and must not move its cursor or add lines.

    Examples
    --------
    >>> print(shown("a name\\x1b[2J of\\ud800 two\\nlines", sys.stdout))
    a name\\x1b[2J of\\ud800 two\\nlines
    """
    safe = "".join(c if c.isprintable() or (lines and c == "\n") else c.encode("unicode_escape").decode() for c in text)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return safe.encode(encoding, "backslashreplace").decode(encoding)


def emit_json(data: Any) -> None:
    """`data` as JSON: NaN becomes null, and an infinite number the string "Infinity", which JSON has no number for."""
    typer.echo(json.dumps(_plain(data), indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(member) for member in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def number(value: float | None) -> str:
    """Six digits, or a dash where there is no number."""
    return "-" if value is None or math.isnan(value) else f"{value:.6g}"


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> None:
    """A table on standard output; its first `left` columns are text, the others numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, show_header=any(columns))
    for at, column in enumerate(columns):
        table.add_column(column, justify="left" if at < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(shown(cell, sys.stdout, lines=True) for cell in row))
    console = Console(highlight=False, markup=False)
    with console.capture() as printed:
        console.print(table)
    for line in printed.get().splitlines():
        tell(line.rstrip())
