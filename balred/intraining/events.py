"""What in-training truncation did, as events: JSON lines in a file, scalars for TensorBoard, Weights & Biases or anything callable.

A run that is killed and resumed from a checkpoint repeats steps; its file is rewound to what it held at the checkpoint, so
that it reads as if nothing had happened.
"""

from __future__ import annotations

import errno
import json
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from io import FileIO
from os import PathLike
from pathlib import Path
from typing import Any

from balred.files.replacing import replacing
from balred.intraining.fitting import named
from balred.intraining.report import Report

Event = dict[str, Any]
Sink = Callable[[Report], None]

_BLOCK = 65536


def events_of(report: Report) -> list[Event]:
    """The events of a report, ready for JSON.

    Returns
    -------
    list of dict
        One for each layer that was cut ("event": "cut", or "would cut" in a dry run) or skipped ("skipped"), one for a
        cut that was taken back ("restored"), and one ("nothing") for an attempt with none of these.

    Examples
    --------
    >>> from balred.intraining import Cut, Report
    >>> report = Report(100, (Cut("ssm", 64, 16, energy=0.99, bound=0.02),), {"ssm": 16}, seconds=0.5)
    >>> events_of(report)[0]["event"], events_of(report)[0]["to"]
    ('cut', 16)
    """
    common = {"step": report.step, "seconds": report.seconds}
    before, after = (None, None) if report.loss is None else map(_finite, report.loss)
    if report.restored:
        return [{"event": "restored", **common, "back_to": report.back_to, "ranks": dict(report.ranks)}]
    events = [
        {
            "event": "would cut" if report.dry_run else "cut", **common, "layer": c.layer, "from": c.before, "to": c.after,
            "energy": c.energy, "bound": _finite(c.bound), "note": c.note, "loss_before": before, "loss_after": after,
        }
        for c in report.cuts
    ]  # fmt: skip
    events += [{"event": "skipped", **common, "layer": name, "why": why} for name, why in report.skipped.items()]
    return events or [{"event": "nothing", **common, "ranks": dict(report.ranks)}]


def _finite(x: float | None) -> float | None:
    return None if x is None or not math.isfinite(x) else float(x)


class EventLog:
    """A file of events, one JSON object a line.

    Parameters
    ----------
    path : path
        Appended to; made with its folders when the first event comes.
    settings : mapping, optional
        The settings of the training, in plain values.  The first event of the training holds them as "settings", so the
        reader of the file knows where the window was.  The first event after ``rewind`` holds them if they have
        changed.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     log = EventLog(f"{folder}/cuts.jsonl")
    ...     log(Report(100, (), {"ssm": 16}))
    ...     [event["event"] for event in log.read()]
    ['nothing']
    """

    def __init__(self, path: str | PathLike[str], settings: Mapping[str, Any] | None = None) -> None:
        self.path = Path(path)
        self.settings = settings
        self._told = settings is None

    def __call__(self, report: Report) -> None:
        """Append the events of a report; they are on the disk when this returns."""
        first, *others = events_of(report)
        if not self._told:
            first["settings"] = self.settings
        self.append([first, *others])
        self._told = True

    def append(self, events: Sequence[Event]) -> None:
        """Append events, each with an "event" and a "step"; they are on the disk when this returns.

        A last line that a killed process left half-written is removed first.

        Raises
        ------
        OSError
            They cannot be written; none of them is in the file then.
        ValueError
            The file ends with something that is not part of an event.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        data = "".join(json.dumps(event) + "\n" for event in events).encode()
        file = self.path.open("a+b", buffering=0)
        with file:
            self._repair(file)
            end = file.seek(0, os.SEEK_END)
            try:
                written = file.write(data)
                if written != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError as error:
                file.truncate(end)
                raise type(error)(error.errno, error.strerror, str(self.path)) from None

    def _repair(self, file: FileIO) -> None:
        """Have the file end with a whole line."""
        end = file.seek(0, os.SEEK_END)
        start, tail = end, b""
        while start > 0 and b"\n" not in tail:
            start = max(0, start - _BLOCK)
            file.seek(start)
            tail = file.read(end - start)
        tail = tail[tail.rfind(b"\n") + 1 :]
        if not tail:
            return
        if _event(tail) is not None:
            file.write(b"\n")
        elif tail.lstrip(b"\0").startswith(b"{") or not tail.strip(b"\0"):
            file.truncate(end - len(tail))
        else:
            raise ValueError(f"{self.path}: every line must be an event, got the last line {_shown(tail)}")

    def read(self, tell: Callable[[str], object] | None = None) -> list[Event]:
        """The events; a last line that a killed process left half-written is dropped.

        Parameters
        ----------
        tell : callable, optional
            Called with a message about each other line that is not an event.  Such a line is left out.

        Raises
        ------
        ValueError
            Without `tell`: another line is not an event.
        """
        if not self.path.exists():
            return []
        lines = self.path.read_bytes().split(b"\n")
        events = []
        for number, line in enumerate(lines, start=1):
            event = _event(line)
            if event is not None:
                events.append(event)
            elif line and number < len(lines):
                message = f"{self.path}: every line must be an event, got line {number}: {_shown(line)}"
                if tell is None:
                    raise ValueError(message)
                tell(message)
        return events

    def rewind(self, count: int) -> None:
        """Drop all but the first `count` events: what happened after the checkpoint from which a run goes on."""
        self._told = self.settings is None
        if not self.path.exists():
            return
        there = self.read()
        if len(there) < count:
            warnings.warn(
                f"{self.path}: a log must still hold the {count} events that it held at the checkpoint, got {len(there)}: "
                "the others are lost",
                stacklevel=2,
            )
        kept = there[:count]
        said = [event["settings"] for event in kept if "settings" in event]
        self._told = self._told or said[-1:] == [json.loads(json.dumps(self.settings))]
        with replacing(self.path) as file:
            file.writelines(json.dumps(event) + "\n" for event in kept)


def _event(line: bytes) -> Event | None:
    """The event in a line; None where there is none, or not all of one."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and "event" in event and "step" in event else None


