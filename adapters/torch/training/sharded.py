"""Models sharded by FSDP2 (``fully_shard``): every process holds a part of each tensor, and the wrapper the sizes of all.

A layer to be cut is gathered whole, cut as if it were alone, and sharded again: the wrapper's record of each parameter is
initialised once more by its own constructor, and the new shards move into the parameters that loops and optimizers hold.
PyTorch has no public way to do that, so what this relies on is looked at before anything is changed.

Data run through a gathered copy of the whole model, which every process has while it looks at its layers: other processes may have
more batches, or none that a layer can be seen on.
"""

from __future__ import annotations

import copy
import functools
import inspect
import types
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from balred.adapters.torch.modules import resize, set_layer
from balred.adapters.torch.training.followers import forget_compiled
from balred.adapters.torch.training.place import Group, Place
from balred.intraining.reach import layers_in_training
from balred.registry.entries import entry_of
from balred.registry.kinds import Entry
from balred.registry.reading import layers_of
from balred.registry.sizes import states_of

_NEEDED = (
    "_module_info",
    "post_forward_mesh_info",
    "device",
    "mp_policy",
    "mesh_info",
    "fsdp_placement",
    "offload_to_cpu",
)
"""What a record of a sharded parameter must have to be made anew."""

_TAKEN = (
    "param", "module_info", "mesh_info", "post_forward_mesh_info", "device", "shard_placement_fn", "mp_policy", "offload_policy"
)  # fmt: skip
"""What its constructor must take."""

_OTHERWISE = "cut before fully_shard (train the first steps unsharded or with DistributedDataParallel), then shard"


