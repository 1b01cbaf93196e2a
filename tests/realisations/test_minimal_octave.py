"""Octave's tests of ``minreal``, asked of :func:`balred.minimal`: their systems, and what has to come out.

The numbers are those of the test blocks of ``inst/@lti/minreal.m`` (and the one for zeros and poles of ``@zpk``) of Octave's
control package, https://github.com/gnu-octave/pkg-control, commit 77ec6f4f; those of state spaces are the examples of
SLICOT's TB01PD and TG01JD.  Ours are other coordinates, so transfer functions are compared, and orders.
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.signal
from numpy.testing import assert_allclose

import balred

POINTS = (0.3, 1.7j, -0.4 + 2.1j, 5.0)
PRINTED = 1e-4
"""Four decimals, and the tolerance of the tests."""


@pytest.mark.parametrize("tol", [None, 1e-15])
def test_a_system_divided_by_itself_is_one(tol):
    """(-2, 3, 4, 5) after its inverse: no states are left and the gain is 1, with Octave's tolerance of 1e-15 too."""
    a, b, c, d = -2.0, 3.0, 4.0, 5.0
    inverse = a - b * c / d, b / d, -c / d, 1 / d
    A = [[a, b * inverse[2]], [0.0, inverse[0]]]
    quotient = balred.ss(A, [[b * inverse[3]], [inverse[1]]], [[c, d * inverse[2]]], [[d * inverse[3]]])
    small = balred.minimal(quotient, tol=tol)
    assert small.order == 0
    assert_allclose(small.D, [[1.0]], rtol=1e-15)


@pytest.mark.parametrize("tol", [None, 0.0])
def test_a_minimal_system_stays(tol):
    """The example of TB01PD: three of three states, and in its coordinates these matrices."""
    g = balred.ss(
        [[1.0, 2.0, 0.0], [4.0, -1.0, 0.0], [0.0, 0.0, 1.0]],
        [[1.0], [0.0], [1.0]],
        [[0.0, 1.0, -1.0], [0.0, 0.0, 1.0]],
    )
    printed = balred.ss(
        [[1.0, -1.4142, 1.4142], [-2.8284, 0.0, 1.0], [2.8284, 1.0, 0.0]],
        [[-1.0], [0.7071], [0.7071]],
        [[0.0, 0.0, -1.4142], [0.0, 0.7071, 0.7071]],
    )
    small = balred.minimal(g, tol=tol)
    assert small.order == 3
    for s in POINTS:
        assert_allclose(small(s), printed(s), atol=10 * PRINTED)


# the example of TG01JD: nine states, of which seven are left
PAIR = np.array([[-2.0, -3.0], [1.0, 0.0]])
A = scipy.linalg.block_diag(PAIR, PAIR, np.eye(5))
E = np.diag([1.0, 1, 1, 1, 0, 0, 0, 0, 0])
E[5, 4] = E[7, 6] = E[8, 7] = 1.0
B = np.zeros((9, 2))
B[0, 0] = B[2, 1] = 1.0
B[4, 0] = B[6, 1] = -1.0
C = np.array([[1.0, 0, 1, -3, 0, 1, 0, 2, 0], [0.0, 1, 1, 3, 0, 1, 0, 0, 1]])
PRINTED_A = np.array([
    [1.0, -0.0393, -0.0980, -0.1066, 0.0781, -0.2330, 0.0777],
    [0.0, 1.0312, 0.2717, 0.2609, -0.1533, 0.6758, -0.3553],
    [0.0, 0.0, 1.3887, 0.6699, -0.4281, 1.6389, -0.7615],
    [0.0, 0.0, 0.0, -1.2147, 0.2423, -0.9792, 0.4788],
    [0.0, 0.0, 0.0, 0.0, -1.0545, 0.5035, -0.2788],
    [0.0, 0.0, 0.0, 0.0, 0.0, 1.6355, -0.4323],
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
])  # fmt: skip
PRINTED_E = np.array([
    [0.4100, 0.2590, 0.5080, -0.3109, 0.0705, 0.1429, -0.1477],
    [-0.7629, -0.3464, 0.0992, -0.3007, 0.0619, 0.2483, -0.0152],
    [0.1120, -0.2124, -0.4184, -0.1288, 0.0569, -0.4213, -0.6182],
    [0.0, 0.1122, -0.0039, 0.2771, -0.0758, 0.0975, 0.3923],
    [0.0, 0.0, 0.3708, -0.4290, 0.1006, 0.1402, -0.2699],
    [0.0, 0.0, 0.0, 0.0, 0.9458, -0.2211, 0.2378],
    [0.0, 0.0, 0.0, 0.5711, 0.2648, 0.5948, -0.5000],
])  # fmt: skip
PRINTED_B = np.array([
    [-0.5597, 0.2363], [-0.4843, -0.0498], [-0.4727, -0.1491], [0.1802, 1.1574], [0.5995, 0.1556], [-0.1729, -0.3999],
    [0.0, 0.2500],
])  # fmt: skip
PRINTED_C = np.array([[0.0, 0, 0, 0, 0, 0, 4.0], [0.0, 0, 0, 0, 0, 3.1524, -1.75]])


