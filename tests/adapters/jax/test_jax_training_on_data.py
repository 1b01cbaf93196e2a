"""JAX models whose layers are balanced on data while they train: the cut of balred.reduce, in every framework."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("equinox")
pytest.importorskip("flax")
pytest.importorskip("optax")

import jax
import jax.numpy as jnp
from jax_trainers import LAYERS, STATES, TRAINERS, Equinox

import balred
from balred.intraining import Guard
from balred.selection import Calibration

every = pytest.mark.parametrize("make", TRAINERS.values(), ids=TRAINERS)
POLICY: dict[str, Any] = {"rule": balred.Order(4), "window": (0, 2), "attempts": 1}


def data(seed: int = 5, count: int = 6) -> Any:
    return np.cumsum(np.random.default_rng(seed).standard_normal((count, 8, 2)), axis=1).astype(np.float32) / 3


def before_the_cut(trainer: Any) -> Any:
    """The parameters after two steps; the report of the cut after the second."""
    trainer.step(1)
    assert trainer.cut(1) is None
    trainer.step(2)
    tree = jax.tree.map(np.array, trainer.tree())
    trainer.report = trainer.cut(2)
    return tree


def twin(tree: Any) -> Any:
    """The equinox model with these parameters."""
    trainer = Equinox()
    trainer.start(jax.tree.map(jnp.asarray, tree), None, {})
    return trainer.model


@pytest.mark.full
@pytest.mark.alike
@every
def test_a_cut_is_that_of_reduce_and_told(make: Any) -> None:
    trainer = make(**POLICY, calibration=data())
    full = twin(before_the_cut(trainer))
    small = balred.reduce(full, 4, calibration=data())
    cuts = trainer.report.cuts
    assert [(c.layer, c.before, c.after) for c in cuts] == [
        (name, STATES, getattr(small, name).states) for name in LAYERS
    ]
    assert max(cut.after for cut in cuts) == 4  # a pair of real poles takes two states
    for cut in cuts:
        assert cut.note.startswith("balanced on data")
        assert ("instead of 4: real poles" in cut.note) == (cut.after < 4)
    for name in LAYERS:
        for key, got in trainer.tree()[name].items():
            np.testing.assert_allclose(got, getattr(getattr(small, name), key), rtol=1e-3, atol=1e-4, err_msg=key)
    trainer.step(3)


@pytest.mark.full
@every
def test_a_resumed_training_ends_in_the_same_weights(make: Any) -> None:
    options = {
        **POLICY,
        "window": (0, 4),
        "attempts": 2,
        "rule": balred.Relative(0.05),
        "calibration": lambda: [data()],
    }
    trainer = make(**options)
    trainer.run(range(1, 4))
    saved = trainer.state.to_dict(), [np.array(x) for x in jax.tree.leaves(trainer.everything())]
    trainer.run(range(4, 7))
    again = make(**options)
    again.resume(saved[0])
    again.put(saved[1])
    again.run(range(4, 7))
    for x, y in zip(jax.tree.leaves(trainer.everything()), jax.tree.leaves(again.everything()), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.full
@every
def test_a_guard_takes_a_cut_on_data_back(make: Any) -> None:
    metrics = iter([1.0, 0.0])
    trainer = make(**POLICY, calibration=data(), guard=Guard(lambda model: next(metrics), tolerance=0.5))
    tree = before_the_cut(trainer)
    assert trainer.report.restored
    for x, y in zip(jax.tree.leaves(tree), jax.tree.leaves(trainer.tree()), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.full
def test_so_many_sequences_as_are_asked_for_are_looked_at() -> None:
    trainer = Equinox(**POLICY, calibration=Calibration([data(5), data(6)], sequences=8))
    full = twin(before_the_cut(trainer))
    small = balred.reduce(full, 4, calibration=[data(5), data(6)[:2]])
    for name in LAYERS:
        got, want = (getattr(m, name).nu_log for m in (trainer.model, small))
        np.testing.assert_allclose(got, want, rtol=1e-4)


@pytest.mark.full
@every
def test_programs_serve_until_a_cut_and_tell_of_the_values_of_now(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    traced, trace = [], jax.make_jaxpr
    monkeypatch.setattr(
        jax, "make_jaxpr", lambda function, **options: traced.append(function) or trace(function, **options)
    )
    trainer = make(rule=balred.Order(4), window=(0, 3), attempts=3, dry_run=True, calibration=data())
    counts = []
    for k in (1, 2, 3):
        trainer.step(k)
        report = trainer.cut(k)
        counts.append(len(traced))
    assert counts[0] > 0
    assert counts[1:] == [counts[0]] * 2
    plan = balred.plan(twin(jax.tree.map(np.array, trainer.tree())), 4, data())
    assert [c.layer for c in report.cuts] == [row.layer for row in plan.rows]
    np.testing.assert_allclose([c.energy for c in report.cuts], [row.energy for row in plan.rows], rtol=1e-5)


def test_what_cannot_be_done_is_said_when_the_training_begins() -> None:
    with pytest.raises(ValueError, match="balanced on data has no a-priori error bound"):
        Equinox(**{**POLICY, "rule": balred.ErrorBound(0.1)}, calibration=data())
    with pytest.raises(ValueError, match="the model must run on the calibration data"):
        Equinox(**POLICY, calibration=data()[..., :1])


@pytest.mark.full
def test_data_that_fail_later_leave_the_layers_and_say_why() -> None:
    given = iter([data(), data()[..., :1]])
    trainer = Equinox(**POLICY, calibration=lambda: next(given))
    before_the_cut(trainer)
    assert set(trainer.report.skipped) == set(LAYERS)
    assert "the model must run on the calibration data" in trainer.report.skipped["first"]
    assert trainer.ranks() == dict.fromkeys(LAYERS, STATES)
