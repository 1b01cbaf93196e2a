"""Models from samples of a transfer function: systems come back from them, data are interpolated, noise is told apart."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import balred
from balred.realisations.loewner import loewner, loewner_singular_values


def samples(g, points):
    return np.array([g(s) for s in points])


def grid(dt, count, *, complex=False):
    """Points on the boundary of the stable region, its upper half unless `complex`; in discrete time z = 1, -1 among them."""
    if dt == 0:
        upper = 1j * np.geomspace(1e-2, 1e2, count)
        return np.concatenate([upper, -upper]) if complex else upper
    upper = np.exp(1j * np.linspace(0, np.pi, count))
    return np.concatenate([upper, upper[1:-1].conj()]) if complex else upper


def random_system(n, m, p, dt, seed, *, direct, complex=False):
    g = balred.testing.random_system(n, m, p, dt=dt, complex=complex, seed=seed)
    return balred.ss(g.A, g.B, g.C, g.D * direct, dt)


@pytest.mark.parametrize("dt", [0, True, 0.1])
@pytest.mark.parametrize("complex", [False, True])
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 6),
    m=st.integers(1, 3),
    p=st.integers(1, 3),
    direct=st.booleans(),
)
def test_a_system_comes_back_from_its_samples(seed, n, m, p, direct, dt, complex):
    """Order, transfer function between the samples, and D; the errors are those of the values, eps, times a condition."""
    g = random_system(n, m, p, dt, seed, direct=direct, complex=complex)
    points = grid(dt, 31, complex=complex)
    found = loewner(points, samples(g, points), dt=dt, real=not complex)
    assert found.dt == dt
    assert np.iscomplexobj(found.A) == complex
    elsewhere = grid(dt, 40, complex=complex)[:-1]
    size = max(np.abs(g(s)).max() for s in elsewhere)
    assert_allclose(samples(found, elsewhere), samples(g, elsewhere), atol=1e-9 * size)
    spectrum = balred.hsv(g)
    if spectrum[-1] > 1e-6 * spectrum[0]:  # otherwise a lower order may explain the values
        assert found.order == n
        assert_allclose(found.D, g.D, atol=1e-8 * size)


def test_poles_come_back():
    g = balred.testing.random_system(6, 1, 1, seed=2)
    points = grid(0, 30)
    found = loewner(points, samples(g, points))
    assert_allclose(np.sort_complex(np.linalg.eigvals(found.A)), np.sort_complex(np.linalg.eigvals(g.A)), rtol=1e-8)


@pytest.mark.parametrize("dt", [0, 1])
@pytest.mark.parametrize(("p", "m"), [(1, 1), (2, 2)])
@pytest.mark.parametrize("real", [True, False])
def test_values_of_no_system_are_interpolated(p, m, real, dt):
    """Random numbers: the pencil is regular, and every value is met."""
    rng = np.random.default_rng(p)
    points = grid(0, 8) if dt == 0 else np.exp(1j * np.linspace(0.1, 3.0, 8))
    H = rng.standard_normal((8, p, m)) + 1j * rng.standard_normal((8, p, m))
    found = loewner(points, H, dt=dt, real=real)
    assert found.order == (8 if real else 4) * p
    assert_allclose(samples(found, points), H, atol=1e-11)
    if real:
        assert_allclose(samples(found, points.conj()), H.conj(), atol=1e-11)


@pytest.mark.parametrize("complex", [False, True])
def test_tangential_data_are_interpolated_along_their_directions(complex):
    rng = np.random.default_rng(5)

    def normal(*shape):
        return rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if complex else 0)

    points = 1j * np.geomspace(0.1, 10, 9)
    H = rng.standard_normal((9, 2, 3)) + 1j * rng.standard_normal((9, 2, 3))
    l, r = normal(4, 2), normal(5, 3)
    # ten columns for eight rows: left out, the last right point makes the pencil square
    found = loewner(points[:8], H[:8], left=l, right=r[:4])
    assert (found.order, np.iscomplexobj(found.A)) == (8, False)
    for i in range(4):
        assert_allclose(found(points[2 * i]) @ r[i], H[2 * i] @ r[i], atol=1e-11)
        assert_allclose(l[i] @ found(points[2 * i + 1]), l[i] @ H[2 * i + 1], atol=1e-11)
    g = balred.testing.random_system(4, 3, 2, seed=6)
    found = loewner(points, samples(g, points), left=l, right=r)
    assert_allclose(samples(found, grid(0, 20)), samples(g, grid(0, 20)), atol=1e-10)


def test_a_complex_direction_at_a_real_point_stands_for_two():
    g = balred.testing.random_system(3, 2, 2, seed=1)
    points = np.array([0.0, 1.0, 2.0, 3.0])  # the real axis, in the region of convergence
    l = r = np.array([[1.0, 1j], [1.0, 2.0 - 1j]])
    found = loewner(points, samples(g, points), left=l, right=r)
    # four rows and columns of a pencil of rank 3 + 2 (D): interpolated, not identified
    assert_allclose(found(0.0), g(0.0), atol=1e-10)
    assert_allclose(found(3.0), g(3.0), atol=1e-10)


def test_real_points_stand_for_themselves():
    s = np.array([0.0, 1.0, 3.0, 7.0])
    found = loewner(s, (s + 3) / ((s + 1) * (s + 2)))
    assert found.order == 2
    assert_allclose(np.sort(np.linalg.eigvals(found.A)), [-2, -1], rtol=1e-9)


def test_the_rank_of_the_pencil_is_that_of_states_and_direct_term():
    """Mayo and Antoulas 2007: rank [L, Ls] = n + rank D."""
    rng = np.random.default_rng(0)
    points = grid(0, 40)
    g = balred.testing.random_system(5, 3, 3, seed=3)
    for rank in range(4):
        h = balred.ss(g.A, g.B, g.C, rng.standard_normal((3, rank)) @ rng.standard_normal((rank, 3)))
        s = loewner_singular_values(points, samples(h, points))
        assert np.count_nonzero(s) == 5 + rank
        found = loewner(points, samples(h, points))
        assert found.order == 5
        assert_allclose(found.D, h.D, atol=1e-10)


@pytest.mark.parametrize("size", [1e-8, 1.0, 1e8])
def test_units_do_not_matter(size):
    """Of frequency and of values: the found system is scaled."""
    g = balred.testing.random_system(4, 2, 2, seed=7)
    points = grid(0, 24)
    plain = loewner(points, samples(g, points))
    scaled = loewner(size * points, 1e3 * size * samples(g, points))
    assert scaled.order == plain.order == 4
    assert_allclose(samples(scaled, size * points), 1e3 * size * samples(g, points), rtol=1e-9)
    assert_allclose(scaled.D, 1e3 * size * g.D, rtol=1e-9)


@pytest.mark.parametrize("noise", [1e-8, 1e-6])
def test_tol_tells_the_order_from_the_noise(noise):
    g = balred.testing.random_system(4, 2, 2, seed=4)
    points = grid(0, 200)
    rng = np.random.default_rng(0)
    H = samples(g, points)
    H = H * (1 + noise * (rng.standard_normal(H.shape) + 1j * rng.standard_normal(H.shape)))
    assert np.count_nonzero(loewner_singular_values(points, H)) > 100
    found = loewner(points, H, tol=noise)
    assert found.order == 4
    assert_allclose(found.D, g.D, atol=10 * noise * np.abs(g.D).max())
    assert float(balred.error(g, found)) < noise * float(balred.norm(g, "hinf"))  # 200 samples average the noise out


def test_ranks_and_rules():
    g = random_system(6, 1, 1, 0, 8, direct=False)
    points = grid(0, 40)
    H = samples(g, points)
    s = loewner_singular_values(points, H)
    assert np.all(np.diff(s) <= 0)
    assert loewner(points, H, 3).order == 3
    rule = balred.Energy(0.99)
    assert loewner(points, H, rule).order == rule.order(s)
    assert loewner(points, H, 6).order == 6
    with pytest.warns(balred.RankWarning, match="rank 20 is beyond the numerical rank 6"):
        assert loewner(points, H, 20).order == 6
    errors = [np.abs(samples(loewner(points, H, k), points) - H).max() for k in (1, 3, 5, 6)]
    assert errors[-1] < 1e-10 * np.abs(H).max()
    assert errors[2] < errors[0]


def test_a_direct_term_alone_and_a_tiny_one():
    s = grid(0, 8)
    gain = loewner(s, np.full(8, 3.0))
    assert gain.order == 0
    assert_allclose(gain.D, [[3.0]])
    for d in (1e-3, 1e-6, 1e-9):
        assert_allclose(loewner(s, d + 1 / (s + 1)).D, [[d]], rtol=1e-6)


def test_a_pole_far_beyond_the_data_is_a_direct_term():
    s = 1j * np.geomspace(0.1, 10, 8)
    assert loewner(s, 1 / (s + 1) + 1 / (1e-6 * s + 1)).order == 2
    found = loewner(s, 1 / (s + 1) + 1 / (1e-14 * s + 1))
    assert found.order == 1
    assert_allclose(found.D, [[1.0]])


@pytest.mark.parametrize(("power", "index"), [(1, 2), (2, 3)])
def test_a_response_that_grows_is_refused(power, index):
    s = grid(0, 8)
    with pytest.raises(ValueError, match=rf"grows like s\^{power} \(the index is {index}\): .* derivatives"):
        loewner(s, s**power + 1 / (s + 1))


def test_nothing_given_is_changed_and_nothing_warns():
    s, H = grid(1, 12), samples(balred.testing.random_system(3, 2, 2, dt=1), grid(1, 12))
    s.flags.writeable = H.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loewner(s, H, dt=1)


S = np.array([1j, 2j, 3j, 4j])
H = 1 / (S + 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: loewner(S[:1], H[:1]), "at least two points are needed, one for each side, got 1"),
        (lambda: loewner(S, H[:3]), r"points and values must have shapes \(N,\) .* got \(4,\) and \(3,\)"),
        (lambda: loewner(S, H[:, None]), r"got \(4,\) and \(4, 1\)"),
        (lambda: loewner(S[:, None], H), r"got \(4, 1\) and \(4,\)"),
        (lambda: loewner(S, np.ones((4, 0, 1))), r"got \(4,\) and \(4, 0, 1\)"),
        (lambda: loewner([1j, 2j, 1j], H[:3]), "points must be distinct, got 0[+]1j twice"),
        (lambda: loewner([1j, 1j * (1 + 1e-14), 2j], H[:3]), "points must be distinct, got .*1j and .*1j"),
        (lambda: loewner([0, 1, 2, np.nan], H), "points must be finite"),
        (lambda: loewner(S, [1, np.inf, 1, 1]), "values must be finite"),
        (lambda: loewner([1j, 2j, -3j], H[:3]), "closed upper half plane where real=True, .* got -0-3j"),
        (lambda: loewner([0, 1j], [1j, 2]), r"values at real points must be real where real=True, got \[\[1j\]\] at 0"),
        (lambda: loewner(S, H, 5), "rank must be between 1 and 4, got 5"),
        (lambda: loewner(S, H, 0), "rank must be between 1 and 4, got 0"),
        (lambda: loewner(S, 0 * H), "the data must hold a response"),
        (lambda: loewner(S, H, tol=-1), r"tol must be in \[0, 1\), got -1"),
        (lambda: loewner(S, H, dt=-1), "dt must be 0 .* got -1"),
        (lambda: loewner(S, H, left=np.ones((1, 1))), r"left must have a direction .* shape \(2, 1\), got \(1, 1\)"),
        (lambda: loewner(S, H, right=[[1.0], [0.0]]), "the directions in right must not be zero"),
        (lambda: loewner(S, H, right=[[1.0], [np.nan]]), "right must be finite"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
