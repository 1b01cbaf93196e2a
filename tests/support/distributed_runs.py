"""Trainings that several processes run together, for ``test_torch_distributed.py``: at the top of a module, so that
each process can import them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import balred
from balred.intraining import Guard
from balred.selection import Calibration

torch = pytest.importorskip("torch")
import torch.distributed as dist  # noqa: E402
from torch.nn.parallel import DistributedDataParallel as DDP  # noqa: E402

from balred.adapters.torch import LRU, InTrainingReducer  # noqa: E402

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
            with model.no_sync():
                half = loss_of(model, first) / 2
                half.backward()
            rest = loss_of(model, second) / 2
            rest.backward()
            loss = half + rest
        else:
            loss = loss_of(model, batch(step, part))
            loss.backward()
        optimizer.step()
        for average in averages:
            average.update_parameters(model if isinstance(average.module, DDP) else net)
        reducer.step()
        losses.append(float(loss.detach()))
    events = [(r.step, r.cuts, r.restored) for r in reducer.reports]
    return {"losses": losses, "reports": events, **described(net)}


def described(net: Any) -> Run:
    """The weights, and (for comparison with other runs: a state may have either sign) the outputs on data."""
    with torch.no_grad():
        return {
            "ranks": sizes(net),
            "outputs": net(batch(99)),
            "weights": weights_of(net),
        }


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


def weights_of(net: Any) -> dict[str, Any]:
    for module in net.modules():
        if hasattr(module, "reshard"):
            module.reshard()
    return {n: whole(p) for n, p in net.named_parameters()}


OPTIONS: dict[str, dict[str, Any]] = {
    "accumulated": {"accumulate": True},
    "a budget": {"rule": balred.Budget(states=14)},
    "carried moments": {"moments": "carry"},
    "settled": {"settled": 2},
    "rolled back": {"delay": 0},
    "rolled back later": {"delay": 2},
}


def run_with(model: Any, net: Any, part: slice, fall: float, *, delay: int | None = None, **kw: Any) -> Run:
    if delay is not None:
        kw["guard"] = Guard(lambda m: -fall * (len(m.first.nu_log) < 16), tolerance=0.4, delay=delay)
    return trained(model, net, part, **kw)


def averaged(model: Any, net: Any, part: slice, wrapper: bool = False) -> Run:
    average = torch.optim.swa_utils.AveragedModel(
        model if wrapper else net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=True
    )
    run = trained(model, net, part, averages=[average])
    return run | described(average.module.module if wrapper else average.module)


def with_other_rounding(rank: int) -> Run:
    """As if the second process ran on a machine that rounds otherwise when it writes a layer."""
    from balred.adapters.torch.training.replicated import Replicated

    real = Replicated.put

    def put(self: Any, layer: Any, new: Any) -> None:
        for p in new.parameters():
            p.data.mul_(1 + 1e-6 * rank)
        real(self, layer, new)

    Replicated.put = put  # type: ignore[method-assign]
    try:
        return trained(*replica(), mine(rank))
    finally:
        Replicated.put = real  # type: ignore[method-assign]


def with_options(rank: int) -> dict[str, Run]:
    """One of the two processes sees the metric fall by 1, the other not at all; the mean is what counts."""
    runs = {name: run_with(*replica(), mine(rank), float(rank), **kw) for name, kw in OPTIONS.items()}
    return runs | {
        "other rounding": with_other_rounding(rank),
        "averaged": averaged(*replica(), mine(rank)),
        "wrapper averaged": averaged(*replica(), mine(rank), wrapper=True),
    }


class Mixed(torch.nn.Module):
    """An LRU layer and two blocks of Mamba, whose norms need mean squares of B and C."""

    def __init__(self) -> None:
        from mambapy.mamba import MambaBlock, MambaConfig

        super().__init__()
        torch.manual_seed(0)
        config = MambaConfig(d_model=2, n_layers=2, d_state=8, expand_factor=4, inner_layernorms=True, pscan=False)
        g = torch.Generator().manual_seed(0)
        self.first, self.second, self.third = LRU(2, 8, generator=g), MambaBlock(config), MambaBlock(config)
        self.double()

    def forward(self, u: Any) -> Any:
        return self.third(u + self.second(u + self.first(u)))


def on_data(rank: int | None, rule: Any) -> Run:
    """Trained with layers of which states are selected along data: three sequences of the first process, five of the second."""
    net = Mixed()
    model = net if rank is None else DDP(net)
    average = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    part = slice(None) if rank is None else mine(rank)
    data = batch(77, slice(None) if rank is None else (slice(0, 3), slice(3, 8))[rank])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    calibration = Calibration([data], balanced_on="data")
    averages = [average]
    reducer = InTrainingReducer(model, optimizer, rule, WINDOW, 2, averages=averages, calibration=calibration)
    return trained_on_data(model, net, part, optimizer, reducer, averages)


def sharded_on_data(rank: int | None, rule: Any) -> Run:
    """The same by ``fully_shard``, the operator layer balanced on data: one batch of the first process, two of the second."""
    from torch.distributed.fsdp import fully_shard

    net = Mixed()
    net.first.register_forward_pre_hook(halved)
    for module in () if rank is None else (net.second, net.third, net):
        fully_shard(module)
    part = slice(None) if rank is None else mine(rank)
    batches = [batch(77, slice(0, 3)), batch(77, slice(3, 5)), batch(77, slice(5, 8))]
    data = batches if rank is None else (batches[:1], batches[1:])[rank]
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    calibration = Calibration(data, balanced_on="data")
    reducer = InTrainingReducer(net, optimizer, rule, WINDOW, 2, calibration=calibration)
    return trained_on_data(net, net, part, optimizer, reducer, []) | {
        "sizes": [m.config.d_state for m in (net.second, net.third)]
    }


def halved(_: Any, args: Any) -> Any:
    """A hook of the user's, without which a layer would see other data."""
    return (args[0] / 2,)


