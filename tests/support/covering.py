"""Which items the quick run takes, where a test is asked with many parameters; the others are ``full``.

A property that is asserted for every library, precision and structure is asserted 140 times, and a mistake in one of them
shows in most of its combinations.  So the quick run takes few combinations, in which every value of every parameter occurs.
Of a test that is marked ``alike``, whose values all go the same way through the library, it takes one.  Which ones differs
from test to test, so that together they meet in most pairs.

What is written for every array library goes the same way in all of them, and JAX takes seconds to compile for it what others
do at once: so the quick run takes JAX once from a folder, the simplest of its values, and one docstring's example of it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

COMPILED = "jax"
"""What the name of a value begins with that takes long to compile."""
FRAMEWORKS = (COMPILED, "equinox", "flax")
"""What the files are named for that use it."""
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
    shown = set()
    for several in sorted(tests.values(), key=lambda t: zlib.crc32(t[0].nodeid.encode())):
        others = [item for item in several if not _compiled(item)]
        chosen = set(taken(others or several))
        alike = several[0].get_closest_marker("alike")
        if others and len(others) < len(several) and not alike and several[0].path.parent not in shown:
            shown.add(several[0].path.parent)
            chosen.add(
                min((item for item in several if _compiled(item)), key=lambda item: (len(item.nodeid), item.nodeid))
            )
        yield from set(several) - chosen


def _compiled(item: pytest.Item) -> bool:
    return any(name.split("-")[0] == COMPILED for _, name in values(item))


def _of_compiled(item: pytest.Item) -> bool:
    file = item.nodeid.partition("::")[0].removesuffix(".py")
    return any(name in FRAMEWORKS for name in file.replace("_", "/").split("/"))


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
