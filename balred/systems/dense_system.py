"""Systems with a full state matrix, and what all systems share: a kind of time, and a ``repr`` of one line.

The factories :func:`balred.ss` and :func:`balred.diagonal` validate; the dataclasses do not, so that ``vmap``, ``jit`` and
tree maps may put tracers or placeholders into them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from balred.ranks.shown import facts_html
from balred.systems.arrays import Array, eye, namespace, to_complex
from balred.systems.checks import as_matrix, checked, checked_dt


def is_discrete(dt: float | bool) -> bool:
    """Whether `dt` says discrete time: ``True`` (unspecified step) or a positive step in seconds."""
    return dt is True or (dt is not False and dt > 0)


@dataclass(frozen=True, eq=False, repr=False)
class DenseSystem:
    r"""A system with a full state matrix, or a batch of them in the leading axes.

    .. math:: \dot x = A x + B u,\quad y = C x + D u \qquad\text{or}\qquad x_{k+1} = A x_k + B u_k

    Attributes
    ----------
    A : array, shape (..., n, n)
    B : array, shape (..., n, m)
    C : array, shape (..., p, n)
    D : array, shape (..., p, m)
    dt : float or bool
        0 for continuous time, the step in seconds (> 0) or ``True`` for discrete time.

    Examples
    --------
    >>> import balred
    >>> g = balred.ss([[-1.0, 0.0], [0.0, -2.0]], [[1.0], [1.0]], [[1.0, 1.0]])
    >>> g.order, g.discrete, float(g(0)[0, 0].real)
    (2, False, 1.5)
    """

    A: Array
    B: Array
    C: Array
    D: Array
    dt: float | bool = 0

    @property
    def order(self) -> int:
        """Number of states n."""
        return int(self.A.shape[-1])

    @property
    def states(self) -> int:
        """The number of states that a rank counts: here the order."""
        return self.order

    @property
    def leaves(self) -> tuple[Array, Array, Array]:
        """The arrays that Hankel singular values depend on."""
        return self.A, self.B, self.C

    @property
    def discrete(self) -> bool:
        """Whether the system is discrete in time."""
        return is_discrete(self.dt)

    def to_dense(self) -> DenseSystem:
        """Return the system itself."""
        return self

    def __call__(self, s: complex) -> Array:
        """Transfer function ``C (sI - A)^-1 B + D`` at the complex point `s` (or z), shape (..., p, m)."""
        xp = namespace(self.A)
        A, B, C, D = (to_complex(a) for a in (self.A, self.B, self.C, self.D))
        return C @ xp.linalg.solve(s * eye(A, self.order) - A, B) + D

    def __repr__(self) -> str:
        return describe(self)

    def _repr_html_(self) -> str:
        """The same as a table, for notebooks."""
        return facts_html(repr(self))


def describe(sys: Any) -> str:
    """What a system of either kind prints."""
    B, C = sys.B, sys.C
    if not hasattr(B, "shape"):
        return f"{type(sys).__name__}(<{type(B).__name__}>)"
    batch = tuple(B.shape[:-2])
    time = f"dt={sys.dt}" if sys.discrete else "continuous"
    kind = ", conjugate" if getattr(sys, "conjugate", False) else ""
    library = type(B).__module__.partition(".")[0]
    return (
        f"{type(sys).__name__}(states={sys.states}, inputs={B.shape[-1]}, outputs={C.shape[-2]}, {time}{kind}"
        f"{f', batch={batch}' if batch else ''}, {str(B.dtype).removeprefix('torch.')}, {library})"
    )


def ss(A: Any, B: Any, C: Any, D: Any = None, dt: float | bool = 0) -> DenseSystem:
    """Make a dense system from its matrices, and check them.

    Parameters
    ----------
    A : array_like, shape (..., n, n)
    B : array_like, shape (..., n, m)
    C : array_like, shape (..., p, n)
    D : array_like, shape (..., p, m), optional
        Zero if omitted.
    dt : float or bool, default 0
        0: continuous time; a step in seconds, or True for an unspecified one: discrete time.

    Returns
    -------
    DenseSystem
        Of the array library, dtype and device of the data; lists become NumPy arrays.  With n = 0 a static gain.

    Raises
    ------
    ValueError
        Shapes do not fit, no inputs or no outputs, a value is NaN, infinite or masked, `dt` is negative, devices differ.
    TypeError
        An entry is not a number, or has more digits than float64; arrays come from different libraries.

    Examples
    --------
    >>> import balred
    >>> balred.ss([[-1.0, 1.0], [0.0, -2.0]], [[0.0], [1.0]], [[1.0, 0.0]])
    DenseSystem(states=2, inputs=1, outputs=1, continuous, float64, numpy)
    >>> balred.ss(-1, 1, 1).states  # a number is a matrix of one entry
    1
    """
    A, B, C = (as_matrix(*named) for named in (("A", A), ("B", B), ("C", C)))
    if A.ndim < 2 or A.shape[-1] != A.shape[-2]:
        raise ValueError(f"A must have shape (..., n, n), got {tuple(A.shape)}")
    return DenseSystem(*checked(("A", "B", "C", "D"), A, B, C, D, int(A.shape[-1])), dt=checked_dt(dt))
