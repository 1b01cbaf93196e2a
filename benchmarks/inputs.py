"""Balancing on a recorded input beside white balancing and frequency weights from the signal's spectrum.

    python benchmarks/inputs.py [--seeds 5] [--samples 4000] [--out benchmarks/results]

A plant of slow lags with three fast resonances, sampled at 10 Hz, and a low-pass signal.  What is reduced on one recording is
measured on a fresh one of the same kind, and, for what it costs, on white noise.  Weights are autoregressive models of
the recording (Yule-Walker).  Medians over seeds of both recordings.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import scipy.signal
from benchmarks_common import best_of, describe_machine, markdown, write

import balred
from balred.measures.recordings import output_error

STEP = 0.1
ORDERS = (2, 4, 6, 8)


def plant() -> balred.DenseSystem:
    """Six lags from 0.05 to 1.5 rad/s, and resonances of 5, 7 and 9 rad/s with half a percent of damping."""
    lags = np.geomspace(0.05, 1.5, 6)
    blocks = [np.diag(-lags), *([[0.0, w], [-w, -0.01 * w]] for w in (5.0, 7.0, 9.0))]
    A, B = scipy.linalg.block_diag(*blocks), np.concatenate([lags, [0.0, 0.05, 0.0, 0.05, 0.0, 0.05]])[:, None]
    C = np.concatenate([[1.0, -0.5, 1.0, -0.5, 1.0, 0.5], [0.0, 2.0, 0.0, 3.0, 0.0, 4.0]])[None]
    return balred.ss(*scipy.signal.cont2discrete((A, B, C, np.zeros((1, 1))), STEP, "zoh")[:4], dt=STEP)


def low_pass(samples: int, seed: int) -> Any:
    """White noise through a Butterworth filter of 0.5 rad/s."""
    b, a = scipy.signal.butter(2, 0.5 * STEP / np.pi)
    return scipy.signal.lfilter(b, a, white(samples, seed))


def white(samples: int, seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal(samples)


def weight(u: Any, order: int) -> balred.DenseSystem:
    """The autoregressive model of a signal, driven by white noise."""
    r = np.array([u[: len(u) - k] @ u[k:] for k in range(order + 1)]) / len(u)
    a = scipy.linalg.solve_toeplitz(r[:-1], r[1:])
    gain = np.sqrt(r[0] - a @ r[1:])
    return balred.ss(*scipy.signal.tf2ss([gain, *np.zeros(order)], [1.0, *-a]), dt=STEP)


def ways(g: balred.DenseSystem, u: Any) -> dict[str, Callable[[], balred.Analysis]]:
    return {
        "white": lambda: balred.analyze(g),
        "inputs": lambda: balred.analyze(g, inputs=u),
        "inputs, its first 200 samples": lambda: balred.analyze(g, inputs=u[:200]),
        **{
            f"weight, AR({n})": lambda n=n: balred.analyze(g, method="frequency_weighted", right=weight(u, n))
            for n in (2, 10)
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    g, rows = plant(), []
    for seed in range(args.seeds):
        u = low_pass(args.samples, seed)
        tests = {"fresh": low_pass(args.samples, 1000 + seed), "white noise": white(args.samples, 2000 + seed)}
        for way, make in ways(g, u).items():
            seconds, analysis = best_of(make, 3)
            for order in ORDERS:
                with warnings.catch_warnings(action="ignore", category=balred.RankWarning):
                    small = analysis.reduce(order)
                for test, fresh in tests.items():
                    error = output_error(g, small, fresh)
                    rows.append(
                        {"way": way, "order": order, "test": test, "seed": seed, "error": error, "seconds": seconds}
                    )

    def median(key: str, **chosen: Any) -> float:
        return float(np.median([r[key] for r in rows if all(r[k] == v for k, v in chosen.items())]))

    table = [
        [
            test,
            way,
            *(f"{median('error', way=way, test=test, order=order):.3g}" for order in ORDERS),
            f"{1e3 * median('seconds', way=way):.1f}",
        ]
        for test in ("fresh", "white noise")
        for way in dict.fromkeys(r["way"] for r in rows)
    ]
    text = markdown(["measured on", "balanced by", *(f"{k} states" for k in ORDERS), "ms"], table)
    print(text)
    settings = {"seeds": args.seeds, "samples": args.samples}
    write(args.out, "inputs", {"machine": describe_machine(), **settings, "rows": rows}, text)


if __name__ == "__main__":
    main()
