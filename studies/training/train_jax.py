"""The demo's training on equinox and optax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]
from numpy.typing import NDArray

from balred.adapters.equinox import InTrainingReducer
from balred.adapters.jax.tracing import QUICKLY
from balred.intraining import Report
from balred.studies.models.jax_models import Classifier
from balred.studies.settings.records import DemoConfig


class JaxTrainer:
    """AdamW on a :class:`Classifier` with layers of `states`; truncated while it trains if `truncate` is set."""

    def __init__(self, config: DemoConfig, states: Sequence[int], seed: int, truncate: bool) -> None:
        # every run pays for its own compilation, whatever ran before it in the process
        jax.clear_caches()  # type: ignore[no-untyped-call]
        schedule = optax.warmup_cosine_decay_schedule(0.0, config.rate, config.warmup, config.steps, 0.0)
        optimizer = optax.adamw(schedule, weight_decay=config.weight_decay)
        make = jax.jit(
            lambda key: Classifier(config.width, states, ring=config.ring, key=key), compiler_options=QUICKLY
        )
        self.model: Any = make(jax.random.key(seed))
        self.opt_state = optimizer.init(eqx.filter(self.model, eqx.is_inexact_array))
        self.reducer = (
            InTrainingReducer(
                rule=config.rule, window=(0, config.warmup), attempts=config.attempts, moments=config.moments
            )
            if truncate
            else None
        )
        self.state = None if self.reducer is None else self.reducer.init(self.model)
        self._steps = 0
        self._loss: Any = jnp.nan

        def objective(model: Any, x: jax.Array, y: jax.Array) -> jax.Array:
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(model(x), y))

        @eqx.filter_jit(donate="all-except-first")
        def step(batch: Any, model: Any, opt_state: Any) -> tuple[Any, Any, Any]:
            loss, grads = eqx.filter_value_and_grad(objective)(model, *batch)
            updates, opt_state = optimizer.update(grads, opt_state, eqx.filter(model, eqx.is_inexact_array))
            return eqx.apply_updates(model, updates), opt_state, loss

        @eqx.filter_jit
        def predict(model: Any, x: jax.Array) -> jax.Array:
            return jnp.argmax(model(x), axis=-1)

        self._step, self._predict = step, predict

    def train_step(self, x: NDArray[np.float32], y: NDArray[np.int64]) -> None:
        """One step on a batch."""
        batch = (x, y.astype(np.int32))
        self.model, self.opt_state, self._loss = self._step(batch, self.model, self.opt_state)
        self._steps += 1

    def reduce(self) -> Report | None:
        """Truncate if it is time to."""
        if self.reducer is None or self.state is None:
            return None
        report: Report | None
        self.model, self.opt_state, self.state, report = self.reducer.update(
            self.model, self.opt_state, self.state, self._steps
        )
        return report

    def loss(self) -> float:
        """Loss of the last batch; waits for it."""
        return float(self._loss)

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.int64]:
        """The most likely digits."""
        return np.asarray(self._predict(self.model, jnp.asarray(x)), dtype=np.int64)
