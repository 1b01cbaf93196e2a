"""Systems far from normal, and units far apart: values do not depend on coordinates, or there is an error."""

import numpy as np
import pytest
import scipy.signal
from numpy.testing import assert_allclose
from oracle import oracle_hsv

import balred


def prototype(n):
    return scipy.signal.tf2ss(*scipy.signal.butter(n, 1.0, analog=True))


@pytest.mark.parametrize(("n", "cutoff"), [(2, 0.5), (2, 0.001), (4, 0.05), (4, 0.005), (8, 0.5), (8, 0.1)])
def test_digital_filters_have_the_values_of_their_prototype(n, cutoff):
    # the bilinear map keeps Hankel singular values
    want = balred.hsv(balred.ss(*prototype(n)))
    got = balred.hsv(balred.ss(*scipy.signal.tf2ss(*scipy.signal.butter(n, cutoff)), dt=1))
    assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("n", [2, 5, 8])
@pytest.mark.parametrize("seed", range(3))
def test_units_of_states_time_inputs_and_outputs(n, seed):
    # identities: x -> Tx and t -> ct keep the values, u -> cu and y -> cy scale them
    A, B, C, D = prototype(n)
    want = balred.hsv(balred.ss(A, B, C, D))
    T = 10.0 ** np.random.default_rng(seed).uniform(-6, 6, n)
    assert_allclose(balred.hsv(balred.ss(A * T / T[:, None], B / T[:, None], C * T, D)), want, atol=1e-12)
    assert_allclose(balred.hsv(balred.ss(1e9 * A, 1e9 * B, C, D)), want, atol=1e-12)
    assert_allclose(balred.hsv(balred.ss(A, 1e9 * B, C, D)), 1e9 * want, atol=1e-12 * 1e9)
    assert_allclose(balred.hsv(balred.ss(A, B, 1e-9 * C, D)), 1e-9 * want, atol=1e-12 * 1e-9)


@pytest.mark.parametrize("slowest", [1e-14, 1e-10])
def test_a_slow_pole_drives_a_fast_one(slowest):
    # closed form: the trace of the cross Gramian, the sum of residues over -2 pole, is that of the values with signs,
    # of which the second is negligible; its square's trace is the sum of the squares
    A = np.array([[-slowest, 0.0], [slowest, -1e3]])
    got = balred.hsv(balred.ss(A, [[1.0], [0.0]], [[0.0, 1.0]]))
    r = slowest / (1e3 - slowest)  # G = r / (s + slowest) - r / (s + 1e3)
    poles, residues = np.array([slowest, 1e3]), np.array([r, -r])
    cross = residues / (poles[:, None] + poles)
    assert_allclose(np.sum(got**2), np.trace(cross @ cross), rtol=1e-6)


def test_states_that_rounding_couples_do_not_decide_the_units():
    # an orthogonal change of states by a rotation of rounding size keeps the values
    g = balred.testing.random_system(6, 1, 1, dt=1, seed=3)
    A = np.array(g.A) * (np.abs(g.A) > 0.3 * np.abs(g.A).max())
    A = 0.5 * A / max(np.linalg.norm(A, 2), 1.0)
    noise = 1e-18 * np.random.default_rng(0).standard_normal((6, 6))
    assert_allclose(
        balred.hsv(balred.ss(A + noise, g.B, g.C, dt=1)), balred.hsv(balred.ss(A, g.B, g.C, dt=1)), atol=1e-12
    )


@pytest.mark.parametrize("passed_on", [1e-4, 1e2, 1e8])
@pytest.mark.parametrize("dt", [0, 1])
@pytest.mark.parametrize("n", [4, 7])
def test_equal_lags_that_pass_on_anything(n, dt, passed_on):
    """States in other units bring what one passes on to the next to one: the values are its power times those of that chain (mpmath)."""
    eye, on = np.eye(n), np.eye(n, k=1)

    def chain(step):
        return balred.ss((0.9 if dt else -0.1) * eye + step * on, eye[:, -1:], eye[:1], dt=dt)

    want = passed_on ** (n - 1) * oracle_hsv(chain(0.1))
    assert_allclose(balred.hsv(chain(0.1 * passed_on)), want, rtol=0, atol=1e-9 * want[0])
