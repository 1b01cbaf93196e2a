"""Hankel singular values of dense systems: time and accuracy against SLICOT, python-control and SciPy, in one run.

    python benchmarks/dense.py [--out benchmarks/results]

Every row times all solvers on the same random stable continuous system (slowest mode at -0.05) and prints how many
times slower each peer is.  "digits" counts the leading values that agree with SLICOT's AB09AD to 1e-6 relative.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import control
import numpy as np
import slycot
from benchmarks_common import best_of, describe_machine, markdown, write

import balred

SIZES = ((32, 1), (64, 4), (128, 4), (256, 1), (256, 64), (512, 1), (512, 128), (800, 8))


def system(n: int, m: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, n)) / np.sqrt(n)
    A -= (np.linalg.eigvals(A).real.max() + 0.05) * np.eye(n)
    return A, rng.standard_normal((n, m)), rng.standard_normal((m, n))


def leading(ours: np.ndarray, reference: np.ndarray) -> int:
    wrong = np.abs(ours - reference) > 1e-6 * reference
    return int(np.argmax(wrong)) if wrong.any() else len(reference)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    rows, table = [], []
    for n, m in SIZES:
        A, B, C = system(n, m, seed=n + m)
        k = 5 if n < 300 else 2

        def slicot(A=A, B=B, C=C, n=n, m=m):
            a, b, c = (x.copy(order="F") for x in (A, B, C))
            return slycot.ab09ad("C", "B", "N", n, m, m, a, b, c, nr=2)[-1]

        def peer(A=A, B=B, C=C, m=m):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return np.real(control.hankel_singular_values(control.ss(A, B, C, np.zeros((m, m)))))

        mine, h = best_of(lambda A=A, B=B, C=C: balred.hsv(balred.ss(A, B, C)), k)
        times = {"slycot ab09ad": best_of(slicot, k), "python-control hsvd": best_of(peer, k)}
        times["solver='scipy'"] = best_of(lambda A=A, B=B, C=C: balred.hsv(balred.ss(A, B, C), solver="scipy"), k)
        reference = times["slycot ab09ad"][1]
        row = {"n": n, "m": m, "balred seconds": mine, "digits": leading(h, reference)}
        row |= {f"{name} ratio": t / mine for name, (t, _) in times.items()}
        row |= {f"{name} digits": leading(np.sort(s)[::-1], reference) for name, (_, s) in times.items()}
        rows.append(row)
        cells = [f"{times[name][0] / mine:.2f}x ({row[f'{name} digits']})" for name in times]
        table.append([str(n), str(m), f"{1e3 * mine:.1f} ms ({row['digits']})", *cells])
        print(" ".join(table[-1]), flush=True)
    header = ["n", "inputs", "balred (digits)", *(f"{name}, slower by (digits)" for name in times)]
    text = markdown(header, table)
    ratios = [row["slycot ab09ad ratio"] for row in rows]
    text += f"\nAgainst AB09AD: median {np.median(ratios):.2f}x, least {min(ratios):.2f}x.\n"
    print(text)
    write(args.out, "dense", {"machine": describe_machine(), "rows": rows}, text)


if __name__ == "__main__":
    main()
