"""Norms against closed forms, frequency grids and published numbers; peaks that a grid does not see."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from tables import SINGLE, each_case, each_single, frequencies, gains, members, skip_without

import balred
from balred.norms import hinf_peak


@pytest.mark.parametrize("kind", ["h2", "hinf", "hankel"])
@each_case
def test_every_library_equals_numpy(xp, case, kind):
    if xp.traced and kind == "hinf":
        pytest.skip("a search for peaks cannot be traced: the error is tested below")
    system = case.make(n=3)
    if kind == "h2" and not system.discrete:
        system = dataclasses.replace(system, D=0 * system.D)
    got = xp.call(lambda g: balred.norm(g, kind), xp.system(system))
    assert str(got.dtype).removeprefix("torch.") == xp.precision
    assert tuple(got.shape) == case.batch
    want = [float(balred.norm(g, kind)) for g in members(xp.exact(system))]
    assert_allclose(xp.numpy(got).reshape(-1), want, rtol=max(8 * xp.eps, 1e-9))


@each_single
def test_h2_by_quadrature(case):
    """||G||^2 = 1/(2 pi) of the integral of ||G||_F^2 over the circle (or tr of the impulse response's energy)."""
    g = case.make(n=3)
    if g.discrete:
        # the trapezoidal rule on a circle converges geometrically
        w = np.linspace(0, 2 * np.pi, 4096, endpoint=False)
        square = np.mean([np.linalg.norm(g(np.exp(1j * x))) ** 2 for x in w])
    else:
        g = dataclasses.replace(g, D=0 * g.D)
        d = g.to_dense()
        # integral of ||C e^{At} B||_F^2 by Gauss-Legendre panels until the slowest mode has died
        slowest = -np.linalg.eigvals(d.A).real.max()
        x, weight = np.polynomial.legendre.leggauss(20)
        edges = np.linspace(0, 20 / slowest, 401)
        half = np.diff(edges)[0] / 2
        step = scipy.linalg.expm(d.A * 2 * half)
        at = [scipy.linalg.expm(d.A * half * (1 + t)) @ d.B for t in x]
        square = 0.0
        for _ in edges[:-1]:
            square += half * sum(c * np.linalg.norm(d.C @ v) ** 2 for c, v in zip(weight, at, strict=True))
            at = [step @ v for v in at]
    assert_allclose(float(balred.norm(g, "h2")) ** 2, square, rtol=1e-8)


def test_h2_is_infinite_with_a_direct_term_in_continuous_time():
    assert balred.norm(balred.ss([[-1.0]], [[1.0]], [[1.0]], [[0.1]]), "h2") == np.inf
    # discrete, by hand: b^2 c^2 / (1 - a^2) + d^2 = 4/3 + 1/4
    assert_allclose(
        balred.norm(balred.ss([[0.5]], [[1.0]], [[1.0]], [[0.5]], dt=1), "h2") ** 2, 4 / 3 + 1 / 4, rtol=1e-13
    )


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 12),
    m=st.integers(1, 3),
    p=st.integers(1, 3),
    row=st.sampled_from(SINGLE),
)
def test_hinf_is_never_below_a_grid(seed, n, m, p, row):
    g = row.make(n, m, p, seed)
    peak = float(balred.norm(g, "hinf"))
    assert peak >= gains(g, frequencies(g, 300)).max() * (1 - 1e-9)


@each_single
def test_hinf_is_attained(case):
    """The frequency returned has the gain returned, so the norm is not above the supremum either."""
    g = case.make(n=6).to_dense()
    peak, w = hinf_peak(g)
    at = np.exp(1j * w) if g.discrete else 1j * w
    gain = np.linalg.norm(g.D, 2) if np.isinf(w) else np.linalg.norm(g(at), 2)
    assert_allclose(peak, gain, rtol=1e-9)
    near = (
        np.exp(1j * (w + np.linspace(-1e-2, 1e-2, 2001)))
        if g.discrete
        else 1j * (w * (1 + np.linspace(-1e-2, 1e-2, 2001)))
    )
    if np.isfinite(w):
        assert gains(g, near).max() <= peak * (1 + 1e-9)


