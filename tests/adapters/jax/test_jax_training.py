"""Truncation in JAX trainings: equinox, flax linen and flax nnx do the same; averages, guards, checkpoints, logs, optax states."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("equinox")
pytest.importorskip("flax")
pytest.importorskip("optax")

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from flax.training.train_state import TrainState
from jax_trainers import (
    LAYERS,
    STATES,
    TRAINERS,
    LinenLRU,
    as_tree,
    batch,
    initial,
    loss,
    output,
)

import balred
from balred.adapters import equinox, flax
from balred.adapters.flax import nnx as flax_nnx
from balred.adapters.jax.trees import names_of
from balred.intraining import EventLog, Guard

RULE = balred.Energy(0.9)
POLICY: dict[str, Any] = {"rule": RULE, "window": (0, 6), "attempts": 2}


def every(test: Any) -> Any:
    """In each framework: that they do the same is shown below."""
    return pytest.mark.alike(pytest.mark.parametrize("make", TRAINERS.values(), ids=TRAINERS)(test))


def leaves(tree: Any) -> list[Any]:
    return [np.asarray(x) for x in jax.tree.leaves(tree)]


def same(a: Any, b: Any) -> bool:
    x, y = leaves(a), leaves(b)
    return len(x) == len(y) and all(np.array_equal(p, q) for p, q in zip(x, y, strict=True))


def by_name(tree: Any) -> dict[str, Any]:
    return {".".join(names_of(path)): np.asarray(x) for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]}


def tree_of(m: Any) -> Any:
    """The parameters of what a loss is called with."""
    return m.params if isinstance(m, TrainState) else as_tree(m)


def average_of(trainer: Any) -> Any:
    """The averaged parameters as a tree."""
    average = trainer.average
    return average if isinstance(average, dict) else as_tree(average)


def kept(trainer: Any) -> list[Any]:
    """A copy of everything: what is donated is gone."""
    return [np.array(x) for x in jax.tree.leaves(trainer.everything())]


# ------------------------------------------------------------------------------------------------ the hook


@pytest.mark.full  # each of them below
def test_the_three_frameworks_do_the_same() -> None:
    trainers = [make(**POLICY) for make in TRAINERS.values()]
    reports = [trainer.run(range(1, 10)) for trainer in trainers]
    for one in reports:
        assert [r.step for r in one] == [3, 6]
        assert [r.cuts for r in one] == [r.cuts for r in reports[0]]
    # one compilation for every step at which something is cut
    assert [t.traces for t in trainers] == [3, 3, 3]
    assert all(max(t.ranks().values()) < STATES for t in trainers)
    first, *others = (by_name(t.tree()) for t in trainers)
    for other in others:
        assert set(other) == set(first)
        for name, x in first.items():  # the same program up to the order of sums, in float32
            np.testing.assert_allclose(other[name], x, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("left", [23, 11])
def test_neither_a_look_nor_a_cut_compiles_anything(left: int, caplog: pytest.LogCaptureFixture) -> None:
    """Of sizes that JAX has not met: reading a layer would else be a program for each of its operations, and so on."""
    model, optimizer = equinox.LRU(5, 23, key=jax.random.key(0)), optax.adamw(1e-3)
    opt_state = optimizer.init(model)
    reducer = equinox.InTrainingReducer(balred.Order(left), (0, 1), attempts=1)
    state = reducer.init(model)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        jax.jit(lambda x: x * 23)(jnp.ones(23))
        assert "ompil" in caplog.text
        caplog.clear()
        *_, report = reducer.update(model, opt_state, state, 1)
        assert "ompil" not in caplog.text
    assert not report.skipped
    assert len(report.cuts) == (left < 23)
    assert left - 2 <= report.ranks[""] <= left  # a real pole fills a state as well


@pytest.mark.full
@every
def test_a_dry_run_changes_nothing_and_tells(make: Any, tmp_path: Any) -> None:
    log = tmp_path / "run" / "events.jsonl"
    dry, plain = make(**POLICY, dry_run=True, log=log), make()
    reports = dry.run(range(1, 5))
    for k in range(1, 5):
        plain.step(k)
    assert same(dry.tree(), plain.tree())
    assert [r.dry_run for r in reports] == [True]
    (first, second) = (json.loads(line) for line in log.read_text().splitlines())
    assert first["event"] == second["event"] == "would cut"
    assert first["to"] < first["from"] == STATES


@pytest.mark.full
@every
def test_the_log_has_the_loss_of_the_last_batch_before_and_after(make: Any, tmp_path: Any) -> None:
    seen: list[Any] = []
    trainer = make(**POLICY, log=[tmp_path / "events.jsonl", seen.append])
    for k in range(1, 4):
        trainer.step(k)
        before = float(loss(trainer.tree(), batch(k)))
        report = trainer.cut(k, lambda m: loss(tree_of(m), batch(3)))
    after = float(loss(trainer.tree(), batch(3)))
    assert seen == [report]
    assert report.loss == pytest.approx((before, after), rel=1e-5)
    events = EventLog(tmp_path / "events.jsonl").read()
    assert [(e["layer"], e["loss_after"]) for e in events] == [(name, report.loss[1]) for name in LAYERS]


@pytest.mark.full
@every
def test_a_budget_is_shared_out(make: Any) -> None:
    trainer = make(**{**POLICY, "rule": balred.Budget(states=9)})
    trainer.run(range(1, 4))
    assert sum(trainer.ranks().values()) == 9


@pytest.mark.full
@every
@pytest.mark.parametrize("moments", ["reset", "carry"])
def test_the_state_is_that_of_an_optimizer_of_the_small_model(make: Any, moments: str) -> None:
    trainer = make(**POLICY, moments=moments)
    trainer.run(range(1, 4))
    state = by_name(trainer.opt_state)
    fresh = by_name(trainer.tx.init(trainer.tree()))
    assert {n: x.shape for n, x in state.items()} == {n: x.shape for n, x in fresh.items()}
    assert state["0.count"] == 3
    assert np.any(state["0.mu.head.kernel"])
    # the same rule for moments in all three frameworks: carried ones are no zeros
    assert np.any(state["0.mu.first.B_re"]) == (moments == "carry")
    assert np.any(state["0.nu.second.C_im"])


@pytest.mark.full
def test_moments_are_carried_alike() -> None:
    trainers = [make(**POLICY, moments="carry") for make in TRAINERS.values()]
    for trainer in trainers:
        trainer.run(range(1, 4))
    first, *others = (by_name(t.opt_state) for t in trainers)
    for other in others:
        for name in ("0.mu.first.nu_log", "0.mu.second.B_im", "0.nu.second.C_re"):
            np.testing.assert_allclose(other[name], first[name], rtol=1e-2, atol=1e-2 * np.abs(first[name]).max())


# ------------------------------------------------------------------------------------------------ averages


@pytest.mark.full
@every
def test_an_average_is_cut_by_the_transformation_of_the_model(make: Any) -> None:
    trainer = make(**POLICY, decay=0.5)
    for k in range(1, 4):
        trainer.step(k)
    live, full = jax.tree.map(jnp.copy, trainer.tree()), jax.tree.map(jnp.copy, average_of(trainer))
    assert not same(live, full)
    trainer.cut(3)
    average, u = average_of(trainer), batch(50)
    assert {n: average[n]["nu_log"].shape[0] for n in LAYERS} == trainer.ranks() != dict.fromkeys(LAYERS, STATES)
    # near to the model as before, its parameters too: its states are the same ones in the same order
    near = float(jnp.linalg.norm(output(full, u) - output(live, u)))
    assert float(jnp.linalg.norm(output(average, u) - output(trainer.tree(), u))) < 1.5 * near
    assert moved(average, trainer.tree()) < 10 * moved(full, live) < 0.1
    trainer.run(range(4, 6))
    assert all(np.isfinite(x).all() for x in leaves(average_of(trainer)))


@pytest.mark.full
def test_states_of_optax_ema_are_averages_that_start_at_zero() -> None:
    params, ema = initial(), optax.ema(0.9)
    state = ema.init(params)
    for _ in range(3):
        unbiased, state = ema.update(params, state)
    np.testing.assert_allclose(unbiased["first"]["nu_log"], params["first"]["nu_log"], rtol=1e-5)
    reducer = equinox_reducer(ema_decay=0.9)
    small, _, _, report, cut = reducer.update(
        params, (), reducer.init(params), 1, averages={"ema": state, "plain": params}
    )
    assert report.cuts
    assert int(cut["ema"].count) == 3
    for average in (cut["plain"], ema_value(cut["ema"], 0.9)):
        for name, x in by_name(
            average
        ).items():  # the average is the model itself, so it is cut to the same layer in effect
            assert x.shape == by_name(small)[name].shape
        u = batch(0)
        np.testing.assert_allclose(output(average, u), output(small, u), atol=2e-4)
    with pytest.raises(ValueError, match="ema_decay="):
        equinox_reducer().update(params, (), reducer.init(params), 1, averages=state)


def ema_value(state: Any, decay: float) -> Any:
    return jax.tree.map(lambda x: x / (1 - decay ** int(state.count)), state.ema)


def equinox_reducer(**kw: Any) -> Any:
    """Also of plain trees of parameters."""
    return equinox.InTrainingReducer(**{"rule": RULE, "window": (0, 1), "attempts": 1, **kw})


@pytest.mark.full
def test_other_averages_are_refused() -> None:
    params, reducer = initial(), equinox_reducer()
    state = reducer.init(params)
    with pytest.raises(ValueError, match=r"trees of the model's parameters, got 'x' of shape \(3,\)"):
        reducer.update(params, (), state, 1, averages={"x": jnp.ones(3)})
    with pytest.raises(ValueError, match="all arrays of a layer"):
        reducer.update(params, (), state, 1, averages={"first": {"nu_log": params["first"]["nu_log"]}})
    with pytest.raises(ValueError, match=r"\[0, 1\), got 1"):
        equinox_reducer(ema_decay=1)


# ------------------------------------------------------------------------------------------------ the guard


def falling(states: Callable[[Any], int]) -> Guard:
    return Guard(lambda m: float(states(m)), tolerance=1.0, delay=2)


STATES_OF: dict[str, Callable[[Any], int]] = {
    "equinox": lambda m: m.first.states,
    "linen": lambda now: now.params["first"]["nu_log"].shape[0],
    "nnx": lambda m: m.first.nu_log.shape[0],
}


@pytest.mark.full
@pytest.mark.alike
@pytest.mark.parametrize("kind", TRAINERS)
def test_a_guard_takes_everything_back(kind: str) -> None:
    trainer = TRAINERS[kind](**POLICY, guard=falling(STATES_OF[kind]))
    for k in range(1, 4):
        trainer.step(k)
    before = kept(trainer)
    first = trainer.cut(3)
    assert first.cuts
    assert not same(before, kept(trainer))
    assert trainer.run(range(4, 5)) == []
    trainer.step(5)
    report = trainer.cut(5)
    assert report.restored
    assert (report.step, report.back_to, report.ranks) == (5, 3, dict.fromkeys(LAYERS, STATES))
    # model, optimizer, average, random keys; for linen the step as well
    assert same(before, kept(trainer))
    assert trainer.run(range(6, 10)) == []
    assert trainer.traces == 2


# ------------------------------------------------------------------------------------------------ resuming


@pytest.mark.full
@pytest.mark.parametrize(("kind", "at"), [("equinox", 2), ("equinox", 8), *((kind, 4) for kind in TRAINERS)])
def test_a_resumed_run_is_the_run_that_was_not_interrupted(kind: str, at: int, tmp_path: Any) -> None:
    def made() -> Any:
        return TRAINERS[kind](**POLICY, log=tmp_path / "events.jsonl", moments="carry")

    trainer = made()
    trainer.run(range(1, at + 1))
    saved = json.dumps(trainer.state.to_dict()), kept(trainer)
    events = EventLog(tmp_path / "events.jsonl").read()
    trainer.run(range(at + 1, 10))
    whole, seen = kept(trainer), trainer.ranks()

    again = made()
    again.resume(json.loads(saved[0]))
    assert EventLog(tmp_path / "events.jsonl").read() == events
    again.put(saved[1])
    again.run(range(at + 1, 10))
    assert again.ranks() == seen
    assert same(whole, kept(again))


@pytest.mark.full
@pytest.mark.parametrize("kind", TRAINERS)
@pytest.mark.parametrize("falls", [True, False])
def test_a_run_resumed_between_a_cut_and_its_judgement(kind: str, falls: bool) -> None:
    guard = falling(STATES_OF[kind] if falls else lambda m: 0)
    trainer = TRAINERS[kind](**POLICY, guard=guard)
    trainer.run(range(1, 5))
    saved = pickle.dumps((trainer.state.to_dict(), kept(trainer)))
    reports = trainer.run(range(5, 10))

    again = TRAINERS[kind](**POLICY, guard=guard)
    notes, arrays = pickle.loads(saved)
    again.resume(notes)
    again.put(arrays)
    others = again.run(range(5, 10))
    assert [(r.step, r.restored, r.cuts) for r in others] == [(r.step, r.restored, r.cuts) for r in reports]
    assert any(r.restored for r in others) == falls
    assert same(kept(trainer), kept(again))


@every
def test_a_checkpoint_of_another_model_is_refused(make: Any) -> None:
    trainer = make(**POLICY)
    saved = trainer.state.to_dict()
    before = kept(trainer)
    with pytest.raises(ValueError, match="at least 20 states, got 12"):
        trainer.resume({**saved, "ranks": {"first": 3, "second": 20}})
    with pytest.raises(ValueError, match="must have the layers third, got first, second"):
        trainer.resume({**saved, "ranks": {"third": 3}})
    assert same(before, kept(trainer))


@pytest.mark.full
@every
def test_a_held_cut_of_another_training_is_refused(make: Any, tmp_path: Any) -> None:
    options = {**POLICY, "guard": Guard(lambda m: 0.0, tolerance=1.0, delay=2), "log": tmp_path / "events.jsonl"}
    trainer = make(**options)
    trainer.run(range(1, 5))
    saved, before = trainer.state.to_dict(), kept(trainer)
    values = saved["held"]["kept"]
    name = next(n for n, x in values.items() if "nu_log" in n and "first" in n)

    def refused(match: str, **changed: Any) -> None:
        again = make(**options)
        start, text = kept(again), (tmp_path / "events.jsonl").read_text()
        other = {n: changed.get("of", {}).get(n, x) for n, x in values.items() if n != changed.get("without")}
        with pytest.raises(ValueError, match=match):
            again.resume({**saved, "held": {**saved["held"], "kept": other}})
        assert same(start, kept(again))
        assert (tmp_path / "events.jsonl").read_text() == text

    refused("values before a cut of this training, got one without .*nu_log", without=name)
    refused(r"got \(5,\) for .*nu_log.* of \(12,\)", of={name: np.ones(5)})
    again = make(**options)  # in whatever order they were saved
    again.resume({**saved, "held": {**saved["held"], "kept": dict(reversed(values.items()))}})
    assert same(values, again.state.to_dict()["held"]["kept"])
    assert same(before, kept(trainer))


# ------------------------------------------------------------------------------------------------ states of optax


def by_rank(params: Any) -> Any:
    return jax.tree.map(lambda p: "vector" if p.ndim == 1 else "matrix", params)


def matrices(params: Any) -> Any:
    return jax.tree.map(lambda p: p.ndim == 2, params)


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "chain": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)),
    "schedule": lambda: optax.adam(optax.exponential_decay(1e-2, 1, 0.9)),
    "multi_transform": lambda: optax.multi_transform({"vector": optax.adam(1e-3), "matrix": optax.sgd(1e-2, 0.9)}, by_rank),
    "adafactor": lambda: optax.adafactor(1e-3),
    "adafactor, factored": lambda: optax.adafactor(1e-3, min_dim_size_to_factor=2),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adamw)(learning_rate=1e-3),
    "MultiSteps": lambda: optax.MultiSteps(optax.adam(1e-3), 2),
    "ema": lambda: optax.chain(optax.scale_by_adam(), optax.ema(0.9), optax.scale(-1e-3)),
    "masked": lambda: optax.chain(optax.masked(optax.adam(1e-3), matrices), optax.masked(optax.add_decayed_weights(0.1), matrices)),
    "novograd": lambda: optax.novograd(1e-3),
    "schedule_free": lambda: optax.contrib.schedule_free_adamw(1e-3),
    "adadelta": lambda: optax.adadelta(1e-3),
    "lbfgs": lambda: optax.scale_by_lbfgs(memory_size=2),
}  # fmt: skip
REFUSED = {"adafactor, factored", "schedule_free", "adadelta", "lbfgs"}
"""Without the optimizer at hand."""


def pushed(tx: Any, params: Any, opt_state: Any, seed: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    grads = jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape), p.dtype), params)
    updates, opt_state = jax.jit(tx.update)(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def moved(a: Any, b: Any) -> float:
    return max(float(jnp.abs(x - y).max()) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


@pytest.mark.full
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_states_of_optax_after_a_cut(name: str) -> None:
    tx, params = OPTIMIZERS[name](), initial()
    opt_state = tx.init(params)
    usual = 0.0
    for seed in range(3):
        before = params
        params, opt_state = pushed(tx, params, opt_state, seed)
        usual = max(usual, moved(before, params))
    arguments = params, opt_state, equinox_reducer().init(params), 1
    if name in REFUSED:
        with pytest.raises(ValueError, match="pass optimizer= to InTrainingReducer"):
            equinox_reducer().update(*arguments)
    linen = flax.InTrainingReducer(rule=RULE, window=(0, 1), attempts=1, module=lambda ranks: LinenLRU(1))
    now = TrainState(step=3, apply_fn=None, params=params, tx=tx, opt_state=opt_state)
    results = [linen.update(now, arguments[2], 1)[0]]
    if name not in REFUSED:
        small, state, *_ = equinox_reducer().update(*arguments)
        results.append(now.replace(params=small, opt_state=state))
    for now in results:
        fresh = tx.init(now.params)
        assert jax.tree.structure(now.opt_state) == jax.tree.structure(fresh)
        shapes = {n: (x.shape, x.dtype) for n, x in by_name(now.opt_state).items()}
        assert shapes == {n: (x.shape, x.dtype) for n, x in by_name(fresh).items()}
        assert now.params["first"]["nu_log"].shape[0] < STATES
        # what has nothing to do with the cut goes on
        old, new = by_name(opt_state), by_name(now.opt_state)
        for leaf in new:
            if "head" in leaf and name != "lbfgs":
                np.testing.assert_array_equal(new[leaf], old[leaf], err_msg=leaf)
        # and no step is out of proportion to those before
        after, state = pushed(tx, now.params, now.opt_state, 3)
        assert moved(now.params, after) < 3 * usual + 1e-6
        assert all(np.isfinite(x).all() for x in leaves(state))


@pytest.mark.full
@pytest.mark.parametrize("name", ["multi_transform", "adafactor, factored", "MultiSteps", "inject_hyperparams"])
def test_states_of_nnx_optimizers_after_a_cut(name: str) -> None:
    trainer = TRAINERS["nnx"](OPTIMIZERS[name](), **POLICY)
    trainer.run(range(1, 5))
    assert max(trainer.ranks().values()) < STATES
    fresh = by_name(trainer.tx.init(nnx.state(trainer.model, nnx.Param)))
    assert {n: x.shape for n, x in by_name(trainer.opt_state).items()} == {n: x.shape for n, x in fresh.items()}


@pytest.mark.full
def test_a_state_of_a_part_of_the_model_is_refused() -> None:
    params, tx = initial(), optax.adam(1e-3)
    opt_state = tx.init(params["first"])  # names the reducer cannot know
    with pytest.raises(ValueError, match=r"'0\.mu\.B_im' of shape \(12, 2\), which is no copy of the parameters"):
        equinox_reducer().update(params, opt_state, equinox_reducer().init(params), 1)
    stale = tx.init(initial(20))
    with pytest.raises(ValueError, match=r"a field 'mu' of shape \(20, 2\) for first.B_im of shape \(12, 2\)"):
        equinox_reducer().update(params, stale, equinox_reducer().init(params), 1)


def test_names_that_look_like_fields_of_states_are_told_apart() -> None:
    layers = initial()
    params = {"mu": {"first": layers["first"]}, "first": layers["second"], "nu": layers["head"]}
    tx = optax.adam(1e-3)
    params, opt_state = pushed(tx, params, tx.init(params), 0)
    small, state, *_ = equinox_reducer(optimizer=tx).update(params, opt_state, equinox_reducer().init(params), 1)
    assert {n: x.shape for n, x in by_name(state).items()} == {n: x.shape for n, x in by_name(tx.init(small)).items()}
    assert np.any(by_name(state)["0.mu.nu.kernel"])


def test_sizes_in_static_fields_of_a_layer_are_the_new_ones_in_the_state_too() -> None:
    class Copy(eqx.Module):
        nu_log: Any
        theta_log: Any
        gamma_log: Any
        B_re: Any
        B_im: Any
        C_re: Any
        C_im: Any
        D: Any
        d_state: int = eqx.field(static=True)

    layer, tx = Copy(**initial()["first"], d_state=STATES), optax.adam(1e-3)
    opt_state = tx.init(layer)
    small, state, _, report, average = equinox_reducer().update(
        layer, opt_state, equinox_reducer().init(layer), 1, averages=layer
    )
    assert small.d_state == report.cuts[0].after == average.d_state < STATES
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(small))
    assert jax.tree.structure(average) == jax.tree.structure(small)


@pytest.mark.full
def test_low_precision_stays() -> None:
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), initial())
    tx = optax.adam(1e-3, mu_dtype=jnp.float32)
    small, state, *_ = equinox_reducer(moments="carry").update(
        params, tx.init(params), equinox_reducer().init(params), 1
    )
    assert {str(x.dtype) for x in jax.tree.leaves(small)} == {"bfloat16"}
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(
        lambda x: (x.shape, x.dtype), tx.init(small)
    )


# ------------------------------------------------------------------------------------------------ modules of linen


class Single(nn.Module):
    d_hidden: int
    width: int = 5

    @nn.compact
    def __call__(self, u: Any) -> Any:
        return LinenLRU(self.d_hidden)(u)


def test_the_module_of_a_single_layer_shrinks_by_itself() -> None:
    tree = {"LinenLRU_0": initial()["first"]}
    now = TrainState.create(apply_fn=Single(STATES).apply, params=tree, tx=optax.adam(1e-3))
    reducer = flax.InTrainingReducer(rule=RULE, window=(0, 1), attempts=1)
    state = reducer.init(now)
    small, state, report = reducer.update(now, state, 1)
    assert report is not None
    assert small.apply_fn.__self__ == Single(report.cuts[0].after)
    u = batch(0)
    got = small.apply_fn({"params": small.params}, u)  # linen checks the shapes of the parameters
    want = balred.reduce(tree, report.cuts[0].after)
    np.testing.assert_allclose(got, Single(report.cuts[0].after).apply({"params": want}, u), rtol=1e-5, atol=1e-5)
    again, _ = reducer.resume(now, json.loads(json.dumps(state.to_dict())))
    assert again.apply_fn.__self__ == small.apply_fn.__self__
    assert reducer.update(now, reducer.init(now), 2)[0] is now  # nothing is due


def test_a_module_whose_sizes_are_unknown_is_refused_before_the_training() -> None:
    reducer = flax.InTrainingReducer(rule=RULE, window=(0, 1), attempts=1)
    now = TrainState.create(apply_fn=Single(STATES).apply, params=initial(), tx=optax.adam(1e-3))
    with pytest.raises(ValueError, match=r"without module= .* got Single with the layers first \(12 states\), second"):
        reducer.init(now)
    with pytest.raises(ValueError, match="without module="):
        reducer.init(now.replace(apply_fn=output, params={"lru": initial()["first"]}))
    with pytest.raises(ValueError, match="fields of the train state, got ema"):
        flax.InTrainingReducer(rule=RULE, window=(0, 1), attempts=1, averages=["ema"]).init(now)


def test_the_hooks_are_where_the_guides_say() -> None:
    assert {m.InTrainingReducer.__mro__[1].__name__ for m in (equinox, flax, flax_nnx)} == {"TreeReducer"}
