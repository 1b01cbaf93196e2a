"""Ranks rounded up to a multiple: a compiled training step is compiled anew at most twice, whatever is cut when.

Counted are the compilations themselves: traces in JAX, graphs handed to the compiler in PyTorch.
"""

from __future__ import annotations

from typing import Any

import pytest

import balred

RULE = balred.Energy(0.95, multiple_of=8)
STEPS = 60


@pytest.mark.full
def test_traces_in_jax() -> None:
    eqx, optax = pytest.importorskip("equinox"), pytest.importorskip("optax")
    import jax
    import jax.numpy as jnp

    from balred.adapters.equinox import LRU, InTrainingReducer

    model = LRU(1, 32, key=jax.random.key(0))
    optimizer = optax.adamw(1e-2)
    opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    reducer = InTrainingReducer(rule=RULE, window=(0, STEPS), interval=5)
    state, traces, ranks = reducer.init(model), [], []

    @eqx.filter_jit
    def train_step(model: Any, opt_state: Any, u: Any) -> Any:
        traces.append(model.nu_log.shape)
        grads = eqx.filter_grad(lambda m: jnp.mean((jax.vmap(m)(u) - jnp.roll(u, 3, axis=1)) ** 2))(model)
        updates, opt_state = optimizer.update(grads, opt_state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), opt_state

    for step in range(1, STEPS + 10):
        u = jax.random.normal(jax.random.key(step), (8, 16, 1))
        model, opt_state = train_step(model, opt_state, u)
        model, opt_state, state, report = reducer.update(model, opt_state, state, step)
        ranks += [cut.after for cut in report.cuts] if report else []
    assert ranks
    assert all(r % 8 == 0 for r in ranks)
    assert len(traces) == 1 + len(ranks) <= 3  # one for every cut, and none besides


@pytest.mark.full
@pytest.mark.parametrize("kind", ["equinox", "linen", "nnx"])
def test_traces_in_every_jax_framework(kind: str) -> None:
    pytest.importorskip("flax")
    pytest.importorskip("equinox")
    from jax_trainers import TRAINERS

    trainer = TRAINERS[kind](rule=balred.Energy(0.9, multiple_of=2), window=(0, 8), attempts=4)
    steps = [report.step for report in trainer.run(range(1, 12)) if report.cuts]
    assert all(rank % 2 == 0 for rank in trainer.ranks().values())
    assert 1 <= len(steps) < 4
    assert trainer.traces == 1 + len(steps)


@pytest.mark.full
def test_graphs_in_pytorch() -> None:
    torch = pytest.importorskip("torch")
    from torch._dynamo.testing import CompileCounter

    from balred.adapters.torch import LRU, InTrainingReducer

    torch._dynamo.reset()
    layer = LRU(1, 32, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2)
    reducer = InTrainingReducer(layer, optimizer, rule=RULE, window=(0, STEPS), interval=5)
    counter = CompileCounter()
    compiled = torch.compile(layer, backend=counter, fullgraph=True)
    generator, ranks, losses = torch.Generator().manual_seed(1), [], []
    for _ in range(STEPS + 10):
        u = torch.randn(8, 16, 1, generator=generator)
        loss = (compiled(u) - u.roll(3, dims=1)).square().mean()
        eager = (layer(u) - u.roll(3, dims=1)).square().mean()
        losses.append(float(((loss - eager).abs() / eager).detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        report = reducer.step()
        ranks += [cut.after for cut in report.cuts] if report else []
    assert ranks
    assert all(r % 8 == 0 for r in ranks)
    assert counter.frame_count <= 3
    assert max(losses) < 1e-4  # it is the cut layer that runs
