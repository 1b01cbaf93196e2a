"""Where H2-optimal reduction begins: several places, of which the best end is kept, against pyMOR and random places."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from tables import SINGLE, skip_without

import balred
from balred.hankel.spectrum import spectrum
from balred.methods import h2_optimal, h2_runs
from balred.methods.h2_optimal import ConvergenceWarning, attempts, h2_spectrum
from balred.methods.h2_runs import starts
from balred.methods.h2_step import evaluated


def mass_spring(masses: int, ports: int = 1) -> Any:
    """Masses of 4 in a row between springs of 4, the last one at a wall, with friction 1: forces in, velocities out.

    The port-Hamiltonian example of S. Gugercin, R. Polyuga, C. Beattie and A. van der Schaft, Automatica 48 (2012).
    """
    K = 4 * (2 * np.eye(masses) - np.eye(masses, k=1) - np.eye(masses, k=-1))
    K[0, 0] = 4
    A = np.block([[np.zeros((masses, masses)), np.eye(masses) / 4], [-K, -np.eye(masses) / 4]])
    B = np.eye(2 * masses)[:, masses : masses + ports]
    return balred.ss(A, B, B.T / 4)


def penzl(real: int) -> Any:
    """Three resonances and a row of real poles [T. Penzl, 1999, example 3]."""
    blocks = [np.array([[-1.0, w], [-w, -1.0]]) for w in (100.0, 200.0, 400.0)]
    A = scipy.linalg.block_diag(*blocks, -np.diag(np.arange(1.0, real + 1)))
    B = np.concatenate([10 * np.ones(6), np.ones(real)])[:, None]
    return balred.ss(A, B, B.T)


def light(seed: int, ports: int = 1) -> Any:
    """Eight resonances over two decades, of damping from 0.005 to 0.2."""
    rng = np.random.default_rng(seed)
    w, damping = 10 ** rng.uniform(-1, 1, 8), 10 ** rng.uniform(np.log10(0.005), np.log10(0.2), 8)
    A = scipy.linalg.block_diag(*(w * np.array([[-z, 1], [-1, -z]]) for w, z in zip(w, damping, strict=True)))
    return balred.ss(A, rng.standard_normal((16, ports)), rng.standard_normal((ports, 16)))


def h2_error(g: Any, small: Any) -> float:
    d = balred.systems.parts.difference(g, small)
    return float(balred.norm(dataclasses.replace(d, D=0 * d.D), "h2"))


@skip_without("pymor")
@pytest.mark.parametrize("ports", [1, 2])
@pytest.mark.parametrize("k", [2, 4, 6])
def test_no_worse_than_pymor_on_masses_and_springs(ports, k):
    from pymor.core.logger import set_log_levels
    from pymor.models.iosys import LTIModel
    from pymor.reductors.h2 import IRKAReductor

    set_log_levels({"pymor": "ERROR"})
    g = mass_spring(30, ports)
    theirs = IRKAReductor(LTIModel.from_matrices(g.A, g.B, g.C)).reduce(k, tol=1e-8, maxit=100)
    A, B, C, _, E = theirs.to_abcde_matrices()
    A, B = (A, B) if E is None else (np.linalg.solve(E, A), np.linalg.solve(E, B))
    assert h2_error(g, balred.reduce(g, k, method="irka")) <= h2_error(g, balred.ss(A, B, C)) * (1 + 1e-6)


def anywhere(g: Any, k: int, rng: np.random.Generator) -> Any:
    """Poles and vectors at random, between the slowest and the fastest pole of the system."""
    size = np.abs(np.linalg.eigvals(g.A))
    pairs = rng.integers(k // 2 + 1)
    blocks = [
        np.array([[-x, y], [-y, -x]]) for x, y in np.exp(rng.uniform(*np.log([size.min(), size.max()]), (pairs, 2)))
    ]
    real = np.diag(-np.exp(rng.uniform(*np.log([size.min(), size.max()]), k - 2 * pairs)))
    m, p = g.B.shape[1], len(g.C)
    return balred.ss(scipy.linalg.block_diag(*blocks, real), rng.standard_normal((k, m)), rng.standard_normal((p, k)))


@pytest.mark.alike
@pytest.mark.parametrize(
    ("g", "k"),
    [(penzl(30), 2), (penzl(30), 4), (mass_spring(20), 4), (light(0), 3), (light(1), 4), (light(2, ports=2), 3)],
    ids=["penzl-2", "penzl-4", "masses-4", "light-3", "light-4", "light-two-ports-3"],
)
def test_twelve_random_starts_find_nothing_better(g, k):
    state, rng = h2_spectrum(g), np.random.default_rng(0)
    best = np.inf
    for _ in range(12):
        now = evaluated(state.target, anywhere(g, k, rng), h2_optimal._schur_vectors)
        run = h2_runs.Run("anywhere", (now.g, None, None), now.error, np.inf, 0, now)
        best = min(best, h2_runs.iterated(state, run, h2_optimal._schur_vectors, near=1e-4).error)
    assert h2_error(g, balred.reduce(g, k, method="tsia")) ** 2 <= best * (1 + 1e-6)


def test_the_default_start_alone_would_end_beside_the_optimum():
    """What several starts are for (guards the tests above): truncation splits a pair of values, and ends elsewhere."""
    g = mass_spring(50)
    from_truncation = balred.reduce(g, 4, method="irka", init=balred.reduce(g, 4))
    assert h2_error(g, from_truncation) > 2 * h2_error(g, balred.reduce(g, 4, method="irka"))


@pytest.mark.parametrize("method", ["irka", "tsia"])
def test_what_every_start_came_to_is_told(method):
    g = mass_spring(20)
    found = attempts(g, 4, method=method)
    small = balred.reduce(g, 4, method=method)
    assert len({x.start for x in found}) == len(found) == 5
    assert found[0].change <= 1e-9
    assert abs(found[0].error - h2_error(g, small)) < 1e-6 * found[0].error
    for x in found:
        assert abs(x.error - h2_error(g, x.system)) < 1e-4 * x.error
        assert x.error >= found[0].error * (1 - 1e-9)
    with pytest.raises(ValueError, match="rank must be between 1 and 39, below the numerical rank, got 40"):
        attempts(g, 40, method=method)


@pytest.mark.parametrize("case", SINGLE, ids=str)
@pytest.mark.parametrize("k", [1, 3])
def test_starts_of_every_structure(case, k):
    """Each is a stable system of the order asked for; there are at least three."""
    with balred.systems.arrays.double_precision(*case.make().leaves):
        g = case.make(n=6, seed=4).to_dense()
        found = dict(starts(spectrum(g, None), k))
    assert len(found) >= 3
    for start in found.values():
        assert start.order == k
        assert np.iscomplexobj(start.A) <= case.complex or case.kind == "diagonal"
        assert balred.systems.poles.pole_margin(start)[1].min() > 0


@pytest.mark.full
def test_truncation_in_place_of_an_optimum_is_told():
    """A heat equation, down to orders at which squares of errors are all noise: what is returned is truncation or told."""
    n = 60
    A = (np.eye(n, k=1) + np.eye(n, k=-1) - 2 * np.eye(n)) * (n + 1) ** 2
    g = balred.ss(A, np.eye(n)[:, n // 3 : n // 3 + 1], np.eye(n)[2 * n // 3 : 2 * n // 3 + 1])
    a, plain = balred.analyze(g, method="irka"), balred.analyze(g)
    for k in range(6, a.numerical_rank, 3):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            small = a.reduce(k)
        if np.array_equal(small.A, plain.reduce(k).A):
            assert [w.category for w in told] == [ConvergenceWarning]
            assert "balanced truncation is returned" in str(told[0].message)