class Sharded(Place):
    """A model whose parameters are shards."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        record = next(iter(self._records().values()), None)
        if record is None:
            raise ValueError(
                f"tensors must be divided by fully_shard alone, got a model divided otherwise: {_OTHERWISE}"
            )
        mesh = record.mesh_info.mesh
        if mesh.ndim > 1 and mesh.size() != dist.get_world_size():
            raise ValueError(
                f"a mesh of two dimensions must hold all {dist.get_world_size()} processes, got {mesh.size()}"
            )
        group: Any = mesh.get_group() if mesh.ndim == 1 else dist.group.WORLD
        self.group = Group(group, record.device)
        self.exchange = self.group

    def _records(self) -> dict[int, Any]:
        """What FSDP2 keeps of each parameter, by the parameter's id."""
        return {id(r.sharded_param): r for group in self._groups() for r in group.fsdp_params}

    def _groups(self) -> list[Any]:
        found = []
        for module in _wrapped(self.model):
            state = module._get_fsdp_state()
            own: Any = getattr(state, "_fsdp_param_groups", None) or [state._fsdp_param_group]
            found += [group for group in own if group is not None]
        return list({id(group): group for group in found}.values())

    def check(self, optimizer: torch.optim.Optimizer) -> None:
        """Raise if a layer is sharded in a way that could not be repeated, or gradients are not used up."""
        for group in self._groups():
            if not (getattr(group, "reduce_grads", True) and getattr(group, "all_reduce_grads", True)):
                raise ValueError(
                    "a cut must come after optimizer.step(), when gradients are used up, got one with gradient synchronisation off"
                )
        self._reshard()
        records = self._records()
        for name, layer in layers_in_training(self.model, self.calibration).items():
            for key, p in layer.named_parameters():
                record, where = records.get(id(p)), f"{name}.{key}" if name else key
                if record is None:
                    if isinstance(p, DTensor):
                        raise ValueError(
                            f"{where} must be divided by fully_shard alone, got {p.placements}: {_OTHERWISE}"
                        )
                    continue
                takes = inspect.signature(type(record).__init__).parameters
                missing = [one for one in _NEEDED if not hasattr(record, one)] + [a for a in _TAKEN if a not in takes]
                why = (
                    f"torch {torch.__version__}, whose records lack {', '.join(missing)}" if missing
                    else "tensor parallelism below it" if record.is_dtensor
                    else "parameters offloaded to the CPU" if record.offload_to_cpu
                    else f"dimension {record.fsdp_placement.dim}" if record.fsdp_placement != Shard(0)
                    else "a tensor with its own way of gathering" if hasattr(p._local_tensor, "fsdp_pre_all_gather")
                    else ""
                )  # fmt: skip
                if why:
                    raise ValueError(f"{where} must be sharded along its first dimension only, got {why}: {_OTHERWISE}")

    def _reshard(self) -> None:
        """Put the shards in place where a forward pass without a backward pass left gathered tensors."""
        for module in _wrapped(self.model):
            module.reshard()

    def layers(self) -> dict[str, nn.Module]:
        """Copies of the layers with gathered tensors, by name."""
        self._reshard()
        layers = layers_in_training(self.model, self.calibration)
        return {name: _gathered(layer) for name, layer in layers.items()}

    def opened(self) -> tuple[nn.Module, dict[str, nn.Module]]:
        """A gathered copy of the model where there are data, and its layers."""
        if self.calibration is None:
            return super().opened()
        self._reshard()
        copied = _gathered(self.model, hooks=True)
        return copied, layers_in_training(copied, self.calibration)

    def put(self, layer: nn.Module, new: nn.Module) -> None:
        """Shard the values of `new` into the parameters of the model's `layer`."""
        self._reshard()
        records = self._records()
        self.group.follow_first([p.data for p in new.parameters()])

        def assign(p: nn.Parameter, data: torch.Tensor) -> None:
            if id(p) in records:
                _shard_again(records[id(p)], data)
            else:
                resize(p, data)

        entry = entry_of(layer)
        selective = None if entry is None else entry.selective
        before = 0 if selective is None else selective.states(layer)
        set_layer(layer, new, assign)
        if entry is not None and entry.resize_model is not None and (selective is not None or self._is_even(entry)):
            entry.resize_model(self.model, layer, before)

    def _is_even(self, entry: Entry) -> bool:
        """Whether all layers of a kind have one size: only then what holds one for all of them can be told."""
        alike = [layer for layer in layers_of(self.model).values() if entry_of(layer) is entry]
        return len({states_of(_gathered(layer)) for layer in alike}) == 1

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor gathered."""
        return _whole(tensor)

    def part(self, tensor: torch.Tensor, p: nn.Parameter) -> torch.Tensor:
        """A whole tensor divided as the parameter `p` is."""
        return distribute_tensor(tensor, p.device_mesh, p.placements) if isinstance(p, DTensor) else tensor

    def finish(self, tensors: Iterable[torch.Tensor] = ()) -> None:
        """Make what is not sharded the same in all processes."""
        self.group.follow_first(t for t in tensors if not isinstance(t, DTensor))
        forget_compiled()


def _wrapped(model: nn.Module) -> list[Any]:
    """The modules that fully_shard was called on."""
    return [m for m in model.modules() if hasattr(type(m), "_get_fsdp_state")]


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


_HOOKS = {
    "_forward_hooks": ("_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    "_forward_pre_hooks": ("_forward_pre_hooks_with_kwargs",),
}
"""Where modules keep what runs around their forward, and how it is to be called."""


def _gathered(module: nn.Module, hooks: bool = False) -> nn.Module:
    """A copy with whole tensors, on request with hooks but for PyTorch's own; FSDP2's classes and hooks cannot be copied.

    What its modules hold otherwise they have in common with the original, which may be large or no thing to copy (a trainer), but where
    it refers to modules and parameters, to those of the copy.
    """
    new: dict[int, Any] = {}
    for one in module.modules():
        cls: Any = next(c for c in type(one).__mro__ if not hasattr(c, "_get_fsdp_state"))
        new[id(one)] = cls.__new__(cls)
        nn.Module.__init__(new[id(one)])
    for p in module.parameters():
        new[id(p)] = nn.Parameter(_whole(p.detach()).clone(), requires_grad=p.requires_grad)
        vars(new[id(p)]).update(copy.deepcopy(vars(p)))
    for one in module.modules():
        mine = new[id(one)]
        own = {k: v for k, v in vars(one).items() if not k.startswith("__composable_api") and "_hooks" not in k}
        mine.__dict__ |= {k: _referring(v, new) for k, v in own.items()}
        mine._buffers = {name: None if b is None else b.clone() for name, b in one._buffers.items()}
        for kind, ways in _HOOKS.items() if hooks else ():
            others = {k: h for k, h in vars(one)[kind].items() if not str(h.__module__).startswith("torch.")}
            vars(mine)[kind].update({k: _referring(h, new) for k, h in others.items()})
            for way in ways:
                vars(mine)[way].update({k: x for k, x in vars(one).get(way, {}).items() if k in others})
    result: nn.Module = new[id(module)]
    return result


def _referring(value: Any, new: Mapping[int, Any]) -> Any:
    """`value` with what `new` has in place of things, by their ids, also in lists, in dicts and where a method is bound."""
    if id(value) in new:
        return new[id(value)]
    if type(value) in (list, tuple, set):
        return type(value)(_referring(x, new) for x in value)
    if type(value) in (dict, OrderedDict):
        return type(value)((k, _referring(x, new)) for k, x in value.items())
    if isinstance(value, types.MethodType):
        return types.MethodType(value.__func__, _referring(value.__self__, new))
    if type(value) is functools.partial:
        args, kwargs = _referring((value.args, value.keywords), new)
        return functools.partial(_referring(value.func, new), *args, **kwargs)
    return value


def _shard_again(record: Any, data: torch.Tensor) -> None:
    """Initialise FSDP2's record of a parameter with a whole tensor of another shape, keeping the parameter's identity."""
    from torch.distributed.fsdp import OffloadPolicy

    old, name, placement = record.sharded_param, record._param_fqn, record.fsdp_placement
    old.grad = None
    record._post_load_hook_handle.remove()
    vars(record).pop("_unsharded_param", None)  # made at the next gathering, unless it is there
    value = nn.Parameter(data.detach().clone(memory_format=torch.contiguous_format), requires_grad=old.requires_grad)
    record.__init__(
        param=value,
        module_info=record._module_info,
        mesh_info=record.mesh_info,
        post_forward_mesh_info=record.post_forward_mesh_info,
        device=record.device,
        shard_placement_fn=lambda _: placement,
        mp_policy=record.mp_policy,
        offload_policy=OffloadPolicy(),
    )
    record._param_fqn = name
    new = record.sharded_param
    vars(new).update(vars(old))
    torch.utils.swap_tensors(old, new)  # type: ignore[no-untyped-call]
    record.sharded_param = old
    record._setattr_on_modules(old)
