"""The drop-ins for python-control: its own tests pass with them, with slycot and without, and what is only ours is right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

control = pytest.importorskip("control")

import balred  # noqa: E402
from balred.adapters import control as ours  # noqa: E402
from balred.testing import random_system  # noqa: E402

FILES = ("modelsimp_test", "statefbk_test", "minreal_test", "matlab_test", "statesp_test")
NAMES = ("HSVD", "Hsvd", "Modred", "model_reduction", "Balred", "Gram", "Minreal", "minreal", "Markov", "ERA")
"""What python-control's tests of these functions are called."""
WITHOUT_SLYCOT = ("testMinrealBrute",)
"""Left out where slycot is hidden: the test compares what python-control's own ``zeros`` says, whose fallback on SciPy
gives NaN for a channel that is zero (shown below).  python-control skips the test itself without slycot."""


def run_their_tests(tmp_path: Path, names: str, hide: bool) -> dict[str, Any]:
    config, report = tmp_path / "pytest.ini", tmp_path / "report.json"
    config.write_text("[pytest]\n")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "BALRED_REPORT": str(report),
        "BALRED_HIDE_SLYCOT": "1" if hide else "",
        "MPLBACKEND": "agg",
    }
    environment.pop("PYTEST_ADDOPTS", None)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "control_plugin"]
    command += ["-c", str(config), "--rootdir", str(tmp_path), "-k", names]
    command += ["--pyargs", *(f"control.tests.{file}" for file in FILES)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(report.read_text())
    return found


@pytest.mark.full
@pytest.mark.parametrize("hide", [False, True], ids=["with slycot", "slycot hidden"])
def test_their_own_tests_pass(tmp_path: Path, hide: bool) -> None:
    names = f"({' or '.join(NAMES)})"
    if hide:
        names += f" and not ({' or '.join(WITHOUT_SLYCOT)})"
    else:
        pytest.importorskip("slycot")
    found = run_their_tests(tmp_path, names, hide)
    assert set(found["outcomes"]) == {"passed"}, f"none may fail or be skipped, got {found['outcomes']}"
    # python-control 0.10.2 has 50 such tests
    assert found["outcomes"]["passed"] >= 50 - hide * len(WITHOUT_SLYCOT)
    assert set(found["calls"]) == {
        "hsvd",
        "balred",
        "modred",
        "model_reduction",
        "gram",
        "minreal",
        "markov",
        "eigensys_realization",
        "StateSpace.minreal",
    }
    if hide:
        assert not found["slycot"], "slycot was loaded"


def test_why_one_of_their_tests_needs_slycot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "slycot", None)
    silent = control.ss([[-1.0, 0.0], [0.0, -2.0]], [[0.0], [1.0]], [[1.0, 0.0]], 0)
    assert np.isnan(silent.zeros()).any()


def plant(n: int = 6, m: int = 2, p: int = 3, dt: Any = 0, seed: int = 0) -> Any:
    g = random_system(n, m, p, dt=1 if dt else 0, seed=seed)
    names = {k: [f"{k[0]}{i}" for i in range(v)] for k, v in (("inputs", m), ("outputs", p), ("states", n))}
    D = np.random.default_rng(seed).standard_normal((p, m))
    return control.StateSpace(g.A, g.B, g.C, D, dt, name="plant", **names)


def test_names_of_python_control_and_the_short_ones() -> None:
    for long, short in (
        ("hankel_singular_values", "hsvd"),
        ("balanced_reduction", "balred"),
        ("model_reduction", "modred"),
        ("minimal_realization", "minreal"),
        ("eigensys_realization", "era"),
    ):
        assert getattr(ours, long) is getattr(ours, short)
        assert callable(getattr(control, long))


