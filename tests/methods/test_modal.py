"""Modal truncation and the parts of a system: its own poles, bounds that are attained, sums that are the system."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from tables import frequencies

import balred
from balred.methods.modal import modes
from balred.realisations.separation import frequency_separation, stable_unstable

TIMES = pytest.mark.parametrize("dt", [0, 0.5])
SEEDS = pytest.mark.parametrize("seed", range(4))
FIELDS = pytest.mark.parametrize("complex", [False, True])
MATCH = pytest.mark.parametrize("match_dc", [False, True])
NAMED = pytest.mark.parametrize("dominance", ["residue", "h2", "slow", "frequency"])


def expansion(g):
    """Poles and residues from the eigenvectors: an independent way to the partial fractions of simple poles."""
    poles, V = np.linalg.eig(g.A)
    b, c = np.linalg.solve(V, g.B), g.C @ V
    return poles, np.array([np.outer(c[:, i], b[i]) for i in range(len(poles))])


def rational(poles, residues, dt=0, D=0.0):
    """The system D + sum of residues / (z - poles) with one input and one output, dense."""
    return balred.ss(np.diag(poles), np.ones((len(poles), 1)), np.array([residues]), [[D]], dt)


def distance(small, poles):
    """How far the poles of `small` are from the nearest of `poles`."""
    return np.abs(np.linalg.eigvals(small.A)[:, None] - poles).min(axis=1).max(initial=0)


def turned(A, B, C, dt=0, seed=0):
    """A system in other orthonormal coordinates."""
    Q = np.linalg.qr(np.random.default_rng(seed).standard_normal(np.shape(A)))[0]
    return balred.ss(Q @ A @ Q.T, Q @ B, C @ Q.T, dt=dt)


@SEEDS
@TIMES
@FIELDS
@NAMED
def test_the_poles_kept_are_its_own_and_the_most_dominant(seed, dt, complex, dominance):
    g = balred.testing.random_system(8, 2, 3, dt=dt, seed=seed, complex=complex)
    poles, residues = expansion(g)
    s = np.log(poles.astype("complex")) / dt if dt else poles
    want = {
        "residue": np.linalg.norm(residues, 2, axis=(1, 2)) / (1 - np.abs(poles) if dt else -poles.real),
        # the H2 norm of a system of this one pole
        # checked against the H2 norm below
        "h2": np.linalg.norm(residues, axis=(1, 2)) / np.sqrt(1 - np.abs(poles) ** 2 if dt else -2 * poles.real),
        "slow": -1 / s.real,
        "frequency": 1 / np.abs(s),
    }[dominance]  # fmt: skip
    a = balred.analyze(g, method="modal", dominance=dominance)
    assert_allclose(a.hsv, np.sort(want)[::-1], rtol=1e-9)
    order = np.argsort(-want, kind="stable")
    made = 0
    for k in range(1, 8):
        if not complex and poles[order[0]].imag != 0 and k == 1:
            continue
        small = a.reduce(k)
        assert np.iscomplexobj(small.A) == complex
        assert small.order in (k - 1, k)
        if complex:
            assert small.order == k
        kept = poles[order[: small.order]]
        assert distance(small, kept) < 1e-12
        # each of them, and nothing of the others: the partial sum
        for z in frequencies(g, 8):
            partial = g.D + sum(residues[i] / (z - poles[i]) for i in order[: small.order])
            assert_allclose(small(z), partial, rtol=1e-8, atol=1e-10)
        made += 1
    assert made >= 6


def test_the_h2_measure_is_the_norm_of_the_mode():
    g = rational([-0.5, -3.0], [2.0, 1.0])
    each = [float(balred.norm(rational([p], [r]))) for p, r in ((-0.5, 2.0), (-3.0, 1.0))]
    assert_allclose(balred.analyze(g, method="modal", dominance="h2").hsv, sorted(each)[::-1], rtol=1e-12)


def test_a_conjugate_pair_is_kept_or_dropped_as_one():
    A = np.zeros((5, 5))
    A[:2, :2], A[2, 2], A[3:, 3:] = [[-0.1, 2.0], [-2.0, -0.1]], -1.0, [[-1.0, 9.0], [-9.0, -1.0]]
    g = turned(A, np.ones((5, 1)), np.ones((1, 5)))
    a = balred.analyze(g, method="modal", dominance="slow")
    assert_allclose(a.hsv, [10, 10, 1, 1, 1], rtol=1e-12)
    assert [a.reduce(k).order for k in (2, 3, 4, 5)] in ([2, 3, 3, 5], [2, 2, 4, 5])
    with pytest.raises(
        ValueError,
        match=r"rank must be at least 2, got 1: the most dominant poles \(at -0.1[+-]2j\) are a conjugate pair",
    ):
        a.reduce(1)


@SEEDS
@TIMES
@FIELDS
@MATCH
def test_the_error_is_within_its_bound(seed, dt, complex, match_dc):
    g = balred.testing.random_system(7, 2, 2, dt=dt, seed=seed, complex=complex)
    a = balred.analyze(g, method="modal", match_dc=match_dc)
    steady = 1.0 if dt else 0.0
    for k in range(2, 7):
        small = a.reduce(k)
        assert float(balred.error(g, small)) <= a.bound(k) * (1 + 1e-9)
        if match_dc:
            assert_allclose(small(steady), g(steady), rtol=1e-9, atol=1e-9)
        else:
            assert_allclose(small.D, g.D, atol=0)


@pytest.mark.parametrize(
    ("dt", "pole", "match_dc", "want"),
    [
        (0, -3.0, False, 2 / 3),  # 2/(s + 3) at 0
        (0, -3.0, True, 2 / 3),  # 2/(s + 3) - 2/3 at infinity
        (1, 0.6, False, 2 / 0.4),  # at z = 1
        (1, -0.6, False, 2 / 0.4),  # at z = -1
        (1, 0.6, True, 2 / 0.4 + 2 / 1.6),  # between z = 1 and z = -1
        (1, -0.6, True, 2 / 0.4 + 2 / 1.6),
    ],
)
def test_the_bound_is_attained_by_one_real_pole(dt, pole, match_dc, want):
    g = rational([0.9 if dt else -0.01, pole], [5.0, 2.0], dt)
    a = balred.analyze(g, method="modal", match_dc=match_dc)
    assert_allclose(a.bound(1), want, rtol=1e-12)
    assert_allclose(balred.error(g, a.reduce(1)), want, rtol=1e-9)
    assert a.bound(2) == 0


def test_the_target_and_callables():
    g = rational([-1.0, -2.0, -10.0], [1.0, 5.0, 100.0])
    near = balred.reduce(g, 1, method="modal", dominance="frequency", target=-2.1)
    assert_allclose(near.A, [[-2.0]], rtol=1e-12)
    on_it = balred.analyze(g, method="modal", dominance="frequency", target=-10.0)
    assert np.all(np.isfinite(on_it.hsv))
    assert_allclose(on_it.reduce(1).A, [[-10.0]], rtol=1e-12)
    # a real system: the target or its conjugate
    A = np.zeros((4, 4))
    A[:2, :2], A[2:, 2:] = [[-0.1, 2.0], [-2.0, -0.1]], [[-0.1, 9.0], [-9.0, -0.1]]
    h = balred.ss(A, np.ones((4, 1)), np.ones((1, 4)))
    for target in (8.5j, -8.5j):
        assert (
            distance(balred.reduce(h, 2, method="modal", dominance="frequency", target=target), [-0.1 + 9j, -0.1 - 9j])
            < 1e-12
        )

    seen = {}

    def steady_gain(poles, residues):
        seen.update(poles=poles, residues=residues)
        return np.abs(residues[:, 0, 0] / poles)

    a = balred.analyze(g, method="modal", dominance=steady_gain)
    assert_allclose(a.hsv, [10.0, 2.5, 1.0], rtol=1e-12)
    order = np.argsort(seen["poles"].real)
    assert_allclose(seen["poles"][order], [-10, -2, -1], rtol=1e-12)
    assert_allclose(seen["residues"][order, 0, 0], [100, 5, 1], rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dominance": "biggest"}, "dominance must be one of residue, h2, slow, frequency or a callable, got 'biggest'"),
        ({"target": 1.0}, "a target needs dominance 'frequency', got 'residue'"),
        ({"dominance": "frequency", "target": np.nan}, "target must be a finite number, got nan"),
        ({"dominance": lambda p, R: p.real}, r"dominance must return 2 finite scores that are not negative, got \[-[12]. -[12].\]"),
        ({"dominance": lambda p, R: p[:1].imag}, r"dominance must return 2 finite scores that are not negative, got \[0.\]"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        balred.reduce(rational([-1.0, -2.0], [1.0, 1.0]), 1, method="modal", **options)


# ---------------------------------------------------------------------------------------------- poles that are not simple


def jordan(size, pole, others):
    A = np.diag(np.concatenate([np.full(size, pole), others]))
    for i in range(size - 1):
        A[i, i + 1] = 1
    return A


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("gap", [0.0, 1e-12])
@TIMES
@FIELDS
def test_a_jordan_block_is_kept_together(size, gap, dt, complex):
    pole = 0.5 if dt else -0.5
    others = [0.1, -0.3] if dt else [-4.0, -9.0]
    A = jordan(size, pole, others)
    A[np.arange(size), np.arange(size)] += gap * np.arange(size)
    n = len(A)
    rng = np.random.default_rng(size)
    B, C = rng.standard_normal((n, 2)), rng.standard_normal((2, n))
    # rounding errors would move a double pole by only sqrt(eps), just enough to tell the two apart
    g = balred.ss(A, B, C, dt=dt) if size == 2 else turned(A, B, C, dt)
    if complex:  # the poles moved along or about the boundary
        g = balred.ss(g.A * np.exp(1j) if dt else g.A + 2j * np.eye(n), g.B + 0j, g.C + 0j, dt=dt)
    a = balred.analyze(g, method="modal", dominance="slow")
    assert sorted(a.state.sizes) == [1, 1, size]
    assert_allclose(a.hsv[:size], a.hsv[0], rtol=1e-12)
    for k in range(size, n + 1):
        small = a.reduce(k)
        assert small.order == k
        assert float(balred.error(g, small)) <= a.bound(k) * (1 + 1e-9) + 1e-12
    with pytest.raises(
        ValueError,
        match=rf"rank must be at least {size}, .* are a group of {size}, which only coordinates with a condition",
    ):
        a.reduce(1)
    # cut as one: its largest gain is within the bound
    b = balred.analyze(g, method="modal", dominance="frequency", target=-9.0)
    assert float(balred.error(g, b.reduce(2))) <= b.bound(2) * (1 + 1e-9)


def test_a_double_pole_whose_mean_residue_is_zero_is_dominant():
    """1/(s + 1)^2 has the residue 0 at its double pole, and the largest gain 1."""
    A = jordan(2, -1.0, [-2.0])
    g = balred.ss(A, [[0.0], [1.0], [0.01]], [[1.0, 0.0, 0.01]])
    # its Hankel singular values are (sqrt(2) +- 1)/4, its H2 norm is 1/2
    for dominance, want in (("residue", 0.5**0.5), ("h2", 0.5**1.5)):
        a = balred.analyze(g, method="modal", dominance=dominance)
        assert a.state.sizes.tolist() == [2, 1]
        assert_allclose(a.hsv[:2], want, rtol=1e-10)
        assert_allclose(a.reduce(2)(0.5j), [[1 / (0.5j + 1) ** 2]], rtol=1e-12)


def test_equal_poles_without_coupling_are_told_apart():
    """diag(-1, -1, -2): both states of the double pole are modes of their own."""
    g = balred.ss(np.diag([-1.0, -1.0, -2.0]), np.diag([1.0, 5.0, 1.0]), np.eye(3))
    a = balred.analyze(g, method="modal")
    assert a.state.sizes.tolist() == [1, 1, 1]
    assert_allclose(a.hsv, [5, 1, 0.5], rtol=1e-12)
    assert_allclose(a.reduce(1)(0.0), np.diag([0.0, 5.0, 0.0]), atol=1e-14)


def test_splits_that_are_well_conditioned_one_by_one_only():
    """Toeplitz matrices like Grcar's have eigenvectors of condition 1e10: no pole of theirs is a mode."""
    n = 60
    A = -1.5 * np.eye(n) - sum(np.diag(np.ones(n - k), k) for k in (1, 2, 3)) + np.diag(np.ones(n - 1), -1)
    state = modes(balred.ss(A, np.ones((n, 1)), np.ones((1, n))))
    assert np.linalg.cond(np.linalg.eig(A)[1]) > 1e9
    R = state.R / np.linalg.norm(state.R, axis=0)
    assert np.linalg.cond(R) < 1e9
    assert_allclose(state.L @ state.R, np.eye(n), atol=1e-7)
    assert_allclose(state.L @ A @ state.R, state.modal.A, atol=1e-6 * np.abs(state.modal.A).max())


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_units_of_state_do_not_matter(scale):
    h = balred.testing.random_system(5, 2, 2, seed=0)
    d = np.array([1, scale, 1, 1 / scale, 1])
    g = balred.ss(h.A * d / d[:, None], h.B / d[:, None], h.C * d, h.D)
    assert_allclose(balred.analyze(g, method="modal").hsv, balred.analyze(h, method="modal").hsv, rtol=1e-9)


