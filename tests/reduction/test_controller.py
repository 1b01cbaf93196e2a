"""Controller reduction: SLICOT's printed examples and routines, the loop's weights, and what is promised of the loop."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from tables import frequencies, gains

import balred
from balred.reduction.controllers import loop_weights, reduce_controller, reduce_observer_controller
from balred.solvers.riccati import Equation, stabilising
from balred.systems.parts import difference

TIMES = pytest.mark.parametrize("dt", [0, 1])
SEEDS = pytest.mark.parametrize("seed", range(4))
WEIGHTS = pytest.mark.parametrize("weight", ["output", "input", "performance"])
JOBS = {"output": "O", "input": "I", "performance": "P"}


def gain(A, B, Q, R, dt):
    """F with A + BF stable, of the linear-quadratic regulator."""
    X = stabilising(Equation(A, B, Q, R, np.zeros(B.shape), bool(dt)), "a regulator exists")
    if dt:
        return -np.linalg.solve(R + B.T @ X @ B, B.T @ X @ A)
    return -np.linalg.solve(R, B.T @ X)


def designed(seed, dt, n=6, m=2, p=1):
    """An unstable plant with a direct term, and gains F and G of an LQG controller."""
    g = balred.testing.random_system(n, m, p, dt=dt, seed=seed)
    poles = np.linalg.eigvals(g.A)
    A = g.A * 1.05 / np.abs(poles).max() if dt else g.A + (0.05 - poles.real.max()) * np.eye(n)
    D = 0.1 * np.random.default_rng(seed).standard_normal((p, m))
    F = gain(A, g.B, g.C.T @ g.C, np.eye(m), dt)
    G = gain(A.T, g.C.T, g.B @ g.B.T, np.eye(p), dt).T
    return balred.ss(A, g.B, g.C, D, dt), F, G


def controller_of(g, F, G):
    """K = F (sI - A - BF - GC - GDF)^-1 G, for u = -K y."""
    return balred.ss(g.A + g.B @ F + G @ (g.C + g.D @ F), G, F, np.zeros((len(F), len(g.C))), g.dt)


def loop_poles(g, K, sign):
    """Poles of the loop u = sign K y, from the Schur complement of its equations: another way than the library's."""
    n, k = g.order, K.order
    m, p = g.B.shape[1], len(g.C)
    E = np.diag([1.0] * (n + k) + [0.0] * (m + p))
    M = np.block([
        [g.A, np.zeros((n, k)), g.B, np.zeros((n, p))],
        [np.zeros((k, n)), K.A, np.zeros((k, m)), K.B],
        [np.zeros((m, n)), sign * K.C, -np.eye(m), sign * K.D],
        [g.C, np.zeros((p, k)), g.D, -np.eye(p)],
    ])  # fmt: skip
    linalg = pytest.importorskip("scipy.linalg")
    poles = linalg.eigvals(M, E)
    return poles[np.isfinite(poles) & (np.abs(poles) < 1e8)]


def stabilises(g, K, sign=-1):
    poles = loop_poles(g, K, sign)
    return np.all(np.abs(poles) < 1) if g.dt else np.all(poles.real < 0)


def fortran(*arrays):
    return [np.asfortranarray(x.copy()) for x in arrays]


def same(a, b, points, rtol=1e-7):
    size = max(np.abs(a(complex(z))).max() for z in points)
    for z in map(complex, points):
        assert_allclose(a(z), b(z), rtol=rtol, atol=rtol * size)


# ------------------------------------------------------------------------------------------------------------ SLICOT


def sb16ad_example():
    """Plant and controller of SB16AD's example, for the feedback u = K y."""
    G = balred.ss(np.array([[-1.0, 0, 4], [0, 2, 0], [0, 0, -3]]), np.ones((3, 1)), np.ones((1, 3)))
    A = [[-26.4, 6.4023, 4.3868], [32.0, 0, 0], [0, 8.0, 0]]
    return G, balred.ss(A, [[-16.0], [0], [0]], [[9.2994, 1.1624, 0.109]])


def test_sb16ad_example():
    """Values printed in the documentation of SB16AD, four decimals: input weight, order 2, the unstable pole is kept."""
    G, K = sb16ad_example()
    weights = loop_weights(G, K, weight="input", sign=1)
    hsv = balred.analyze(K, method="frequency_weighted", **weights).hsv
    assert_allclose(hsv, [np.inf, 3.8253, 0.2005], atol=5e-5)
    small = reduce_controller(G, K, 2, weight="input", sign=1)
    printed = balred.ss(np.diag([9.19, -34.5297]), [[-11.9593], [86.3137]], [[2.8955, -1.3566]])
    assert_allclose(small.A, printed.A, atol=5e-5)
    same(small, printed, [0.1j, 1j, 10j, 100j], 1e-4)