@pytest.mark.parametrize(
    "function",
    ["balanced_reduction", "model_reduction", "minimal_realization", "gram", "eigensys_realization", "markov", "hsvd"],
)
def test_signatures_are_theirs_and_what_is_ours_needs_its_name(function: str) -> None:
    import inspect

    theirs, mine = (list(inspect.signature(getattr(m, function)).parameters.values()) for m in (control, ours))
    assert [(p.name, p.default) for p in theirs] == [(p.name, p.default) for p in mine[: len(theirs)]]
    assert {p.name for p in mine[len(theirs) :]} <= {"solver", "offset"}
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in mine[len(theirs) :])


@pytest.mark.parametrize("dt", [None, 0, 0.1, True])
def test_hsvd_is_real_and_descending(dt: Any) -> None:
    sys = plant(dt=dt)
    s = ours.hsvd(sys)
    P, Q = ours.gram(sys, "c"), ours.gram(sys, "o")
    assert s.dtype == np.float64
    assert (np.diff(s) <= 0).all()
    assert_allclose(s, np.sqrt(np.sort(np.linalg.eigvals(P @ Q).real)[::-1]), rtol=1e-6)


@pytest.mark.parametrize(("m", "p"), [(1, 1), (2, 3), (9, 8)])
@pytest.mark.parametrize("dt", [0, 0.1])
def test_gramians_and_factors(m: int, p: int, dt: float) -> None:
    sys = plant(4, m, p, dt)
    A, B, C = sys.A, sys.B, sys.C
    P, Q = ours.gram(sys, "c"), ours.gram(sys, "o")
    if dt:
        assert_allclose(A @ P @ A.T - P, -B @ B.T, atol=1e-12 * np.abs(P).max())
        assert_allclose(A.T @ Q @ A - Q, -C.T @ C, atol=1e-12 * np.abs(Q).max())
    else:
        assert_allclose(A @ P + P @ A.T, -B @ B.T, atol=1e-12 * np.abs(A).max() * np.abs(P).max())
        assert_allclose(A.T @ Q + Q @ A, -C.T @ C, atol=1e-12 * np.abs(A).max() * np.abs(Q).max())
    for kind, W in (("cf", P), ("of", Q)):
        R = ours.gram(sys, kind)
        assert_allclose(R, np.triu(R))
        assert (np.diag(R) >= 0).all()
        assert_allclose(R.T @ R, W, atol=1e-12 * np.abs(W).max())


def test_gram_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="must be StateSpace, got TransferFunction"):
        ours.gram(control.tf([1], [1, 1]), "c")
    with pytest.raises(ValueError, match="type must be one of c, o, cf, of, got 'x'"):
        ours.gram(plant(), "x")
    with pytest.raises(balred.UnstableError, match=r"the system is unstable: .* got a pole at 1"):
        ours.gram(control.ss([[1.0]], [[1.0]], [[1.0]], 0), "cf")


def same_transfer(g: Any, h: Any, tol: float = 1e-9) -> None:
    for w in np.logspace(-3, 3, 20):
        z = np.exp(1j * min(w, 3.1)) if g.isdtime(strict=True) else 1j * w
        want = np.atleast_2d(g(z))
        assert_allclose(np.atleast_2d(h(z)), want, rtol=tol, atol=tol * np.abs(want).max())


@pytest.mark.parametrize("dt", [None, 0, 0.1, True])
def test_balreal(dt: Any) -> None:
    sys = plant(dt=dt)
    sysb, g, T, Tinv = ours.balreal(sys)
    assert_allclose(T @ Tinv, np.eye(6), atol=1e-9)
    assert_allclose(T @ sys.A @ Tinv, sysb.A, atol=1e-9)
    assert_allclose(T @ sys.B, sysb.B, atol=1e-9)
    assert_allclose(sys.C @ Tinv, sysb.C, atol=1e-9)
    for kind in "co":
        assert_allclose(ours.gram(sysb, kind), np.diag(g), atol=1e-10 * g[0])
    assert sysb.dt is dt if dt is None or dt is True else sysb.dt == dt
    assert (sysb.input_labels, sysb.output_labels) == (sys.input_labels, sys.output_labels)


