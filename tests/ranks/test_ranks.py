"""Rules that choose a rank, on spectra short enough to add up by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import balred
from balred.ranks import Energy, ErrorBound, Order, Relative, a_priori_bound, numerical_rank
from balred.ranks.bounds import shares
from balred.ranks.choosing import choose_order

S = np.array([8.0, 1.5, 0.4, 0.1])  # sum 10: cumulative shares .80, .95, .99, 1

spectra = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=12).map(lambda v: np.array(sorted(v, reverse=True)))


@pytest.mark.parametrize(
    ("fraction", "rank"), [(0.5, 1), (0.8, 1), (0.81, 2), (0.95, 2), (0.951, 3), (0.99, 3), (0.991, 4), (1.0, 4)]
)
def test_energy(fraction, rank):
    assert choose_order(Energy(fraction), S) == rank


@pytest.mark.parametrize(
    ("fraction", "rank"), [(0.96, 1), (0.963, 1), (0.964, 2), (0.997, 2), (0.9975, 3), (0.9999, 4), (1.0, 4)]
)
def test_energy_of_the_squares(fraction, rank):
    """64, 2.25, .16, .01 sum to 66.42: shares .96357, .99744, .99985, 1."""
    assert choose_order(Energy(fraction, squared=True), S) == rank


@pytest.mark.parametrize(
    ("tolerance", "rank"), [(0.5, 1), (0.1875, 1), (0.18, 2), (0.05, 2), (0.04, 3), (0.0125, 3), (0.01, 4), (0.0, 4)]
)
def test_relative(tolerance, rank):
    """Ratios to the first are 1, .1875, .05, .0125; a value must exceed the tolerance to be kept."""
    assert choose_order(Relative(tolerance), S) == rank


@pytest.mark.parametrize(
    ("tolerance", "rank"), [(5.0, 1), (4.0, 1), (3.9, 2), (1.0, 2), (0.9, 3), (0.2, 3), (0.1, 4), (1e-9, 4)]
)
def test_error_bound(tolerance, rank):
    """Twice the tails: 4 after one value, 1 after two, .2 after three, 0 after all."""
    assert choose_order(ErrorBound(tolerance), S) == rank
    assert choose_order(ErrorBound(tolerance / 8, relative=True), S) == rank


def test_error_bound_that_cannot_be_met():
    """A tail below the numerical rank that adds up to more than the tolerance."""
    s = np.concatenate([[1.0], np.full(1000, 1e-13)])
    cap = int(numerical_rank(s))
    assert cap == 1
    with pytest.raises(
        ValueError,
        match=r"tolerance must be at least .*, the error bound at the numerical rank 1, got 1e-14",
    ):
        choose_order(ErrorBound(1e-14), s)


def test_order():
    assert choose_order(Order(3), S) == 3
    assert choose_order(Order(7), S) == 4  # capped


@pytest.mark.parametrize(
    ("rule", "rank"),
    [
        (Order(3, multiple_of=2), 4),
        (Order(1, multiple_of=4), 4),
        (Energy(0.8, multiple_of=3), 3),
        (Relative(0.1, multiple_of=2), 2),
        (ErrorBound(0.9, multiple_of=2), 4),
        (Order(4, multiple_of=8), 4),
    ],
)
def test_multiple_of_rounds_up_and_the_cap_comes_last(rule, rank):
    assert choose_order(rule, S) == rank


@pytest.mark.parametrize("rule", [Order(4), Energy(1.0), Relative(0.0), Order(1, multiple_of=4)], ids=repr)
def test_capped_at_the_numerical_rank(rule):
    """Values below n eps sigma_1 = 8.9e-16 here are rounding errors."""
    assert choose_order(rule, np.array([1.0, 0.1, 1e-16, 0.0])) == 2


def test_numerical_rank():
    """SLICOT's threshold n eps sigma_1, with 4 eps = 8.9e-16."""
    assert numerical_rank(np.array([1.0, 1e-15, 8e-16, 0.0])) == 2
    assert np.array_equal(numerical_rank(np.array([[2.0, 1.0], [1.0, 0.0], [0.0, 0.0]])), [2, 1, 0])


