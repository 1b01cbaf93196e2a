"""The short cuts of even units against the long way: one system by itself, state by state, against a batch at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import balred
from balred.systems.units import already_even, balanced, even_factors, even_units, evened

seeds = st.integers(0, 10**6)


def matrices(seed: int, decades: float, step: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A batch of systems in units that are up to so many decades apart, one member of them with zeros; near one if sampled."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 10))
    A, B, C = (rng.standard_normal(shape) for shape in ((5, n, n), (5, n, 2), (5, 1, n)))
    A[0, rng.random((n, n)) < 0.5] = 0.0
    A[0, 0, -1] = 1.0  # not all of them
    d = 10.0 ** rng.uniform(-decades / 2, decades / 2, (5, n))
    A = A * d[:, None, :] / d[:, :, None]
    if step:
        A = np.eye(n) + A * step / np.linalg.norm(A, axis=(-2, -1))[:, None, None]
    return A, B / d[:, :, None], C * d[:, None, :]


@pytest.mark.parametrize("dt", [0, 1])
@given(seeds, st.floats(0, 12), st.floats(0.001, 0.9))
def test_a_batch_has_the_units_of_its_members(dt, seed, decades, step):
    A, B, C = matrices(seed, decades, step if dt else 0.0)
    _, together = evened(balred.ss(A, B, C, dt=dt))
    for i in range(len(A)):
        _, alone = evened(balred.ss(A[i], B[i], C[i], dt=dt))
        one = np.ones(A.shape[-1])
        got = one if together is None else together[i]
        np.testing.assert_array_equal(got, one if alone is None else alone)


@given(seeds, st.floats(0, 3))
def test_what_is_called_even_has_nothing_to_balance(seed, decades):
    """No row is four times as long as its column off the diagonal: the rule in :func:`already_even`, written out."""
    A, B, C = matrices(seed, decades, 0.0)
    for M, b, c in zip(A, B, C, strict=True):
        off = np.where(np.eye(len(M), dtype=bool), 0.0, M)
        rows, columns = np.linalg.norm(off, axis=1), np.linalg.norm(off, axis=0)
        even = bool((M != 0).all() and (rows <= 4 * columns).all() and (columns <= 4 * rows).all())
        assert bool(already_even(M)) == even
        units = even_units(M, b, c)
        if even:
            assert (units == 1).all()
        elif (M != 0).all():  # the state matrix decides all but one common factor
            np.testing.assert_array_equal(units / units[0], balanced(M) / balanced(M)[0])


@given(seeds, st.floats(0, 12))
def test_factors_without_zeros_are_those_beside_zeros(seed, decades):
    """A state that nothing reaches and nothing sees changes no other's unit."""
    rng = np.random.default_rng(seed)
    b, c = 10.0 ** rng.uniform(-decades, decades, (2, 6))
    with_dead = even_factors(np.append(b, 0.0), np.append(c, 0.0))
    np.testing.assert_array_equal(even_factors(b, c), with_dead[:-1])
