"""The demo's training in flax, linen and nnx: the model of :mod:`balred.studies.models.jax_models` with the same shapes and the same optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from flax.training.train_state import TrainState

from balred.adapters.flax import InTrainingReducer as LinenReducer
from balred.adapters.flax.nnx import InTrainingReducer as NnxReducer
from balred.layers.recurrence import lru_initial, lru_output
from balred.studies.settings.records import DemoConfig

NAMES = ("nu_log", "theta_log", "gamma_log", "B_re", "B_im", "C_re", "C_im", "D")


def initial(width: int, states: int, ring: tuple[float, float], key: Any) -> dict[str, Any]:
    keys = iter(jax.random.split(key, 8))
    return lru_initial(
        width,
        states,
        *ring,
        6.28,
        lambda n: jax.random.uniform(next(keys), (n,)),
        lambda *s: jax.random.normal(next(keys), s),
    )


def optimizer_of(config: DemoConfig) -> Any:
    schedule = optax.warmup_cosine_decay_schedule(0.0, config.rate, config.warmup, config.steps, 0.0)
    return optax.adamw(schedule, weight_decay=config.weight_decay)


def loss_of(logits: Any, y: Any) -> Any:
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))


def options(config: DemoConfig) -> dict[str, Any]:
    return {
        "rule": config.rule, "window": (0, config.warmup), "attempts": config.attempts, "moments": config.moments,
    }  # fmt: skip


class LinenLRU(nn.Module):
    states: int
    ring: tuple[float, float]

    @nn.compact
    def __call__(self, u: Any) -> Any:
        start = partial(initial, u.shape[-1], self.states, self.ring)
        values = {k: self.param(k, lambda key, k=k: start(jax.random.key(0))[k]) for k in NAMES}
        return lru_output(jnp, SimpleNamespace(**values), u)


class LinenClassifier(nn.Module):
    width: int
    states: tuple[int, ...]
    ring: tuple[float, float]

    @nn.compact
    def __call__(self, x: Any) -> Any:
        h = nn.Dense(self.width)(x[..., None])
        for i, n in enumerate(self.states):
            y = nn.gelu(LinenLRU(n, self.ring, name=f"lru_{i}")(nn.LayerNorm()(h)))
            h = h + nn.glu(nn.Dense(2 * self.width)(y), axis=-1)
        return nn.Dense(10)(h[:, -1])


class LinenTrainer:
    """As :class:`balred.studies.training.train_jax.JaxTrainer`, with a ``TrainState``."""

    def __init__(self, config: DemoConfig, states: Sequence[int], seed: int, truncate: bool) -> None:
        jax.clear_caches()

        def module(ranks: dict[str, int]) -> Any:
            return LinenClassifier(config.width, tuple(ranks[f"lru_{i}"] for i in range(len(states))), config.ring)

        first = module({f"lru_{i}": n for i, n in enumerate(states)})
        params = first.init(jax.random.key(seed), jnp.zeros((1, 64)))["params"]
        self.now: Any = TrainState.create(apply_fn=first.apply, params=params, tx=optimizer_of(config))
        self.reducer = LinenReducer(**options(config), module=module) if truncate else None
        self.state = None if self.reducer is None else self.reducer.init(self.now)
        self.steps = 0

        @partial(jax.jit, donate_argnums=0)
        def step(now: Any, x: Any, y: Any) -> Any:
            value, grads = jax.value_and_grad(lambda p: loss_of(now.apply_fn({"params": p}, x), y))(now.params)
            return now.apply_gradients(grads=grads), value

        self.step = step

    def train_step(self, x: Any, y: Any) -> None:
        self.now, self.value = self.step(self.now, x, y.astype("int32"))
        self.steps += 1

    def reduce(self) -> None:
        if self.reducer is not None:
            self.now, self.state, _ = self.reducer.update(self.now, self.state, self.steps)

    def loss(self) -> float:
        return float(self.value)

    def ranks(self) -> list[int]:
        return [int(x["nu_log"].shape[0]) for k, x in sorted(self.now.params.items()) if k.startswith("lru")]


class NnxLRU(nnx.Module):
    def __init__(self, width: int, states: int, ring: tuple[float, float], key: Any) -> None:
        for name, value in initial(width, states, ring, key).items():
            setattr(self, name, nnx.Param(value))

    def __call__(self, u: Any) -> Any:
        return lru_output(jnp, SimpleNamespace(**{k: getattr(self, k)[...] for k in NAMES}), u)


class NnxClassifier(nnx.Module):
    def __init__(self, width: int, states: Sequence[int], ring: tuple[float, float], rngs: nnx.Rngs) -> None:
        self.embed, self.head = nnx.Linear(1, width, rngs=rngs), nnx.Linear(width, 10, rngs=rngs)
        self.lrus = nnx.List([NnxLRU(width, n, ring, rngs.params()) for n in states])
        self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs) for _ in states])
        self.gates = nnx.List([nnx.Linear(width, 2 * width, rngs=rngs) for _ in states])

    def __call__(self, x: Any) -> Any:
        h = self.embed(x[..., None])
        for norm, lru, gate in zip(self.norms, self.lrus, self.gates, strict=True):
            h = h + jax.nn.glu(gate(jax.nn.gelu(lru(norm(h)))), axis=-1)
        return self.head(h[:, -1])


class NnxTrainer:
    """The same with ``nnx.Optimizer``."""

    def __init__(self, config: DemoConfig, states: Sequence[int], seed: int, truncate: bool) -> None:
        jax.clear_caches()
        self.model = NnxClassifier(config.width, states, config.ring, nnx.Rngs(seed))
        self.optimizer = nnx.Optimizer(self.model, optimizer_of(config), wrt=nnx.Param)
        self.reducer = NnxReducer(**options(config)) if truncate else None
        self.state = None if self.reducer is None else self.reducer.init(self.model)
        self.steps = 0

        @nnx.jit
        def step(model: Any, optimizer: Any, x: Any, y: Any) -> Any:
            value, grads = nnx.value_and_grad(lambda m: loss_of(m(x), y))(model)
            optimizer.update(model, grads)
            return value

        self.step = step

    def train_step(self, x: Any, y: Any) -> None:
        self.value = self.step(self.model, self.optimizer, jnp.asarray(x), jnp.asarray(y.astype("int32")))
        self.steps += 1

    def reduce(self) -> None:
        if self.reducer is not None:
            self.state, _ = self.reducer.update(self.model, self.optimizer, self.state, self.steps)

    def loss(self) -> float:
        return float(self.value)

    def ranks(self) -> list[int]:
        return [int(lru.nu_log.shape[0]) for lru in self.model.lrus]
