"""Descriptor systems of higher index: a state-space system where the response is proper, whatever the index."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from tables import skip_without

import balred
from balred.realisations.descriptor import descriptor

POINTS = (0.3 + 1.1j, 2.3j, 3.1)


def nilpotent(sizes: list[int]) -> Any:
    return scipy.linalg.block_diag(*(np.eye(n, k=1) for n in sizes))


def hidden(seed: int, k: int, N: Any, *, cond: float, dt: float = 0, feeds: tuple[Any, Any] | None = None) -> Any:
    """E, A, B, C with k finite poles and the nilpotent part N, disguised, and a response that is proper in spite of N.

    The part at infinity adds :math:`-\\sum_i s^i C_2N^iB_2`; here :math:`C_2` is orthogonal to :math:`NB_2, N^2B_2, ...`.
    """
    rng = np.random.default_rng(seed)

    def disguise(n: int) -> Any:
        U, V = (np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(2))
        return U * cond ** np.linspace(0, 1, n) @ V

    J = rng.standard_normal((k, k))
    J = 0.4 * J / (np.linalg.norm(J, 2) if k else 1.0) - 0.5 * np.eye(k)
    n, q = k + len(N), len(N)
    B, C = rng.standard_normal((n, 1)), rng.standard_normal((1, n))
    powers = [np.linalg.matrix_power(N, i) @ B[k:] for i in range(1, q)]
    grows = np.hstack([*powers, np.zeros((q, 1))])
    for _ in range(2):  # where the first leaves little of C, its entries are not known to their own rounding
        C[:, k:] -= C[:, k:] @ grows @ np.linalg.pinv(grows)
    P, Q = disguise(n), disguise(n)
    E, A = P @ scipy.linalg.block_diag(np.eye(k), N) @ Q, P @ scipy.linalg.block_diag(J, np.eye(q)) @ Q
    return E, A, P @ B, C @ Q


def transfer(E: Any, A: Any, B: Any, C: Any, s: complex) -> Any:
    return C @ np.linalg.solve(s * E - A, B)


@pytest.mark.parametrize("cond", [1.0, 10.0])
@pytest.mark.parametrize("dt", [0, 1])
@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(0, 4), sizes=st.lists(st.integers(1, 3), min_size=1, max_size=2))
def test_a_proper_response_has_a_state_space_system(seed, k, sizes, dt, cond):
    E, A, B, C = hidden(seed, k, nilpotent(sizes), cond=cond)
    g = descriptor(E, A, B, C, [[1.0]], dt)
    assert (g.order, g.dt) == (k, dt)
    for s in POINTS:
        want = transfer(E, A, B, C, s) + 1
        assert_allclose(g(s), want, atol=1e-9 * max(1.0, float(np.abs(want).max())))


def rod(m1: float, m2: float) -> Any:
    """Two masses with a rod between them, a force on the first: positions, velocities and the force in the rod."""
    E = np.diag([1.0, 1.0, m1, m2, 0.0])
    A = np.array([[0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, -1], [0, 0, 0, 0, 1], [1, -1, 0, 0, 0.0]])
    return E, A, np.eye(5)[:, 2:3]


def on_a_spring(m: float, c: float, k: float) -> Any:
    """A mass on a spring whose position is prescribed, x = u, and the force f that it takes: m x'' + c x' + k x = f."""
    E = np.diag([1.0, m, 0.0])
    return E, np.array([[0, 1.0, 0], [-k, -c, 1.0], [1.0, 0, 0]]), np.array([[0.0], [0.0], [-1.0]])


