"""A plan as a picture: the states that each layer has, and those that it would keep.

Models of a hundred layers have a picture too: it grows with the layers, and where their names would lie on each other only some of
them are written.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from balred.adapters.matplotlib.style import FULL, finished, new_axes
from balred.reduction.plan import Plan

_LINE = 0.17
"""Inches that a line of text needs."""
_SHARE = 0.75
"""Of the height of a figure, what its axes have at least."""
_TALLEST = 20.0
"""Inches that a picture grows to."""


def plot_plan(plan: Plan, *, ax: Axes | None = None) -> Axes:
    """Draw the states of each layer of a plan before and after, with the share of the energy that stays.

    Parameters
    ----------
    plan : Plan
    ax : matplotlib Axes, optional
        By default new ones are made, in a figure that is high enough for all layers.

    Returns
    -------
    matplotlib Axes
        A bar for each layer, from top to bottom in the order of the plan.  Layers that are skipped keep all of their
        states.  If there is no room for all names and shares, some are left out.

    Examples
    --------
    >>> import balred, matplotlib.pyplot as plt
    >>> layers = {"first": balred.testing.random_system(8, seed=1), "second": balred.testing.random_system(6, seed=2)}
    >>> ax = balred.plan(layers, 3).plot()
    >>> [label.get_text() for label in ax.get_yticklabels()], [int(bar.get_width()) for bar in ax.containers[1]]
    (['first', 'second'], [3, 3])
    >>> plt.close(ax.figure)
    """
    rows: list[Any] = [row for row in plan.rows if row.before is not None]
    if ax is None:
        ax = new_axes(max(4.2, min(_LINE * len(rows) / _SHARE, _TALLEST)))
    at = np.arange(len(rows))
    kept = [row.before if row.after is None else row.after for row in rows]
    ax.barh(at, [row.before for row in rows], color=FULL, alpha=0.2, label="before")
    bars = ax.barh(at, kept, color=FULL, label="after")
    told = [
        "skipped" if row.after is None else "" if row.energy is None else f"{100 * row.energy:.1f} %" for row in rows
    ]
    room = max(1, round(ax.get_window_extent().height / ax.figure.dpi / _LINE))
    every = ceil(len(rows) / room) if rows else 1
    ax.bar_label(bars, [text if i % every == 0 else "" for i, text in enumerate(told)], padding=3, fontsize="small")
    ax.set_yticks(at[::every], [row.layer or row.type for row in rows[::every]])
    ax.invert_yaxis()
    ax.set(xlabel="states; share of the energy that stays")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    # above the bars, which a legend within the axes would cover; the best place among many bars takes long to find
    ax.legend(frameon=False, fontsize="small", loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    return finished(ax, legend=False)
