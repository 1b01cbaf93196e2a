r"""Does the ranking of states settle early in training?  Metrics along a sequence of checkpoints.

CompreSSM cuts after about a tenth of the training because, by Weyl's inequality, one step moves each Hankel singular
value only a little, and because in practice the order and the energy of the tail settle by then (arXiv 2510.02823,
section 4).  That is a claim about a given training, and this module lets it be seen and tested.

Checkpoints are systems in the same stored coordinates (a layer before and after a step), or their spectra, which may be those along data
(:func:`balred.hankel.spectrum.spectrum_of` two factors).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.hankel.projections import projections
from balred.hankel.spectrum import Spectrum, spectrum
from balred.hankel.values import hsv
from balred.ranks.bounds import numerical_rank
from balred.ranks.choosing import choose_order
from balred.ranks.rules import Rule
from balred.registry.reading import system_of
from balred.systems.arrays import backend, ct, double_precision, mapped, to_numpy
from balred.systems.leaves import with_leaves
from balred.systems.parts import difference
from balred.systems.units import Coordinates

Floats = NDArray[np.float64]


def rank_correlation(before: Any, after: Any, kind: str = "kendall") -> float:
    r"""Rank-order correlation of the importance of the same states at two checkpoints.

    Kendall's :math:`\tau = (\text{concordant}-\text{discordant})/\tbinom n2` over pairs (ties count for neither), or
    Spearman's :math:`\rho`, the linear correlation of the ranks.

    Parameters
    ----------
    before, after : array_like, shape (n,)
        Importance of each state.  Entry i must be the same state in both.  Sorted spectra do not satisfy this; use :func:`track`.
    kind : {"kendall", "spearman"}, default "kendall"

    Returns
    -------
    float
        In [-1, 1]; 1 for the same order.

    References
    ----------
    M. G. Kendall, A new measure of rank correlation, Biometrika 30 (1938); C. Spearman (1904).

    Examples
    --------
    >>> rank_correlation([3.0, 2.0, 1.0], [9.0, 5.0, 7.0])
    0.3333333333333333
    """
    x, y = (np.asarray(v, dtype=np.float64) for v in (before, after))
    if x.ndim != 1 or x.shape != y.shape or len(x) < 2:
        raise ValueError(
            f"before and after must be vectors of one length of at least 2, got shapes {x.shape} and {y.shape}"
        )
    if kind == "kendall":
        i, j = np.triu_indices(len(x), 1)
        return float(np.mean(np.sign(x[i] - x[j]) * np.sign(y[i] - y[j])))
    if kind == "spearman":
        a, b = (_ranks(v) for v in (x, y))
        a, b = a - a.mean(), b - b.mean()
        norm = np.sqrt(np.sum(a**2) * np.sum(b**2))
        return float(np.sum(a * b) / norm) if norm > 0 else 0.0
    raise ValueError(f"kind must be 'kendall' or 'spearman', got {kind!r}")


def _ranks(x: Floats) -> Floats:
    """Ranks with ties averaged."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[inverse])


def rank_drift(spectra: Sequence[Any], rule: Rule) -> NDArray[np.int64]:
    """The order that `rule` would choose at each checkpoint, shape (T,).

    Examples
    --------
    >>> import balred
    >>> rank_drift([[4.0, 4.0, 4.0], [8.0, 1.0, 0.1]], balred.Energy(0.9))
    array([3, 2])
    """
    return np.array([choose_order(rule, np.asarray(s, dtype=np.float64)) for s in spectra], dtype=np.int64)


def tail_energy(hsv: Any, order: int, squared: bool = False) -> float:
    r"""Share of the energy beyond `order`, :math:`\sum_{i>r}\sigma_i / \sum_i\sigma_i` (or of the squares).

    Examples
    --------
    >>> tail_energy([3.0, 1.0], 1)
    0.25
    """
    s = np.sort(np.asarray(hsv, dtype=np.float64))[::-1] ** (2 if squared else 1)
    total = float(np.sum(s))
    return float(np.sum(s[order:])) / total if total > 0 else 0.0


