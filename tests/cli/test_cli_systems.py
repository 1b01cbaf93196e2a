"""The commands for files: the numbers of SLICOT's documentation, what is written, exit codes, and nothing but JSON in JSON."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from chains import chain
from commands import as_json, run
from numpy.testing import assert_allclose

import balred
from balred.files import StoredSystem, load, save
from balred.methods.method import Method
from balred.methods.truncation import truncate
from balred.realisations.sparse import sparse_system


@pytest.fixture
def plant(plant: Any, tmp_path: Path) -> Path:
    """The plant of SLICOT's examples in a file."""
    save(StoredSystem(plant, "power", ("u1", "u2"), ("f1", "tie", "f2")), tmp_path / "plant.mat")
    return tmp_path / "plant.mat"


# printed with four decimals by the examples of AB09AD, AB09BD and AB13AD (SLICOT library documentation)
SLICOT = [2.5139, 2.0846, 1.9178, 0.7666, 0.5473, 0.0253, 0.0246]


def store(path: Path, A: Any, B: Any, C: Any, **rest: Any) -> Path:
    save(balred.ss(A, B, C, **rest), path)
    return path


@pytest.fixture
def integrator(tmp_path: Path) -> Path:
    """1/s + 1/(s + 1) + 1/(s + 50): the residues make every number below a short sum."""
    return store(tmp_path / "servo.json", np.diag([0.0, -1.0, -50.0]), np.ones((3, 1)), np.ones((1, 3)))


def test_hsv_table(plant: Path) -> None:
    text = run("hsv", plant).stdout
    assert text.splitlines()[0] == f"{plant} (power): 7 states, 2 inputs, 3 outputs, continuous"
    rows = [line.split() for line in text.splitlines() if re.match(r"\s+\d", line)]
    assert [row[0] for row in rows] == list("1234567")
    values = np.array(rows, dtype=float)
    assert_allclose(values[:, 1], SLICOT, rtol=0, atol=0.5001e-4)
    assert_allclose(values[:, 2], values[:, 1] / values[0, 1], rtol=1e-5)
    assert_allclose(values[:, 3], np.cumsum(values[:, 1]) / np.sum(values[:, 1]), rtol=1e-5)
    # twice the sum of the values cut
    tails = 2 * (np.sum(values[:, 1]) - np.cumsum(values[:, 1]))
    assert_allclose(values[:, 4], tails, rtol=0, atol=1e-4)


def test_hsv_top_says_how_many_more(plant: Path) -> None:
    text = run("hsv", plant, "--top", "2").stdout
    assert len([line for line in text.splitlines() if re.match(r"\s+\d", line)]) == 2
    assert "and 5 more (--top)" in text


def test_hsv_of_a_system_that_passes_nothing_on(tmp_path: Path) -> None:
    text = run("hsv", store(tmp_path / "nothing.json", -np.eye(2), np.zeros((2, 1)), np.ones((1, 2)))).stdout
    assert [line.split()[:3] for line in text.splitlines() if re.match(r"\s+\d", line)] == [
        ["1", "0", "0"],
        ["2", "0", "0"],
    ]


def test_half_precision_is_no_broken_promise(tmp_path: Path) -> None:
    """What is stored in single precision differs by its rounding from what was bounded."""
    A, B, C = (np.array(x, np.float16) for x in ([[-1, 0.5], [0, -2]], [[1], [1]], [[1, 1]]))
    np.savez(tmp_path / "half.npz", A=A, B=B, C=C)
    made = run("reduce", tmp_path / "half.npz", "--order", "1", "-o", tmp_path / "small.npz")
    assert made.exit_code == 0
    assert load(tmp_path / "small.npz").system.states == 1


def test_hsv_json(plant: Path) -> None:
    out = as_json("hsv", plant)
    assert_allclose(out["hsv"], SLICOT, rtol=0, atol=0.5001e-4)
    assert [out[k] for k in ("name", "states", "inputs", "outputs", "dt", "unstable")] == ["power", 7, 2, 3, 0, 0]
    assert out["bound"][-1] == 0
    assert out["energy"][-1] == pytest.approx(1, abs=1e-15)


