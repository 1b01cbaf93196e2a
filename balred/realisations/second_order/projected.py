r"""Reduction of second-order systems that gives mass, damping and stiffness again: one change of position coordinates.

Velocities are derivatives of positions, so both must be projected alike: :math:`q \approx T\hat q`, and the equations are tested with W,

.. math:: \hat M = W^HMT,\ \hat D = W^HDT,\ \hat K = W^HKT,\ \hat B = W^HB,\ \hat C_p = C_pT,\ \hat C_v = C_vT

What differs is where T and W come from: the position and velocity blocks of the Gramians, or modes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.realisations.second_order.free_positions import Free, beside, is_passive
from balred.realisations.second_order.system import SecondOrderSystem, is_hermitian
from balred.systems.arrays import backend, warn_caller
from balred.systems.poles import InstabilityWarning, UnstableError, check_stable

Matrix = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Projected:
    """A second-order system looked at once, to be projected to any number of positions.

    Attributes
    ----------
    system : SecondOrderSystem
        What is projected: without rigid bodies, if there are any.
    still : array of bool
        Which positions of the bases have no stiffness, and none in results.
    free : int
        How many of the first of these are kept whatever the rank.
    sigma : array
        What rules read, descending.
    cap : int
        The largest number of positions that can be had, rigid bodies included.
    bases : callable
        ``bases(k) -> (W, T)``; W is None where it is T, which keeps symmetry and definiteness.
    strict : bool
        Whether an unstable result is an error, since the given system is known to be stable.
    rigid : SecondOrderSystem or None
        Rigid bodies, which stand beside the result.
    """

    system: SecondOrderSystem
    sigma: NDArray[np.float64]
    cap: int
    bases: Callable[[int], tuple[Matrix | None, Matrix]]
    strict: bool
    rigid: SecondOrderSystem | None = None
    still: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    free: int = 0

    @property
    def positions(self) -> int:
        """Rigid bodies included."""
        return self.system.states + self._rigid

    @property
    def fixed(self) -> int:
        """How many positions are kept whatever the rank: those without stiffness."""
        return self.free + self._rigid

    @property
    def _rigid(self) -> int:
        return 0 if self.rigid is None else self.rigid.states

    def reduced(self, k: int) -> SecondOrderSystem:
        """The system with `k` positions.

        Raises
        ------
        ValueError
            There are more rigid bodies than that.
        UnstableError
            It is unstable, though the given system is stable: balancing of second-order systems does not keep stability.
        """
        if k < self.fixed:
            raise ValueError(
                f"rank must be at least the number of positions without stiffness, {self.fixed}, which are kept, got {k}"
            )
        if self.rigid is None:
            return self._projected(k)
        return self.rigid if k == self._rigid else beside(self.rigid, self._projected(k - self._rigid))

    def _projected(self, k: int) -> SecondOrderSystem:
        g, f = self.system, self.free
        W, T = self.bases(k)
        left = (T if W is None else W).conj().T
        exact = backend("scipy").ExactProduct  # the terms of a stiff K nearly cancel
        M, D, K = (left @ (exact(X)(T) if g.sparse else X @ T) for X in (g.M, g.D, g.K))
        if W is None:
            M, D, K = (
                (X + X.conj().T) / 2 if is_hermitian(Y) else X for X, Y in zip((M, D, K), (g.M, g.D, g.K), strict=True)
            )
        still = np.flatnonzero(self.still[:k])
        K[still] = K[:, still] = 0
        small = replace(g, M=M, D=D, K=K, B=left @ g.B, Cp=g.Cp @ T, Cv=g.Cv @ T)
        if not self.strict and W is None and is_passive(small, g, T):
            return small
        try:
            check_stable(Free.first(small, f).moving(small) if f else small.to_dense())
        except UnstableError as error:
            why = f"the reduced second-order system with {k} positions must be stable, but {error}"
            if self.strict:
                raise UnstableError(
                    f"{why}: balancing of second-order systems does not keep stability; try another number of positions or "
                    "balancing, or galerkin=True where M, D and K are Hermitian"
                ) from None
            warn_caller(why.replace("must be stable, but", "is not stable:"), InstabilityWarning)
        return small
