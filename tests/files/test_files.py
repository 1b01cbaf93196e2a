"""Systems in files: what is written comes back to the bit, MATLAB's habits are understood, and a bad file says why."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from numpy.testing import assert_array_equal

import balred
from balred.files import StoredSystem, load, save
from balred.realisations.sparse import SparseSystem, sparse_system

SUFFIXES = (".mat", ".npz", ".json")
A, B, C = np.array([[-1.0, 0.25], [0.0, -3.0]]), np.array([[1.0], [2.0]]), np.array([[0.1, 1 / 3]])


def complexes(*shape: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(sum(shape))
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


SYSTEMS = {
    "continuous": balred.ss(A, B, C, [[0.5]]),
    "step": balred.ss(A / 4, B, C, dt=0.1),
    "some step": balred.ss(A / 4, B, C, dt=True),
    "complex": balred.ss(complexes(3, 3), complexes(3, 2), complexes(1, 3)),
    "one state": balred.ss([[-1.0]], [[1.0]], [[1.0]]),
    "static gain": balred.ss(np.zeros((0, 0)), np.zeros((0, 2)), np.zeros((3, 0)), np.ones((3, 2))),
    "batch": balred.ss(np.stack([A, 2 * A]), np.stack([B, B]), np.stack([C, C])),
    "poles": balred.diagonal([-1.0, -2.0], [[1.0], [1.0]], [[1.0, 1.0]]),
    "conjugate": balred.diagonal([0.9 + 0.2j, 0.5j], complexes(2, 1), complexes(1, 2), dt=1, conjugate=True),
}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", SYSTEMS)
def test_what_is_written_comes_back(name: str, suffix: str, tmp_path: Path) -> None:
    g = SYSTEMS[name]
    path = tmp_path / f"g{suffix}"
    save(g, path)
    back = load(path).system
    assert type(back) is type(g)
    assert back.dt == g.dt
    assert (back.dt is True) == (g.dt is True)
    for x in vars(g):
        if x not in ("dt", "conjugate"):
            assert_array_equal(getattr(back, x), getattr(g, x), strict=True)
    assert getattr(back, "conjugate", None) == getattr(g, "conjugate", None)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_names_are_kept_and_those_of_states_end_with_them(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"g{suffix}"
    save(StoredSystem(SYSTEMS["continuous"], "pump 1", ("valve",), ("level",), ("h", "dh/dt")), path)
    g = load(path)
    assert (g.name, g.inputs, g.outputs, g.states) == ("pump 1", ("valve",), ("level",), ("h", "dh/dt"))
    small = balred.reduce(g, 1)
    assert isinstance(small, StoredSystem)
    assert (small.name, small.inputs, small.outputs, small.states) == ("pump 1", ("valve",), ("level",), ())
    save(small, path)
    assert load(path).system.order == 1


def test_objects_of_other_packages_are_written(tmp_path: Path) -> None:
    signal = pytest.importorskip("scipy.signal")
    save(signal.StateSpace(A, B, C, [[0.0]]), tmp_path / "g.json")
    assert_array_equal(load(tmp_path / "g.json").system.A, A)


def test_matlab_habits(tmp_path: Path) -> None:
    """Integers, logicals and sparse matrices wherever the values allow it, cell arrays of names, Ts with -1."""
    path = tmp_path / "g.mat"
    names = np.array([["in"], ["second"]], dtype=object)
    scipy.io.savemat(path, {
        "A": scipy.sparse.csc_matrix(np.diag([-1, -2])).astype(np.int16), "B": np.eye(2, dtype=np.uint8),
        "C": scipy.sparse.csc_matrix([[1.0, 0.0]]), "Ts": -1, "inputs": names, "hsv": [1.0], "notes": "other things",
    })  # fmt: skip
    g = load(path)
    assert_array_equal(g.system.A, np.diag([-1.0, -2.0]), strict=True)
    assert_array_equal(g.system.B, np.eye(2), strict=True)
    assert_array_equal(g.system.C, [[1.0, 0.0]])
    assert g.system.dt is True
    assert g.inputs == ("in", "second")
    scipy.io.savemat(path, {"A": A, "B": B, "C": C, "dt": np.array(True)})
    assert load(path).system.dt is True
    scipy.io.savemat(path, {"A": A, "B": B, "C": C, "dt": 0.5, "Ts": 0.5}, format="4")
    assert load(path).system.dt == 0.5


def test_a_large_sparse_system_stays_sparse(tmp_path: Path) -> None:
    n = 2001
    T = scipy.sparse.diags([1.0, -2.1, 1.0], [-1, 0, 1], shape=(n, n), format="csc")
    E = scipy.sparse.identity(n, format="csc") * 2
    b = np.zeros((n, 1))
    b[0] = 1
    save(sparse_system(T, b, b.T, E=E), tmp_path / "g.mat")
    back = load(tmp_path / "g.mat").system
    assert isinstance(back, SparseSystem)
    assert (back.A != T).nnz == 0
    assert (back.E != E).nnz == 0
    # the order below which a sparse A is read as a full one
    scipy.io.savemat(tmp_path / "g.mat", {"A": T[:2000, :2000], "B": b[:2000], "C": b[:2000].T})
    assert isinstance(load(tmp_path / "g.mat").system, balred.DenseSystem)
    with pytest.raises(ValueError, match=r"sparse matrices must go into a \.mat file, got '\.npz'"):
        save(back, tmp_path / "g.npz")


def test_descriptor_systems(tmp_path: Path) -> None:
    """E is divided out; x' = -x + z, 0 = x + 2z + u has z = -(x + u)/2, and one state."""
    path = tmp_path / "g.npz"
    np.savez(path, A=A, B=B, C=C, E=2 * np.eye(2))
    assert_array_equal(load(path).system.A, A / 2)
    entries = {"E": [[1, 0], [0, 0]], "A": [[-1, 1], [1, 2]], "B": [[0], [1]], "C": [[1, 1]], "states": ["x", "z"]}
    path = tmp_path / "g.json"
    path.write_text(json.dumps(entries))
    g = load(path)
    assert g.states == ()
    assert g.system.order == 1
    np.testing.assert_allclose(g.system.A, [[-1.5]], rtol=1e-14)
    np.testing.assert_allclose(g.system.D, [[-0.5]], rtol=1e-14)