def test_unstable_modes_are_infinite(plant: Path) -> None:
    """The part left of -0.6: AB09MD's example (ALPHA = -0.6)."""
    out = as_json("hsv", plant, "--offset", "0.6")
    assert out["hsv"][:2] == ["Infinity", "Infinity"]
    assert out["energy"][:2] == [None, None]
    # unstable modes alone leave an error of at most twice the sum of the others
    assert out["bound"][0] is None
    assert out["bound"][1] == pytest.approx(2 * (1.9178 + 0.8621 + 0.7666 + 0.0336 + 0.0246), abs=5e-4)
    assert out["unstable"] == 2
    assert_allclose(out["hsv"][2:], [1.9178, 0.8621, 0.7666, 0.0336, 0.0246], rtol=0, atol=0.5001e-4)
    text = run("hsv", plant, "--offset", "0.6").stdout
    assert re.search(r"^ +1 +inf +- +- +-$", text, re.MULTILINE)
    assert "inf: unstable modes (2), which are kept" in text


@pytest.mark.parametrize("suffix", [".mat", ".npz", ".json"])
def test_reduce_writes_what_the_library_makes(plant: Path, suffix: str) -> None:
    small = plant.with_name(f"small{suffix}")
    text = run("reduce", plant, "--order", "5", "--method", "singular_perturbation", "-o", small).stdout
    g = load(small)
    # D of order 5 printed by the example of AB09BD
    assert_allclose(g.system.D, [[0.0498, -0.0007], [0.0010, -0.0010], [-0.0007, 0.0498]], rtol=0, atol=0.5001e-4)
    assert (g.name, g.inputs, g.outputs) == ("power", ("u1", "u2"), ("f1", "tie", "f2"))
    facts = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in text.splitlines()[1:] if line)
    assert facts["order"] == "7 to 5"
    assert facts["stable"] == "yes"
    assert facts["DC gain"] == "kept"
    assert facts["written"] == str(small)
    # 2 (0.0253 + 0.0246), and an error below it and above the first value cut
    bound, error = (float(facts[key].split()[0]) for key in ("bound", "error"))
    assert bound == pytest.approx(0.0998, abs=2e-4)
    assert 0.0252 < error <= bound


def test_reduce_json(plant: Path) -> None:
    out = as_json("reduce", plant, "--order", "5")
    small = balred.reduce(load(plant).system, 5)
    assert out["order"] == 5
    assert out["error"] == pytest.approx(float(balred.error(load(plant), small)), rel=1e-9)
    assert out["error_norm"] == "hinf"
    assert out["bound"] == pytest.approx(0.0998, abs=2e-4)
    assert out["stable"] is True
    dc = [np.linalg.norm(x, 2) for x in (load(plant).system(0) - small(0), load(plant).system(0))]
    assert out["dc_gain_change"] == pytest.approx(dc[0] / dc[1], rel=1e-9)
    assert out["dc_gain_change_absolute"] == pytest.approx(dc[0], rel=1e-9)
    assert out["output"] is None
    assert as_json("reduce", plant, "--order", "5", "--no-error")["error"] is None
    assert "not measured" in run("reduce", plant, "--order", "5", "--no-error").stdout


@pytest.mark.parametrize(
    ("options", "order"),
    [
        # cumulated 7.8798: 2.5139, 4.5985, 6.5163, 7.2829, 7.8302, 7.8555, 7.8801
        (("--energy", "0.8"), 3),
        (("--energy", "0.99"), 5),
        (("--bound", "0.1"), 5),  # 2 (0.0253 + 0.0246) = 0.0998
        (("--bound", "0.06"), 6),
        (("--bound", "0.0404", "--relative"), 5),  # of 2.5139: 0.10156
        (("--relative-hsv", "0.25"), 4),  # 0.6285
    ],
)
def test_rules(plant: Path, options: tuple[str, ...], order: int) -> None:
    assert as_json("reduce", plant, *options)["order"] == order


def test_method_options(plant: Path, tmp_path: Path) -> None:
    """A number, a word, and the library's own result for each."""
    g = load(plant).system
    out = as_json("reduce", plant, "--order", "4", "--method", "stochastic", "--option", "beta=0.5")
    assert out["bound"] == pytest.approx(balred.analyze(g, method="stochastic", beta=0.5).bound(4), rel=1e-9)
    assert out["bounds"] == balred.methods.METHODS["stochastic"].bounds.value
    small = tmp_path / "small.npz"
    # at order 4 the result is unstable, which is an error: see below
    run("reduce", plant, "--order=6", "--method=left_coprime", "--option=factorization=normalized", "-o", small)
    want = balred.reduce(g, 6, method="left_coprime", factorization="normalized")
    assert_allclose(load(small).system.A, want.A, rtol=0, atol=1e-12)
    values = as_json("hsv", plant, "--method", "lqg")["hsv"]
    assert_allclose(values, balred.analyze(g, method="lqg").hsv, rtol=1e-12)


