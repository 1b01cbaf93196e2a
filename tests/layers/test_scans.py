"""Every way to run a diagonal recurrence gives the recurrence, and its derivatives, in every framework."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import array_api_compat.numpy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balred.layers.recurrence import chunk_of, lru_initial, lru_output
from balred.layers.scans import chunked_output, powers, scan, toeplitz

XP = array_api_compat.numpy
ROUNDING = {np.float64: 2.0**-53, np.float32: 2.0**-24}


def system(n: int, features: int, outputs: int, radius: float, seed: int) -> tuple[Any, Any, Any]:
    """Logarithms of poles up to `radius`, and B and C."""
    rng = np.random.default_rng(seed)

    def gaussian(*shape: int) -> Any:
        return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)

    log_poles = np.log(radius * rng.uniform(0.3, 1, n)) + 2j * np.pi * rng.uniform(size=n)
    return log_poles, gaussian(n, features), gaussian(outputs, n)


def recurrence(log_poles: Any, B: Any, C: Any, u: Any) -> Any:
    """Output (..., L, P), as it is written down, in double precision."""
    x, y = np.zeros((*u.shape[:-2], len(log_poles)), complex), np.zeros((*u.shape[:-1], len(C)))
    for k in range(u.shape[-2]):
        x = np.exp(np.asarray(log_poles, complex)) * x + u[..., k, :] @ B.T
        y[..., k, :] = (x @ C.T).real
    return y


@given(
    length=st.integers(1, 70),
    chunk=st.integers(1, 33),
    n=st.integers(1, 6),
    features=st.integers(1, 4),
    outputs=st.integers(1, 4),
    lead=st.sampled_from([(), (1,), (3,), (2, 3), (0,)]),
    radius=st.sampled_from([0.5, 0.999, 1.0, 1.05]),
    seed=st.integers(0, 2**32 - 1),
)
def test_chunks_give_the_recurrence(
    length: int, chunk: int, n: int, features: int, outputs: int, lead: tuple[int, ...], radius: float, seed: int
) -> None:
    parts = system(n, features, outputs, radius, seed)
    u = np.random.default_rng(seed).standard_normal((*lead, length, features))
    got, want = chunked_output(XP, *parts, u, chunk), recurrence(*parts, u)
    assert got.shape == want.shape
    # the sums of the recurrence with absolute values bound what rounding can do
    size = recurrence(parts[0].real, np.abs(parts[1]), np.abs(parts[2]), np.abs(u))
    assert np.all(np.abs(got - want) <= 100 * ROUNDING[np.float64] * (1 + length) * size)


@given(length=st.integers(1, 40), real=st.booleans(), lead=st.sampled_from([(), (2,), (2, 3)]), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_the_scan_gives_the_recurrence(length: int, real: bool, lead: tuple[int, ...], seed: int) -> None:
    log_poles = system(4, 1, 1, 1.05, seed)[0]
    rng = np.random.default_rng(seed)
    u = rng.standard_normal((*lead, length, 4)) + (0 if real else 1j * rng.standard_normal((*lead, length, 4)))
    x, want = np.zeros((*lead, 4), complex), []
    for k in range(length):
        x = np.exp(log_poles) * x + u[..., k, :]
        want.append(x)
    np.testing.assert_allclose(scan(XP, log_poles, u), np.stack(want, axis=-2), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 4, 16, 32])
def test_an_output_does_not_hear_of_later_inputs(chunk: int) -> None:
    parts, rng = system(5, 3, 2, 0.99, 0), np.random.default_rng(1)
    u = rng.standard_normal((2, 50, 3))
    before = chunked_output(XP, *parts, u, chunk)
    for k in (1, 17, 49):
        later = u.copy()
        later[:, k:] = 1e6 * rng.standard_normal(later[:, k:].shape)
        after = chunked_output(XP, *parts, later, chunk)
        assert np.array_equal(after[:, :k], before[:, :k])
        assert not np.array_equal(after[:, k], before[:, k])


@given(count=st.integers(1, 40), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_powers_of_poles_on_the_circle_keep_their_phase(count: int, seed: int) -> None:
    """In float32 a product of l and a phase would be wrong by l times the phase's rounding; doubling rounds log2(l) times."""
    phases = np.random.default_rng(seed).uniform(0, 2 * np.pi, 8).astype(np.float32)
    got = powers(XP, (1j * phases).astype(np.complex64), count)
    want = np.exp(1j * phases.astype(np.float64) * np.arange(count)[::-1, None])
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= 8 * ROUNDING[np.float32] * (1 + np.log2(count))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_toeplitz(size: int) -> None:
    lags = np.arange(1.0, size + 1)[:, None] * np.array([[1.0, -1.0]])
    got = toeplitz(XP, lags[::-1])
    for t in range(size):
        for s in range(size):
            np.testing.assert_array_equal(got[t, s], lags[t - s] if s <= t else 0)


