"""The rank of a factor and its grades: the same square, as few rows as are told from rounding, and digits in the small ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from balred.backends.numpy import graded_rows, graded_singular_values

KINDS = ["float32", "float64", "complex64", "complex128"]


def orthonormal(rows: int, columns: int, dtype: str, seed: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, columns)) + 1j * rng.standard_normal((rows, columns))
    return np.linalg.qr(x if dtype.startswith("complex") else x.real)[0]


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize(("rows", "n"), [(20, 40), (100, 160), (300, 320)])
def test_the_rows_have_the_same_square_and_are_as_many_as_values_above_rounding(dtype: str, rows: int, n: int) -> None:
    eps = float(np.finfo(dtype).eps)
    s = np.random.default_rng(0).permutation(
        np.geomspace(1, eps**2, rows)
    )  # half of the rows are rounding of the first
    x = (s[:, None] * orthonormal(n, rows, dtype, 1).conj().T).astype(dtype)
    given = x.copy()
    y = graded_rows(x, 3 * rows // 4)
    assert np.array_equal(x, given)
    assert y.dtype == x.dtype
    wide = [z.astype(np.result_type(dtype, np.float64)) for z in (x, y)]
    left = wide[0].conj().T @ wide[0] - wide[1].conj().T @ wide[1]
    assert np.linalg.norm(left) <= 20 * eps * np.linalg.norm(x) ** 2
    assert abs(len(y) - rows / 2) <= rows / 20 + 1  # where the values pass eps, and pivots lie a little beside them
    sizes = np.linalg.norm(wide[1], axis=1)
    assert (sizes[1:] <= 3 * sizes[:-1]).all()


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("rows", [30, 100])
def test_a_factor_that_needs_most_of_its_rows_is_left_as_it_is(dtype: str, rows: int) -> None:
    x = orthonormal(2 * rows, rows, dtype, 0).conj().T.astype(dtype)
    assert graded_rows(x, rows // 2) is x


@pytest.mark.parametrize("rows", [40, 100, 200])
def test_small_rows_keep_their_digits(rows: int) -> None:
    """A one-sided Jacobi method has every singular value of rows of several sizes to all digits, before and after."""
    rng = np.random.default_rng(0)
    x = rng.permutation(np.geomspace(1, 1e-13, rows))[:, None] * rng.standard_normal((rows, rows + 20))
    y = graded_rows(x, rows)
    assert len(y) == rows
    a, b = (np.sort(_values(z))[::-1] for z in (x, y))
    np.testing.assert_allclose(b, a, rtol=1e-9)


def _values(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Singular values of a matrix whose rows differ in size: those of its columns' triangle, row by row."""
    order = np.argsort(-np.linalg.norm(x, axis=1))
    R = np.linalg.qr(x[order].T)[1]  # whose columns have the sizes of the rows
    return graded_singular_values(R)