def test_weights(tmp_path: Path, plant: Path) -> None:
    weight = store(tmp_path / "w.json", -np.eye(2), np.eye(2), np.eye(2))
    small = tmp_path / "small.json"
    arguments = ("reduce", plant, "--order=4", "--method=frequency_weighted", "-o", small, "--right", weight)
    want = balred.reduce(load(plant).system, 4, method="frequency_weighted", right=load(weight).system)
    run(*arguments)
    assert_allclose(load(small).system.A, want.A, rtol=0, atol=1e-12)
    small.unlink()
    missing = tmp_path / "none.json"
    assert str(missing) in run(*arguments[:-1], missing, code=1).stderr


def test_kept_integrators_do_not_hide_the_error(integrator: Path, tmp_path: Path) -> None:
    """The error is that of 1/(s + 1) + 1/(s + 50), where truncation to one state attains its bound at a frequency end."""
    small = tmp_path / "small.json"
    out = as_json("reduce", integrator, "--order", "2", "-o", small)
    stable = balred.ss(np.diag([-1.0, -50.0]), np.ones((2, 1)), np.ones((1, 2)))
    want = float(balred.error(stable, balred.reduce(stable, 1)))
    assert out["error"] == pytest.approx(want, rel=1e-9)
    assert out["stable"] is False
    assert out["dc_gain_change"] is None
    assert "DC gain   infinite" in run("reduce", integrator, "--order", "2").stdout
    out = as_json("compare", integrator, small)
    assert out["error"]["hinf"] == pytest.approx(want, rel=1e-9)
    assert out["relative"]["hinf"] is None
    assert out["largest_real_part"] == [0, pytest.approx(0, abs=1e-15)]
    assert as_json("compare", integrator, integrator)["error"]["hinf"] < 1e-14


def test_an_integrator_that_moved(integrator: Path) -> None:
    """A method that reduces unstable systems whole moves the pole at zero, and the error there is infinite."""
    out = run("reduce", integrator, "--order", "2", "--method", "lqg")
    assert "infinite: a pole on the stability boundary moved" in out.stdout
    assert as_json("reduce", integrator, "--order", "2", "--method", "lqg")["error"] is None


@pytest.mark.parametrize("as_data", [False, True])
@pytest.mark.parametrize(
    ("leaf", "factor", "message"),
    [("A", -1.0, "the result has 2 unstable or marginal poles, the system 0"), ("C", 30.0, "above its bound")],
)
def test_a_promise_that_is_not_kept(
    plant: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leaf: str, factor: float, message: str, as_data: bool
) -> None:
    """A method that spoils what it makes: status 1, a line that says why, and no file; what is known is printed all the same."""

    def spoiled(state: Any, k: int) -> Any:
        g, L, R = truncate(state, k)
        return (dataclasses.replace(g, **{leaf: factor * getattr(g, leaf)}), L, R)

    monkeypatch.setitem(balred.methods.METHODS, "spoiled", Method(spoiled, gap=None))  # else it is not even made
    small = tmp_path / "small.mat"
    result = run("reduce", plant, "--order", "2", "--method", "spoiled", "-o", small, *["--json"] * as_data, code=1)
    assert message in result.stderr
    assert f"{small} is not written" in result.stderr
    assert not small.exists()
    if as_data:
        out = json.loads(result.stdout)
        assert any(message in problem for problem in out["problems"])
        assert out["output"] is None
    else:
        assert "order" in result.stdout
        assert "written" not in result.stdout


def test_an_unstable_result(plant: Path, tmp_path: Path) -> None:
    """A method that reduces systems whole may make a stable one unstable, as coprime factors do with this one at order 4."""
    small = tmp_path / "small.npz"
    line = ("reduce", plant, "--order=4", "--method=left_coprime", "--option=factorization=normalized", "-o", small)
    assert "the result has 2 unstable or marginal poles, the system 0" in run(*line, code=1).stderr
    assert not small.exists()


def test_promises_that_are_kept(plant: Path, integrator: Path) -> None:
    """Modes that the system had are no fault of the result."""
    for path in (plant, integrator):
        assert as_json("reduce", path, "--order", "2")["problems"] == []


