"""Frequency-weighted balancing: SLICOT's printed example and its AB09ID, the equations, stability, the bound."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
from numpy.testing import assert_allclose
from tables import frequencies, gains

import balred
from balred.methods.weighted import TECHNIQUES, frequency_weighted
from balred.systems.arrays import ct

TIMES = pytest.mark.parametrize("dt", [0, 1])
SEEDS = pytest.mark.parametrize("seed", range(4))
SIDES = pytest.mark.parametrize("sides", ["left", "right", "both"])
METHOD = {"method": "frequency_weighted"}


def random(seed, n, m, p, dt, complex=False):
    g = balred.testing.random_system(n, m, p, dt=dt, seed=seed, complex=complex)
    return balred.ss(g.A, g.B, g.C, np.random.default_rng(seed).standard_normal((p, m)), dt)


def weights(seed, sides, m, p, dt, complex=False):
    """Weights with other numbers of outputs and inputs than the system's."""
    made = {"left": random(seed + 10, 3, p, p + 1, dt, complex), "right": random(seed + 20, 2, m + 1, m, dt, complex)}
    return made if sides == "both" else {sides: made[sides]}


def weighted_gains(difference, w, points):
    """Largest singular values of W_o E W_i, point by point."""
    one = [np.eye(len(difference.C)), np.eye(difference.B.shape[1])]
    values = []
    for z in map(complex, points):
        left, right = (w[k](z) if k in w else I for k, I in zip(("left", "right"), one, strict=True))
        values.append(np.linalg.norm(left @ difference(z) @ right, 2))
    return np.array(values)


def lyapunov(A, W, dt):
    """P with A P + P A^H + W = 0, or A P A^H - P + W = 0, as a linear system for its entries."""
    n = len(A)
    I = np.eye(n)
    K = np.kron(A, A.conj()) - np.eye(n * n) if dt else np.kron(A, I) + np.kron(I, A.conj())
    return np.linalg.solve(K, -W.reshape(-1)).reshape(n, n)


# ------------------------------------------------------------------------------------------------------------ SLICOT


def slicot_example():
    """The system and the left weight of the example of AB09ID: a controller, and the loop it is in."""
    K = balred.ss([[-26.4, 6.4023, 4.3868], [32.0, 0, 0], [0, 8.0, 0]], [[16.0], [0], [0]], [[9.2994, 1.1624, 0.109]])
    V = balred.ss(
        [
            [-1, 0, 4, -9.2994, -1.1624, -0.109],
            [0, 2, 0, -9.2994, -1.1624, -0.109],
            [0, 0, -3, -9.2994, -1.1624, -0.109],
            [16, 16, 16, -26.4, 6.4023, 4.3868],
            [0, 0, 0, 32.0, 0, 0],
            [0, 0, 0, 0, 8.0, 0],
        ],
        [[1.0], [1], [1], [0], [0], [0]],
        [[1.0, 1, 1, 0, 0, 0]],
    )
    return K, V


def test_slicot_example():
    """Values printed in the documentation of AB09ID, four decimals: order 2, Enns, the unstable pole is kept."""
    K, V = slicot_example()
    a = balred.analyze(K, **METHOD, left=V)
    assert_allclose(a.hsv, [np.inf, 3.8253, 0.2005], atol=5e-5)
    small = a.reduce(2)
    assert_allclose(small.A, np.diag([9.19, -34.5297]), atol=5e-5)
    printed = balred.ss(np.diag([9.19, -34.5297]), [[11.9593], [16.9329]], [[2.8955, 6.9152]])
    for s in (0.1j, 1j, 10j, 100j):
        assert_allclose(small(s), printed(s), rtol=1e-4)


def fortran(x):
    return np.asfortranarray(x if x.size else np.zeros([max(1, k) for k in x.shape]))


