"""Batches that JAX has spread over devices stay spread: eight of them, made of the CPU in a process of their own.

Expected: values of the same batch in NumPy; the sharding of the input's batch axis; no collective that gathers it.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("jax")

PROGRAM = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
import balred

assert len(jax.devices()) == 8
mesh = jax.make_mesh((8,), ("batch",))
along = NamedSharding(mesh, P("batch"))


def build(kind, first, B, C):
    if kind == "dense":
        return balred.ss(first, B, C, dt=1)
    return balred.diagonal(log_poles=first, B=B, C=C, dt=1, conjugate=kind == "conjugate")


for kind in ("dense", "diagonal", "conjugate"):
    for m in (1, 2):
        g = balred.testing.random_system(4, m, m, dt=1, kind=kind, batch=(16,), seed=0)
        want = balred.hsv(g)
        leaves = [x.astype(np.complex64 if np.iscomplexobj(x) else np.float32) for x in g.leaves]
        spread = [jax.device_put(x, along) for x in leaves]

        def values(*x, kind=kind):
            return balred.hsv(build(kind, *x))

        compiled = jax.jit(values).lower(*spread).compile()
        assert "all-gather" not in compiled.as_text(), kind
        s = compiled(*spread)
        assert s.sharding.is_equivalent_to(along, s.ndim), s.sharding
        assert len(s.addressable_shards) == 8
        assert s.addressable_shards[0].data.shape == (2, g.order)
        assert np.abs(np.asarray(s) - want).max() < 2e-6 * want.max()

        slopes = jax.jit(jax.grad(lambda *x: values(*x).sum(), argnums=(0, 1, 2)))
        for x, y in zip(slopes(*spread), slopes(*leaves)):
            assert x.sharding.is_equivalent_to(along, x.ndim), x.sharding
            assert np.abs(np.asarray(x) - np.asarray(y)).max() < 1e-4 * np.abs(np.asarray(y)).max()

        # without jit, where NumPy computes, results go back to where the data lay
        eager, small = values(*spread), balred.reduce(build(kind, *spread), 2)
        for x in (eager, *small.leaves):
            assert x.sharding.is_equivalent_to(along, x.ndim), x.sharding
        assert np.abs(np.asarray(eager) - want).max() < 2e-6 * want.max()
print("sharded")
"""


@pytest.mark.full
def test_sharded_batches_stay_sharded():
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(PROGRAM)], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.strip() == "sharded"
