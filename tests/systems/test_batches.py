"""Leading axes: a batch equals the loop over its members, for every structure and library; budgets; layers of one shape.

Expected: the same function of each member by itself (a batch and its members differ by rounding only).
"""

from __future__ import annotations

import dataclasses
import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose
from tables import BATCHED, LIBRARIES, Backend

import balred
from balred.reduction.analysis import analyses
from balred.reduction.settings import Settings
from balred.systems import arrays, batches

KINDS = ("dense", "diagonal", "conjugate")
each_kind = pytest.mark.parametrize("kind", KINDS)
libraries = [x for x in LIBRARIES if x.precision == "float64" and x.backend is not Backend.TORCH_GRAD]


@pytest.fixture(params=libraries, ids=str)
def lib(request):
    pytest.importorskip(request.param.backend.library)
    with request.param.scope():
        yield request.param


@pytest.fixture(params=BATCHED, ids=str)
def case(request):
    return request.param


def several(case, lib, m=2):
    """A batch with two leading axes, (2, 2), and its members in order."""
    g = balred.testing.random_system(4, m, m, dt=case.dt, kind=case.kind, batch=(2, 2), seed=3)
    flat = arrays.mapped(g, lambda x: x.reshape(4, *x.shape[2:]))
    return lib.system(g), [lib.system(batches.member(flat, i)) for i in range(4)]


def same(lib, batch, members, rtol=1e-9):
    """The batch's array against those of the members."""
    got = lib.numpy(batch)
    want = np.stack([np.asarray(x) if isinstance(x, np.ndarray) else lib.numpy(x) for x in members]).reshape(got.shape)
    assert_allclose(got, want, rtol=0, atol=rtol * np.abs(want).max())


@pytest.mark.parametrize("m", [1, 2])
def test_hsv(case, lib, m):
    g, members = several(case, lib, m)
    s = lib.call(balred.hsv, g)
    assert s.shape == (2, 2, g.order)
    same(lib, s, [balred.hsv(x) for x in members], rtol=1e-11)


def test_gramians_and_factors(case, lib):
    g, members = several(case, lib)
    pairs = [balred.gramians(x) for x in members]
    for i, (G, Z) in enumerate(zip(lib.call(balred.gramians, g), lib.call(balred.gramian_factors, g), strict=True)):
        assert G.shape == (2, 2, g.order, g.order)
        same(lib, G, [pair[i] for pair in pairs], rtol=1e-11)
        Z = lib.numpy(Z)
        assert Z.shape[:3] == (2, 2, g.order)
        assert_allclose(Z @ Z.conj().swapaxes(-1, -2), lib.numpy(G), rtol=0, atol=1e-12 * np.abs(lib.numpy(G)).max())


@pytest.mark.parametrize("kind", ["h2", "hankel", "hinf"])
def test_norm(case, lib, kind):
    if lib.traced:
        pytest.skip("norms look at values: not under a trace")
    g, members = several(case, lib)
    got = balred.norm(_without_feedthrough(g), kind)
    assert got.shape == (2, 2)
    same(lib, got, [balred.norm(_without_feedthrough(x), kind) for x in members], rtol=1e-8)


def _without_feedthrough(g):
    return dataclasses.replace(g, D=0 * g.D)  # with one, H2 is infinite in continuous time


def test_balance(case, lib):
    if lib.traced:
        pytest.skip("the numerical rank is looked at: not under a trace")
    g, members = several(case, lib)
    whole, parts = balred.balance(g), [balred.balance(x) for x in members]
    for field in ("hsv", "T", "Tinv"):
        same(lib, getattr(whole, field), [getattr(x, field) for x in parts], rtol=1e-7)
    for name in ("A", "B", "C"):
        same(lib, getattr(whole.system, name), [getattr(x.system, name) for x in parts], rtol=1e-7)


