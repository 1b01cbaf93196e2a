"""What keeps a PyTorch layer from being cut soundly, found before anything is changed, and said by name.

A layer's weights must be plain parameters that are here and that nobody else has.  What is computed from other tensors
(``weight_norm``, pruning, LoRA), lies on disk, or belongs to two layers would be wrong after a cut, mostly without a word.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

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
        for name, p in module._parameters.items():
            if p is not None and not (p.is_floating_point() or p.is_complex()):
                return f"its {start}{name} is of {p.dtype}, which stands for other values: dequantise it first"
    return None


def _computed(module: nn.Module) -> Iterator[str]:
    """Names under which a module offers tensors that it does not hold."""
    registered = {*module._parameters, *module._buffers}
    inside = module._modules.get("parametrizations")
    if inside is not None:
        yield from inside._modules
    for name, value in vars(module).items():
        if isinstance(value, torch.Tensor) and any(other.startswith(f"{name}_") for other in registered):
            yield name
    for name in ("weight", "bias"):
        if (
            name not in registered
            and name not in vars(module)
            and isinstance(getattr(module, name, None), torch.Tensor)
        ):
            yield name


def obstacles(roots: Mapping[str, nn.Module], layers: Mapping[str, nn.Module], *, copied: bool) -> dict[str, str]:
    """By name why some of the `layers` in models, whose paths are the keys of `roots`, cannot be cut among the rest.

    With `copied` the cut ones get into a copy of the model, else into the model itself.
    """
    places = _places(roots)
    found = {name: reason for name, layer in layers.items() if (reason := _shared(places, layer)) is not None}
    for path, root in roots.items() if copied else ():
        held = _held_by_functions(root, path)
        inside = {id(m) for m in root.modules()}
        if held is not None:
            found |= {name: held for name, layer in layers.items() if id(layer) in inside}
    return found


def _places(roots: Mapping[str, nn.Module]) -> dict[int, dict[tuple[int, str], str]]:
    """By tensor the modules, and the names in them, that hold it, each with its path."""
    found: dict[int, dict[tuple[int, str], str]] = {}
    for path, root in roots.items():
        for name, module in root.named_modules():
            full = ".".join(filter(None, [path, name]))
            for key, x in (*module._parameters.items(), *module._buffers.items()):
                if x is not None:
                    found.setdefault(id(x), {}).setdefault((id(module), key), f"{full}.{key}" if full else key)
    return found


def _shared(places: Mapping[int, Mapping[tuple[int, str], str]], layer: nn.Module) -> str | None:
    """Which tensor of a layer, of those that a cut changes, has other `places` in the models too."""
    own = _places({"": layer})
    several = {
        next(iter(names.values())): [path for place, path in places[key].items() if place not in names]
        or list(names.values())[1:]
        for key, names in own.items()
        if len(places.get(key, ())) > 1
    }
    changing = _changing(layer) if several else set()
    for name, others in several.items():
        if name in changing:
            return f"its {name} is shared with {others[0]}, which a cut would change as well: untie them first, or leave both"
    return None


def _changing(layer: nn.Module) -> set[str]:
    """The names of the tensors that depend on the number of states."""
    new = of_size(layer, 2 * states_of(layer))
    own, other = (_shapes(x) for x in (layer, new))
    return {name for name, shape in own.items() if other.get(name) != shape}


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    named = (module.named_parameters, module.named_buffers)
    return {n: tuple(x.shape) for each in named for n, x in each(remove_duplicate=False)}


def _held_by_functions(root: nn.Module, path: str) -> str | None:
    """Of functions on instances that hold a module of the model: a copy of the model would go on running that one."""
    inside = {id(m) for m in root.modules()}
    for name, module in root.named_modules():
        if type(module).__setstate__ is not nn.Module.__setstate__:
            continue  # makes its own in a copy
        for key, value in vars(module).items():
            if key[:1] != "_" and _holds(value, inside, set()):
                where = ".".join(filter(None, [path, name, key]))
                return (
                    f"{where} is a function that holds a module of the model, so a copy would go on running the original: "
                    "bind it to the module instead, with types.MethodType or functools.partial"
                )
    return None


def _holds(value: Any, inside: set[int], met: set[int]) -> bool:
    """Whether a function has one of these modules where copying does not reach: in its closure or its defaults."""
    if id(value) in met:
        return False
    met.add(id(value))
    if isinstance(value, partial):
        return _holds(value.func, inside, met)
    if isinstance(value, types.MethodType):
        return _holds(value.__func__, inside, met)
    if not isinstance(value, types.FunctionType):
        return False
    cells = [c.cell_contents for c in value.__closure__ or () if _is_filled(c)]
    for x in (*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()):
        owner = getattr(x, "__self__", x)
        if id(owner) in inside or _holds(x, inside, met):
            return True
    return False


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


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
    """Tie in `result`, a copy of `model` with other layers, what is tied in `model`.

    Raises
    ------
    ValueError
        The copies differ.
    """
    for places in _places({"": model}).values():
        paths = list(places.values())
        if len(paths) < 2:
            continue
        first, *others = (_owner(result, path) for path in paths)
        one = first[0][first[1]]
        for (held, key), path in zip(others, paths[1:], strict=True):
            x = held[key]
            if x is one:
                continue
            if x.shape != one.shape or not torch.equal(x, one):
                raise ValueError(
                    f"tensors that a model shares must be alike in a smaller one, got two for {paths[0]} and {path}"
                )
            held[key] = one


def _owner(model: nn.Module, path: str) -> tuple[dict[str, Any], str]:
    parent, _, key = path.rpartition(".")
    module = model.get_submodule(parent)
    return (module._parameters if key in module._parameters else module._buffers), key


_LAYOUTS: Mapping[str, tuple[str, ...]] = {
    "Mamba-1": ("A_log", "in_proj.weight", "conv1d.weight", "x_proj.weight", "dt_proj.weight", "out_proj.weight"),
    "Mamba-2": ("A_log", "dt_bias", "in_proj.weight", "conv1d.weight", "out_proj.weight"),
    "Zamba": ("A_log", "in_proj.weight", "conv1d.weight", "x_proj_weight", "dt_proj_weight", "out_proj.weight"),
    "S4D": ("log_dt", "log_A_real", "A_imag", "C"),
    "S4": ("inv_dt", "A_real", "A_imag", "B", "C"),
    "mLSTM": ("mlstm_backend", "qk_dim", "config.num_heads"),
}
_DYNAMICS = {"A_log", "A", "log_A_real", "A_real", "A_imag", "Lambda", "Lambda_re", "nu_log", "log_dt", "inv_dt", "log_step", "dt_bias"}  # fmt: skip


def seen(model: nn.Module) -> list[str]:
    """Of modules with tensors called as in state-space layers, what they lack to be layers that an adapter knows."""
    told: dict[str, str] = {}
    for name, module in model.named_modules():
        held = {*module._parameters, *module._buffers, *vars(module)}
        if not (held & _DYNAMICS) or entry_of(module) is not None:
            continue
        lacks = {kind: [n for n in names if not _has(module, n)] for kind, names in _LAYOUTS.items()}
        kind = min(lacks, key=lambda k: len(lacks[k]) / len(_LAYOUTS[k]))
        missing = f"lacks {', '.join(lacks[kind])}" if lacks[kind] else "has other shapes, or more tensors,"
        told.setdefault(type(module).__name__, f"{name or 'itself'} ({type(module).__name__}) {missing} of {kind}")
    return list(told.values())


def _has(module: Any, path: str) -> bool:
    for key in path.split("."):
        module = getattr(module, key, None)
    return module is not None
