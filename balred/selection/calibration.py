"""What people pass as calibration data: one batch, or any iterable of batches, in any framework's arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from balred.selection.selecting import SELECTIONS

_RULE = "calibration must be an array, a dict of keyword inputs, or an iterable of either"


def batches(calibration: Any, arrays: tuple[type, ...]) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The positional and keyword arguments of a model for each batch.

    Parameters
    ----------
    calibration : array, dict of keyword inputs, or iterable of either
        A list or tuple of one array stands for the array: what loaders of data sets without labels yield.
    arrays : tuple of types
        What counts as an array.

    Raises
    ------
    ValueError
        Something else is given, or nothing.

    Examples
    --------
    >>> import numpy as np
    >>> from balred.selection.calibration import batches
    >>> [(len(args), list(kwargs)) for args, kwargs in batches([np.ones(3), {"x": np.ones(3)}], (np.ndarray,))]
    [(1, []), (0, ['x'])]
    """
    if isinstance(calibration, (*arrays, Mapping)):
        calibration = (calibration,)
    elif not isinstance(calibration, Iterable) or isinstance(calibration, (str, bytes)):
        raise ValueError(f"{_RULE}, got {calibration!r}")
    empty = True
    for batch in calibration:
        if isinstance(batch, (list, tuple)) and len(batch) == 1:
            (batch,) = batch
        if not isinstance(batch, (*arrays, Mapping)):
            raise ValueError(f"{_RULE}, got one of {type(batch).__name__}")
        empty = False
        yield ((), dict(batch)) if isinstance(batch, Mapping) else ((batch,), {})
    if empty:
        raise ValueError("calibration must hold at least one batch, got none")


@dataclass(frozen=True)
class Calibration:
    """Data for selective layers, and how their states are chosen.

    Parameters
    ----------
    data : tensor, dict of keyword inputs, iterable of either, or a function without arguments that returns such
        What the model is called with; a function is called at every attempt, so that it can return recent batches.
    selection : {"joint", "separate", "random"}, default "joint"
        As in :func:`balred.reduce`; the others are there to compare with.
    compensate : bool, default True
        Refit C where the layer allows it.
    seed : int, default 0
        Of "random".

    Raises
    ------
    ValueError
        There is no such selection.

    Examples
    --------
    >>> Calibration(lambda: {"input_ids": [[1, 2]]}).now()
    {'input_ids': [[1, 2]]}
    """

    data: Any
    selection: str = "joint"
    compensate: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.selection not in SELECTIONS:
            raise ValueError(f"selection must be one of {', '.join(SELECTIONS)}, got {self.selection!r}")

    def now(self) -> Any:
        """The data."""
        return self.data() if callable(self.data) else self.data


def calibration_of(given: Any) -> Calibration | None:
    """Data, a function, a :class:`Calibration` or None as what the layers are measured with."""
    return given if given is None or isinstance(given, Calibration) else Calibration(given)
