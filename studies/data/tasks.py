"""What a model is trained on: sequences and labels for training and test, kept small and scaled batch by batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Scale = np.float32 | NDArray[np.float32] | float


@dataclass(frozen=True)
class Task:
    """Sequences and labels.

    Attributes
    ----------
    train_x, test_x : arrays
        Numbers: bytes or float32, shape (n, L) or (n, L, channels).  Tokens: shape (n, L), or (n, 2, L) for pairs of
        sequences; the token 0 pads at the end.
    train_y, test_y : arrays of int64
        Shape (n,); or (n, L), a label for every position.
    classes : int
    vocabulary : int
        Tokens with the padding; 0 if the sequences hold numbers.
    mean, std : float32
        Of numbers, on the scale 0 to 1 of bytes; single values or one for each channel.
    """

    train_x: NDArray[Any]
    train_y: NDArray[np.int64]
    test_x: NDArray[Any]
    test_y: NDArray[np.int64]
    classes: int
    vocabulary: int = 0
    mean: Scale = 0.0
    std: Scale = 1.0

    @property
    def channels(self) -> int:
        """Numbers at each position; 1 for tokens."""
        return int(self.train_x.shape[2]) if not self.vocabulary and self.train_x.ndim == 3 else 1

    @property
    def pairs(self) -> bool:
        """Whether each example has two sequences."""
        return bool(self.vocabulary and self.train_x.ndim == 3)

    @property
    def dense(self) -> bool:
        """Whether every position has a label."""
        return self.train_y.ndim == 2

    @property
    def length(self) -> int:
        """Positions of a sequence."""
        return int(self.train_x.shape[2 if self.pairs else 1])

    def inputs(self, x: NDArray[Any]) -> NDArray[Any]:
        """Rows of `train_x` or `test_x` as a model reads them: int64 tokens, or float32 numbers (n, L, channels)."""
        if self.vocabulary:
            return x.astype(np.int64)
        if x.dtype == np.uint8:
            x = ((x.astype(np.float32) / 255 - self.mean) / self.std).astype(np.float32)
        return x.reshape(*x.shape[:2], self.channels)

    def subset(self, train: int, test: int, seed: int) -> Task:
        """`train` and `test` examples drawn at random, or all where 0 is asked for."""
        rng = np.random.default_rng(seed)
        a, b = self.train_y, self.test_y
        for name, wanted, have in (("train", train, len(a)), ("test", test, len(b))):
            if not 0 <= wanted <= have:
                raise ValueError(f"{name} must be between 0 (all) and the {have} examples there are, got {wanted}")
        keep = rng.permutation(len(a))[: train or len(a)]
        held = rng.permutation(len(b))[: test or len(b)]
        return replace(self, train_x=self.train_x[keep], train_y=a[keep], test_x=self.test_x[held], test_y=b[held])


def token_rows(sequences: list[bytes], length: int) -> NDArray[np.uint8]:
    """Sequences of tokens below 256, cut to `length` and padded by 0.

    Examples
    --------
    >>> token_rows([bytes([5, 6, 7]), bytes([8])], 2)
    array([[5, 6],
           [8, 0]], dtype=uint8)
    """
    rows = np.zeros((len(sequences), length), dtype=np.uint8)
    for row, tokens in zip(rows, sequences, strict=True):
        part = tokens[:length]
        row[: len(part)] = np.frombuffer(part, np.uint8)
    return rows