@pytest.mark.parametrize("zeta", [1e-2, 1e-4, 1e-6])
def test_a_resonance_that_a_grid_misses(zeta):
    """w0^2/(s^2 + 2 zeta w0 s + w0^2) peaks at 1/(2 zeta sqrt(1 - zeta^2)) (any textbook), here at w0 = sqrt 2."""
    w0 = 2**0.5
    g = balred.ss([[0.0, 1.0], [-(w0**2), -2 * zeta * w0]], [[0.0], [w0**2]], [[1.0, 0.0]])
    want = 1 / (2 * zeta * np.sqrt(1 - zeta**2))
    assert_allclose(balred.norm(g, "hinf"), want, rtol=1e-8)
    if zeta < 1e-3:
        assert gains(g, 1j * np.logspace(-3, 3, 1000)).max() < 0.5 * want


def test_a_hidden_second_resonance():
    """Two lightly damped modes beside broad ones: the narrow one at w = 37 is the higher by construction."""
    modes = [(1.0, 0.5, 1.0), (37.0, 1e-5, 1e-4), (300.0, 1e-1, 0.3)]
    blocks = [np.array([[0.0, 1.0], [-(w**2), -2 * z * w]]) for w, z, _ in modes]
    B = np.concatenate([[[0.0], [k * w**2]] for w, _, k in modes])
    C = np.array([[1.0, 0.0] * len(modes)])
    g = balred.ss(scipy.linalg.block_diag(*blocks), B, C)
    peak = gains(g, 1j * np.linspace(36.99, 37.01, 4001)).max()
    assert peak > 1.5 * gains(g, 1j * np.concatenate([np.linspace(0, 36, 1000), np.linspace(38, 1000, 1000)])).max()
    assert_allclose(balred.norm(g, "hinf"), peak, rtol=1e-4)


@pytest.mark.parametrize("D", [1.0, 1e3, 1e6, -1e6])
def test_dominated_by_the_direct_term(D):
    """D - sign(D)/(s + 1) has its largest gain |D| at infinity; D + sign(D)/(s + 1) has |D| + 1 at zero."""
    sign = np.sign(D)
    assert_allclose(balred.norm(balred.ss([[-1.0]], [[1.0]], [[-sign]], [[D]]), "hinf"), abs(D), rtol=1e-9)
    assert_allclose(balred.norm(balred.ss([[-1.0]], [[1.0]], [[sign]], [[D]]), "hinf"), abs(D) + 1, rtol=1e-9)


@pytest.mark.parametrize("pole", [-0.999999, -0.5, 0.0, 0.5, 0.999999, 0.999j, -0.99999j])
def test_discrete_first_order(pole):
    """1/(z - a) has its peak 1/(1 - |a|) where z points along a; poles near -1 and 1 included."""
    g = balred.ss([[pole]], [[1.0]], [[1.0]], dt=1)
    assert_allclose(balred.norm(g, "hinf"), 1 / (1 - abs(pole)), rtol=1e-9)


def test_discrete_poles_all_around_the_circle():
    """Poles in every direction, so that no rotation is far from all: against a dense grid around each pole."""
    n = 32
    angles = 2 * np.pi * (np.arange(n) + 0.5) / n
    g = balred.diagonal(log_poles=-1e-4 + 1j * angles, B=np.ones((n, 1)), C=1 + np.arange(n)[None] / n, dt=1)
    around = np.exp(1j * (angles[:, None] + np.linspace(-1e-3, 1e-3, 401)).reshape(-1))
    assert_allclose(balred.norm(g, "hinf"), gains(g, around).max(), rtol=1e-6)


