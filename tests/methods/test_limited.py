"""Time-limited and frequency-limited balancing: the Gramians by SciPy's quadrature, and what the reduction is for."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
from numpy.testing import assert_allclose
from tables import frequencies, gains

import balred
from balred.methods.limited import frequency_limited, limited_gramians, time_limited
from balred.solvers.windows import band_factors, time_factors
from balred.systems.arrays import ct

TIMES = pytest.mark.parametrize("dt", [0, 0.5])
FIELDS = pytest.mark.parametrize("complex", [False, True])
BANDS = pytest.mark.parametrize("band", [(0.3, 2.0), (0, 1.0), [(0.2, 0.4), (1.0, 1.5)], (2.0, np.inf), (0, np.inf)])


def system(dt, complex=False, n=6, seed=1):
    return balred.testing.random_system(n, 2, 3, dt=dt, seed=seed, complex=complex)


def unstable(dt, seed=1):
    """Poles on both sides of the boundary, none on it."""
    g = system(dt, seed=seed)
    A = g.A * 1.3 if dt else g.A + 0.3 * np.eye(6)
    margin = 1 - abs(np.linalg.eigvals(A)) if dt else -np.linalg.eigvals(A).real
    assert margin.min() < -0.01 < 0.01 < margin.max()
    return balred.ss(A, g.B, g.C, g.D, dt)


def dual_of(g):
    return balred.ss(ct(g.A), ct(g.C), ct(g.B), ct(g.D), g.dt)


def chain(n=12, damping=0.02):
    """Equal masses between walls, pushed at the first and watched at the last: lightly damped modes from 0.24 to 2 rad/s."""
    K = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    A = np.block([[np.zeros((n, n)), np.eye(n)], [-K, -damping * K - 0.01 * np.eye(n)]])
    B, C = np.zeros((2 * n, 1)), np.zeros((1, 2 * n))
    B[n], C[0, n - 1] = 1, 1
    return balred.ss(A, B, C)


def close(found, wanted, rtol=1e-10):
    assert_allclose(found, wanted, rtol=0, atol=rtol * np.abs(wanted).max())


# ------------------------------------------------------------------------------------------------- Gramians


@FIELDS
@pytest.mark.parametrize("make", [system, unstable])
@pytest.mark.parametrize(("start", "horizon"), [(0, 3.0), (0.7, 3.0), (0, 1e-3), (5.0, 20.0)])
def test_time_limited_gramians_by_quadrature(complex, make, start, horizon):
    g = make(0) if make is unstable else make(0, complex)

    def response(t, h):
        X = scipy.linalg.expm(h.A * t) @ h.B
        return X @ ct(X)

    found = limited_gramians(g, horizon=horizon, start=start)
    for P, h in zip(found, (g, dual_of(g)), strict=True):
        close(P, scipy.integrate.quad_vec(response, start, horizon, args=(h,), epsabs=0, epsrel=1e-12)[0])


@FIELDS
@pytest.mark.parametrize("make", [system, unstable])
@pytest.mark.parametrize(("start", "horizon"), [(0, 1), (0, 13), (2, 7), (3, 64)])
def test_time_limited_gramians_by_summation(complex, make, start, horizon):
    g = make(0.5) if make is unstable else make(0.5, complex)
    found = limited_gramians(g, horizon=horizon, start=start)
    for P, h in zip(found, (g, dual_of(g)), strict=True):
        terms = [np.linalg.matrix_power(h.A, k) @ h.B for k in range(start, horizon)]
        close(P, sum(X @ ct(X) for X in terms), 1e-12)


@TIMES
@FIELDS
@BANDS
@pytest.mark.parametrize("make", [system, unstable])
def test_frequency_limited_gramians_by_quadrature(dt, complex, band, make):
    g = make(dt) if make is unstable else make(dt, complex)
    found = limited_gramians(g, band=band)
    for P, h in zip(found, (g, dual_of(g)), strict=True):

        def at(w, h=h):
            X = np.linalg.solve((np.exp(1j * w) if dt else 1j * w) * np.eye(h.order) - h.A, h.B)
            return X @ ct(X) / (2 * np.pi)

        def of_angle(x, at=at):  # the axis as the tangent of a half circle, so that infinity is an end
            return (at(np.tan(x)) + at(-np.tan(x))) / np.cos(x) ** 2

        wanted = 0
        for a, b in np.atleast_2d(band):
            if dt:
                function, a, b = (lambda w, at=at: at(w) + at(-w)), a * dt, min(b * dt, np.pi)
            else:
                function, a, b = of_angle, np.arctan(a), np.arctan(b) - (1e-12 if np.isinf(b) else 0)
            wanted = wanted + scipy.integrate.quad_vec(function, a, b, epsabs=0, epsrel=1e-11)[0]
        close(P, wanted, 1e-10)


@FIELDS
def test_the_matrix_logarithm_gives_the_same(complex):
    """Gawronski & Juang (1990): A P + P A^H + F B B^H + B B^H F^H = 0, F from logarithms of the band's ends."""
    g, (a, b) = system(0, complex), (0.3, 2.0)
    I = np.eye(g.order)

    def log(w):
        return scipy.linalg.logm(1j * w * I - g.A)

    F = (log(b) - log(a) + log(-a) - log(-b)) / (2j * np.pi)
    W = F @ g.B @ ct(g.B)
    close(
        limited_gramians(g, band=(a, b))[0],
        scipy.linalg.solve_continuous_lyapunov(g.A.astype(np.complex128), -W - ct(W)),
    )
    _, _, FB, FC = band_factors(g, [(a, b)])
    close(FB, F @ g.B)
    close(FC, ct(g.C @ F))


