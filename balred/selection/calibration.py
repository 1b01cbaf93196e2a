"""Calibration data: one batch, or any iterable of batches, in arrays of any framework."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, TypeAlias

from balred.selection.directions import check_scalar
from balred.selection.selecting import SELECTIONS

_LABELS = ("label", "labels", "label_ids", "target", "targets", "y")
_HOW = "pass the inputs of the model, such as [x for x, y in loader]"
BALANCED_ON = ("data", "inputs", "noise")
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
        if any(0 in getattr(x, "shape", ()) for x in (*args, *kwargs.values())):
            continue  # no sequences, or none of any length
        for x in args:
            kind = f"{x.dtype} with {x.ndim} axes"
            first = first or kind
            if kind != first:
                raise ValueError(f"batches must be alike, got {kind} after {first}: {_HOW}")
        yield args, kwargs
        first = first or ""
    if first is None:
        raise ValueError("calibration must hold at least one batch, got none, or empty ones")


def _arguments(
    batch: Any, arrays: tuple[type, ...], takes: inspect.Signature | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(batch, (list, tuple)) and batch and all(isinstance(x, (*arrays, Mapping)) for x in batch):
        if len(batch) > 1 and _inputs(takes) != 1:
            raise ValueError(
                f"{_RULE}, got a batch of {len(batch)} arrays, and it is not said which of them are inputs: {_HOW}"
            )
        batch = batch[0]
    if not isinstance(batch, (*arrays, Mapping)):
        raise ValueError(f"{_RULE}, got a batch of type {type(batch).__name__}: {_HOW}")
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


Batch: TypeAlias = "tuple[tuple[Any, ...], dict[str, Any]]"
"""Positional and keyword arguments of a model."""


def ran(model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What a model makes of a batch, or an error that says what it was called with.

    Examples
    --------
    >>> import numpy as np
    >>> from balred.selection.calibration import ran
    >>> ran(lambda x: 1 // len(x), (np.ones((0, 3)),), {})
    Traceback (most recent call last):
        ...
    ValueError: the model must run on the calibration data, got ZeroDivisionError: integer division or modulo by zero, called with float64 of (0, 3)
    """
    try:
        return model(*args, **kwargs)
    except Exception as error:
        given = ", ".join([*(_described(x) for x in args), *(f"{k}={_described(x)}" for k, x in kwargs.items())])
        raise ValueError(
            f"the model must run on the calibration data, got {type(error).__name__}: {error}, called with {given}"
        ) from error


def _described(x: Any) -> str:
    known = hasattr(x, "dtype") and hasattr(x, "shape")
    return f"{str(x.dtype).removeprefix('torch.')} of {tuple(x.shape)}" if known else type(x).__name__


def kept_out(given: Iterable[Batch], share: int = 4) -> tuple[list[Batch], list[Batch]]:
    """Batches in two: to choose on, and to measure on, which is one sequence of `share`.

    Every batch is cut where it has so many sequences in its first axis; of smaller ones every so many-th goes whole.

    Raises
    ------
    ValueError
        There are too few for both.

    Examples
    --------
    >>> import numpy as np
    >>> [[len(args[0]) for args, _ in part] for part in kept_out([((np.ones((8, 2)),), {}), ((np.ones((4, 2)),), {})])]
    [[6, 3], [2, 1]]
    """
    choose: list[Batch] = []
    measure: list[Batch] = []
    whole = 0
    for args, kwargs in given:
        count = _count(args, kwargs)
        if count >= share:
            cut = count - count // share
            choose.append(_sliced(args, kwargs, count, slice(0, cut)))
            measure.append(_sliced(args, kwargs, count, slice(cut, count)))
        else:
            whole += 1
            (choose if whole % share else measure).append((args, kwargs))
    if not choose or not measure:
        raise ValueError(
            f"there must be at least {share} calibration sequences, because a divergence is measured on a part that is kept apart, "
            "got fewer"
        )
    return choose, measure


def at_most(given: Iterable[Batch], sequences: int | None) -> Iterator[Batch]:
    """The first so many sequences, which lie along the first axis of arrays; all of them with None.

    Examples
    --------
    >>> import numpy as np
    >>> [len(args[0]) for args, _ in at_most([((np.ones((8, 2)),), {}), ((np.ones((8, 2)),), {})], 10)]
    [8, 2]
    """
    left = sequences
    for args, kwargs in given:
        count = _count(args, kwargs)
        if left is not None and count > left:
            yield _sliced(args, kwargs, count, slice(0, left))
            return
        yield args, kwargs
        if left is not None and (left := left - count) <= 0:
            return


def as_given(given: Iterable[Batch]) -> list[Any]:
    """Batches as :func:`batches` takes them."""
    return [args[0] if args else kwargs for args, kwargs in given]


