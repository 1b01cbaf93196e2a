"""Which combinations of a test's parameters the quick run takes, where a test is asked over a product of several.

A property that is asserted for every library, precision and structure is asserted 140 times, and a mistake in one of them
shows in most of its combinations.  So the quick run takes the few combinations in which every value of every parameter
occurs once; the others are ``full``.  Which ones differs from test to test, so that together they meet in most pairs.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

APART = ("full", "slow", "gpu", "skip", "xfail")
"""Marks of what does not run in the quick run, or does not pass in it: nothing is covered by these."""


def repeated(items: Iterable[pytest.Item]) -> Iterator[pytest.Item]:
    """The items that only combine anew what the others of the same test have."""
    tests: dict[Any, list[pytest.Item]] = {}
    for item in items:
        if len(values(item)) > 1 and not any(item.get_closest_marker(name) for name in APART):
            tests.setdefault((item.path, getattr(item, "originalname", "")), []).append(item)
    for combinations in tests.values():
        yield from set(combinations) - set(covering(combinations))


def values(item: pytest.Item) -> set[tuple[int, str]]:
    """What an item is asked for: the names of its values, one for each ``parametrize`` and each fixture with parameters."""
    found: Any = getattr(item, "callspec", None)
    return set(enumerate(found._idlist)) if found else set()


def covering(items: list[pytest.Item]) -> Iterator[pytest.Item]:
    """Few items in which every value of every parameter occurs: always the one that shows most values not seen yet."""
    mixed = sorted(items, key=lambda item: zlib.crc32(item.nodeid.encode()))
    unseen = set().union(*map(values, items))
    while unseen:
        best = max(mixed, key=lambda item: len(values(item) & unseen))
        unseen -= values(best)
        yield best