def test_whole_reduction_of_an_unstable_system(tmp_path: Path) -> None:
    path = store(tmp_path / "g.json", np.diag([2.0, -1.0, -50.0]), np.ones((3, 1)), np.ones((1, 3)))
    out = as_json("reduce", path, "--order", "2", "--method", "lqg")
    small = balred.reduce(load(path).system, 2, method="lqg")
    assert out["error_norm"] == "linf"
    assert out["error"] == pytest.approx(float(balred.error(load(path), small, "linf")), rel=1e-9)


def test_compare(tmp_path: Path) -> None:
    """1/(s + 1) and 3/(s + 1) + 1/(s^2 + 0.2 s + 100): norms of the difference from a fine grid, and its peak at 10."""
    a = store(tmp_path / "a.json", [[-1.0]], [[1.0]], [[1.0]])
    b = store(tmp_path / "b.mat", [[-1, 0, 0], [0, 0, 1], [0, -100, -0.2]], [[1.0], [0], [1]], [[1.0, 40.0, 0.0]])
    out = as_json("compare", a, b)
    # the difference is 40/(s^2 + 2 z w s + w^2) with w = 10, z = 0.01:  peak 40/(2 z w^2 sqrt(1 - z^2)) at
    # w sqrt(1 - 2 z^2), and H2 norm 40/(2 w sqrt(z w))
    z, w = 0.01, 10.0
    assert out["error"]["hinf"] == pytest.approx(40 / (2 * z * w**2 * np.sqrt(1 - z**2)), rel=1e-9)
    assert out["frequency"] == pytest.approx(w * np.sqrt(1 - 2 * z**2), rel=1e-6)
    assert out["error"]["h2"] == pytest.approx(40 / (2 * w * np.sqrt(z * w)), rel=1e-9)
    assert out["error"]["hankel"] == pytest.approx(float(balred.error(load(a), load(b), "hankel")), rel=1e-9)
    # 1/(s + 1) itself has the H-infinity norm 1 and the H2 norm sqrt(1/2)
    assert out["relative"]["hinf"] == pytest.approx(out["error"]["hinf"], rel=1e-12)
    assert out["relative"]["h2"] == pytest.approx(out["error"]["h2"] * np.sqrt(2), rel=1e-9)
    assert out["states"] == [1, 3]
    assert out["largest_real_part"] == [-1, pytest.approx(-0.1, rel=1e-9)]
    text = run("compare", a, b).stdout
    assert "largest at 9.999 rad/s" in text
    assert re.search(r"^H-infinity +20\.001 +20\.001$", text, re.MULTILINE)


def test_compare_in_discrete_time(tmp_path: Path) -> None:
    """2/(z - 1/2) - 1/(z - 1/2) has its largest gain, 2, at z = 1; its H2 norm is 1/sqrt(1 - 1/4)."""
    a, b = (store(tmp_path / f"{c}.npz", [[0.5]], [[1.0]], [[c]], dt=0.1) for c in (1.0, 2.0))
    out = as_json("compare", a, b)
    assert out["error"]["hinf"] == pytest.approx(2, rel=1e-12)
    assert out["error"]["h2"] == pytest.approx(np.sqrt(4 / 3), rel=1e-12)
    assert out["frequency"] == pytest.approx(0, abs=1e-6)
    assert out["largest_modulus"] == [0.5, 0.5]


@pytest.mark.parametrize("size", [1e200, 1e-200])
def test_compare_at_the_ends_of_the_number_range(tmp_path: Path, size: float) -> None:
    """c/(s + 1) + d against 1/2 c/(s + 1) + d: no note of NumPy's, and no part of an H2 norm that is infinite."""
    a, b = (store(tmp_path / f"{k}.npz", [[-1.0]], [[k * size]], [[1.0]], D=[[size]]) for k in (1.0, 0.5))
    assert run("compare", a, b).stderr == ""
    out = as_json("compare", a, b)
    assert out["error"]["hinf"] == pytest.approx(0.5 * size, rel=1e-12)
    assert out["relative"] == {
        "hinf": pytest.approx(0.25, rel=1e-12),
        "h2": None,
        "hankel": pytest.approx(0.5, rel=1e-12),
    }


def test_compare_where_gains_are_no_numbers(tmp_path: Path) -> None:
    a, b = (store(tmp_path / f"{k}.npz", [[-1.0]], [[k * 1e200]], [[1e200]]) for k in (1.0, 0.5))
    assert run("compare", a, b, code=1).stderr.startswith("balred compare: norms must be at most 1.8e+308, got larger")


