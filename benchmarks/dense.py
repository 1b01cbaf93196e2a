"""Hankel singular values of dense systems: time and accuracy against SLICOT, python-control, pyMOR and SciPy, in one run.

    python benchmarks/dense.py [--out benchmarks/results] [--largest 2048] [--collection FOLDER]

Times: every row runs all solvers on the same random stable continuous system (slowest mode at -0.05), on one BLAS thread
and on two, and prints how many times slower each peer is.

Accuracy: how many leading values are right to 1e-6 relative, counted against 200-digit arithmetic on generated systems
(heat conduction, a chain of masses, Penzl's, random), and against the published values on systems of the SLICOT
collection of model reduction benchmarks if ``--collection`` names a folder with its .mat files (A, B, C, hsv).
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import control
import numpy as np
import scipy.io
import scipy.linalg
import slycot
from benchmarks_common import best_of, describe_machine, markdown, write
from pymor.core.logger import set_log_levels
from pymor.models.iosys import LTIModel
from threadpoolctl import threadpool_limits

import balred

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from oracle import oracle_hsv

Matrix = np.ndarray[Any, Any]
System = tuple[Matrix, Matrix, Matrix]
INPUTS = {64: (1, 8), 128: (1, 8, 64), 256: (1, 8, 128), 512: (1, 8, 128), 1024: (1, 8, 128), 2048: (1, 128)}
THREADS = (1, 2)
SLOW = 512
"""Above this order only SLICOT is timed beside us: the others take minutes a row."""


def random(n: int, m: int, seed: int) -> System:
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, n)) / np.sqrt(n)
    A -= (np.linalg.eigvals(A).real.max() + 0.05) * np.eye(n)
    return A, rng.standard_normal((n, m)), rng.standard_normal((m, n))


def heat(n: int) -> System:
    """A rod in n cells, heated at one end and measured at a third."""
    A = (n + 1.0) ** 2 * (np.diag(np.ones(n - 1), 1) - 2 * np.eye(n) + np.diag(np.ones(n - 1), -1))
    return A, (n + 1.0) ** 2 * np.eye(n)[:, :1], np.eye(n)[n // 3 : n // 3 + 1]


def masses(n: int) -> System:
    """A chain of n/2 masses with springs and weak dampers, pushed at one end, its velocity measured there."""
    k = n // 2
    K = 2 * np.eye(k) - np.diag(np.ones(k - 1), 1) - np.diag(np.ones(k - 1), -1)
    A = np.block([[np.zeros((k, k)), np.eye(k)], [-K, -0.02 * np.eye(k) - 0.01 * K]])
    B = np.eye(n)[:, k : k + 1]
    return A, B, B.T.copy()


def penzl(n: int) -> System:
    """Three resonances beside a row of real poles [Penzl, Linear Algebra Appl. 415 (2006), the "FOM" example]."""
    blocks = [np.array([[-1.0, w], [-w, -1.0]]) for w in (100.0, 200.0, 400.0)]
    A = scipy.linalg.block_diag(*blocks, -np.diag(np.arange(1.0, n - 5)))
    B = np.concatenate([10 * np.ones(6), np.ones(n - 6)])[:, None]
    return A, B, B.T.copy()


def slicot(A: Matrix, B: Matrix, C: Matrix) -> Matrix:
    a, b, c = (x.copy(order="F") for x in (A, B, C))
    return np.asarray(slycot.ab09ad("C", "B", "N", len(A), B.shape[1], len(C), a, b, c, nr=2)[-1])


def hammarling(A: Matrix, B: Matrix, C: Matrix) -> Matrix:
    """Cholesky factors of the Gramians by SLICOT's SB03OD, and the singular values of their product."""
    return np.asarray(balred.hsv(balred.ss(A, B, C), solver="slycot"))


def peer(A: Matrix, B: Matrix, C: Matrix) -> Matrix:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = control.hankel_singular_values(control.ss(A, B, C, np.zeros((len(C), B.shape[1]))))
    return np.sort(np.real(values))[::-1]


def pymor(A: Matrix, B: Matrix, C: Matrix) -> Matrix:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(LTIModel.from_matrices(A, B, C).hsv())


def gramians(A: Matrix, B: Matrix, C: Matrix) -> Matrix:
    """SciPy's Lyapunov solver and the eigenvalues of the product of the Gramians."""
    P = scipy.linalg.solve_continuous_lyapunov(A, -B @ B.T)
    Q = scipy.linalg.solve_continuous_lyapunov(A.T, -C.T @ C)
    return np.sqrt(np.sort(np.maximum(scipy.linalg.eigvals(P @ Q).real, 0))[::-1])