def test_largest_of_a_batch():
    batch = np.array([S, [1.0, 1.0, 1.0, 1.0], [0.0, 0, 0, 0]])
    assert choose_order(Energy(0.9), batch) == 4  # the flat one needs all four; the dead one is left out
    assert choose_order(Energy(0.75), batch) == 3


@pytest.mark.parametrize("rule", [Order(1), Energy(0.9), Relative(0.1), ErrorBound(0.1)], ids=repr)
def test_a_zero_spectrum_has_no_rank(rule):
    with pytest.raises(ValueError, match="cannot choose a rank: every Hankel singular value is zero"):
        choose_order(rule, np.zeros(3))


def test_conjugate_systems_count_stored_states():
    """Order and multiples count stored states (two values each); fractions speak of values."""
    assert choose_order(Order(1), S, 2) == 2
    assert choose_order(Order(1, multiple_of=2), S, 2) == 4
    assert choose_order(Energy(0.95), S, 2) == 2
    assert choose_order(Energy(0.8), S, 2) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Energy(0.0), r"fraction must be in \(0, 1\], got 0.0"),
        (lambda: Energy(1.5), r"fraction must be in \(0, 1\], got 1.5"),
        (lambda: Energy(float("nan")), r"fraction must be in \(0, 1\], got nan"),
        (lambda: Relative(1.0), r"tolerance must be in \[0, 1\), got 1.0"),
        (lambda: Relative(-0.1), r"tolerance must be in \[0, 1\), got -0.1"),
        (lambda: ErrorBound(0.0), "tolerance must be positive, got 0.0"),
        (lambda: ErrorBound(float("nan")), "tolerance must be positive, got nan"),
        (lambda: Order(0), "rank must be a positive integer, got 0"),
        (lambda: Order(2.5), "rank must be a positive integer, got 2.5"),
        (lambda: Order(True), "rank must be a positive integer, got True"),
        (lambda: Energy(0.9, multiple_of=0), "multiple_of must be a positive integer, got 0"),
    ],
)
def test_bad_rules(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ----------------------------------------------------------------------------------------------- a-priori bound


@pytest.mark.parametrize(
    ("s", "order", "want"),
    [
        ([4, 1, 1, 0.5], 1, 3.0),  # 2 (1 + .5): the repeated value once
        ([4, 1, 1, 0.5], 3, 1.0),
        ([4, 1, 1, 0.5], 4, 0.0),
        ([4, 1, 1, 0.5], 2, 3.0),  # a group that the order splits counts each member left: 2 (1 + .5)
        ([1, 1, 1, 1], 2, 4.0),  # 2 (1 + 1)
        ([3, 3, 3], 0, 6.0),
        ([3, 2, 1], 0, 12.0),
        ([1, 0, 0], 1, 0.0),
    ],
)
def test_a_priori_bound(s, order, want):
    assert_allclose(a_priori_bound(np.array(s, dtype=float), order), want, rtol=1e-14)


def test_a_priori_bound_over_a_batch():
    assert_allclose(a_priori_bound(np.array([[4.0, 1, 1], [4, 2, 1]]), 1), [2.0, 6.0])


@given(s=spectra, data=st.data())
def test_bound_is_between_the_next_value_and_twice_the_tail(s, data):
    r = data.draw(st.integers(0, len(s)))
    bound = float(a_priori_bound(s, r))
    assert bound <= 2 * s[r:].sum() * (1 + 1e-12)
    assert bound >= (2 * s[r] if r < len(s) else 0.0) * (1 - 1e-12)


@given(s=spectra, f=st.floats(0.01, 1.0))
def test_energy_is_the_least_that_holds_the_fraction(s, f):
    r = Energy(f).order(s)
    assert s[:r].sum() >= f * s.sum() * (1 - 1e-12)
    assert r == 1 or s[: r - 1].sum() < f * s.sum()


@given(s=spectra, tolerance=st.floats(1e-3, 10))
def test_error_bound_is_the_least_that_meets_it(s, tolerance):
    try:
        r = ErrorBound(tolerance, relative=True).order(s)
    except ValueError:
        assert a_priori_bound(s, int(numerical_rank(s))) > tolerance * s[0]
        return
    assert a_priori_bound(s, r) <= tolerance * s[0]
    assert r == 1 or a_priori_bound(s, r - 1) > tolerance * s[0]


# ------------------------------------------------------------------------------------- rules in use on systems


@pytest.mark.parametrize("kind", ["dense", "diagonal", "conjugate"])
@pytest.mark.parametrize(
    "rule",
    [Energy(0.9), Energy(0.99, squared=True), Relative(0.05), ErrorBound(0.3, relative=True), Order(4)],
    ids=repr,
)
def test_a_reduction_by_rule_satisfies_the_rule(kind, rule):
    g = balred.testing.random_system(10, dt=1, kind=kind, seed=2)
    a = balred.analyze(g)
    s = balred.hsv(g)
    rank = a.rank(rule)
    held = a.reduction(rank).stable_order
    wanted = rule.order(s) * (2 if kind == "conjugate" and isinstance(rule, Order) else 1)
    # an Order speaks of stored states, of which a real pole fills one by itself
    assert held >= wanted or isinstance(rule, Order)
    assert balred.reduce(g, rule).states <= rank
    assert float(balred.error(g, balred.reduce(g, rule))) <= 2 * s[held:].sum() + 1e-9 * s[0]


def test_rules_choose_the_same_rank_in_float32():
    """float32 data is analysed in float64: no noise floor raises the rank at a tolerance of 1e-3."""
    g = balred.testing.random_system(40, dt=1, kind="conjugate", seed=5)
    narrow = balred.diagonal(
        log_poles=g.log_poles.astype(np.complex64),
        B=g.B.astype(np.complex64),
        C=g.C.astype(np.complex64),
        D=g.D.astype(np.float32),
        dt=1,
        conjugate=True,
    )
    assert balred.analyze(narrow).rank(Energy(0.999)) == balred.analyze(g).rank(Energy(0.999))


@pytest.mark.parametrize("method", ["truncate", "singular_perturbation"])
@pytest.mark.parametrize("seed", range(12))
def test_error_bound_is_met_where_poles_come_close_to_real(method, seed):
    # small angles: many reduced poles are real, each needs a stored state of its own; the error is measured
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 12))
    log_poles = -np.exp(rng.uniform(-4, 0, n)) + 1j * rng.uniform(0, 0.05, n)
    B = rng.standard_normal((n, 2)) + 1j * rng.standard_normal((n, 2))
    C = rng.standard_normal((2, n)) + 1j * rng.standard_normal((2, n))
    g = balred.diagonal(log_poles=log_poles, B=B, C=C, dt=seed % 2, conjugate=True)
    largest = float(balred.hsv(g)[0])
    for tolerance in (0.3, 0.03):
        small = balred.reduce(g, balred.ErrorBound(tolerance, relative=True), method=method)
        assert float(balred.error(g, small)) <= tolerance * largest * (1 + 1e-9)


