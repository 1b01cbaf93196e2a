r"""Modal truncation: some of a system's own poles, unchanged.

Balancing moves the poles.  Where they mean something (a resonance with a name, a time constant that was measured) the
ones that matter are kept as they are and the others are dropped: the transfer function is a sum over the poles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from balred.hankel.projections import signed
from balred.hankel.spectrum import spectrum
from balred.measures.norms import norm
from balred.methods.method import Reduced
from balred.systems.arrays import backend
from balred.systems.dense_system import DenseSystem
from balred.systems.poles import check_stable, continuous_poles

Matrix = NDArray[Any]
Floats = NDArray[np.float64]
Measure: TypeAlias = str | Callable[[Matrix, Matrix], Any]
_WORST = float(np.finfo(np.float64).eps ** -0.5)
"""Modes whose coordinates have a larger condition number are not told apart."""


@dataclass(frozen=True)
class Modes:
    """A system in block-diagonal coordinates, one block for each group of poles, the most dominant first."""

    system: DenseSystem
    modal: DenseSystem
    L: Matrix
    R: Matrix
    sizes: NDArray[np.intp]
    """Of the blocks: 1, 2 for a conjugate pair, more for poles that no well-conditioned coordinates separate."""
    sigma: Floats
    """Scores, one for each pole; those of a group are the same."""
    peaks: Floats
    """Bound of the H-infinity norm of each group, which is the error of dropping it."""
    match_dc: bool

    @property
    def cap(self) -> int:
        """The order: every pole can be kept."""
        return self.system.order

    def closed(self, k: int) -> int:
        """The least order of at least `k` that keeps every group together."""
        ends = np.cumsum(self.sizes)
        return int(ends[np.searchsorted(ends, k)])


def modes(
    system: DenseSystem,
    solver: str | None = None,
    *,
    dominance: Measure = "residue",
    target: complex | None = None,
    match_dc: bool = False,
) -> Modes:
    r"""Modal truncation: the most dominant poles of the system stay as they are.

    With :math:`G(s) = D + \sum_i R_i/(s-\lambda_i)` the dominance of a pole is

    ============= =====================================================================================
    "residue"     :math:`\|R_i\|_2/|\mathrm{Re}\,\lambda_i|`, discrete :math:`\|R_i\|_2/(1-|\lambda_i|)`:
                  its largest gain
    "h2"          :math:`\|R_i\|_F/\sqrt{2|\mathrm{Re}\,\lambda_i|}`, discrete
                  :math:`\|R_i\|_F/\sqrt{1-|\lambda_i|^2}`: its H2 norm
    "slow"        its time constant :math:`1/|\mathrm{Re}\,s_i|`
    "frequency"   :math:`1/|s_i-t|`, how near it is to a `target` t (0 by default) or its conjugate
    ============= =====================================================================================

    with :math:`s_i=\lambda_i` in continuous and :math:`s_i=\log(\lambda_i)/dt` in discrete time.

    Parameters
    ----------
    dominance : {"residue", "h2", "slow", "frequency"} or callable, default "residue"
        A callable takes the poles (n,) and their residues (n, p, m) and returns n scores, finite and not negative.
    target : complex, optional
        For "frequency" only; in rad/s in discrete time too (of one step if it is unspecified).
    match_dc : bool, default False
        The modes dropped are kept at their steady state: :math:`D_k = D + \sum_{i>k} R_i/(s_0-\lambda_i)` with
        :math:`s_0=0`, or 1 in discrete time.

    Notes
    -----
    The coordinates come from the Schur form, block by block.  Poles that only coordinates of a condition number beyond
    :math:`\varepsilon^{-1/2}` would separate (a Jordan block, say) form one group: it is kept or dropped as one, and
    its largest gain is bounded by twice the sum of its Hankel singular values.  To a callable they are given with their
    mean pole and their mean residue.

    References
    ----------
    E. J. Davison, A method for simplifying linear dynamic systems, IEEE Trans. Automat. Control 11 (1966);
    A. Varga, Enhanced modal approach for model reduction, Math. Modelling of Systems 1 (1995);
    C. A. Bavely and G. W. Stewart, An algorithm for computing reducing subspaces by block diagonalization, SIAM J.
    Numer. Anal. 16 (1979) (SLICOT MB03RD).
    """
    _check_measure(dominance, target)
    check_stable(system)  # a pole by itself would be known better than it is
    L, R, A, sizes = _block_diagonal(system)
    B, C = L @ system.B, system.C @ R
    check_stable(DenseSystem(A, B, C, system.D, system.dt))  # in coordinates that show what rounding can do to groups
    ends = np.cumsum(sizes)
    blocks = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    groups = [_Group(A[g, g], B[g], C[:, g], system.dt) for g in blocks]
    scores = _scores(dominance, target, groups)
    first = np.argsort(-scores, kind="stable")
    index = np.concatenate([np.arange(len(A))[blocks[j]] for j in first])
    S, Sinv = signed(np.eye(len(A)), np.eye(len(A)), B[index])  # signs (phases) that make results repeat
    modal = DenseSystem(S @ A[np.ix_(index, index)] @ Sinv, S @ B[index], C[:, index] @ Sinv, system.D, system.dt)
    return Modes(
        system, modal, S @ L[index], R[:, index] @ Sinv, sizes[first], np.repeat(scores[first], sizes[first]),
        np.array([groups[j].gain(match_dc) for j in first]), match_dc,
    )  # fmt: skip


def _block_diagonal(system: DenseSystem) -> tuple[Matrix, Matrix, Matrix, NDArray[np.intp]]:
    """L, R, A = L (system.A) R block diagonal, and the sizes of its blocks; inputs and outputs of each are alike in norm."""
    limit, cond = _WORST, np.inf
    while not cond < _WORST:
        R, L, A, sizes, cond = backend("scipy").block_diagonal_form(system.A, limit)
        limit /= 8  # splits that are harmless one by one were not so together
    B, C = L @ system.B, system.C @ R
    scale, end = np.ones(len(A)), 0
    for size in sizes:
        here, end = slice(end, end + size), end + size
        b, c = np.linalg.norm(B[here]), np.linalg.norm(C[:, here])
        if _is_pair(A[here, here]):
            scale[end - 1] = abs(A[end - 1, end - 2] / A[end - 2, end - 1]) ** 0.5  # a normal 2 x 2 block
            b = np.linalg.norm(B[here] / scale[here, None])
            c = np.linalg.norm(C[:, here] * scale[here])
        if b > 0 and c > 0:
            scale[here] *= (b / c) ** 0.5
    return L / scale[:, None], R * scale, A / scale[:, None] * scale, np.array(sizes)


def _is_pair(A: Matrix) -> bool:
    """Whether a block of the real Schur form is a conjugate pair, far enough from a double real pole."""
    if len(A) != 2 or np.iscomplexobj(A) or A[1, 0] == 0:
        return False
    return bool(1 / _WORST < abs(A[0, 1] / A[1, 0]) < _WORST)


class _Group:
    """A block of the block-diagonal form, with its poles and their residues (its mean ones if they are not simple)."""

    def __init__(self, A: Matrix, B: Matrix, C: Matrix, dt: float | bool) -> None:
        size = len(A)
        self.system = DenseSystem(A, B, C, np.zeros((len(C), B.shape[1]), B.dtype), dt)
        self.simple = size == 1 or _is_pair(A)
        self.poles = np.full(size, np.trace(A) / size, np.complex128)
        self.residues = np.repeat((C @ B / size)[None].astype(np.complex128), size, axis=0)
        if self.simple and size == 2:
            # the eigenvectors of [[a, w], [-w, a]] are (1, i) and (1, -i), of poles a + iw and a - iw
            w = abs(A[0, 1] * A[1, 0]) ** 0.5 * np.sign(A[0, 1])
            for j, i in enumerate((1j, -1j)):
                self.poles[j] += i * w
                self.residues[j] = (C[:, :1] + i * C[:, 1:]) @ (B[:1] - i * B[1:]) / 2

    def gain(self, match_dc: bool = False) -> float:
        """A bound of the largest gain, or of the largest distance from the steady gain."""
        if not self.simple:
            return float(2 * spectrum(self.system, None).sigma.sum())
        size = np.linalg.norm(self.residues, 2, axis=(1, 2))
        if not self.system.discrete:
            # 1/(s - p) maps the axis to a circle through 0, of diameter 1/|Re p|: as far from any of its points
            return float(np.sum(size / -self.poles.real))
        r = np.abs(self.poles)
        return float(np.sum(size / (1 - r) * (2 / (1 + r) if match_dc else 1)))

    def h2(self) -> float:
        """The H2 norm of each mode, or the group's if each were alike and they did not overlap."""
        if not self.simple:
            return float(norm(self.system, "h2") / np.sqrt(len(self.poles)))
        pole = self.poles[0]
        decay = 1 - abs(pole) ** 2 if self.system.discrete else -2 * pole.real
        unit = float(np.abs(self.residues).max()) or 1.0  # squares of residues may be no numbers
        return float(unit * np.linalg.norm(self.residues / unit, axis=(1, 2)).max() / decay**0.5)