TABLE = {
    # by Newton's law: (m1 + m2) x'' = u, a force -m2 x'' in the rod
    "position of two masses with a rod": (*rod(1.0, 2.0), [[1.0, 0, 0, 0, 0]], 2, lambda s: 1 / (3 * s**2)),
    "velocity of two masses with a rod": (*rod(1.0, 2.0), [[0, 0, 0, 1.0, 0]], 2, lambda s: 1 / (3 * s)),
    "force in the rod": (*rod(1.0, 2.0), [[0, 0, 0, 0, 1.0]], 2, lambda s: 2 / 3),
    "position that is prescribed": (*on_a_spring(2.0, 1.0, 3.0), [[1.0, 0, 0]], 0, lambda s: 1.0),
    # x1 = u, x2' = x1 + ..: an index-2 chain nobody sees beside 2 x3' = -3 x3 + u
    "a derivative that nobody sees": (
        scipy.linalg.block_diag([[0.0, 1.0], [0.0, 0.0]], 2.0), np.diag([1.0, 1.0, -3.0]),
        np.ones((3, 1)), [[0.0, 0.0, 1.0]], 1, lambda s: 1 / (2 * s + 3),
    ),
    # a voltage source across a capacitor of 2: its current is 2 u', the current of a resistor of 4 beside it u/4
    "resistor beside a capacitor at a source": (
        np.diag([2.0, 0.0, 0.0]), np.array([[0, 1.0, 0], [1.0, 0, 0], [1.0, 0, -4.0]]),
        np.array([[0.0], [-1.0], [0.0]]), [[0.0, 0.0, 1.0]], 0, lambda s: 0.25,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("unit", [1.0, 1e-9, 1e9])
def test_by_hand(name, unit):
    """In the units given, and with every state and equation in units of its own."""
    E, A, B, C, order, want = TABLE[name]
    states = unit ** (np.arange(len(E)) % 3 - 1.0)
    rows = states[::-1][:, None]
    g = descriptor(rows * E * states, rows * A * states, rows * B, C * states)
    assert g.order == order
    for s in POINTS:
        assert_allclose(g(s), [[want(s)]], rtol=1e-9)


@pytest.mark.parametrize(
    ("E", "A", "B", "C", "message"),
    [
        (*on_a_spring(2.0, 1.0, 3.0), [[0, 0, 1.0]], r"grows like s\^2 \(the index is 3\)"),
        (*on_a_spring(2.0, 1.0, 3.0), [[0, 1.0, 0]], r"grows like s\^1 \(the index is 3\)"),
        # a derivative of 1e-10 beside a gain of one is small and no rounding error
        (np.eye(2, k=1), np.eye(2), np.array([[0.0], [1.0]]), [[1e-10, 1.0]], r"grows like s\^1 \(the index is 2\)"),
    ],
    ids=["force", "velocity", "a small derivative"],
)
def test_what_grows_is_refused(E, A, B, C, message):
    with pytest.raises(ValueError, match=f"the response must be proper, got one that {message}: it holds derivatives"):
        descriptor(E, A, B, C)


def test_what_looks_ahead_is_refused_in_discrete_time():
    with pytest.raises(ValueError, match=r"grows like z\^1 \(the index is 2\): it holds later values of the input"):
        descriptor(np.eye(2, k=1), np.eye(2), [[0.0], [1.0]], [[1.0, 0.0]], dt=1)


@skip_without("pymor")
def test_a_model_of_pymor_of_index_three_is_reduced():
    """Six masses in a row on springs, the second and third with a rod between them; reduced as its state-space form is."""
    from pymor.models.iosys import LTIModel

    n = 6
    K = 2.0 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    rod = np.array([[0, 1.0, -1.0, 0, 0, 0]])
    E = scipy.linalg.block_diag(np.eye(2 * n), 0.0)
    A = np.block([
        [np.zeros((n, n)), np.eye(n), np.zeros((n, 1))],
        [-K, -0.2 * K, rod.T],
        [rod, np.zeros((1, n + 1))],
    ])  # fmt: skip
    B, C = np.eye(2 * n + 1)[:, n : n + 1], np.eye(2 * n + 1)[:1]
    small = balred.reduce(LTIModel.from_matrices(A, B, C, None, E), 4)
    assert small.order == 4
    g = descriptor(E, A, B, C)
    assert g.order == 10  # two positions and two velocities are one
    bound = balred.analyze(g).bound(4)
    for s in POINTS:
        gap = np.abs(small.transfer_function.eval_tf(s) - transfer(E, A, B, C, s)).max()
        assert gap <= bound
