"""Second-order systems in files: kept as such, and refused where entries make none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from chains import chain
from numpy.testing import assert_array_equal

import balred
from balred.files import StoredSystem, load, save


@pytest.mark.parametrize("suffix", [".mat", ".npz", ".json"])
@pytest.mark.parametrize("outputs", ["p", "v", "pv"])
def test_they_come_back_as_what_they_are(tmp_path: Path, suffix: str, outputs: str) -> None:
    g, path = chain(4, seed=1, outputs=outputs), tmp_path / f"chain{suffix}"
    save(StoredSystem(g, "chain", ("left", "middle"), ("end",), ("a", "b", "c", "d")), path)
    back = load(path)
    assert isinstance(back.system, balred.SecondOrderSystem)
    for key in ("M", "D", "K", "B", "Cp", "Cv"):
        assert_array_equal(getattr(back.system, key), getattr(g, key))
    assert (back.name, back.inputs, back.outputs, back.states) == (
        "chain",
        ("left", "middle"),
        ("end",),
        ("a", "b", "c", "d"),
    )
    small = balred.reduce(back, 2)
    assert isinstance(small.system, balred.SecondOrderSystem)
    assert (small.system.states, small.name, small.states) == (2, "chain", ())
    assert_array_equal(balred.hsv(back), balred.hsv(g))


def test_sparse_matrices_go_into_mat_files(tmp_path: Path) -> None:
    g = chain(30, seed=2, sparse=True)
    save(g, tmp_path / "chain.mat")
    back = load(tmp_path / "chain.mat").system
    assert isinstance(back, balred.SecondOrderSystem)
    assert back.sparse
    assert (back.K != g.K).nnz == 0
    with pytest.raises(ValueError, match=r"sparse matrices must go into a \.mat file"):
        save(g, tmp_path / "chain.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"K": None}, "a second-order system must have M, D, K, B and Cp or Cv, got .*: K missing"),
        ({"Cp": None}, "Cp, Cv missing"),
        ({"A": [[1.0]]}, "a system must be of first or of second order, got M, K, Cp beside A or poles"),
        ({"dt": 0.1}, "a second-order system must be continuous, got dt = 0.1"),
        ({"inputs": ["a", "b"]}, "inputs must have 1 names, got 2"),
        ({"M": [[0.0]]}, "M must be nonsingular"),
    ],
)
def test_entries_that_make_none(tmp_path: Path, change: dict[str, object], message: str) -> None:
    entries = {key: [[1.0]] for key in ("M", "D", "K", "B", "Cp")} | change
    path = tmp_path / "x.json"
    path.write_text(json.dumps({key: value for key, value in entries.items() if value is not None}))
    with pytest.raises(ValueError, match=message):
        load(path)


def test_values_are_data_of_the_library(tmp_path: Path) -> None:
    """Integers become numbers of double precision."""
    path = tmp_path / "x.json"
    path.write_text('{"M": [[2]], "D": [[1]], "K": [[8]], "B": [[1]], "Cp": [[1]]}')
    g = load(path).system
    assert g.K.dtype == np.float64  # type: ignore[union-attr]
    assert g(0.0)[0, 0] == pytest.approx(1 / 8)


def test_other_variables_of_matlab_files_are_ignored(tmp_path: Path) -> None:
    """A gain K beside a system, or a mass M, makes no second-order system of it."""
    path = tmp_path / "plant.npz"
    np.savez(path, A=-np.eye(2), B=np.ones((2, 1)), C=np.ones((1, 2)), K=np.ones((1, 2)), M=3.0)
    assert isinstance(load(path).system, balred.DenseSystem)