def ab09id(g, w, *, enhanced=False, alpha=0.0, order=3):
    ctrlsys = pytest.importorskip("ctrlsys")
    gains = {"left": np.eye(len(g.C)), "right": np.eye(g.B.shape[1])}
    static = {k: balred.ss(np.zeros((0, 0)), np.zeros((0, len(D))), np.zeros((len(D), 0)), D) for k, D in gains.items()}
    V, W = (w.get(k, static[k]) for k in ("left", "right"))
    which = "B" if len(w) == 2 else next(iter(w))[0].upper()
    job = "E" if enhanced else "S"
    sizes = (g.order, g.B.shape[1], len(g.C), V.order, len(V.C), W.order, W.B.shape[1], order)
    matrices = [fortran(x.copy()) for s in (g, V, W) for x in (s.A, s.B, s.C, s.D)]
    out = ctrlsys.ab09id("D" if g.dt else "C", job, job, "F", which, "N", "F", *sizes, float(g.dt), alpha, alpha, *matrices, 0.0, 0.0)  # fmt: skip
    (A, B, C, D), (ns, hsv, k, warning, info) = out[:4], out[-5:]
    assert (ns, k, warning, info) == (g.order, order, 0, 0)
    return hsv, balred.ss(A[:k, :k], B[:k], C[:, :k], D, g.dt)


def same_as_ab09id(g, w, technique, alpha, hsv, theirs):
    a = balred.analyze(g, **METHOD, **w, technique=technique, combine=alpha)
    assert_allclose(a.hsv, hsv, rtol=1e-8, atol=1e-12 * hsv[0])
    for z in frequencies(g, 12):
        assert_allclose(a.reduce(3)(z), theirs(z), rtol=1e-7, atol=1e-9 * hsv[0])


@SEEDS
@TIMES
@SIDES
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_ab09id_standard_combination(seed, dt, sides, alpha):
    g, w = random(seed, 7, 2, 3, dt), weights(seed, sides, 2, 3, dt)
    same_as_ab09id(g, w, "enns", alpha, *ab09id(g, w, alpha=alpha))
    if alpha == 1:
        same_as_ab09id(g, w, "lin_chiu", 0.0, *ab09id(g, w, alpha=alpha))


@SEEDS
@pytest.mark.parametrize(("dt", "sides"), [(0, "left"), (0, "right"), (0, "both"), (1, "left"), (1, "right")])
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_ab09id_enhanced_combination(seed, dt, sides, alpha):
    g, w = random(seed, 7, 2, 3, dt), weights(seed, sides, 2, 3, dt)
    if dt and sides == "left":  # by duality: see the test of the discrete enhanced observability Gramian
        flip = {"right": dual(w["left"])}
        hsv, theirs = ab09id(dual(g), flip, enhanced=True, alpha=alpha)
        same_as_ab09id(g, w, "varga_anderson", alpha, hsv, dual(theirs))
        return
    same_as_ab09id(g, w, "varga_anderson", alpha, *ab09id(g, w, enhanced=True, alpha=alpha))


def dual(g):
    return balred.ss(ct(g.A), ct(g.C), ct(g.B), ct(g.D), g.dt)


def test_discrete_enhanced_observability_gramian_of_ctrlsys_is_not_that_of_the_dual():
    """A left weight of a system is a right weight of its dual; ctrlsys gives two answers, we give the second for both."""
    g, w = random(1, 7, 2, 3, 1), weights(1, "left", 2, 3, 1)
    as_left, as_right = ab09id(g, w, enhanced=True)[0], ab09id(dual(g), {"right": dual(w["left"])}, enhanced=True)[0]
    assert np.abs(as_left - as_right).max() > 1e-3 * as_right[0]
    for h, v in ((g, w), (dual(g), {"right": dual(w["left"])})):
        assert_allclose(balred.analyze(h, **METHOD, **v, technique="varga_anderson").hsv, as_right, rtol=1e-9)


# --------------------------------------------------------------------------------------------------------- equations


