"""A multiple of a weight asks for the same reduced system: the values and the bound are that multiple, at every size that numbers have."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal

import balred
from balred.methods.weighted import TECHNIQUES

POWERS = [-1000, -660, -530, -100, 100, 530, 660, 1000]
WAYS = [{"method": "frequency_weighted", "technique": t} for t in TECHNIQUES] + [{"method": "weighted_hankel_norm"}]


def times(g, power, at):
    """A multiple of a system by a power of two, in its input matrix or its output matrix: no rounding."""
    factor = 2.0**power
    B, C = (g.B * factor, g.C) if at == "B" else (g.B, g.C * factor)
    return balred.ss(g.A, B, C, g.D * factor, g.dt)


def plant_and_weights(dt):
    g = balred.testing.random_system(6, 2, 2, dt=dt, seed=0)
    made = (balred.testing.random_system(2, 2, 2, dt=dt, seed=seed) for seed in (1, 2))
    return g, {
        side: balred.ss(w.A, w.B, w.C, 3 * np.eye(2), dt) for side, w in zip(("left", "right"), made, strict=True)
    }


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.get("technique", way["method"]))
@pytest.mark.parametrize("dt", [0, 1])
def test_a_multiple_of_a_weight_changes_the_values_alone(way, dt):
    g, w = plant_and_weights(dt)
    plain = balred.analyze(g, **way, **w)
    small = plain.reduce(3)
    for power in POWERS:
        for side, other in (("left", "right"), ("right", "left")):
            for at in "BC":
                one = balred.analyze(g, **way, **{side: times(w[side], power, at), other: w[other]})
                assert np.array_equal(one.hsv, plain.hsv * 2.0**power)
                assert np.array_equal(one.bound(3), plain.bound(3) * 2.0**power, equal_nan=True)
                for x, y in zip(one.reduce(3).leaves, small.leaves, strict=True):
                    assert np.array_equal(x, y)
        both = {"left": times(w["left"], power, "C"), "right": times(w["right"], -power, "B")}
        assert np.array_equal(balred.analyze(g, **way, **both).hsv, plain.hsv)


def test_with_recorded_inputs_too():
    g, w = plant_and_weights(1)
    recorded = np.random.default_rng(0).standard_normal((2, 50))
    plain = balred.analyze(g, inputs=recorded, left=w["left"])
    for power in POWERS:
        large = balred.analyze(g, inputs=recorded, left=times(w["left"], power, "C"))
        assert np.array_equal(large.hsv, plain.hsv * 2.0**power)
        assert np.array_equal(large.reduce(3).A, plain.reduce(3).A)


def test_values_that_are_no_numbers_are_refused():
    g, w = plant_and_weights(0)
    with pytest.raises(OverflowError, match="Hankel singular values must be at most"):
        balred.reduce(
            g, 3, method="frequency_weighted", left=times(w["left"], 1000, "C"), right=times(w["right"], 1000, "C")
        )


@pytest.mark.parametrize("part", ["B", "C", "D"])
@pytest.mark.parametrize("method", ["frequency_weighted", "weighted_hankel_norm"])
def test_a_weight_with_an_entry_that_is_no_number_is_named(method, part):
    g, w = plant_and_weights(0)
    parts = {name: np.array(getattr(w["left"], name)) for name in "ABCD"}
    parts[part][0, 0] = np.nan
    with pytest.raises(ValueError, match=f"{part} of the left weight must"):
        balred.reduce(g, 3, method=method, left=balred.DenseSystem(*parts.values(), 0))


def test_a_step_of_one_second_is_not_any_step():
    """Of Python, ``1.0 == True``: a weight sampled each second is none for a system sampled each half."""
    g = balred.testing.random_system(4, 1, 1, dt=0.5, seed=0)
    each_second, any_step = (balred.ss([[0.5]], [[1.0]], [[1.0]], 1.0, dt) for dt in (1.0, True))
    with pytest.raises(ValueError, match=r"the left weight must have the dt of the system, 0\.5, got 1\.0"):
        balred.reduce(g, 2, method="frequency_weighted", left=each_second)
    assert balred.reduce(g, 2, method="frequency_weighted", left=any_step).dt == 0.5


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_a_weight_may_be_a_polynomial(technique):
    """A low-pass filter of order 5 at 0.02 of the Nyquist frequency, as a companion matrix and balanced: one weight."""
    g = balred.testing.random_system(5, 1, 1, dt=1, seed=1)
    w = balred.ss(*scipy.signal.tf2ss(*scipy.signal.butter(5, 0.02)), dt=1)
    found, want = (
        balred.analyze(g, method="frequency_weighted", left=one, technique=technique).hsv
        for one in (w, balred.balance(w).system)
    )
    assert np.allclose(found, want, rtol=0, atol=1e-9 * want[0])