def unstable_plant(dt: float) -> Any:
    """Two unstable modes, coupled with five stable ones."""
    g = random_system(5, 2, 2, dt=1 if dt else 0, seed=4)
    rng = np.random.default_rng(4)
    bad = np.diag([1.5, -1.2] if dt else [0.5, 2.0])
    A = np.block([[g.A, rng.standard_normal((5, 2))], [np.zeros((2, 5)), bad]])
    B, C = np.vstack([g.B, rng.standard_normal((2, 2))]), np.hstack([g.C, rng.standard_normal((2, 2))])
    return control.StateSpace(A, B, C, rng.standard_normal((2, 2)), dt)


@pytest.mark.parametrize("dt", [0, 0.1])
def test_balreal_of_an_unstable_system(dt: float) -> None:
    sys = unstable_plant(dt)
    sysb, g, T, Tinv = ours.balreal(sys)
    assert np.isinf(g).sum() == 2
    assert_allclose(T @ Tinv, np.eye(7), atol=1e-8)
    for mine, want in ((sysb.A, T @ sys.A @ Tinv), (sysb.B, T @ sys.B), (sysb.C, sys.C @ Tinv)):
        assert_allclose(mine, want, atol=1e-8 * np.abs(want).max())
    stable = control.StateSpace(sysb.A[2:, 2:], sysb.B[2:], sysb.C[:, 2:], sysb.D, dt)
    assert_allclose(ours.gram(stable, "c"), np.diag(g[2:]), atol=1e-9 * g[2])
    assert_allclose(g, ours.hsvd(sys), rtol=1e-8)
    same_transfer(sys, sysb)


@pytest.mark.parametrize("dt", [0, 0.1])
def test_balreal_of_a_system_without_stable_modes(dt: float) -> None:
    sys = control.StateSpace([[2.0, 1.0], [0.0, 3.0]], [[0.0], [1.0]], [[1.0, 0.0]], 0, dt)
    sysb, g, T, Tinv = ours.balreal(sys)
    assert np.isinf(g).all()
    assert_allclose(T @ sys.A @ Tinv, sysb.A, atol=1e-12)
    same_transfer(sys, sysb)


@pytest.mark.parametrize("method", ["truncate", "matchdc"])
@pytest.mark.parametrize("dt", [None, 0, 0.1, True])
def test_balred_keeps_names_and_time_base(method: str, dt: Any) -> None:
    sys = plant(dt=dt)
    one, two = ours.balred(sys, [2, 4], method=method)
    assert (one.nstates, two.nstates) == (2, 4)
    s = ours.hsvd(sys)
    for small in (one, two):
        assert type(small) is control.StateSpace
        assert small.dt is dt if dt is None or dt is True else small.dt == dt
        assert (small.input_labels, small.output_labels, small.name) == (sys.input_labels, sys.output_labels, "plant")
        assert balred.error(sys, small) <= 2 * s[small.nstates :].sum() * (1 + 1e-9)
        if method == "matchdc":
            assert_allclose(small.dcgain(), sys.dcgain(), rtol=1e-9)
    assert type(ours.balred(sys, 3, method=method)) is type(ours.balred(sys, [3], method=method)) is control.StateSpace


