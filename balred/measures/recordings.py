r"""Systems along recorded inputs: what states and outputs do under the signals that a plant has really seen.

A Gramian says what states do under white noise, and a frequency weight what they do under noise of one spectrum for ever.
A recording needs neither: its inputs run through the model, and all that is kept is a triangular factor of

.. math:: S = \operatorname{mean}\begin{bmatrix}x\\u\end{bmatrix}\begin{bmatrix}x\\u\end{bmatrix}^H,

so memory does not depend on the length.  Its upper left part takes the place of P, and outputs are :math:`[C\ D]` times it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.layers.along_data import states_along
from balred.registry.reading import system_of
from balred.solvers.windows import time_factors
from balred.systems.arrays import backend, backend_of, double_precision, mapped, to_numpy
from balred.systems.batches import member
from balred.systems.checks import check_finite
from balred.systems.dense_system import DenseSystem
from balred.systems.diagonal_system import DiagonalSystem
from balred.systems.leaves import System, unit_of, with_leaves
from balred.systems.parts import difference

Matrix = NDArray[Any]
HOLDS = ("zoh", "foh")
_CHUNK = 1 << 20
"""Numbers of states and inputs held at a time."""
_APART = 1e-10
"""Inputs that differ by less, relative to their sizes, are one."""


class RecordingWarning(UserWarning):
    """A recording leaves some inputs of a system at rest, or moves them together."""


@dataclass(frozen=True, eq=False)
class Recordings:
    """Signals that fit a system, checked; made by :func:`recordings_of`.

    Attributes
    ----------
    signals : tuple of array, shape (..., inputs, samples)
        Each from rest.
    step : float
        Seconds between samples; 0 where the system is discrete and needs none.
    hold : {"zoh", "foh"}
    """

    signals: tuple[Matrix, ...]
    step: float
    hold: str


def recordings_of(system: System, inputs: Any, dt: float | None = None, hold: str = "zoh") -> Recordings:
    """Read recorded inputs of a system into NumPy arrays, and check them.

    Parameters
    ----------
    system : DenseSystem or DiagonalSystem
        Or a batch.  The axes of the batch may come first in a signal too; otherwise all members share the signals.
    inputs : array, shape (inputs, samples), or a list of such
        As in python-control's ``forced_response``; (samples,) is enough for one input.  A list holds several recordings.
    dt : float, optional
        Seconds between samples.  A continuous system needs it; that of a discrete one is the system's own.
    hold : {"zoh", "foh"}, default "zoh"
        What inputs of a continuous system do between samples: they stay constant, or run straight to the next.

    Raises
    ------
    ValueError
        A shape does not fit, there are no samples, a value is not finite; `dt` is missing or not the system's.
    TypeError
        Something else than numbers; complex inputs of a real system.

    Examples
    --------
    >>> import balred
    >>> recordings_of(balred.ss([[0.5]], [[1.0]], [[1.0]], dt=0.1), [1.0, 2.0]).signals[0].shape
    (1, 2)
    """
    step = _step(system, dt, hold)
    several = isinstance(inputs, (list, tuple)) and not all(isinstance(x, (int, float, np.number)) for x in inputs)
    given = list(inputs) if several else [inputs]
    real = not any(np.iscomplexobj(to_numpy(x)) for x in system.leaves) or getattr(system, "conjugate", False)
    signals = []
    for i, one in enumerate(given):
        name = f"inputs[{i}]" if several else "inputs"
        u = _signal(name, one, system)
        if np.iscomplexobj(u) and real:
            raise TypeError(f"{name} must be real for a real system, got dtype {u.dtype}")
        if hold == "foh" and u.shape[-1] < 2:
            raise ValueError(
                f"{name} must have at least two samples with hold='foh', which joins them by straight lines, got {u.shape[-1]}"
            )
        signals.append(u)
    return Recordings(tuple(signals), step, hold)


def _step(system: System, dt: float | None, hold: str) -> float:
    if hold not in HOLDS:
        raise ValueError(f"hold must be one of {', '.join(HOLDS)}, got {hold!r}")
    if dt is not None and (
        isinstance(dt, bool) or not isinstance(dt, (int, float, np.number)) or not 0 < float(dt) < np.inf
    ):
        raise ValueError(f"dt must be a positive number of seconds between samples, got {dt!r}")
    if not system.discrete:
        if dt is None:
            raise ValueError(
                "recorded inputs of a continuous system need the seconds between samples, dt=..., got none"
            )
        return float(dt)
    if hold != "zoh":
        raise ValueError(f"a hold other than zoh must go with a continuous system, got {hold!r} for dt = {system.dt}")
    if dt is not None and system.dt is not True and not abs(float(dt) - system.dt) <= 1e-9 * system.dt:
        raise ValueError(f"dt must be that of the discrete system, {system.dt}, got {dt}: resample one of the two")
    return 0.0


def _signal(name: str, given: Any, system: System) -> Matrix:
    """One recording, (..., inputs, samples), in double precision."""
    if (
        hasattr(given, "shape")
        and not isinstance(given, np.generic)
        and type(given).__module__.partition(".")[0] != "pandas"
    ):
        u = to_numpy(given)
    else:
        try:
            u = np.asarray(given)
        except ValueError:  # ragged
            u = np.array(None)
    if u.dtype.kind not in "iufcb":
        raise TypeError(f"{name} must be an array of numbers, got {type(given).__name__} of dtype {u.dtype}")
    u = u.astype(np.complex128 if u.dtype.kind == "c" else np.float64)
    m, batch = int(system.B.shape[-1]), tuple(int(k) for k in system.B.shape[:-2])
    if u.ndim == 1 and m == 1:
        u = u[None, :]
    if u.ndim < 2 or u.shape[-2] != m or u.shape[:-2] not in ((), batch):
        lead = f"{', '.join(map(str, batch))}, " if batch and u.ndim > 2 else ""
        turned = ": inputs come first, then samples, so transpose it" if u.ndim == 2 and u.shape[-1] == m else ""
        turned = turned or (": a list holds several recordings, an array is one" if "[" in name else "")
        raise ValueError(f"{name} must have shape ({lead}inputs, samples) with inputs = {m}, got {u.shape}{turned}")
    if u.shape[-1] == 0:
        raise ValueError(f"{name} must have at least one sample, got none")
    check_finite(name, u)
    return u


def signals_factor(system: System, recordings: Recordings) -> tuple[Matrix, float]:
    r"""Z (..., order + inputs, k) with :math:`ZZ^H = S`, the mean over the recordings, each from rest, and the unit of Z.

    The unit is that of the signals in which the largest sample is near one, a power of two.

    In discrete time over samples, :math:`x_{k+1} = Ax_k+Bu_k` from :math:`x_0 = 0`.  In continuous time over all times from the
    first sample on, not only those of the samples, between which a fast mode may hide: the mean of :math:`zz^H`, z = (x, u), is an
    integral of :math:`e^{G\tau}S_ke^{G^H\tau}` over one step, whatever the number of steps, for G such that
    :math:`\dot z = Gz` between samples.

    Raises
    ------
    ValueError
        The states overflow.

    Examples
    --------
    >>> import balred
    >>> g = balred.ss([[0.5]], [[1.0]], [[1.0]], dt=1)
    >>> Z, unit = signals_factor(g, recordings_of(g, [1.0, 0.0]))  # x = 0, 1 beside u = 1, 0
    >>> (Z @ Z.T * unit**2).round(12).tolist()
    [[0.5, 0.0], [0.0, 0.5]]
    """
    host = _on_host(system)
    largest = max(float(np.abs(u).max(initial=0.0)) for u in recordings.signals)
    unit = float(unit_of(np.array([[largest]]))[0, 0])
    signals = [u / unit for u in recordings.signals]
    batch = tuple(host.B.shape[:-2])
    made = [
        _factor(member(host, at) if at else host, [u[at] if u.ndim > 2 else u for u in signals], recordings)
        for at in np.ndindex(*batch)
    ]
    return np.stack(made).reshape(*batch, *made[0].shape), unit


def _factor(system: System, signals: list[Matrix], how: Recordings) -> Matrix:
    n, m = system.order, system.B.shape[-1]
    held = None if system.discrete else _Held.of(system.to_dense(), how)
    g, straight = (system, False) if held is None else (held.sampled, held.straight)
    triangle: Matrix = np.zeros((n + g.B.shape[-1],) * 2)
    count = 0
    for u in signals:
        rows = u.T if not straight else np.concatenate([u.T[:-1], u.T[1:]], axis=1)
        for z in _pieces(g, rows):
            triangle = backend("numpy").triangular_factor(np.concatenate([triangle, z]))
        count += len(rows)
    if not np.isfinite(triangle).all():
        raise ValueError("the states along the recorded inputs must be finite, got some that overflow")
    Z = triangle.T / count**0.5  # not conjugated: its rows are those of states, which are no columns
    return Z if held is None else held.between(Z)[: n + m]


def _pieces(g: System, rows: Matrix) -> Iterator[Matrix]:
    """States from rest beside the inputs (samples, inputs) that they meet, a piece of the recording at a time."""
    before = np.zeros((1, g.order))
    step = max(1, _CHUNK // (g.order + rows.shape[1]))
    for start in range(0, len(rows), step):
        now = rows[start : start + step]
        with np.errstate(over="ignore", invalid="ignore"):  # told of the whole
            after = states_along(g, now[None], before)[0]
        yield np.concatenate([np.concatenate([before, after[:-1]]), now], axis=1)
        before = after[-1:]


@dataclass(frozen=True, eq=False)
class _Held:
    r"""A continuous system between samples: :math:`\dot z = Gz` for z = d (x, u) or d (x, u, slope), in steps of one.

    Attributes
    ----------
    G : array
        In units d that make inputs and slopes count as much as states, since exponentials are as accurate as G is even.
    d : array
    sampled : DenseSystem
        From sample to sample, with inputs u_k or (u_k, u_(k+1)).
    straight : bool
        Whether inputs run from sample to sample, so that there are slopes.
    """

    G: Matrix
    d: Matrix
    sampled: DenseSystem
    straight: bool

    @classmethod
    def of(cls, system: DenseSystem, how: Recordings) -> _Held:
        n, m = system.B.shape
        A, B, straight = system.A * how.step, system.B * how.step, how.hold == "foh"
        size = n + m * (1 + straight)
        G = np.zeros((size, size), np.result_type(A, B))
        G[:n, :n], G[:n, n : n + m] = A, B
        if straight:
            G[n : n + m, n + m :] = np.eye(m)
        much, lengths = float(np.linalg.norm(A, 1)) or 1.0, np.linalg.norm(B, axis=0)
        u = 2.0 ** np.round(np.log2(much / np.where(lengths > 0, lengths, much)))
        d = np.concatenate([np.ones(n), u, *([u * 2.0 ** np.round(np.log2(much))] if straight else [])])
        G = G * d / d[:, None]
        E = (backend("scipy").expm(G) * d[:, None] / d)[:n]
        if straight:  # the slope is u_(k+1) - u_k
            E[:, n : n + m] -= E[:, n + m :]
        return cls(G, d, DenseSystem(E[:, :n], E[:, n:], np.zeros((1, n)), np.zeros((1, size - n)), True), straight)

    def between(self, Z: Matrix) -> Matrix:
        """The factor over all times of a step, from that of its beginnings (and the next inputs)."""
        n, size = self.sampled.order, len(self.G)
        if self.straight:
            m = (size - n) // 2
            Z = np.concatenate([Z[: n + m], Z[n + m :] - Z[n : n + m]])
        held = DenseSystem(self.G, Z / self.d[:, None], np.zeros((1, size)), np.zeros((1, Z.shape[1])))
        found = self.d[:, None] * time_factors(held, 0, 1.0)[0]
        return np.pad(found, ((0, 0), (0, size - found.shape[1])))


def independent_inputs(Z: Matrix, order: int) -> int:
    """How many of the inputs, or of sums of them, a factor of :func:`signals_factor` holds apart: the least over a batch."""
    U = Z[..., order:, :]
    largest = np.abs(U).max(axis=-1, keepdims=True, initial=0.0)
    U = U / np.where(
        largest > 0, largest, 1.0
    )  # an input may be so small beside others that its squares are no numbers
    size = np.linalg.norm(U, axis=-1, keepdims=True)
    values = np.linalg.svd(U / np.where(size > 0, size, 1.0), compute_uv=False)
    return int((values > _APART).sum(axis=-1).min())


def output_error(full: Any, reduced: Any, inputs: Any, *, dt: float | None = None, hold: str = "zoh") -> Any:
    r"""The relative error of a reduced system's outputs along recorded inputs.

    .. math:: \frac{\|y-y_r\|}{\|y\|}, \qquad \|y\|^2 = \operatorname{mean}|y|^2

    over all outputs and recordings, with both systems starting from rest.  Use recordings that the reduction was not
    made on: they show how good it is on new recordings of the same kind.

    Parameters
    ----------
    full, reduced : system, layer, or anything :func:`balred.adapt` reads
        Of the same time step, inputs and outputs.
    inputs : array, shape (inputs, samples), or a list of such
        A recording of the inputs, or several; (samples,) where there is one input.
    dt : float, optional
        Seconds between samples.  Continuous systems need it; that of a discrete system is the default.
    hold : {"zoh", "foh"}, default "zoh"
        What the inputs of a continuous system do between samples: they stay constant, or run straight to the next.

    Returns
    -------
    float, or an array over a batch
        In continuous time the mean is over all times, not only over the samples.

    Raises
    ------
    ValueError
        The inputs do not fit; the two systems do not match; the output is zero, or overflows.

    Examples
    --------
    >>> import balred
    >>> g = balred.ss([[0.5]], [[1.0]], [[1.0]], [[1.0]], dt=1)
    >>> round(output_error(g, balred.ss([[0.5]], [[1.0]], [[1.0]], dt=1), [1.0, 0.0]), 9)  # y = 1, 1 and 0, 1
    0.707106781
    """
    a, b = (_on_host(x) for x in (full, reduced))
    apart = difference(a, b)
    own = a.C if isinstance(apart, DiagonalSystem) else a.to_dense().C
    p, rest = own.shape[-2], apart.C.shape[-1] - own.shape[-1]
    alone = np.concatenate([own, np.zeros((*own.shape[:-1], rest))], axis=-1)
    D = np.broadcast_to(a.D, (*own.shape[:-2], *a.D.shape[-2:]))
    both: System = replace(
        apart,
        C=np.concatenate([apart.C, alone], axis=-2),
        D=np.concatenate([np.broadcast_to(apart.D, D.shape), D], axis=-2),
    )
    Z, g = signals_factor(both, recordings_of(both, inputs, dt, hold))[0], both.to_dense()
    y = np.concatenate([g.C, g.D], axis=-1) @ Z
    error, size = (np.linalg.norm(part, axis=(-2, -1)) for part in (y[..., :p, :], y[..., p:, :]))
    if not np.all(size > 0):
        raise ValueError(
            "the output along the recorded inputs must not be zero, because the error is relative to it, got zero"
        )
    return float(error / size) if size.ndim == 0 else error / size


def _on_host(obj: Any) -> System:
    """The one system in `obj`, or the batch, of NumPy arrays in double precision."""
    system = system_of(obj)
    host = mapped(system, lambda x: to_numpy(backend_of(x).stop_gradient(x)))
    with double_precision(*host.leaves) as leaves:
        wide: System = replace(with_leaves(host, leaves), D=host.D.astype(np.result_type(host.D, np.float64)))
        return wide
