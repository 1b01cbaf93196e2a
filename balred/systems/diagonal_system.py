"""Systems with diagonal A, as the layers of neural networks hold them: poles as logarithms, conjugate halves."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from balred.ranks.shown import facts_html
from balred.systems.arrays import Array, eye, is_complex, is_floating, namespace, to_complex
from balred.systems.checks import as_array, check_finite, checked, checked_dt, of_kind
from balred.systems.dense_system import DenseSystem, describe, is_discrete


@dataclass(frozen=True, eq=False, repr=False)
class DiagonalSystem:
    r"""A system with a diagonal state matrix, or a batch of them in the leading axes.

    With ``conjugate=True`` every stored state stands for itself and its complex conjugate: the operator is real,
    of order 2n,

    .. math:: x^+ = \lambda \odot x + B u, \qquad y = 2\,\mathrm{Re}(C x) + D u,

    which is what LRU (with C/2), S4D, S5 and DSS layers apply.

    Attributes
    ----------
    log_poles : array, shape (..., n)
        Logarithms of the poles in discrete time, the poles themselves in continuous time.  Logarithms because
        :math:`1-|\lambda|^2` near the unit circle loses its digits otherwise.
    B : array, shape (..., n, m)
    C : array, shape (..., p, n)
    D : array, shape (..., p, m)
    dt : float or bool
    conjugate : bool

    Examples
    --------
    >>> import numpy as np, balred
    >>> poles = np.array([-0.1 + 1j])
    >>> g = balred.diagonal(log_poles=poles, B=np.ones((1, 1)), C=np.ones((1, 1)), dt=True, conjugate=True)
    >>> g.states, g.order  # a pole and its conjugate
    (1, 2)
    """

    log_poles: Array
    B: Array
    C: Array
    D: Array
    dt: float | bool = 0
    conjugate: bool = False

    @property
    def states(self) -> int:
        """The number of states that a rank counts: the stored states n."""
        return int(self.log_poles.shape[-1])

    @property
    def order(self) -> int:
        """Order of the operator: 2n for a conjugate system, n otherwise."""
        return (2 if self.conjugate else 1) * self.states

    @property
    def leaves(self) -> tuple[Array, Array, Array]:
        """The arrays that Hankel singular values depend on."""
        return self.log_poles, self.B, self.C

    @property
    def discrete(self) -> bool:
        """Whether the system is discrete in time."""
        return is_discrete(self.dt)

    @property
    def poles(self) -> Array:
        """The stored poles, shape (..., n)."""
        return namespace(self.log_poles).exp(self.log_poles) if self.discrete else self.log_poles

    def doubled(self) -> DiagonalSystem:
        """For a conjugate system, the same operator with both halves stored: (λ, λ̄), (B, B̄), (C, C̄)."""
        if not self.conjugate:
            return self
        xp = namespace(self.B)
        l, B, C = (to_complex(a) for a in self.leaves)
        return dataclasses.replace(
            self,
            log_poles=xp.concat([l, xp.conj(l)], axis=-1),
            B=xp.concat([B, xp.conj(B)], axis=-2),
            C=xp.concat([C, xp.conj(C)], axis=-1),
            conjugate=False,
        )

    def to_dense(self) -> DenseSystem:
        r"""The same operator with a full state matrix.

        A conjugate system becomes real, in the coordinates :math:`\sqrt2\,(\mathrm{Re}\,x, \mathrm{Im}\,x)`, to
        which :math:`(x, \bar x)` is mapped by a unitary matrix, so that Gramians keep their norms.
        """
        xp = namespace(self.B)
        n = self.states
        poles = self.poles
        I = eye(xp.real(poles) if is_complex(poles) else poles, n)
        if not self.conjugate:
            A = poles[..., :, None] * I
            return DenseSystem(A, self.B, self.C, self.D, self.dt)
        poles, B, C = (to_complex(a) for a in (poles, self.B, self.C))
        re, im = xp.real(poles)[..., :, None] * I, xp.imag(poles)[..., :, None] * I
        A = xp.concat([xp.concat([re, -im], axis=-1), xp.concat([im, re], axis=-1)], axis=-2)
        r2 = 2.0**0.5
        return DenseSystem(
            A,
            r2 * xp.concat([xp.real(B), xp.imag(B)], axis=-2),
            r2 * xp.concat([xp.real(C), -xp.imag(C)], axis=-1),
            self.D,
            self.dt,
        )

    def __call__(self, s: complex) -> Array:
        """Transfer function at the complex point `s` (or z), shape (..., p, m)."""
        g = self.doubled()
        poles, B, C, D = (to_complex(a) for a in (g.poles, g.B, g.C, g.D))
        return C @ (B / (s - poles)[..., :, None]) + D

    def __repr__(self) -> str:
        return describe(self)

    def _repr_html_(self) -> str:
        """The same as a table, for notebooks."""
        return facts_html(repr(self))


def diagonal(
    poles: Any = None,
    B: Any = None,
    C: Any = None,
    D: Any = None,
    dt: float | bool = 0,
    *,
    log_poles: Any = None,
    conjugate: bool = False,
) -> DiagonalSystem:
    r"""Make a diagonal system from its poles, and check it.

    Parameters
    ----------
    poles : array_like, shape (..., n), optional
        The poles; in discrete time a pole at zero is kept as the smallest positive number.
    B : array_like, shape (..., n, m)
    C : array_like, shape (..., p, n)
    D : array_like, shape (..., p, m), optional
        Zero if omitted; real for a conjugate system.
    dt : float or bool, default 0
    log_poles : array_like, shape (..., n), optional
        In place of `poles`: their logarithms in discrete time, the poles themselves in continuous time.
    conjugate : bool, default False
        Every stored state stands for itself and its conjugate, :math:`y = 2\,\mathrm{Re}(Cx) + Du`.

    Returns
    -------
    DiagonalSystem

    Raises
    ------
    ValueError
        Shapes do not fit, no inputs or no outputs, a value is NaN, infinite or masked, `dt` is negative, devices differ; both
        or neither of `poles` and `log_poles` are given.
    TypeError
        An entry is not a number, or has more digits than float64; arrays come from different libraries.

    Examples
    --------
    >>> import balred
    >>> balred.diagonal([0.9 + 0.2j, 0.5 + 0.1j], B=[[1.0], [1.0]], C=[[1.0, 2.0]], dt=1, conjugate=True)
    DiagonalSystem(states=2, inputs=1, outputs=1, dt=1, conjugate, complex128, numpy)
    """
    if (poles is None) == (log_poles is None):
        raise ValueError(
            "exactly one of poles and log_poles must be given, got " + ("neither" if poles is None else "both")
        )
    if B is None or C is None:
        raise ValueError(
            f"B and C must be given, got B={'None' if B is None else 'set'}, C={'None' if C is None else 'set'}"
        )
    dt = checked_dt(dt)
    name = "poles" if log_poles is None else "log_poles"
    given = poles if log_poles is None else log_poles
    p, B, C = (as_array(*named) for named in ((name, given), ("B", B), ("C", C)))
    if p.ndim < 1:
        raise ValueError(f"{name} must have shape (..., n), got a scalar")
    if log_poles is None and is_discrete(dt) and is_floating(p):
        xp = namespace(p)
        check_finite(name, p)
        p = to_complex(p)
        p = xp.log(xp.where(p == 0, xp.full_like(p, float(xp.finfo(p.dtype).tiny)), p))
    of_kind("conjugate", conjugate, "bool")
    p, B, C, D = checked((name, "B", "C", "D"), p, B, C, D, int(p.shape[-1]), real_D=conjugate)
    return DiagonalSystem(p, to_complex(B) if conjugate else B, to_complex(C) if conjugate else C, D, dt, conjugate)
