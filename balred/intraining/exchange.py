"""What processes that train one model tell each other at a cut: each analyses its share of the layers, all learn everything.

A decision must be the same everywhere, so what it rests on is computed by one process and told to the others: the same
computation on another machine may differ in the last bit, and a rank by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Exchange(Protocol):
    """A way to tell the others something; every process must call :meth:`gather` equally often.

    Examples
    --------
    >>> class Alone:
    ...     "A process that has nobody to tell."
    ...     rank, size = 0, 1
    ...
    ...     def gather(self, mine):
    ...         return [mine]
    >>> Alone().gather({"encoder": 12})
    [{'encoder': 12}]
    """

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""

    @property
    def size(self) -> int:
        """The number of processes."""

    def gather(self, mine: Any) -> list[Any]:
        """What every process gave, by its number."""


class Alone:
    """The exchange of a process that has no others."""

    rank, size = 0, 1

    def gather(self, mine: Any) -> list[Any]:
        """What was given."""
        return [mine]


def share(items: Mapping[str, T], exchange: Exchange) -> dict[str, T]:
    """The items that this process is to work on: the i-th goes to process i modulo their number.

    Examples
    --------
    >>> share({"a": 1, "b": 2}, Alone())
    {'a': 1, 'b': 2}
    """
    return {name: items[name] for name in list(items)[exchange.rank :: exchange.size]}


def together(exchange: Exchange, compute: Callable[[], T]) -> list[T]:
    """What `compute` returned in every process.

    Raises
    ------
    RuntimeError
        `compute` failed in another process.  That process reports its own error, and the others stop waiting.

    Examples
    --------
    >>> together(Alone(), lambda: 3)
    [3]
    """
    try:
        mine = compute()
    except Exception as error:
        exchange.gather((None, f"{type(error).__name__}: {error}"))
        raise
    found = exchange.gather((mine, None))
    for process, (_, why) in enumerate(found):
        if why is not None:
            raise RuntimeError(f"the analysis must succeed in every process, got in process {process}: {why}")
    return [value for value, _ in found]
