"""What is left of a Lyapunov equation when a factor is put into it, told by a few vectors: a check that costs next to nothing."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from balred.systems import arrays
from balred.systems.arrays import Array, ct, fro, namespace

_ROOTS = 1.0, 2**0.5, 3**0.5, 5**0.5


def residual(A: Array, B: Array, C: Array, Zp: Array, Zq: Array, *, discrete: bool) -> Array:
    r"""How far factors are from solving their Lyapunov equations, beside the sizes of its terms, shape (...).

    .. math::
        \frac{\|(AP+PA^H+BB^H)x\|}{(2\|A\|\|Z_p\|^2+\|B\|^2)\|x\|}, \qquad
        \frac{\|(APA^H-P+BB^H)x\|}{((1+\|A\|^2)\|Z_p\|^2+\|B\|^2)\|x\|}

    with :math:`P=Z_pZ_p^H` and a vector x without pattern, in continuous and in discrete time, or the same of
    :math:`A^H, C^H` and :math:`Z_q` where that is larger.
    """
    xp = namespace(A)
    x = vectors(A, 2)[:, 1:] / int(A.shape[-1]) ** 0.5
    AH, size = ct(A), fro(A)
    Ax, AHx = A @ x, AH @ x

    def side(A: Array, Ax: Array, AHx: Array, B: Array, Z: Array) -> tuple[Array, Array]:
        ZH = ct(Z)
        P, other = Z @ (ZH @ x), Z @ (ZH @ AHx)
        rest, weight = (A @ other - P, 1 + size * size) if discrete else (A @ P + other, 2 * size)
        square, right = fro(Z), fro(B)
        return fro(rest + B @ (ct(B) @ x)), weight * square * square + right * right

    sides = side(A, Ax, AHx, B, Zp), side(AH, AHx, Ax, ct(C), Zq)
    if isinstance(A, np.ndarray) and A.ndim == 2:
        return np.maximum(*(rest / (scale or 1.0) for rest, scale in sides))
    return xp.maximum(*(rest / xp.where(scale > 0, scale, xp.ones_like(scale)) for rest, scale in sides))


def vectors(A: Array, count: int) -> Array:
    """Up to four vectors without pattern, the same every time, in the kind of `A`, shape (n, count)."""
    n = int(A.shape[-1])
    if isinstance(A, np.ndarray):
        return _on_host(n, count, A.dtype)
    xp = namespace(A)
    at = xp.arange(n, dtype=arrays.real(A).dtype, device=arrays.device_of(A))
    return xp.astype(xp.stack([xp.cos(root * at * at) for root in _ROOTS[:count]], axis=-1), A.dtype)


@functools.lru_cache(maxsize=64)
def _on_host(n: int, count: int, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    at = np.arange(n, dtype=np.float64)
    x = np.stack([np.cos(root * at * at) for root in _ROOTS[:count]], axis=-1).astype(dtype)
    x.flags.writeable = False
    return x