# ----------------------------------------------------------------------------------------------------- around the method


@TIMES
@pytest.mark.parametrize("kind", ["diagonal", "conjugate"])
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_diagonal_systems_keep_their_own_poles(dt, kind, precision):
    g = balred.testing.random_system(6, 2, 2, dt=dt, kind=kind, seed=4)
    if precision == "float32":
        g = balred.diagonal(
            log_poles=g.log_poles.astype("complex64"), B=g.B.astype("complex64"), C=g.C.astype("complex64"),
            D=g.D.astype("float32"), dt=dt, conjugate=g.conjugate,
        )  # fmt: skip
    gain = np.linalg.norm(g.C, axis=0) * np.linalg.norm(g.B, axis=1)
    gain = gain / (1 - np.abs(g.poles) if dt else -g.poles.real)
    for k in (1, 3, 5):
        small = balred.reduce(g, k, method="modal")
        best = np.argsort(-gain)[:k]
        eps = np.finfo(precision).eps
        assert small.log_poles.dtype == g.log_poles.dtype
        assert small.states == k
        # a stored pole of a conjugate system stands for its conjugate as well
        own = np.concatenate([g.poles[best], g.poles[best].conj()]) if kind == "conjugate" else g.poles[best]
        assert np.abs(small.poles[:, None] - own).min(axis=1).max() < 30 * eps * np.abs(own).max()