def principal_angles(a: Any, b: Any, rank: int) -> tuple[Floats, Floats]:
    r"""Angles between the dominant balanced subspaces of two checkpoints, in radians, ascending.

    :math:`\cos\theta_i = \mathrm{svd}(Q_a^HQ_b)_i` with orthonormal bases of :math:`\mathrm{span}(Z_pV_1)` (the first
    result, controllable directions) and of :math:`\mathrm{span}(Z_qU_1)` (the second, observable directions).

    Parameters
    ----------
    a, b : system or layer
        In the same coordinates.
    rank : int
        Dimension of the subspaces, in order of the real operator.

    References
    ----------
    A. Bjorck and G. H. Golub, Numerical methods for computing angles between linear subspaces, Math. Comp. 27 (1973);
    small angles from the sine, as there.

    Examples
    --------
    >>> import balred
    >>> sys = balred.testing.random_system(6, seed=0)
    >>> bool(principal_angles(sys, sys, 3)[0].max() < 1e-12)
    True
    """
    sa, sb = _spectrum(a), _spectrum(b)
    n = sa.system.order
    if sb.system.order != n:
        raise ValueError(f"checkpoints must have the same order, got {n} and {sb.system.order}")
    if not 1 <= rank <= n:
        raise ValueError(f"rank must be between 1 and {n}, got {rank}")
    out = []
    for za, zb in (((sa.Zp, sa.V), (sb.Zp, sb.V)), ((sa.Zq, sa.U), (sb.Zq, sb.U))):
        qa, qb = (np.linalg.qr(to_numpy(z @ v[..., :, :rank]))[0] for z, v in (za, zb))
        cosine = np.clip(np.linalg.svd(qa.conj().T @ qb, compute_uv=False), 0, 1)
        sine = np.clip(np.linalg.svd(qb - qa @ (qa.conj().T @ qb), compute_uv=False)[::-1], 0, 1)
        out.append(np.where(cosine**2 < 0.5, np.arccos(cosine), np.arcsin(sine)))
    return out[0], out[1]


def weyl_bound(a: Any, b: Any, kind: str = "hankel") -> float:
    r"""Bound on the change of every Hankel singular value between two checkpoints.

    ``"hankel"``: :math:`|\sigma_i(a)-\sigma_i(b)| \le \|G_a-G_b\|_H`, Weyl's inequality for singular values of the
    Hankel operators; independent of coordinates.  ``"gramian"``: the largest absolute eigenvalue of
    :math:`H_a-H_b` with :math:`H = (P^{1/2}QP^{1/2})^{1/2}`, whose eigenvalues the HSVs are (CompreSSM, section 4);
    needs the same coordinates.

    Examples
    --------
    >>> import balred
    >>> a, b = balred.ss([[-1.0]], [[1.0]], [[1.0]]), balred.ss([[-1.0]], [[1.0]], [[3.0]])
    >>> round(weyl_bound(a, b), 6)  # 1.5 - 0.5
    1.0
    """
    if kind == "hankel":
        return float(to_numpy(hsv(difference(system_of(a), system_of(b))))[0])
    if kind == "gramian":
        Ha, Hb = (_geometric(_spectrum(x)) for x in (a, b))
        return float(np.abs(np.linalg.eigvalsh(Ha - Hb)).max())
    raise ValueError(f"kind must be 'hankel' or 'gramian', got {kind!r}")


def _spectrum(obj: Any) -> Spectrum:
    """The spectrum in the coordinates that were given: those of two checkpoints are compared, whatever units each was solved in."""
    if isinstance(obj, Spectrum):
        Zp, Zq = obj.coordinates.factors(obj.Zp, obj.Zq)
        return obj._replace(Zp=Zp, Zq=Zq, coordinates=Coordinates(None))
    system = mapped(system_of(obj), to_numpy)  # small questions, answered on the host
    with double_precision(*system.leaves) as leaves:
        given = with_leaves(system, leaves)
        sp = spectrum(given, None)
        Zp, Zq = sp.coordinates.factors(sp.Zp, sp.Zq)
        return sp._replace(system=given.to_dense(), Zp=Zp, Zq=Zq, coordinates=Coordinates(None))


def _geometric(sp: Spectrum) -> NDArray[Any]:
    """(P^1/2 Q P^1/2)^1/2 on the host, from the factors: with Zp = U S V^H, P^1/2 = U S U^H."""
    U, s, _ = np.linalg.svd(to_numpy(sp.Zp), full_matrices=False)
    root = (U * s) @ U.conj().T
    _, sigma, V = np.linalg.svd(to_numpy(ct(sp.Zq)) @ root)
    V = V[: len(sigma)]
    return np.asarray((V.conj().T * sigma) @ V)