def test_poles_instead_of_their_logarithms(tmp_path: Path) -> None:
    path = tmp_path / "g.json"
    path.write_text('{"poles": {"real": [0.5], "imag": [0.25]}, "B": [[1]], "C": [[1]], "dt": 1, "conjugate": true}')
    g = load(path).system
    assert isinstance(g, balred.DiagonalSystem)
    assert g.conjugate
    np.testing.assert_allclose(g.poles, [0.5 + 0.25j], rtol=1e-15)


def test_json_is_plain(tmp_path: Path) -> None:
    """Any other program can write and read it: the text is pinned."""
    path = tmp_path / "g.json"
    save(balred.ss([[-1.0 + 2j]], [[1.0]], [[3.0]], dt=True), path)
    assert json.loads(path.read_text()) == {
        "A": {"real": [[-1.0]], "imag": [[2.0]]}, "B": [[1.0]], "C": [[3.0]], "D": [[0.0]], "dt": True,
    }  # fmt: skip


GOOD = {"A": [[-1.0]], "B": [[1.0]], "C": [[1.0]]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the file must be valid JSON, got: Expecting property name"),
        ("[" * 100_000, "the file must be valid JSON"),
        ("[1, 2]", "the file must hold a JSON object, got list"),
        ("{}", "a system must have A, B and C (or log_poles, B and C), got nothing: A, B, C missing"),
        ('{"A": [[1]], "D": [[1]]}', "got A, D: B, C missing"),
        ('{"poles": [1], "B": [[1]]}', "got poles, B: C missing"),
        ({**GOOD, "DT": 1}, "name, inputs, outputs, states, got DT"),
        ({**GOOD, "A": [[1, 2], [3]]}, "A must be nested lists of numbers"),
        ({**GOOD, "A": [["1"]]}, "A must be nested lists of numbers"),
        ({**GOOD, "A": [[True]]}, "A must be nested lists of numbers"),
        ({**GOOD, "A": {"real": [[1]]}}, "A must be nested lists of numbers"),
        ({**GOOD, "A": {"real": [[1]], "imag": [1]}}, "real and imaginary parts of A must match, got (1, 1) and (1,)"),
        ({**GOOD, "A": [[1, 2]]}, "A must have shape (..., n, n), got (1, 2)"),
        ({**GOOD, "B": [[1], [1]]}, "B must have shape (..., n, m) with n = 1, got (2, 1)"),
        ({**GOOD, "A": [[float("nan")]]}, "A must be finite"),
        ({**GOOD, "dt": -1}, "dt must be 0 (continuous), a positive step or True (discrete), got -1"),
        ({**GOOD, "dt": "1"}, "dt must be one number or true, got '1'"),
        ({**GOOD, "dt": [1, 2]}, "dt must be one number or true, got [1, 2]"),
        ({**GOOD, "dt": 1, "Ts": 2}, "dt and Ts must agree where both are given, got 1 and 2"),
        ({**GOOD, "inputs": ["a", "b"]}, "inputs must have 1 names, got 2"),
        ({**GOOD, "inputs": [1]}, "inputs must be text, got [1]"),
        ({**GOOD, "name": 3}, "name must be text, got 3"),
        ({**GOOD, "A": [[1.0]], "E": [[0.0]], "B": [[0.0]], "D": [[1, 2]]}, "D must have shape"),
    ],
)  # fmt: skip
def test_bad_json_says_why(text: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "g.json"
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared below)
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


