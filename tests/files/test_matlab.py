"""MATLAB's files: read as SciPy reads them, structures too, and no damage does more than a line that says so."""

from __future__ import annotations

import io
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse

import balred
from balred.files import formats, load, save
from balred.files.matlab import read_mat

A, B, C = np.array([[-1.0, 0.25], [0.0, -3.0]]), np.array([[1.0], [2.0]]), np.array([[0.1, 1 / 3]])
MOST = 2**28


def written(variables: dict[str, Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    scipy.io.savemat(stream, variables, **options)
    return stream.getvalue()


def everything(name: str, structure: bool) -> bool:
    return True


VALUES: dict[str, Any] = {
    "double": A,
    "single": A.astype(np.float32),
    "complex": A + 1j * A.T,
    "complex64": (A + 1j).astype(np.complex64),
    "special": np.array([[np.nan, np.inf, -np.inf, -0.0]]),
    "integers": np.arange(6, dtype=np.int16).reshape(2, 3),
    "large": np.array([[2**63 - 1]]),
    "bytes": np.arange(6, dtype=np.uint8).reshape(3, 2),
    "cube": np.arange(24.0).reshape(2, 3, 4),
    "empty": np.zeros((0, 3)),
    "scalar": np.array([[3.5]]),
    "logical": np.array([[True, False]]),
    "text": np.array(["hello"]),
    "unicode": np.array(["möglich Ω"]),
    "texts": np.array(["abc", "xyz"]),
    "sparse": scipy.sparse.csc_matrix([[0, 1.5, 0], [2, 0, 0]]),
    "complex sparse": scipy.sparse.csc_matrix([[0, 1.5j], [2, 0]]),
    "no entries": scipy.sparse.csc_matrix((3, 2)),
}


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", VALUES)
def test_as_scipy_reads_it(name: str, compressed: bool) -> None:
    data = written({"x": VALUES[name]}, do_compression=compressed)
    mine, theirs = read_mat(data, everything, MOST)["x"], scipy.io.loadmat(io.BytesIO(data))["x"]
    if scipy.sparse.issparse(theirs):
        assert (mine != theirs).nnz == 0
        assert mine.shape == theirs.shape
        return
    if name != "logical":  # which SciPy reads as numbers
        assert mine.dtype == theirs.dtype
    np.testing.assert_array_equal(mine, theirs)
    assert mine.shape == theirs.shape


@pytest.mark.parametrize(
    "name", ["double", "complex", "integers", "scalar", "text", "texts", "sparse", "complex sparse"]
)
def test_version_4(name: str) -> None:
    data = written({"y": np.ones((2, 2)), "x": VALUES[name]}, format="4")
    mine, theirs = read_mat(data, everything, MOST), scipy.io.loadmat(io.BytesIO(data))
    for key in ("x", "y"):
        if scipy.sparse.issparse(theirs[key]):
            assert (mine[key] != theirs[key]).nnz == 0
        else:
            np.testing.assert_array_equal(mine[key], theirs[key])


def test_the_other_order_of_bytes() -> None:
    """A matrix of version 5 and one of version 4 by hand, the most significant byte first."""

    def tag(kind: int, data: bytes) -> bytes:
        return np.array([kind, len(data)], ">u4").tobytes() + data + bytes(-len(data) % 8)

    body = tag(6, np.array([6, 0], ">u4").tobytes()) + tag(5, np.array([2, 2], ">i4").tobytes()) + tag(1, b"x")
    body += tag(9, A.T.astype(">f8").tobytes())
    new = b"by hand".ljust(124) + b"\x01\x00MI" + tag(14, body)
    old = np.array([1000, 2, 2, 0, 2], ">u4").tobytes() + b"x\0" + A.T.astype(">f8").tobytes()
    for data in (new, old):
        np.testing.assert_array_equal(read_mat(data, everything, MOST)["x"], A)
        np.testing.assert_array_equal(scipy.io.loadmat(io.BytesIO(data))["x"], A)


# --------------------------------------------------------------------------------------------------------- structures


GET = {
    "A": A, "B": B, "C": C, "D": np.zeros((0, 0)), "E": np.zeros((0, 0)), "Ts": 0.5, "TimeUnit": "seconds",
    "InputDelay": np.zeros((1, 1)), "OutputDelay": np.zeros((1, 1)), "InternalDelay": np.zeros((0, 1)),
    "StateName": np.array(["x", "y"], dtype=object), "InputName": np.array([""], dtype=object), "Name": "plant",
    "Notes": np.zeros((0, 1), dtype=object), "Scaled": False,
}  # fmt: skip
"""What MATLAB's ``get(sys)`` gives."""


@pytest.mark.parametrize("compressed", [False, True])
def test_a_structure_is_a_system(compressed: bool, tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "g.mat", {"sys": GET, "w": 1.0}, do_compression=compressed)
    g = load(tmp_path / "g.mat")
    for name, want in (("A", A), ("B", B), ("C", C), ("D", np.zeros((1, 1)))):
        np.testing.assert_array_equal(getattr(g.system, name), want)
    assert (g.system.dt, g.name, g.states, g.inputs) == (0.5, "plant", ("x", "y"), ())
    scipy.io.savemat(tmp_path / "g.mat", {"plant": {"a": A, "b": B, "c": C, "d": 0.25, "e": 2 * np.eye(2)}})
    g = load(tmp_path / "g.mat")
    np.testing.assert_array_equal(g.system.A, A / 2)
    assert g.system.D.item() == 0.25


def test_empty_means_none(tmp_path: Path) -> None:
    for name in ("g.mat", "g.npz"):
        entries = {"A": A, "B": B, "C": C, "D": np.zeros((0, 0)), "E": np.zeros((0, 0))}
        (scipy.io.savemat(tmp_path / name, entries) if name == "g.mat" else np.savez(tmp_path / name, **entries))
        g = load(tmp_path / name).system
        np.testing.assert_array_equal(g.A, A)
        np.testing.assert_array_equal(g.D, [[0.0]])


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"sys": GET, "other": GET}, "must have one structure with A, B and C, got sys, other"),
        ({"sys": {**GET, "a": A}}, "a field of sys must appear once, got A, B, "),
        ({"sys": {**GET, "InputDelay": 0.1}}, "sys must have no delays, got InputDelay: absorb them"),
        ({"sys": {**GET, "TimeUnit": "hours"}}, "the TimeUnit of sys must be seconds, got 'hours': chgTimeUnit"),
        ({"sys": {"A": A, "B": B}}, "got sys: A, B, C missing"),
        ({"sys": {**GET, "A": {"x": 1.0}}}, "A must hold numbers"),
        ({"A": {"field": 1.0}, "B": B, "C": C}, "A must hold numbers"),
    ],
)
def test_structures_that_are_no_system(variables: Any, message: str, tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "g.mat", variables)
    with pytest.raises(ValueError, match=r"g\.mat: ") as caught:
        load(tmp_path / "g.mat")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x89HDF\r\n\x1a\n" + bytes(200), r"got 7\.3 \(HDF5\): save it with -v7"),
        (b"# Created by Octave 8.4.0, Mon Jan 01\n# name: A\n", "in a format of Octave's own: save it with -v7"),
        (b"Octave-1-L" + bytes(200), "in a format of Octave's own: save it with -v7"),
    ],
)
def test_other_formats_say_how_to_convert(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "g.mat").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "g.mat")


