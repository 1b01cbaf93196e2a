"""What a pass of data through a model leaves of its layers: sums over their runs, or why there are none.

A framework sees where the operator of a layer sits, and pulls directions of the model's answer back to it.  What the
predictions are, which of them count, which directions are pulled, and what is added up is the same for all of them, and here.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from balred.layers.along_data import DataSums, data_sums, stacked_sums
from balred.layers.operator_place import Place
from balred.selection.calibration import Batch
from balred.selection.directions import Directions
from balred.systems.arrays import Array, to_numpy
from balred.systems.batches import member
from balred.systems.leaves import System

Host = NDArray[Any]

NOT_FOUND = "no tensor in it is the output of its linear operator"
NO_INPUT = "it is not called with a tensor"
_NOT_REACHED = "the data do not run through it"
_MASKED = "the mask leaves none of its positions"


class Passage(NamedTuple):
    """One run of a layer.

    Attributes
    ----------
    u : array
        What entered it.
    place : Place
        How the input and the output of its operator lie.
    gradients : list of arrays, or None
        At the output, in its layout, one for each scalar; None where the answer does not depend on it, or none were asked for.
    member : int, optional
        Which member of a stack of layers ran.
    """

    u: Array
    place: Place
    gradients: list[Array] | None
    member: int | None = None


class Passages:
    """What is known of the layers of a model after some batches of data.

    Parameters
    ----------
    layers : dict
        By name the object and the system of each; an object under several names is one layer.
    wanted : bool
        Whether gradients are.
    max_bytes : int, optional
        As for :func:`balred.layers.along_data.data_sums`.
    """

    def __init__(self, layers: Mapping[str, tuple[Any, System]], *, wanted: bool, max_bytes: int | None = None) -> None:
        self._layers, self._wanted, self._max_bytes = layers, wanted, max_bytes
        self._first = {id(layer): name for name, (layer, _) in reversed(list(layers.items()))}
        self.unseen: dict[str, str] = {}
        """By name why a layer was not seen."""
        self._found: dict[str, DataSums] = {}

    @property
    def once(self) -> dict[str, tuple[Any, System]]:
        """Each object under the first of its names."""
        return {name: self._layers[name] for name in self._first.values()}

    def name_of(self, layer: Any) -> str | None:
        """The first of the names of an object; None if it is no layer."""
        return self._first.get(id(layer))

    def add(self, name: str, runs: Iterable[Passage], batch: Batch, predictions: float) -> None:
        """Add up the runs of a layer on a batch, with gradients of so many predictions."""
        several = list(runs)
        if name in self.unseen:
            return
        if missing := [run for run in several if self._wanted and run.gradients is None]:
            self.unseen[name] = f"the model's output does not depend on it in {len(missing)} of {len(several)} runs"
            return
        system = self._layers[name][1]
        members = range(system.B.shape[0]) if any(run.member is not None for run in several) else (None,)
        parts = [[run for run in several if run.member == one] for one in members]
        if len({len(runs) for runs in parts}) > 1:
            self.unseen[name] = "not all members of the stack run equally often"
        elif parts[0]:
            sums = [_added(_summed(system, run, batch, self._max_bytes) for run in runs) for runs in parts]
            total = (sums[0] if members == (None,) else stacked_sums(sums)).of(predictions)
            self._found[name] = self._found[name] + total if name in self._found else total

    def told(self) -> dict[str, DataSums | str]:
        """Of each layer, under each of its names, the sums, or why there are none."""
        found: dict[str, DataSums | str] = {}
        for name, (layer, _) in self._layers.items():
            first = self._first[id(layer)]
            sums: DataSums | str = self._found.get(first, _NOT_REACHED)
            if isinstance(sums, DataSums) and not (sums.positions and (sums.Q is None or sums.predictions)):
                sums = _MASKED
            found[name] = self.unseen.get(first, sums)
        return found


def _added(parts: Iterable[DataSums]) -> DataSums:
    return reduce(operator.add, parts)


def _summed(system: System, run: Passage, batch: Batch, max_bytes: int | None) -> DataSums:
    """The sums of one run, over all directions in which the layer runs."""
    system = system if run.member is None else member(system, run.member)
    draws: list[Array | None] = [None] if run.gradients is None else [*run.gradients]
    several = [list(run.place.signals(system, run.u, w)) for w in draws]
    mask = mask_of(batch, several[0][0][0].shape[-3:-1])
    parts = [
        data_sums(
            system,
            ways[0][0],
            None if run.gradients is None else [w for _, w in ways],
            mask if mask is None or i == 0 else np.flip(mask, axis=-1),
            max_bytes=max_bytes,
        )
        for i, ways in enumerate(zip(*several, strict=True))
    ]
    return _added(parts)


def mask_of(batch: Batch, shape: Iterable[int]) -> Host | None:
    """The attention mask of a batch, on the host, if it is one of these positions.

    Examples
    --------
    >>> mask_of(((), {"attention_mask": np.ones((2, 3))}), (2, 4)) is None
    True
    """
    mask: Any = batch[1].get("attention_mask")
    return to_numpy(mask) if tuple(getattr(mask, "shape", ())) == tuple(shape) else None


def predicted(answer: Any, is_numbers: Callable[[Any], bool]) -> Array:
    """The predictions, (..., values), in whatever a model returns: its logits, or the first array of floating-point numbers.

    Parameters
    ----------
    answer : array, mapping, sequence, or object with `logits`
    is_numbers : callable
        Whether something is such an array of the framework.

    Raises
    ------
    ValueError
        The answer holds no such array.

    Examples
    --------
    >>> predicted({"loss": 0.0, "logits": np.ones((2, 3))}, lambda x: isinstance(x, np.ndarray)).shape
    (2, 3)
    """
    logits = answer.get("logits") if isinstance(answer, Mapping) else getattr(answer, "logits", None)
    values = answer.values() if isinstance(answer, Mapping) else answer if isinstance(answer, (list, tuple)) else ()
    for x in (answer, logits, *values):
        if is_numbers(x) and x.ndim > 0:
            return x if x.ndim > 1 else x[:, None]
    raise ValueError(f"a model must return a tensor of predictions on calibration data, got {type(answer).__name__}")


def predictions_in(shape: Iterable[int], mask: Host | None) -> float:
    """How many predictions an answer (..., values) holds, or of them those that count."""
    return float(math.prod(list(shape)[:-1]) if mask is None else mask.sum())


def directions(z: Host, mask: Host | None, batch: Batch, drawn: Directions) -> Iterator[Host]:
    """Directions of the predictions `z` on the host, zero where they do not count: each is pulled back, one after the other."""
    args, kwargs = batch
    given = [x for x in (*args, *(kwargs[k] for k in sorted(kwargs))) if getattr(x, "ndim", 0) > 0]
    inputs = [to_numpy(x) for x in given if len(x) == len(given[0])]
    for W in drawn.of(z.astype(np.float64), inputs):
        yield W if mask is None else W * mask[..., None]