@pytest.mark.parametrize("method", ["truncate", "matchdc"])
@pytest.mark.parametrize("dt", [0, 0.1])
def test_balred_of_an_unstable_system(method: str, dt: float) -> None:
    sys = unstable_plant(dt)
    for order in (2, 4):
        small = ours.balred(sys, order, method=method)
        assert small.nstates == order
        poles = np.sort(small.poles().real)
        for pole in (1.5, -1.2) if dt else (0.5, 2.0):
            assert np.abs(poles - pole).min() < 1e-9
    # what is left out is the stable part, whose Hankel singular values bound it
    gap = balred.norm(_difference(sys, ours.balred(sys, 4, method=method)), kind="linf")
    assert gap <= 2 * ours.hsvd(sys)[4:].sum() * (1 + 1e-9)
    if method == "matchdc":
        dc = 1.0 if dt else 0.0
        assert_allclose(ours.balred(sys, 2, method=method)(dc), sys(dc), rtol=1e-9)
    with pytest.raises(
        ValueError, match=r"orders must be integers between 2, the number of unstable modes, and 7, got 1"
    ):
        ours.balred(sys, 1, method=method)


def _difference(g: Any, h: Any) -> Any:
    gap = g - h
    return balred.ss(gap.A, gap.B, gap.C, gap.D, g.dt)


@pytest.mark.parametrize("method", ["truncate", "matchdc"])
@pytest.mark.parametrize(("dt", "alpha", "slow"), [(0, -0.2, -0.1), (0.1, 0.9, 0.95)])
def test_alpha_keeps_slow_poles(method: str, dt: float, alpha: float, slow: float) -> None:
    # the slow mode is so weak that it would be the first to go
    fast = [0.5, 0.3, -0.4] if dt else [-1.0, -2.0, -3.0]
    sys = control.ss(np.diag([slow, *fast]), [[1e-4], [1.0], [1.0], [1.0]], [[1e-4, 1.0, 2.0, 3.0]], 0, dt)
    with_alpha, without = ours.balred(sys, 2, method, alpha=alpha), ours.balred(sys, 2, method)
    assert np.abs(with_alpha.poles() - slow).min() < 1e-12
    assert np.abs(without.poles() - slow).min() > 1e-3
    with pytest.raises(ValueError, match="alpha must be"):
        ours.balred(sys, 2, method, alpha=1.5 if dt else 0.5)


def test_balred_of_order_zero_is_a_gain() -> None:
    sys = plant()
    assert ours.balred(sys, 0).nstates == 0
    assert_allclose(ours.balred(sys, 0).D, sys.D)
    assert_allclose(ours.balred(sys, 0, "matchdc").D, sys.dcgain(), rtol=1e-12)


def test_balred_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="method must be 'truncate' or 'matchdc', got 'x'"):
        ours.balred(plant(), 2, "x")
    with pytest.raises(TypeError, match="must be StateSpace, got TransferFunction"):
        ours.balred(control.tf([1], [1, 1]), 1)
    with pytest.raises(ValueError, match="and 6, got 7"):
        ours.balred(plant(), 7)


@pytest.mark.filterwarnings("ignore::balred.InstabilityWarning")  # elimination by hand promises no stability
@pytest.mark.parametrize("dt", [None, 0, 0.1, True])
def test_modred_keeps_the_dc_gain_in_both_times(dt: Any) -> None:
    sys = plant(dt=dt)
    small = ours.modred(sys, ["s1", "s4"])
    assert small.state_labels == ["s0", "s2", "s3", "s5"]
    assert (small.input_labels, small.output_labels) == (sys.input_labels, sys.output_labels)
    assert small.dt is dt if dt is None or dt is True else small.dt == dt
    assert_allclose(small.dcgain(), sys.dcgain(), rtol=1e-9)


def test_modred_chooses_signals() -> None:
    sys = plant()
    small = ours.modred(sys, slice(3, None), "truncate", keep_inputs="i1", elim_outputs=[0, -1])
    assert (small.state_labels, small.input_labels, small.output_labels) == (["s0", "s1", "s2"], ["i1"], ["o1"])
    assert_allclose(small.A, sys.A[:3, :3])
    assert_allclose(small.B, sys.B[:3, 1:])
    assert_allclose(small.C, sys.C[1:2, :3])
    assert_allclose(small.D, sys.D[1:2, 1:])
    same_transfer(ours.modred(sys, np.array([-1])), ours.modred(sys, 5))


