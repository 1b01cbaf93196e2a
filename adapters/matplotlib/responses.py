"""Gains over frequency in matplotlib: of systems, of their reductions, and of the error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from balred.adapters.matplotlib.style import BOUND, ERROR, FULL, SMALL, finished, new_axes
from balred.measures.responses import frequency_grid, frequency_response, is_real, single_system, step_of
from balred.methods.method import Of
from balred.reduction.analysis import Analysis
from balred.systems.leaves import System
from balred.systems.parts import difference

FloatArray = NDArray[np.float64]


def plot_error(
    sys: Any, reduced: Any, *, omega: Any = None, bound: float | Analysis | None = None, ax: Axes | None = None
) -> Axes:
    r"""Draw the gain of a system, of its reduction and of the error over frequency, in decibels.

    .. math:: 20\log_{10}\bar\sigma(G), \qquad 20\log_{10}\bar\sigma(G_r), \qquad 20\log_{10}\bar\sigma(G - G_r)

    Parameters
    ----------
    sys, reduced : system, layer, or anything :func:`balred.adapt` reads
        With the same inputs, outputs and time step.
    omega : array_like, optional
        Positive frequencies in rad/s (rad per step where the step is not specified).  By default from a decade below the
        slowest pole to a decade above the fastest or the Nyquist frequency, denser where poles are lightly damped.
    bound : float or Analysis, optional
        An a-priori bound of the H-infinity error, as a line; or the analysis of `sys` that knows it.
    ax : matplotlib Axes, optional
        New ones are made otherwise.

    Returns
    -------
    matplotlib Axes
        For systems with complex matrices the larger of the two gains at :math:`\pm\omega`.

    Raises
    ------
    ValueError
        Batches; inputs, outputs or `dt` differ; frequencies that are not positive; a `bound` that is negative or, from an
        analysis, of something else than the error's H-infinity norm.

    Examples
    --------
    >>> import balred
    >>> a = balred.analyze(balred.testing.random_system(20))
    >>> ax = plot_error(a.system, a.reduce(5), bound=a)
    >>> [line.get_label() for line in ax.get_lines()]
    ['full, 20 states', 'reduced, 5 states', 'error', 'bound 0.796']
    >>> plt.close(ax.figure)
    """
    g, r = _together(sys, reduced)
    difference(g, r)  # raises where they do not fit
    limit = _bound(bound, r.states)
    omega = frequency_grid(g, r) if omega is None else _checked(omega)
    points = omega if is_real(g) and is_real(r) else np.concatenate([omega, -omega])
    G, R = frequency_response(g, points), frequency_response(r, points)
    ax = new_axes() if ax is None else ax
    curves = [(G, f"full, {g.states} states", FULL, "-"), (R, f"reduced, {r.states} states", SMALL, "--")]
    for H, label, colour, style in [*curves, (G - R, "error", ERROR, "-")]:
        gain = np.linalg.norm(H, 2, axis=(-2, -1)).reshape(-1, len(omega)).max(axis=0)
        ax.plot(omega, _decibels(gain), style, color=colour, label=label, lw=2.2 if H is G else 1.5)
    if limit:
        ax.axhline(float(_decibels(np.asarray(limit))), color=BOUND, ls=":", label=f"bound {limit:.3g}")
    ax.set(ylabel="largest singular value (dB)")
    _cropped(ax)
    _frequency_axis(ax, g, omega)
    return finished(ax)


def plot_bode(*systems: Any, omega: Any = None, labels: Sequence[str] | None = None, axes: Any = None) -> Any:
    """Draw magnitude and phase of systems with one input and output.

    Parameters
    ----------
    *systems : system, layer, or anything :func:`balred.adapt` reads
        A system and its reductions, say.
    omega : array_like, optional
        As :func:`plot_error`.
    labels : sequence of str, optional
        For the legend; by default the number of states.
    axes : pair of matplotlib Axes, optional
        For magnitude and phase.  New ones are made otherwise.

    Returns
    -------
    ndarray of two matplotlib Axes

    Raises
    ------
    ValueError
        No system, or not one input and output; batches; `dt` differs; labels that do not match.

    Examples
    --------
    >>> import balred
    >>> g = balred.testing.random_system(20, 1, 1)
    >>> magnitude, phase = plot_bode(g, balred.reduce(g, 4))
    >>> phase.get_ylabel()
    'phase (degrees)'
    >>> plt.close(phase.figure)
    """
    found = _together(*systems)
    shapes = [(x.C.shape[-2], x.B.shape[-1]) for x in found]
    if not found or any(s != (1, 1) for s in shapes):
        raise ValueError(f"a Bode plot needs systems with one output and one input, got {shapes or 'none'}")
    labels = [f"{x.states} states" for x in found] if labels is None else list(labels)
    if len(labels) != len(found):
        raise ValueError(f"there must be a label for each of the {len(found)} systems, got {len(labels)}")
    omega = frequency_grid(*found) if omega is None else _checked(omega)
    if axes is None:
        axes = plt.subplots(2, 1, sharex=True, figsize=(6.4, 5.6), layout="constrained")[1]
    magnitude, phase = axes
    first = None
    for i, (g, label) in enumerate(zip(found, labels, strict=True)):
        h = frequency_response(g, omega)[:, 0, 0]
        style, colour = "-" if i == 0 else "--", (FULL, SMALL, ERROR)[i] if i < 3 else None
        angle = np.degrees(np.unwrap(np.angle(h)))
        first = angle[0] if first is None else first
        width = 2.2 if i == 0 else 1.5
        magnitude.plot(omega, _decibels(np.abs(h)), style, color=colour, label=label, lw=width)
        phase.plot(omega, angle - 360 * np.round((angle[0] - first) / 360), style, color=colour, label=label, lw=width)
    magnitude.set(ylabel="magnitude (dB)")
    phase.set(ylabel="phase (degrees)")
    _cropped(magnitude)
    for ax in (magnitude, phase):
        _frequency_axis(ax, found[0], omega)
        finished(ax, legend=ax is magnitude)
    magnitude.set_xlabel("")
    return axes


def _together(*objects: Any) -> list[System]:
    """The systems, all with one time step: an unspecified one is that of the others."""
    found = [single_system(x) for x in objects]
    steps = {float(g.dt) for g in found if g.dt is not True}
    if len({g.discrete for g in found}) > 1 or len(steps) > 1:
        raise ValueError(f"all systems must have the same dt, got {', '.join(str(g.dt) for g in found)}")
    return [replace(g, dt=next(iter(steps), True)) for g in found]


def _checked(omega: Any) -> FloatArray:
    found = np.asarray(omega, dtype=np.float64)
    if found.ndim != 1 or not found.size or not np.all(np.isfinite(found) & (found > 0)):
        raise ValueError(f"omega must be a vector of positive frequencies, got {omega!r}")
    return np.sort(found)


def _bound(bound: float | Analysis | None, states: int) -> float | None:
    """The bound as a number, or None where there is none."""
    if isinstance(bound, Analysis):
        if bound.method.bounds is not Of.ERROR:
            raise ValueError(
                f"bound must be one of the {Of.ERROR}, got an analysis that bounds the {bound.method.bounds}"
            )
        bound = float(np.max(bound.bound(states)))
    if bound is None or np.isnan(bound):
        return None
    if bound < 0:
        raise ValueError(f"bound must not be negative, got {bound}")
    return float(bound)


def _frequency_axis(ax: Axes, g: System, omega: FloatArray) -> None:
    ax.set(xscale="log", xlabel="frequency (rad per step)" if g.dt is True else "frequency (rad/s)")
    ax.margins(x=0)
    if g.discrete and omega[-1] >= 0.5 * np.pi / step_of(g):
        ax.axvline(np.pi / step_of(g), color="0.6", lw=0.8, label="Nyquist frequency")


def _cropped(ax: Axes) -> None:
    """Curves that fall on and on would leave no room for the others: 80 dB below the lowest peak are enough."""
    peaks = [
        np.nanmax(y)
        for y in (np.asarray(line.get_ydata(), float) for line in ax.get_lines())
        if not np.all(np.isnan(y))
    ]
    if peaks:
        ax.set_ylim(bottom=max(ax.get_ylim()[0], min(peaks) - 80))


def _decibels(gain: FloatArray) -> FloatArray:
    """20 log10; NaN, which is not drawn, for zero."""
    return 20 * np.log10(np.where(gain > 0, gain, np.nan))