@SEEDS
@TIMES
@pytest.mark.parametrize("complex", [False, True])
@pytest.mark.parametrize("combine", [0.0, 0.7])
def test_the_gramians_solve_their_equations(seed, dt, complex, combine):
    """Against dense solutions of the definitions, with a Schur complement and an eigendecomposition of what is squared."""
    n = 5
    g, w = random(seed, n, 2, 3, dt, complex), weights(seed, "right", 2, 3, dt, complex)
    W = w["right"]
    A = np.block([[g.A, g.B @ W.C], [np.zeros((2, n)), W.A]])
    B = np.vstack([g.B @ W.D, W.B])
    P = lyapunov(A, B @ ct(B), dt)
    P0 = P[:n, :n] - combine**2 * P[:n, n:] @ np.linalg.solve(P[n:, n:], P[n:, :n])
    Y = P0 - g.A @ P0 @ ct(g.A) if dt else -g.A @ P0 - P0 @ ct(g.A)
    s, U = np.linalg.eigh(Y)
    want = {
        "enns": P0,
        "wang": lyapunov(g.A, U * np.abs(s) @ ct(U), dt),
        "varga_anderson": lyapunov(g.A, U * np.maximum(s, 0) @ ct(U), dt),
    }
    assert s[0] < -1e-3 * s[-1]  # otherwise the three are one
    for technique, Pt in want.items():
        state = frequency_weighted(g, **w, technique=technique, combine=combine)
        Z = state.spectrum.Zp * 2.0**state.power
        assert_allclose(Z @ ct(Z), Pt, atol=1e-10 * np.abs(Pt).max())
    for larger, smaller in (("wang", "varga_anderson"), ("varga_anderson", "enns")):
        assert np.linalg.eigvalsh(want[larger] - want[smaller])[0] > -1e-10 * np.abs(P0).max()


@TIMES
@pytest.mark.parametrize("technique", TECHNIQUES)
def test_no_weight_in_effect_is_plain_truncation(dt, technique):
    g = random(0, 6, 2, 3, dt)
    static = balred.ss(np.zeros((0, 0)), np.zeros((0, 3)), np.zeros((3, 0)), np.eye(3), dt)
    # an identity with states that its output does not see
    idle = balred.ss(0.5 * np.eye(2) if dt else -np.eye(2), np.ones((2, 2)), np.zeros((2, 2)), np.eye(2), dt)
    for match_dc, plain in ((False, "truncate"), (True, "singular_perturbation")):
        a = balred.analyze(g, **METHOD, left=static, technique=technique, match_dc=match_dc)
        assert_allclose(a.hsv, balred.hsv(g), rtol=1e-9)
        assert_allclose(a.reduce(3).A, balred.reduce(g, 3, method=plain).A, atol=1e-8 * np.abs(g.A).max())
    if technique != "lin_chiu":  # for whom what such a state foretells does not count
        assert_allclose(balred.analyze(g, **METHOD, right=idle, technique=technique).hsv, balred.hsv(g), rtol=1e-9)


@TIMES
@SEEDS
@pytest.mark.parametrize("technique", ["enns", "lin_chiu", "wang"])
def test_states_that_a_weight_does_not_need_change_nothing(seed, dt, technique):
    """The same weight with every state twice, the second unseen, in coordinates that hide it."""
    g, w = random(seed, 6, 2, 2, dt), random(seed + 9, 3, 2, 2, dt)
    T = np.random.default_rng(seed).standard_normal((6, 6))
    A, B, C = np.kron(np.eye(2), w.A), np.vstack([w.B, w.B]), np.hstack([w.C, 0 * w.C])
    more = balred.ss(np.linalg.solve(T, A @ T), np.linalg.solve(T, B), C @ T, w.D, dt=dt)
    want = balred.analyze(g, **METHOD, right=w, technique=technique).hsv
    got = balred.analyze(g, **METHOD, right=more, technique=technique).hsv
    assert_allclose(got, want, atol=1e-7 * want[0])