@SEEDS
@pytest.mark.parametrize(
    ("dt", "weight", "technique"),
    # ctrlsys has the discrete enhanced observability Gramian wrong: see test_weighted
    [(dt, w, t) for dt in (0, 1) for w in JOBS for t in ("enns", "varga_anderson")
     if (dt, t) != (1, "varga_anderson") or w == "input"],
)  # fmt: skip
def test_sb16ad(seed, dt, weight, technique):
    """Values and transfer functions, for an unstable plant and u = K y."""
    ctrlsys = pytest.importorskip("ctrlsys")
    g, F, G = designed(seed, dt)
    K = controller_of(g, F, G)
    K = balred.ss(K.A, K.B, -K.C, 0.01 * np.ones(K.D.shape), dt)
    n, m, p, order = g.order, g.B.shape[1], len(g.C), 4
    job = "S" if technique == "enns" else "E"
    matrices = fortran(g.A, g.B, g.C, g.D, K.A, K.B, K.C, K.D)
    out = ctrlsys.sb16ad("D" if dt else "C", job, job, "F", JOBS[weight], "N", "F", n, m, p, n, order, float(dt), *matrices, 0.0, 0.0)  # fmt: skip
    (A, B, C, D), (k, ns, hsv, warning, info) = out[:4], out[4:]
    assert (k, warning, info) == (order, 0, 0)
    ours = balred.analyze(
        K, method="frequency_weighted", technique=technique, **loop_weights(g, K, weight=weight, sign=1)
    )
    assert_allclose(ours.hsv[n - ns :], hsv[:ns], rtol=1e-6, atol=1e-10 * hsv[0])
    same(ours.reduce(order), balred.ss(A[:k, :k], B[:k], C[:, :k], D, dt), frequencies(g, 12), 1e-6)


def four_disks():
    """Plant and gains of the examples of SB16BD and SB16CD."""
    A = np.zeros((8, 8))
    A[0, 1] = 1.0
    for i, (a, b) in enumerate([(0.015, 0.765), (0.028, 1.41), (0.04, 1.85)]):
        A[2 + 2 * i : 4 + 2 * i, 2 + 2 * i : 4 + 2 * i] = [[-a, b], [-b, -a]]
    B = np.array([[0.026, -0.251, 0.033, -0.886, -4.017, 0.145, 3.604, 0.28]]).T
    C = np.array([[-0.996, -0.105, 0.261, 0.009, -0.001, -0.043, 0.002, -0.026]])
    F = [[4.472135954999638e-2, 6.610515358414598e-1, 4.698598960657579e-3, 3.601363251422058e-1,
          1.032530880771415e-1, -3.754055214487997e-2, -4.268536964759344e-2, 3.287284547842979e-2]]  # fmt: skip
    G = [4.108939884667451e-1, 8.684600000000012e-2, 3.852317308197148e-4, -3.619366874815911e-3,
         -8.803722876359955e-3, 8.420521094001852e-3, 1.234944428038507e-3, 4.263205617645322e-3]  # fmt: skip
    return balred.ss(A, B, C), np.array(F), np.array(G)[:, None]


def test_sb16cd_example():
    """The controller printed in the documentation of SB16CD (right factors, order 2, four decimals)."""
    g, F, G = four_disks()
    small = reduce_observer_controller(g, F, G, 2, factors="right")
    printed = balred.ss([[-0.4334, 0.4884], [-0.195, -0.1093]], [[-0.4231], [-0.1785]], [[-0.0326, -0.2307]])
    same(small, printed, [0.01j, 0.1j, 1j], 1e-3)


@SEEDS
@TIMES
@pytest.mark.parametrize("factors", ["left", "right"])
def test_sb16cd(seed, dt, factors):
    ctrlsys = pytest.importorskip("ctrlsys")
    g, F, G = designed(seed, dt)
    k = 5
    matrices = fortran(g.A, g.B, g.C, g.D, F, G)
    A, B, C, _, order, warning, info = ctrlsys.sb16cd(
        "D" if dt else "C", "D", "F", factors[0].upper(), "F", *matrices, k, 0.0
    )
    assert (order, warning, info) == (k, 0, 0)
    theirs = balred.ss(A[:k, :k], B[:k], C[:, :k], None, dt)
    same(reduce_observer_controller(g, F, G, k, factors=factors), theirs, frequencies(g, 12), 1e-6)