def _shown(line: bytes) -> str:
    return repr(line[:60].decode(errors="backslashreplace"))


def scalars_of(report: Report) -> dict[str, float]:
    """Numbers for a logger: the rank of every layer, and energy and bound of those that were cut.

    Examples
    --------
    >>> from balred.intraining import Cut, Report
    >>> scalars_of(Report(100, (Cut("ssm", 64, 16, energy=0.99, bound=0.02),), {"ssm": 16}))
    {'balred/rank/ssm': 16.0, 'balred/energy/ssm': 0.99, 'balred/bound/ssm': 0.02}
    """
    found = {f"balred/rank/{name or 'layer'}": float(rank) for name, rank in report.ranks.items()}
    for cut in report.cuts:
        found[f"balred/energy/{cut.layer or 'layer'}"] = cut.energy
        found[f"balred/bound/{cut.layer or 'layer'}"] = cut.bound
    if report.loss is not None:
        found["balred/loss_change"] = report.loss[1] - report.loss[0]
    return found


def sinks_of(log: Any, settings: Mapping[str, Any] | None = None) -> tuple[Sink, ...]:
    """The functions to call with each report, made of the argument `log`.

    Parameters
    ----------
    log : None, path, TensorBoard writer, W&B run, callable, or a sequence of these
        A path becomes an :class:`EventLog`.  A writer has a method ``add_scalar(name, value, step)``, a run has
        ``log(dict)``.  Any other callable is called with the report.
    settings : mapping, optional
        Settings of the training, for log files; see :class:`EventLog`.

    Raises
    ------
    TypeError
        `log` is something else.

    Examples
    --------
    >>> [sink.path.name for sink in sinks_of(["cuts.jsonl", EventLog("more.jsonl")])]
    ['cuts.jsonl', 'more.jsonl']
    """
    if log is None:
        return ()
    if isinstance(log, (list, tuple)):
        return tuple(sink for one in log for sink in sinks_of(one, settings))
    if isinstance(log, (str, PathLike)):
        return (EventLog(log, settings),)
    if isinstance(log, EventLog):
        return (log if log.settings is not None else EventLog(log.path, settings),)
    if hasattr(log, "add_scalar"):

        def add(report: Report) -> None:
            for name, value in scalars_of(report).items():
                log.add_scalar(name, value, report.step)

        return (add,)
    if callable(getattr(log, "log", None)):
        return (lambda report: log.log({"balred/step": report.step, **scalars_of(report)}),)
    if callable(log):
        return (log,)
    raise TypeError(f"log must be a path, a TensorBoard writer, a W&B run or a callable, got {log!r}")


def counts_of(sinks: Sequence[Sink]) -> dict[str, int]:
    """How many events the files among `sinks` hold, by the names of the files: what a checkpoint keeps of them."""
    return {name: len(log.read()) for name, log in _files(sinks).items()}


def rewind(sinks: Sequence[Sink], counts: Mapping[str, int]) -> None:
    """Take the files among `sinks` back to the `counts` of a checkpoint, so that the steps since then are not told twice.

    Raises
    ------
    ValueError
        A file with events in it is none of those that the checkpoint knows.  Nothing is changed then.
    """
    files = _files(sinks)
    for name, log in files.items():
        if name not in counts and (there := len(log.read())):
            raise ValueError(
                f"a log file must be new, or one of the checkpoint's ({', '.join(counts) or 'none'}), got {log.path} with {there} "
                "events"
            )
    for name in files.keys() & counts.keys():
        files[name].rewind(counts[name])


def _files(sinks: Sequence[Sink]) -> dict[str, EventLog]:
    return named((sink for sink in sinks if isinstance(sink, EventLog)), lambda log: log.path.name)
