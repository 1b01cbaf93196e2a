"""What the page "What is promised" says in numbers: kills, faults of the disk, bad inputs, memory over 2,000 calls, threads.

    python benchmarks/promises.py [--calls 2000] [--out benchmarks/results]

Damaged files have a script of their own, ``fuzz.py``.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks_common import describe_machine, markdown, write

import balred
import balred.files
from balred.files.replacing import replacing

SEED = 0


def kills(count: int) -> Counter[str]:
    """A process that replaces one file again and again, killed at any moment: the file is whole, one state or the other."""
    found = Counter[str]()
    code = (
        "import sys, pathlib, balred, balred.files\n"
        "gs = [balred.testing.random_system(60, 2, 2, seed=s) for s in (0, 1)]\n"
        "print('on', flush=True)\n"
        "while True:\n"
        "    for g in gs: balred.files.save(g, sys.argv[1])\n"
    )
    rng = random.Random(SEED)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "g.npz"
        want = [np.asarray(balred.testing.random_system(60, 2, 2, seed=s).A) for s in (0, 1)]
        for _ in range(count):
            process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
            assert process.stdout is not None
            process.stdout.readline()
            while not path.exists():
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
            process.wait()
            A = np.asarray(balred.files.load(path).system.A)
            found["whole" if any(np.array_equal(A, x) for x in want) else "damaged"] += 1
    return found


def full_disks(count: int) -> Counter[str]:
    """A file replaced where the disk ends after so many bytes (a limit on the size of files): the old one stays."""
    found = Counter[str]()
    rng = random.Random(SEED)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(b"old")
        for _ in range(count):
            resource.setrlimit(resource.RLIMIT_FSIZE, (rng.randrange(10_000), before[1]))
            try:
                with replacing(path, "wb") as stream:
                    stream.write(b"x" * 10_000)
                found["written"] += 1
            except OSError as error:
                named = str(path) in str(error)
                kept = path.read_bytes() == b"old" and os.listdir(folder) == ["file"]
                found["kept and named" if named and kept else "lost"] += 1
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return found


def bad_values(rng: np.random.Generator) -> Iterator[Any]:
    """A matrix as nobody should give it."""
    x = rng.standard_normal((3, 3))
    with np.errstate(over="ignore"):  # some are infinite
        yield from [x * s for s in (1e-320, 1e-200, 1e-160, 1e160, 1e200, 1e308)]
    yield from (x.astype(t) for t in (np.float16, np.int64, bool, object, np.longdouble, "U3", ">f8"))
    yield from (np.ma.array(x, mask=x > 0), x.tolist(), x[0], [x[0], x[0, :2]], None, "text", {}, x[:, :0], x[None], 1)
    yield from (np.full((3, 3), v) for v in (0.0, np.nan, np.inf))


QUESTIONS: dict[str, Callable[[Any], Any]] = {
    "hsv": balred.hsv,
    "norm": lambda g: balred.norm(g, "hinf"),
    "reduce": lambda g: balred.reduce(g, 1),
    "error": lambda g: balred.error(g, balred.ss([[-1.0]], np.ones((1, 3)), np.ones((3, 1)))),
}
SECONDS = 20


def bad_inputs() -> Counter[str]:
    """Every pair of odd matrices at two places of three, and four questions: answered, or refused in a word of ours."""
    found = Counter[str]()
    rng = np.random.default_rng(SEED)
    A = -np.eye(3) + 0.1 * rng.standard_normal((3, 3))
    values = list(bad_values(rng))

    def late(*_: Any) -> None:
        raise AssertionError(f"no answer in {SECONDS} s of processor time")

    signal.signal(signal.SIGPROF, late)
    for first, second in itertools.combinations(range(3), 2):
        for x, y in itertools.product(values, values[::3]):
            given: list[Any] = [A, np.eye(3), np.eye(3)]
            given[first], given[second] = x, y
            for name, ask in QUESTIONS.items():
                signal.setitimer(signal.ITIMER_PROF, SECONDS)
                try:
                    with np.errstate(all="ignore"):
                        answer = ask(balred.ss(*given))
                    parts = (answer.A, answer.B, answer.C) if name == "reduce" else (answer,)
                    finite = all(not np.isnan(np.asarray(part)).any() for part in parts)
                    found["answered" if finite else "answered with NaN"] += 1
                except np.linalg.LinAlgError:
                    found["an error of a library below"] += 1
                except (ValueError, TypeError, ArithmeticError):
                    found["refused"] += 1
                finally:
                    signal.setitimer(signal.ITIMER_PROF, 0)
    return found


def memory(calls: int) -> dict[str, float]:
    """Megabytes that a process holds after a tenth of the calls, and after all of them."""
    held = []
    for i in range(calls):
        g = balred.testing.random_system(20, 2, 2, seed=i % 7)
        balred.error(g, balred.reduce(g, 5))
        with contextlib.suppress(ValueError):
            balred.reduce(g, 50)
        if i + 1 in (calls // 10, calls):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            held.append(pages * resource.getpagesize() / 2**20)
    return {"after a tenth": held[0], "after all": held[1]}


def threads(count: int, each: int) -> Counter[str]:
    """The same questions from several threads at once: the answers are those of one, to the last bit."""
    systems = [balred.testing.random_system(12, 2, 2, seed=s, kind=k) for s in range(4) for k in ("dense", "diagonal")]

    def ask(g: Any) -> tuple[bytes, bytes]:
        small = balred.reduce(g, 4)
        return np.asarray(balred.hsv(g)).tobytes(), np.asarray(small.B).tobytes()

    want, found = [ask(g) for g in systems], Counter[str]()

    def run() -> None:
        for i in range(each):
            found["alike" if ask(systems[i % len(systems)]) == want[i % len(systems)] else "others"] += 1

    several = [threading.Thread(target=run) for _ in range(count)]
    for one in several:
        one.start()
    for one in several:
        one.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    found: dict[str, Any] = {"memory": memory(args.calls)}
    found["threads"] = threads(8, 50)
    found["full disks"] = full_disks(200)
    found["bad inputs"] = bad_inputs()
    found["kills"] = kills(args.kills)
    rows = [
        [name, ", ".join(f"{v:.1f} MB {k}" if name == "memory" else f"{v} {k}" for k, v in one.items())]
        for name, one in found.items()
    ]
    rows[0][0] = f"memory over {args.calls} calls"
    rows[1][0] = "400 questions from 8 threads"
    for row in rows:
        print(" | ".join(row), flush=True)
    write(
        args.out,
        "promises",
        {"machine": describe_machine(), "found": found},
        markdown(["what", "what became of it"], rows),
    )


if __name__ == "__main__":
    main()
