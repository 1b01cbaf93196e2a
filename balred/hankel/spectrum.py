r"""The singular value decomposition from which everything else is read: of the product of two Gramian factors.

With :math:`Z_q^H Z_p = U \Sigma V^H`, :math:`\Sigma` holds the Hankel singular values, and the columns of :math:`Z_p V_1` and
:math:`Z_q U_1` span the dominant controllable and observable directions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from balred.ranks.bounds import EQUAL, numerical_rank
from balred.solvers.gramians import solved
from balred.systems.arrays import Array, backend, backend_of, ct, is_concrete, to_numpy
from balred.systems.checks import check_representable
from balred.systems.dense_system import DenseSystem
from balred.systems.leaves import System
from balred.systems.units import Coordinates


class Spectrum(NamedTuple):
    """A pair of Gramian factors of a dense system and the singular value decomposition of their product."""

    system: DenseSystem
    Zp: Array
    Zq: Array
    U: Array
    s: Array
    V: Array
    match_dc: bool = False
    """Whether singular perturbation, not truncation, is to follow."""
    bounding: bool = False
    """Whether the Gramians are the system's own, so that twice the tail bounds the error."""
    coordinates: Coordinates = Coordinates(None)
    """How the states of `system` stand for those of the system that was given."""
    unit: float = 1.0
    """What Zp, and so s, is measured in: with recorded inputs the size of the signals, which may have no square."""
    rounding: float = 2.0**-52
    """The relative error of the entries that were given, to which those of a result will be rounded."""

    @property
    def sigma(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Hankel singular values on the host, padded with zeros to the order, shape (..., n)."""
        s = to_numpy(self.s)
        return pad(s if self.unit == 1.0 else s * self.unit, self.system.order)

    @property
    def cap(self) -> int:
        """The numerical rank, largest over a batch: beyond it projections divide by rounding errors."""
        ranks = numerical_rank(pad(to_numpy(self.s), self.system.order))
        return int(ranks.max(initial=0) if ranks.ndim else ranks)

    def closed(self, k: int) -> int:
        """The least order of at least `k` that keeps together what belongs together: any one does."""
        return k


@dataclass(frozen=True)
class OfSpectrum:
    """What a state that holds a spectrum and more has of it: what rules read, and the numerical rank."""

    spectrum: Spectrum

    @property
    def sigma(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The values of the spectrum."""
        return self.spectrum.sigma

    @property
    def cap(self) -> int:
        """Their numerical rank."""
        return self.spectrum.cap

    def closed(self, k: int) -> int:
        """`k` itself: no values belong together."""
        return self.spectrum.closed(k)


def pad(s: np.ndarray[Any, Any], n: int) -> np.ndarray[Any, Any]:
    """`s` followed by zeros up to length `n`."""
    if s.shape[-1] == n:
        return s
    return np.concatenate([s[..., :n], np.zeros((*s.shape[:-1], max(n - s.shape[-1], 0)), s.dtype)], axis=-1)


def hankel_matrix(Zp: Array, Zq: Array, product: Array | None = None) -> Array:
    """``Zq^H Zp`` (or that `product`), whose singular values are the Hankel ones; an error where they are no numbers."""
    product = ct(Zq) @ Zp if product is None else product
    check_representable("Hankel singular values", product)  # LAPACK would never end
    return product


def spectrum(system: System, solver: str | None) -> Spectrum:
    """Solve for the factors of `system` (in its own precision) and decompose their product, in the solver's coordinates."""
    system, Zp, Zq, at, product = solved(system, solver)
    return spectrum_of(system.to_dense(), Zp, Zq, product=product, bounding=True, coordinates=at)


def spectrum_of(system: DenseSystem, Zp: Array, Zq: Array, *, product: Array | None = None, **known: Any) -> Spectrum:
    """The spectrum for a given pair of Gramian factors, whichever Gramians they are of, and for their `product` if it is there.

    What else is `known` of it goes by the names that :class:`Spectrum` has for it.

    Examples
    --------
    >>> import balred
    >>> from balred.hankel.spectrum import spectrum_of
    >>> g = balred.ss(np.diag([-1.0, -2.0]), np.ones((2, 1)), np.ones((1, 2)))
    >>> spectrum_of(g, *balred.gramian_factors(g)).sigma.round(6)
    array([0.731, 0.019])
    """
    U, s, Vh = decomposed(backend_of(Zp, Zq).svd, Zp, Zq, product)
    return parted(Spectrum(system, Zp, Zq, U, s, ct(Vh), **known))


def decomposed(function: Callable[[Array], Any], Zp: Array, Zq: Array, product: Array | None) -> Any:
    """What a `function` of one array makes of the product of two factors, of a batch piece by piece."""
    be, batch = backend_of(Zp), tuple(Zp.shape[:-2])
    if product is None:
        return be.over_batch(lambda Zq, Zp: function(hankel_matrix(Zp, Zq)), batch, Zq, Zp)
    return be.over_batch(lambda product: function(hankel_matrix(Zp, Zq, product)), batch, product)


def parted(sp: Spectrum, within: Any = EQUAL) -> Spectrum:
    r"""`sp` with such coordinates among equal values that every order which parts them leaves stable poles on both sides.

    Any orthonormal ones are singular vectors.  In those of a Schur form of their part :math:`A_{gg}` of the balanced system, the
    states kept of it and those cut have its poles, or the real part of a pair.  In others a lossless system (a delay by Padé, a
    notch, a mode seen as a velocity) is truncated to integrators, or has no steady state.

    Equal are values that follow each other `within` a part of themselves, which may be another for each member of a batch.

    References
    ----------
    L. Pernebo and L. M. Silverman, Model reduction via balanced state space representations, IEEE Trans. Automat. Control 27
    (1982), theorem 3.2: only modes within a group of equal values that is parted can come out on the boundary of stability.
    """
    be = backend_of(sp.s)
    if not is_concrete(sp.s) or sp.s.shape[-1] < 2:
        return sp
    s = to_numpy(be.stop_gradient(sp.s))
    eps = float(np.finfo(s.dtype).eps)
    alive = s[..., 1:] > sp.system.order * eps * s[..., :1]
    equal = alive & (s[..., 1:] >= s[..., :-1] * (1 - np.maximum(within, 4 * eps)))
    if not equal.any():
        return sp
    A, Zp, Zq, U, V = (to_numpy(be.stop_gradient(x)) for x in (sp.system.A, sp.Zp, sp.Zq, sp.U, sp.V))
    A, Zp, Zq, U, V = (np.broadcast_to(x, (*s.shape[:-1], *x.shape[-2:])) for x in (A, Zp, Zq, U, V))
    Q = np.zeros((*s.shape, s.shape[-1]), U.dtype) + np.eye(s.shape[-1], dtype=U.dtype)
    for i in map(tuple, np.argwhere(equal.any(axis=-1))):
        ends = np.flatnonzero(~np.concatenate([equal[i], [False]])) + 1
        for first, end in zip([0, *ends[:-1]], ends, strict=True):
            if end > first + 1:
                here = slice(first, end)
                root = np.sqrt(s[i][here])
                own = (ct(Zq[i] @ U[i][:, here]) @ A[i] @ (Zp[i] @ V[i][:, here])) / root[:, None] / root
                Q[i][here, here] = backend("scipy").schur(own)[1]
    Q = be.from_numpy(Q, like=sp.U, real=not np.iscomplexobj(Q))
    return sp._replace(U=sp.U[..., :, : s.shape[-1]] @ Q, V=sp.V[..., :, : s.shape[-1]] @ Q)
