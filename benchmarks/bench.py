"""All benchmarks of speed and accuracy, one after the other, and which rows got worse than the committed ones.

    python benchmarks/bench.py [NAME ...] [--out FOLDER] [--accept]

Each script runs in a process of its own, on one thread where it does not say otherwise, and writes into FOLDER (by default a
new one).  A row is found again by its first cells; it got worse where a column of ratios to another library, or to a step of
training, lies below the committed one by more than `SLACK`.  Times themselves are not compared: machines differ.
``--accept`` copies the new results over the committed ones.  What takes hours of training is in ``make studies``.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
SLACK = 0.2
"""Ratios measured twice on a machine that does nothing else differ by less."""


class Bench(NamedTuple):
    """How a script is run, by how many cells its rows are known, and which columns count.

    Attributes
    ----------
    keys : int
    more, less : str
        Regular expressions of the heads of columns where more is better, and less; none where it is empty.
    arguments : tuple of str
    slack : float
    left_out : str
        A regular expression of the committed rows, first cells joined by commas, that these arguments do not measure.
    """

    keys: int
    more: str = ""
    less: str = ""
    arguments: tuple[str, ...] = ()
    slack: float = SLACK
    left_out: str = ""


BENCHES = {
    "right": Bench(1, more="^balred$", slack=0.0),
    "dense": Bench(3, more="slower by", left_out=r"^\D"),  # systems by their names are of files
    "small": Bench(3, more="slower by", arguments=("--largest", "32", "--repeats", "15"), left_out=", 64, "),
    "large": Bench(2, more="pyMOR / balred", arguments=("--repeats", "1"), left_out="1,000,000"),
    "channels": Bench(1, more="slower"),
    "precision": Bench(2),
    "inputs": Bench(2, less="states$"),
    "layers": Bench(5, more="scan|FFT"),
    "selective_scan": Bench(4, more="slower by"),
    "decoding": Bench(3, more="faster|smaller"),
    "pipeline": Bench(2, more="slower by"),
    "gradient": Bench(2, less="hsv|norm|bound"),
    "hook": Bench(1, less="over without|over a model", more="speed"),
    "overhead": Bench(2, less="^a (check|cut)"),
    "promises": Bench(1),
}
"""By the name of the script; the slowest last."""


def table(path: Path, keys: int) -> dict[tuple[str, ...], dict[str, str]]:
    """Rows of a Markdown table by their first cells."""
    if not path.exists():
        return {}
    lines = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in path.read_text().splitlines()
        if line.startswith("|")
    ]
    head, _, *rows = lines
    return {tuple(row[:keys]): dict(zip(head[keys:], row[keys:], strict=False)) for row in rows}


def number(cell: str) -> float | None:
    """The first number of a cell; None where it begins with something else."""
    found = re.match(r"[-+]?\d[\d,]*\.?\d*(e[-+]?\d+)?", cell)
    return float(found.group().replace(",", "")) if found else None


def worse(name: str, bench: Bench, old: Path, new: Path) -> list[str]:
    """A line for each cell that got worse, and for each row that is gone."""
    before, after, out = table(old, bench.keys), table(new, bench.keys), []
    for key, row in before.items():
        label = f"{name}: {', '.join(key)}"
        if key not in after:
            if not (bench.left_out and re.search(bench.left_out, ", ".join(key))):
                out.append(f"{label}: not measured")
            continue
        for head, cell in row.items():
            for pattern, sign in ((bench.more, 1), (bench.less, -1)):
                was, now = number(cell), number(after[key].get(head, ""))
                if pattern and re.search(pattern, head) and was and now is not None:
                    change = now / was if sign > 0 else was / max(now, 1e-300)
                    if change < 1 - bench.slack:
                        out.append(f"{label}: {head} {cell} before, {after[key][head]} now")
    return out


def main() -> None:
    """Run, compare, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(BENCHES)}; all without")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--accept", action="store_true", help="keep the new results in place of the committed ones")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHES):
        parser.error(f"names must be some of {', '.join(BENCHES)}, got {', '.join(sorted(unknown))}")
    out = arguments.out or Path(tempfile.mkdtemp(prefix="bench-"))
    environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **os.environ}
    told, began = [], time.perf_counter()
    for name in arguments.names or BENCHES:
        bench, start = BENCHES[name], time.perf_counter()
        command = [sys.executable, str(HERE / f"{name}.py"), "--out", str(out), *bench.arguments]
        done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL)
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
        if done.returncode:
            told.append(f"{name}: ended with status {done.returncode}")
            continue
        told += worse(name, bench, HERE / "results" / f"{name}.md", out / f"{name}.md")
        if arguments.accept:
            for suffix in (".md", ".json"):
                shutil.copy(out / f"{name}{suffix}", HERE / "results" / f"{name}{suffix}")
    print(f"all: {(time.perf_counter() - began) / 60:.1f} min; results in {out}")
    print(
        "\n".join(
            ["worse than the committed results:", *told] if told else ["no row is worse than the committed results"]
        )
    )
    sys.exit(bool(told))


if __name__ == "__main__":
    main()
