"""What came out of a demo, in cells and sentences: the terminal and the report show the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from balred.studies.settings.records import RUNS, DemoResult, RunName

LABELS = {"full": "(a) full", "truncated": "(b) truncated", "small": "(c) small"}


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean, with the sample standard deviation if there are several.

    Examples
    --------
    >>> spread([1.0]), spread([1.0, 3.0])
    ('1.0', '2.0 ± 1.4')
    """
    if not values:
        return "-"
    mean = f"{np.mean(values):.{digits}f}"
    return f"{mean} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else mean


def ratios(result: DemoResult, over: RunName, of: RunName) -> list[float]:
    """Wall time of `over` divided by that of `of`, seed by seed, where both finished."""
    a, b = ({r.seed: r.seconds for r in result.of(run, finished=True)} for run in (over, of))
    return [a[seed] / b[seed] for seed in a if seed in b]


HEADINGS = (
    "run",
    "test accuracy %",
    "states by layer",
    "wall time s",
    "speed-up over (a)",
    "time / time of (c)",
    "steps",
)


def summary(result: DemoResult) -> list[tuple[str, ...]]:
    """The cells of the final table, one row for each kind of run: the terminal and the report show the same."""
    rows: list[tuple[str, ...]] = []
    for run in RUNS:
        records = result.of(run)
        done = [r for r in records if r.finished]
        if not records:
            continue
        accuracies = [100 * r.accuracy for r in done or records if r.accuracy is not None]
        states = ", ".join("+".join(str(n) for n in r.ranks.values()) for r in done or records)
        steps = str(result.config.steps) if done else f"{records[0].steps} of {result.config.steps}"
        rows.append(
            (
                LABELS[run],
                spread(accuracies),
                states,
                spread([r.seconds for r in done or records]),
                spread(ratios(result, "full", run), 2),
                spread(ratios(result, run, "small"), 2),
                steps,
            )
        )
    return rows


def verdicts(result: DemoResult) -> list[str]:
    """What came out, in sentences, as it is."""
    lines = []
    means = {
        run: 100 * float(np.mean([r.accuracy for r in result.of(run, finished=True) if r.accuracy is not None]))
        for run in RUNS
        if result.of(run, finished=True)
    }
    if "truncated" in means and "full" in means:
        speed, gap = float(np.mean(ratios(result, "full", "truncated"))), means["truncated"] - means["full"]
        lines.append(f"(b) is {speed:.2f} times as fast as (a); its accuracy differs from (a)'s by {gap:+.1f} points.")
    if "truncated" in means and "small" in means:
        share, gap = float(np.mean(ratios(result, "truncated", "small"))), means["truncated"] - means["small"]
        lines.append(
            f"(b) took {share:.2f} times as long as (c); its accuracy differs from (c)'s by {gap:+.1f} points."
        )
    for name, metrics in result.traces.items():
        where = f"from step {metrics.settled} on" if metrics.settled is not None else "at no step before the last"
        lines.append(f"In (a), seed {result.seeds[0]}, the rank that the rule chooses for {name} had settled {where}.")
    return lines
