"""Models from impulse responses: exact recovery, python-control's implementation, and the limits that theory names."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import balred
from balred.realisations.era import era, hankel_matrix_hsv
from balred.realisations.markov import markov_from_data, markov_parameters

POINTS = (1.0, -1.0, np.exp(0.7j), 1.3 * np.exp(2.1j))


def well_conditioned(n, m, p, seed, *, complex=False):
    """A system whose finite Hankel matrices see all of it well: A is a scaled orthogonal (unitary) matrix."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if complex else 0)

    A = 0.9 * np.linalg.qr(normal(n, n))[0]
    return balred.ss(A, normal(n, m), normal(p, n), normal(p, m), dt=0.1)


@pytest.mark.parametrize("complex", [False, True])
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 6), m=st.integers(1, 3), p=st.integers(1, 3))
def test_markov_parameters_are_the_impulse_response(seed, n, m, p, complex):
    """Against the plain recurrence, an impulse on one input at a time."""
    g = balred.testing.random_system(n, m, p, dt=1, complex=complex, seed=seed)
    h = markov_parameters(g, 7)
    assert h.shape == (7, p, m)
    powers = [np.linalg.matrix_power(g.A, k) for k in range(6)]
    assert_allclose(h, [g.D, *(g.C @ P @ g.B for P in powers)], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["diagonal", "conjugate"])
def test_markov_parameters_of_a_diagonal_system(kind):
    g = balred.testing.random_system(5, 2, 3, dt=1, kind=kind, seed=3)
    h = markov_parameters(g, 20)
    assert np.iscomplexobj(h) == (kind == "diagonal")
    assert_allclose(h, markov_parameters(g.to_dense(), 20), atol=1e-13)


def test_markov_parameters_of_an_unstable_system_and_of_a_gain():
    assert_allclose(markov_parameters(balred.ss([[2.0]], [[1.0]], [[1.0]], dt=1), 5).ravel(), [0, 1, 2, 4, 8])
    gain = balred.ss(np.zeros((0, 0)), np.zeros((0, 1)), np.zeros((1, 0)), [[3.0]], dt=1)
    assert_allclose(markov_parameters(gain, 3).ravel(), [3, 0, 0])


def test_markov_parameters_of_another_library_s_system():
    """python-control's impulse response is one of unit area, 1/dt high."""
    control = pytest.importorskip("control")
    plant = control.ss([[0.5, 0.1], [0.0, 0.8]], [[1.0], [1.0]], [[1.0, 2.0]], 0.5, dt=0.2)
    want = control.impulse_response(plant, np.arange(6) * 0.2).outputs
    assert_allclose(markov_parameters(plant, 6).ravel(), 0.2 * want)


@pytest.mark.parametrize("complex", [False, True])
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 4), m=st.integers(1, 3), p=st.integers(1, 3))
def test_exact_recovery_from_two_n_parameters(seed, n, m, p, complex):
    g = well_conditioned(n, m, p, seed, complex=complex)
    h = markov_parameters(g, 2 * n + 1)
    s = hankel_matrix_hsv(h)
    if s[n - 1] < 1e-4 * s[0]:  # as good as of lower order: nothing to recover in double precision
        return
    found = era(h, n, dt=0.1)
    assert (found.order, found.dt, np.iscomplexobj(found.A)) == (n, 0.1, complex)
    assert_allclose(found.D, g.D)
    scale = max(np.abs(g(z)).max() for z in POINTS)
    for z in POINTS:
        assert_allclose(found(z), g(z), atol=1e-7 * scale)  # eps times the square of the condition allowed above
    assert_allclose(markov_parameters(found, 2 * n + 1), h, atol=1e-9 * np.abs(h).max())


def test_the_rank_is_revealed_without_noise():
    g = well_conditioned(5, 2, 2, seed=1)
    h = markov_parameters(g, 40)
    assert era(h, balred.Relative(1e-8)).order == 5
    with pytest.warns(balred.RankWarning, match="rank 9 is beyond the numerical rank 5"):
        assert era(h, 9).order == 5


def test_singular_values_of_long_data_are_hankel_singular_values():
    """The window grows: from below (a compression of the Hankel operator), to the values of the operator itself."""
    g = balred.testing.random_system(6, 2, 2, dt=1, seed=4)
    want = balred.hsv(g)
    before = np.zeros(6)
    for steps in (21, 81, 1001):
        s = hankel_matrix_hsv(markov_parameters(g, steps))[:6]
        assert np.all(s >= before - 1e-12)
        assert np.all(s <= want + 1e-12)
        before = s
    assert_allclose(before, want, rtol=1e-9)


