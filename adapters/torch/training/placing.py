"""Which place a model is: one process, replicas, or shards."""

from __future__ import annotations

from collections.abc import Sequence

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
