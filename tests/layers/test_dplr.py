"""Diagonal-plus-low-rank state matrices as real and as diagonal systems, against complex arithmetic written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from plants import legs

import balred
from balred.layers.dplr import as_conjugate, bilinear, real_columns, real_matrix, real_rows, untruncated
from balred.testing import simulate


def doubled(x: Any) -> Any:
    return np.concatenate([x, x.conj()], axis=-1)


def test_the_real_matrix_has_the_poles_of_the_complex_one() -> None:
    rng = np.random.default_rng(0)
    poles = -rng.random((3, 4)) + 1j * rng.standard_normal((3, 4))
    P = rng.standard_normal((2, 3, 4)) + 1j * rng.standard_normal((2, 3, 4))
    whole = doubled(poles)[:, :, None] * np.eye(8)
    whole = whole - np.einsum("rsi,rsj->sij", doubled(P), doubled(P).conj())
    b, c = (rng.standard_normal((3, 4)) + 1j * rng.standard_normal((3, 4)) for _ in range(2))
    at = 0.3j * np.eye(8)  # the transfer function there
    want = np.einsum("si,si->s", doubled(c), np.linalg.solve(at - whole, doubled(b)[..., None])[..., 0])
    column = np.linalg.solve(at - real_matrix(poles, P), real_columns(b)[..., None])[..., 0]
    np.testing.assert_allclose(np.einsum("si,si->s", real_rows(c), column), want, rtol=1e-12)


def test_hippo_is_what_the_halves_stand_for() -> None:
    poles, P, _ = legs(8)
    eigenvalues = np.linalg.eigvals(real_matrix(poles[None], P[None, None])[0])
    np.testing.assert_allclose(np.sort(eigenvalues.real), -np.arange(8, 0, -1), rtol=1e-8)


def single(x: Any) -> Any:
    return x.astype(np.complex64).astype(np.complex128)


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("n", [24, 64])
@pytest.mark.parametrize("precision", ["single", "double"])
def test_hippo_becomes_diagonal_although_its_eigenvectors_are_nearly_parallel(
    n: int, precision: str, discrete: bool
) -> None:
    poles, P, b = (single(x) if precision == "single" else x for x in legs(n))
    A, b = real_matrix(poles[None], P[None, None]), real_columns(b)[None]
    assert np.linalg.cond(np.linalg.eig(A[0])[1]) > (1e7 if precision == "single" else 1e13)
    c = np.random.default_rng(1).standard_normal((1, 1, n))
    if discrete:
        A, b = bilinear(A, b, np.full((1, n), 0.01))
    dense = balred.ss(A, b[..., None], c, dt=discrete)
    found = as_conjugate(dense)
    assert found.conjugate
    assert found.discrete is discrete
    points = np.exp(1j * np.linspace(0, np.pi, 50)) if discrete else 1j * np.logspace(-2, 3, 50)
    want, got = (np.array([g(s).ravel()[0] for s in points]) for g in (dense, found))
    # eps times the condition; or 1e-9, the nudge, times what the response of a non-normal matrix adds
    assert np.abs(got - want).max() < (1e-6 if precision == "single" else 1e-5) * np.abs(want).max()


def test_the_bilinear_rule_keeps_the_response_at_mapped_frequencies() -> None:
    rng = np.random.default_rng(2)
    A, b, step = rng.standard_normal((1, 3, 3)) - 3 * np.eye(3), rng.standard_normal((1, 3)), np.full((1, 3), 0.2)
    Ad, bd = bilinear(A, b, step)
    z = np.exp(0.7j)
    s = 2 / 0.2 * (z - 1) / (z + 1)
    want = 2 * z / (z + 1) * np.linalg.solve(s * np.eye(3) - A[0], b[0])  # the output sees the present state
    np.testing.assert_allclose(z * np.linalg.solve(z * np.eye(3) - Ad[0], bd[0]), want, rtol=1e-12)


def test_c_is_found_again_from_what_was_made_to_see_the_first_values() -> None:
    rng = np.random.default_rng(3)
    A = 0.3 * rng.standard_normal((2, 4, 4))
    C = rng.standard_normal((3, 2, 4))
    seen = C - np.einsum("chn,hnm->chm", C, np.linalg.matrix_power(A, 5))
    # the first five values of the generating function are those of C
    powers = np.stack([np.linalg.matrix_power(A, k) for k in range(5)])
    at_roots = [
        np.einsum("chn,hnm->chm", seen, np.linalg.inv(np.eye(4) - np.exp(-2j * np.pi * k / 5) * A)) for k in range(5)
    ]
    np.testing.assert_allclose(np.fft.ifft(at_roots, axis=0), np.einsum("chn,khnm->kchm", C, powers), atol=1e-12)
    np.testing.assert_allclose(untruncated(seen, A, 5), C, rtol=1e-11)


def test_outputs_are_those_of_the_dense_system() -> None:
    dense = balred.testing.random_system(10, 1, 2, seed=4, dt=True)
    batch = balred.ss(dense.A[None], dense.B[None], dense.C[None], dt=True)
    found = as_conjugate(batch)
    one = balred.diagonal(log_poles=found.log_poles[0], B=found.B[0], C=found.C[0], dt=True, conjugate=True)
    u = np.random.default_rng(5).standard_normal((60, 1))
    bare = balred.ss(dense.A, dense.B, dense.C, dt=True)
    np.testing.assert_allclose(simulate(one, u), simulate(bare, u), atol=1e-11)


def test_what_has_no_diagonal_form_gets_that_of_a_neighbour_or_is_refused() -> None:
    jordan = balred.ss([[[-1.0, 1.0], [0.0, -1.0]]], [[[0.0], [1.0]]], [[[1.0, 0.0]]])
    for s in (0.0, 0.5j, 2j):
        np.testing.assert_allclose(as_conjugate(jordan)(s)[0, 0, 0], 1 / (s + 1) ** 2, rtol=1e-5)
    shift = np.eye(20, k=1) - 0.01 * np.eye(20)
    worse = balred.ss(shift[None], np.eye(20)[None, :, -1:], np.eye(20)[None, :1])
    with pytest.raises(ValueError, match="must be diagonalisable to 1e-05 of the response, got"):
        as_conjugate(worse)
