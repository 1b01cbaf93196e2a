"""SLICOT through slycot: the second reference for Gramian factors, by Hammarling's method (``solver="slycot"``).

Only SB03OD is called.  slycot 0.7.1 allocates too little workspace for AB09AD, AB09AX and AB09MD with job 'N' and
for AB09BD with any job, and so corrupts the heap; those routines are not to be used from here.

Examples
--------
>>> import numpy as np
>>> from balred.backends import slycot as backend
>>> Zp, Zq = backend.gramian_factors(np.diag([-1.0, -2.0]), np.ones((2, 1)), np.ones((1, 2)), discrete=False)
>>> np.linalg.svd(Zq.T @ Zp, compute_uv=False).round(4)
array([0.731, 0.019])
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    import slycot
except ModuleNotFoundError as error:  # pragma: no cover - tested in a process without slycot
    raise ModuleNotFoundError("slycot is not installed: pip install 'balred[slycot]'") from error

Array = NDArray[Any]


def gramian_factors(A: Array, B: Array, C: Array, discrete: bool) -> tuple[Array, Array]:
    """Triangular Gramian factors of a stable real system from SB03OD.

    SB03OD solves ``op(A)' X + X op(A) = -s^2 op(B)' op(B)`` (or ``op(A)' X op(A) - X``) for the Cholesky factor of
    ``X = op(U)' op(U)``; ``trans='T'`` gives P = U U', ``trans='N'`` gives Q = U' U.
    """
    if any(np.iscomplexobj(x) for x in (A, B, C)):
        raise TypeError("solver 'slycot' takes real systems, got a complex one: use the default solver")
    n = A.shape[0]
    dico = "D" if discrete else "C"

    def solve(Z: Array, trans: str) -> Array:
        if Z.shape[1] > n:  # the wrapper takes at most n columns, and any square root of Z Z' will do
            Z = np.asarray(np.linalg.qr(Z.T, mode="r")).T
        work = np.zeros((n, n), order="F")
        work[:, : Z.shape[1]] = Z
        work = work if trans == "T" else np.asfortranarray(work.T)
        U, scale, _ = slycot.sb03od(n, n, A.copy(order="F"), np.zeros((n, n), order="F"), work, dico, trans=trans)
        return np.asarray(np.triu(np.asarray(U)[:n, :n]) / scale)

    return solve(B, "T"), solve(C.T, "N").T
