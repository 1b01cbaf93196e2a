"""Where a gain is largest: in rad per unit of time, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from tables import each_case, members

import balred


def resonance(w: float, zeta: float) -> balred.DenseSystem:
    return balred.ss([[0.0, 1.0], [-(w**2), -2 * zeta * w]], [[0.0], [1.0]], [[w**2, 0.0]])


@pytest.mark.parametrize("w", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("kind", ["hinf", "linf"])
def test_a_resonance(w: float, kind: str) -> None:
    """w^2/(s^2 + 2 z w s + w^2) has the gain 1/(2 z sqrt(1 - z^2)) at w sqrt(1 - 2 z^2), which flat peaks give to half the
    digits."""
    z = 0.1
    value, where = balred.norm(resonance(w, z), kind, peak=True)
    assert float(value) == pytest.approx(1 / (2 * z * np.sqrt(1 - z**2)), rel=1e-9)
    assert float(where) == pytest.approx(w * np.sqrt(1 - 2 * z**2), rel=1e-4)
    assert float(value) == float(balred.norm(resonance(w, z), kind))


@pytest.mark.parametrize("dt", [0.01, 5.0, True])
def test_discrete_frequencies_are_per_unit_of_time(dt: float | bool) -> None:
    """1/(z - p) with p = r e^(ia) and its conjugate: the peak of a light mode lies at the angle of its pole, a/dt."""
    a = 1.2
    p = 0.9999 * np.exp(1j * a)
    g = balred.ss([[p.real, p.imag], [-p.imag, p.real]], [[1.0], [0.0]], [[1.0, 0.0]], dt=dt)
    _, where = balred.norm(g, "hinf", peak=True)
    assert float(where) == pytest.approx(a / float(dt), rel=1e-4)


@each_case
def test_the_gain_is_attained_there(xp, case):  # type: ignore[no-untyped-def]
    if xp.traced:
        pytest.skip("a search for peaks cannot be traced")
    system = case.make(n=3)
    value, where = (xp.numpy(x) for x in balred.norm(xp.system(system), "hinf", peak=True))
    assert value.shape == where.shape == case.batch
    for g, v, w in zip(members(xp.exact(system)), value.reshape(-1), where.reshape(-1), strict=True):
        if np.isinf(w):
            gain = np.linalg.norm(g.D, 2)
        else:
            gain = np.linalg.norm(g(np.exp(1j * w * float(g.dt)) if g.discrete else 1j * w), 2)
        assert gain == pytest.approx(v, rel=max(1e-7, 1e3 * xp.eps))


def test_peaks_at_the_ends() -> None:
    """1/(s + 1) at zero; s/(s + 1) = 1 - 1/(s + 1) at infinity."""
    assert [float(x) for x in balred.norm(balred.ss([[-1.0]], [[1.0]], [[1.0]]), "hinf", peak=True)] == [1.0, 0.0]
    value, where = balred.norm(balred.ss([[-1.0]], [[1.0]], [[-1.0]], [[1.0]]), "hinf", peak=True)
    assert float(value) == pytest.approx(1, rel=1e-12)
    assert float(where) > 1e5
    gain = balred.ss(np.zeros((0, 0)), np.zeros((0, 1)), np.zeros((1, 0)), [[3.0]])
    assert [float(x) for x in balred.norm(gain, "linf", peak=True)] == [3.0, 0.0]


def test_a_norm_without_a_peak() -> None:
    with pytest.raises(ValueError, match="peak must go with kind 'hinf' or 'linf', got 'h2'"):
        balred.norm(resonance(1.0, 0.1), peak=True)
