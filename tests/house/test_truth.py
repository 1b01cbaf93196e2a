"""Numbers that others computed and printed, reproduced to the digits they printed."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

import balred

# SLICOT prints four decimals
FOUR = {"rtol": 0, "atol": 0.5001e-4}


@pytest.mark.parametrize("solver", ["smith", "slycot", "scipy"])
def test_slicot_hankel_singular_values(plant, solver):
    """Printed by the examples of AB09AD, AB09BD and AB13AD (SLICOT library documentation)."""
    pytest.importorskip(solver if solver != "smith" else "numpy")
    assert_allclose(balred.hsv(plant, solver=solver), [2.5139, 2.0846, 1.9178, 0.7666, 0.5473, 0.0253, 0.0246], **FOUR)


def test_slicot_singular_perturbation(plant):
    """D of order 5 printed by the example of AB09BD."""
    small = balred.reduce(plant, 5, method="singular_perturbation")
    assert_allclose(small.D, [[0.0498, -0.0007], [0.0010, -0.0010], [-0.0007, 0.0498]], **FOUR)


def test_slicot_stable_part(plant):
    """HSVs of the part left of -0.6 printed by the examples of AB09MD and AB09ND (ALPHA = -0.6)."""
    s = balred.hsv(plant, offset=0.6)
    assert np.isinf(s[:2]).all()
    assert_allclose(s[2:], [1.9178, 0.8621, 0.7666, 0.0336, 0.0246], **FOUR)


def test_slicot_singular_perturbation_of_the_stable_part(plant):
    """D of order 5 printed by the example of AB09ND (ALPHA = -0.6)."""
    small = balred.reduce(plant, 5, method="singular_perturbation", offset=0.6)
    assert_allclose(small.D, [[0.0582, -0.0090], [0.0015, -0.0015], [-0.0090, 0.0582]], **FOUR)
    kept = np.linalg.eigvals(plant.A)
    kept = kept[kept.real >= -0.6]
    mine = np.linalg.eigvals(small.A)
    assert len(kept) == 2
    assert np.abs(mine[:, None] - kept).min(axis=0).max() < 1e-10


def test_bounds_of_the_plant(plant):
    s = balred.hsv(plant)
    for rank in range(1, 7):
        e = float(balred.error(plant, balred.reduce(plant, rank)))
        assert s[rank] * (1 - 1e-6) <= e <= 2 * s[rank:].sum() * (1 + 1e-6)


def test_python_control_hsvd():
    """testHSVD in control/tests/modelsimp_test.py (python-control 0.10.2), "from MATLAB"."""
    g = balred.ss([[1.0, -2.0], [3.0, -4.0]], [[5.0], [7.0]], [[6.0, 8.0]], [[9.0]])
    assert_allclose(balred.hsv(g), [24.42686, 0.5731395], rtol=1e-6)


@pytest.fixture
def fourth_order():
    """(s^3 + 11 s^2 + 45 s + 32)/(s^4 + 15 s^3 + 60 s^2 + 200 s + 60), as in control/tests/modelsimp_test.py."""
    A = [[-15.0, -7.5, -6.25, -1.875], [8.0, 0, 0, 0], [0, 4.0, 0, 0], [0, 0, 1.0, 0]]
    return balred.ss(A, [[2.0], [0], [0], [0]], [[0.5, 0.6875, 0.7031, 0.5]])


def test_python_control_balred_truncate(fourth_order):
    """testBalredTruncate in control/tests/modelsimp_test.py: "Result from MATLAB"; its sign convention is ours."""
    small = balred.reduce(fourth_order, 2)
    assert_allclose(small.A, [[-1.958, -1.194], [-1.194, -0.8344]], rtol=0, atol=0.51e-3)
    assert_allclose(small.B, [[0.9057], [0.4068]], rtol=0, atol=0.51e-4)
    assert_allclose(small.C, [[0.9057, 0.4068]], rtol=0, atol=0.51e-4)
    assert_allclose(small.D, [[0.0]], atol=0)


def test_python_control_balred_matchdc(fourth_order):
    """testBalredMatchDC in control/tests/modelsimp_test.py: "Result from MATLAB", eight decimals."""
    small = balred.reduce(fourth_order, 2, method="singular_perturbation")
    assert_allclose(small.A, [[-4.43094773, -4.55232904], [-4.55232904, -5.36195206]], rtol=0, atol=1e-7)
    assert_allclose(small.B, [[1.36235673], [1.03114388]], rtol=0, atol=1e-7)
    assert_allclose(small.C, [[1.36235673, 1.03114388]], rtol=0, atol=1e-7)
    assert_allclose(small.D, [[-0.08383902]], rtol=0, atol=1e-7)


def zoh(g, step):
    """Sampling with a zero-order hold: the exponential of [[A, B], [0, 0]]."""
    import scipy.linalg

    n, m = g.B.shape
    E = scipy.linalg.expm(step * np.block([[g.A, g.B], [np.zeros((m, n + m))]]))
    return balred.ss(E[:n, :n], E[:n, n:], g.C, g.D, dt=step)


def test_python_control_norms():
    """control/tests/sysnorm_test.py: "Comparison to norm computed in MATLAB", a third-order system with 2 x 2 ports."""
    g = balred.ss(
        [[-1.017041847539126, -0.224182952826418, 0.042538079149249],
         [-0.310374015319095, -0.516461581407780, -0.119195790221750],
         [-1.452723568727942, 1.7995860837102088, -1.491935830615152]],
        [[0.312858596637428, -0.164879019209038], [-0.864879917324456, 0.627707287528727],
         [-0.030051296196269, 1.093265669039484]],
        [[1.109273297614398, 0.077359091130425, -1.113500741486764],
         [-0.863652821988714, -1.214117043615409, -0.006849328103348]],
    )  # fmt: skip
    assert_allclose(balred.norm(g, "hinf"), 4.276759162964244, rtol=1e-10)
    assert_allclose(balred.norm(g, "h2"), 2.237461821810309, rtol=1e-10)
    d = zoh(g, 0.1)
    assert_allclose(balred.norm(d, "hinf"), 4.276759162964228, rtol=1e-10)
    assert_allclose(balred.norm(d, "h2"), 0.707434962289554, rtol=1e-10)


def test_python_control_norms_of_a_lag():
    """control/tests/sysnorm_test.py: 1/(s + 1), and sampled at 0.1, "computed in MATLAB"."""
    g = balred.ss([[-1.0]], [[1.0]], [[1.0]])
    assert_allclose([balred.norm(g, "hinf"), balred.norm(g, "h2")], [1.0, 0.707106781186547], rtol=1e-12)
    d = zoh(g, 0.1)
    assert_allclose(balred.norm(d, "hinf"), 1.0, rtol=1e-12)
    # exactly (1 - a)/(1 + a) with a = exp(-0.1), squared; the number given there has eight digits right
    assert_allclose(balred.norm(d, "h2"), np.sqrt(np.tanh(0.05)), rtol=1e-12)
    assert_allclose(balred.norm(d, "h2"), 0.223513699524858, rtol=2e-8)


def test_matlab_balred_offset():
    """MATLAB's documentation of balred, "Offset": zpk([-.5 -1.1 -2.9], [-1e-6 -2 -1 -3], 1), order 2, offset .001.

    Printed there: 0.99113 (s + 0.5235) / ((s + 1e-06) (s + 1.952)).
    """
    zeros, poles = np.array([-0.5, -1.1, -2.9]), np.array([-1e-6, -2.0, -1.0, -3.0])
    residues = [np.prod(p - zeros) / np.prod(p - np.delete(poles, i)) for i, p in enumerate(poles)]
    g = balred.ss(np.diag(poles), np.ones((4, 1)), [residues])
    small = balred.reduce(g, 2, offset=0.001)
    p = np.sort(np.linalg.eigvals(small.A).real)
    assert_allclose(p, [-1.952, -1e-6], rtol=3e-4)
    gain = float((small.C @ small.B)[0, 0])  # the numerator's leading coefficient
    assert_allclose(gain, 0.99113, rtol=0, atol=0.51e-5)
    # the numerator is gain * (s - zero), so G(0) (0 - p1)(0 - p2) = -gain * zero
    zero = -float(small(0.0)[0, 0].real) * p[0] * p[1] / gain
    assert_allclose(zero, -0.5235, rtol=0, atol=0.51e-4)
