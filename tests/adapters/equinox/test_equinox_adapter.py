"""The equinox LRU layer, pytrees of layers, and truncation during training with optax's optimizers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest

jax = pytest.importorskip("jax")
eqx = pytest.importorskip("equinox")
optax = pytest.importorskip("optax")

import jax.numpy as jnp  # noqa: E402

import balred  # noqa: E402
from balred.adapters.equinox import LRU, InTrainingReducer  # noqa: E402
from balred.intraining import Guard  # noqa: E402
from balred.layers.scans import scan  # noqa: E402
from balred.reduction import SkippedWarning  # noqa: E402
from balred.testing import check_adapter, simulate  # noqa: E402

RULE = balred.Energy(0.9)
FIELDS = ("nu_log", "theta_log", "gamma_log", "B_re", "B_im", "C_re", "C_im", "D")


@pytest.fixture
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def lru(features: int = 2, states: int = 8, seed: int = 0, **kw: Any) -> Any:
    """In the precision of the scope that it is made in."""
    return LRU(features, states, key=jax.random.key(seed), **kw)


def data(*shape: int, seed: int = 0) -> Any:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype=jnp.result_type(float))


run = eqx.filter_jit(lambda layer, u: layer(u))  # one compilation a shape, where eager calls make one a primitive


def recurrence(layer: Any, u: Any) -> Any:
    """The paper's recurrence in float64."""
    v = {k: np.asarray(getattr(layer, k), np.float64) for k in FIELDS}
    lam = np.exp(-np.exp(v["nu_log"]) + 1j * np.exp(v["theta_log"]))
    B, C = v["B_re"] + 1j * v["B_im"], v["C_re"] + 1j * v["C_im"]
    x, y = np.zeros(len(lam), complex), []
    for step in np.asarray(u, np.float64):
        x = lam * x + np.exp(v["gamma_log"]) * (B @ step)
        y.append((C @ x).real + v["D"] * step)
    return np.array(y)


def leaves(tree: Any) -> list[Any]:
    return [
        np.asarray(x)
        for x in jax.tree.leaves(eqx.filter(tree, eqx.is_array))
        if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    ]


def same(a: Any, b: Any) -> bool:
    x, y = leaves(a), leaves(b)
    return len(x) == len(y) and all(np.array_equal(p, q) for p, q in zip(x, y, strict=True))


# ------------------------------------------------------------------------------------------------ the layer


@pytest.mark.full
@pytest.mark.parametrize("length", [1, 7, 64])
def test_layer_is_the_plain_recurrence(length: int) -> None:
    layer, u = lru(3, 12), data(length, 3)
    got, want = np.asarray(run(layer, u)), recurrence(layer, u)
    assert got.dtype == np.float32
    assert np.abs(got - want).max() < 2e-5 * np.abs(want).max()


@pytest.mark.full
@pytest.mark.usefixtures("x64")
def test_layer_is_the_plain_recurrence_in_double_precision() -> None:
    layer, u = lru(3, 12), data(50, 3)
    got, want = np.asarray(run(layer, u)), recurrence(layer, u)
    assert got.dtype == np.float64
    assert np.abs(got - want).max() < 1e-13 * np.abs(want).max()


@pytest.mark.usefixtures("x64")
def test_scan_is_the_recurrence() -> None:
    rng = np.random.default_rng(0)
    log_poles = -rng.random(4) + 6j * rng.random(4)
    u = rng.standard_normal((33, 4)) + 1j * rng.standard_normal((33, 4))
    x, want = np.zeros(4, complex), []
    for step in u:
        x = np.exp(log_poles) * x + step
        want.append(x)
    np.testing.assert_allclose(jax.jit(partial(scan, jnp))(log_poles, u), want, rtol=0, atol=1e-13)


@pytest.mark.parametrize("arguments", [(0, 4), (4, 0), (4, 4, 0.9, 0.5), (4, 4, 0.0, 1.5)])
def test_bad_sizes_and_rings(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="must"):
        LRU(*arguments, key=jax.random.key(0))


# ------------------------------------------------------------------------------------------------ adapt and reduce


