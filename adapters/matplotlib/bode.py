"""Bode plots in matplotlib: magnitude and phase from each input to each output, or from those that are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from balred.adapters.matplotlib.responses import (
    checked_frequencies,
    cropped,
    curve_style,
    decibels,
    frequency_axis,
    labelled,
)
from balred.adapters.matplotlib.style import finished
from balred.measures.responses import frequency_grid, frequency_response

# inputs or outputs: numbers from 0, or names where the first system has names; None for all
Channels = int | str | Sequence[int | str] | None


def plot_bode(
    *systems: Any,
    inputs: Channels = None,
    outputs: Channels = None,
    omega: Any = None,
    labels: Sequence[str] | None = None,
    axes: Any = None,
) -> Any:
    """Draw magnitude and phase of systems, a pair of axes for each input and output.

    Parameters
    ----------
    *systems : system, layer, or anything :func:`balred.adapt` reads
        For example a system and its reductions, with the same inputs and outputs.
    inputs, outputs : int, str, or sequence of either, optional
        The channels to draw; by default all.  Numbers count from 0.  Names are those of the first system, if it comes
        from python-control or from a file.
    omega : array_like, optional
        Positive frequencies in rad/s (rad per step where the step is not specified).  By default from a decade below the
        slowest pole to a decade above the fastest or the Nyquist frequency, denser where poles are lightly damped.
    labels : sequence of str, optional
        For the legend; by default the number of states.
    axes : array of matplotlib Axes, optional
        In the shape that is returned.  By default new ones are made.

    Returns
    -------
    ndarray of matplotlib Axes
        For one channel, magnitude and phase, shape (2,).  For several, shape (2 * outputs, inputs): each output has a
        row for the magnitude and a row for the phase.

    Raises
    ------
    ValueError
        No system; other inputs or outputs; batches; `dt` differs; labels that do not match; no such input or output.

    Examples
    --------
    >>> import balred
    >>> g = balred.testing.random_system(20, 2, 3)
    >>> plot_bode(g, balred.reduce(g, 4)).shape
    (6, 2)
    >>> magnitude, phase = plot_bode(g, balred.reduce(g, 4), inputs=0, outputs=2)
    >>> phase.get_ylabel()
    'phase (degrees)'
    >>> plt.close("all")
    """
    found, labels = labelled(systems, labels, "a Bode plot")
    shapes = [(x.C.shape[-2], x.B.shape[-1]) for x in found]
    if len(set(shapes)) > 1:
        raise ValueError(f"a Bode plot needs systems with the same outputs and inputs, got {shapes}")
    rows = _chosen(outputs, shapes[0][0], _names(systems[0], "output"), "outputs")
    columns = _chosen(inputs, shapes[0][1], _names(systems[0], "input"), "inputs")
    omega = frequency_grid(*found) if omega is None else checked_frequencies(omega)
    single = len(rows) == len(columns) == 1
    shape = (2 * len(rows), len(columns))
    if axes is None:
        size = (6.4, 5.6) if single else (max(6.4, 3.6 * shape[1]), 2.4 * shape[0])
        axes = plt.subplots(*shape, sharex=True, squeeze=single, figsize=size, layout="constrained")[1]
    grid = np.asarray(axes, dtype=object)
    if grid.size != shape[0] * shape[1]:
        raise ValueError(f"axes must be {shape[0]} x {shape[1]} for these inputs and outputs, got {grid.size}")
    grid = grid.reshape(shape)
    responses = [frequency_response(g, omega) for g in found]
    for at, (p, output) in enumerate(rows):
        for column, (m, source) in enumerate(columns):
            pair = grid[2 * at : 2 * at + 2, column]
            _draw(pair, omega, [h[:, p, m] for h in responses], labels)
            for ax in pair:
                frequency_axis(ax, found[0], omega)
                finished(ax, legend=ax is pair[0] and at == column == 0)
                if not (ax is pair[1] and at == len(rows) - 1):
                    ax.set_xlabel("")
                if column:
                    ax.set_ylabel("")
            if not single:
                pair[0].set_title(f"from {source} to {output}", fontsize="medium")
    return axes


def _draw(pair: Any, omega: Any, responses: Sequence[Any], labels: Sequence[str]) -> None:
    magnitude, phase = pair
    first = None
    for i, (h, label) in enumerate(zip(responses, labels, strict=True)):
        style, colour, width = curve_style(i)
        angle = np.degrees(np.unwrap(np.angle(h)))
        first = angle[0] if first is None else first
        magnitude.plot(omega, decibels(np.abs(h)), style, color=colour, label=label, lw=width)
        phase.plot(omega, angle - 360 * np.round((angle[0] - first) / 360), style, color=colour, label=label, lw=width)
    magnitude.set(ylabel="magnitude (dB)")
    phase.set(ylabel="phase (degrees)")
    cropped(magnitude)


def _names(obj: Any, kind: str) -> list[str]:
    """What an object calls its inputs or outputs: files in tuples, python-control in lists of labels."""
    for attribute in (f"{kind}_labels", f"{kind}s"):
        names = getattr(obj, attribute, None)
        if isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names):
            return list(names)
    return []


def _chosen(wanted: Channels, count: int, names: list[str], what: str) -> list[tuple[int, str]]:
    """Numbers of the channels that are asked for, and what to call them."""
    called = names if len(names) == count else [f"{what[:-1]} {i}" for i in range(count)]
    each: Any = range(count) if wanted is None else [wanted] if isinstance(wanted, (int, str, np.integer)) else wanted
    found = []
    for one in each:
        if isinstance(one, str) and one in names:
            one = names.index(one)
        if isinstance(one, (str, bool)) or not isinstance(one, (int, np.integer)) or not 0 <= one < count:
            known = f", or one of {', '.join(names)}" if names else ""
            raise ValueError(f"{what} must be between 0 and {count - 1}{known}, got {one!r}")
        found.append((int(one), called[int(one)]))
    if not found:
        raise ValueError(f"{what} must be at least one, got none")
    return found
