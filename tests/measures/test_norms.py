"""Norms against closed forms, frequency grids and published numbers; peaks that a grid does not see."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from tables import CASES, SINGLE, each_case, each_single, frequencies, gains, members, skip_without

import balred
from balred.measures.hinf import hinf_peak
from balred.systems.parts import join


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


@pytest.mark.alike
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


@pytest.mark.alike
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


def unstable(case, n=6, seed=3, shift=0.7):
    """A system of a row of the table with poles on both sides of the boundary, and none near it."""
    g = case.make(n, seed=seed)
    first = g.poles if hasattr(g, "poles") else None
    if first is not None:  # diagonal: move every second pole across
        flip = np.arange(n) % 2 == 0
        poles = np.where(flip, 1 / first.conj(), first) if g.discrete else np.where(flip, -first.conj(), first)
        return balred.diagonal(poles, g.B, g.C, g.D, g.dt, conjugate=g.conjugate)
    w, V = np.linalg.eig(g.A)
    half = w.real < np.median(w.real)
    w = np.where(half, 1 / w.conj(), w) if g.discrete else np.where(half, -w.conj(), w)
    A = V @ np.diag(w) @ np.linalg.inv(V)
    return balred.ss(A if np.iscomplexobj(g.A) else A.real, g.B, g.C, g.D, g.dt)


@pytest.mark.alike
@each_single
def test_l2_of_unstable_systems_by_quadrature(case):
    """The integral of ||G||_F^2 along the boundary, by the trapezoidal rule on the circle (after s = i tan(t/2))."""
    g = unstable(case)
    if not g.discrete:
        g = dataclasses.replace(g, D=0 * g.D)
    assert any(x > 0 for x in np.linalg.eigvals(g.to_dense().A).real) or g.discrete
    t = 2 * np.pi * (np.arange(6000) + 0.5) / 6000 - np.pi
    if g.discrete:
        square = np.mean([np.linalg.norm(g(z)) ** 2 for z in np.exp(1j * t)])
    else:  # 1/(2 pi) dw = 1/(2 pi) (1 + w^2)/2 dt
        square = np.mean([np.linalg.norm(g(1j * w)) ** 2 * (1 + w * w) / 2 for w in np.tan(t / 2)])
    assert_allclose(float(balred.norm(g, "l2")) ** 2, square, rtol=1e-6)


@pytest.mark.alike
@each_single
def test_linf_of_unstable_systems_is_a_supremum(case):
    g = unstable(case)
    peak = float(balred.norm(g, "linf"))
    grid = gains(g, frequencies(g, 4000)).max()
    assert grid * (1 - 1e-9) <= peak <= grid * 1.05


@each_single
def test_l2_and_linf_of_stable_systems_are_h2_and_hinf(case):
    g = case.make(n=5)
    assert_allclose(balred.norm(g, "linf"), balred.norm(g, "hinf"), rtol=1e-9)
    g = g if g.discrete else dataclasses.replace(g, D=0 * g.D)
    assert_allclose(balred.norm(g, "l2"), balred.norm(g, "h2"), rtol=1e-12)


def test_l2_and_linf_by_hand():
    """1/(s - a): 1/(2a) is the square of the L2 norm and 1/a the peak; 1/(z - a), |a| > 1: 1/(a^2 - 1) and 1/(|a| - 1)."""
    for a in (0.5, 2.0):
        g = balred.ss([[a]], [[1.0]], [[1.0]])
        assert_allclose([balred.norm(g, "l2") ** 2, balred.norm(g, "linf")], [1 / (2 * a), 1 / a], rtol=1e-12)
    for a in (-3.0, 1.5):
        g = balred.ss([[a]], [[1.0]], [[1.0]], dt=1)
        want = [1 / (a * a - 1), 1 / (abs(a) - 1)]
        assert_allclose([balred.norm(g, "l2") ** 2, balred.norm(g, "linf")], want, rtol=1e-12)
    # z/(z - 2) = 1 + 2/(z - 2) = -(z/2) - (z/2)^2 - ...: the constant terms cancel, 1/4 + 1/16 + ... = 1/3
    g = balred.ss([[2.0]], [[2.0]], [[1.0]], [[1.0]], dt=1)
    assert_allclose(balred.norm(g, "l2") ** 2, 1 / 3, rtol=1e-12)
    assert balred.norm(balred.ss([[2.0]], [[1.0]], [[1.0]], [[1.0]]), "l2") == np.inf


SEVEN = balred.ss(
    [
        [-0.04165, 0.0, 4.92, 0.492, 0.0, 0.0, 0.0],
        [-5.21, -12.5, 0.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 3.33, -3.33, 0.0, 0.0, 0.0, 0.0],
        [0.545, 0.0, 0.0, 0.0, 0.0545, 0.0, 0.0],
        [0.0, 0.0, 0.0, -0.492, 0.004165, 0.0, 4.92],
        [0.0, 0.0, 0.0, 0.0, 0.521, -12.5, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.0, 3.33, -3.33],
    ],
    [[0.0, 0.0], [12.5, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 12.5], [0.0, 0.0]],
    [[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]],
)
"""The unstable seven-state plant of SLICOT's documentation (AB13BD, AB09FD)."""


