"""What people pass as calibration data: one batch, or any iterable of batches, in any framework's arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

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
