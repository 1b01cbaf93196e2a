"""Large sparse systems: balanced truncation from low-rank factors, against pyMOR's low-rank ADI.

    python benchmarks/large.py [--huge] [--repeats 3] [--only NAME ...] [--out benchmarks/results]

Heat conduction in two and three dimensions, damped chains and plates in first-order form, and convection with a mass matrix,
of about 10,000 states each.  balred reduces to 8 states at tolerance 1e-10; pyMOR (its defaults, 1e-10) computes the two
Gramian factors only.  Each run has a process of its own, the two libraries take turns, and the shortest time of each stands;
memory is the peak of the process above what it held before.  "differ" is the largest difference of the three leading Hankel
singular values, as a fraction of the first; "residual" the larger of balred's four, measured with the factors that it returns.
`--huge` adds 97,336 states in three dimensions and 1,000,000 in two, by balred alone.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from benchmarks_common import describe_machine, markdown, write

RANK, TOLERANCE = 8, 1e-10


def tridiagonal(k: int, *values: float) -> Any:
    return sp.diags(values, [-1, 0, 1], shape=(k, k))


def heat(k: int, dimensions: int) -> tuple[Any, ...]:
    """Finite differences on a square or a cube, heated and measured everywhere."""
    one, A = tridiagonal(k, 1, -2, 1) * (k + 1) ** 2, sp.csr_matrix((1, 1))
    for _ in range(dimensions):
        A = sp.kron(A, sp.identity(k)) + sp.kron(sp.identity(A.shape[0]), one)
    b = np.ones((A.shape[0], 1))
    return A, b, b.T, None


def heat_at_a_corner(k: int, dimensions: int) -> tuple[Any, ...]:
    """The same, heated in one corner and measured in the opposite one."""
    A, *_ = heat(k, dimensions)
    x = np.arange(k) < k // 4
    corner = x
    for _ in range(dimensions - 1):
        corner = np.kron(corner, x)
    b = corner[:, None].astype(float)
    return A, b, b[::-1].T, None


def damped(K: Any) -> tuple[Any, ...]:
    """Masses with stiffness K and Rayleigh damping, pushed at one and measured at another."""
    m = K.shape[0]
    A = sp.bmat([[None, sp.identity(m)], [-K, -0.5 * sp.identity(m) - 0.2 * K]])
    b, c = np.zeros((2 * m, 1)), np.zeros((1, 2 * m))
    b[m], c[0, m // 2] = 1, 1
    return A, b, c, None


def wind(k: int, dimensions: int) -> tuple[Any, ...]:
    """Bilinear finite elements with convection along one axis: unsymmetric, with a mass matrix."""
    h = 1 / (k + 1)
    K, M, G = (tridiagonal(k, *v) for v in ((-1 / h, 2 / h, -1 / h), (h / 6, 4 * h / 6, h / 6), (-0.5, 0, 0.5)))
    A, E = -K - 30 * G, M
    for _ in range(dimensions - 1):
        A, E = sp.kron(A, M) - sp.kron(E, K), sp.kron(E, M)
    x = np.linspace(h, 1 - h, k) < 0.3
    b, c = x.astype(float), x[::-1].astype(float)
    for _ in range(dimensions - 1):
        b, c = np.kron(b, x), np.kron(c, x)
    return A, E @ b[:, None], (E @ c[:, None]).T, E


CASES: dict[str, Callable[[], tuple[Any, ...]]] = {
    "heat 2-D": lambda: heat(100, 2),
    "heat 3-D": lambda: heat(22, 3),
    "heat 2-D, corner to corner": lambda: heat_at_a_corner(100, 2),
    "heat 3-D, corner to corner": lambda: heat_at_a_corner(22, 3),
    "damped chain": lambda: damped(tridiagonal(5000, -1, 2, -1)),
    "damped plate": lambda: damped(-heat(70, 2)[0] / 71**2),
    "convection 2-D, mass matrix": lambda: wind(100, 2),
    "convection 3-D, mass matrix": lambda: wind(21, 3),
}
HUGE: dict[str, Callable[[], tuple[Any, ...]]] = {
    "heat 3-D, 100,000": lambda: heat_at_a_corner(46, 3),
    "heat 2-D, 1,000,000": lambda: heat_at_a_corner(1000, 2),
}


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def of_balred(A: Any, b: Any, c: Any, E: Any) -> dict[str, Any]:
    import balred
    from balred.realisations.sparse import gramian_factors_lr, reduce_sparse, sparse_system

    g = sparse_system(A, b, c, E=E)
    before, began = peak(), time.perf_counter()
    small = reduce_sparse(g, RANK, tol=TOLERANCE)
    seconds, memory = time.perf_counter() - began, peak() - before
    info = gramian_factors_lr(g, tol=TOLERANCE)[2] if g.order < 50_000 else None
    residual = max(*info.residuals, *info.steady_residuals) if info else None
    return {"seconds": seconds, "bytes": memory, "values": list(balred.hsv(small)[:3]), "residual": residual}


def of_pymor(A: Any, b: Any, c: Any, E: Any) -> dict[str, Any]:
    from pymor.core.logger import set_log_levels
    from pymor.models.iosys import LTIModel

    set_log_levels({"pymor": "ERROR"})
    model = LTIModel.from_matrices(A, b, c, E=E)
    before, began = peak(), time.perf_counter()
    Zp, Zq = (model.gramian(kind).to_numpy() for kind in ("c_lr", "o_lr"))
    seconds, memory = time.perf_counter() - began, peak() - before
    Zp, Zq = (Z if len(Z) == len(b) else Z.T for Z in (Zp, Zq))
    values = np.linalg.svd(Zq.T @ (Zp if E is None else E @ Zp), compute_uv=False)[:3]
    return {"seconds": seconds, "bytes": memory, "values": list(values)}


def child(library: str, name: str) -> None:
    """One run, whose result is the last line printed."""
    warnings.filterwarnings("ignore")
    A, b, c, E = {**CASES, **HUGE}[name]()
    A, E = (M if M is None else sp.csc_matrix(M) for M in (A, E))
    result = (of_balred if library == "balred" else of_pymor)(A, b, c, E)
    print(json.dumps({"states": A.shape[0], **result}))


def run(library: str, name: str) -> dict[str, Any]:
    made = subprocess.run(
        [sys.executable, __file__, "--child", library, name], check=True, capture_output=True, text=True
    )
    result: dict[str, Any] = json.loads(made.stdout.splitlines()[-1])
    return result


def best(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return min(runs, key=lambda r: float(r["seconds"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--huge", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child)
        return
    rows, records = [], []
    for name in arguments.only or [*CASES, *(HUGE if arguments.huge else ())]:
        repeats = arguments.repeats if name in CASES else 1
        pairs = [(run("balred", name), run("pymor", name) if name in CASES else None) for _ in range(repeats)]
        ours, theirs = best([o for o, _ in pairs]), best([t for _, t in pairs if t]) if name in CASES else None
        record = {"name": name, "balred": ours, "pymor": theirs}
        row = [name, f"{ours['states']:,}", f"{ours['seconds']:.2f} s"]
        if theirs:
            record["ratio"] = theirs["seconds"] / ours["seconds"]
            record["differ"] = (
                float(np.max(np.abs(np.subtract(ours["values"], theirs["values"])))) / theirs["values"][0]
            )
            row += [f"{theirs['seconds']:.2f} s", f"{record['ratio']:.1f}x"]
            row += [f"{x['bytes'] / 2**20:.0f} MiB" for x in (ours, theirs)]
            row += [f"{record['differ']:.0e}", f"{ours['residual']:.0e}"]
        else:
            row += ["", "", f"{ours['bytes'] / 2**20:.0f} MiB", "", "", ""]
        records.append(record)
        rows.append(row)
        print("  ".join(row), flush=True)
    header = [
        "system",
        "states",
        "balred",
        "pyMOR",
        "pyMOR / balred",
        "balred's memory",
        "pyMOR's",
        "differ",
        "residual",
    ]
    table = markdown(header, rows)
    print(table)
    write(arguments.out, "large", {"machine": describe_machine(), "tolerance": TOLERANCE, "systems": records}, table)


if __name__ == "__main__":
    main()
