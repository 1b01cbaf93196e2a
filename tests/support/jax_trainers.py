"""One small training in equinox, flax linen and flax nnx: two LRU layers and a head, the same start in each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from flax.training.train_state import TrainState

from balred.adapters import equinox, flax
from balred.adapters.flax import nnx as flax_nnx
from balred.layers.recurrence import lru_initial, lru_output

WIDTH, STATES = 2, 12
LAYERS = ("first", "second")


def initial(states: int = STATES, seed: int = 0) -> dict[str, Any]:
    """The parameters of the model as a tree."""
    keys = iter(jax.random.split(jax.random.key(seed), 30))
    uniform, normal = (lambda n: jax.random.uniform(next(keys), (n,))), (lambda *s: jax.random.normal(next(keys), s))
    layers = {name: lru_initial(WIDTH, states, 0.3, 0.95, 3.0, uniform, normal) for name in LAYERS}
    return {**layers, "head": {"kernel": 0.5 * normal(WIDTH, WIDTH)}}


@jax.jit
def output(tree: Any, u: Any) -> Any:
    """The model's output from a tree of parameters."""
    h = jnp.tanh(lru_output(jnp, SimpleNamespace(**tree["first"]), u))
    return lru_output(jnp, SimpleNamespace(**tree["second"]), h) @ tree["head"]["kernel"]


@jax.jit
def loss(tree: Any, u: Any) -> Any:
    """Of the model with these parameters."""
    return error(output(tree, u), u)


def error(got: Any, u: Any) -> Any:
    """How well a delay of two is learned."""
    return jnp.mean((got - jnp.roll(u, 2, axis=1)) ** 2)


def batch(step: int) -> Any:
    return jnp.asarray(np.random.default_rng(step).standard_normal((4, 8, WIDTH)), jnp.float32)


class EqxHead(eqx.Module):
    kernel: Any


class EqxModel(eqx.Module):
    first: Any
    second: Any
    head: Any
    activation: Any = jnp.tanh  # a leaf that is no array

    def __call__(self, u: Any) -> Any:
        return self.second(self.activation(self.first(u))) @ self.head.kernel


class LinenLRU(nn.Module):
    d_hidden: int

    @nn.compact
    def __call__(self, u: Any) -> Any:
        n, h = self.d_hidden, WIDTH
        shapes = {"nu_log": (n,), "theta_log": (n,), "gamma_log": (n,), "D": (h,)}
        shapes |= {"B_re": (n, h), "B_im": (n, h), "C_re": (h, n), "C_im": (h, n)}
        values = {k: self.param(k, nn.initializers.zeros, shape) for k, shape in shapes.items()}
        return lru_output(jnp, SimpleNamespace(**values), u)


class LinenModel(nn.Module):
    states: tuple[int, int]

    def setup(self) -> None:
        self.first, self.second = (LinenLRU(n) for n in self.states)
        self.head = nn.Dense(WIDTH, use_bias=False)

    def __call__(self, u: Any) -> Any:
        return self.head(self.second(jnp.tanh(self.first(u))))


class NnxLRU(nnx.Module):
    def __init__(self, values: dict[str, Any]) -> None:
        self.d_hidden = len(values["nu_log"])
        for name, value in values.items():
            setattr(self, name, nnx.Param(value))

    def __call__(self, u: Any) -> Any:
        assert self.d_hidden == self.nu_log.shape[0]
        return lru_output(jnp, SimpleNamespace(**{k: getattr(self, k)[...] for k in initial_names}), u)


initial_names = ("nu_log", "theta_log", "gamma_log", "B_re", "B_im", "C_re", "C_im", "D")


class NnxHead(nnx.Module):
    def __init__(self, kernel: Any) -> None:
        self.kernel = nnx.Param(kernel)


class NnxModel(nnx.Module):
    def __init__(self, tree: dict[str, Any]) -> None:
        self.first, self.second = NnxLRU(tree["first"]), NnxLRU(tree["second"])
        self.head, self.rngs = NnxHead(tree["head"]["kernel"]), nnx.Rngs(0)

    def __call__(self, u: Any) -> Any:
        return self.second(jnp.tanh(self.first(u))) @ self.head.kernel[...]


