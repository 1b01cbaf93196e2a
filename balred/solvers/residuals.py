"""What is left of a Lyapunov equation when a factor is put into it, told by a few vectors: a check that costs next to nothing."""

from __future__ import annotations

from balred.systems import arrays
from balred.systems.arrays import Array, ct, fro, namespace


def residual(A: Array, B: Array, C: Array, Zp: Array, Zq: Array, *, discrete: bool) -> Array:
    r"""How far factors are from solving their Lyapunov equations, beside the sizes of its terms, shape (...).

    .. math::
        \frac{\|(AP+PA^H+BB^H)x\|}{(2\|A\|\|Z_p\|^2+\|B\|^2)\|x\|}, \qquad
        \frac{\|(APA^H-P+BB^H)x\|}{((1+\|A\|^2)\|Z_p\|^2+\|B\|^2)\|x\|}

    with :math:`P=Z_pZ_p^H` and a vector x without pattern, in continuous and in discrete time, or the same of
    :math:`A^H, C^H` and :math:`Z_q` where that is larger.
    """
    xp = namespace(A)
    n = int(A.shape[-1])
    at = xp.arange(n, dtype=arrays.real(A).dtype, device=arrays.device_of(A))
    x = xp.astype(xp.cos(2**0.5 * at * at) / n**0.5, A.dtype)[:, None]
    AH, size = ct(A), fro(A)

    def side(A: Array, AH: Array, B: Array, Z: Array) -> Array:
        ZH = ct(Z)
        P = Z @ (ZH @ x)
        if discrete:
            rest, weight = A @ (Z @ (ZH @ (AH @ x))) - P, 1 + size * size
        else:
            rest, weight = A @ P + Z @ (ZH @ (AH @ x)), 2 * size
        rest = rest + B @ (ct(B) @ x)
        square, right = fro(Z), fro(B)
        scale = weight * square * square + right * right
        return fro(rest) / xp.where(scale > 0, scale, xp.ones_like(scale))

    return xp.maximum(side(A, AH, B, Zp), side(AH, A, ct(C), Zq))