def track(systems: Sequence[Any]) -> Floats:
    r"""Hankel singular values by state, followed through crossings along checkpoints, shape (T, n).

    Column i starts as the i-th largest value of the first checkpoint.  From one checkpoint to the next, balanced
    states are matched so that the product of overlaps :math:`|l_i^{(t)} r_j^{(t+1)}|\,|l_j^{(t+1)} r_i^{(t)}|` is largest
    in sum (linear assignment), with l and r the rows and columns of the balancing transformation and its inverse.
    Values beyond the smallest numerical rank along the way are left out.

    Parameters
    ----------
    systems : sequence of systems, layers, or :class:`balred.hankel.spectrum.Spectrum`
        In the same coordinates; spectra are followed with the factors that they have, such as those of means along data.

    Examples
    --------
    >>> import balred
    >>> a = balred.diagonal([-1.0, -2.0], B=[[1.0], [1.0]], C=[[3.0, 1.0]])
    >>> track([a, a]).shape
    (2, 2)
    """
    spectra = [_spectrum(x) for x in systems]
    orders = {sp.system.order for sp in spectra}
    if len(orders) != 1:
        raise ValueError(f"checkpoints must have one order, got {sorted(orders)}")
    n = min(int(numerical_rank(sp.sigma)) for sp in spectra)
    maps = [tuple(to_numpy(x) for x in projections(sp, n)) for sp in spectra]
    order = np.arange(n)
    rows = [spectra[0].sigma[:n]]
    for (La, Ra), (Lb, Rb), sp in zip(maps[:-1], maps[1:], spectra[1:], strict=True):
        overlap = np.abs(La @ Rb) * np.abs(Lb @ Ra).T
        order = backend("scipy").assignment(-np.minimum(overlap, 1.0))[order]
        rows.append(sp.sigma[order])
    return np.array(rows)


def settled(
    choices: Sequence[int] | NDArray[np.int64], steps: Sequence[int] | None = None, tolerance: float = 0.05
) -> int | None:
    """The first step from which the chosen rank no longer moves.

    Parameters
    ----------
    choices : sequence of int, length T
        The rank chosen at each checkpoint (:func:`rank_drift`).
    steps : sequence of int, optional
        Training steps of the checkpoints; by default their indices.
    tolerance : float, default 0.05
        Moves within this share of the final choice (or by one state) do not count.

    Returns
    -------
    int or None
        None if the choice still moved at the last checkpoint.

    Examples
    --------
    >>> settled([90, 40, 21, 20, 20], steps=[0, 100, 200, 300, 400])
    200
    """
    values = np.asarray(choices)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"choices must be a non-empty sequence, got shape {values.shape}")
    at = np.arange(len(values)) if steps is None else np.asarray(steps)
    if at.shape != values.shape:
        raise ValueError(f"steps must be as many as choices, got {len(at)} and {len(values)}")
    moved = np.abs(values - values[-1]) > max(1.0, tolerance * abs(float(values[-1])))
    first = int(np.max(np.flatnonzero(moved), initial=-1)) + 1
    return None if first == len(values) - 1 and len(values) > 1 else int(at[first])


@dataclass(frozen=True)
class Trace:
    """Every metric along a training; arrays between checkpoints have one entry less than `steps`."""

    steps: NDArray[np.int64]
    ranks: NDArray[np.int64]
    kendall: Floats
    spearman: Floats
    change: Floats
    weyl: Floats
    angle: Floats
    tail: Floats
    settled: int | None


def trace(steps: Sequence[int], systems: Sequence[Any], rule: Rule) -> Trace:
    """All metrics of one layer along checkpoints `systems` taken at `steps`.

    `kendall` and `spearman` compare the tracked values of each checkpoint with those of the last one; `change` is the
    largest move of a sorted value since the previous checkpoint and `weyl` its bound (Hankel norm of the
    difference); `angle` is the largest principal angle (controllable side) between the dominant subspaces of
    neighbours, of the dimension finally chosen; `tail` is the energy beyond that dimension.

    Examples
    --------
    >>> import balred
    >>> sys = balred.testing.random_system(6, seed=0)
    >>> trace([0, 1, 2], [sys, sys, sys], balred.Energy(0.9)).settled
    0
    """
    if len(steps) != len(systems) or len(steps) < 2:
        raise ValueError(f"steps and systems must be as many, at least 2, got {len(steps)} and {len(systems)}")
    spectra = [_spectrum(s).sigma for s in systems]
    ranks = rank_drift(spectra, rule)
    tracked = track(systems)
    pairs = list(itertools.pairwise(systems))
    final = int(ranks[-1])
    alone = tracked.shape[1] < 2
    return Trace(
        np.asarray(steps),
        ranks,
        np.array([1.0 if alone else rank_correlation(row, tracked[-1], "kendall") for row in tracked]),
        np.array([1.0 if alone else rank_correlation(row, tracked[-1], "spearman") for row in tracked]),
        np.array([float(np.abs(x - y).max()) for x, y in itertools.pairwise(spectra)]),
        np.array([weyl_bound(a, b) for a, b in pairs]),
        np.array([float(principal_angles(a, b, final)[0].max()) for a, b in pairs]),
        np.array([tail_energy(s, final) for s in spectra]),
        settled(ranks, steps),
    )
