"""Systems whose numbers are near the ends of the range: what is computed scales as they do, or is refused, and never hangs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from tables import skip_without

import balred
from balred.testing import random_system

KINDS = {
    "dense": lambda: random_system(4, 2, 2, seed=1),
    "discrete": lambda: random_system(4, 2, 2, seed=1, dt=1),
    "complex": lambda: random_system(4, 2, 2, seed=1, complex=True),
    "diagonal": lambda: random_system(4, 2, 2, seed=1, kind="diagonal"),
    "one input": lambda: random_system(4, 1, 1, seed=1, kind="diagonal", dt=1),
    "conjugate": lambda: random_system(3, 2, 2, seed=1, kind="conjugate", dt=1),
    "batch": lambda: random_system(4, 2, 2, seed=1, batch=(2,)),
    "diagonal batch": lambda: random_system(4, 2, 2, seed=1, batch=(2,), kind="diagonal"),
}
POWERS = [(560, -560), (-560, 560), (1000, 0), (0, -1000), (300, 500), (-300, -400), (-1020, 1000)]


def scaled(g, b, c):
    """With B 2^b and C 2^c, without D: so what is linear is exactly 2^(b + c) times what it was."""
    two = [2.0 ** (p // 2) for p in (b, c)], [2.0 ** (p - p // 2) for p in (b, c)]
    return dataclasses.replace(g, B=g.B * two[0][0] * two[1][0], C=g.C * two[0][1] * two[1][1], D=0 * g.D)


VALUES = {
    "hsv": balred.hsv,
    **{kind: lambda g, kind=kind: balred.norm(g, kind) for kind in ("h2", "hinf", "hankel", "linf", "l2")},
    "bound": lambda g: balred.analyze(g).bound(2),
    "error": lambda g: balred.error(g, balred.reduce(g, 2)),
    "hankel_norm": lambda g: balred.error(g, balred.reduce(g, 2, method="hankel_norm")),
}


@pytest.mark.alike
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_linear_scales_as_inputs_and_outputs_do(kind, value):
    g = KINDS[kind]()
    if value == "hankel_norm" and g.B.ndim > 2:
        pytest.skip("the method takes single systems")
    want = np.asarray(VALUES[value](scaled(g, 0, 0)))
    for b, c in POWERS:
        found = np.asarray(VALUES[value](scaled(g, b, c)))
        factor = 2.0 ** ((b + c) // 2), 2.0 ** (b + c - (b + c) // 2)
        # of a B of denormal numbers few digits are left
        np.testing.assert_allclose(found / factor[0] / factor[1], want, rtol=1e-6, atol=1e-9 * want.max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", ["hsv", "hinf", "error", "bound"])
def test_what_is_no_number_is_refused(kind, value):
    too_large = scaled(KINDS[kind](), 800, 800)
    with pytest.raises(OverflowError, match="measure inputs or outputs in other units"):
        VALUES[value](too_large)


OF_ANY_SIZE = ("stochastic", "positive_real", "modal")
OF_SOME_SIZES = [m for m, row in balred.methods.METHODS.items() if not row.linear and m not in OF_ANY_SIZE]


def passive() -> balred.DenseSystem:
    """A + A^T < 0, C = B^T and D = 1."""
    g = random_system(4, 2, 2, seed=1)
    return balred.ss(g.A - g.A.T - np.diag([1.0, 2, 3, 4]), g.B, g.B.T, np.eye(2))


@pytest.mark.parametrize("method", OF_SOME_SIZES)
def test_methods_that_depend_on_the_size_refuse_what_they_cannot_square(method):
    g = passive()
    with pytest.raises(
        OverflowError, match="for this method the size of the system, inputs times outputs, must be between"
    ):
        balred.reduce(dataclasses.replace(g, B=g.B * 1e200), 2, method=method)


@pytest.mark.parametrize("power", [-900, -500, 500, 900])
@pytest.mark.parametrize("method", OF_ANY_SIZE)
def test_methods_that_reduce_a_multiple_to_that_multiple_take_every_size(method, power):
    """By a power of two, so that all digits are the same; values and bounds of relative errors are too."""
    g, unit = passive(), 2.0**power
    one = balred.analyze(g, method=method)
    for b, c in ((0, power), (power, 0), (power // 2, power // 2)):
        other = balred.analyze(balred.ss(g.A, g.B * 2.0**b, g.C * 2.0**c, g.D * unit), method=method)
        factor = unit if method == "modal" else 1.0
        np.testing.assert_allclose(other.hsv / factor, one.hsv, rtol=1e-9)
        np.testing.assert_allclose(other.bound(2) / factor, one.bound(2), rtol=1e-9)
        np.testing.assert_allclose(other.reduce(2)(2j) / unit, one.reduce(2)(2j), rtol=1e-9)


@pytest.mark.parametrize("dominance", ["h2", "slow", "frequency", lambda poles, residues: np.abs(residues).max((1, 2))])
def test_each_measure_of_modes_takes_every_size(dominance):
    g = passive()
    one = balred.reduce(g, 2, method="modal", dominance=dominance)
    for size in (1e-280, 1e280):
        large = balred.reduce(balred.ss(g.A, g.B, g.C * size, g.D * size), 2, method="modal", dominance=dominance)
        np.testing.assert_allclose(large(2j) / size, one(2j), rtol=1e-9)


def test_what_has_a_unit_of_its_own_beside_the_system_is_refused():
    g = passive()
    with pytest.raises(OverflowError, match="the size of D must be between"):
        balred.reduce(dataclasses.replace(g, B=g.B * 1e200), 2, method="stochastic")
    large = balred.ss(g.A, g.B, g.C * 1e200, g.D * 1e200)
    with pytest.raises(OverflowError, match="the size of the system, inputs times outputs, must be between"):
        balred.reduce(large, 2, method="stochastic", beta=1.0)


def test_a_direct_term_beside_which_all_else_is_nothing():
    for b, d in ((1e-300, 1.0), (1.0, 1e300), (1e-200, 1e200)):
        g = balred.ss([[-1.0]], [[b]], [[1.0]], [[d]])
        assert float(balred.norm(g, "hinf")) == pytest.approx(b + d, rel=1e-12)
        assert float(balred.reduce(balred.ss(-np.diag([1.0, 2]), [[b], [b]], [[1.0, 1.0]], [[d]]), 1).D[0, 0]) == d


@skip_without("torch")
@pytest.mark.parametrize("value", ["hsv", "hinf", "error"])
def test_tensors_of_less_precision(value):
    import torch

    g = random_system(4, 2, 2, seed=1)

    def single(b, c):
        h = scaled(g, b, c)
        return balred.ss(*(torch.tensor(x, dtype=torch.float32) for x in (h.A, h.B, h.C, h.D)))

    want = np.asarray(VALUES[value](single(0, 0)))
    for b, c in ((90, -90), (-90, 90), (110, 0), (0, -80)):
        np.testing.assert_allclose(
            np.asarray(VALUES[value](single(b, c))) * 2.0 ** -(b + c), want, rtol=1e-3, atol=1e-5
        )


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["diagonal", "conjugate"])
def test_the_hankel_norm_of_a_small_difference_lies_below_its_h_infinity_norm(kind, seed):
    """Hankel <= H-infinity <= twice the sum, of two diagonal systems that are all but equal."""
    g = random_system(4, 2, 2, seed=seed, kind=kind, dt=1)
    r = np.random.default_rng(seed)
    near = 10.0 ** -r.uniform(3, 9)
    other = dataclasses.replace(g, B=g.B * (1 + near * r.standard_normal(g.B.shape)))
    hankel, hinf = (float(balred.error(g, other, kind)) for kind in ("hankel", "hinf"))
    assert 0 < hankel <= hinf * (1 + 1e-6)
    together = np.asarray(balred.hsv(balred.systems.parts.difference(g, other)))
    assert together[0] == pytest.approx(hankel, rel=1e-6)
    assert hinf <= 2 * together.sum() * (1 + 1e-6)


def test_batches_beside_single_systems():
    several, one = random_system(4, 2, 2, seed=1, batch=(3,)), random_system(3, 2, 2, seed=2)
    for kind in ("hinf", "h2", "hankel"):
        several = dataclasses.replace(several, D=0 * several.D)
        want = [balred.error(balred.ss(*x), dataclasses.replace(one, D=0 * one.D), kind)
                for x in zip(several.A, several.B, several.C, several.D, strict=True)]  # fmt: skip
        found = balred.error(several, dataclasses.replace(one, D=0 * one.D), kind)
        np.testing.assert_allclose(np.asarray(found), np.asarray(want), rtol=1e-9)
    with pytest.raises(ValueError, match=r"leading \(batch\) axes must broadcast, got \(3,\) and \(2,\)"):
        balred.error(several, random_system(4, 2, 2, batch=(2,)))


@skip_without("torch")
def test_libraries_are_not_mixed_and_real_matrices_stand_beside_complex_ones():
    import torch

    g = random_system(4, 2, 2, seed=1)
    tensors = [torch.tensor(x) for x in (g.A, g.B, g.C)]
    with pytest.raises(TypeError, match="both systems must be of one array library, got numpy and torch"):
        balred.error(g, balred.ss(*tensors))
    for which in range(3):
        mixed = [x.to(torch.complex128) if i == which else x for i, x in enumerate(tensors)]
        for kind in ("h2", "hinf", "hankel"):
            want = balred.norm(balred.ss(g.A, g.B, g.C), kind)
            assert float(balred.norm(balred.ss(*mixed), kind)) == pytest.approx(float(want), rel=1e-9)


def timed(g, power):
    """The same system in another unit of time: A 2^power, and B and C by its root each, so that no value changes."""
    half = 2.0 ** (power // 2)
    return dataclasses.replace(g, A=g.A * 2.0**power, B=g.B * half, C=g.C * half, D=0 * g.D)


@pytest.mark.parametrize("power", [-1000, -530, 530, 1000])
@pytest.mark.parametrize("value", ["hsv", "hinf", "hankel", "linf", "bound", "error"])
@pytest.mark.parametrize("kind", ["dense", "complex", "batch"])
def test_units_of_time_change_no_value(kind, value, power):
    g = KINDS[kind]()
    want = np.asarray(VALUES[value](timed(g, 0)))
    np.testing.assert_allclose(np.asarray(VALUES[value](timed(g, power))), want, rtol=1e-6, atol=1e-9 * want.max())


@pytest.mark.parametrize(
    "powers", [(0, 1000, 0), (0, 0, -1000), (530, 530, 0), (-1000, -500, -500), (1000, 1000, 1000)]
)
@pytest.mark.parametrize("kind", ["dense", "complex", "diagonal", "conjugate"])
def test_minimal_systems_are_minimal_in_any_unit(kind, powers):
    """A system of which every state counts comes back as it is, and with one that does not, without that one."""
    g = KINDS[kind]()
    if kind in ("diagonal", "conjugate"):
        g, powers = scaled(g, *powers[1:]), (0, *powers[1:])
        twice = dataclasses.replace(
            g, log_poles=np.tile(g.log_poles, 2), B=np.tile(g.B, (2, 1)), C=np.concatenate([g.C, 0 * g.C], axis=1)
        )
    else:
        a, b, c = (2.0**p for p in powers)
        g = dataclasses.replace(g, A=g.A * a, B=g.B * b, C=g.C * c, D=0 * g.D)
        zero = np.zeros_like(g.A)
        twice = balred.ss(
            np.block([[g.A, zero], [zero, g.A]]), np.concatenate([g.B, 0 * g.B]), np.concatenate([g.C, g.C], axis=1)
        )
    assert balred.minimal(g) is g
    small = balred.minimal(twice)
    assert small.states == g.states
    if kind not in ("diagonal", "conjugate"):
        time = 2.0 ** -powers[0]
        poles = [np.sort_complex(np.linalg.eigvals(x.A * time)) for x in (small, g)]
        np.testing.assert_allclose(*poles, rtol=1e-9)


def test_gramians_and_covariances_that_are_no_numbers_are_refused():
    g = scaled(random_system(4, 2, 2, seed=1), 600, -600)
    for x in balred.gramian_factors(g):
        assert np.isfinite(x).all()
    with pytest.raises(OverflowError, match="Gramians must be at most"):
        balred.gramians(g)
    with pytest.raises(OverflowError, match="covariances must be at most"):
        balred.covar(scaled(g, 0, 600))
    assert float(balred.covar(balred.ss([[-1.0]], [[1e100]], [[1e-100]]))[0, 0]) == pytest.approx(0.5)  # 1 / (s + 1)


SPARSE_POWERS = [(0, 1000, -1000), (0, 0, -1000), (800, 800, 0), (-1000, -1000, 0), (1000, 500, 500), (-530, 0, 0)]


@pytest.mark.parametrize("powers", SPARSE_POWERS)
@pytest.mark.parametrize("mass", [False, True])
def test_sparse_systems_scale_as_their_matrices_do(mass, powers):
    """Hankel values are those of the system near one times 2^(b + c - a), and factors solve the equations that were given."""
    import scipy.sparse

    n = 40
    A = scipy.sparse.diags([1.0, -2.5, 1.0], [-1, 0, 1], shape=(n, n), format="csc")
    E = scipy.sparse.diags(np.linspace(1, 2, n), format="csc") if mass else None
    B, C = np.eye(n, 2), np.eye(1, n)
    want = np.asarray(balred.hsv(balred.sparse_system(A, B, C, E=E)))
    a, b, c = powers
    g = balred.sparse_system(A * 2.0**a, B * 2.0**b, C * 2.0**c, E=E)
    found = np.asarray(balred.hsv(g)) * 2.0 ** (a - b - c)
    few = min(len(found), len(want), 6)
    np.testing.assert_allclose(found[:few], want[:few], rtol=1e-7)


def test_a_sparse_system_whose_masses_are_very_large():
    """E 2^600 beside A 2^600 is no other system, in either kind of time."""
    import scipy.sparse

    n, large = 30, 2.0**600
    A = scipy.sparse.diags([0.2, 0.3, 0.2], [-1, 0, 1], shape=(n, n), format="csc")
    E = scipy.sparse.identity(n, format="csc")
    for dt, plain in ((1, A), (0, A - 2 * E)):
        given = balred.sparse_system(plain * large, np.eye(n, 1) * large, np.eye(1, n), E=E * large, dt=dt)
        want = balred.hsv(balred.sparse_system(plain, np.eye(n, 1), np.eye(1, n), dt=dt))
        np.testing.assert_allclose(balred.hsv(given)[:4], want[:4], rtol=1e-9)


def test_poles_of_any_size_are_told_apart_from_the_boundary():
    from balred.systems.poles import known_poles

    A = np.array([[-1.0, 5.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, -3.0]])
    for power in (-1000, 0, 600, 1000):
        poles = known_poles(balred.ss(A * 2.0**power, np.ones((3, 1)), np.ones((1, 3))))
        assert poles.inside().tolist() == known_poles(balred.ss(A, np.ones((3, 1)), np.ones((1, 3)))).inside().tolist()
        np.testing.assert_allclose(np.sort(poles.at.real), np.sort(np.linalg.eigvals(A).real) * 2.0**power, rtol=1e-9)
    huge = known_poles(balred.ss(np.diag([1e200, 0.5]), np.ones((2, 1)), np.ones((1, 2)), dt=1))
    assert not huge.inside().any()  # 0.5 is not known beside 1e200 in units of the states that nobody said
