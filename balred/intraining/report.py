"""What happened at an attempt, as a value that prints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from balred.ranks.shown import table_html


@dataclass(frozen=True)
class Cut:
    """One layer's cut: ranks before and after, the share of the sum of Hankel singular values that is kept, and the error bound.

    The bound is the a-priori bound of the H-infinity error.  For a selective layer `energy` is the share of its output's energy on the
    calibration data, and the bound is NaN.

    Examples
    --------
    >>> cut = Cut("ssm", before=64, after=16, energy=0.99, bound=0.02)
    >>> cut.before - cut.after
    48
    """

    layer: str
    before: int
    after: int
    energy: float
    bound: float
    note: str = ""
    """What else a reader must know, such as what the layer was balanced on."""


@dataclass(frozen=True)
class Report:
    """The result of an attempt: cuts, skipped layers, loss, and whether a cut was taken back.

    Attributes
    ----------
    step : int
    cuts : tuple of Cut
        Empty if nothing was cut (or all was taken back).
    ranks : dict
        The rank afterwards of every layer that could be read.
    skipped : dict
        Layers that could not be analysed or cut, and why.
    restored : bool
        Whether the guard restored the state before the last cut.
    seconds : float
        Time spent on analysis and cut.
    dry_run : bool
        The cuts were not carried out.
    loss : (float, float), optional
        The loss of the last batch before and after the cut, if it was measured.
    back_to : int, optional
        With `restored`: the step whose state was restored.

    Examples
    --------
    >>> print(Report(100, (Cut("ssm", 64, 16, energy=0.99, bound=0.02),), {"ssm": 16}))
    step 100: ssm 64 -> 16 states, 99.00 % of the energy, error bound 0.02
    """

    step: int
    cuts: tuple[Cut, ...]
    ranks: Mapping[str, int]
    skipped: Mapping[str, str] = field(default_factory=dict)
    restored: bool = False
    seconds: float = 0.0
    dry_run: bool = False
    loss: tuple[float, float] | None = None
    back_to: int | None = None

    def _repr_html_(self) -> str:
        """A table of the cuts, for notebooks."""
        if not self.cuts:
            return table_html(("",), [(line,) for line in str(self).split("\n")])
        rows = [
            (c.layer or "layer", str(c.before), str(c.after), f"{c.energy:.4f}", "" if math.isnan(c.bound) else f"{c.bound:.3g}", c.note)
            for c in self.cuts
        ]  # fmt: skip
        loss = [] if self.loss is None else [f"loss of the last batch {self.loss[0]:.4g} -> {self.loss[1]:.4g}"]
        notes = [*loss, *(f"{name or 'layer'} skipped: {why}" for name, why in self.skipped.items())]
        caption = f"step {self.step}{', dry run' if self.dry_run else ''}"
        return table_html(("layer", "from", "to", "energy", "error bound", ""), rows, caption, notes)

    def __str__(self) -> str:
        if self.restored:
            return f"step {self.step}: the last cut was taken back, because the metric got worse by more than the guard's tolerance"
        lines = [
            f"step {self.step}: {c.layer or 'layer'} {'would be ' if self.dry_run else ''}{c.before} -> {c.after} states, "
            f"{100 * c.energy:.2f} % of the energy"
            + ("" if math.isnan(c.bound) else f", error bound {c.bound:.3g}")
            + (f", {c.note}" if c.note else "")
            for c in self.cuts
        ] or [f"step {self.step}: nothing cut"]
        if self.loss is not None:
            lines.append(f"step {self.step}: loss of the last batch {self.loss[0]:.4g} -> {self.loss[1]:.4g}")
        return "\n".join(
            lines + [f"step {self.step}: {name or 'layer'} skipped: {why}" for name, why in self.skipped.items()]
        )
