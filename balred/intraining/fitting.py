"""The parts of a training by name, so that a checkpoint is restored by name, or raises an error before anything is changed.

Objects that a user passes in a sequence (averages, schedulers, log files) have no names.  Their places in the sequence are not
enough: after a change of the order, an object would silently get another's state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

_SHOWN = 3


def named(things: Iterable[T], name: Callable[[T], str] = lambda thing: type(thing).__name__) -> dict[str, T]:
    """Things by their names, those of their types by default; of several with one name the second gets a 2, and so on.

    Examples
    --------
    >>> named([1.5, 2, 3])
    {'float': 1.5, 'int': 2, 'int 2': 3}
    """
    seen: Counter[str] = Counter()
    found = {}
    for thing in things:
        own = name(thing)
        seen[own] += 1
        found[own if seen[own] == 1 else f"{own} {seen[own]}"] = thing
    return found


def check_fit(what: str, here: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Raise unless a checkpoint has the same names as the training that it is to be loaded into, with equal values.

    Parameters
    ----------
    what : str
        What they are, in the plural.
    here, saved : dict
        By name what must agree, such as shapes; None where only the name matters.

    Raises
    ------
    ValueError
        Which names are missing, or are no part of the training, or what does not agree.

    Examples
    --------
    >>> check_fit("schedulers", {"StepLR": None}, {"StepLR": None})
    >>> check_fit("schedulers", {"StepLR": None}, {"LambdaLR": None})
    Traceback (most recent call last):
    ValueError: the checkpoint must have the schedulers of this training, got one without StepLR, with LambdaLR
    """
    lacking, strange = ([n for n in a if n not in b] for a, b in ((here, saved), (saved, here)))
    got = [f"{word} {_few(names)}" for word, names in (("without", lacking), ("with", strange)) if names]
    if got:
        raise ValueError(f"the checkpoint must have the {what} of this training, got one {', '.join(got)}")
    for name, mine in here.items():
        if saved[name] != mine:
            raise ValueError(
                f"the {what} of the checkpoint must agree with this training, got {saved[name]} for {name} of {mine}"
            )


def _few(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
