"""python-control's functions for models from data, under its own names and with its axes: time comes last."""

from __future__ import annotations

from typing import Any

import control
import numpy as np
from control.exception import ControlArgument, ControlDimension
from control.timeresp import TimeResponseData
from numpy.typing import NDArray

from balred.ranks.choosing import is_rule
from balred.realisations.era import era as realisation
from balred.realisations.era import hankel_matrix_hsv
from balred.realisations.markov import count_of, shifted_inputs
from balred.systems.arrays import warn_caller

Matrix = NDArray[Any]


def eigensys_realization(
    arg: Any, r: Any, m: int | None = None, n: int | None = None, dt: Any = True, transpose: bool = False
) -> tuple[Any, Matrix]:
    r"""A model from an impulse response, by the eigensystem realisation algorithm.

    Parameters
    ----------
    arg : TimeResponseData, or array_like of shape (p, inputs, steps) or (steps,)
        :math:`D, CB, CAB, \dots` over `dt`: the response to an impulse of unit area, as ``control.impulse_response`` gives it.
    r : int or rule
        The order, or a rule such as ``balred.Energy(0.999)``.
    m, n : int, optional
        Rows and columns of blocks of the Hankel matrix.  The default is 2 r; if `r` is a rule, half of the data.
    dt : float or True
        The step in seconds; True if it is not specified, for the response to a unit impulse.
    transpose : bool, default False
        The axes of an array are in reverse order, time first.  It has no effect on a TimeResponseData, which knows its axes.

    Returns
    -------
    control.StateSpace
        With the signal names of a TimeResponseData.
    S : ndarray
        Singular values of the Hankel matrix, descending.

    Raises
    ------
    ValueError
        Other shapes; `m` and `n` need more data than there are, or are too small for `r`.

    Warns
    -----
    RankWarning
        `r` is beyond the numerical rank; the numerical rank is used instead.

    Examples
    --------
    >>> from balred.adapters.control import era
    >>> sys, S = era([0.0, 1.0, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0, 34.0], 2)  # Fibonacci
    >>> sys.poles().real.round(6)
    array([ 1.618034, -0.618034])
    """
    names: dict[str, Any] = {}
    if isinstance(arg, TimeResponseData):
        names = {"inputs": arg.trace_labels if arg.ntraces > 1 else None, "outputs": arg.output_labels}
        y = np.asarray(arg.y)
        h = y.reshape(len(y), -1, y.shape[-1])
    else:
        h = np.asarray(arg)
        h = h.T if transpose and h.ndim == 3 else h
        if h.ndim not in (1, 3):
            raise ValueError(f"an impulse response must have shape (p, m, steps) or (steps,), got {h.shape}")
        h = h.reshape(1, 1, -1) if h.ndim == 1 else h
    most = h.shape[2] - 1
    m, n = ((most // 2 if is_rule(r) else 2 * r) if k is None else k for k in (m, n))
    if not is_rule(r) and min(m * h.shape[0], n * h.shape[1]) < r:
        raise ValueError(f"the Hankel matrix must have {r} rows and columns at least, got m = {m} and n = {n} blocks")
    step = 1.0 if dt is True else float(dt)
    markov = step * np.moveaxis(h, 2, 0)
    g = realisation(markov, r, dt=dt, rows=m, columns=n)
    S = hankel_matrix_hsv(markov, rows=m, columns=n) / step
    return control.StateSpace(g.A, g.B, g.C, g.D, dt, **{k: v for k, v in names.items() if v}), S


def markov(*args: Any, m: int | None = None, transpose: bool = False, dt: Any = None, truncate: bool = False) -> Matrix:
    r"""Markov parameters :math:`D, CB, CAB, \dots` from measured data, by least squares.

    Called as ``markov(data)``, ``markov(data, m)``, ``markov(Y, U)`` or ``markov(Y, U, m)``.

    Parameters
    ----------
    Y : array_like, shape (p, steps) or (steps,)
    U : array_like, shape (inputs, steps) or (steps,)
    data : TimeResponseData
        Of one experiment.
    m : int, optional
        How many; by default as many as there are steps.
    transpose : bool, default False
        Arrays have time first, and so has the result.  It has no effect on a TimeResponseData, which knows its axes.
    dt : float or True, optional
        Results are over it, for an impulse of unit area.  By default the step of `data`, True for arrays.
    truncate : bool, default False
        Leave out the first `m` equations, because they depend on inputs before the data.

    Returns
    -------
    ndarray, shape (p, inputs, m), or (m,) for one input and output

    Raises
    ------
    ControlArgument
        Too few or too many arguments.
    ControlDimension
        Y and U are of different lengths.
    ValueError
        The steps of `data` are not equal; several experiments.

    Warns
    -----
    UserWarning
        The data do not determine that many parameters.  Of all solutions, the smallest is returned.

    Examples
    --------
    >>> from balred.adapters.control import markov
    >>> markov([3.0, -1.0, 0.0, 0.5, 6.25], [1.0, -1.0, 0.5, 0.0, 2.0], 3).round(12)
    array([3. , 2. , 0.5])
    """
    if args and isinstance(args[0], TimeResponseData):
        data, rest = args[0], args[1:]
        if data.u is None:
            raise ControlArgument("the data must have inputs, got none")
        if data.ntraces > 1:
            raise ValueError(f"the data must be of one experiment, got {data.ntraces} traces: choose one")
        y, u = (np.asarray(x).reshape(len(x), -1) for x in (data.y, data.u))
        transpose = data.transpose
        if dt is None:
            gaps = np.diff(data.time)
            dt = float(gaps[0])
            if not np.allclose(gaps, dt):
                raise ValueError(
                    f"response time values must be equally spaced, got steps from {gaps.min()} to {gaps.max()}"
                )
    elif len(args) < 2:
        raise ControlArgument("not enough input arguments: give markov(Y, U) or markov(data)")
    else:
        (y, u), rest = (np.atleast_2d(np.asarray(x, np.float64)) for x in args[:2]), args[2:]
        if transpose:
            y, u = (x.T if np.ndim(given) > 1 else x for x, given in zip((y, u), args, strict=False))
        dt = True if dt is None else dt
    if len(rest) > 1 or (rest and m is not None):
        raise ControlArgument(f"too many arguments, got {rest} for m and m = {m}")
    if u.shape[1] != y.shape[1]:
        raise ControlDimension(f"input and output data must be of one length, got {u.shape[1]} and {y.shape[1]}")
    steps, inputs = u.shape[1], len(u)
    count = steps if not rest and m is None else count_of("m", rest[0] if rest else m)
    start = count if truncate else 0
    equations = shifted_inputs(u.T, count)[start:]
    found, _, rank, _ = np.linalg.lstsq(equations, y.T[start:], rcond=None)
    if count * inputs > steps - start:
        warn_caller("Not enough data for requested number of parameters", UserWarning)
    elif rank < count * inputs:
        warn_caller(
            f"the inputs determine {rank} of {count * inputs} unknowns: the smallest parameters that meet the data are returned",
            UserWarning,
        )
    H: Matrix = found.reshape(count, inputs, -1).transpose(2, 1, 0) / (1.0 if dt is True else dt)
    if H.shape[:2] == (1, 1):
        return np.asarray(H[0, 0])
    return H.T if transpose else H


era = eigensys_realization
