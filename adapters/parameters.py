"""Layers by the names and shapes of their parameters, in any array library: what people copy from project to project.

LRU in minimal-LRU's names: nu_log, theta_log, gamma_log (N), B_re, B_im (N, H), C_re, C_im (P, N), and D, (H) or (P, H).
A dict of these is a layer by itself, and a tree of such dicts (of a flax or haiku model, a checkpoint) a model; the module
that it belongs to takes the new N as its ``d_hidden``.  All of them with the same leading axes are a stack of layers
(:mod:`balred.adapters.stacks`).

S5 in its authors' names: Lambda_re, Lambda_im (P), B (P, H, 2), C (H, P, 2) or C1 and C2, D (H), log_step (P, 1) or (P).
What they mean depends on settings of the module (conj_sym, clip_eigs, ...), so it takes a module to make a layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from balred.adapters.stacks import carried_in_stacks, leading_axes, read_stack
from balred.layers.linoss import LINOSS_NAMES, is_linoss
from balred.layers.lru import keep_feedthrough, lru_parameters, lru_split, lru_system, scale_ratio
from balred.layers.lru_carry import lru_carry_split
from balred.layers.s5 import s5_parameters, s5_system
from balred.layers.sampled import Host, input_gain
from balred.registry.entries import register
from balred.registry.kinds import Rebuild
from balred.systems.arrays import Array, backend_of, eye, is_at_hand, mapped, namespace, to_complex, to_numpy
from balred.systems.leaves import System

SIZES = ("d_hidden", "d_state", "state_dim", "hidden_dim", "states", "N")
"""Attributes in which modules with these parameters keep N."""
ORDERS = ("ssm_size", "d_state", "state_dim")
"""Attributes in which modules whose states stand for two each keep the number of these."""
S5_SETTINGS = ("conj_sym", "discretization", "clip_eigs", "step_rescale")
"""Attributes of an S5 module without which its parameters have no meaning."""
CLIP = 1e-4
"""With clip_eigs the real part of a continuous pole of S5 is at most -1e-4."""
NAMES = {"nu_log", "theta_log", "gamma_log", "B_re", "B_im", "C_re", "C_im", "D"}


def is_lru(tree: Mapping[str, Any]) -> bool:
    """Whether the mapping holds the parameters of an LRU layer, or of a stack of such layers, and nothing else.

    Examples
    --------
    >>> shapes = {"B_re": (3, 2), "B_im": (3, 2), "C_re": (2, 3), "C_im": (2, 3), "D": (2,)}
    >>> shapes |= dict.fromkeys(("nu_log", "theta_log", "gamma_log"), (3,))
    >>> [is_lru({k: np.ones((*before, *s)) for k, s in shapes.items()}) for before in ((), (4,))]
    [True, True]
    >>> is_lru({k: np.ones((*s, 4)) for k, s in shapes.items()})
    False
    """
    return set(tree) == NAMES and leading_axes(tree, _is_one_lru) is not None


def _is_one_lru(tree: Mapping[str, Any]) -> bool:
    shape = {name: value.shape for name, value in tree.items()}
    if len(shape["B_re"]) != 2 or len(shape["C_re"]) != 2:
        return False
    (n, h), p = shape["B_re"], shape["C_re"][0]
    want = {"theta_log": (n,), "gamma_log": (n,), "nu_log": (n,), "B_im": (n, h), "C_re": (p, n), "C_im": (p, n)}
    feedthrough = shape["D"] == (p, h) or shape["D"] == (h,) == (p,)
    return feedthrough and all(shape[name] == size for name, size in want.items())


carry_lru = carried_in_stacks(lru_carry_split, "nu_log")
"""Optimizer moments of an LRU layer, or of a stack, through a cut."""


@register("builtins.dict", carry=carry_lru, recognises=is_lru)
def adapt_lru_parameters(tree: Any) -> tuple[System, Rebuild]:
    """The conjugate system that the parameters stand for, and the way back to a mapping of the same type.

    Examples
    --------
    >>> import balred, numpy as np
    >>> from balred.layers.recurrence import lru_initial
    >>> rng = np.random.default_rng(0)
    >>> layer = lru_initial(2, 8, 0.5, 0.99, 3.0, rng.random, lambda *shape: rng.standard_normal(shape))
    >>> small = balred.reduce({"params": {"lru": layer}}, 3)
    >>> small["params"]["lru"]["C_re"].shape
    (2, 3)
    """
    system, write = lru_of(tree)
    return system, lambda reduced: type(tree)({**tree, **write(reduced)})


_KINDS: dict[str, tuple[str, str, int, tuple[str, ...]]] = {
    "LRU": ("nu_log", "B_re", 2, ()),
    "S5": ("Lambda_re", "B", 3, S5_SETTINGS),
    "LinOSS": ("A_diag", "B", 3, ("discretization",)),
}
"""Of each kind of layer a vector, a larger array with its axes, and the settings without which the parameters mean nothing."""


def misfit(tree: Mapping[str, Any], settings: Any) -> str:
    """Why parameters by the names of a known kind of layer cannot be read, though they are those of one or of a stack.

    Parameters
    ----------
    tree : mapping
        Arrays by name.
    settings : object, or None
        The module that they belong to; None in a tree of parameters.

    Returns
    -------
    str
        Empty if they can, and of other mappings.

    Examples
    --------
    >>> shapes = {"B_re": (3, 2), "B_im": (3, 2), "C_re": (2, 3), "C_im": (2, 3), "D": (2,)}
    >>> shapes |= dict.fromkeys(("nu_log", "theta_log", "gamma_log"), (3,))
    >>> misfit({k: np.ones((*s, 4)) for k, s in shapes.items()}, None)[:60]
    'layers in a stack must lie along the first axes of all their'
    >>> misfit({k: np.ones((4, *s)) for k, s in shapes.items()}, None)
    ''
    >>> misfit({"h0": np.ones(3), **{k: np.ones(s) for k, s in shapes.items()}}, None)[57:111]
    'got h0 beside those of an LRU layer, which a cut would'
    """
    names = set(tree)
    kind = "LRU" if names >= NAMES else "S5" if names >= _s5_names(tree) else "LinOSS" if names >= LINOSS_NAMES else ""
    if not kind:
        return ""
    if more := sorted(names - {"LRU": NAMES, "S5": _s5_names(tree), "LinOSS": LINOSS_NAMES | {"G_diag"}}[kind]):
        return (
            f"every parameter of a layer must be known to its adapter, got {', '.join(more)} beside those of {'a' if kind == 'LinOSS' else 'an'} {kind} layer, which a cut "
            "would leave as they are: register an adapter of its own for this class"
        )
    vector, other, axes, needs = _KINDS[kind]
    extra = len(getattr(tree[vector], "shape", ())) - 1
    if extra < 0 or len(getattr(tree[other], "shape", ())) != axes + extra:
        return ""
    if needs and settings is None:
        return (
            f"the parameters of {kind} layers mean something only with settings of their module ({', '.join(needs)}), got a tree "
            "without: reduce the layer as a module, in flax linen module.bind(variables); in training tell them by settings="
        )
    if extra == 0 or any(not hasattr(settings, name) for name in needs):
        return ""
    known = {"LRU": _is_one_lru, "S5": _is_one_s5, "LinOSS": lambda one: is_linoss(one, settings)}[kind]
    if leading_axes(tree, known) is not None:
        return ""
    shapes = ", ".join(f"{name} {tuple(getattr(value, 'shape', ()))}" for name, value in sorted(tree.items()))
    return f"layers in a stack must lie along the first axes of all their parameters, got {kind} layers with {shapes}"


def refused(tree: Mapping[str, Any], settings: Any) -> Any:
    """Raise what :func:`misfit` says, in place of reading.

    Raises
    ------
    ValueError
    """
    raise ValueError(misfit(tree, settings))


register("builtins.dict", lambda tree: refused(tree, None), recognises=lambda tree: bool(misfit(tree, None)))


def lru_of(tree: Mapping[str, Any]) -> tuple[System, Any]:
    """The system, of a stack a batch, and a function that gives the changed parameters for a reduced one."""
    axes = leading_axes(tree, _is_one_lru) or ()
    if not is_at_hand(*tree.values()) or any(np.dtype(x.dtype) not in _PLAIN for x in tree.values()):
        return read_stack(tree, axes, _one_lru_of)
    # JAX would compile each of the operations for every number of states; copies, since a step may take the arrays away
    be, like = backend_of(*tree.values()), tree["D"]
    system, write = read_stack({k: np.array(to_numpy(x)) for k, x in tree.items()}, axes, _one_lru_of)

    def theirs(x: Host) -> Array:
        return be.from_numpy(x, like=like)

    return mapped(system, theirs), lambda reduced: {k: theirs(x) for k, x in write(reduced).items()}


_PLAIN = (np.float32, np.float64)


def _one_lru_of(tree: Mapping[str, Any]) -> tuple[System, Any]:
    be, D = backend_of(*tree.values()), tree["D"]
    B, C = (to_complex(tree[f"{k}_re"]) + 1j * tree[f"{k}_im"] for k in "BC")
    system = lru_system(
        tree["nu_log"], tree["theta_log"], tree["gamma_log"], B, C, D if D.ndim == 2 else eye(D, D.shape[0]) * D
    )

    def write(reduced: Any) -> dict[str, Any]:
        values = lru_split(lru_parameters(reduced, scale_ratio(to_numpy(B), to_numpy(C))))
        keep_feedthrough(reduced, system)
        return {k: be.from_numpy(v, like=D) for k, v in values.items()}

    return system, write


def resized(fields: Mapping[str, Any], before: int, after: int) -> dict[str, int]:
    """New values of those attributes in `fields` that hold the number of states, or the order of the conjugate system.

    Examples
    --------
    >>> resized({"P": 8, "d_state": 16, "hidden_dim": 16}, 8, 3)
    {'d_state': 6, 'P': 3}
    """
    held = {k: v for k in (*SIZES, *ORDERS, "P") if isinstance(v := fields.get(k), int)}
    return {k: v // before * after for k, v in held.items() if v == before or (k in ORDERS and v == 2 * before)}


def is_s5(tree: Mapping[str, Any], settings: Any) -> bool:
    """Whether the mapping holds the parameters of an S5 layer or of a stack, nothing else, and `settings` says what they mean.

    Examples
    --------
    >>> import numpy as np
    >>> from types import SimpleNamespace
    >>> settings = SimpleNamespace(conj_sym=True, discretization="zoh", clip_eigs=False, step_rescale=1.0)
    >>> tree = {"Lambda_re": np.ones(3), "Lambda_im": np.ones(3), "log_step": np.ones((3, 1)), "D": np.ones(2)}
    >>> tree |= {"B": np.ones((3, 2, 2)), "C": np.ones((2, 3, 2))}
    >>> is_s5(tree, settings), is_s5({**tree, "bias": np.ones(2)}, settings)
    (True, False)
    """
    return all(hasattr(settings, name) for name in S5_SETTINGS) and _s5_axes(tree) is not None


def _s5_names(tree: Mapping[str, Any]) -> set[str]:
    return {"Lambda_re", "Lambda_im", "B", "D", "log_step"} | ({"C1", "C2"} if "C1" in tree else {"C"})


def _is_named_s5(tree: Mapping[str, Any]) -> bool:
    return set(tree) == _s5_names(tree)


def _s5_axes(tree: Mapping[str, Any]) -> tuple[int, ...] | None:
    return leading_axes(tree, _is_one_s5) if _is_named_s5(tree) else None


def _is_one_s5(tree: Mapping[str, Any]) -> bool:
    shape = {name: value.shape for name, value in tree.items()}
    if len(shape["Lambda_re"]) != 1 or len(shape["D"]) != 1:
        return False
    (p,), (h,) = shape["Lambda_re"], shape["D"]
    outputs = ((h, p, 2),) if "C1" in tree else ((h, p, 2), (h, 2 * p, 2))
    return (
        (shape["Lambda_im"], shape["B"]) == ((p,), (p, h, 2))
        and all(shape[name] in outputs for name in ("C", "C1", "C2") if name in tree)
        and shape["log_step"] in ((p, 1), (p,))
    )


def s5_of(tree: Mapping[str, Any], settings: Any) -> tuple[System, Any]:
    """The system of S5 parameters, of a stack a batch, and a function that gives the parameters of a reduced one.

    Parameters
    ----------
    tree : mapping
        As :func:`is_s5` recognises.
    settings : object
        With the attributes ``conj_sym`` (the output is 2 Re(Cx), not Re(Cx)), ``discretization`` ("zoh" or "bilinear"),
        ``clip_eigs`` and ``step_rescale``.
    """
    return read_stack(tree, _s5_axes(tree) or (), lambda one: _one_s5_of(one, settings))


def _one_s5_of(tree: Mapping[str, Any], settings: Any) -> tuple[System, Any]:
    D, log_step, rule = tree["D"], tree["log_step"], settings.discretization
    be, xp = backend_of(*tree.values()), namespace(D)
    real = tree["Lambda_re"]
    if settings.clip_eigs:
        real = xp.where(real < -CLIP, real, xp.full_like(real, -CLIP))
    poles = to_complex(real) + 1j * tree["Lambda_im"]
    step = settings.step_rescale * xp.exp(xp.reshape(log_step, (-1,)))
    B = _joined(tree["B"])
    C = _joined(tree["C"]) if "C" in tree else xp.concat([_joined(tree["C1"]), _joined(tree["C2"])], axis=1)
    both, twice = C.shape[1] == 2 * poles.shape[0], bool(settings.conj_sym)
    system = s5_system(poles, step, _s5_gain(poles, step, rule), B, C, D, twice=twice, rule=rule)

    def own_gain(poles: Host, steps: Host) -> Host:
        written = be.from_numpy(poles, like=D), be.from_numpy(steps, like=D)
        return to_numpy(_s5_gain(*written, rule)).astype(np.complex128)

    def write(reduced: Any) -> dict[str, Any]:
        keep_feedthrough(reduced, system)
        n = reduced.states
        steps = np.full(n, float(np.exp(np.log(to_numpy(step)).mean())))
        if settings.clip_eigs:  # a shorter step keeps a slow pole away from the clip
            steps = np.minimum(steps, -to_numpy(reduced.log_poles).real / (2 * CLIP))
        values = s5_parameters(
            reduced,
            steps,
            scale_ratio(to_numpy(B), to_numpy(system.C)),
            twice=twice,
            bidirectional=both,
            rule=rule,
            gain=own_gain,
        )
        written = values["log_step"] - np.log(settings.step_rescale)
        halves = {"C": values["C"]} if "C" in tree else {"C1": values["C"][:, :n], "C2": values["C"][:, n:]}
        host = {
            "Lambda_re": values["Lambda"].real,
            "Lambda_im": values["Lambda"].imag,
            "log_step": written.reshape(n, *log_step.shape[1:]),
            "B": _parts(values["B"]),
            **{k: _parts(v) for k, v in halves.items()},
        }
        return {k: be.from_numpy(v, like=D) for k, v in host.items()}

    return system, write


def _joined(x: Array) -> Array:
    return to_complex(x[..., 0]) + 1j * x[..., 1]


def _parts(x: Host) -> Host:
    return np.stack([x.real, x.imag], axis=-1)


def _s5_gain(poles: Array, step: Array, rule: str) -> Array:
    """The input gain in the layer's own arithmetic."""
    return (namespace(poles).exp(poles * step) - 1) / poles if rule == "zoh" else input_gain(poles, step, rule)
