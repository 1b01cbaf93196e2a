"""Factors along recorded inputs against SciPy's simulations, and what a recording must be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.signal
from numpy.testing import assert_allclose
from tables import CASES, Case, members

import balred
from balred.measures import recordings as file
from balred.measures.recordings import independent_inputs, output_error, recordings_of, signals_factor

RNG = np.random.default_rng(0)
U = RNG.standard_normal((2, 57))


def factor(*given: Any, **how: Any) -> Any:
    """The factor in the units of the signals that were given."""
    Z, unit = signals_factor(given[0], recordings_of(*given, **how))
    return Z * unit


def close(found: Any, wanted: Any, rtol: float) -> None:
    assert_allclose(found, wanted, rtol=0, atol=rtol * np.abs(wanted).max())


def fine_states(g: Any, u: Any, h: float, hold: str, pieces: int) -> tuple[Any, Any]:
    """States and inputs of SciPy's simulation (samples, n), (samples, m), `pieces` to a step and both ends of each step."""
    count = u.shape[1] - (hold == "foh")
    at = np.arange(count * pieces + 1) / pieces
    if hold == "zoh":
        A, B, *_ = scipy.signal.cont2discrete((g.A, g.B, g.C, g.D), h / pieces, "zoh")
        held = np.repeat(u.T, pieces, axis=0)
        x = np.zeros((len(at), g.order))
        for k, v in enumerate(held):
            x[k + 1] = A @ x[k] + B @ v
    else:
        held = np.stack([np.interp(at, np.arange(u.shape[1]), row) for row in u], axis=1)
        x = scipy.signal.lsim((g.A, g.B, g.C, g.D), held, at * h, interp=True)[2]
    ends = np.arange(count)[:, None] * pieces + np.arange(pieces + 1)
    inputs = held[ends] if hold == "foh" else np.repeat(u.T[:, None], pieces + 1, axis=1)
    return x[ends], inputs


@pytest.mark.parametrize("chunk", [1 << 20, 40])
@pytest.mark.parametrize("case", [c for c in CASES if c.dt], ids=str)
def test_discrete_factor_by_dlsim(case: Case, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "_CHUNK", chunk)
    g = case.make()
    Z = factor(g, U)
    for one, found in zip(members(g), Z if case.batch else [Z], strict=True):
        d = one.to_dense()
        x = np.zeros((U.shape[1], d.order), d.A.dtype)
        for k in range(U.shape[1] - 1):
            x[k + 1] = d.A @ x[k] + d.B @ U[:, k]
        if not np.iscomplexobj(d.A):
            assert_allclose(scipy.signal.dlsim((d.A, d.B, d.C, d.D, 1), U.T)[2], x, atol=1e-12)
        z = np.concatenate([x, U.T], axis=1)
        close(found @ found.conj().T, z.T @ z.conj() / len(z), 1e-12)


