"""Small systems, one by one and a thousand at a time: processor time against python-control and SLICOT, in one run, interleaved.

    python benchmarks/small.py [--out benchmarks/results] [--largest 64] [--repeats 40]

Every row runs both sides in turn on the same random stable continuous system of two inputs and two outputs (slowest mode
at -0.3), on one BLAS thread.  It prints medians of the processor's time, of all threads, which other work on the machine
changes least, and how many times slower the peer is (below 1: quicker).  python-control uses slycot where it is there.  A
batch is compared with a loop of calls to slycot over its members.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import control
import numpy as np
import slycot
from benchmarks_common import describe_machine, markdown, write
from threadpoolctl import threadpool_limits

import balred

Matrix = np.ndarray[Any, Any]
Call = Callable[[], Any]
ORDERS = (2, 4, 8, 16, 32, 64)
PORTS = 2


def random(n: int, seed: int, batch: tuple[int, ...] = ()) -> tuple[Matrix, Matrix, Matrix]:
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((*batch, n, n))
    A -= (np.linalg.eigvals(A).real.max(-1) + 0.3)[..., None, None] * np.eye(n)
    return A, rng.standard_normal((*batch, n, PORTS)), rng.standard_normal((*batch, PORTS, n))


def slicot_hsv(A: Matrix, B: Matrix, C: Matrix, rank: int) -> Matrix:
    """Balanced truncation by AB09AD, which gives the values too."""
    a, b, c = (x.copy(order="F") for x in (A, B, C))
    return np.asarray(slycot.ab09ad("C", "B", "N", len(A), PORTS, PORTS, a, b, c, nr=rank)[-1])


def slicot_h2(A: Matrix, B: Matrix, C: Matrix) -> float:
    return float(slycot.ab13bd("C", "H", len(A), PORTS, PORTS, A.copy(), B.copy(), C.copy(), np.zeros((PORTS, PORTS))))


def slicot_hinf(A: Matrix, B: Matrix, C: Matrix) -> float:
    n = len(A)
    return float(slycot.ab13dd("C", "I", "N", "D", n, PORTS, PORTS, A, np.eye(n), B, C, np.zeros((PORTS, PORTS)))[0])


def singles(A: Matrix, B: Matrix, C: Matrix) -> dict[str, dict[str, Call]]:
    """For each question the calls that answer it."""
    n, rank = len(A), max(1, len(A) // 2)
    g, peer = balred.ss(A, B, C), control.ss(A, B, C, np.zeros((PORTS, PORTS)))
    return {
        "hsv": {
            "balred": lambda: balred.hsv(g),
            "python-control": lambda: control.hankel_singular_values(peer),
            "slycot": lambda: slicot_hsv(A, B, C, 1),
        },
        "reduce": {
            "balred": lambda: balred.reduce(g, rank),
            "python-control": lambda: control.balanced_reduction(peer, rank),
            "slycot": lambda: slicot_hsv(A, B, C, rank),
        },
        "balance": {"balred": lambda: balred.balance(g), "slycot": lambda: slicot_hsv(A, B, C, n)},
        "h2": {
            "balred": lambda: balred.norm(g, "h2"),
            "python-control": lambda: control.system_norm(peer, 2),
            "slycot": lambda: slicot_h2(A, B, C),
        },
        "hinf": {
            "balred": lambda: balred.norm(g, "hinf"),
            "python-control": lambda: control.system_norm(peer, "inf"),
            "slycot": lambda: slicot_hinf(A, B, C),
        },
        "minimal": {
            "balred": lambda: balred.minimal(g),
            "python-control": lambda: control.minimal_realization(peer, verbose=False),
            "slycot": lambda: slycot.tb01pd(n, PORTS, PORTS, A.copy(), B.copy(), C.copy()),
        },
    }


def batches(A: Matrix, B: Matrix, C: Matrix) -> dict[str, dict[str, Call]]:
    g, members = balred.ss(A, B, C), list(zip(A, B, C, strict=True))
    return {
        "hsv": {"balred": lambda: balred.hsv(g), "slycot": lambda: [slicot_hsv(*one, 1) for one in members]},
        "h2": {"balred": lambda: balred.norm(g, "h2"), "slycot": lambda: [slicot_h2(*one) for one in members]},
        "hinf": {"balred": lambda: balred.norm(g, "hinf"), "slycot": lambda: [slicot_hinf(*one) for one in members]},
    }


def interleaved(calls: dict[str, Call], repeats: int) -> dict[str, float]:
    """The median time of each call, all of them in turn; one that fails has none."""
    times: dict[str, list[float]] = {}
    for name, call in calls.items():
        try:
            call()
            times[name] = []
        except (ArithmeticError, ValueError, ImportError) as error:
            print(f"{name}: {error}")
    for _ in range(repeats):
        for name, several in times.items():
            began = time.process_time()
            calls[name]()
            several.append(time.process_time() - began)
    return {name: float(np.median(several)) for name, several in times.items()}


def measured(largest: int, repeats: int) -> list[dict[str, Any]]:
    rows = []
    for n in (n for n in ORDERS if n <= largest):
        for members in (1, 1000 if n < 32 else 200):
            made = singles(*random(n, n)) if members == 1 else batches(*random(n, n, (members,)))
            for question, calls in made.items():
                seconds = interleaved(calls, repeats if members == 1 else 3 if question != "hinf" else 1)
                if "balred" not in seconds:
                    continue  # it refuses this one: see the line above
                rows.append({"n": n, "members": members, "question": question, "seconds": seconds})
                ratios = {k: f"{t / seconds['balred']:.2f}x" for k, t in seconds.items() if k != "balred"}
                print(n, members, question, f"{1e3 * seconds['balred']:.3f} ms", ratios, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--largest", type=int, default=64, help="the largest order that is timed")
    parser.add_argument("--repeats", type=int, default=40, help="how often each call is timed")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    with threadpool_limits(1):
        rows = measured(args.largest, args.repeats)
    peers = ("python-control", "slycot")
    table = []
    for row in rows:
        t = row["seconds"]
        times = [f"{1e3 * t[name]:.3f} ms" if name in t else "–" for name in ("balred", *peers)]
        ratios = [f"{t[name] / t['balred']:.2f}x" if name in t else "–" for name in peers]
        table.append([row["question"], str(row["n"]), str(row["members"]), *times, *ratios])
    text = markdown(["question", "n", "members", "balred", *peers, *(f"{name}, slower by" for name in peers)], table)
    for question in dict.fromkeys(row["question"] for row in rows):
        for kind, chosen in (
            ("one", [r for r in rows if r["members"] == 1]),
            ("a batch", [r for r in rows if r["members"] > 1]),
        ):
            for name in peers:
                found = [
                    r["seconds"][name] / r["seconds"]["balred"]
                    for r in chosen
                    if r["question"] == question and name in r["seconds"]
                ]
                if found:
                    text += f"\n{question}, {kind}, {name}: median {np.median(found):.2f}x, least {min(found):.2f}x.\n"
    print(text)
    write(args.out, "small", {"machine": describe_machine(), "rows": rows}, text)


if __name__ == "__main__":
    main()
