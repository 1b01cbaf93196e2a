"""What the files of a run must hold for a report: people open folders of others, damaged ones, and the wrong ones."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Kind = Callable[[Any], bool]

_LARGEST = 1e30
"""Of numbers and counts: larger ones are damage, and pictures of them fail."""


def is_count(x: Any) -> bool:
    """Steps, states, seeds."""
    return type(x) is int and 0 <= x <= 10**12


def is_number(x: Any) -> bool:
    """A finite number."""
    return type(x) in (int, float) and math.isfinite(x) and abs(x) <= _LARGEST


def is_measured(x: Any) -> bool:
    """A number, or what became of one."""
    return is_number(x) or (type(x) is float and not math.isfinite(x))


def is_text(x: Any) -> bool:
    """Text that can be written to a file."""
    return isinstance(x, str) and not any("\ud800" <= c <= "\udfff" for c in x)


def is_name(x: Any) -> bool:
    """The name of a layer, which is also the name of a file."""
    return is_text(x) and not set(x) & set("/\\\0") and len(x) <= 200


def is_ranks(x: Any) -> bool:
    """States by layer."""
    return isinstance(x, dict) and all(map(is_text, x)) and all(map(is_count, x.values()))


def is_spectra(x: Any) -> bool:
    """Hankel singular values by layer; those of unstable modes are infinite."""
    return isinstance(x, dict) and all(map(is_name, x)) and all(map(_is_spectrum, x.values()))


def _is_spectrum(x: Any) -> bool:
    return isinstance(x, list) and bool(x) and all(is_number(v) or v == math.inf for v in x)


def is_texts(x: Any) -> bool:
    """Text by text, such as versions by package."""
    return isinstance(x, dict) and all(is_text(text) for pair in x.items() for text in pair)


def maybe(kind: Kind) -> Kind:
    """Also null, as JSON calls it, and left out."""
    return lambda x: x is None or kind(x)


def is_settings(x: Any) -> bool:
    """What a training was told, value by name; its window, if it is there, are two steps."""
    window = x.get("window", [0, 0]) if isinstance(x, dict) else None
    steps = isinstance(window, list) and len(window) == 2 and all(map(is_count, window))
    return (
        steps and all(map(is_text, x)) and all(is_text(json.dumps(value, ensure_ascii=False)) for value in x.values())
    )


_STEP = {"step": is_count, "seconds": maybe(is_number), "loss": maybe(is_measured), "ranks": maybe(is_ranks)}
METRICS: dict[str, Mapping[str, Kind]] = {
    "step": _STEP,
    "evaluation": {
        **_STEP,
        "seconds": is_number,
        "accuracy": is_number,
        "test_loss": maybe(is_measured),
        "ranks": is_ranks,
    },
    "hsv": {"step": is_count, "layers": is_spectra},
}
_CUT = {
    "step": is_count,
    "layer": is_text,
    "from": is_count,
    "to": is_count,
    "energy": is_measured,
    "bound": maybe(is_measured),
    "note": maybe(is_text),
    "loss_before": maybe(is_measured),
    "loss_after": maybe(is_measured),
    "settings": maybe(is_settings),
}
EVENTS: dict[str, Mapping[str, Kind]] = {
    "cut": _CUT,
    "would cut": _CUT,
    "skipped": {"step": is_count, "layer": is_text, "why": is_text, "settings": maybe(is_settings)},
    "restored": {"step": is_count, "ranks": is_ranks, "back_to": maybe(is_count), "settings": maybe(is_settings)},
    "nothing": {"step": is_count, "ranks": is_ranks, "settings": maybe(is_settings)},
}
RESULT: Mapping[str, Kind] = {
    "run": is_text, "seed": is_count, "accuracy": maybe(is_number), "seconds": is_number, "steps": is_count,
    "tau": maybe(is_number), "ranks": maybe(is_ranks), "test_loss": maybe(is_measured), "hardware": maybe(is_text),
    "versions": maybe(is_texts), "mode": maybe(is_text),
}  # fmt: skip
"""What may stand in a line of each kind, and in a result; more may."""


def check(where: str, entry: Mapping[str, Any], kinds: Mapping[str, Kind]) -> None:
    """Raise unless every value of `entry` is of its kind.

    Examples
    --------
    >>> check("events.jsonl, line 3", {"step": "4"}, {"step": is_count})
    Traceback (most recent call last):
    ...
    ValueError: events.jsonl, line 3: step must be what balred writes there, got '4'
    """
    for key, kind in kinds.items():
        if not kind(entry.get(key)):
            got = f"{entry[key]!r:.60}" if key in entry else "none"
            raise ValueError(f"{where}: {key} must be what balred writes there, got {got}")


def check_lines(path: Path, lines: list[dict[str, Any]], kinds: Mapping[str, Mapping[str, Kind]]) -> None:
    """Raise unless every line of a log is what its event says; of an unknown one only what all have is read."""
    for number, line in enumerate(lines, start=1):
        if not is_text(line["event"]):
            raise ValueError(f"{path}, line {number}: event must be text, got {line['event']!r:.60}")
        check(f"{path}, line {number} ({line['event']:.20})", line, kinds.get(line["event"], _STEP))