def test_modred_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"states must be among s0, s1, .* got 's9'"):
        ours.modred(plant(), "s9")
    with pytest.raises(ValueError, match="inputs must be among i0, i1 or their indices, got 2"):
        ours.modred(plant(), elim_inputs=[2])
    with pytest.raises(ValueError, match="method must be"):
        ours.modred(plant(), 0, "x")
    with pytest.raises(TypeError, match="must be StateSpace, got TransferFunction"):
        ours.modred(control.tf([1], [1, 1]), 0)
    integrator = control.ss([[0.0, 1.0], [0.0, -1.0]], [[0.0], [1.0]], [[1.0, 0.0]], 0)
    with pytest.raises(ValueError, match="A22 that is singular"):
        ours.modred(integrator, 0, warn_unstable=False)
    with pytest.warns(UserWarning, match="System is unstable"):
        ours.modred(integrator, 1)


@pytest.mark.parametrize("dt", [0, 0.1, True])
def test_minreal(dt: Any, capsys: pytest.CaptureFixture[str]) -> None:
    sys = plant(4, dt=dt)
    hidden = control.StateSpace(
        np.block([[sys.A, np.zeros((4, 2))], [np.ones((2, 4)), np.diag([2.0, -3.0])]]),
        np.vstack([sys.B, np.ones((2, 2))]),
        np.hstack([sys.C, np.zeros((3, 2))]),
        sys.D,
        dt,
        inputs=["a", "b"],
    )
    small = ours.minreal(hidden)
    assert capsys.readouterr().out == "2 states have been removed from the model\n"
    assert (small.nstates, small.dt, small.input_labels) == (4, dt, ["a", "b"])
    same_transfer(sys, small)
    assert ours.minreal(small, verbose=False).nstates == 4
    assert capsys.readouterr().out == ""


def test_minreal_of_a_transfer_function_is_theirs() -> None:
    s = control.tf("s")
    small = ours.minreal((s + 1) * (s + 2) / ((s + 2) * (s + 3)), verbose=False)
    assert_allclose(small.num[0][0], [1, 1])
    assert_allclose(small.den[0][0], [1, 3])
    assert ours.minreal((s + 1) * (s + 2) / ((s + 2.1) * (s + 3)), tol=0.2, verbose=False).poles().size == 1


@pytest.mark.parametrize("dt", [0, 0.1])
def test_a_solver_may_be_named(dt: float) -> None:
    sys = plant(dt=dt)
    assert_allclose(ours.hsvd(sys, solver="scipy"), ours.hsvd(sys), rtol=1e-7)
    assert_allclose(ours.gram(sys, "c", solver="scipy"), ours.gram(sys, "c"), rtol=1e-7, atol=1e-10)
    same_transfer(ours.balred(sys, 3, solver="scipy"), ours.balred(sys, 3), tol=1e-6)
    assert_allclose(ours.balreal(sys, solver="scipy")[1], ours.hsvd(sys), rtol=1e-7)
    for call in (ours.hsvd, ours.balreal, lambda s, solver: ours.gram(s, "c", solver=solver)):
        with pytest.raises(ValueError, match=r"solver must be one of .* got 'none'"):
            call(sys, solver="none")


@pytest.mark.parametrize(("dt", "offset", "alpha"), [(0, 0.2, -0.2), (0.1, 0.1, 0.9)])
def test_offset_is_alpha_from_the_boundary_on(dt: float, offset: float, alpha: float) -> None:
    fast, slow = ([0.5, 0.3, -0.4], 0.95) if dt else ([-1.0, -2.0, -3.0], -0.1)
    sys = control.ss(np.diag([slow, *fast]), [[1e-4], [1.0], [1.0], [1.0]], [[1e-4, 1.0, 2.0, 3.0]], 0, dt)
    same_transfer(ours.balred(sys, 2, offset=offset), ours.balred(sys, 2, alpha=alpha))
    assert np.isinf(ours.hsvd(sys, offset=offset)).sum() == 1
    sysb, g, T, Tinv = ours.balreal(sys, offset=offset)
    assert np.isinf(g).sum() == 1
    assert_allclose(T @ sys.A @ Tinv, sysb.A, atol=1e-9)
    with pytest.raises(ValueError, match="alpha or offset must be given, not both"):
        ours.balred(sys, 2, alpha=alpha, offset=offset)