def test_a_descriptor_system_with_an_improper_response():
    """Ours takes the proper part: of its four states two are left, beside a polynomial.

    What is printed has seven, with the polynomial [s, 2 s; s, s^2]; the whole is refused here, and the message says why.
    """
    with pytest.raises(ValueError, match=r"grows like s\^2"):
        balred.descriptor(E, A, B, C)
    small = balred.minimal(balred.ss(A[:4, :4], B[:4], C[:, :4]))
    assert small.order == 2
    assert_allclose(np.sort_complex(np.linalg.eigvals(small.A)), [-1 - 2**0.5 * 1j, -1 + 2**0.5 * 1j], rtol=1e-8)
    for s in POINTS:
        whole = C @ np.linalg.solve(s * E - A, B)
        assert_allclose(small(s) + np.array([[s, 2 * s], [s, s**2]]), whole, rtol=1e-8)
        if abs(s) < 3:  # farther out four decimals do not tell a polynomial
            printed = PRINTED_C @ np.linalg.solve(s * PRINTED_E - PRINTED_A, PRINTED_B)
            assert np.linalg.norm(printed - whole) <= 5e-3 * np.linalg.norm(whole)


def test_transfer_functions():
    """5 s (s + 1) / ((s + 1)(s^2 + s + 1)) loses s + 1, and (s^2 + s + 1) / (2 s^2 + 2 s + 2) all but its gain."""
    first = scipy.signal.TransferFunction([5.0, 5.0, 0.0], np.polymul([1.0, 1.0], [1.0, 1.0, 1.0]))
    small = balred.minimal(first)
    assert isinstance(small, scipy.signal.TransferFunction)
    assert_allclose(small.num, [5.0, 0.0], atol=PRINTED)
    assert_allclose(small.den, [1.0, 1.0, 1.0], atol=PRINTED)
    second = balred.minimal(balred.ss(*scipy.signal.tf2ss([1.0, 1.0, 1.0], [2.0, 2.0, 2.0])))
    assert second.order == 0
    assert_allclose(second.D, [[0.5]], atol=PRINTED)


def test_zeros_and_poles():
    """3 (s + 1) / ((s + 1)(s + 2)) stays in zeros and poles: none, -2, and the gain 3."""
    small = balred.minimal(scipy.signal.ZerosPolesGain([-1.0], [-1.0, -2.0], 3.0))
    assert isinstance(small, scipy.signal.ZerosPolesGain)
    assert small.zeros.size == 0
    assert_allclose(small.poles, [-2.0], atol=1e-6)
    assert_allclose(small.gain, 3.0, atol=1e-6)


def test_transfer_functions_of_python_control():
    control = pytest.importorskip("control")
    s = control.tf("s")
    small = balred.minimal((s + 1) * s * 5 / (s + 1) / (s**2 + s + 1))
    assert_allclose(small.num[0][0], [5.0, 0.0], atol=PRINTED)
    assert_allclose(small.den[0][0], [1.0, 1.0, 1.0], atol=PRINTED)