def _count(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    return next((len(x) for x in (*args, *kwargs.values()) if getattr(x, "ndim", 0) > 0), 0)


def _sliced(args: tuple[Any, ...], kwargs: dict[str, Any], count: int, now: slice) -> Batch:
    def part(x: Any) -> Any:
        return x[now] if getattr(x, "ndim", 0) > 0 and len(x) == count else x

    return tuple(part(x) for x in args), {k: part(x) for k, x in kwargs.items()}


@dataclass(frozen=True)
class Calibration:
    """Data for the layers of a model, and how their states are chosen on them.

    Parameters
    ----------
    data : tensor, dict of keyword inputs, iterable of either, or a function without arguments that returns such
        Inputs of the model.  A function is called at every attempt, so it can return recent batches.
    selection : {"joint", "separate", "random"}, default "joint"
        How the states of selective layers are chosen: "joint" chooses a set, "separate" takes each state by its own
        energy, "random" draws states.  The last two are there for comparisons.
    compensate : bool, default True
        Refit C if the layer allows it.
    seed : int, default 0
        The seed of "random", and of the directions that `scalar` draws.
    balanced_on : {"data", "inputs", "noise"}, optional
        What the states of layers with an operator are ranked by.  "data": the layer's inputs, and gradients of a scalar
        of the model's outputs; "inputs": only its inputs; "noise": white noise.  The default is "data" if there are
        data.  A layer whose signals cannot be seen is then balanced on noise, and a note says so.
    scalar : {"outputs", "tempered", "fisher"} or callable, default "outputs"
        The scalar whose gradients are taken, see :func:`balred.selection.directions.direction`.  A function gets what
        the model returns, and returns a scalar.
    sequences : int, optional
        Layers with an operator are balanced on this number of sequences, the first ones.  The default is 32 in a
        training, and all sequences otherwise.  Selective layers are measured on all sequences.
    max_bytes : int, optional
        The most memory for the states of a layer with an operator along the data, and for their sums.  The default is 192 MiB.  One
        position of one sequence is always held.  The model's own run on a batch needs more: pass smaller batches to reduce it.
    vmapped : bool, optional
        For a model of JAX: whether it takes one sequence, and is mapped over the sequences of a batch, which lie along
        the first axis.  By default this is found out.
    progress : callable, optional
        Shows the progress of each pass over the batches.  It is called with the batches and returns them, as
        ``tqdm.auto.tqdm`` and ``rich.progress.track`` do.
    kept : dict, optional
        A framework that compiles keeps its programs here from one call to the next.  A reducer has a dict of its own.

    Raises
    ------
    ValueError
        An option has an unknown value, or there are no data to balance on.

    Examples
    --------
    >>> Calibration(lambda: {"input_ids": [[1, 2]]}).now()
    {'input_ids': [[1, 2]]}
    """

    data: Any
    selection: str = "joint"
    compensate: bool = True
    seed: int = 0
    balanced_on: str | None = None
    scalar: Any = "outputs"
    sequences: int | None = None
    max_bytes: int | None = None
    vmapped: bool | None = None
    progress: Callable[[Any], Iterable[Any]] | None = field(default=None, repr=False, compare=False)
    kept: dict[Any, Any] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_scalar(self.scalar)
        on = self.balanced_on
        if on is not None and not (isinstance(on, str) and on in BALANCED_ON):
            raise ValueError(f"balanced_on must be one of {', '.join(BALANCED_ON)}, got {self.balanced_on!r}")
        if self.data is None and self.balanced_on in ("data", "inputs"):
            raise ValueError(f"balanced_on={self.balanced_on!r} needs calibration data, got none")
        for name in ("sequences", "max_bytes"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if callable(self.data) and not _takes_nothing(self.data):
            raise ValueError(
                f"calibration must be data or a function without arguments, got {self.data!r}, which takes some"
            )
        if self.progress is not None and not callable(self.progress):
            raise ValueError(f"progress must be a function of the batches that returns them, got {self.progress!r}")
        if self.selection not in SELECTIONS:
            raise ValueError(f"selection must be one of {', '.join(SELECTIONS)}, got {self.selection!r}")

    @property
    def basis(self) -> str:
        """The signals on which layers with an operator are balanced: "data", "inputs" or "noise"."""
        return self.balanced_on or ("noise" if self.data is None else "data")

    def now(self) -> Any:
        """The data, for one pass.

        Raises
        ------
        ValueError
            A function has none.
        """
        data = self.data() if callable(self.data) else self.data
        if data is None and callable(self.data):
            raise ValueError("calibration must return data at every attempt if it is a function, got None")
        return self.watched(data)

    def watched(self, data: Any) -> Any:
        """`data` as `progress` shows them on the way; a single batch is gone through at once.

        Examples
        --------
        >>> list(Calibration(None, progress=reversed).watched([1, 2]))
        [2, 1]
        """
        if self.progress is None or data is None or isinstance(data, Mapping) or hasattr(data, "shape"):
            return data
        return self.progress(data)

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
            if data is None:
                return None
        else:
            data = self.data
        if isinstance(data, Mapping) or hasattr(data, "shape") or not isinstance(data, Iterable):
            return replace(self, data=data)
        if isinstance(data, Iterator) and not callable(self.data):
            raise ValueError(
                "calibration must be data that every attempt can read anew, such as a list, a loader or a function that "
                f"returns them, got {type(data).__name__}, which can be read only once"
            )
        one = list(islice(data, 1))
        return None if callable(self.data) and not one else replace(self, data=one)


def _takes_nothing(function: Any) -> bool:
    try:
        inspect.signature(function).bind()
    except TypeError:
        return False
    except ValueError:  # one in C that does not say
        return True
    return True


def calibration_of(given: Any) -> Calibration | None:
    """Data, a function, a :class:`Calibration` or None as what the layers are measured with."""
    return given if given is None or isinstance(given, Calibration) else Calibration(given)
