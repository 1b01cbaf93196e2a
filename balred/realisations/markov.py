"""Markov parameters, from which models are made: those of a system, or those that measured inputs and outputs tell."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.registry.reading import system_of
from balred.systems.arrays import double_precision, to_numpy
from balred.systems.checks import check_finite, host_array
from balred.systems.diagonal_system import DiagonalSystem
from balred.systems.leaves import with_leaves

Matrix = NDArray[Any]


def markov_parameters(obj: Any, steps: int) -> Matrix:
    r"""Impulse response of a discrete system.

    .. math:: h_0 = D, \qquad h_k = CA^{k-1}B

    Parameters
    ----------
    obj : system, layer, or anything :func:`balred.adapt` reads
        Discrete, single; stable or not.
    steps : int
        How many; at least 1.

    Returns
    -------
    ndarray, shape (steps, p, m)
        In double precision.

    Raises
    ------
    ValueError
        A continuous system, a batch, or `steps` is not a positive integer.

    Examples
    --------
    >>> import balred
    >>> markov_parameters(balred.ss([[0.5]], [[1.0]], [[2.0]], [[3.0]], dt=1), 4).ravel()
    array([3. , 2. , 1. , 0.5])
    """
    system = system_of(obj)
    if not system.discrete:
        raise ValueError(f"Markov parameters belong to discrete time, got a continuous system (dt = {system.dt})")
    if system.B.ndim > 2:
        raise ValueError(f"a single system is needed, got a batch of shape {tuple(system.B.shape[:-2])}: loop over it")
    count = count_of("steps", steps)
    doubled = isinstance(system, DiagonalSystem) and system.conjugate
    with double_precision(*system.leaves) as leaves:
        first, B, C = (to_numpy(x) for x in with_leaves(system, leaves).leaves)
    D = to_numpy(system.D)
    h = np.zeros((count, *D.shape), np.result_type(D, np.float64) if doubled else np.result_type(first, B, C, D))
    h[0] = D
    if isinstance(system, DiagonalSystem):
        powers = np.exp(np.arange(count - 1)[:, None] * first)
        tail = np.einsum("pn,kn,nm->kpm", C, powers, B, optimize=True)
        h[1:] = 2 * tail.real if doubled else tail
        return h
    for k in range(1, count):
        h[k] = C @ B
        B = first @ B
    return h


def markov_from_data(u: Any, y: Any, count: int, *, rest: bool = True) -> Matrix:
    r"""Markov parameters from measured input and output, by least squares.

    .. math:: y_t \approx \sum_{k<\text{count}} h_k u_{t-k}

    Parameters
    ----------
    u : array_like, shape (steps, m) or (steps,)
    y : array_like, shape (steps, p) or (steps,)
    count : int
        How many to find.  The rest of the response is taken for zero.  This causes a bias, unless the response has
        decayed by then or the data are shorter.
    rest : bool, default True
        The system is at rest before the data begin.  Otherwise the first ``count - 1`` outputs are left out, because
        they depend on inputs before the data.

    Returns
    -------
    ndarray, shape (count, p, m)

    Raises
    ------
    ValueError
        Shapes do not fit, values are not finite, or the inputs do not determine that many parameters (too few data, or an
        input that is not persistently exciting).

    References
    ----------
    J.-N. Juang, M. Phan, L. G. Horta and R. W. Longman, Identification of observer/Kalman filter Markov parameters,
    J. Guidance Control Dyn. 16 (1993), equation (3).

    Examples
    --------
    >>> u = [1.0, -1.0, 0.5, 0.0, 2.0]
    >>> y = [3.0, -1.0, 0.0, 0.5, 6.25]
    >>> markov_from_data(u, y, 3).ravel()
    array([3. , 2. , 0.5])
    """
    u, y = _series("u", u), _series("y", y)
    if len(u) != len(y):
        raise ValueError(f"u and y must have as many steps, got {len(u)} and {len(y)}")
    count, m = count_of("count", count), u.shape[1]
    start = 0 if rest else count - 1
    equations = shifted_inputs(u, count)[start:]
    h, _, rank, _ = np.linalg.lstsq(equations, y[start:], rcond=None)
    found: Matrix = h.reshape(count, m, -1).transpose(0, 2, 1)
    if rank < count * m:
        raise ValueError(
            f"the inputs must determine {count} Markov parameters of {m} columns, got {len(equations)} equations of "
            f"rank {rank} for {count * m} unknowns: take fewer, or data with an input that is more varied"
        )
    return found


def shifted_inputs(u: Matrix, count: int) -> Matrix:
    """The inputs at each step and at the ``count - 1`` steps before it, zero before the data, shape (steps, count * m)."""
    shifted = np.zeros((len(u), count, u.shape[1]), u.dtype)
    for k in range(min(count, len(u))):
        shifted[k:, k] = u[: len(u) - k]
    return shifted.reshape(len(u), -1)


def _series(name: str, x: Any) -> Matrix:
    x = host_array(name, x)
    if x.ndim not in (1, 2) or 0 in x.shape:
        raise ValueError(f"{name} must have shape (steps, channels) or (steps,), got {x.shape}")
    series: Matrix = x.reshape(len(x), -1)
    check_finite(name, series)
    return series


def count_of(name: str, value: Any) -> int:
    """`value` as a positive integer, or the error that says so."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
    return int(value)
