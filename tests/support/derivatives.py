"""Directional derivatives on PyTorch and JAX beside central differences."""

from __future__ import annotations

import dataclasses

import numpy as np

import balred
from balred.systems import DiagonalSystem


def twice(system):
    """Two copies of `system` side by side, with inputs and outputs of their own: every HSV occurs twice."""

    def blocks(x):
        return np.block([[x, np.zeros_like(x)], [np.zeros_like(x), x]])

    if isinstance(system, DiagonalSystem):
        return dataclasses.replace(
            system,
            log_poles=np.concatenate([system.log_poles] * 2),
            B=blocks(system.B),
            C=blocks(system.C),
            D=blocks(system.D),
        )
    return balred.ss(*(blocks(x) for x in (system.A, system.B, system.C, system.D)), dt=system.dt)


def leaves_of(system):
    return [np.array(x) for x in system.leaves]


def with_leaves(system, leaves):
    names = ("log_poles", "B", "C") if isinstance(system, DiagonalSystem) else ("A", "B", "C")
    return dataclasses.replace(system, **dict(zip(names, leaves, strict=True)))


def directional(f, system, seed):
    """A random direction, and the derivative along it by a central difference of five points (error h^4)."""
    rng = np.random.default_rng(seed)
    x = leaves_of(system)
    v = [rng.standard_normal(a.shape) + (1j * rng.standard_normal(a.shape) if np.iscomplexobj(a) else 0) for a in x]
    h = 1e-4

    def at(t):
        return f(with_leaves(system, [a + t * h * b for a, b in zip(x, v, strict=True)]))

    return v, (at(-2) - 8 * at(-1) + 8 * at(1) - at(2)) / (12 * h)