def test_a_real_stored_pole_of_a_conjugate_system():
    g = balred.diagonal([-1.0 + 0j, -0.5 + 3j, -0.2 + 1j], B=[[3.0], [0.1], [1.0]], C=[[1.0, 0.1, 1.0]], conjugate=True)
    small = balred.reduce(g, 2, method="modal")
    assert_allclose(np.sort_complex(np.abs(small.poles.imag)), [0, 1], atol=1e-12)
    for z in (0.0, 0.7j, 2j):
        want = 6 / (z + 1) + 1 / (z + 0.2 - 1j) + 1 / (z + 0.2 + 1j)
        assert_allclose(small(z), [[want]], rtol=1e-10)


def test_unstable_and_marginal_poles_come_first():
    g = rational([0.0, 2.0, -1.0, -3.0], [1.0, 1.0, 1.0, 1.0])
    a = balred.analyze(g, method="modal")
    assert_allclose(a.hsv, [np.inf, np.inf, 1, 1 / 3], rtol=1e-12)
    assert distance(a.reduce(3), np.array([0.0, 2.0, -1.0])) < 1e-14
    # kept although it is not dominant
    offset = balred.reduce(rational([-0.1, -1.0, -2.0], [1e-6, 1.0, 1.0]), 2, method="modal", offset=0.5)
    assert distance(offset, np.array([-0.1, -1.0])) < 1e-14


