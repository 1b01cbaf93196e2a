"""The demo's data: scikit-learn's handwritten digits (inside the package, nothing is fetched) read as sequences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MEAN, _STD = 0.305, 0.376
"""Of all pixels, on the scale 0 to 1."""


@dataclass(frozen=True)
class Digits:
    """Sequences of 64 scalars, shape (images, 64) in float32, and labels 0 to 9, for training and test."""

    train_x: NDArray[np.float32]
    train_y: NDArray[np.int64]
    test_x: NDArray[np.float32]
    test_y: NDArray[np.int64]


def digits(seed: int, test: int = 900) -> Digits:
    """Split the 1797 8x8 images, row by row as 64-step sequences, into training and test, stratified by digit.

    Parameters
    ----------
    seed : int
        Of the split.
    test : int, default 900

    References
    ----------
    E. Alpaydin and C. Kaynak, Optical recognition of handwritten digits, UCI repository (1998), as shipped by
    ``sklearn.datasets.load_digits``.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    x = ((pixels / 16 - _MEAN) / _STD).astype(np.float32)
    parts = train_test_split(x, labels.astype(np.int64), test_size=test, stratify=labels, random_state=seed)
    train_x, test_x, train_y, test_y = parts
    return Digits(train_x, train_y, test_x, test_y)


def batches(images: int, batch: int, steps: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Indices of `steps` batches, drawn without replacement within an epoch; an incomplete last batch is dropped.

    Examples
    --------
    >>> [len(b) for b in batches(images=10, batch=4, steps=3, seed=0)]
    [4, 4, 4]
    """
    if not 1 <= batch <= images:
        raise ValueError(f"batch must be between 1 and the {images} images, got {batch}")
    rng = np.random.default_rng(seed)
    left = np.empty(0, dtype=np.int64)
    for _ in range(steps):
        if len(left) < batch:
            left = rng.permutation(images)
        yield left[:batch]
        left = left[batch:]
