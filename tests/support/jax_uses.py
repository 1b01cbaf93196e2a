"""What people do with a JAX model after a cut: the uses of :mod:`uses`, for the families of the table of layers in equinox and flax.

Each family is built once, at its smallest, and cut once.  A model is a pair here: values, a pytree, and a function of them that is traced.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import balred

jax = pytest.importorskip("jax")
eqx = pytest.importorskip("equinox")
pytest.importorskip("flax")
optax = pytest.importorskip("optax")
import jax.numpy as jnp  # noqa: E402
from expected_uses import Lacking  # noqa: E402
from flax import linen as nn  # noqa: E402
from flax import nnx, serialization  # noqa: E402
from flax.training.train_state import TrainState  # noqa: E402
from jax import export  # noqa: E402

from balred.adapters import equinox, flax  # noqa: E402
from balred.adapters.flax import nnx as flax_nnx  # noqa: E402
from balred.adapters.jax import skeleton_for  # noqa: E402

ROUNDING = 1e-5
RANK = 4
HALF = 0.1  # of bfloat16, whose eps is 0.008
TX = optax.adam(1e-3)


@dataclasses.dataclass(frozen=True)
class Family:
    """A model, what it is called with, and a smaller one."""

    name: str
    model: Any
    data: Any
    small: Any

    def cut(self, model: Any) -> Any:
        return reduced(model, self.data)


def reduced(model: Any, data: Any) -> Any:
    return balred.reduce(model, RANK, calibration=data if selective(model) else None)


def selective(model: Any) -> bool:
    return hasattr(model, "backbone")


def opened(model: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The parameters of a model, and the model again from others."""
    if isinstance(model, nn.Module):
        module, variables = model.unbind()
        return variables, module.bind
    if isinstance(model, nnx.Module):
        graph, values, rest = nnx.split(model, nnx.Param, ...)
        return values, lambda values: nnx.merge(graph, values, rest)
    values, rest = eqx.partition(model, eqx.is_inexact_array)
    return values, lambda values: eqx.combine(values, rest)


def called(model: Any, data: Any) -> Any:
    """What it answers to a batch."""
    if selective(model):
        return model(data)["logits"]
    if isinstance(model, nn.Module):
        module, variables = model.unbind()
        return jnp.stack([module.apply(variables, x) for x in data])
    return jnp.stack([model(x) for x in data])


def program(model: Any, data: Any) -> tuple[Callable[[Any], Any], Any]:
    """The answer as a function of the values, and these."""
    values, made = opened(model)
    return lambda values: called(made(values), data), values


def answer(model: Any, data: Any) -> Any:
    run, values = program(model, data)
    return np.asarray(jax.jit(run)(values), np.float32)


def apart(got: Any, want: Any) -> float:
    assert got.shape == want.shape
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def cast(model: Any, dtype: Any) -> Any:
    values, made = opened(model)
    return made(jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, values))


def _equinox_lru() -> Any:
    return equinox.LRU(3, 8, key=jax.random.key(0))


def _equinox_copy() -> Any:
    from lru_copies import Equinox, parameters

    return Equinox(**parameters(8), state_dim=8)


def _equinox_s5() -> Any:
    from s5_copies import equinox_layer

    return equinox_layer()


def _linoss() -> Any:
    from linoss_layers import linoss

    return linoss("damped")


def _nnx_lru() -> Any:
    from lru_copies import Nnx

    return Nnx(8)


def _nnx_s5() -> Any:
    from s5_copies import nnx_layer

    return nnx_layer()


def _mamba2() -> Any:
    from mamba2_jax_models import build

    return build(layers=1)


def _linen_lru() -> Any:
    from linen_layers import bound_lru

    return bound_lru()


def _linen_s5(**kw: Any) -> Any:
    from linen_layers import bound_s5

    return bound_s5(**kw)


FAMILIES: dict[str, Callable[[], Any]] = {
    "LRU, equinox": _equinox_lru,
    "LRU by name, equinox": _equinox_copy,
    "S5, equinox": _equinox_s5,
    "LinOSS, equinox": _linoss,
    "LRU, nnx": _nnx_lru,
    "S5, nnx": _nnx_s5,
    "Mamba2, nnx": _mamba2,
    "LRU, linen": _linen_lru,
    "S5, linen": _linen_s5,
    "S5 both ways, linen": functools.partial(_linen_s5, bidirectional=True),
}


@functools.cache
def family(name: str) -> Family:
    model = FAMILIES[name]()
    if selective(model):
        data = jax.random.randint(jax.random.key(1), (2, 8), 3, 90)
    else:
        data = jax.random.normal(jax.random.key(1), (2, 9, 3))
    return Family(name, model, data, reduced(model, data))


# -------------------------------------------------------------------------------------------------- the uses


def plain(f: Family, _: Path) -> None:
    assert size(f.small) < size(f.model)
    assert np.isfinite(answer(f.small, f.data)).all()


