"""Gains over frequency in matplotlib: of systems, of their reductions, and of the error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

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
        An a-priori bound of the H-infinity error, drawn as a line; or the analysis of `sys`, which has the bound.
    ax : matplotlib Axes, optional
        New ones are made otherwise.

    Returns
    -------
    matplotlib Axes
        For systems with complex matrices they show the larger of the two gains at :math:`\pm\omega`.

    Raises
    ------
    ValueError
        A system is a batch; inputs, outputs or `dt` differ; a frequency is not positive; `bound` is negative, or is an
        analysis that bounds something else than the H-infinity norm of the error.

    Examples
    --------
    >>> import balred, matplotlib.pyplot as plt
    >>> a = balred.analyze(balred.testing.random_system(20))
    >>> ax = plot_error(a.system, a.reduce(5), bound=a)
    >>> [line.get_label() for line in ax.get_lines()]
    ['full, 20 states', 'reduced, 5 states', 'error', 'bound 0.796']
    >>> plt.close(ax.figure)
    """
    g, r = together(sys, reduced)
    difference(g, r)  # raises where they do not fit
    limit = _bound(bound, r.states)
    omega = frequency_grid(g, r) if omega is None else checked_frequencies(omega)
    points = omega if is_real(g) and is_real(r) else np.concatenate([omega, -omega])
    G, R = frequency_response(g, points), frequency_response(r, points)
    ax = new_axes() if ax is None else ax
    curves = [(G, f"full, {g.states} states", FULL, "-"), (R, f"reduced, {r.states} states", SMALL, "--")]
    for H, label, colour, style in [*curves, (G - R, "error", ERROR, "-")]:
        gain = np.linalg.norm(H, 2, axis=(-2, -1)).reshape(-1, len(omega)).max(axis=0)
        ax.plot(omega, decibels(gain), style, color=colour, label=label, lw=2.2 if H is G else 1.5)
    if limit:
        ax.axhline(float(decibels(np.asarray(limit))), color=BOUND, ls=":", label=f"bound {limit:.3g}")
    ax.set(ylabel="largest singular value (dB)")
    cropped(ax)
    frequency_axis(ax, g, omega)
    return finished(ax)


def plot_sigma(
    *systems: Any, omega: Any = None, labels: Sequence[str] | None = None, every: bool = True, ax: Axes | None = None
) -> Axes:
    r"""Draw the singular values of the frequency responses of systems with any inputs and outputs, in decibels.

    .. math:: 20\log_{10}\sigma_i(G(\mathrm{j}\omega)), \qquad i = 1, \dots, \min(p, m)

    The largest singular value is the gain in the worst direction of the inputs at that frequency, the smallest is the
    gain in the best direction.

    Parameters
    ----------
    *systems : system, layer, or anything :func:`balred.adapt` reads
        For example a system and its reductions.
    omega : array_like, optional
        Positive frequencies in rad/s (rad per step where the step is not specified).  By default from a decade below the
        slowest pole to a decade above the fastest or the Nyquist frequency, denser where poles are lightly damped.
    labels : sequence of str, optional
        For the legend; by default the number of states.
    every : bool, default True
        False draws the largest singular value alone.
    ax : matplotlib Axes, optional
        New ones are made otherwise.

    Returns
    -------
    matplotlib Axes
        For systems with complex matrices the larger of the values at :math:`\pm\omega`.

    Raises
    ------
    ValueError
        No system; batches; `dt` differs; labels that do not match; frequencies that are not positive.

    Examples
    --------
    >>> import balred, matplotlib.pyplot as plt
    >>> g = balred.testing.random_system(20, 3, 2)
    >>> ax = plot_sigma(g, balred.reduce(g, 6))
    >>> len(ax.get_lines()), ax.get_ylabel()
    (4, 'singular values (dB)')
    >>> plt.close(ax.figure)
    """
    found, labels = labelled(systems, labels, "a plot of singular values")
    omega = frequency_grid(*found) if omega is None else checked_frequencies(omega)
    ax = new_axes() if ax is None else ax
    for i, (g, label) in enumerate(zip(found, labels, strict=True)):
        points = omega if is_real(g) else np.concatenate([omega, -omega])
        values = np.linalg.svd(frequency_response(g, points), compute_uv=False)
        values = values.reshape(-1, len(omega), values.shape[-1]).max(axis=0).T
        style, colour, width = curve_style(i)
        for k, row in enumerate(values if every else values[:1]):
            named = label if k == 0 else f"_{label}"  # one entry of the legend for each system
            (line,) = ax.plot(
                omega, decibels(row), style, color=colour, label=named, lw=width if k == 0 else 0.6 * width
            )
            colour = line.get_color()
    ax.set(ylabel="singular values (dB)" if every else "largest singular value (dB)")
    cropped(ax)
    frequency_axis(ax, found[0], omega)
    return finished(ax)