@pytest.mark.parametrize("factors", ["left", "right"])
def test_sb16bd_reduces_another_controller(factors):
    """SB16BD joins its factors with the wrong sign (-BF for BF) at every order but the full one; ours tend to K."""
    ctrlsys = pytest.importorskip("ctrlsys")
    g, F, G = designed(1, 0)
    K, n, k = controller_of(g, F, G), g.order, g.order - 1
    matrices = fortran(g.A, g.B, g.C, g.D, F, G)
    A, B, C, D, *_, info = ctrlsys.sb16bd(
        "C", "D", "F", factors[0].upper(), "N", "F", n, F.shape[0], G.shape[1], k, *matrices, 0.0, 0.0
    )
    assert info == 0
    theirs = balred.ss(A[:k, :k], B[:k], C[:, :k], D)
    ours = reduce_observer_controller(g, F, G, k, factors=factors, weighted=False)
    points = frequencies(g, 60)
    size = gains(K, points).max()
    assert gains(difference(K, ours), points).max() < 0.1 * size
    assert gains(difference(K, theirs), points).max() > 0.5 * size


# ---------------------------------------------------------------------------------------------------------- the loop


@SEEDS
@TIMES
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("complex", [False, True])
def test_the_weights_are_what_they_are_called(seed, dt, sign, complex):
    """S G and S, evaluated from their definitions."""
    g, F, G = designed(seed, dt)
    K = controller_of(g, F, G)
    K = balred.ss(K.A, K.B, -sign * K.C, 0.01 * np.ones(K.D.shape), dt)
    if complex:  # a modal realisation of the plant
        poles, T = np.linalg.eig(g.A)
        g = balred.ss(np.diag(poles), np.linalg.solve(T, g.B), g.C @ T, g.D, dt)
    both = loop_weights(g, K, sign=sign)
    output, input = loop_weights(g, K, weight="output", sign=sign), loop_weights(g, K, weight="input", sign=sign)
    assert (set(both), set(output), set(input)) == ({"left", "right"}, {"left"}, {"right"})
    for z in frequencies(g, 12):
        S = np.linalg.inv(np.eye(1) - sign * g(z) @ K(z))
        assert_allclose(both["left"](z), S @ g(z), rtol=1e-8, atol=1e-10)
        assert_allclose(both["right"](z), S, rtol=1e-8, atol=1e-10)
        assert_allclose(output["left"](z), S @ g(z), rtol=1e-8, atol=1e-10)
        assert_allclose(input["right"](z), S @ g(z), rtol=1e-8, atol=1e-10)


@pytest.mark.alike
@SEEDS
@TIMES
@WEIGHTS
def test_a_small_weighted_error_keeps_the_loop_stable(seed, dt, weight):
    """Anderson and Liu: below one, with as many unstable poles in K as in its reduction."""
    g, F, G = designed(seed, dt, n=8)
    K = controller_of(g, F, G)
    a = balred.analyze(K, method="frequency_weighted", **loop_weights(g, K, weight=weight))
    assert stabilises(g, K)
    proved = 0
    for k in range(1 + int(np.sum(np.isinf(a.hsv))), 9):
        small = a.reduce(k)
        w = loop_weights(g, K, weight="output")["left"]
        E = difference(K, small)
        if max(np.linalg.norm(w(z) @ E(z), 2) for z in map(complex, frequencies(g, 300))) < 1:
            proved += 1
            assert stabilises(g, small)
            assert_allclose(reduce_controller(g, K, k, weight=weight).A, small.A, rtol=1e-12)
    assert proved >= 2


def test_the_loop_is_closer_than_with_plain_truncation():
    """Plain truncation of this controller (found by search) loses the loop at two orders and is worse at the next two."""
    g, F, G = designed(0, 1, n=8)
    K = controller_of(g, F, G)
    points = frequencies(g, 200)

    def response(k):
        return np.array([np.linalg.inv(np.eye(1) + g(z) @ k(z)) for z in map(complex, points)])

    for k in (2, 3):
        assert not stabilises(g, balred.reduce(K, k))
        assert stabilises(g, reduce_controller(g, K, k))
    for k in (4, 5):
        weighted, plain = reduce_controller(g, K, k), balred.reduce(K, k)
        errors = [np.abs(response(x) - response(K)).max() for x in (weighted, plain)]
        assert errors[0] < errors[1] / 3


@pytest.mark.parametrize("seed", [0, 1, 3])  # 2 is lost at this order with left factors and match_dc
@TIMES
@pytest.mark.parametrize("factors", ["left", "right"])
@pytest.mark.parametrize(("weighted", "match_dc"), [(True, False), (False, False), (False, True)])
def test_observer_controllers(seed, dt, factors, weighted, match_dc):
    g, F, G = designed(seed, dt)
    K = controller_of(g, F, G)
    points = frequencies(g, 40)
    whole = reduce_observer_controller(g, F, G, 6, factors=factors, weighted=weighted, match_dc=match_dc)
    same(whole, K, points, 1e-6)
    small = reduce_observer_controller(g, F, G, 5, factors=factors, weighted=weighted, match_dc=match_dc)
    assert small.order == 5
    assert stabilises(g, small)
    if match_dc:
        at = 1.0 if dt else 0.0
        assert_allclose(small(at), K(at), rtol=1e-8)