@FIELDS
def test_the_discrete_logarithm_gives_the_same(complex):
    """The same for P = A P A^H + W: the integral of (I - A/z)^-1 is the angle plus a logarithm (by differentiation)."""
    g, (a, b) = system(1, complex), (0.3, 2.0)
    I = np.eye(g.order)

    def log(w):
        return scipy.linalg.logm(I - np.exp(-1j * w) * g.A)

    F = ((b - a) * I - 1j * (log(b) - log(a) + log(-a) - log(-b))) / (2 * np.pi)
    W = F @ g.B @ ct(g.B)
    close(
        limited_gramians(g, band=(a, b))[0], scipy.linalg.solve_discrete_lyapunov(g.A.astype(np.complex128), W + ct(W))
    )
    _, _, FB, FC = band_factors(g, [(a, b)])
    close(FB, F @ g.B)
    close(FC, ct(g.C @ F))


@TIMES
@FIELDS
def test_everything_is_no_limit(dt, complex):
    g = system(dt, complex)
    for options in ({"band": (0, np.inf)}, {"horizon": 10_000}, {"horizon": np.inf}):
        for P, wanted in zip(limited_gramians(g, **options), balred.gramians(g), strict=True):
            close(P, wanted, 1e-11)


@TIMES
def test_windows_and_bands_add_up(dt):
    g = system(dt)
    whole, edge = limited_gramians(g, horizon=9), limited_gramians(g, band=(0, 3.0))
    for i in (0, 1):
        close(limited_gramians(g, horizon=4)[i] + limited_gramians(g, horizon=9, start=4)[i], whole[i], 1e-13)
        close(limited_gramians(g, band=[(1.0, 3.0), (0, 1.0)])[i], edge[i], 1e-13)


def test_small_directions_keep_their_digits():
    """Two uncoupled states, one of which hears 1e-9 of the other: each factor has both to full relative accuracy."""
    g = balred.ss(np.diag([-1.0, -3.0]), np.diag([1.0, 1e-9]), np.eye(2))
    for Z, exact in (
        (time_factors(g, 0.0, 2.0)[0], [-np.expm1(-4) / 2, -np.expm1(-12) / 6]),
        (band_factors(g, [(0.5, 2.0)])[0], [(np.arctan(2 / a) - np.arctan(0.5 / a)) / (a * np.pi) for a in (1, 3)]),
    ):
        assert_allclose(np.diag(Z @ Z.T), exact * np.array([1.0, 1e-18]), rtol=1e-13)


def test_lightly_damped_poles_within_the_band():
    """In closed form; a frequency near the pole has the rounding error eps beside the distance d from it."""
    d = 1e-6
    g = balred.ss([[-d + 1j]], [[1.0 + 0j]], [[1.0]])
    exact = (np.arctan(0.5 / d) + np.arctan(2.5 / d)) / (2 * np.pi * d)
    assert_allclose(limited_gramians(g, band=(0, 1.5))[0].real, [[exact]], rtol=1e-10)


def test_an_integrator_has_time_limited_gramians():
    """x' = u: P = T."""
    P, Q = limited_gramians(balred.ss([[0.0]], [[1.0]], [[2.0]]), horizon=3.0)
    assert_allclose([P[0, 0], Q[0, 0]], [3.0, 12.0], rtol=1e-14)


@pytest.mark.parametrize("options", [{"horizon": 2}, {"band": (0, 1.0)}, {"band": (0, np.inf)}])
@TIMES
def test_a_static_gain_has_empty_gramians(dt, options):
    g = balred.ss(np.zeros((0, 0)), np.zeros((0, 2)), np.zeros((1, 0)), np.ones((1, 2)), dt)
    assert [P.shape for P in limited_gramians(g, **options)] == [(0, 0), (0, 0)]


