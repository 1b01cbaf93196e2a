"""How a reducer reaches the layers of a model that one process has for itself, and how several processes talk."""

from __future__ import annotations

import gc
import io
from collections.abc import Iterable
from typing import Any, TypeGuard

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from balred.adapters.torch.modules import put_layer
from balred.adapters.torch.training.followers import forget_compiled
from balred.intraining.exchange import Alone, Exchange
from balred.intraining.reach import layers_in_training
from balred.registry.reading import layers_of
from balred.registry.sizes import ranks_known
from balred.selection.calibration import Calibration


class Place:
    """A model that one process has for itself: its layers are what they are, and nobody else must know of a cut."""

    exchange: Exchange = Alone()
    calibration: Calibration | None = None
    runs_data = True
    """Whether a process can run what :meth:`opened` gives by itself."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def check(self, optimizer: torch.optim.Optimizer) -> None:
        """Raise if something is wrapped around or inside the model that a cut would leave with the old shapes."""
        if not (dist.is_available() and dist.is_initialized()):
            return
        if found := wrappers_of(self.model):
            raise ValueError(
                f"the model must be the one that {type(found[0]).__name__} returned, whose gradient buckets have to follow a cut, "
                f"got the {type(self.model).__name__} inside it"
            )

    def layers(self) -> dict[str, nn.Module]:
        """The layers by name, with whole tensors."""
        return layers_in_training(self.model, self.calibration)

    def ranks(self) -> dict[str, int]:
        """The states of all layers of the model, those too that cuts do not reach, in their order."""
        whole = self.layers()
        return ranks_known({name: whole.get(name, layer) for name, layer in layers_of(self.model).items()})

    def check_calibration(self) -> None:
        """Raise if there are data that cannot be used here."""
        if self.calibration is None or self.exchange.size == 1 or self.runs_data:
            return
        raise ValueError(
            "calibration must be left out in several processes if no process can run the model by itself, got calibration and "
            f"{self.exchange.size} processes"
        )

    def opened(self) -> tuple[nn.Module, dict[str, nn.Module]]:
        """A model that this process can run by itself on data, and its layers by name."""
        return self.model, self.layers()

    def put(self, layer: nn.Module, new: nn.Module) -> None:
        """Make the model's `layer` equal `new`, keeping the identity of its parameters."""
        put_layer(self.model, layer, new)

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


def _holds(outer: nn.Module, model: nn.Module) -> bool:
    return any(m is model for m in outer.modules())


def wrappers_of(model: nn.Module) -> list[DistributedDataParallel]:
    """Those ``DistributedDataParallel`` that hold `model`, which does not know of them."""
    return [o for o in gc.get_objects() if is_ddp(o) and _holds(o, model)]


def is_ddp(thing: object) -> TypeGuard[DistributedDataParallel]:
    """Whether it is that wrapper by its type: of what the garbage collector finds ``__class__`` may run somebody's code."""
    return issubclass(type(thing), DistributedDataParallel)