def test_compare_unstable_systems(tmp_path: Path) -> None:
    """1/(s - 2) against 2/(s - 2) + gains: the L-infinity norm of the difference is 1/2 at zero, the L2 norm 1/2."""
    a, b = (store(tmp_path / f"{c}.json", [[2.0]], [[1.0]], [[c]]) for c in (1.0, 2.0))
    out = as_json("compare", a, b)
    assert out["error"] == {"linf": pytest.approx(0.5, rel=1e-9), "l2": pytest.approx(0.5, rel=1e-9)}
    assert out["relative"] == {"linf": pytest.approx(1, rel=1e-9), "l2": pytest.approx(1, rel=1e-9)}


def test_sparse_systems(tmp_path: Path) -> None:
    """A rod of 2500 cells stays sparse; its gain at frequency zero comes from a sparse solve."""
    n = 2500
    A = scipy.sparse.diags([1.0, -2.0, 1.0], [-1, 0, 1], shape=(n, n)) * n**2
    B = scipy.sparse.csc_matrix(([float(n)], ([0], [0])), shape=(n, 1))
    save(sparse_system(A, B, B.T), tmp_path / "rod.mat")
    assert "in 2 steps" in run("reduce", tmp_path / "rod.mat", "--order", "4", "--option", "max_steps=2", code=1).stderr
    assert "too small to be found" in run("hsv", tmp_path / "rod.mat", "--top", "1").stdout
    small = tmp_path / "small.mat"
    out = as_json("reduce", tmp_path / "rod.mat", "--bound", "1e-6", "--relative", "-o", small)
    assert out["states"] == n
    assert out["order"] == load(small).system.order < 40
    assert out["error"] <= out["bound"] * (1 + 1e-6)
    # G(0) = n^2 e1' T^-1 e1 / n^2 with T the second difference: n/(n + 1)
    assert load(small).system(0)[0, 0].real == pytest.approx(n / (n + 1), abs=out["bound"] * 1.001)
    out = as_json("compare", tmp_path / "rod.mat", small)
    assert out["states"][0] == n
    assert out["largest_real_part"][0] is None


def test_conjugate_systems(tmp_path: Path) -> None:
    g = balred.diagonal([0.9 + 0.2j, 0.5j, -0.3 + 0.1j], np.ones((3, 1)), np.ones((1, 3)), dt=1, conjugate=True)
    path, small = tmp_path / "lru.npz", tmp_path / "small.npz"
    save(g, path)
    assert "two values for each of the 3 stored states" in run("hsv", path).stdout
    assert as_json("reduce", path, "--order", "2", "-o", small)["order"] == 2
    assert isinstance(load(small).system, balred.DiagonalSystem)
    assert load(small).system.conjugate
    assert as_json("compare", path, small)["states"] == [3, 2]