def test_two_real_modes_need_two_stored_states():
    # numerical rank 2, but no conjugate pair: both stored states are needed, and nothing is warned of
    g = balred.diagonal([0.9 + 0.3j, 0.6, 0.8], [[0.0], [-3.0], [3.0]], [[-1.0, -1.0, -3.0]], dt=1, conjugate=True)
    small = balred.reduce(g, balred.ErrorBound(0.01, relative=True))
    assert small.states == 2
    assert float(balred.error(g, small)) < 1e-10


def test_rounding_up_does_not_break_the_bound():
    # sigma = 2 and four times 1 (all-pass blocks scaled): splitting the group of ones counts each of the rest
    rng = np.random.default_rng(0)
    S = rng.standard_normal((4, 4))
    B = rng.standard_normal((4, 4))
    A = S - S.T - B @ B.T / 2
    Z = np.zeros
    g = balred.ss(
        np.block([[-np.eye(1), Z((1, 4))], [Z((4, 1)), A]]),
        np.block([[2 * np.eye(1), Z((1, 4))], [Z((4, 1)), B]]),
        np.block([[2 * np.eye(1), Z((1, 4))], [Z((4, 1)), B.T]]),
    )
    a = balred.analyze(g)
    np.testing.assert_allclose(a.sigma, [2, 1, 1, 1, 1], rtol=1e-10)
    assert a.bound(a.rank(balred.ErrorBound(2.0001))) == pytest.approx(2.0)
    assert a.bound(a.rank(balred.ErrorBound(2.0001, multiple_of=2))) <= 2.0001