def size(model: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(opened(model)[0]))


def bf16(f: Family, _: Path) -> None:
    """Of weights in half precision the same states are cut as of equal ones in single precision."""
    half = cast(f.model, jnp.bfloat16)
    data = f.data.astype(jnp.bfloat16) if jnp.issubdtype(f.data.dtype, jnp.floating) else f.data
    small, want = reduced(half, data), f.cut(cast(half, jnp.float32))
    kinds = [{x.dtype for x in jax.tree.leaves(opened(one)[0])} for one in (small, half)]
    assert kinds[0] == kinds[1]
    assert apart(answer(cast(small, jnp.float32), f.data), answer(want, f.data)) < HALF
    try:
        answer(half, data)
    except TypeError as error:
        raise Lacking(f"arithmetic in half precision: {error}") from error
    assert apart(answer(small, data), answer(want, f.data)) < HALF


def checkpointing(f: Family, _: Path) -> None:
    """Gradients with activations computed anew are those without."""
    run, values = program(f.small, f.data)
    got, want = (
        jax.jit(jax.grad(lambda v, call=call: jnp.mean(call(v) ** 2)))(values) for call in (jax.checkpoint(run), run)
    )
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * float(np.abs(b).max() + 1))


def generation(f: Family, _: Path) -> None:
    """Token by token through the package's cache is the whole sequence at once."""
    import mamba2_jax

    cache, steps = mamba2_jax.create_empty_cache(f.small.cfg, 2), []
    for t in range(4):
        out = mamba2_jax.forward(f.small, f.data[:, t : t + 1], None, cache)
        cache = out["cache"]
        steps.append(np.asarray(out["logits"][:, 0]))
    assert apart(np.stack(steps, 1), answer(f.small, f.data)[:, :4]) < ROUNDING


def saved(f: Family, folder: Path) -> None:
    """By balred's own files, and by the framework's way."""
    want = answer(f.small, f.data)
    balred.save(f.small, folder / "small.safetensors")
    np.testing.assert_array_equal(answer(balred.load(f.model, folder / "small.safetensors"), f.data), want)
    values, _ = opened(f.small)
    skeleton = skeleton_for(f.model, named(f.small))
    empty, filled = opened(skeleton)
    if isinstance(f.model, eqx.Module):
        eqx.tree_serialise_leaves(folder / "leaves.eqx", values)
        read = eqx.tree_deserialise_leaves(folder / "leaves.eqx", empty)
    elif isinstance(f.model, nnx.Module):
        read = copy.deepcopy(empty)
        nnx.replace_by_pure_dict(read, serialization.msgpack_restore(serialization.msgpack_serialize(pure(values))))
    else:
        read = serialization.from_bytes(empty, serialization.to_bytes(values))
    np.testing.assert_array_equal(answer(filled(read), f.data), want)


def named(model: Any) -> Any:
    """The shapes of its arrays under their names, as metadata of a checkpoint tell them."""
    from balred.registry.tensors import tensors_of

    return {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in tensors_of(model).items()}


def pure(state: Any) -> Any:
    return jax.tree.map(np.asarray, nnx.to_pure_dict(state))