def _check_measure(dominance: Measure, target: complex | None) -> None:
    names = ("residue", "h2", "slow", "frequency")
    if not callable(dominance) and dominance not in names:
        raise ValueError(f"dominance must be one of {', '.join(names)} or a callable, got {dominance!r}")
    if target is not None and dominance != "frequency":
        raise ValueError(f"a target needs dominance 'frequency', got {dominance!r}")
    if target is not None and not np.isfinite(target):
        raise ValueError(f"target must be a finite number, got {target!r}")


def _scores(dominance: Measure, target: complex | None, groups: list[_Group]) -> Floats:
    """A score for each group."""
    if dominance == "residue":
        return np.array([g.gain() / len(g.poles) for g in groups])
    if dominance == "h2":
        return np.array([g.h2() for g in groups])
    poles = np.concatenate([g.poles for g in groups])
    if callable(dominance):
        each = np.asarray(dominance(poles, np.concatenate([g.residues for g in groups])))
        if each.shape != poles.shape or not np.isrealobj(each) or not np.all(np.isfinite(each) & (each >= 0)):
            given = np.array2string(each, threshold=8)
            raise ValueError(f"dominance must return {len(poles)} finite scores that are not negative, got {given}")
    else:
        each = _places(dominance == "slow", target, continuous_poles(poles, groups[0].system.dt))
    starts = np.cumsum([0, *(len(g.poles) for g in groups[:-1])])
    return np.maximum.reduceat(each.astype(np.float64), starts)


