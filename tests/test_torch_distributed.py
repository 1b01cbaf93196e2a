"""Truncation in DistributedDataParallel and fully_shard: two real processes against one, on the same global batches.

In float64, in which losses of the two agree to far below what any mistake in a gradient would change.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import balred
from balred.events import EventLog
from balred.intraining import Guard

torch = pytest.importorskip("torch")
import torch.distributed as dist  # noqa: E402
from torch.nn.parallel import DistributedDataParallel as DDP  # noqa: E402

from balred.adapters.torch import LRU, InTrainingReducer  # noqa: E402
from processes import in_processes  # noqa: E402

RULE, STEPS, WINDOW = balred.Energy(0.9), 12, (0, 8)
Run = dict[str, Any]


class Net(torch.nn.Module):
    """Two LRU layers of different sizes, and a head."""

    def __init__(self, states: int = 16) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.first, self.second = LRU(2, states, generator=g), LRU(2, states // 2, generator=g)
        self.head = torch.nn.Linear(2, 2)
        with torch.no_grad():
            self.head.weight.copy_(torch.eye(2) / 2)
            self.head.bias.zero_()
        self.double()

    def forward(self, u: Any) -> Any:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(u)))))


def sizes(model: Any) -> list[int]:
    return [len(model.first.nu_log), len(model.second.nu_log)]


def batch(step: int, part: slice = slice(None)) -> Any:
    return torch.randn(8, 12, 2, generator=torch.Generator().manual_seed(step), dtype=torch.double)[part]


def loss_of(model: Any, u: Any) -> Any:
    return (model(u) - u.roll(2, dims=1)).square().mean()


def trained(
    model: Any,
    net: Any,
    part: slice,
    *,
    accumulate: bool = False,
    steps: range = range(1, STEPS + 1),
    averages: Any = (),
    optimizer: Any = None,
    reducer: Any = None,
    **kw: Any,
) -> Run:
    """Train `model`, which wraps `net`, on a part of every batch."""
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=1e-2)
    kw = {"rule": RULE, "window": WINDOW, "attempts": 2, **kw}
    reducer = reducer or InTrainingReducer(model, optimizer, averages=averages, **kw)
    losses = []
    for step in steps:
        optimizer.zero_grad()
        if accumulate:
            first, second = batch(step, part).chunk(2)
            with model.no_sync() if hasattr(model, "no_sync") else contextlib.nullcontext():
                (loss_of(model, first) / 2).backward()
            loss = loss_of(model, second) / 2
        else:
            loss = loss_of(model, batch(step, part))
        loss.backward()
        optimizer.step()
        for average in averages:
            average.update_parameters(net)
        reducer.step()
        losses.append(float(loss.detach()))
    weights = {n: whole(p) for n, p in net.named_parameters()}
    events = [(r.step, r.cuts, r.restored) for r in reducer.reports]
    return {"losses": losses, "weights": weights, "ranks": sizes(net), "reports": events, "steps": reducer.steps}


def whole(tensor: Any) -> Any:
    return getattr(tensor, "full_tensor", lambda: tensor)().detach().clone()


def mine(rank: int) -> slice:
    return slice(4 * rank, 4 * rank + 4)


def replica(**kw: Any) -> tuple[Any, Any]:
    net = Net()
    return DDP(net, **kw), net


WRAPPINGS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "plain": replica,
    "bucket views": lambda: replica(gradient_as_bucket_view=True),
    "static graph": lambda: replica(static_graph=True),
    "unused": lambda: replica(find_unused_parameters=True),
    "small buckets": lambda: replica(bucket_cap_mb=1e-4),
    "a hook": lambda: hooked(),
    "compiled inside": lambda: compiled(inside=True),
    "compiled around": lambda: compiled(inside=False),
    "a part": lambda: partial(),
}


def hooked() -> tuple[Any, Any]:
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    model, net = replica()
    model.register_comm_hook(dist.group.WORLD, allreduce_hook)
    return model, net


def compiled(inside: bool) -> tuple[Any, Any]:
    net = Net()
    if inside:
        return DDP(torch.compile(net, backend="eager")), net
    return torch.compile(DDP(net), backend="eager"), net


def partial() -> tuple[Any, Any]:
    """The layers each in a wrapper of their own, the head in a third."""
    net = Net()
    for name, child in list(net.named_children()):
        setattr(net, name, Unwrapping(DDP(child)))
    return net, net


class Unwrapping(torch.nn.Module):
    """Its inner layer's parameters under its own name, for :func:`sizes`."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, u: Any) -> Any:
        return self.inner(u)

    @property
    def nu_log(self) -> Any:
        return self.inner.module.nu_log


def replicas(rank: int) -> dict[str, Run]:
    warnings.simplefilter("ignore")
    return {name: trained(*made(), mine(rank)) for name, made in WRAPPINGS.items()}


@pytest.fixture(scope="module")
def alone() -> Run:
    net = Net()
    run = trained(net, net, slice(None))
    assert run["ranks"] != [16, 8]
    assert len([1 for _, cuts, _ in run["reports"] if cuts]) == 2
    return run


@pytest.fixture(scope="module")
def replicated(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Run]]:
    return in_processes(replicas, tmp_path_factory.mktemp("replicas"))


def agree(runs: list[Run], alone: Run, scale: float = 1.0) -> None:
    """The replicas are bitwise one, and what one process computes on the whole batch."""
    first, second = runs
    assert first["ranks"] == second["ranks"] == alone["ranks"]
    assert first["reports"] == second["reports"]
    assert [(s, [(c.layer, c.before, c.after) for c in cuts], r) for s, cuts, r in first["reports"]] == [
        (s, [(c.layer, c.before, c.after) for c in cuts], r) for s, cuts, r in alone["reports"]
    ]
    for a, b in zip(first["weights"].values(), second["weights"].values(), strict=True):
        assert torch.equal(a, b)
    means = [(a + b) / 2 for a, b in zip(first["losses"], second["losses"], strict=True)]
    assert means == pytest.approx(alone["losses"], rel=1e-9)
    for a, b in zip(first["weights"].values(), alone["weights"].values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", WRAPPINGS)
def test_replicas_train_on_as_one_process_does(name: str, replicated: list[dict[str, Run]], alone: Run) -> None:
    if name == "a part":
        alone = alone | {"reports": [(s, [rename(c) for c in cuts], r) for s, cuts, r in alone["reports"]]}
    agree([runs[name] for runs in replicated], alone)


def rename(cut: Any) -> Any:
    from dataclasses import replace

    return replace(cut, layer=f"{cut.layer}.inner.module")