def ours(A: Matrix, B: Matrix, C: Matrix) -> Matrix:
    return np.asarray(balred.hsv(balred.ss(A, B, C)))


SOLVERS: dict[str, Callable[[Matrix, Matrix, Matrix], Matrix]] = {
    "balred": ours,
    "slycot ab09ad": slicot,
    "slycot sb03od": hammarling,
    "python-control": peer,
    "pyMOR": pymor,
    "SciPy": gramians,
}


def leading(values: Matrix, truth: Matrix) -> int:
    """How many of the leading values are right to 1e-6 relative."""
    values = np.concatenate([values, np.zeros(max(0, len(truth) - len(values)))])[: len(truth)]
    wrong = ~(np.abs(values - truth) <= 1e-6 * truth)
    return int(np.argmax(wrong)) if wrong.any() else len(truth)


def timed(largest: int) -> list[dict[str, Any]]:
    rows = []
    for n, several in INPUTS.items():
        for m in several:
            if n > largest:
                continue
            A, B, C = random(n, m, seed=n + m)
            repeats = 7 if n <= 128 else 3 if n <= 512 else 1
            for threads in THREADS:
                row: dict[str, Any] = {"n": n, "inputs": m, "threads": threads, "seconds": {}}
                with threadpool_limits(threads):
                    for name, solve in SOLVERS.items():
                        if name != "slycot sb03od" and (n <= SLOW or name in ("balred", "slycot ab09ad")):
                            row["seconds"][name], values = best_of(lambda f=solve, g=(A, B, C): f(*g), repeats)
                            if name == "balred":
                                mine = values
                            elif name == "slycot ab09ad":
                                row["difference"] = float(np.abs(values - mine).max() / values[0])
                rows.append(row)
                print(
                    n,
                    m,
                    threads,
                    {k: f"{t / row['seconds']['balred']:.2f}x" for k, t in row["seconds"].items()},
                    flush=True,
                )
    return rows


def accurate(collection: Path | None) -> list[dict[str, Any]]:
    rows = []
    made = {"heat": heat(40), "mass-spring": masses(40), "Penzl": penzl(46), "random": random(40, 2, seed=3)}
    systems = {f"{k} ({len(g[0])})": (g, oracle_hsv(balred.ss(*g), digits=200), "200 digits") for k, g in made.items()}
    for path in sorted(collection.glob("*.mat")) if collection else ():
        data = scipy.io.loadmat(path)
        A, B, C = (np.asarray(x.toarray() if hasattr(x, "toarray") else x, float) for x in (data[k] for k in "ABC"))
        systems[f"{path.stem} ({len(A)})"] = ((A, B, C), np.sort(data["hsv"].ravel())[::-1], "published")
    for name, (g, truth, source) in systems.items():
        right = {solver: leading(solve(*g), truth) for solver, solve in SOLVERS.items()}
        rows.append({"system": name, "truth": source, "right": right})
        print(name, right, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--largest", type=int, default=2048, help="the largest order that is timed")
    parser.add_argument("--collection", type=Path, help="a folder with .mat files of the SLICOT collection")
    args = parser.parse_args()
    set_log_levels({"pymor": "ERROR"})
    accuracy, times = accurate(args.collection), timed(args.largest)
    peers = [name for name in SOLVERS if name not in ("balred", "slycot sb03od")]
    table = []
    for row in times:
        t = row["seconds"]
        cells = [f"{t[name] / t['balred']:.2f}x" if name in t else "–" for name in peers]
        table.append([str(row["n"]), str(row["inputs"]), str(row["threads"]), f"{1e3 * t['balred']:.1f} ms", *cells])
    text = markdown(["n", "inputs", "threads", "balred", *(f"{name}, slower by" for name in peers)], table)
    ratios = {row["n"]: [] for row in times}
    for row in times:
        ratios[row["n"]].append(row["seconds"]["slycot ab09ad"] / row["seconds"]["balred"])
    every = [x for several in ratios.values() for x in several]
    large = [x for n, several in ratios.items() for x in several if n >= 128]
    text += (
        f"\nAgainst AB09AD: median {np.median(every):.2f}x, least {min(every):.2f}x, least from n = 128 on "
        f"{min(large, default=np.nan):.2f}x; largest difference of the values "
        f"{max(row['difference'] for row in times):.1e} of the first.\n\n"
    )
    right = [[row["system"], row["truth"], *(str(row["right"][name]) for name in SOLVERS)] for row in accuracy]
    text += markdown(["values right to 1e-6", "truth", *SOLVERS], right)
    print(text)
    write(args.out, "dense", {"machine": describe_machine(), "times": times, "accuracy": accuracy}, text)


if __name__ == "__main__":
    main()