# ------------------------------------------------------------------------------------------------------------- damage


def fuzz_mat(data: bytes, rng: random.Random) -> str:
    """What becomes of a damaged file: "read" or "refused"."""
    broken = bytearray(data)
    kind = rng.randrange(4)
    if kind == 0:
        broken = broken[: rng.randrange(len(broken))]
    for _ in range(rng.randrange(1, 4) if kind else 0):
        at = rng.randrange(len(broken))
        if kind == 1:
            broken[at] ^= 1 << rng.randrange(8)
        elif kind == 2:  # a length, a type or a size
            at -= at % 4
            broken[at : at + 4] = rng.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 8, 14, 15, 1 << 16)).to_bytes(
                4, "little"
            )
        else:
            del broken[at : at + rng.randrange(1, 9)]
    try:
        found = read_mat(bytes(broken), everything, MOST)
    except ValueError as error:
        return "refused" if "\n" not in str(error) else "many lines"
    for value in found.values():  # a sparse matrix is used without fear
        if scipy.sparse.issparse(value):
            value @ np.ones(value.shape[1])
    return "read"


def good_files() -> list[bytes]:
    more = {
        "A": A,
        "B": B,
        "C": C,
        "S": VALUES["sparse"],
        "n": np.array(["a", "bc"], dtype=object),
        "t": "text",
        "s": GET,
    }
    return [written(more), written(more, do_compression=True), written({k: more[k] for k in "ABCSt"}, format="4")]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_damaged_files(which: int) -> None:
    data, start = good_files()[which], time.perf_counter()
    found = [fuzz_mat(data, random.Random(seed)) for seed in range(700)]
    assert found.count("refused") > 200
    assert set(found) <= {"read", "refused"}
    assert time.perf_counter() - start < 20


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files with much in them, by honest and by wrong sizes, are refused before there is memory for them."""
    monkeypatch.setattr(formats, "_ROOM", 2**22)
    big = written({"A": np.zeros((1000, 1000))}, do_compression=True)
    assert len(big) < 2**14
    (tmp_path / "g.mat").write_bytes(big)
    start = time.perf_counter()
    with pytest.raises(ValueError, match="far larger than the file: save it uncompressed"):
        load(tmp_path / "g.mat")
    assert time.perf_counter() - start < 1
    other = written({"other": np.zeros((1000, 1000))}, do_compression=True)[128:]  # which nobody needs
    (tmp_path / "g.mat").write_bytes(written({"A": A, "B": B, "C": C}) + other)
    assert load(tmp_path / "g.mat").system.order == 2
    np.savez_compressed(tmp_path / "g.npz", A=np.zeros((1000, 1000)), B=np.zeros((1000, 1)), C=np.zeros((1, 1000)))
    with pytest.raises(ValueError, match=r"80\d+ bytes in a file of \d+: save it uncompressed"):
        load(tmp_path / "g.npz")
    np.savez_compressed(tmp_path / "g.npz", A=A, B=B, C=C, other=np.zeros((1000, 1000)))
    assert load(tmp_path / "g.npz").system.order == 2
    for shape, match in (
        ((10**5, 1000), r"a sparse matrix that is read as a full one must be of at most \d+ bytes"),
        ((10**9, 2), "far larger than the file"),  # a vector of that length is enough
    ):
        scipy.io.savemat(
            tmp_path / "g.mat", {"A": A, "B": B, "C": scipy.sparse.csc_matrix(([1.0], ([0], [0])), shape=shape)}
        )
        with pytest.raises(ValueError, match=match):
            load(tmp_path / "g.mat")


def test_a_lie_about_the_size_in_an_archive(tmp_path: Path) -> None:
    import zipfile

    head = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }"
    text = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + head.ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / "g.npz", "w") as archive:
        archive.writestr("A.npy", text + bytes(80))
    with pytest.raises(ValueError, match=r"8000000000000 bytes are announced in A\.npy of \d+"):
        load(tmp_path / "g.npz")


def test_a_checksum_is_looked_at() -> None:
    data = bytearray(written({"A": A}, do_compression=True))
    data[-1] ^= 1
    with pytest.raises(ValueError, match="a damaged or another one"):
        read_mat(bytes(data), everything, MOST)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    g = balred.testing.random_system(5, 2, 3, seed=0)
    save(g, tmp_path / "g.mat")
    np.testing.assert_array_equal(load(tmp_path / "g.mat").system.A, np.asarray(g.A))
