r"""Positions without stiffness, of which balancing keeps every one: rigid bodies, and what only friction holds.

Where :math:`K\Phi = 0`, a system of second order has poles at zero and no Gramians.  Rigid bodies, with :math:`D\Phi = 0` too, stand
beside the rest (:func:`rigid_and_flexible`).  A cart or a motor with friction to the ground does not: its momentum and what friction has
taken of it, :math:`\Phi^H(Dq+M\dot q)`, are what a force has added up, and the other positions and all velocities move on without
knowing where it is (:class:`Free`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.realisations.second_order.system import (
    SecondOrderSystem,
    even_condition,
    in_first_order,
    is_hermitian,
    solved_evenly,
)
from balred.systems.dense_system import DenseSystem
from balred.systems.parts import block_diagonal

Matrix = NDArray[Any]
_EPS = float(np.finfo(np.float64).eps)


def rigid_and_flexible(g: SecondOrderSystem) -> tuple[SecondOrderSystem, SecondOrderSystem] | None:
    r"""Rigid bodies of unit mass and what is left beside them, of a dense system with Hermitian matrices; None without them.

    Where :math:`K\Phi = D\Phi = 0`, positions :math:`q = \Phi q_1+\Psi q_2` with :math:`\Phi^HM\Psi = 0` do not drive each other.
    """
    if g.sparse or not g.hermitian:
        return None
    even = g.evened()[0]
    sizes = [float(np.linalg.norm(X)) or 1.0 for X in (even.K, even.D)]
    _, s, Vh = np.linalg.svd(np.concatenate([even.K / sizes[0], even.D / sizes[1]]))
    rank = int(np.sum(s > 16 * g.states * _EPS))
    Phi = Vh[rank:].conj().T
    if rank == g.states or not np.linalg.eigvalsh(Phi.conj().T @ even.M @ Phi)[0] > 0:
        return None
    if not all(_is_rounding(X, Phi, Phi) for X in (even.K, even.D)):
        return None  # springs that are soft beside others, but springs
    Psi = np.linalg.qr(even.M @ Phi, mode="complete")[0][:, g.states - rank :]
    Phi = Phi @ np.linalg.inv(np.linalg.cholesky(Phi.conj().T @ even.M @ Phi)).conj().T
    Phi = Phi * phases(Phi.conj().T @ even.B)
    rigid, flexible = (_seen_in(even, T) for T in (Phi, Psi))
    nothing = np.zeros_like(rigid.M)
    return replace(rigid, M=nothing + np.eye(len(nothing)), D=nothing, K=nothing), flexible


def _is_rounding(X: Matrix, left: Matrix, right: Matrix) -> bool:
    """Whether the energies of displacements are no more than rounding errors of the terms that they are sums of."""
    energy, terms = np.abs(left.conj().T @ X @ right), np.abs(left).T @ np.abs(X) @ np.abs(right)
    return bool((energy <= 16 * len(X) * _EPS * terms).all())


def _seen_in(g: SecondOrderSystem, T: Matrix) -> SecondOrderSystem:
    """`g` for positions q = T q', tested with T: Hermitian as it is."""
    M, D, K = (T.conj().T @ X @ T for X in (g.M, g.D, g.K))
    M, D, K = ((X + X.conj().T) / 2 for X in (M, D, K))
    return replace(g, M=M, D=D, K=K, B=T.conj().T @ g.B, Cp=g.Cp @ T, Cv=g.Cv @ T)


def beside(a: SecondOrderSystem, b: SecondOrderSystem) -> SecondOrderSystem:
    """Two systems with inputs and outputs in common: the sum of their responses."""
    M, D, K = (block_diagonal(X, Y) for X, Y in ((a.M, b.M), (a.D, b.D), (a.K, b.K)))
    Cp, Cv = (np.concatenate(pair, axis=1) for pair in ((a.Cp, b.Cp), (a.Cv, b.Cv)))
    return replace(b, M=M, D=D, K=K, B=np.concatenate([a.B, b.B]), Cp=Cp, Cv=Cv)


