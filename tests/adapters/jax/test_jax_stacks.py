"""Layers that vmap or a scan over layers has stacked, in equinox, flax linen and flax nnx: reduced, and cut in training."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

eqx = pytest.importorskip("equinox")
pytest.importorskip("flax")
pytest.importorskip("optax")

import flax.linen as nn  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import lru_copies  # noqa: E402
import optax  # noqa: E402
import s5_copies  # noqa: E402
from flax import nnx  # noqa: E402
from flax.training.train_state import TrainState  # noqa: E402
from linen_layers import LRU as LinenLRU  # noqa: E402
from linen_layers import bound_s5  # noqa: E402
from linoss_layers import linoss  # noqa: E402

import balred  # noqa: E402
from balred.adapters.equinox import LRU, InTrainingReducer  # noqa: E402
from balred.adapters.flax import InTrainingReducer as LinenReducer  # noqa: E402
from balred.adapters.flax.nnx import InTrainingReducer as NnxReducer  # noqa: E402
from balred.intraining import Guard  # noqa: E402
from balred.reduction import CalibrationWarning  # noqa: E402

RULE = balred.Energy(0.9)
MEMBERS = 3
U = jnp.asarray(np.random.default_rng(0).standard_normal((20, 3)), jnp.float32)
VALUES = [lru_copies.parameters(8, seed=seed) for seed in range(MEMBERS)]
RANK = max(balred.analyze(one).rank(RULE) for one in VALUES)


def behind(members: list[Any]) -> Any:
    return jax.tree.map(lambda *x: jnp.stack(x), *members)


def equinox_stack() -> Any:
    return behind([lru_copies.Equinox(**one, state_dim=8) for one in VALUES])


def nnx_stack(values: Any = VALUES) -> Any:
    layer = lru_copies.Nnx(8)
    for name, value in behind(list(values)).items():
        setattr(layer, name, nnx.Param(value))
    return layer


def linen_stack() -> Any:
    module = nn.vmap(LinenLRU, in_axes=None, variable_axes={"params": 0}, split_rngs={"params": True}, axis_size=3)(
        8, 3
    )
    return module.bind({"params": behind(VALUES)})


STACKS = {"equinox": equinox_stack, "nnx": nnx_stack, "linen": linen_stack}


def outputs(layer: Any) -> Any:
    """Of each member, whose numbers are no arrays."""
    if isinstance(layer, nn.Module):
        module, variables = layer.unbind()
        return module.apply(variables, U)
    if isinstance(layer, nnx.Module):
        return nnx.vmap(lambda one, u: one(u), in_axes=(0, None))(layer, U)
    return eqx.filter_vmap(lambda one, u: one(u), in_axes=(eqx.if_array(0), None))(layer, U)


# ------------------------------------------------------------------------------------------------ reduced


@pytest.mark.parametrize("make", STACKS.values(), ids=STACKS)
def test_a_stack_runs_as_its_members_that_were_cut_alone(make: Any) -> None:
    small = balred.reduce(make(), RULE)
    got = np.asarray(outputs(small))
    for i, one in enumerate(VALUES):
        alone = balred.reduce(one, RANK)
        want = lru_copies.output(SimpleNamespace(**alone), U)
        np.testing.assert_allclose(got[i], want, rtol=0, atol=2e-5 * np.abs(want).max())
    assert (small.state_dim if isinstance(small, eqx.Module) else small.d_hidden) == RANK < 8


def s5_equinox() -> tuple[Any, Any]:
    members = [s5_copies.Equinox(**s5_copies.parameters(seed=s), H=3, P=8, **s5_copies.SETTINGS) for s in range(3)]
    return behind(members), members


def s5_nnx() -> tuple[Any, Any]:
    values = [s5_copies.parameters(seed=s) for s in range(3)]
    members = [s5_copies.Nnx(one, **s5_copies.SETTINGS) for one in values]
    stack = s5_copies.Nnx(behind(values), **s5_copies.SETTINGS)
    stack.P, stack.ssm_size = 8, 16
    return stack, members


def s5_linen() -> tuple[Any, Any]:
    module, variables = bound_s5().unbind()
    values = [{**variables["params"], **s5_copies.parameters(seed=s)} for s in range(3)]
    fields = {k: getattr(module, k) for k in ("Lambda_re_init", "Lambda_im_init", "V", "Vinv", "H", "P")}
    many = nn.vmap(type(module), in_axes=None, variable_axes={"params": 0}, split_rngs={"params": True}, axis_size=3)
    return many(**fields).bind({"params": behind(values)}), [module.bind({"params": one}) for one in values]


S5 = {"equinox": s5_equinox, "nnx": s5_nnx, "linen": s5_linen}


@pytest.mark.full
@pytest.mark.parametrize("make", S5.values(), ids=S5)
def test_a_stack_of_s5_layers_in_a_mixed_model_is_cut_as_its_members_are(make: Any) -> None:
    stack, members = make()
    model = [stack, LRU(3, 12, key=jax.random.key(0))]
    rows = balred.plan(model, 5).rows
    assert [(row.before, row.after) for row in rows] == [(8, 5), (12, 5)]
    small = balred.reduce(model, 5)[0]
    assert np.all(np.asarray(small.P) == 5)  # equinox stacks numbers too
    got = np.asarray(outputs(small))
    for i, one in enumerate(members):
        want = np.asarray(balred.reduce(one, 5)(U))
        np.testing.assert_allclose(got[i], want, rtol=0, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("axes", [(3,), (3, 1)])
def test_a_stack_of_oscillators_is_cut_as_its_members_are(axes: tuple[int, ...]) -> None:
    members, rule = [linoss("damped", seed=s) for s in range(3)], balred.Energy(0.9, squared=True)
    stack = jax.tree.map(lambda x: x.reshape(*axes, *x.shape[1:]), behind(members))
    needed = [balred.plan(one, rule).rows[0].after for one in members]
    small = balred.reduce(stack, rule)
    rank = max(needed)
    assert min(needed) < rank == small.A_diag.shape[-1]
    assert np.all(np.asarray(small.state_dim) == rank)  # equinox stacks numbers too
    for i, one in enumerate(members):
        want = balred.reduce(one, rank)
        for name in ("A_diag", "G_diag", "steps", "B", "C", "D"):
            mine, his = getattr(small, name), getattr(want, name)
            np.testing.assert_allclose(mine.reshape(3, *his.shape)[i], his, rtol=1e-5, atol=1e-6)
    assert balred.adapt(stack)[0].A.shape == (3, 32, 32)  # to look at


def test_a_stack_of_oscillators_is_cut_in_training() -> None:
    members = [linoss("damped", seed=s) for s in range(2)]
    model = behind(members)
    tx = optax.adam(1e-3)
    reducer = InTrainingReducer(rule=balred.Order(3), window=(0, 1), attempts=1)
    opt_state = tx.init(eqx.filter(model, eqx.is_inexact_array))
    model, opt_state, _, report = reducer.update(model, opt_state, reducer.init(model), step=1)
    assert [(cut.before, cut.after) for cut in report.cuts] == [(8, 3)]
    assert opt_state[0].mu.B.shape == model.B.shape == (2, 3, 3, 2)
    for i, one in enumerate(members):
        np.testing.assert_allclose(model.C[i], balred.reduce(one, 3).C, rtol=1e-5, atol=1e-6)


DATA = jax.random.normal(jax.random.key(5), (6, 20, 3))


class Apart(eqx.Module):
    """The layers of a stack one by one, `how` they are put together."""

    layers: list[Any]
    how: Any

    def __call__(self, u: Any) -> Any:
        return self.how(self.layers, u)


class Ensemble(eqx.Module):
    """Members that see one input, or each its own."""

    layer: Any
    own: bool = False

    def __call__(self, u: Any) -> Any:
        if not self.own:
            return outputs_of(self.layer, u).mean(0)
        many = jnp.stack([u, u[::-1], 2 * u])
        return eqx.filter_vmap(lambda one, x: one(x))(self.layer, many).mean(0)


def averaged(layers: Any, u: Any) -> Any:
    return sum(one(u) for one in layers) / len(layers)


def averaged_of_their_own(layers: Any, u: Any) -> Any:
    return sum(one(x) for one, x in zip(layers, (u, u[::-1], 2 * u), strict=True)) / len(layers)


def one_by_one(values: Any, how: Any) -> Any:
    return Apart([lru_copies.Equinox(**one, state_dim=8) for one in values], how)


def agree(stack: Any, values: Any, how: Any) -> None:
    """What is cut of a stack is what is cut of its members on the same data to the same rank, which is at least the largest of theirs."""
    apart, rank = one_by_one(values, how), stack["nu_log"].shape[-1]
    assert max(row.after or 0 for row in balred.plan(apart, RULE, calibration=DATA, vmapped=True).rows) <= rank < 8
    want = balred.reduce(apart, rank, calibration=DATA, vmapped=True)
    for i, one in enumerate(want.layers):
        for got, value in zip(modes(stack, i), modes(vars(one), ...), strict=True):
            np.testing.assert_allclose(got, value, rtol=0, atol=1e-4 * np.abs(value).max())


def modes(tree: Any, member: Any) -> tuple[Any, Any]:
    """Poles, and what each adds to the operator: a state may have either sign."""
    values = {k: np.asarray(tree[k])[member] for k in lru_copies.parameters(1)}
    B, C = (values[f"{k}_re"] + 1j * values[f"{k}_im"] for k in "BC")
    poles = np.exp(-np.exp(values["nu_log"]) + 1j * np.exp(values["theta_log"]))
    return poles, np.exp(values["gamma_log"])[:, None, None] * C.T[:, :, None] * B[:, None, :]


@pytest.mark.full
@pytest.mark.parametrize(("own", "how"), [(False, averaged), (True, averaged_of_their_own)], ids=["shared", "own"])
def test_members_under_vmap_are_balanced_on_data(own: bool, how: Any) -> None:
    small = balred.reduce(Ensemble(equinox_stack(), own), RULE, calibration=DATA, vmapped=True)
    agree(vars(small.layer), VALUES, how)


@pytest.mark.full
def test_members_under_vmap_are_balanced_on_their_inputs() -> None:
    model, apart = Ensemble(equinox_stack()), one_by_one(VALUES, averaged)
    rows = [balred.plan(one, 4, calibration=DATA, balanced_on="inputs", vmapped=True).rows for one in (model, apart)]
    assert rows[0][0].energy == pytest.approx(min(row.energy or 0 for row in rows[1]), rel=1e-5)


SEEDS = np.arange(6).reshape(2, 3)
GRID = [[lru_copies.parameters(8, seed=int(seed)) for seed in row] for row in SEEDS]


class Grid(eqx.Module):
    """Layers along two axes, each of them mapped or gone through."""

    layer: Any
    ways: str

    def __call__(self, u: Any) -> Any:
        arrays, rest = eqx.partition(self.layer, eqx.is_array)

        def run(arrays: Any, u: Any, ways: str) -> Any:
            if not ways:
                return eqx.combine(arrays, rest)(u)
            inner = ways[1:]
            if ways[0] == "v":
                return jax.vmap(lambda one: run(one, u, inner))(arrays).mean(0)
            return jax.lax.scan(lambda u, one: (u + jnp.tanh(run(one, u, inner)), None), u, arrays)[0]

        return run(arrays, u, self.ways)


def gone_through(layers: Any, u: Any, ways: str) -> Any:
    """The same of layers one by one."""
    if not ways:
        return layers(u)
    if ways[0] == "v":
        return sum(gone_through(one, u, ways[1:]) for one in layers) / len(layers)
    for one in layers:
        u = u + jnp.tanh(gone_through(one, u, ways[1:]))
    return u


@pytest.mark.full
@pytest.mark.parametrize("ways", ["vv", "vs", "sv", "ss"])
def test_a_stack_with_two_leading_axes_is_balanced_on_data(ways: str) -> None:
    """Both mapped, a mapped one of scans, a scan over mapped ones, a scan in a scan."""
    stack = behind([behind(row) for row in GRID])
    small = balred.reduce(Grid(lru_copies.Equinox(**stack, state_dim=8), ways), RULE, calibration=DATA, vmapped=True)
    flat = {name: np.asarray(x).reshape(6, *x.shape[2:]) for name, x in vars(small.layer).items() if eqx.is_array(x)}

    def how(layers: Any, u: Any) -> Any:
        return gone_through([layers[:3], layers[3:]], u, ways)

    agree(flat, [one for row in GRID for one in row], how)


def test_a_stack_that_runs_in_part_is_told() -> None:
    class Part(eqx.Module):
        layer: Any

        def __call__(self, u: Any) -> Any:
            arrays, rest = eqx.partition(self.layer, eqx.is_array)
            return eqx.combine(jax.tree.map(lambda x: x[0], arrays), rest)(u)

    with pytest.warns(CalibrationWarning, match="layer "):
        small = balred.reduce(Part(equinox_stack()), 4, calibration=DATA, vmapped=True)
    noise = balred.reduce(Part(equinox_stack()), 4)
    assert np.array_equal(small.layer.B_re, noise.layer.B_re)


def outputs_of(layer: Any, u: Any) -> Any:
    return eqx.filter_vmap(lambda one, x: one(x), in_axes=(eqx.if_array(0), None))(layer, u)


# ------------------------------------------------------------------------------------------------ in training


class Scanned(nn.Module):
    """A scan over LRU layers with a head."""

    d_hidden: int

    @nn.compact
    def __call__(self, u: Any) -> Any:
        class Block(nn.Module):
            states: int

            @nn.compact
            def __call__(self, u: Any, _: Any) -> Any:
                return u + jnp.tanh(LinenLRU(self.states, 3, name="lru")(u)), None

        blocks = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=MEMBERS)
        return nn.Dense(2)(blocks(self.d_hidden, name="blocks")(u, None)[0])


def scanned(u: Any, tree: Any) -> Any:
    """The same of a tree, one layer after the other."""
    for i in range(MEMBERS):
        one = SimpleNamespace(**{k: x[i] for k, x in tree["blocks"]["lru"].items()})
        u = u + jnp.tanh(lru_copies.output(one, u))
    return u @ tree["Dense_0"]["kernel"] + tree["Dense_0"]["bias"]


class EqxScanned(eqx.Module):
    blocks: Any
    head: Any

    def __call__(self, u: Any) -> Any:
        arrays, rest = eqx.partition(self.blocks, eqx.is_array)
        u = jax.lax.scan(lambda u, one: (u + jnp.tanh(eqx.combine(one, rest)(u)), None), u, arrays)[0]
        return jax.vmap(self.head)(u)


class NnxScanned(nnx.Module):
    def __init__(self) -> None:
        self.blocks, self.head = nnx_stack(), nnx.Linear(3, 2, rngs=nnx.Rngs(0))

    def __call__(self, u: Any) -> Any:
        step = nnx.scan(lambda u, one: u + jnp.tanh(one(u)), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        return self.head(step(u, self.blocks))


TX = optax.adam(1e-2)
POLICY: dict[str, Any] = {"rule": RULE, "window": (0, 2), "attempts": 1}


def target(u: Any) -> Any:
    return jnp.roll(u[:, :2], 1, axis=0)


class LinenTraining:
    def __init__(self, **options: Any) -> None:
        head = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
        params = {"blocks": {"lru": behind(VALUES)}, "Dense_0": head}
        self.now = TrainState.create(apply_fn=Scanned(8).apply, params=params, tx=TX)
        self.reducer = LinenReducer(**POLICY, **options)
        self.memory = self.reducer.init(self.now)

    def step(self, k: int) -> Any:
        grads = jax.grad(lambda p: jnp.mean((self.now.apply_fn({"params": p}, U) - target(U)) ** 2))(self.now.params)
        self.now = self.now.apply_gradients(grads=grads)
        before = self.stack()
        self.now, self.memory, report = self.reducer.update(self.now, self.memory, k)
        return before, report

    def stack(self) -> Any:
        return self.now.params["blocks"]["lru"]

    def moments(self) -> Any:
        return self.now.opt_state[0].mu["blocks"]["lru"]

    def resumed(self, saved: Any) -> Any:
        fresh = LinenTraining()
        fresh.now, fresh.memory = fresh.reducer.resume(fresh.now, saved)
        return fresh


class EqxTraining:
    def __init__(self, **options: Any) -> None:
        self.model = EqxScanned(equinox_stack(), eqx.nn.Linear(3, 2, key=jax.random.key(0)))
        self.opt_state = TX.init(eqx.filter(self.model, eqx.is_inexact_array))
        self.reducer = InTrainingReducer(**POLICY, **options)
        self.memory = self.reducer.init(self.model)

    def step(self, k: int) -> Any:
        grads = eqx.filter_grad(lambda m: jnp.mean((m(U) - target(U)) ** 2))(self.model)
        updates, self.opt_state = TX.update(grads, self.opt_state, self.model)
        self.model = eqx.apply_updates(self.model, updates)
        before = self.stack()
        self.model, self.opt_state, self.memory, report = self.reducer.update(
            self.model, self.opt_state, self.memory, k
        )
        return before, report

    def stack(self) -> Any:
        return {k: x for k, x in vars(self.model.blocks).items() if eqx.is_array(x)}

    def moments(self) -> Any:
        return vars(self.opt_state[0].mu.blocks)

    def resumed(self, saved: Any) -> Any:
        fresh = EqxTraining()
        fresh.model, fresh.opt_state, fresh.memory = fresh.reducer.resume(fresh.model, fresh.opt_state, saved)
        return fresh


class NnxTraining:
    def __init__(self, **options: Any) -> None:
        self.model = NnxScanned()
        self.optimizer = nnx.Optimizer(self.model, TX, wrt=nnx.Param)
        self.reducer = NnxReducer(**POLICY, **options)
        self.memory = self.reducer.init(self.model)

    def step(self, k: int) -> Any:
        grads = nnx.grad(lambda m: jnp.mean((m(U) - target(U)) ** 2))(self.model)
        self.optimizer.update(self.model, grads)
        before = self.stack()
        self.memory, report = self.reducer.update(self.model, self.optimizer, self.memory, k)
        return before, report

    def stack(self) -> Any:
        return {k: getattr(self.model.blocks, k)[...] for k in VALUES[0]}

    def moments(self) -> Any:
        return {k: x[...] for k, x in self.optimizer.opt_state[0].mu["blocks"].items()}

    def resumed(self, saved: Any) -> Any:
        fresh = NnxTraining()
        fresh.memory = fresh.reducer.resume(fresh.model, fresh.optimizer, saved)
        return fresh


TRAININGS = {"linen": LinenTraining, "equinox": EqxTraining, "nnx": NnxTraining}


@pytest.mark.full
@pytest.mark.parametrize("make", TRAININGS.values(), ids=TRAININGS)
@pytest.mark.parametrize("moments", ["reset", "carry"])
def test_a_scan_over_layers_is_cut_in_training(make: Any, moments: str) -> None:
    training = make(moments=moments)
    assert training.step(1)[1] is None
    before, report = training.step(2)
    ((cut),) = report.cuts
    ranks = [balred.analyze({k: x[i] for k, x in before.items()}).rank(RULE) for i in range(MEMBERS)]
    assert (cut.before, cut.after) == (8, max(ranks))
    want = balred.reduce(before, RULE)
    for name, value in want.items():
        np.testing.assert_array_equal(training.stack()[name], value)
    state = training.moments()
    assert {k: state[k].shape for k in want} == {k: x.shape for k, x in want.items()}
    assert bool(np.any(state["B_re"])) == (moments == "carry")
    training.step(3)  # and goes on
    assert all(np.isfinite(x).all() for x in training.stack().values())
    again = training.resumed(training.memory.to_dict())
    assert {k: x.shape for k, x in again.stack().items()} == {k: x.shape for k, x in training.stack().items()}
    assert {k: again.moments()[k].shape for k in want} == {k: state[k].shape for k in want}


def head_of(training: Any) -> tuple[Any, Any]:
    """Kernel, (3, 2), and bias of the head."""
    if isinstance(training, LinenTraining):
        head = training.now.params["Dense_0"]
        return head["kernel"], head["bias"]
    head = training.model.head
    return (head.weight.T, head.bias) if isinstance(training, EqxTraining) else (head.kernel[...], head.bias[...])


@pytest.mark.full
@pytest.mark.parametrize("make", TRAININGS.values(), ids=TRAININGS)
def test_a_scan_over_layers_is_balanced_on_data(make: Any) -> None:
    training = make(calibration=DATA)
    training.step(1)
    before, report = training.step(2)
    assert report.cuts[0].note.startswith("balanced on data")
    kernel, bias = head_of(training)

    def how(layers: Any, u: Any) -> Any:
        for one in layers:
            u = u + jnp.tanh(one(u))
        return u @ kernel + bias

    agree(training.stack(), [{k: x[i] for k, x in before.items()} for i in range(MEMBERS)], how)


@pytest.mark.full
@pytest.mark.parametrize("make", TRAININGS.values(), ids=TRAININGS)
def test_a_guard_takes_the_cut_of_a_stack_back(make: Any) -> None:
    worse = iter([1.0, 0.0])
    training = make(guard=Guard(lambda model: next(worse), tolerance=0.0, delay=0))
    training.step(1)
    before, report = training.step(2)
    assert report.restored
    for name, value in before.items():
        np.testing.assert_array_equal(training.stack()[name], value)


def test_the_linen_module_has_the_new_size() -> None:
    training = LinenTraining()
    training.step(1)
    training.step(2)
    states = training.stack()["nu_log"].shape[-1]
    assert training.now.apply_fn.__self__.d_hidden == states < 8
    got = training.now.apply_fn({"params": training.now.params}, U)
    np.testing.assert_allclose(got, scanned(U, training.now.params), atol=1e-4 * float(jnp.abs(got).max()))


def test_an_ensemble_is_a_stack_of_models() -> None:
    """The members of an ensemble get one size; their outputs are those of members cut alone."""
    make = eqx.filter_vmap(lambda key: eqx.nn.Sequential([LRU(2, 10, 0.5, 0.9, key=key), eqx.nn.Linear(2, 1, key=key)]))
    models = make(jax.random.split(jax.random.key(0), 3))
    assert (models[0].states, models[0].features) == (10, 2)
    state = TX.init(eqx.filter(models, eqx.is_inexact_array))
    reducer = InTrainingReducer(**{**POLICY, "window": (0, 1)})
    small, state, _, report = reducer.update(models, state, reducer.init(models), 1)
    rank = report.cuts[0].after
    assert small[0].states == rank < 10
    assert state[0].nu[0].B_re.shape == (3, rank, 2)
    assert small[1].weight is models[1].weight
    for i in range(3):
        alone = jax.tree.map(lambda x, i=i: x[i], models[0])
        want = balred.reduce(alone, rank)(U[:, :2])
        got = jax.tree.map(lambda x, i=i: x[i], small[0])(U[:, :2])
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * float(jnp.abs(want).max()))