class Bomb:
    """Runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle was opened",))


def test_pickles_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "g.npz"
    np.savez(path, A=np.array([[Bomb()]], dtype=object), B=B, C=C)
    with pytest.raises(
        ValueError, match=r"g\.npz: the file must be an \.npz archive of arrays without pickled objects"
    ):
        load(path)
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="without pickled objects"):
        load(path)
    # one that is not needed is not opened either
    np.savez(path, A=A, B=B, C=C, other=np.array([Bomb()], dtype=object))
    assert load(path).system.order == 2


def test_other_bytes_than_the_suffix_says(tmp_path: Path) -> None:
    single = io.BytesIO()
    np.save(single, A)
    for data in (b"", b"PK\x03\x04 and no more", single.getvalue()):
        (tmp_path / "g.npz").write_bytes(data)
        with pytest.raises(ValueError, match=r"must be an \.npz archive"):
            load(tmp_path / "g.npz")
    for data in (b"", b"text, and more of it" * 50):
        (tmp_path / "g.mat").write_bytes(data)
        with pytest.raises(ValueError, match="must be a MATLAB file of version 4 to 7"):
            load(tmp_path / "g.mat")
    # the header of a file saved with -v7.3, before which HDF5 begins
    (tmp_path / "g.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400))
    with pytest.raises(ValueError, match=r"must be of version 7 or older, got 7\.3 \(HDF5\): save it with -v7"):
        load(tmp_path / "g.mat")


def test_matlab_files_without_a_system(tmp_path: Path) -> None:
    path = tmp_path / "g.mat"
    thing = scipy.io.matlab.MatlabObject(np.zeros((1, 1), dtype=[("x", object)]), "ss")
    scipy.io.savemat(path, {"w": 1.0, "plant": thing})
    with pytest.raises(ValueError, match=r"got w, plant \(an object: save what ssdata gives for it\): A, B, C missing"):
        load(path)
    scipy.io.savemat(path, {"A": {"field": 1.0}, "B": B, "C": C})
    with pytest.raises(ValueError, match="A must hold numbers, got"):
        load(path)
    scipy.io.savemat(path, {"A": A, "B": B, "C": C, "inputs": 3.0})
    with pytest.raises(ValueError, match="inputs must be text"):
        load(path)


def test_paths(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.mat")
    for path in ("plant", "plant.pkl"):
        with pytest.raises(ValueError, match=r"plant.*: the suffix must be one of \.mat, \.npz, \.json, got "):
            load(path)
        with pytest.raises(ValueError, match="the suffix must be one of"):
            save(SYSTEMS["continuous"], path)
    save(SYSTEMS["continuous"], str(tmp_path / "G.JSON"))
    assert load(str(tmp_path / "G.JSON")).system.order == 2


def test_a_failed_write_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "g.json"
    save(SYSTEMS["continuous"], path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        save(balred.DenseSystem(A * np.nan, B, C, np.zeros((1, 1))), path)
    assert path.read_bytes() == before
