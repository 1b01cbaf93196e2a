"""Sums along data against the plainest recurrence there is, and against Gramians where the data are white."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import balred
from balred.layers.along_data import data_sums, factor_of, horizon_sums
from balred.systems.coordinates import Complex

RNG = np.random.default_rng(0)


def diagonal(seed: int, n: int = 3, *, conjugate: bool, batch: tuple[int, ...] = (), largest: float = 0.9) -> Any:
    rng = np.random.default_rng(seed)
    poles = rng.uniform(0.3, largest, (*batch, n)) * np.exp(1j * rng.uniform(0.1, 3, (*batch, n)))
    B, C = (rng.standard_normal((*batch, *s)) + 1j * rng.standard_normal((*batch, *s)) for s in ((n, 2), (2, n)))
    return balred.diagonal(poles, B, C, dt=1, conjugate=conjugate)


def dense(seed: int) -> Any:
    g = balred.testing.random_system(4, seed=seed, dt=1)
    return balred.ss(g.A * 0.85 / np.abs(np.linalg.eigvals(g.A)).max(), g.B, g.C, dt=1)


def plain(system: Any, u: Any, w: Any, mask: Any) -> tuple[Complex, Complex]:
    """The sums of one system, a state and a position at a time."""
    A, B, C = system.to_dense().leaves
    P, Q = np.zeros((2, len(A), len(A)), A.dtype)
    for one, grad, counts in zip(u, w, mask, strict=True):
        x = g = np.zeros(len(A), A.dtype)
        for t in range(len(one)):
            x = A @ x + B @ one[t]
            P = P + counts[t] * np.outer(x, x.conj())
        for t in reversed(range(len(one))):
            g = A.conj().T @ g + C.conj().T @ grad[t]
            Q = Q + counts[t] * np.outer(g, g.conj())
    return P, Q


SYSTEMS = {
    "dense": dense(1),
    "conjugate": diagonal(2, conjugate=True),
    "complex": diagonal(3, conjugate=False),
    "unstable": diagonal(4, conjugate=True, largest=1.1),
    "real poles": balred.diagonal([0.9, -0.5], np.ones((2, 2)), np.ones((2, 2)), dt=1),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_sums_are_those_of_the_recurrence(name: str) -> None:
    u, w = RNG.standard_normal((2, 5, 7, 2))
    mask = RNG.integers(0, 2, (5, 7))
    got = data_sums(SYSTEMS[name], u, w, mask)
    for have, want in zip((got.P, got.Q), plain(SYSTEMS[name], u, w, mask), strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-12, atol=1e-12 * np.abs(want).max())
    assert got.positions == mask.sum()


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("max_bytes", [1, 1600])
def test_long_sequences_are_cut_and_go_on_where_they_were(name: str, max_bytes: int) -> None:
    """Of 1 and 2 or more positions at a time, which is the same as all at once: the recurrence has no other memory."""
    u, w = RNG.standard_normal((2, 3, 7, 2))
    mask = (RNG.random((3, 7)) < 0.7).astype(float)
    whole = data_sums(SYSTEMS[name], u, w, mask)
    cut = data_sums(SYSTEMS[name], u, w, mask, max_bytes=max_bytes)
    for have, want in ((cut.P, whole.P), (cut.Q, whole.Q)):
        np.testing.assert_allclose(have, want, rtol=1e-12, atol=1e-13 * np.abs(want).max())


def peak(length: int, max_bytes: int) -> int:
    u = RNG.standard_normal((2, length, 2))
    data_sums(SYSTEMS["conjugate"], u, u, max_bytes=max_bytes)
    tracemalloc.start()
    data_sums(SYSTEMS["conjugate"], u, u, max_bytes=max_bytes)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def test_memory_does_not_grow_with_the_positions() -> None:
    """Four times as many: beside the inputs themselves there are the states of a chunk, and the sums."""
    assert peak(20_000, 1 << 18) < 1.1 * peak(5_000, 1 << 18)


@pytest.mark.parametrize("max_bytes", [1 << 17, 1 << 19])
def test_memory_is_what_was_allowed(max_bytes: int) -> None:
    """The peak that Python's allocator sees, of data whose states take 11 times the larger of both: no more, and not much less."""
    assert 0.3 * max_bytes < peak(20_000, max_bytes) < max_bytes


def test_sums_add_up_and_do_not_depend_on_how_data_are_cut() -> None:
    system = SYSTEMS["conjugate"]
    u, w = RNG.standard_normal((2, 5, 7, 2))
    whole = data_sums(system, u, w)
    parts = data_sums(system, u[:2], w[:2]) + data_sums(system, u[2:], w[2:])
    for other in (parts, data_sums(system, u, w, max_bytes=1)):
        np.testing.assert_allclose(other.P, whole.P, rtol=1e-13)
        np.testing.assert_allclose(other.Q, whole.Q, rtol=1e-13)
        assert other.positions == whole.positions


