"""S5 layers by their authors' names in equinox and flax nnx."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
eqx = pytest.importorskip("equinox")
nnx = pytest.importorskip("flax.nnx")
import jax.numpy as jnp  # noqa: E402
from jax_layers import s5_output  # noqa: E402


def parameters(p: int = 8, h: int = 3, *, halves: str = "", column: bool = True, seed: int = 0) -> dict[str, Any]:
    """As its authors draw them, but for the basis; `halves` "C1 C2" or "wide" for a bidirectional layer."""
    rng = np.random.default_rng(seed)
    C = {
        k: rng.normal(size=(h, (2 if halves == "wide" else 1) * p, 2))
        for k in ("C1 C2" if " " in halves else "C").split()
    }
    values = {
        "Lambda_re": -rng.uniform(0.3, 1.0, p), "Lambda_im": 8 * rng.normal(size=p),
        "B": rng.normal(size=(p, h, 2)), "D": rng.normal(size=h),
        "log_step": rng.uniform(-3.5, -1.5, (p, 1) if column else p), **C,
    }  # fmt: skip
    return {k: jnp.asarray(v, jnp.float32) for k, v in values.items()}


SETTINGS: dict[str, Any] = {"conj_sym": True, "discretization": "zoh", "clip_eigs": False, "step_rescale": 1.0}


class Equinox(eqx.Module):
    Lambda_re: Any
    Lambda_im: Any
    B: Any
    C: Any
    D: Any
    log_step: Any
    H: int
    P: int
    conj_sym: bool = eqx.field(static=True)
    discretization: str = eqx.field(static=True)
    clip_eigs: bool = eqx.field(static=True)
    step_rescale: float = eqx.field(static=True)

    def __call__(self, u: Any) -> Any:
        return s5_output(self, u)


class EquinoxBothWays(eqx.Module):
    Lambda_re: Any
    Lambda_im: Any
    B: Any
    C1: Any
    C2: Any
    D: Any
    log_step: Any
    conj_sym: bool = True
    discretization: str = "zoh"
    clip_eigs: bool = False
    step_rescale: float = 1.0

    def __call__(self, u: Any) -> Any:
        return s5_output(self, u)


class Nnx(nnx.Module):
    def __init__(self, values: dict[str, Any], **settings: Any) -> None:
        self.P, self.ssm_size = len(values["Lambda_re"]), 2 * len(values["Lambda_re"])
        for key, value in values.items():
            setattr(self, key, nnx.Param(value))
        for key, value in settings.items():
            setattr(self, key, value)

    def __call__(self, u: Any) -> Any:
        return s5_output(self, u)


def equinox_layer(halves: str = "", column: bool = True, **settings: Any) -> Any:
    values, settings = parameters(halves=halves, column=column), SETTINGS | settings
    return EquinoxBothWays(**values, **settings) if " " in halves else Equinox(**values, H=3, P=8, **settings)


def nnx_layer(halves: str = "", column: bool = True, **settings: Any) -> Any:
    return Nnx(parameters(halves=halves, column=column), **(SETTINGS | settings))