@dataclass(frozen=True, eq=False)
class Free:
    r"""Positions without stiffness whose friction makes one pole at zero of each.

    Attributes
    ----------
    right, left : array, shape (n, f)
        Orthonormal bases of the null spaces, :math:`K\Phi = 0` and :math:`\Phi_l^HK = 0`.
    rest : array, shape (n, n - f)
        :math:`\Psi`, an orthonormal basis of what is left beside `right`.
    """

    right: Matrix
    left: Matrix
    rest: Matrix

    @classmethod
    def first(cls, g: SecondOrderSystem, f: int) -> Free:
        """The first `f` positions of a system whose K has nothing in their rows and columns."""
        eye = np.eye(g.states)
        return cls(eye[:, :f], eye[:, :f], eye[:, f:])

    @property
    def count(self) -> int:
        """f."""
        return int(self.right.shape[1])

    def moving(self, g: SecondOrderSystem) -> DenseSystem:
        r"""The stable part of `g`, of first order, in the other positions and all velocities, :math:`(\Psi^Hq, \dot q)`.

        .. math:: G(s) = C_p\Phi X\Phi_l^HB/s + G_s(s),\quad X = (\Phi_l^HD\Phi)^{-1}

        The position along :math:`\Phi` is :math:`X\Phi_l^H(p - D\Psi\Psi^Hq - M\dot q)` with the momentum :math:`p' = \Phi_l^HBu`.
        """
        friction = self.left.conj().T @ g.D @ self.right
        held = solved_evenly(friction, self.left.conj().T @ np.concatenate([g.D @ self.rest, g.M], axis=1))
        first = in_first_order(g, self.rest)
        return replace(first, C=first.C - (g.Cp @ self.right) @ held)

    def apart(self, g: SecondOrderSystem, left: Matrix, right: Matrix) -> tuple[Matrix, Matrix]:
        """Vectors of tests and of positions without what M couples to the free positions."""
        to_right, to_left = self.left.conj().T @ g.M, self.right.conj().T @ g.M.conj().T
        return (
            left - self.left @ solved_evenly(to_left @ self.left, to_left @ left),
            right - self.right @ solved_evenly(to_right @ self.right, to_right @ right),
        )


def free_positions(g: SecondOrderSystem) -> Free | None:
    """Those of a dense system in even units; None where there are none, or friction does not hold all of them."""
    if g.sparse:
        return None
    left, right, rest = _null_spaces(g.K)
    if not right.shape[1]:
        return None
    free = Free(right, right if is_hermitian(g.K) else left, rest)
    held = (free.left.conj().T @ X @ free.right for X in (g.M, g.D))
    return free if all(even_condition(X) < 1 / (16 * g.states * _EPS) for X in held) else None


def stiffless(K: Matrix) -> int:
    """The dimension of the null space of a stiffness matrix in even units, but for rounding of the entries; 0 where these tell more."""
    return int(_null_spaces(K)[1].shape[1])


def _null_spaces(K: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """Orthonormal bases of the null spaces on the left and on the right, and of what is left beside the latter."""
    U, s, Vh = np.linalg.svd(K)
    r = int(np.sum(s > 16 * len(K) * _EPS * s[0]))
    left, right = U[:, r:], Vh[r:].conj().T
    if not _is_rounding(K, left, right):  # springs that are soft beside others, but springs
        r = len(K)
    return left[:, : len(K) - r], right[:, : len(K) - r], Vh[:r].conj().T


def is_passive(small: SecondOrderSystem, g: SecondOrderSystem, T: Matrix) -> bool:
    """Whether the energy of `g` projected with T never grows: M > 0 and K >= 0 Hermitian, D + D^H >= 0, but for rounding of their terms."""
    if not (is_hermitian(small.M) and is_hermitian(small.K) and np.linalg.eigvalsh(small.M)[0] > 0):
        return False
    return all(
        np.linalg.eigvalsh(X + X.conj().T)[0] >= -32 * g.states * _EPS * (np.abs(T).T @ (abs(Y) @ np.abs(T))).max()
        for X, Y in ((small.K, g.K), (small.D, g.D))
    )


def phases(B: Matrix) -> Matrix:
    """Phases that make the largest entry of each row positive, so that results repeat."""
    largest = np.take_along_axis(B, np.argmax(np.abs(B), axis=1)[:, None], axis=1)[:, 0]
    return np.where(largest != 0, largest / np.where(largest != 0, np.abs(largest), 1), 1.0)