@pytest.mark.parametrize("mask", [[False, True, False, False, True, False], np.array([0, 1, 0, 0, 1, 0], bool)])
def test_a_mask_of_states_is_one(mask: Any) -> None:
    sys = plant()
    same_transfer(ours.modred(sys, mask), ours.modred(sys, [1, 4]))
    assert ours.modred(sys, keep_states=mask, method="truncate").state_labels == ["s1", "s4"]
    with pytest.raises(ValueError, match="a mask of states must have 6 entries, got 5"):
        ours.modred(sys, mask[:5])
    with pytest.raises(ValueError, match="a mask of inputs must keep one at least"):
        ours.modred(sys, keep_inputs=[False, False])
    with pytest.raises(ValueError, match=r"states must be among .* got True"):
        ours.modred(sys, True)
    with pytest.raises(ValueError, match=r"states must be among .* got 1.5"):
        ours.modred(sys, [1.5])


def test_a_steady_state_that_hardly_exists_is_told() -> None:
    # the second state integrates but for 1e-14, the third pair is singular but for 1e-10
    A = np.array([[-1.0, 1.0, 0.0], [0.0, -1e-14, 0.0], [1.0, 0.0, -2.0]])
    sys = control.ss(A, np.ones((3, 1)), np.ones((1, 3)), 0)
    with pytest.warns(UserWarning, match="A22 is nearly singular, its smallest singular value is 1e-14"):
        ours.modred(sys, 1)
    A = np.array([[-1.0, 1.0, 0.0], [0.0, -1.0, 1.0], [0.0, 1.0, -1.0 - 1e-10]])
    with pytest.warns(UserWarning, match="A22 is nearly singular"):
        ours.modred(control.ss(A, np.ones((3, 1)), np.ones((1, 3)), 0), [1, 2])
    # units of the states are not singular
    d = np.array([1.0, 1e9, 1e-9, 1.0, 1e6, 1.0])
    plain = plant()
    scaled = control.ss(plain.A * d / d[:, None], plain.B / d[:, None], plain.C * d, plain.D)
    same_transfer(ours.modred(scaled, [1, 2]), ours.modred(plain, [1, 2]), tol=1e-7)


def test_minreal_of_a_state_space_as_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control.StateSpace, "minreal", ours.statespace_minreal)
    sys = control.ss([[-1.0, 0.0], [0.0, -2.0]], [[1.0], [0.0]], [[1.0, 1.0]], 0, inputs=["torque"])
    small = sys.minreal()
    assert (small.nstates, small.input_labels) == (1, ["torque"])
    assert control.minreal(sys, verbose=False).nstates == 1


# ------------------------------------------------------------------------------------------------ models from data


@pytest.mark.parametrize(("m", "p"), [(1, 1), (2, 1), (1, 3), (2, 3)])
@pytest.mark.parametrize("dt", [True, 0.1])
def test_era_of_their_impulse_responses(m: int, p: int, dt: Any) -> None:
    sys = plant(4, m, p, dt=dt, seed=2)  # with a direct term
    data = control.impulse_response(sys, T=np.arange(30) * float(dt))
    for given in (data, np.asarray(data.y).reshape(p, m, -1)):
        found, S = ours.era(given, 4, dt=dt)
        assert (found.nstates, found.dt, found.ninputs, found.noutputs) == (4, dt, m, p)
        same_transfer(sys, found, tol=1e-6)
        assert S[4] < 1e-10 * S[0]
    theirs, want = control.era(np.asarray(data.y).reshape(p, m, -1), 4, dt=dt)
    assert_allclose(S, want, atol=1e-12 * want[0])
    assert_allclose(found.poles(), theirs.poles(), rtol=1e-6)
    reverse = np.asarray(data.y).reshape(p, m, -1).T
    same_transfer(sys, ours.era(reverse, 4, dt=dt, transpose=True)[0], tol=1e-6)


