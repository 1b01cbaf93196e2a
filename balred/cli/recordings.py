"""Recorded input signals in files, for ``--inputs``: a table of columns, or an array and the time between its samples.

What a file means is settled here, so that nothing is guessed of which a command would not say so: names of columns, where time
is, which axis is time.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from balred.files.formats import read_npy, read_npz, room_of
from balred.files.matlab import read_mat

Matrix = NDArray[Any]
SUFFIXES = (".csv", ".npy", ".npz", ".mat")
_SIGNALS, _TIMES, _STEPS = ("u", "U", "inputs"), ("t", "time"), ("dt", "Ts")
_EVEN, _SAME = 5e-2, 1e-2
"""By this part of a step times may be off, since tables print few digits; steps of several sources differ by less."""


class Recording(NamedTuple):
    """What a file holds.

    Attributes
    ----------
    signal : array, shape (inputs, samples)
    step : float or None
        Seconds between samples, if the file says.
    names : tuple of str
        Of the inputs, if it has any.
    table : bool
        Whether it says which axis is time; of arrays either may be.
    """

    signal: Matrix
    step: float | None
    names: tuple[str, ...] = ()
    table: bool = False


def recorded_options(
    paths: list[Path], dt: float | None, hold: str | None, system: Any, names: tuple[str, ...]
) -> dict[str, Any]:
    """The options ``inputs``, ``dt`` and ``hold`` for files of recordings, which fit a system with inputs of these names.

    Raises
    ------
    OSError
        A file cannot be read.
    ValueError
        It holds no recording of so many inputs; times are uneven; files do not have one step.
    """
    signals, steps = [], {} if dt is None else {"--dt": dt}
    for path in paths:
        try:
            found = read_recording(path)
            signals.append(_fitting(found, int(system.B.shape[-1]), names))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        if found.step is not None:
            steps[str(path)] = found.step
    own = float(system.dt) if system.discrete and system.dt is not True else None
    first = own if own is not None else next(iter(steps.values()), None)
    for where, step in steps.items():
        if first is not None and not abs(step - first) <= _SAME * first:
            what = f"the system's, {first:.6g}" if own is not None else f"one for all, {first:.6g}"
            raise ValueError(f"the seconds between samples must be {what}, got {step:.6g} in {where}: resample one")
    return {"inputs": signals, "dt": first, **({} if hold is None else {"hold": hold})}


def read_recording(path: Path) -> Recording:
    """What a file holds.

    ``.csv``: a column for each input, a row for each sample, separated by commas, semicolons or tabs; a first row of names if
    there is one.  A first column named t or time (in seconds) is no input.  ``.npy``: an array.  ``.npz``, ``.mat``: the
    array u, or inputs, or the only one, beside t (or time) or dt (or Ts).
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"the suffix of a recording must be one of {', '.join(SUFFIXES)}, got {suffix!r}")
    data = path.read_bytes()
    if suffix == ".csv":
        return _of_table(data)
    if suffix == ".npy":
        try:
            return Recording(_array("the array", read_npy(data, path.name)), None)
        except (ValueError, EOFError) as error:
            raise ValueError(f"the file must be an .npy array without pickled objects, got: {error}") from None
    every = room_of(data)
    return _of_entries(
        read_npz(data, lambda _: True) if suffix == ".npz" else read_mat(data, lambda _, s: not s, every)
    )


def _of_table(data: bytes) -> Recording:
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"a .csv file must be text in UTF-8, got {error.reason} at byte {error.start}") from None
    head = next((line for line in lines if line.strip()), "")
    comma = next((one for one in ",;\t" if one in head), ",")
    rows = [(at, row) for at, row in enumerate(csv.reader(lines, delimiter=comma), 1) if any(map(str.strip, row))]
    if not rows:
        raise ValueError("a recording must have at least one sample, got an empty file")
    first = [cell.strip() for cell in rows[0][1]]
    first[0] = first[0].removeprefix("#").strip()
    names: tuple[str, ...] = ()
    if no_numbers := [cell for cell in first if _number(cell) is None]:
        if len(no_numbers) < len(first):
            raise ValueError(
                f"the first line must hold names or numbers, got both: {_short(no_numbers[0])!r} in line {rows[0][0]}"
            )
        if len(set(first)) < len(first):
            raise ValueError(f"names of columns must differ, got {_listed(first)}")
        names, rows = tuple(first), rows[1:]
    table = np.array([_row(at, row, len(first)) for at, row in rows]).reshape(len(rows), len(first))
    step = None
    if names and (named := re.fullmatch(r"(?i)(?:t|time)\s*(?:[\[(]\s*(\w+)\s*[\])])?", names[0])):
        if named[1] not in (None, "s", "sec", "seconds"):
            raise ValueError(f"time must be in seconds, got {_short(names[0])!r}")
        step, table, names = _step_of(table[:, 0]), table[:, 1:], names[1:]
    return Recording(table.T, step, names, True)


