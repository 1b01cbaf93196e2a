r"""Gramians along data: what the states of a layer do while real signals run through it, in place of white noise.

Gramians assume that every input is white and that every direction of the output matters alike.  Inside a network neither
holds, and what holds can be measured: the inputs of a layer, and the gradient of what is wanted of the model at its outputs.
For inputs u and gradients w

.. math:: x_t = Ax_{t-1} + Bu_t, \qquad g_t = A^Hg_{t+1} + C^Hw_t

and the means of :math:`xx^H` and :math:`gg^H` take the places of P and Q.  For white signals of unit variance they converge to
the Gramians.  Sums are all that is kept, so memory does not depend on how many data there are.

S. E. Otto, A. Padovan and C. W. Rowley, Model reduction for nonlinear systems by balanced truncation of state and gradient
covariance (arXiv 2207.14387); C. W. Rowley, Model reduction for fluids, using balanced proper orthogonal decomposition, Int.
J. Bifurcation Chaos 15 (2005); D. F. Enns, Model reduction with balanced realizations, CDC 1984 (weights on either side).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.layers.scans import matrix_scan, scan
from balred.systems import arrays
from balred.systems.arrays import Array, backend_of, in_precision, is_complex, namespace, to_complex, to_numpy
from balred.systems.diagonal_system import DiagonalSystem
from balred.systems.leaves import System, with_leaves

Matrix = NDArray[Any]

_BYTES = 192 << 20
"""Held by states at a time where nobody says otherwise: sequences times positions times states, so that long sequences are cut as well."""
_OF_A_NUMBER = 48
"""Bytes that a number of a state takes with what is computed on the way to it."""


@dataclass(frozen=True, eq=False)
class DataSums:
    r"""Sums of :math:`xx^H` and :math:`gg^H` over positions, in the coordinates of ``system.to_dense()``, on the host.

    Attributes
    ----------
    P : array, shape (..., order, order)
        Of the states.
    Q : array, shape (..., order, order), or None
        Of the gradients with respect to them; None where only inputs were seen.
    positions : float
        How many positions were counted.
    predictions : float
        How many of the model's predictions the gradients belong to; 0 where there are none.
    length : int
        The longest sequence.

    Examples
    --------
    >>> import numpy as np
    >>> one = DataSums(P=np.eye(2), Q=None, positions=10, length=10)
    >>> both = one + one
    >>> both.P.tolist(), both.positions, both.length
    ([[2.0, 0.0], [0.0, 2.0]], 20, 10)
    """

    P: Matrix
    Q: Matrix | None
    positions: float
    predictions: float = 0.0
    length: int = 0

    def __add__(self, other: DataSums) -> DataSums:
        Q = None if self.Q is None or other.Q is None else self.Q + other.Q
        return DataSums(
            self.P + other.P,
            Q,
            self.positions + other.positions,
            self.predictions + other.predictions,
            max(self.length, other.length),
        )

    def of(self, predictions: float) -> DataSums:
        """The same sums, their gradients those of so many predictions."""
        return replace(self, predictions=predictions)


def stacked_sums(members: Sequence[DataSums]) -> DataSums:
    """The sums of a stack of layers from those of its members, which saw as many positions each.

    Examples
    --------
    >>> import numpy as np
    >>> one = DataSums(P=np.eye(2), Q=None, positions=10, length=10)
    >>> stacked_sums([one, one, one]).P.shape
    (3, 2, 2)
    """
    Q = [one.Q for one in members if one.Q is not None]
    return replace(
        members[0],
        P=np.stack([one.P for one in members]),
        Q=np.stack(Q) if len(Q) == len(members) else None,
        length=max(one.length for one in members),
    )


def data_sums(
    system: System,
    u: Array,
    w: Array | Sequence[Array] | None = None,
    mask: Array | None = None,
    *,
    max_bytes: int | None = None,
) -> DataSums:
    r"""The sums of one batch of sequences, from rest.

    Parameters
    ----------
    system : DenseSystem or DiagonalSystem
        In discrete time, or a batch of them.
    u : array, shape (..., sequences, length, inputs)
        The leading axes are those of the batch of systems.
    w : array, shape (..., sequences, length, outputs), or several, optional
        Gradients at the outputs, of the output at the same time as the state; of several scalars their squares add up.
    mask : array, shape (sequences, length), optional
        Weights of the positions, zero where there is padding: it moves the states as it does in the model, and counts in
        no sum.
    max_bytes : int, optional
        The most memory for the states and the sums (192 MiB by default), as far as one position of one sequence fits into it.

    Returns
    -------
    DataSums
        Computed in double precision.

    Raises
    ------
    ValueError
        The system is continuous in time; a shape does not fit; a sum is not finite.

    Notes
    -----
    The direct term plays no part, nor does it matter whether the output sees the present state or the one before.

    Examples
    --------
    >>> import balred
    >>> sums = data_sums(balred.ss([[0.5]], [[1.0]], [[1.0]], dt=1), np.array([[[1.0], [0.0]]]), np.array([[[0.0], [1.0]]]))
    >>> sums.P.tolist(), sums.Q.tolist()  # x = 1, 0.5 and g = 0.5, 1
    ([[1.25]], [[1.25]])
    """
    if not system.discrete:
        raise ValueError(f"data run in steps, so the system must be discrete in time, got {system!r}")
    batch = tuple(int(k) for k in system.B.shape[:-2])
    several: list[Array] = [] if w is None else [w] if hasattr(w, "shape") else list(w)
    for name, signal, width in (("u", u, system.B.shape[-1]), *(("w", x, system.C.shape[-2]) for x in several)):
        if signal.shape[:-3] != batch or signal.shape[-1] != width or signal.shape[-3:-1] != u.shape[-3:-1]:
            want = f"({', '.join(map(str, (*batch, *u.shape[-3:-1], int(width))))})"
            raise ValueError(f"{name} must have shape {want}, got {tuple(signal.shape)}")
    count, length = (int(k) for k in u.shape[-3:-1])
    if mask is not None and tuple(mask.shape) != (count, length):
        raise ValueError(f"mask must have shape {(count, length)}, got {tuple(mask.shape)}")
    weights = None if mask is None else to_numpy(mask).astype(np.float64)
    Q: Any = 0.0 if several else None
    system = arrays.mapped(system, backend_of(*system.leaves).stop_gradient)
    with in_precision("float64", *system.leaves) as leaves:
        precise, backward = with_leaves(system, leaves), _reversed(with_leaves(system, leaves))
        P = _squares_along(precise, u, weights, max_bytes)
        for x in several:
            flipped = namespace(x).flip(x, axis=-2)
            turned = None if weights is None else np.flip(weights, axis=1)
            Q = Q + _squares_along(backward, flipped, turned, max_bytes)
    for name, x in (("states", P), ("gradients", Q)):
        if x is not None and not np.isfinite(x).all():
            raise ValueError(f"the {name} along the data must be finite, got NaN or infinity: their sums have no value")
    return DataSums(P, Q, float(count * length if weights is None else weights.sum()), length=length)


def horizon_sums(system: System, horizon: int) -> DataSums:
    r"""The Gramians over a horizon of steps, :math:`\sum_{k<K}A^kBB^HA^{kH}` and its dual, which unstable systems have too.

    Examples
    --------
    >>> import balred
    >>> horizon_sums(balred.ss([[2.0]], [[1.0]], [[1.0]], dt=1), 3).P.tolist()
    [[21.0]]
    """
    batch = tuple(system.B.shape[:-2])

    def impulses(width: int, at: int) -> Array:
        x = np.zeros((*batch, width, horizon, width))
        x[..., np.arange(width), at, np.arange(width)] = 1
        return x

    host = arrays.mapped(system, to_numpy)
    return data_sums(host, impulses(system.B.shape[-1], 0), impulses(system.C.shape[-2], -1))


def factor_of(P: Matrix) -> Matrix:
    r"""Z with :math:`P = ZZ^H` up to rounding, for sums (..., n, n), in units of state that give each the same size.

    A sum of squares holds half of the digits of a factor; what is below them is left out.
    """
    d = np.sqrt(np.maximum(np.diagonal(P, axis1=-2, axis2=-1).real, 0))
    safe = np.where(d > 0, d, 1.0)
    values, vectors = np.linalg.eigh(P / (safe[..., :, None] * safe[..., None, :]))
    least = P.shape[-1] * np.finfo(np.float64).eps * values[..., -1:]
    roots = np.sqrt(np.where(values > least, values, 0.0))
    return np.asarray(d[..., :, None] * vectors * roots[..., None, :])


def _reversed(system: System) -> System:
    """The system that runs backwards along gradients."""
    first, B, C = (arrays.ct(x) if x.ndim > 1 else x for x in system.leaves)
    if not isinstance(system, DiagonalSystem):
        return replace(system, A=first, B=C, C=B)
    poles = system.log_poles
    poles = namespace(poles).conj(poles) if is_complex(poles) else poles
    return replace(system, log_poles=poles, B=C, C=B)


def states_along(system: System, u: Array, before: Array | None = None) -> Array:
    """The states (..., sequences, length, order) on inputs (..., sequences, length, inputs), in dense coordinates.

    They begin at rest, or after the states `before`, (..., sequences, order).
    """
    xp = namespace(u)
    B = system.B
    u = xp.astype(u, B.dtype if not is_complex(B) or is_complex(u) else xp.real(B).dtype)
    rows = xp.matrix_transpose(B)[..., None, :, :]
    if isinstance(system, DiagonalSystem):
        drive = _driven(u, rows)
        logs = to_complex(system.log_poles)[..., None, None, :]
        if before is not None:
            first = before
            if system.conjugate:
                first = (before[..., : system.states] + 1j * before[..., system.states :]) / 2**0.5
            drive = _after(drive, xp.exp(logs) * to_complex(first)[..., None, :])
        x = scan(xp, logs, drive)
        if system.conjugate:
            return 2**0.5 * xp.concat([xp.real(x), xp.imag(x)], axis=-1)
        return x if is_complex(system.log_poles) or is_complex(B) or is_complex(u) else xp.real(x)
    drive, A = u @ rows, xp.matrix_transpose(system.A)[..., None, :, :]
    return matrix_scan(xp, A, drive if before is None else _after(drive, before[..., None, :] @ A))


def _driven(u: Array, rows: Array) -> Array:
    """What enters the states, complex; real inputs are multiplied as such."""
    if is_complex(u) or not is_complex(rows):
        return to_complex(u @ rows)
    xp = namespace(u)
    both = u @ xp.concat([xp.real(rows), xp.imag(rows)], axis=-1)
    return both[..., : rows.shape[-1]] + 1j * both[..., rows.shape[-1] :]


def _after(drive: Array, free: Array) -> Array:
    """What drives the states, the first of them with what was there before."""
    return namespace(drive).concat([drive[..., :1, :] + free, drive[..., 1:, :]], axis=-2)


def _squares_along(
    system: System, u: Array, weights: NDArray[np.float64] | None, max_bytes: int | None = None
) -> Matrix:
    """The sum of outer products of the states on `u`, some sequences and positions at a time."""
    count, length = (int(k) for k in u.shape[-3:-1])
    each = max(1, system.order * math.prod(int(k) for k in system.B.shape[:-2]))
    sums = 0 if max_bytes is None else 3 * 8 * system.order * each
    numbers = ((_BYTES if max_bytes is None else max_bytes) - sums) // _OF_A_NUMBER
    span = min(length, max(1, numbers // each))
    step = max(1, numbers // (span * each))
    total: Any = 0.0
    for start in range(0, count, step):
        now, before = slice(start, start + step), None
        for first in range(0, length, span):
            then = slice(first, first + span)
            x = states_along(system, u[..., now, then, :], before)
            before = namespace(x).asarray(x[..., -1, :], copy=True)  # a view would keep all of them
            total = total + _squares(x, None if weights is None else weights[now, then])
    return np.asarray(total)


def _squares(x: Array, weights: NDArray[np.float64] | None) -> Matrix:
    """The sum of outer products over sequences and positions, on the host."""
    if backend_of(x).on_host(x):
        x = to_numpy(x)  # whose product of a matrix with itself computes half of it
    xp = namespace(x)
    if weights is not None:
        x = x * backend_of(x).from_numpy(np.sqrt(weights), like=x, real=True)[..., None]
    flat = xp.reshape(x, (*x.shape[:-3], -1, x.shape[-1]))
    return to_numpy(xp.matrix_transpose(flat) @ (xp.conj(flat) if is_complex(flat) else flat))
