"""The command, run within the process, and what it prints."""

from __future__ import annotations

import inspect
import json
import os
import random
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


def processor_time() -> float:
    """Seconds that this process and its children that ended have computed; other work beside them does not count."""
    return sum(os.times()[:4])


def ends_well(*arguments: Any, seconds: float = 20.0) -> int:
    """The status of a command that says at most one line of what is wrong, and computes for no longer than `seconds`."""
    start = processor_time()
    result = RUNNER.invoke(app, [str(a) for a in arguments], env=PLAIN)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    assert not set(result.output) - {"\n"} & {chr(c) for c in range(32)}, result.output
    lines = [line for line in result.stderr.splitlines() if ": note: " not in line]
    assert (len(lines), result.exit_code) in ((0, 0), (1, 1)), result.stderr
    if lines:
        assert lines[0].startswith(f"balred {arguments[0]}: ")
        assert len(lines[0]) < 1000
    assert processor_time() - start < seconds
    return result.exit_code


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Flipped, cut, doubled, zeroed, or of something else."""
    at, to = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    kind = rng.randrange(7)
    if kind < 2:
        at = min(at, len(data) - 1)
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    return (data[:at], data[:at] + bytes(to - at) + data[to:], data[:to] + data[at:], rng.randbytes(len(data)), b"")[
        kind - 2
    ]
