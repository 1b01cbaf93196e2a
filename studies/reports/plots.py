"""The report's pictures: each function draws one matplotlib figure from the records and touches nothing else."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from balred.measures.stability import Trace
from balred.studies.reports.summary import LABELS
from balred.studies.settings.records import RunRecord, Schedule

_COLOURS = {
    "full": "#1f4e79", "truncated": "#c8501e", "small": "#5a8f3c", "guarded": "#8a5a9e", "nuclear": "#b08a1e",
    "squeezed": "#7a4a2b", "random": "#888888",
}  # fmt: skip
Labels = Mapping[str, str]
Window = tuple[int, int]
"""First and last step at which a training may be cut."""
_STYLES = ("-", "--", ":", "-.")
_FLOOR = 1e-6
"""Spectra are drawn down to this share of the largest value: below, float32 parameters mean little."""


def png(figure: Figure, dpi: int = 110) -> str:
    """The figure as a data URI, so that a page needs no other file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _colour(run: str) -> str:
    """Of a run's mode, with which its name begins."""
    return _COLOURS.get(run.partition("-")[0], "0.4")


def _axes(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns, **options)).ravel()
    for ax in axes:
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def _shaded(ax: Any, windows: Sequence[Window]) -> None:
    for i, (start, end) in enumerate(windows):
        ax.axvspan(start, end, color="0.92", zorder=0, label="window: cuts are allowed" if i == 0 else None)


def spectra(records: Sequence[RunRecord], layer: str, labels: Labels = LABELS) -> Figure:
    """Hankel singular values of one layer along the training, a panel for each run, coloured by step."""
    figure, axes = _axes(5.2 * len(records), 4.2, 1, len(records), sharey=True)
    steps = records[0].config.steps
    # the warm-up is where things move, so it gets more than its tenth of the colours
    colours, norm = colormaps["viridis"], PowerNorm(0.4, 0, steps)
    found = [shot.hsv[np.isfinite(shot.hsv)] for r in records for shot in r.snapshots.get(layer, [])]
    top = max((float(np.max(values, initial=0.0)) for values in found), default=0.0) or 1.0
    widest = 1.0
    for ax, record in zip(axes, records, strict=True):
        shots = record.snapshots.get(layer, [])
        for shot in shots:
            # two values of the real operator for each stored state
            values = shot.hsv[(shot.hsv > top * _FLOOR) & np.isfinite(shot.hsv)]
            at = (np.arange(len(values)) + 1) / 2
            widest = max(widest, len(values) / 2)
            ax.semilogy(at, values, color=colours(norm(shot.step)), lw=1.1)
        if record.run.startswith("truncated") and shots:
            kept = record.ranks[layer]
            ax.axvline(kept, color=_COLOURS["truncated"], ls="--", lw=1.2, label=f"{kept} states after the cuts")
            ax.legend(loc="upper right")
        ax.set(
            title=labels.get(record.run, record.run),
            xlabel="stored state (Hankel singular value i / 2)",
            ylim=(top * _FLOOR, top * 2),
        )
    for ax in axes:
        ax.set_xlim(0, 1.03 * widest)
    axes[0].set_ylabel(r"Hankel singular value $\sigma_i$ (gain)")
    ticks = [round(share * steps) for share in (0, 0.01, 0.05, 0.1, 0.25, 0.5, 1)]
    figure.colorbar(ScalarMappable(norm, colours), ax=axes, label="training step", pad=0.01, ticks=ticks)
    return figure


def ranks(
    records: Sequence[RunRecord], trace: Trace | None, layer: str, windows: Sequence[Window], labels: Labels = LABELS
) -> Figure:
    """States of one layer against the step, and what the rule would choose in the full run; the windows are shaded."""
    figure, (ax,) = _axes(8.2, 3.8)
    _shaded(ax, windows)
    for record in records:
        first = record.first_states(layer)
        if first is None:
            continue
        changes = [(0, first)]
        changes += [(report.step, report.ranks[layer]) for report in record.reports if layer in report.ranks]
        changes.append((max(record.steps, changes[-1][0]), record.ranks.get(layer, changes[-1][1])))
        x, y = zip(*changes, strict=True)
        ax.step(x, y, where="post", color=_colour(record.run), lw=2, label=labels.get(record.run, record.run))
    if trace is not None:
        ax.plot(
            trace.steps,
            np.ceil(trace.ranks / 2),
            ".:",
            color=_COLOURS["full"],
            label=f"what the rule would choose in {labels.get('full', 'full').removesuffix(' full')}",
        )
    ax.set(xlabel="training step", ylabel="stored states", yscale="log")
    ticks = [2**k for k in range(1, 12)]
    low, high = ax.get_ylim()
    ax.set_yticks([t for t in ticks if low <= t <= high], [str(t) for t in ticks if low <= t <= high])
    ax.minorticks_off()
    ax.legend()
    return figure