def trained_on_data(model: Any, net: Any, part: slice, optimizer: Any, reducer: Any, averages: Any) -> Run:
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        loss_of(model, batch(step, part)).backward()
        optimizer.step()
        for average in averages:
            average.update_parameters(net)
        reducer.step()
    with torch.no_grad():
        shown = [m(batch(99)) for m in (net, *(average.module for average in averages))]
    cuts = [(r.step, [(c.layer, c.before, c.after) for c in r.cuts], dict(r.skipped)) for r in reducer.reports]
    return {
        "reports": cuts,
        "outputs": shown,
        "weights": weights_of(net),
        "energies": [c.energy for r in reducer.reports for c in r.cuts],
    }


def selective(rank: int, rules: Any) -> list[Run]:
    warnings.simplefilter("ignore")
    return [on_data(rank, rule) for rule in rules]


def selective_shards(rank: int, rules: Any) -> list[Run]:
    warnings.simplefilter("ignore")
    return [sharded_on_data(rank, rule) for rule in rules]


def mlstm(rank: int | None, sharding: bool = False) -> Run:
    """An xLSTM of transformers, whose first layer needs fewer dimensions than its second, trained through a cut."""
    from attention_layers import model as xlstm
    from torch.distributed.fsdp import fully_shard

    net: Any = xlstm(mode="train").double().train()
    with torch.no_grad():
        net.backbone.blocks[0].mlstm_layer.q.weight.view(4, 32, -1)[:, 8:] = 0.0
    for module in (*net.backbone.blocks, net) if sharding and rank is not None else ():
        fully_shard(module)
    model = net if rank is None or sharding else DDP(net, find_unused_parameters=True)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-2)
    reducer = InTrainingReducer(model, optimizer, balred.Energy(0.6), (0, 2), 1)
    part = slice(None) if rank is None else slice(2 * rank, 2 * rank + 2)
    for step in range(4):
        optimizer.zero_grad()
        ids = torch.randint(0, 90, (4, 32), generator=torch.Generator().manual_seed(step))
        model(ids[part], labels=ids[part], use_cache=False).loss.backward()
        optimizer.step()
        reducer.step()
    with torch.no_grad():
        shown = net(ids, use_cache=False).logits
    return {
        "reports": [(r.step, [(c.layer, c.before, c.after) for c in r.cuts], dict(r.skipped)) for r in reducer.reports],
        "outputs": shown,
        "weights": weights_of(net),
        "sizes": [net.config.qk_dim, *(block.mlstm_layer.qk_dim for block in net.backbone.blocks)],
    }


def mlstm_both(rank: int) -> list[Run]:
    warnings.simplefilter("ignore")
    return [mlstm(rank), mlstm(rank, sharding=True)]


def shared_out(rank: int, folder: Path) -> dict[str, Any]:
    from balred.reduction import operators

    seen: list[str] = []
    real: Any = operators.analyses

    def counted(read: Any, settings: Any) -> Any:
        seen.extend(read)
        return real(read, settings)

    operators.analyses = counted
    model, net = replica()
    first = trained(model, net, mine(rank), attempts=1, log=folder / "cuts.jsonl")
    there = list(seen)

    def failing(read: Any, settings: Any) -> Any:
        raise KeyError("injected")

    operators.analyses = failing if rank == 1 else real
    try:
        trained(*replica(), mine(rank))
    except (KeyError, RuntimeError) as error:
        said = f"{type(error).__name__}: {error}"
    operators.analyses = real
    return {"seen": there, "said": said, "cuts": first["reports"]}