# ------------------------------------------------------------------------------------------------ the layer

SHAPES = [(16, 64, 64, 16), (16, 256, 70, 3), (8, 32, 300, 2), (64, 256, 64, 16), (1, 2, 9, 5)]
"""Features, states, length and sequences for which chunks are chosen."""


def layer_of(features: int, states: int, ring: tuple[float, float], dtype: Any, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    draws = (lambda n: rng.uniform(size=n)), lambda *shape: rng.standard_normal(shape)
    values = lru_initial(features, states, *ring, 2 * np.pi, *draws)
    return SimpleNamespace(**{k: v.astype(dtype) for k, v in values.items()})


def scanned(layer: Any, u: Any) -> Any:
    """The same output by the states of all positions, in the layer's precision."""
    log_poles, B, C = parts_of(layer, layer.D.dtype)
    return (scan(XP, log_poles, u @ B.T) @ C.T).real + layer.D * u


def parts_of(layer: Any, dtype: Any = np.float64) -> tuple[Any, Any, Any]:
    p = {k: np.asarray(v, dtype) for k, v in vars(layer).items()}
    B = np.exp(p["gamma_log"])[:, None] * (p["B_re"] + 1j * p["B_im"])
    return -np.exp(p["nu_log"]) + 1j * np.exp(p["theta_log"]), B, p["C_re"] + 1j * p["C_im"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ring", [(0.0, 1.0), (0.99, 1.0)])
def test_in_float32_chunks_are_as_exact_as_the_scan(shape: tuple[int, ...], ring: tuple[float, float]) -> None:
    features, states, length, rows = shape
    assert chunk_of(features, states, length) > 0
    layer = layer_of(features, states, ring, np.float32)
    u = np.random.default_rng(1).standard_normal((rows, length, features)).astype(np.float32)
    got = lru_output(XP, layer, u)
    assert got.dtype == np.float32
    by_scan = scanned(layer, u)
    want = recurrence(*parts_of(layer), u) + layer.D.astype(np.float64) * u
    errors = [np.abs(y - want).max() for y in (got, by_scan)]
    assert not np.array_equal(got, by_scan)
    assert errors[0] <= 4 * errors[1] + 4 * ROUNDING[np.float32] * np.abs(want).max()


def test_the_choice() -> None:
    """By shape: never a chunk longer than a sequence, none for wide layers, none where there is next to nothing to do."""
    for features in (1, 2, 8, 16, 64, 256, 1024):
        for states in (1, 16, 64, 256, 1024):
            for length in (0, 1, 2, 7, 64, 1024):
                size = chunk_of(features, states, length)
                assert size == 0 or 2 * size <= length
    assert chunk_of(1024, 256, 1024) == 0
    assert chunk_of(16, 256, 1024) >= 16


@pytest.mark.parametrize("length", [0, 1])
def test_next_to_no_positions(length: int) -> None:
    layer = layer_of(3, 4, (0.0, 1.0), np.float64)
    u = np.ones((2, length, 3))
    assert lru_output(XP, layer, u).shape == u.shape


def test_complex_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="real numbers, got complex128"):
        lru_output(XP, layer_of(3, 4, (0.0, 1.0), np.float64), np.ones((5, 3), complex))
