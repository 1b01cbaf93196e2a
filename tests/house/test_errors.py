"""Bad input gets the rule, then what was given."""

from __future__ import annotations

import numpy as np
import pytest
from tables import skip_without

import balred

I2, B2, C2 = -np.eye(2), np.ones((2, 1)), np.ones((1, 2))
NAN, INF = float("nan"), float("inf")


def ss(A=I2, B=B2, C=C2, D=None, dt=0):
    return balred.ss(A, B, C, D, dt)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ss(A=[[NAN, 0], [0, -1]]), r"A must be finite, got 1 NaN or infinite entries, the first at \(0, 0\)"),
        (lambda: ss(B=[[1.0], [INF]]), r"B must be finite, got 1 NaN or infinite entries, the first at \(1, 0\)"),
        (lambda: ss(C=[[INF, NAN]]), r"C must be finite, got 2 NaN or infinite entries, the first at \(0, 0\)"),
        (lambda: ss(D=[[-INF]]), "D must be finite, got 1 NaN or infinite entries"),
        (lambda: balred.diagonal([NAN], [[1.0]], [[1.0]]), "poles must be finite, got 1 NaN"),
        (lambda: balred.diagonal([NAN], [[1.0]], [[1.0]], dt=1), "poles must be finite, got 1 NaN"),
        (lambda: balred.diagonal(log_poles=[INF], B=[[1.0]], C=[[1.0]], dt=1), "log_poles must be finite, got 1 NaN or inf"),
        (lambda: ss(A=np.ones((2, 3))), r"A must have shape \(..., n, n\), got \(2, 3\)"),
        (lambda: ss(A=np.ones(2)), r"A must have shape \(..., n, n\), got \(2,\)"),
        (lambda: ss(B=np.ones((3, 1))), r"B must have shape \(..., n, m\) with n = 2, got \(3, 1\)"),
        (lambda: ss(B=np.ones(2)), r"B must have shape \(..., n, m\) with n = 2, got \(2,\)"),
        (lambda: ss(C=np.ones((1, 3))), r"C must have shape \(..., p, n\) with n = 2, got \(1, 3\)"),
        (lambda: ss(C=np.ones(2)), r"C must have shape \(..., p, n\) with n = 2, got \(2,\)"),
        (lambda: ss(D=np.ones((2, 1))), r"D must have shape \(..., p, m\) = \(..., 1, 1\), got \(2, 1\)"),
        (lambda: ss(A=np.stack([I2] * 2), B=np.ones((3, 2, 1))), r"leading \(batch\) axes must broadcast, got \(2,\), \(3,\)"),
        (lambda: balred.diagonal(-1.0, [[1.0]], [[1.0]]), r"poles must have shape \(..., n\), got a scalar"),
        (lambda: balred.diagonal([-1.0], [[1.0]]), "B and C must be given, got B=set, C=None"),
        (lambda: balred.diagonal(B=[[1.0]], C=[[1.0]]), "exactly one of poles and log_poles must be given, got neither"),
        (lambda: balred.diagonal([-1.0], [[1.0]], [[1.0]], log_poles=[-1.0]), "exactly one of .* must be given, got both"),
        (lambda: ss(dt=-0.1), r"dt must be 0 \(continuous\), a positive step or True \(discrete\), got -0.1"),
        (lambda: ss(dt=NAN), "dt must be 0 .*, got nan"),
        (lambda: ss(dt=INF), "dt must be 0 .*, got inf"),
        (lambda: ss(dt=None), "dt must be 0 .*, got None"),
        (lambda: ss(dt="1"), "dt must be 0 .*, got '1'"),
        (lambda: ss(np.ones((0, 0)), np.ones((0, 0)), np.ones((1, 0))), "at least one input and one output, got n = 0, m = 0, p = 1"),
        (lambda: ss(B=np.ones((2, 0))), "at least one input and one output, got n = 2, m = 0, p = 1"),
        (lambda: ss(C=np.ones((0, 2))), "at least one input and one output, got n = 2, m = 1, p = 0"),
        (lambda: balred.diagonal(np.ones(0), np.ones((0, 1)), np.ones((1, 0))), "at least one state, .* got n = 0"),
    ],
)  # fmt: skip
def test_bad_matrices(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: balred.diagonal([-1 + 1j], [[1.0]], [[1.0]], [[1j]], conjugate=True), "D must be real for a conjugate system, got dtype complex128"),
        (lambda: ss(A=np.array([["a"]])), "A must be a floating-point array, got dtype <U1"),
    ],
)  # fmt: skip
def test_bad_dtypes(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_numbers_are_matrices_of_one_entry():
    """1/(s + 1), whose value is 1/2; -2 X - 2 X + 4 = 0; X/4 - X + 3 = 0; a mass on a spring."""
    assert float(balred.hsv(balred.ss(-1, 1, 1, 0))[0]) == pytest.approx(0.5, rel=1e-14)
    assert balred.ss(-1, [[1, 2]], 3).D.shape == (1, 2)
    assert balred.lyap(-2, 4) == pytest.approx(np.ones((1, 1)))
    assert balred.stein(0.5, 3) == pytest.approx(4 * np.ones((1, 1)))
    assert balred.second_order(1, 0.1, 1, 1, Cv=2).Cv.tolist() == [[2.0]]
    with pytest.raises(ValueError, match=r"B must have shape \(..., n, m\) with n = 2, got \(1, 1\)"):
        ss(B=1)


def test_lists_of_integers_are_fine():
    assert float(balred.hsv(balred.ss([[-1]], [[1]], [[1]], [[0]]))[0]) == pytest.approx(0.5, rel=1e-14)


@skip_without("torch")
def test_mixed_libraries():
    import torch

    with pytest.raises(TypeError, match="A, B, C and D must come from one array library, got numpy, torch"):
        balred.ss(-torch.eye(2), B2, C2)
    g = balred.ss(-torch.eye(2), torch.ones(2, 1), torch.ones(1, 2))
    with pytest.raises(TypeError, match="torch"):
        balred.error(g, ss())


@skip_without("torch")
def test_mixed_devices():
    """The meta device stands in for a second device on machines with only one."""
    import torch

    with pytest.raises(ValueError, match="all matrices must be on one device, got cpu, meta"):
        balred.ss(-torch.eye(2), torch.ones(2, 1, device="meta"), torch.ones(1, 2))


# -------------------------------------------------------------------------------------------------------- poles

CONTINUOUS, DISCRETE = "every pole must have a negative real part", "every pole must lie inside the unit circle"


def diag_ss(poles, dt=0):
    return balred.diagonal(poles, np.ones((len(poles), 1)), np.ones((1, len(poles))), dt=dt)


UNSTABLE = [
    (diag_ss([-1.0, 0.5, 2.0]).to_dense(), rf"{CONTINUOUS}, got a pole at 2 \(real part 2\)"),
    (diag_ss([-1.0, 0.5, 2.0]), rf"{CONTINUOUS}, got a pole at 2 \(real part 2\)"),
    (balred.ss([[1.0, 2.0], [-2.0, 1.0]], B2, C2), rf"{CONTINUOUS}, got a pole at 1[+-]2j \(real part 1\)"),
    (diag_ss([-1.0, 0.0]).to_dense(), rf"{CONTINUOUS}, got a pole at 0 \(real part 0\)"),
    (diag_ss([-1.0, 0.0]), rf"{CONTINUOUS}, got a pole at 0 \(real part 0\)"),
    (diag_ss([0.5, -1.25], 1), rf"{DISCRETE}, got a pole at -1.25.* \(modulus 1.25\)"),
    (balred.ss(np.diag([0.5, -1.25]), B2, C2, dt=1), rf"{DISCRETE}, got a pole at -1.25 \(modulus 1.25\)"),
    (balred.ss(np.diag([0.5, 1.0]), B2, C2, dt=1), rf"{DISCRETE}, got a pole at 1 \(modulus 1\)"),
    (diag_ss([0.5, 1.0], 1), rf"{DISCRETE}, got a pole at 1 \(modulus 1\)"),
    (balred.ss([[1.0]], [[1.0]], [[1.0]]), rf"{CONTINUOUS}, got a pole at 1 \(real part 1\)"),
    (balred.ss(np.stack([-np.eye(2), np.eye(2)]), B2, C2), rf"{CONTINUOUS}, got a pole at 1 \(real part 1\)"),
    (balred.ss(np.zeros((2, 2)), B2, C2), rf"{CONTINUOUS}, got a pole at 0 \(real part 0\)"),
]
FUNCTIONS = {
    "gramians": balred.gramians,
    "factors": balred.gramian_factors,
    "balance": balred.balance,
    "h2": lambda g: balred.norm(g, "h2"),
    "hinf": lambda g: balred.norm(g, "hinf"),
    "hankel": lambda g: balred.norm(g, "hankel"),
    "scipy": lambda g: balred.gramians(g, solver="scipy"),
    "slycot": lambda g: balred.gramians(g, solver="slycot"),
}


@pytest.mark.parametrize("function", list(FUNCTIONS))
@pytest.mark.parametrize("case", range(len(UNSTABLE)))
def test_unstable_and_marginal_poles_name_the_worst(case, function):
    if function == "slycot":
        pytest.importorskip("slycot")
        if type(UNSTABLE[case][0]).__name__ == "DiagonalSystem":
            pytest.skip("declared gap: slycot does not take diagonal systems")
    system, message = UNSTABLE[case]
    with pytest.raises(balred.UnstableError, match=message):
        FUNCTIONS[function](system)


@pytest.mark.parametrize("function", [balred.hsv, lambda g: balred.reduce(g, 1)], ids=["hsv", "reduce"])
def test_a_batch_with_unstable_members(function):
    g = balred.ss(np.stack([-np.eye(2), np.diag([-1.0, 3.0])]), B2, C2)
    with pytest.raises(
        ValueError, match=r"split off a single system only, got a batch of shape \(2,\) with unstable poles, 1 in all"
    ):
        function(g)


@pytest.mark.parametrize(
    ("system", "offset", "message"),
    [
        (ss(), -1.0, "offset must be between 0 and infinity, got -1.0"),
        (ss(), NAN, "offset must be between 0 and infinity, got nan"),
        (balred.ss([[0.5]], [[1.0]], [[1.0]], dt=1), 1.0, "offset must be between 0 and 1, got 1.0"),
    ],
)
def test_bad_offset(system, offset, message):
    with pytest.raises(ValueError, match=message):
        balred.hsv(system, offset=offset)


# -------------------------------------------------------------------------------------------------- ranks, names

SIX = balred.testing.random_system(6, seed=0)


@pytest.mark.parametrize(
    "reduce", [balred.reduce, lambda g, r: balred.analyze(g).reduce(r)], ids=["reduce", "analysis"]
)
@pytest.mark.parametrize(
    ("rank", "message"),
    [
        (0, "rank must be between 1 and 6, got 0"),
        (-1, "rank must be between 1 and 6, got -1"),
        (7, "rank must be between 1 and 6, got 7"),
        (np.int64(80), "rank must be between 1 and 6, got 80"),
        (2.0, "rank must be an integer or a rule, got 2.0"),
        (0.99, "rank must be an integer or a rule, got 0.99"),
        (True, "rank must be an integer or a rule, got True"),
        ("2", "rank must be an integer or a rule, got '2'"),
        (None, "rank must be an integer or a rule, got None"),
    ],
)
def test_bad_rank(reduce, rank, message):
    with pytest.raises(ValueError, match=message):
        reduce(SIX, rank)


def test_numpy_integers_are_ranks():
    assert balred.reduce(SIX, np.int64(3)).order == 3


@pytest.mark.parametrize("kind", ["dense", "diagonal", "conjugate"])
def test_rank_beyond_the_numerical_rank_warns_and_caps(kind):
    """Two states of four are reached by nothing."""
    poles = np.array([-1.0 + 1j, -2.0 + 1j, -3.0 + 1j, -4.0 + 1j])
    g = balred.diagonal(poles, [[1.0], [1.0], [0.0], [0.0]], np.ones((1, 4)), conjugate=kind == "conjugate")
    g = g.to_dense() if kind == "dense" else g
    with pytest.warns(
        balred.RankWarning, match="rank 3 is beyond the numerical rank; the order of the reduced system is 2"
    ):
        small = balred.reduce(g, 3)
    assert small.states == 2
    assert float(balred.error(g, small)) < 1e-10


def test_a_rule_that_cannot_be_met():
    """A flat noise floor of many values: their sum exceeds a tolerance that no rank above the floor reaches."""
    n = 40
    g = balred.diagonal(
        -np.ones(n) - np.arange(n), np.diag(np.r_[1.0, np.full(n - 1, 1e-15)]), np.diag(np.r_[1.0, np.full(n - 1, 1.0)])
    )
    with pytest.raises(ValueError, match=r"tolerance must be at least .*, the error bound at the numerical rank"):
        balred.reduce(g, balred.ErrorBound(1e-18))


@pytest.mark.parametrize("rank", [1, balred.Energy(0.9), balred.ErrorBound(0.1)], ids=repr)
def test_a_system_without_a_response_cannot_be_reduced(rank):
    with pytest.raises(ValueError, match=r"a nonzero Hankel singular value|every Hankel singular value is zero"):
        balred.reduce(balred.ss(I2, 0 * B2, C2), rank)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: balred.reduce(SIX, 2, method="hna"), "method must be one of truncate, .*singular_perturbation.*, got 'hna'"),
        (lambda: balred.hsv(SIX, solver="magic"), "solver must be one of smith, closed, .*scipy, slycot.*, got 'magic'"),
        (lambda: balred.gramians(SIX, solver="closed"), "solver 'closed' does not take a dense system: diagonal systems only"),
        (lambda: balred.gramians(diag_ss([-1.0]), solver="smith"), "solver 'smith' does not take a diagonal system: dense systems only"),
        (lambda: balred.norm(SIX, "h1"), "kind must be 'h2', 'hinf', 'hankel', 'l2' or 'linf', got 'h1'"),
        (lambda: balred.error(SIX, balred.testing.random_system(3, dt=1)), "both systems must have the same dt, got 0 and 1"),
        (lambda: balred.error(balred.testing.random_system(3, dt=2), balred.testing.random_system(3, dt=1)), "both systems must have the same dt, got 2 and 1"),
        (lambda: balred.error(SIX, balred.testing.random_system(3, m=1)), r"both systems must have the same outputs and inputs, got \(2, 2\) and \(2, 1\)"),
        (lambda: balred.testing.random_system(3, kind="banded"), "kind must be 'dense', 'diagonal' or 'conjugate', got 'banded'"),
        (lambda: balred.testing.simulate(SIX, np.ones((3, 2))), "only discrete systems can be stepped, got dt = 0"),
    ],
)  # fmt: skip
def test_unknown_names_and_misfits(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_object_no_adapter_knows():
    class Mystery:
        pass

    for call in (balred.adapt, balred.hsv, lambda x: balred.reduce(x, 2)):
        with pytest.raises(
            TypeError, match=r"no adapter knows .*Mystery.*: register .* with balred.register\("
        ) as info:
            call(Mystery())
        assert type(info.value).__name__ == "AdapterNotFound"


def test_arrays_of_an_unknown_library():
    class Foreign:
        dtype, shape, ndim = np.dtype(float), (1, 1), 2

    with pytest.raises(
        TypeError, match=r"arrays must be NumPy, PyTorch or JAX arrays, got .*; another library plugs in through"
    ):
        balred.ss(Foreign(), Foreign(), Foreign())


@pytest.mark.parametrize("name", ["slycot"])
def test_named_solver_takes_real_systems(name):
    pytest.importorskip(name)
    with pytest.raises(TypeError, match=f"solver '{name}' takes real systems, got a complex one"):
        balred.hsv(balred.testing.random_system(3, complex=True), solver=name)
