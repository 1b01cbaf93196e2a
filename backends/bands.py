"""Band factors of ``A + pE`` for many p: chains and rods, whose states stand in a line.

LAPACK's band solver, with partial pivoting, is several times quicker there than any general sparse factorisation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.csgraph
from numpy.typing import NDArray

Array = NDArray[Any]


class Bands:
    """The places of all entries of ``A + pE`` in a band, in the order of reverse Cuthill and McKee.

    Attributes
    ----------
    below, above : int
        Diagonals below and above the main one.
    """

    def __init__(self, A: Any, E: Any) -> None:
        pattern = scipy.sparse.csr_array(abs(A) + abs(E))
        self.order = scipy.sparse.csgraph.reverse_cuthill_mckee((pattern + pattern.T).tocsr(), symmetric_mode=True)
        place = np.empty(len(self.order), np.int64)
        place[self.order] = np.arange(len(self.order))
        found = [(place[M.row], place[M.col], M.data) for M in (A.tocoo(), E.tocoo())]
        self.below = max((int((i - j).max()) for i, j, x in found if len(x)), default=0)
        self.above = max((int((j - i).max()) for i, j, x in found if len(x)), default=0)
        self.below, self.above = max(self.below, 0), max(self.above, 0)
        self._rows = 2 * self.below + self.above + 1
        self._A, self._E = ((self.below + self.above + i - j + self._rows * j, x) for i, j, x in found)

    def factor(self, p: complex) -> BandFactors | None:
        """Factors of ``A + pE``; None where it is singular."""
        dtype = np.result_type(self._A[1], self._E[1], np.complex128 if isinstance(p, complex) else np.float64)
        flat = np.zeros(self._rows * len(self.order), dtype)
        flat[self._A[0]] = self._A[1]
        flat[self._E[0]] += p * self._E[1]
        (gbtrf,) = scipy.linalg.get_lapack_funcs(("gbtrf",), dtype=dtype)
        band, pivots, failed = gbtrf(flat.reshape(-1, self._rows).T, self.below, self.above, overwrite_ab=1)
        return None if failed else BandFactors(self, band, pivots)


class BandFactors:
    """LU factors of one matrix of a family."""

    def __init__(self, bands: Bands, band: Array, pivots: Array) -> None:
        self._bands, self._band, self._pivots = bands, band, pivots

    def solve(self, B: Array, trans: str = "N") -> Array:
        """Solve with the matrix ("N"), its transpose ("T") or its adjoint ("H")."""
        b = self._bands
        right = np.asarray(B[b.order], np.result_type(B, self._band))
        if right.dtype != self._band.dtype:  # complex columns, real factors: their parts one by one
            return self.solve(B.real, trans) + 1j * self.solve(B.imag, trans)
        (gbtrs,) = scipy.linalg.get_lapack_funcs(("gbtrs",), dtype=right.dtype)
        x, _ = gbtrs(self._band, b.below, b.above, right, self._pivots, trans="NTH".index(trans))
        out: Array = np.empty_like(x)
        out[b.order] = x
        return out
