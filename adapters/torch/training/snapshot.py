"""All of a PyTorch training that a guard takes back: taken before a cut, kept in checkpoints by name, and put back."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn

from balred.adapters.torch.configurations import followed
from balred.adapters.torch.modules import set_layer
from balred.adapters.torch.training.followers import random_states, set_random_states
from balred.adapters.torch.training.place import Place
from balred.intraining.fitting import check_fit
from balred.registry.sizes import of_size

State = dict[str, Any]


@dataclass(frozen=True)
class Parts:
    """What a training consists of.

    Attributes
    ----------
    place : Place
        The model.
    optimizer : torch.optim.Optimizer
    averages, others : dict
        What the loop holds, by name: averages with all that they keep, and what only comes back with a guard.
    copies : sequence of torch.nn.Module
        The copies of the model in the averages.
    """

    place: Place
    optimizer: torch.optim.Optimizer
    averages: Mapping[str, nn.Module]
    others: Mapping[str, Any]
    copies: Sequence[nn.Module]


@dataclass(frozen=True)
class Snapshot:
    """What was before a cut; from a checkpoint without the layers, of which that has sizes and tensors only."""

    model: State
    averages: dict[str, State]
    buffers: dict[str, torch.Tensor]
    """All of the model's, those too that its state does not have."""
    optimizer: State
    others: dict[str, State]
    random: list[State]
    """The generators of every process, since a checkpoint may be that of the first alone."""
    layers: Mapping[str, nn.Module] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Copies for a checkpoint."""
        return {name: copy.deepcopy(getattr(self, name)) for name in _SAVED}


_SAVED = [f.name for f in fields(Snapshot) if f.name != "layers"]


def taken(parts: Parts, layers: Mapping[str, nn.Module]) -> Snapshot:
    """Copies of everything in a training, whose whole layers are these."""
    model = parts.place.model
    return Snapshot(
        model=copy.deepcopy(model.state_dict()),
        averages={name: copy.deepcopy(one.state_dict()) for name, one in parts.averages.items()},
        buffers={n: b.clone() for n, b in model.named_buffers()},
        optimizer=copy.deepcopy(parts.optimizer.state_dict()),
        others={name: copy.deepcopy(other.state_dict()) for name, other in parts.others.items()},
        random=parts.place.exchange.gather(random_states()),
        layers=copy.deepcopy(layers),
    )


def loaded(parts: Parts, saved: Mapping[str, Any], ranks: Mapping[str, int]) -> Snapshot:
    """The snapshot that was saved so, of a training with layers of these `ranks`.

    Raises
    ------
    ValueError
        It is not one of this training.
    """
    check_fit("state before a cut", dict.fromkeys(_SAVED), dict.fromkeys(saved))
    model = parts.place.model
    pairs: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
        "layers": (parts.place.layers(), ranks),
        "tensors": (model.state_dict(), saved["model"]),
        "buffers": (dict(model.named_buffers()), saved["buffers"]),
        "averages": (parts.averages, saved["averages"]),
        "objects in restore=": (parts.others, saved["others"]),
    }
    for what, (here, there) in pairs.items():
        check_fit(what, dict.fromkeys(here), dict.fromkeys(there))
    for name, one in parts.averages.items():
        check_fit(f"tensors of {name}", dict.fromkeys(one.state_dict()), dict.fromkeys(saved["averages"][name]))
    check_fit("parameter groups", *map(_groups, (parts.optimizer.state_dict(), saved["optimizer"])))
    return Snapshot(**copy.deepcopy({name: saved[name] for name in _SAVED}))


def _groups(optimizer: Mapping[str, Any]) -> dict[str, str]:
    return {f"group {i}": f"{len(group['params'])} parameters" for i, group in enumerate(optimizer["param_groups"])}


def put_layer(parts: Parts, name: str, layer: nn.Module) -> None:
    """Make the layer called so in the model and its averages equal `layer`."""
    parts.place.put(parts.place.model.get_submodule(name), copy.deepcopy(layer))
    for average in parts.copies:
        set_layer(average.get_submodule(name), copy.deepcopy(layer))


def put_back(parts: Parts, snapshot: Snapshot, ranks: Mapping[str, int]) -> None:
    """Make a training again what it was when the snapshot was taken, with layers of these `ranks`."""
    layers, model = snapshot.layers, parts.place.model
    if layers is None:
        now = parts.place.layers()
        layers = {name: of_size(now[name], rank) for name, rank in ranks.items()}
    with followed(model, parts.place.ranks):
        for name, layer in layers.items():
            put_layer(parts, name, layer)
    model.load_state_dict(snapshot.model)
    for name, state in snapshot.averages.items():
        parts.averages[name].load_state_dict(state)
    for name, value in snapshot.buffers.items():
        owner, _, last = name.rpartition(".")
        model.get_submodule(owner)._buffers[last] = value
    parts.optimizer.state.clear()
    parts.optimizer.load_state_dict(snapshot.optimizer)
    for name, state in snapshot.others.items():
        parts.others[name].load_state_dict(state)
    set_random_states(snapshot.random[parts.place.exchange.rank % len(snapshot.random)])
    parts.place.finish()
