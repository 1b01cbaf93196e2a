"""Models in several processes (``torch.distributed``): all cut alike, and what wraps the model gets the new shapes.

``DistributedDataParallel`` keeps gradient buckets of the shapes it found, ``fully_shard`` keeps flat shards: both go on
with the old ones unless told.  What cannot be told soundly is refused before anything is changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from balred.adapters.torch.training.followers import forget_compiled
from balred.adapters.torch.training.place import Group, Place, is_ddp


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
        # a wrapper inside talks to the other processes whenever it runs
        self.runs_data = not any(is_ddp(m) for m in model.modules())

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