def applied(layer: Any, u: Any) -> Any:
    return np.asarray(run(layer, jnp.asarray(u, layer.D.dtype)))


@pytest.mark.full
def test_check_adapter() -> None:
    check_adapter(lru(3, 12), applied, length=16)


@pytest.mark.full  # in single precision above
@pytest.mark.usefixtures("x64")
def test_check_adapter_in_double_precision() -> None:
    check_adapter(lru(3, 12, r_min=0.9, r_max=0.999), applied, length=16)


@pytest.mark.usefixtures("x64")
def test_the_reduced_layer_is_the_reduced_system_and_the_original_is_untouched() -> None:
    layer, u = lru(3, 10), data(30, 3)
    before = leaves(layer)
    system = balred.adapt(layer)[0]
    for rank in (1, 4, 9, 10):
        small = balred.reduce(layer, rank)
        assert type(small) is LRU
        want = simulate(balred.reduce(system, rank), np.asarray(u))
        assert np.abs(recurrence(small, u) - want).max() < 1e-11 * np.abs(want).max()
    np.testing.assert_allclose(recurrence(small, u), recurrence(layer, u), rtol=0, atol=1e-11)
    assert all(np.array_equal(a, b) for a, b in zip(before, leaves(layer), strict=True))


POLES: dict[str, list[complex]] = {
    "positive real": [0.9, 0.5, 0.1],
    "negative real": [-0.9, -0.5, -0.1],
    "zero": [0.0, 0.5 + 0.5j, 0.2],
    "pairs": [0.6 + 0.7j, -0.2 + 0.9j, 0.99 * np.exp(0.001j)],
}


@pytest.mark.full
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("poles", POLES.values(), ids=POLES)
def test_poles_written_back_survive_with_finite_gradients(poles: list[complex]) -> None:
    rng = np.random.default_rng(1)
    (b1, b2), (c1, c2) = rng.standard_normal((2, 3, 2)), rng.standard_normal((2, 2, 3))
    system = balred.diagonal(
        np.array(poles, complex), B=b1 + 1j * b2, C=c1 + 1j * c2, D=np.diag([1.0, 1.0]), dt=True, conjugate=True
    )
    template = eqx.tree_at(lambda m: m.D, lru(2, 3), jnp.ones(2))
    layer = balred.adapt(template)[1](system)
    # exp(-30) = 9e-14 stands for zero
    np.testing.assert_allclose(np.asarray(balred.adapt(layer)[0].poles), poles, rtol=0, atol=2e-13)
    u = data(9, 2)
    want = simulate(system, np.asarray(u))
    assert np.abs(recurrence(layer, u) - want).max() < 1e-10 * np.abs(want).max()
    grads = eqx.filter_jit(eqx.filter_grad(lambda m: jnp.sum(m(u) ** 2)))(layer)
    assert all(np.isfinite(g).all() for g in leaves(grads))


@pytest.mark.full
def test_rebuild_refuses_what_an_lru_cannot_hold() -> None:
    rebuild = balred.adapt(lru(2, 2))[1]
    kw: dict[str, Any] = {"B": np.ones((2, 2), complex), "C": np.ones((2, 2), complex)}
    for system in (
        balred.diagonal([-1 + 1j, -2 + 1j], conjugate=True, **kw),
        balred.diagonal([0.5 + 0.1j, 0.2j], dt=1, **kw),
    ):
        with pytest.raises(ValueError, match="discrete conjugate system, got"):
            rebuild(system)


@pytest.mark.full
def test_singular_perturbation_is_refused() -> None:
    with pytest.raises(ValueError, match="method='truncate'"):
        balred.reduce(lru(), 3, method="singular_perturbation")


@pytest.mark.full
@pytest.mark.usefixtures("x64")
def test_hsv_of_a_layer_is_differentiable() -> None:
    layer = lru(2, 4)
    grads = eqx.filter_jit(eqx.filter_grad(lambda m: balred.hsv(m).sum()))(layer)
    for k in FIELDS[:-1]:
        g = np.asarray(getattr(grads, k))
        assert np.isfinite(g).all(), k
        assert np.abs(g).max() > 0, k
    step = 1e-6
    up, down = (
        float(balred.hsv(eqx.tree_at(lambda m: m.nu_log, layer, layer.nu_log.at[1].add(s * step))).sum())
        for s in (1, -1)
    )
    assert float(grads.nu_log[1]) == pytest.approx((up - down) / (2 * step), rel=1e-5)


