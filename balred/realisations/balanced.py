"""Balanced realisations: the coordinates in which both Gramians are equal and diagonal, and the way there and back."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from balred.hankel.projections import projected
from balred.hankel.spectrum import spectrum
from balred.ranks.bounds import numerical_rank
from balred.registry.reading import system_of
from balred.systems.arrays import Array, double_precision
from balred.systems.dense_system import DenseSystem
from balred.systems.leaves import alike, at_hand, cast_like, with_leaves
from balred.systems.poles import check_stored


class Balanced(NamedTuple):
    """A balanced realisation: the system, its Hankel singular values, and T with x_balanced = T x.

    Examples
    --------
    >>> import balred
    >>> system, hsv, T, Tinv = balred.balance(balred.testing.random_system(4, seed=0))
    >>> system.order, bool((hsv[:-1] >= hsv[1:]).all())
    (4, True)
    """

    system: DenseSystem
    hsv: Array
    T: Array
    Tinv: Array


def balance(obj: Any, *, solver: str | None = None) -> Balanced:
    r"""Balanced realisation: both Gramians equal :math:`\mathrm{diag}(\sigma_1, \dots, \sigma_n)`.

    .. math:: TPT^H = T^{-H}QT^{-1} = \Sigma, \qquad (TAT^{-1},\ TB,\ CT^{-1},\ D)

    Parameters
    ----------
    obj : system, layer, or anything :func:`balred.adapt` reads
    solver : str, optional

    Returns
    -------
    Balanced
        ``system`` (dense; real of order 2n for a conjugate system), ``hsv``, ``T`` (x_balanced = T x), ``Tinv``.
        The largest entry of each row of the balanced B is positive.

    Raises
    ------
    ValueError
        The system is not minimal to working precision, so T does not exist.
    UnstableError
        A pole is unstable or marginal.

    References
    ----------
    B. C. Moore, Principal component analysis in linear systems, IEEE Trans. Automat. Control 26 (1981).

    Examples
    --------
    >>> import balred
    >>> b = balred.balance(balred.ss([[-1.0, 0.0], [1.0, -2.0]], [[1.0], [0.0]], [[0.0, 1.0]]))
    >>> P, Q = balred.gramians(b.system)
    >>> bool(abs(P - Q).max() < 1e-12)
    True
    """
    original = system_of(obj)
    check_stored(original)
    work = at_hand(original)
    with double_precision(*work.leaves) as leaves:
        sized, d = alike(with_leaves(work, leaves))
        sp = spectrum(sized, solver)
        n = sp.system.order
        rank = int(np.min(numerical_rank(sp.sigma)))
        if rank == 0 < n:
            raise ValueError(
                "a balanced realisation needs a minimal system, got one whose Hankel singular values are zero, or too small to be numbers: "
                "measure inputs or outputs in other units"
            )
        if rank < n:
            raise ValueError(
                f"a balanced realisation needs a minimal system, got numerical rank {rank} of {n}: reduce it to {rank} states"
            )
        g, L, R = projected(sp, n)
        if d is not None:
            L, R = L / d, R * d
        narrow = with_leaves(g, tuple(cast_like(x, original) for x in g.leaves))
        assert isinstance(narrow, DenseSystem)
        return Balanced(narrow, cast_like(sp.s, original), cast_like(L, original), cast_like(R, original))
