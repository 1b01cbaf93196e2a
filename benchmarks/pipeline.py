"""An LRU layer of 384 stored states and 512 inputs and outputs, analysed and cut to a quarter, against the published way.

    python benchmarks/pipeline.py [--repeats 3] [--out benchmarks/results]

The published pipeline of in-training truncation (arXiv 2510.02823), written out here from its description: Gramians of the
complex half by formula, a matrix square root, an SVD, an inverse, and the eigenvectors of the truncated state matrix.
Both run in double precision on the same layers, in turn, and ours in single precision as well; the error is the largest gain of the difference to the layer
over the same frequencies.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
from benchmarks_common import best_of, describe_machine, markdown, write
from threadpoolctl import threadpool_limits

import balred

STATES, WIDTH, RANK = 384, 512, 96
RINGS = {"ring 0 to 1": (0.0, 1.0), "ring 0.9 to 0.999": (0.9, 0.999)}
FREQUENCIES = 32


def layer(ring: tuple[float, float], seed: int) -> balred.DiagonalSystem:
    """The operator of an LRU at its usual initialisation, poles uniform on a ring, in double precision."""
    rng = np.random.default_rng(seed)
    low, high = ring
    modulus = np.sqrt(rng.uniform(size=STATES) * (high**2 - low**2) + low**2)
    logs = np.log(modulus) + 1j * rng.uniform(0, 2 * np.pi, STATES)
    B, C = (
        rng.standard_normal((a, b)) + 1j * rng.standard_normal((a, b)) for a, b in ((STATES, WIDTH), (WIDTH, STATES))
    )
    B = np.sqrt(1 - modulus**2)[:, None] * B / np.sqrt(2 * WIDTH)
    return balred.diagonal(log_poles=logs, B=B, C=C / np.sqrt(STATES) / 2, dt=1, conjugate=True)


def ours(g: balred.DiagonalSystem) -> balred.DiagonalSystem:
    reduced: balred.DiagonalSystem = balred.analyze(g).reduce(RANK)
    return reduced


def ours_in_single(g: balred.DiagonalSystem) -> balred.DiagonalSystem:
    reduced: balred.DiagonalSystem = balred.analyze(g, precision="float32").reduce(RANK)
    return reduced


def published(g: balred.DiagonalSystem) -> balred.DiagonalSystem:
    """Balanced truncation of the complex half of `g`."""
    lam, B, C = np.exp(g.log_poles), g.B, 2 * g.C
    gap = 1 - lam[:, None] * lam.conj()
    P, Q = B @ B.conj().T / gap, C.conj().T @ C / gap.conj()
    root = scipy.linalg.sqrtm(P)
    U, squared, _ = np.linalg.svd(root.conj().T @ Q @ root)
    T = root @ U * squared**-0.25
    inverse = np.linalg.inv(T)
    A = (inverse * lam @ T)[:RANK, :RANK]
    poles, V = np.linalg.eig(A)
    b, c = np.linalg.inv(V) @ (inverse @ B)[:RANK], (C @ T)[:, :RANK] @ V
    return balred.diagonal(poles, B=b, C=c / 2, D=g.D, dt=1, conjugate=True)


def floor() -> dict[str, float]:
    """What balancing the real operator cannot do without: two factorisations, a product, a singular value decomposition."""
    A = np.random.default_rng(0).standard_normal((2 * STATES, 2 * STATES))
    S = A @ A.T
    with threadpool_limits(1):
        return {
            "two Cholesky factorisations": 2 * best_of(lambda: np.linalg.cholesky(S), 5)[0],
            "a product": best_of(lambda: A @ A, 5)[0],
            "an SVD": best_of(lambda: np.linalg.svd(A), 5)[0],
        }


def error(g: balred.DiagonalSystem, reduced: balred.DiagonalSystem) -> float:
    """The largest gain of the difference over frequencies on the upper half of the unit circle."""
    points = np.exp(1j * np.linspace(0, np.pi, FREQUENCIES))
    return max(float(scipy.linalg.svdvals(g(z) - reduced(z))[0]) for z in points)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    ways: dict[str, Callable[[Any], Any]] = {"balred": ours, "float32": ours_in_single, "published": published}
    rows, table = [], []
    for name, ring in RINGS.items():
        g = layer(ring, seed=0)
        errors = {way: error(g, run(g)) for way, run in ways.items()}
        for threads in (1, 2):
            with threadpool_limits(threads) if threads == 1 else contextlib.nullcontext():
                seconds = {way: best_of(lambda f=run, g=g: f(g), args.repeats)[0] for way, run in ways.items()}
            rows.append({"layer": name, "threads": threads, "seconds": seconds, "error": errors})
            ratios = [f"{seconds['published'] / seconds[way]:.2f}x" for way in ("balred", "float32")]
            table.append(
                [name, str(threads), f"{seconds['balred']:.2f} s", *ratios, *(f"{e:.4g}" for e in errors.values())]
            )
            print(table[-1], flush=True)
    header = [
        "layer", "threads", "balred", "published, slower by", "than in float32 by", "error, balred", "error, float32", "error, published",
    ]  # fmt: skip
    least = floor()
    whole, parts = sum(least.values()), ", ".join(f"{k} {1e3 * t:.0f} ms" for k, t in least.items())
    text = markdown(header, table)
    text += f"\nThe floor in float64 on one thread, order {2 * STATES}: {parts}; together {1e3 * whole:.0f} ms.\n"
    print(text)
    write(args.out, "pipeline", {"machine": describe_machine(), "rows": rows, "floor": least}, text)


if __name__ == "__main__":
    main()