# ------------------------------------------------------------------------------------------------ models


class Block(eqx.Module):
    """The inner layer has the name of the outer one, and its shapes: names must be compared as a whole."""

    lru: Any
    scale: Any


class Model(eqx.Module):
    lru: Any
    block: Block
    head: Any
    note: str = eqx.field(static=True)

    def __call__(self, u: Any) -> Any:
        return jax.vmap(self.head)(jnp.tanh(self.block.lru(u + self.lru(u)) * self.block.scale))


def model(seed: int = 0, sizes: tuple[int, int] = (8, 8)) -> Any:
    return Model(
        lru(2, sizes[0], seed=seed),
        Block(lru(2, sizes[1], seed=seed + 1), jnp.ones(2)),
        eqx.nn.Linear(2, 1, key=jax.random.key(seed)),
        "kept",
    )


def states(m: Any) -> list[int]:
    return [m.lru.states, m.block.lru.states]


def test_a_model_is_walked_by_name() -> None:
    m = model()
    before = leaves(m)
    assert list(balred.hsv(m)) == ["lru", "block.lru"]
    small = balred.reduce(m, {"lru": 3, "block.lru": 5})
    assert type(small) is Model
    assert states(small) == [3, 5]
    assert small.note == "kept"
    assert all(np.array_equal(a, b) for a, b in zip(before, leaves(m), strict=True))
    with pytest.warns(SkippedWarning, match=r"block\.lru"):
        assert states(balred.reduce(m, {"lru": 3})) == [3, 8]


@pytest.mark.full
def test_pytrees_of_layers() -> None:
    small = balred.reduce({"a": [lru(2, 6)], "b": (lru(2, 5, seed=1), jnp.ones(3))}, 3)
    assert [small["a"][0].states, small["b"][0].states] == [3, 3]
    sequential = balred.reduce(eqx.nn.Sequential([lru(2, 6), eqx.nn.Linear(2, 2, key=jax.random.key(0))]), 3)
    assert type(sequential) is eqx.nn.Sequential
    assert sequential[0].states == 3


# ------------------------------------------------------------------------------------------------ in training


def params(m: Any) -> Any:
    return eqx.filter(m, eqx.is_inexact_array)


def shapes(tree: Any) -> Any:
    return jax.tree.map(lambda x: (x.shape, str(x.dtype)), eqx.filter(tree, eqx.is_array))


def pushed(m: Any, optimizer: Any, opt_state: Any, seed: int = 0) -> tuple[Any, Any]:
    """A step with gradients out of thin air: what matters here is the optimizer's state, not the model's.

    They hardly vary, which is hard on what keeps a variance.
    """
    rng = np.random.default_rng(seed)
    grads = jax.tree.map(lambda p: jnp.asarray(0.1 + 0.01 * rng.standard_normal(p.shape), p.dtype), params(m))
    # what branches would be compiled anew at every eager call
    update = eqx.filter_jit(optimizer.update) if isinstance(optimizer, Branching) else optimizer.update
    updates, opt_state = update(grads, opt_state, params(m))
    return eqx.apply_updates(m, updates), opt_state


class Branching(NamedTuple):
    """An optimizer whose update holds a ``lax.cond``."""

    init: Any
    update: Any


def by_rank(m: Any) -> Any:
    return jax.tree.map(lambda p: "vector" if p.ndim == 1 else "matrix", params(m))


