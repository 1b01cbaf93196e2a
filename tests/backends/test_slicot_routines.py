"""Routine by routine against SLICOT as translated to C in the package ctrlsys (independent of Fortran and slycot).

AB09AD/BD (truncation and singular perturbation), AB09MD/ND (the alpha-stable part), AB13AD (Hankel norm), AB13BD (H2)
and AB13DD (L-infinity) on random systems, in continuous and discrete time.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from tables import frequencies

import balred

ctrlsys = pytest.importorskip("ctrlsys")

each = pytest.mark.parametrize(
    ("seed", "n", "m", "p"), [(0, 1, 1, 1), (1, 4, 1, 1), (2, 7, 3, 1), (3, 10, 2, 4), (4, 12, 5, 6), (5, 6, 9, 2)]
)
times = pytest.mark.parametrize("dt", [0, 1])


def plant(seed, n, m, p, dt):
    g = balred.testing.random_system(n, m, p, dt=dt, seed=seed)
    return balred.ss(g.A, g.B, g.C, np.random.default_rng(seed).standard_normal((p, m)), dt)


def shifted(seed, n, m, p, dt):
    """The same with poles on both sides of the boundary."""
    g = plant(seed, n, m, p, dt)
    A = g.A * 1.7 if dt else g.A + 0.5 * np.abs(np.linalg.eigvals(g.A).real).max() * np.eye(n)
    return balred.ss(A, g.B, g.C, g.D, dt)


def args(g):
    return [np.asfortranarray(x.copy()) for x in (g.A, g.B, g.C, g.D)]


def size(g):
    return g.A.shape[0], g.B.shape[1], g.C.shape[0]


def same_transfer(g, h, scale):
    for z in frequencies(g, 30):
        assert_allclose(g(z), h(z), rtol=1e-6, atol=1e-8 * scale)


@each
@times
@pytest.mark.parametrize("job", ["B", "N"])
def test_ab09ad_truncation(seed, n, m, p, dt, job):
    g = plant(seed, n, m, p, dt)
    k = max(1, n // 2)
    A, B, C, _ = args(g)
    Ar, Br, Cr, hsv, nr, _, info = ctrlsys.ab09ad("D" if dt else "C", job, "N", "F", *size(g), k, A, B, C, 0.0)
    assert (info, nr) == (0, k)
    assert_allclose(balred.hsv(g), hsv, rtol=1e-9, atol=1e-12 * hsv[0])
    same_transfer(balred.reduce(g, k), balred.ss(Ar[:k, :k], Br[:k], Cr[:, :k], g.D, dt), hsv[0])


@each
def test_ab09bd_singular_perturbation(seed, n, m, p):
    g = plant(seed, n, m, p, 0)
    k = max(1, n // 2)
    Ar, Br, Cr, Dr, nr, hsv, _, info = ctrlsys.ab09bd("C", "B", "N", "F", *size(g), k, *args(g), 0.0, 0.0)
    assert (info, nr) == (0, k)
    assert_allclose(balred.hsv(g), hsv, rtol=1e-9, atol=1e-12 * hsv[0])
    small = balred.reduce(g, k, method="singular_perturbation")
    same_transfer(small, balred.ss(Ar[:k, :k], Br[:k], Cr[:, :k], Dr, 0), hsv[0])


@each
@times
def test_ab09dd_residualises_the_balanced_system(seed, n, m, p, dt):
    g = plant(seed, n, m, p, dt)
    k = max(1, n // 2)
    balanced = balred.balance(g).system
    Ar, Br, Cr, Dr, _, info = ctrlsys.ab09dd("D" if dt else "C", *size(g), k, *args(balanced))
    assert info == 0
    small = balred.reduce(g, k, method="singular_perturbation")
    same_transfer(small, balred.ss(Ar[:k, :k], Br[:k], Cr[:, :k], Dr, dt), balred.hsv(g)[0])


@pytest.mark.parametrize("routine", ["ab09bd", "ab09nd"])
def test_discrete_singular_perturbation_of_slicot_loses_the_steady_state(routine):
    """AB09BD and AB09ND keep G(1) in no discrete system tried, although AB09DD, which they call, does; we keep it."""
    g, k = plant(1, 4, 1, 1, 1), 2
    alpha = [1.0] if routine == "ab09nd" else []
    out = getattr(ctrlsys, routine)("D", "B", "N", "F", *size(g), k, *alpha, *args(g), 0.0, 0.0)
    theirs = balred.ss(out[0][:k, :k], out[1][:k], out[2][:, :k], out[3], 1)
    ours = balred.reduce(g, k, method="singular_perturbation")
    assert abs(theirs(1.0) - g(1.0)).max() > 0.1
    assert_allclose(ours(1.0), g(1.0), rtol=1e-12)


@each
@times
def test_ab09nd_and_ab09md_keep_the_unstable_part(seed, n, m, p, dt):
    g = shifted(seed, n, m, p, dt)
    poles = np.linalg.eigvals(g.A)
    unstable = int(np.sum(np.abs(poles) >= 1 if dt else poles.real >= 0))
    if not 0 < unstable < n - 1:
        pytest.skip("this seed has no poles on both sides")
    k = min(unstable + max(1, (n - unstable) // 2), n)
    s = balred.hsv(g)
    alpha = 1.0 if dt else 0.0
    A, B, C, _ = args(g)
    Ar, Br, Cr, ns, hsv, nr, _, info = ctrlsys.ab09md(
        "D" if dt else "C", "B", "N", "F", *size(g), k, alpha, A, B, C, 0.0
    )
    assert (info, ns, nr) == (0, n - unstable, k)
    assert np.all(np.isinf(s[:unstable]))
    assert_allclose(s[unstable:], hsv[:ns], rtol=1e-8, atol=1e-11 * hsv[0])
    same_transfer(balred.reduce(g, k), balred.ss(Ar[:k, :k], Br[:k], Cr[:, :k], g.D, dt), hsv[0])
    if dt:
        return  # see the test of AB09ND's steady state
    Ar, Br, Cr, Dr, nr, ns, hsv, _, info = ctrlsys.ab09nd("C", "B", "N", "F", *size(g), k, alpha, *args(g), 0.0, 0.0)
    assert (info, ns, nr) == (0, n - unstable, k)
    small = balred.reduce(g, k, method="singular_perturbation")
    same_transfer(small, balred.ss(Ar[:k, :k], Br[:k], Cr[:, :k], Dr, dt), hsv[0])


@each
@times
def test_ab13ad_hankel_norm(seed, n, m, p, dt):
    g = plant(seed, n, m, p, dt)
    A, B, C, _ = args(g)
    value = ctrlsys.ab13ad("D" if dt else "C", "N", *size(g), 1.0 if dt else 0.0, A, B, C)[0]
    assert_allclose(balred.norm(g, "hankel"), value, rtol=1e-10)


@each
@times
def test_ab13bd_h2_norm(seed, n, m, p, dt):
    g = plant(seed, n, m, p, dt)
    A, B, C, D = args(g)
    value, _, _, info = ctrlsys.ab13bd("D" if dt else "C", "H", A, B, C, D if dt else 0 * D, 0.0)
    assert info == 0
    bare = balred.ss(g.A, g.B, g.C, g.D if dt else None, dt)
    assert_allclose(balred.norm(bare, "h2"), value, rtol=1e-9)


@each
@times
def test_ab13dd_infinity_norm(seed, n, m, p, dt):
    g = plant(seed, n, m, p, dt)
    A, B, C, D = args(g)
    start = np.array([0.0, 1.0])
    *_, gain, _, info = ctrlsys.ab13dd(
        "D" if dt else "C", "I", "N", "D", *size(g), start, A, np.asfortranarray(np.eye(n)), B, C, D, 1e-10
    )
    assert info == 0
    assert_allclose(balred.norm(g, "hinf"), gain[0] / gain[1] if gain[1] else np.inf, rtol=1e-8)