def test_a_batch_of_systems_has_inputs_of_its_own() -> None:
    system = diagonal(5, conjugate=True, batch=(3,))
    u, w = RNG.standard_normal((2, 3, 4, 6, 2))
    got = data_sums(system, u, w)
    for i in range(3):
        one = balred.diagonal(system.poles[i], system.B[i], system.C[i], dt=1, conjugate=True)
        want = data_sums(one, u[i], w[i])
        np.testing.assert_allclose(got.P[i], want.P, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(got.Q[i], want.Q, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["dense", "conjugate", "complex"])
def test_for_white_signals_means_converge_to_gramians_like_a_mean_does(name: str) -> None:
    """The error falls with the root of the samples: 64 times as many, an eighth of it (a root mean square over draws)."""
    system, rng = SYSTEMS[name], np.random.default_rng(6)
    P, Q = balred.gramians(system.to_dense())

    def error(sequences: int) -> float:
        total = 0.0
        for _ in range(8):
            # the first and last positions are at rest; from 60 on poles of .9 have forgotten it
            u, w = rng.standard_normal((2, sequences, 120, 2))
            mask = np.zeros((sequences, 120))
            mask[:, 59:61] = 1
            got = data_sums(system, u, w, mask)
            total += np.linalg.norm(got.P / got.positions - P) ** 2 / np.linalg.norm(P) ** 2
            total += np.linalg.norm(got.Q / got.positions - Q) ** 2 / np.linalg.norm(Q) ** 2
        return float(np.sqrt(total / 16))

    few, many = error(16), error(1024)
    assert 5 < few / many < 13  # 8, and what eight draws leave of it
    assert many < 0.1


@given(st.integers(0, 10**6))
def test_values_do_not_depend_on_the_basis(seed: int) -> None:
    rng = np.random.default_rng(seed)
    g = dense(1)
    T = np.eye(4) + 0.3 * rng.standard_normal((4, 4)) / np.sqrt(4)
    other = balred.ss(np.linalg.solve(T, g.A @ T), np.linalg.solve(T, g.B), g.C @ T, dt=1)
    u, w = rng.standard_normal((2, 8, 20, 2))
    values = []
    for system in (g, other):
        sums = data_sums(system, u, w)
        assert sums.Q is not None
        values.append(np.linalg.svd(factor_of(sums.Q).T @ factor_of(sums.P), compute_uv=False))
    np.testing.assert_allclose(*values, rtol=1e-7, atol=1e-9 * values[0][0])


def test_a_factor_does_not_lose_small_states_beside_large_ones() -> None:
    P = np.array([[1.0, 0.5], [0.5, 1.0]]) * np.outer([1e9, 1e-9], [1e9, 1e-9])
    Z = factor_of(P)
    np.testing.assert_allclose(Z @ Z.T, P, rtol=1e-14)


def test_over_a_long_horizon_sums_are_the_gramians() -> None:
    system = SYSTEMS["conjugate"]
    sums = horizon_sums(system, 400)  # .9**800 is 2e-37
    for got, want in zip((sums.P, sums.Q), balred.gramians(system.to_dense()), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10 * np.abs(want).max())


def test_what_does_not_fit_is_refused() -> None:
    g = SYSTEMS["dense"]
    with pytest.raises(ValueError, match=r"u must have shape \(3, 4, 2\), got \(3, 4, 1\)"):
        data_sums(g, np.ones((3, 4, 1)))
    with pytest.raises(ValueError, match=r"w must have shape \(3, 4, 2\), got \(3, 5, 2\)"):
        data_sums(g, np.ones((3, 4, 2)), np.ones((3, 5, 2)))
    with pytest.raises(ValueError, match=r"mask must have shape \(3, 4\), got \(4, 3\)"):
        data_sums(g, np.ones((3, 4, 2)), mask=np.ones((4, 3)))
    with pytest.raises(ValueError, match="must be discrete in time"):
        data_sums(balred.testing.random_system(4, seed=1), np.ones((3, 4, 2)))
    with pytest.raises(ValueError, match="the states along the data must be finite"):
        data_sums(g, np.full((3, 4, 2), np.inf))


@pytest.mark.parametrize("library", ["torch", "jax.numpy"])
@pytest.mark.parametrize("name", ["dense", "conjugate"])
def test_other_array_libraries_agree(library: str, name: str) -> None:
    xp = pytest.importorskip(library)
    g = SYSTEMS[name]
    u, w = RNG.standard_normal((2, 3, 9, 2)).astype(np.float32)
    want = data_sums(g, u, w)
    leaves = [xp.asarray(x) for x in (*g.leaves, g.D)]
    other = type(g)(*leaves, g.dt, *([g.conjugate] if name == "conjugate" else []))
    got = data_sums(other, xp.asarray(u), xp.asarray(w))
    # JAX keeps single precision where it is not asked for more
    rtol = 1e-5 if library == "jax.numpy" else 1e-12
    np.testing.assert_allclose(got.P, want.P, rtol=rtol, atol=rtol * np.abs(want.P).max())
    np.testing.assert_allclose(got.Q, want.Q, rtol=rtol, atol=rtol * np.abs(want.Q).max())