def _places(slow: bool, target: complex | None, s: Matrix) -> Floats:
    if slow:
        return np.asarray(-1 / s.real)
    distance = np.abs(s - (target or 0.0))
    # a pole on the target itself is the first, not infinitely far ahead
    return np.asarray(1 / np.maximum(distance, distance[np.isfinite(distance)].max(initial=1e-300) / _WORST))


def modal(state: Modes, k: int) -> Reduced:
    r"""Modal truncation: the k most dominant poles as they are, the others dropped or kept at their steady state.

    A conjugate pair (and any other group) that does not fit into k whole is dropped.

    References
    ----------
    E. J. Davison (1966); with ``match_dc`` S. A. Marshall, An approximate method for reducing the order of a linear
    system, Control 10 (1966).
    """
    kept = _kept(state, k)
    if kept == 0 < k:
        size = int(state.sizes[0])
        what = "a conjugate pair" if size == 2 and _is_pair(state.modal.A[:2, :2]) else (
            f"a group of {size}, which only coordinates with a condition number beyond {_WORST:.3g} can separate"
        )  # fmt: skip
        pole = complex(np.linalg.eigvals(state.modal.A[:size, :size])[0])
        raise ValueError(f"rank must be at least {size}, got {k}: the most dominant poles (at {pole:.4g}) are {what}")
    g, n = state.modal, int(state.sizes[:kept].sum())
    if n == g.order:
        return state.system, np.eye(n), np.eye(n)
    D = g.D
    if state.match_dc:
        rest = g.A[n:, n:]
        D = D + g.C[:, n:] @ np.linalg.solve(float(g.discrete) * np.eye(len(rest)) - rest, g.B[n:])
    return DenseSystem(g.A[:n, :n], g.B[:n], g.C[:, :n], D, g.dt), state.L[:n], state.R[:, :n]


def _kept(state: Modes, k: int) -> int:
    """How many groups fit into k states, none after one that does not."""
    return int(np.searchsorted(np.cumsum(state.sizes), k, side="right"))


def modal_bound(state: Modes, k: int) -> Floats:
    r""":math:`\sum\|R_i\|_2/|\mathrm{Re}\,\lambda_i|` over the poles dropped.

    In discrete time :math:`\|R_i\|_2/(1-|\lambda_i|)`, with ``match_dc`` :math:`2\|R_i\|_2/(1-|\lambda_i|^2)`; of a
    group of poles that are not simple twice the sum of its Hankel singular values.
    """
    return np.asarray(state.peaks[_kept(state, k) :].sum())
