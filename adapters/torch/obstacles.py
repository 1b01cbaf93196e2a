"""What keeps a PyTorch layer from being cut soundly, found before anything is changed, and said by name.

A layer's weights must be plain parameters that are here and that nobody else has.  What is computed from other tensors
(``weight_norm``, pruning, LoRA), lies on disk, or belongs to two layers would be wrong after a cut, mostly without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from balred.adapters.torch.reaching import held_by_functions
from balred.adapters.torch.unknown import seen
from balred.registry.entries import entry_of
from balred.registry.sizes import of_size, states_of

_PLAIN_FIRST = (
    "make it a plain parameter first, with torch.nn.utils.parametrize.remove_parametrizations, remove_weight_norm, "
    "remove_spectral_norm, prune.remove, or merge_and_unload of peft"
)


def unfit(layer: nn.Module) -> str | None:
    """Why the tensors of a layer cannot be read or resized; None if they can.

    Examples
    --------
    >>> import torch
    >>> from balred.adapters.torch import LRU
    >>> layer = torch.nn.utils.parametrizations.weight_norm(LRU(2, 4), "B_re")
    >>> unfit(layer).partition(":")[0]
    'its B_re is computed from other tensors'
    """
    for path, module in layer.named_modules():
        start = f"{path}." if path else ""
        for name in _computed(module):
            return f"its {start}{name} is computed from other tensors: {_PLAIN_FIRST}"
        for name, x in (*module._parameters.items(), *module._buffers.items()):
            if isinstance(x, (UninitializedParameter, UninitializedBuffer)):
                return f"its {start}{name} has no shape yet: run the model once"
            if x is not None and x.is_meta:
                return f"its {start}{name} is on the meta device, without values: load the weights from disk first"
            if x is not None and x.layout is not torch.strided:
                return f"its {start}{name} is stored as {str(x.layout).removeprefix('torch.')}: make it dense first"
            if x is not None and not _is_plain(x):
                return f"its {start}{name} is a {type(x).__name__}, which may stand for other values: make it a plain tensor first"
        for name, p in module._parameters.items():
            if p is not None and not (p.is_floating_point() or p.is_complex()):
                return f"its {start}{name} is of {p.dtype}, which stands for other values: dequantise it first"
    return None


def _is_plain(x: torch.Tensor) -> bool:
    """Whether a tensor is none of a class that computes otherwise, as those of quantised weights do; parts of one are plain."""
    cls = type(x)
    if cls.__module__.startswith("torch.distributed."):
        return True
    known = cls is torch.Tensor or nn.Parameter in cls.__mro__ or cls.__module__.startswith("torch.")
    return known and cls.__torch_dispatch__ is torch.Tensor.__torch_dispatch__


def _computed(module: nn.Module) -> Iterator[str]:
    """Names under which a module offers tensors that it does not hold."""
    registered = {*module._parameters, *module._buffers}
    parametrizations = module._modules.get("parametrizations")
    if parametrizations is not None:
        yield from parametrizations._modules
    for name, value in vars(module).items():
        if isinstance(value, torch.Tensor) and any(other.startswith(f"{name}_") for other in registered):
            yield name
    inside = {id(p): p.ndim for p in module.parameters()}  # a projection around another one offers what that one holds
    for name, axes in (("weight", 2), ("bias", 1)):
        offered = None if name in registered or name in vars(module) else getattr(module, name, None)
        if isinstance(offered, torch.Tensor) and inside.get(id(offered)) != axes:
            yield name


def obstacles(roots: Mapping[str, nn.Module], layers: Mapping[str, nn.Module], *, copied: bool) -> dict[str, str]:
    """By name why some of the `layers` in models, whose paths are the keys of `roots`, cannot be cut among the rest.

    With `copied` the cut ones get into a copy of the model, else into the model itself.
    """
    where = _module_paths(roots)
    places = _places(where, memory)
    found = _uneven(where, layers)
    found |= {
        n: why
        for n, layer in layers.items()
        if (why := _shared(places, where.get(id(layer), (layer, [n]))[1], layer)) is not None
    }
    found |= {n: why for n, layer in layers.items() if (why := _adapted(where, layer)) is not None}
    for path, root in roots.items() if copied else ():
        held = held_by_functions(root, path)
        inside = {id(m) for m in root.modules()}
        if held is not None:
            found |= {name: held for name, layer in layers.items() if id(layer) in inside}
    return found


_Paths = dict[int, tuple[nn.Module, list[str]]]
"""Modules by their ids, each with all its paths."""


def _module_paths(roots: Mapping[str, nn.Module]) -> _Paths:
    found: _Paths = {}
    for path, root in roots.items():
        for name, module in root.named_modules(remove_duplicate=False):
            found.setdefault(id(module), (module, []))[1].append(".".join(filter(None, [path, name])))
    return found


def _places(where: _Paths, same: Callable[[torch.Tensor], int]) -> dict[int, list[str]]:
    """The paths of every tensor, those together for which `same` is."""
    found: dict[int, list[str]] = {}
    for module, paths in where.values():
        for key, x in (*module._parameters.items(), *module._buffers.items()):
            if x is not None:
                found.setdefault(same(x), []).extend(f"{path}.{key}" if path else key for path in paths)
    return found


def memory(x: torch.Tensor) -> int:
    """What two tensors that lie in one place have in common."""
    try:
        return x.data_ptr() or id(x)
    except RuntimeError:  # without memory of its own
        return id(x)


def _shared(places: Mapping[int, list[str]], paths: list[str], layer: nn.Module) -> str | None:
    """Which tensor of a layer, which is at `paths`, of those that a cut changes has other `places` in the models too."""
    several: dict[str, str] = {}
    for module, names in _module_paths({"": layer}).values():
        for key, x in (*module._parameters.items(), *module._buffers.items()):
            mine = {f"{name}.{key}" if name else key for name in names}
            own = {f"{path}.{name}" if path else name for path in paths for name in mine}
            others = [] if x is None else [path for path in places.get(memory(x), ()) if path not in own]
            several |= {name: others[0] for name in mine if others}
    resized = changing(layer) if several else set()
    for name, other in several.items():
        if name in resized:
            return (
                f"its {name} is shared with {other}, which a cut would change as well: untie them first, or leave both"
            )
    return None


def _adapted(where: _Paths, layer: nn.Module) -> str | None:
    """Which parameter of a layer a module around it computes at each call, as LoRA on single parameters does."""
    around = {id(m._modules["base_layer"]): m for m, _ in where.values() if "base_layer" in m._modules}
    outer = around.get(id(layer))
    while outer is not None:
        if (name := getattr(outer, "parameter_name", None)) in layer._parameters:
            return f"its {name} is computed by the {type(outer).__name__} around it: {_PLAIN_FIRST}"
        outer = around.get(id(outer))
    return None


def _uneven(where: _Paths, layers: Mapping[str, nn.Module]) -> dict[str, str]:
    """Layers of which a model's configuration holds one size, where others of their class cannot be cut."""
    entries = {name: entry_of(layer) for name, layer in layers.items()}
    tied = {
        n: layers[n] for n, e in entries.items() if e is not None and e.selective is not None and e.selective.one_size
    }
    classes = {type(layer) for layer in tied.values()}
    for module, paths in where.values():
        if type(module) in classes and entry_of(module) is None:
            reason = (
                f"the model's configuration holds one number of states for all of them, and {paths[0]}, a {type(module).__name__} "
                f"too, cannot be cut: {'; '.join(seen(module)) or 'it was changed'}"
            )
            return {name: reason for name, layer in tied.items() if type(layer) is type(module)}
    return {}