def test_the_model_is_balanced_when_the_data_are_long():
    g = balred.testing.random_system(6, 2, 1, dt=1, seed=5)
    found = era(markov_parameters(g, 1201), 6)
    P, Q = balred.gramians(found)
    sigma = np.diag(balred.hsv(g))
    assert_allclose(P, sigma, atol=1e-9)
    assert_allclose(Q, sigma, atol=1e-9)
    largest = np.take_along_axis(found.B, np.abs(found.B).argmax(axis=1)[:, None], axis=1)
    assert np.all(largest > 0)


@pytest.mark.parametrize(("m", "p", "rows", "columns"), [(1, 1, 8, 8), (2, 3, 10, 12), (3, 1, 9, 5)])
def test_against_python_control(m, p, rows, columns):
    """Same Hankel matrix, noisy data, an order that cuts: transfer functions and singular values agree."""
    control = pytest.importorskip("control")
    g = balred.testing.random_system(10, m, p, dt=1, seed=6)
    rng = np.random.default_rng(0)
    h = markov_parameters(g, rows + columns + 2)
    h += 1e-3 * rng.standard_normal(h.shape)
    found = era(h, 4, rows=rows, columns=columns)
    want, s = control.eigensys_realization(np.moveaxis(h, 0, 2), 4, rows, columns)
    assert_allclose(hankel_matrix_hsv(h, rows=rows, columns=columns), s[: min(rows * p, columns * m)], rtol=1e-12)
    for z in POINTS:
        assert_allclose(found(z), want(z, squeeze=False).reshape(p, m), rtol=1e-9)


def test_stable_is_the_balanced_truncation_of_the_finite_response():
    """Against balred.reduce of the shift register that has this response."""
    rng = np.random.default_rng(2)
    h = rng.standard_normal((13, 2, 1))
    n = 12
    fir = balred.ss(np.eye(n, k=-1), np.eye(n)[:, :1], h[1:, :, 0].T, h[0], dt=1)
    found = era(h, 5, stable=True)
    assert np.abs(np.linalg.eigvals(found.A)).max() < 1
    assert_allclose(hankel_matrix_hsv(h, stable=True)[:n], balred.hsv(fir), rtol=1e-12)
    want = balred.reduce(fir, 5)
    for z in POINTS:
        assert_allclose(found(z), want(z), rtol=1e-10)
    assert float(balred.error(fir, found)) <= balred.analyze(fir).bound(5)


def test_a_growing_response_gives_an_unstable_model_unless_it_is_asked_to_be_stable():
    h = markov_parameters(balred.ss([[1.1]], [[1.0]], [[1.0]], dt=1), 21)
    assert_allclose(era(h, 1).A, [[1.1]])
    assert np.abs(era(h, 1, stable=True).A) < 1


@pytest.mark.parametrize(("m", "p"), [(1, 1), (2, 3)])
def test_markov_from_data_against_python_control(m, p):
    control = pytest.importorskip("control")
    rng = np.random.default_rng(7)
    u, y = rng.standard_normal((200, m)), rng.standard_normal((200, p))
    want = np.reshape(control.markov(y.T, u.T, 6), (p, m, 6))
    assert_allclose(markov_from_data(u, y, 6), np.moveaxis(want, 2, 0), rtol=1e-10, atol=1e-13)


def test_markov_from_data_of_a_finite_response_is_exact():
    rng = np.random.default_rng(8)
    h = rng.standard_normal((5, 2, 3))
    u = rng.standard_normal((80, 3))
    y = sum(np.vstack([np.zeros((k, 2)), u[: 80 - k] @ h[k].T]) for k in range(5))
    assert_allclose(markov_from_data(u, y, 5), h, atol=1e-12)
    assert_allclose(markov_from_data(u, y, 8)[5:], 0, atol=1e-12)
    # the first half unseen: only without the first outputs is there an exact fit
    assert_allclose(markov_from_data(u[40:], y[40:], 5, rest=False), h, atol=1e-12)
    assert np.abs(markov_from_data(u[40:], y[40:], 5) - h).max() > 1e-3