class Trainer:
    """What the tests do with a training; `average` is an exponential one of the parameters, `traces` counts compilations."""

    def __init__(
        self, tx: Any = None, states: int = STATES, decay: float = 0.9, rule: Any = None, **options: Any
    ) -> None:
        self.tx = optax.adamw(1e-2) if tx is None else tx
        self.decay, self.traces, self.state, self.report = decay, 0, None, None
        self.start(initial(states), rule, options)

    start: Callable[..., None]
    step: Callable[..., None]
    cut: Callable[..., Any]
    tree: Callable[[], Any]
    everything: Callable[[], Any]
    put: Callable[[Any], None]
    resume: Callable[[Any], None]

    def ranks(self) -> dict[str, int]:
        return {name: self.tree()[name]["nu_log"].shape[0] for name in LAYERS}

    def run(self, steps: range) -> list[Any]:
        reports = []
        for k in steps:
            self.step(k)
            report = self.cut(k)
            reports += [report] if report else []
        return reports


def mean(decay: float, average: Any, new: Any) -> Any:
    return jax.tree.map(lambda a, x: decay * a + (1 - decay) * x, average, new)


class Equinox(Trainer):
    def start(self, tree: Any, rule: Any, options: Any) -> None:
        layers = [equinox.LRU(WIDTH, 1, key=jax.random.key(0)) for _ in LAYERS]
        layers = [
            eqx.tree_at(lambda m: [getattr(m, k) for k in initial_names], x, [tree[n][k] for k in initial_names])
            for n, x in zip(LAYERS, layers, strict=True)
        ]
        self.model: Any = EqxModel(*layers, EqxHead(tree["head"]["kernel"]))
        params = eqx.filter(self.model, eqx.is_inexact_array)
        self.opt_state, self.average = self.tx.init(params), jax.tree.map(jnp.copy, params)
        self.key = jax.random.key(7)
        if rule is not None:
            self.reducer = equinox.InTrainingReducer(rule, **options)
            self.state = self.reducer.init(self.model)

        @partial(eqx.filter_jit, donate="all-except-first")
        def step(u: Any, model: Any, opt_state: Any, average: Any) -> Any:
            self.traces += 1
            grads = eqx.filter_grad(lambda m: error(m(u), u))(model)
            params = eqx.filter(model, eqx.is_inexact_array)
            updates, opt_state = self.tx.update(grads, opt_state, params)
            model = eqx.apply_updates(model, updates)
            return model, opt_state, mean(self.decay, average, eqx.filter(model, eqx.is_inexact_array))

        self._step = step

    def step(self, k: int) -> None:
        self.model, self.opt_state, self.average = self._step(batch(k), self.model, self.opt_state, self.average)
        self.key = jax.random.split(self.key)[0]

    def cut(self, k: int, loss: Any = None) -> Any:
        self.model, self.opt_state, self.state, report, self.average, self.key = self.reducer.update(
            self.model, self.opt_state, self.state, k, averages=self.average, others=self.key, loss=loss
        )
        return report

    def tree(self) -> Any:
        return as_tree(self.model)

    def everything(self) -> Any:
        return (*eqx.filter((self.model, self.opt_state, self.average), eqx.is_array), jax.random.key_data(self.key))

    def put(self, leaves: Any) -> None:
        old = self.model, self.opt_state, self.average
        arrays, rest = eqx.partition(old, eqx.is_array)
        arrays = jax.tree.unflatten(jax.tree.structure(arrays), [jnp.asarray(x) for x in leaves[:-1]])
        self.model, self.opt_state, self.average = eqx.combine(arrays, rest)
        self.key = jax.random.wrap_key_data(jnp.asarray(leaves[-1]))

    def resume(self, saved: Any) -> None:
        self.model, self.opt_state, self.state, self.average, self.key = self.reducer.resume(
            self.model, self.opt_state, saved, averages=self.average, others=self.key
        )


def as_tree(model: Any) -> Any:
    layers = {n: {k: getattr(getattr(model, n), k)[...] for k in initial_names} for n in LAYERS}
    return {**layers, "head": {"kernel": model.head.kernel[...]}}


class Averaging(TrainState):
    average: Any
    key: Any