def test_complex_system_peaks_at_a_negative_frequency():
    """1/(s - p) with p = -0.01 - 3j peaks at w = -3 only: 1/0.01."""
    g = balred.diagonal([-0.01 - 3j], [[1.0]], [[1.0]])
    assert_allclose(balred.norm(g, "hinf"), 100.0, rtol=1e-9)
    assert_allclose(balred.norm(g.to_dense(), "hinf"), 100.0, rtol=1e-9)


def test_zero_and_static_systems():
    assert balred.norm(balred.ss([[-1.0]], [[0.0]], [[1.0]]), "hinf") == 0
    assert_allclose(balred.norm(balred.ss([[-1.0]], [[0.0]], [[1.0]], [[-3.0]]), "hinf"), 3.0, rtol=1e-12)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 10), row=st.sampled_from(SINGLE))
def test_hankel_norm_is_the_first_value_and_below_hinf(seed, n, row):
    """Nehari: ||G||_H <= ||G||_inf."""
    g = row.make(n, seed=seed)
    hankel = float(balred.norm(g, "hankel"))
    assert hankel == balred.hsv(g)[0]
    assert hankel <= float(balred.norm(g, "hinf")) * (1 + 1e-9)


@skip_without("control")
@pytest.mark.parametrize("n", [1, 4, 9])
def test_equal_python_control(n):
    import control

    g = balred.testing.random_system(n, seed=n)
    g = dataclasses.replace(g, D=0 * g.D)
    theirs = control.ss(g.A, g.B, g.C, g.D)
    assert_allclose(balred.norm(g, "h2"), control.norm(theirs, 2), rtol=1e-8)
    assert_allclose(balred.norm(g, "hinf"), control.norm(theirs, "inf", tol=1e-10), rtol=1e-6)


def test_error_is_the_norm_of_the_difference():
    """By hand: 1/(s+1) - 3/(s+1) = -2/(s+1)."""
    a, b = (balred.ss([[-1.0]], [[1.0]], [[c]]) for c in (1.0, 3.0))
    assert_allclose([balred.error(a, b, k) for k in ("hinf", "h2", "hankel")], [2, 2**0.5, 1], rtol=1e-12)
    assert_allclose(balred.error(a, a), 0, atol=1e-14)


@pytest.mark.parametrize("case", [c for c in SINGLE if c.kind != "dense"], ids=str)
def test_error_of_mixed_structures(case):
    g = case.make(n=4)
    small = balred.reduce(g, 2)
    want = float(balred.error(g, small))
    assert want > 1e-3
    assert_allclose(balred.error(g, small.to_dense()), want, rtol=1e-9)
    assert_allclose(balred.error(g.to_dense(), small), want, rtol=1e-9)


@skip_without("jax")
def test_hinf_refuses_a_trace():
    import jax

    with pytest.raises(TypeError, match="the H-infinity norm needs concrete values, got traced arrays"):
        jax.jit(lambda A: balred.norm(balred.ss(A, A, A), "hinf"))(np.float32([[-1.0]]))


@pytest.mark.parametrize(
    ("name", "shape", "rank", "method"),
    [
        ("complex-continuous", (2, 3, 3, 112), 1, "singular_perturbation"),
        ("complex-continuous", (3, 2, 3, 1), 2, "singular_perturbation"),
        ("dense-continuous", (9, 2, 1, 124), 4, "singular_perturbation"),
        ("complex-discrete", (12, 3, 2, 123), 7, "truncate"),
        ("dense-discrete", (10, 1, 2, 0), 8, "truncate"),
    ],
)
def test_a_peak_just_above_the_direct_term(name, shape, rank, method):
    """The gain at infinity (or at z = -1) is within percents of the peak: a level just above it makes the Hamiltonian
    matrix nearly singular, and its crossings noise.  Found among random reductions; a fine grid gives the peak from below."""
    (case,) = [c for c in SINGLE if c.name == name]
    g = case.make(*shape)
    small = balred.analyze(g).reduction(rank, method).system
    best = max(np.linalg.norm(g(z) - small(z), 2) for z in frequencies(g, 4000))
    assert float(balred.error(g, small)) >= best * (1 - 1e-9)