def changing(layer: nn.Module) -> set[str]:
    """The names of the tensors that depend on the number of states."""
    new = of_size(layer, 2 * states_of(layer))
    own, other = (_shapes(x) for x in (layer, new))
    return {name for name, shape in own.items() if other.get(name) != shape}


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    named = (module.named_parameters, module.named_buffers)
    return {n: tuple(x.shape) for each in named for n, x in each(remove_duplicate=False)}


def references(old: nn.Module, new: nn.Module) -> dict[int, Any]:
    """By the ids of a layer, its modules and its tensors, those in `new` that stand for them."""
    found: dict[int, Any] = {}
    theirs = dict(new.named_modules())
    for name, module in old.named_modules():
        other = theirs.get(name)
        if other is not None:
            found[id(module)] = other
            for mine, his in ((module._parameters, other._parameters), (module._buffers, other._buffers)):
                found |= {id(x): his[key] for key, x in mine.items() if x is not None and his.get(key) is not None}
    return found


def tie(model: nn.Module, result: nn.Module) -> None:
    """Tie in `result`, a copy of `model` with other layers, what is tied in `model`: modules, and tensors.

    Raises
    ------
    ValueError
        The copies differ.
    """
    where = _module_paths({"": model})
    for _, paths in where.values():
        if len(paths) > 1:
            _tie_modules(result, paths)
    for paths in _places(where, id).values():
        first, *others = (_owner(result, path) for path in paths)
        one = first[0][first[1]]
        for (held, key), path in zip(others, paths[1:], strict=True):
            if held[key] is not one:
                _check_alike(one, held[key], paths[0], path)
                held[key] = one


def _tie_modules(result: nn.Module, paths: list[str]) -> None:
    one = result.get_submodule(paths[0])
    for path in paths[1:]:
        other = result.get_submodule(path)
        if other is not one:
            theirs = dict(other.named_parameters()) | dict(other.named_buffers())
            for name, x in (*one.named_parameters(), *one.named_buffers()):
                _check_alike(x, theirs[name], f"{paths[0]}.{name}", f"{path}.{name}")
            parent, _, key = path.rpartition(".")
            result.get_submodule(parent)._modules[key] = one


def _check_alike(one: torch.Tensor, other: torch.Tensor, name: str, path: str) -> None:
    if one.shape != other.shape or not torch.equal(one, other):
        raise ValueError(
            f"a tensor that a model shares must stay one in the smaller model, got two different ones for {name} and {path}"
        )


def _owner(model: nn.Module, path: str) -> tuple[dict[str, Any], str]:
    parent, _, key = path.rpartition(".")
    module = model.get_submodule(parent)
    return (module._parameters if key in module._parameters else module._buffers), key
