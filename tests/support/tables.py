"""The one table that drives the property tests: array libraries x structures, and an oracle in 50 digits.

A case is a structure with a time axis; a library is a way to hold its arrays.  Every property is asserted over the
product of the two, in float64 and float32, so that a new library or structure is one more row here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import importlib.util
import unittest.mock
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from oracle import oracle_hsv

import balred
from balred.systems import DiagonalSystem


class Backend(enum.Enum):
    """An array library, in one of the ways people use it."""

    NUMPY = "numpy"  # arrays are read-only: nothing may be written into what was given
    TORCH = "torch"  # computed by the library itself, as on a device, although NumPy could
    TORCH_GRAD = "torch-grad"  # leaves that require a gradient
    JAX = "jax"
    JAX_JIT = "jax-jit"  # traced, where tracing applies

    @property
    def library(self) -> str:
        return self.value.partition("-")[0]


PRECISIONS = ("float64", "float32")


@dataclasses.dataclass(frozen=True)
class Library:
    """What the `xp` fixture gives: systems of one array library in one precision, and the way back to NumPy."""

    backend: Backend
    precision: str

    def __str__(self) -> str:
        return f"{self.backend.value}-{self.precision}"

    @property
    def eps(self) -> float:
        return float(np.finfo(self.precision).eps)

    @property
    def traced(self) -> bool:
        return self.backend is Backend.JAX_JIT

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """The scope a user of this library and precision works in: JAX has float64 only where it is enabled."""
        if self.backend.library == "jax" and self.precision == "float64":
            import jax

            with jax.enable_x64(True):
                yield
        elif self.backend is Backend.TORCH:
            with unittest.mock.patch.object(balred.systems.arrays.backend("torch"), "on_host", return_value=False):
                yield
        else:
            yield

    def rounded(self, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """`x` rounded to this precision."""
        real = np.dtype(self.precision)
        return x.astype(np.result_type(real, np.complex64) if np.iscomplexobj(x) else real)

    def array(self, x: Any) -> Any:
        x = self.rounded(np.array(x))
        if self.backend is Backend.NUMPY:
            x.flags.writeable = False
            return x
        if self.backend.library == "torch":
            import torch

            return torch.tensor(x, requires_grad=self.backend is Backend.TORCH_GRAD)
        import jax.numpy as jnp

        return jnp.asarray(x)

    def system(self, system: Any) -> Any:
        """A NumPy `system` in this library and precision, through the public factories."""
        if isinstance(system, DiagonalSystem):
            l, B, C, D = (self.array(x) for x in (system.log_poles, system.B, system.C, system.D))
            return balred.diagonal(log_poles=l, B=B, C=C, D=D, dt=system.dt, conjugate=system.conjugate)
        return balred.ss(*(self.array(x) for x in (system.A, system.B, system.C, system.D)), dt=system.dt)

    def exact(self, system: Any) -> Any:
        """The same rounded `system` in NumPy float64: what the library's result is compared with."""
        wide = {
            f.name: self.rounded(getattr(system, f.name)).astype(
                complex if np.iscomplexobj(getattr(system, f.name)) else float
            )
            for f in dataclasses.fields(system)
            if isinstance(getattr(system, f.name), np.ndarray)
        }
        return dataclasses.replace(system, **wide)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """`function` of `args`, under ``jax.jit`` where this library is traced."""
        if self.traced:
            import jax

            return jax.jit(function)(*args)
        return function(*args)

    def numpy(self, x: Any) -> np.ndarray[Any, Any]:
        if self.backend.library == "torch":
            return np.asarray(x.detach().resolve_conj().cpu().numpy())
        return np.asarray(x)

    def owns(self, x: Any) -> bool:
        """Whether `x` is an array of this library and precision."""
        name = str(x.dtype).removeprefix("torch.")
        return type(x).__module__.partition(".")[0].startswith(self.backend.library) and name in (
            self.precision,
            {"float64": "complex128", "float32": "complex64"}[self.precision],
        )


LIBRARIES = [Library(b, p) for b in Backend for p in PRECISIONS]


def skip_without(package: str) -> Any:
    """Mark that skips where an optional package is not installed."""
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


@dataclasses.dataclass(frozen=True)
class Case:
    """A structure and a time axis: a row of the table."""

    name: str
    kind: str
    dt: float | bool
    complex: bool = False
    batch: tuple[int, ...] = ()

    def make(self, n: int = 4, m: int = 2, p: int = 2, seed: int = 7) -> Any:
        """A random stable system of this row in NumPy float64, with `n` stored states."""
        return balred.testing.random_system(
            n, m, p, dt=self.dt, kind=self.kind, complex=self.complex, batch=self.batch, seed=seed
        )

    def __str__(self) -> str:
        return self.name


_STRUCTURES = [("dense", "dense", False), ("complex", "dense", True), ("diagonal", "diagonal", False),
               ("conjugate", "conjugate", False)]  # fmt: skip
SINGLE = [
    Case(f"{name}-{time}", kind, dt, cx)
    for name, kind, cx in _STRUCTURES
    for time, dt in (("continuous", 0), ("discrete", 0.5))
]
BATCHED = [dataclasses.replace(c, name=f"{c.name}-batch", batch=(2,)) for c in SINGLE if not c.complex]
CASES = SINGLE + BATCHED

each_single = pytest.mark.parametrize("case", SINGLE, ids=str)
each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_method = pytest.mark.parametrize("method", [k for k, m in balred.methods.METHODS.items() if m.takes == "arrays"])


def members(system: Any) -> list[Any]:
    """The members of a batched system, one by one; a single system as a list of one."""
    batch = system.B.shape[:-2]
    if not batch:
        return [system]
    fields = [f.name for f in dataclasses.fields(system) if f.name not in ("dt", "conjugate")]
    return [dataclasses.replace(system, **{f: getattr(system, f)[i] for f in fields}) for i in range(batch[0])]


def frequencies(system: Any, count: int = 400) -> np.ndarray[Any, Any]:
    """Points on the stability boundary, both signs: complex systems are not symmetric."""
    if system.discrete:
        return np.exp(1j * np.linspace(-np.pi, np.pi, count))
    half = np.logspace(-3, 4, count // 2)
    return 1j * np.concatenate([-half[::-1], [0.0], half])


def gains(system: Any, points: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Largest singular value of the transfer function at each point."""
    return np.array([np.linalg.norm(system(complex(s)), 2) for s in points])


@functools.cache
def _oracle(case: Case, precision: str, n: int, seed: int) -> np.ndarray[Any, Any]:
    lib = Library(Backend.NUMPY, precision)
    system = lib.exact(case.make(n=n, seed=seed))
    values = np.array([oracle_hsv(member) for member in members(system)])
    return values if case.batch else values[0]


def oracle_of(case: Case, precision: str, n: int = 4, seed: int = 7) -> np.ndarray[Any, Any]:
    """Hankel singular values of a case's system as rounded to `precision`, by :func:`oracle_hsv` (cached)."""
    return _oracle(case, precision, n, seed)