def test_methods() -> None:
    table = as_json("methods")
    assert list(table) == list(balred.methods.METHODS)
    assert table["stochastic"]["options"] == {"beta": 0.0, "match_dc": False}
    assert table["positive_real"]["bounds"] is None
    assert (table["stochastic"]["required"], table["time_limited"]["required"]) == ([], ["horizon"])
    # methods that share a preparation are told apart
    assert len({row["summary"] for row in table.values()}) == len(table)
    assert (table["truncate"]["unstable"], table["lqg"]["unstable"]) == ("kept", "reduced")
    text = run("methods").stdout
    for name, row in table.items():
        assert name in text
        assert re.match(r"[A-Z].{15,}\.$", row["summary"]), row
        assert not re.search(r":math:|\\|``", row["summary"]), row


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("reduce {plant}", "exactly one must be given, got none"),
        ("reduce {plant} --order 2 --energy 0.9", "exactly one must be given, got --order and --energy"),
        ("reduce {plant} --order 2 --relative", "must go with --bound"),
        ("reduce {plant} --order 0", "Invalid value for"),
        ("reduce {plant} --order two", "--order"),
        ("reduce {plant} --energy 1.5", "fraction must be in (0, 1], got 1.5"),
        ("reduce {plant} --bound -1", "tolerance must be positive, got -1.0"),
        ("reduce {plant} --relative-hsv 1", "tolerance must be in [0, 1), got 1.0"),
        ("reduce {plant} --order 2 --method magic", "got 'magic'"),
        ("reduce {plant} --order 2 --option beta=1", "the options of method 'truncate' are none, got 'beta'"),
        ("reduce {plant} --order 2 --left {plant}", "the options of method 'truncate' are none, got 'left'"),
        ("reduce {plant} --order 2 --method stochastic --option beta", "must be KEY=VALUE, got 'beta'"),
        ("hsv {plant} --method time_limited", "method 'time_limited' needs horizon, got none"),
        ("hsv {plant} --top 0", "--top"),
        ("hsv {plant} --offset -1", "--offset"),
        ("hsv", "Missing argument"),
        ("compare {plant}", "Missing argument"),
    ],
)
def test_errors_of_usage(plant: Path, arguments: str, message: str) -> None:
    """Status 2; no file is read, so that they come at once."""
    result = run(*arguments.format(plant=plant).split(), code=2)
    assert message in " ".join(re.sub(r"[│╭╮╰╯─|+-]+\s|\s[│|]", " ", result.stderr).split())
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("hsv {folder}/none.mat", "balred hsv: {folder}/none.mat: No such file or directory"),
        ("hsv {folder}", "balred hsv: {folder}: the suffix must be one of .mat, .npz, .json, got"),
        ("hsv {plant} --solver magic", "balred hsv: solver must be one of"),
        ("reduce {plant} --order 80", "balred reduce: rank must be between 1 and 7, got 80"),
        ("reduce {plant} --order 1 --offset 0.6", "balred reduce: rank must be at least the number of unstable modes, 2"),
        ("reduce {plant} --order 2 --method bounded_real", "balred reduce: gamma must be above the H-infinity norm"),
        ("reduce {plant} --order 2 -o {folder}/x.txt", "balred reduce: {folder}/x.txt: the suffix must be one of"),
        ("reduce {plant} --order 2 -o {folder}/no/x.mat", "balred reduce: {folder}/no/x.mat: no such folder"),
        ("reduce {plant} --order 2 -o {plant}", "balred reduce: {plant}: exists already (--force replaces it)"),
        ("compare {plant} {folder}/lag.json", "balred compare: both systems must have the same outputs and inputs"),
        ("compare {folder}/batch.npz {folder}/lag.json", "balred compare: one system is needed, got a batch of shape (2,)"),
        ("hsv {folder}/batch.npz", "balred hsv: {folder}/batch.npz: one system is needed, got a batch of shape (2,)"),
        ("compare {folder}/lag.json {folder}/integrator.json", "balred compare: no pole may lie on the imaginary axis"),
    ],
)  # fmt: skip
def test_errors_of_data(plant: Path, arguments: str, message: str) -> None:
    """Status 1 and one line on standard error."""
    folder = plant.parent
    store(folder / "lag.json", [[-1.0]], [[1.0]], [[1.0]])
    store(folder / "integrator.json", [[0.0]], [[1.0]], [[1.0]])
    store(folder / "batch.npz", -np.ones((2, 1, 1)), np.ones((1, 1)), np.ones((1, 1)))
    before = plant.read_bytes()
    result = run(*arguments.format(plant=plant, folder=folder).split(), code=1)
    assert result.stdout == ""
    assert plant.read_bytes() == before
    assert result.stderr.startswith(message.format(plant=plant, folder=folder))
    assert result.stderr.count("\n") == 1


def test_force_replaces(plant: Path) -> None:
    run("reduce", plant, "--order", "3", "-o", plant, "--force")
    assert load(plant).system.order == 3


def test_a_rank_beyond_the_numerical_rank_is_noted(tmp_path: Path) -> None:
    """Two states that do the same: one is enough, and a note on standard error says so."""
    path = store(tmp_path / "twins.json", -np.eye(2), np.ones((2, 1)), np.ones((1, 2)))
    result = run("reduce", path, "--order", "2", "--json")
    assert result.stderr == (
        "balred reduce: note: rank 2 is beyond the numerical rank; the order of the reduced system is 1\n"
    )
    assert json.loads(result.stdout)["order"] == 1


def test_static_gains(tmp_path: Path) -> None:
    path = tmp_path / "gain.mat"
    save(balred.ss(np.zeros((0, 0)), np.zeros((0, 2)), np.zeros((1, 0)), np.array([[3.0, 4.0]])), path)
    assert as_json("hsv", path)["hsv"] == []
    run("hsv", path)
    assert "a system must have states to be reduced" in run("reduce", path, "--order", "1", code=1).stderr
    zero = tmp_path / "zero.npz"
    save(balred.ss(np.zeros((0, 0)), np.zeros((0, 2)), np.zeros((1, 0))), zero)
    out = as_json("compare", path, zero)
    assert out["error"]["hinf"] == 5
    assert out["error"]["h2"] == "Infinity"
    assert out["largest_real_part"] == [None, None]