def test_rules():
    g = rational([-1.0, -2.0, -4.0, -8.0], [8.0, 4.0, 2.0, 1.0])  # scores 8, 2, 1/2, 1/8
    a = balred.analyze(g, method="modal")
    assert_allclose(a.hsv, [8, 2, 0.5, 0.125], rtol=1e-12)
    assert a.rank(balred.ErrorBound(0.7)) == 2
    assert a.rank(balred.ErrorBound(0.6)) == 3
    assert a.rank(balred.Energy(0.9)) == 2
    assert a.rank(balred.Relative(0.05)) == 3


@SEEDS
@pytest.mark.parametrize(("which", "dominance"), [("NR", "residue"), ("LR", "slow"), ("SM", "frequency"), ("NS", None)])
def test_pymor(seed, which, dominance):
    """pyMOR's modal truncation by eigenvectors; its 'NS' is |R|/|pole|.  Of systems with complex poles 2026.1 keeps
    others than it says, and halves of pairs, so the poles are real here."""
    mt = pytest.importorskip("pymor.reductors.mt")
    from pymor.models.iosys import LTIModel

    rng = np.random.default_rng(seed)
    V = np.eye(7) + 0.3 * rng.standard_normal((7, 7))
    A = V @ np.diag(-rng.uniform(0.1, 5.0, 7)) @ np.linalg.inv(V)
    g = balred.ss(A, rng.standard_normal((7, 2)), rng.standard_normal((2, 7)))
    measure = dominance or (lambda p, R: np.linalg.norm(R, 2, axis=(1, 2)) / np.abs(p))
    a = balred.analyze(g, method="modal", dominance=measure)
    for k in (1, 3, 6):
        theirs = mt.MTReductor(LTIModel.from_matrices(g.A, g.B, g.C)).reduce(k, decomposition="eig", which=which)
        ours = a.reduce(k)
        for z in frequencies(g, 12):
            assert_allclose(ours(z), theirs.transfer_function.eval_tf(z), rtol=1e-8, atol=1e-9)