def _row(at: int, row: list[str], width: int) -> list[float]:
    if len(row) != width:
        raise ValueError(f"every line must have {width} columns, got {len(row)} in line {at}")
    values = [_number(cell) for cell in row]
    if None in values:
        raise ValueError(
            f"every column must hold numbers, got {_short(row[values.index(None)].strip())!r} in line {at}"
        )
    return values  # type: ignore[return-value]


def _short(text: str) -> str:
    """As much of a text from a file as a line of error has room for."""
    return text if len(text) <= 40 else f"{text[:40]}..."


def _listed(names: Iterable[str]) -> str:
    short = list(map(_short, names))
    return ", ".join(short if len(short) <= 8 else [*short[:8], f"and {len(short) - 8} more"])


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _of_entries(entries: Mapping[str, Any]) -> Recording:
    beside = (*_TIMES, *_STEPS)
    arrays = [key for key, x in entries.items() if key not in beside and np.ndim(x) and x.dtype.kind in "iufcb"]
    named = [key for key in _SIGNALS if key in entries] or (arrays if len(arrays) == 1 else [])
    if len(named) != 1:
        raise ValueError(
            f"a recording must be the only array, or called u or inputs, got {_listed(entries) or 'nothing'}"
        )
    step = None
    for key in (key for key in beside if key in entries):
        values = _array(key, entries[key]).reshape(-1)
        if key in _STEPS and values.size != 1:
            raise ValueError(f"{key} must be one number, got {values.size}")
        found = float(values[0].real) if key in _STEPS else _step_of(values.real)
        if not 0 < found < np.inf:
            raise ValueError(f"{key} must be a positive number of seconds, got {found:.6g}")
        if step is not None and not abs(found - step) <= _SAME * step:
            raise ValueError(
                f"{key} must agree with the step that the rest of the file gives, {step:.6g}, got {found:.6g}"
            )
        step = found if step is None else step
    return Recording(_array(named[0], entries[named[0]]), step)


def _array(key: str, x: Any) -> Matrix:
    if not hasattr(x, "dtype") or x.dtype.kind not in "iufcb" or hasattr(x, "toarray"):
        raise ValueError(f"{key} must hold numbers, got {getattr(x, 'dtype', type(x).__name__)}")
    return np.asarray(x)


def _step_of(t: Matrix) -> float:
    """The seconds between samples at these times."""
    if len(t) < 2:
        raise ValueError(f"there must be at least two times, from which the step follows, got {len(t)}")
    step = float((t[-1] - t[0]) / (len(t) - 1))
    off = np.abs(t - t[0] - step * np.arange(len(t)))
    if not (step > 0 and np.all(off <= _EVEN * step)):
        at = int(np.argmax(np.where(np.isfinite(off), off, np.inf)))
        raise ValueError(
            f"times must be equally spaced, got {t[at]:.6g} at sample {at} with a step of {step:.6g}: resample the recording"
        )
    return step


def _fitting(found: Recording, inputs: int, names: tuple[str, ...]) -> Matrix:
    """The signal with the inputs of a system along its first axis, in the system's order where both have names."""
    u = found.signal
    if names and set(names) <= set(found.names):
        return np.asarray(u[[found.names.index(name) for name in names]])
    if missing := [name for name in names if name not in found.names] if set(names) & set(found.names) else []:
        raise ValueError(
            f"a recording must have all of the system's inputs, got {_listed(found.names)}: {', '.join(missing)} missing"
        )
    if u.ndim == 1:
        u = u[None, :]
    if u.ndim == 2 and u.shape[0] != inputs and u.shape[1] == inputs and not found.table:
        u = u.T
    if u.ndim != 2 or u.shape[0] != inputs:
        had = f"columns {_listed(found.names)}" if found.names else f"shape {u.shape}"
        more = "; a column of times needs the name t or time" if u.ndim == 2 and u.shape[0] == inputs + 1 else ""
        raise ValueError(f"a recording must have the system's inputs, {', '.join(names) or inputs}, got {had}{more}")
    return u