def sharded(f: Family, folder: Path) -> None:
    """By orbax, which writes an array in pieces."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own imports
        ocp = pytest.importorskip("orbax.checkpoint")
    values, _ = opened(f.small)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "run", values)
    with ocp.StandardCheckpointer() as checkpointer:
        metadata = checkpointer.metadata(folder / "run").item_metadata.tree
    empty, filled = opened(skeleton_for(f.model, metadata))
    with ocp.StandardCheckpointer() as checkpointer:
        read = checkpointer.restore(folder / "run", empty)
    np.testing.assert_array_equal(answer(filled(read), f.data), answer(f.small, f.data))


def resumed(f: Family, _: Path) -> None:
    """A training that goes on from a checkpoint after the cut ends in the weights of one that never stopped."""
    start = {"eqx": Equinox, "nnx": Nnx, "linen": Linen}
    kind = start["linen" if isinstance(f.model, nn.Module) else "nnx" if isinstance(f.model, nnx.Module) else "eqx"]
    whole = kind(f)
    for k in (1, 2, 3):
        whole.step(k)
    assert size(whole.now()) < size(f.model)
    again = kind(f)
    again.resume(whole.memory.to_dict(), [np.asarray(x) for x in jax.tree.leaves(whole.values())])
    for k in (4, 5):
        whole.step(k)
        again.step(k)
    for a, b in zip(jax.tree.leaves(again.values()), jax.tree.leaves(whole.values()), strict=True):
        np.testing.assert_array_equal(a, b)


class Training:
    """Cut at its second step."""

    def __init__(self, f: Family) -> None:
        self.f = f
        self.options: dict[str, Any] = {"rule": balred.Order(RANK), "window": (0, 2), "attempts": 1}
        self.options["calibration"] = f.data if selective(f.model) else None
        self.memory: Any = None
        self.start()

    start: Callable[[], None]
    step: Callable[[int], None]
    now: Callable[[], Any]
    values: Callable[[], Any]
    resume: Callable[[Any, Any], None]

    def gradient(self, model: Any) -> Any:
        run, values = program(model, self.f.data)
        return jax.jit(jax.grad(lambda v: jnp.mean(run(v) ** 2)))(values)


def filled(tree: Any, leaves: Any) -> Any:
    return jax.tree.unflatten(jax.tree.structure(tree), [jnp.asarray(x) for x in leaves])


class Equinox(Training):
    def start(self) -> None:
        self.model = self.f.model
        self.opt_state = TX.init(eqx.filter(self.model, eqx.is_inexact_array))
        self.reducer = equinox.InTrainingReducer(**self.options)
        self.memory = self.reducer.init(self.model)

    def step(self, k: int) -> None:
        updates, self.opt_state = TX.update(self.gradient(self.model), self.opt_state)
        model = eqx.apply_updates(self.model, updates)
        self.model, self.opt_state, self.memory, _ = self.reducer.update(model, self.opt_state, self.memory, k)

    def now(self) -> Any:
        return self.model

    def values(self) -> Any:
        return eqx.filter((self.model, self.opt_state), eqx.is_array)

    def resume(self, memory: Any, leaves: Any) -> None:
        self.model, self.opt_state, self.memory = self.reducer.resume(self.model, self.opt_state, memory)
        arrays, rest = eqx.partition((self.model, self.opt_state), eqx.is_array)
        self.model, self.opt_state = eqx.combine(filled(arrays, leaves), rest)


class Nnx(Training):
    def start(self) -> None:
        self.model = nnx.clone(self.f.model)
        self.optimizer = nnx.Optimizer(self.model, TX, wrt=nnx.Param)
        self.reducer = flax_nnx.InTrainingReducer(**self.options)
        self.memory = self.reducer.init(self.model)

    def step(self, k: int) -> None:
        self.optimizer.update(self.model, self.gradient(self.model))
        self.memory, _ = self.reducer.update(self.model, self.optimizer, self.memory, k)

    def now(self) -> Any:
        return self.model

    def values(self) -> Any:
        return nnx.state((self.model, self.optimizer))

    def resume(self, memory: Any, leaves: Any) -> None:
        self.memory = self.reducer.resume(self.model, self.optimizer, memory)
        nnx.update((self.model, self.optimizer), filled(self.values(), leaves))


class Linen(Training):
    def start(self) -> None:
        module, variables = self.f.model.unbind()
        self.state = TrainState.create(apply_fn=module.apply, params=variables["params"], tx=TX)
        settings = module if hasattr(module, "conj_sym") else None
        self.reducer = flax.InTrainingReducer(module=self.sized, settings=settings, **self.options)
        self.memory = self.reducer.init(self.state)

    def sized(self, ranks: dict[str, int]) -> Any:
        """The module of this size, as :func:`balred.reduce` makes it."""
        return balred.reduce(self.f.model, ranks[""]).unbind()[0]

    def now(self) -> Any:
        return self.sized({"": len(jax.tree.leaves(self.state.params)[-1])}).bind({"params": self.state.params})

    def step(self, k: int) -> None:
        def loss(params: Any) -> Any:
            return jnp.mean(jnp.stack([self.state.apply_fn({"params": params}, x) for x in self.f.data]) ** 2)

        self.state = self.state.apply_gradients(grads=jax.jit(jax.grad(loss))(self.state.params))
        self.state, self.memory, _ = self.reducer.update(self.state, self.memory, k)

    def values(self) -> Any:
        return self.state.params, self.state.opt_state, self.state.step

    def resume(self, memory: Any, leaves: Any) -> None:
        self.state, self.memory = self.reducer.resume(self.state, memory)
        params, opt_state, step = filled(self.values(), leaves)
        self.state = self.state.replace(params=params, opt_state=opt_state, step=step)


def copied(f: Family, _: Path) -> None:
    want = answer(f.small, f.data)
    np.testing.assert_array_equal(answer(copy.deepcopy(f.small), f.data), want)
    try:
        written = pickle.dumps(f.model)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise Lacking(f"pickles: {error}") from error
    assert written
    np.testing.assert_array_equal(answer(pickle.loads(pickle.dumps(f.small)), f.data), want)


def exported(f: Family, _: Path) -> None:
    """The program that ``jax.export`` makes of the smaller model computes the same."""
    run, values = program(f.small, f.data)
    leaves, tree = jax.tree.flatten(values)
    made = export.export(jax.jit(lambda *leaves: run(jax.tree.unflatten(tree, leaves))))(*leaves)
    assert apart(np.asarray(made.call(*leaves)), answer(f.small, f.data)) < ROUNDING


SPEAKING = (generation,)
USES = {
    use.__name__: use for use in (plain, bf16, checkpointing, generation, saved, sharded, resumed, copied, exported)
}
