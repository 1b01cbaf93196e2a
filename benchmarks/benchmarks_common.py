"""What every benchmark script shares: the machine's description, a table, and where results go."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def describe_machine() -> dict[str, Any]:
    """Date, processor, cores, threads and versions: what a figure needs beside it."""
    packages = {}
    for name in ("balred", "numpy", "scipy", "slycot", "control", "pymor", "torch", "jax", "equinox", "optax"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    processor = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        processor = names[0] if names else processor
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": {k: os.environ[k] for k in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS") if k in os.environ},
        "python": platform.python_version(),
        "packages": packages,
    }


def best_of(function: Callable[[], T], repeats: int) -> tuple[float, T]:
    """Shortest time of `repeats` calls in seconds, and the last result."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - began)
    return min(times), result


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def write(folder: Path, name: str, result: dict[str, Any], table: str) -> None:
    """Write the raw result and its table beside each other."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    machine = result["machine"]
    packages = ", ".join(f"{k} {v}" for k, v in machine["packages"].items())
    note = f"\n{machine['date']}, {machine['processor']}, {machine['cores']} cores; {packages}.\n"
    (folder / f"{name}.md").write_text(table + note)


def train(step: Callable[[Any, Any], object], task: Any, order: Any, held: int, first: int, last: int) -> None:
    """The steps `first` to `last` of a training, each on its batch of `order`; the first `held` examples are kept out."""
    for i in range(first, last + 1):
        batch = held + order.at(i)
        step(task.train_x[batch], task.train_y[batch])


def training_arguments(doc: str | None, of: str, choices: Iterable[str]) -> argparse.Namespace:
    """The command line of a script that trains: which of `choices` under ``--of``, seeds, steps, and the two folders."""
    beside = Path(__file__).parent
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(f"--{of}", nargs="+", default=list(choices), choices=list(choices))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=0, help="other than the study's")
    parser.add_argument("--out", type=Path, default=beside / "results")
    parser.add_argument("--kept", type=Path, default=beside / "trained", help="folder of weights that were trained")
    arguments = parser.parse_args()
    arguments.kept.mkdir(parents=True, exist_ok=True)
    return arguments


def run_missing(
    out: Path,
    name: str,
    wanted: Iterable[dict[str, Any]],
    run: Callable[[dict[str, Any]], dict[str, Any]],
    table: Callable[[list[dict[str, Any]]], str],
    **about: Any,
) -> None:
    """Run what has no row in the results yet, and write all rows after each: a call that was ended is taken up by the next.

    Each of `wanted` are the entries of a row that say which run it is.
    """
    path = out / f"{name}.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text())["runs"] if path.exists() else []
    for one in wanted:
        if not any(one.items() <= {key: row[key] for key in one}.items() for row in rows):
            rows.append(one | run(one))
            print(rows[-1], flush=True)
            write(out, name, {"machine": describe_machine(), **about, "runs": rows}, table(rows))
    print(table(rows))