# ------------------------------------------------------------------------------------------------- types and errors


def test_the_type_of_the_controller_stays():
    control = pytest.importorskip("control")
    g, F, G = designed(0, 0)
    K = controller_of(g, F, G)
    named = control.ss(K.A, K.B, K.C, K.D, name="K", outputs=["u1", "u2"])
    small = reduce_controller(control.ss(g.A, g.B, g.C, g.D), named, 4)
    assert type(small) is control.StateSpace
    assert (small.nstates, small.output_labels) == (4, ["u1", "u2"])
    # and python-control closes the same loop
    loop = control.feedback(control.ss(g.A, g.B, g.C, g.D), small)
    assert np.all(loop.poles().real < 0)


def test_diagonal_controllers_stay_diagonal():
    K = balred.testing.random_system(5, 1, 1, dt=1, kind="conjugate", seed=2)
    plant = balred.ss([[0.2]], [[1.0]], [[0.5 / float(balred.norm(K, "hinf"))]], dt=1)  # a small gain
    small = reduce_controller(plant, K, 3)
    assert type(small) is balred.DiagonalSystem
    assert small.states == 3
    exact = reduce_controller(plant, K.to_dense(), 6)
    same(small, exact, [1.0, 1j, -1.0], 1e-6)


def test_a_rule_chooses_the_rank():
    g, F, G = designed(0, 0)
    K = controller_of(g, F, G)
    values = balred.analyze(K, method="frequency_weighted", **loop_weights(g, K))
    small = reduce_controller(g, K, balred.Energy(0.95))
    assert small.order == values.rank(balred.Energy(0.95))


def test_a_reduction_that_does_not_stabilise_is_an_error():
    """SLICOT's plant holds a double integrator, which a lag of order one cannot stabilise."""
    g, F, G = four_disks()
    with pytest.raises(
        balred.UnstableError, match=r"the reduced controller must stabilise the plant, got .* at order 1"
    ):
        reduce_observer_controller(g, F, G, 1, factors="right")
    K = controller_of(g, F, G)
    with pytest.raises(
        balred.UnstableError, match=r"got a closed-loop pole at .* at order 1: keep more states, or try"
    ):
        reduce_controller(g, K, 1, weight="input")


def test_bad_input():
    g, K = sb16ad_example()
    with pytest.raises(balred.UnstableError, match=r"the controller must stabilise the plant, got .* with u = -K y"):
        reduce_controller(g, K, 2)
    with pytest.raises(ValueError, match="weight must be 'output', 'input' or 'performance', got 'left'"):
        reduce_controller(g, K, 2, weight="left", sign=1)
    with pytest.raises(ValueError, match=r"sign must be -1 .* or 1 .*, got 0"):
        reduce_controller(g, K, 2, sign=0)
    with pytest.raises(ValueError, match=r"the controller must have the plant's inputs as outputs .*, \(1, 1\), got"):
        reduce_controller(g, balred.testing.random_system(2, 2, 1), 1)
    with pytest.raises(ValueError, match="the controller must have the dt of the plant, 0, got 1"):
        reduce_controller(g, balred.testing.random_system(2, 1, 1, dt=1), 1)
    with pytest.raises(ValueError, match=r"rank must be between 1 and 3, got 4"):
        reduce_controller(g, K, 4, sign=1)
    static = balred.ss(g.A, g.B, g.C, [[1.0]])
    with pytest.raises(ValueError, match="the loop must be well posed, got a singular I - D_plant D_controller"):
        reduce_controller(static, balred.ss(K.A, K.B, K.C, [[1.0]]), 2, sign=1)


def test_bad_input_of_observer_controllers():
    g, F, G = four_disks()
    with pytest.raises(ValueError, match=r"F and G must have shapes \(1, 8\) and \(8, 1\), got \(8, 1\) and \(8, 1\)"):
        reduce_observer_controller(g, F.T, G, 3)
    with pytest.raises(ValueError, match="factors must be 'left' or 'right', got 'both'"):
        reduce_observer_controller(g, F, G, 3, factors="both")
    with pytest.raises(
        balred.UnstableError, match=r"A \+ BF must be stable: every pole must have a negative real part"
    ):
        reduce_observer_controller(g, -F, G, 3)
    with pytest.raises(balred.UnstableError, match=r"A \+ GC must be stable"):
        reduce_observer_controller(g, F, -G, 3)
    with pytest.raises(ValueError, match="rank must be between 1 and 8, got 9"):
        reduce_observer_controller(g, F, G, 9)
    with pytest.raises(ValueError, match="match_dc must be False where the factors are weighted, got True"):
        reduce_observer_controller(g, F, G, 3, match_dc=True)
