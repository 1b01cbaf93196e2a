"""LinOSS layers: the oscillators' equations of arXiv 2410.03943 and 2505.12171 stepped as they stand, in equinox."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
eqx = pytest.importorskip("equinox")

import jax.numpy as jnp  # noqa: E402
from linoss_layers import H, LinOSS, N, U, linoss  # noqa: E402

import balred  # noqa: E402
from balred.layers.linoss import recurrence  # noqa: E402
from balred.registry import AdapterNotFound  # noqa: E402
from balred.selection.oscillators import HORIZON, response_gram  # noqa: E402
from balred.testing import simulate  # noqa: E402


def response(layer: Any, length: int) -> Any:
    """The impulse response, (length, outputs, inputs), without the feedthrough."""
    h = layer.D.shape[0]
    impulses = np.eye(h)[:, None, :] * (np.arange(length) == 0)[:, None]
    quiet = eqx.tree_at(lambda m: m.D, layer, jnp.zeros_like(layer.D))
    return np.stack([quiet(jnp.asarray(u, jnp.float32)) for u in impulses], axis=-1).astype(np.float64)


KINDS = ("damped", "implicit", "undamped")
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.mark.alike
@each_kind
def test_the_system_is_the_layer(kind: str) -> None:
    layer = linoss(kind)
    system = balred.adapt(layer)[0]
    assert (system.states, str(system.A.dtype)) == (4 * N, "float32")
    want = np.asarray(layer(jnp.asarray(U, jnp.float32)))
    # float32 over 60 steps: a hundred times its rounding
    assert np.abs(simulate(system, U) - want).max() < 1e-5 * np.abs(want).max()


@each_kind
def test_all_oscillators_give_the_layer_back(kind: str) -> None:
    layer = linoss(kind)
    same = balred.reduce(layer, N)
    u = jnp.asarray(U, jnp.float32)
    np.testing.assert_array_equal(same(u), layer(u))


@pytest.mark.full
@each_kind
@pytest.mark.parametrize("rank", [2, 5])
@pytest.mark.parametrize("compensate", [True, False])
def test_the_error_under_white_noise_is_the_one_announced(kind: str, rank: int, compensate: bool) -> None:
    layer = linoss(kind)
    # white noise: the output's variance is the sum of squares of the impulse response.  The damped ones are silent after
    # 600 steps (moduli below 0.99), of the undamped ones only the first 300 are asked for
    length = 300 if kind == "undamped" else None
    p = balred.plan(layer, rank, calibration=length, compensate=compensate)
    small = p.apply()
    assert type(small) is LinOSS
    assert (layer.state_dim, small.state_dim, small.B.shape, small.C.shape) == (N, rank, (rank, H, 2), (H, rank, 2))
    assert np.array_equal(small.D, layer.D)
    full, reduced = (response(x, length or 2000) for x in (layer, small))
    error = np.sum((full - reduced) ** 2) / np.sum(full**2)
    assert error == pytest.approx(1 - p.rows[0].energy, rel=1e-3)  # float32 responses
    assert "white noise" in p.rows[0].note


@pytest.mark.full
def test_the_error_announced_is_the_H2_error_of_the_systems() -> None:
    layer = eqx.tree_at(lambda m: m.D, linoss("damped"), jnp.zeros(H))
    p = balred.plan(layer, 4)
    full, small = (balred.adapt(x)[0] for x in (layer, p.apply()))
    share = (balred.error(full, small, "h2") / balred.norm(full, "h2")) ** 2
    # both parameters and the refitted matrices are rounded to float32
    assert share == pytest.approx(1 - p.rows[0].energy, rel=1e-5)


@pytest.mark.full
@pytest.mark.alike
@each_kind
def test_refitting_beats_the_best_C_for_the_kept_oscillators(kind: str) -> None:
    layer, rank, length = linoss(kind), 4, 300
    plain = balred.reduce(layer, rank, calibration=length, compensate=False)
    full = response(layer, length)
    # least squares by hand: the signals of real and imaginary parts, one impulse after the other
    system = balred.adapt(plain)[0]
    A, B = np.asarray(system.A, float), np.asarray(system.B, float)
    x, signals = B, []
    for _ in range(length):
        signals.append(x[2 * rank :].T)
        x = A @ x
    design, wanted = np.concatenate(signals), full.transpose(0, 2, 1).reshape(-1, H)
    rest = wanted - design @ np.linalg.lstsq(design, wanted, rcond=None)[0]
    best = np.sum(rest**2) / np.sum(wanted**2)
    got, selected = (
        1 - balred.plan(layer, rank, calibration=length, compensate=c).rows[0].energy for c in (True, False)
    )
    assert got <= best * (1 + 1e-3) < selected


@each_kind
def test_oscillators_that_others_can_do_cost_nothing(kind: str) -> None:
    half = linoss(kind, 4)
    mixing = np.random.default_rng(2).normal(size=(4, 2, 2))
    # the same poles and the same span of drives, with other outputs, louder than the originals
    B = jnp.concatenate([half.B, jnp.einsum("nhi,nij->nhj", half.B, mixing)])
    C = jnp.concatenate([half.C, 3 * half.C[..., ::-1]], axis=1)
    twice = {k: jnp.tile(getattr(half, k), 2) for k in ("A_diag", "steps") + (("G_diag",) if kind == "damped" else ())}
    values = twice | {"B": B, "C": C}
    layer = eqx.tree_at(lambda m: [getattr(m, k) for k in values], half, list(values.values()))
    small = balred.reduce(layer, 4, calibration=300)
    full = response(layer, 300)
    assert np.abs(response(small, 300) - full).max() < 1e-4 * np.abs(full).max()


def test_without_refitting_the_kept_ones_stay_as_they_are() -> None:
    layer = linoss("damped")
    small = balred.reduce(layer, 3, compensate=False)
    kept = [int(np.flatnonzero(np.asarray(layer.A_diag) == a)[0]) for a in np.asarray(small.A_diag)]
    assert kept == sorted(set(kept))
    for name in ("A_diag", "G_diag", "steps", "B"):
        np.testing.assert_array_equal(getattr(small, name), getattr(layer, name)[np.array(kept)])
    np.testing.assert_array_equal(small.C, layer.C[:, np.array(kept)])


@pytest.mark.parametrize("selection", ["separate", "random"])
def test_baselines_are_no_better(selection: str) -> None:
    layer = linoss("implicit", 16)
    ours, theirs = (1 - balred.plan(layer, 5, selection=s).rows[0].energy for s in ("joint", selection))
    assert ours <= theirs


def test_one_input_and_one_output_where_real_and_imaginary_drives_are_the_same() -> None:
    p = balred.plan(linoss("damped", h=1), 4)
    full, small = response(p.model, 2000), response(p.apply(), 2000)
    assert np.sum((full - small) ** 2) / np.sum(full**2) == pytest.approx(1 - p.rows[0].energy, rel=1e-3)


def test_a_rule_keeps_what_it_says_and_a_budget_is_shared() -> None:
    layer = linoss("implicit", 16)
    p = balred.plan(layer, balred.Energy(0.99, squared=True))
    assert p.rows[0].energy >= 0.99
    assert p.rows[0].after < 16
    p = balred.plan([layer, linoss("damped", seed=3)], balred.Budget(states=10))
    assert sum(row.after for row in p.rows) == 10


@pytest.mark.full
def test_beside_layers_of_other_kinds_in_a_model() -> None:
    lru = balred.adapters.equinox.LRU(H, 6, key=jax.random.key(0))
    model = {"osc": linoss("damped"), "lru": lru, "head": eqx.nn.Linear(H, 2, key=jax.random.key(1))}
    small = balred.reduce(model, 3)
    assert (small["osc"].state_dim, small["lru"].states, small["head"] is model["head"]) == (3, 3, True)
    # two states for each of the real and the imaginary drive of an oscillator
    assert {name: len(s) for name, s in balred.hsv(model).items()} == {"osc": 4 * N, "lru": 12}


@pytest.mark.parametrize("length", [None, 1, 37])
@pytest.mark.parametrize("kind", KINDS)
def test_response_gram_is_the_plain_sum(kind: str, length: int | None) -> None:
    rng = np.random.default_rng(4)
    tree = {"A_diag": rng.uniform(0.2, 2, 3), "steps": rng.normal(size=3)}
    if kind == "damped":
        tree["G_diag"] = np.array([0.3, 1.0, 0.5])
        tree["A_diag"][1] = 0.0  # held at the boundary, where the two poles meet
    elif kind == "undamped":
        tree["A_diag"][1] = -1.0  # no stiffness: its response grows without end
    M, f = (np.stack(x, axis=-1) for x in recurrence(tree, "IM" if kind == "implicit" else "IMEX"))
    M, x, want = M.reshape(-1, 2, 2), f, np.zeros((3, 3))
    for _ in range(length or HORIZON):
        want += np.outer(x[:, 1], x[:, 1])
        x = np.einsum("nij,nj->ni", M, x)
    np.testing.assert_allclose(response_gram(M, f, length), want, rtol=1e-9, atol=1e-12 * np.abs(want).max())


def test_messages() -> None:
    layer = linoss("undamped")
    with pytest.raises(ValueError, match="length of the sequences, a positive integer, got 0"):
        balred.reduce(layer, 3, calibration=0)
    with pytest.raises(ValueError, match="length of the sequences"):
        balred.reduce(layer, 3, calibration=U)
    with pytest.raises(ValueError, match="rank must be between 1 and 8, got 9"):
        balred.reduce(layer, 9)
    system, rebuild = balred.adapt(layer)
    with pytest.raises(ValueError, match="whole oscillators"):
        rebuild(system)
    stiff = eqx.tree_at(lambda m: m.A_diag, layer, 100 * layer.A_diag)
    with pytest.raises(ValueError, match="must stay finite over the 4096 steps"):
        balred.reduce(stiff, 3)


@pytest.mark.parametrize("change", ["scheme", "width"])
def test_other_modules_are_not_recognised(change: str) -> None:
    layer = linoss("damped")
    if change == "scheme":
        layer = LinOSS(**{k: v for k, v in vars(layer).items() if k != "discretization"}, discretization="RK4")
    else:
        layer = eqx.tree_at(lambda m: m.D, layer, jnp.ones(4))
    with pytest.raises(AdapterNotFound):
        balred.reduce(layer, 3)


def test_a_parameter_that_is_not_known_is_refused_by_name() -> None:
    layer = eqx.tree_at(lambda m: m.state_dim, linoss("damped"), jnp.ones(4))
    with pytest.raises(ValueError, match="got state_dim beside those of a LinOSS layer"):
        balred.reduce(layer, 3)


def test_in_training_it_is_cut_as_by_reduce_and_without_data() -> None:
    optax = pytest.importorskip("optax")
    from balred.adapters.equinox import InTrainingReducer

    layer, tx = linoss("damped"), optax.adam(1e-3)
    state = tx.init(eqx.filter(layer, eqx.is_inexact_array))
    reducer = InTrainingReducer(balred.Order(3), (0, 1), 1)
    small, state, _, report = reducer.update(layer, state, reducer.init(layer), 1)
    want = balred.reduce(layer, 3)
    assert [(cut.before, cut.after) for cut in report.cuts] == [(N, 3)]
    for name in ("A_diag", "G_diag", "B", "C", "steps"):
        np.testing.assert_array_equal(getattr(small, name), getattr(want, name))
    assert state[0].mu.B.shape == want.B.shape
    with pytest.raises(ValueError, match="a selective layer has no a-priori error bound"):
        InTrainingReducer(balred.ErrorBound(0.1), (0, 1), 1).init(layer)
