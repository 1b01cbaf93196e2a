"""Which items the quick run takes, where a test is asked with many parameters; the others are ``full``.

A property that is asserted for every library, precision and structure is asserted 140 times, and a mistake in one of them
shows in most of its combinations.  So the quick run takes few combinations, in which every value of every parameter occurs.
Of a test that is marked ``alike``, whose values all go the same way through the library, it takes one.  Which ones differs
from test to test, so that together they meet in most pairs.

Some values take seconds where others take none: JAX compiles what others do at once, IRKA and TSIA go on until nothing
changes.  Beside the tests that are about them the quick run takes each once, in its simplest item, and one docstring's
example of JAX.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

LONG = ("jax", "irka", "tsia")
"""What the names of values that take long begin with."""
COMPILED = ("jax", "equinox", "flax")
"""What the files are named for that use JAX."""
APART = ("full", "slow", "gpu", "skip", "xfail")
"""Marks of what does not run in the quick run, or does not pass in it: nothing is covered by these."""


def repeated(items: Iterable[pytest.Item]) -> Iterator[pytest.Item]:
    """The items that show again what others of the same test show."""
    tests: dict[Any, list[pytest.Item]] = {}
    items = list(items)
    yield from [item for item in items if isinstance(item, pytest.DoctestItem) and _of_compiled(item)][1:]
    for item in items:
        if values(item) and not any(item.get_closest_marker(name) for name in APART):
            tests.setdefault((item.parent, getattr(item, "originalname", "")), []).append(item)
    chosen: set[pytest.Item] = set()
    once: dict[str, list[pytest.Item]] = {name: [] for name in LONG}
    for several in tests.values():
        long = {item: _long(item) for item in several}
        others = [item for item in several if not long[item]]
        chosen.update(taken(others or several))
        if others and not several[0].get_closest_marker("alike"):
            for item in several:
                for name in long[item]:
                    once[name].append(item)
    chosen |= {min(of, key=lambda item: (len(item.nodeid), item.nodeid)) for of in once.values() if of}
    for several in tests.values():
        yield from set(several) - chosen


def _long(item: pytest.Item) -> set[str]:
    return {name for _, value in values(item) for name in LONG if name == value.split("-")[0]}


def _of_compiled(item: pytest.Item) -> bool:
    file = item.nodeid.partition("::")[0].removesuffix(".py")
    return any(name in COMPILED for name in file.replace("_", "/").split("/"))


def values(item: pytest.Item) -> set[tuple[int, str]]:
    """What an item is asked for: the names of its values, one for each ``parametrize`` and each fixture with parameters."""
    found: Any = getattr(item, "callspec", None)
    return set(enumerate(found._idlist)) if found else set()


def taken(items: list[pytest.Item]) -> Iterator[pytest.Item]:
    """Few items in which every value of every parameter occurs: always the one that shows most values not seen yet."""
    mixed = sorted(items, key=lambda item: zlib.crc32(item.nodeid.encode()))
    if items[0].get_closest_marker("alike"):
        yield mixed[0]
        return
    unseen = set().union(*map(values, items))
    while unseen:
        best = max(mixed, key=lambda item: len(values(item) & unseen))
        unseen -= values(best)
        yield best