@TIMES
@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_units_of_time_and_of_the_input_do_not_matter(dt, scale):
    """With time in other units and inputs scaled alike, every limited singular value is as before (by substitution)."""
    g = system(dt)
    if dt:
        h, band, horizon = balred.ss(g.A, g.B * scale, g.C / scale, g.D, dt / scale), (0.5 * scale, scale), 5
    else:
        h, band, horizon = balred.ss(g.A * scale, g.B * scale, g.C), (0.5 * scale, scale), 5 / scale
    for method, one, other in (
        ("frequency_limited", {"band": (0.5, 1.0)}, {"band": band}),
        ("time_limited", {"horizon": 5}, {"horizon": horizon}),
    ):
        a, b = balred.analyze(g, method=method, **one), balred.analyze(h, method=method, **other)
        assert_allclose(b.hsv, a.hsv, rtol=1e-10)


def test_arrays_come_back_as_they_came():
    torch = pytest.importorskip("torch")
    g = system(0)
    narrow = balred.ss(*(torch.tensor(x, dtype=torch.float32) for x in (g.A, g.B, g.C, g.D)))
    P, _ = limited_gramians(narrow, band=(0.1, 1.0))
    assert P.dtype == torch.float32
    assert_allclose(P, limited_gramians(g, band=(0.1, 1.0))[0], rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------ reduction


@pytest.mark.filterwarnings("ignore::balred.InstabilityWarning")  # outside the band nothing is asked
@pytest.mark.parametrize("band", [(0.1, 0.5), (0.8, 1.2)])
@pytest.mark.parametrize("rank", [6, 10])
@pytest.mark.parametrize("stable", [False, True])
def test_error_in_the_band_is_smaller_than_that_of_truncation(band, rank, stable):
    g, points = chain(), 1j * np.linspace(*band, 200)
    limited = balred.reduce(g, rank, method="frequency_limited", band=band, stable=stable)
    plain = balred.reduce(g, rank)

    def worst(h):
        return gains(balred.systems.parts.difference(g, h), points).max()

    assert worst(limited) < 0.1 * worst(plain)


@pytest.mark.filterwarnings("ignore::balred.InstabilityWarning")  # of what is beyond the window nothing is asked
@pytest.mark.parametrize("horizon", [3.0, 10.0])
@pytest.mark.parametrize("rank", [4, 8])
def test_error_in_the_window_is_smaller_than_that_of_truncation(horizon, rank):
    """The energy of the error's impulse response up to the horizon, from the quadrature of SciPy."""
    g = chain()
    limited = balred.reduce(g, rank, method="time_limited", horizon=horizon)
    plain = balred.reduce(g, rank)

    def energy(h):
        e = balred.systems.parts.difference(g, h)
        return scipy.integrate.quad(lambda t: ((e.C @ scipy.linalg.expm(e.A * t) @ e.B) ** 2).item(), 0, horizon)[0]

    assert energy(limited) < 0.1 * energy(plain)


def test_stability_is_promised_by_the_option_alone():
    """Found by trial: at order 8 the limited result for this band is unstable, the modified one never."""
    g = chain()
    with pytest.warns(balred.InstabilityWarning, match="stable=True"):
        loose = balred.reduce(g, 8, method="frequency_limited", band=(0.1, 0.5))
    assert np.linalg.eigvals(loose.A).real.max() > 0
    for options in ({"method": "frequency_limited", "band": (0.1, 0.5)}, {"method": "time_limited", "horizon": 3.0}):
        a = balred.analyze(g, stable=True, **options)
        for k in (3, 6, 8, 12):
            assert np.linalg.eigvals(a.reduce(k).A).real.max() < 0


@TIMES
@FIELDS
@pytest.mark.parametrize("match_dc", [False, True])
@pytest.mark.parametrize("method", ["time_limited", "frequency_limited"])
def test_the_modified_methods_keep_their_bound(dt, complex, match_dc, method):
    g = system(dt, complex, n=8, seed=4)
    options = {"horizon": 3} if method == "time_limited" else {"band": (0.2, 1.5)}
    a = balred.analyze(g, method=method, stable=True, match_dc=match_dc, **options)
    for k in range(2, 8):
        small = a.reduce(k)
        assert np.isfinite(a.bound(k))
        assert gains(balred.systems.parts.difference(g, small), frequencies(g)).max() <= a.bound(k) * (1 + 1e-9) + 1e-9
        if match_dc:
            z = 1.0 if dt else 0.0
            assert_allclose(small(z), g(z), rtol=1e-7, atol=1e-7)


def test_without_the_option_there_is_no_bound():
    a = balred.analyze(system(0), method="time_limited", horizon=1.0)
    assert np.isnan(a.bound(3))
    with pytest.raises(ValueError, match="ErrorBound needs a method with an a-priori error bound, got 'time_limited'"):
        a.rank(balred.ErrorBound(0.1))
    late = balred.analyze(system(0), method="time_limited", horizon=2.0, start=1.0, stable=True)
    assert np.isnan(late.bound(3))  # two inputs' worth of columns no longer hold B


@TIMES
def test_modified_gramians_of_everything_are_those_of_truncation(dt):
    g = system(dt)
    for state in (
        time_limited(g, horizon=np.inf, stable=True),
        frequency_limited(g, band=(0, np.inf), stable=True),
        frequency_limited(g, band=(0, np.inf)),
    ):
        assert_allclose(state.sigma, balred.hsv(g), rtol=1e-9)


@TIMES
def test_unstable_systems_within_a_window_are_reduced_whole(dt):
    """Nearer to the response up to the horizon than truncation that keeps the growing modes as they are."""
    g, horizon = unstable(dt), 4

    def energy(small):
        e = balred.systems.parts.difference(g, small)
        return np.trace(e.C @ limited_gramians(e, horizon=horizon)[0] @ e.C.T)

    for rank in (3, 4, 5):
        small = balred.reduce(g, rank, method="time_limited", horizon=horizon)
        assert small.states == rank
        assert energy(small) < 0.9 * energy(balred.reduce(g, rank))


@TIMES
def test_the_modified_method_asks_for_stability(dt):
    with pytest.raises(balred.UnstableError, match="every pole must"):
        balred.reduce(unstable(dt), 3, method="time_limited", horizon=2, stable=True)


@TIMES
def test_unstable_modes_beside_a_band_are_kept(dt):
    g = unstable(dt)
    poles = np.linalg.eigvals(g.A)
    outside = poles[abs(poles) > 1] if dt else poles[poles.real > 0]
    small = balred.reduce(g, len(outside) + 1, method="frequency_limited", band=(0.1, 1.0))
    for z in outside:
        assert abs(np.linalg.eigvals(small.A) - z).min() < 1e-9


# --------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("dt", "options", "message"),
    [
        (0, {"horizon": 0.0}, "a window must have 0 <= start < horizon, got start = 0 and horizon = 0.0"),
        (0, {"horizon": 1.0, "start": -1}, "a window must have 0 <= start < horizon, got start = -1"),
        (0, {"horizon": np.nan}, "a window must have 0 <= start < horizon"),
        (1, {"horizon": 2.5}, "horizon must be a whole number of steps in discrete time, got 2.5"),
        (1, {"horizon": 3, "start": 0.5}, "start must be a whole number of steps in discrete time, got 0.5"),
        (0, {"band": (1.0, 1.0)}, r"band must have 0 <= w1 < w2 <= infinity, got \(1, 1\)"),
        (0, {"band": (-1.0, 1.0)}, r"band must have 0 <= w1 < w2 <= infinity, got \(-1, 1\)"),
        (0.5, {"band": (1.0, 7.0)}, r"band must have 0 <= w1 < w2 <= pi/dt = 6.28319, got \(1, 7\)"),
        (0, {"band": [(0.0, 2.0), (1.0, 3.0)]}, "bands must not overlap, got one that ends at 2 and one from 1"),
        (0, {"band": 3.0}, r"band must be a pair \(w1, w2\) or a list of pairs, got 3.0"),
        (0, {"band": [(0.0, 1.0), (2.0,)]}, r"band must be a pair \(w1, w2\) or a list of pairs, got"),
        (0, {"band": (0, 1), "horizon": 1}, "exactly one of horizon and band must be given, got both"),
        (0, {}, "exactly one of horizon and band must be given, got neither"),
    ],
)
def test_limits_that_make_no_sense(dt, options, message):
    with pytest.raises(ValueError, match=message):
        limited_gramians(system(dt), **options)