@pytest.mark.parametrize("hold", ["zoh", "foh"])
@pytest.mark.parametrize("h", [0.02, 0.7])
def test_continuous_factor_by_simpson(h: float, hold: str) -> None:
    g = balred.testing.random_system(5, 2, 2, seed=2)
    x, u = fine_states(g, U, h, hold, pieces := 64)
    z = np.concatenate([x, u], axis=2)
    weights = np.array([1, *[4, 2] * (pieces // 2 - 1), 4, 1]) / (3 * pieces)
    wanted = np.einsum("kti,ktj,t->ij", z, z, weights) / len(z)
    Z = factor(g, U, h, hold)
    close(Z @ Z.T, wanted, 1e-7)  # Simpson's rule: the fourth power of 1/64 of a step


def test_modes_that_hide_between_samples_are_seen() -> None:
    """A turn to each sample: the states are back where they were at all of them, (sin t, 1 - cos t) in between."""
    w = 2 * np.pi
    g = balred.ss([[0.0, w], [-w, 0.0]], [[0.0], [1.0]], [[1.0, 0.0]])
    Z = factor(g, np.ones(3), dt=1.0)
    assert_allclose((Z @ Z.T)[:2, :2], np.diag([1.5, 0.5]) / w**2, atol=1e-12)


def test_stiff_and_small_inputs_keep_their_digits() -> None:
    """Of a lag 1/(s/a + 1) under a constant input, long after its start: x = u."""
    for a, unit in ((1e8, 1.0), (1e-2, 1e-9), (1.0, 1e9)):
        g = balred.ss([[-a]], [[a * unit]], [[1.0]])
        Z = factor(g, np.full(4, 3 / unit), dt=1e8)
        assert_allclose((Z @ Z.T)[0, 0], 9 * (1 - 2 / (a * 4e8) + 0.5 / (a * 4e8)), rtol=1e-7)


def test_several_recordings_are_weighed_by_their_samples() -> None:
    g = balred.testing.random_system(4, 2, 1, dt=1, seed=3)
    parts = [U[:, :20], U[:, 20:]]
    whole = factor(g, parts)
    each = [(Z := factor(g, u)) @ Z.T * u.shape[1] for u in parts]
    close(whole @ whole.T, sum(each) / U.shape[1], 1e-13)


def test_members_may_have_signals_of_their_own() -> None:
    g = balred.testing.random_system(4, 2, 1, dt=1, batch=(3,), seed=3)
    u = RNG.standard_normal((3, 2, 30))
    Z = factor(g, u)
    for one, v, found in zip(members(g), u, Z, strict=True):
        close(found, factor(one, v), 1e-13)


@pytest.mark.parametrize("dt", [0, 0.1])
def test_output_error_is_that_of_a_simulation(dt: float) -> None:
    g, small = (balred.testing.random_system(n, 2, 3, dt=dt, seed=n) for n in (6, 3))
    found = output_error(g, small, U, dt=0.1)
    if not dt:  # inputs that are held for a hundredth of the step are those of a system sampled so often
        g, small = (
            balred.ss(*scipy.signal.cont2discrete((h.A, h.B, h.C, h.D), 1e-3, "zoh")[:4], 1) for h in (g, small)
        )
    y = [scipy.signal.dlsim((h.A, h.B, h.C, h.D, 1), (U if dt else np.repeat(U, 100, axis=1)).T)[1] for h in (g, small)]
    assert_allclose(found, np.linalg.norm(y[0] - y[1]) / np.linalg.norm(y[0]), rtol=1e-10 if dt else 2e-2)


def test_inputs_that_are_told_apart_are_counted() -> None:
    g = balred.testing.random_system(4, 3, 1, dt=1, seed=3)
    a, b = U
    for u, wanted in (([a, b, a + b], 2), ([a, 1e-6 * b, a - b], 2), ([a, 0 * a, 1e9 * b], 2), ([a, b, b[::-1]], 3)):
        assert independent_inputs(factor(g, np.array(u)), 4) == wanted


DISCRETE = balred.testing.random_system(3, 2, 1, dt=0.1, seed=1)
ONE = balred.testing.random_system(3, 1, 1, dt=0.1, seed=1)
CONTINUOUS = balred.testing.random_system(3, 2, 1, seed=1)


@pytest.mark.parametrize(
    ("system", "inputs", "how", "message"),
    [
        (DISCRETE, U.T, {}, r"\(inputs, samples\) with inputs = 2, got \(57, 2\): inputs come first.*transpose"),
        (DISCRETE, U[0], {}, r"with inputs = 2, got \(57,\)"),
        (DISCRETE, [U[0], U[1]], {}, r"inputs\[0\] must have shape .*: a list holds several recordings"),
        (ONE, U, {}, r"with inputs = 1, got \(2, 57\)"),
        (DISCRETE, U[None], {}, r"got \(1, 2, 57\)"),
        (ONE, [], {}, "at least one sample"),
        (ONE, np.zeros((1, 0)), {}, "at least one sample"),
        (ONE, [1.0, np.nan], {}, r"inputs must be finite, got 1 NaN or infinite entries, the first at \(0, 1\)"),
        (ONE, [1.0, np.inf], {}, "inputs must be finite"),
        (DISCRETE, U, {"dt": 0.2}, "dt must be that of the discrete system, 0.1, got 0.2"),
        (DISCRETE, U, {"hold": "foh"}, "must go with a continuous system"),
        (CONTINUOUS, U, {}, "need the seconds between samples, dt=..., got none"),
        (CONTINUOUS, U, {"dt": 0.0}, "positive number of seconds"),
        (CONTINUOUS, U, {"dt": True}, "positive number of seconds"),
        (CONTINUOUS, U, {"dt": np.nan}, "positive number of seconds"),
        (CONTINUOUS, U, {"dt": 1.0, "hold": "cubic"}, "hold must be one of zoh, foh, got 'cubic'"),
        (CONTINUOUS, U[:, :1], {"dt": 1.0, "hold": "foh"}, "at least two samples"),
    ],
)
def test_what_does_not_fit_is_refused(system: Any, inputs: Any, how: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recordings_of(system, inputs, **how)


@pytest.mark.parametrize("inputs", ["u.csv", [["a", "b"]], None, [[1.0], [1.0, [2.0]]], 1j * np.ones(4)])
def test_what_is_no_signal_is_refused(inputs: Any) -> None:
    with pytest.raises(TypeError, match="must be"):
        recordings_of(ONE, inputs)


def test_states_that_overflow_are_told() -> None:
    g = balred.ss([[2.0]], [[1.0]], [[1.0]], dt=1)
    with pytest.raises(ValueError, match="finite, got some that overflow"):
        factor(g, np.ones(1100))


def test_an_output_of_zero_has_no_relative_error() -> None:
    with pytest.raises(ValueError, match="must not be zero"):
        output_error(DISCRETE, DISCRETE, np.zeros((2, 5)))


@pytest.mark.parametrize("power", [1018, 600, -600, -1000])
@pytest.mark.parametrize(("dt", "how"), [(1, {}), (0, {"dt": 0.3}), (0, {"dt": 0.3, "hold": "foh"})])
def test_signals_of_any_size_reduce_alike(power: int, dt: float, how: dict[str, Any]) -> None:
    """Values scale as the signals do, and nothing else changes: the unit is a power of two."""
    g, u = balred.testing.random_system(4, 2, 2, dt=dt, seed=4), np.ldexp(U, power)
    want, small = balred.analyze(g, inputs=U, **how), balred.reduce(g, 3, inputs=u, **how)
    assert_allclose(np.ldexp(balred.analyze(g, inputs=u, **how).hsv, -power), want.hsv, rtol=1e-12)
    assert_allclose(small(0.4j), want.reduce(3)(0.4j), rtol=1e-12)
    assert_allclose(output_error(g, small, u, **how), output_error(g, small, U, **how), rtol=1e-9)


def test_inputs_of_very_different_sizes_are_told_apart() -> None:
    g = balred.testing.random_system(4, 2, 1, dt=1, seed=3)
    assert independent_inputs(factor(g, U * [[1.0], [1e-200]]), 4) == 2