class Linen(Trainer):
    def start(self, tree: Any, rule: Any, options: Any) -> None:
        def module(ranks: dict[str, int]) -> Any:
            return LinenModel(tuple(ranks[name] for name in LAYERS))

        apply_fn = module({name: tree[name]["nu_log"].shape[0] for name in LAYERS}).apply
        average = jax.tree.map(jnp.copy, tree)
        self.now: Any = Averaging.create(
            apply_fn=apply_fn, params=tree, tx=self.tx, average=average, key=jax.random.key(7)
        )
        if rule is not None:
            self.reducer = flax.InTrainingReducer(rule, module=module, averages=("average",), **options)
            self.state = self.reducer.init(self.now)

        @partial(jax.jit, donate_argnums=0)
        def step(now: Any, u: Any) -> Any:
            self.traces += 1
            grads = jax.grad(lambda p: error(now.apply_fn({"params": p}, u), u))(now.params)
            now = now.apply_gradients(grads=grads)
            return now.replace(average=mean(self.decay, now.average, now.params), key=jax.random.split(now.key)[0])

        self._step = step

    def step(self, k: int) -> None:
        self.now = self._step(self.now, batch(k))

    def cut(self, k: int, loss: Any = None) -> Any:
        self.now, self.state, report = self.reducer.update(self.now, self.state, k, loss=loss)
        return report

    opt_state = property(lambda self: self.now.opt_state)
    average = property(lambda self: self.now.average)

    def tree(self) -> Any:
        return self.now.params

    def everything(self) -> Any:
        return self.now.replace(key=jax.random.key_data(self.now.key))

    def put(self, leaves: Any) -> None:
        now = jax.tree.unflatten(jax.tree.structure(self.now), [jnp.asarray(x) for x in leaves])
        self.now = now.replace(key=jax.random.wrap_key_data(now.key))

    def resume(self, saved: Any) -> None:
        self.now, self.state = self.reducer.resume(self.now, saved)


class Nnx(Trainer):
    def start(self, tree: Any, rule: Any, options: Any) -> None:
        self.model, self.average = NnxModel(tree), NnxModel(jax.tree.map(jnp.copy, tree))
        self.optimizer = nnx.Optimizer(self.model, self.tx, wrt=nnx.Param)
        self.rngs = nnx.Rngs(7)
        if rule is not None:
            self.reducer = flax_nnx.InTrainingReducer(rule, **options)
            self.state = self.reducer.init(self.model)

        @nnx.jit
        def step(model: Any, optimizer: Any, average: Any, rngs: Any, u: Any) -> None:
            self.traces += 1
            rngs.default()
            optimizer.update(model, nnx.grad(lambda m: error(m(u), u))(model))
            new = mean(self.decay, nnx.state(average, nnx.Param), nnx.state(model, nnx.Param))
            nnx.update(average, new)

        self._step = step

    def step(self, k: int) -> None:
        self._step(self.model, self.optimizer, self.average, self.rngs, batch(k))

    def cut(self, k: int, loss: Any = None) -> Any:
        self.state, report = self.reducer.update(
            self.model, self.optimizer, self.state, k, averages=[self.average], others=[self.rngs], loss=loss
        )
        return report

    opt_state = property(lambda self: self.optimizer.opt_state)

    def tree(self) -> Any:
        return as_tree(self.model)

    def everything(self) -> Any:
        state = nnx.state((self.model, self.optimizer, self.average, self.rngs))
        return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, state)

    def put(self, leaves: Any) -> None:
        everything = self.model, self.optimizer, self.average, self.rngs
        state = nnx.state(everything)
        new = iter(leaves)
        nnx.update(
            everything,
            jax.tree.map(
                lambda x: jax.random.wrap_key_data(jnp.asarray(next(new))) if is_key(x) else jnp.asarray(next(new)),
                state,
            ),
        )

    def resume(self, saved: Any) -> None:
        self.state = self.reducer.resume(self.model, self.optimizer, saved, averages=[self.average], others=[self.rngs])


def is_key(x: Any) -> bool:
    return bool(jnp.issubdtype(x.dtype, jax.dtypes.prng_key))


TRAINERS = {"equinox": Equinox, "linen": Linen, "nnx": Nnx}