def test_era_by_a_rule_and_what_is_wrong() -> None:
    h = [0.0, 1.0, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0]  # Fibonacci's numbers have order two
    assert ours.era(h, balred.Relative(1e-9))[0].nstates == 2
    with pytest.warns(balred.RankWarning, match="rank 3 is beyond the numerical rank 2"):
        ours.era(h, 3, m=4, n=4)
    with pytest.raises(ValueError, match="together at most 8"):
        ours.era(h, 3)
    with pytest.raises(ValueError, match="must have 5 rows and columns at least"):
        ours.era(h, 5, m=2, n=2)
    with pytest.raises(ValueError, match=r"shape \(p, m, steps\) or \(steps,\), got \(1, 9\)"):
        ours.era([h], 2)


@pytest.mark.parametrize(("m", "p"), [(1, 1), (2, 3)])
def test_markov_has_their_axes(m: int, p: int) -> None:
    sys = plant(3, m, p, dt=0.5, seed=1)
    rng = np.random.default_rng(0)
    u = 0.1 * rng.standard_normal((m, 30))
    u[:, 0] = 1.0  # an impulse and some noise: what came first weighs most, so that deconvolution loses nothing
    data = control.forced_response(sys, U=u)
    y = np.asarray(data.y).reshape(p, -1)
    # u does not end before the data, so 3 parameters fit least squares only: theirs is the same equation
    for args, options in (
        ((data, 3), {}),
        ((y, u, 3), {"dt": 0.5}),
        ((y, u), {"m": 3, "truncate": True}),
        ((data,), {"m": 10}),
    ):
        assert_allclose(ours.markov(*args, **options), control.markov(*args, **options), atol=1e-9)
    exact = ours.markov(y, u, 30 // m, dt=0.5)
    assert exact.shape == ((p, m, 30 // m) if m * p > 1 else (30,))
    if m * p == 1:
        h = [sys.D[0, 0], *((sys.C @ np.linalg.matrix_power(sys.A, k) @ sys.B)[0, 0] for k in range(29))]
        assert_allclose(exact * 0.5, h, atol=1e-7 * np.abs(h).max())
    turned = ours.markov(y.T, u.T, 3, transpose=True)
    assert_allclose(turned, control.markov(y.T, u.T, 3, transpose=True), atol=1e-9)


def test_markov_says_what_is_wrong() -> None:
    from control.exception import ControlArgument, ControlDimension

    with pytest.raises(ControlArgument, match="not enough input arguments"):
        ours.markov([1.0])
    with pytest.raises(ControlDimension, match="one length, got 2 and 3"):
        ours.markov([1.0, 2.0, 3.0], [1.0, 0.0])
    with pytest.raises(ControlArgument, match="too many arguments"):
        ours.markov([1.0], [1.0], 1, 1)
    with pytest.raises(ValueError, match="one experiment, got 2 traces"):
        ours.markov(control.impulse_response(plant(dt=0.1), T=np.arange(9) * 0.1))
    with pytest.warns(UserWarning, match="Not enough data"):
        ours.markov([1.0, 2.0], [1.0, 0.0], 3)
    # python-control says nothing: a step of zeros determines no parameter
    with pytest.warns(UserWarning, match="the inputs determine 2 of 3 unknowns"):
        ours.markov([0.0, 1.0, 2.0], [0.0, 1.0, 0.0], 3)
