"""Damaged files of every kind by the hundred, and what became of each: the attacks of the tests, larger (``make fuzz``).

A traceback, a second line of error, a terminal's control code or a command that computes for more than 20 s ends it with
the seed that did it.  Processor time is counted, so other work on the machine does no harm.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(TESTS / folder) for folder in ("support", "cli", "files")]

import commands  # noqa: E402
import test_foreign_folders as folders  # noqa: E402
import test_matlab as matlab  # noqa: E402
import test_recordings as recordings  # noqa: E402
from benchmarks_common import describe_machine, markdown, write  # noqa: E402

import balred  # noqa: E402
import balred.files  # noqa: E402

NAMES = {0: "read", 1: "refused"}


def system(path: Path, seed: int) -> str:
    """``balred hsv`` of a damaged file of a system."""
    balred.files.save(balred.testing.random_system(3, 1, 2, seed=0), path)
    path.write_bytes(commands.damaged(path.read_bytes(), random.Random(seed)))
    return NAMES[commands.ends_well("hsv", path)]


def attacks(work: Path) -> Iterator[tuple[str, Callable[[int], str]]]:
    """What is damaged, and what does that with a seed."""
    good = work / "good"
    good.mkdir()
    folders.whole(good)
    folders.study(work / "study")
    for place in folders.PLACES:
        yield f"inspect {place}", lambda seed, place=place: NAMES[folders.fuzz_inspect(good, work / "x", place, seed)]  # type: ignore[misc]
    yield "report", lambda seed: NAMES[folders.fuzz_report(work / "study", work / "x", seed)]
    for suffix in (".json", ".npz", ".mat"):
        yield f"hsv {suffix}", lambda seed, suffix=suffix: system(work / f"g{suffix}", seed)  # type: ignore[misc]
    plant = work / "plant.npz"
    balred.files.save(balred.testing.random_system(3, 2, 2, dt=0.1, seed=0), plant)
    for path in recordings.good_recordings(work):
        yield f"inputs {path.name}", lambda seed, path=path: NAMES[recordings.fuzz_recording(plant, path, seed)]  # type: ignore[misc]
    for which, data in enumerate(matlab.good_files()):
        yield (
            f"MATLAB's reader, {('version 5', 'compressed', 'version 4')[which]}",
            lambda seed, data=data: matlab.fuzz_mat(data, random.Random(seed)),
        )  # type: ignore[misc]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=500, help="files of each kind")
    parser.add_argument("--first", type=int, default=1000, help="the first seed; those of the tests are below")
    parser.add_argument("--out", type=Path, help="a folder for the counts, fuzz.json and fuzz.md")
    args = parser.parse_args()
    everything: dict[str, Counter[str]] = {}
    work = Path(tempfile.mkdtemp())
    try:
        for name, attack in attacks(work):
            start, found = commands.processor_time(), Counter[str]()
            for seed in range(args.first, args.first + args.count):
                try:
                    found[attack(seed)] += 1
                except BaseException:
                    print(f"{name}: seed {seed}", file=sys.stderr)
                    raise
            everything[name] = found
            counts = ", ".join(f"{n} {what}" for what, n in sorted(found.items()))
            print(f"{name:32} {counts:28} {commands.processor_time() - start:6.1f} s", flush=True)
    finally:
        shutil.rmtree(work)
    if args.out is not None:
        outcomes = sorted({outcome for found in everything.values() for outcome in found})
        rows = [[name, *(str(found[outcome]) for outcome in outcomes)] for name, found in everything.items()]
        made = {"machine": describe_machine(), "count": args.count, "first": args.first, "found": everything}
        write(args.out, "fuzz", made, markdown(["damaged file", *outcomes], rows))


if __name__ == "__main__":
    main()