SCHEDULE = optax.exponential_decay(1e-2, 1, 0.9)
OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "adamw": lambda: optax.adamw(1e-3),
    "sgd": lambda: optax.sgd(1e-2),
    "sgd momentum": lambda: optax.sgd(1e-2, momentum=0.9, nesterov=True),
    "lion": lambda: optax.lion(1e-4),
    "clip": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3)),
    "schedule": lambda: optax.adam(SCHEDULE),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adamw)(learning_rate=1e-3),
    "MultiSteps": lambda: Branching(*optax.MultiSteps(optax.adam(1e-3), 2).gradient_transformation()),
    "ema": lambda: optax.chain(optax.scale_by_adam(), optax.ema(0.9), optax.scale(-1e-3)),
    "multi_transform": lambda: optax.multi_transform(
        {"vector": optax.adam(1e-3), "matrix": optax.sgd(1e-2, 0.9)}, by_rank
    ),
    "apply_if_finite": lambda: Branching(*optax.apply_if_finite(optax.adam(1e-3), 3)),
    "amsgrad": lambda: optax.amsgrad(1e-3),
    "nadam": lambda: optax.nadam(1e-3),
    "adamax": lambda: optax.adamax(1e-3),
    "rmsprop centered": lambda: optax.rmsprop(1e-3, momentum=0.9, centered=True),
    "adagrad": lambda: optax.adagrad(1e-2),
    "lamb": lambda: optax.lamb(1e-3),
}
REFUSED: dict[str, Callable[[], Any]] = {
    "adafactor": lambda: optax.adafactor(1e-3),
    "novograd": lambda: optax.novograd(1e-3),
    "lbfgs": lambda: optax.scale_by_lbfgs(),
    "schedule_free": lambda: optax.contrib.schedule_free_adamw(1e-3),
    "rprop": lambda: optax.rprop(1e-3),
}


def cut(make: Callable[[], Any], moments: str = "reset", steps: int = 3, m: Any = None) -> tuple[Any, ...]:
    optimizer, m = make(), model() if m is None else m
    opt_state = optimizer.init(params(m))
    reducer = InTrainingReducer(rule=RULE, window=(0, steps), attempts=1, moments=moments)
    state = reducer.init(m)
    for step in range(1, steps + 1):
        m, opt_state = pushed(m, optimizer, opt_state, step)
        old = (m, opt_state)
        m, opt_state, state, report = reducer.update(m, opt_state, state, step)
        assert (report is not None) == (step == steps)
    return optimizer, m, opt_state, report, *old


@pytest.mark.full
@pytest.mark.parametrize("moments", ["reset", "carry"])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_the_state_is_that_of_an_optimizer_of_the_small_model(make: Callable[[], Any], moments: str) -> None:
    optimizer, m, opt_state, report, *_ = cut(make, moments)
    assert [(c.layer, c.before, c.after) for c in report.cuts] == [
        ("lru", 8, m.lru.states), ("block.lru", 8, m.block.lru.states),
    ]  # fmt: skip
    assert max(states(m)) < 8
    fresh = optimizer.init(params(m))
    assert jax.tree.structure(opt_state) == jax.tree.structure(fresh)
    assert shapes(opt_state) == shapes(fresh)
    for seed in range(2):
        m, opt_state = pushed(m, optimizer, opt_state, seed)
    assert all(np.isfinite(x).all() for x in leaves(m) + leaves(opt_state))
    # no step is out of proportion to the learning rates, of which 1e-2 is the largest
    assert max(np.abs(x).max() for x in leaves(params(m))) < 20


@pytest.mark.full
@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_a_state_that_cannot_be_cut_is_refused_or_right_never_silently_wrong(make: Callable[[], Any]) -> None:
    optimizer, m = make(), model()
    opt_state = optimizer.init(params(m))
    reducer = InTrainingReducer(rule=RULE, window=(0, 1), attempts=1)
    refusal, result = "", (m, opt_state)
    try:
        result = reducer.update(m, opt_state, reducer.init(m), 1)[:2]
    except ValueError as error:
        refusal = str(error)
    if refusal:
        assert "optimizer state" in refusal
        return
    small, cut_state = result
    assert max(states(small)) < 8
    # not refused: then, since no step was taken yet, it must be what a fresh start gives
    fresh = optimizer.init(params(small))
    assert jax.tree.structure(cut_state) == jax.tree.structure(fresh)
    assert shapes(cut_state) == shapes(fresh)
    for a, b in zip(leaves(cut_state), leaves(fresh), strict=True):
        np.testing.assert_allclose(a, b)


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_with_the_optimizer_at_hand_such_a_state_starts_afresh_and_trains_on(make: Callable[[], Any]) -> None:
    optimizer, m = make(), model()
    opt_state = optimizer.init(params(m))
    reducer = InTrainingReducer(rule=RULE, window=(0, 1), attempts=1, optimizer=optimizer)
    small, opt_state, _, _ = reducer.update(m, opt_state, reducer.init(m), 1)
    fresh = optimizer.init(params(small))
    assert jax.tree.structure(opt_state) == jax.tree.structure(fresh)
    assert shapes(opt_state) == shapes(fresh)
    for a, b in zip(leaves(opt_state), leaves(fresh), strict=True):
        np.testing.assert_allclose(a, b)