def test_pictures(plant: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    small = tmp_path / "small.mat"
    pictures = [tmp_path / f"{name}.png" for name in ("hsv", "reduce", "compare")]
    run("hsv", plant, "--plot", pictures[0])
    run("reduce", plant, "--order", "3", "-o", small, "--plot", pictures[1])
    run("compare", plant, small, "--plot", pictures[2])
    assert [p.read_bytes()[:8] for p in pictures] == [b"\x89PNG\r\n\x1a\n"] * 3
    assert run("hsv", plant, "--plot", tmp_path / "x.xyz", code=1).stderr.count("\n") == 1


def test_as_a_program(plant: Path) -> None:
    """A process of its own, once: status, streams and ``python -m``."""

    def process(*arguments: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "error", "-m", "balred", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    good = process("hsv", plant, "--json")
    assert (good.returncode, good.stderr) == (0, "")
    assert_allclose(json.loads(good.stdout)["hsv"], SLICOT, rtol=0, atol=0.5001e-4)
    bad = process("reduce", plant, "--order", "80")
    assert (bad.returncode, bad.stdout) == (1, "")
    assert bad.stderr == "balred reduce: rank must be between 1 and 7, got 80\n"
    usage = process("reduce", plant)
    assert (usage.returncode, usage.stdout) == (2, "")
    assert "Traceback" not in usage.stderr


@pytest.mark.parametrize("sparse", [False, True])
def test_second_order_systems(tmp_path: Path, sparse: bool) -> None:
    """They stay such: what the library makes, with its own options and no bound."""
    g, path, small = chain(6, seed=1, sparse=sparse), tmp_path / "chain.mat", tmp_path / "small.mat"
    save(StoredSystem(g, "chain", ("a", "b"), ("end",)), path)
    assert_allclose(as_json("hsv", path)["hsv"][:4], balred.hsv(g)[:4], rtol=1e-9)
    assert "6 positions, 2 inputs" in run("hsv", path).stdout
    options = ("--order", "3", "--option", "balancing=velocity", "-o", small)
    out = as_json("reduce", path, *options)
    assert [out[key] for key in ("states", "second_order", "order", "bound", "stable")] == [6, True, 3, None, True]
    back = load(small)
    assert isinstance(back.system, balred.SecondOrderSystem)
    assert (back.name, back.inputs, back.outputs) == ("chain", ("a", "b"), ("end",))
    want = balred.reduce(g, 3, balancing="velocity")
    for key in ("M", "D", "K", "B", "Cp"):
        assert_allclose(getattr(back.system, key), getattr(want, key), atol=1e-12)
    assert out["error"] == pytest.approx(float(balred.error(g, want)), rel=1e-6)
    text = run("reduce", path, *options, "--force").stdout
    assert re.search(r"order +6 to 3\n", text)
    assert re.search(r"bound +none\n", text)
    out = as_json("compare", path, small)
    assert out["error"]["hinf"] == pytest.approx(float(balred.error(g, back)), rel=1e-6)
    assert (out["largest_real_part"][0] is None) == sparse


def test_second_order_systems_in_first_order_form(tmp_path: Path) -> None:
    """Which takes every method, 2 states for each position."""
    g, path, small = chain(6, seed=1), tmp_path / "chain.mat", tmp_path / "small.mat"
    save(g, path)
    out = as_json("reduce", path, "--first-order", "--order", "4", "-o", small)
    assert (out["order"], out["problems"]) == (4, [])
    assert out["bound"] == pytest.approx(balred.analyze(g).bound(4))
    assert_allclose(load(small).system.A, balred.reduce(g.to_dense(), 4).A, atol=1e-12)
    assert "12 to 4" in run("reduce", path, "--first-order", "--order", "4", "--method", "irka").stdout
    assert (
        "with --first-order every method works"
        in run("reduce", path, "--order", "4", "--method", "irka", code=1).stderr
    )
    assert "needs a method with an a-priori error bound" in run("reduce", path, "--bound", "1", code=1).stderr


def test_options_of_second_order_systems_go_with_them(tmp_path: Path, plant: Path) -> None:
    path = tmp_path / "chain.mat"
    save(chain(6, seed=1), path)
    run("reduce", path, "--order", "2", "--method", "modal", "--option", "dominance=residue")
    assert "balancing must be one of" in run("reduce", path, "--order=2", "--option=balancing=x", code=1).stderr
    run("reduce", path, "--order", "2", "--option", "balance=velocity", code=2)
    told = run("reduce", plant, "--order", "2", "--option", "balancing=velocity", code=1).stderr
    assert "the options of method 'truncate' are none, got 'balancing'" in told
    known = as_json("methods")
    assert known["truncate"]["second_order"] == {"balancing": "position", "galerkin": False}
    assert known["irka"]["second_order"] is None
    assert 'second-order systems stay second-order; options: dominance="frequency"' in run("methods").stdout


def test_a_second_order_system_that_was_unstable_before_is_no_error(tmp_path: Path) -> None:
    """Negative damping: modal truncation notes it, and the command does not call it a fault of the result."""
    g = chain(4, seed=1)
    save(balred.second_order(g.M, -g.D, g.K, g.B, g.Cp), tmp_path / "x.mat")
    out = run("reduce", tmp_path / "x.mat", "--order", "2", "--method", "modal")
    assert "is not stable" in out.stderr
    assert re.search(r"stable +no", out.stdout)


def test_the_least_order_with_a_measured_error(plant: Path) -> None:
    system = load(plant).system
    orders = {r: float(balred.error(system, balred.reduce(system, r))) for r in range(1, system.states)}
    least = min(r for r, e in orders.items() if e <= 0.09)
    out = as_json("reduce", plant, "--max-error", "0.09")
    assert out["order"] == least
    assert out["error"] <= 0.09
    size = float(balred.norm(system, "hinf"))
    assert as_json("reduce", plant, "--max-error", str(0.09 / size), "--relative")["order"] == least


def test_compare_ends_with_a_status_for_scripts(plant: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.json"
    assert run("reduce", plant, "--order", "5", "-o", small).exit_code == 0
    error = as_json("compare", plant, small)["error"]["hinf"]
    size = float(balred.norm(load(plant).system, "hinf"))
    for limit, relative in ((error, []), (error / size, ["--relative"])):
        assert run("compare", plant, small, "--max-error", str(1.01 * limit), *relative).exit_code == 0
        result = run("compare", plant, small, "--max-error", str(0.99 * limit), *relative, code=1)
        assert "(--max-error), got " in result.stderr
        assert "H-infinity" in result.stdout  # the table is printed all the same
    assert run("compare", plant, plant, "--max-error", "1e-12").exit_code == 0
    run("compare", plant, small, "--relative", code=2)
    run("compare", plant, small, "--max-error", "0", code=2)
    unstable = tmp_path / "unstable.json"
    save(
        balred.ss([[1.0]], np.ones((1, load(plant).system.B.shape[1])), np.ones((load(plant).system.C.shape[0], 1))),
        unstable,
    )
    assert "the difference is unstable" in run("compare", plant, unstable, "--max-error", "1e9", code=1).stderr
    integrator = tmp_path / "integrator.json"  # its norm is infinite, so no error is relative to it
    save(balred.ss([[0.0]], [[1.0]], [[1.0]]), integrator)
    result = run("compare", integrator, integrator, "--max-error", "1", "--relative", code=1)
    assert "FILE must have a finite, nonzero H-infinity norm for --relative" in result.stderr
    assert run("compare", integrator, integrator, "--max-error", "1").exit_code == 0


def test_a_gain_that_was_nearly_zero_is_told_in_both_units(tmp_path: Path) -> None:
    """Relative alone would say that hundreds of times the gain were lost."""
    poles, file = np.diag([-1.0, -5.0, -30.0]), tmp_path / "washout.json"
    save(balred.ss(poles, np.ones((3, 1)), [[1.0, -4.0, -6.0 + 3e-5]]), file)
    g = load(file).system
    small = balred.reduce(g, 2)
    gone = abs((g(0) - small(0))[0, 0])
    share = gone / abs(g(0)[0, 0])
    assert share > 100
    assert f"changed by {gone:.6g} ({share:.6g} relative)" in run("reduce", file, "--order", "2").stdout
    save(balred.ss(np.diag([-1.0, -2.0, -4.0]), np.ones((3, 1)), [[1.0, -1.0, -2.0]]), zero := tmp_path / "zero.json")
    assert "(of a gain of 0)" in run("reduce", zero, "--order", "2").stdout