@pytest.mark.full
def test_the_l2_norm_of_slicots_documentation():
    """AB13BD prints 7.93948 for this plant."""
    assert_allclose(balred.norm(SEVEN, "l2"), 7.93948, atol=5e-6)
    assert_allclose(balred.norm(SEVEN, "linf"), gains(SEVEN, 1j * np.linspace(0, 5, 20_001)).max(), rtol=1e-5)


@pytest.mark.parametrize("dt", [0, 1])
@pytest.mark.parametrize("seed", range(4))
def test_l2_against_slicot(dt, seed):
    """AB13BD with the option for the L2 norm, by a coprime factorisation with inner denominator."""
    ctrlsys = pytest.importorskip("ctrlsys")
    (case,) = [c for c in SINGLE if c.name == ("dense-discrete" if dt else "dense-continuous")]
    g = unstable(case, seed=seed)
    D = g.D if dt else 0 * g.D
    A, B, C, d = (np.asfortranarray(x.copy()) for x in (g.A, g.B, g.C, D))
    want, _, _, info = ctrlsys.ab13bd("D" if dt else "C", "L", A, B, C, d, 0.0)
    assert info == 0
    assert_allclose(balred.norm(dataclasses.replace(g, D=D), "l2"), want, rtol=1e-9)


@pytest.mark.parametrize("kind", ["l2", "linf"])
def test_differences_of_unstable_systems(kind):
    """Shared unstable modes are harmless here: the stable parts alone differ."""
    pole = balred.ss([[1.0]], [[2.0]], [[1.0]])
    stable = balred.testing.random_system(5, 1, 1, seed=8)
    stable = dataclasses.replace(stable, D=0 * stable.D)
    g, small = (join(pole, h) for h in (stable, balred.reduce(stable, 2)))
    want = balred.error(stable, balred.reduce(stable, 2), kind={"l2": "h2", "linf": "hinf"}[kind])
    assert_allclose(balred.error(g, small, kind), want, rtol=1e-6)
    assert_allclose(balred.error(g, small), balred.error(stable, balred.reduce(stable, 2)), rtol=1e-6)


@pytest.mark.parametrize("kind", ["l2", "linf"])
def test_poles_on_the_boundary_are_refused(kind):
    with pytest.raises(balred.UnstableError, match="no pole may lie on the imaginary axis, got a pole at 0"):
        balred.norm(balred.ss([[0.0]], [[1.0]], [[1.0]]), kind)
    with pytest.raises(balred.UnstableError, match="no pole may lie on the unit circle, got a pole at -1"):
        balred.norm(balred.ss([[-1.0]], [[1.0]], [[1.0]], dt=1), kind)
    for stable_only in ("h2", "hinf", "hankel"):
        with pytest.raises(balred.UnstableError, match="got a pole at 1"):
            balred.norm(balred.ss([[1.0]], [[1.0]], [[1.0]]), stable_only)


@pytest.mark.parametrize("kind", ["l2", "linf"])
def test_l2_and_linf_in_every_library(xp, kind):
    (case,) = [c for c in CASES if c.name == "conjugate-discrete-batch"]
    g = case.make(n=2)
    got = balred.norm(xp.system(g), kind)
    assert str(got.dtype).removeprefix("torch.") == xp.precision
    assert_allclose(xp.numpy(got), balred.norm(xp.exact(g), kind), rtol=max(8 * xp.eps, 1e-9))