@pytest.mark.full
def test_the_other_layers_state_is_left_alone() -> None:
    m = model(sizes=(8, 8))
    optimizer = optax.adam(1e-3)
    m, opt_state = pushed(m, optimizer, optimizer.init(params(m)))
    silent = eqx.tree_at(lambda x: [x.block.lru.C_re, x.block.lru.C_im], m, [jnp.zeros((2, 8))] * 2)
    reducer = InTrainingReducer(rule=RULE, window=(0, 1), attempts=1)
    small, new_state, _, report = reducer.update(silent, opt_state, reducer.init(silent), 1)
    assert [c.layer for c in report.cuts] == ["lru"]
    assert list(report.skipped) == ["block.lru"]
    assert "zero" in report.skipped["block.lru"]
    assert report.ranks == {"lru": small.lru.states, "block.lru": 8}
    assert same(new_state[0].mu.block, opt_state[0].mu.block)
    assert same(new_state[0].mu.head, opt_state[0].mu.head)
    assert new_state[0].mu.lru.B_re.shape == small.lru.B_re.shape


@pytest.mark.full
def test_layers_in_a_list_are_told_apart() -> None:
    m = [lru(2, 8), [lru(2, 8, seed=1), lru(2, 6, seed=2)]]
    optimizer = optax.adam(1e-3)
    m, opt_state = pushed(m, optimizer, optimizer.init(params(m)))
    reducer = InTrainingReducer(rule=RULE, window=(0, 1), attempts=1)
    small, opt_state, _, _ = reducer.update(m, opt_state, reducer.init(m), 1)
    assert shapes(opt_state) == shapes(optimizer.init(params(small)))


@pytest.mark.full
def test_counts_and_schedules_go_on() -> None:
    _, _, opt_state, *_ = cut(OPTIMIZERS["schedule"], steps=3)
    counts = [int(x) for x in leaves(opt_state) if x.dtype.kind == "i"]
    assert counts
    assert set(counts) == {3}
    _, _, opt_state, *_ = cut(OPTIMIZERS["inject_hyperparams"], steps=3)
    assert float(opt_state.hyperparams["learning_rate"]) == pytest.approx(1e-3)
    assert int(opt_state.count) == 3


@pytest.mark.full
def test_reset_forgets_cut_moments_only_and_old_values_stay() -> None:
    _, m, opt_state, _, old_model, old_state = cut(OPTIMIZERS["adamw"])
    assert states(old_model) == [8, 8]
    assert old_state[0].mu.lru.B_re.shape == (8, 2)
    assert m is not old_model
    for k in FIELDS[:-1]:
        assert not np.asarray(getattr(opt_state[0].mu.lru, k)).any(), k
        # the step count goes on, so a second moment starts at the mean of the old one, not at zero
        want = np.asarray(getattr(old_state[0].nu.block.lru, k)).mean()
        np.testing.assert_allclose(getattr(opt_state[0].nu.block.lru, k), want, rtol=1e-6, err_msg=k)
    assert np.array_equal(opt_state[0].mu.lru.D, old_state[0].mu.lru.D)
    assert np.array_equal(opt_state[0].nu.block.lru.D, old_state[0].nu.block.lru.D)
    assert same(opt_state[0].mu.head, old_state[0].mu.head)