def test_order_counts_as_the_number_does():
    g = balred.diagonal([1.1, 0.5, 0.3, 0.2], np.ones((4, 1)), np.ones((1, 4)), dt=0.1)
    assert balred.reduce(g, balred.Order(2)).states == balred.reduce(g, 2).states == 2


# ------------------------------------------------------------------------------------------------ measured errors


@pytest.mark.parametrize("method", ["truncate", "singular_perturbation", "modal"])
@pytest.mark.parametrize("kind", ["dense", "conjugate"])
def test_a_measured_error_is_met_by_the_least_order_of_all(method: str, kind: str) -> None:
    """Against every order, one after the other; modal truncation has no order that the values foretell."""
    g = balred.testing.random_system(8, 2, 2, dt=1, kind=kind, seed=4)
    a = balred.analyze(g, method=method)
    errors = {r: float(balred.error(g, a.reduce(r))) for r in range(1, 9)}
    for tolerance in (0.7 * errors[1], 1.1 * errors[3], 1.1 * errors[6]):
        least = min(r for r in errors if errors[r] <= tolerance)
        assert a.rank(balred.MeasuredError(tolerance)) == least
        size = float(balred.norm(g, "hinf"))
        assert a.rank(balred.MeasuredError(tolerance / size, relative=True)) == least


def test_a_measured_error_of_a_batch_holds_for_every_member() -> None:
    g = balred.diagonal(
        log_poles=-np.array([[0.1, 0.5, 2.0], [0.2, 1.0, 3.0]]),
        B=np.ones((2, 3, 1)),
        C=np.array([[[3.0, 1, 0.1]], [[1, 2, 0.1]]]),
        dt=True,
    )
    a = balred.analyze(g)
    r = a.rank(balred.MeasuredError(0.3))
    assert np.all(balred.error(g, a.reduce(r)) <= 0.3)
    assert r == 1 or np.any(balred.error(g, a.reduce(r - 1)) > 0.3)


def test_a_measured_error_beside_unstable_modes_is_that_of_the_others() -> None:
    g = balred.ss(np.diag([0.5, -1.0, -2.0, -30.0]), np.ones((4, 1)), np.ones((1, 4)))
    a = balred.analyze(g)
    r = a.rank(balred.MeasuredError(0.05))
    assert a.error(r)[1] <= 0.05 < a.error(r - 1)[1]


def test_what_a_measured_error_cannot_be_asked() -> None:
    with pytest.raises(ValueError, match="needs a system to measure, got values alone"):
        balred.MeasuredError(0.1).order(np.ones(3))
    with pytest.raises(ValueError, match="tolerance must be positive and finite, got 0"):
        balred.MeasuredError(0)
    second = balred.second_order(np.eye(3), np.eye(3), np.diag([1.0, 2.0, 3.0]), np.ones((3, 1)), np.ones((1, 3)))
    with pytest.raises(ValueError, match="MeasuredError needs a first-order system, got a second-order one"):
        balred.reduce(second, balred.MeasuredError(0.1))


@pytest.mark.parametrize("size", [1e-300, 1e-170, 1e170, 1e307])
def test_shares_of_values_of_any_size(size: float) -> None:
    """Of 8, 1.5, 0.4, 0.1 the first two hold 95 %, and of their squares the first 96.4 %; their sum may be no number."""
    s = size * np.array([8.0, 1.5, 0.4, 0.1])
    assert_allclose(shares(s), [0.8, 0.95, 0.99, 1.0], rtol=1e-12)
    assert Energy(0.94).order(s) == 2
    assert [Energy(f, squared=True).order(s) for f in (0.96, 0.98)] == [1, 2]