# -------------------------------------------------------------------------------------------------------------- the parts


def sum_over(poles, residues, chosen, z):
    return sum((residues[i] / (z - poles[i]) for i in np.flatnonzero(chosen)), np.zeros(residues.shape[1:]))


@SEEDS
@TIMES
@FIELDS
def test_slow_and_fast(seed, dt, complex):
    g = balred.testing.random_system(9, 2, 3, dt=dt, seed=seed, complex=complex)
    poles, residues = expansion(g)
    size = np.abs(np.log(poles.astype("complex")) / dt) if dt else np.abs(poles)
    cutoff = float(np.median(size) * 1.0001)
    slow, fast = frequency_separation(g, cutoff)
    assert (slow.order, fast.order) == (int(np.sum(size < cutoff)), int(np.sum(size >= cutoff)))
    assert slow.order in (4, 5, 6)
    assert np.iscomplexobj(slow.A) == complex
    assert slow.dt == fast.dt == g.dt
    assert not slow.D.any()
    assert_allclose(fast.D, g.D, atol=0)
    for z in frequencies(g, 12):
        assert_allclose(slow(z), sum_over(poles, residues, size < cutoff, z), rtol=1e-8, atol=1e-10)
        assert_allclose(slow(z) + fast(z), g(z), rtol=1e-9, atol=1e-10)


@SEEDS
@TIMES
def test_stable_and_unstable(seed, dt):
    h = balred.testing.random_system(7, 2, 2, dt=dt, seed=seed)
    base = np.linalg.eigvals(h.A)
    A = h.A * 1.5 if dt else h.A - base.real.mean() * np.eye(7)
    g = balred.ss(A, h.B, h.C, h.D, dt)
    poles, residues = expansion(g)
    for offset in (None, 0.05):
        inside = (
            (np.abs(poles) < 1 - (offset or 0))
            if dt
            else (poles.real < -(offset or 0) - (1e-12 if offset is None else 0))
        )
        stable, unstable = stable_unstable(g, offset)
        assert stable.order == inside.sum()
        assert unstable.order == 7 - inside.sum()
        assert unstable.order > 0
        assert_allclose(stable.D, g.D, atol=0)
        assert not unstable.D.any()
        for z in frequencies(g, 12):
            assert_allclose(stable(z), g.D + sum_over(poles, residues, inside, z), rtol=1e-7, atol=1e-9)
            assert_allclose(stable(z) + unstable(z), g(z), rtol=1e-8, atol=1e-9)


