r"""A rule in units of the model's answers: the fewest states with which it stays close to the full model, measured on data.

The values predict how far the answers move, and give the order in which the states of all layers are removed.  How many are removed is
decided by cutting, running and comparing.  More states are not always better, so only what was measured is promised.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Host = NDArray[Any]
_KINDS = {"logits": "nats for each prediction", "values": "of the mean square"}


class Measured(NamedTuple):
    """A measured divergence: its value, its standard error, and the number of sequences."""

    value: float
    error: float
    sequences: int


@dataclass(frozen=True)
class Divergence:
    r"""Keep the fewest states, in all layers of a model together, for which its answers stay within `tolerance`.

    Parameters
    ----------
    tolerance : float
        The largest divergence that is allowed; positive.
    of : {"logits", "values"} or callable, default "logits"
        The measure of closeness.  "logits": the mean Kullback-Leibler divergence from the full model in nats; the outputs are
        logits over their last axis.  "values": the squared difference relative to the mean square of the outputs.
        A callable ``of(full, small)`` gets the outputs (sequences, ...) of both models as NumPy arrays, and returns a number
        for each sequence.
    multiple_of : int, default 1
        Ranks are multiples of this, unless a layer keeps all of its states.

    Notes
    -----
    The divergence is measured on a quarter of the calibration data.  This quarter is not used to choose the states.
    The mean of the divergence plus one standard error over these sequences must be within `tolerance`.  With more
    sequences the result holds better on other data.

    Examples
    --------
    >>> Divergence(0.01).measure([(np.zeros((4, 2)), np.zeros((4, 2)), None)])
    Measured(value=0.0, error=0.0, sequences=4)
    """

    tolerance: float
    of: Any = "logits"
    multiple_of: int = 1

    def __post_init__(self) -> None:
        number = isinstance(self.tolerance, (int, float, np.number)) and not isinstance(self.tolerance, bool)
        if not number or not 0 < self.tolerance < np.inf:
            raise ValueError(f"tolerance must be a positive number, got {self.tolerance!r}")
        if self.of not in _KINDS and not callable(self.of):
            raise ValueError(f"of must be logits, values or a function of two outputs, got {self.of!r}")
        whole = isinstance(self.multiple_of, (int, np.integer)) and not isinstance(self.multiple_of, bool)
        if not whole or self.multiple_of < 1:
            raise ValueError(f"multiple_of must be a positive integer, got {self.multiple_of!r}")

    @property
    def unit(self) -> str:
        """What the tolerance is measured in."""
        return "by the function given" if callable(self.of) else _KINDS[self.of]

    def measure(self, answers: Any) -> Measured:
        """The divergence over batches of (full outputs, smaller model's outputs, which predictions count or None)."""
        parts, weights = [], []
        total = counted = 0.0
        for full, small, mask in answers:
            full, small = (np.asarray(x, dtype=np.float64) for x in (full, small))
            counts = np.ones(full.shape[:-1]) if mask is None else np.asarray(mask, dtype=np.float64)
            if callable(self.of):
                each = np.asarray(self.of(full, small), dtype=np.float64).reshape(-1)
                if len(each) != len(full):
                    raise ValueError(f"of must return a number for each of {len(full)} sequences, got {len(each)}")
                weight = np.ones(len(full))
            else:
                each, weight = (_by_sequence(x * counts) for x in (self._each(full, small), np.ones(full.shape[:-1])))
                total += float((counts * (full**2).sum(-1)).sum())
            counted += float(weight.sum())
            parts.append(each)
            weights.append(weight)
        each, weight = np.concatenate(parts), np.concatenate(weights)
        # what each sequence adds to a ratio of two sums
        scale = (total if self.of == "values" else counted) or 1.0
        value = float(each.sum() / scale)
        rest = each - value * weight * scale / max(counted, 1e-300)
        error = float(np.sqrt((rest**2).sum() * len(each) / max(len(each) - 1, 1)) / scale)
        return Measured(value, error, len(each))

    def holds(self, measured: Measured) -> bool:
        """Whether the mean plus one standard error is within the tolerance; False for NaN."""
        return measured.value + measured.error <= self.tolerance

    def _each(self, full: Host, small: Host) -> Host:
        if self.of == "values":
            return np.asarray(((small - full) ** 2).sum(-1))
        if full.shape[-1] < 2:
            raise ValueError(
                "logits must have at least two classes, got outputs of one value: use Divergence(..., of='values')"
            )
        a, b = log_softmax(full), log_softmax(small)
        return np.asarray((np.exp(a) * (a - b)).sum(-1))


def _by_sequence(x: Host) -> Host:
    return np.asarray(x.reshape(len(x), -1).sum(-1))


def log_softmax(z: Host) -> Host:
    """Logarithms of probabilities from logits, over the last axis."""
    z = z - z.max(axis=-1, keepdims=True)
    return np.asarray(z - np.log(np.exp(z).sum(axis=-1, keepdims=True)))


def least(holds: Callable[[int], bool], low: int, high: int) -> int | None:
    """The least number from `low` to `high` of those tried for which `holds`; None if it holds for none of them.

    Bisection, as if what holds for a number held for all larger ones; then a look further down, since it need not, and
    bisection again below what is found there.

    Examples
    --------
    >>> least(lambda k: k >= 37, 1, 200)
    37
    >>> least(lambda k: k in range(20, 31) or k > 60, 1, 100)  # what holds lower down is found too
    20
    """
    known: dict[int, bool] = {}

    def tried(k: int) -> bool:
        if k not in known:
            known[k] = holds(k)
        return known[k]

    best = next((k for k in (high, *_further_down(low, high)) if tried(k)), None)
    while best is not None:
        under = max((k for k in known if k < best and not known[k]), default=low - 1)
        while best - under > 1:
            middle = (best + under) // 2
            best, under = (middle, under) if tried(middle) else (best, middle)
        lower = [k for k in _further_down(low, best) if tried(k)]
        if not lower:
            return best
        best = min(lower)
    return None


def _further_down(low: int, top: int) -> list[int]:
    return sorted({k for k in (top - 1, round(top * 0.9), round(top * 0.75), round(top * 0.5)) if low <= k < top})
