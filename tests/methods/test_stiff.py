"""Poles that spread over many decades: reductions keep their bounds, or say that rounding errors do not let them."""

from __future__ import annotations

import warnings
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import oracle_gain, oracle_hsv
from stiff import KINDS, exponents, sampled, stiff_chain

import balred
from balred.hankel.projections import _exact_diagonal

REASONS = ("rounding", "must be known", "nonzero Hankel singular value")
"""What a refusal may say of a stable system."""

chains = st.builds(stiff_chain, st.sampled_from(KINDS), exponents(-14, 3, sizes=(2, 4)))
plants = st.builds(
    lambda kind, rates, step: sampled(stiff_chain(kind, rates), 10.0**step),
    st.sampled_from(KINDS[:3]),
    exponents(-6, 2, sizes=(2, 3)),
    st.floats(-6, 0),
)


def check_reductions(g: Any) -> None:
    """Each is as far from the system as theory allows (mpmath), but for half the digits of the first value, or not made."""
    want = oracle_hsv(g, 120)
    for rank in range(1, g.order):
        small, refusal = None, ""
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                small = balred.reduce(g, rank)
                measured = float(balred.error(g, small))
            except (ValueError, ArithmeticError) as error:
                small, refusal = None, str(error)
        assert small is not None or any(reason in refusal for reason in REASONS), refusal
        if small is None:
            continue
        order, little = small.order, 2e-8 * want[0]
        if any(w.category is balred.RoundingWarning for w in told):
            little = 2e-6 * want[0]
        true = oracle_gain(g, small)
        assert measured == pytest.approx(true, rel=1e-6, abs=1e-12 * want[0])
        assert want[order] * (1 - 1e-6) - little <= true
        assert true <= 2 * want[order:].sum() * (1 + 1e-6) + little


@given(chains)
def test_chains_of_rates_over_seventeen_decades(g: Any) -> None:
    check_reductions(g)


@given(plants)
def test_plants_sampled_much_faster_than_they_move(g: Any) -> None:
    check_reductions(g)


@pytest.mark.parametrize("dt", [1e-6, 1e-4, 1e-2])
def test_what_one_slow_state_cannot_hold_two_can(dt: float) -> None:
    # the slow pole is the difference of one and a number next to it: only beside a fast one do other entries hold it
    g = sampled(stiff_chain("parallel", [-3.0, 0.0, 2.0]), dt)
    want = oracle_hsv(g)
    true = oracle_gain(g, balred.reduce(g, 2))
    assert want[2] * (1 - 1e-6) <= true <= 2 * want[2] * (1 + 1e-6)


def test_a_moved_pole_is_seen_beside_an_error_of_the_other_sign() -> None:
    """At zero it lessens the error, which mpmath finds above the bound at sqrt(3) times the pole's distance from one."""
    g = sampled(stiff_chain("parallel", [0.0, -5.7]), 1e-4)
    with pytest.warns(balred.RoundingWarning):
        small = balred.reduce(g, 1)
    want = oracle_hsv(g)
    assert oracle_gain(g, small) > 2 * want[1] + 1e-8 * want[0]


def test_what_no_entry_holds_is_told() -> None:
    g = sampled(stiff_chain("parallel", [-6.0, 2.0]), 1e-3)
    with pytest.warns(
        balred.RoundingWarning,
        match="is larger than the bound, 0.0105, by 0.02: the entries of the reduced system are rounded",
    ):
        small = balred.reduce(g, 1)
    assert oracle_gain(g, small) > 2 * oracle_hsv(g)[1]
    with pytest.raises(ArithmeticError, match="use a longer time step"):
        balred.reduce(sampled(stiff_chain("parallel", [-5.0, 0.0, 2.0]), 1e-6), 1)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_members_of_a_batch_are_as_right_as_alone(library: str) -> None:
    # one needs twice the digits, one none, one cannot hold its bound
    hard = sampled(stiff_chain("parallel", [-3.0, 0.0, 2.0]), 1e-6)
    easy = sampled(stiff_chain("lags", [-1.0, 0.0, 0.5]), 0.3)
    members = [hard, easy, sampled(stiff_chain("lags", [-3.0, 0.0, 2.0]), 1e-4)]
    stack = [np.stack([getattr(g, name) for g in members]) for name in "ABCD"]
    if library == "torch":
        torch = pytest.importorskip("torch")
        stack = [torch.from_numpy(x) for x in stack]
    batch = balred.ss(*stack, 1e-6)
    small = balred.reduce(batch, 2)
    for i, g in enumerate(members):
        one = balred.ss(*(np.asarray(getattr(small, name)[i]) for name in "ABCD"), 1e-6)
        full = balred.ss(g.A, g.B, g.C, g.D, 1e-6)
        want = oracle_hsv(full)
        true = oracle_gain(full, one)
        assert want[2] * (1 - 1e-6) <= true <= 2 * want[2] * (1 + 1e-6) + 2e-8 * want[0]