@pytest.mark.parametrize("static", [0.0, 1.0])
def test_a_weight_that_foretells_all_states_is_refused_with_lin_chiu(static):
    """Zeros of the weight where the system has its poles: the states are a combination of the weight's, and P is zero."""
    g = balred.ss(np.diag([-1.0, -3.0]), np.ones((2, 1)), np.ones((1, 2)))
    zeros = [-1.0, -3.0] if static == 0 else [-1.0, -3.0, -5.0]
    weight = balred.ss(*scipy.signal.zpk2ss(zeros, [-2.0, -4.0, -7.0], 1.0))
    with pytest.raises(ValueError, match="must not cancel all poles of the system"):
        balred.reduce(g, 1, **METHOD, right=weight, technique="lin_chiu")
    assert balred.reduce(g, 1, **METHOD, right=weight).order == 1


def test_weights_of_other_kinds():
    """Diagonal systems, scipy's, and other array libraries are weights too."""
    g = random(0, 5, 1, 1, 0)
    dense = balred.ss([[-2.0]], [[1.0]], [[1.0]])
    want = balred.analyze(g, **METHOD, right=dense).hsv
    kinds = [balred.diagonal([-2.0], [[1.0]], [[1.0]])]
    signal = pytest.importorskip("scipy.signal")
    kinds.append(signal.StateSpace([[-2.0]], [[1.0]], [[1.0]], [[0.0]]))
    torch = pytest.importorskip("torch")
    kinds.append(balred.ss(*(torch.tensor([[x]], requires_grad=True) for x in (-2.0, 1.0, 1.0))))
    for weight in kinds:
        assert_allclose(balred.analyze(g, **METHOD, right=weight).hsv, want, rtol=1e-12)


# -------------------------------------------------------------------------------------------------------- guarantees


def stable(g):
    poles = np.linalg.eigvals(g.A)
    return np.all(np.abs(poles) < 1) if g.dt else np.all(poles.real < 0)


@pytest.mark.parametrize("seed", range(10))
@TIMES
@pytest.mark.parametrize(
    ("sides", "technique"),
    [(s, t) for s in ("left", "right", "both") for t in TECHNIQUES if (s, t) != ("both", "enns")],
)
@pytest.mark.parametrize("match_dc", [False, True])
def test_stability_is_kept(seed, dt, sides, technique, match_dc):
    g, w = random(seed, 6, 1, 2, dt), weights(seed, sides, 1, 2, dt)
    a = balred.analyze(g, **METHOD, **w, technique=technique, match_dc=match_dc)
    assert all(stable(a.reduce(k)) for k in range(1, 6))


@pytest.mark.parametrize(("dt", "seed"), [(0, 60), (1, 42)])  # found by search: about one in twenty loses it
def test_lost_stability_is_an_error_not_a_result(dt, seed):
    g, w = random(seed, 4, 1, 1, dt), weights(seed, "both", 1, 1, dt)
    message = r"the reduced system must be stable, got a pole at .*j at order 1: try technique='lin_chiu'"
    with pytest.raises(balred.UnstableError, match=message):
        balred.reduce(g, 1, **METHOD, **w)
    assert stable(balred.reduce(g, 1, **METHOD, **w, technique="wang"))


@SEEDS
@TIMES
@SIDES
@pytest.mark.parametrize("match_dc", [False, True])
@pytest.mark.parametrize("combine", [0.0, 0.6])
def test_bound_of_wang(seed, dt, sides, match_dc, combine):
    g, w = random(seed, 7, 2, 3, dt), weights(seed, sides, 2, 3, dt)
    a = balred.analyze(g, **METHOD, **w, technique="wang", match_dc=match_dc, combine=combine)
    for k in range(1, 7):
        worst = weighted_gains(balred.systems.parts.difference(g, a.reduce(k)), w, frequencies(g, 100)).max()
        assert 0 < worst <= a.bound(k)
    assert a.bound(7) == 0
    rank = a.rank(balred.ErrorBound(a.bound(4) * 1.001))
    assert rank <= 4
    assert a.bound(rank) <= a.bound(4) * 1.001


def test_without_a_bound_it_is_nan():
    g, w = random(0, 5, 2, 2, 0), weights(0, "both", 2, 2, 0)
    for technique in ("enns", "lin_chiu", "varga_anderson"):
        assert np.isnan(balred.analyze(g, **METHOD, **w, technique=technique).bound(3))


