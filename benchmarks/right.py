"""How often the answer is right on what engineers type first: filters, integrators, uneven units, stiff chains, what cancels.

    python benchmarks/right.py [--out benchmarks/results] [--kinds filters rotated ...]
    python benchmarks/tables.py

A row is a kind of system, a column a library; a cell says in how many of the systems the answer is right, refused (an
error, or a value that is no number) and, worst of all, wrong without a word.  Right means: all Hankel singular values within
1e-6 of the first finite one, and infinite as often as there are modes on the boundary; for what cancels, the order of a minimal
realisation.  The truth is computed from the same float64 data in arithmetic of 400 digits, or known in closed form.
Each library is called as its users call it; SLICOT with and without its scaling (EQUIL).
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import control
import mpmath
import numpy as np
import scipy.linalg
import scipy.signal
import slycot
from benchmarks_common import describe_machine, markdown, write
from pymor.models.iosys import LTIModel

import balred

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from oracle import oracle_hsv

DIGITS, RIGHT = 400, 1e-6


class Plant(NamedTuple):
    """A system, and what is to come out: Hankel singular values, or an order."""

    A: Any
    B: Any
    C: Any
    D: Any
    dt: float
    truth: Any


# ------------------------------------------------------------------------------------------------ kinds of systems


def measured(A: Any, B: Any, C: Any, D: Any, dt: float = 0.0) -> Plant:
    """A stable plant and its values from many digits, in units of state and time (powers of two: exact) that need fewer."""
    A, B, C = (np.asarray(x, dtype=float) for x in (A, B, C))
    even, (d, _) = scipy.linalg.matrix_balance(A, permute=False, separate=True)
    time = 1.0 if dt else 2.0 ** np.round(np.log2(np.linalg.norm(even)))
    truth = oracle_hsv(balred.ss(even / time, B / d[:, None] / time, C * d, dt=dt), DIGITS)
    return Plant(A, B, C, np.asarray(D, dtype=float), dt, truth)


def filters(hertz: float) -> Iterator[Plant]:
    """Analogue filters of orders 2 to 8 in the companion form of ``tf2ss``."""
    w = 2 * np.pi * hertz
    for n in range(2, 9):
        for num, den in (
            scipy.signal.butter(n, w, analog=True),
            scipy.signal.cheby1(n, 1, w, analog=True),
            scipy.signal.ellip(n, 1, 60, w, analog=True),
        ):
            yield measured(*scipy.signal.tf2ss(num, den))


def digital() -> Iterator[Plant]:
    """Digital Butterworth filters in companion form; those that the rounding of their coefficients made unstable are left out."""
    for n in (2, 4, 6, 8):
        for cut in (0.5, 0.1, 0.05, 0.01, 0.005, 0.001):
            with suppress(ValueError):  # a Gramian that is not positive definite
                yield measured(*scipy.signal.tf2ss(*scipy.signal.butter(n, cut)), 1.0)


def sampled() -> Iterator[Plant]:
    """Random stable plants, sampled quickly (zero-order hold)."""
    for seed in range(10):
        g = balred.testing.random_system(4, 1, 1, seed=seed)
        for dt in (1e-2, 1e-3, 1e-4):
            A, B, C, D, _ = scipy.signal.cont2discrete((g.A, g.B, g.C, np.zeros((1, 1))), dt)
            yield measured(A, B, C, D, dt)


def uneven() -> Iterator[Plant]:
    """Random plants with states in units that range over twelve decades."""
    for seed in range(30):
        g = balred.testing.random_system(6, 2, 2, seed=seed)
        t = 10.0 ** np.random.default_rng(seed).uniform(-6, 6, 6)
        yield measured(g.A * t[:, None] / t, g.B * t[:, None], g.C / t, np.zeros((2, 2)))


def stiff() -> Iterator[Plant]:
    """Chains of first-order lags whose rates range from 1e-8 to 1e3."""
    for seed in range(20):
        rates = 10.0 ** np.random.default_rng(seed).uniform(-8, 3, 5)
        A = -np.diag(rates) + np.diag(rates[1:], -1)
        yield measured(A, rates[0] * np.eye(5, 1), np.eye(5)[-1:], 0.0)


def boundary(poles: Any, B: Any, C: Any, dt: float, count: int, seeds: int = 50) -> Iterator[Plant]:
    """A plant, the first `count` states of which are on the boundary, in rotated coordinates."""
    A, B, C = (np.asarray(x, dtype=float) for x in (poles, B, C))
    stable = balred.ss(A[count:, count:], B[count:], C[:, count:], dt=dt)
    truth = np.concatenate([np.full(count, np.inf), oracle_hsv(stable, DIGITS)])
    for seed in range(seeds):
        T = np.linalg.qr(np.random.default_rng(seed).standard_normal(A.shape))[0]
        yield Plant(T @ A @ T.T, T @ B, C @ T.T, np.zeros((1, 1)), dt, truth)


def integrator() -> Iterator[Plant]:
    """An integrator beside two lags."""
    return boundary(np.diag([0.0, -1, -3]), np.ones((3, 1)), np.ones((1, 3)), 0.0, 1)


def accumulator() -> Iterator[Plant]:
    """A discrete pole at one beside two others."""
    return boundary(np.diag([1.0, 0.5, -0.3]), np.ones((3, 1)), np.ones((1, 3)), 1.0, 1)


def free_mass() -> Iterator[Plant]:
    """A double integrator, as of a body that nothing holds, beside two lags."""
    A = scipy.linalg.block_diag([[0.0, 1.0], [0.0, 0.0]], -1.0, -3.0)
    return boundary(A, np.array([[0.0], [1], [1], [1]]), np.array([[1.0, 0, 1, 1]]), 0.0, 2)


def oscillator() -> Iterator[Plant]:
    """An oscillator without damping beside two lags."""
    A = scipy.linalg.block_diag([[0.0, 2.0], [-2.0, 0.0]], -1.0, -3.0)
    return boundary(A, np.ones((4, 1)), np.ones((1, 4)), 0.0, 2)


def cancelling() -> Iterator[Plant]:
    """``G - G`` in two sets of coordinates: nothing is left."""
    for seed in range(40):
        g = balred.testing.random_system(4, 1, 1, seed=seed)
        T = np.random.default_rng(seed).standard_normal((4, 4))
        inverse = np.linalg.inv(T)
        A = scipy.linalg.block_diag(g.A, T @ g.A @ inverse)
        yield Plant(A, np.vstack([g.B, T @ g.B]), np.hstack([g.C, -g.C @ inverse]), np.zeros((1, 1)), 0.0, 0)


def small_gains() -> Iterator[Plant]:
    """Minimal plants with inputs of 1e-6 and outputs of 1e6: nothing is lost."""
    for seed in range(40):
        g = balred.testing.random_system(4, 1, 1, seed=seed)
        yield Plant(g.A, g.B * 1e-6, g.C * 1e6, np.zeros((1, 1)), 0.0, 4)


KINDS: dict[str, Callable[[], Iterator[Plant]]] = {
    "analogue filters, 1 Hz": lambda: filters(1.0),
    "analogue filters, 1 kHz": lambda: filters(1e3),
    "analogue filters, 20 kHz": lambda: filters(2e4),
    "analogue filters, 1 MHz": lambda: filters(1e6),
    "analogue filters, 2.4 GHz": lambda: filters(2.4e9),
    "digital filters": digital,
    "plants sampled at 1e-2 to 1e-4": sampled,
    "states in units over 12 decades": uneven,
    "stiff chains, rates 1e-8 to 1e3": stiff,
    "an integrator, rotated": integrator,
    "a discrete pole at 1, rotated": accumulator,
    "a free mass, rotated": free_mass,
    "an undamped oscillator, rotated": oscillator,
    "G - G, minimal": cancelling,
    "inputs 1e-6, outputs 1e6, minimal": small_gains,
}


# ------------------------------------------------------------------------------------------------ libraries


def ours(p: Plant) -> Any:
    g = balred.ss(p.A, p.B, p.C, np.atleast_2d(p.D), dt=p.dt)
    return balred.minimal(g).order if np.ndim(p.truth) == 0 else balred.hsv(g)


def slicot(equil: str) -> Callable[[Plant], Any]:
    def call(p: Plant) -> Any:
        n, m, q = len(p.A), p.B.shape[1], len(p.C)
        A, B, C = (np.array(x, order="F") for x in (p.A, p.B, p.C))
        if np.ndim(p.truth) == 0:
            size = max(m, q)
            B, C = np.zeros((n, size)), np.zeros((size, n))
            B[:, :m], C[:q] = p.B, p.C
            return slycot.tb01pd(n, m, q, A, B, C, equil=equil)[3]
        time = "D" if p.dt else "C"
        if np.isinf(p.truth).any():
            # asked for the unstable part alone it returns before it has any values
            *_, ns, values = slycot.ab09md(time, "B", equil, n, m, q, A, B, C, 1.0 if p.dt else 0.0, n)
            return np.concatenate([np.full(n - ns, np.inf), values[:ns]])
        return slycot.ab09ad(time, "B", equil, n, m, q, A, B, C, 1)[-1]

    return call


def python_control(p: Plant) -> Any:
    g = control.StateSpace(p.A, p.B, p.C, np.atleast_2d(p.D), p.dt or 0)
    return control.minreal(g, verbose=False).nstates if np.ndim(p.truth) == 0 else control.hankel_singular_values(g)


def pymor(p: Plant) -> Any:
    if np.ndim(p.truth) == 0:
        return None
    g = LTIModel.from_matrices(p.A, p.B, p.C, sampling_time=p.dt)
    return g.hsv()


def scipy_alone(p: Plant) -> Any:
    if np.ndim(p.truth) == 0:
        return None
    solve = scipy.linalg.solve_discrete_lyapunov if p.dt else scipy.linalg.solve_continuous_lyapunov
    sign = 1 if p.dt else -1
    P, Q = solve(p.A, sign * p.B @ p.B.T), solve(p.A.T, sign * p.C.T @ p.C)
    return np.sqrt(np.linalg.eigvals(P @ Q))


LIBRARIES: dict[str, Callable[[Plant], Any]] = {
    "balred": ours,
    "SLICOT": slicot("N"),
    "SLICOT, scaled": slicot("S"),
    "python-control": python_control,
    "pyMOR": pymor,
    "SciPy": scipy_alone,
}


def verdict(call: Callable[[Plant], Any], plant: Plant) -> str:
    """Right, refused, wrong, or none where the library has no such function."""
    try:
        found = call(plant)
    except Exception:
        return "refused"
    if found is None:
        return "none"
    if np.ndim(plant.truth) == 0:
        return "right" if found == plant.truth else "wrong"
    found, truth = np.asarray(found), np.asarray(plant.truth)
    if found.size and (np.isnan(found).any() or np.abs(found.imag).max() > RIGHT * np.abs(found).max()):
        return "refused"
    found = np.sort(found.real)[::-1]
    finite = np.isfinite(truth)
    if len(found) != len(truth) or (np.isfinite(found) != finite).any():
        return "wrong"
    return "right" if np.abs(found - truth)[finite].max() <= RIGHT * truth[finite].max() else "wrong"


def main() -> None:
    """Try every library on every kind, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--kinds", nargs="+", metavar="WORD", help="only kinds whose name has one of these words in it")
    arguments = parser.parse_args()
    kinds = {k: v for k, v in KINDS.items() if arguments.kinds is None or any(word in k for word in arguments.kinds)}
    if not kinds:
        parser.error(f"--kinds must be part of one of: {'; '.join(KINDS)}; got {' '.join(arguments.kinds)}")
    logging.disable()
    warnings.simplefilter("ignore")
    result: dict[str, Any] = {"machine": describe_machine(), "right": RIGHT, "kinds": {}}
    rows = []
    for kind, plants in kinds.items():
        several = list(plants())
        counts = {}
        for name, call in LIBRARIES.items():
            verdicts = [verdict(call, plant) for plant in several]
            counts[name] = {v: verdicts.count(v) for v in ("right", "refused", "wrong", "none")}
        result["kinds"][kind] = {"systems": len(several), **counts}
        rows.append([kind, str(len(several)), *(cell(c) for c in counts.values())])
        print(" | ".join(rows[-1]), flush=True)
    mpmath.mp.dps = 15
    table = markdown(["kind", "systems", *LIBRARIES], rows)
    write(arguments.out, "right", result, f"{table}\n{better(result['kinds'])}\n")


def better(kinds: dict[str, dict[str, Any]]) -> str:
    """The sentence that says where another library is right more often."""
    ahead = []
    for kind, counts in kinds.items():
        right = {name: counts[name]["right"] for name in LIBRARIES}
        most = max(right.values())
        if right["balred"] < most:
            ahead.append(f"{kind} ({', '.join(name for name, n in right.items() if n == most)})")
    return f"Another is right more often on: {'; '.join(ahead) or 'none of these kinds'}."


def cell(count: dict[str, int]) -> str:
    """What a reader looks for: how many are right; below it what went wrong in silence, and what was refused."""
    if count["none"]:
        return "none"
    rest = [f"{count[v]} {v}" for v in ("wrong", "refused") if count[v]]
    return f"{count['right']}" + (f" ({', '.join(rest)})" if rest else "")


if __name__ == "__main__":
    main()
