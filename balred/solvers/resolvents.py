r"""Solves with :math:`aI - bA` for many shifts and one state matrix, by the structure of the system.

H2-optimal reduction solves with a new handful of shifts in every iteration.  A dense matrix is brought to Schur form once,
whereupon a shift costs a triangular solve; a diagonal one needs a division for each pole, and no matrix at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from balred.systems.arrays import backend, ct
from balred.systems.dense_system import DenseSystem
from balred.systems.diagonal_system import DiagonalSystem
from balred.systems.leaves import System

Matrix = NDArray[Any]


class Resolvent(Protocol):
    """A state matrix A, or with `adjoint` its conjugate transpose, in the coordinates of ``system.to_dense()``."""

    def times(self, x: Matrix, *, adjoint: bool = False) -> Matrix:
        """``A x``."""

    def solve(self, a: Matrix, b: Matrix, x: Matrix, *, adjoint: bool = False) -> Matrix:
        """Column j of the result is ``(a[j] I - b[j] A)^-1 x[:, j]``."""


@dataclass(frozen=True)
class DenseResolvent:
    """Of a full matrix ``A = Q T Q^H``, T upper triangular and complex."""

    A: Matrix
    T: Matrix
    Q: Matrix

    def times(self, x: Matrix, *, adjoint: bool = False) -> Matrix:
        """``A x``."""
        return (ct(self.A) if adjoint else self.A) @ x

    def solve(self, a: Matrix, b: Matrix, x: Matrix, *, adjoint: bool = False) -> Matrix:
        """``(a[j] I - b[j] A)^-1 x[:, j]``, by a triangular solve each."""
        host, diagonal = backend("scipy"), np.arange(len(self.T))
        y = ct(self.Q) @ x
        for j, (p, q) in enumerate(zip(np.conj(a), np.conj(b), strict=True) if adjoint else zip(a, b, strict=True)):
            M = -q * self.T
            M[diagonal, diagonal] += p
            y[:, j] = host.triangular_solve(M, y[:, j], adjoint)
        return np.asarray(self.Q @ y)


@dataclass(frozen=True)
class DiagonalResolvent:
    """Of a diagonal matrix with the given poles; `conjugate` as in :class:`balred.DiagonalSystem`."""

    poles: Matrix
    conjugate: bool

    def times(self, x: Matrix, *, adjoint: bool = False) -> Matrix:
        """``A x``."""
        poles = (self.poles.conj() if adjoint else self.poles)[:, None]
        if not self.conjugate:
            return np.asarray(poles * x)
        re, im = np.split(x, 2)
        return np.concatenate([poles.real * re - poles.imag * im, poles.imag * re + poles.real * im])

    def solve(self, a: Matrix, b: Matrix, x: Matrix, *, adjoint: bool = False) -> Matrix:
        """``(a[j] I - b[j] A)^-1 x[:, j]``, pole by pole."""
        poles = (self.poles.conj() if adjoint else self.poles)[:, None]
        if not self.conjugate:
            return np.asarray(x / (a - b * poles))
        # the state and its conjugate, each of which has its own poles, and back to real and imaginary parts
        re, im = np.split(x, 2)
        one, other = (re + 1j * im) / (a - b * poles), (re - 1j * im) / (a - b * poles.conj())
        return np.concatenate([(one + other) / 2, (one - other) / 2j])


def resolvent(system: System) -> Resolvent:
    """The resolvent of a single system of NumPy arrays."""
    if isinstance(system, DiagonalSystem):
        return DiagonalResolvent(system.poles, system.conjugate)
    assert isinstance(system, DenseSystem)
    return DenseResolvent(system.A, *backend("scipy").complex_schur(system.A))
