"""Which place a model is: one process, replicas, or shards."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from balred.adapters.torch.training.followers import unwrapped
from balred.adapters.torch.training.place import Place, is_ddp
from balred.adapters.torch.training.replicated import Replicated


def placed(model: nn.Module, averages: Sequence[nn.Module] = ()) -> Place:
    """How to reach and to change the layers of what a training loop calls its model."""
    inner, wrapped = unwrapped(model), False
    while isinstance(inner, DistributedDataParallel):
        inner, wrapped = unwrapped(inner.module), True
    if wrapped or any(isinstance(m, DistributedDataParallel) for m in inner.modules()):
        return Replicated(inner, [m for one in (model, *averages) for m in one.modules() if is_ddp(m)])
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
    # late for its cost alone: it loads much of torch.distributed
    from balred.adapters.torch.training.sharded import Sharded

    return Sharded(inner)


_ENGINES = ("deepspeed.runtime", "megatron.core", "horovod", "fairscale", "colossalai", "torch_xla.distributed")
"""Where classes come from that keep parameters in flat buffers, or buckets, of the shapes they have seen."""


def refuse_engines(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Raise if another library's engine holds the model, is in it, or made the optimizer."""
    if not any(name in sys.modules for name in _ENGINES):
        return
    modules = [o for o in gc.get_objects() if issubclass(type(o), nn.Module) and _is_engine(type(o))]
    around = [type(one) for one in modules if any(m is model for m in one.modules())]
    for cls in (*around, *map(type, model.modules()), type(optimizer)):
        if _is_engine(cls):
            raise ValueError(
                f"the engine that trains a model must let its parameters change their shapes, got {cls.__name__} of "
                f"{cls.__module__.partition('.')[0]}, which keeps those that it has seen: cut before the model is given to it"
            )


def _is_engine(cls: type) -> bool:
    return any(f"{base.__module__}.".startswith(f"{name}.") for base in cls.__mro__ for name in _ENGINES)
