"""The command, run within the process, and what it prints."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest
from typer.testing import CliRunner

from balred.cli import app

# older versions of click put standard error into the output, unless they are told not to
APART = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}
RUNNER = CliRunner(**APART)
PLAIN = {"COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb"}


def run(*arguments: Any, code: int = 0) -> Any:
    """The result of a command line, which must end with `code` and without a traceback."""
    result = RUNNER.invoke(app, [str(a) for a in arguments], env=PLAIN)
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def as_json(*arguments: Any) -> Any:
    """What the command prints with --json: valid JSON by the letter of the standard, and nothing else."""

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    return json.loads(run(*arguments, "--json").stdout, parse_constant=refuse)