@SEEDS
@pytest.mark.parametrize("dico", ["C", "D"])
def test_tb01kd(seed, dico):
    """SLICOT's additive decomposition, in the C translation ctrlsys."""
    ctrlsys = pytest.importorskip("ctrlsys")
    dt = int(dico == "D")
    h = balred.testing.random_system(7, 2, 2, dt=dt, seed=seed)
    A = h.A * 1.5 if dt else h.A + 0.6 * np.eye(7)
    args = [np.asfortranarray(x.copy()) for x in (A, h.B, h.C)]
    a, b, c, ndim, *_, info = ctrlsys.tb01kd(dico, "S", "G", 1.0 if dt else 0.0, *args)
    assert info == 0
    theirs = balred.ss(a[:ndim, :ndim], b[:ndim], c[:, :ndim], dt=dt)
    stable, _ = stable_unstable(balred.ss(A, h.B, h.C, dt=dt))
    assert stable.order == ndim
    for z in frequencies(h, 12):
        assert_allclose(stable(z), theirs(z), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", ["diagonal", "conjugate"])
def test_diagonal_parts(kind):
    g = balred.testing.random_system(6, 2, 2, dt=1, kind=kind, seed=2)
    size = np.abs(np.log(g.poles))
    slow, fast = frequency_separation(g, float(np.median(size)))
    assert type(slow) is type(fast) is type(g)
    assert slow.states == fast.states == 3
    assert slow.conjugate == g.conjugate
    for z in frequencies(g, 8):
        assert_allclose(slow(z) + fast(z), g(z), rtol=1e-12)
    with pytest.raises(
        ValueError, match="each part of a diagonal system must have a pole, got none at or above the cutoff"
    ):
        frequency_separation(g, 100.0)
    with pytest.raises(
        ValueError, match="each part of a diagonal system must have a pole, got none outside the boundary of stability"
    ):
        stable_unstable(g)


def test_a_dense_part_may_be_empty():
    g = balred.testing.random_system(4, 2, 3, seed=0)
    slow, fast = frequency_separation(g, 1e6)
    assert (slow.order, fast.order, fast.D.shape) == (4, 0, (3, 2))
    assert_allclose(fast(1j), g.D, atol=0)
    stable, unstable = stable_unstable(g)
    assert (stable.order, unstable.order) == (4, 0)


def test_objects_come_back_as_they_came():
    control = pytest.importorskip("control")
    g = control.ss(np.diag([-1.0, -50.0]), [[1.0], [1.0]], [[1.0, 2.0]], 3.0, name="plant", inputs=["u"], outputs=["y"])
    slow, fast = frequency_separation(g, 10.0)
    for part in (slow, fast):
        assert isinstance(part, control.StateSpace)
        assert (part.name, part.input_labels, part.output_labels) == ("plant", ["u"], ["y"])
    assert_allclose((slow.A, fast.A, fast.D), ([[-1.0]], [[-50.0]], [[3.0]]))
    stable, unstable = stable_unstable(g)
    assert isinstance(unstable, control.StateSpace)
    assert (stable.nstates, unstable.nstates) == (2, 0)


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_arrays_stay_in_their_library(library):
    pytest.importorskip(library)
    be = balred.systems.arrays.backend(library)
    g = balred.testing.random_system(6, 2, 2, seed=1)
    like = be.from_numpy(
        np.zeros(1, np.float32), like=pytest.importorskip("jax.numpy" if library == "jax" else "torch").zeros(1)
    )
    narrow = balred.ss(*(be.from_numpy(x, like=like) for x in (g.A, g.B, g.C, g.D)))
    for part, exact in zip(frequency_separation(narrow, 1.0), frequency_separation(g, 1.0), strict=True):
        assert type(part.A) is type(narrow.A)
        assert part.A.dtype == part.D.dtype == narrow.A.dtype
        assert part.order == exact.order
        assert_allclose(be.to_numpy(part.C @ part.B), exact.C @ exact.B, atol=1e-4)


def test_what_cannot_be_separated_is_refused():
    A = jordan(2, -1.0, [-5.0])
    A[1, 1] -= 1e-9  # the eigenvectors of the two are 1e-9 apart
    g = balred.ss(A, np.ones((3, 1)), np.ones((1, 3)))
    assert [part.order for part in frequency_separation(g, 3.0)] == [2, 1]
    with pytest.raises(
        ValueError,
        match=r"slow and fast poles must be separable, got a transformation of condition .*: choose another cutoff",
    ):
        frequency_separation(g, 1 + 5e-10)
    with pytest.raises(ValueError, match=r"stable and unstable poles must be separable, .*: choose another offset"):
        stable_unstable(g, 1 + 5e-10)


@pytest.mark.parametrize("cutoff", [0.0, -1.0, np.nan, True, "1", None])
def test_a_cutoff_is_a_positive_frequency(cutoff):
    with pytest.raises(ValueError, match=f"cutoff must be a positive frequency, got {cutoff!r}"):
        frequency_separation(rational([-1.0, -2.0], [1.0, 1.0]), cutoff)


def test_batches_are_refused():
    g = balred.testing.random_system(4, batch=(3,), seed=0)
    with pytest.raises(ValueError, match=r"one system can be split, got a batch of shape \(3,\)"):
        frequency_separation(g, 1.0)
