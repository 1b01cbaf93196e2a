"""Which items the quick run takes, where a test is asked with many parameters; the others are ``full``.

A property that is asserted for every library, precision and structure is asserted 140 times, and a mistake in one of them
shows in most of its combinations.  So the quick run takes few combinations, in which every value of every parameter occurs.
Of a test that is marked ``alike``, whose values all go the same way through the library, it takes one.  Which ones differs
from test to test, so that together they meet in most pairs.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

APART = ("full", "slow", "gpu", "skip", "xfail")
"""Marks of what does not run in the quick run, or does not pass in it: nothing is covered by these."""


def repeated(items: Iterable[pytest.Item]) -> Iterator[pytest.Item]:
    """The items that show again what others of the same test show."""
    tests: dict[Any, list[pytest.Item]] = {}
    for item in items:
        if values(item) and not any(item.get_closest_marker(name) for name in APART):
            tests.setdefault((item.parent, getattr(item, "originalname", "")), []).append(item)
    for several in tests.values():
        yield from set(several) - set(taken(several))


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