def stability(trace: Trace, config: Schedule) -> Figure:
    """The stability metrics of one layer of the full run, with the step where the choice settled."""
    figure, axes = _axes(10.5, 6.6, 2, 2, sharex=True)
    steps, later = trace.steps, trace.steps[1:]
    axes[0].plot(steps, trace.kendall, ".-", label="Kendall")
    axes[0].plot(steps, trace.spearman, ".-", label="Spearman")
    axes[0].set(title="rank order of the states, against the last step", ylabel="correlation")
    axes[1].plot(steps, np.ceil(trace.ranks / 2), ".-", label="states the rule would choose")
    axes[1].set(title="the rule's choice", ylabel="stored states", ylim=(0, None))
    axes[2].semilogy(later, np.maximum(trace.change, 1e-300), ".-", label=r"largest change of a $\sigma_i$")
    axes[2].semilogy(later, np.maximum(trace.weyl, 1e-300), ".-", label="Weyl bound: Hankel norm of the difference")
    axes[2].set(title="change since the previous checkpoint", xlabel="training step", ylabel="gain (output / input)")
    axes[3].plot(later, np.degrees(trace.angle), ".-", label="largest principal angle")
    axes[3].set(
        title="turn of the dominant subspace; tail energy", xlabel="training step", ylabel="degrees", ylim=(0, 92)
    )
    right = axes[3].twinx()
    right.plot(steps, 100 * trace.tail, ".-", color="C2", label="tail energy (right axis)")
    right.set(ylabel="% of the sum of all values", ylim=(0, None))
    for ax in axes:
        _shaded(ax, [(0, config.last_cut)])
        if trace.settled is not None:
            ax.axvline(trace.settled, color="k", ls="--", lw=1.2, label=f"choice settled: step {trace.settled}")
    for ax in axes[:3]:
        ax.legend(fontsize="small")
    lines = [axes[3].lines[0], right.lines[0]]
    axes[3].legend(lines, [str(line.get_label()) for line in lines], fontsize="small", loc="upper right")
    return figure


def accuracy(groups: Sequence[tuple[str, Sequence[RunRecord]]], labels: Labels = LABELS) -> Figure:
    """Test accuracy against the wall time, and training loss against the step; a group has a run's records of all seeds."""
    figure, axes = _axes(10.5, 4.0, 1, 2)
    seen: dict[str, int] = {}
    for run, records in groups:
        label, colour = labels.get(run, run), _colour(run)
        number = seen[colour] = seen.get(colour, -1) + 1
        for i, record in enumerate(records):
            if not record.points:
                continue
            style: dict[str, Any] = {"color": colour, "lw": 1.6, "label": label if i == 0 else None}
            style["ls"] = _STYLES[number % len(_STYLES)]
            seconds = [p.seconds for p in record.points]
            values = [100 * p.accuracy for p in record.points]
            axes[0].plot(seconds, values, **style)
            axes[0].plot(seconds[-1], values[-1], "o", color=colour, ms=5)
            axes[1].semilogy([p.step for p in record.points], [max(p.loss, 1e-6) for p in record.points], **style)
    axes[0].set(xlabel="wall time of the training, s", ylabel="test accuracy, %", xlim=(0, None))
    axes[1].set(xlabel="training step", ylabel="training loss (one batch)")
    for ax in axes:
        if ax.get_legend_handles_labels()[0]:
            ax.legend()
    return figure


def dimensions(groups: Sequence[tuple[str, Sequence[tuple[float, float]]]]) -> Figure:
    """Test accuracy (in per cent) against final dimension; a group is a kind of model, with a point for each row."""
    figure, (ax,) = _axes(8.2, 4.0)
    for number, (kind, points) in enumerate(groups):
        x, y = zip(*sorted(points), strict=True)
        ax.plot(x, y, "osd^v<>"[number % 7], color=_colour(kind), label=kind, ms=6, alpha=0.8)
    ax.set(xlabel="stored states, mean over layers", ylabel="test accuracy, %", xlim=(0, None))
    ax.legend()
    return figure
