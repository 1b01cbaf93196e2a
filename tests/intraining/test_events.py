"""Logs are appended to by processes that are killed, on disks that get full: every whole line counts, no line is glued to half of one."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from balred.intraining import EventLog, Report, sinks_of


def event(step: int) -> dict[str, Any]:
    return {"event": "nothing", "step": step, "why": "ü" * step}


def steps(log: EventLog) -> list[int]:
    return [e["step"] for e in log.read()]


def test_a_kill_at_any_byte(tmp_path: Path) -> None:
    """Whatever of the last line reached the disk, the next ones are whole, and the last one counts if it is."""
    whole = "".join(json.dumps(event(k), ensure_ascii=False) + "\n" for k in (1, 2)).encode()
    first = whole.index(b"\n") + 1
    for length in range(len(whole) + 1):
        for zeros in (b"", bytes(5)):  # where the size reached the disk and the text did not
            log = EventLog(tmp_path / "e.jsonl")
            log.path.write_bytes(whole[:length] + zeros)
            before = steps(log)
            assert before == [1] * (length >= first - (not zeros)) + [2] * (length >= len(whole) - (not zeros))
            log.append([event(3)])
            assert steps(log) == [*before, 3]
            log.append([event(4), event(5)])
            assert steps(log) == [*before, 3, 4, 5]


def test_a_long_half_line_goes(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "e.jsonl")
    log.append([event(1)])
    with log.path.open("ab") as file:
        file.write(b'{"event": "' + b"x" * 300_000)
    log.append([event(2)])
    assert steps(log) == [1, 2]
    with log.path.open("ab") as file:
        file.write(json.dumps({**event(3), "long": "x" * 300_000}).encode())
    log.append([event(4)])
    assert steps(log) == [1, 2, 3, 4]


def test_what_is_no_log_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("a first line\nmy notes")
    with pytest.raises(ValueError, match=r"notes\.txt: every line must be an event, got the last line 'my notes'"):
        EventLog(path).append([event(1)])
    assert path.read_text() == "a first line\nmy notes"


@pytest.mark.parametrize("line", ["{}", "[1]", "nonsense", '{"event": "cut"}', "\\xff", "[" * 100_000, '{"step": 1'])
def test_lines_that_are_no_events_are_told_where_that_is_asked(line: str, tmp_path: Path) -> None:
    log = EventLog(tmp_path / "e.jsonl")
    text = line.encode().replace(b"\\xff", b"\xff")
    log.path.write_bytes(json.dumps(event(1)).encode() + b"\n" + text + b"\n" + json.dumps(event(2)).encode() + b"\n")
    with pytest.raises(ValueError, match=r"e\.jsonl: every line must be an event, got line 2"):
        log.read()
    told: list[str] = []
    assert [e["step"] for e in log.read(tell=told.append)] == [1, 2]
    assert len(told) == 1
    assert "got line 2" in told[0]


def test_a_full_disk_takes_all_or_nothing(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    log = EventLog(tmp_path / "e.jsonl")
    log.append([event(1)])
    before = log.path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in (0, 1, 40):
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + room, limits[1]))
        try:
            with pytest.raises(OSError, match=r"large|left") as caught:
                log.append([event(2), event(3)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert caught.value.filename == str(log.path)
        assert caught.value.errno in (errno.EFBIG, errno.ENOSPC)
        assert log.path.read_bytes() == before
    log.append([event(2)])
    assert steps(log) == [1, 2]
    assert os.listdir(tmp_path) == ["e.jsonl"]


def test_a_log_that_lost_lines_is_told(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "e.jsonl")
    log.append([event(1), event(2)])
    with pytest.warns(
        UserWarning, match="must still hold the 5 events that it held at the checkpoint, got 2: the others are lost"
    ):
        log.rewind(5)
    assert steps(log) == [1, 2]


def test_the_first_event_tells_the_settings(tmp_path: Path) -> None:
    """Once for each training that writes to the file, and again where a checkpoint's rewind took it away."""
    path, report = tmp_path / "e.jsonl", Report(3, (), {"a": 4})
    log = EventLog(path, {"window": [0, 9]})
    for _ in range(2):
        log(report)
    EventLog(path, {"window": [0, 5]})(report)
    EventLog(path)(report)
    assert [e.get("settings") for e in log.read()] == [{"window": [0, 9]}, None, {"window": [0, 5]}, None]
    log.rewind(0)
    log(report)
    assert [e["settings"] for e in log.read()] == [{"window": [0, 9]}]


def test_a_log_of_any_form_gets_the_settings(tmp_path: Path) -> None:
    own = EventLog(tmp_path / "own.jsonl", {"mine": 1})
    sinks = sinks_of([tmp_path / "a.jsonl", EventLog(tmp_path / "b.jsonl"), own], {"window": [0, 9]})
    assert [sink.settings for sink in sinks if isinstance(sink, EventLog)] == [
        {"window": [0, 9]},
        {"window": [0, 9]},
        {"mine": 1},
    ]
