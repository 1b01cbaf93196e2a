"""What people pass as calibration data: one batch, or any iterable of batches, in any framework's arrays."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from balred.selection.selecting import SELECTIONS

_LABELS = ("label", "labels", "label_ids", "target", "targets", "y")
_HOW = "pass what the model is called with, such as [x for x, y in loader]"
_RULE = "calibration must be an array, a dict of keyword inputs, or an iterable of either"


def batches(
    calibration: Any, arrays: tuple[type, ...], takes: inspect.Signature | None = None
) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The positional and keyword arguments of a model for each batch.

    Parameters
    ----------
    calibration : array, dict of keyword inputs, or iterable of either
        A list or tuple of one array stands for the array: what loaders of data sets without labels yield.  Of several arrays, what
        loaders with labels yield, the first is the input of a model that takes one.  Labels in a dict are left out where the model
        takes none.
    arrays : tuple of types
        What counts as an array.
    takes : inspect.Signature, optional
        Of the model.

    Raises
    ------
    ValueError
        Something else is given, or nothing; batches are not alike; the model has no such inputs.

    Examples
    --------
    >>> import numpy as np
    >>> from balred.selection.calibration import batches
    >>> [(len(args), list(kwargs)) for args, kwargs in batches([np.ones(3), {"x": np.ones(3)}], (np.ndarray,))]
    [(1, []), (0, ['x'])]
    >>> one = inspect.signature(lambda x: x)
    >>> [args[0].shape for args, _ in batches([(np.ones((2, 3)), np.ones(2))], (np.ndarray,), one)]
    [(2, 3)]
    """
    if isinstance(calibration, (*arrays, Mapping)):
        calibration = (calibration,)
    elif not isinstance(calibration, Iterable) or isinstance(calibration, (str, bytes)):
        raise ValueError(f"{_RULE}, got {calibration!r}")
    first: str | None = None
    for batch in calibration:
        args, kwargs = _arguments(batch, arrays, takes)
        for x in args:
            kind = f"{x.dtype} with {x.ndim} axes"
            first = first or kind
            if kind != first:
                raise ValueError(f"batches must be alike, got {kind} after {first}: {_HOW}")
        yield args, kwargs
        first = first or ""
    if first is None:
        raise ValueError("calibration must hold at least one batch, got none")


def _arguments(
    batch: Any, arrays: tuple[type, ...], takes: inspect.Signature | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(batch, (list, tuple)) and batch and all(isinstance(x, (*arrays, Mapping)) for x in batch):
        if len(batch) > 1 and _inputs(takes) != 1:
            raise ValueError(f"{_RULE}, got one of {len(batch)} arrays, of which any may be an input: {_HOW}")
        batch = batch[0]
    if not isinstance(batch, (*arrays, Mapping)):
        raise ValueError(f"{_RULE}, got one of {type(batch).__name__}: {_HOW}")
    if not isinstance(batch, Mapping):
        return (batch,), {}
    kwargs = dict(batch)
    if not any(isinstance(x, arrays) for x in kwargs.values()):
        got = ", ".join(f"{k} of {type(x).__name__}" for k, x in kwargs.items()) or "none"
        raise ValueError(
            f"a dict of keyword inputs must have arrays, got {got}: a tokenizer gives tensors with return_tensors"
        )
    known = None if takes is None else takes.parameters
    if known is not None:
        kwargs = {k: x for k, x in kwargs.items() if k in known or k not in _LABELS}
        any_name = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
        strange = [] if any_name else [k for k in kwargs if k not in known]
        if strange:
            raise ValueError(
                f"a dict must have the model's inputs, {', '.join(known)}, got {', '.join(strange)} as well: {_HOW}"
            )
    return (), kwargs


def _inputs(takes: inspect.Signature | None) -> int | None:
    """How many positional inputs a model takes; None if that is not known."""
    if takes is None:
        return None
    kinds = [p.kind for p in takes.parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return None
    return sum(k in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) for k in kinds)


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

    def tried(self) -> Calibration | None:
        """The first batch alone, to see at once whether a model runs on it; None if a function has none yet.

        Raises
        ------
        ValueError
            The data can be gone through once only.
        """
        if callable(self.data):
            try:
                data = self.data()
            except Exception:  # it may collect what a training has not seen yet
                return None
        else:
            data = self.data
        if isinstance(data, Mapping) or hasattr(data, "shape") or not isinstance(data, Iterable):
            return replace(self, data=data)
        if isinstance(data, Iterator) and not callable(self.data):
            raise ValueError(
                "calibration must be data that every attempt can go through, such as a list, a loader or a function that "
                f"returns them, got {type(data).__name__}, which gives them once"
            )
        one = list(islice(data, 1))
        return None if callable(self.data) and not one else replace(self, data=one)


def calibration_of(given: Any) -> Calibration | None:
    """Data, a function, a :class:`Calibration` or None as what the layers are measured with."""
    return given if given is None or isinstance(given, Calibration) else Calibration(given)