def resumed(rank: int, make: Callable[[], tuple[Any, Any]]) -> Run:
    model, net = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    reducer = InTrainingReducer(model, optimizer, RULE, WINDOW, 2)
    trained(model, net, mine(rank), steps=range(1, 7), optimizer=optimizer, reducer=reducer)
    saved = reducer.state_dict(), model.state_dict(), optimizer.state_dict()
    model, net = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    reducer = InTrainingReducer(model, optimizer, RULE, WINDOW, 2)
    reducer.load_state_dict(saved[0])
    model.load_state_dict(saved[1])
    optimizer.load_state_dict(saved[2])
    return trained(model, net, mine(rank), steps=range(7, STEPS + 1), optimizer=optimizer, reducer=reducer)


def sharded(each: bool = True, shape: tuple[int, int] | None = None, **kw: Any) -> tuple[Any, Any]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    net = Net()
    if shape is not None:
        kw["mesh"] = init_device_mesh("cpu", shape, mesh_dim_names=("replicas", "shards"))
    if each:
        for child in (net.first, net.second):
            fully_shard(child, **kw)
    fully_shard(net, **kw)
    return net, net


SHARDINGS: dict[str, dict[str, Any]] = {
    "each layer": {},
    "all together": {"each": False},
    "kept gathered": {"reshard_after_forward": False},
    "replicated shards": {"shape": (1, 2)},
    "replicas of one shard": {"shape": (2, 1)},
}


def shards(rank: int) -> dict[str, Run]:
    warnings.simplefilter("ignore")
    runs = {name: trained(*sharded(**kw), mine(rank)) for name, kw in SHARDINGS.items()}
    model, net = sharded()
    runs["compiled"] = trained(torch.compile(model, backend="eager"), net, mine(rank))
    runs |= {name: run_with(*sharded(), mine(rank), float(rank), **OPTIONS[name]) for name in SHARDED_OPTIONS}
    return runs


SHARDED_OPTIONS = ["a budget", "carried moments", "rolled back", "rolled back later"]


def refused(rank: int) -> dict[str, str]:
    from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
    from torch.distributed.optim import ZeroRedundancyOptimizer

    warnings.simplefilter("ignore")
    said = {}

    def trying(name: str, model: Any, optimizer: Any = None) -> None:
        try:
            InTrainingReducer(model, optimizer or torch.optim.SGD(model.parameters(), lr=0.1), RULE, WINDOW)
        except ValueError as error:
            said[name] = str(error)

    model, net = replica()
    trying("inside", net)
    trying("zero", model, ZeroRedundancyOptimizer(model.parameters(), torch.optim.SGD, lr=0.1))
    model.register_comm_hook(PowerSGDState(None), powerSGD_hook)
    trying("state", model)
    model, net = replica()
    model._register_builtin_comm_hook(dist.BuiltinCommHookType.FP16_COMPRESS)
    trying("built-in", model)
    model, net = replica()
    with model.no_sync():
        trying("no_sync", model)
    net = Net()
    trying(
        "delayed",
        DDP(
            net, delay_all_reduce_named_params=[("head.bias", net.head.bias)], param_to_hook_all_reduce=net.head.weight
        ),
    )
    return said | refused_shards()


def refused_shards() -> dict[str, str]:
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    said = {}

    def trying(name: str, model: Any, **kw: Any) -> None:
        try:
            InTrainingReducer(
                model, torch.optim.SGD(model.parameters(), lr=0.1), **{"rule": RULE, "window": WINDOW, **kw}
            )
        except ValueError as error:
            said[name] = str(error)

    trying("columns", sharded(shard_placement_fn=lambda p: Shard(1) if p.ndim == 2 else None)[0])
    trying("averages", sharded()[0], averages=[Net()])
    model, _ = sharded()
    before = {n: whole(p) for n, p in model.named_parameters()}
    trying("divergence", model, rule=balred.Divergence(0.1), calibration=batch(0))
    said["unchanged"] = str(all(torch.equal(whole(p), before[n]) for n, p in model.named_parameters()))
    model, _ = sharded()
    model.set_requires_gradient_sync(False)
    trying("accumulating", model)
    trying("flat", FullyShardedDataParallel(Net(), device_id=torch.device("cpu")))
    net, mesh = Net(), init_device_mesh("cpu", (2,))
    net.head.weight = torch.nn.Parameter(distribute_tensor(net.head.weight.detach(), mesh, [Shard(0)]))
    trying("otherwise", net)
    return said
