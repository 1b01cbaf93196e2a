"""Loading of checkpoints that were saved after a cut into models of another size.

Trainers load a model by ``load_state_dict`` before any of their callbacks hears of it, so the model itself has to take
layers of other sizes: a hook, which runs before PyTorch compares shapes, resizes them in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from balred.adapters.torch.configurations import followed
from balred.adapters.torch.modules import put_layer
from balred.adapters.torch.obstacles import obstacles
from balred.adapters.torch.optimizers import forget_old_shapes, others_beside
from balred.registry.reading import layers_of
from balred.registry.sizes import fitting, ranks_known

Shapes = dict[str, tuple[int, ...]]

_MARK = "_balred_resizes_on_load"


def resize_on_load(model: nn.Module) -> None:
    """Let ``model.load_state_dict`` load checkpoints in which the layers have other numbers of states.

    The layers are resized in place, and their parameters stay the same objects.  Copies of the model can do this too.  Optimizers
    forget what they have of another shape, so theirs must be loaded afterwards.  ``InTrainingReducer`` calls this function on its model and its averages.

    Parameters
    ----------
    model : torch.nn.Module
        Or a layer itself.

    Raises
    ------
    balred.registry.AdapterNotFound
        It has no layer that an adapter knows.

    Examples
    --------
    >>> import torch
    >>> from balred.adapters.torch import LRU, resize_on_load
    >>> small, model = (torch.nn.Sequential(LRU(2, states), torch.nn.Linear(2, 1)) for states in (6, 32))
    >>> resize_on_load(model)
    >>> model.load_state_dict(small.state_dict())
    <All keys matched successfully>
    >>> model[0]
    LRU(features=2, states=6)
    """
    layers_of(model)
    if not getattr(model, _MARK, False):
        model._register_load_state_dict_pre_hook(_resize, with_module=True)  # type: ignore[no-untyped-call]  # public since 2.5
        setattr(model, _MARK, True)


def _resize(model: nn.Module, stored: Mapping[str, Any], prefix: str, *_: Any) -> None:
    layers, wanted = layers_of(model), {}
    for name, layer in layers.items():
        start = f"{prefix}{name}." if name else prefix
        mine, theirs = _shapes(layer.state_dict()), _shapes({k.removeprefix(start): v for k, v in stored.items() if k.startswith(start)})  # fmt: skip
        want = {k: shape for k, shape in theirs.items() if k in mine}
        if all(mine[k] == shape for k, shape in want.items()):
            continue
        with torch.no_grad():
            new = fitting(layer, want)
        if new is not None:  # else PyTorch's own error names the shapes
            wanted[name] = new
    for name, reason in obstacles({"": model}, {n: layers[n] for n in wanted}, copied=False).items():
        raise ValueError(f"a layer must be one that can be resized on load, got {name or 'the layer'}: {reason}")
    if not wanted:
        return
    with torch.no_grad(), followed(model, lambda: ranks_known(layers_of(model))):
        for name, new in wanted.items():
            put_layer(model, layers[name], new)
    forget_old_shapes(others_beside(None), model)


def _shapes(tensors: Mapping[str, Any]) -> Shapes:
    return {k: tuple(v.shape) for k, v in tensors.items() if isinstance(v, torch.Tensor)}
