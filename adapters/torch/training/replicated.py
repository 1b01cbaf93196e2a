"""Models in several processes (``torch.distributed``): all cut alike, and what wraps the model gets the new shapes.

``DistributedDataParallel`` keeps gradient buckets of the shapes it found, ``fully_shard`` keeps flat shards: both go on
with the old ones unless told.  What cannot be told soundly is refused before anything is changed.
"""

from __future__ import annotations

import gc
import io
from collections.abc import Iterable, Sequence
from typing import Any, TypeGuard

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from balred.registry.entries import entry_of
from balred.adapters.torch.training.followers import forget_compiled, unwrapped
from balred.adapters.torch.modules import set_layer
from balred.intraining.exchange import Alone, Exchange
from balred.intraining.reach import Calibration, layers_in_training


def placed(model: nn.Module, averages: Sequence[nn.Module] = ()) -> Place:
    """How to reach and to change the layers of what a training loop calls its model."""
    inner, wrapped = unwrapped(model), False
    while isinstance(inner, DistributedDataParallel):
        inner, wrapped = unwrapped(inner.module), True
    if wrapped or any(isinstance(m, DistributedDataParallel) for m in inner.modules()):
        return Replicated(inner, [m for one in (model, *averages) for m in one.modules() if _is_ddp(m)])
    if any(base.__name__ == "FullyShardedDataParallel" for m in inner.modules() for base in type(m).__mro__):
        raise ValueError(
            "a sharded model must be one of fully_shard, got FullyShardedDataParallel, whose parameters are flat"
        )
    if not any(base.__name__ == "DTensor" for p in inner.parameters() for base in type(p).__mro__):
        return Place(inner)
    if averages:
        raise ValueError(
            f"the averages of a sharded model cannot be cut with it, got {len(averages)}: start them after the window"
        )
    from balred.adapters.torch.training.sharded import Sharded  # loads much of torch.distributed

    return Sharded(inner)


class Place:
    """A model that one process has for itself: its layers are what they are, and nobody else must know of a cut."""

    exchange: Exchange = Alone()
    calibration: Calibration | None = None

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def check(self, optimizer: torch.optim.Optimizer) -> None:
        """Raise if something is wrapped around or inside the model that a cut would leave with the old shapes."""
        if not (dist.is_available() and dist.is_initialized()):
            return
        around = [o for o in gc.get_objects() if _is_ddp(o)]
        if any(m is self.model for one in around for m in one.modules()):
            raise ValueError(
                "the model must be what DistributedDataParallel returned, whose gradient buckets have to follow a cut, "
                f"got the {type(self.model).__name__} inside it"
            )

    def layers(self) -> dict[str, nn.Module]:
        """The layers by name, with whole tensors."""
        return layers_in_training(self.model, self.calibration)

    def put(self, layer: nn.Module, new: nn.Module) -> None:
        """Make the model's `layer` equal `new`, keeping the identity of its parameters."""
        set_layer(layer, new)
        entry = entry_of(layer)
        if entry is not None and entry.selective is not None and entry.settle is not None:
            entry.settle(self.model, layer)  # others keep sizes of their own until the model is saved

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of the optimizer's state as one process would have it."""
        return tensor

    def part(self, tensor: torch.Tensor, p: nn.Parameter) -> torch.Tensor:
        """Of a whole tensor what this process holds for the parameter `p`."""
        return tensor

    def mean(self, value: float) -> float:
        """The mean of a number over the processes."""
        return float(sum(self.exchange.gather(value))) / self.exchange.size

    def finish(self, tensors: Iterable[torch.Tensor] = ()) -> None:
        """After a change of shapes: what depends on them is made anew; `tensors` become those of the first process."""
        forget_compiled()


class Group:
    """The exchange between the processes of a group."""

    def __init__(self, group: dist.ProcessGroup, device: torch.device) -> None:
        self.group, self.device = group, device
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)

    def gather(self, mine: Any) -> list[Any]:
        """What every process gave, its tensors moved to this process's device."""
        file = io.BytesIO()
        torch.save(mine, file)
        told: list[Any] = [None] * self.size
        dist.all_gather_object(told, file.getvalue(), group=self.group)
        return [torch.load(io.BytesIO(x), map_location=self.device, weights_only=False) for x in told]

    def follow_first(self, tensors: Iterable[torch.Tensor]) -> None:
        """Overwrite `tensors` by those of the first process."""
        first = dist.get_process_group_ranks(self.group)[0]
        for tensor in tensors:
            real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
            told = real.contiguous()
            dist.broadcast(told, first, group=self.group)
            real.copy_(told)


