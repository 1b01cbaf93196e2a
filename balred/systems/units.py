"""The units of states: powers of two that give rows and columns of a system like norms.

A state in metres beside one in nanometres is no harder than two in metres, but norms and orthogonal bases, which mix
states, lose the small one's digits.  Other units lose none, because powers of two round nothing
(SLICOT's ``EQUIL = 'S'``, TB01ID).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.systems.dense_system import DenseSystem
from balred.systems.leaves import System, with_leaves

Matrix = NDArray[Any]


def rescaled(A: Matrix, B: Matrix, C: Matrix) -> tuple[Matrix, Matrix, Matrix, Matrix]:
    """One system (NumPy) in other units, with rows of [A, B] and columns of [A; C] of like norms, and d: x = d x_new."""
    d = np.ones(len(A))
    if len(A) == 0:
        return A, B, C, d
    size = float(np.linalg.norm(A)) or 1.0
    rows, columns = (x * (size / (float(np.linalg.norm(x)) or 1.0)) for x in (B, C))
    off = np.abs(A) ** 2
    np.fill_diagonal(off, 0)
    inputs, outputs = np.sum(np.abs(rows) ** 2, axis=1), np.sum(np.abs(columns) ** 2, axis=0)
    for _ in range(50):
        r, c = off @ d**2 / d**2 + inputs / d**2, (d**-2 @ off) * d**2 + outputs * d**2
        both = (r > 0) & (c > 0)
        factor = np.where(both, np.exp2(np.round(np.log2(np.where(both, r, 1) / np.where(both, c, 1)) / 8)), 1.0)
        if np.all(factor == 1):
            break
        d = d * factor
    d = d.astype(A.real.dtype)
    return A * d / d[:, None], B / d[:, None], C * d, d


_UNEVEN = 1024.0
"""Units of state that differ by less are left as they are."""


def in_even_units(system: System) -> tuple[System, np.ndarray[Any, Any] | None]:
    """A single dense system on the host in other units of state, and d (x = d x_new), where its own lie far apart.

    Other systems as they are, and None: what some methods make depends a little on the coordinates (frequency-weighted
    balancing with definite parts, say), and those given are the ones to use where they do no harm.
    """
    if not (isinstance(system, DenseSystem) and isinstance(system.A, np.ndarray) and system.A.ndim == 2):
        return system, None
    *leaves, d = rescaled(*system.leaves)
    if d.size == 0 or d.max() <= _UNEVEN * d.min():
        return system, None
    return with_leaves(system, tuple(leaves)), d