def test_systems_for_which_there_is_no_gramian():
    oscillator = balred.ss([[0.0, 1.0], [-1.0, 0.0]], [[0.0], [1.0]], [[1.0, 0.0]])
    P, _ = limited_gramians(oscillator, band=(2.0, 3.0))
    assert np.isfinite(P).all()
    rule = "no pole may lie on the boundary of the stable region within the band"
    with pytest.raises(balred.UnstableError, match=rf"{rule}, got one at \S*1j"):
        limited_gramians(oscillator, band=(0.5, 3.0))
    marginal = balred.ss([[1.0]], [[1.0]], [[1.0]], dt=1)
    with pytest.raises(balred.UnstableError, match=rf"{rule}, got one at 1"):
        limited_gramians(marginal, band=(0, 3.0))
    with pytest.raises(balred.UnstableError, match="every pole must"):
        limited_gramians(unstable(0), horizon=np.inf)
    with pytest.raises(
        ValueError, match="the response must stay finite up to the horizon, got one that overflows before 1000000"
    ):
        limited_gramians(unstable(0), horizon=1e6)
    with pytest.raises(ValueError, match=r"the system must be a single system, got a batch of shape \(3,\)"):
        limited_gramians(balred.testing.random_system(3, batch=(3,)), horizon=1.0)