def labelled(systems: Sequence[Any], labels: Sequence[str] | None, what: str) -> tuple[list[System], list[str]]:
    """The systems, all with one time step, and a label for each: by default its states."""
    found = together(*systems)
    if not found:
        raise ValueError(f"{what} needs at least one system, got none")
    named = [f"{x.states} states" for x in found] if labels is None else list(labels)
    if len(named) != len(found):
        raise ValueError(f"there must be a label for each of the {len(found)} systems, got {len(named)}")
    return found, named


def curve_style(i: int) -> tuple[str, Any, float]:
    """Line style, colour and width of the i-th system: the first is what the others are compared with."""
    return "-" if i == 0 else "--", (FULL, SMALL, ERROR)[i] if i < 3 else None, 2.2 if i == 0 else 1.5


def together(*objects: Any) -> list[System]:
    """The systems, all with one time step: an unspecified one is that of the others."""
    found = [single_system(x) for x in objects]
    steps = {float(g.dt) for g in found if g.dt is not True}
    if len({g.discrete for g in found}) > 1 or len(steps) > 1:
        raise ValueError(f"all systems must have the same dt, got {', '.join(str(g.dt) for g in found)}")
    return [replace(g, dt=next(iter(steps), True)) for g in found]


def checked_frequencies(omega: Any) -> FloatArray:
    """Positive frequencies in order."""
    found = np.asarray(omega, dtype=np.float64)
    if found.ndim != 1 or not found.size or not np.all(np.isfinite(found) & (found > 0)):
        raise ValueError(f"omega must be a vector of positive frequencies, got {omega!r}")
    return np.sort(found)


def _bound(bound: float | Analysis | None, states: int) -> float | None:
    """The bound as a number, or None where there is none."""
    if isinstance(bound, Analysis):
        if bound.method.bounds is not Of.ERROR:
            raise ValueError(
                f"bound must be a bound of the {Of.ERROR}, got an analysis that bounds the {bound.method.bounds}"
            )
        bound = float(np.max(bound.bound(states)))
    if bound is None or np.isnan(bound):
        return None
    if bound < 0:
        raise ValueError(f"bound must not be negative, got {bound}")
    return float(bound)


def frequency_axis(ax: Axes, g: System, omega: FloatArray) -> None:
    """A logarithmic axis of frequencies, with the Nyquist frequency where it is near."""
    ax.set(xscale="log", xlabel="frequency (rad per step)" if g.dt is True else "frequency (rad/s)")
    ax.margins(x=0)
    if g.discrete and omega[-1] >= 0.5 * np.pi / step_of(g):
        ax.axvline(np.pi / step_of(g), color="0.6", lw=0.8, label="Nyquist frequency")


def cropped(ax: Axes) -> None:
    """Curves that fall on and on would leave no room for the others: 80 dB below the lowest peak are enough."""
    peaks = [
        np.nanmax(y)
        for y in (np.asarray(line.get_ydata(), float) for line in ax.get_lines())
        if not np.all(np.isnan(y))
    ]
    if peaks:
        ax.set_ylim(bottom=max(ax.get_ylim()[0], min(peaks) - 80))


def decibels(gain: FloatArray) -> FloatArray:
    """20 log10; NaN, which is not drawn, for zero."""
    return 20 * np.log10(np.where(gain > 0, gain, np.nan))