class Replicated(Place):
    """A model that every process has a replica of, inside one or several ``DistributedDataParallel``."""

    def __init__(self, model: nn.Module, wrappers: Sequence[DistributedDataParallel]) -> None:
        super().__init__(model)
        self.wrappers = list({id(one): one for one in wrappers}.values())
        groups = {id(one.process_group): one.process_group for one in self.wrappers}
        if len(groups) > 1:
            raise ValueError(f"the replicas of a model must share one process group, got {len(groups)}")
        self.group = Group(next(iter(groups.values())), next(model.parameters()).device)
        self.exchange = self.group

    def check(self, optimizer: torch.optim.Optimizer) -> None:
        """Raise if the wrappers or the optimizer keep something of the old shapes that cannot be made anew."""
        for one in self.wrappers:
            for what, why in _obstacles(one).items():
                raise ValueError(f"DistributedDataParallel must be without {what}, {why}: it cannot follow a cut")
            if not one.require_backward_grad_sync:
                raise ValueError(
                    "a cut must come after optimizer.step(), when gradients are used up, got one in no_sync()"
                )
        if any(base.__name__ == "ZeroRedundancyOptimizer" for base in type(optimizer).__mro__):
            raise ValueError(
                "the optimizer must have its state in every process, got ZeroRedundancyOptimizer, which divided it by the old sizes"
            )

    def finish(self, tensors: Iterable[torch.Tensor] = ()) -> None:
        """Make all replicas equal and the gradient buckets anew."""
        self.group.follow_first(tensors)
        for one in self.wrappers:
            _rebuild(one)
        forget_compiled()


def _is_ddp(thing: object) -> TypeGuard[DistributedDataParallel]:
    return issubclass(type(thing), DistributedDataParallel)


def _obstacles(one: DistributedDataParallel) -> dict[str, str]:
    """Options of a wrapper that tie it to the old shapes, and how."""
    hooks = getattr(one, "_comm_hooks", [])
    states = [state for _, state in hooks if not (state is None or isinstance(state, dist.ProcessGroup))]
    named = one._get_ddp_logging_data().get("comm_hook", "")  # type: ignore[no-untyped-call]
    in_backward = any(hasattr(p, "_in_backward_optimizers") for p in one.module.parameters())
    found = {
        "mixed_precision": ("which keeps low-precision copies of the parameters", one.mixed_precision is not None),
        "delay_all_reduce_named_params": ("which keeps one flat buffer", bool(one._delay_all_reduce_params)),
        "optimizers in the backward pass": ("which step in the buckets", in_backward),
        "the Python reducer": ("which is compiled for the shapes", bool(getattr(one, "_use_python_reducer", False))),
        "a communication hook with a state": (f"got {type(states[0]).__name__ if states else ''}", bool(states)),
        "a built-in communication hook": (f"got {named}, register the Python one", bool(named) and not hooks),
        "join()": ("under which processes finish at different steps", one._join_config.enable),
    }
    return {what: why for what, (why, there) in found.items() if there}


def _rebuild(one: DistributedDataParallel) -> None:
    """Give a wrapper new gradient buckets, as its own ``__setstate__`` does after unpickling.

    The object stays the same, and so do the hooks on it.  The old C++ reducer takes its hooks off the parameters when the
    last reference to it goes; its logger holds one.
    """
    state: dict[str, Any] = {k: v for k, v in vars(one).items() if k not in ("reducer", "logger")}
    hooks, state["_comm_hooks"] = state.get("_comm_hooks", []), []
    state |= {"_has_rebuilt_buckets": False, "_static_graph_delay_allreduce_enqueued": False}
    del one.reducer, one.logger
    one.__setstate__(state)  # type: ignore[no-untyped-call]
    for hook, its in hooks:
        one.register_comm_hook(its, hook)
