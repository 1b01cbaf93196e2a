"""Sharded trainings in JAX: after a cut parameters, moments and averages lie on the mesh as before.  Eight devices made of the CPU.

An axis that the mesh no longer divides is kept whole on every device.  Expected losses: those of the same training on one.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("flax")
pytest.importorskip("optax")

PROGRAM = """
import os, sys
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
import jax, jax.numpy as jnp, numpy as np, optax
from flax.training.train_state import TrainState
from jax.sharding import NamedSharding, PartitionSpec as P
from jax_trainers import batch, error, initial, output
import balred
from balred.adapters.flax import InTrainingReducer

assert len(jax.devices()) == 8
mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"))


def spec_of(path):
    # states are split over two devices
    name = path[-1].key
    return P(None, "model") if name in ("C_re", "C_im") else P() if name in ("D", "kernel") else P("model")


def on_mesh(tree):
    return jax.tree_util.tree_map_with_path(lambda p, x: jax.device_put(x, NamedSharding(mesh, spec_of(p))), tree)


class State(TrainState):
    average: dict


def train(spread, rank):
    params = initial()
    params = on_mesh(params) if spread else params
    now = State.create(apply_fn=None, params=params, tx=optax.adamw(1e-2), average=jax.tree.map(jnp.copy, params))
    rule = balred.Order(rank)
    reducer = InTrainingReducer(rule, (0, 2), 1, averages=["average"], module=lambda ranks: Nothing)
    memory = reducer.init(now)
    step = jax.jit(lambda now, u: advance(now, u))
    losses = []
    for k in range(1, 5):
        u = jax.device_put(batch(k), NamedSharding(mesh, P("data"))) if spread else batch(k)
        now, loss = step(now, u)
        losses.append(float(loss))
        before = shardings(now) if spread else None
        now, memory, report = reducer.update(now, memory, k)
        if report and spread:
            check(before, now, rank)
    return now, losses


def trees(now):
    return now.params, now.opt_state[0].mu, now.opt_state[0].nu, now.average


def shardings(now):
    return jax.tree.map(lambda x: x.sharding, trees(now))


def check(before, now, rank):
    assert now.params["first"]["nu_log"].shape == (rank,)
    split = 0
    for old, x in zip(jax.tree.leaves(before), jax.tree.leaves(trees(now)), strict=True):
        # "model" is the only axis along which states are split, over two devices
        whole = rank % 2 == 1 and rank in x.shape
        wanted = NamedSharding(mesh, P() if whole else old.spec)
        assert x.sharding.is_equivalent_to(wanted, x.ndim), (x.shape, old, x.sharding)
        assert x.sharding.mesh == mesh and len(x.sharding.device_set) == 8
        split += "model" in old.spec
    assert split >= 2 * 4 * 7  # two layers, four trees, all parameters but D
    shard = now.params["first"]["B_re"].addressable_shards[0].data.shape
    assert shard == ((3, 2) if rank == 6 else (5, 2)), shard


class Nothing:
    apply = None


def advance(now, u):
    loss, grads = jax.value_and_grad(lambda p: error(output(p, u), u))(now.params)
    now = now.apply_gradients(grads=grads)
    return now.replace(average=jax.tree.map(lambda a, x: 0.9 * a + 0.1 * x, now.average, now.params)), loss


for rank in (6, 5):
    now, losses = train(True, rank)
    _, want = train(False, rank)
    np.testing.assert_allclose(losses, want, rtol=1e-4)
    assert losses[2] != want[0]
print("sharded")
"""


@pytest.mark.full  # a process of its own, which compiles for many devices
def test_a_cut_keeps_the_shardings() -> None:
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)],
        capture_output=True, text=True, timeout=600, cwd=Path(__file__).parents[2] / "support", check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.strip() == "sharded"