def test_what_a_member_of_a_batch_cannot_hold_is_told() -> None:
    g = sampled(stiff_chain("parallel", [-6.0, 2.0]), 1e-3)
    batch = balred.ss(*(np.stack([x, x]) for x in (g.A, g.B, g.C, g.D)), 1e-3)
    with pytest.warns(
        balred.RoundingWarning,
        match="is larger than the bound, 0.0105, by 0.02: the entries of the reduced system are rounded",
    ) as told:
        balred.reduce(batch, 1)
    assert len(told) == 1


def triangular(seed: int) -> balred.DenseSystem:
    """A cascade of rates between 1e-14 and 1e3, with a gain up to 1e45 where each stage hands on what it has."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 6))
    A = -np.diag(10.0 ** rng.uniform(-14, 3, n))
    coupling = np.eye(n, k=-1) if seed % 2 else np.tril(rng.standard_normal((n, n)), -1) * 10.0 ** rng.uniform(-3, 3)
    return balred.ss(A + coupling, rng.standard_normal((n, 1)), rng.standard_normal((1, n)))


@given(st.integers(0, 10_000))
def test_values_of_cascades_are_right_or_refused(seed: int) -> None:
    g, refusal = triangular(seed), ""
    try:
        s = balred.hsv(g)
    except ArithmeticError as error:
        refusal = str(error)
    if refusal:
        assert "must be known to" in refusal or "must converge" in refusal, refusal
        return
    want = oracle_hsv(g, 150)
    assert np.abs(s - want).max() <= 3e-6 * want[0]


def test_every_function_knows_the_same_of_a_slow_pole() -> None:
    # a cascade that no coordinates in double precision hold: one reason, and a pole that is stable is not blamed
    g = stiff_chain("cascade", [-14.0, 3.0, -13.0, -12.0, -11.0])
    said = set()
    for function in (balred.hsv, balred.norm, balred.gramians, balred.balance, lambda x: balred.reduce(x, 2)):
        try:
            function(g)
        except (ValueError, ArithmeticError) as error:
            said.add(str(error).partition(",")[0])
    assert len(said) <= 1
    assert not any("negative real part" in text for text in said)


def test_a_rounded_diagonal_is_moved_not_lost() -> None:
    """I + t e_i e_j^T changes no transfer function: the matrices before and after have the same poles (mpmath)."""
    rng = np.random.default_rng(0)
    A = np.array([[1 - 1e-10, 1e-5, 3e-6], [2e-5, 0.5, 0.1], [1e-6, 0.2, 0.7]])
    high = [A, rng.standard_normal((3, 1)), rng.standard_normal((1, 3))]
    low = [np.diag([5e-17, 2e-17, -3e-17]), np.zeros((3, 1)), np.zeros((1, 3))]
    with mpmath.workdps(50):

        def slow(low: Any) -> Any:
            return max(mpmath.eig(mpmath.matrix(A.tolist()) + mpmath.matrix(low.tolist()))[0], key=mpmath.re)

        before = slow(low[0])
        L, R = rng.standard_normal((3, 4)), rng.standard_normal((4, 3))
        product = R @ L
        _exact_diagonal(high, low, L, R)
        np.testing.assert_allclose(R @ L, product, rtol=1e-12)
        assert abs(low[0][0, 0]) < 1e-30
        assert abs(slow(low[0]) - before) < 1e-12 * abs(1 - before)
