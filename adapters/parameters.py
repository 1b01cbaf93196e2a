"""LRU layers as dicts of their parameters, in any array library: trees of flax (linen) or haiku models, and checkpoints.

minimal-LRU's names: nu_log, theta_log, gamma_log (N), B_re, B_im (N, H), C_re, C_im (P, N), and D, (H) or (P, H).  A
tree of such dicts is a model like any other; the module that it belongs to takes the new N as its ``d_hidden``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from balred.adapt import Rebuild, register
from balred.arrays import backend_of, eye, to_complex, to_numpy
from balred.parametrisations import keep_feedthrough, lru_parameters, lru_rows, lru_split, lru_system
from balred.systems import System

SIZES = ("d_hidden", "d_state", "state_dim", "hidden_dim", "states", "N")
"""Attributes in which modules with these parameters keep N."""
NAMES = {"nu_log", "theta_log", "gamma_log", "B_re", "B_im", "C_re", "C_im", "D"}


def is_lru(tree: Mapping[str, Any]) -> bool:
    """Whether the mapping holds the parameters of one LRU layer, and nothing else."""
    if set(tree) != NAMES:
        return False
    shape = {name: tuple(getattr(value, "shape", ())) for name, value in tree.items()}
    if len(shape["B_re"]) != 2 or len(shape["C_re"]) != 2:
        return False
    (n, h), p = shape["B_re"], shape["C_re"][0]
    want = {"theta_log": (n,), "gamma_log": (n,), "nu_log": (n,), "B_im": (n, h), "C_re": (p, n), "C_im": (p, n)}
    feedthrough = shape["D"] == (p, h) or shape["D"] == (h,) == (p,)
    return feedthrough and all(shape[name] == size for name, size in want.items())


@register("builtins.dict", recognises=is_lru)
def adapt_lru_parameters(tree: Any) -> tuple[System, Rebuild]:
    """The conjugate system that the parameters stand for, and the way back to a mapping of the same type.

    Examples
    --------
    >>> import balred, numpy as np
    >>> from balred.parametrisations import lru_initial
    >>> rng = np.random.default_rng(0)
    >>> layer = lru_initial(2, 8, 0.5, 0.99, 3.0, rng.random, lambda *shape: rng.standard_normal(shape))
    >>> small = balred.reduce({"params": {"lru": layer}}, 3)
    >>> small["params"]["lru"]["C_re"].shape
    (2, 3)
    """
    system, write = lru_of(tree)
    return system, lambda reduced: type(tree)({**tree, **write(reduced)})


def lru_of(tree: Mapping[str, Any]) -> tuple[System, Any]:
    """The system, and a function that gives the changed parameters for a reduced one."""
    be, D = backend_of(*tree.values()), tree["D"]
    B, C = (to_complex(tree[f"{k}_re"]) + 1j * tree[f"{k}_im"] for k in "BC")
    system = lru_system(
        tree["nu_log"], tree["theta_log"], tree["gamma_log"], B, C, D if D.ndim == 2 else eye(D, D.shape[0]) * D
    )

    def write(reduced: Any) -> dict[str, Any]:
        keep_feedthrough(reduced, system)
        values = lru_split(lru_parameters(reduced, lru_rows(to_numpy(B))))
        return {k: be.from_numpy(v, like=D) for k, v in values.items()}

    return system, write
