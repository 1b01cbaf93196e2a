"""ListOps: nested lists of operations on digits, to be evaluated; made here, since no package holds them.

The process is the one of the Long Range Arena (Tay et al. 2021, arXiv 2011.04006), after Nangia and Bowman (2018, arXiv
1804.06028): a node is an operator with probability 1/4 (the constant that their code calls VALUE_P) unless the depth is
used up, an operator has 2 to 10 arguments, and only expressions within limits of length are kept.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence

import numpy as np

from balred.files.replacing import replacing
from balred.studies.data.sources import data_folder
from balred.studies.data.tasks import Task, token_rows

OPERATORS: dict[str, Callable[[Sequence[int]], int]] = {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda values: int(statistics.median(values)),
    "[SM": lambda values: sum(values) % 10,
}
TOKENS = ("", *"0123456789", *OPERATORS, "]")
"""What each number stands for; 0 pads."""

_NODE = 0.25
_CLOSE = len(TOKENS) - 1
_FIRST = TOKENS.index("[MIN")
_FUNCTIONS = tuple(OPERATORS.values())


class _TooLong(Exception):
    """The expression has more tokens than allowed already."""


def expression(
    rng: random.Random, depth: int = 10, arguments: int = 10, longest: int = 2000
) -> tuple[bytes, int] | None:
    """Tokens and value of a random expression; None if it has more than `longest` tokens.

    Only ``rng.random`` is called, which gives the same numbers in every version of Python.
    """
    tokens = bytearray()

    def node(left: int) -> int:
        if left == 0 or rng.random() >= _NODE:
            value = int(10 * rng.random())
            tokens.append(1 + value)
            return value
        count = 2 + int((arguments - 1) * rng.random())
        operator = int(len(_FUNCTIONS) * rng.random())
        tokens.append(_FIRST + operator)
        if len(tokens) + count >= longest:
            raise _TooLong
        value = _FUNCTIONS[operator]([node(left - 1) for _ in range(count)])
        tokens.append(_CLOSE)
        return value

    try:
        value = node(depth - 1)
    except _TooLong:
        return None
    return (bytes(tokens), value) if len(tokens) <= longest else None


def expressions(
    count: int, seed: int, depth: int = 10, arguments: int = 10, lengths: tuple[int, int] = (501, 1999)
) -> list[tuple[bytes, int]]:
    """`count` different expressions whose numbers of tokens are within `lengths`.

    Examples
    --------
    >>> tokens, value = expressions(1, seed=2, depth=3, lengths=(8, 12))[0]
    >>> text_of(tokens), value
    ('[MAX 9 5 2 [MAX 3 3 ] 5 ]', 9)
    """
    shortest, longest = lengths
    if not 1 <= shortest <= longest:
        raise ValueError(f"lengths must be two ascending numbers from 1 on, got {lengths}")
    rng, found = random.Random(seed), dict[bytes, int]()
    while len(found) < count:
        made = expression(rng, depth, arguments, longest)
        if made is not None and len(made[0]) >= shortest:
            found.setdefault(*made)
    return list(found.items())


def text_of(tokens: bytes) -> str:
    """The expression as it is written, without padding."""
    return " ".join(TOKENS[t] for t in tokens if t)


def listops(
    train: int = 96_000,
    test: int = 2_000,
    lengths: tuple[int, int] = (501, 1999),
    seed: int = 0,
    validation: int = 2_000,
) -> Task:
    """Expressions as tokens, and their values 0 to 9; kept in the data folder once they are made.

    `validation` expressions lie between training and test and are left out, so that the split is the published one.
    """
    low, high = lengths
    count = train + validation + test
    path = data_folder() / f"listops-1-{count}-{low}-{high}-{seed}.npz"
    if not path.exists():
        found = expressions(count, seed, lengths=lengths)
        rows, values = (
            token_rows([tokens for tokens, _ in found], high),
            np.array([v for _, v in found], dtype=np.int64),
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, "wb") as file:
            np.savez_compressed(file, x=rows, y=values)
    with np.load(path) as file:
        x, y = file["x"], file["y"]
    return Task(x[:train], y[:train], x[-test:], y[-test:], classes=10, vocabulary=len(TOKENS))