def test_analyze_and_reduce(case, lib):
    if lib.traced:
        pytest.skip("an analysis keeps host values: not under a trace")
    g, members = several(case, lib)
    a, each = balred.analyze(g), [balred.analyze(x) for x in members]
    same(lib, a.hsv, [x.hsv for x in each], rtol=1e-11)
    assert_allclose(a.bound(2).ravel(), [x.bound(2) for x in each], rtol=1e-7)
    assert_allclose(a.energy(2).ravel(), [x.energy(2) for x in each], rtol=1e-9)
    assert a.reduction(2).orders.ravel().tolist() == [x.reduction(2).stable_order for x in each]
    # every member holds the order that the most demanding one needs
    assert a.rank(balred.Energy(0.9)) >= max(x.rank(balred.Energy(0.9)) for x in each)
    small, parts = balred.reduce(g, 2), [balred.reduce(x, 2) for x in members]
    assert lib.owns(small.B)
    points = [1j, 0.3 + 0.2j] if not g.discrete else [np.exp(0.5j), -1.0]
    for z in points:  # the coordinates of a reduced diagonal system are its own
        same(lib, small(z), [x(z) for x in parts], rtol=1e-7)


# --------------------------------------------------------------------------------------------------- within a budget


@each_kind
@pytest.mark.parametrize("m", [1, 2])
def test_a_budget_does_not_change_values(kind, m):
    g = balred.testing.random_system(5, m, m, dt=1, kind=kind, batch=(3, 5), seed=1)
    want = balred.hsv(g)
    for budget in (1, 3 * batches.working_bytes(g), 10**9):
        got = balred.hsv(g, max_bytes=budget)
        assert got.shape == want.shape
        assert_allclose(got, want, rtol=0, atol=1e-13 * want.max())


