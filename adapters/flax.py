"""flax: parameter trees of linen models, and linen layers bound to their variables.

A linen layer is a pair, the module's fields and its parameters.  As one object it is the bound module,
``module.bind(variables)``; what a reduction returns is bound too, and ``unbind()`` gives the smaller pair.  Where only
the parameters are at hand, LRU layers are found in the tree itself (:mod:`balred.adapters.parameters`).

Known are LRU as minimal-LRU writes it (the field ``d_hidden``) and S5 as its authors do (the fields P, V, Vinv,
Lambda_re_init, Lambda_im_init, conj_sym, discretization, clip_eigs, bidirectional, step_rescale): by what they hold,
since both are copied from project to project.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

try:
    import jax
    from flax.core import FrozenDict, freeze
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("flax is not installed: pip install 'balred[flax]'") from error
import jax.numpy as jnp

from balred.adapt import AdapterNotFound, Container, Rebuild, layers_of, register, register_container, replace_layers
from balred.adapters.parameters import adapt_lru_parameters, is_lru, lru_of
from balred.arrays import to_numpy
from balred.backends.jax import from_numpy
from balred.model_tensors import tensors_of, with_tensors
from balred.parametrisations import keep_feedthrough, lru_rows
from balred.sampled import Host, input_gain, s5_parameters, s5_system
from balred.systems import System

_S5_FIELDS = (
    "P", "V", "Vinv", "Lambda_re_init", "Lambda_im_init", "conj_sym", "discretization", "clip_eigs", "bidirectional", "step_rescale",
)  # fmt: skip
_S5_PARAMETERS = {"Lambda_re", "Lambda_im", "B", "D", "log_step"}
_CLIP = 1e-4
"""With clip_eigs the real part of a continuous pole is at most -1e-4."""


# ------------------------------------------------------------------------------------------------ parameter trees


def _layers(tree: FrozenDict[str, Any]) -> Mapping[str, Any]:
    try:
        return layers_of(dict(tree))
    except AdapterNotFound:
        return {}


def _replaced(tree: FrozenDict[str, Any], new: Mapping[str, Any]) -> FrozenDict[str, Any]:
    return freeze(replace_layers(dict(tree), new))


register_container("flax.core.frozen_dict.FrozenDict", Container(_layers, _replaced))
register("flax.core.frozen_dict.FrozenDict", adapt_lru_parameters, recognises=is_lru)


# ------------------------------------------------------------------------------------------------ bound modules


def _parameters(module: Any) -> Mapping[str, Any]:
    """The parameters of a bound module itself; nothing for a module that is not bound."""
    if module.scope is None:
        return {}
    parameters: Mapping[str, Any] = module.variables.get("params", {})
    return parameters


def _rebound(module: Any, fields: Mapping[str, Any], parameters: Mapping[str, Any]) -> Any:
    """A bound copy of `module` with other fields and parameters."""
    variables = {**module.variables, "params": {**_parameters(module), **parameters}}
    return module.clone(parent=None, **fields).bind(variables)


def _tensors(module: Any) -> Mapping[str, Any]:
    return {} if module.scope is None else tensors_of(module.variables)


def _with_tensors(module: Any, new: Mapping[str, Any]) -> Any:
    return module if module.scope is None else module.clone(parent=None).bind(with_tensors(module.variables, new))


register_container(
    "flax.linen.module.Module", Container(lambda module: {}, lambda module, new: module, _tensors, _with_tensors)
)


def _is_lru(module: Any) -> bool:
    return hasattr(module, "d_hidden") and is_lru(_parameters(module))


@register("flax.linen.module.Module", recognises=_is_lru)
def adapt_lru(module: Any) -> tuple[System, Rebuild]:
    """The conjugate system of a bound LRU module; the way back sets ``d_hidden`` too."""
    system, write = lru_of(_parameters(module))

    def rebuild(reduced: Any) -> Any:
        return _rebound(module, {"d_hidden": reduced.states}, write(reduced))

    return system, rebuild


def _is_s5(module: Any) -> bool:
    held = set(_parameters(module))
    return held in (_S5_PARAMETERS | {"C"}, _S5_PARAMETERS | {"C1", "C2"}) and all(
        hasattr(module, f) for f in _S5_FIELDS
    )


@register("flax.linen.module.Module", recognises=_is_s5)
def adapt_s5(module: Any) -> tuple[System, Rebuild]:
    """The conjugate system of a bound S5 module; the fields that hold initial values of the old size change too."""
    p, rule = _parameters(module), module.discretization
    real = jnp.minimum(p["Lambda_re"], -_CLIP) if module.clip_eigs else p["Lambda_re"]
    poles = jax.lax.complex(real, p["Lambda_im"])
    step = module.step_rescale * jnp.exp(p["log_step"][:, 0])
    B = _complex(p["B"])
    C = _complex(p["C"]) if "C" in p else jnp.concatenate([_complex(p["C1"]), _complex(p["C2"])], axis=1)
    gain = _gain(poles, step, rule)
    system = s5_system(poles, step, gain, B, C, p["D"], twice=module.conj_sym, rule=rule)

    def own_gain(poles: Host, steps: Host) -> Host:
        written = from_numpy(poles, like=p["D"]), from_numpy(steps, like=p["D"])
        return to_numpy(_gain(*written, rule)).astype(np.complex128)

    def rebuild(reduced: Any) -> Any:
        keep_feedthrough(reduced, system)
        steps = np.full(reduced.states, float(np.exp(np.log(to_numpy(step)).mean())))
        if module.clip_eigs:  # a shorter step keeps a slow pole away from the clip
            steps = np.minimum(steps, -to_numpy(reduced.log_poles).real / (2 * _CLIP))
        values = s5_parameters(
            reduced, steps, lru_rows(to_numpy(B)),
            twice=module.conj_sym, bidirectional=module.bidirectional, rule=rule, gain=own_gain,
        )  # fmt: skip
        poles, n = values["Lambda"], reduced.states
        host = {
            "Lambda_re": poles.real,
            "Lambda_im": poles.imag,
            "log_step": values["log_step"][:, None] - np.log(module.step_rescale),
            "B": _pair(values["B"]),
        }
        host |= (
            {"C": _pair(values["C"])}
            if "C" in p
            else {"C1": _pair(values["C"][:, :n]), "C2": _pair(values["C"][:, n:])}
        )
        basis = jnp.eye((2 if module.conj_sym else 1) * n, n, dtype=module.V.dtype)
        new = {k: from_numpy(v, like=p["D"]) for k, v in host.items()}
        fields = {"P": n, "V": basis, "Vinv": basis.T}
        return _rebound(
            module, fields | {f"{k}_init": new[k] for k in ("Lambda_re", "Lambda_im")}, new
        )  # fmt: skip

    return system, rebuild


def _complex(x: Any) -> Any:
    return jax.lax.complex(x[..., 0], x[..., 1])


def _pair(x: Host) -> Host:
    return np.stack([x.real, x.imag], axis=-1)


def _gain(poles: Any, step: Any, rule: str) -> Any:
    """The input gain in the layer's own arithmetic."""
    return (jnp.exp(poles * step) - 1) / poles if rule == "zoh" else input_gain(poles, step, rule)