@pytest.mark.full
def test_a_reset_does_not_multiply_the_learning_rate() -> None:
    # adam's first steps with zero moments and a large count would be several times the learning rate
    optimizer, m, opt_state, *_ = cut(OPTIMIZERS["adamw"], steps=40)
    for seed in range(5):
        before = m
        m, opt_state = pushed(m, optimizer, opt_state, seed)
        steps = jax.tree.map(lambda a, b: a - b, params(m), params(before))
        assert max(np.abs(x).max() for x in leaves(steps)) < 1.5e-3  # the learning rate is 1e-3, decay 1e-7


@pytest.mark.parametrize("bad", [{"moments": "slice"}, {"attempts": 0}, {"window": (4, 2)}, {"rule": 0.99}])
def test_bad_arguments(bad: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match="must"):
        InTrainingReducer(**{"rule": RULE, "window": (0, 3), **bad})


def test_init_needs_a_layer() -> None:
    with pytest.raises(TypeError, match="register"):
        InTrainingReducer(RULE, (0, 3)).init(eqx.nn.Linear(2, 2, key=jax.random.key(0)))


@pytest.mark.full
def test_a_model_that_is_itself_a_layer() -> None:
    optimizer, m, opt_state, report, *_ = cut(OPTIMIZERS["adamw"], m=lru(2, 10))
    assert report.cuts[0].layer == ""
    assert m.states == report.ranks[""] < 10
    assert shapes(opt_state) == shapes(optimizer.init(params(m)))


@pytest.mark.parametrize("moments", ["reset", "carry"])
def test_a_centred_variance_stays_one(moments: str) -> None:
    # rmsprop divides by the root of nu - mu^2: carried each by its own rule the difference would turn negative
    m = model()
    optimizer = optax.rmsprop(1e-3, centered=True)
    opt_state = optimizer.init(params(m))
    mean = jax.tree.map(lambda p: 0.1 * jnp.cos(jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape), params(m))
    square = jax.tree.map(lambda g: 1.001 * g**2, mean)
    opt_state = (opt_state[0]._replace(mu=mean, nu=square), *opt_state[1:])
    reducer = InTrainingReducer(rule=RULE, window=(0, 1), attempts=1, moments=moments)
    m, opt_state, _, _ = reducer.update(m, opt_state, reducer.init(m), 1)
    variance = jax.tree.map(lambda nu, mu: nu - mu**2, opt_state[0].nu, opt_state[0].mu)
    assert min(x.min() for x in leaves(variance)) >= 0


def doubled(half: Any) -> Any:
    """A layer with every mode of `half` twice, with other weights: the same operator, in no way minimal."""
    n = half.states
    rng = np.random.default_rng(3)
    w = rng.standard_normal((2, n)) + 1j * rng.standard_normal((2, n))
    B, C = half.B_re + 1j * half.B_im, half.C_re + 1j * half.C_im
    B2 = jnp.concatenate([w[0][:, None] * B, w[1][:, None] * B])
    C2 = jnp.concatenate([0.3 * C / w[0], 0.7 * C / w[1]], axis=1)
    values = {"B_re": B2.real, "B_im": B2.imag, "C_re": C2.real, "C_im": C2.imag}
    values |= {k: jnp.tile(getattr(half, k), 2) for k in FIELDS[:3]}
    return eqx.tree_at(lambda m: [getattr(m, k) for k in values], half, list(values.values()))


@pytest.mark.full
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["adam", "sgd", "lion"])
def test_carried_first_moments_are_the_gradients_of_the_cut_layer(name: str) -> None:
    full, u = doubled(lru(2, 3, seed=4)), data(9, 2)

    def loss(m: Any) -> Any:
        y = m(u)
        return jnp.sum(y**2) + jnp.sum(y[-1])

    gradient = eqx.filter_jit(eqx.filter_grad(loss))
    exact = gradient(full)
    optimizer = {"adam": optax.adam(1e-3), "sgd": optax.sgd(1e-3, momentum=0.9), "lion": optax.lion(1e-3)}[name]
    opt_state = optimizer.init(params(full))
    field = "trace" if name == "sgd" else "mu"
    opt_state = (opt_state[0]._replace(**{field: exact}), *opt_state[1:])
    reducer = InTrainingReducer(rule=balred.Energy(1.0), window=(0, 1), attempts=1, moments="carry")
    small, opt_state, _, _ = reducer.update(full, opt_state, reducer.init(full), 1)
    assert small.states == 3
    want, got = gradient(small), getattr(opt_state[0], field)
    for k in ("gamma_log", "B_re", "B_im", "C_re", "C_im", "D"):
        a, b = np.asarray(getattr(got, k)), np.asarray(getattr(want, k))
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * np.abs(b).max(), err_msg=k)