@pytest.mark.parametrize("dt", [0, 1])
def test_static_gains(xp, dt):
    """n = 0: no Hankel singular values; the gains of D."""
    D = np.array([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]])
    g = xp.system(balred.ss(np.zeros((0, 0)), np.zeros((0, 2)), np.zeros((3, 0)), D, dt))
    norms = {k: float(xp.numpy(balred.norm(g, k))) for k in ("h2", "hinf", "hankel", "l2", "linf")}
    two = 5.0 if dt else np.inf
    assert norms == pytest.approx({"h2": two, "hinf": 4.0, "hankel": 0.0, "l2": two, "linf": 4.0})
    assert tuple(balred.hsv(g).shape) == (0,)
    assert [tuple(x.shape) for x in balred.gramians(g)] == [(0, 0), (0, 0)]
    assert repr(g).startswith("DenseSystem(states=0, inputs=2, outputs=3")
    assert_allclose(xp.numpy(g(0.5)), D)
    assert balred.balance(g).system.order == 0
    with pytest.raises(ValueError, match="a system must have states to be reduced, got one without"):
        balred.reduce(g, 1)
    with pytest.raises(ValueError, match="got a static gain"):
        balred.reduce(g, balred.Energy(0.9))


def test_differences_with_static_gains():
    g = balred.testing.random_system(4, 2, 3, seed=1)
    gain = balred.ss(np.zeros((0, 0)), np.zeros((0, 2)), np.zeros((3, 0)), g.D)
    assert_allclose(balred.error(g, gain), balred.norm(dataclasses.replace(g, D=0 * g.D), "hinf"), rtol=1e-9)
    assert balred.error(gain, gain) == 0


@pytest.mark.parametrize("kind", ["diagonal", "conjugate"])
@pytest.mark.parametrize("m", [1, 2])
def test_small_h2_errors_of_diagonal_systems_have_digits(kind, m):
    """G - (1 + d) G = -d G, so the error is d times the norm; a root of a Gramian would lose it below 1e-8."""
    g = balred.testing.random_system(5, m, m, dt=1, kind=kind, seed=4)
    g = dataclasses.replace(g, D=0 * g.D)
    other = dataclasses.replace(g, C=g.C * (1 + 1e-10))
    assert_allclose(balred.error(g, other, "h2"), 1e-10 * balred.norm(g, "h2"), rtol=1e-3)


@pytest.mark.parametrize("n", [3, 12])
@pytest.mark.parametrize("dt", [0, 1])
def test_h2_of_a_batch_is_that_of_its_members(n, dt):
    """Its factor comes from one Gramian alone, that of a single system from both; trace(B^T Q B) is the same number."""
    several = [balred.testing.random_system(n, dt=dt, seed=seed) for seed in range(6)]
    A, B, C, D = (np.stack([getattr(g, name) for g in several]) for name in "ABCD")
    D = 0 * D
    want = [
        np.sqrt(np.trace(b.T @ balred.gramians(balred.ss(a, b, c, dt=dt))[1] @ b))
        for a, b, c in zip(A, B, C, strict=True)
    ]
    assert_allclose(balred.norm(balred.ss(A, B, C, D, dt=dt), "h2"), want, rtol=1e-12)


@pytest.mark.parametrize("n", [2, 12])
def test_h2_of_a_batch_refuses_an_unstable_mode_that_no_input_reaches(n):
    """The Gramian of the inputs is finite there; the system is unstable all the same."""
    A = -np.diag(np.arange(1.0, n + 1))
    A[-1, -1] = 0.5
    B, C = np.ones((n, 1)), np.ones((1, n))
    B[-1] = 0
    with pytest.raises(balred.UnstableError):
        balred.norm(balred.ss(np.stack([A, A]), np.stack([B, B]), np.stack([C, C])), "h2")
    with pytest.raises(balred.UnstableError):
        balred.norm(balred.ss(np.stack([A, A]), np.stack([B, B]), 0 * np.stack([C, C])), "h2")
