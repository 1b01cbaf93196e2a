"""Objects that are no systems as they stand: the error has the one line that makes one, and the line works."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.io.matlab
import scipy.signal
import scipy.sparse

import balred
from balred.registry import AdapterNotFound
from balred.testing import random_system


class State:
    """What harold's class of this name holds."""

    __module__ = "harold._classes"


def struct() -> Any:
    g = random_system(3)
    made = np.zeros((1, 1), [(name, object) for name in "ABCD"])
    made[0, 0] = (g.A, g.B, g.C, g.D)
    return made


def mat_struct() -> Any:
    made, g = scipy.io.matlab.mat_struct(), random_system(3)
    made.A, made.B, made.C, made.D = g.A, g.B, g.C, g.D
    return made


G = random_system(3)
KNOWN = [
    (State(), "balred.ss(*G.matrices"),
    (scipy.sparse.csc_array(np.eye(3)), "sparse_system(A, B, C)"),
    (struct(), "balred.ss(s[0, 0]['A'], s[0, 0]['B'], s[0, 0]['C'], s[0, 0]['D'])"),
    (mat_struct(), "balred.ss(sys.A, sys.B, sys.C, sys.D)"),
    ({"A": G.A, "B": G.B, "C": G.C}, "balred.ss(d['A'], d['B'], d['C'])"),
    ({"__header__": b"", "plant": struct()}, "one of plant"),
    (([1.0], [1.0, 2.0]), "scipy.signal.TransferFunction(*t)"),
    (scipy.signal.butter(3, 0.2), "a digital filter needs dt=1.0"),
    ((np.array([[0.0, 0.1]]), np.array([1.0, -0.8]), 0.1), "TransferFunction(t[0].ravel(), t[1], dt=t[2])"),
    ((np.array([]), np.array([0.8]), 0.1, 0.1), "ZerosPolesGain(*t[:3], dt=t[3])"),
    ((np.eye(2), np.ones(2), np.ones(2), 0.0), "write b[:, None] and c[None, :]"),
    (([], np.array([-1.0]), 2.0), "scipy.signal.ZerosPolesGain(*t)"),
    ((3, G.A, G.B, G.C, np.ones(3)), "balred.ss(*t[1:4])"),
    ((3, G.A, G.B, G.C, G.D), "balred.ss(*t[1:5])"),
    (np.ones((2, 2)), "balred.ss(A, B, C, D)"),
    ((G.A, G.B, G.C), "write balred.ss(*t)"),
    ([G.A, G.B, G.C, G.D], "write balred.ss(*t)"),
    (scipy.signal.butter(6, 0.2, output="sos"), "ZerosPolesGain(*scipy.signal.sos2zpk(sos))"),
]


@pytest.mark.parametrize(("obj", "line"), KNOWN, ids=[line for _, line in KNOWN])
def test_the_error_has_the_line(obj: Any, line: str) -> None:
    with pytest.raises(AdapterNotFound) as caught:
        balred.reduce(obj, 2)
    assert line in str(caught.value)
    assert "register" in str(caught.value)


def test_the_lines_work() -> None:
    s, d, t = struct(), {"A": G.A, "B": G.B, "C": G.C}, (3, G.A, G.B, G.C, G.D)
    for g in (balred.ss(*(s[0, 0][k] for k in "ABCD")), balred.ss(d["A"], d["B"], d["C"]), balred.ss(*t[1:5])):
        assert g.order == 3
    t = ([1.0], [1.0, 2.0])
    assert balred.hsv(scipy.signal.TransferFunction(*t)) == pytest.approx([0.25])  # 1 / (s + 2): k / (2 a)


def test_nothing_is_guessed_of_a_stranger() -> None:
    class Stranger:
        pass

    with pytest.raises(AdapterNotFound, match=r"Stranger or any layer in it: register"):
        balred.hsv(Stranger())


# ------------------------------------------------------------------------------------------------ plain tuples


@pytest.mark.parametrize("time", [(), (0,), (0.1,), (True,)])
def test_a_tuple_of_matrices_is_a_system(time: Any) -> None:
    g = random_system(6, 2, 1, dt=1 if time and time[0] else 0)
    given = (g.A, g.B, g.C, g.D, *time)
    small = balred.reduce(given, 3)
    assert type(small) is tuple
    assert [x.shape for x in small[:4]] == [(3, 3), (3, 2), (1, 3), (1, 2)]
    assert small[4:] == time
    g = balred.ss(*given)
    want = balred.reduce(g, 3)
    np.testing.assert_array_equal(small[0], want.A)
    assert balred.error(given, small) == pytest.approx(balred.error(g, want))


def test_lists_and_a_number_for_D() -> None:
    assert balred.hsv(([[-1.0]], [[1.0]], [[1.0]], 0)) == pytest.approx([0.5])
    assert balred.norm(([[-1.0]], [[1.0]], [[1.0]], 2.0), "hinf") == pytest.approx(3.0)
    with pytest.raises(ValueError, match="B must have shape"):
        balred.hsv((np.eye(2), np.eye(3), np.eye(2), 0))


def test_inside_a_model_a_tuple_is_what_it_was() -> None:
    weights = tuple(np.eye(3) for _ in range(4))
    small = balred.reduce({"layer": random_system(5), "attention": weights}, 2)
    assert all(mine is other for mine, other in zip(small["attention"], weights, strict=True))


@pytest.mark.parametrize("make", [scipy.sparse.csc_matrix, scipy.sparse.csr_array, scipy.sparse.coo_array])
def test_sparse_matrices_are_told_where_to_go(make: Any) -> None:
    A = make(-np.eye(3))
    for call in (lambda: balred.ss(A, np.ones((3, 1)), np.ones((1, 3))), lambda: balred.hsv((A, A, A, A))):
        with pytest.raises(TypeError, match=r"must be dense, got a sparse .*sparse_system\(A, B, C, D\)"):
            call()