@pytest.mark.full
def test_training_retraces_once_per_cut_and_learns_on() -> None:
    traces: list[list[int]] = []
    optimizer = optax.adamw(3e-2)
    u, target = data(8, 2), data(8, 1, seed=1)

    @eqx.filter_jit
    def step(m: Any, opt_state: Any) -> tuple[Any, Any, Any]:
        traces.append(states(m))
        loss, grads = eqx.filter_value_and_grad(lambda x: jnp.mean((x(u) - target) ** 2))(m)
        updates, opt_state = optimizer.update(grads, opt_state, params(m))
        return eqx.apply_updates(m, updates), opt_state, loss

    m = model(sizes=(6, 6))
    opt_state = optimizer.init(params(m))
    reducer = InTrainingReducer(rule=RULE, window=(0, 4), attempts=1)
    state, losses, reports = reducer.init(m), [], []
    for k in range(1, 61):
        m, opt_state, loss = step(m, opt_state)
        m, opt_state, state, report = reducer.update(m, opt_state, state, k)
        losses.append(float(loss))
        reports += [report] if report else []
    assert [r.step for r in reports] == [4]
    assert traces == [[6, 6], states(m)]
    assert losses[-1] < 0.7 * losses[4]


# ------------------------------------------------------------------------------------------------ the guard


def drive(guard: Guard, steps: int, **kw: Any) -> tuple[Any, ...]:
    optimizer, m = optax.adam(1e-3), model()
    opt_state = optimizer.init(params(m))
    reducer = InTrainingReducer(rule=RULE, guard=guard, **{"window": (0, 6), "attempts": 3} | kw)
    state, history, reports = reducer.init(m), [], []
    for step in range(1, steps + 1):
        m, opt_state = pushed(m, optimizer, opt_state, step)
        history.append((m, opt_state))
        m, opt_state, state, report = reducer.update(m, opt_state, state, step)
        reports.append(report)
    return m, opt_state, reports, history


@pytest.mark.parametrize("after", [0.4, math.nan])
def test_a_guard_restores_at_once_and_for_good(after: float) -> None:
    def metric(m: Any) -> float:
        return 0.9 if states(m) == [8, 8] else after

    m, opt_state, reports, history = drive(Guard(metric, tolerance=0.1), 2)
    assert reports[0] is None
    assert reports[1].restored
    assert reports[1].cuts == ()
    assert reports[1].ranks == {"lru": 8, "block.lru": 8}
    assert "taken back" in str(reports[1])
    assert same(m, history[1][0])
    assert same(opt_state, history[1][1])
    m, _, reports, _ = drive(Guard(metric, tolerance=0.1), 8)
    assert [r is not None for r in reports] == [False, True] + [False] * 6
    assert states(m) == [8, 8]


def test_a_delayed_guard_restores_the_state_before_the_cut() -> None:
    guard = Guard(lambda m: float(sum(states(m))), tolerance=1.0, delay=3)
    m, opt_state, reports, history = drive(guard, 5)
    assert [i + 1 for i, r in enumerate(reports) if r is not None] == [2, 5]
    assert reports[1].cuts
    assert reports[4].restored
    assert same(m, history[1][0])
    assert same(opt_state, history[1][1])
    assert [r is not None for r in drive(guard, 10)[2]] == [False, True, False, False, True] + [False] * 5


@pytest.mark.full
def test_a_guard_that_accepts_lets_every_later_attempt_through() -> None:
    # judged at the very step of the next attempt, which must happen all the same (as it does in torch)
    _, _, reports, _ = drive(Guard(lambda m: 1.0, tolerance=0.0, delay=2), 8)
    assert [i + 1 for i, r in enumerate(reports) if r is not None] == [2, 4, 6]
    assert not any(r.restored for r in reports if r is not None)