@TIMES
@pytest.mark.parametrize("technique", ["enns", "lin_chiu"])  # definite Gramians see less of a weight: see the page
def test_the_error_is_small_where_the_weight_is_large(dt, technique):
    """Two resonances far apart, of which plain truncation keeps the stronger and the weight asks for the other."""
    slow, fast = (np.array([[-0.01, w], [-w, -0.01]]) for w in (0.1, 2.0))
    A = np.block([[slow, np.zeros((2, 2))], [np.zeros((2, 2)), fast]])
    C = np.array([[0.0, 1.0, 0.0, 3.0]])
    low_pass = ([[-0.05]], [[0.05]], [[1.0]])
    if dt:
        eye = np.eye(4)
        A, low_pass = np.linalg.solve(eye - A / 4, eye + A / 4), ([[0.975]], [[0.025]], [[1.0]])
    g = balred.ss(A, np.array([[0.0], [1.0], [0.0], [1.0]]), C, dt=dt)
    points = frequencies(g, 400)
    angle = np.abs(np.angle(points)) * 2 if dt else np.abs(points)
    low, high = angle < 0.3, angle > 1.0
    plain = gains(balred.systems.parts.difference(g, balred.reduce(g, 2)), points)
    small = balred.reduce(g, 2, **METHOD, right=balred.ss(*low_pass, dt=dt), technique=technique)
    weighted = gains(balred.systems.parts.difference(g, small), points)
    assert weighted[low].max() < 0.2 * plain[low].max()
    assert weighted[high].max() > plain[high].max()


# ------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "at least one of the weights left and right must be given, got neither"),
        (
            {"left": random(0, 2, 2, 2, 0)},
            "the left weight must have as many inputs as the system has outputs, 3, got 2",
        ),
        (
            {"right": random(0, 2, 2, 3, 0)},
            "the right weight must have as many outputs as the system has inputs, 2, got 3",
        ),
        ({"right": random(0, 2, 2, 2, 1)}, "the right weight must have the dt of the system, 0, got 1"),
        (
            {"right": balred.ss([[0.5]], [[1.0, 0]], [[1.0], [0]])},
            r"the right weight must be stable, got a pole at 0.5\+0j",
        ),
        ({"right": balred.testing.random_system(3, 2, 2, batch=(4,))}, "must be a single system, got a batch of shape"),
        ({"right": random(0, 2, 2, 2, 0), "technique": "kim"}, "technique must be one of enns, .*, got 'kim'"),
        ({"right": random(0, 2, 2, 2, 0), "combine": 1.5}, r"combine must be between 0 .* and 1 .*, got 1.5"),
        (
            {"right": random(0, 2, 2, 2, 0), "combine": 0.5, "technique": "lin_chiu"},
            "combine must be left out with technique 'lin_chiu', got 0.5",
        ),
    ],
    ids=["none", "inputs", "outputs", "dt", "unstable", "batch", "technique", "combine", "both"],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        balred.reduce(random(0, 4, 2, 3, 0), 2, **METHOD, **options)


def test_an_unspecified_step_fits_any():
    g = random(0, 4, 2, 2, 0.5)
    w = random(1, 2, 2, 2, True)
    assert balred.reduce(g, 2, **METHOD, left=w).dt == 0.5
    with pytest.raises(ValueError, match=r"the left weight must have the dt of the system, 0.5, got 0.1"):
        balred.reduce(g, 2, **METHOD, left=random(1, 2, 2, 2, 0.1))


def test_advice_for_one_weight_speaks_of_one():
    """Of a notch 1 - s/(s^2 + s + 1) the state that no input reaches at once may come first: its pole is zero."""
    g = balred.ss([[-1.0, -1.0], [1.0, 0.0]], [[1.0], [0.0]], [[-1.0, 0.0]], [[1.0]])
    low_pass = balred.ss([[-0.1]], [[0.1]], [[1.0]], [[0.1]])
    with pytest.raises(balred.UnstableError, match=r"at order 1: try another rank$"):
        balred.reduce(g, 1, **METHOD, left=low_pass)
