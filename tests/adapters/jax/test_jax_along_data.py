"""JAX models balanced on data: what is seen of each layer against a plain recurrence, PyTorch's numbers, and what is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("equinox")
pytest.importorskip("flax")

import equinox as eqx
import jax
import jax.numpy as jnp
import linen_layers
import lru_copies
import s5_copies
from flax import nnx

import balred
from balred.adapters.equinox import LRU
from balred.layers import along_data
from balred.registry.entries import container_of
from balred.registry.reading import layers_of, replace_layers
from balred.selection import Calibration

WIDTH, LENGTH = 3, 7

LAYERS: dict[str, Callable[[], Any]] = {
    "equinox LRU": lambda: LRU(WIDTH, 4, key=jax.random.key(1)),
    "nnx S5, both ways": lambda: s5_copies.nnx_layer("C1 C2"),
    "linen LRU": lambda: linen_layers.bound_lru(4),
    "equinox LRU, copied": lambda: lru_copies.Equinox(**lru_copies.parameters(4), state_dim=4),
    "equinox S5": s5_copies.equinox_layer,
    "equinox S5, both ways": lambda: s5_copies.equinox_layer("C1 C2"),
    "nnx LRU": lambda: lru_copies.Nnx(4),
    "nnx S5": s5_copies.nnx_layer,
    "nnx S5, both ways, one C": lambda: s5_copies.nnx_layer("wide", column=False),
    "linen S5": linen_layers.bound_s5,
    "linen S5, both ways": lambda: linen_layers.bound_s5(bidirectional=True),
}


def data(*shape: int, seed: int = 3) -> Any:
    """Coloured in time and across channels."""
    x = np.random.default_rng(seed).standard_normal(shape)
    return (np.cumsum(x, axis=-2) * np.linspace(0.2, 1, shape[-1])).astype(np.float32)


def sums(model: Any, layers: Any, how: Calibration) -> Any:
    """What is measured of layers by name."""
    running = container_of(model).running
    systems = {name: (layer, balred.adapt(layer)[0]) for name, layer in layers.items()}
    return running.sums(model, systems, running.batches(model, how.now()), how)


def cubes(z: Any) -> Any:
    return jnp.sum(z**3)


def brute_force(system: Any, u: Any, width: int) -> tuple[Any, Any]:
    """P and Q by the recurrence as it stands, a position at a time, and gradients with respect to what is added to its states."""
    dense = system.to_dense()
    A, B, C, D = (np.asarray(x, np.float32) for x in (dense.A, dense.B, dense.C, dense.D))

    def states(u: Any, added: Any) -> Any:
        def step(x: Any, now: Any) -> Any:
            x = x @ A.T + now[0] @ B.T + now[1]
            return x, x

        return jax.lax.scan(step, jnp.zeros((len(u), len(A))), (u.swapaxes(0, 1), added))[1].swapaxes(0, 1)

    back = u[:, ::-1]
    zeros = np.zeros((u.shape[1], len(u), len(A)), np.float32)

    def scalar(ahead: Any, behind: Any) -> Any:
        y = states(u, ahead) @ C.T + u @ D.T
        if y.shape[-1] > width:
            z = states(back, behind) @ C.T
            y = (y[..., :width] + z[:, ::-1, width:]) / 2**0.5
        return cubes(y)

    x, gradients = jax.jit(
        lambda: ([states(u, zeros), states(back, zeros)], jax.grad(scalar, argnums=(0, 1))(zeros, zeros))
    )()
    x = x if len(C) > width else x[:1]
    flat = [np.asarray(v, np.float64).reshape(-1, len(A)) for v in x]
    slopes = [np.asarray(g, np.float64).reshape(-1, len(A)) for g in gradients]
    return sum(v.T @ v for v in flat), sum(g.T @ g for g in slopes)


@pytest.mark.full
@pytest.mark.alike
@pytest.mark.parametrize("name", LAYERS)
def test_sums_are_those_of_a_plain_recurrence(name: str) -> None:
    layer, u = LAYERS[name](), data(3, LENGTH, WIDTH)
    found = sums(layer, {"": layer}, Calibration(u, scalar=cubes, vmapped=True))[""]
    assert not isinstance(found, str), found
    P, Q = brute_force(balred.adapt(layer)[0], u, WIDTH)
    for got, want in ((found.P, P), (found.Q, Q)):
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-4 * np.abs(want).max())
    assert found.predictions == 3 * LENGTH


# ------------------------------------------------------------------------------------------------ models


class Model(eqx.Module):
    """A layer between what makes its inputs coloured and what makes its outputs matter unlike, for one sequence."""

    before: Any
    layer: Any
    after: Any

    def __init__(self, layer: Any) -> None:
        keys = jax.random.split(jax.random.key(2))
        self.before, self.after = eqx.nn.Linear(1, WIDTH, key=keys[0]), eqx.nn.Linear(WIDTH, 4, key=keys[1])
        self.layer = layer

    def __call__(self, x: Any) -> Any:
        z = self.layer(jnp.tanh(jnp.cumsum(jax.vmap(self.before)(x), axis=0)))
        return self.after(z[::2].mean(0))


def lru(states: int = 6) -> Any:
    return LRU(WIDTH, states, key=jax.random.key(1))


def test_values_are_those_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    from balred.adapters.torch import LRU as TorchLRU

    class Twin(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.before, self.layer, self.after = (
                torch.nn.Linear(1, WIDTH),
                TorchLRU(WIDTH, 6),
                torch.nn.Linear(WIDTH, 4),
            )

        def forward(self, x: Any) -> Any:
            z = self.layer(torch.tanh(self.before(x).cumsum(1)))
            return self.after(z[:, ::2].mean(1))

    model, twin, x = Model(lru()), Twin(), data(8, LENGTH, 1)
    with torch.no_grad():
        for name, value in twin.named_parameters():
            part, _, key = name.partition(".")
            value.copy_(torch.tensor(np.array(getattr(getattr(model, part), key))))
    mine = balred.analyze(model, calibration=[x[:4], x[4:]], seed=3)["layer"]
    other = balred.analyze(twin, calibration=[torch.tensor(x[:4]), torch.tensor(x[4:])], seed=3)["layer"]
    np.testing.assert_allclose(mine.sigma, other.sigma, rtol=1e-5, atol=1e-6 * other.sigma.max())


@pytest.mark.full
def test_a_promise_is_measured_on_what_was_kept_out_and_holds() -> None:
    model, x = Model(lru()), data(32, LENGTH, 1)
    plan = balred.plan(model, balred.Divergence(0.02, of="values"), x)
    small, kept = plan.apply(), x[24:]
    want, got = (np.asarray(jax.jit(jax.vmap(m))(kept)) for m in (model, small))
    assert plan.divergence is not None
    assert plan.divergence.value == pytest.approx(float(((got - want) ** 2).sum() / (want**2).sum()), rel=1e-3)
    assert plan.divergence.value + plan.divergence.error <= 0.02
    assert small.layer.states < 6
    assert plan.rows[0].note == "balanced on data"


class Scaled(LRU):
    """Computes something else than its parameters say."""

    def __call__(self, u: Any, *, key: Any = None) -> Any:
        return jnp.tanh(u) * super().__call__(2 * u)


class Looped(Model):
    """Its layer runs inside a loop."""

    def __call__(self, x: Any) -> Any:
        z = jax.vmap(self.before)(x)
        return jax.lax.fori_loop(0, 2, lambda i, z: self.layer(z), z).mean(0)


class Aside(Model):
    """Its layer is run, and what it makes is thrown away."""

    def __call__(self, x: Any) -> Any:
        z = jax.vmap(self.before)(x)
        self.layer(z)
        return self.after(z.mean(0))


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (
            lambda: Model(Scaled(WIDTH, 6, key=jax.random.key(1))),
            "no tensor in it is the output of its linear operator",
        ),
        (lambda: Looped(lru()), "it runs inside a loop or a branch of JAX"),
        (lambda: Aside(lru()), "the model's output does not depend on it"),
    ],
)
def test_what_cannot_be_seen_is_balanced_on_noise_and_told(model: Any, why: str) -> None:
    with pytest.warns(balred.reduction.CalibrationWarning, match=f"layer .{why}"):
        plan = balred.plan(model(), {"layer": 3}, data(4, LENGTH, 1))
    assert plan.rows[0].note.startswith(f"balanced on white noise: {why}")


@pytest.mark.full
def test_layers_are_seen_through_transformations_and_in_several_places() -> None:
    class Wrapped(Model):
        def __call__(self, x: Any) -> Any:
            run = jax.checkpoint(lambda z: eqx.filter_jit(self.layer)(z))
            z = jax.vmap(run, in_axes=1, out_axes=1)(jnp.stack([jax.vmap(self.before)(x)] * 2, axis=1))
            return self.after(self.layer(z.sum(1)).mean(0))

    class Plain(Model):
        def __call__(self, x: Any) -> Any:
            z = 2 * self.layer(jax.vmap(self.before)(x))
            return self.after(self.layer(z).mean(0))

    layer, x = lru(), data(4, LENGTH, 1)
    how = Calibration(x, scalar=cubes)
    wrapped, plain = (sums(kind(layer), {"layer": layer}, how)["layer"] for kind in (Wrapped, Plain))
    assert (wrapped.positions, plain.positions) == (3 * 4 * LENGTH, 2 * 4 * LENGTH)
    # the first run is there twice, with the same states
    entering = np.asarray(jax.vmap(jax.vmap(Model(layer).before))(x))
    first = sums(layer, {"": layer}, Calibration(entering, balanced_on="inputs"))[""]
    np.testing.assert_allclose(wrapped.P, plain.P + first.P, rtol=1e-4, atol=1e-5 * np.abs(plain.P).max())


# ------------------------------------------------------------------------------------------------ batches or one sequence


class Batched(nnx.Module):
    """Takes batches, and would run on one sequence as well, along the wrong axis."""

    def __init__(self) -> None:
        self.layer = lru_copies.Nnx(4)

    def __call__(self, x: Any) -> Any:
        z = jax.vmap(self.layer)(x) if x.ndim == 3 else self.layer(x)
        return z - z.mean(1, keepdims=True)


@pytest.mark.full
def test_whether_a_model_takes_batches_is_found_told_or_refused() -> None:
    u = data(4, LENGTH, WIDTH)
    one = lru_copies.Nnx(4)  # runs on batches, along the sequences: no batch at all
    found = sums(one, {"": one}, Calibration(u, balanced_on="inputs"))[""]
    np.testing.assert_allclose(found.P, brute_force(balred.adapt(one)[0], u, WIDTH)[0], rtol=1e-3, atol=1e-4)

    both = Batched()
    with pytest.raises(ValueError, match="got one that runs on both with different answers: pass vmapped=False"):
        balred.analyze(both, calibration=u)
    whole, each = (
        sums(both, {"layer": both.layer}, Calibration(u, scalar=cubes, vmapped=v))["layer"] for v in (False, True)
    )
    np.testing.assert_allclose(whole.P, each.P, rtol=1e-4, atol=1e-5)
    assert np.abs(whole.Q - each.Q).max() > 1e-2 * np.abs(whole.Q).max()

    with pytest.raises(
        ValueError, match="the model must run on the calibration data, whose sequences lie along the first axis"
    ):
        balred.analyze(Model(lru()), calibration=data(4, LENGTH, 2))


@pytest.mark.full
def test_padding_counts_in_no_sum() -> None:
    class Masked(Model):
        def __call__(self, x: Any, attention_mask: Any = None) -> Any:
            return super().__call__(x)

    model, x = Masked(lru()), data(4, LENGTH, 1)
    mask = np.ones((4, LENGTH))
    mask[:, 5:] = 0
    padded, short = (
        sums(model, {"layer": model.layer}, Calibration(batch, balanced_on="inputs"))["layer"]
        for batch in ({"x": x, "attention_mask": mask}, {"x": x[:, :5]})
    )
    assert padded.positions == short.positions == 20
    np.testing.assert_allclose(padded.P, short.P, rtol=1e-5, atol=1e-6)


@pytest.mark.full
def test_growing_poles_are_told_and_none_grows_faster() -> None:
    full = s5_copies.nnx_layer()
    full.Lambda_re[...] = full.Lambda_re[...].at[:2].set(0.2)
    plan = balred.plan(full, 5, data(16, 12, WIDTH))
    assert plan.rows[0].note.startswith("balanced on data; 2 of 8 poles unstable")
    most = [np.abs(np.asarray(balred.adapt(m)[0].poles)).max() for m in (full, plan.apply())]
    assert 1 < most[1] <= most[0] * (1 + 1e-6)


# ------------------------------------------------------------------------------------------------ linen models


class Stack(linen_layers.nn.Module):  # type: ignore[misc, name-defined]
    states: int
    other: int = 0

    @linen_layers.nn.compact
    def __call__(self, u: Any) -> Any:
        nn = linen_layers.nn
        for n in (self.states, self.other or self.states):
            u = u + nn.Dense(WIDTH)(jnp.tanh(linen_layers.LRU(n, WIDTH)(u)))
        return u.mean(0)


@pytest.mark.full
def test_a_bound_model_is_one_with_its_fields() -> None:
    u = data(4, LENGTH, WIDTH)
    module = Stack(6)
    bound = module.bind(module.init(jax.random.key(0), u[0]))
    plan = balred.plan(bound, 3, u)
    assert [(r.layer, r.note) for r in plan.rows] == [(f"params.LRU_{i}", "balanced on data") for i in range(2)]
    small = plan.apply()
    assert (small.states, bound.states) == (3, 6)
    module, variables = small.unbind()
    assert module.apply(variables, u[0]).shape == (WIDTH,)
    with pytest.raises(ValueError, match=r"must keep the states of all its layers in one field .* got Stack with"):
        replace_layers(bound, {"params.LRU_0": layers_of(small)["params.LRU_0"]})


# ------------------------------------------------------------------------------------------------ programs that are kept


@pytest.mark.full
def test_operators_are_looked_for_in_the_values_of_now() -> None:
    layer, u, kept = LRU(WIDTH, 4, key=jax.random.key(1)), data(3, LENGTH, WIDTH), dict[Any, Any]()
    silent = eqx.tree_at(lambda m: (m.C_re, m.C_im), layer, (jnp.zeros_like(layer.C_re), jnp.zeros_like(layer.C_im)))
    for one in (silent, layer, silent):
        got, want = (sums(one, {"": one}, Calibration(u, vmapped=True, kept=k))[""] for k in (kept, None))
        assert type(got) is type(want)
        if not isinstance(want, str):
            np.testing.assert_allclose(got.P, want.P, rtol=1e-6)
            np.testing.assert_allclose(got.Q, want.Q, rtol=1e-6)
    assert len(kept) == 1


def test_states_along_data_take_no_more_memory_than_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One position of one sequence at a time, of order 12, and the same sums but for rounding."""
    layer, u, held, states_along = lru(), data(3, LENGTH, WIDTH), [], along_data.states_along

    def counted(*args: Any) -> Any:
        x = states_along(*args)
        held.append(x.size)
        return x

    monkeypatch.setattr(along_data, "states_along", counted)
    want = sums(layer, {"": layer}, Calibration(u, vmapped=True))[""]
    assert max(held) == 3 * LENGTH * 12
    held.clear()
    got = sums(layer, {"": layer}, Calibration(u, vmapped=True, max_bytes=1))[""]
    assert max(held) == 12
    for a, b in ((got.P, want.P), (got.Q, want.Q)):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(b).max())


@pytest.mark.full
def test_a_scalar_of_the_users_is_read_anew() -> None:
    layer, u, factor = LRU(WIDTH, 4, key=jax.random.key(1)), data(3, LENGTH, WIDTH), [1.0]
    how = Calibration(u, scalar=lambda z: factor[0] * z.sum(), vmapped=True, kept={})
    once = sums(layer, {"": layer}, how)[""].Q
    factor[0] = 2.0
    np.testing.assert_allclose(sums(layer, {"": layer}, how)[""].Q, 4 * once, rtol=1e-5)
