"""Changes of state coordinates: the one that a cut makes, as moments and averages need it, and coefficients in eigenvectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Complex = NDArray[np.complex128]


@dataclass(frozen=True)
class Change:
    r"""The change of state coordinates of a diagonal reduction, in stored states (host, complex128).

    :math:`x \approx V_1z + V_2\bar z` and :math:`z = W_1x + W_2\bar x`; the second terms are zero unless the system is
    conjugate.  Shapes (..., n, r) and (..., r, n).

    Examples
    --------
    >>> import balred
    >>> g = balred.testing.random_system(16, dt=1, kind="conjugate", seed=0)
    >>> change = balred.analyze(g).reduction(4).change
    >>> change.V1.shape, change.W1.shape
    ((16, 4), (4, 16))
    """

    V1: Complex
    V2: Complex
    W1: Complex
    W2: Complex

    def within(self, d: NDArray[Any] | None) -> Change:
        """The same change if the states are d x instead of x."""
        if d is None:
            return self
        return Change(d[:, None] * self.V1, d[:, None] * self.V2, self.W1 / d, self.W2 / d)


def coefficients(poles: NDArray[Any], vectors: Complex, x: NDArray[Any]) -> NDArray[Any]:
    """Coefficients of the columns of `x` in eigenvectors; for a real matrix and real `x` conjugate to the last digit.

    Nearly parallel eigenvectors leave few digits of a coefficient; that all of them together stand for `x` does not
    survive when the one of a pair is replaced by the conjugate of the other, unless it is that already.
    """
    if np.iscomplexobj(x) or not np.iscomplexobj(poles):
        return np.linalg.solve(vectors, x)
    up, down = (poles.imag > 0)[..., None, :], (poles.imag < 0)[..., None, :]  # in turns
    root = 2**0.5
    y = np.linalg.solve(np.where(up, root * vectors.real, np.where(down, root * vectors.imag, vectors.real)), x)
    up, down = up.swapaxes(-1, -2), down.swapaxes(-1, -2)
    first, second = (y + 1j * np.roll(y, -1, axis=-2)) / root, (np.roll(y, 1, axis=-2) - 1j * y) / root
    return np.where(up, first, np.where(down, second, y))
