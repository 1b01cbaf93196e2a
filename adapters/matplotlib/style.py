"""The style that all pictures share: colours that mean the same in each, new axes, and what finishes them."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase

FULL, SMALL, ERROR, BOUND = "#1f4e79", "#5a8f3c", "#c8501e", "0.35"
"""Colours of the system, its reduction, their difference, and what is known of that beforehand."""


def new_axes(height: float = 4.2) -> Axes:
    """Axes in a figure of their own, of so many inches."""
    return plt.subplots(figsize=(6.4, height), layout="constrained")[1]


def formats() -> list[str]:
    """The suffixes of files that figures can be written to, without the dot."""
    return sorted(FigureCanvasBase.get_supported_filetypes())


def finished(ax: Axes, legend: bool = True) -> Axes:
    """`ax` with a grid, without a frame, and with its legend."""
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    if legend and ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize="small")
    return ax
