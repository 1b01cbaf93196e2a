"""The one door for arrays: what comes in keeps at least its precision, or is refused by name."""

from __future__ import annotations

import decimal
import fractions
import warnings

import numpy as np
import pytest

import balred

A, B, C = [[-1.0, 0.5], [0.0, -2.0]], [[1.0], [2.0]], [[1.0, 1.0]]
a, b, c = np.array(A), np.array(B), np.array(C)


class Table:
    """As a data frame gives its numbers: no dtype of its own."""

    def __init__(self, values):
        self.values = np.asarray(values)
        self.shape = self.values.shape

    def __array__(self, dtype=None, copy=None):
        return self.values


class Column(Table):
    """As one column of it does."""

    @property
    def dtype(self):
        return self.values.dtype


class Units(np.ndarray):
    """An array with more to it."""


FORMS = {
    "list": lambda x: x.tolist(),
    "tuple": lambda x: tuple(map(tuple, x)),
    "table": Table,
    "column": Column,
    "objects": lambda x: x.astype(object),
    "other byte order": lambda x: x.astype(">f8"),
    "subclass": lambda x: x.view(Units),
    "nothing masked": np.ma.array,
    "Fortran": np.asfortranarray,
    "half": lambda x: x.astype(np.float16),
    "integers": lambda x: (4 * x).astype(np.int16),
    "unsigned": lambda x: (4 * np.abs(x)).astype(np.uint64),
    "booleans": lambda x: x != 0,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("which", range(4))
def test_whatever_holds_numbers_is_as_good_as_an_array(form, which):
    """Every matrix in every form: the numbers are those of the same array of float64."""
    given = [a, b, c, np.array([[3.0]])]
    changed = FORMS[form](given[which])
    given[which] = np.asarray(changed).astype(np.float64)
    want = balred.ss(*given)
    given[which] = changed
    made = balred.ss(*given)
    for name in "ABCD":
        x = getattr(made, name)
        assert type(x) is np.ndarray
        assert x.dtype == np.float64
        np.testing.assert_array_equal(x, getattr(want, name))


def test_a_matrix_of_numpy_is_an_array():
    with pytest.warns(PendingDeprecationWarning):
        made = balred.ss(*(np.matrix(x) for x in (A, B, C)), np.matrix([[0]]))
    assert all(type(x) is np.ndarray for x in (made.A, made.B, made.C, made.D))


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (a.astype(np.longdouble), TypeError, "{} must be of at most double precision, got dtype"),
        (a.astype(np.clongdouble), TypeError, "{} must be of at most double precision, got dtype"),
        ([[np.longdouble(1), 0], [0, 1]], TypeError, "{} must be of at most double precision"),
        (np.ma.array(a, mask=[[0, 1], [0, 0]]), ValueError, "{} must have no masked entries, got 1"),
        ([np.ma.array([1.0, 2.0], mask=[1, 0]), [1.0, 2.0]], ValueError, "{} must have no masked entries, got 1"),
        ([[1.0, 2.0], [3.0]], ValueError, "{} must have rows of one length"),
        ([[fractions.Fraction(1, 3)] * 2] * 2, TypeError, "{} must hold numbers .*, got a Fraction"),
        ([[decimal.Decimal(1)] * 2] * 2, TypeError, "{} must hold numbers .*, got a Decimal"),
        ([["1", "2"], ["3", "4"]], TypeError, "{} must be a floating-point array, got dtype <U1"),
        ([[None, 1.0], [1.0, 1.0]], TypeError, "{} must hold numbers .*, got a NoneType"),
        ({"a": 1}, TypeError, "{} must hold numbers .*, got a dict"),
        (np.zeros((2, 2), "M8[s]"), TypeError, "{} must be a floating-point array, got dtype datetime64"),
        (np.zeros((2, 2), [("x", float)]), TypeError, "{} must be a floating-point array"),
        ([[10**400, 0], [0, 1]], ValueError, "{} must hold numbers that float64 can represent, got one that is too large"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("which", range(4))
def test_what_is_no_number_is_refused_by_name(value, error, message, which):
    given = [-np.eye(2), np.eye(2), np.eye(2), np.eye(2)]
    given[which] = value
    with pytest.raises(error, match=message.format("ABCD"[which])):
        balred.ss(*given)


def test_poles_and_sparse_and_second_order_systems_come_by_the_same_door():
    sparse = pytest.importorskip("scipy.sparse")
    masked, long = np.ma.array([-1.0, -2.0], mask=[0, 1]), np.ones((2, 1), np.longdouble)
    with pytest.raises(ValueError, match="poles must have no masked entries"):
        balred.diagonal(masked, b, c)
    with pytest.raises(TypeError, match="B must be of at most double precision"):
        balred.sparse_system(-sparse.identity(2), long, c)
    with pytest.raises(TypeError, match="B must be of at most double precision"):
        balred.second_order(np.eye(2), np.eye(2), np.eye(2), long, c)
    with pytest.raises(ValueError, match="markov must have no masked entries"):
        balred.era(np.ma.array(np.ones(9), mask=[1] + [0] * 8), 1)
    assert balred.diagonal([-1, -2], np.array([[1], [2]]), np.array([[1, 1]])).B.dtype == np.float64


def torch_arrays():
    torch = pytest.importorskip("torch")
    x = -torch.eye(2, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # these layouts are said to be young
        return {
            "coo": x.to_sparse(),
            "csr": x.to_sparse_csr(),
            "nested": torch.nested.nested_tensor([x[0], x[1]]),
            "meta": x.to("meta"),
            "eight bits": x.to(torch.float8_e4m3fn),
        }, [torch.eye(2, dtype=torch.float64)] * 2


@pytest.mark.parametrize("kind", ["coo", "csr", "nested"])
def test_tensors_that_are_not_dense_are_refused_by_name(kind):
    arrays, rest = torch_arrays()
    with pytest.raises(TypeError, match=r"A must be a dense array of numbers in memory, got a torch\.Tensor of layout"):
        balred.ss(arrays[kind], *rest)


def test_tensors_without_values_are_refused():
    arrays, _ = torch_arrays()
    with pytest.raises(ValueError, match="must be in memory, got tensors on the meta device"):
        balred.ss(*[arrays["meta"]] * 3)


def test_arrays_of_jax_that_are_not_dense_numbers_are_refused_by_name():
    jax = pytest.importorskip("jax")
    sparse = pytest.importorskip("jax.experimental.sparse")
    rest = [jax.numpy.eye(2)] * 2
    for given in (sparse.BCOO.fromdense(jax.numpy.eye(2)), jax.random.key(0)):
        with pytest.raises(
            TypeError, match=f"A must be a dense array of numbers in memory, got a jax.{type(given).__name__}"
        ):
            balred.ss(given, *rest)


def test_numbers_of_eight_bits_are_computed_with_in_single_precision():
    """-1 and 1 are numbers of every format, and x' = -x + u, y = x of gain 1 has the Hankel singular value 1/2."""
    arrays, _ = torch_arrays()
    values = balred.hsv(
        balred.ss(*[arrays["eight bits"], -arrays["eight bits"].float(), -arrays["eight bits"].float()])
    )
    assert str(values.dtype) == "torch.float32"
    np.testing.assert_allclose(values.numpy(), 0.5, rtol=1e-6)