def test_a_budget_keeps_gradients():
    torch = pytest.importorskip("torch")
    g = balred.testing.random_system(5, 2, 2, dt=1, kind="conjugate", batch=(4,), seed=1)
    grads = []
    for budget in (None, 1):
        l, B, C = (torch.tensor(x, requires_grad=True) for x in g.leaves)
        balred.hsv(balred.diagonal(log_poles=l, B=B, C=C, dt=1, conjugate=True), max_bytes=budget).sum().backward()
        grads.append([x.grad for x in (l, B, C)])
    for x, y in zip(*grads, strict=True):
        assert torch.allclose(x, y, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("budget", [0, -1, 1.5, True, "1 GB"])
def test_a_budget_is_a_positive_integer(budget):
    with pytest.raises(ValueError, match="max_bytes must be a positive integer, got"):
        balred.hsv(balred.testing.random_system(3, seed=0), max_bytes=budget)


def peak_of(function):
    """Bytes that NumPy held at most while `function` ran, beyond those before; LAPACK's own workspace is not counted."""
    function()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    kept = function()
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    del kept
    return peak


@each_kind
@pytest.mark.parametrize("m", [1, 4, 64])
def test_peak_of_the_values_is_as_documented(kind, m):
    """The formula of `working_bytes` (docs, benchmarks page) holds, and is no more than ten times too high."""
    g = balred.testing.random_system(96, m, m, dt=1, kind=kind, seed=0)
    peak, documented = peak_of(lambda: balred.hsv(g)), batches.working_bytes(g)
    assert 0.1 * documented < peak <= documented


def test_a_budget_is_kept():
    g = balred.testing.random_system(32, 2, 2, dt=1, kind="conjugate", batch=(64,), seed=0)
    budget = 4 * batches.working_bytes(g)
    assert peak_of(lambda: balred.hsv(g)) > 2 * budget
    assert peak_of(lambda: balred.hsv(g, max_bytes=budget)) <= budget


def test_analysing_a_model_takes_a_small_multiple_of_its_parameters():
    """Six LRU layers with the proportions of the published sCIFAR model (384 states, width 512), at a third of its size.

    An analysis keeps five real matrices of order 2n, and B and C twice, complex and real, all in double precision: beside
    the 4nh numbers of a layer in float32 (n states, width h) that is 4 + 10n/h times as much.  One layer's temporaries
    come on top.
    """
    n, width = 128, 171
    layers = {f"{i}": _lru(n, width, i) for i in range(6)}
    parameters = sum(x.nbytes for g in layers.values() for x in g.leaves)
    temporary = batches.working_bytes(layers["0"])
    assert peak_of(lambda: balred.analyze(layers)) < (4 + 10 * n / width) * parameters + temporary
    assert temporary < 4 * parameters


def _lru(n, width, seed):
    g = balred.testing.random_system(n, width, width, dt=1, kind="conjugate", seed=seed)
    return balred.diagonal(
        log_poles=g.log_poles.astype(np.complex64), B=g.B.astype(np.complex64), C=g.C.astype(np.complex64), dt=1,
        conjugate=True,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ layers of one shape


def model(lib=None):
    make = balred.testing.random_system
    layers = {
        "a": make(6, 2, 2, dt=1, kind="conjugate", seed=0),
        "b": make(6, 2, 2, dt=1, kind="conjugate", seed=1),
        "c": make(4, 2, 2, dt=1, kind="conjugate", seed=2),
        "d": make(6, 2, 2, dt=0.5, kind="conjugate", seed=3),
        "e": make(6, 2, 2, dt=1, kind="dense", seed=4),
        "f": make(6, 2, 2, dt=1, kind="conjugate", seed=5),
    }
    return {k: lib.system(g) if lib else g for k, g in layers.items()}


def test_layers_of_one_shape_are_computed_together(lib):
    layers = model(lib)
    assert batches.alike(layers) == [["a", "b", "f"], ["c"], ["d"], ["e"]]
    found = lib.call(balred.hsv, layers)
    assert list(found) == list(layers)
    for name, g in layers.items():
        same(lib, found[name], [balred.hsv(g)], rtol=1e-11)


def test_large_layers_are_not_joined():
    small = balred.testing.random_system(181, dt=1, kind="diagonal", seed=0)
    large = balred.testing.random_system(182, dt=1, kind="diagonal", seed=0)
    channels = balred.testing.random_system(64, dt=1, kind="diagonal", batch=(9,), seed=0)
    layers = {"a": small, "b": small, "c": large, "d": large, "e": channels, "f": channels}
    assert batches.alike(layers) == [["a", "b"], ["c"], ["d"], ["e"], ["f"]]


def test_analyses_of_one_solve_are_those_of_each(lib):
    if lib.traced:
        pytest.skip("an analysis keeps host values: not under a trace")
    layers = model(lib)
    found = balred.analyze(layers)
    for name, g in layers.items():
        mine, alone = found[name], balred.analyze(g)
        assert mine.system is g
        assert mine.rank(balred.Energy(0.9)) == alone.rank(balred.Energy(0.9))
        assert mine.numerical_rank == alone.numerical_rank
        same(lib, mine.hsv, [alone.hsv], rtol=1e-11)
        assert_allclose(mine.bound(3), alone.bound(3), rtol=1e-9)
        z = np.exp(0.7j)
        same(lib, mine.reduce(3)(z), [alone.reduce(3)(z)], rtol=1e-8)


def test_one_unstable_layer_does_not_spoil_the_others():
    layers = model()
    layers["b"] = balred.diagonal(
        [1.5, *[0.5 + 0.1j] * 5], B=layers["b"].B, C=layers["b"].C, D=layers["b"].D, dt=1, conjugate=True
    )
    found = balred.hsv(layers)
    assert np.isinf(found["b"][:2]).all()
    assert_allclose(found["a"], balred.hsv(layers["a"]), rtol=1e-9)
    joint = analyses({k: (g, lambda x: x) for k, g in layers.items()}, Settings())
    assert joint["b"].unstable is not None
    assert joint["a"].unstable is None


def test_one_solve_for_all_layers_of_a_shape(monkeypatch):
    """A check in training asks the solver once for each shape."""
    from balred.intraining import Policy
    from balred.intraining.decide import decide
    from balred.reduction import solve

    calls = []
    prepared = solve._prepared
    monkeypatch.setattr(solve, "_prepared", lambda part, *rest: (calls.append(part.B.shape), prepared(part, *rest))[1])
    policy = Policy(balred.Energy(0.9), window=(0, 1), attempts=1)
    done, _, report = decide(policy, policy.init(), 1, model())
    assert sorted(calls) == [(3, 6, 2), (4, 2), (6, 2), (6, 2)]
    assert not report.skipped
    for name, step in done.items():
        assert step.layer.states == report.ranks[name] < model()[name].states
