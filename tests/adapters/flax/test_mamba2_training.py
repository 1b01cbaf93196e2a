"""Selective layers of flax nnx cut while they train, against the reduction of the same weights on the same data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
pytest.importorskip("mamba2_jax")
optax = pytest.importorskip("optax")

import jax.numpy as jnp  # noqa: E402
from flax import nnx  # noqa: E402
from mamba2_jax_models import build, mixer  # noqa: E402

import balred  # noqa: E402
from balred.adapters.flax.nnx import InTrainingReducer  # noqa: E402
from balred.intraining import EventLog, Guard  # noqa: E402
from balred.selection import Calibration  # noqa: E402

DATA = jax.random.randint(jax.random.key(0), (2, 8), 3, 90)
TX = optax.adam(1e-3)
MIXER = "backbone.layers.{}.mixer"


def arrays(model: Any) -> Any:
    return nnx.to_pure_dict(nnx.state(model))


def same(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, arrays(a), arrays(b))


@nnx.jit
def learnt(model: Any, optimizer: Any, data: Any) -> Any:
    def loss(model: Any) -> Any:
        logits = model(data)["logits"][:, :-1]
        return optax.softmax_cross_entropy_with_integer_labels(logits, data[:, 1:]).mean()

    value, grads = nnx.value_and_grad(loss)(model)
    optimizer.update(model, grads)
    return value


class Training:
    def __init__(self, **options: Any) -> None:
        self.model = build(layers=1)
        self.optimizer = nnx.Optimizer(self.model, TX, wrt=nnx.Param)
        self.average = nnx.clone(self.model)
        policy: dict[str, Any] = {"rule": balred.Order(5), "window": (0, 1), "attempts": 1, "calibration": DATA}
        self.reducer = InTrainingReducer(**{**policy, **options})
        self.state = self.reducer.init(self.model)

    def step(self, k: int) -> Any:
        self.loss = learnt(self.model, self.optimizer, DATA)
        before = nnx.clone(self.model)
        self.state, report = self.reducer.update(self.model, self.optimizer, self.state, k, averages=[self.average])
        return before, report


@pytest.mark.full  # its programs compile for long
def test_the_cut_is_the_reduction_of_the_same_weights(tmp_path: Any) -> None:
    training = Training(log=tmp_path / "log.jsonl")
    whole = nnx.clone(training.average)
    before, report = training.step(1)
    name = MIXER.format(0)
    assert [(cut.layer, cut.before, cut.after) for cut in report.cuts] == [(name, 8, 5)]
    plan = balred.plan(before, 5, calibration=DATA)
    small = plan.apply()
    same(training.model, small)
    assert nnx.graphdef(training.model) == nnx.graphdef(small)
    assert report.cuts[0].energy == plan.rows[0].energy

    # an average keeps the states that the model keeps
    kept = mixer(training.average).in_proj.kernel[...]
    columns = mixer(whole).in_proj.kernel[...]
    rows = [
        int(
            np.flatnonzero(
                (
                    np.asarray(mixer(small).in_proj.kernel[...])[:, 128 + i]
                    == np.asarray(mixer(before).in_proj.kernel[...]).T
                ).all(1)
            )[0]
        )
        for i in range(5)
    ]
    np.testing.assert_array_equal(kept[:, 128:133], columns[:, np.array(rows)])
    assert mixer(training.average).cfg.state_size == 5

    # the optimizer's state is that of the small model
    fresh = nnx.Optimizer(small, TX, wrt=nnx.Param)
    shapes = [jax.tree.map(jnp.shape, arrays(one)) for one in (training.optimizer, fresh)]
    assert shapes[0] == shapes[1]
    moments = training.optimizer.opt_state[0].mu["backbone"]["layers"][0]["mixer"]
    assert not np.any(moments["in_proj"]["kernel"][...])
    assert np.any(moments["out_proj"]["kernel"][...])

    (event,) = EventLog(tmp_path / "log.jsonl").read()
    assert (event["event"], event["layer"], event["to"]) == ("cut", name, 5)
    training.step(2)
    assert np.isfinite(training.loss)

    again = Training()
    again.state = again.reducer.resume(again.model, again.optimizer, training.state.to_dict(), averages=[again.average])
    for mine, other in ((again.model, training.model), (again.optimizer, training.optimizer)):
        assert jax.tree.map(jnp.shape, arrays(mine)) == jax.tree.map(jnp.shape, arrays(other))
        nnx.update(mine, nnx.state(other))
    training.step(3)
    again.step(3)
    same(again.model, training.model)


@pytest.mark.full
def test_a_guard_takes_the_cut_back() -> None:
    worse = iter([1.0, 0.0])
    training = Training(guard=Guard(lambda model: next(worse), tolerance=0.0, delay=0))
    before, report = training.step(1)
    assert report.restored
    same(training.model, before)
    assert nnx.graphdef(training.model) == nnx.graphdef(before)
    training.step(2)
    assert np.isfinite(training.loss)


@pytest.mark.full
def test_data_of_the_moment_are_asked_for_at_each_attempt() -> None:
    given = [DATA, DATA[:, ::-1]]
    training = Training(calibration=Calibration(lambda: given.pop(0), compensate=False))
    before, _ = training.step(1)
    assert not given
    same(training.model, balred.reduce(before, 5, calibration=DATA[:, ::-1], compensate=False))


def test_without_data_there_is_nothing_to_choose_by() -> None:
    with pytest.raises(ValueError, match="calibration must be given for selective layers"):
        Training(calibration=None)
