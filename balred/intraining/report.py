"""What happened at an attempt, as a value that prints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cut:
    """One layer's cut: ranks before and after, share of the sum of HSVs kept, a-priori bound on the H-infinity error.

    Of a selective layer the energy is that of its output on the calibration data, and there is no bound (NaN).
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
    """What happened at an attempt.

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
        The loss of the last batch before and after the cut, where it was measured.
    back_to : int, optional
        With `restored`: the step whose state was restored.
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

    def __str__(self) -> str:
        if self.restored:
            return f"step {self.step}: the last cut was taken back, the metric got worse by more than the guard's tolerance"
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