def test_from_noisy_measurements_to_a_model():
    """The whole way; the error is of the size of the noise (1e-2 of the output over sqrt of 4000 samples)."""
    g = balred.ss([[0.8, 0.3], [-0.3, 0.8]], [[1.0], [0.5]], [[1.0, 0.0]], [[0.2]], dt=1)
    rng = np.random.default_rng(9)
    u = rng.standard_normal((4000, 1))
    A, x, y = g.A, np.zeros(2), np.zeros((4000, 1))
    for k in range(4000):
        y[k] = g.C @ x + g.D @ u[k]
        x = A @ x + g.B @ u[k]
    y += 1e-2 * y.std() * rng.standard_normal(y.shape)
    found = era(markov_from_data(u, y, 60), balred.Relative(0.02))
    assert found.order == 2
    assert float(balred.error(g, found)) < 1e-2 * float(balred.norm(g, "hinf"))


def test_one_and_three_axes_and_lists_are_the_same():
    h = [0.5, 1.0, 0.5, 0.25, 0.125]
    a, b = era(h, 1), era(np.reshape(h, (5, 1, 1)), 1)
    assert_allclose(a.A, b.A)
    assert_allclose(a.A, [[0.5]])
    # a single row or column: its length is the singular value
    for size, window in [((1, 3), {"rows": 1}), ((1, 2), {"rows": 1, "columns": 2}), ((3, 1), {"columns": 1})]:
        want = np.linalg.norm([1.0, 0.5, 0.25][: max(size)])
        assert_allclose(hankel_matrix_hsv(h, **window), [want])


GOOD = [0.0, 1.0, 0.5, 0.25, 0.125]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: era(np.ones((5, 2)), 1), r"markov must have shape \(steps, p, m\) or \(steps,\), got \(5, 2\)"),
        (lambda: era(np.ones((5, 0, 1)), 1), r"got \(5, 0, 1\)"),
        (lambda: era([1.0, 2.0], 1), "at least 3 Markov parameters are needed, got 2"),
        (lambda: era([0.0, 1.0, np.nan], 1), "markov must be finite, got 1 NaN or infinite"),
        (lambda: era(GOOD, 3), "rank must be between 1 and 2, got 3"),
        (lambda: era(GOOD, 0), "rank must be between 1 and 2, got 0"),
        (lambda: era(GOOD, 1.5), "rank must be an integer or a rule, got 1.5"),
        (lambda: era([3.0, 0.0, 0.0], 1), "the data must hold a response"),
        (lambda: era(GOOD, 1, rows=3, columns=2), "together at most 4 for 5 Markov parameters, got 3 and 2"),
        (lambda: era(GOOD, 1, rows=4), "got 4 and 0"),
        (lambda: era(GOOD, 1, rows=0), "rows must be a positive integer, got 0"),
        (lambda: era(GOOD, 1, columns=True), "columns must be a positive integer, got True"),
        (lambda: era(GOOD, 1, rows=2, stable=True), "must be left out with stable=True, got 2 and None"),
        (lambda: era(GOOD, 1, dt=0), "dt must be True or a positive step, since an impulse response is sampled, got 0"),
        (lambda: era(GOOD, 1, dt=-1.0), "dt must be 0 .* got -1.0"),
        (lambda: markov_parameters(balred.testing.random_system(2), 3), "belong to discrete time, got a continuous"),
        (lambda: markov_parameters(balred.testing.random_system(2, dt=1, batch=(3,)), 3), r"a batch of shape \(3,\)"),
        (
            lambda: markov_parameters(balred.testing.random_system(2, dt=1), 0),
            "steps must be a positive integer, got 0",
        ),
        (lambda: markov_from_data([1.0, 2.0], [1.0], 1), "u and y must have as many steps, got 2 and 1"),
        (lambda: markov_from_data(np.ones((2, 2, 2)), [1.0], 1), r"u must have shape .* got \(2, 2, 2\)"),
        (lambda: markov_from_data([1.0, 2.0], [1.0, np.inf], 1), "y must be finite"),
        (lambda: markov_from_data(np.ones(3), np.ones(3), 4), "got 3 equations of rank 3 for 4 unknowns"),
        (lambda: markov_from_data(np.ones(9), np.ones(9), 3, rest=False), "7 equations of rank 1 for 3 unknowns"),
        (lambda: markov_from_data(np.ones(9), np.ones(9), 0), "count must be a positive integer, got 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
